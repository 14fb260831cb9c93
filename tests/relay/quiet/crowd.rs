//! A crowd of quiet viewers of one channel: a round over all of them holds up nobody else.

use super::{Server, calm, texts};
use crate::common::http::{get, status};
use crate::common::zmtp::message;
use crate::common::{DEADLINE, Event, RawPeer, Viewer, command, raise_open_files, skipped, until};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

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

/// Sends messages to the crowd until `act`, which is called in the middle of a round, is over before the round is.
///
/// One such round is enough: whatever waits for the end of a round is never over before it. Some viewers of the crowd stand for all,
/// so that the test sees quickly how far a round is.
fn overtakes(what: &str, server: &Server, crowd: &mut [Viewer], mut act: impl FnMut(usize)) {
    let (mut round, mut bytes) = (0, 0);
    let reached = |viewer: &Viewer, bytes: u64| viewer.waiting() >= bytes;
    until(what, || {
        bytes += 2 + texts(round, round + 1)[0].len() as u64;
        server.tasks("large", round, round + 1);
        let start = Instant::now();
        while !crowd.iter().step_by(CROWD / 30).any(|viewer| reached(viewer, bytes)) {
            assert!(start.elapsed() < DEADLINE, "the round does not begin");
        }
        act(round);
        round += 1;
        let overtook = !crowd.iter().step_by(CROWD / 30).all(|viewer| reached(viewer, bytes));
        until("the round is over", || crowd.iter().all(|viewer| reached(viewer, bytes)).then_some(()));
        overtook.then_some(())
    });
    eprintln!("{what}: in round {round}");
    for viewer in crowd {
        viewer.texts(&texts(0, round));
    }
}

#[test]
fn other_channels_do_not_wait_for_the_end_of_a_round() {
    let Some((server, mut crowd)) = crowded() else { return };
    let mut small = server.subscribed("small");
    calm();
    // A link of its own, so that its messages do not wait behind those of the crowd.
    let mut peer = RawPeer::ready(server.monitor.brokers);
    overtakes("a message of another channel overtakes", &server, &mut crowd, |round| {
        peer.send(&message(&["small", "TASK", &round.to_string(), "COMPLETED"]));
        small.texts(&texts(round, round + 1));
    });
}

#[test]
fn what_viewers_say_newcomers_and_the_status_listener_do_not_wait_for_the_end_of_a_round() {
    let Some((server, mut crowd)) = crowded() else { return };
    let mut small = server.subscribed("small");
    overtakes("a pong overtakes", &server, &mut crowd, |_| {
        small.send_frame(0x89, b"you?");
        assert_eq!(small.next(), Event::Pong(b"you?".to_vec()));
    });
    overtakes("a new viewer overtakes", &server, &mut crowd, |_| drop(server.subscribed("small")));
    let at = status(&server.monitor);
    overtakes("an answer of the status listener overtakes", &server, &mut crowd, |_| {
        assert_eq!(get(at, "/healthz").status, 200);
    });
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
