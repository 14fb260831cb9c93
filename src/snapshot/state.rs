//! What a process leaves to the next one, as bytes: channels with their history, and of every connection what its protocol
//! needs to go on.
//!
//! A head of [`HEAD`] bytes (magic, format, length and CRC-32 of the rest), then the state in postcard's wire format. A state
//! that was decoded is consistent; what is in it may still be against the limits that are in force by now.

use crate::peer::Peer;
use crate::wire::close::End;
use crate::wire::message::{MAX_CHANNEL_ID, checked_frame_length};
use crate::wire::zmtp;
use crc32fast::Hasher;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::{self, BufWriter, Cursor, Seek, Write};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use thiserror::Error;

/// The bytes that the hub counts for a channel without history: its own memory and its entries in the hub's maps, measured over a
/// million channels and rounded up.
pub(crate) const OVERHEAD: usize = 512;

/// The version of the format. It must be raised with every change of the types below.
pub const FORMAT: u32 = 3;
/// The format of version 2.0.0, which is read too.
pub(super) const FORMAT_2: u32 = 2;
/// The length of the head, in bytes.
pub const HEAD: usize = 24;
const MAGIC: [u8; 8] = *b"ReCodExM";

/// The most bytes that wait on either way of a viewer's connection: the longest frame, all of it escaped, and control frames.
const MAX_PENDING: usize = 1024 * 1024;

/// Why a state is not taken up.
#[derive(Debug, Error)]
pub enum Refused {
    /// The first bytes are none of ours.
    #[error("it is no state of a monitor")]
    NoState,
    /// Written by another version.
    #[error("its format is {0}, expected {FORMAT} or {FORMAT_2}")]
    Format(u32),
    /// Not as long as its head says.
    #[error("it has {found} bytes, expected {expected}")]
    Length {
        /// What the head says.
        expected: u64,
        /// What follows it.
        found: u64,
    },
    /// The checksum does not match.
    #[error("its checksum is wrong")]
    Checksum,
    /// It does not follow the format.
    #[error("it cannot be decoded: {0}")]
    Malformed(#[from] postcard::Error),
    /// It cannot be written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It would take more memory than it may.
    #[error("it is larger than 256 MiB, and than four times history.total_bytes")]
    TooLarge,
    /// It contradicts itself.
    #[error("it is not consistent: {0}")]
    Inconsistent(&'static str),
}

/// What one process leaves to the next.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct State<'a> {
    /// The version of the program.
    pub version: Cow<'a, str>,
    /// When it was written, in milliseconds since the Unix epoch.
    pub written: u64,
    /// The same in milliseconds since the machine started, which nobody sets.
    pub uptime: u64,
    /// The file of `history.state`, for a next process that cannot start: its own settings may be unknown.
    pub history_file: Option<Cow<'a, str>>,
    /// The runs, in the order in which they began.
    pub runs: Vec<Run<'a>>,
    /// The brokers' links.
    pub links: Cow<'a, [Link<'a>]>,
    /// The viewers.
    pub viewers: Cow<'a, [Viewer<'a>]>,
}

/// The state of a run in the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifecycle {
    /// Reachable by id, takes messages; ordered by its last message or new viewer once that is asked for.
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
    /// The offset of the first of them.
    pub start: u64,
    /// Whether messages were dropped.
    pub trimmed: bool,
    /// Its state.
    pub lifecycle: Lifecycle,
    /// Since when.
    pub since: u64,
    /// Since its last message or new viewer.
    pub touched: u64,
    /// Since it failed, if nothing came after.
    pub failed: Option<u64>,
    /// Since it was aborted, if nothing came after.
    pub aborted: Option<u64>,
}

/// A broker's link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link<'a> {
    /// The socket's cookie (`socket(7)`, `SO_COOKIE`).
    pub cookie: u64,
    /// The broker's address.
    pub peer: SocketAddr,
    /// When it shook hands, in seconds since the Unix epoch.
    pub since: u64,
    /// Whether it was sent what the monitor says first.
    pub greeted: bool,
    /// How far its handshake is.
    pub stage: zmtp::Stage,
    /// What was received and makes no whole message yet.
    #[serde(borrow, with = "serde_bytes")]
    pub received: Cow<'a, [u8]>,
    /// The messages so far.
    pub messages: u64,
}

/// A viewer's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Viewer<'a> {
    /// The socket's cookie.
    pub cookie: u64,
    /// Its address.
    pub peer: Peer,
    /// How far it is.
    #[serde(borrow)]
    pub stage: Stage<'a>,
    /// What was received and is no whole request or frame yet.
    #[serde(borrow, with = "serde_bytes")]
    pub received: Cow<'a, [u8]>,
    /// What is to be sent before anything else: the rest of a frame, control frames.
    #[serde(borrow, with = "serde_bytes")]
    pub unsent: Cow<'a, [u8]>,
}

