//! The stream across a restart: what a node has not appended, what it keeps, and how far it has read.

use crate::snapshot::stream as state;
use crate::snapshot::stream::EntryId;
use crate::stream::record;
use crate::stream::seen::Seen;
use crate::stream::{MessageStream, Reading};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

impl state::StreamState<'_> {
    /// Returns the number of messages that Redis has not taken.
    pub(crate) fn unsent(&self) -> usize {
        self.waiting.iter().map(|batch| record::count(&batch.bytes)).sum()
    }

    /// Drops batches that do not belong to this ingest.
    fn drop_damaged(&mut self) {
        let (ingest, next) = (self.ingest, self.next);
        let is_own = |batch: &state::Batch<'_>| {
            batch.number < next
                && record::split(&batch.bytes)
                    .is_ok_and(|(head, _)| (head.ingest, head.number) == (ingest, batch.number))
        };
        let before = self.waiting.len();
        self.waiting.retain(is_own);
        self.kept.retain(is_own);
        if self.waiting.len() < before {
            log::warn!(
                "{} batches of messages that the previous process left are damaged, and are dropped",
                before - self.waiting.len()
            );
        }
    }
}

impl MessageStream {
    /// Goes on from another process of this node, which ended `away` ago. A state of another service is left out.
    pub(crate) fn restore(&self, mut saved: state::StreamState<'_>, away: Duration) {
        let now = Instant::now();
        if saved.name != self.name {
            log::error!(
                "the previous process belonged to the service {:?} (cluster.name), and this one to {:?}: {} messages that Redis has not \
                 taken are dropped",
                saved.name,
                self.name,
                saved.unsent()
            );
            return;
        }
        saved.drop_damaged();
        let mut seen = Seen::default();
        seen.restore(std::mem::take(&mut saved.seen));
        let (position, safe) = (saved.position, saved.safe);
        self.hub.restore_dropped(std::mem::take(&mut saved.dropped));
        // The stream may have dropped messages while this node was away.
        self.change(|condition| condition.behind_from = now.checked_sub(away).or(Some(now)));
        let epoch = saved.epoch.take().map(std::borrow::Cow::into_owned);
        let is_from_beginning = position == EntryId::default();
        *self.reading() = Reading { position, safe, seen, epoch, is_from_beginning, ..Reading::default() };
        self.ingest().restore(saved, now);
        self.work.notify_one();
    }

    /// Returns the bytes that the state of a stream may have in a file, and those that its lists may take in memory.
    ///
    /// Batches are small only while Redis answers at once, so at most `cluster.buffer` bytes are in small ones. The smallest has more than
    /// half of the bytes that it takes in a list.
    pub(crate) fn saved_bytes(&self) -> usize {
        const SLACK: usize = 16 * 1024 * 1024;
        2 * self.buffer.load(Ordering::Relaxed) + SLACK
    }

    /// Shows the state for another process.
    pub(crate) fn save<T>(&self, show: impl FnOnce(state::StreamState<'_>) -> T) -> T {
        let ingest = self.ingest();
        let (waiting, kept) = ingest.save();
        // Copied, so that its lock is not held while the hub's is taken.
        let (seen, position, safe, epoch) = {
            let reading = self.reading();
            (reading.seen.save(), reading.position, reading.safe, reading.epoch.clone())
        };
        let saved = state::StreamState {
            name: (&*self.name).into(),
            ingest: ingest.id(),
            next: ingest.last() + 1,
            waiting,
            kept,
            seen,
            position,
            safe,
            epoch: epoch.map(Into::into),
            dropped: self.hub.dropped(),
        };
        show(saved)
    }

    /// Returns the number of messages that Redis has not taken.
    pub(crate) fn unsent(&self) -> usize {
        self.ingest().waiting()
    }
}
