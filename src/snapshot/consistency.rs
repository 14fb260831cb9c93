//! The checks of a state that was decoded: it must not contradict itself.

use crate::snapshot::state::{Lifecycle, Run, Stage, State, Viewer};
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
