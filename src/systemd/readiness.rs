//! The states of the service that the service manager is told (`sd_notify(3)`): ready, reloading, stopping.

use crate::systemd::notify;
use crate::systemd::notify::Kind;
use sd_notify::NotifyState;
use std::sync::atomic::{AtomicBool, Ordering};

/// The time that the service manager is asked to wait for the end of the process, in microseconds.
const STOP_MICROS: u32 = 10_000_000;

/// True once the service manager was told that the monitor stops.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Tells that the monitor relays.
pub(crate) fn ready() {
    notify::send(Kind::Ready, &[NotifyState::Ready], None);
}

/// Tells that the monitor reads its configuration again; [`ready`] must follow.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify::send(Kind::Reloading, &[NotifyState::Reloading, now], None),
        Err(e) => log::debug!("no monotonic clock: {e}"),
    }
}

/// Tells that the monitor stops, for good or for a restart. A second call asks for more time.
pub(crate) fn stopping() {
    STOPPING.store(true, Ordering::Relaxed);
    let limit = NotifyState::ExtendTimeoutUsec(STOP_MICROS);
    notify::send(Kind::Stopping, &[NotifyState::Stopping, limit, NotifyState::Status("stopping")], None);
}

/// Returns true once [`stopping`] was called in this process. The service manager must not be told of a reload then.
pub(crate) fn is_stopping() -> bool {
    STOPPING.load(Ordering::Relaxed)
}
