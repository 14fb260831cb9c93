//! The types of metrics: counters and histograms.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// Returns the count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations, counted by ranges.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [Counter; Self::BOUNDS.len() + 1],
    nanoseconds: Counter,
}

impl Histogram {
    /// The upper bounds of the ranges, in microseconds.
    const BOUNDS: [u64; 15] = [
        100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
        10_000_000,
    ];

    /// Counts a duration that was seen `times` times.
    pub fn observe(&self, time: Duration, times: usize) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let range = Self::BOUNDS.iter().position(|bound| nanoseconds <= bound * 1000).unwrap_or(Self::BOUNDS.len());
        self.counts[range].add(times);
        self.nanoseconds.add(usize::try_from(nanoseconds).unwrap_or(usize::MAX).saturating_mul(times));
    }

    /// Returns the sum, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "a sum of seconds needs no more than 52 bits")]
    pub fn sum(&self) -> f64 {
        self.nanoseconds.get() as f64 / 1e9
    }

    /// Returns the upper bound, in seconds, and the count of each range.
    #[expect(clippy::cast_precision_loss, reason = "the bounds are small")]
    pub fn ranges(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = Self::BOUNDS.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().map(Counter::get))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_in_the_range_it_is_in() {
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(micros), 1);
        }
        let counted: Vec<_> = histogram.ranges().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(0.0001, 2), (0.00025, 1), (10.0, 1), (f64::INFINITY, 1)]);
        assert!((histogram.sum() - 20.000_202).abs() < 1e-9);
    }
}
