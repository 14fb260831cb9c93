//! The status line and the watchdog's signs of life for the service manager (`sd_notify(3)`). Without one nothing is done.

use crate::context::Shared;
use crate::systemd::notify;
use crate::systemd::notify::Kind;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, interval, sleep};

/// The least time between two status lines.
const STATUS_PERIOD: Duration = Duration::from_secs(5);
/// The least time between two signs of life.
const LEAST_BEAT: Duration = Duration::from_millis(100);

/// Keeps the status line up to date, and sends signs of life as long as messages go through the hub. Never returns.
pub(super) async fn report(shared: Arc<Shared>) {
    let watched = async {
        let variable = |name| std::env::var(name).ok();
        let limit = watchdog_limit(variable("WATCHDOG_USEC").as_deref(), variable("WATCHDOG_PID").as_deref());
        match limit.filter(|_| notify::is_open()) {
            Some(limit) => send_signs_of_life(&shared, limit / 2).await,
            None => std::future::pending().await,
        }
    };
    tokio::join!(send_status_lines(&shared), watched);
}

async fn send_status_lines(shared: &Shared) {
    if !notify::is_open() {
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
            notify::send(Kind::Status, &[NotifyState::Status(&line)], None);
            last = line;
        }
        // While messages come, the rate changes. Otherwise the line stays the same until something happens.
        if rate == 0 {
            changed.await;
        }
        sleep(STATUS_PERIOD).await;
    }
}

/// Returns the time within which the service manager expects a sign of life of this process (`sd_watchdog_enabled(3)`).
///
/// The arguments are the values of `WATCHDOG_USEC` and `WATCHDOG_PID`. Returns `None` if no sign is expected.
fn watchdog_limit(micros: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    let micros = micros?;
    if pid.is_some_and(|pid| pid.parse() != Ok(std::process::id())) {
        return None;
    }
    match micros.parse() {
        Ok(0 | u64::MAX) => None,
        Ok(micros) => Some(Duration::from_micros(micros)),
        Err(_) => {
            log::warn!("WATCHDOG_USEC={micros:?}: expected a whole number of microseconds; there is no watchdog");
            None
        }
    }
}

async fn send_signs_of_life(shared: &Shared, period: Duration) {
    if period < LEAST_BEAT {
        log::warn!(
            "WATCHDOG_USEC= asks for a sign of life within {:?}; one comes every {LEAST_BEAT:?}; set WatchdogSec= to 1 s or more",
            period * 2
        );
    }
    let mut beat = interval(period.max(LEAST_BEAT));
    loop {
        beat.tick().await;
        shared.probe().await;
        notify::send(Kind::Watchdog, &[NotifyState::Watchdog], None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_one_with_a_time_for_this_process() {
        let own = std::process::id().to_string();
        assert_eq!(watchdog_limit(Some("400000"), None), Some(Duration::from_millis(400)));
        assert_eq!(watchdog_limit(Some("1"), Some(&own)), Some(Duration::from_micros(1)));
        let infinite = u64::MAX.to_string();
        for micros in ["0", "", "x", "-1", "1.5", &infinite] {
            assert_eq!(watchdog_limit(Some(micros), None), None, "{micros}");
        }
        for pid in ["1", "", "x"] {
            assert_eq!(watchdog_limit(Some("400000"), Some(pid)), None, "{pid}");
        }
        assert_eq!(watchdog_limit(None, Some(&own)), None);
    }
}
