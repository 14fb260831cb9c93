//! The limit of open files, and what shares it: every descriptor that the process may hold is counted here. And the limit of the size
//! of a file.
//!
//! What one process accepts, the next one must be able to take with the same limit. So each kind of connection has a share, and
//! what is open besides connections is counted at its most.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use std::fs::read_dir;
use std::sync::OnceLock;
use thiserror::Error;

/// The most viewers by default, where the system sets no limit worth the name.
const MAX_CLIENTS: usize = 1_000_000;

/// Standard input, output and error, and what the program that starts the monitor leaves open besides.
const INHERITED: usize = 8;
/// The runtime: two epoll sets, an eventfd, a pair of sockets for signals and a copy of one of them.
const RUNTIME: usize = 6;
/// The log: its file or the journal's socket, a second one while it is rotated or a long line is sent, and the time zone.
const LOG: usize = 4;
/// What is open for a moment. At the start: the look-up of a host or a user (5), a certificate, `history.state`, the queue of the process
/// before. Then: an accepted connection that has no place yet, the files of a reload (2). At the end: the
/// queue's two ends, a pipe, a broker's link and its copy, the state's memory file, `history.state` (2). Never
/// all of one line at once.
const MOMENTARY: usize = 9;
/// The socket of the service manager.
const NOTIFY: usize = 1;
/// A listening socket and a copy of it, be it one that waits for the service manager; those of the processes before are counted apart.
const PER_LISTENER: usize = 2;
/// The most processes before this one whose listening sockets are kept for those who are on the way to them. More come only from
/// restarts in quick succession, and the service manager has no room for all.
const GENERATIONS: usize = 8;

/// The most ZeroMQ links that are shaking hands.
pub const HANDSHAKES: usize = 32;
/// The most connections over `clients.max` or `clients.max_per_address` whose requests are read, since one may be a health check.
pub const OVER_LIMIT: usize = 8;
/// The most connections to the status listener.
pub const STATUS: usize = 32;
/// What there must be for connections, in descriptors.
const LEAST: usize = 8;

/// How many connections of each kind may be open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Viewers.
    pub viewers: usize,
    /// Brokers' links.
    pub brokers: usize,
    /// Viewers and brokers together.
    pub both: usize,
    /// ZeroMQ links that are shaking hands.
    pub handshakes: usize,
    /// Connections over a limit of viewers.
    pub over_limit: usize,
    /// Connections to the status listener.
    pub status: usize,
}

/// What would share the limit of open files.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    /// Listening sockets.
    pub listeners: usize,
    /// Whether one of them is the status listener.
    pub status: bool,
    /// The viewers that are asked for.
    pub viewers: usize,
    /// The brokers that are asked for.
    pub brokers: usize,
}

/// The limit of open files is too low for a monitor.
#[derive(Debug, PartialEq, Eq, Error)]
#[error(
    "only {files} files may be open at once, and the monitor needs at least {needed}; raise the limit of open files \
     (LimitNOFILE= of the service, or ulimit -n)"
)]
pub struct TooFew {
    files: usize,
    needed: usize,
}

/// Raises the soft limit of open files to the hard one. A refusal leaves the limit as it is.
pub fn raise_open_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Has a write past the limit of a file's size (`RLIMIT_FSIZE`) fail with EFBIG, as a write to a full disk fails; the signal that
/// comes with it would end the process. For all threads that are started after this, and for good.
pub fn survive_full_files() {
    // Blocked and not ignored: for this there is a safe call. The signal then just stays pending.
    let signals = SigSet::from(Signal::SIGXFSZ);
    let _ = signals.thread_block();
}

/// How many files may be open at once.
#[must_use]
pub fn open_files() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(soft).unwrap_or(usize::MAX)
}

/// What was open when the process began, but for what the service manager kept for it.
static OPEN_AT_START: OnceLock<usize> = OnceLock::new();

/// Counts what is open. To be called before anything is opened, and after [`raise_open_files`].
///
/// # Errors
/// If what may be open besides is not even enough for the runtime and the log.
pub fn count_inherited() -> Result<(), TooFew> {
    // One of them is the directory that is read.
    let open = read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<usize>().ok());
    // As for systemd's own programs, the variables may be meant for another process.
    let is_meant = number("LISTEN_PID") == usize::try_from(std::process::id()).ok();
    let kept = if is_meant { number("LISTEN_FDS").unwrap_or(0) } else { 0 };
    let _ = OPEN_AT_START.set(open.saturating_sub(kept));
    let files = open_files();
    if files.saturating_sub(open) < RUNTIME + LOG {
        return Err(TooFew { files, needed: besides_connections(files, 2) + LEAST });
    }
    Ok(())
}

