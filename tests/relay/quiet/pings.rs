//! Pings to quiet viewers: those that answer stay, and those that do not are given up.

use super::{GIVEN_UP, NO_PINGS, Server, calm, end, next_unanswered, on_each_way, texts, unanswered};
use crate::common::viewer::frame;
use crate::common::{A_WHILE, DEADLINE, Event, Viewer, command};
use std::thread::scope;
use std::time::{Duration, Instant};

/// The interval is longer than a viewer needs to become quiet.
const RARE: &str = "clients: {ping_interval: 1.5, ping_timeout: 1}\n";

/// Returns an answer to a ping, and the rest of it, which is sent with the next ping.
type Answer = fn(&[u8]) -> (Vec<u8>, Vec<u8>);

const ANSWERS: [(&str, Answer); 8] = [
    ("its payload", |ping| (frame(0x8A, ping), Vec::new())),
    ("no payload", |_| (frame(0x8A, b""), Vec::new())),
    ("another payload", |_| (frame(0x8A, &[0xFE; 125]), Vec::new())),
    ("two pongs at once", |ping| ([frame(0x8A, b"one"), frame(0x8A, ping)].concat(), Vec::new())),
    ("a hundred pongs at once", |_| (frame(0x8A, b"again").repeat(100), Vec::new())),
    ("a pong in two parts", |_| cut(&frame(0x8A, b"in parts"), 3)),
    ("a pong and a half, and the other half", |_| cut(&frame(0x8A, b"!").repeat(2), 12)),
    ("a ping of its own", |_| (frame(0x89, b"and you?"), Vec::new())),
];

fn cut(bytes: &[u8], at: usize) -> (Vec<u8>, Vec<u8>) {
    (bytes[..at].to_vec(), bytes[at..].to_vec())
}

/// Answers pings until FINISHED; returns their number.
fn answers(viewer: &mut Viewer, name: &str, answer: Answer) -> usize {
    let (mut pings, mut rest) = (0, Vec::new());
    loop {
        match viewer.next_within(DEADLINE).unwrap_or_else(|| panic!("{name}: nothing comes")) {
            Event::Ping(payload) => {
                pings += 1;
                viewer.send_raw(&rest);
                let (first, second) = answer(&payload);
                viewer.send_raw(&first);
                rest = second;
            }
            Event::Pong(payload) => assert_eq!(payload, b"and you?", "{name}"),
            Event::Text(text) if text == command("FINISHED") => break,
            other => panic!("{name}: {other:?} after {pings} pings"),
        }
    }
    viewer.send_raw(&rest);
    viewer.closes(1000);
    pings
}

/// They are there for at least twice the time in which a silent viewer is given up.
#[test]
fn viewers_that_answer_pings_stay_whatever_their_pongs_look_like() {
    on_each_way("clients: {ping_interval: 0.5, ping_timeout: 2.5}\n", |server| {
        let start = Instant::now();
        let mut viewers = ANSWERS.map(|(name, answer)| (server.subscribed("job"), name, answer));
        let pings = scope(|scope| {
            let threads = viewers.each_mut().map(|(viewer, name, answer)| {
                let (name, answer) = (*name, *answer);
                scope.spawn(move || answers(viewer, name, answer))
            });
            for _ in 0..2 {
                assert_eq!(unanswered(&mut server.subscribed("silent")), end(GIVEN_UP));
            }
            server.broker.send(&["job", "FINISHED"]);
            threads.map(|thread| thread.join().expect("it is served"))
        });
        // The first is due after one interval, and one more comes at once after a pause of the process.
        let most = 1.0 + start.elapsed().as_secs_f64() / 0.5;
        for count in pings {
            assert!(count >= 4 && f64::from(u32::try_from(count).expect("it is small")) <= most, "{pings:?} pings");
        }
        server.counts("viewers", 0);
        assert_eq!(server.count("lost_viewers_total{reason=\"silent\"}"), 2);
    });
}

