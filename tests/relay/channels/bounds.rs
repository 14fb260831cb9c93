//! Expiry and the bounds of the history.

use super::start;
use crate::common::{A_WHILE, Broker, Event, Monitor, Viewer, command, fence, task_id};

#[test]
fn an_unfinished_channel_expires_and_its_viewers_are_closed_1001() {
    let (monitor, broker) = start("history: {unfinished: 1}");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    let mut waiting = Viewer::watch(monitor.viewers, "never-begun");
    broker.send(&["job", "STARTED"]);
    viewer.texts(&[command("STARTED")]);
    viewer.is_ended_with(1001);
    waiting.is_ended_with(1001);
    // And its history is gone.
    let mut next = Viewer::watch(monitor.viewers, "job");
    broker.send(&["job", "ENDED"]);
    next.texts(&[command("ENDED")]);
}

/// A message or a new viewer keeps a channel for its whole time again.
#[test]
fn messages_and_new_viewers_keep_an_unfinished_channel() {
    let (monitor, broker) = start("history: {unfinished: 3}");
    let mut talked_to = Viewer::watch(monitor.viewers, "talked-to");
    let mut visited = Viewer::watch(monitor.viewers, "visited");
    let mut left_alone = Viewer::watch(monitor.viewers, "left-alone");
    broker.send(&["visited", "STARTED"]);
    visited.texts(&[command("STARTED")]);
    let mut sent = 0;
    while left_alone.next_within(A_WHILE).is_none() {
        broker.task("talked-to", &sent.to_string());
        Viewer::watch(monitor.viewers, "visited").texts(&[command("STARTED")]);
        sent += 1;
        assert!(sent < 60, "the channel left alone does not expire");
    }
    for id in 0..sent {
        assert_eq!(task_id(&talked_to.text()), id.to_string());
    }
    broker.send(&["visited", "ENDED"]);
    visited.texts(&[command("ENDED")]);
}

#[test]
fn an_empty_channel_costs_nothing_once_its_last_viewer_has_left() {
    let monitor = Monitor::start("");
    let subscribe_and_leave = |names: std::ops::Range<usize>| {
        for name in names {
            Viewer::subscribed(monitor.viewers, &format!("{name:0>250}"));
        }
    };
    subscribe_and_leave(0..500);
    let before = monitor.rss_kib();
    subscribe_and_leave(500..4500);
    let grown = monitor.rss_kib().saturating_sub(before);
    // 4,000 names alone would be 1,000 KiB.
    assert!(grown < 800, "grown by {grown} KiB");
}

/// Asserts that `texts` are the newest of `sent` numbered tasks, without a gap; returns how many.
fn tail_of(sent: usize, viewer: &mut Viewer) -> usize {
    let mut number = || task_id(&viewer.text()).split(' ').next().and_then(|id| id.parse().ok()).expect("a number");
    let first: usize = number();
    for expected in first + 1..sent {
        assert_eq!(number(), expected);
    }
    sent - first
}

#[test]
fn over_channel_messages_the_oldest_go_and_late_viewers_get_the_tail() {
    let (monitor, broker) = start("history: {channel_messages: 100}");
    let mut live = Viewer::watch(monitor.viewers, "job");
    for id in 0..1000 {
        broker.task("job", &id.to_string());
        assert_eq!(task_id(&live.text()), id.to_string(), "a viewer that keeps up misses nothing");
    }
    let retained = tail_of(1000, &mut Viewer::watch(monitor.viewers, "job"));
    assert!((50..=100).contains(&retained), "{retained} messages");
    monitor.wait_log("channel_messages");
    // Its end is kept in any case.
    broker.send(&["job", "FINISHED"]);
    live.texts(&[command("FINISHED")]);
    live.closes(1000);
    let end = Viewer::watch(monitor.viewers, "job").rest();
    assert_eq!(end[end.len() - 2..], [Event::Text(command("FINISHED")), Event::Close(Some(1000))]);
}

#[test]
fn over_channel_bytes_the_oldest_go_and_late_viewers_get_the_tail() {
    let (monitor, broker) = start("history: {channel_bytes: 65536}");
    let padding = "x".repeat(1000);
    let mut live = Viewer::watch(monitor.viewers, "job");
    for id in 0..500 {
        broker.task("job", &format!("{id} {padding}"));
        live.text();
    }
    let retained = tail_of(500, &mut Viewer::watch(monitor.viewers, "job"));
    assert!((30..=63).contains(&retained), "{retained} messages");
    monitor.wait_log("channel_bytes");
}

