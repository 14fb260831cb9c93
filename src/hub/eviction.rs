//! Eviction: runs are discarded when the history of all channels is over `history.total_bytes`.

use crate::hub::Hub;
use crate::hub::expiry::SLICE;
use crate::hub::table::Table;
use crate::wire::close::End;
use std::sync::MutexGuard;
use tokio::time::Instant;

impl Hub {
    /// Evicts up to [`SLICE`] runs to bring the history under a new bound. [`Hub::keep_time`] evicts the rest, and removes what is
    /// due by the new times.
    pub(super) fn apply_total(&self, mut table: MutexGuard<'_, Table>, now: Instant) {
        self.evict_over_total(&mut table, &mut { SLICE });
        self.set_alarm(&mut table, now);
        self.wake(&table);
    }

    /// Evicts up to `left` runs, and notes whether the history may still be over the bound.
    pub(super) fn evict_over_total(&self, table: &mut Table, left: &mut usize) {
        let total = table.limits.total_bytes;
        self.evict(table, None, total, left);
        table.over = *left == 0;
    }

    /// Evicts other runs if the run in `slot` has grown; `used` is the table's `used` before that. While the history is over a
    /// bound that has changed, this only keeps it from growing.
    pub(super) fn make_room(&self, table: &mut Table, slot: usize, used: usize) {
        if table.runs[slot].is_probe() {
            return;
        }
        let total = table.limits.total_bytes;
        let bound = if table.over { total.max(used) } else { total };
        // The number of runs needs no limit here: each run that is moved has had a message or a viewer since it was moved last, and
        // the runs evicted are about as large as the message.
        self.evict(table, Some(slot), bound, &mut { usize::MAX });
    }

    /// Evicts runs until the history is within `bound` or `left`, the number of runs to touch, is 0. Spares the run in slot
    /// `spare` and the probe's.
    fn evict(&self, table: &mut Table, spare: Option<usize>, bound: usize, left: &mut usize) {
        let mut evicted = 0;
        while table.used > bound
            && *left > 0
            && let Some(slot) = table.next_to_evict(spare, left)
        {
            *left -= 1;
            table.discard(slot, End::Evicted);
            evicted += 1;
        }
        if evicted > 0 {
            self.count_evicted(evicted, table.limits.total_bytes);
        }
    }

    /// Counts evicted runs, and logs a line for the first and whenever the count gains a digit: with a full history, runs are evicted
    /// all the time.
    fn count_evicted(&self, evicted: usize, total_bytes: usize) {
        let before = self.metrics.evicted.get();
        self.metrics.evicted.add(evicted);
        if before == 0 || before.ilog10() < self.metrics.evicted.get().ilog10() {
            log::warn!(
                "the history of all channels is over history.total_bytes ({total_bytes} bytes): {} evicted so far, the oldest \
                 finished first",
                self.metrics.evicted.get()
            );
        }
    }
}

impl Table {
    /// Returns the slot of the run to evict next: a run that is over, or else the open run that has been idle for longest. `None` if
    /// there is none but `spare`, or if `left` is used up by ordering the open runs.
    fn next_to_evict(&mut self, spare: Option<usize>, left: &mut usize) -> Option<usize> {
        let complete = self.draining.values().chain(self.finished.values()).find(|slot| Some(**slot) != spare);
        if let Some(slot) = complete {
            return Some(*slot);
        }
        self.order_open(left);
        let mut open = self.open.values();
        let idle = open.find(|slot| Some(**slot) != spare && !self.runs[**slot].is_probe());
        idle.copied().filter(|_| *left > 0)
    }
}
