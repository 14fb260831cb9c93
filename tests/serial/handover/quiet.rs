//! Quiet viewers over a restart: they have got all there is, and say nothing.

use super::{Service, tasks};
use crate::common::http::{STATUS, metrics, status};
use crate::common::viewer::frame;
use crate::common::{Broker, DEADLINE, Event, Manager, Monitor, Viewer, command, fence, open_directory, until};
use crate::{alone, ids};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep, spawn};
use std::time::{Duration, Instant};

/// The time in which a viewer that has all there is becomes quiet. A test that waits too short a time passes, but then tests a busy
/// viewer.
const CALM: Duration = Duration::from_millis(1300);

/// Waits until a metric of the current process has this value.
fn counts(monitor: &Monitor, series: &str, expected: u64) {
    let at = status(monitor);
    until(&format!("{series} is {expected}"), || {
        (metrics(at).count(&format!("recodex_monitor_{series}")) == expected).then_some(())
    });
}

/// Asserts that a silent viewer is given up, after pings only.
fn is_given_up(viewer: &mut Viewer) {
    let (mut events, start) = (Vec::new(), Instant::now());
    while events.last() != Some(&Event::Gone) {
        let left = DEADLINE.saturating_sub(start.elapsed());
        events.push(viewer.next_within(left).expect("pings and an end are to come"));
    }
    let pings = events.iter().take_while(|event| matches!(event, Event::Ping(_))).count();
    assert!(pings > 0, "it was not even asked");
    assert_eq!(events[pings..], [Event::Text(command("FINISHED")), Event::Close(Some(1013)), Event::Gone]);
}

/// Messages go on during each of these restarts, and each viewer gets all of them in order. Returns the last process.
fn restarts_in_the_midst(mut monitor: Monitor, connect: impl Fn() -> Viewer, next: impl Fn(&Monitor) -> Monitor) {
    const CHANNELS: usize = 4;
    let mut viewers: Vec<_> = (0..40)
        .map(|number| (connect().upgrade(&[]).subscribe(&format!("job {}", number % CHANNELS)), number % CHANNELS))
        .collect();
    sleep(CALM);
    let broker = Broker::connect(monitor.brokers);
    let over = AtomicBool::new(false);
    scope(|scope| {
        let sending = scope.spawn(|| {
            let broker = broker;
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                for channel in 0..CHANNELS {
                    tasks(&broker, &format!("job {channel}"), sent, sent + 1);
                }
                sent += 1;
                sleep(Duration::from_millis(2));
            }
            for channel in 0..CHANNELS {
                broker.send(&[&format!("job {channel}")[..], "FINISHED"]);
            }
            (broker, sent)
        });
        let readers: Vec<_> = viewers
            .iter_mut()
            .map(|(viewer, channel)| {
                scope.spawn(move || {
                    let mut got = 0;
                    loop {
                        match viewer.next() {
                            Event::Text(text) if text == command("FINISHED") => break,
                            event => assert_eq!(event, Event::Text(ids(got, got + 1).remove(0)), "job {channel}"),
                        }
                        got += 1;
                    }
                    viewer.closes(1000);
                    got
                })
            })
            .collect();
        for _ in 0..3 {
            sleep(Duration::from_millis(300));
            monitor.signal("USR2");
            assert_eq!(monitor.wait_exit().code(), Some(0));
            monitor = next(&monitor);
            monitor.wait_log("took over 40 viewers");
        }
        sleep(Duration::from_millis(300));
        over.store(true, Ordering::Relaxed);
        let (_broker, sent) = sending.join().expect("it could send");
        for reader in readers {
            assert_eq!(reader.join().expect("it gets all in order"), sent);
        }
    });
}

#[test]
fn quiet_viewers_over_tcp_get_every_message_once_over_restarts() {
    let _alone = alone();
    let service = Service::start("");
    let (manager, address) = (service.manager, service.monitor.viewers);
    restarts_in_the_midst(service.monitor, || Viewer::connected(address), |before| manager.restarts(before, ""));
}

#[test]
fn quiet_viewers_over_a_unix_socket_get_every_message_once_over_restarts() {
    let _alone = alone();
    let directory = open_directory();
    let path = directory.path().join("monitor.sock");
    let manager = Manager::new();
    let start = || Monitor::start_unix_with(&manager.descriptors(), &manager.wrapper(&[]), &path, "");
    restarts_in_the_midst(start(), || Viewer::connected_to(&path), |_| start());
}

/// The time for its answer begins again with a restart, and it gets no more than that.
#[test]
fn a_viewer_that_was_silent_before_a_restart_is_given_up_after_it() {
    let _alone = alone();
    let mut service = Service::start(&format!("{STATUS}clients: {{ping_interval: 1.5, ping_timeout: 4}}\n"));
    let mut silent: Vec<_> = (0..10).map(|_| Viewer::subscribed(service.monitor.viewers, "job")).collect();
    let mut answers = Viewer::subscribed(service.monitor.viewers, "job");
    let answering = spawn(move || {
        answers.texts(&ids(0, 1));
        answers.texts(&[command("FINISHED")]);
        answers.closes(1000);
    });
    // They are pinged, and do not answer.
    for viewer in &mut silent {
        assert!(matches!(viewer.next_within(DEADLINE), Some(Event::Ping(_))));
    }
    service.restart();
    let start = Instant::now();
    for viewer in &mut silent {
        is_given_up(viewer);
    }
    assert!(start.elapsed() < Duration::from_millis(5500) + Duration::from_secs(5), "after {:?}", start.elapsed());
    counts(&service.monitor, "lost_viewers_total{reason=\"silent\"}", 10);
    counts(&service.monitor, "viewers", 1);
    // The one that answers is still there, after another restart too.
    service.restart();
    sleep(CALM);
    let broker = Broker::connect(service.monitor.brokers);
    tasks(&broker, "job", 0, 1);
    broker.send(&["job", "FINISHED"]);
    answering.join().expect("it gets its messages and its end");
}

