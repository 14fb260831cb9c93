//! The end of the monitor's tasks: at a stop all connections are closed in order, for a handover nothing is closed.

use crate::context::Shared;
use crate::context::permits::ConnectionLimit;
use crate::deadline::timeout_at;
use crate::handover::{history_file, history_to_save};
use crate::net::unix::UnixFile;
use crate::server::ports::Remains;
use crate::systemd::readiness;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::Instant;

/// The most time that stopping takes; with the end of the process it stays under the 5 s that are promised.
pub const STOP_LIMIT: Duration = Duration::from_millis(4_500);

/// The most time for Redis to take the last messages, and for this node to read them.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// The most time that status connections have to send their last event.
const STATUS_GRACE: Duration = Duration::from_millis(500);

/// The tasks and files of a relay that is running.
pub(super) struct Running {
    pub(super) shared: Arc<Shared>,
    /// The tasks that accept, and those in the background.
    pub(super) tasks: JoinSet<()>,
    /// The rest of the listening sockets.
    pub(super) remains: Remains,
}

impl Running {
    /// Prepares the end of all tasks: no connection is accepted any more, the hub keeps its history although viewers leave, and a
    /// connection that is dropped records its state for the handover.
    pub(super) async fn freeze(mut self) {
        self.tasks.shutdown().await;
        self.shared.hub.freeze();
        self.shared.outbox.open();
    }

    /// Takes what brokers have already sent, delivers it, and closes every connection until `deadline`. The history is saved
    /// meanwhile, which may take a slow disk longer.
    pub(super) async fn stop(mut self, deadline: Instant) {
        let shared = &self.shared;
        log::info!("stopping with {} viewers and {} channels", shared.viewers.taken(), shared.hub.usage().channels);
        self.tasks.shutdown().await;
        // Removed at once, so that the web server in front notices the stop.
        self.remains.files.drain(..).for_each(UnixFile::remove);
        self.remains.leave_shared_ports(shared).await;
        shared.stop.send_replace(true);
        all_free(&shared.brokers, deadline).await;
        if let Some(stream) = &shared.stream {
            stream.flush(deadline.min(Instant::now() + FLUSH_LIMIT)).await;
        }
        // Saved before the hub stops: a job that may go on must have no FINISHED of the monitor's in the saved history.
        let saving = save_history(shared);
        shared.hub.stop();
        if !all_free(&shared.viewers, deadline).await {
            log::warn!("{} viewers did not take what was sent to them in time", shared.viewers.taken());
        }
        all_free(&shared.status_connections, deadline.min(Instant::now() + STATUS_GRACE)).await;
        let mut is_saved = false;
        if let Some(saving) = saving {
            // Asks the service manager for more time.
            readiness::stopping();
            is_saved = saving.await.unwrap_or(false);
        }
        if !is_saved {
            shared.warn_of_unsent();
        }
        log::info!("stopped: {}", shared.metrics);
    }
}

/// Waits until all permits are free, or until the deadline; returns true if they are free.
///
/// It waits in a task of its own, so that connections have their turn before it, see [`crate::deadline::turns`].
async fn all_free(permits: &Arc<ConnectionLimit>, deadline: Instant) -> bool {
    let permits = Arc::clone(permits);
    let waiting = tokio::spawn(async move { timeout_at(deadline, permits.all_free()).await });
    waiting.await.is_ok_and(|waited| waited.is_ok())
}

/// Begins to save the history as it is now, on a thread of its own, if `history.state` is set.
fn save_history(shared: &Shared) -> Option<JoinHandle<bool>> {
    let (path, history) = history_to_save(shared)?;
    Some(spawn_blocking(move || history_file::save(&path, history)))
}

/// Ends every task where it waits. After [`Running::freeze`] the connections record their states in the outbox as they are dropped.
pub(super) fn end_all_tasks(runtime: Runtime) {
    // Not waited for: threads that look up a host, which may take as long as a name server is silent. The saving of the history was.
    runtime.shutdown_background();
}
