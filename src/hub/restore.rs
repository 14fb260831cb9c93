//! Handing runs over: saving them for another process, and restoring them with the cursors of their viewers.

use crate::hub::Hub;
use crate::hub::cursor::Cursor;
use crate::hub::run::{Run, Unfinished};
use crate::hub::table::Table;
use crate::snapshot::state::{self, Lifecycle};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

impl Hub {
    /// Shows the runs as another process needs them, each with its slot, in the order in which they began.
    pub fn save<T>(&self, now: Instant, show: impl FnOnce(Vec<(usize, state::Run<'_>)>) -> T) -> T {
        let table = self.table();
        let mut runs: Vec<_> = table.runs.iter().filter(|(_, run)| !run.is_probe()).collect();
        runs.sort_unstable_by_key(|(_, run)| run.number());
        show(runs.into_iter().filter_map(|(slot, run)| Some((slot, run.save(now)?))).collect())
    }

    /// Restores the runs of another process, which saved them `elapsed` ago, and returns their slots. The caller must then call
    /// [`Hub::resume`] for their viewers, and [`Hub::drop_unused`].
    pub fn restore(&self, now: Instant, elapsed: Duration, runs: &[state::Run<'_>]) -> Vec<usize> {
        let mut table = self.table();
        runs.iter().map(|saved| table.restore(now, elapsed, saved)).collect()
    }

    /// Creates a cursor for a viewer that had one in another process.
    pub fn resume(self: &Arc<Self>, slot: usize, offset: u64, rest: Vec<u8>) -> Cursor {
        let mut table = self.table();
        let changed = table.runs[slot].enter();
        drop(table);
        Cursor::new(Arc::clone(self), slot, changed, offset, rest)
    }

    /// Removes the runs in `slots` that nobody needs, and brings the restored history under the limits.
    pub fn drop_unused(&self, now: Instant, slots: &[usize]) {
        let mut table = self.table();
        for &slot in slots {
            let run = &table.runs[slot];
            if run.viewers() == 0 && (run.lifecycle == Some(Lifecycle::Draining) || run.messages() == 0) {
                table.remove(slot);
            }
        }
        self.apply_total(table, now);
    }
}

impl Table {
    /// Restores a run that was saved `elapsed` ago; its ages become times before `now`.
    fn restore(&mut self, now: Instant, elapsed: Duration, saved: &state::Run<'_>) -> usize {
        let before = |age| now.checked_sub(elapsed + Duration::from_millis(age)).unwrap_or(now);
        self.begun += 1;
        let run = Run::restore(saved, self.begun, before(saved.touched));
        let id = Arc::clone(run.id());
        let (number, origin) = (run.number(), saved.origin);
        let slot = self.runs.insert(Box::new(run));
        if let (Some(replicated), Some(origin)) =
            (&mut self.replicated, origin.filter(|_| saved.lifecycle != Lifecycle::Draining))
        {
            replicated.began(origin.began, slot, number);
        }
        if saved.lifecycle != Lifecycle::Draining {
            self.channels.insert(id, slot);
        }
        if let Some(age) = saved.failed {
            self.note_unfinished(slot, Unfinished::Failed, before(age));
        } else if let Some(age) = saved.aborted {
            self.note_unfinished(slot, Unfinished::Aborted, before(age));
        }
        self.set_lifecycle(slot, Some(saved.lifecycle), before(saved.since));
        self.count(slot);
        slot
    }
}
