//! The writing of a state: a head, then the state in postcard's wire format.
//!
//! The head has 24 bytes, all numbers in little endian: the magic (8 bytes), the format (4), the length of the rest (8), and the
//! CRC-32 of the rest (4).

use crate::snapshot::state::State;
use crc32fast::Hasher;
use std::io::{self, BufWriter, Cursor, Seek, Write};
use thiserror::Error;

/// The version of the format. CONTRIBUTING.md says when it rises.
pub(super) const FORMAT: u32 = 3;
/// The format of version 2.0.0, which is read too.
pub(super) const FORMAT_2: u32 = 2;
/// The length of the head, in bytes.
pub(super) const HEAD: usize = 24;
const MAGIC: [u8; 8] = *b"ReCodExM";

/// The reason for which a state is not read or not written.
#[derive(Debug, Error)]
pub enum Refused {
    /// The first bytes are not those of a state.
    #[error("it is no state of a monitor")]
    NoState,
    /// The format is not known.
    #[error("its format is {0}, expected {FORMAT} or {FORMAT_2}")]
    Format(u32),
    /// The length is not the one in its head.
    #[error("it has {found} bytes, expected {expected}")]
    Length {
        /// The length in the head.
        expected: u64,
        /// The number of bytes after the head.
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
    #[error("it is larger than twice history.total_bytes")]
    TooLarge,
    /// Its part of the stream would take more memory than it may.
    #[error("its part for the cluster is too large (cluster.buffer)")]
    StreamTooLarge,
    /// It contradicts itself.
    #[error("it is not consistent: {0}")]
    Inconsistent(&'static str),
}

/// Returns true if these bytes are the beginning of a state, of whatever format.
pub(crate) fn is_ours(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

impl State<'_> {
    /// Returns the state as bytes, head included.
    ///
    /// # Errors
    /// If it cannot be encoded; no such case is known.
    pub fn encode(&self) -> Result<Vec<u8>, Refused> {
        let mut bytes = Cursor::new(Vec::new());
        self.write(&mut bytes)?;
        Ok(bytes.into_inner())
    }

    /// Writes the state, head included, from the beginning of `to`.
    ///
    /// # Errors
    /// If `to` cannot be written.
    pub(crate) fn write(&self, to: &mut (impl Write + Seek)) -> Result<(), Refused> {
        // The head needs the length and the checksum of the body, which is written once and not kept in memory.
        to.write_all(&[0; HEAD])?;
        let (length, checksum) = self.write_body(&mut *to)?;
        to.rewind()?;
        to.write_all(&MAGIC)?;
        to.write_all(&FORMAT.to_le_bytes())?;
        to.write_all(&length.to_le_bytes())?;
        Ok(to.write_all(&checksum.to_le_bytes())?)
    }

    /// Writes what follows the head; returns its length and its CRC-32.
    fn write_body(&self, to: impl Write) -> Result<(u64, u32), Refused> {
        let mut summed = Summed { to: BufWriter::new(to), length: 0, checksum: Hasher::new(), failed: None };
        let written = postcard::to_io(self, &mut summed).map(drop);
        written.map_err(|e| summed.failed.take().map_or(Refused::Malformed(e), Refused::Io))?;
        summed.flush()?;
        Ok((summed.length, summed.checksum.finalize()))
    }
}

/// A writer that notes the length and the checksum of what passes.
struct Summed<W> {
    to: W,
    length: u64,
    checksum: Hasher,
    /// The error of a write that failed; postcard does not pass it on.
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
        self.checksum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.to.flush();
        self.note(flushed)
    }
}