/// How far a viewer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage<'a> {
    /// Nothing of its request has come.
    Connected {
        /// Whether the rest of a PROXY header is to come.
        proxied: bool,
    },
    /// Its request has not come.
    Request {
        /// Whether its PROXY header named nobody: no header of its request is believed then.
        unproxied: bool,
    },
    /// It has not named its channel.
    Naming,
    /// It gets its channel's messages.
    Relaying {
        /// Which of the state's runs.
        run: u32,
        /// The offset of the next frame.
        offset: u64,
        /// What is left of the frame before it.
        #[serde(borrow, with = "serde_bytes")]
        rest: Cow<'a, [u8]>,
        /// Whether it has begun a message of several frames.
        in_message: bool,
    },
    /// It has everything, and is expected to go.
    Closing {
        /// Whether it was sent a close frame and has not answered.
        answer: bool,
        /// As above.
        in_message: bool,
    },
}

/// Whether these bytes begin a state, of whatever format.
#[must_use]
pub fn is_ours(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

impl Viewer<'_> {
    /// Which of the state's runs it reads, if any.
    pub(super) fn run(&self) -> Option<u32> {
        if let Stage::Relaying { run, .. } = self.stage { Some(run) } else { None }
    }

    /// Turns the slot of its run in the hub into the run's place in the state; `places` knows it. A viewer whose run is gone
    /// is told so, with FINISHED if `finish` asks for it.
    pub fn resolve_run(&mut self, places: &HashMap<usize, usize>, finish: bool) {
        if let Stage::Relaying { run, in_message, .. } = &mut self.stage {
            if let Some(place) = places.get(&(*run as usize)).and_then(|place| u32::try_from(*place).ok()) {
                *run = place;
            } else {
                let in_message = *in_message;
                self.unsent = self.closing_bytes(finish).into();
                self.stage = Stage::Closing { answer: true, in_message };
            }
        }
    }

    /// The bytes that end its connection in order when nobody goes on with it: the rest of a frame, then FINISHED if `finish` asks
    /// for it, then a close frame.
    #[must_use]
    pub fn closing_bytes(&self, finish: bool) -> Vec<u8> {
        let stop = || End::Stopping.closing_bytes(finish);
        match &self.stage {
            Stage::Connected { .. } | Stage::Request { .. } => Vec::new(),
            Stage::Naming => [&*self.unsent, &stop()].concat(),
            Stage::Relaying { rest, .. } => [rest, &*self.unsent, &stop()].concat(),
            Stage::Closing { .. } => self.unsent.to_vec(),
        }
    }
}

/// The time now, in milliseconds since the Unix epoch.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, milliseconds)
}

/// The time since the machine started, in milliseconds.
#[must_use]
pub fn uptime() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| milliseconds(time.into()))
}

/// A time in milliseconds.
#[must_use]
pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Notes length and checksum of what is written.
struct Summed<W> {
    to: W,
    length: u64,
    sum: Hasher,
    /// Why a write failed.
    failed: Option<io::Error>,
}

impl<W> Summed<W> {
    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|e| {
            let kind = e.kind();
            self.failed = Some(e);
            kind.into()
        })
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes);
        let written = self.note(written)?;
        self.length += written as u64;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.to.flush();
        self.note(flushed)
    }
}

impl State<'_> {
    /// The state as bytes, head included.
    ///
    /// # Errors
    /// Those of the encoding, of which none is known.
    pub fn encode(&self) -> Result<Vec<u8>, Refused> {
        let mut bytes = Cursor::new(Vec::new());
        self.write(&mut bytes)?;
        Ok(bytes.into_inner())
    }

    /// Writes the state, head included, from the beginning of `to`.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&self, to: &mut (impl Write + Seek)) -> Result<(), Refused> {
        to.write_all(&[0; HEAD])?;
        let (length, sum) = {
            let mut summed = Summed { to: BufWriter::new(&mut *to), length: 0, sum: Hasher::new(), failed: None };
            // Of a write that fails, it says only that there is no more room.
            let written = postcard::to_io(self, &mut summed).map(drop);
            written.map_err(|e| summed.failed.take().map_or(Refused::Malformed(e), Refused::Io))?;
            summed.flush()?;
            (summed.length, summed.sum.clone().finalize())
        };
        to.rewind()?;
        to.write_all(&MAGIC)?;
        to.write_all(&FORMAT.to_le_bytes())?;
        to.write_all(&length.to_le_bytes())?;
        Ok(to.write_all(&sum.to_le_bytes())?)
    }

    pub(super) fn cookies(&self) -> impl Iterator<Item = u64> {
        self.links.iter().map(|link| link.cookie).chain(self.viewers.iter().map(|viewer| viewer.cookie))
    }

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
    /// What it costs in memory once it is restored, in bytes.
    #[must_use]
    pub fn cost(&self) -> usize {
        OVERHEAD + self.id.len() + self.frames.len()
    }

    /// `offsets` are those of its viewers.
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
