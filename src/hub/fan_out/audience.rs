//! The viewers of one run: how many they are, the quiet ones, and how far the current round has come.

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
    /// The round goes from the last quiet viewer to the first. It has not come to those before this place.
    pub(in crate::hub) left: usize,
    /// True if the log grew or ended since the round began.
    pub(in crate::hub) more: bool,
    /// True if the run is in a queue of the fan-out.
    pub(in crate::hub) in_turn: bool,
}

impl Audience {
    /// Adds a quiet viewer; returns its place.
    pub(super) fn add(&mut self, index: u32) -> usize {
        self.viewers += 1;
        self.quiet.push(index);
        self.quiet.len() - 1
    }

    /// Removes the quiet viewer at `place`, and moves the last one there. Returns the index of the entry that was moved.
    ///
    /// If the round has come to the last one and not to `place`, it comes to it a second time, and finds nothing to write.
    pub(super) fn remove(&mut self, place: usize) -> Option<u32> {
        self.quiet.swap_remove(place);
        self.left = self.left.min(self.quiet.len());
        self.quiet.get(place).copied()
    }

    /// Returns true if some quiet viewer may not have got everything.
    pub(super) fn is_in_round(&self) -> bool {
        self.more || self.left > 0
    }

    /// Returns true if all viewers are quiet.
    pub(in crate::hub) fn is_quiet(&self) -> bool {
        self.viewers == self.quiet.len()
    }
}
