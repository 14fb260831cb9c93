//! The stop: messages that were sent are delivered, viewers get their end, and the time is limited.

use crate::common;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::http::{STATUS, wait_viewers};
use common::zmtp::message;
use common::{Broker, Event, Monitor, PROMPT, RawPeer, Viewer, command, fence, task_id, until};

#[test]
fn sigterm_and_sigint_close_viewers_1001_and_end_with_status_0() {
    for signal in ["TERM", "INT"] {
        let mut monitor = Monitor::start("");
        let broker = Broker::connect(monitor.brokers);
        broker.send(&["job", "STARTED"]);
        let mut viewer = Viewer::watch(monitor.viewers, "job");
        viewer.texts(&[command("STARTED")]);
        let mut waiting = Viewer::watch(monitor.viewers, "not-begun");
        fence(&monitor, &broker);
        let start = Instant::now();
        monitor.signal(signal);
        viewer.is_ended_with(1001);
        waiting.is_ended_with(1001);
        assert_eq!(monitor.wait_exit().code(), Some(0), "SIG{signal}");
        assert!(start.elapsed() < PROMPT, "SIG{signal}: {:?}", start.elapsed());
    }
}

/// A load balancer's health check is one of them.
#[test]
fn a_request_that_has_begun_is_answered_503() {
    let config = format!("{STATUS}logger: {{level: debug}}\nclients: {{handshake_timeout: 600}}\n");
    let mut monitor = Monitor::start(&config);
    let (mut check, mut viewer) = (Viewer::connected(monitor.viewers), Viewer::connected(monitor.viewers));
    let mut silent = Viewer::connected(monitor.viewers);
    wait_viewers(&monitor, 3);
    check.send_raw(b"GET /healthz HTTP/1.1\r\nHost:");
    viewer.send_raw(b"GET / HTTP/1.1\r\nHost:");
    monitor.signal("TERM");
    for begun in [&mut check, &mut viewer] {
        let answer = String::from_utf8(begun.raw_to_end()).expect("it is text");
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nThe monitor stops.\n"), "{answer}");
    }
    assert_eq!(silent.raw_to_end(), b"");
    assert_eq!(monitor.wait_exit().code(), Some(0));
}

