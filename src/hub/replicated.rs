//! The notes of a hub that is fed by the stream of a cluster: the entry in which each run began, and the place of its last message.
//!
//! Such a hub finishes no job by itself. A job that failed or was aborted, and after which nothing came, is finished by a record in the
//! stream, so that all hubs do it at the same place.

use crate::hub::expiry::SLICE;
use crate::hub::run::{Run, Unfinished};
use crate::hub::table::Table;
use crate::hub::{Hub, Publisher};
use crate::snapshot::state::Lifecycle;
use crate::snapshot::stream::{EntryId, Origin, Place};
use crate::wire::close::End;
use crate::wire::message::{Kind, RELEASE_FRAME};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::task::yield_now;
use tokio::time::Instant;

/// The notes of all runs.
#[derive(Debug, Default)]
pub(super) struct Replicated {
    /// The runs that are open or finished and that came from the stream: the entry of the first message, the run's number, and its slot.
    begun: BTreeSet<(EntryId, u64, usize)>,
    /// The messages that came after FINISHED, and were dropped: by the entry with the last message of the run and by its number,
    /// the entry with the last one that was dropped. Runs that are gone stay here. The stream must not begin between the two
    /// entries: a node that starts would take the dropped message for the first one of a new job.
    pub(super) dropped: BTreeMap<(EntryId, u64), EntryId>,
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

    /// Returns the entry in which the oldest run began that is open or finished, if there is one.
    pub(super) fn oldest_entry(&self) -> Option<EntryId> {
        self.begun.first().map(|(entry, ..)| *entry)
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

    /// Does all that was due at `now`: so the hub is what it was at that time on a node that was there. For a node that catches up.
    pub(crate) fn expire_until(&self, now: Instant) {
        while self.remove_slice(now) {}
    }

    /// Ends the time in which the records are from the past. First does all that is due by now, and gives other tasks their turn meanwhile:
    /// viewers who come after that get what they get on the other nodes.
    pub(crate) async fn come_to_now(&self) {
        while self.remove_slice(Instant::now()) {
            yield_now().await;
        }
        self.set_in_past(false);
    }

    /// Removes some of the runs that are due. Returns false if none was.
    fn remove_slice(&self, now: Instant) -> bool {
        let mut publisher = self.publisher(now);
        let is_due = publisher.table.next_due().is_some_and(|due| due <= now);
        if is_due {
            self.remove_due(&mut publisher.table, now, &mut { SLICE });
        }
        is_due
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

    /// Returns the first entry that the stream must keep, so that a node that starts comes to have the runs of this one. It is `most`
    /// or an earlier one.
    pub(crate) fn first_needed(&self, most: EntryId) -> EntryId {
        let mut table = self.table();
        let Some(replicated) = &mut table.replicated else { return most };
        let mut first = replicated.oldest_entry().map_or(most, |oldest| oldest.min(most));
        // An earlier beginning may be between two others.
        for ((finished, _), last) in replicated.dropped.range(..(first, 0)).rev() {
            if *last >= first {
                first = *finished;
            }
        }
        replicated.dropped.retain(|_, last| *last >= first);
        first
    }

    /// Ends the open jobs whose rest is nowhere: those that began before `first`, the first entry of the stream, and viewers' channels
    /// without a message. Returns their number.
    pub(crate) fn end_lost(&self, now: Instant, first: EntryId) -> usize {
        let mut table = self.table();
        let is_lost = |run: &Run| match &run.origin {
            Some(origin) => origin.began < first,
            None => run.messages() == 0,
        };
        let is_open = |run: &Run| run.lifecycle == Some(Lifecycle::Open) && !run.is_probe();
        let lost = table.runs.iter().filter(|(_, run)| is_open(run) && is_lost(run)).map(|(slot, _)| slot);
        let lost: Vec<_> = lost.collect();
        for slot in &lost {
            table.discard(*slot, End::Evicted);
        }
        self.metrics.evicted.add(lost.len());
        self.set_alarm(&mut table, now);
        self.wake(&table);
        lost.len()
    }

    /// Returns the messages that came after FINISHED and were dropped, for another process: the entries of the last message of each run and
    /// of the last one that was dropped.
    pub(crate) fn dropped(&self) -> Vec<(EntryId, EntryId)> {
        let table = self.table();
        let dropped = table.replicated.iter().flat_map(|replicated| &replicated.dropped);
        dropped.map(|((finished, _), last)| (*finished, *last)).collect()
    }

    /// Goes on with the dropped messages that another process has noted.
    pub(crate) fn restore_dropped(&self, dropped: Vec<(EntryId, EntryId)>) {
        let mut table = self.table();
        let Some(replicated) = &mut table.replicated else { return };
        // The number 0 is no run's. Of several with one entry, the latest message counts.
        for (finished, last) in dropped {
            let noted = replicated.dropped.entry((finished, 0)).or_insert(last);
            *noted = last.max(*noted);
        }
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
        for ((_, number), last) in replicated.dropped.split_off(&(after, 0)) {
            replicated.dropped.insert((entry, number), last);
        }
        for (_, run) in runs.iter_mut() {
            if let Some(origin) = &mut run.origin {
                origin.at = origin.at.min(entry);
            }
        }
    }
}

impl Table {
    /// Returns true while the hub does nothing by the clock.
    pub(super) fn is_in_past(&self) -> bool {
        self.replicated.as_ref().is_some_and(Replicated::is_in_past)
    }

    /// Notes that a message of this entry came after FINISHED of the run in `slot`, and was dropped.
    pub(super) fn note_dropped(&mut self, slot: usize, entry: &Entry) {
        let run = &self.runs[slot];
        if let (Some(replicated), Some(origin)) = (&mut self.replicated, &run.origin) {
            replicated.dropped.insert((origin.at, run.number()), entry.id);
        }
    }

    /// Notes the place of a message that was appended to the run in `slot`.
    pub(super) fn note_origin(&mut self, slot: usize, entry: &Entry) {
        let run = &mut self.runs[slot];
        if let Some(origin) = &mut run.origin {
            (origin.at, origin.last) = (entry.id, entry.next);
            return;
        }
        run.origin = Some(Box::new(Origin { began: entry.id, at: entry.id, last: entry.next }));
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
        let before = self.table.runs[slot].origin.as_ref().map(|origin| origin.at);
        self.append(slot, Kind::Finished, RELEASE_FRAME, used);
        // The entry of the release is not enough: it says nothing without the message before it.
        if let (Some(origin), Some(before)) = (&mut self.table.runs[slot].origin, before) {
            origin.at = before;
        }
    }
}
