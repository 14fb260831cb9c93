//! Viewers that do not answer, do not read, or disappear.

use crate::common::viewer::upgrade_request;
use crate::common::{A_WHILE, Broker, DEADLINE, Event, Monitor, Viewer, command, fence, task_id, until};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

#[test]
fn a_viewer_that_answers_pings_stays() {
    let monitor = Monitor::start("clients: {ping_interval: 0.2, ping_timeout: 5}");
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    for _ in 0..6 {
        match viewer.next_within(DEADLINE) {
            Some(Event::Ping(payload)) => viewer.send_frame(0x8A, &payload),
            other => panic!("a ping was to come, not {other:?}"),
        }
    }
    broker.send(&["job", "FINISHED"]);
    viewer.texts(&[command("FINISHED")]);
    viewer.closes(1000);
}

#[test]
fn a_viewer_that_answers_no_ping_is_let_go_and_only_it() {
    let monitor = Monitor::start("clients: {ping_interval: 0.3, ping_timeout: 3}");
    let broker = Broker::connect(monitor.brokers);
    let mut mute = Viewer::watch(monitor.viewers, "job");
    let mut answers = Viewer::watch(monitor.viewers, "job");
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            assert_eq!(answers.text(), command("FINISHED"));
            answers.closes(1000);
        });
        let mut events = Vec::new();
        while events.last() != Some(&Event::Gone) {
            events.push(mute.next_within(DEADLINE).expect("pings and an end are to come"));
        }
        // It may be a laptop that wakes: its dialog is to end.
        let end = [Event::Text(command("FINISHED")), Event::Close(Some(1013)), Event::Gone];
        let pings = events.len() - end.len();
        assert_eq!(events[pings..], end);
        assert!(pings > 0, "it was not even asked");
        assert!(events[..pings].iter().all(|event| matches!(event, Event::Ping(_))), "{events:?}");
        broker.send(&["job", "FINISHED"]);
        other.join().expect("the viewer that answers is served");
    });
}

/// A viewer is pinged even while messages are sent to it.
#[test]
fn a_viewer_that_answers_no_ping_is_let_go_though_messages_flow() {
    let monitor = Monitor::start("clients: {ping_interval: 0.2, ping_timeout: 0.5}");
    let broker = Broker::connect(monitor.brokers);
    let mut mute = Viewer::watch(monitor.viewers, "job");
    let start = Instant::now();
    for id in 0.. {
        broker.task("job", &id.to_string());
        match mute.next_within(Duration::from_millis(20)) {
            Some(Event::Gone | Event::Close(_)) => return,
            Some(Event::Ping(_) | Event::Text(_)) | None => assert!(start.elapsed() < DEADLINE, "still served"),
            other => panic!("{other:?}"),
        }
    }
}

/// The history is bounded, and the other viewers do not wait. A viewer that does not read gets no gap, only a close.
#[test]
fn a_viewer_that_never_reads_costs_the_others_nothing() {
    const MESSAGES: usize = 4000; // of 8 KiB: 32 MiB, twice what is kept
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let padding = "x".repeat(8192);
    let mut stalled = Viewer::subscribed(monitor.viewers, "job");
    let mut reads = Viewer::subscribed(monitor.viewers, "job");
    for id in 0..MESSAGES {
        broker.task("job", &format!("{id} {padding}"));
        if id % 100 == 99 {
            for id in id - 99..=id {
                assert_eq!(task_id(&reads.text()), format!("{id} {padding}"));
            }
        }
    }
    let rss = monitor.rss_kib();
    assert!(rss < 80 * 1024, "{rss} KiB for a history of at most 16 MiB");
    let mut events = stalled.rest();
    assert_eq!(events.pop(), Some(Event::Close(Some(1013))));
    assert_eq!(events.pop(), Some(Event::Text(command("FINISHED"))));
    assert!(events.len() < MESSAGES, "the kernel took it all; the test proves nothing");
    for (id, event) in events.into_iter().enumerate() {
        let Event::Text(text) = event else { panic!("a text was to come, not {event:?}") };
        assert_eq!(task_id(&text), format!("{id} {padding}"));
    }
    broker.send(&["job", "FINISHED"]);
    reads.texts(&[command("FINISHED")]);
    reads.closes(1000);
}

