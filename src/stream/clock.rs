//! The clock of a node that catches up: it tells when an entry came, by its id.

use crate::snapshot::stream::EntryId;
use std::time::Duration;
use tokio::time::Instant;

/// The clock of a node that catches up.
#[derive(Debug)]
pub(super) struct Clock {
    /// The time at `at`, in milliseconds since the Unix epoch.
    time: u64,
    at: Instant,
    /// The time of the last entry: time does not go back.
    last: Option<Instant>,
}

/// The time of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time {
    /// The time at which its messages came.
    pub(super) at: Instant,
    /// True if the id tells it. What was due before is over then; no entry that follows is older.
    pub(super) is_known: bool,
}

impl Clock {
    /// Creates a clock at `now`, which is `time` in milliseconds since the Unix epoch.
    pub(super) fn new(time: u64, now: Instant) -> Self {
        Self { time, at: now, last: None }
    }

    /// Returns the time at which an entry came.
    ///
    /// An entry from the future came now, as far as anybody can tell: so did all that follow it, because ids only grow. It must
    /// expire nothing, since the next entry may be an old one that keeps a job.
    pub(super) fn time_of(&mut self, id: EntryId, now: Instant) -> Time {
        let since = u64::try_from(now.duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        let time = self.time.saturating_add(since);
        let age = time.saturating_sub(id.milliseconds);
        let at = now.checked_sub(Duration::from_millis(age)).unwrap_or(self.at);
        let at = self.last.map_or(at, |last| last.max(at));
        self.last = Some(at);
        Time { at, is_known: id.milliseconds <= time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: u64 = 1_700_000_000_000;

    fn entry(milliseconds: u64) -> EntryId {
        EntryId { milliseconds, number: 3 }
    }

    fn millis(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn an_entry_came_as_long_ago_as_its_id_says() {
        let now = Instant::now();
        let mut clock = Clock::new(TIME, now);
        let mut time_of = |id, now| clock.time_of(entry(id), now);
        assert_eq!(time_of(TIME - 90_000, now), Time { at: now - millis(90_000), is_known: true });
        // The clock goes on while the node reads.
        assert_eq!(time_of(TIME - 60_000, now + millis(500)), Time { at: now - millis(60_000), is_known: true });
        assert_eq!(time_of(TIME, now + millis(700)), Time { at: now, is_known: true });
        assert_eq!(time_of(TIME + 900, now + millis(900)), Time { at: now + millis(900), is_known: true });
    }

    #[test]
    fn time_does_not_go_back() {
        let now = Instant::now();
        let mut clock = Clock::new(TIME, now);
        let later = clock.time_of(entry(TIME - 1000), now).at;
        // After a failover, ids may be smaller than those before.
        assert_eq!(clock.time_of(entry(TIME - 5000), now), Time { at: later, is_known: true });
        assert_eq!(clock.time_of(entry(TIME - 999), now), Time { at: later + millis(1), is_known: true });
    }

    #[test]
    fn an_entry_from_the_future_came_now_and_expires_nothing() {
        let now = Instant::now();
        let mut clock = Clock::new(TIME, now);
        clock.time_of(entry(TIME - 1000), now);
        let year = 365 * 24 * 3_600_000;
        for id in [TIME + 1, TIME + year, u64::MAX] {
            assert_eq!(clock.time_of(entry(id), now), Time { at: now, is_known: false });
        }
        assert_eq!(clock.time_of(entry(u64::MAX), now + millis(5)), Time { at: now + millis(5), is_known: false });
    }

    #[test]
    fn no_id_and_no_time_is_out_of_range() {
        let now = Instant::now();
        for time in [0, TIME, u64::MAX] {
            for id in [0, TIME, u64::MAX] {
                let time = Clock::new(time, now).time_of(entry(id), now + millis(7));
                assert!(time.at <= now + millis(7));
            }
        }
    }
}
