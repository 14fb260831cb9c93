//! The choice of the log's target: the journal, a file, or standard error.

use super::standard::Standard;
use crate::config::{DEFAULT_LOG, Logger, Output};
use std::path::PathBuf;
use systemd_journal_logger::connected_to_journal;

/// The target of the log by the settings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The journal.
    Journal,
    /// A file at this path.
    File(PathBuf),
    /// Standard output or standard error under the name of a file, in the format of a file.
    Standard(Standard),
    /// Standard error.
    Stderr,
}

impl Target {
    /// Returns the target that `logger.output` and `logger.file` select.
    #[must_use]
    pub(crate) fn of(settings: &Logger) -> Self {
        match (settings.output, &settings.file) {
            (Output::Journald, _) => Self::Journal,
            (Output::Auto, None) if connected_to_journal() => Self::Journal,
            (Output::Auto, None) | (Output::Stderr, _) => Self::Stderr,
            (Output::Auto | Output::File, Some(file)) => {
                Standard::named(file).map_or_else(|| Self::File(file.clone()), Self::Standard)
            }
            (Output::File, None) => Self::File(DEFAULT_LOG.into()),
        }
    }
}
