//! The part of the stream that no failover cuts off: all replicas have acknowledged it, or there are none.

use crate::snapshot::stream::EntryId;
use crate::stream::ingest::KEPT_LEAST;
use crate::stream::session::Replication;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// The time without a replica after which none is expected any more.
pub(super) const NO_REPLICA: Duration = Duration::from_secs(600);

/// The points that replicas have still to reach, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Marks(VecDeque<Mark>);

/// A point that replicas have still to reach.
#[derive(Debug)]
struct Mark {
    /// The bytes of the primary's history at that time.
    offset: u64,
    /// The last entry at that time.
    last: EntryId,
    at: Instant,
}

impl Marks {
    /// Returns the last entry that no failover cuts off, if that is more than before. `last` is the last entry of the stream before
    /// `replication` was asked for. `last_replica` is the time of the last look that saw a replica, if one is expected.
    pub(super) fn safe(
        &mut self,
        replication: &Replication,
        last: EntryId,
        last_replica: Option<Instant>,
        now: Instant,
    ) -> Option<EntryId> {
        let expects_replicas = last_replica.is_some_and(|seen| now.duration_since(seen) < NO_REPLICA);
        let acknowledged = match replication.replicas.iter().min() {
            Some(fewest) => *fewest,
            None if expects_replicas => 0,
            None => u64::MAX,
        };
        if self.0.back().is_none_or(|mark| mark.last != last) {
            self.0.push_back(Mark { offset: replication.offset, last, at: now });
        }
        let mut safe = None;
        // Without replicas the time decides. It is the time in which a Redis writes what it has taken to its disk.
        let is_safe = |mark: &Mark| {
            mark.offset <= acknowledged && (acknowledged != u64::MAX || now.duration_since(mark.at) >= KEPT_LEAST)
        };
        while let Some(mark) = self.0.front().filter(|mark| is_safe(mark)) {
            safe = Some(mark.last);
            self.0.pop_front();
        }
        safe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(milliseconds: u64) -> EntryId {
        EntryId { milliseconds, number: 0 }
    }

    fn replication(offset: u64, replicas: &[u64]) -> Replication {
        Replication { offset, replicas: replicas.to_vec(), ..Replication::default() }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_entry_is_safe_once_the_last_replica_has_acknowledged_it() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        let mut safe = |offset, last, replicas: &[u64]| {
            marks.safe(&replication(offset, replicas), entry(last), Some(now), now + secs(60))
        };
        assert_eq!(safe(100, 1, &[99, 100]), None, "one lacks a byte");
        assert_eq!(safe(200, 2, &[100, 150]), Some(entry(1)));
        assert_eq!(safe(300, 3, &[100, 150]), None, "nothing new");
        assert_eq!(safe(400, 4, &[399, 400]), Some(entry(3)));
        assert_eq!(safe(500, 5, &[500, 500]), Some(entry(5)), "at once, without a wait");
    }

    #[test]
    fn without_replicas_an_entry_is_safe_after_the_time_of_a_write_to_disk() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        let mut safe = |last, after| marks.safe(&replication(0, &[]), entry(last), None, now + after);
        assert_eq!(safe(1, secs(0)), None);
        assert_eq!(safe(2, secs(1)), None);
        assert_eq!(safe(3, KEPT_LEAST.saturating_sub(Duration::from_millis(1))), None);
        assert_eq!(safe(4, KEPT_LEAST), Some(entry(1)));
        assert_eq!(safe(5, KEPT_LEAST + secs(1)), Some(entry(2)));
    }

    #[test]
    fn nothing_is_safe_while_a_replica_is_expected_and_none_is_connected() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        let mut safe = |last, after| marks.safe(&replication(last, &[]), entry(last), Some(now), now + after);
        for second in 1..600 {
            assert_eq!(safe(second, secs(second)), None);
        }
        assert_eq!(safe(600, NO_REPLICA), Some(entry(595)), "none is expected any more");
    }
}
