//! Deadlines until a viewer has subscribed.

use crate::common::viewer::{frame, upgrade_request, upgrade_request_with};
use crate::common::{Broker, DEADLINE, Event, Monitor, Viewer, command};
use std::time::{Duration, Instant};

#[test]
fn who_sends_no_request_is_closed_after_the_handshake_timeout() {
    let monitor = Monitor::start("clients: {handshake_timeout: 0.3}");
    let start = Instant::now();
    let mut silent = Viewer::connected(monitor.viewers);
    silent.raw_to_end();
    assert!(start.elapsed() >= Duration::from_millis(300), "closed after {:?}", start.elapsed());
    let mut half = Viewer::connected(monitor.viewers);
    half.send_raw(&upgrade_request("/").as_bytes()[..50]);
    half.raw_to_end();
}

#[test]
fn a_dribbled_request_does_not_extend_the_handshake_timeout() {
    let monitor = Monitor::start("clients: {handshake_timeout: 0.5}");
    let mut slow = Viewer::connected(monitor.viewers);
    let start = Instant::now();
    for byte in upgrade_request_with("/", &[("X-Filler", &"x".repeat(10_000))]).bytes() {
        if slow.try_send_raw(&[byte]).is_err() || slow.is_gone_within(Duration::from_millis(20)) {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "still served");
    }
    panic!("the whole request was read");
}

#[test]
fn who_names_no_channel_is_closed_1008_after_the_subscribe_timeout() {
    let monitor = Monitor::start("clients: {subscribe_timeout: 0.3}");
    let start = Instant::now();
    Viewer::upgraded(monitor.viewers).is_ended_with(1008);
    assert!(start.elapsed() >= Duration::from_millis(300), "closed after {:?}", start.elapsed());
}

#[test]
fn who_does_not_answer_a_close_is_let_go_after_5_seconds() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let mut mute = Viewer::subscribed(monitor.viewers, "job");
    let start = Instant::now();
    broker.send(&["job", "FINISHED"]);
    mute.texts(&[command("FINISHED")]);
    assert_eq!(mute.next(), Event::Close(Some(1000)));
    assert_eq!(mute.next(), Event::Gone);
    assert!(start.elapsed() >= Duration::from_secs(5), "let go after {:?}", start.elapsed());
}

#[test]
fn pings_and_fragments_do_not_extend_the_subscribe_timeout() {
    let monitor = Monitor::start("clients: {subscribe_timeout: 0.5}");
    let mut viewer = Viewer::upgraded(monitor.viewers);
    viewer.send_frame(0x01, b"job");
    let (start, mut finished) = (Instant::now(), false);
    loop {
        let _ = viewer.try_send_raw(&frame(0x89, b"p"));
        let _ = viewer.try_send_raw(&frame(0x00, b""));
        match viewer.next_within(Duration::from_millis(20)) {
            Some(Event::Close(code)) => {
                assert!(finished);
                return assert_eq!(code, Some(1008));
            }
            Some(Event::Text(text)) if text == command("FINISHED") => finished = true,
            Some(Event::Pong(_)) | None => assert!(start.elapsed() < DEADLINE, "still served"),
            Some(other) => panic!("close 1008 was to come, not {other:?}"),
        }
    }
}

/// A deadline no longer applies once its step is done.
#[test]
fn a_subscribed_viewer_outlives_the_handshake_and_subscribe_timeouts() {
    let monitor = Monitor::start("clients: {handshake_timeout: 0.3, subscribe_timeout: 0.3}");
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    Viewer::upgraded(monitor.viewers).is_ended_with(1008);
    Viewer::connected(monitor.viewers).raw_to_end();
    broker.send(&["job", "FINISHED"]);
    viewer.texts(&[command("FINISHED")]);
    viewer.closes(1000);
}
