//! ZMTP 3.x (rfc.zeromq.org/spec/23 and 37), as far as a broker and the monitor speak it: limits, violations, events.

mod command;
mod frame;
mod handshake;
mod parser;
#[cfg(test)]
mod tests;

pub(crate) use command::pong;
pub(crate) use handshake::{MECHANISM_END, opening};
pub use parser::Parser;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The length of a greeting in bytes.
pub(crate) const GREETING: usize = 64;
/// The longest frame, and the longest message over all its frames, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The most frames in a message.
pub const MAX_PARTS: usize = 16;
/// The longest command, in bytes.
pub const MAX_COMMAND: usize = 4 * 1024;
/// The longest context of a PING, in bytes.
pub const MAX_PING_CONTEXT: usize = 16;
/// The longest routing id, in bytes.
pub const MAX_IDENTITY: usize = 255;
/// The length of a parser's buffer: a message of the greatest size, its frames' headers, commands in between, and room to read more at
/// once.
pub(crate) const BUFFER: usize = 2 * MAX_MESSAGE;
/// The most bytes of a peer's text that a violation keeps; the name of a security mechanism fits.
const MAX_QUOTED: usize = 64;

/// A rule or a limit that a peer broke. Its link is closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Violation {
    /// The first bytes are not those of ZMTP.
    #[error("not ZeroMQ")]
    NotZmtp,
    /// The peer speaks an older version of the protocol.
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
    /// A command whose lengths do not fit its bytes.
    #[error("a malformed {0} command")]
    BadCommand(&'static str),
    /// READY without Socket-Type.
    #[error("READY without Socket-Type")]
    NoSocketType,
    /// A socket of a type that brokers do not have.
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
    /// A message over [`MAX_MESSAGE`], with the commands between its frames.
    #[error("a message of more than {MAX_MESSAGE} bytes")]
    LongMessage,
    /// A message of more than [`MAX_PARTS`] frames.
    #[error("a message of more than {MAX_PARTS} frames")]
    ManyParts,
}

/// A message or command that a peer sent.
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
    /// The begin and the end of each frame in `message`.
    frames: &'a [(usize, usize)],
}

impl<'a> Parts<'a> {
    /// Returns the frames in their order.
    pub fn frames(&self) -> impl Iterator<Item = &'a [u8]> {
        let message = self.message;
        self.frames.iter().map(move |&(start, end)| &message[start..end])
    }
}

/// The stage of a link. The handover writes it: the order of the variants must not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The peer's greeting is not whole.
    Greeting,
    /// READY is expected.
    Handshake,
    /// Messages and commands may come.
    Traffic,
}

/// Returns a peer's text, cut to [`MAX_QUOTED`] bytes and not escaped.
fn quoted(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_QUOTED)]).into_owned()
}

/// Splits off a string whose first byte is its length.
fn short_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(length))
}
