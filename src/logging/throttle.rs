//! Holds back repeated log lines.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets a few lines through per period and says how many it held back. For what outsiders can cause at will.
#[derive(Debug)]
pub struct Throttle {
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
    /// Lets one line through per `period`.
    #[must_use]
    pub const fn new(period: Duration) -> Self {
        Self::bursts(1, period)
    }

    /// Lets `burst` lines through per `period`.
    #[must_use]
    pub const fn bursts(burst: u64, period: Duration) -> Self {
        Self { burst, period, state: Mutex::new(State { since: None, passed: 0, held: 0 }) }
    }

    /// What to append to a line that may pass now, or `None` if it is held back.
    pub fn pass(&self) -> Option<String> {
        let held = self.held(Instant::now())?;
        Some(if held > 0 { format!(" ({held} more like this since the last such line)") } else { String::new() })
    }

    /// Whether a line may pass now; if so, how many were held back before it.
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
