//! Entries that must become busy: the queue in which `viewer/` finds them.

use crate::hub::Hub;
use crate::hub::cursor::Cursor;
use crate::hub::fan_out::pings::Pings;
use crate::hub::fan_out::{Entry, Key};
use crate::hub::table::Table;
use crate::wire::close::End;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The reason why an entry is handed back.
#[derive(Debug)]
pub(crate) enum Reason {
    /// Its socket took only a part of what there was for it. These bytes are the rest of the frames that were begun.
    Full(Vec<u8>),
    /// Its socket took only a part of a ping. These bytes are the rest of it.
    Ping(&'static [u8]),
    /// It has sent these bytes, and not only pongs.
    Spoke(Vec<u8>),
    /// It did not answer a ping in time.
    Silent,
    /// It hung up, or did not answer its close frame in time, or its connection broke with this error.
    Gone(Option<io::Error>),
    /// The process ends.
    Stop,
}

/// A viewer that was quiet.
#[derive(Debug)]
pub(crate) struct HandBack {
    pub(crate) socket: OwnedFd,
    pub(crate) position: Position,
    pub(crate) pings: Pings,
    pub(crate) owner: u32,
    pub(crate) reason: Reason,
}

/// The position of a viewer that was quiet.
#[derive(Debug)]
pub(crate) enum Position {
    /// In its run.
    Reading(Cursor),
    /// It has left its run, and was sent a close frame with this end, in part at least.
    Closing(End),
}

impl Table {
    /// Removes an entry that is in no list from the table.
    fn take(&mut self, index: usize, reason: Reason, hub: &Arc<Hub>) -> HandBack {
        let entry = self.fan_out.entries.remove(index);
        let end = entry.end();
        let Entry { socket, run, offset, pings, owner, .. } = entry;
        if let Some(end) = end {
            return HandBack { socket, position: Position::Closing(end), pings, owner, reason };
        }
        let audience = self.runs[run as usize].audience.get_or_insert_default();
        let changed = Arc::clone(audience.changed.get_or_insert_default());
        let (rest, reason) = match reason {
            Reason::Full(rest) => (rest, Reason::Full(Vec::new())),
            reason => (Vec::new(), reason),
        };
        let mut cursor = Cursor::new(Arc::clone(hub), run as usize, changed, offset, rest);
        cursor.set_live();
        HandBack { socket, position: Position::Reading(cursor), pings, owner, reason }
    }

    /// Removes an entry from its list, if it is in one, and from the table.
    pub(super) fn take_any(&mut self, index: usize, hub: &Arc<Hub>) -> HandBack {
        self.unlist(index);
        self.take(index, Reason::Stop, hub)
    }
}

impl Hub {
    /// Returns the next viewer that must become busy.
    pub(crate) fn next_back(self: &Arc<Self>) -> Option<HandBack> {
        let mut table = self.table();
        let (index, reason) = table.fan_out.back.pop_front()?;
        Some(table.take(index as usize, reason, self))
    }

    /// Removes the next entry and returns its viewer, or `None` if no entry is left. Only for the end of the process, when no viewer
    /// becomes quiet any more. `from` is 0 at the first call.
    pub(crate) fn next_remaining(self: &Arc<Self>, from: &mut usize) -> Option<HandBack> {
        if let Some(back) = self.next_back() {
            return Some(back);
        }
        let mut table = self.table();
        while *from < table.fan_out.entries.capacity() {
            let index = *from;
            *from += 1;
            if table.fan_out.entries.contains(index) {
                return Some(table.take_any(index, self));
            }
        }
        None
    }

    /// Returns true if the entry with this key still exists.
    pub(in crate::hub) fn has_entry(&self, key: Key) -> bool {
        let table = self.table();
        table.fan_out.entries.get(key.index as usize).is_some_and(|entry| entry.generation == key.generation)
    }

    /// Removes a viewer and closes its socket, if it is quiet still.
    pub(in crate::hub) fn remove_quiet(self: &Arc<Self>, key: Key) {
        let mut table = self.table();
        if let Some(index) = table.fan_out.find(key) {
            let removed = table.take_any(index, self);
            // The cursor locks the table again.
            drop(table);
            drop(removed);
        }
    }

    /// Completes when a viewer may have been handed back.
    pub(crate) async fn some_back(&self) {
        self.back.notified().await;
    }

    /// Wakes the tasks that serve the fan-out's queues, if there is something in them.
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
