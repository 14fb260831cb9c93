//! The error for a configuration file, with the position of the mistake.

use crate::error::{Exit, Failure};
use std::fmt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Line and column in a file, from 1.
pub(super) type Position = (usize, usize);

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
        Self { path: path.into(), mistake }
    }

    /// An error of the file as a whole.
    pub(super) fn of_file(path: &Path, message: impl Into<String>) -> Self {
        Self::new(path, Mistake { position: None, message: message.into() })
    }
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
