//! The cases of Autobahn's test suite for servers, by its numbers, against a server that echoes nothing.
//!
//! Each case is sent whole, frame by frame and octet by octet, to a monitor that waits for the channel's id, and to one that
//! has it. What echoes prove there is proved here by the answers: the first message names the channel whose messages come;
//! later ones are ignored, and a ping behind them is answered. Where Autobahn's cases are longer than what a viewer may
//! send, the close by which the limit shows is what must come. Sections 12 and 13 are about compression, which the monitor
//! does not negotiate; section 9 is cut down to the limits.

use crate::common;

use std::collections::BTreeSet;

use common::viewer::frame;
use common::{Broker, Event, Monitor, Viewer, command, fence};

/// The expected result of a case.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    /// The connection goes on as before.
    Stays,
    /// The message was taken for the id of this channel.
    Watches(Vec<u8>),
    /// The monitor closes with this code.
    Closes(u16),
    /// The viewer's close is answered, by this code.
    Answers(Option<u16>),
}

use Outcome::{Answers, Closes, Stays};

fn watches(id: impl AsRef<[u8]>) -> Outcome {
    Outcome::Watches(id.as_ref().to_vec())
}

struct Case {
    number: String,
    frames: Vec<Vec<u8>>,
    pongs: Vec<Vec<u8>>,
    /// The expected results: at a monitor that waits for the channel's id, and at one that has it.
    outcomes: [Outcome; 2],
}

/// A case in which both monitors must do the same.
fn both(number: &str, frames: impl Into<Vec<Vec<u8>>>, outcome: Outcome) -> Case {
    case(number, frames, outcome.clone(), outcome)
}

fn case(number: &str, frames: impl Into<Vec<Vec<u8>>>, before: Outcome, after: Outcome) -> Case {
    Case { number: number.to_owned(), frames: frames.into(), pongs: Vec::new(), outcomes: [before, after] }
}

impl Case {
    /// These pings are in it. RFC 6455 wants the last one answered; the monitor leaves out others only if they are many.
    fn pongs(mut self, payloads: &[&[u8]]) -> Self {
        self.pongs = payloads.iter().map(|payload| payload.to_vec()).collect();
        self
    }
}

fn text(payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(0x81, payload.as_ref())
}

fn binary(payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(0x82, payload.as_ref())
}

fn ping(payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(0x89, payload.as_ref())
}

fn close(payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(0x88, payload.as_ref())
}

fn close_for(code: u16, reason: impl AsRef<[u8]>) -> Vec<u8> {
    close([&code.to_be_bytes(), reason.as_ref()].concat())
}

/// A text in fragments.
fn fragments<P: AsRef<[u8]>>(parts: &[P]) -> Vec<Vec<u8>> {
    let last = parts.len() - 1;
    let first = |index| u8::from(index == 0) | u8::from(index == last) << 7;
    parts.iter().enumerate().map(|(index, part)| frame(first(index), part.as_ref())).collect()
}

/// Longer cases are not sent octet by octet.
const LONG: usize = 100_000;

/// The sizes of the writes.
fn ways(case: &Case) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let whole = case.frames.concat();
    let mut ways = vec![("frame by frame", case.frames.clone())];
    if whole.len() <= LONG {
        ways.push(("octet by octet", whole.iter().map(|octet| vec![*octet]).collect()));
    }
    ways.push(("whole", vec![whole]));
    ways
}

/// Runs the cases of a section, and asserts that the monitor still serves other clients.
fn run(cases: &[Case]) {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let named = cases.iter().filter_map(|case| match &case.outcomes[0] {
        Outcome::Watches(id) => Some(id.as_slice()),
        _ => None,
    });
    for id in named.chain([b"job".as_slice()]).collect::<BTreeSet<_>>() {
        broker.send(&[id, b"STARTED"]);
    }
    fence(&monitor, &broker);
    for case in cases {
        for (way, writes) in ways(case) {
            for (subscribed, outcome) in [false, true].into_iter().zip(&case.outcomes) {
                let name = format!("case {}, {way}, subscribed: {subscribed}", case.number);
                let mut viewer = Viewer::upgraded(monitor.viewers);
                if subscribed {
                    viewer.send_text("job");
                    viewer.texts(&[command("STARTED")]);
                }
                // A case may go on when it has been decided.
                let _ = writes.iter().try_for_each(|bytes| viewer.try_send_raw(bytes));
                judge(&mut viewer, &name, case, subscribed, outcome);
            }
        }
    }
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    broker.send(&["job", "FINISHED"]);
    viewer.texts(&[command("STARTED"), command("FINISHED")]);
    viewer.closes(1000);
    assert_eq!(monitor.logged(&["panicked"]), [""; 0]);
}

