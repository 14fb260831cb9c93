//! One run of a channel: an append-only log of ready WebSocket frames.

use crate::config::History;
use crate::hub::fan_out::audience::Audience;
use crate::snapshot::state::{self, Lifecycle, OVERHEAD};
use crate::snapshot::stream::Origin;
use crate::wire::close::End;
use crate::wire::message::MAX_CHANNEL_ID;
use crate::wire::ws_frame::frame_length;
use std::borrow::Cow;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The smallest allocation of a log, in bytes.
const FIRST_CAPACITY: usize = 128;

/// The channel of [`crate::hub::Hub::probe`]: no id from outside is empty.
pub(super) const PROBE: &str = "";

/// The bounds of one channel's history. The newest message is always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The most messages.
    pub messages: usize,
    /// The most bytes of ready frames.
    pub bytes: usize,
}

impl Bounds {
    /// Returns the bounds of one channel. They keep it within `history.total_bytes` by itself, unless one message is larger.
    #[must_use]
    pub(super) fn of(history: &History) -> Self {
        let room = history.total_bytes.saturating_sub(OVERHEAD + MAX_CHANNEL_ID);
        Self { messages: history.channel_messages, bytes: history.channel_bytes.min(room) }
    }
}

/// The last message of a job that the monitor finishes itself if nothing follows in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// FAILED (`history.release_failed`).
    Failed,
    /// ABORTED (`history.release_aborted`).
    Aborted,
}

/// One run of a channel: its frames, back to back, and the hub's notes about it.
#[derive(Debug)]
pub(super) struct Run {
    id: Arc<str>,
    number: u64,
    bytes: Vec<u8>,
    /// The offset of `bytes[0]` in the run; grows when old messages are dropped.
    start: u64,
    messages: usize,
    /// Set once nothing more is appended.
    pub(super) end: Option<End>,
    /// Set once the log ends with FINISHED; stays set when the log is discarded.
    finished: bool,
    /// True once messages of this run were dropped.
    pub(super) trimmed: bool,
    /// Its viewers; `None` while there are none.
    pub(super) audience: Option<Box<Audience>>,
    /// `None` once the run was removed.
    pub(super) lifecycle: Option<Lifecycle>,
    /// The run's time in the order of its lifecycle.
    pub(super) since: Instant,
    /// When the last message or new viewer came.
    pub(super) touched: Instant,
    /// When the last message came.
    pub(super) appended: Instant,
    /// FAILED or ABORTED if it was the last message, and when it came.
    pub(super) unfinished: Option<(Unfinished, Instant)>,
    /// Its origin in the stream of the cluster, if it came from there.
    pub(super) origin: Option<Box<Origin>>,
    /// The cost that the table has counted for this run, in bytes.
    pub(super) counted: usize,
}

impl Run {
    pub(super) fn new(id: Arc<str>, number: u64, now: Instant) -> Self {
        Self {
            id,
            number,
            bytes: Vec::new(),
            start: 0,
            messages: 0,
            end: None,
            finished: false,
            trimmed: false,
            audience: None,
            lifecycle: None,
            since: now,
            touched: now,
            appended: now,
            unfinished: None,
            origin: None,
            counted: 0,
        }
    }

    /// Creates a run that another process has saved, not yet in any order.
    pub(super) fn restore(saved: &state::Run<'_>, number: u64, touched: Instant) -> Self {
        let bytes = saved.frames.to_vec();
        let (mut messages, mut at) = (0, 0);
        while at < bytes.len() {
            at += frame_length(&bytes[at..]);
            messages += 1;
        }
        let end = (saved.lifecycle != Lifecycle::Open).then_some(End::Finished);
        let (start, trimmed, finished) = (saved.start, saved.trimmed, end.is_some());
        let origin = saved.origin.map(Box::new);
        let new = Self::new(saved.id.as_ref().into(), number, touched);
        Self { bytes, start, messages, end, finished, trimmed, origin, ..new }
    }

