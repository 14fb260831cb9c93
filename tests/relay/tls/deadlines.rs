//! Deadlines and slow viewers over TLS.

use super::{Scene, Server, hello, ids, tasks, texts};
use crate::common::http::{STATUS, metrics, status};
use crate::common::{Broker, DEADLINE, Event, command, task, until};
use std::time::{Duration, Instant};

#[test]
fn who_does_not_end_a_handshake_is_closed_after_the_handshake_timeout() {
    let mut scene = Scene::new(&format!("{STATUS}clients: {{handshake_timeout: 2}}\n"));
    let hello = hello(&scene.server.trust);
    let start = Instant::now();
    let lengths = [0, 1, 5, 6, hello.len() - 1, hello.len()];
    let mut parts = lengths.map(|length| {
        let mut part = scene.server.connected();
        part.send_raw(&hello[..length]);
        (length, part)
    });
    // The time is that of TLS and the request together.
    let mut requesting = scene.server.secured();
    requesting.send_raw(b"GET / HTTP/1.1\r\n");
    for (length, part) in &mut parts {
        let answer = part.raw_to_end();
        assert_eq!(answer.is_empty(), *length < hello.len(), "{length} bytes: {answer:02x?}");
    }
    assert!(start.elapsed() >= Duration::from_secs(2), "closed after {:?}", start.elapsed());
    assert!(requesting.is_gone_within(DEADLINE));
    scene.server.is_refused("timeout", 7);
    assert_eq!(scene.server.refused("tls"), 0);
    scene.is_unharmed();
}

#[test]
fn a_dribbled_hello_does_not_extend_the_handshake_timeout() {
    let server = Server::start("clients: {handshake_timeout: 0.5}\n");
    let mut slow = server.connected();
    let start = Instant::now();
    for byte in hello(&server.trust) {
        if slow.try_send_raw(&[byte]).is_err() || slow.is_gone_within(Duration::from_millis(20)) {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "still served");
    }
    panic!("the whole hello was read");
}

#[test]
fn who_names_no_channel_over_tls_is_closed_1008_after_the_subscribe_timeout() {
    let server = Server::start("clients: {subscribe_timeout: 0.3}\n");
    let start = Instant::now();
    let mut viewer = server.upgraded();
    viewer.is_ended_with(1008);
    assert!(viewer.was_told);
    assert!(start.elapsed() >= Duration::from_millis(300), "closed after {:?}", start.elapsed());
}

#[test]
fn a_viewer_over_tls_that_answers_no_ping_is_let_go_and_only_it() {
    let server = Server::start(&format!("{STATUS}clients: {{ping_interval: 0.3, ping_timeout: 3}}\n"));
    let broker = Broker::connect(server.monitor.brokers);
    let mut mute = server.subscribed("job");
    let mut answers = server.subscribed("job");
    let end = Instant::now() + DEADLINE;
    // Its pings are answered while the other's are not.
    while !matches!(mute.next_within(Duration::from_millis(1)), Some(Event::Gone | Event::Cut)) {
        answers.is_silent_for(Duration::from_millis(50));
        assert!(Instant::now() < end, "still served");
    }
    let lost = "recodex_monitor_lost_viewers_total{reason=\"silent\"}";
    assert_eq!(metrics(status(&server.monitor)).count(lost), 1);
    broker.task("job", "1");
    answers.texts(&texts(&ids(1, 2)));
}

/// One job, many times larger than the kept history, for a hundred viewers that do not read and one that does.
#[test]
fn a_hundred_viewers_over_tls_that_never_read_cost_little_and_are_let_go() {
    const MESSAGES: usize = 1000;
    let limits = "history: {channel_bytes: 2097152}\nclients: {stall_timeout: 5}\n";
    let mut scene = Scene::new(&format!("{STATUS}{limits}"));
    let (before, base) = (scene.descriptors(), scene.server.monitor.rss_kib());
    let mut stalled: Vec<_> = (0..100)
        .map(|_| {
            let viewer = scene.server.connected().with_buffer(131_072).secured(&scene.server.trust);
            viewer.upgrade(&[]).subscribe("job")
        })
        .collect();
    let mut reads = scene.server.subscribed("job");
    let (mut longest, mut rss) = (Duration::ZERO, 0);
    for id in 0..MESSAGES {
        let text = format!("{id} {}", "x".repeat(30_500));
        scene.broker.task("job", &text);
        assert_eq!(reads.text(), task(&text, "COMPLETED"));
        reads.received.clear();
        if id % 20 == 0 {
            longest = longest.max(scene.relays());
            rss = rss.max(scene.server.monitor.rss_kib());
        }
    }
    eprintln!("stalled viewers: {longest:?}, {base} KiB before, at most {rss} KiB");
    // Each holds a session, the rest of a frame and a record; what all share is the history.
    assert!(rss < base + 16 * 1024, "{base} KiB before, then {rss} KiB");
    let lost = "recodex_monitor_lost_viewers_total{reason=\"stalled\"}";
    until("all were let go", || (metrics(status(&scene.server.monitor)).count(lost) == 100).then_some(()));
    assert!(stalled.iter_mut().all(|viewer| viewer.is_gone_within(DEADLINE)));
    scene.broker.send(&["job", "FINISHED"]);
    reads.texts(&[command("FINISHED")]);
    reads.closes(1000);
    drop(stalled);
    scene.all_have_gone(before);
    scene.is_unharmed();
}

/// The messages that they have not got yet are kept once for all of them.
#[test]
fn a_hundred_viewers_over_tls_that_never_read_a_long_history_cost_little() {
    let mut scene = Scene::new("");
    let before = scene.descriptors();
    tasks(&scene.broker, "job", &(0..160).map(|i| format!("{i} {}", "x".repeat(50_000))).collect::<Vec<_>>());
    scene.serves_all();
    let base = scene.server.monitor.rss_kib();
    let crowd: Vec<_> = (0..100).map(|_| scene.server.watch("job")).collect();
    scene.serves_all();
    let rss = scene.server.monitor.rss_kib();
    eprintln!("{base} KiB, then {rss} KiB");
    // Each holds the frame that it is in, of 50,000 bytes, a record, and its session.
    assert!(rss < base + 10 * 1024, "{base} KiB, then {rss} KiB");
    drop(crowd);
    scene.all_have_gone(before);
    scene.serves_all();
}
