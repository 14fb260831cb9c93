//! A crowd of quiet viewers of one channel, beside which the others go on.

use super::{Server, calm, texts};
use crate::common::zmtp::message;
use crate::common::{RawPeer, Viewer, command, raise_open_files, skipped};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

/// Viewers of the large channel.
const CROWD: usize = 3000;

/// A server with a crowd of quiet viewers of the channel "large", if so many may be open.
fn crowded() -> Option<(Server, Vec<Viewer>)> {
    let allowed = raise_open_files();
    if allowed < 2 * CROWD {
        skipped(&format!("{allowed} open files are too few"));
        return None;
    }
    let server = Server::tcp("clients: {max: 10000, ping_interval: 3600}\n");
    let crowd = (0..CROWD).map(|_| server.subscribed("large")).collect();
    calm();
    Some((server, crowd))
}

/// A message every millisecond, while the crowd gets one round after another, and is told the end of its job.
#[test]
fn a_crowd_and_another_channel_both_get_all_their_messages_in_order() {
    const ROUNDS: usize = 20;
    let Some((server, mut crowd)) = crowded() else { return };
    let mut small = server.subscribed("small");
    let mut peer = RawPeer::ready(server.monitor.brokers);
    let over = AtomicBool::new(false);
    let sent = scope(|scope| {
        let sending = scope.spawn(|| {
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                peer.send(&message(&["small", "TASK", &sent.to_string(), "COMPLETED"]));
                sent += 1;
                sleep(Duration::from_millis(1));
            }
            sent
        });
        server.tasks("large", 0, ROUNDS);
        server.broker.send(&["large", "FINISHED"]);
        for viewer in &mut crowd {
            viewer.texts(&texts(0, ROUNDS));
            viewer.texts(&[command("FINISHED")]);
            viewer.closes(1000);
        }
        over.store(true, Ordering::Relaxed);
        sending.join().expect("it could send")
    });
    small.texts(&texts(0, sent));
    server.counts("viewers", 1);
    assert_eq!(server.count("closed_viewers_total{code=\"1000\"}"), CROWD as u64);
    assert_eq!(server.count("lost_viewers_total{reason=\"stalled\"}"), 0);
}
