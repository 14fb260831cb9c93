//! However a broker's bytes are split, the parser gives the same events and the same violation, within its limits.
//!
//! Input: the opening, how often the stream is repeated, how many pieces, their sizes, the stream.

#![no_main]

use libfuzzer_sys::fuzz_target;
use recodex_monitor::internals::wire::zmtp::{Event, MAX_MESSAGE, MAX_PARTS, Parser, Violation};

const GREETING: &[u8; 64] = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01NULL\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const MOST: usize = 256 * 1024;

#[derive(Debug, PartialEq)]
enum Seen {
    Ready,
    Ping(Vec<u8>),
    Message(Vec<Vec<u8>>),
}

fn parse(mut stream: &[u8], mut pieces: impl Iterator<Item = usize>) -> (Vec<Seen>, Option<Violation>) {
    let mut parser = Parser::default();
    let mut seen = Vec::new();
    while !stream.is_empty() {
        let space = parser.space();
        assert!((1..=2 * MAX_MESSAGE).contains(&space.len()));
        let size = pieces.next().unwrap_or(usize::MAX).max(1).min(stream.len()).min(space.len());
        space[..size].copy_from_slice(&stream[..size]);
        parser.received(size);
        stream = &stream[size..];
        loop {
            seen.push(match parser.event() {
                Ok(None) => break,
                Err(violation) => return (seen, Some(violation)),
                Ok(Some(Event::Ready)) => Seen::Ready,
                Ok(Some(Event::Ping(context))) => {
                    assert!(context.len() <= 16);
                    Seen::Ping(context.to_vec())
                }
                Ok(Some(Event::Message(parts))) => {
                    let parts: Vec<_> = parts.frames().collect();
                    assert!((1..=MAX_PARTS).contains(&parts.len()));
                    assert!(parts.iter().map(|part| part.len()).sum::<usize>() <= MAX_MESSAGE);
                    Seen::Message(parts.iter().map(|part| part.to_vec()).collect())
                }
            });
        }
    }
    (seen, None)
}

fuzz_target!(|input: &[u8]| {
    let [opening, repeat, count, rest @ ..] = input else { return };
    let (sizes, body) = rest.split_at(rest.len().min(usize::from(*count % 16)));
    let mut stream = Vec::new();
    if let Some(socket) = [&b"ROUTER"[..], b"DEALER"].get(usize::from(*opening)) {
        stream = [GREETING, &b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06"[..], socket].concat();
    }
    stream.extend(body.iter().cycle().take(body.len() * (1 + usize::from(*repeat))).take(MOST));
    let whole = parse(&stream, std::iter::empty());
    assert!(*opening > 1 || whole.0.first() == Some(&Seen::Ready));
    if !sizes.is_empty() {
        // Long streams in few pieces, short ones also byte by byte.
        let scale = 1 + stream.len() / 4096;
        assert_eq!(whole, parse(&stream, sizes.iter().cycle().map(|size| usize::from(*size) * scale)));
    }
    if stream.len() < 512 {
        assert_eq!(whole, parse(&stream, std::iter::repeat(1)));
    }
});
