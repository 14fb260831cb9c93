//! The types of the state that one process hands to the next, or saves: channels with their history, and of every connection what
//! its protocol needs to go on.
//!
//! postcard's wire format has no field names: the order of fields and variants is part of the format.

use crate::peer::Peer;
use crate::snapshot::stream::{Origin, StreamState};
use crate::wire::close::End;
use crate::wire::zmtp;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// The bytes that the hub counts for a channel without history: its own memory and its entries in the hub's maps, measured over a
/// million channels and rounded up.
pub(crate) const OVERHEAD: usize = 512;

/// All that one process hands to the next.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct State<'a> {
    /// The version of the program.
    pub version: Cow<'a, str>,
    /// The time at which it was written, in milliseconds since the Unix epoch.
    pub written: u64,
    /// The same time in milliseconds since the machine started: nobody can set this clock.
    pub uptime: u64,
    /// The file of `history.state`. A next process that cannot read its own settings saves the history there.
    pub history_file: Option<Cow<'a, str>>,
    /// The runs, in the order in which they began.
    pub runs: Vec<Run<'a>>,
    /// The brokers' links.
    pub links: Cow<'a, [Link<'a>]>,
    /// The viewers.
    pub viewers: Cow<'a, [Viewer<'a>]>,
    /// The stream of the cluster, if there is one.
    pub stream: Option<StreamState<'a>>,
}

/// The state of a run in the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifecycle {
    /// Reachable by id, takes messages; ordered by its last message or new viewer when the hub needs that.
    Open,
    /// Reachable by id, complete; ordered by when it finished.
    Finished,
    /// Complete, no longer reachable by id, kept for viewers that still read it.
    Draining,
}

/// A run of a channel. Times are ages in milliseconds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run<'a> {
    /// The channel.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// Ready frames, back to back.
    #[serde(borrow, with = "serde_bytes")]
    pub frames: Cow<'a, [u8]>,
    /// The offset of the first frame, in bytes since the run began.
    pub start: u64,
    /// True if messages were dropped.
    pub trimmed: bool,
    /// The state of the run.
    pub lifecycle: Lifecycle,
    /// The time since it is in that state.
    pub since: u64,
    /// The time since its last message or new viewer.
    pub touched: u64,
    /// The time since it failed, if no message came after that.
    pub failed: Option<u64>,
    /// The time since it was aborted, if no message came after that.
    pub aborted: Option<u64>,
    /// The origin in the stream of the cluster, if it came from there.
    pub origin: Option<Origin>,
}

/// A broker's link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link<'a> {
    /// The socket's cookie (`socket(7)`, `SO_COOKIE`).
    pub cookie: u64,
    /// The broker's address.
    pub peer: SocketAddr,
    /// The time of its handshake, in seconds since the Unix epoch.
    pub since: u64,
    /// True if the monitor has sent its greeting and READY.
    pub greeted: bool,
    /// The part of the protocol that comes next.
    pub stage: zmtp::Stage,
    /// The received bytes that are not a whole message yet.
    #[serde(borrow, with = "serde_bytes")]
    pub received: Cow<'a, [u8]>,
    /// The number of messages so far.
    pub messages: u64,
}

/// A viewer's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Viewer<'a> {
    /// The socket's cookie.
    pub cookie: u64,
    /// The viewer's address.
    pub peer: Peer,
    /// The part of the protocol that comes next.
    #[serde(borrow)]
    pub stage: Stage<'a>,
    /// The received bytes that are not a whole request or frame yet.
    #[serde(borrow, with = "serde_bytes")]
    pub received: Cow<'a, [u8]>,
    /// The bytes to be sent before all others: the rest of a frame, control frames.
    #[serde(borrow, with = "serde_bytes")]
    pub unsent: Cow<'a, [u8]>,
}

/// The stage of a viewer's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage<'a> {
    /// Nothing of its request has come.
    Connected {
        /// True if the rest of a PROXY header is to come.
        proxied: bool,
    },
    /// Its request has not come.
    Request {
        /// True if its PROXY header named no client: no header of its request is believed then.
        unproxied: bool,
    },
    /// It has not named its channel.
    Naming,
    /// It gets its channel's messages.
    Relaying {
        /// The index of its run in [`State::runs`].
        run: u32,
        /// The offset of the next frame.
        offset: u64,
        /// The unsent rest of the frame before it.
        #[serde(borrow, with = "serde_bytes")]
        rest: Cow<'a, [u8]>,
        /// True if the viewer has begun a message of several frames.
        in_message: bool,
    },
    /// It was sent everything, and is expected to close the connection.
    Closing {
        /// True if it was sent a close frame and has not answered.
        answer: bool,
        /// As in [`Stage::Relaying`].
        in_message: bool,
    },
}

impl Viewer<'_> {
    /// Returns the index of the run that it reads, if it reads one.
    pub(super) fn run(&self) -> Option<u32> {
        if let Stage::Relaying { run, .. } = self.stage { Some(run) } else { None }
    }

    /// Replaces the number of its run by the one that `indexes` has for it.
    ///
    /// If it has none, the run is gone: the viewer will be closed, with FINISHED if `finish` is true.
    pub(crate) fn resolve_run(&mut self, indexes: &HashMap<usize, usize>, finish: bool) {
        if let Stage::Relaying { run, in_message, .. } = &mut self.stage {
            if let Some(index) = indexes.get(&(*run as usize)).and_then(|index| u32::try_from(*index).ok()) {
                *run = index;
            } else {
                let in_message = *in_message;
                self.unsent = self.closing_bytes(finish).into();
                self.stage = Stage::Closing { answer: true, in_message };
            }
        }
    }

    /// Returns the bytes that end its connection in order: the rest of a frame, then FINISHED if `finish` is true, then a close frame.
    pub(crate) fn closing_bytes(&self, finish: bool) -> Vec<u8> {
        let stop = || End::Stopping.closing_bytes(finish);
        match &self.stage {
            Stage::Connected { .. } | Stage::Request { .. } => Vec::new(),
            Stage::Naming => [&*self.unsent, &stop()].concat(),
            Stage::Relaying { rest, .. } => [rest, &*self.unsent, &stop()].concat(),
            Stage::Closing { .. } => self.unsent.to_vec(),
        }
    }
}

/// Returns the time in milliseconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, milliseconds)
}

/// Returns the time since the machine started, in milliseconds.
pub(crate) fn uptime() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| milliseconds(time.into()))
}

/// Returns a time in milliseconds.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl State<'_> {
    /// Returns the cookies of the sockets: first of the links, then of the viewers.
    pub(super) fn cookies(&self) -> impl Iterator<Item = u64> {
        self.links.iter().map(|link| link.cookie).chain(self.viewers.iter().map(|viewer| viewer.cookie))
    }
}

impl Run<'_> {
    /// Returns the memory that the hub counts for it once it is restored, in bytes.
    pub(crate) fn cost(&self) -> usize {
        OVERHEAD + self.id.len() + self.frames.len()
    }
}
