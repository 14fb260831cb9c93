//! The end of quiet viewers: a run has ended, and they have everything of it.
//!
//! Each is sent its close frame in a slice of writes and leaves its run. It stays an entry, without a task, until it answers.

use crate::deadline;
use crate::hub::Hub;
use crate::hub::fan_out::pings::Pings;
use crate::hub::fan_out::round::Slice;
use crate::hub::fan_out::{Reason, State};
use crate::hub::table::Table;
use crate::metrics::counters::Close;
use crate::wire::close::CLOSE_TIMEOUT;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use tokio::time::Instant;

impl Hub {
    /// Sends close frames to quiet viewers of runs that have ended, for a slice of time. If `finish` is true, FINISHED goes before the
    /// frame, unless the viewer has got the job's own. Returns true if some are left.
    pub(crate) fn close_ended(&self, now: Instant, finish: bool) -> bool {
        let mut table = self.table();
        let mut slice = Slice::begin();
        while let Some(index) = table.next_ended() {
            if slice.is_over() {
                break;
            }
            table.close(index, now, finish);
            let deadline = table.fan_out.entries[index].pings.next();
            self.note_deadline(&mut table, deadline);
        }
        self.wake(&table);
        !table.fan_out.ended.is_empty()
    }

    /// Completes when a quiet viewer may have to be closed.
    pub(crate) async fn some_ended(&self) {
        self.ended.notified().await;
    }
}

impl Table {
    /// Returns the index of the next entry that is to be closed.
    pub(super) fn next_ended(&mut self) -> Option<usize> {
        while let Some(&slot) = self.fan_out.ended.front() {
            // The slot may belong to another run by now, or be free.
            let run = self.runs.get(slot).filter(|run| run.end.is_some());
            if let Some(index) = run.and_then(|run| run.audience.as_ref()?.quiet.last()) {
                return Some(*index as usize);
            }
            self.fan_out.ended.pop_front();
        }
        None
    }

    /// Sends a quiet viewer its close frame, and takes it out of its run.
    fn close(&mut self, index: usize, now: Instant, finish: bool) {
        let entry = &self.fan_out.entries[index];
        let slot = entry.run as usize;
        let Some(end) = self.runs[slot].end_at(entry.offset) else {
            // It is behind: a task writes what it has not got.
            return self.hand_back(index, Reason::Full(Vec::new()));
        };
        let is_probe = self.runs[slot].is_probe();
        self.unlist(index);
        self.leave(slot);
        let entry = &mut self.fan_out.entries[index];
        entry.state = State::Closing(end);
        entry.pings = Pings::closing(now + CLOSE_TIMEOUT);
        if let Some(code) = Close::with(end.close().0.into()).filter(|_| !is_probe) {
            self.fan_out.metrics.closed.add(code);
        }
        let bytes = end.closing_bytes(finish);
        match send(&entry.socket, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) if sent == bytes.len() => {}
            Ok(sent) => self.hand_back(index, Reason::Full(bytes[sent..].to_vec())),
            Err(Errno::AGAIN | Errno::INTR) => self.hand_back(index, Reason::Full(bytes)),
            Err(e) => self.hand_back(index, Reason::Gone(Some(e.into()))),
        }
    }

    /// Gives up an entry that has not answered its close frame in time.
    pub(super) fn keep_closing(&mut self, index: usize, now: Instant) {
        // The answer may already be in the socket.
        self.hear(index);
        let Some(entry) = self.fan_out.entry(index) else { return };
        if deadline::was_paused(entry.pings.next()) {
            entry.pings = Pings::closing(now + CLOSE_TIMEOUT);
        } else {
            self.hand_back(index, Reason::Gone(None));
        }
    }
}
