//! The service manager's side (`sd_notify(3)`): readiness, status, reload, watchdog. All of it is silent without one.

use crate::shared::Shared;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, interval, sleep};

/// The least time between two status lines.
const STATUS_PERIOD: Duration = Duration::from_secs(5);
/// How long the service manager is asked to wait for the end, from its beginning.
const STOP_MICROS: u32 = 10_000_000;

/// True once the service manager was told that the monitor stops.
static STOPPING: AtomicBool = AtomicBool::new(false);

fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        log::debug!("cannot notify the service manager: {e}");
    }
}

/// The monitor relays.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The monitor takes up its configuration anew; [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(e) => log::debug!("no monotonic clock: {e}"),
    }
}

/// The monitor stops, for good or for a restart.
pub fn stopping() {
    STOPPING.store(true, Ordering::Relaxed);
    notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(STOP_MICROS), NotifyState::Status("stopping")]);
}

/// Whether [`stopping`] was called in this process. The service manager must not be told of a reload then.
pub fn is_stopping() -> bool {
    STOPPING.load(Ordering::Relaxed)
}

/// Keeps the status line up to date, and the watchdog content as long as messages go through the hub. Never returns.
pub async fn attend(shared: Arc<Shared>) {
    let watched = async {
        match sd_notify::watchdog_enabled() {
            Some(limit) => watchdog(&shared, limit / 2).await,
            None => std::future::pending().await,
        }
    };
    tokio::join!(status(&shared), watched);
}

/// Without a service manager nobody reads the status, so that nothing is done.
async fn status(shared: &Shared) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let (mut last, mut messages, mut at) = (String::new(), shared.metrics.messages.get(), Instant::now());
    loop {
        let changed = shared.changed.notified();
        let (now, count) = (Instant::now(), shared.metrics.messages.get());
        let seconds = now.duration_since(at).as_millis().max(1).div_ceil(1000);
        let rate = u128::from(count - messages) / seconds;
        (messages, at) = (count, now);
        let line = format!(
            "{} viewers, {} channels, {rate} messages/s, {} brokers connected",
            shared.viewers.taken(),
            shared.hub.usage().channels,
            shared.brokers.taken()
        );
        if line != last {
            notify(&[NotifyState::Status(&line)]);
            last = line;
        }
        // While messages come, the rate changes; else there is nothing to tell until something happens.
        if rate == 0 {
            changed.await;
        }
        sleep(STATUS_PERIOD).await;
    }
}

async fn watchdog(shared: &Shared, period: Duration) {
    let mut beat = interval(period.max(Duration::from_millis(1)));
    loop {
        beat.tick().await;
        shared.hub.probe().await;
        notify(&[NotifyState::Watchdog]);
    }
}
