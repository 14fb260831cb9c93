//! A viewer's place in its channel's run: an offset into the shared log.

use crate::hub::Hub;
use crate::wire::close::End;
use crate::wire::message::frame_length;
use std::io;
use std::sync::Arc;
use tokio::sync::Notify;

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

/// A viewer's place in its channel's run. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Cursor {
    hub: Arc<Hub>,
    /// Where the hub keeps the run.
    slot: usize,
    changed: Arc<Notify>,
    /// The next frame to write.
    offset: u64,
    /// What is left of the frame before it, if it was written in part: kept here, since the log may let it go.
    rest: Vec<u8>,
    /// Whether it has once got everything there was: what comes then is live.
    live: bool,
}

impl Cursor {
    /// One that has got everything up to `offset`, of the frame before it all but `rest`.
    pub(crate) fn new(hub: Arc<Hub>, slot: usize, changed: Arc<Notify>, offset: u64, rest: Vec<u8>) -> Self {
        Self { hub, slot, changed, offset, rest, live: false }
    }

    /// Notified when there is more for this cursor, or the end.
    #[must_use]
    pub fn changed(&self) -> &Arc<Notify> {
        &self.changed
    }

    /// Where the hub keeps the run.
    pub(crate) fn slot(&self) -> usize {
        self.slot
    }

    /// Where the hub keeps the run, the offset of the next frame in it, and what is left of the one before.
    #[must_use]
    pub fn position(&self) -> (usize, u64, &[u8]) {
        (self.slot, self.offset, &self.rest)
    }

    /// Whether it is a place in this hub.
    #[cfg(test)]
    pub(crate) fn is_of(&self, hub: &Arc<Hub>) -> bool {
        Arc::ptr_eq(&self.hub, hub)
    }

    /// The end of its viewer once that has got [`Cursor::rest`], or `None` if more can come for it.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.hub.read(self.slot, |run| run.end_at(self.offset))
    }

    /// What is left of a frame that was written in part. Until it is written, nothing else may be.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.rest
    }

    /// Hands what follows the cursor to `write`, once, and moves on by the number of bytes it took: first the rest of a
    /// frame, then as many frames as there are.
    ///
    /// # Errors
    /// Those of `write`; the cursor then stays where it is.
    pub fn turn(&mut self, write: impl FnOnce(&[u8]) -> io::Result<usize>) -> io::Result<Turn> {
        if !self.rest.is_empty() {
            let written = write(&self.rest)?;
            self.hub.metrics().sent_bytes.add(written);
            self.rest.drain(..written);
            if self.rest.is_empty() {
                self.rest = Vec::new();
            }
            return Ok(Turn::Wrote);
        }
        let Self { hub, slot, offset, rest, live, .. } = self;
        hub.read(*slot, |run| {
            if let Some(end) = run.end_at(*offset) {
                return Ok(Turn::Ended(end));
            }
            let pending = run.from(*offset).unwrap_or_default();
            if pending.is_empty() {
                *live = true;
                return Ok(Turn::CaughtUp);
            }
            let written = write(&pending[..pending.len().min(WRITE_LIMIT)])?;
            let (mut end, mut messages) = (0, 0);
            while end < written {
                end += frame_length(&pending[end..]);
                messages += 1;
            }
            rest.extend_from_slice(&pending[written..end]);
            *offset += end as u64;
            if !run.is_probe() {
                let metrics = hub.metrics();
                metrics.sent.add(messages);
                metrics.sent_bytes.add(written);
                if !*live {
                    metrics.replayed.add(messages);
                } else if written == pending.len() {
                    metrics.lag.observe(run.appended.elapsed());
                }
            }
            Ok(Turn::Wrote)
        })
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.hub.leave(self.slot);
    }
}
