//! The bytes of a ZMTP 3.x peer, parsed in place from one buffer (rfc.zeromq.org/spec/23 and 37).

use crate::wire::first_byte::ZMTP;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The length of a greeting in bytes.
pub const GREETING: usize = 64;
/// The end of the name of a security mechanism in a greeting, with the zeros that fill it up.
pub(crate) const MECHANISM_END: usize = 32;
/// The one security mechanism, as a greeting names it.
const MECHANISM: &[u8; 20] = b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// The longest frame, and the longest message over all its frames, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The most frames in a message.
pub const MAX_PARTS: usize = 16;
/// The longest command, in bytes.
pub const MAX_COMMAND: usize = 4 * 1024;
/// The longest context of a PING, in bytes.
pub const MAX_PING_CONTEXT: usize = 16;
/// The length of a PING's time to live, which comes before its context, in bytes.
const PING_TTL: usize = 2;
const MAX_PING: usize = PING_TTL + MAX_PING_CONTEXT;
/// The longest routing id, in bytes.
pub const MAX_IDENTITY: usize = 255;
/// The most of a peer's words that a violation keeps, in bytes: those of a security mechanism fit.
const MAX_TOLD: usize = 64;
/// The buffer: a message of the greatest size, its headers, commands in between, and room to read more at once.
pub const BUFFER: usize = 2 * MAX_MESSAGE;

/// A rule or a limit that a peer broke. Its link is closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Violation {
    /// The first bytes are none of ZMTP's.
    #[error("not ZeroMQ")]
    NotZmtp,
    /// A peer that speaks an older protocol.
    #[error("ZMTP version {0}, expected 3 or later (libzmq 4 or later)")]
    OldVersion(u8),
    /// A security mechanism other than NULL.
    #[error("security mechanism {0:?}, expected NULL")]
    Mechanism(String),
    /// The handshake's command is not READY.
    #[error("expected READY, got something else")]
    ExpectedReady,
    /// READY came twice.
    #[error("a second READY")]
    SecondReady,
    /// The peer reports an error of its own, for this reason.
    #[error("the peer sent ERROR {0:?}")]
    PeerError(String),
    /// A command whose fields do not add up.
    #[error("a malformed {0} command")]
    BadCommand(&'static str),
    /// READY without Socket-Type.
    #[error("READY without Socket-Type")]
    NoSocketType,
    /// A socket that is no broker's.
    #[error("Socket-Type {0:?}, expected ROUTER or DEALER")]
    SocketType(String),
    /// Flag bits that have no meaning.
    #[error("reserved bits in the flags of a frame ({0:#04x})")]
    ReservedFlags(u8),
    /// A frame over [`MAX_MESSAGE`].
    #[error("a frame of {0} bytes, more than {MAX_MESSAGE}")]
    LongFrame(u64),
    /// A command over [`MAX_COMMAND`].
    #[error("a command of {0} bytes, more than {MAX_COMMAND}")]
    LongCommand(u64),
    /// A message over [`MAX_MESSAGE`], the commands in between counted.
    #[error("a message of more than {MAX_MESSAGE} bytes")]
    LongMessage,
    /// A message of more than [`MAX_PARTS`] frames.
    #[error("a message of more than {MAX_PARTS} frames")]
    ManyParts,
}

/// What a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message.
    Message(Parts<'a>),
    /// READY; the peer may send messages from now on.
    Ready,
    /// PING with its context, to be answered by PONG.
    Ping(&'a [u8]),
}

/// The frames of a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    message: &'a [u8],
    /// Where each frame begins and ends in it.
    frames: &'a [(usize, usize)],
}

impl<'a> Parts<'a> {
    /// The frames in their order.
    pub fn frames(&self) -> impl Iterator<Item = &'a [u8]> {
        let message = self.message;
        self.frames.iter().map(move |&(start, end)| &message[start..end])
    }
}

/// Takes bytes as they come, gives events. The same bytes give the same events, however they are split.
#[derive(Debug)]
pub struct Parser {
    buffer: Box<[u8]>,
    /// The end of what was received.
    filled: usize,
    /// Where the message begins whose frames are being collected.
    start: usize,
    /// The next byte to parse.
    next: usize,
    /// The frames collected, relative to `start`.
    parts: [(usize, usize); MAX_PARTS],
    count: usize,
    /// The bytes in the frames collected.
    size: usize,
    stage: Stage,
}

/// How far a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Its greeting is not whole.
    Greeting,
    /// READY is expected.
    Handshake,
    /// Messages and commands may come.
    Traffic,
}