    /// Returns the run as another process needs it, or `None` if it was removed.
    pub(super) fn save(&self, now: Instant) -> Option<state::Run<'_>> {
        let age = |since: Instant| state::milliseconds(now.saturating_duration_since(since));
        let unfinished = |last| self.unfinished.filter(|(which, _)| *which == last).map(|(_, at)| age(at));
        self.lifecycle.map(|lifecycle| state::Run {
            id: Cow::Borrowed(&self.id),
            frames: Cow::Borrowed(&self.bytes),
            start: self.start,
            trimmed: self.trimmed,
            lifecycle,
            since: age(self.since),
            touched: age(self.touched),
            failed: unfinished(Unfinished::Failed),
            aborted: unfinished(Unfinished::Aborted),
            origin: self.origin.as_deref().copied(),
        })
    }

    /// Returns true for the run of [`crate::hub::Hub::probe`], which belongs to no job.
    pub(super) fn is_probe(&self) -> bool {
        *self.id == *PROBE
    }

    /// Returns the channel's id, as the broker and the viewers spell it.
    pub(super) fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Returns the run's number, which no other run has.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Returns the memory that this run costs, in bytes. A probe's run costs 0, so that it never evicts a job.
    pub(super) fn cost(&self) -> usize {
        if self.is_probe() { 0 } else { OVERHEAD + self.id.len() + self.bytes.capacity() }
    }

    /// Wakes the busy viewers.
    pub(super) fn notify(&self) {
        if let Some(changed) = self.audience.as_ref().and_then(|audience| audience.changed.as_ref()) {
            changed.notify_waiters();
        }
    }

    /// Returns the number of its viewers.
    pub(super) fn viewers(&self) -> usize {
        self.audience.as_ref().map_or(0, |audience| audience.viewers)
    }

    /// Adds a busy viewer; returns what will be notified when the log grows or ends.
    pub(super) fn enter(&mut self) -> Arc<Notify> {
        let audience = self.audience.get_or_insert_default();
        audience.viewers += 1;
        Arc::clone(audience.changed.get_or_insert_default())
    }

    /// Removes a viewer that is in no list; returns true if none is left, quiet or busy.
    pub(super) fn leave(&mut self) -> bool {
        let audience = self.audience.get_or_insert_default();
        audience.viewers -= 1;
        if audience.is_quiet() {
            audience.changed = None;
        }
        if audience.viewers == 0 {
            self.audience = None;
        }
        self.audience.is_none()
    }

    /// Returns the offset of the oldest byte kept.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Returns the offset after the newest byte.
    pub(super) fn log_end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Returns the number of messages kept.
    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    /// Returns the bytes from `offset` on, or `None` if some of them are no longer kept.
    pub(super) fn bytes_from(&self, offset: u64) -> Option<&[u8]> {
        let skip = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.bytes.get(skip..)
    }

    /// Appends a ready frame; before it, drops the oldest messages if the log would be over its bounds. Returns how many were dropped.
    ///
    /// The log's capacity is within the bounds, too, unless the frame alone is larger.
    pub(super) fn append(&mut self, frame: &[u8], bounds: Bounds) -> usize {
        let dropped = if self.is_over(frame.len(), bounds) { self.drop_oldest(frame.len(), bounds) } else { 0 };
        self.reserve(frame.len(), bounds);
        self.bytes.extend_from_slice(frame);
        self.messages += 1;
        dropped
    }

    /// Returns true if the log would be over its bounds with one more frame of `next` bytes.
    pub(super) fn is_over(&self, next: usize, bounds: Bounds) -> bool {
        self.messages + 1 > bounds.messages || self.bytes.len() + next > bounds.bytes
    }

    /// Returns true if the next frame of `next` bytes makes the log drop messages that the fan-out may not have tried to send.
    pub(super) fn drops_untried(&self, next: usize, bounds: Bounds) -> bool {
        self.audience.as_ref().is_some_and(|audience| {
            let dropped = || self.start + self.oldest(next, bounds).0 as u64;
            audience.is_in_round() && self.is_over(next, bounds) && audience.is_behind(dropped())
        })
    }

    /// Returns the length and the number of the oldest messages that are to be dropped for the next frame of `next` bytes.
    fn oldest(&self, next: usize, bounds: Bounds) -> (usize, usize) {
        let (keep_messages, keep_bytes) = ((bounds.messages / 4 * 3).max(1), bounds.bytes / 4 * 3);
        let (mut messages, mut length, mut cut) = (self.messages + 1, self.bytes.len() + next, 0);
        while messages > 1 && (messages > keep_messages || length > keep_bytes) {
            let frame = frame_length(&self.bytes[cut..]);
            cut += frame;
            length -= frame;
            messages -= 1;
        }
        (cut, self.messages + 1 - messages)
    }

    /// Drops the oldest messages until a quarter of the bounds is free after the next frame of `next` bytes, and returns how many. Drops
    /// a quarter at once, so that many appends share the cost of moving the rest.
    fn drop_oldest(&mut self, next: usize, bounds: Bounds) -> usize {
        let (cut, dropped) = self.oldest(next, bounds);
        let length = self.bytes.len() - cut + next;
        self.bytes.drain(..cut);
        self.start += cut as u64;
        self.messages -= dropped;
        self.trimmed |= dropped > 0;
        self.bytes.shrink_to(bounds.bytes.max(length));
        dropped
    }

    /// Makes room for a frame of `next` bytes: doubles the capacity, within the bound unless the frame needs more.
    fn reserve(&mut self, next: usize, bounds: Bounds) {
        let length = self.bytes.len() + next;
        if length > self.bytes.capacity() {
            let capacity = (2 * self.bytes.capacity()).max(FIRST_CAPACITY).min(bounds.bytes).max(length);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
    }

    /// Returns the end for a viewer that has got everything up to `offset`, or `None` if more can come.
    pub(super) fn end_at(&self, offset: u64) -> Option<End> {
        match self.bytes_from(offset) {
            None => Some(self.end.filter(|end| *end != End::Finished).unwrap_or(End::Behind)),
            // The viewer has the job's FINISHED, even if the history was discarded since.
            Some([]) if self.finished => Some(End::Finished),
            Some([]) => self.end,
            Some(_) => None,
        }
    }

    /// Ends a run that is complete. Its history stays, in as little memory as possible.
    pub(super) fn finish(&mut self) {
        self.end = Some(End::Finished);
        self.finished = true;
        self.bytes.shrink_to_fit();
    }

    /// Ends a run and drops its history.
    pub(super) fn discard(&mut self, end: End) {
        self.end = Some(end);
        self.start = self.log_end();
        self.bytes = Vec::new();
        self.messages = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append_all(bounds: Bounds, frames: usize) -> (Run, usize) {
        let mut run = Run::new("job".into(), 1, Instant::now());
        let mut dropped = 0;
        for i in 0..frames {
            dropped += run
                .append(&[0x81, 2, b'0' + u8::try_from(i / 10).unwrap(), b'0' + u8::try_from(i % 10).unwrap()], bounds);
        }
        (run, dropped)
    }

    #[test]
    fn at_the_message_bound_nothing_is_dropped_and_one_past_it_a_quarter() {
        let bounds = Bounds { messages: 8, bytes: 1 << 20 };
        assert_eq!(append_all(bounds, 8).1, 0);
        let (run, dropped) = append_all(bounds, 9);
        assert_eq!(dropped, 3);
        assert_eq!((run.messages(), run.start()), (6, 12));
        assert!(run.bytes_from(11).is_none());
        assert_eq!(run.bytes_from(12).unwrap()[2..4], *b"03");
    }

    #[test]
    fn at_the_byte_bound_nothing_is_dropped_and_one_past_it_a_quarter() {
        let bounds = Bounds { messages: 1 << 20, bytes: 32 };
        assert_eq!(append_all(bounds, 8).1, 0);
        let (run, dropped) = append_all(bounds, 9);
        assert_eq!(dropped, 3);
        assert_eq!(run.bytes_from(12).unwrap().len(), 24);
        assert_eq!(run.bytes.capacity(), 32, "no more than the bound");
    }

    #[test]
    fn memory_is_within_the_bound_unless_one_message_is_larger() {
        let bounds = Bounds { messages: 1 << 20, bytes: 1000 };
        let mut run = Run::new("job".into(), 1, Instant::now());
        let frame = |size: u8| [&[0x81, size][..], &vec![b'x'; usize::from(size)]].concat();
        for size in (0..500_u32).map(|n| u8::try_from(n * 37 % 125).unwrap()) {
            run.append(&frame(size), bounds);
            assert!(run.bytes.capacity() <= 1000, "{}", run.bytes.capacity());
        }
        let large = [&[0x81, 126, 8, 0][..], &[b'x'; 2048]].concat();
        run.append(&large, bounds);
        assert_eq!((run.messages(), run.bytes.capacity()), (1, large.len()));
        run.append(&frame(9), bounds);
        assert_eq!((run.messages(), run.bytes.capacity()), (1, 1000));
        // A reload lowers the bound.
        run.append(&frame(9), Bounds { messages: 1 << 20, bytes: 20 });
        assert_eq!((run.messages(), run.bytes.capacity()), (1, 20));
    }

    #[test]
    fn a_message_larger_than_the_bounds_is_kept_alone() {
        for (messages, frames) in [(1, 5), (100, 4), (100, 5)] {
            let (run, dropped) = append_all(Bounds { messages, bytes: 1 }, frames);
            assert_eq!((dropped, run.messages()), (frames - 1, 1));
            let newest = 4 * dropped as u64;
            assert_eq!(run.bytes_from(newest).unwrap(), [0x81, 2, b'0', b'0' + u8::try_from(dropped).unwrap()]);
        }
    }

    #[test]
    fn a_log_is_trimmed_once_something_was_dropped() {
        let bounds = Bounds { messages: 2, bytes: 8 };
        assert!(!append_all(bounds, 2).0.trimmed);
        assert!(append_all(bounds, 3).0.trimmed);
        assert!(!append_all(Bounds { messages: 2, bytes: 1 }, 1).0.trimmed);
        let (mut run, _) = append_all(bounds, 3);
        run.append(&[0x81, 0], Bounds { messages: 9, bytes: 99 });
        assert!(run.trimmed);
    }

    #[test]
    fn a_log_that_is_full_doubles_and_its_channel_costs_what_it_takes() {
        let bounds = Bounds { messages: 1000, bytes: 1 << 20 };
        for (frames, capacity) in [(0, 0), (1, 128), (32, 128), (33, 256), (64, 256), (65, 512)] {
            let (run, _) = append_all(bounds, frames);
            assert_eq!(run.cost(), 512 + "job".len() + capacity, "{frames} frames");
        }
    }

    #[test]
    fn a_discarded_log_is_empty_and_begins_where_it_ended() {
        let (mut run, _) = append_all(Bounds { messages: 8, bytes: 1 << 20 }, 9);
        run.discard(End::Expired);
        assert_eq!((run.start(), run.messages(), run.bytes.capacity(), run.end), (36, 0, 0, Some(End::Expired)));
    }
}
