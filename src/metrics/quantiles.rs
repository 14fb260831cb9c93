//! Quantiles of the durations that a histogram has counted in the last minute.

use super::counter::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The quantiles of a minute: upper bounds of the histogram's ranges, in seconds; `None` if above all bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    /// The number of durations.
    pub count: u64,
    /// Half of them are at most as long.
    pub p50: Option<f64>,
    /// 99 % of them are at most as long.
    pub p99: Option<f64>,
}

/// The counts of a histogram at the ends of the last minute's intervals.
#[derive(Debug, Default)]
pub(crate) struct LastMinute(VecDeque<Vec<u64>>);

impl LastMinute {
    /// The number of intervals, of a second each.
    const INTERVALS: usize = 60;

    /// Notes the counts at the end of an interval, and returns the quantiles of the last minute; `None` if nothing was counted in it.
    pub(crate) fn add(&mut self, histogram: &Histogram) -> Option<Quantiles> {
        let (bounds, now): (Vec<_>, Vec<_>) = histogram.ranges().unzip();
        if self.0.len() > Self::INTERVALS {
            self.0.pop_front();
        }
        self.0.push_back(now);
        let (before, now) = (self.0.front()?, self.0.back()?);
        let counts: Vec<_> = now.iter().zip(before).map(|(now, before)| now - before).collect();
        let count: u64 = counts.iter().sum();
        (count > 0).then(|| {
            let [p50, p99] = [50, 99].map(|percent| bound(&bounds, &counts, (count * percent).div_ceil(100)));
            Quantiles { count, p50, p99 }
        })
    }
}

/// Returns the upper bound of the range of the duration number `rank`, counted from 1 and from the shortest; `None` if it has none.
fn bound(bounds: &[f64], counts: &[u64], rank: u64) -> Option<f64> {
    let mut so_far = 0;
    let reaches = |count: &u64| {
        so_far += count;
        so_far >= rank
    };
    counts.iter().position(reaches).map(|range| bounds[range]).filter(|bound| bound.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn seen(histogram: &Histogram, micros: u64, times: usize) {
        histogram.observe(Duration::from_micros(micros), times);
    }

    #[test]
    fn quantiles_are_the_bounds_of_their_ranges() {
        let (histogram, mut minute) = (Histogram::default(), LastMinute::default());
        assert_eq!(minute.add(&histogram), None);
        seen(&histogram, 60, 1);
        assert_eq!(minute.add(&histogram), Some(Quantiles { count: 1, p50: Some(0.0001), p99: Some(0.0001) }));
        // 98 of 100 are fast, then 99.
        seen(&histogram, 60, 97);
        seen(&histogram, 3_000, 2);
        assert_eq!(minute.add(&histogram), Some(Quantiles { count: 100, p50: Some(0.0001), p99: Some(0.005) }));
        seen(&histogram, 60, 100);
        assert_eq!(minute.add(&histogram), Some(Quantiles { count: 200, p50: Some(0.0001), p99: Some(0.0001) }));
        seen(&histogram, 11_000_000, 300);
        assert_eq!(minute.add(&histogram), Some(Quantiles { count: 500, p50: None, p99: None }));
    }

    #[test]
    fn a_duration_is_forgotten_after_a_minute() {
        let (histogram, mut minute) = (Histogram::default(), LastMinute::default());
        minute.add(&histogram);
        seen(&histogram, 700_000, 1);
        let counted = (0..70).map(|_| minute.add(&histogram)).take_while(Option::is_some).count();
        assert_eq!(counted, 60);
        seen(&histogram, 100, 1);
        assert_eq!(minute.add(&histogram), Some(Quantiles { count: 1, p50: Some(0.0001), p99: Some(0.0001) }));
    }
}
