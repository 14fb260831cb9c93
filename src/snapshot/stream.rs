//! The part of the state that belongs to the stream of a cluster: the place of a message in it, and what a node knows of it.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The id of an entry of the stream (Redis, "Entry IDs"): the time of the primary in milliseconds since the Unix epoch, and a number that
/// tells entries of the same millisecond apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryId {
    /// The milliseconds.
    pub milliseconds: u64,
    /// The number.
    pub number: u64,
}

/// The text is no id of an entry.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("it is no id of an entry")]
pub struct NoId;

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.milliseconds, self.number)
    }
}

impl FromStr for EntryId {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let (milliseconds, number) = text.split_once('-').ok_or(NoId)?;
        let number_of = |text: &str| text.parse().map_err(|_| NoId);
        Ok(Self { milliseconds: number_of(milliseconds)?, number: number_of(number)? })
    }
}

/// The place of a message in the stream, which is the same for all nodes and for every copy of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The ingest that took the message from its broker.
    pub ingest: u64,
    /// The number of its batch, from 1.
    pub batch: u64,
    /// The number of its record in the batch, from 0.
    pub index: u32,
}

/// The origin of a run in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The entry with its first message.
    pub began: EntryId,
    /// The entry with its last message of a broker.
    pub at: EntryId,
    /// The place of its last message.
    pub last: Place,
}

/// A batch of an ingest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch<'a> {
    /// Its number, from 1.
    pub number: u64,
    /// The entry with it, once Redis has answered.
    pub at: Option<EntryId>,
    /// Its bytes in the stream.
    #[serde(borrow, with = "serde_bytes")]
    pub bytes: Cow<'a, [u8]>,
}

/// The most ranges of missing numbers that are remembered of one ingest. The oldest is given up for a new one.
pub(crate) const MAX_MISSING: usize = 64;

/// The numbers of an ingest's batches that a node has read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadFrom {
    /// The ingest.
    pub ingest: u64,
    /// The largest number that was read.
    pub last: u64,
    /// The last entry that was read.
    pub at: EntryId,
    /// Ranges of smaller numbers that were not read, the ends included; at most [`MAX_MISSING`].
    pub missing: Vec<(u64, u64)>,
}

/// All that one process tells the next about the stream. `reading_stream.rs` reads it, in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamState<'a> {
    /// The name of the service: `cluster.name`.
    pub name: Cow<'a, str>,
    /// The id of the ingest.
    pub ingest: u64,
    /// The number of its next batch.
    pub next: u64,
    /// The batches that Redis has not answered.
    pub waiting: Vec<Batch<'a>>,
    /// The last batches that Redis has answered, which a failover may cut off.
    pub kept: Vec<Batch<'a>>,
    /// The batches that were read.
    pub seen: Vec<ReadFrom>,
    /// The last entry that was read.
    pub position: EntryId,
    /// The entry up to which no failover cuts anything off.
    pub safe: EntryId,
    /// The stream's epoch, if it is known.
    pub epoch: Option<Cow<'a, str>>,
    /// The messages that came after FINISHED and were dropped: the entry of the last message of each run, and that of the last one that
    /// was dropped.
    pub dropped: Vec<(EntryId, EntryId)>,
}

impl StreamState<'_> {
    /// Forgets how far the stream was read, so that it is read from its beginning, and what a failover long ago could have cut off.
    pub(crate) fn forget_reading(&mut self) {
        self.seen.clear();
        self.kept.clear();
        self.dropped.clear();
        (self.position, self.safe) = (EntryId::default(), EntryId::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        for id in [EntryId::default(), EntryId { milliseconds: u64::MAX, number: u64::MAX }] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in ["", "1", "1-", "-1", "1-2-3", "a-1", "18446744073709551616-0"] {
            assert_eq!(text.parse::<EntryId>(), Err(NoId), "{text}");
        }
    }
}
