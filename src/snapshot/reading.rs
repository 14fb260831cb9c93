//! The reading of a state, within limits that are checked before memory is taken.

use crate::snapshot::encoding::{FORMAT, FORMAT_2, HEAD, Refused, is_ours};
use crate::snapshot::format2;
use crate::snapshot::reading_stream;
use crate::snapshot::state::{Lifecycle, Link, Run, State, Viewer};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};

/// The limits of a state that is read.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most bytes that its runs may cost, as the hub counts them.
    pub cost: usize,
    /// The most links, and the most viewers.
    pub connections: usize,
    /// True if runs that are draining and have no viewer are kept; else they are left out.
    pub unread: bool,
    /// The most bytes of memory that the lists of the stream's part may take. The bytes of batches stay where they are, and do not count.
    pub stream: usize,
    /// True if the stream's part is read whole; else only up to what waits for Redis, to say what is lost.
    pub has_stream: bool,
}

impl Limits {
    /// No limits.
    pub const NONE: Self =
        Self { cost: usize::MAX, connections: usize::MAX, unread: true, stream: usize::MAX, has_stream: true };
}

/// Takes the next value off `rest`.
pub(super) fn take<'a, T: Deserialize<'a>>(rest: &mut &'a [u8]) -> Result<T, Refused> {
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
    /// Reads a state, head included. The result is consistent; it may still exceed the limits in force.
    ///
    /// # Errors
    /// If it is not a state, is damaged or inconsistent, or exceeds `limits`.
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
    /// If it is inconsistent, or exceeds `limits`.
    pub fn decode_body(body: &'a [u8], limits: Limits) -> Result<Self, Refused> {
        Self::read::<Run<'a>, Viewer<'a>>(body, true, limits)
    }

    /// Reads a state whose runs and viewers have the types of some format; `named` is true if `history_file` and
    /// `stream` are in it.
    ///
    /// The runs are read twice. Before the second time it is known what they cost and which of them have viewers; only then they are
    /// kept.
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
        let stream = if named { reading_stream::read(&mut rest, limits)? } else { None };
        if !rest.is_empty() {
            return Err(Refused::Inconsistent("something follows its end"));
        }
        let watched: HashSet<u64> = viewers.iter().filter_map(Viewer::run).map(u64::from).collect();
        if watched.iter().any(|run| *run >= count) {
            return Err(Refused::Inconsistent("a viewer without a run"));
        }
        let (mut runs, mut indexes) = (Vec::new(), HashMap::new());
        for number in 0..count {
            let run: Run<'a> = take::<R>(&mut at_runs)?.into();
            if watched.contains(&number) {
                indexes.insert(usize::try_from(number).unwrap_or(usize::MAX), runs.len());
            } else if run.lifecycle == Lifecycle::Draining && !limits.unread {
                continue;
            }
            runs.push(run);
        }
        if runs.len() as u64 != count {
            for viewer in &mut viewers {
                viewer.resolve_run(&indexes, true);
            }
        }
        let state =
            Self { version, written, uptime, history_file, runs, links: links.into(), viewers: viewers.into(), stream };
        state.check().map_err(Refused::Inconsistent)?;
        Ok(state)
    }
}