/// Asserts that the result is the expected one.
fn judge(viewer: &mut Viewer, name: &str, case: &Case, subscribed: bool, outcome: &Outcome) {
    const LAST: &[u8] = b"still there?";
    let expected = match outcome {
        Closes(code) => Some(Event::Close(Some(*code))),
        Answers(code) => Some(Event::Close(*code)),
        Stays | Outcome::Watches(_) => None,
    };
    let mut events = Vec::new();
    if let Some(close) = expected {
        events = viewer.rest();
        assert_eq!(events.pop(), Some(close), "{name}, after {events:?}");
    } else {
        viewer.send_raw(&ping(LAST));
        let last = Event::Pong(LAST.to_vec());
        loop {
            let event = viewer.next();
            if event == last {
                break;
            }
            assert!(!matches!(event, Event::Gone | Event::Close(_)), "{name}: {event:?} after {events:?}");
            events.push(event);
        }
        if !subscribed && *outcome == Stays {
            viewer.send_text("job");
        }
    }
    let (texts, pongs): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| matches!(event, Event::Text(_)));
    let started = [Event::Text(command("STARTED"))];
    if !subscribed && matches!(outcome, Stays | Outcome::Watches(_)) {
        // Its first message may come behind the last pong.
        assert!(texts.is_empty() || texts == started, "{name}: {texts:?}");
        if texts.is_empty() {
            assert_eq!(viewer.text(), command("STARTED"), "{name}");
        }
    } else {
        // A close may overtake the messages of a channel that was named just before.
        assert!(texts.is_empty() || !subscribed && texts == started, "{name}: {texts:?}");
    }
    let answers = case.pongs.iter().map(|payload| Event::Pong(payload.clone()));
    assert_eq!(pongs, answers.collect::<Vec<_>>(), "{name}");
}

#[test]
fn section_1_framing() {
    let x = |length| "x".repeat(length);
    let mut cases = vec![case("1.1.1", [text("")], Closes(1008), Stays)];
    for (number, length) in [("1.1.2", 125), ("1.1.3", 126), ("1.1.4", 127), ("1.1.5", 128)] {
        cases.push(case(number, [text(x(length))], watches(x(length)), Stays));
    }
    // 1.1.8 and 1.2.8 are 1.1.7 and 1.2.7 in chops.
    for (number, length) in [("1.1.6", 65_535), ("1.1.7, 1.1.8", 65_536)] {
        cases.push(case(number, [text(x(length))], Closes(1008), Closes(1009)));
    }
    for (number, length) in [("1.2.1", 0), ("1.2.2", 125), ("1.2.3", 126), ("1.2.4", 127), ("1.2.5", 128)] {
        cases.push(case(number, [binary(x(length))], Closes(1003), Stays));
    }
    for (number, length) in [("1.2.6", 65_535), ("1.2.7, 1.2.8", 65_536)] {
        cases.push(case(number, [binary(x(length))], Closes(1008), Closes(1009)));
    }
    run(&cases);
}

#[test]
fn section_2_pings_and_pongs() {
    const OCTETS: &[u8] = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff";
    let ten: Vec<_> = (0..10).map(|number| format!("payload-{number}")).collect();
    let ten: Vec<&[u8]> = ten.iter().map(String::as_bytes).collect();
    run(&[
        both("2.1", [ping("")], Stays).pongs(&[b""]),
        both("2.2", [ping("Hello, world!")], Stays).pongs(&[b"Hello, world!"]),
        both("2.3", [ping(OCTETS)], Stays).pongs(&[OCTETS]),
        both("2.4, 2.6", [ping([0xFE; 125])], Stays).pongs(&[&[0xFE; 125]]),
        both("2.5", [ping([0xFE; 126])], Closes(1002)),
        both("2.7", [frame(0x8A, b"")], Stays),
        both("2.8", [frame(0x8A, b"unsolicited pong payload")], Stays),
        both("2.9", [frame(0x8A, b"unsolicited pong payload"), ping("ping payload")], Stays).pongs(&[b"ping payload"]),
        both("2.10, 2.11", ten.iter().map(ping).collect::<Vec<_>>(), Stays).pongs(&ten),
    ]);
}

