//! Viewers that were quiet and then say something: it is answered or ignored, and no message is lost, doubled or out of order.

use super::{NO_PINGS, Server, calm, end, on_each_way, texts, unanswered};
use crate::common::viewer::frame;
use crate::common::{DEADLINE, Event, Viewer, command, task};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// Something that a viewer may say: its name, its bytes, and the payloads of the pongs that answer it.
type Saying = (&'static str, Vec<u8>, Vec<&'static [u8]>);

/// Everything that a viewer may say after it has subscribed.
fn sayings() -> Vec<Saying> {
    let fragments = [
        frame(0x01, b"in "),
        frame(0x8A, b"between"),
        frame(0x00, b"many "),
        frame(0x89, b"here?"),
        frame(0x00, b""),
        frame(0x80, b"parts"),
    ];
    vec![
        ("a text", frame(0x81, b"another"), vec![]),
        ("an empty text", frame(0x81, b""), vec![]),
        ("the longest text", frame(0x81, &[b'x'; 4096]), vec![]),
        ("a binary message", frame(0x82, b"\xff\xfe binary"), vec![]),
        ("a message in fragments", fragments.concat(), vec![b"here?"]),
        ("a ping", frame(0x89, b"you?"), vec![b"you?"]),
        ("an empty ping", frame(0x89, b""), vec![b""]),
        ("the longest ping", frame(0x89, &[7; 125]), vec![&[7; 125]]),
        ("a pong", frame(0x8A, b"unasked"), vec![]),
        ("a pong, and a ping", [frame(0x8A, b""), frame(0x89, b"1")].concat(), vec![b"1"]),
        ("three pings", [frame(0x89, b"1"), frame(0x89, b"2"), frame(0x89, b"3")].concat(), vec![b"1", b"2", b"3"]),
        ("a text, and a ping", [frame(0x81, b"text"), frame(0x89, b"1")].concat(), vec![b"1"]),
    ]
}

/// Asserts that these pongs come, and then these texts.
fn gets(viewer: &mut Viewer, what: &str, pongs: &[&[u8]], texts: &[String]) {
    for pong in pongs {
        assert_eq!(viewer.next(), Event::Pong(pong.to_vec()), "{what}");
    }
    for text in texts {
        assert_eq!(viewer.next(), Event::Text(text.clone()), "{what}");
    }
}

/// They say it once when they are quiet, and once more right after that.
#[test]
fn what_a_quiet_viewer_says_is_answered_or_ignored_and_its_messages_go_on() {
    let sayings = sayings();
    on_each_way(NO_PINGS, |server| {
        let mut viewers = server.quiet("job", sayings.len());
        for round in 0..2 {
            for (viewer, (_, bytes, _)) in viewers.iter_mut().zip(&sayings) {
                viewer.send_raw(bytes);
            }
            for (viewer, (what, _, pongs)) in viewers.iter_mut().zip(&sayings) {
                gets(viewer, what, pongs, &[]);
            }
            server.tasks("job", round * 10, round * 10 + 10);
            for (viewer, (what, ..)) in viewers.iter_mut().zip(&sayings) {
                gets(viewer, what, &[], &texts(round * 10, round * 10 + 10));
            }
        }
        server.broker.send(&["job", "FINISHED"]);
        for viewer in &mut viewers {
            viewer.texts(&[command("FINISHED")]);
            viewer.closes(1000);
        }
    });
}

/// A saying is cut after each of its first bytes, and messages come before its rest.
#[test]
fn a_quiet_viewer_may_stop_within_whatever_it_says() {
    on_each_way(NO_PINGS, |server| {
        let mut cuts = Vec::new();
        for (what, bytes, pongs) in sayings() {
            cuts.extend((1..bytes.len().min(20)).map(|at| (what, bytes.clone(), pongs.clone(), at)));
        }
        let mut viewers = server.quiet("job", cuts.len());
        for (viewer, (_, bytes, _, at)) in viewers.iter_mut().zip(&cuts) {
            viewer.send_raw(&bytes[..*at]);
        }
        calm();
        server.tasks("job", 0, 3);
        let mut early = Vec::new();
        for (viewer, (what, ..)) in viewers.iter_mut().zip(&cuts) {
            // Whole frames before the cut are answered at once.
            let mut events: Vec<_> = (0..3).map(|_| viewer.next()).collect();
            while events.iter().filter(|event| matches!(event, Event::Text(_))).count() < 3 {
                events.push(viewer.next());
            }
            let (got, pongs): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| matches!(event, Event::Text(_)));
            assert_eq!(got, texts(0, 3).into_iter().map(Event::Text).collect::<Vec<_>>(), "{what}");
            early.push(pongs);
        }
        for (viewer, (_, bytes, _, at)) in viewers.iter_mut().zip(&cuts) {
            viewer.send_raw(&bytes[*at..]);
        }
        for ((viewer, (what, _, pongs, at)), mut got) in viewers.iter_mut().zip(&cuts).zip(early) {
            while got.len() < pongs.len() {
                got.push(viewer.next());
            }
            let expected: Vec<_> = pongs.iter().map(|pong| Event::Pong(pong.to_vec())).collect();
            assert_eq!(got, expected, "{what}, cut at {at}");
        }
        server.tasks("job", 3, 6);
        for (viewer, (what, ..)) in viewers.iter_mut().zip(&cuts) {
            gets(viewer, what, &[], &texts(3, 6));
        }
    });
}