#[test]
fn with_nobody_connected_it_ends_at_once() {
    let took = Monitor::start("").stop();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// Viewers in every stage, a thousand of them, some of whom never read or never answer.
#[test]
fn with_a_thousand_viewers_it_ends_within_5_seconds_and_tells_all_who_read() {
    let mut monitor = Monitor::start("clients: {handshake_timeout: 600, subscribe_timeout: 600}");
    let broker = Broker::connect(monitor.brokers);
    let padding = "x".repeat(8192);
    let stalled = || Viewer::subscribed_with_small_buffer(monitor.viewers, "large");
    let mut stalled: Vec<_> = (0..5).map(|_| stalled()).collect();
    let connected: Vec<_> = (0..5).map(|_| TcpStream::connect(monitor.viewers).expect("it listens")).collect();
    let mut unsubscribed: Vec<_> = (0..10).map(|_| Viewer::upgraded(monitor.viewers)).collect();
    let mut viewers: Vec<_> = (0..980).map(|number| Viewer::watch(monitor.viewers, &format!("job-{number}"))).collect();
    for id in 0..1000 {
        broker.task("large", &format!("{id} {padding}"));
    }
    for number in 0..980 {
        broker.send(&[format!("job-{number}").as_str(), "STARTED"]);
    }
    for viewer in &mut viewers {
        viewer.texts(&[command("STARTED")]);
    }
    let start = Instant::now();
    monitor.signal("TERM");
    for viewer in &mut viewers {
        viewer.texts(&[command("FINISHED")]);
        assert_eq!(viewer.next(), Event::Close(Some(1001)));
        // Every other one answers the close; nobody may wait long for the rest.
    }
    for viewer in viewers.iter_mut().step_by(2) {
        viewer.send_close(1001);
    }
    for viewer in &mut unsubscribed {
        viewer.texts(&[command("FINISHED")]);
        assert_eq!(viewer.next(), Event::Close(Some(1001)), "not subscribed yet");
    }
    assert_eq!(monitor.wait_exit().code(), Some(0));
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    // Even who did not read sees no gap.
    for viewer in &mut stalled {
        for (id, event) in viewer.rest().into_iter().enumerate() {
            match event {
                // Of the monitor, before its close.
                Event::Text(text) if text == command("FINISHED") => {}
                Event::Text(text) => assert_eq!(task_id(&text), format!("{id} {padding}")),
                Event::Close(code) => assert_eq!(code, Some(1001)),
                Event::Cut => {}
                other => panic!("{other:?}"),
            }
        }
    }
    drop(connected);
}

/// Messages that brokers had sent when the signal came are delivered before the close.
#[test]
fn what_brokers_have_already_sent_is_delivered_first() {
    let mut monitor = Monitor::start("");
    let mut viewers: Vec<_> = (0..3).map(|_| Viewer::watch(monitor.viewers, "job")).collect();
    let mut peers: Vec<_> = (0..3).map(|_| RawPeer::ready(monitor.brokers)).collect();
    peers[0].send(&message(&["job", "STARTED"]));
    for viewer in &mut viewers {
        viewer.texts(&[command("STARTED")]);
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        let mut bytes = Vec::new();
        for id in 0..1000 {
            bytes.extend(message(&["job", "TASK", &format!("{number}-{id}"), "COMPLETED"]));
        }
        peer.send(&bytes); // little enough to be with the monitor's kernel when this returns
    }
    monitor.signal("TERM");
    for viewer in &mut viewers {
        let mut next = [0; 3];
        for _ in 0..3000 {
            let text = viewer.text();
            let (number, id) = task_id(&text).split_once('-').expect("both");
            let expected = &mut next[number.parse::<usize>().expect("a number")];
            assert_eq!(id, expected.to_string());
            *expected += 1;
        }
        viewer.is_ended_with(1001);
    }
    assert_eq!(monitor.wait_exit().code(), Some(0));
}

/// A broker that goes on sending cannot hold it up.
#[test]
fn a_broker_that_does_not_stop_sending_does_not_keep_it_running() {
    let mut monitor = Monitor::start("");
    let mut peer = RawPeer::ready(monitor.brokers);
    let (mut taken, mut idle) = (Viewer::watch(monitor.viewers, "job"), Viewer::watch(monitor.viewers, "idle"));
    let burst = message(&["job", "STARTED"]).repeat(100);
    peer.send(&burst);
    taken.text();
    std::thread::scope(|scope| {
        scope.spawn(move || while peer.try_send(&burst).is_ok() {});
        scope.spawn(move || taken.rest());
        let took = monitor.stop();
        assert!(took < PROMPT, "{took:?}");
        idle.texts(&[command("FINISHED")]);
        assert_eq!(idle.next(), Event::Close(Some(1001)));
    });
}

#[test]
fn it_stops_accepting_before_it_ends() {
    let mut monitor = Monitor::start("");
    // A viewer that does not answer the close keeps it from ending at once.
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    let broker = Broker::connect(monitor.brokers);
    fence(&monitor, &broker);
    monitor.signal("TERM");
    viewer.texts(&[command("FINISHED")]);
    assert_eq!(viewer.next(), Event::Close(Some(1001)));
    for address in [monitor.viewers, monitor.brokers] {
        until("no new connection is served", || match TcpStream::connect(address) {
            Err(_) => Some(()),
            Ok(stream) => Viewer::of(stream).is_gone_within(Duration::from_millis(50)).then_some(()),
        });
    }
    assert_eq!(monitor.wait_exit().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut monitor = Monitor::start("");
    let mut viewers: Vec<_> = (0..10).map(|_| Viewer::watch(monitor.viewers, "job")).collect();
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["job", "STARTED"]);
    for viewer in &mut viewers {
        viewer.texts(&[command("STARTED")]);
    }
    monitor.signal("TERM");
    // They are told, and do not answer.
    for viewer in &mut viewers {
        viewer.texts(&[command("FINISHED")]);
        assert_eq!(viewer.next(), Event::Close(Some(1001)));
    }
    let start = Instant::now();
    let _ = common::kill(monitor.pid(), "TERM");
    monitor.wait_exit();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn what_was_ignored_is_counted_when_it_ends() {
    let mut monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    for _ in 0..3 {
        broker.send(&["only a channel"]);
    }
    broker.send(&["0", "exit"]);
    for _ in 0..3 {
        broker.send(&["job", "FINISHED"]);
    }
    broker.send(&["job", "FAILED"]);
    fence(&monitor, &broker);
    monitor.stop();
    monitor.wait_logged(&[
        "stopped",
        "3 malformed",
        "2 repeated FINISHED",
        "1 messages after FINISHED",
        "1 ignored exit",
    ]);
}

/// The ports are free again, at once.
#[test]
fn another_can_start_on_the_same_ports() {
    let mut first = Monitor::start("");
    let mut viewer = Viewer::watch(first.viewers, "job");
    let broker = Broker::connect(first.brokers);
    fence(&first, &broker);
    let (viewers, brokers) = (first.viewers.port(), first.brokers.port());
    first.stop();
    viewer.texts(&[command("FINISHED")]);
    assert_eq!(viewer.next(), Event::Close(Some(1001)));
    let second = Monitor::start_at(common::Host { viewers, brokers, ..common::Host::default() }, "");
    assert_eq!(second.viewers.port(), viewers);
    fence(&second, &broker);
}
