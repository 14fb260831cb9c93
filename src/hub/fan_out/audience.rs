//! The audience of one run: the number of its viewers, the list of the quiet ones, and the progress of the current round.

use std::sync::Arc;
use tokio::sync::Notify;

/// The viewers of a run.
#[derive(Debug, Default)]
pub(crate) struct Audience {
    /// All viewers, quiet and busy.
    pub(in crate::hub) viewers: usize,
    /// Notified when the log grew or ended; `None` while no viewer is busy.
    pub(in crate::hub) changed: Option<Arc<Notify>>,
    /// The indexes of the quiet viewers' entries.
    pub(in crate::hub) quiet: Vec<u32>,
    /// The number of quiet viewers that the current round has not reached: the first ones of the list. A round goes from the last one to
    /// the first.
    pub(super) pending: usize,
    /// True if the log grew or ended since the round began.
    pub(super) more: bool,
    /// True if the run is in a queue of the fan-out.
    pub(super) queued: bool,
    /// The end of the log when the current round began.
    pub(super) trying: u64,
    /// The end of the log when the last complete round began: the fan-out has tried to send everything before it.
    pub(super) tried: u64,
}

impl Audience {
    /// Adds a quiet viewer; returns its position.
    pub(super) fn add(&mut self, index: u32) -> usize {
        self.viewers += 1;
        self.quiet.push(index);
        self.quiet.len() - 1
    }

    /// Takes the quiet viewer at `position` out of the list, and moves the last one there. Returns the index of the entry that was moved.
    /// The viewer is still counted.
    ///
    /// If the round has reached the viewer that is moved but not `position`, it reaches that viewer twice. The second time it writes only
    /// what is new.
    pub(super) fn remove(&mut self, position: usize) -> Option<u32> {
        self.quiet.swap_remove(position);
        self.pending = self.pending.min(self.quiet.len());
        self.quiet.get(position).copied()
    }

    /// Returns true if some quiet viewer may not have got everything.
    pub(in crate::hub) fn is_in_round(&self) -> bool {
        self.more || self.pending > 0
    }

    /// Begins a round, if something is new since the last one began. `end` is the end of the log.
    pub(super) fn begin_round(&mut self, end: u64) {
        if self.pending == 0 && self.more {
            (self.pending, self.more, self.trying) = (self.quiet.len(), false, end);
        }
    }

    /// Notes the end of the round if it has reached all viewers.
    pub(super) fn end_round(&mut self) {
        if self.pending == 0 {
            self.tried = self.trying;
        }
    }

    /// Notes that a viewer has come to whom nothing from `offset` on was sent.
    pub(super) fn untry(&mut self, offset: u64) {
        (self.tried, self.trying) = (self.tried.min(offset), self.trying.min(offset));
    }

    /// Returns true if the fan-out may not have tried, in a round that goes on, to send what is before `offset`.
    pub(in crate::hub) fn is_behind(&self, offset: u64) -> bool {
        self.tried < offset
    }

    /// Returns true if all viewers are quiet.
    pub(in crate::hub) fn is_quiet(&self) -> bool {
        self.viewers == self.quiet.len()
    }
}
