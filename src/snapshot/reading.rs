//! Reading what a process left: within limits that are looked at before memory is taken, and without what has no place here.

use super::format2;
use super::state::{FORMAT, FORMAT_2, HEAD, Lifecycle, Link, Refused, Run, Stage, State, Viewer, is_ours};
use crate::wire::close::End;
use serde::Deserialize;
use socket2::SockRef;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;

/// What a state may hold. It is looked at before memory is taken.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most that its runs may cost, in bytes, as the hub counts them.
    pub cost: usize,
    /// The most links, and the most viewers.
    pub connections: usize,
    /// Whether runs that are over and have no viewer are kept; else they are left out.
    pub unread: bool,
}

impl Limits {
    /// Whatever there is.
    pub const NONE: Self = Self { cost: usize::MAX, connections: usize::MAX, unread: true };
}

/// Takes the next value off `rest`.
fn take<'a, T: Deserialize<'a>>(rest: &mut &'a [u8]) -> Result<T, Refused> {
    let (value, after) = postcard::take_from_bytes(rest)?;
    *rest = after;
    Ok(value)
}

/// Takes the next list off `rest`, of at most `limit` values.
fn take_all<'a, T: Deserialize<'a> + Into<U>, U>(rest: &mut &'a [u8], limit: usize) -> Result<Vec<U>, Refused> {
    let count: u64 = take(rest)?;
    if usize::try_from(count).is_ok_and(|count| count <= limit) {
        return (0..count).map(|_| take::<T>(rest).map(Into::into)).collect();
    }
    Err(Refused::Inconsistent("more connections than came with it"))
}

impl<'a> State<'a> {
    /// Reads a state.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn decode(bytes: &'a [u8], limits: Limits) -> Result<Self, Refused> {
        let (head, body) = bytes.split_at_checked(HEAD).ok_or(Refused::NoState)?;
        if !is_ours(head) {
            return Err(Refused::NoState);
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let format = word(8);
        if format != FORMAT && format != FORMAT_2 {
            return Err(Refused::Format(format));
        }
        let expected = u64::from(word(12)) | u64::from(word(16)) << 32;
        if expected != body.len() as u64 {
            return Err(Refused::Length { expected, found: body.len() as u64 });
        }
        if word(20) != crc32fast::hash(body) {
            return Err(Refused::Checksum);
        }
        if format == FORMAT_2 {
            return Self::read::<format2::Run<'a>, format2::Viewer<'a>>(body, false, limits);
        }
        Self::decode_body(body, limits)
    }

