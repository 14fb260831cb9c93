//! The bytes on both wires: each message of a broker, sent by libzmq, becomes exactly the expected text for a browser.

use crate::common;

use common::{Broker, Kind, Monitor, Viewer, command, fence, unique};
use serde::Deserialize;

#[derive(Deserialize)]
struct Conformance {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    note: String,
    frames_hex: Vec<String>,
    channel: Option<String>,
    text: Option<String>,
    last: bool,
}

impl Vector {
    fn frames(&self) -> Vec<Vec<u8>> {
        let byte = |at: &str| u8::from_str_radix(at, 16).expect("hexadecimal digits");
        let frame = |hex: &String| (0..hex.len()).step_by(2).map(|at| byte(&hex[at..at + 2])).collect();
        self.frames_hex.iter().map(frame).collect()
    }
}

fn vectors() -> Vec<Vector> {
    let file: Conformance = serde_json::from_str(include_str!("../wire.json")).expect("the vectors can be read");
    assert!(file.vectors.len() >= 32, "vectors are missing");
    file.vectors
}

/// Sends every vector, each to a monitor of its own, as vectors share a channel: a viewer that was there before and one
/// that comes after must get the text, and only it.
fn every_vector_from(kind: Kind) {
    for vector in vectors() {
        let monitor = Monitor::start("history: {release_failed: 0}");
        let broker = Broker::with(monitor.brokers, kind, |_| Ok(()));
        let note = &vector.note;
        if let (Some(channel), Some(text)) = (&vector.channel, &vector.text) {
            let mut early = Viewer::watch(monitor.viewers, channel);
            broker.send(&vector.frames());
            assert_eq!(&early.text(), text, "live: {note}");
            let mut late = Viewer::watch(monitor.viewers, channel);
            assert_eq!(&late.text(), text, "replayed: {note}");
            if !vector.last {
                broker.send(&[channel, "FINISHED"]);
                early.texts(&[command("FINISHED")]);
                late.texts(&[command("FINISHED")]);
            }
            early.closes(1000);
            late.closes(1000);
        } else {
            broker.send(&vector.frames());
            fence(&monitor, &broker);
            // Whatever the bad message named, nothing of it may be there.
            let named: Vec<_> =
                vector.frames().into_iter().take(1).filter_map(|id| String::from_utf8(id).ok()).collect();
            for channel in named.iter().filter(|id| !id.is_empty()) {
                broker.send(&[channel.as_str(), "STARTED"]);
                assert_eq!(Viewer::watch(monitor.viewers, channel).text(), command("STARTED"), "after: {note}");
            }
        }
    }
}

#[test]
fn every_vector_becomes_its_text_to_the_byte_from_a_router() {
    every_vector_from(Kind::Router);
}

#[test]
fn every_vector_becomes_its_text_to_the_byte_from_a_dealer() {
    every_vector_from(Kind::Dealer);
}

/// All vectors over one link: a bad message between them does not affect the others.
#[test]
fn the_stream_goes_on_after_every_bad_message() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let channel = unique("good");
    let mut viewer = Viewer::watch(monitor.viewers, &channel);
    let mut expected = Vec::new();
    let mut bad = 0;
    for (index, vector) in vectors().into_iter().filter(|vector| vector.text.is_none()).enumerate() {
        broker.send(&vector.frames());
        let id = index.to_string();
        broker.task(&channel, &id);
        expected.push(common::task(&id, "COMPLETED"));
        bad += 1;
    }
    assert!(bad >= 7, "bad vectors are missing");
    viewer.texts(&expected);
    monitor.wait_log("dropped a message from broker");
}

/// An empty message is one empty frame on the wire, which only a DEALER can send.
#[test]
fn an_empty_frame_is_ignored_and_the_stream_goes_on() {
    let monitor = Monitor::start("");
    let broker = Broker::with(monitor.brokers, Kind::Dealer, |_| Ok(()));
    broker.send(&[""]);
    broker.send(&["", "", "", ""]);
    fence(&monitor, &broker);
}

#[test]
fn a_channel_id_over_256_bytes_is_malformed_and_the_stream_goes_on() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let longest = "ž".repeat(128);
    broker.send(&[format!("{longest}x").as_str(), "STARTED"]);
    broker.send(&[longest.as_str(), "STARTED"]);
    assert_eq!(Viewer::watch(monitor.viewers, &longest).text(), command("STARTED"));
    monitor.wait_log("dropped a message from broker");
}

/// A late viewer gets exactly the bytes that an earlier viewer got, the close included.
#[test]
fn what_is_replayed_is_byte_for_byte_what_was_live() {
    let monitor = Monitor::start("history: {release_failed: 0}");
    let broker = Broker::connect(monitor.brokers);
    let channel = unique("replay");
    let mut live = Viewer::watch(monitor.viewers, &channel);
    let ids = ["", "compile_01", "p\u{159}\u{ed}li\u{161}", "\u{1F600}", "a\n\"b\"\\c\u{0}\u{7f}", "</script>"];
    for state in ["COMPLETED", "FAILED", "SKIPPED"] {
        for id in ids {
            broker.send(&[channel.as_str(), "TASK", id, state]);
            live.text();
        }
    }
    broker.send(&[channel.as_str(), "FAILED"]);
    broker.send(&[channel.as_str(), "FINISHED"]);
    let mut late = Viewer::watch(monitor.viewers, &channel);
    live.texts(&[command("FAILED"), command("FINISHED")]);
    live.closes(1000);
    late.rest();
    assert_eq!(late.received, live.received);
}

/// Texts on both sides of every length a WebSocket frame can have; the reader checks the encoding.
#[test]
fn every_length_is_encoded_in_its_shortest_form() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let channel = unique("lengths");
    let around = common::task("", "COMPLETED").len();
    let mut expected = Vec::new();
    for length in [124, 125, 126, 127, 128, 255, 256, 257, 65_000] {
        let id = "x".repeat(length - around);
        broker.task(&channel, &id);
        expected.push(common::task(&id, "COMPLETED"));
    }
    // One byte on the ZeroMQ wire can become six on the other.
    let zeros = "\0".repeat(60_000);
    broker.task(&channel, &zeros);
    expected.push(common::task(&"\\u0000".repeat(60_000), "COMPLETED"));
    let eleven_thousand = "\0".repeat(11_000);
    broker.task(&channel, &eleven_thousand);
    expected.push(common::task(&"\\u0000".repeat(11_000), "COMPLETED"));

    let mut viewer = Viewer::watch(monitor.viewers, &channel);
    viewer.texts(&expected);
    Viewer::watch(monitor.viewers, &channel).texts(&expected);
}

/// The frame's length changes its form between 65,535 and 65,536.
#[test]
fn texts_around_64_kib_are_exact() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let channel = unique("lengths");
    let around = common::task("", "COMPLETED").len();
    let mut viewer = Viewer::watch(monitor.viewers, &channel);
    for length in 65_533..65_539 {
        // Two bytes a letter that become six make any length below the limit of the other wire.
        let letters = (length - around) / 6;
        let rest = (length - around) % 6;
        let (sent, got) = ("ž".repeat(letters) + &"x".repeat(rest), "\\u017e".repeat(letters) + &"x".repeat(rest));
        broker.task(&channel, &sent);
        let text = viewer.text();
        assert_eq!(text.len(), length);
        assert_eq!(text, common::task(&got, "COMPLETED"));
    }
}
