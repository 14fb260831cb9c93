//! The limit of open files and its shares: every descriptor that the process may hold is counted here. Also the limit of file sizes.
//!
//! The next process must be able to take over, with the same limit, all connections that one process accepts. So each kind of
//! connection has a share, and all other descriptors are counted at their largest number.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use std::fs::read_dir;
use std::sync::OnceLock;
use thiserror::Error;

/// The most viewers by default, also where more files may be open.
const MAX_CLIENTS: usize = 1_000_000;

/// Standard input, output and error, and descriptors that the program that starts the monitor leaves open.
const INHERITED: usize = 8;
/// The runtime: two epoll sets, an eventfd, a pair of sockets for signals and a copy of one of them.
const RUNTIME: usize = 6;
/// The epoll set of the quiet viewers, and the two sockets of a probe.
const QUIET: usize = 3;
/// The log: its file or the journal's socket, a second one while it is rotated or a long line is sent, and the time zone.
const LOG: usize = 4;
/// Descriptors that are open for a moment, never all of one phase at once.
///
/// At the start: the look-up of a host or a user (5), a certificate, `history.state`, the queue of the previous process. Then: an
/// accepted connection that has no permit yet, the files of a reload (2). At the end: the queue's two ends, a pipe, a broker's link
/// and its copy, the state's memory file, `history.state` (2).
const MOMENTARY: usize = 9;
/// The socket of the service manager.
const NOTIFY: usize = 1;
/// A listening socket and a copy of it, such as one that waits for the service manager. Sockets of previous processes are counted apart.
const PER_LISTENER: usize = 2;
/// The most previous processes whose listening sockets are kept, for connections that are on the way to them. Only quick restarts make
/// more of them, and the service manager has no room for all.
const GENERATIONS: usize = 8;

/// The most ZeroMQ links that are shaking hands; fewer where few files may be open. The oldest is dropped when the limit is
/// reached, so that idle peers cannot block new ones.
pub const MAX_HANDSHAKES: usize = 32;
/// The most connections over `clients.max` or `clients.max_per_address` whose requests are read: one may be a health check.
pub const OVER_LIMIT: usize = 8;
/// The most connections to the status listener.
pub(crate) const STATUS: usize = 32;
/// The fewest descriptors for connections with which a monitor starts.
const LEAST: usize = 8;

/// The numbers of connections of each kind that may be open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
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

/// The settings that share the limit of open files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand {
    /// Listening sockets.
    pub listeners: usize,
    /// True if one of them is the status listener.
    pub status: bool,
    /// The requested number of viewers.
    pub viewers: usize,
    /// The requested number of brokers.
    pub brokers: usize,
    /// The descriptors for Redis: see [`redis()`].
    pub redis: usize,
}

/// Returns the largest number of descriptors for the Redis of a cluster with `servers` addresses: a node's three connections, one to each
/// address while it looks for the primary, and the look-up of a host (5).
pub(crate) fn redis(servers: usize) -> usize {
    3 + servers + 5
}

/// The limit of open files is too low for a monitor.
#[derive(Debug, PartialEq, Eq, Error)]
#[error(
    "only {files} files may be open at once, and the monitor needs at least {needed}; raise the limit of open files \
     (LimitNOFILE= of the service, or ulimit -n)"
)]
pub(crate) struct TooFew {
    files: usize,
    needed: usize,
}

/// Raises the soft limit of open files to the hard one. A refusal leaves the limit as it is.
pub(crate) fn raise_open_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Blocks the signal that comes with a write past the limit of a file's size (`RLIMIT_FSIZE`), which would end the process.
///
/// The write then fails with EFBIG, as a write to a full disk fails. This holds for all threads that are started later.
pub(crate) fn survive_full_files() {
    // The signal is blocked and not ignored, because only blocking has a safe call. It stays pending.
    let signals = SigSet::from(Signal::SIGXFSZ);
    let _ = signals.thread_block();
}

/// Returns the number of files that may be open at once.
pub(crate) fn open_files() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(soft).unwrap_or(usize::MAX)
}

/// The number of descriptors that were open when the process began, without those from the service manager's store.
static OPEN_AT_START: OnceLock<usize> = OnceLock::new();

