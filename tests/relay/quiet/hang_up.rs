//! Quiet viewers that hang up: each counts once, frees its permits and its empty channel, and disturbs nobody else.

use super::{NO_PINGS, Server, calm, on_each_way, texts};
use crate::common::viewer::frame;
use crate::common::{Event, Viewer, command, task, until};
use std::thread::spawn;

/// The ways to hang up.
#[derive(Clone, Copy, Debug)]
enum By {
    /// The socket is closed with nothing unread.
    Fin,
    /// The socket is closed with a reset, if it is over TCP.
    Reset,
    /// A close frame is sent, and its answer read.
    Close,
    /// A close frame is sent, and the socket closed at once.
    CloseUnread,
    /// A close frame is sent byte by byte.
    CloseInParts,
    /// Nothing more is sent, but the viewer would still read.
    HalfClose,
    /// The socket is closed in the middle of a frame of the viewer's.
    InAFrame,
}

const ALL: [By; 7] = [By::Fin, By::Reset, By::Close, By::CloseUnread, By::CloseInParts, By::HalfClose, By::InAFrame];

/// Hangs up; returns the viewer if its socket stays open on its side.
fn hang_up(mut viewer: Viewer, by: By) -> Option<Viewer> {
    match by {
        By::Fin => {}
        By::Reset => viewer.reset(),
        By::Close => {
            // The monitor may have gone before it reads this.
            viewer.send_close(1000);
            while viewer.next() != Event::Gone {}
        }
        By::CloseUnread => viewer.send_close(1001),
        By::CloseInParts => {
            for byte in frame(0x88, &1000_u16.to_be_bytes()) {
                viewer.send_raw(&[byte]);
            }
            return Some(viewer);
        }
        By::HalfClose => {
            viewer.shut_sending();
            return Some(viewer);
        }
        By::InAFrame => viewer.send_raw(&[0x8A, 0xFF, 0]),
    }
    None
}

/// Asserts that exactly `free` viewers more are served.
fn has_free(server: &Server, free: usize) {
    let mut next = Vec::new();
    for number in 0..free {
        next.push(server.serves_one_more().unwrap_or_else(|| panic!("only {number} of {free} permits are free")));
    }
    assert!(server.serves_one_more().is_none(), "more than {free} permits are free");
    drop(next);
}

/// Every leaver has a channel of its own, and all share another one with a viewer that stays.
fn leave_once(config: &str) {
    on_each_way(config, |server| {
        for round in 0..2 {
            let channel = format!("shared {round}");
            let mut stays = server.subscribed(&channel);
            let alone = ALL.map(|by| (server.subscribed(&format!("{by:?}")), by));
            let shared = ALL.map(|by| (server.subscribed(&channel), by));
            calm();
            server.counts("viewers", 15);
            server.counts("channels{state=\"open\"}", 8);
            let _kept: Vec<_> =
                alone.into_iter().chain(shared).filter_map(|(viewer, by)| hang_up(viewer, by)).collect();
            server.counts("viewers", 1);
            server.counts("channels{state=\"open\"}", 1);
            server.tasks(&channel, 0, 3);
            stays.texts(&texts(0, 3));
            has_free(&server, 14);
            server.counts("viewers", 1);
            server.broker.send(&[&channel[..], "FINISHED"]);
            stays.texts(&[command("FINISHED")]);
            stays.closes(1000);
            server.counts("viewers", 0);
        }
        let metrics = server.metrics();
        for (series, count) in [
            ("subscribed_viewers_total", 30),
            ("lost_viewers_total{reason=\"silent\"}", 0),
            ("lost_viewers_total{reason=\"stalled\"}", 0),
            ("channels{state=\"draining\"}", 0),
            ("closed_viewers_total{code=\"1000\"}", 2),
            ("sent_messages_total", 8),
        ] {
            assert_eq!(metrics.count(&format!("recodex_monitor_{series}")), count, "{series}");
        }
    });
}

#[test]
fn a_quiet_viewer_that_hangs_up_frees_its_permit_and_its_empty_channel_once() {
    leave_once("clients: {max: 15, ping_interval: 3600}\n");
}

#[test]
fn a_quiet_viewer_that_hangs_up_frees_the_permit_of_its_address_once() {
    leave_once("clients: {max_per_address: 15, ping_interval: 3600}\n");
}

