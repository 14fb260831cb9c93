//! The invariants of a hub, which tests and fuzz targets check after every step.

use crate::hub::Hub;
use crate::hub::replicated::Replicated;
use crate::hub::run::Unfinished;
use crate::hub::table::Order;
use crate::snapshot::state::Lifecycle;

impl Hub {
    /// Checks that the history counted is the sum over all runs and within its bound, that every run is in exactly one order, and
    /// that the alarm is set.
    ///
    /// # Panics
    /// If one of these does not hold.
    pub fn check(&self) {
        let table = self.table();
        let ordered: Vec<_> =
            [&table.open, &table.finished, &table.draining].into_iter().flat_map(Order::values).collect();
        assert_eq!(table.used, ordered.iter().map(|slot| table.runs[**slot].cost()).sum::<usize>());
        let jobs = ordered.iter().filter(|slot| !table.runs[***slot].is_probe()).count();
        // While the monitor stops, nothing is evicted and nothing expires.
        assert!(table.used <= table.limits.total_bytes || jobs == 1 || table.stopping || table.over);
        assert_eq!(table.channels.len(), table.open.len() + table.finished.len());
        let removed: Vec<_> = table.runs.iter().filter(|(_, run)| run.lifecycle.is_none()).collect();
        assert_eq!(table.runs.len(), ordered.len() + removed.len());
        assert!(removed.iter().all(|(_, run)| run.viewers() > 0));
        for (order, last) in [(&table.failed, Unfinished::Failed), (&table.aborted, Unfinished::Aborted)] {
            for (&(at, number), &slot) in order {
                let run = &table.runs[slot];
                assert_eq!(
                    (run.lifecycle, run.number(), run.unfinished),
                    (Some(Lifecycle::Open), number, Some((last, at)))
                );
            }
        }
        let unfinished = table.runs.iter().filter(|(_, run)| run.unfinished.is_some()).count();
        assert_eq!(unfinished, table.failed.len() + table.aborted.len());
        let is_in_past = table.replicated.as_ref().is_some_and(Replicated::is_in_past);
        if let Some(due) = table.next_due().filter(|_| !table.stopping && !is_in_past) {
            assert!(table.alarm.is_some_and(|alarm| alarm <= due));
        }
        assert!(table.alarm.is_some() || !table.over);
        table.check_quiet();
    }
}
