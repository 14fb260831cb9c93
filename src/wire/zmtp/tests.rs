//! Tests of the parser by the bytes of whole connections.

use super::*;
use proptest::prelude::*;

const READY: &[u8] = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER";

fn greeting() -> Vec<u8> {
    let mut bytes = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1];
    bytes.extend_from_slice(b"NULL");
    bytes.resize(GREETING, 0);
    bytes
}

fn after_handshake(rest: &[u8]) -> Vec<u8> {
    [&greeting(), READY, rest].concat()
}

/// Feeds `bytes` in pieces of the given sizes, in turn, and describes every event.
fn parse(bytes: &[u8], pieces: &[usize]) -> (Vec<String>, Option<Violation>) {
    let mut parser = Parser::default();
    let mut seen = Vec::new();
    let (mut bytes, mut pieces) = (bytes, pieces.iter().cycle());
    while !bytes.is_empty() {
        let space = parser.space();
        assert!(space.len() >= MAX_MESSAGE / 2);
        let size = (*pieces.next().unwrap()).clamp(1, bytes.len()).min(space.len());
        space[..size].copy_from_slice(&bytes[..size]);
        parser.received(size);
        bytes = &bytes[size..];
        loop {
            match parser.event() {
                Ok(Some(Event::Message(parts))) => seen.push(format!("{:x?}", parts.frames().collect::<Vec<_>>())),
                Ok(Some(other)) => seen.push(format!("{other:?}")),
                Ok(None) => break,
                Err(violation) => return (seen, Some(violation)),
            }
        }
    }
    (seen, None)
}

fn violation(bytes: &[u8]) -> Option<Violation> {
    let whole = parse(bytes, &[usize::MAX]);
    assert_eq!(parse(bytes, &[1]).1, whole.1);
    whole.1
}

fn ready(properties: &[u8]) -> Option<Violation> {
    let length = u8::try_from(6 + properties.len()).unwrap();
    violation(&[&greeting(), &[4, length][..], b"\x05READY", properties].concat())
}

#[test]
fn a_message_a_ping_between_its_frames_and_an_empty_frame() {
    let ping = b"\x04\x07\x04PING\0\x0a";
    let long = b"\x02\0\0\0\0\0\0\0\x01x";
    let bytes = after_handshake(&[&b"\x01\x03job"[..], ping, b"\x01\0", long].concat());
    let (seen, violation) = parse(&bytes, &[usize::MAX]);
    assert_eq!(violation, None);
    assert_eq!(seen, ["Ready", "Ping([])", "[[6a, 6f, 62], [], [78]]"]);
}

#[test]
fn greetings_are_judged_at_the_first_wrong_byte() {
    assert_eq!(violation(b"GET / HTTP/1.1\r\n\r\n"), Some(Violation::NotZmtp));
    assert_eq!(violation(b"\x01\0"), Some(Violation::NotZmtp));
    assert_eq!(violation(b"\xff\0\0\0\0\0\0\0\x01\x00"), Some(Violation::NotZmtp));
    assert_eq!(violation(b"\xff\0\0\0\0\0\0\0\x01\x7f\x01"), Some(Violation::OldVersion(1)));
    let mut curve = greeting();
    curve[12..17].copy_from_slice(b"CURVE");
    assert_eq!(violation(&curve), Some(Violation::Mechanism("CURVE".into())));
    let mut longer = greeting();
    longer[16] = b'S';
    assert_eq!(violation(&longer), Some(Violation::Mechanism("NULLS".into())));
    let mut padded = greeting();
    padded[31] = b'S';
    assert_eq!(violation(&padded), Some(Violation::Mechanism(format!("NULL{}S", "\0".repeat(15)))));
    let mut none = greeting();
    none[12..16].fill(0);
    assert_eq!(violation(&none), Some(Violation::Mechanism(String::new())));
    let mut newer = greeting();
    newer[10] = 4;
    assert_eq!(violation(&newer), None);
    assert_eq!(violation(&greeting()[..63]), None);
}

