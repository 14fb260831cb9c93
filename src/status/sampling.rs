//! Takes the samples for the page's graphs.

use super::report::seconds;
use crate::context::Shared;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{MissedTickBehavior, interval};

/// The time between two samples.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// Takes a sample every second. Never returns.
pub(crate) async fn sample(shared: Arc<Shared>) {
    let metrics = &shared.metrics;
    let counts = || [metrics.received.get(), metrics.sent.get()];
    let mut beat = interval(PERIOD);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut at = beat.tick().await;
    let mut before = counts();
    loop {
        let now = beat.tick().await;
        let milliseconds = u64::try_from(now.duration_since(at).as_millis()).unwrap_or(u64::MAX).max(1);
        let after = counts();
        let rate = |i: usize| (after[i] - before[i]).saturating_mul(1000).div_ceil(milliseconds);
        shared.samples.add((seconds(SystemTime::now()), rate(0), rate(1), shared.viewers.taken()));
        (at, before) = (now, after);
    }
}
