//! A viewer's position in its channel's run: an offset into the shared log.

use crate::hub::Hub;
use crate::wire::close::End;
use crate::wire::ws_frame::frame_length;
use std::io;
use std::sync::Arc;
use tokio::sync::Notify;

/// The most bytes handed to one write, so that one viewer's long backlog does not hold up the others.
pub(super) const WRITE_LIMIT: usize = 256 * 1024;

/// The outcome of one turn of a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Bytes were written.
    Wrote,
    /// There is nothing to write now.
    CaughtUp,
    /// Nothing more will come.
    Ended(End),
}

/// A viewer's position in its channel's run. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Cursor {
    hub: Arc<Hub>,
    /// The run's slot in the hub.
    slot: usize,
    changed: Arc<Notify>,
    /// The offset of the next frame to write.
    offset: u64,
    /// The rest of the frame before it, if that was written in part; the log may drop the frame.
    rest: Vec<u8>,
    /// True once the viewer has got everything there was; later messages are live.
    live: bool,
}

impl Cursor {
    /// Creates a cursor that goes on with `rest`, and then at `offset`.
    pub(super) fn new(hub: Arc<Hub>, slot: usize, changed: Arc<Notify>, offset: u64, rest: Vec<u8>) -> Self {
        Self { hub, slot, changed, offset, rest, live: false }
    }

    /// Notes that the viewer has got everything that was there at one time: what follows is live.
    pub(super) fn set_live(&mut self) {
        self.live = true;
    }

    /// Returns true if the viewer has got everything and more can come.
    #[must_use]
    pub(crate) fn is_caught_up(&self) -> bool {
        self.rest.is_empty()
            && self.hub.read(self.slot, |run| run.end.is_none() && run.bytes_from(self.offset) == Some(&[]))
    }

    /// Returns the notification of more messages, or of the end.
    #[must_use]
    pub fn changed(&self) -> &Arc<Notify> {
        &self.changed
    }

    /// Returns the run's slot in the hub.
    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    /// Returns the run's slot in the hub, the offset of the next frame in it, and the rest of the frame before.
    #[must_use]
    pub fn position(&self) -> (usize, u64, &[u8]) {
        (self.slot, self.offset, &self.rest)
    }

    /// Returns true if its run is in this hub.
    #[cfg(test)]
    pub(super) fn is_of(&self, hub: &Arc<Hub>) -> bool {
        Arc::ptr_eq(&self.hub, hub)
    }

    /// Returns the end for its viewer after [`Cursor::rest`], or `None` if more can come.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.hub.read(self.slot, |run| run.end_at(self.offset))
    }

    /// Returns the rest of a frame that was written in part. It must be written before anything else.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.rest
    }

    /// Hands what follows the cursor to `write`, once, and moves on by the number of bytes it took: first the rest of a frame, then as
    /// many frames as there are.
    ///
    /// # Errors
    /// The error of `write`; the cursor then does not move.
    pub fn turn(&mut self, write: impl FnOnce(&[u8]) -> io::Result<usize>) -> io::Result<Turn> {
        if self.rest.is_empty() { self.write_frames(write) } else { self.write_rest(write) }
    }

    fn write_rest(&mut self, write: impl FnOnce(&[u8]) -> io::Result<usize>) -> io::Result<Turn> {
        let written = write(&self.rest)?;
        self.hub.metrics.sent_bytes.add(written);
        self.rest.drain(..written);
        if self.rest.is_empty() {
            self.rest = Vec::new();
        }
        Ok(Turn::Wrote)
    }

    fn write_frames(&mut self, write: impl FnOnce(&[u8]) -> io::Result<usize>) -> io::Result<Turn> {
        self.hub.read(self.slot, |run| {
            if let Some(end) = run.end_at(self.offset) {
                return Ok(Turn::Ended(end));
            }
            let pending = run.bytes_from(self.offset).unwrap_or_default();
            if pending.is_empty() {
                self.live = true;
                return Ok(Turn::CaughtUp);
            }
            let written = write(&pending[..pending.len().min(WRITE_LIMIT)])?;
            let (end, messages) = frames_begun(pending, written);
            self.rest.extend_from_slice(&pending[written..end]);
            self.offset += end as u64;
            if !run.is_probe() {
                let metrics = &self.hub.metrics;
                metrics.sent.add(messages);
                metrics.sent_bytes.add(written);
                if !self.live {
                    metrics.replayed.add(messages);
                } else if written == pending.len() {
                    metrics.lag.observe(run.appended.elapsed(), 1);
                }
            }
            Ok(Turn::Wrote)
        })
    }
}

/// Returns the end of the last frame of which one of the first `written` bytes is a part, and the number of frames up to there.
pub(super) fn frames_begun(frames: &[u8], written: usize) -> (usize, usize) {
    let (mut end, mut count) = (0, 0);
    while end < written {
        end += frame_length(&frames[end..]);
        count += 1;
    }
    (end, count)
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.hub.leave(self.slot);
    }
}