/// Some leave and some speak while there is no process.
#[test]
fn what_quiet_viewers_did_while_there_was_no_process_is_noticed_by_the_next() {
    let _alone = alone();
    let mut service = Service::start(&format!("{STATUS}clients: {{max: 24}}\n"));
    let at = service.monitor.viewers;
    let broker = Broker::connect(service.monitor.brokers);
    tasks(&broker, "job", 0, 1);
    fence(&service.monitor, &broker);
    // These are alone on their channels, which are empty.
    let mut alone: Vec<_> = (0..8).map(|number| Viewer::subscribed(at, &format!("alone {number}"))).collect();
    let mut shared: Vec<_> = (0..16).map(|_| Viewer::watch(at, "job")).collect();
    for viewer in &mut shared {
        viewer.texts(&ids(0, 1));
    }
    sleep(CALM);
    service.ends();
    let mut stay = shared.split_off(8);
    let mut kept = Vec::new();
    for (number, mut viewer) in alone.drain(..).chain(shared).enumerate() {
        match number % 4 {
            0 => drop(viewer),
            1 => viewer.reset(),
            2 => {
                viewer.shut_sending();
                kept.push(viewer);
            }
            _ => {
                viewer.send_close(1000);
                kept.push(viewer);
            }
        }
    }
    for viewer in &mut stay {
        viewer.send_raw(&[frame(0x81, b"ignored"), frame(0x8A, b""), frame(0x89, b"there?")].concat());
    }
    tasks(&broker, "job", 1, 5);
    service.begins();
    service.monitor.wait_log("took over");
    for viewer in &mut stay {
        let mut events: Vec<_> = (0..5).map(|_| viewer.next()).collect();
        let pong = events.iter().position(|event| matches!(event, Event::Pong(_))).expect("its ping is answered");
        assert_eq!(events.remove(pong), Event::Pong(b"there?".to_vec()));
        assert_eq!(events, ids(1, 5).into_iter().map(Event::Text).collect::<Vec<_>>());
    }
    counts(&service.monitor, "viewers", 8);
    counts(&service.monitor, "channels{state=\"open\"}", 1);
    for mut viewer in kept {
        viewer.rest();
    }
    // Their permits are free, and no others.
    let more: Vec<_> = (0..16).map(|_| Viewer::subscribed(at, "more")).collect();
    let refusal = Viewer::connected(at).refused(&[]);
    assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
    drop(more);
    counts(&service.monitor, "viewers", 8);
    // The viewers that stayed can become quiet again, and leave.
    sleep(CALM);
    tasks(&broker, "job", 5, 6);
    for viewer in &mut stay {
        viewer.texts(&ids(5, 6));
    }
    drop(stay);
    counts(&service.monitor, "viewers", 0);
}

/// All of them are taken over at the same moment, and would be pinged at the same moment for ever.
#[test]
fn the_pings_to_quiet_viewers_are_spread_after_a_restart() {
    let _alone = alone();
    let interval = Duration::from_secs(2);
    let mut service = Service::start("clients: {ping_interval: 2, ping_timeout: 10}\n");
    let at = service.monitor.viewers;
    let viewers: Vec<_> = (0..40).map(|_| Viewer::subscribed(at, "job")).collect();
    sleep(CALM);
    service.ends();
    let restart = Instant::now();
    let asked = viewers.into_iter().map(|mut viewer| {
        spawn(move || {
            // On a busy machine the process that has ended may have sent one.
            while viewer.next_within(Duration::from_millis(20)).is_some() {}
            let mut times = Vec::new();
            while times.len() < 3 {
                let Some(Event::Ping(payload)) = viewer.next_within(DEADLINE) else { panic!("a ping was to come") };
                viewer.send_frame(0x8A, &payload);
                times.push(restart.elapsed());
            }
            (viewer, times)
        })
    });
    let asked: Vec<_> = asked.collect();
    service.begins();
    let asked: Vec<_> = asked.into_iter().map(|thread| thread.join().expect("it is pinged")).collect();
    for round in 0..3 {
        let mut times: Vec<_> = asked.iter().map(|(_, times)| times[round]).collect();
        times.sort();
        let (first, last) = (times[0], times[times.len() - 1]);
        let apart = last.checked_sub(first).expect("they are in order");
        assert!(apart > Duration::from_millis(100), "round {round}: all within {apart:?}");
        // No tenth of the interval has half of the pings.
        for (at, early) in times.iter().enumerate() {
            let together = times[at..].iter().filter(|late| **late < *early + interval / 10).count();
            assert!(together < times.len() / 2, "round {round}: {together} pings within {:?}", interval / 10);
        }
    }
}