#[test]
fn ready_needs_a_brokers_socket_type_and_whole_properties() {
    assert_eq!(ready(b"\x0bSocket-Type\0\0\0\x06ROUTER"), None);
    assert_eq!(ready(b"\x0bsocket-type\0\0\0\x06DEALER\x08Identity\0\0\0\x02ab\x01x\0\0\0\0"), None);
    assert_eq!(ready(b""), Some(Violation::NoSocketType));
    assert_eq!(ready(b"\x0bSocket-Type\0\0\0\x03SUB"), Some(Violation::SocketType("SUB".into())));
    for bad in [
        &b"\x0bSocket-Type\0\0\0\x07ROUTER"[..],
        b"\x0bSocket-Type\0\0",
        b"\x0bSock",
        b"\x00\0\0\0\0",
        b"\x01\xff\0\0\0\0",
        b"\x0bSocket-Type\xff\xff\xff\xffROUTER",
    ] {
        assert_eq!(ready(bad), Some(Violation::BadCommand("READY")), "{bad:?}");
    }
    let named = |length: u16| {
        let [high, low] = length.to_be_bytes();
        let id = [b"\x08Identity\0\0", &[high, low][..], &vec![b'i'; usize::from(length)]].concat();
        let body = [b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER".as_slice(), &id].concat();
        violation(&[&greeting()[..], &[6], &(body.len() as u64).to_be_bytes(), &body].concat())
    };
    assert_eq!((named(255), named(256)), (None, Some(Violation::BadCommand("READY"))));
}

#[test]
fn what_is_out_of_turn_or_without_meaning() {
    assert_eq!(violation(&[&greeting(), b"\0\x01x".as_slice()].concat()), Some(Violation::ExpectedReady));
    assert_eq!(violation(&[&greeting(), b"\x04\x05\x04PING".as_slice()].concat()), Some(Violation::ExpectedReady));
    assert_eq!(violation(&after_handshake(READY)), Some(Violation::SecondReady));
    assert_eq!(violation(&after_handshake(b"\x04\x07\x05ERROR\0")), Some(Violation::PeerError(String::new())));
    let reason = |data: &[u8]| {
        violation(&after_handshake(&[&[4, 6 + u8::try_from(data.len()).unwrap()], &b"\x05ERROR"[..], data].concat()))
    };
    assert_eq!(reason(b"\x04why\n"), Some(Violation::PeerError("why\n".into())));
    assert_eq!(reason(b"\xffwhy"), Some(Violation::PeerError("\u{fffd}why".into())));
    assert_eq!(reason(&[b'x'; 200]), Some(Violation::PeerError("x".repeat(MAX_QUOTED))));
    assert_eq!(Violation::PeerError("why\n".into()).to_string(), r#"the peer sent ERROR "why\n""#);
    assert_eq!(violation(&after_handshake(b"\x04\x06\x04PING\0")), Some(Violation::BadCommand("PING")));
    assert_eq!(violation(&after_handshake(b"\x04\x00")), Some(Violation::BadCommand("unnamed")));
    assert_eq!(violation(&after_handshake(b"\x04\x05\x04WHAT")), None);
    for flags in [0x08, 0x10, 0x80, 0x05, 0x07] {
        assert_eq!(violation(&after_handshake(&[flags])), Some(Violation::ReservedFlags(flags)));
    }
}

#[test]
fn a_ping_context_is_at_most_16_bytes() {
    let ping = |context: usize| {
        let length = u8::try_from(7 + context).unwrap();
        after_handshake(&[&[4, length][..], b"\x04PING\0\0", &vec![7; context]].concat())
    };
    assert_eq!(parse(&ping(16), &[usize::MAX]).0[1], format!("Ping({:?})", [7; 16]));
    assert_eq!(violation(&ping(17)), Some(Violation::BadCommand("PING")));
}

#[test]
fn announced_lengths_are_refused_before_their_bytes_come() {
    for length in [MAX_MESSAGE as u64 + 1, 1 << 30, 1 << 36, 1 << 63, u64::MAX] {
        let header = |flags: u8| [&[flags], length.to_be_bytes().as_slice()].concat();
        assert_eq!(violation(&after_handshake(&header(2))), Some(Violation::LongFrame(length)));
        assert_eq!(violation(&after_handshake(&header(6))), Some(Violation::LongCommand(length)));
        assert_eq!(violation(&[greeting(), header(6)].concat()), Some(Violation::LongCommand(length)));
    }
}

#[test]
fn each_limit_holds_at_its_value_and_breaks_one_past_it() {
    assert_eq!((MAX_MESSAGE, MAX_PARTS, MAX_COMMAND, MAX_PING_CONTEXT, MAX_IDENTITY), (65_536, 16, 4096, 16, 255));
    let frame = |more: u8, size: usize| [&[more | 2][..], &(size as u64).to_be_bytes(), &vec![b'x'; size]].concat();
    assert_eq!(violation(&after_handshake(&frame(0, MAX_MESSAGE))), None);
    let two = |second| after_handshake(&[frame(1, MAX_MESSAGE - 1), frame(0, second)].concat());
    assert_eq!(violation(&two(1)), None);
    assert_eq!(violation(&two(2)), Some(Violation::LongMessage));
    let parts = |count: usize| after_handshake(&[b"\x01\0".repeat(count - 1), b"\0\0".to_vec()].concat());
    assert_eq!(violation(&parts(MAX_PARTS)), None);
    assert_eq!(violation(&parts(MAX_PARTS + 1)), Some(Violation::ManyParts));
    let command = |size: usize| {
        let body = [b"\x04WHAT".to_vec(), vec![0; size - 5]].concat();
        after_handshake(&[&[6][..], &(size as u64).to_be_bytes(), &body].concat())
    };
    assert_eq!(violation(&command(MAX_COMMAND)), None);
    assert_eq!(violation(&command(MAX_COMMAND + 1)), Some(Violation::LongCommand(MAX_COMMAND as u64 + 1)));
    let pings = [b"\x01\x01x".to_vec(), b"\x04\x07\x04PING\0\0".repeat(20_000)].concat();
    assert_eq!(violation(&after_handshake(&pings)), Some(Violation::LongMessage));
}

/// Several times what the buffer holds, so that what is unfinished is moved to its beginning again and again.
#[test]
fn long_messages_in_pieces_of_any_size_are_whole() {
    let part = |number: usize, length| vec![u8::try_from(number % 251).unwrap(); length];
    let (mut stream, mut expected) = (Vec::new(), vec!["Ready".to_owned()]);
    for number in 0..16 {
        let parts = [part(number, 10), part(number, 1 + 4000 * number), part(number, 0)];
        for (index, part) in parts.iter().enumerate() {
            stream.extend([u8::from(index < 2) | 2].into_iter().chain((part.len() as u64).to_be_bytes()));
            stream.extend(part);
        }
        expected.push(format!("{parts:x?}"));
    }
    for pieces in [&[usize::MAX][..], &[40_000], &[7919], &[1, 65_536, 3], &[32_768, 9]] {
        assert_eq!(parse(&after_handshake(&stream), pieces), (expected.clone(), None), "{pieces:?}");
    }
}

#[test]
fn it_knows_whether_more_is_likely_and_whether_a_message_is_unfinished() {
    let mut parser = Parser::default();
    let mut feed = |bytes: &[u8]| {
        parser.space()[..bytes.len()].copy_from_slice(bytes);
        parser.received(bytes.len());
        while parser.event().unwrap().is_some() {}
        (parser.is_full(), parser.is_mid_message())
    };
    assert_eq!(feed(&after_handshake(b"")), (false, false));
    assert_eq!(feed(b"\x01\x01x"), (false, true));
    assert_eq!(feed(b"\x04\x07\x04PING\0\0"), (false, true));
    assert_eq!(feed(b"\0\0"), (false, false));
    assert_eq!(feed(b"\x04\x07\x04PING\0\0"), (false, false));
    assert_eq!(feed(b"\x04\x07\x04PIN"), (false, true));
    assert_eq!(feed(b"G\0\0"), (false, false));
    assert_eq!(feed(&b"\0\0".repeat(BUFFER / 2)), (true, false));
}

proptest! {
    #[test]
    fn however_the_bytes_are_split_the_events_are_the_same(
        messages in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 1..6), 0..60),
        noise in prop::collection::vec(any::<u8>(), 0..40),
        pieces in prop::collection::vec(1usize..3000, 1..40),
    ) {
        let mut bytes = after_handshake(b"");
        for message in &messages {
            for (i, part) in message.iter().enumerate() {
                let more = u8::from(i + 1 < message.len());
                if part.len() < 256 && part.first() != Some(&0) {
                    bytes.extend([more, u8::try_from(part.len()).unwrap()]);
                } else {
                    bytes.push(more | 2);
                    bytes.extend((part.len() as u64).to_be_bytes());
                }
                bytes.extend(part);
            }
        }
        let (seen, violation) = parse(&bytes, &pieces);
        prop_assert_eq!(violation, None);
        let expected: Vec<String> = messages.iter().map(|parts| format!("{parts:x?}")).collect();
        prop_assert_eq!(&seen[1..], &expected[..]);
        bytes.extend(noise);
        prop_assert_eq!(parse(&bytes, &pieces), parse(&bytes, &[usize::MAX]));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        parse(&bytes, &[7]);
        parse(&after_handshake(&bytes), &[7]);
    }
}