impl Default for Parser {
    fn default() -> Self {
        Self {
            buffer: vec![0; BUFFER].into_boxed_slice(),
            filled: 0,
            start: 0,
            next: 0,
            parts: [(0, 0); MAX_PARTS],
            count: 0,
            size: 0,
            stage: Stage::Greeting,
        }
    }
}

impl Parser {
    /// One that goes on where another was, with what that one had received and not parsed.
    ///
    /// # Panics
    /// If `unparsed` is longer than [`BUFFER`].
    #[must_use]
    pub fn resume(stage: Stage, unparsed: &[u8]) -> Self {
        assert!(unparsed.len() <= BUFFER);
        let mut parser = Self { stage, ..Self::default() };
        parser.buffer[..unparsed.len()].copy_from_slice(unparsed);
        parser.filled = unparsed.len();
        parser
    }

    /// How far the peer is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// What was received and belongs to no event yet. A command between the frames of a message is in it, too.
    #[must_use]
    pub fn unparsed(&self) -> &[u8] {
        &self.buffer[self.start..self.filled]
    }

    /// Where to put received bytes; never empty. Call [`Parser::received`] and then [`Parser::event`] until it gives nothing.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.filled {
            (self.start, self.next, self.filled) = (0, 0, 0);
        } else if self.buffer.len() - self.filled < MAX_MESSAGE / 2 {
            self.buffer.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.next -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.filled..]
    }

    /// Takes note of `count` bytes put into [`Parser::space`].
    pub fn received(&mut self, count: usize) {
        self.filled += count;
    }

    /// The next event, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// See [`Violation`]; the parser is of no use afterwards.
    pub fn event(&mut self) -> Result<Option<Event<'_>>, Violation> {
        if self.stage == Stage::Greeting && !self.greeting()? {
            return Ok(None);
        }
        loop {
            let Some(frame) = self.frame()? else { return Ok(None) };
            let body = frame.start..frame.end;
            if frame.command {
                let between = self.count > 0;
                self.next = frame.end;
                if !between {
                    self.start = frame.end;
                }
                match command(&self.buffer[body], self.stage)? {
                    Some(Command::Ready) => {
                        self.stage = Stage::Traffic;
                        return Ok(Some(Event::Ready));
                    }
                    Some(Command::Ping { context }) => {
                        let context = frame.start + context..frame.end;
                        return Ok(Some(Event::Ping(&self.buffer[context])));
                    }
                    None => continue,
                }
            }
            self.parts[self.count] = (frame.start - self.start, frame.end - self.start);
            self.count += 1;
            self.size += frame.end - frame.start;
            self.next = frame.end;
            if !frame.more {
                return Ok(Some(Event::Message(self.message())));
            }
        }
    }

    /// Whether the last read took all the space it had, so that more is probably waiting.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.filled == self.buffer.len()
    }

    /// Whether bytes of an unfinished message or command are waiting.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.filled > self.start
    }

    fn message(&mut self) -> Parts<'_> {
        let parts = Parts { message: &self.buffer[self.start..self.next], frames: &self.parts[..self.count] };
        (self.start, self.count, self.size) = (self.next, 0, 0);
        parts
    }

    /// Takes the greeting; false if it is not whole. What is wrong is told as early as it is seen.
    fn greeting(&mut self) -> Result<bool, Violation> {
        let bytes = &self.buffer[..self.filled.min(GREETING)];
        if bytes.first().is_some_and(|first| *first != ZMTP) || bytes.get(9).is_some_and(|last| last & 1 == 0) {
            return Err(Violation::NotZmtp);
        }
        if let Some(&version) = bytes.get(10).filter(|version| **version < 3) {
            return Err(Violation::OldVersion(version));
        }
        let Some(mechanism) = bytes.get(12..MECHANISM_END) else { return Ok(false) };
        if mechanism != MECHANISM {
            let end = mechanism.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
            return Err(Violation::Mechanism(told(&mechanism[..end])));
        }
        if bytes.len() < GREETING {
            return Ok(false);
        }
        (self.start, self.next, self.stage) = (GREETING, GREETING, Stage::Handshake);
        Ok(true)
    }

    /// The frame at `next`, or `None` if it is not whole. Its limits are checked as soon as its header is there.
    fn frame(&self) -> Result<Option<Frame>, Violation> {
        const MORE: u8 = 1;
        const LONG: u8 = 2;
        const COMMAND: u8 = 4;
        let bytes = &self.buffer[self.next..self.filled];
        let Some(&flags) = bytes.first() else { return Ok(None) };
        let command = flags & COMMAND != 0;
        if flags & !(MORE | LONG | COMMAND) != 0 || (command && flags & MORE != 0) {
            return Err(Violation::ReservedFlags(flags));
        }
        if !command && self.stage == Stage::Handshake {
            return Err(Violation::ExpectedReady);
        }
        let (header, size) = if flags & LONG == 0 {
            let Some(&size) = bytes.get(1) else { return Ok(None) };
            (2, u64::from(size))
        } else {
            let Some(size) = bytes.get(1..9) else { return Ok(None) };
            (9, u64::from_be_bytes([size[0], size[1], size[2], size[3], size[4], size[5], size[6], size[7]]))
        };
        let limit = if command { MAX_COMMAND } else { MAX_MESSAGE };
        let size = match usize::try_from(size) {
            Ok(size) if size <= limit => size,
            _ if command => return Err(Violation::LongCommand(size)),
            _ => return Err(Violation::LongFrame(size)),
        };
        if !command && self.count == MAX_PARTS {
            return Err(Violation::ManyParts);
        }
        let start = self.next + header;
        if (!command && self.size + size > MAX_MESSAGE) || start + size - self.start > BUFFER - MAX_MESSAGE / 2 {
            return Err(Violation::LongMessage);
        }
        let end = start + size;
        Ok((end <= self.filled).then_some(Frame { start, end, more: flags & MORE != 0, command }))
    }
}

