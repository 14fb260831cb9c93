//! The error for a configuration file, with the position of the mistake.

use crate::error::{Exit, Failure};
use std::fmt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Line and column in a file, from 1.
pub(super) type Position = (usize, usize);

/// The most characters of a message that are shown at its beginning, and the most at its end: it may quote a text of any length.
const SHOWN: (usize, usize) = (400, 600);

/// A mistake in a file. A mistake without a position concerns the whole file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) position: Option<Position>,
    pub(super) message: String,
}

/// A mistake in a configuration file, with the path of the file.
#[derive(Debug, PartialEq, Eq, Error)]
pub struct ConfigError {
    path: PathBuf,
    mistake: Mistake,
}

impl ConfigError {
    pub(super) fn new(path: &Path, mistake: Mistake) -> Self {
        let mistake = Mistake { message: shortened(mistake.message), ..mistake };
        Self { path: path.into(), mistake }
    }

    /// An error of the file as a whole.
    pub(super) fn of_file(path: &Path, message: impl Into<String>) -> Self {
        Self::new(path, Mistake { position: None, message: message.into() })
    }

    /// Returns the error with another message, for the same position.
    pub(super) fn with_message(self, message: String) -> Self {
        Self::new(&self.path, Mistake { message, ..self.mistake })
    }
}

/// Leaves out the middle of a message that is too long.
fn shortened(message: String) -> String {
    let (begin, end) = SHOWN;
    let count = message.chars().count();
    if count <= begin + end {
        return message;
    }
    let at = |nth| message.char_indices().nth(nth).map_or(message.len(), |(at, _)| at);
    format!("{} […] {}", &message[..at(begin)], &message[at(count - end)..])
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some((line, column)) = self.mistake.position {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.mistake.message)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Config, error.to_string())
    }
}
