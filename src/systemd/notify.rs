//! Messages to the service manager (`sd_notify(3)`). Sending never blocks the relay's thread: a message that cannot be sent at once
//! is queued.

mod queue;
mod socket;

use crate::logging::escape;
use crate::systemd::notify::queue::{Message, Queue};
use crate::systemd::notify::socket::Socket;
use sd_notify::NotifyState;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

static QUEUE: OnceLock<Queue> = OnceLock::new();

/// The kind of a message, which decides if an older one still matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Readiness. Of this kind and the four after it, only the newest message waits.
    Ready,
    /// The beginning of a reload.
    Reloading,
    /// The end of the service.
    Stopping,
    /// The status line.
    Status,
    /// A sign of life.
    Watchdog,
    /// A descriptor to be kept. Each listening socket is sent once, so that few of them wait.
    Store,
    /// A descriptor to be let go. Each name is sent once.
    Remove,
    /// A descriptor that the service manager closes once all messages before it are handled.
    Barrier,
}

impl Kind {
    /// Returns true if all messages of this kind must arrive, and not only the newest one.
    fn all_count(self) -> bool {
        matches!(self, Self::Store | Self::Remove | Self::Barrier)
    }
}

/// Opens the socket that `NOTIFY_SOCKET` names, if it is set. To be called once, before root is given up.
pub(crate) fn open() {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    let name = name.to_string_lossy();
    match Socket::new(&name) {
        Ok(socket) => drop(QUEUE.set(Queue::new(socket))),
        Err(e) => log::warn!(
            "NOTIFY_SOCKET={}: the service manager cannot be told anything: {e}; expected an absolute path of at most 107 bytes, or @ \
             and a name in the abstract namespace",
            escape(&name)
        ),
    }
}

/// Returns true if there is a service manager to send messages to.
pub(crate) fn is_open() -> bool {
    QUEUE.get().is_some()
}

/// Sends a message to the service manager, at once or as soon as it takes messages.
pub(crate) fn send(kind: Kind, states: &[NotifyState<'_>], descriptor: Option<OwnedFd>) {
    if let Some(queue) = QUEUE.get() {
        let text = states.iter().flat_map(|state| [state.to_string(), "\n".to_owned()]).collect();
        queue.send(Message { kind, text, descriptor });
    }
}

/// Registers a descriptor at the runtime, without a copy of it. Must be called in a tokio runtime.
///
/// # Errors
/// If the system refuses.
pub(crate) fn watch(descriptor: BorrowedFd<'_>, interest: Interest) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    #[expect(unsafe_code, reason = "the descriptor must stay open, and that is what a borrowed one does")]
    // SAFETY: a borrowed descriptor is open as long as it is borrowed, and always the same one.
    unsafe {
        Ok(AsyncFd::register_with_interest(descriptor, interest)?)
    }
}

/// Sends the messages that wait, while the runtime runs. Never returns.
pub(crate) async fn send_waiting() {
    match QUEUE.get() {
        Some(queue) => queue.send_waiting().await,
        None => std::future::pending().await,
    }
}

/// Drops the waiting messages of a handover that was given up.
pub(crate) fn forget_descriptors() {
    if let Some(queue) = QUEUE.get() {
        queue.forget(&[Kind::Store, Kind::Barrier]);
    }
}

/// Blocks, at the end of the process, until descriptors are let go, for `time` at most. Other messages do not matter any more.
pub(crate) fn finish(time: Duration) {
    if let Some(queue) = QUEUE.get() {
        queue.finish(time);
    }
}