#[test]
fn a_silent_viewer_is_given_up_once_and_leaves_nothing_behind() {
    on_each_way("clients: {max: 2, ping_interval: 1.5, ping_timeout: 1}\n", |server| {
        let mut other = server.subscribed("other");
        scope(|scope| {
            let other = scope.spawn(move || {
                other.texts(&texts(0, 1));
                other.texts(&[command("FINISHED")]);
                other.closes(1000);
            });
            let start = Instant::now();
            let mut silent = server.subscribed("silent");
            let Some(Event::Ping(_)) = silent.next_within(DEADLINE) else { panic!("it is asked first") };
            assert!(start.elapsed() >= Duration::from_millis(1500), "asked after {:?}", start.elapsed());
            assert_eq!(unanswered(&mut silent), end(GIVEN_UP));
            assert!(start.elapsed() >= Duration::from_millis(2500), "given up after {:?}", start.elapsed());
            server.counts("viewers", 1);
            server.counts("channels{state=\"open\"}", 1);
            // Its permit is free, and only one.
            let _next = server.serves_one_more().expect("a permit is free");
            assert!(server.serves_one_more().is_none(), "the permit was freed twice");
            server.tasks("other", 0, 1);
            server.broker.send(&["other", "FINISHED"]);
            other.join().expect("the other one is served");
        });
        assert_eq!(server.count("lost_viewers_total{reason=\"silent\"}"), 1);
        assert_eq!(server.count("closed_viewers_total{code=\"1013\"}"), 0, "it counts as lost");
    });
}

/// A part of a pong is no answer, even if bytes come all the time.
#[test]
fn a_pong_that_comes_byte_by_byte_for_longer_than_the_timeout_is_no_answer() {
    on_each_way(RARE, |server| {
        let mut slow = server.subscribed("job");
        let Some(Event::Ping(_)) = slow.next_within(DEADLINE) else { panic!("a ping was to come") };
        let (mut events, mut sent) = (Vec::new(), 0);
        for byte in frame(0x8A, &[7; 125]) {
            if slow.try_send_raw(&[byte]).is_err() {
                break;
            }
            sent += 1;
            events.extend(slow.next_within(Duration::from_millis(100)));
            if events.last() == Some(&Event::Gone) {
                break;
            }
        }
        events.retain(|event| !matches!(event, Event::Ping(_) | Event::Gone));
        // It may see the end of the connection before it reads what was sent before.
        while let Some(event) = slow.next_within(A_WHILE).filter(|event| *event != Event::Gone) {
            events.push(event);
        }
        assert!(sent < 131, "the whole pong was read");
        assert!(end(GIVEN_UP).starts_with(&events), "{events:?}");
        server.counts("lost_viewers_total{reason=\"silent\"}", 1);
        server.counts("viewers", 0);
    });
}

/// All but the first have said something before they fall silent.
#[test]
fn a_viewer_that_falls_silent_is_given_up_whatever_it_said_before() {
    type Says = fn(&mut Viewer);
    let says: [(&str, Says); 6] = [
        ("nothing", |_| ()),
        ("a ping when it was quiet", |viewer| {
            calm();
            viewer.send_frame(0x89, b"you?");
            assert_eq!(next_unanswered(viewer, Instant::now() + DEADLINE), Event::Pong(b"you?".to_vec()));
        }),
        ("a text when it was quiet", |viewer| {
            calm();
            viewer.send_text("ignored");
        }),
        ("a part of a frame", |viewer| {
            calm();
            viewer.send_raw(&frame(0x8A, b"half of it")[..9]);
        }),
        ("a part of a message", |viewer| {
            calm();
            viewer.send_frame(0x01, b"to be continued");
        }),
        ("three pongs", |viewer| {
            for _ in 0..3 {
                let Some(Event::Ping(payload)) = viewer.next_within(DEADLINE) else { panic!("a ping was to come") };
                viewer.send_frame(0x8A, &payload);
            }
        }),
    ];
    on_each_way(RARE, |server| {
        scope(|scope| {
            for (what, says) in says {
                let mut viewer = server.subscribed(what);
                scope.spawn(move || {
                    says(&mut viewer);
                    assert_eq!(unanswered(&mut viewer), end(GIVEN_UP), "{what}");
                });
            }
        });
        server.counts("viewers", 0);
        server.counts("channels{state=\"open\"}", 0);
        assert_eq!(server.count("lost_viewers_total{reason=\"silent\"}"), 6);
    });
}