/// A gap would show a student something wrong. A close makes the page connect again.
#[test]
fn a_viewer_that_fell_behind_what_is_kept_is_closed_1013_and_never_sees_a_gap() {
    const MESSAGES: usize = 3000;
    let (monitor, broker) = start("history: {channel_bytes: 1000000}");
    let padding = "x".repeat(8192);
    let mut slow = Viewer::subscribed_with_small_buffer(monitor.viewers, "job");
    for id in 0..MESSAGES {
        broker.task("job", &format!("{id} {padding}"));
    }
    fence(&monitor, &broker);
    let mut events = slow.rest();
    assert_eq!(events.pop(), Some(Event::Close(Some(1013))));
    assert_eq!(events.pop(), Some(Event::Text(command("FINISHED"))));
    assert!(events.len() < MESSAGES, "the kernel took it all; the test proves nothing");
    for (id, event) in events.into_iter().enumerate() {
        let Event::Text(text) = event else { panic!("a text was to come, not {event:?}") };
        assert_eq!(task_id(&text), format!("{id} {padding}"));
    }
    // Asking anew gets what there is.
    tail_of(MESSAGES, &mut Viewer::watch(monitor.viewers, "job"));
}

/// Fills a channel with about 100 KB.
fn fill(broker: &Broker, channel: &str) {
    let padding = "x".repeat(1000);
    for id in 0..100 {
        broker.task(channel, &format!("{id} {padding}"));
    }
}

/// Returns true if a channel still has its history.
fn is_kept(monitor: &Monitor, channel: &str) -> bool {
    match Viewer::watch(monitor.viewers, channel).next_within(A_WHILE) {
        None => false,
        Some(Event::Text(_)) => true,
        Some(other) => panic!("a text or silence was to come, not {other:?}"),
    }
}

#[test]
fn over_total_bytes_the_oldest_finished_go_first() {
    // Room for three to four channels of 100 KB, however the memory for them is rounded.
    let (monitor, broker) = start("history: {total_bytes: 500000}");
    fill(&broker, "idle");
    for channel in ["finished-1", "finished-2"] {
        fill(&broker, channel);
        broker.send(&[channel, "FINISHED"]);
    }
    fence(&monitor, &broker);
    assert!(is_kept(&monitor, "finished-1"), "all of this fits");
    for number in 1..=2 {
        let channel = format!("more-{number}");
        fill(&broker, &channel);
        broker.send(&[channel.as_str(), "FINISHED"]);
    }
    fence(&monitor, &broker);
    assert!(!is_kept(&monitor, "finished-1"), "the oldest finished goes first");
    assert!(is_kept(&monitor, "idle"), "before what is not finished");
    assert!(is_kept(&monitor, "more-2"), "the newest stays");
    monitor.wait_log("total_bytes");
}

#[test]
fn over_total_bytes_with_nothing_finished_the_longest_idle_goes_and_its_viewers_are_closed_1013() {
    let (monitor, broker) = start("history: {total_bytes: 500000}");
    let mut viewer = Viewer::watch(monitor.viewers, "open-0");
    for number in 0..6 {
        fill(&broker, &format!("open-{number}"));
        fence(&monitor, &broker);
    }
    let mut events = viewer.rest();
    assert_eq!(events.pop(), Some(Event::Close(Some(1013))));
    assert_eq!(events.pop(), Some(Event::Text(command("FINISHED"))));
    assert_eq!(events.len(), 100, "it had everything before it was evicted");
    assert!(!is_kept(&monitor, "open-0"));
    assert!(is_kept(&monitor, "open-5"));
    monitor.wait_log("total_bytes");
}

/// However many jobs never finish, memory stays within its bound.
#[test]
fn twenty_thousand_jobs_that_never_finish_stay_within_total_bytes() {
    let (monitor, broker) = start("history: {total_bytes: 4000000}");
    let padding = "x".repeat(1000);
    for job in 0..20_000 {
        broker.task(&format!("job-{job}"), &padding);
    }
    fence(&monitor, &broker);
    let rss = monitor.rss_kib();
    assert!(rss < 32 * 1024, "{rss} KiB");
    assert!(is_kept(&monitor, "job-19999"));
}