    /// Reads what follows the head, in the newest format.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn decode_body(body: &'a [u8], limits: Limits) -> Result<Self, Refused> {
        Self::read::<Run<'a>, Viewer<'a>>(body, true, limits)
    }

    /// Reads a state whose runs and viewers are those of some format; `named` is whether `history_file` is in it.
    ///
    /// Runs are gone through before any is kept: what they cost, and which of them have viewers, is known by then.
    fn read<R, V>(body: &'a [u8], named: bool, limits: Limits) -> Result<Self, Refused>
    where
        R: Deserialize<'a> + Into<Run<'a>>,
        V: Deserialize<'a> + Into<Viewer<'a>>,
    {
        let mut rest = body;
        let (version, written, uptime) = (take(&mut rest)?, take(&mut rest)?, take(&mut rest)?);
        let history_file = if named { take(&mut rest)? } else { None };
        let count: u64 = take(&mut rest)?;
        let (mut at_runs, mut cost) = (rest, 0_usize);
        for _ in 0..count {
            let run: Run<'a> = take::<R>(&mut rest)?.into();
            if run.lifecycle != Lifecycle::Draining || limits.unread {
                cost = cost.saturating_add(run.cost());
            }
            if cost > limits.cost {
                return Err(Refused::TooLarge);
            }
        }
        let links: Vec<Link<'a>> = take_all::<Link<'a>, _>(&mut rest, limits.connections)?;
        let mut viewers: Vec<Viewer<'a>> = take_all::<V, _>(&mut rest, limits.connections)?;
        if !rest.is_empty() {
            return Err(Refused::Inconsistent("something follows its end"));
        }
        let watched: HashSet<u64> = viewers.iter().filter_map(Viewer::run).map(u64::from).collect();
        if watched.iter().any(|run| *run >= count) {
            return Err(Refused::Inconsistent("a viewer without a run"));
        }
        let (mut runs, mut places) = (Vec::new(), HashMap::new());
        for number in 0..count {
            let run: Run<'a> = take::<R>(&mut at_runs)?.into();
            if watched.contains(&number) {
                places.insert(usize::try_from(number).unwrap_or(usize::MAX), runs.len());
            } else if run.lifecycle == Lifecycle::Draining && !limits.unread {
                continue;
            }
            runs.push(run);
        }
        if runs.len() as u64 != count {
            for viewer in &mut viewers {
                viewer.resolve_run(&places, true);
            }
        }
        let state = Self { version, written, uptime, history_file, runs, links: links.into(), viewers: viewers.into() };
        state.check().map_err(Refused::Inconsistent)?;
        Ok(state)
    }

    /// Turns the viewers that have got the whole of a finished run into viewers that are being closed with 1000, after the rest of its
    /// last frame: whatever becomes of the run, they get no second FINISHED. Version 2.0.0 leaves such viewers.
    pub fn close_complete(&mut self) {
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

    /// Leaves out what does not fit into `total_bytes`, in the order in which the hub lets history go. Viewers of what is left out
    /// are closed, with FINISHED if `finish` asks for it. Returns how many runs that were.
    pub fn fit(&mut self, total_bytes: usize, finish: bool) -> usize {
        let mut cost: usize = self.runs.iter().map(Run::cost).sum();
        if cost <= total_bytes {
            return 0;
        }
        let mut order: Vec<usize> = (0..self.runs.len()).collect();
        order.sort_by_key(|at| {
            let run = &self.runs[*at];
            match run.lifecycle {
                Lifecycle::Draining => (0, Reverse(run.since)),
                Lifecycle::Finished => (1, Reverse(run.since)),
                Lifecycle::Open => (2, Reverse(run.touched)),
            }
        });
        let mut gone = HashSet::new();
        for at in order {
            if cost <= total_bytes {
                break;
            }
            cost -= self.runs[at].cost();
            gone.insert(at);
        }
        let mut places = HashMap::new();
        for at in (0..self.runs.len()).filter(|at| !gone.contains(at)) {
            places.insert(at, places.len());
        }
        let mut at = 0..;
        self.runs.retain(|_| at.next().is_some_and(|at| !gone.contains(&at)));
        for viewer in self.viewers.to_mut() {
            viewer.resolve_run(&places, finish);
        }
        gone.len()
    }

    /// The history alone, as a file has it.
    #[must_use]
    pub fn without_connections(self) -> Self {
        let mut runs = self.runs;
        runs.retain(|run| run.lifecycle != Lifecycle::Draining);
        Self { runs, links: Cow::default(), viewers: Cow::default(), history_file: None, ..self }
    }

    /// Brings `sockets` into the order of the links and then the viewers, and leaves out the links and viewers whose sockets are
    /// missing. Returns how many are missing; nothing is changed and `None` is returned if a socket is of none of them.
    pub fn pair(&mut self, sockets: &mut Vec<OwnedFd>) -> Option<usize> {
        let mut missing: HashMap<u64, usize> = self.cookies().zip(0..).collect();
        let count = self.links.len() + self.viewers.len();
        let place = |socket| missing.remove(&SockRef::from(socket).cookie().ok()?);
        let places: Vec<usize> = sockets.iter().map(place).collect::<Option<_>>()?;
        let mut paired: Vec<_> = places.into_iter().zip(sockets.drain(..)).collect();
        paired.sort_unstable_by_key(|(place, _)| *place);
        let mut there = vec![false; count];
        for (place, socket) in paired {
            there[place] = true;
            sockets.push(socket);
        }
        let mut there = there.into_iter();
        self.links.to_mut().retain(|_| there.next().unwrap_or(false));
        self.viewers.to_mut().retain(|_| there.next().unwrap_or(false));
        Some(count - sockets.len())
    }
}
