//! Random bytes, half requests and hostile text on both ports: the process goes on, uses little memory, and serves the other clients.
//! Other attacks on the brokers' port are in `brokers`.

use crate::common;

use std::net::TcpStream;

use common::http::{STATUS, get, status};
use common::zmtp::{command, frame, greeted, greeting, message, ready};
use common::{A_WHILE, RawPeer, Scene, Viewer, noise, until};
use recodex_monitor::internals::net::head_limits::{LONG_HEADS, SHORT_HEAD};

// The viewers' port.

#[test]
fn random_bytes_from_viewers_do_no_harm() {
    let mut scene = Scene::new("");
    for seed in 1..=20 {
        let bytes = noise(seed, 20_000);
        for stage in 0..3 {
            let mut viewer = match stage {
                0 => Viewer::connected(scene.monitor.viewers),
                1 => Viewer::upgraded(scene.monitor.viewers),
                _ => Viewer::watch(scene.monitor.viewers, "healthy"),
            };
            let _ = viewer.try_send_raw(&bytes);
            viewer.shut_sending();
            viewer.raw_to_end();
        }
        scene.relays();
    }
    scene.is_unharmed();
}

#[test]
fn many_half_sent_requests_take_little_memory_and_hold_up_only_long_ones() {
    let mut scene = Scene::new("clients: {handshake_timeout: 600}");
    let long = |length| common::viewer::upgrade_request_with("/", &[("X-Filler", &"x".repeat(length))]);
    let half = long(15_000);
    let mut crowd: Vec<_> = (0..3 * LONG_HEADS).map(|_| Viewer::connected(scene.monitor.viewers)).collect();
    for viewer in &mut crowd {
        viewer.send_raw(half.trim_end().as_bytes());
    }
    scene.is_unharmed();
    let mut waits = Viewer::connected(scene.monitor.viewers);
    waits.send_raw(long(SHORT_HEAD).as_bytes());
    waits.is_silent_for(A_WHILE);
    drop(crowd);
    waits.read_upgrade();
    scene.is_unharmed();
}

#[test]
fn viewers_that_only_connect_and_leave_leave_nothing_behind() {
    let mut scene = Scene::new("");
    let before = scene.monitor.descriptors();
    for _ in 0..500 {
        drop(TcpStream::connect(scene.monitor.viewers).expect("the monitor listens"));
    }
    scene.relays();
    until("all descriptors are closed", || (scene.monitor.descriptors() <= before).then_some(()));
    scene.is_unharmed();
}

// The log.

