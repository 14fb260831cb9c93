//! The notes of a hub that is fed by the stream of a cluster: the entry in which each run began, and the place of its last message.
//!
//! Such a hub finishes no job by itself. A job that failed or was aborted, and after which nothing came, is finished by a record in the
//! stream, so that all hubs do it at the same place.

use crate::hub::run::Unfinished;
use crate::hub::table::Table;
use crate::hub::{Hub, Publisher};
use crate::snapshot::stream::{EntryId, Origin, Place};
use crate::wire::message::{Kind, RELEASE_FRAME};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::time::Instant;

/// The notes of all runs.
#[derive(Debug, Default)]
pub(super) struct Replicated {
    /// The runs that are open or finished and that came from the stream: the entry of the first message, the run's number, and its slot.
    begun: BTreeSet<(EntryId, u64, usize)>,
    /// True while the records that are published are from the past: the hub does only what was due then.
    is_in_past: bool,
}

/// The entry of the stream from which a publisher publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The id of the entry.
    pub(crate) id: EntryId,
    /// The place of the next record.
    pub(crate) next: Place,
}

impl Replicated {
    /// Notes that a run began with a message of this entry.
    pub(super) fn began(&mut self, entry: EntryId, slot: usize, number: u64) {
        self.begun.insert((entry, number, slot));
    }

    /// Notes that a run is neither open nor finished any more.
    pub(super) fn ended(&mut self, entry: EntryId, slot: usize, number: u64) {
        self.begun.remove(&(entry, number, slot));
    }

    /// Returns true while the hub does nothing by the clock.
    pub(super) fn is_in_past(&self) -> bool {
        self.is_in_past
    }
}

impl Hub {
    /// Makes this the hub of a node in a cluster, which is fed by the stream. To be called before anything is published or restored.
    pub(crate) fn follow_stream(&self) {
        self.table().replicated = Some(Replicated::default());
    }

    /// Locks the hub for the records of an entry that came at `now`.
    pub(crate) fn publisher_of(&self, now: Instant, entry: Entry) -> Publisher<'_> {
        Publisher::of_entry(self, now, entry)
    }

    /// Does all that is due at `now`: so the hub is what it was at that time on a node that was there. For a node that catches up.
    pub(crate) fn expire_until(&self, now: Instant) {
        while self.table().next_due().is_some_and(|due| due <= now) {
            self.expire(now);
        }
    }

    /// Returns up to `limit` jobs that failed or were aborted and have been silent since, each with the place of that message. Each is
    /// returned once.
    pub(crate) fn due_releases(&self, now: Instant, limit: usize) -> Vec<(Arc<str>, Place)> {
        let mut publisher = self.publisher(now);
        let mut due = Vec::new();
        for last in [Unfinished::Failed, Unfinished::Aborted] {
            let Some(time) = publisher.table.release_after(last) else { continue };
            let order = publisher.table.unfinished(last).iter();
            let slots = order.take_while(|((at, _), _)| *at + time <= now).map(|(_, slot)| *slot);
            for slot in slots.take(limit - due.len()).collect::<Vec<_>>() {
                let run = &publisher.table.runs[slot];
                if let Some(origin) = &run.origin {
                    due.push((Arc::clone(run.id()), origin.last));
                    // The release comes back through the stream. Until then the run is open.
                    publisher.table.forget_unfinished(slot);
                } else {
                    // It is from before this node joined the cluster.
                    publisher.finish_silent(slot);
                }
            }
        }
        due
    }

    /// Notes if the records to come are from the past. The hub then does what was due at their times, and nothing by the clock.
    pub(crate) fn set_in_past(&self, is_in_past: bool) {
        let mut table = self.table();
        if let Some(replicated) = &mut table.replicated {
            replicated.is_in_past = is_in_past;
        }
        table.alarm = None;
        self.set_alarm(&mut table, Instant::now());
    }

    /// Returns the entry in which the oldest run began that is open or finished, if there is one.
    pub(crate) fn oldest_entry(&self) -> Option<EntryId> {
        let (entry, ..) = *self.table().replicated.as_ref()?.begun.first()?;
        Some(entry)
    }

    /// Notes that no run began after `entry`: what was read after it may stand anywhere behind it by now, since a failover has cut it off.
    pub(crate) fn begin_by(&self, entry: EntryId) {
        let mut table = self.table();
        let Table { replicated: Some(replicated), runs, .. } = &mut *table else { return };
        let after = EntryId { number: entry.number.saturating_add(1), ..entry };
        for (_, number, slot) in replicated.begun.split_off(&(after, 0, 0)) {
            if let Some(origin) = &mut runs[slot].origin {
                origin.began = entry;
            }
            replicated.began(entry, slot, number);
        }
    }
}

impl Table {
    /// Notes the place of a message that was appended to the run in `slot`.
    pub(super) fn note_origin(&mut self, slot: usize, entry: &Entry) {
        let run = &mut self.runs[slot];
        if let Some(origin) = &mut run.origin {
            origin.last = entry.next;
            return;
        }
        run.origin = Some(Box::new(Origin { began: entry.id, last: entry.next }));
        let number = run.number();
        if let Some(replicated) = &mut self.replicated {
            replicated.began(entry.id, slot, number);
        }
    }
}

impl Publisher<'_> {
    /// Finishes a job in place of its broker, if `of` is still the last message of its run.
    pub(crate) fn release(&mut self, id: &str, of: Place) {
        let slot = self.table.channels.get(id).copied();
        let is_last = |slot: &usize| {
            let run = &self.table.runs[*slot];
            run.end.is_none() && run.origin.as_ref().is_some_and(|origin| origin.last == of)
        };
        if let Some(slot) = slot.filter(is_last) {
            self.finish_silent(slot);
        }
        self.skip();
    }

    fn finish_silent(&mut self, slot: usize) {
        self.count_released(slot, "failed or was aborted");
        let used = self.table.used;
        self.append(slot, Kind::Finished, RELEASE_FRAME, used);
    }
}