/// A quiet viewer is read by the same rules as any other.
#[test]
fn a_pong_against_the_protocol_is_closed_1002() {
    let long = |head: &[u8]| [head, &[1, 2, 3, 4], &[7; 130]].concat();
    let wrong = [
        ("not masked", b"\x8a\x02hi".to_vec()),
        ("not masked, without payload", b"\x8a\x00".to_vec()),
        ("126 bytes", frame(0x8A, &[7; 126])),
        ("126 bytes announced", long(&[0x8A, 0xFE, 0, 126])),
        ("2 bytes announced in the longer form", long(&[0x8A, 0xFE, 0, 2])),
        ("2 bytes announced in the longest form", long(&[0x8A, 0xFF, 0, 0, 0, 0, 0, 0, 0, 2])),
        ("in fragments", frame(0x0A, b"hi")),
        ("a reserved bit", frame(0xCA, b"hi")),
        ("not masked, after one that is", [frame(0x8A, b"hi"), b"\x8a\x02hi".to_vec()].concat()),
        ("after it a reserved opcode", [frame(0x8A, b"hi"), frame(0x8B, b"hi")].concat()),
    ];
    on_each_way(NO_PINGS, |server| {
        let mut viewers = server.quiet("job", wrong.len() + 1);
        let mut right = viewers.pop().expect("there is one more");
        for (viewer, (why, bytes)) in viewers.iter_mut().zip(&wrong) {
            viewer.send_raw(bytes);
            assert_eq!(viewer.next(), Event::Close(Some(1002)), "{why}");
        }
        server.tasks("job", 0, 10);
        right.texts(&texts(0, 10));
        for viewer in &mut viewers {
            viewer.send_close(1002);
            assert_eq!(viewer.next(), Event::Gone, "nothing follows a close");
        }
        server.counts("viewers", 1);
        assert_eq!(server.count("closed_viewers_total{code=\"1002\"}"), wrong.len() as u64);
    });
}

/// A ping goes to each at its own time, and an answer counts for the one that gave it.
#[test]
fn of_a_hundred_quiet_viewers_those_that_answer_stay() {
    let server = Server::tcp("clients: {ping_interval: 1.5, ping_timeout: 2}\n");
    let mut viewers: Vec<_> = (0..100).map(|_| server.subscribed("job")).collect();
    scope(|scope| {
        let threads: Vec<_> = viewers
            .iter_mut()
            .enumerate()
            .map(|(number, viewer)| {
                scope.spawn(move || {
                    if number % 2 == 0 {
                        viewer.texts(&[command("FINISHED")]);
                        viewer.closes(1000);
                    } else {
                        assert_eq!(unanswered(viewer), end(GIVEN_UP), "viewer {number}");
                    }
                })
            })
            .collect();
        server.counts("lost_viewers_total{reason=\"silent\"}", 50);
        server.counts("viewers", 50);
        server.broker.send(&["job", "FINISHED"]);
        for thread in threads {
            thread.join().expect("each gets what is due to it");
        }
    });
    server.counts("viewers", 0);
    assert_eq!(server.count("lost_viewers_total{reason=\"silent\"}"), 50);
    assert_eq!(server.count("closed_viewers_total{code=\"1000\"}"), 50);
}
