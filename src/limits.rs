//! The limit of open files, and how many viewers it allows.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors kept for everything but viewers: brokers, listeners, the log, the runtime.
pub const RESERVE: usize = 128;

/// The most viewers by default, where the system sets no limit worth the name.
const MAX_CLIENTS: usize = 1_000_000;

/// Raises the soft limit of open files to the hard one. A refusal leaves the limit as it is.
pub fn raise_open_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// How many files may be open at once.
#[must_use]
pub fn open_files() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(soft).unwrap_or(usize::MAX)
}

/// The number of viewers that the limit of open files allows, less a reserve of 128, or of half the limit if it is small.
#[must_use]
pub fn default_max_clients() -> usize {
    let files = open_files();
    (files - RESERVE.min(files / 2)).clamp(1, MAX_CLIENTS)
}