/// Returns the number of bytes that wait in the kernel to be sent to a peer.
fn sending(from: SocketAddr, to: SocketAddr) -> usize {
    let hex = |at: SocketAddr| format!("0100007F:{:04X}", at.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("there is /proc");
    let line =
        table.lines().find(|line| line.contains(&format!("{} {}", hex(from), hex(to)))).expect("it is connected");
    let queues = line.split_whitespace().nth(4).expect("the queues");
    usize::from_str_radix(&queues[..8], 16).expect("a number")
}

#[test]
fn the_kernel_buffers_little_for_a_viewer_that_does_not_read() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let mut stalled = Viewer::subscribed_with_small_buffer(monitor.viewers, "job");
    let padding = "x".repeat(8192);
    let mut reads = Viewer::subscribed(monitor.viewers, "job");
    for id in 0..1000 {
        broker.task("job", &format!("{id} {padding}"));
        assert_eq!(task_id(&reads.text()), format!("{id} {padding}"));
    }
    let waits = sending(monitor.viewers, stalled.local_address());
    assert!((1..256 * 1024).contains(&waits), "{waits} bytes of 8 MiB wait in the kernel");
    broker.send(&["job", "FINISHED"]);
    let mut events = stalled.rest();
    assert_eq!(events.pop(), Some(Event::Close(Some(1000))));
    assert_eq!(events.len(), 1001);
}

/// The test sees the end by the permit that becomes free. It cannot read to see it, because a viewer that reads does not stall.
#[test]
fn a_viewer_whose_write_stalls_is_let_go_after_the_stall_timeout() {
    let monitor = Monitor::start("clients: {max: 1, stall_timeout: 0.5, ping_interval: 3600, ping_timeout: 3600}");
    let broker = Broker::connect(monitor.brokers);
    let padding = "x".repeat(8192);
    let mut stalled = Viewer::subscribed_with_small_buffer(monitor.viewers, "job");
    for id in 0..1500 {
        broker.task("job", &format!("{id} {padding}"));
    }
    until("its place is free", || {
        let mut next = Viewer::connected(monitor.viewers);
        next.send_raw(upgrade_request("/").as_bytes());
        next.upgrade_or_end().is_some().then_some(())
    });
    // What the kernel had taken, the rest of a frame, and the end.
    let mut events = stalled.rest();
    assert_eq!(events.pop(), Some(Event::Close(Some(1013))));
    assert_eq!(events.pop(), Some(Event::Text(command("FINISHED"))));
    assert!(events.len() < 1500, "the kernel took it all; the test proves nothing");
    for (id, event) in events.into_iter().enumerate() {
        let Event::Text(text) = event else { panic!("a text was to come, not {event:?}") };
        assert_eq!(task_id(&text), format!("{id} {padding}"));
    }
}

#[test]
fn viewers_that_leave_a_silent_channel_are_freed_at_once() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    fence(&monitor, &broker);
    let before = monitor.descriptors();
    let viewers: Vec<_> = (0..50).map(|_| Viewer::watch(monitor.viewers, "job")).collect();
    until("all are there", || (monitor.descriptors() >= before + 50).then_some(()));
    let mut half_closed = Vec::new();
    for (number, viewer) in viewers.into_iter().enumerate() {
        if number % 2 == 0 {
            drop(viewer);
        } else {
            viewer.shut_sending();
            half_closed.push(viewer);
        }
    }
    until("all are gone", || (monitor.descriptors() <= before).then_some(()));
}

/// Two hundred at once, some of them odd, on one channel.
#[test]
fn many_viewers_of_one_channel_get_the_same() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let mut viewers: Vec<_> = (0..200).map(|_| Viewer::watch(monitor.viewers, "job")).collect();
    for id in 0..50 {
        broker.task("job", &id.to_string());
    }
    broker.send(&["job", "FINISHED"]);
    for viewer in &mut viewers {
        for id in 0..50 {
            assert_eq!(task_id(&viewer.text()), id.to_string());
        }
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
    }
}

#[test]
fn a_viewer_of_a_silent_channel_hears_nothing() {
    let monitor = Monitor::start("");
    Viewer::watch(monitor.viewers, "job").is_silent_for(A_WHILE);
}