/// Some have messages that they have not read when they hang up, which makes the end of their connection a reset.
#[test]
fn two_hundred_quiet_viewers_that_hang_up_while_messages_come_disturb_nobody() {
    const MESSAGES: usize = 2000;
    on_each_way(NO_PINGS, |server| {
        let stay: Vec<_> = (0..10).map(|_| server.subscribed("job")).collect();
        let leave = server.quiet("job", 200);
        let readers: Vec<_> = stay
            .into_iter()
            .map(|mut viewer| {
                spawn(move || {
                    viewer.texts(&texts(0, MESSAGES));
                    viewer
                })
            })
            .collect();
        let mut kept = Vec::new();
        for (number, viewer) in leave.into_iter().enumerate() {
            server.tasks("job", number * 10, number * 10 + 10);
            kept.extend(hang_up(viewer, ALL[number % ALL.len()]));
        }
        let stay: Vec<_> = readers.into_iter().map(|reader| reader.join().expect("it gets all")).collect();
        server.counts("viewers", 10);
        drop(kept);
        server.broker.send(&["job", "FINISHED"]);
        for mut viewer in stay {
            viewer.texts(&[command("FINISHED")]);
            viewer.closes(1000);
        }
        server.counts("viewers", 0);
        assert_eq!(server.count("lost_viewers_total{reason=\"stalled\"}"), 0);
    });
}

/// All hang up at the same moment as the job ends.
#[test]
fn quiet_viewers_that_hang_up_as_their_job_finishes_are_gone_once() {
    on_each_way(NO_PINGS, |server| {
        let mut stays = server.subscribed("job");
        let leave = server.quiet("job", 100);
        let mut kept = Vec::new();
        for (number, viewer) in leave.into_iter().enumerate() {
            if number == 50 {
                server.broker.send(&["job", "FINISHED"]);
            }
            kept.extend(hang_up(viewer, [By::Fin, By::Reset, By::HalfClose][number % 3]));
        }
        stays.texts(&[command("FINISHED")]);
        stays.closes(1000);
        server.counts("viewers", 0);
        server.counts("channels{state=\"draining\"}", 0);
        assert_eq!(server.count("channels{state=\"finished\"}"), 1);
    });
}

/// The kernel gives a new connection the lowest number that is free, which is that of a viewer that has just gone.
#[test]
fn a_viewer_that_gets_the_descriptor_of_one_that_has_gone_gets_nothing_of_its_channel() {
    const VIEWERS: usize = 150;
    on_each_way(NO_PINGS, |server| {
        let mut stays = server.subscribed("old");
        let old = server.quiet("old", VIEWERS);
        let before = server.monitor.descriptors();
        let mut new = Vec::new();
        for (number, viewer) in old.into_iter().enumerate() {
            server.broker.task("old", &format!("{number} before"));
            let _kept = hang_up(viewer, ALL[number % ALL.len()]);
            server.broker.task("old", &format!("{number} after"));
            let channel = format!("new {}", number % 10);
            // Its first byte after the upgrade is that of a pong.
            new.push((server.subscribed(&channel), channel));
            server.broker.task("old", &format!("{number} once more"));
        }
        let mut expected = Vec::new();
        for number in 0..VIEWERS {
            expected
                .extend(["before", "after", "once more"].map(|when| task(&format!("{number} {when}"), "COMPLETED")));
        }
        stays.texts(&expected);
        // The socket of the status listener and those that still end come and go.
        until("nothing was left open", || (server.monitor.descriptors() <= before + 1).then_some(()));
        calm();
        server.counts("viewers", VIEWERS as u64 + 1);
        for channel in 0..10 {
            server.tasks(&format!("new {channel}"), channel * 10, channel * 10 + 10);
        }
        server.tasks("old", 0, 1);
        for (viewer, channel) in &mut new {
            let first = channel.rsplit(' ').next().and_then(|last| last.parse::<usize>().ok()).expect("a number") * 10;
            viewer.texts(&texts(first, first + 10));
            viewer.send_frame(0x89, b"you?");
            assert_eq!(viewer.next(), Event::Pong(b"you?".to_vec()), "{channel}");
        }
        stays.texts(&texts(0, 1));
    });
}
