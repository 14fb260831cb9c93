//! The subscription, and messages from a viewer after it.

use crate::common::viewer::frame;
use crate::common::{Broker, Event, Monitor, Viewer, command};
use std::time::Duration;

/// Asserts that the server ends this connection by a close with this code.
///
/// The client may have sent more bytes than the server has read.
fn ends_with(viewer: &mut Viewer, code: u16, why: &str) {
    match viewer.next() {
        Event::Close(got) => assert_eq!(got, Some(code), "{why}"),
        other => panic!("{why}: close {code} was to come, not {other:?}"),
    }
}

#[test]
fn a_first_frame_that_names_no_channel_is_closed_by_the_code_for_it() {
    let monitor = Monitor::start("");
    let (long, far_too_long) = ("x".repeat(257), "x".repeat(10_000));
    for (first, payload, code, why) in [
        (0x82, b"job".as_slice(), 1003, "binary"),
        (0x82, b"", 1003, "empty binary"),
        (0x81, b"", 1008, "empty id"),
        (0x81, long.as_bytes(), 1008, "id of 257 bytes"),
        (0x81, far_too_long.as_bytes(), 1008, "id of 10,000 bytes"),
        (0x81, b"job\xff", 1007, "not UTF-8"),
        (0x81, b"\xed\xa0\x80", 1007, "a surrogate"),
        (0x81, b"\xc5", 1007, "half a letter"),
    ] {
        let mut viewer = Viewer::upgraded(monitor.viewers);
        viewer.send_frame(first, payload);
        ends_with(&mut viewer, code, why);
        let _ = viewer.try_send_raw(&frame(0x88, &code.to_be_bytes()));
        assert_eq!(viewer.next(), Event::Gone, "{why}");
    }
}

#[test]
fn ids_up_to_256_bytes_are_channels() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    for id in ["x".repeat(256), "ž".repeat(128), "\u{1F600}".repeat(64), " ".to_owned(), "\0".to_owned()] {
        let mut viewer = Viewer::watch(monitor.viewers, &id);
        broker.send(&[id.as_str(), "FINISHED"]);
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
    }
}

#[test]
fn a_subscription_in_fragments_with_a_ping_between_is_one_id() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["úloha 1", "STARTED"]);
    let mut viewer = Viewer::upgraded(monitor.viewers);
    let id = "úloha 1".as_bytes();
    viewer.send_frame(0x01, &id[..1]); // inside a letter
    viewer.send_frame(0x89, b"between");
    assert_eq!(viewer.next(), Event::Pong(b"between".to_vec()));
    viewer.send_frame(0x00, &id[1..4]);
    viewer.send_frame(0x00, b"");
    viewer.send_frame(0x80, &id[4..]);
    viewer.texts(&[command("STARTED")]);
}

#[test]
fn fragments_are_counted_together() {
    let monitor = Monitor::start("");
    let mut viewer = Viewer::upgraded(monitor.viewers);
    viewer.send_frame(0x01, &[b'x'; 200]);
    viewer.send_frame(0x80, &[b'x'; 57]);
    viewer.closes(1008);
}

#[test]
fn what_a_viewer_sends_after_subscribing_is_ignored() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    viewer.send_text("another");
    viewer.send_text("");
    viewer.send_frame(0x82, b"\xff\xfe binary");
    viewer.send_frame(0x8A, b"a pong nobody asked for");
    viewer.send_frame(0x81, &[b'x'; 4096]);
    viewer.send_frame(0x01, b"in ");
    viewer.send_frame(0x80, b"fragments");
    viewer.send_frame(0x89, b"read");
    assert_eq!(viewer.next(), Event::Pong(b"read".to_vec()));
    broker.send(&["another", "STARTED"]);
    broker.send(&["job", "ENDED"]);
    viewer.texts(&[command("ENDED")]);
}

