//! The encoding of a batch, which is one entry of the stream, in postcard's wire format.
//!
//! The name of the entry's only field is the format's version. Its value is a head and then records until the end. A change of
//! these types, their fields or their order needs another version.

use crate::snapshot::stream::Place;
use crate::wire::message::{Kind, MAX_CHANNEL_ID};
use crate::wire::ws_frame::checked_frame_length;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use thiserror::Error;

/// The version of the format: the name of an entry's field.
pub(super) const FORMAT: &str = "1";
/// The most bytes of a batch, as they are in the stream. The longest message alone has fewer.
pub const MAX_BATCH: usize = 512 * 1024;
/// The longest name of a node, in bytes.
pub(crate) const MAX_NODE: usize = 128;

/// The head of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head<'a> {
    /// The ingest that wrote it: a random number, new with each process that does not go on from another.
    pub ingest: u64,
    /// Its number, from 1.
    pub number: u64,
    /// The name of the node.
    #[serde(borrow)]
    pub node: Cow<'a, str>,
    /// A checksum of the limits of the node's history. Nodes with other limits may keep other messages.
    pub limits: u32,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record<'a> {
    /// A message of a broker.
    Message {
        /// The channel, of 1 to [`MAX_CHANNEL_ID`] bytes.
        #[serde(borrow)]
        channel: Cow<'a, str>,
        /// The meaning of the message for its channel.
        kind: Kind,
        /// The ready frame.
        #[serde(borrow, with = "serde_bytes")]
        frame: Cow<'a, [u8]>,
    },
    /// The end of a job that failed or was aborted: FINISHED in place of the broker's.
    Release {
        /// The channel, as in a message.
        #[serde(borrow)]
        channel: Cow<'a, str>,
        /// The message after which nothing came. If something has come by now, the record means nothing.
        of: Place,
    },
}

/// The reason for which a batch cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unreadable {
    /// It is not encoded as a batch.
    #[error("it does not follow the format: {0}")]
    Malformed(#[from] postcard::Error),
    /// It has this many bytes.
    #[error("it has {0} bytes, more than {MAX_BATCH}")]
    TooLong(usize),
    /// A part of it cannot be from a node.
    #[error("{0}")]
    Inconsistent(&'static str),
}

/// Appends a value to the bytes of a batch.
fn push(bytes: &mut Vec<u8>, value: &impl Serialize) {
    // A vector takes everything, and these types have no part that postcard refuses.
    let pushed = postcard::to_io(value, bytes);
    debug_assert!(pushed.is_ok());
}

/// Begins a batch.
#[must_use]
pub fn begin(head: &Head<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    push(&mut bytes, head);
    bytes
}

/// Appends a record to a batch, or leaves it as it is and returns false if it would be longer than [`MAX_BATCH`].
pub fn append(bytes: &mut Vec<u8>, record: &Record<'_>) -> bool {
    let before = bytes.len();
    push(bytes, record);
    let fits = bytes.len() <= MAX_BATCH;
    if !fits {
        bytes.truncate(before);
    }
    fits
}

/// Splits a batch into its head and the bytes of its records.
///
/// # Errors
/// If it is too long, or has no whole head.
pub fn split(bytes: &[u8]) -> Result<(Head<'_>, &[u8]), Unreadable> {
    if bytes.len() > MAX_BATCH {
        return Err(Unreadable::TooLong(bytes.len()));
    }
    let (head, rest): (Head<'_>, _) = postcard::take_from_bytes(bytes)?;
    if head.number == 0 {
        return Err(Unreadable::Inconsistent("its number is 0"));
    }
    if head.node.len() > MAX_NODE {
        return Err(Unreadable::Inconsistent("the name of its node is too long"));
    }
    Ok((head, rest))
}

/// Takes all records of a batch.
///
/// # Errors
/// If one of them is not whole, or is no message that a broker can have sent.
pub fn records(mut rest: &[u8]) -> Result<Vec<Record<'_>>, Unreadable> {
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (record, after): (Record<'_>, _) = postcard::take_from_bytes(rest)?;
        record.check()?;
        records.push(record);
        rest = after;
    }
    Ok(records)
}

/// Returns the number of records in a batch; 0 if it cannot be read.
pub(super) fn count(bytes: &[u8]) -> usize {
    split(bytes).and_then(|(_, rest)| records(rest)).map_or(0, |records| records.len())
}

impl Record<'_> {
    fn check(&self) -> Result<(), Unreadable> {
        let (Self::Message { channel, .. } | Self::Release { channel, .. }) = self;
        if !(1..=MAX_CHANNEL_ID).contains(&channel.len()) {
            return Err(Unreadable::Inconsistent("a channel id that is empty or too long"));
        }
        if let Self::Message { frame, .. } = self
            && checked_frame_length(frame) != Some(frame.len())
        {
            return Err(Unreadable::Inconsistent("a message that is no text frame"));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
