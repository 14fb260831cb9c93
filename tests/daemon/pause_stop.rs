//! A pause (SIGSTOP) across a stop or a restart: messages that brokers, viewers and the service manager have sent still count, and
//! viewers get their end.

use crate::common;

use common::pause::{Pause, arrived, has_all, in_time, paused, paused_process};
use common::viewer::frame;
use common::zmtp::{command as zmtp_command, message};
use common::{DEADLINE, Event, Manager, Monitor, RawPeer, Viewer, command, task, task_id, until};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// The time after which a stop has drained its brokers (1 s), by less than what counts as a pause.
const AFTER_DRAINING: Duration = Duration::from_millis(1_500);
/// The time after which a stop is over (4.5 s); a viewer may still answer its close then (5 s).
const AFTER_THE_STOP: Duration = Duration::from_millis(4_900);

fn done(broker: &mut RawPeer, id: &str) {
    broker.send(&message(&["job", "TASK", id, "COMPLETED"]));
}

#[test]
fn a_signal_that_came_over_a_pause_waits_for_what_came_with_it() {
    let mut monitor = Monitor::start("");
    let mut broker = RawPeer::ready(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    done(&mut broker, "0");
    viewer.texts(&[task("0", "COMPLETED")]);
    paused_process(monitor.pid(), Duration::ZERO, || {
        monitor.signal("TERM");
        for id in 1..100 {
            done(&mut broker, &id.to_string());
        }
        arrived(broker.stream.local_addr().expect("it is connected"));
    });
    viewer.texts(&(1..100).map(|id| task(&id.to_string(), "COMPLETED")).collect::<Vec<_>>());
    viewer.is_ended_with(1001);
    assert_eq!(monitor.wait_exit().code(), Some(0));
}

/// Stops a monitor that reads on what its broker has sent for 1 s at most, and as long as that pauses for less than 100 ms; lets the
/// broker send its last message over a pause. `None` if the monitor was done with the broker when it was paused.
fn drains_over_a_pause(pause: Duration) -> Option<()> {
    let mut monitor = Monitor::start("");
    let mut broker = RawPeer::ready(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    let goes_on = AtomicBool::new(true);
    let in_time = scope(|scope| {
        let busy = scope.spawn(|| {
            while goes_on.load(Ordering::Relaxed) {
                done(&mut broker, "one of many");
                sleep(Duration::from_millis(5));
            }
            broker
        });
        viewer.texts(&[task("one of many", "COMPLETED")]);
        monitor.signal("TERM");
        monitor.wait_log("stopping with");
        paused_process(monitor.pid(), pause, || {
            goes_on.store(false, Ordering::Relaxed);
            let mut broker = busy.join().expect("the monitor reads");
            until("the viewer has what was sent to it", || has_all(viewer.local_address()).then_some(()));
            while let Some(event) = viewer.next_within(Duration::from_millis(10)) {
                if event != Event::Text(task("one of many", "COMPLETED")) {
                    return false;
                }
            }
            done(&mut broker, "the last");
            arrived(broker.stream.local_addr().expect("it is connected"));
            true
        })
    });
    if !in_time {
        return None;
    }
    let last = until("the last message", || {
        Some(viewer.text()).filter(|text| text.contains("FINISHED") || task_id(text) == "the last")
    });
    assert_eq!(last, task("the last", "COMPLETED"));
    viewer.is_ended_with(1001);
    assert_eq!(monitor.wait_exit().code(), Some(0));
    Some(())
}

#[test]
fn what_a_broker_has_sent_over_a_pause_of_a_stop_is_delivered() {
    // A pause in what it sends would end the draining after 100 ms, and what it sends at all after 1 s.
    for pause in [Duration::from_millis(600), AFTER_DRAINING] {
        in_time(|| drains_over_a_pause(pause));
    }
}

#[test]
fn a_viewer_that_has_answered_its_close_over_a_pause_is_not_missed() {
    let mut monitor = Monitor::start("");
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    monitor.signal("TERM");
    viewer.texts(&[command("FINISHED")]);
    assert_eq!(viewer.next(), Event::Close(Some(1001)));
    paused_process(monitor.pid(), AFTER_THE_STOP, || {
        viewer.send_raw(&frame(0x88, &1001_u16.to_be_bytes()));
        arrived(viewer.local_address());
    });
    assert_eq!(viewer.next(), Event::Gone);
    assert_eq!(monitor.wait_exit().code(), Some(0));
    assert_eq!(monitor.logged(&["did not take what was sent to them"]), [""; 0]);
}

/// The viewer does not get all messages, because a stop has a time limit. But it gets no gap, and it gets its close.
#[test]
fn a_viewer_that_has_made_room_over_a_pause_gets_its_close() {
    let mut monitor = Monitor::start("");
    let mut broker = RawPeer::ready(monitor.brokers);
    let mut viewer = Viewer::subscribed_with_small_buffer(monitor.viewers, "job");
    let id = |number: usize| format!("{number}{}", "x".repeat(8192));
    for number in 0..1_000 {
        done(&mut broker, &id(number));
    }
    broker.send(&zmtp_command("PING", &[0, 0]));
    assert_eq!(broker.read_command().name, "PONG");
    monitor.signal("TERM");
    // The broker's link is the first thing that ends.
    broker.is_closed();
    let mut events = Vec::new();
    paused_process(monitor.pid(), AFTER_THE_STOP, || {
        until("it has taken all that is on the way", || {
            while let Some(event) = viewer.next_within(Duration::from_millis(10)) {
                events.push(event);
            }
            has_all(viewer.local_address()).then_some(())
        });
    });
    events.extend(viewer.rest());
    assert_eq!(monitor.wait_exit().code(), Some(0));
    assert_eq!(events.pop(), Some(Event::Close(Some(1001))));
    assert_eq!(events.pop(), Some(Event::Text(command("FINISHED"))));
    for (number, event) in events.into_iter().enumerate() {
        assert_eq!(event, Event::Text(task(&id(number), "COMPLETED")), "message {number}");
    }
}

/// Otherwise the restart would become a stop, which all viewers notice.
#[test]
fn a_service_manager_that_has_answered_over_a_pause_keeps_everything() {
    in_time(|| {
        let manager = Manager::new();
        let mut monitor = manager.starts(&[], "");
        let mut broker = RawPeer::ready(monitor.brokers);
        let mut viewer = Viewer::subscribed(monitor.viewers, "job");
        let (barrier, since) = (manager.holds_barriers(), Instant::now());
        monitor.signal("USR2");
        let answer = barrier.recv_timeout(DEADLINE).expect("it asks the manager");
        paused(&monitor, Pause::over(Duration::from_secs(1)), since, || drop(answer))?;
        assert_eq!(monitor.wait_exit().code(), Some(0));
        assert_eq!(monitor.logged(&["nothing can be handed over"]), [""; 0]);
        let _next = manager.restarts(&monitor, "");
        done(&mut broker, "1");
        viewer.texts(&[task("1", "COMPLETED")]);
        Some(())
    });
}
