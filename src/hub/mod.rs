//! The hub: all channels of a monitor. Links publish messages into it, viewers subscribe to it and read by cursors.
//!
//! Every method takes the time, so that tests need not wait. One lock guards the table of runs: a runtime of one thread never
//! waits for it, and a broker's link takes it once for all messages of a read.

pub(crate) mod cursor;
mod eviction;
mod expiry;
pub(crate) mod fan_out;
#[cfg(any(test, fuzzing))]
mod invariants;
pub(crate) mod latest;
mod probe;
mod publisher;
mod replicated;
mod restore;
mod run;
mod table;

pub(crate) use publisher::Publisher;
pub(crate) use replicated::Entry;

use crate::config::History;
use crate::hub::cursor::Cursor;
use crate::hub::run::{PROBE, Run};
use crate::hub::table::Table;
use crate::metrics::counters::Metrics;
use crate::wire::close::End;
use crate::wire::message::Kind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::Instant;

/// All channels of a monitor.
#[derive(Debug)]
pub struct Hub {
    table: Mutex<Table>,
    metrics: Arc<Metrics>,
    /// Notified when the table's alarm is set to an earlier time.
    earlier: Notify,
    /// Notified when quiet viewers wait to be written to.
    rounds: Notify,
    /// Notified when a quiet viewer waits to be handed back.
    back: Notify,
    /// Notified when quiet viewers wait to be closed.
    ended: Notify,
    /// Notified when the next sweep for pings is due earlier.
    sweep_earlier: Notify,
    /// Held by a probe, so that only one has sockets.
    probing: tokio::sync::Mutex<()>,
    /// Notified when the entry of a probe was handed back.
    probe_over: Notify,
}

/// The number of channels and the size of their history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Channels reachable by id.
    pub channels: usize,
    /// The part of these channels whose job has finished.
    pub finished: usize,
    /// Runs that are over and kept for viewers that still read them.
    pub draining: usize,
    /// The memory that the history of all runs takes, in bytes.
    pub bytes: usize,
}

impl Hub {
    /// Creates a hub without channels.
    #[must_use]
    pub fn new(limits: History, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::new(Table::new(limits, Arc::clone(&metrics))),
            metrics,
            earlier: Notify::new(),
            rounds: Notify::new(),
            back: Notify::new(),
            ended: Notify::new(),
            sweep_earlier: Notify::new(),
            probing: tokio::sync::Mutex::default(),
            probe_over: Notify::new(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends one message's ready frame to its channel and wakes the viewers.
    pub fn publish(&self, now: Instant, id: &str, kind: Kind, frame: &[u8]) {
        self.publisher(now).publish(id, kind, frame);
    }

    /// Locks the hub for messages that arrived together.
    pub fn publisher(&self, now: Instant) -> Publisher<'_> {
        Publisher::new(self, now)
    }

    /// Subscribes a viewer, from the oldest message kept.
    pub fn subscribe(self: &Arc<Self>, now: Instant, id: &str) -> Cursor {
        let mut table = self.table();
        let used = table.used;
        let slot = table.current(id, now);
        let run = &mut table.runs[slot];
        run.touched = now;
        let changed = run.enter();
        let start = run.start();
        if id != PROBE {
            self.metrics.viewers.add(1);
        }
        self.make_room(&mut table, slot, used);
        self.set_alarm(&mut table, now);
        self.wake(&table);
        drop(table);
        Cursor::new(Arc::clone(self), slot, changed, start, Vec::new())
    }

    /// Unsubscribes a viewer of the run in `slot`. The run is removed if it is not needed any more.
    fn leave(&self, slot: usize) {
        self.table().leave(slot);
    }

    /// Shows the run in `slot` to one of its cursors.
    fn read<T>(&self, slot: usize, read: impl FnOnce(&Run) -> T) -> T {
        read(&self.table().runs[slot])
    }

    /// Ends every open run: viewers get the messages that are there and are told that the monitor stops.
    pub fn stop(&self) {
        let mut table = self.table();
        table.stopping = true;
        let Table { runs, failed, aborted, .. } = &mut *table;
        // No message is appended any more, not even a FINISHED of the monitor's own.
        for slot in [failed, aborted].into_iter().flat_map(std::mem::take).map(|(_, slot)| slot) {
            runs[slot].unfinished = None;
        }
        let open: Vec<_> = table.open.values().copied().collect();
        for slot in open {
            table.runs[slot].end = Some(End::Stopping);
            table.runs[slot].notify();
            table.mark(slot);
        }
        self.wake(&table);
    }

    /// Keeps every run as it is from now on, although its viewers leave.
    pub fn freeze(&self) {
        self.table().frozen = true;
    }

    /// Changes the limits. Runs that are over a new bound are evicted, up to `SLICE` of them at once; [`Hub::keep_time`] evicts
    /// the rest in slices, and removes the runs whose time is over.
    pub fn set_limits(&self, limits: History) {
        let mut table = self.table();
        table.limits = limits;
        self.apply_total(table, Instant::now());
    }

    /// Returns the number of channels and the size of their history.
    pub fn usage(&self) -> Usage {
        let table = self.table();
        Usage {
            channels: table.channels.len(),
            finished: table.finished.len(),
            draining: table.draining.len(),
            bytes: table.used,
        }
    }
}

#[cfg(test)]
mod tests;