fn inherited() -> usize {
    OPEN_AT_START.get().map_or(INHERITED, |open| INHERITED.max(*open))
}

/// How many processes before this one keep their listening sockets: fewer where few files may be open.
#[must_use]
pub fn generations(files: usize) -> usize {
    (files / 32).clamp(1, GENERATIONS)
}

/// The descriptors for everything but connections.
#[must_use]
pub fn besides_connections(files: usize, listeners: usize) -> usize {
    inherited() + RUNTIME + LOG + NOTIFY + MOMENTARY + listeners * (PER_LISTENER + generations(files))
}

/// The descriptors that are open, at the most, while a process takes what the one before left; `kept` are the listening sockets
/// that come with it, `listeners` the process's own, which are bound before.
#[must_use]
pub fn while_taking_over(kept: usize, listeners: usize) -> usize {
    inherited() + RUNTIME + NOTIFY + MOMENTARY + kept + listeners * PER_LISTENER
}

/// How many connections a process has room for that takes over from another: brokers and viewers together, and links that shake
/// hands. As many as it has room for later on, so that the next restart takes them all.
#[must_use]
pub fn room_to_take_over(files: usize, listeners: usize, status: bool) -> (usize, usize) {
    let demand = Demand { listeners, status, viewers: usize::MAX, brokers: usize::MAX };
    match share(files, demand) {
        Ok(shares) => (shares.both, shares.handshakes),
        Err(_) => (files.saturating_sub(besides_connections(files, listeners)), 0),
    }
}

/// Shares `files` out: to viewers and brokers as many as are asked for, or half of what there is.
///
/// # Errors
/// If there are too few for a monitor.
pub fn share(files: usize, demand: Demand) -> Result<Shares, TooFew> {
    let besides = besides_connections(files, demand.listeners);
    let left = files.saturating_sub(besides);
    if left < LEAST {
        return Err(TooFew { files, needed: besides + LEAST });
    }
    let handshakes = HANDSHAKES.min(left / 8);
    let over_limit = OVER_LIMIT.min(left / 8);
    let status = if demand.status { STATUS.min(left / 8) } else { 0 };
    let both = left - handshakes - over_limit - status;
    let brokers = demand.brokers.min((both / 2).max(both.saturating_sub(demand.viewers)));
    Ok(Shares { viewers: demand.viewers.min(both - brokers), brokers, both, handshakes, over_limit, status })
}

/// The number of viewers that the limit of open files allows where nothing else is set.
#[must_use]
pub fn default_max_clients() -> usize {
    let demand = Demand { listeners: 2, status: false, viewers: MAX_CLIENTS, brokers: DEFAULT_BROKERS };
    share(open_files(), demand).map_or(1, |shares| shares.viewers)
}

/// The most brokers by default.
pub const DEFAULT_BROKERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Demand = Demand { listeners: 2, status: false, viewers: 1_000_000, brokers: 64 };

    #[test]
    fn the_shares_and_everything_else_fill_the_limit_and_no_more() {
        for files in 36..3000 {
            for (listeners, status) in [(2, false), (3, true), (12, true)] {
                for (viewers, brokers) in [(1, 1), (1, 10_000), (230, 64), (1_000_000, 64), (1_000_000, 10_000)] {
                    let demand = Demand { listeners, status, viewers, brokers };
                    let besides = besides_connections(files, listeners);
                    let Ok(shares) = share(files, demand) else {
                        assert!(files < besides + LEAST);
                        continue;
                    };
                    assert!(shares.both + shares.handshakes + shares.over_limit + shares.status + besides == files);
                    assert!(shares.viewers + shares.brokers <= shares.both);
                    assert!((1..=viewers).contains(&shares.viewers) && (1..=brokers).contains(&shares.brokers));
                    assert!(
                        shares.handshakes > 0 && shares.over_limit > 0 && (shares.status > 0) == status,
                        "{files}: {shares:?}"
                    );
                    let all = shares.viewers == viewers && shares.brokers == brokers;
                    assert!(all || shares.viewers + shares.brokers == shares.both, "{files}: {shares:?}");
                }
            }
        }
    }

    #[test]
    fn small_limits_come_to_something_sane_and_tiny_ones_are_refused() {
        let of = |files| share(files, PLAIN).map(|shares| (shares.viewers, shares.brokers, shares.handshakes));
        assert_eq!(of(41), Err(TooFew { files: 41, needed: 42 }));
        assert_eq!(of(64), Ok((11, 11, 3)));
        assert_eq!(of(128), Ok((35, 34, 11)));
        assert_eq!(of(256), Ok((110, 64, 26)));
        assert_eq!(of(1024), Ok((872, 64, 32)));
        assert_eq!(of(131_072), Ok((130_920, 64, 32)));
    }
}