#[test]
fn a_message_over_4_kib_is_closed_1009() {
    let monitor = Monitor::start("");
    let mut whole = Viewer::watch(monitor.viewers, "job");
    whole.send_frame(0x81, &[b'x'; 4097]);
    ends_with(&mut whole, 1009, "one frame");

    let mut fragments = Viewer::watch(monitor.viewers, "job");
    fragments.send_frame(0x02, &[b'x'; 2048]);
    fragments.send_frame(0x00, &[b'x'; 2048]);
    fragments.send_frame(0x80, b"x");
    ends_with(&mut fragments, 1009, "fragments");

    for length in [1 << 20, 1 << 40, (1 << 63) - 1_u64] {
        let mut announced = Viewer::watch(monitor.viewers, "job");
        let mut head = vec![0x82, 0xFF];
        head.extend_from_slice(&length.to_be_bytes());
        announced.send_raw(&head);
        announced.send_raw(b"mask");
        ends_with(&mut announced, 1009, "only announced");
    }
    assert!(monitor.rss_kib() < 32 * 1024);
}

#[test]
fn what_breaks_the_protocol_is_closed_1002() {
    let monitor = Monitor::start("");
    for subscribed in [false, true] {
        for (bytes, why) in [
            (b"\x81\x03job".to_vec(), "not masked"),
            (frame(0xC1, b"job"), "first reserved bit"),
            (frame(0xA1, b"job"), "second reserved bit"),
            (frame(0x91, b"job"), "third reserved bit"),
            (frame(0x83, b"job"), "reserved opcode"),
            (frame(0x8B, b""), "reserved control opcode"),
            (frame(0x80, b"job"), "a continuation of nothing"),
            (frame(0x09, b"p"), "a ping in fragments"),
            (frame(0x89, &[0; 126]), "a ping over 125 bytes"),
            (frame(0x88, b"\x03"), "a close with half a code"),
            ([frame(0x01, b"j"), frame(0x81, b"ob")].concat(), "a text inside a text"),
        ] {
            let mut viewer =
                if subscribed { Viewer::watch(monitor.viewers, "job") } else { Viewer::upgraded(monitor.viewers) };
            viewer.send_raw(&bytes);
            ends_with(&mut viewer, 1002, &format!("{why}, subscribed: {subscribed}"));
        }
    }
}

#[test]
fn pings_are_answered_before_and_after_subscribing() {
    let monitor = Monitor::start("");
    let mut viewer = Viewer::upgraded(monitor.viewers);
    for payload in [b"".as_slice(), b"1", &[7; 125]] {
        viewer.send_frame(0x89, payload);
        assert_eq!(viewer.next(), Event::Pong(payload.to_vec()));
    }
    viewer.send_text("job");
    for payload in [b"".as_slice(), b"1", &[7; 125]] {
        viewer.send_frame(0x89, payload);
        assert_eq!(viewer.next(), Event::Pong(payload.to_vec()));
    }
}

/// If a viewer sends many pings, the last must be answered, and the others must not take memory.
#[test]
fn a_flood_of_pings_does_no_harm() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    let flood = frame(0x89, &[7; 100]).repeat(1000);
    for _ in 0..20 {
        viewer.send_raw(&flood);
        while viewer.next_within(Duration::ZERO).is_some() {}
    }
    broker.send(&["job", "FINISHED"]);
    let finished = std::iter::repeat_with(|| viewer.next()).find(|event| !matches!(event, Event::Pong(_)));
    assert_eq!(finished, Some(Event::Text(command("FINISHED"))));
    assert!(monitor.rss_kib() < 32 * 1024);
}

#[test]
fn a_clients_close_is_answered() {
    let monitor = Monitor::start("");
    for subscribed in [false, true] {
        for (payload, answer) in [
            (b"".to_vec(), None),
            (1000_u16.to_be_bytes().to_vec(), Some(1000)),
            (1001_u16.to_be_bytes().to_vec(), Some(1001)),
            ([&4000_u16.to_be_bytes()[..], "důvod".as_bytes()].concat(), Some(4000)),
        ] {
            let mut viewer =
                if subscribed { Viewer::watch(monitor.viewers, "job") } else { Viewer::upgraded(monitor.viewers) };
            viewer.send_frame(0x88, &payload);
            let Event::Close(code) = viewer.next() else { panic!("a close was to come") };
            assert!(code.is_none() || code == answer || code == Some(1000), "{payload:?}: {code:?}");
            assert_eq!(viewer.next(), Event::Gone);
        }
    }
}

#[test]
fn a_viewer_that_only_ends_its_half_of_the_connection_is_let_go() {
    let monitor = Monitor::start("");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    viewer.shut_sending();
    viewer.rest();
}
