//! Throttles for repeated log lines.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A throttle that lets a few lines through per period and counts the others. For lines that outsiders can cause at will.
#[derive(Debug)]
pub(crate) struct Throttle {
    burst: u64,
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the first line of this period passed.
    since: Option<Instant>,
    passed: u64,
    held: u64,
}

impl Throttle {
    /// Creates a throttle that lets one line through per `period`.
    #[must_use]
    pub(crate) const fn new(period: Duration) -> Self {
        Self::bursts(1, period)
    }

    /// Creates a throttle that lets `burst` lines through per `period`.
    #[must_use]
    pub(crate) const fn bursts(burst: u64, period: Duration) -> Self {
        Self { burst, period, state: Mutex::new(State { since: None, passed: 0, held: 0 }) }
    }

    /// Returns the text to append to a line that may pass now, or `None` if the line is held back.
    pub(crate) fn pass(&self) -> Option<String> {
        let held = self.held(Instant::now())?;
        Some(if held > 0 { format!(" ({held} more like this since the last such line)") } else { String::new() })
    }

    /// Returns how many lines were held back before one that may pass now, or `None` if this one is held back.
    fn held(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.is_none_or(|since| now >= since + self.period) {
            state.since = Some(now);
            state.passed = 0;
        }
        if state.passed == self.burst {
            state.held += 1;
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_period_and_the_rest_counted() {
        let throttle = Throttle::new(Duration::from_secs(10));
        let start = Instant::now();
        assert_eq!(throttle.held(start), Some(0));
        assert_eq!(throttle.held(start + Duration::from_secs(1)), None);
        assert_eq!(throttle.held(start + Duration::from_millis(9_999)), None);
        assert_eq!(throttle.held(start + Duration::from_secs(10)), Some(2));
        assert_eq!(throttle.held(start + Duration::from_secs(20)), Some(0));
    }

    #[test]
    fn a_burst_passes_and_the_rest_is_counted() {
        let throttle = Throttle::bursts(2, Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| throttle.held(start + Duration::from_secs(seconds));
        assert_eq!([at(0), at(5), at(6), at(9)], [Some(0), Some(0), None, None]);
        assert_eq!([at(10), at(19), at(19), at(20)], [Some(2), Some(0), None, Some(1)]);
    }
}
