//! The fan-out: quiet viewers, each an entry. What is appended to a run is written to its entries in one loop.
//!
//! A viewer that has everything and says nothing is *quiet*: it has no task, no waker and no buffer. A viewer that needs more than a write,
//! a pong or a ping becomes *busy*: the entry is handed back to `viewer/`, which makes a task of it. A socket is owned by its entry or by
//! its task, never by both. So it has one writer at any time.

pub(super) mod audience;
mod closing;
mod hand_back;
mod hear;
pub(crate) mod pings;
mod round;
#[cfg(any(test, fuzzing))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use hand_back::{HandBack, Position, Reason};

use crate::hub::Hub;
use crate::hub::cursor::Cursor;
use crate::hub::fan_out::pings::Pings;
use crate::hub::table::Table;
use crate::metrics::counters::Metrics;
use crate::wire::close::End;
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tokio::time::Instant;

/// A quiet viewer, or one that was quiet and is being closed.
#[derive(Debug)]
struct Entry {
    socket: OwnedFd,
    /// Distinguishes this entry from earlier ones with the same index.
    generation: u32,
    /// The offset of the next frame to write.
    offset: u64,
    pings: Pings,
    /// The slot of its run in the hub.
    run: u32,
    state: State,
    /// The number of its owner in `context::quiet`.
    owner: u32,
}

// The size counts: there are many entries, and a round reads all of its run.
const _: () = assert!(size_of::<Entry>() == 64);

/// The state of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is in the list of its run, at this position.
    Quiet(u32),
    /// It was sent a close frame with this end, has left its run, and has to answer.
    Closing(End),
    /// It waits to be handed back; with the end, if it is being closed.
    Back(Option<End>),
}

impl Entry {
    /// Returns the end that its viewer was sent, if it is being closed.
    fn end(&self) -> Option<End> {
        match self.state {
            State::Quiet(_) => None,
            State::Closing(end) => Some(end),
            State::Back(end) => end,
        }
    }

    fn is_back(&self) -> bool {
        matches!(self.state, State::Back(_))
    }
}

/// The key of an entry. No later entry has the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

impl From<Key> for u64 {
    fn from(key: Key) -> Self {
        Self::from(key.generation) << 32 | Self::from(key.index)
    }
}

impl From<u64> for Key {
    #[expect(clippy::cast_possible_truncation, reason = "the halves are taken apart")]
    fn from(key: u64) -> Self {
        Self { index: key as u32, generation: (key >> 32) as u32 }
    }
}

/// All quiet viewers of a hub, and the queues of those that need something.
#[derive(Debug)]
pub(super) struct FanOut {
    metrics: Arc<Metrics>,
    entries: Slab<Entry>,
    /// The generation of the newest entry.
    generation: u32,
    /// The slots of runs that have something new for their quiet viewers and wait for their first slice.
    fresh: VecDeque<usize>,
    /// The slots of runs whose rounds go on, in turn.
    rounds: VecDeque<usize>,
    /// The slots of runs that have ended and whose quiet viewers have everything: these are to be sent a close frame.
    ended: VecDeque<usize>,
    /// Entries that must become busy, and why.
    back: VecDeque<(u32, Reason)>,
    /// The index of the next entry that the sweep for pings looks at.
    swept: usize,
    /// The earliest deadline among the entries that the sweep has seen, and those that came since it began.
    earliest: Option<Instant>,
    /// When the next sweep begins.
    sweep_at: Option<Instant>,
}

impl FanOut {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            entries: Slab::new(),
            generation: 0,
            fresh: VecDeque::new(),
            rounds: VecDeque::new(),
            ended: VecDeque::new(),
            back: VecDeque::new(),
            swept: 0,
            earliest: None,
            sweep_at: None,
        }
    }

    /// Returns the index of the entry with this key, if it still exists and does not wait for its hand-back.
    fn find(&self, key: Key) -> Option<usize> {
        let entry = self.entries.get(key.index as usize)?;
        (entry.generation == key.generation && !entry.is_back()).then_some(key.index as usize)
    }

    /// Returns the entry with this index, if there is one that does not wait for its hand-back.
    fn entry(&mut self, index: usize) -> Option<&mut Entry> {
        self.entries.get_mut(index).filter(|entry| !entry.is_back())
    }
}

impl Table {
    /// Takes an entry out of the list of its run. It still counts as a viewer of the run.
    fn unlist(&mut self, index: usize) {
        let FanOut { entries, .. } = &mut self.fan_out;
        if let State::Quiet(position) = entries[index].state {
            let audience = self.runs[entries[index].run as usize].audience.get_or_insert_default();
            if let Some(moved) = audience.remove(position as usize) {
                entries[moved as usize].state = State::Quiet(position);
            }
            entries[index].state = State::Back(None);
        }
    }

