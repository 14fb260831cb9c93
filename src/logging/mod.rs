//! The log: lines are queued without waiting and written by one thread, so that neither a disk nor a reader holds up the relay.

mod escape;
mod line;
mod log_file;
mod notices;
mod outage;
mod probe;
mod queue;
mod sink;
mod standard;
mod target;
mod throttle;

pub(crate) use escape::{Abridged, escape, one_line};
pub(crate) use notices::Notice;
pub(crate) use probe::probe;
pub(crate) use sink::reach_journal;
pub(crate) use target::Target;
pub(crate) use throttle::Throttle;

use crate::config::{Level, Logger};
use crate::error::{Exit, Failure};
use nix::sys::stat::{Mode, umask};
use queue::{Queue, Request, locked};
use sink::Sink;
use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::Duration;

/// The most lines that wait to be written.
pub const QUEUE: usize = 1024;
/// The longest line, in bytes; the rest of a longer one is cut.
pub const MAX_LINE: usize = 4096;
/// The number of warnings and errors that are remembered.
pub const NOTICES: usize = 50;
/// The permissions that the log's files never get: any for others, and write for the group.
const MASK: Mode = Mode::from_bits_truncate(0o027);
/// The longest wait for queued lines at the end of the program.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A journal field (systemd.journal-fields(7)) that a line may carry besides its message: the address at the other end.
pub const PEER: &str = "RECODEX_PEER";
/// The field for the channel id.
pub const CHANNEL: &str = "RECODEX_CHANNEL";
/// The field for the code of a WebSocket close.
pub const CLOSE_CODE: &str = "RECODEX_CLOSE_CODE";

/// The queue, once [`begin`] was called.
static LOG: OnceLock<Queue> = OnceLock::new();

/// The log before it is open. Lines wait in the queue meanwhile.
pub(crate) struct Waiting {
    queue: &'static Queue,
    requests: Receiver<Request>,
}

/// The log before its thread runs.
pub(crate) struct Opened {
    waiting: Waiting,
    sink: Sink,
}

/// Takes lines from now on, from `level` up. May be called once in a process.
///
/// # Errors
/// [`Exit::Software`] if it is called twice.
pub(crate) fn begin(level: Level) -> Result<Waiting, Failure> {
    let (sender, requests) = mpsc::sync_channel(QUEUE);
    let queue = LOG.get_or_init(|| Queue::new(sender));
    log::set_logger(queue).map_err(|_| Failure::new(Exit::Software, "the log was started twice"))?;
    log::set_max_level(level.filter());
    Ok(Waiting { queue, requests })
}

impl Waiting {
    /// Opens the log's target. From here on every file that this process creates has the mode 0640 at most; the Unix socket, which has a
    /// mode of its own, sets the mask for itself. There must be no threads yet.
    ///
    /// # Errors
    /// [`Exit::Config`] if the target cannot be written to.
    pub(crate) fn open(self, settings: &Logger) -> Result<Opened, Failure> {
        // By the mask, because the library that rotates opens files without a mode.
        umask(umask(MASK) | MASK);
        Ok(Opened { waiting: self, sink: Sink::open(settings)? })
    }

    /// Makes `print` print every line, in the format of standard error.
    pub(crate) fn open_with(self, print: impl FnMut(&str) -> io::Result<()> + Send + 'static) -> Opened {
        Opened { waiting: self, sink: Sink::printing(Box::new(print)) }
    }
}

impl Opened {
    /// Starts the thread that writes. Privileges must have been dropped before: a thread keeps those that it started with.
    ///
    /// # Errors
    /// [`Exit::Software`] if the thread cannot be started.
    pub(crate) fn start(self) -> Result<(), Failure> {
        let Self { waiting: Waiting { queue, requests }, sink } = self;
        let thread = std::thread::Builder::new().name("log".into()).stack_size(128 * 1024);
        let started = thread.spawn(move || write_all(queue, &requests, sink));
        started.map_err(|e| Failure::new(Exit::Software, format!("cannot start the log's thread: {e}")))?;
        Ok(())
    }
}

/// Writes every line that is queued. Returns when the queue is gone.
fn write_all(queue: &Queue, requests: &Receiver<Request>, mut sink: Sink) {
    loop {
        let request = match requests.try_recv() {
            Ok(request) => request,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                // Dropped lines are reported when no line is waiting any more.
                sink.report(&queue.dropped);
                let Ok(request) = requests.recv() else { return };
                request
            }
        };
        if let Some(settings) = locked(&queue.changed).take() {
            sink.reopen(&settings);
        }
        match request {
            Request::Line(line) => sink.write(&line),
            Request::Reopen => {}
            Request::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// Returns the last warnings and errors, the oldest first.
#[must_use]
pub(crate) fn notices() -> Vec<Notice> {
    LOG.get().map_or_else(Vec::new, |queue| locked(&queue.notices).last.iter().rev().cloned().collect())
}

/// Returns the number of warnings and errors so far.
#[must_use]
pub(crate) fn noticed() -> u64 {
    LOG.get().map_or(0, |queue| locked(&queue.notices).count)
}

/// Returns the number of lines for which the queue had no room.
#[must_use]
pub(crate) fn dropped() -> u64 {
    LOG.get().map_or(0, |queue| queue.dropped.total())
}

/// Applies changed settings, and opens a log file anew.
pub(crate) fn reload(settings: &Logger) {
    log::set_max_level(settings.level.filter());
    if let Some(queue) = LOG.get() {
        *locked(&queue.changed) = Some(settings.clone());
        let _ = queue.requests.try_send(Request::Reopen);
    }
}

/// Waits until everything is written, for [`CLOSE_TIMEOUT`] at most.
pub(crate) fn close() {
    let Some(queue) = LOG.get() else { return };
    let (done, written) = mpsc::sync_channel(1);
    if queue.requests.try_send(Request::Flush(done)).is_ok() {
        let _ = written.recv_timeout(CLOSE_TIMEOUT);
    }
}
