//! The ingest of a node: the messages of its brokers, in batches that wait for Redis, and the last batches that Redis has answered.
//!
//! One batch is under way at a time, and the next one grows meanwhile. A batch is sent again, the same bytes, until it is answered. The
//! last ones are kept, because a failover may cut off what Redis has answered.

use crate::snapshot::stream as state;
use crate::snapshot::stream::{EntryId, Place};
use crate::stream::record::{self, Head, Record};
use crate::wire::message::Kind;
use ring::rand::{SecureRandom, SystemRandom};
use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// The least time for which a batch is kept that Redis has answered. A Redis that writes its file once a second (`appendfsync everysec`)
/// loses up to two seconds when its machine dies.
pub(super) const KEPT_LEAST: Duration = Duration::from_secs(5);

/// The bytes from which on a batch grows no more: a reader takes one batch in one turn, which must be short.
const FULL_BATCH: usize = 128 * 1024;

/// The batches of a node.
#[derive(Debug)]
pub(super) struct Ingest {
    id: u64,
    /// The name of the node, as batches name it.
    node: String,
    /// The checksum of the node's history limits.
    limits: u32,
    /// The number of the next batch.
    next: u64,
    /// The batches that Redis has not answered, in the order of their numbers.
    waiting: VecDeque<Waiting>,
    /// The bytes of `waiting`.
    waiting_bytes: usize,
    /// The batches that Redis has answered.
    kept: VecDeque<Kept>,
    /// The bytes of `kept`.
    kept_bytes: usize,
    /// The entry of the last batch that Redis has answered to this process.
    last_answer: Option<EntryId>,
    /// True once it is known which of the kept batches the stream has. Before that none is forgotten.
    is_looked_up: bool,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    bytes: Vec<u8>,
    /// The number of its records.
    records: usize,
    /// True once it was sent: it may be in the stream, so it must not grow.
    is_sent: bool,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    bytes: Vec<u8>,
    records: usize,
    at: EntryId,
    answered: Instant,
}

/// Returns a random number.
pub(super) fn random() -> u64 {
    let mut bytes = [0; 8];
    // The system's generator fails only where there is none. The clock is then as good.
    if SystemRandom::new().fill(&mut bytes).is_err() {
        return crate::snapshot::state::now();
    }
    u64::from_le_bytes(bytes)
}

impl Ingest {
    /// Creates an ingest with a random id.
    pub(super) fn new(node: String, limits: u32) -> Self {
        Self {
            id: random(),
            node,
            limits,
            next: 1,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            kept: VecDeque::new(),
            kept_bytes: 0,
            last_answer: None,
            is_looked_up: false,
        }
    }

    /// Returns its id.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Returns the number of its last batch, or 0.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    /// Changes the checksum of the history limits, after a reload.
    pub(super) fn set_limits(&mut self, limits: u32) {
        self.limits = limits;
    }

    /// Returns the checksum of the history limits.
    pub(super) fn limits(&self) -> u32 {
        self.limits
    }

