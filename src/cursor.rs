//! A viewer's place in its channel's run: an offset into the shared log.

use crate::channel::{Channel, End};
use crate::hub::Hub;
use crate::message::frame_length;
use std::io;
use std::sync::Arc;

/// The most bytes handed to one write, so that one viewer's long backlog does not hold up the others.
const WRITE_LIMIT: usize = 256 * 1024;

/// What one turn of a cursor came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Bytes were written.
    Wrote,
    /// Everything there is was written.
    CaughtUp,
    /// Nothing more will come.
    Ended(End),
}

/// How far a turn may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// As far as the log goes.
    All,
    /// To the end of the frame that is partly written, because a control frame waits.
    Frame,
}

/// A viewer's place in its channel's run. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Cursor {
    hub: Arc<Hub>,
    channel: Arc<Channel>,
    /// The next byte to write.
    offset: u64,
    /// Where the frame begins that `offset` is in.
    frame: u64,
}

impl Cursor {
    pub(crate) fn new(hub: Arc<Hub>, channel: Arc<Channel>, start: u64) -> Self {
        Self { hub, channel, offset: start, frame: start }
    }

    /// The channel this cursor reads.
    #[must_use]
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// Whether a frame is partly written, so that no other frame may be written now.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.offset > self.frame
    }

    /// Hands what follows the cursor to `write`, once, and moves on by the number of bytes it took.
    ///
    /// # Errors
    /// Those of `write`; the cursor then stays where it is.
    pub fn turn(&mut self, reach: Reach, write: impl FnOnce(&[u8]) -> io::Result<usize>) -> io::Result<Turn> {
        let log = self.channel.log();
        let Some(frames) = log.from(self.frame) else {
            return Ok(Turn::Ended(log.end.filter(|end| *end != End::Finished).unwrap_or(End::Behind)));
        };
        let done = usize::try_from(self.offset - self.frame).unwrap_or(usize::MAX);
        let mut pending = &frames[done..];
        if pending.is_empty() {
            return Ok(log.end.map_or(Turn::CaughtUp, Turn::Ended));
        }
        if reach == Reach::Frame {
            pending = &pending[..frame_length(frames) - done];
        }
        let written = write(&pending[..pending.len().min(WRITE_LIMIT)])?;
        self.offset += written as u64;
        let mut left = done + written;
        if left == frames.len() {
            self.frame = self.offset;
            return Ok(Turn::Wrote);
        }
        let mut rest = frames;
        while left >= frame_length(rest) {
            let length = frame_length(rest);
            (rest, left) = (&rest[length..], left - length);
            self.frame += length as u64;
        }
        Ok(Turn::Wrote)
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.hub.leave(&self.channel);
    }
}