/// Between two fragments of a message a viewer may be silent for long, and be pinged.
#[test]
fn a_quiet_viewer_may_pause_within_a_message_in_fragments() {
    on_each_way("clients: {ping_interval: 0.5, ping_timeout: 10}\n", |server| {
        let mut viewer = server.quiet("job", 1).remove(0);
        viewer.send_frame(0x02, b"\xff\xfe");
        for round in 0..4 {
            for _ in 0..3 {
                let Some(Event::Ping(payload)) = viewer.next_within(DEADLINE) else { panic!("a ping was to come") };
                viewer.send_frame(0x8A, &payload);
            }
            viewer.send_frame(0x00, b"more");
            viewer.send_frame(0x89, b"there?");
            gets(&mut viewer, "a ping in a message", &[b"there?"], &[]);
            server.tasks("job", round, round + 1);
            gets(&mut viewer, "within its message", &[], &texts(round, round + 1));
        }
        viewer.send_frame(0x80, b"");
        // A continuation of nothing shows that the message was at its end.
        viewer.send_frame(0x80, b"");
        viewer.closes(1002);
    });
}

/// Pongs stand between whole frames, of which the longest take several writes.
#[test]
fn pings_every_10_ms_while_messages_come_are_answered_in_order() {
    const MESSAGES: usize = 400;
    let id =
        |number: usize| format!("{number} {}", "x".repeat(if number.is_multiple_of(20) { 60_000 } else { number }));
    on_each_way(NO_PINGS, |server| {
        let mut viewer = server.quiet("job", 1).remove(0);
        let broker = server.broker;
        scope(|scope| {
            let sending = scope.spawn(move || {
                for number in 0..MESSAGES {
                    broker.task("job", &id(number));
                    sleep(Duration::from_millis(2));
                }
                broker
            });
            let (mut got, mut sent, mut answered, mut last) = (0, 0_u32, 0, Instant::now());
            while got < MESSAGES || answered < sent {
                if got < MESSAGES && last.elapsed() >= Duration::from_millis(10) {
                    sent += 1;
                    viewer.send_frame(0x89, &sent.to_be_bytes());
                    last = Instant::now();
                }
                match viewer.next_within(Duration::from_millis(10)) {
                    Some(Event::Text(text)) => {
                        assert_eq!(text, task(&id(got), "COMPLETED"));
                        got += 1;
                    }
                    Some(Event::Pong(payload)) => {
                        // Some may be left out if the viewer reads too slowly, but not the last.
                        let number = u32::from_be_bytes(payload.try_into().expect("as it was sent"));
                        assert!(answered < number && number <= sent, "{number} after {answered} of {sent}");
                        answered = number;
                    }
                    None => assert!(last.elapsed() < DEADLINE, "{got} texts, {answered} of {sent} pongs"),
                    other => panic!("{other:?}"),
                }
            }
            assert!(sent > 10, "only {sent} pings: the test proves nothing");
            drop(sending.join().expect("it could send"));
        });
    });
}

/// All of a channel speak at once, and messages come at the same time.
#[test]
fn two_hundred_quiet_viewers_that_ping_at_once_are_all_answered() {
    let server = Server::tcp(NO_PINGS);
    let mut viewers = server.quiet("job", 200);
    for (number, viewer) in viewers.iter_mut().enumerate() {
        viewer.send_frame(0x89, &number.to_be_bytes());
        if number % 20 == 0 {
            server.tasks("job", number / 20, number / 20 + 1);
        }
    }
    for (number, viewer) in viewers.iter_mut().enumerate() {
        let mut events: Vec<_> = (0..11).map(|_| viewer.next()).collect();
        let at = events.iter().position(|event| matches!(event, Event::Pong(_))).expect("a pong");
        assert_eq!(events.remove(at), Event::Pong(number.to_be_bytes().to_vec()));
        assert_eq!(events, texts(0, 10).into_iter().map(Event::Text).collect::<Vec<_>>());
    }
}

/// An answer to a viewer's own ping keeps the connection for that time only.
#[test]
fn a_viewer_that_pings_and_is_then_silent_gets_its_messages_until_it_is_given_up() {
    on_each_way("clients: {ping_interval: 1.5, ping_timeout: 1}\n", |server| {
        let mut viewer = server.subscribed("job");
        calm();
        viewer.send_frame(0x89, b"you?");
        assert_eq!(viewer.next(), Event::Pong(b"you?".to_vec()));
        server.tasks("job", 0, 3);
        let events = unanswered(&mut viewer);
        assert_eq!(events[..3], texts(0, 3).into_iter().map(Event::Text).collect::<Vec<_>>());
        assert_eq!(events[3..], end(super::GIVEN_UP));
        server.counts("viewers", 0);
        assert_eq!(server.count("lost_viewers_total{reason=\"silent\"}"), 1);
    });
}
