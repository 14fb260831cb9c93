//! Holds back repeated log lines.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets one line through per period and says how many it held back. For what outsiders can cause at will.
#[derive(Debug)]
pub struct Throttle {
    period: Duration,
    last: Mutex<(Option<Instant>, u64)>,
}

impl Throttle {
    /// Lets one line through per `period`.
    #[must_use]
    pub const fn new(period: Duration) -> Self {
        Self { period, last: Mutex::new((None, 0)) }
    }

    /// What to append to a line that may pass now, or `None` if it is held back.
    pub fn pass(&self) -> Option<String> {
        let held = self.held(Instant::now())?;
        Some(if held > 0 { format!(" ({held} more like this since the last such line)") } else { String::new() })
    }

    /// Whether a line may pass now; if so, how many were held back before it.
    fn held(&self, now: Instant) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.is_some_and(|at| now < at + self.period) {
            last.1 += 1;
            return None;
        }
        last.0 = Some(now);
        Some(std::mem::take(&mut last.1))
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
}
