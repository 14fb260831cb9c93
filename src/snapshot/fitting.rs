//! Changes to a state before it is taken up or saved: it is brought under limits, and to the sockets that came with it.

use crate::snapshot::state::{Lifecycle, Run, Stage, State};
use crate::wire::close::End;
use socket2::SockRef;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;

impl State<'_> {
    /// Closes, with 1000, the viewers that have got the whole of a finished run, after the rest of its last frame.
    ///
    /// So they get no second FINISHED if the run is dropped. Version 2.0.0 hands over such viewers.
    pub(crate) fn close_complete(&mut self) {
        let Self { runs, viewers, .. } = self;
        for viewer in viewers.to_mut() {
            if let Stage::Relaying { run, offset, rest, in_message } = &viewer.stage
                && let Some(run) = runs.get(*run as usize)
                && run.lifecycle != Lifecycle::Open
                && *offset == run.start + run.frames.len() as u64
            {
                let in_message = *in_message;
                viewer.unsent = [rest, &*viewer.unsent, &End::Finished.closing_bytes(false)].concat().into();
                viewer.stage = Stage::Closing { answer: true, in_message };
            }
        }
    }

    /// Drops runs until the others cost at most `total_bytes`, in the order in which the hub drops history. Their viewers are closed,
    /// with FINISHED if `finish` is true. Returns the number of dropped runs.
    pub fn fit(&mut self, total_bytes: usize, finish: bool) -> usize {
        let dropped = self.runs_to_drop(total_bytes);
        if dropped.is_empty() {
            return 0;
        }
        let mut indexes = HashMap::new();
        for at in (0..self.runs.len()).filter(|at| !dropped.contains(at)) {
            indexes.insert(at, indexes.len());
        }
        let mut at = 0..;
        self.runs.retain(|_| at.next().is_some_and(|at| !dropped.contains(&at)));
        for viewer in self.viewers.to_mut() {
            viewer.resolve_run(&indexes, finish);
        }
        dropped.len()
    }

    /// Returns the indexes of the runs that must go, so that the others cost at most `total_bytes`.
    fn runs_to_drop(&self, total_bytes: usize) -> HashSet<usize> {
        let mut order: Vec<usize> = (0..self.runs.len()).collect();
        order.sort_by_key(|at| {
            let run = &self.runs[*at];
            match run.lifecycle {
                Lifecycle::Draining => (0, Reverse(run.since)),
                Lifecycle::Finished => (1, Reverse(run.since)),
                Lifecycle::Open => (2, Reverse(run.touched)),
            }
        });
        let mut cost: usize = self.runs.iter().map(Run::cost).sum();
        let is_over = |at: &usize| {
            let is_over = cost > total_bytes;
            if is_over {
                cost -= self.runs[*at].cost();
            }
            is_over
        };
        order.into_iter().take_while(is_over).collect()
    }

    /// Returns the history alone, as it is saved to a file.
    pub(crate) fn without_connections(self) -> Self {
        let mut runs = self.runs;
        runs.retain(|run| run.lifecycle != Lifecycle::Draining);
        Self { runs, links: Cow::default(), viewers: Cow::default(), history_file: None, ..self }
    }

    /// Brings `sockets` into the order of the links and then the viewers, and drops the links and viewers whose sockets are missing.
    ///
    /// Returns the number of those. If a socket belongs to no link and no viewer, returns `None` and changes nothing.
    pub(crate) fn pair(&mut self, sockets: &mut Vec<OwnedFd>) -> Option<usize> {
        let mut missing: HashMap<u64, usize> = self.cookies().zip(0..).collect();
        let count = self.links.len() + self.viewers.len();
        let index = |socket| missing.remove(&SockRef::from(socket).cookie().ok()?);
        let indexes: Vec<usize> = sockets.iter().map(index).collect::<Option<_>>()?;
        let mut paired: Vec<_> = indexes.into_iter().zip(sockets.drain(..)).collect();
        paired.sort_unstable_by_key(|(index, _)| *index);
        let mut there = vec![false; count];
        for (index, socket) in paired {
            there[index] = true;
            sockets.push(socket);
        }
        let mut there = there.into_iter();
        self.links.to_mut().retain(|_| there.next().unwrap_or(false));
        self.viewers.to_mut().retain(|_| there.next().unwrap_or(false));
        Some(count - sockets.len())
    }
}
