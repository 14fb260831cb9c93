//! The table of runs: the current run of each channel, and the runs in the order in which they expire.

use crate::config::History;
use crate::hub::fan_out::FanOut;
use crate::hub::replicated::Replicated;
use crate::hub::run::{Run, Unfinished};
use crate::metrics::counters::Metrics;
use crate::snapshot::state::Lifecycle;
use crate::wire::close::End;
use slab::Slab;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::time::Instant;

/// The slots of runs in the order of their times; the run's number makes equal times distinct.
pub(super) type Order = BTreeMap<(Instant, u64), usize>;

/// All runs of a hub, behind its lock.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) limits: History,
    /// All runs; boxed, so that slots which are empty after a peak are small.
    pub(super) runs: Slab<Box<Run>>,
    /// The slot of each channel's current run.
    pub(super) channels: HashMap<Arc<str>, usize>,
    pub(super) open: Order,
    pub(super) finished: Order,
    pub(super) draining: Order,
    /// Runs whose last message was FAILED.
    pub(super) failed: Order,
    /// Runs whose last message was ABORTED.
    pub(super) aborted: Order,
    /// The number of runs begun so far.
    pub(super) begun: u64,
    /// The sum of what the runs cost, in bytes.
    pub(super) used: usize,
    pub(super) stopping: bool,
    /// True if runs stay although their viewers leave.
    pub(super) frozen: bool,
    /// True while the history may be over a bound that has changed; [`crate::hub::Hub::expire`] evicts until it is not.
    pub(super) over: bool,
    /// When [`crate::hub::Hub::keep_time`] wakes.
    pub(super) alarm: Option<Instant>,
    /// The quiet viewers.
    pub(super) fan_out: FanOut,
    /// The notes on the stream of the cluster, if the hub is fed by it.
    pub(super) replicated: Option<Replicated>,
}

impl Table {
    pub(super) fn new(limits: History, metrics: Arc<Metrics>) -> Self {
        Self {
            limits,
            runs: Slab::new(),
            channels: HashMap::new(),
            open: Order::new(),
            finished: Order::new(),
            draining: Order::new(),
            failed: Order::new(),
            aborted: Order::new(),
            begun: 0,
            used: 0,
            stopping: false,
            frozen: false,
            over: false,
            alarm: None,
            fan_out: FanOut::new(metrics),
            replicated: None,
        }
    }

    /// Returns the slot of the current run of channel `id`. A run is begun if there is none.
    pub(super) fn current(&mut self, id: &str, now: Instant) -> usize {
        if let Some(slot) = self.channels.get(id) {
            return *slot;
        }
        self.begun += 1;
        let id: Arc<str> = id.into();
        let mut run = Run::new(Arc::clone(&id), self.begun, now);
        run.end = self.stopping.then_some(End::Stopping);
        let slot = self.runs.insert(Box::new(run));
        self.channels.insert(id, slot);
        self.set_lifecycle(slot, Some(Lifecycle::Open), now);
        self.count(slot);
        slot
    }

    fn order(&mut self, lifecycle: Lifecycle) -> &mut Order {
        match lifecycle {
            Lifecycle::Open => &mut self.open,
            Lifecycle::Finished => &mut self.finished,
            Lifecycle::Draining => &mut self.draining,
        }
    }

    /// Changes a run's lifecycle; `None` takes it out of every order.
    pub(super) fn set_lifecycle(&mut self, slot: usize, lifecycle: Option<Lifecycle>, since: Instant) {
        let run = &mut self.runs[slot];
        let number = run.number();
        let (old, before) = (run.lifecycle, run.since);
        (run.lifecycle, run.since) = (lifecycle, since);
        let origin = run.origin.as_ref().map(|origin| origin.began);
        if let Some(old) = old {
            self.order(old).remove(&(before, number));
        }
        if let (Some(replicated), Some(began), None | Some(Lifecycle::Draining)) =
            (&mut self.replicated, origin, lifecycle)
        {
            replicated.ended(began, slot, number);
        }
        if let Some(lifecycle) = lifecycle {
            self.order(lifecycle).insert((since, number), slot);
        }
    }

    /// Brings the longest idle run to the front of the open runs. Touches at most `left` runs, and counts it down.
    ///
    /// A message only notes its time in the run: it costs less if it does not move its run in the order.
    pub(super) fn order_open(&mut self, left: &mut usize) {
        while *left > 0
            && let Some((&(since, _), &slot)) = self.open.first_key_value()
        {
            let touched = self.runs[slot].touched;
            if touched == since {
                return;
            }
            *left -= 1;
            self.set_lifecycle(slot, Some(Lifecycle::Open), touched);
        }
    }

    /// Updates the cost that is counted for a run.
    pub(super) fn count(&mut self, slot: usize) {
        let run = &mut self.runs[slot];
        let cost = run.cost();
        self.used = self.used - run.counted + cost;
        run.counted = cost;
    }

    /// Returns the runs that wait for their release after this message.
    pub(super) fn unfinished(&mut self, last: Unfinished) -> &mut Order {
        match last {
            Unfinished::Failed => &mut self.failed,
            Unfinished::Aborted => &mut self.aborted,
        }
    }

    /// Notes that the last message of a run came at `at` and was FAILED or ABORTED.
    pub(super) fn note_unfinished(&mut self, slot: usize, last: Unfinished, at: Instant) {
        let run = &mut self.runs[slot];
        run.unfinished = Some((last, at));
        let number = run.number();
        self.unfinished(last).insert((at, number), slot);
    }

    pub(super) fn forget_unfinished(&mut self, slot: usize) {
        let run = &mut self.runs[slot];
        if let Some((last, at)) = run.unfinished.take() {
            let number = run.number();
            self.unfinished(last).remove(&(at, number));
        }
    }

    /// Makes a finished run unreachable by id; it stays for the viewers that still read it.
    pub(super) fn supersede(&mut self, slot: usize) {
        let run = &self.runs[slot];
        if run.viewers() == 0 {
            self.remove(slot);
        } else {
            self.channels.remove(run.id());
            let since = run.since;
            self.set_lifecycle(slot, Some(Lifecycle::Draining), since);
        }
    }

    /// Takes a viewer from the run in `slot` that is in no list. The run is removed if it is not needed any more.
    pub(super) fn leave(&mut self, slot: usize) {
        if self.frozen {
            return;
        }
        let run = &mut self.runs[slot];
        if !run.leave() {
            return;
        }
        match run.lifecycle {
            None => drop(self.runs.remove(slot)),
            Some(Lifecycle::Draining) => self.remove(slot),
            Some(Lifecycle::Open) if run.messages() == 0 => self.remove(slot),
            Some(Lifecycle::Open | Lifecycle::Finished) => {}
        }
    }

    /// Drops a run's history, tells its viewers the end, and removes the run.
    pub(super) fn discard(&mut self, slot: usize, end: End) {
        // Its quiet viewers get what was there.
        self.write_all(slot);
        self.runs[slot].discard(end);
        self.runs[slot].notify();
        self.mark(slot);
        self.remove(slot);
    }

    /// Removes a run; its slot stays as long as it has viewers.
    pub(super) fn remove(&mut self, slot: usize) {
        self.forget_unfinished(slot);
        let run = &mut self.runs[slot];
        self.used -= std::mem::take(&mut run.counted);
        if matches!(run.lifecycle, Some(Lifecycle::Open | Lifecycle::Finished)) {
            self.channels.remove(run.id());
        }
        let (since, viewers) = (run.since, run.viewers());
        self.set_lifecycle(slot, None, since);
        if viewers == 0 {
            self.runs.remove(slot);
        }
    }
}