/// Text from outside in a line of the log must not look like another line, and must not control the terminal.
#[test]
fn nothing_from_outside_reaches_the_log_raw() {
    const FORGED: &str = "x\nFORGED line\r\x1b[31mFORGED\x1b]0;FORGED\x07\u{9b}31m\u{85}FORGED\u{2028}FORGED";
    let mut scene = Scene::new("logger: {level: debug}\naccept_exit: false\nhistory: {release_failed: 0.1}");
    let broker = &scene.broker;
    // Channels: watched, begun, finished twice and sent to after it, begun anew, released, over-long.
    let mut viewer = Viewer::watch(scene.monitor.viewers, FORGED);
    broker.send(&[FORGED, FORGED, FORGED, FORGED]);
    viewer.text();
    broker.send(&[FORGED, "FINISHED"]);
    broker.send(&[FORGED, "FINISHED"]);
    broker.task(FORGED, "late");
    broker.send(&[FORGED, "STARTED"]);
    broker.send(&[FORGED, "FAILED"]);
    broker.send(&[FORGED.repeat(10).as_str(), "STARTED"]);
    broker.send(&[FORGED]);
    viewer.text();
    viewer.closes(1000);
    let mut released = Viewer::watch(scene.monitor.viewers, FORGED);
    released.rest();
    // An over-long id by a viewer, a strange path and strange headers, a close reason.
    Viewer::watch(scene.monitor.viewers, &FORGED.repeat(10)).rest();
    let request = common::viewer::upgrade_request_with("/", &[("X-Forwarded-For", FORGED), ("Origin", FORGED)]);
    common::viewer::http(scene.monitor.viewers, request.as_bytes());
    common::viewer::http(scene.monitor.viewers, format!("GET /{FORGED} HTTP/1.1\r\n\r\n").as_bytes());
    let mut leaves = Viewer::watch(scene.monitor.viewers, "job");
    leaves.send_frame(0x88, &[&1000_u16.to_be_bytes()[..], b"x\nFORGED\x1b[31m"].concat());
    leaves.rest();
    // A strange mechanism, property, Socket-Type, identity, command, error.
    let escape = FORGED.as_bytes();
    for bytes in [
        greeting(b"\nFORGED\x1b[31m"),
        greeted(&ready(&[("Socket-Type", escape)])),
        greeted(&ready(&[("X\nFORGED\x1b[31m", b"x")])),
        greeted(&command("\nFORGED\x1b[31m", b"x")),
        greeted(&command("ERROR", b"\x0f\nFORGED\x1b[31m...")),
    ] {
        let mut peer = RawPeer::connect(scene.monitor.brokers);
        peer.send(&bytes);
        peer.is_closed();
    }
    let mut named = RawPeer::connect(scene.monitor.brokers);
    named.send(&greeted(&ready(&[("Socket-Type", b"DEALER"), ("Identity", escape)])));
    named.send(&message(&["0", "exit", FORGED]));
    named.send(&frame(0x08, b""));
    named.is_closed();
    scene.is_unharmed();

    scene.monitor.signal("KILL");
    scene.monitor.wait_exit();
    let log = scene.monitor.log();
    assert!(log.len() > 3, "the log at level debug: {log:?}");
    for line in &log {
        assert!(!line.trim_start().starts_with("FORGED"), "forged: {line:?}");
        let raw = |c: char| c.is_control() && c != '\t' || matches!(c, '\u{2028}' | '\u{2029}');
        assert!(!line.contains(raw), "raw characters: {line:?}");
    }
}

/// Everybody who knows a channel's id can watch its job, so neither the log nor the status listener may show the whole id.
#[test]
fn no_channel_id_is_shown_in_full_above_debug() {
    const ID: &str = "student-5d1f3c7a9be24f60";
    let begin =
        "history: {release_failed: 0.1, channel_messages: 8, total_bytes: 65536, finished: 0.1, unfinished: 0.5}";
    let scene = Scene::new(&format!("{STATUS}logger: {{level: info}}\n{begin}"));
    let mut stays = Viewer::watch(scene.monitor.viewers, ID);
    for number in 0..20 {
        scene.broker.task(ID, &number.to_string());
    }
    until("the job is listed", || {
        // It does not expire meanwhile.
        scene.broker.task(ID, "more");
        let answer = get(status(&scene.monitor), "/status");
        assert!(!answer.body.contains(ID), "{answer:?}");
        answer.body.contains("student-…").then_some(())
    });
    scene.broker.send(&[ID, "FAILED"]);
    scene.monitor.wait_log("channel student-…: failed and fell silent");
    stays.rest();
    scene.broker.send(&[ID]);
    scene.broker.send(&[ID, "FINISHED"]);
    scene.broker.send(&[ID, "STARTED"]);
    scene.broker.send(&[ID, "FINISHED"]);
    scene.broker.task(ID, "late");
    scene.broker.send(&[ID, "FINISHED"]);
    for number in 0..3 {
        scene.broker.task(&format!("{ID}{number}"), &"x".repeat(60_000));
    }
    scene.broker.send(&[ID.repeat(20).as_str(), "STARTED"]);
    Viewer::watch(scene.monitor.viewers, &ID.repeat(20)).rest();
    scene.monitor.wait_log("expired");
    scene.monitor.wait_log("evicted");
    assert_eq!(scene.monitor.logged(&[ID]), [""; 0]);
    for path in ["/status", "/metrics"] {
        let answer = get(status(&scene.monitor), path);
        assert!(answer.status == 200 && !answer.body.contains(ID), "{path}: {answer:?}");
    }
}