    /// Queues an entry to be handed back.
    fn hand_back(&mut self, index: usize, reason: Reason) {
        self.unlist(index);
        let entry = &mut self.fan_out.entries[index];
        entry.state = State::Back(entry.end());
        self.fan_out.back.push_back((number(index), reason));
    }
}

impl Hub {
    /// Makes an entry of a viewer that has everything; from now on rounds write to it. `watch` must watch the socket for what the viewer
    /// sends. If it fails, the viewer is handed back.
    ///
    /// No rest of a frame may be left in `cursor`. `owner` is returned when the viewer is handed back.
    pub(crate) fn join(
        &self,
        cursor: Cursor,
        socket: OwnedFd,
        pings: Pings,
        owner: u32,
        watch: impl FnOnce(BorrowedFd<'_>, Key) -> io::Result<()>,
    ) -> Key {
        let mut table = self.table();
        let (slot, offset, rest) = cursor.position();
        debug_assert!(rest.is_empty());
        let Table { runs, fan_out, .. } = &mut *table;
        fan_out.generation = fan_out.generation.wrapping_add(1);
        let generation = fan_out.generation;
        let audience = runs[slot].audience.get_or_insert_default();
        let entry = fan_out.entries.vacant_entry();
        let index = entry.key();
        let key = Key { index: number(index), generation };
        let watched = watch(socket.as_fd(), key);
        let state = State::Quiet(number(audience.add(key.index)));
        entry.insert(Entry { socket, generation, offset, pings, run: number(slot), state, owner });
        let run = &runs[slot];
        match run.bytes_from(offset) {
            Some([]) if run.end.is_none() => {}
            // It has missed messages, and its task tells it so.
            None if run.end.is_none() => table.hand_back(index, Reason::Full(Vec::new())),
            _ => {
                runs[slot].audience.get_or_insert_default().untry(offset);
                table.mark(slot);
            }
        }
        if let Err(e) = watched
            && table.fan_out.find(key).is_some()
        {
            log::debug!("a quiet viewer cannot be watched: {e}");
            table.hand_back(index, Reason::Spoke(Vec::new()));
        }
        self.note_deadline(&mut table, pings.next());
        self.wake(&table);
        drop(table);
        // Only now: the cursor leaves the run.
        drop(cursor);
        key
    }
}

#[cfg(any(test, fuzzing))]
impl Table {
    /// Checks that each entry is in the list of its run, is being closed or waits for its hand-back, and that each run with something to
    /// write is in a queue.
    ///
    /// # Panics
    /// If one of these does not hold.
    pub(super) fn check_quiet(&self) {
        let FanOut { entries, fresh, rounds, back, .. } = &self.fan_out;
        let mut quiet = 0;
        for (slot, run) in &self.runs {
            let Some(audience) = &run.audience else { continue };
            let waiting = back.iter().filter(|(index, _)| {
                let entry = &entries[*index as usize];
                entry.end().is_none() && entry.run == number(slot)
            });
            let not_busy = audience.quiet.len() + waiting.count();
            assert!(audience.viewers >= not_busy && audience.viewers > 0);
            assert!(audience.pending <= audience.quiet.len());
            assert!(audience.viewers == not_busy || audience.changed.is_some(), "busy viewers are woken");
            let is_queued = fresh.iter().chain(rounds).any(|queued| *queued == slot);
            assert!(!audience.queued || is_queued, "it has its turn");
            assert!(audience.queued || !audience.is_in_round(), "nobody is forgotten");
            let end = run.log_end();
            for (position, index) in audience.quiet.iter().enumerate() {
                let entry = &entries[*index as usize];
                assert_eq!((entry.run, entry.state), (number(slot), State::Quiet(number(position))));
                assert!(run.bytes_from(entry.offset).is_some() || run.end.is_some(), "a send to it was tried in time");
                assert!(entry.offset == end || run.end.is_some() || audience.more || position < audience.pending);
                assert!(entry.offset >= audience.tried || audience.is_in_round());
            }
            quiet += audience.quiet.len();
        }
        assert!(back.iter().all(|(index, _)| entries[*index as usize].is_back()));
        let closing = entries.iter().filter(|(_, entry)| matches!(entry.state, State::Closing(_))).count();
        assert_eq!(entries.len(), quiet + back.len() + closing);
    }
}

/// Returns an index as a number of 32 bits. There are fewer entries and runs than that: each entry has a descriptor, and each run takes
/// some hundred bytes.
#[expect(clippy::cast_possible_truncation, reason = "there are fewer")]
const fn number(index: usize) -> u32 {
    index as u32
}
