//! The checks of a state that was decoded: it must not contradict itself.

use crate::snapshot::state::{Lifecycle, Run, Stage, State, Viewer};
use crate::snapshot::stream::{ReadFrom, StreamState};
use crate::wire::message::MAX_CHANNEL_ID;
use crate::wire::ws_frame::checked_frame_length;
use crate::wire::zmtp;
use std::collections::{HashMap, HashSet};

/// The most bytes that wait on either way of a viewer's connection: the longest frame, all of it escaped, and control frames.
const MAX_PENDING: usize = 1024 * 1024;

impl State<'_> {
    /// Returns the first contradiction as an error.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let mut offsets: HashMap<u32, Vec<u64>> = HashMap::new();
        for viewer in self.viewers.iter() {
            if let Stage::Relaying { run, offset, .. } = viewer.stage {
                offsets.entry(run).or_default().push(offset);
            }
        }
        let mut reachable = HashSet::new();
        for (run, number) in self.runs.iter().zip(0..) {
            run.check(offsets.remove(&number).unwrap_or_default())?;
            if run.lifecycle != Lifecycle::Draining && !reachable.insert(run.id.as_ref()) {
                return Err("a channel occurs twice");
            }
        }
        if !offsets.is_empty() {
            return Err("a viewer without a run");
        }
        if self.links.iter().any(|link| link.received.len() > zmtp::BUFFER) {
            return Err("more of a broker than it can have sent");
        }
        let too_long = |viewer: &Viewer<'_>| {
            let rest = if let Stage::Relaying { rest, .. } = &viewer.stage { rest.len() } else { 0 };
            [viewer.received.len(), viewer.unsent.len(), rest].into_iter().any(|length| length > MAX_PENDING)
        };
        if self.viewers.iter().any(too_long) {
            return Err("more of a viewer than can wait");
        }
        self.stream.as_ref().map_or(Ok(()), StreamState::check)
    }
}

impl StreamState<'_> {
    /// Checks the numbers of batches: they are counted on from.
    fn check(&self) -> Result<(), &'static str> {
        if !(1..=u64::MAX / 2).contains(&self.next) {
            return Err("a number of the next batch that cannot be");
        }
        let is_possible =
            |read: &ReadFrom| read.missing.iter().all(|(first, last)| (1..=*last).contains(first) && *last < read.last);
        if !self.seen.iter().all(is_possible) {
            return Err("missing batches that cannot be");
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Checks a run whose viewers have these offsets.
    fn check(&self, mut offsets: Vec<u64>) -> Result<(), &'static str> {
        if !(1..=MAX_CHANNEL_ID).contains(&self.id.len()) {
            return Err("a channel id that is empty or too long");
        }
        if (self.failed.is_some() || self.aborted.is_some()) && self.lifecycle != Lifecycle::Open {
            return Err("a failed or aborted run that has finished");
        }
        if self.start.checked_add(self.frames.len() as u64).is_none_or(|end| end > u64::MAX / 2) {
            return Err("an offset that is too large");
        }
        // A viewer that was overtaken is before the first frame.
        offsets.retain(|offset| *offset >= self.start);
        offsets.sort_unstable();
        let mut offsets = offsets.into_iter().peekable();
        let (mut at, mut boundary) = (0, self.start);
        loop {
            while offsets.next_if_eq(&boundary).is_some() {}
            if at == self.frames.len() {
                break;
            }
            at += checked_frame_length(&self.frames[at..]).ok_or("a history that is no chain of frames")?;
            boundary = self.start + at as u64;
        }
        offsets.next().map_or(Ok(()), |_| Err("a viewer in the middle of a frame"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::stream::EntryId;

    #[test]
    fn numbers_of_batches_that_cannot_be_counted_on_from_are_refused() {
        let state = |next, last, missing: &[(u64, u64)]| StreamState {
            name: "recodex".into(),
            ingest: 7,
            next,
            waiting: vec![],
            kept: vec![],
            seen: vec![ReadFrom { ingest: 8, last, at: EntryId::default(), missing: missing.to_vec() }],
            position: EntryId::default(),
            safe: EntryId::default(),
            epoch: None,
            dropped: vec![],
        };
        for good in [
            state(1, 1, &[]),
            state(u64::MAX / 2, 9, &[(1, 8), (4, 4)]),
            // Somebody else has written this number to the stream.
            state(1, u64::MAX, &[(2, u64::MAX - 1)]),
        ] {
            assert_eq!(good.check(), Ok(()), "{good:?}");
        }
        for next in [0, u64::MAX / 2 + 1, u64::MAX] {
            assert_eq!(state(next, 1, &[]).check(), Err("a number of the next batch that cannot be"), "{next}");
        }
        for range in [(0, 3), (0, u64::MAX), (4, 3), (3, 9), (10, 11), (1, u64::MAX)] {
            let state = state(1, 9, &[(1, 1), range]);
            assert_eq!(state.check(), Err("missing batches that cannot be"), "{range:?}");
        }
        assert!(state(1, u64::MAX, &[(2, u64::MAX)]).check().is_err());
    }
}
