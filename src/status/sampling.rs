//! Takes the samples for the page's graphs.

use super::report::seconds;
use crate::context::Shared;
use crate::metrics::process::cpu_time;
use crate::metrics::quantiles::LastMinute;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// The time between two samples.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// Takes a sample every second. Never returns.
pub(crate) async fn sample(shared: Arc<Shared>) {
    let metrics = &shared.metrics;
    let counts = || [metrics.received.get(), metrics.sent.get()];
    let mut beat = interval(PERIOD);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat.tick().await;
    let mut at = Instant::now();
    let (mut before, mut cpu_before, mut lag) = (counts(), cpu_time(), LastMinute::default());
    lag.add(&metrics.lag);
    loop {
        // The tick tells when it was due, which may be long ago on a machine with much load.
        beat.tick().await;
        let now = Instant::now();
        let milliseconds = u64::try_from(now.duration_since(at).as_millis()).unwrap_or(u64::MAX).max(1);
        let (after, cpu_after) = (counts(), cpu_time());
        let rate = |i: usize| (after[i] - before[i]).saturating_mul(1000).div_ceil(milliseconds);
        shared.samples.set_lag(lag.add(&metrics.lag));
        let cpu = percent(cpu_after.saturating_sub(cpu_before), now.duration_since(at));
        shared.samples.add((seconds(SystemTime::now()), rate(0), rate(1), shared.viewers.taken(), cpu));
        (at, before, cpu_before) = (now, after, cpu_after);
    }
}

/// Returns how many percent of `whole` a time is, with one decimal.
fn percent(time: Duration, whole: Duration) -> f64 {
    (time.as_secs_f64() / whole.as_secs_f64().max(0.001) * 1000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_told_in_percent_of_one_core() {
        let ms = Duration::from_millis;
        for (time, whole, told) in [(0, 1000, 0.0), (1, 1000, 0.1), (505, 1010, 50.0), (2000, 1000, 200.0), (0, 0, 0.0)]
        {
            assert!((percent(ms(time), ms(whole)) - told).abs() < 1e-9, "{time} of {whole}");
        }
    }
}
