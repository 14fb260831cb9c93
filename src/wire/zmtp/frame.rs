//! The header of a frame: its flags, and the length of its body.

use super::{MAX_COMMAND, MAX_MESSAGE, Violation};

const MORE: u8 = 1;
const LONG: u8 = 2;
/// The flags of a short command.
pub(super) const COMMAND: u8 = 4;

/// The flags of a frame.
#[derive(Clone, Copy)]
pub(super) struct Flags {
    /// The frame is a command, not a part of a message.
    pub(super) command: bool,
    /// Another frame of the message follows.
    pub(super) more: bool,
    long: bool,
}

impl Flags {
    pub(super) fn parse(flags: u8) -> Result<Self, Violation> {
        let (command, more, long) = (flags & COMMAND != 0, flags & MORE != 0, flags & LONG != 0);
        if flags & !(MORE | LONG | COMMAND) != 0 || (command && more) {
            return Err(Violation::ReservedFlags(flags));
        }
        Ok(Self { command, more, long })
    }

    /// Returns the length of the header and of the body, or `None` if the header is not whole. The body's length is within the limits.
    pub(super) fn lengths(self, frame: &[u8]) -> Result<Option<(usize, usize)>, Violation> {
        let (header, body) = if self.long {
            let Some(length) = frame.get(1..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
            (9, u64::from_be_bytes(*length))
        } else {
            let Some(&length) = frame.get(1) else { return Ok(None) };
            (2, u64::from(length))
        };
        let limit = if self.command { MAX_COMMAND } else { MAX_MESSAGE };
        match usize::try_from(body) {
            Ok(body) if body <= limit => Ok(Some((header, body))),
            _ if self.command => Err(Violation::LongCommand(body)),
            _ => Err(Violation::LongFrame(body)),
        }
    }
}
