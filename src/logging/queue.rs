//! The queue of lines between the program and the thread that writes them. Nothing waits for room in it.

use super::line::{Line, fields};
use super::notices::Notices;
use crate::config::Logger;
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// A request to the thread that writes.
pub(super) enum Request {
    Line(Line),
    /// Apply changed settings.
    Reopen,
    /// Answer when everything before is written.
    Flush(SyncSender<()>),
}

/// The program's end of the queue.
pub(super) struct Queue {
    pub(super) requests: SyncSender<Request>,
    pub(super) dropped: Dropped,
    pub(super) notices: Mutex<Notices>,
    /// Settings to open the target anew with; not in the request, for which there may be no room.
    pub(super) changed: Mutex<Option<Logger>>,
}

impl Queue {
    pub(super) fn new(requests: SyncSender<Request>) -> Self {
        Self { requests, dropped: Dropped::default(), notices: Mutex::default(), changed: Mutex::new(None) }
    }

    /// Queues a line, or counts it as dropped.
    pub(super) fn push(&self, level: Level, text: &str, fields: Vec<(&'static str, String)>) {
        let line = Line::new(level, text, fields);
        if level <= Level::Warn {
            locked(&self.notices).add(&line);
        }
        if let Err(TrySendError::Full(_)) = self.requests.try_send(Request::Line(line)) {
            self.dropped.add();
        }
    }
}

impl Log for Queue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Below a warning, lines of libraries do not concern an administrator.
        metadata.target().starts_with("recodex_monitor") || metadata.level() <= LevelFilter::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.push(record.level(), &record.args().to_string(), fields(record));
        }
    }

    fn flush(&self) {}
}

/// The count of lines for which the queue had no room.
#[derive(Default)]
pub(super) struct Dropped {
    /// The number of lines that are not reported yet, and the time of the first.
    unreported: Mutex<(u64, Option<SystemTime>)>,
    total: AtomicU64,
}

impl Dropped {
    fn add(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let (count, since) = &mut *locked(&self.unreported);
        *count += 1;
        since.get_or_insert_with(SystemTime::now);
    }

    /// Returns the number of lines dropped since the last call, and the time of the first.
    pub(super) fn take(&self) -> (u64, SystemTime) {
        let (count, since) = std::mem::take(&mut *locked(&self.unreported));
        (count, since.unwrap_or_else(SystemTime::now))
    }

    /// Returns the number of all lines dropped.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