    /// Returns the number of messages that wait for Redis.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.iter().map(|batch| batch.records).sum()
    }

    /// Returns the bytes that wait for Redis.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Returns the number of batches that Redis has answered and that are kept.
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Returns the entry of the last batch that Redis has answered to this process.
    pub(super) fn last_answer(&self) -> Option<EntryId> {
        self.last_answer
    }

    /// Returns true if nothing waits for Redis.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Appends a message.
    pub(super) fn publish(&mut self, channel: &str, kind: Kind, frame: &[u8]) {
        self.append(&Record::Message { channel: channel.into(), kind, frame: frame.into() });
    }

    /// Appends the end of a job after whose message `of` nothing came.
    pub(super) fn release(&mut self, channel: &str, of: Place) {
        self.append(&Record::Release { channel: channel.into(), of });
    }

    fn append(&mut self, record: &Record<'_>) {
        if let Some(last) = self.waiting.back_mut().filter(|last| !last.is_sent && last.bytes.len() < FULL_BATCH) {
            let before = last.bytes.len();
            if record::append(&mut last.bytes, record) {
                last.records += 1;
                self.waiting_bytes += last.bytes.len() - before;
                return;
            }
        }
        let head = Head { ingest: self.id, number: self.next, node: (&*self.node).into(), limits: self.limits };
        let mut bytes = record::begin(&head);
        record::append(&mut bytes, record);
        self.waiting_bytes += bytes.len();
        self.waiting.push_back(Waiting { number: self.next, bytes, records: 1, is_sent: false });
        self.next += 1;
    }

    /// Returns the bytes of the batch to send next, if there is one, and true if they were sent before. It grows no more.
    pub(super) fn send(&mut self) -> Option<(&[u8], bool)> {
        let first = self.waiting.front_mut()?;
        let is_repeated = std::mem::replace(&mut first.is_sent, true);
        Some((&first.bytes, is_repeated))
    }

    /// Notes the entry in which the batch that was sent is now.
    pub(super) fn answered(&mut self, at: EntryId, now: Instant) {
        self.last_answer = Some(at);
        let Some(Waiting { number, bytes, records, .. }) = self.waiting.pop_front() else { return };
        self.waiting_bytes -= bytes.len();
        self.kept_bytes += bytes.len();
        self.kept.push_back(Kept { number, bytes, records, at, answered: now });
    }

    /// Returns the first entry that may have a kept batch, if one is kept.
    pub(super) fn oldest_kept(&self) -> Option<EntryId> {
        self.kept.iter().map(|kept| kept.at).min()
    }

    /// Keeps the batches with the numbers in `found`, and those up to the entry `trimmed`, which the stream had and has no more. Has all
    /// other kept batches wait again, before those with larger numbers, and returns their number.
    ///
    /// Readers take a batch that comes before one with a smaller number for a sign of a loss.
    pub(super) fn put_back(&mut self, found: &HashSet<u64>, trimmed: EntryId) -> usize {
        let is_there = |kept: &Kept| found.contains(&kept.number) || kept.at <= trimmed;
        let (kept, lost): (Vec<_>, Vec<_>) = self.kept.drain(..).partition(is_there);
        self.is_looked_up = true;
        self.kept = kept.into();
        let count = lost.len();
        for Kept { number, bytes, records, .. } in lost {
            self.kept_bytes -= bytes.len();
            self.waiting_bytes += bytes.len();
            self.waiting.push_front(Waiting { number, records, bytes, is_sent: true });
        }
        self.waiting.make_contiguous().sort_by_key(|batch| batch.number);
        count
    }

    /// Notes that another stream has begun, which has none of the kept batches.
    pub(super) fn begin_anew(&mut self) {
        self.kept.iter_mut().for_each(|kept| kept.at = EntryId { milliseconds: u64::MAX, number: u64::MAX });
    }

    /// Returns true once it is known which of the kept batches the stream has.
    pub(super) fn is_looked_up(&self) -> bool {
        self.is_looked_up
    }

    /// Notes that the connections are lost: what the stream has is unknown from now on.
    pub(super) fn lose(&mut self) {
        self.is_looked_up = false;
    }

    /// Forgets the kept batches up to the entry `safe`, which no failover cuts off, and the oldest ones over `bound` bytes. Returns the
    /// number of those that a failover may cut off.
    pub(super) fn forget(&mut self, safe: EntryId, bound: usize, now: Instant) -> usize {
        if !self.is_looked_up {
            return 0;
        }
        while let Some(kept) = self.kept.front()
            && kept.at <= safe
            && now.duration_since(kept.answered) >= KEPT_LEAST
        {
            self.drop_kept();
        }
        let mut count = 0;
        while self.kept_bytes > bound
            && let Some(at) = self.drop_kept()
        {
            count += usize::from(at > safe);
        }
        count
    }

    fn drop_kept(&mut self) -> Option<EntryId> {
        let kept = self.kept.pop_front()?;
        self.kept_bytes -= kept.bytes.len();
        Some(kept.at)
    }
}

impl Ingest {
    /// Goes on with the batches of another process.
    pub(super) fn restore(&mut self, saved: state::StreamState<'_>, now: Instant) {
        (self.id, self.next) = (saved.ingest, saved.next);
        let (waiting, kept) = (saved.waiting.into_iter(), saved.kept.into_iter());
        let sent = |batch: state::Batch<'_>| {
            let (number, bytes) = (batch.number, batch.bytes.into_owned());
            Waiting { number, records: record::count(&bytes), bytes, is_sent: true }
        };
        self.waiting = waiting.map(sent).collect();
        let kept = kept.filter_map(|batch| {
            let (number, at, bytes) = (batch.number, batch.at?, batch.bytes.into_owned());
            Some(Kept { number, records: record::count(&bytes), bytes, at, answered: now })
        });
        self.kept = kept.collect();
        self.waiting_bytes = self.waiting.iter().map(|batch| batch.bytes.len()).sum();
        self.kept_bytes = self.kept.iter().map(|batch| batch.bytes.len()).sum();
    }

    /// Returns the batches that wait and those that are kept, for another process.
    pub(super) fn save(&self) -> (Vec<state::Batch<'_>>, Vec<state::Batch<'_>>) {
        fn batch(number: u64, at: Option<EntryId>, bytes: &[u8]) -> state::Batch<'_> {
            state::Batch { number, at, bytes: Cow::Borrowed(bytes) }
        }
        let waiting = self.waiting.iter().map(|one| batch(one.number, None, &one.bytes));
        let kept = self.kept.iter().map(|one| batch(one.number, Some(one.at), &one.bytes));
        (waiting.collect(), kept.collect())
    }
}

#[cfg(test)]
mod tests;
