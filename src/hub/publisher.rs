//! Publishing: messages are appended to the current runs of their channels.

use crate::hub::Hub;
use crate::hub::replicated::Entry;
use crate::hub::run::{Bounds, Unfinished};
use crate::hub::table::Table;
use crate::logging::{Abridged, Throttle};
use crate::snapshot::state::Lifecycle;
use crate::wire::close::End;
use crate::wire::message::Kind;
use std::sync::MutexGuard;
use std::time::Duration;
use tokio::time::Instant;

static TRIMMED: Throttle = Throttle::bursts(5, Duration::from_secs(60));
static LATE: Throttle = Throttle::bursts(5, Duration::from_secs(60));

/// The hub, locked by one broker's link for the messages of one read.
#[derive(Debug)]
pub struct Publisher<'a> {
    pub(super) hub: &'a Hub,
    pub(super) table: MutexGuard<'a, Table>,
    now: Instant,
    /// Messages appended, which the metrics do not count yet.
    appended: usize,
    /// The entry of the stream that the messages are from, if the hub is fed by one.
    entry: Option<Entry>,
}

impl<'a> Publisher<'a> {
    pub(super) fn new(hub: &'a Hub, now: Instant) -> Self {
        Self { hub, table: hub.table(), now, appended: 0, entry: None }
    }

    pub(super) fn of_entry(hub: &'a Hub, now: Instant, entry: Entry) -> Self {
        Self { hub, table: hub.table(), now, appended: 0, entry: Some(entry) }
    }

    /// Goes on to the next record of the entry.
    pub(super) fn skip(&mut self) {
        if let Some(entry) = &mut self.entry {
            entry.next.index += 1;
        }
    }

    /// Appends a message's ready frame to its channel and wakes the busy viewers. The quiet ones are written to when the publisher is
    /// dropped, so that all messages of a read leave in one write.
    ///
    /// If the job has finished, only a message that begins a job is appended, to a new run; others are dropped and counted.
    pub fn publish(&mut self, id: &str, kind: Kind, frame: &[u8]) {
        self.take(id, kind, frame);
        self.skip();
    }

    fn take(&mut self, id: &str, kind: Kind, frame: &[u8]) {
        let used = self.table.used;
        let mut slot = self.table.current(id, self.now);
        if self.table.runs[slot].end == Some(End::Finished) {
            if kind != Kind::Begins {
                if let Some(entry) = &self.entry {
                    self.table.note_dropped(slot, entry);
                }
                return self.drop_late(id, kind);
            }
            self.table.supersede(slot);
            slot = self.table.current(id, self.now);
        }
        self.append(slot, kind, frame, used);
    }

    /// Counts and logs a message that came after FINISHED.
    fn drop_late(&self, id: &str, kind: Kind) {
        if kind == Kind::Finished {
            self.hub.metrics.repeated.add(1);
            log::debug!("channel {}: dropped a repeated FINISHED", Abridged(id));
            return;
        }
        self.hub.metrics.late.add(1);
        if let Some(more) = LATE.pass() {
            log::info!("channel {}: dropped a message that came after FINISHED{more}", Abridged(id));
        }
    }

    /// Appends a frame to a run, unless the monitor stops. `used` is the table's `used` before the message came.
    pub(super) fn append(&mut self, slot: usize, kind: Kind, frame: &[u8], used: usize) {
        let (hub, table, now) = (self.hub, &mut *self.table, self.now);
        let run = &mut table.runs[slot];
        if run.end.is_some() {
            return;
        }
        let (bounds, trimmed_before) = (Bounds::of(&table.limits), run.trimmed);
        if run.drops_untried(frame.len(), bounds) {
            table.write_all(slot);
        }
        let run = &mut table.runs[slot];
        let dropped = run.append(frame, bounds);
        if !run.is_probe() {
            self.appended += 1;
        }
        if dropped > 0 {
            hub.metrics.trimmed.add(dropped);
            if !trimmed_before && let Some(more) = TRIMMED.pass() {
                log::warn!(
                    "channel {}: history is over its bounds (history.channel_messages, history.channel_bytes); its \
                     oldest messages are dropped, late viewers get the rest{more}",
                    Abridged(run.id())
                );
            }
        }
        (run.touched, run.appended) = (now, now);
        run.notify();
        table.mark(slot);
        if let Some(entry) = &self.entry {
            table.note_origin(slot, entry);
        }
        table.forget_unfinished(slot);
        match kind {
            Kind::Begins | Kind::Progress => {}
            Kind::Failed => table.note_unfinished(slot, Unfinished::Failed, now),
            Kind::Aborted => table.note_unfinished(slot, Unfinished::Aborted, now),
            Kind::Finished => {
                table.runs[slot].finish();
                table.set_lifecycle(slot, Some(Lifecycle::Finished), now);
            }
        }
        table.count(slot);
        hub.make_room(table, slot, used);
    }
}

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        self.hub.metrics.messages.add(self.appended);
        self.table.deliver(false);
        self.hub.set_alarm(&mut self.table, self.now);
        self.hub.wake(&self.table);
    }
}
