//! Quiet viewers that must become busy: the queue in which `viewer/` finds them.

use crate::hub::Hub;
use crate::hub::cursor::Cursor;
use crate::hub::fan_out::pings::Pings;
use crate::hub::fan_out::{Entry, Key};
use crate::hub::table::Table;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The reason why a quiet viewer is handed back.
#[derive(Debug)]
pub(crate) enum Why {
    /// Its socket took only a part of what there was for it. These bytes are the rest of the frame that was cut.
    Full(Vec<u8>),
    /// Its socket took only a part of a ping. These bytes are the rest of it.
    Ping(&'static [u8]),
    /// It has sent these bytes, which are not pongs only.
    Spoke(Vec<u8>),
    /// It did not answer a ping in time.
    Silent,
    /// It has everything of a run that has ended.
    Ended,
    /// It hung up, or its connection broke with this error.
    Gone(Option<io::Error>),
    /// The process ends.
    Stop,
}

/// A viewer that was quiet.
#[derive(Debug)]
pub(crate) struct HandBack {
    pub(crate) socket: OwnedFd,
    pub(crate) cursor: Cursor,
    pub(crate) pings: Pings,
    pub(crate) owner: u32,
    pub(crate) why: Why,
}

impl Table {
    /// Takes an entry that is in no list any more out of the table of entries.
    fn take(&mut self, index: usize, why: Why, hub: &Arc<Hub>) -> HandBack {
        let Entry { socket, run, offset, pings, owner, .. } = self.fan_out.entries.remove(index);
        let audience = self.runs[run as usize].audience_mut();
        let changed = Arc::clone(audience.changed.get_or_insert_default());
        let (rest, why) = match why {
            Why::Full(rest) => (rest, Why::Full(Vec::new())),
            why => (Vec::new(), why),
        };
        let mut cursor = Cursor::new(Arc::clone(hub), run as usize, changed, offset, rest);
        cursor.set_live();
        HandBack { socket, cursor, pings, owner, why }
    }
}

impl Hub {
    /// Returns the next viewer that must become busy.
    pub(crate) fn next_back(self: &Arc<Self>) -> Option<HandBack> {
        let mut table = self.table();
        let (index, why) = table.fan_out.back.pop_front()?;
        Some(table.take(index as usize, why, self))
    }

    /// Returns the next viewer that has everything of a run that has ended, and is to be closed.
    pub(crate) fn next_ended(self: &Arc<Self>) -> Option<HandBack> {
        let mut table = self.table();
        while let Some(&slot) = table.fan_out.ended.front() {
            // The slot may be another run's by now, or nobody's.
            let run = table.runs.get(slot).filter(|run| run.end.is_some());
            let Some(&index) = run.and_then(|run| run.audience()?.quiet.last()) else {
                table.fan_out.ended.pop_front();
                continue;
            };
            table.unlist(index as usize);
            return Some(table.take(index as usize, Why::Ended, self));
        }
        None
    }

    /// Returns any viewer that is quiet or waits to be handed back, until there is none: at the end of the process.
    pub(crate) fn next_left(self: &Arc<Self>) -> Option<HandBack> {
        if let Some(back) = self.next_back() {
            return Some(back);
        }
        let mut table = self.table();
        let (index, _) = table.fan_out.entries.iter().next()?;
        table.unlist(index);
        Some(table.take(index, Why::Stop, self))
    }

    /// Removes a quiet viewer and closes its socket, unless it is not quiet any more.
    pub(in crate::hub) fn remove_quiet(self: &Arc<Self>, key: Key) {
        let mut table = self.table();
        if let Some(index) = table.fan_out.find(key) {
            table.unlist(index);
            let removed = table.take(index, Why::Stop, self);
            // The cursor locks the table again.
            drop(table);
            drop(removed);
        }
    }

    /// Completes when a viewer may have been handed back.
    pub(crate) async fn some_back(&self) {
        self.back.notified().await;
    }

    /// Completes when a quiet viewer may have to be closed.
    pub(crate) async fn some_ended(&self) {
        self.ended.notified().await;
    }

    /// Wakes those who serve what waits in the fan-out's queues.
    pub(in crate::hub) fn wake(&self, table: &Table) {
        let fan_out = &table.fan_out;
        if !fan_out.fresh.is_empty() || !fan_out.rounds.is_empty() {
            self.rounds.notify_one();
        }
        if !fan_out.back.is_empty() {
            self.back.notify_one();
        }
        if !fan_out.ended.is_empty() {
            self.ended.notify_one();
        }
    }
}
