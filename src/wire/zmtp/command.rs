//! Commands: READY, PING, ERROR, and others, which are ignored.

use super::frame::COMMAND;
use super::handshake::check_ready;
use super::{MAX_PING_CONTEXT, Stage, Violation, quoted, short_string};

/// The length of a PING's time to live, which comes before its context, in bytes.
const PING_TTL: usize = 2;
const MAX_PING: usize = PING_TTL + MAX_PING_CONTEXT;

/// A command that is an event.
pub(super) enum Command {
    Ready,
    /// PING, and the index of its context in the command.
    Ping {
        context: usize,
    },
}

impl Command {
    /// Parses a command's body; returns `None` if it is to be ignored.
    pub(super) fn parse(body: &[u8], stage: Stage) -> Result<Option<Self>, Violation> {
        let (name, rest) = short_string(body).ok_or(Violation::BadCommand("unnamed"))?;
        match (name, stage) {
            (b"READY", Stage::Handshake) => check_ready(rest).map(|()| Some(Self::Ready)),
            (b"READY", _) => Err(Violation::SecondReady),
            (b"ERROR", _) => Err(Violation::PeerError(quoted(short_string(rest).map_or(rest, |(reason, _)| reason)))),
            (_, Stage::Handshake) => Err(Violation::ExpectedReady),
            (b"PING", _) => match rest.len() {
                PING_TTL..=MAX_PING => Ok(Some(Self::Ping { context: body.len() - rest.len() + PING_TTL })),
                _ => Err(Violation::BadCommand("PING")),
            },
            _ => Ok(None),
        }
    }
}

/// Returns the answer to a PING with this context.
pub(crate) fn pong(context: &[u8]) -> Vec<u8> {
    let length = u8::try_from(5 + context.len()).unwrap_or(u8::MAX);
    [&[COMMAND, length][..], b"\x04PONG", context].concat()
}