/// Counts the open descriptors. To be called before anything is opened, and after [`raise_open_files`].
///
/// # Errors
/// If the rest of the limit is not even enough for the runtime and the log.
pub(crate) fn count_inherited() -> Result<(), TooFew> {
    // One of the entries is the directory that is being read.
    let open = read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<usize>().ok());
    // The variables may be meant for another process.
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

/// Returns the number of previous processes whose listening sockets are kept: fewer where few files may be open.
pub(crate) fn generations(files: usize) -> usize {
    (files / 32).clamp(1, GENERATIONS)
}

/// Returns the number of descriptors for everything but connections.
pub(crate) fn besides_connections(files: usize, listeners: usize) -> usize {
    inherited() + RUNTIME + QUIET + LOG + NOTIFY + MOMENTARY + listeners * (PER_LISTENER + generations(files))
}

/// Returns the largest number of descriptors besides connections while a process takes over from the previous one, with
/// `inherited_listeners` listening sockets of previous processes and `listeners` of its own, which are bound before.
pub(crate) fn while_taking_over(inherited_listeners: usize, listeners: usize) -> usize {
    inherited() + RUNTIME + NOTIFY + MOMENTARY + inherited_listeners + listeners * PER_LISTENER
}

/// Returns the number of connections that a process can take over: brokers and viewers together, and links that shake hands.
///
/// These are as many as it has room for later on, so that the next restart takes over all of them.
pub(crate) fn room_to_take_over(files: usize, listeners: usize, status: bool, redis: usize) -> (usize, usize) {
    let demand = Demand { listeners, status, viewers: usize::MAX, brokers: usize::MAX, redis };
    match share(files, demand) {
        Ok(shares) => (shares.both, shares.handshakes),
        Err(_) => (files.saturating_sub(besides_connections(files, listeners) + redis), 0),
    }
}

/// Shares `files` out. Viewers and brokers get as many as requested, or at least about half of the rest each.
///
/// # Errors
/// If there are too few for a monitor.
pub(crate) fn share(files: usize, demand: Demand) -> Result<Shares, TooFew> {
    let besides = besides_connections(files, demand.listeners) + demand.redis;
    let left = files.saturating_sub(besides);
    if left < LEAST {
        return Err(TooFew { files, needed: besides + LEAST });
    }
    let handshakes = MAX_HANDSHAKES.min(left / 8);
    let over_limit = OVER_LIMIT.min(left / 8);
    let status = if demand.status { STATUS.min(left / 8) } else { 0 };
    let both = left - handshakes - over_limit - status;
    let brokers = demand.brokers.min((both / 2).max(both.saturating_sub(demand.viewers)));
    Ok(Shares { viewers: demand.viewers.min(both - brokers), brokers, both, handshakes, over_limit, status })
}

/// Returns the number of viewers that the limit of open files allows with the default settings.
#[must_use]
pub fn default_max_clients() -> usize {
    let demand = Demand { listeners: 2, status: false, viewers: MAX_CLIENTS, brokers: DEFAULT_BROKERS, redis: 0 };
    share(open_files(), demand).map_or(1, |shares| shares.viewers)
}

/// The most brokers by default.
pub(crate) const DEFAULT_BROKERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Demand = Demand { listeners: 2, status: false, viewers: 1_000_000, brokers: 64, redis: 0 };

    #[test]
    fn the_shares_and_everything_else_fill_the_limit_and_no_more() {
        for files in 36..3000 {
            for (listeners, status) in [(2, false), (3, true), (12, true)] {
                for (viewers, brokers) in [(1, 1), (1, 10_000), (230, 64), (1_000_000, 64), (1_000_000, 10_000)] {
                    let redis = redis(listeners % 3);
                    let demand = Demand { listeners, status, viewers, brokers, redis };
                    let besides = besides_connections(files, listeners) + redis;
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
        assert_eq!(of(44), Err(TooFew { files: 44, needed: 45 }));
        let with_status = Demand { listeners: 3, status: true, ..PLAIN };
        assert_eq!(share(47, with_status), Err(TooFew { files: 47, needed: 48 }));
        assert_eq!(of(64), Ok((10, 9, 3)));
        assert_eq!(of(128), Ok((34, 33, 10)));
        assert_eq!(of(256), Ok((108, 64, 25)));
        assert_eq!(of(1024), Ok((869, 64, 32)));
        assert_eq!(of(131_072), Ok((130_917, 64, 32)));
    }
}