#[test]
fn section_3_reserved_bits() {
    run(&[
        both("3.1", [frame(0x91, b"Hello")], Closes(1002)),
        both("3.2", [text("job"), frame(0xA1, b"Hello"), ping("")], Closes(1002)),
        both("3.3", [text("job"), frame(0xB1, b"Hello"), ping("")], Closes(1002)),
        both("3.4", [text("job"), frame(0xC1, b"Hello"), ping("")], Closes(1002)),
        both("3.5", [frame(0xD2, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff")], Closes(1002)),
        both("3.6", [frame(0xE9, b"Hello, world!")], Closes(1002)),
        both("3.7", [frame(0xF8, &1000_u16.to_be_bytes())], Closes(1002)),
    ]);
}

#[test]
fn section_4_opcodes() {
    run(&[
        both("4.1.1", [frame(0x83, b"")], Closes(1002)),
        both("4.1.2", [frame(0x84, b"reserved opcode payload")], Closes(1002)),
        both("4.1.3", [text("job"), frame(0x85, b""), ping("")], Closes(1002)),
        both("4.1.4", [text("job"), frame(0x86, b"Hello, world!"), ping("")], Closes(1002)),
        both("4.1.5", [text("job"), frame(0x87, b"Hello, world!"), ping("")], Closes(1002)),
        both("4.2.1", [frame(0x8B, b"")], Closes(1002)),
        both("4.2.2", [frame(0x8C, b"reserved opcode payload")], Closes(1002)),
        both("4.2.3", [text("job"), frame(0x8D, b""), ping("")], Closes(1002)),
        both("4.2.4", [text("job"), frame(0x8E, b"Hello, world!"), ping("")], Closes(1002)),
        both("4.2.5", [text("job"), frame(0x8F, b"Hello, world!"), ping("")], Closes(1002)),
    ]);
}

#[test]
fn section_5_fragmentation() {
    let two = || watches("fragment1fragment2");
    let [first, second] = [(0x01, b"fragment1"), (0x80, b"fragment2")].map(|(head, part)| frame(head, part));
    let five = ["fragment1", "fragment2", "fragment3", "fragment4", "fragment5"];
    let mut with_pings = fragments(&five);
    with_pings.insert(4, ping("pongme 2!"));
    with_pings.insert(2, ping("pongme 1!"));
    let nothing = |head| frame(head, b"non-continuation payload");
    let lonely = |head| [nothing(head), text("job")];
    let twice = |head| {
        let once = [nothing(head), frame(0x01, b"job"), frame(0x80, b"")];
        [once.clone(), once].concat()
    };
    run(&[
        both("5.1", [frame(0x09, b"fragment1"), second.clone()], Closes(1002)),
        both("5.2", [frame(0x0A, b"fragment1"), second.clone()], Closes(1002)),
        case("5.3, 5.4, 5.5", [first.clone(), second.clone()], two(), Stays),
        case("5.6, 5.7, 5.8", [first.clone(), ping("ping payload"), second.clone()], two(), Stays)
            .pongs(&[b"ping payload"]),
        both("5.9, 5.10, 5.11", lonely(0x80), Closes(1002)),
        both("5.12, 5.13, 5.14", lonely(0x00), Closes(1002)),
        both("5.15", [first.clone(), second, nothing(0x00), text("Hello, world!")], Closes(1002)),
        both("5.16", twice(0x00), Closes(1002)),
        both("5.17", twice(0x80), Closes(1002)),
        both("5.18", [first, frame(0x81, b"fragment2")], Closes(1002)),
        case("5.19, 5.20", with_pings, watches(five.concat()), Stays).pongs(&[b"pongme 1!", b"pongme 2!"]),
    ]);
}

/// 6.1 to 6.4, which are about where a text is cut.
#[test]
fn section_6_utf_8_in_fragments() {
    let hello = "Hello-µ@ßöäüàá-UTF-8!!".as_bytes();
    let (kosme, edited) = ("κόσμε".as_bytes(), b"edited".as_slice());
    let octets = |bytes: &[u8]| fragments(&bytes.chunks(1).collect::<Vec<_>>());
    let surrogate = [kosme, b"\xed\xa0\x80", edited].concat();
    let beyond = [kosme, b"\xf4\x90\x80\x80", edited].concat();
    // What is sent of 6.4.1 and 6.4.2 ends with the fragment that must fail.
    let open = |parts: &[&[u8]]| fragments(&[parts, &[b""]].concat())[..parts.len()].to_vec();
    run(&[
        case("6.1.1", [text("")], Closes(1008), Stays),
        case("6.1.2", fragments(&["", "", ""]), Closes(1008), Stays),
        case("6.1.3", fragments(&["", "middle frame payload", ""]), watches("middle frame payload"), Stays),
        case("6.2.1", [text(hello)], watches(hello), Stays),
        case("6.2.2", fragments(&["Hello-µ@ßöä", "üàá-UTF-8!!"]), watches(hello), Stays),
        case("6.2.3", octets(hello), watches(hello), Stays),
        case("6.2.4", octets(kosme), watches(kosme), Stays),
        both("6.3.1", [text(&surrogate)], Closes(1007)),
        both("6.3.2", octets(&surrogate), Closes(1007)),
        both("6.4.1", open(&[kosme, b"\xf4\x90\x80\x80"]), Closes(1007)),
        both("6.4.2", open(&[&[kosme, b"\xf4"].concat(), b"\x90"]), Closes(1007)),
        // NON-STRICT: inside a frame the monitor fails at the frame's end, not at once. A frame has at most 4 KiB.
        both("6.4.3, 6.4.4", [text(&beyond)], Closes(1007)),
    ]);
}

/// 6.5 to 6.23: whether they are valid, and the sequences, most of them from Markus Kuhn's decoder test.
#[rustfmt::skip]
const SEQUENCES: &[(&str, bool, &[&[u8]])] = &[
    ("6.5", true, &[b"hello\x24world", b"hello\xc2\xa2world", b"hello\xe2\x82\xacworld", b"hello\xf0\xa4\xad\xa2world",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"]),
    ("6.6, whole letters", true, &[b"\xce\xba", b"\xce\xba\xe1\xbd\xb9", b"\xce\xba\xe1\xbd\xb9\xcf\x83",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"]),
    ("6.6, cut letters", false, &[b"\xce", b"\xce\xba\xe1", b"\xce\xba\xe1\xbd", b"\xce\xba\xe1\xbd\xb9\xcf",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce"]),
    ("6.7", true, &[b"\x00", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"]),
    ("6.8", false, &[b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"]),
    ("6.9", true, &[b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"]),
    ("6.10", false, &[b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"]),
    ("6.11, valid", true, &[b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf"]),
    ("6.11, invalid", false, &[b"\xf4\x90\x80\x80"]),
    ("6.12", false, &[b"\x80", b"\xbf", b"\x80\xbf", b"\x80\xbf\x80", b"\x80\xbf\x80\xbf", b"\x80\xbf\x80\xbf\x80",
        b"\x80\xbf\x80\xbf\x80\xbf",
        b"\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\
          \x9e\x9f\xa0\xa1\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xab\xac\xad\xae\xaf\xb0\xb1\xb2\xb3\xb4\xb5\xb6\xb7\xb8\xb9\xba\xbb\
          \xbc\xbd\xbe"]),
    ("6.13", false, &[
        b"\xc0 \xc1 \xc2 \xc3 \xc4 \xc5 \xc6 \xc7 \xc8 \xc9 \xca \xcb \xcc \xcd \xce \xcf \xd0 \xd1 \xd2 \xd3 \xd4 \xd5 \xd6 \xd7 \
          \xd8 \xd9 \xda \xdb \xdc \xdd \xde ",
        b"\xe0 \xe1 \xe2 \xe3 \xe4 \xe5 \xe6 \xe7 \xe8 \xe9 \xea \xeb \xec \xed \xee ",
        b"\xf0 \xf1 \xf2 \xf3 \xf4 \xf5 \xf6 ", b"\xf8 \xf9 \xfa ", b"\xfc "]),
    ("6.14", false, &[b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xf8\x80\x80\x80", b"\xfc\x80\x80\x80\x80", b"\xdf",
        b"\xef\xbf", b"\xf7\xbf\xbf", b"\xfb\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf"]),
    ("6.15", false, &[b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80\
        \xdf\xef\xbf\xf7\xbf\xbf\xfb\xbf\xbf\xbf\xfd\xbf\xbf\xbf\xbf"]),
    ("6.16", false, &[b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"]),
    ("6.17", false, &[b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf",
        b"\xfc\x80\x80\x80\x80\xaf"]),
    ("6.18", false, &[b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf8\x87\xbf\xbf\xbf",
        b"\xfc\x83\xbf\xbf\xbf\xbf"]),
    ("6.19", false, &[b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xf8\x80\x80\x80\x80",
        b"\xfc\x80\x80\x80\x80\x80"]),
    ("6.20", false, &[b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xaf\xbf", b"\xed\xb0\x80",
        b"\xed\xbe\x80", b"\xed\xbf\xbf"]),
    ("6.21", false, &[b"\xed\xa0\x80\xed\xb0\x80", b"\xed\xa0\x80\xed\xbf\xbf", b"\xed\xad\xbf\xed\xb0\x80",
        b"\xed\xad\xbf\xed\xbf\xbf", b"\xed\xae\x80\xed\xb0\x80", b"\xed\xae\x80\xed\xbf\xbf",
        b"\xed\xaf\xbf\xed\xb0\x80", b"\xed\xaf\xbf\xed\xbf\xbf"]),
    ("6.22", true, &[b"\xef\xbf\xbe", b"\xef\xbf\xbf",
        b"\xf0\x9f\xbf\xbe", b"\xf0\x9f\xbf\xbf", b"\xf0\xaf\xbf\xbe", b"\xf0\xaf\xbf\xbf", b"\xf0\xbf\xbf\xbe",
        b"\xf0\xbf\xbf\xbf", b"\xf1\x8f\xbf\xbe", b"\xf1\x8f\xbf\xbf", b"\xf1\x9f\xbf\xbe", b"\xf1\x9f\xbf\xbf",
        b"\xf1\xaf\xbf\xbe", b"\xf1\xaf\xbf\xbf", b"\xf1\xbf\xbf\xbe", b"\xf1\xbf\xbf\xbf", b"\xf2\x8f\xbf\xbe",
        b"\xf2\x8f\xbf\xbf", b"\xf2\x9f\xbf\xbe", b"\xf2\x9f\xbf\xbf", b"\xf2\xaf\xbf\xbe", b"\xf2\xaf\xbf\xbf",
        b"\xf2\xbf\xbf\xbe", b"\xf2\xbf\xbf\xbf", b"\xf3\x8f\xbf\xbe", b"\xf3\x8f\xbf\xbf", b"\xf3\x9f\xbf\xbe",
        b"\xf3\x9f\xbf\xbf", b"\xf3\xaf\xbf\xbe", b"\xf3\xaf\xbf\xbf", b"\xf3\xbf\xbf\xbe", b"\xf3\xbf\xbf\xbf",
        b"\xf4\x8f\xbf\xbe", b"\xf4\x8f\xbf\xbf"]),
    ("6.23", true, &[b"\xef\xbf\xb9", b"\xef\xbf\xba", b"\xef\xbf\xbb", b"\xef\xbf\xbc", b"\xef\xbf\xbd",
        b"\xef\xbf\xbe", b"\xef\xbf\xbf"]),
];

#[test]
fn section_6_utf_8_sequences() {
    let mut cases = Vec::new();
    for (section, valid, sequences) in SEQUENCES {
        for sequence in *sequences {
            let number = format!("{section}: {sequence:02x?}");
            let octets = fragments(&sequence.chunks(1).collect::<Vec<_>>());
            for frames in [vec![text(sequence)], octets] {
                cases.push(if *valid {
                    case(&number, frames, watches(sequence), Stays)
                } else {
                    both(&number, frames, Closes(1007))
                });
            }
        }
    }
    run(&cases);
}

#[test]
fn section_7_closes() {
    let normal = || close_for(1000, "");
    let mut cases = vec![
        both("7.1.1", [text("job"), normal()], Answers(Some(1000))),
        both("7.1.2", [normal(), normal()], Answers(Some(1000))),
        both("7.1.3", [normal(), ping("")], Answers(Some(1000))),
        both("7.1.4", [normal(), text("Hello World!")], Answers(Some(1000))),
        both("7.1.5", [frame(0x01, b"fragment1"), normal(), frame(0x80, b"fragment2")], Answers(Some(1000))),
        case("7.1.6", [text("B".repeat(256 * 1024)), normal(), ping("")], Closes(1008), Closes(1009)),
        both("7.3.1", [close("")], Answers(None)),
        both("7.3.2", [close("a")], Closes(1002)),
        both("7.3.3", [normal()], Answers(Some(1000))),
        both("7.3.4", [close_for(1000, "Hello World!")], Answers(Some(1000))),
        both("7.3.5", [close_for(1000, [b'*'; 123])], Answers(Some(1000))),
        both("7.3.6", [close_for(1000, [b'*'; 124])], Closes(1002)),
        both("7.5.1", [close_for(1000, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80edited")], Closes(1007)),
    ];
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        cases.push(both(&format!("7.7, {code}"), [close_for(code, "")], Answers(Some(code))));
    }
    // Registered after Autobahn's lists.
    for code in [1012, 1013] {
        cases.push(both(&format!("7.7, {code}"), [close_for(code, "")], Answers(Some(code))));
    }
    // NON-STRICT: tungstenite does not know it; it is for gateways, which viewers are not.
    cases.push(both("7.7, 1014", [close_for(1014, "")], Closes(1002)));
    // 7.13 leaves it open what becomes of 5000 and above.
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push(both(&format!("7.9, 7.13, {code}"), [close_for(code, "")], Closes(1002)));
    }
    run(&cases);
}

/// Autobahn's messages of up to 16 MiB are over the limit of 4 KiB, at which this is done instead.
#[test]
fn section_9_limits() {
    let mut cases = vec![
        case("9.1, at the limit", [text([b'*'; 4096])], Closes(1008), Stays),
        case("9.1, over it", [text([b'*'; 4097])], Closes(1008), Closes(1009)),
        case("9.2, at the limit", [binary([0xFE; 4096])], Closes(1003), Stays),
        case("9.2, over it", [binary([0xFE; 4097])], Closes(1008), Closes(1009)),
        case(
            "9.3, over it, never ended",
            vec![frame(0x01, &[b'*'; 4096]), frame(0x00, b"*")],
            Closes(1008),
            Closes(1009),
        ),
    ];
    for size in [1, 64, 256, 1024, 4096] {
        let parts = vec!["*".repeat(size); 4096 / size];
        cases.push(case(&format!("9.3, at the limit by {size}"), fragments(&parts), Closes(1008), Stays));
        let over = [parts, vec!["*".to_owned()]].concat();
        cases.push(case(&format!("9.3, over it by {size}"), fragments(&over), Closes(1008), Closes(1009)));
    }
    for size in [0, 16, 64, 256, 1024, 4096] {
        let id = "*".repeat(size);
        let before = if (1..=256).contains(&size) { watches(&id) } else { Closes(1008) };
        cases.push(case(&format!("9.7, {size}"), vec![text(&id); 1000], before, Stays));
        cases.push(case(&format!("9.8, {size}"), vec![binary(&id); 1000], Closes(1003), Stays));
    }
    run(&cases);
}

#[test]
fn section_10_automatic_fragmentation() {
    let cut = |length| fragments(&"*".repeat(length).as_bytes().chunks(1300).collect::<Vec<_>>());
    run(&[
        case("10.1.1", cut(65_536), Closes(1008), Closes(1009)),
        case("10.1.1, as much as may be sent", cut(4096), Closes(1008), Stays),
    ]);
}