struct Frame {
    start: usize,
    end: usize,
    more: bool,
    command: bool,
}

enum Command {
    Ready,
    /// The context begins at this byte of the command.
    Ping {
        context: usize,
    },
}

/// Judges a command; `None` is one to be ignored.
fn command(body: &[u8], stage: Stage) -> Result<Option<Command>, Violation> {
    let (name, rest) = short_string(body).ok_or(Violation::BadCommand("unnamed"))?;
    match (name, stage) {
        (b"READY", Stage::Handshake) => ready(rest).map(|()| Some(Command::Ready)),
        (b"READY", _) => Err(Violation::SecondReady),
        (b"ERROR", _) => Err(Violation::PeerError(told(short_string(rest).map_or(rest, |(reason, _)| reason)))),
        (_, Stage::Handshake) => Err(Violation::ExpectedReady),
        (b"PING", _) => match rest.len() {
            PING_TTL..=MAX_PING => Ok(Some(Command::Ping { context: body.len() - rest.len() + PING_TTL })),
            _ => Err(Violation::BadCommand("PING")),
        },
        _ => Ok(None),
    }
}

/// Checks READY's properties: a socket that is a broker's, and a routing id that is none of ours to refuse.
fn ready(mut properties: &[u8]) -> Result<(), Violation> {
    const BAD: Violation = Violation::BadCommand("READY");
    let mut socket = None;
    while !properties.is_empty() {
        let (name, rest) = short_string(properties).ok_or(BAD)?;
        let (length, rest) = rest.split_first_chunk().ok_or(BAD)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| BAD)?;
        let (value, rest) = rest.split_at_checked(length).ok_or(BAD)?;
        if name.is_empty() || !name.is_ascii() {
            return Err(BAD);
        }
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            socket = Some(value);
        } else if name.eq_ignore_ascii_case(b"Identity") && value.len() > MAX_IDENTITY {
            return Err(BAD);
        }
        properties = rest;
    }
    match socket.ok_or(Violation::NoSocketType)? {
        b"ROUTER" | b"DEALER" => Ok(()),
        other => Err(Violation::SocketType(told(other))),
    }
}

/// What a peer says of itself, as text; of a long one the beginning. It is to be escaped.
fn told(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TOLD)]).into_owned()
}

/// A string whose first byte is its length, and what follows it.
fn short_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(length))
}

#[cfg(test)]
mod tests {
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
            violation(&after_handshake(
                &[&[4, 6 + u8::try_from(data.len()).unwrap()], &b"\x05ERROR"[..], data].concat(),
            ))
        };
        assert_eq!(reason(b"\x04why\n"), Some(Violation::PeerError("why\n".into())));
        assert_eq!(reason(b"\xffwhy"), Some(Violation::PeerError("\u{fffd}why".into())));
        assert_eq!(reason(&[b'x'; 200]), Some(Violation::PeerError("x".repeat(MAX_TOLD))));
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
}
