//! The bounds of the history, and quiet viewers: one that was not behind gets all of a burst, whatever is kept of it.

use super::{GIVEN_UP, Server};
use crate::common::zmtp::message;
use crate::common::{RawPeer, Viewer, command};

/// Runs a test over TCP and over a Unix socket. Over TLS a viewer has a task, which sees a burst when it is over.
fn without_tls(config: &str, test: impl Fn(Server)) {
    test(Server::tcp(config));
    test(Server::unix(config));
}

/// Messages of so few bytes that the kernel takes a thousand at once for a viewer that reads.
fn words(channel: &str, from: usize, to: usize) -> Vec<u8> {
    (from..to).flat_map(|number| message(&[channel, &number.to_string()])).collect()
}

/// Asserts that a viewer gets them.
fn gets_words(viewer: &mut Viewer, from: usize, to: usize) {
    for number in from..to {
        assert_eq!(viewer.text(), command(&number.to_string()));
    }
}

/// The monitor may read all of it at once, and keeps eight messages.
#[test]
fn a_quiet_viewer_gets_all_of_a_burst_that_is_longer_than_channel_messages() {
    const MESSAGES: usize = 1000;
    without_tls("history: {channel_messages: 8}\n", |server| {
        let mut viewers = server.quiet("job", 20);
        let mut peer = RawPeer::ready(server.monitor.brokers);
        for round in 0..5 {
            let (from, to) = (round * MESSAGES, (round + 1) * MESSAGES);
            peer.send(&words("job", from, to));
            for viewer in &mut viewers {
                gets_words(viewer, from, to);
            }
        }
        peer.send(&message(&["job", "FINISHED"]));
        for viewer in &mut viewers {
            viewer.texts(&[command("FINISHED")]);
            viewer.closes(1000);
        }
        assert_eq!(server.count("closed_viewers_total{code=\"1013\"}"), 0);
    });
}

/// The job's end and the beginning of its next run are in the burst.
#[test]
fn a_quiet_viewer_gets_all_of_a_job_that_comes_at_once() {
    without_tls("history: {channel_messages: 8, finished: 0}\n", |server| {
        let mut viewers = server.quiet("job", 20);
        let mut peer = RawPeer::ready(server.monitor.brokers);
        let ends = ["FINISHED", "STARTED"].map(|word| message(&["job", word])).concat();
        peer.send(&[message(&["job", "STARTED"]), words("job", 0, 1000), ends, words("job", 0, 10)].concat());
        for viewer in &mut viewers {
            viewer.texts(&[command("STARTED")]);
            gets_words(viewer, 0, 1000);
            viewer.texts(&[command("FINISHED")]);
            viewer.closes(1000);
        }
    });
}

/// Channels that nobody watches come after the watched ones, and take the room of their history.
#[test]
fn quiet_viewers_get_all_of_their_channels_before_the_burst_that_evicts_them_ends() {
    without_tls("history: {total_bytes: 65536}\n", |server| {
        let mut finished = server.quiet("finished", 10);
        let mut open = server.quiet("open", 10);
        let mut peer = RawPeer::ready(server.monitor.brokers);
        let mut bytes = [words("finished", 0, 100), message(&["finished", "FINISHED"])].concat();
        bytes.extend(words("open", 0, 100));
        for channel in 0..5 {
            let long = "x".repeat(1800);
            bytes.extend(message(&[&format!("other {channel}")[..], "TASK", &long, "COMPLETED"]).repeat(10));
        }
        peer.send(&bytes);
        for viewer in &mut finished {
            gets_words(viewer, 0, 100);
            viewer.texts(&[command("FINISHED")]);
            viewer.closes(1000);
        }
        for viewer in &mut open {
            gets_words(viewer, 0, 100);
            viewer.is_ended_with(GIVEN_UP);
        }
        server.counts("viewers", 0);
        assert!(server.count("evicted_channels_total") >= 2);
    });
}
