//! The watch: once a second it asks the primary and the Sentinels if all is well, has silent jobs released, and trims the stream.
//!
//! A connection that works proves little: a primary that is cut off from its replicas looks healthy, and a reader that waits for a new
//! entry does not notice that it waits at the wrong place.

use crate::config::Server;
use crate::logging::Throttle;
use crate::snapshot::stream::EntryId;
use crate::stream::MessageStream;
use crate::stream::condition::{GRACE, Reach};
use crate::stream::connect::Connection;
use crate::stream::extent::Extent;
use crate::stream::ingest::KEPT_LEAST;
use crate::stream::safe::{Marks, NO_REPLICA};
use crate::stream::session::{Replication, Trouble, ask};
use crate::stream::writer::is_refusal;
use redis::{Cmd, FromRedisValue};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// The time between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// The time between two questions to the Sentinels.
const SENTINEL_PERIOD: Duration = Duration::from_millis(500);
/// The looks in which a reader that waits for a new entry may stand before the end of the stream.
const MAX_STUCK: usize = 3;
/// The looks between two that trim what no job needs.
const TRIM_EVERY: u64 = 10;
/// The least time for which the stream keeps what it has: a node that was away for less misses nothing.
pub(super) const KEPT_FOR_OTHERS: Duration = Duration::from_secs(60);
/// The time for which a node trims by bytes only, after it has seen a node that keeps another history.
const OTHER_LIMITS: Duration = Duration::from_secs(600);
/// The part of the entries that one look may trim because of `cluster.stream_bytes`: one in this many. So the estimate of the memory is
/// corrected before too much is gone.
const BOUND_STEP: u64 = 20;
/// The most jobs that one look releases.
const MAX_RELEASES: usize = 1000;

static OVER_BOUND: Throttle = Throttle::new(Duration::from_secs(600));
static TRIMMED: Throttle = Throttle::new(Duration::from_secs(60));
static NOT_ALLOWED: Throttle = Throttle::new(Duration::from_secs(600));
static KEPT: Throttle = Throttle::new(Duration::from_secs(60));

/// The notes of the watch from one look to the next.
struct Watch<'a> {
    stream: &'a MessageStream,
    connection: Connection,
    marks: Marks,
    /// The last entries of the looks of the last minute.
    past: VecDeque<(Instant, EntryId)>,
    stuck: usize,
    /// The position of the reader at the last look, and the last entry if it had not reached that.
    position: EntryId,
    unread: Option<EntryId>,
    looks: u64,
}

/// Watches until something is wrong. `history` is the id of the primary's history.
pub(super) async fn watch(
    stream: &MessageStream,
    connection: Connection,
    history: &str,
) -> Result<Infallible, Trouble> {
    let mut watch = Watch::new(stream, connection);
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        watch.look(history).await?;
    }
}

/// Watches until the majority of the Sentinels names another primary than `server`. Never returns without Sentinels.
pub(super) async fn watch_sentinels(stream: &MessageStream, server: &Server) -> Result<Infallible, Trouble> {
    if !stream.has_sentinels {
        return std::future::pending().await;
    }
    loop {
        sleep(SENTINEL_PERIOD).await;
        if let Some(other) = stream.redis.majority().await.filter(|named| named != server) {
            return Err(Trouble::OtherPrimary(other.to_string()));
        }
    }
}

impl<'a> Watch<'a> {
    fn new(stream: &'a MessageStream, connection: Connection) -> Self {
        Self {
            stream,
            connection,
            marks: Marks::default(),
            past: VecDeque::new(),
            stuck: 0,
            position: EntryId::default(),
            unread: None,
            looks: 0,
        }
    }

    async fn look(&mut self, history: &str) -> Result<(), Trouble> {
        let extent = Extent::of(&mut self.connection, &self.stream.key()).await?;
        let replication = Replication::of(&mut self.connection).await?;
        if !replication.is_primary {
            return Err(Trouble::Replica);
        }
        if replication.id != history {
            return Err(Trouble::OtherHistory);
        }
        let safe = self.safe(&replication, extent.last, Instant::now());
        self.compare(&extent, Instant::now())?;
        self.note(&extent, safe).await?;
        if self.stream.condition().is_caught_up() {
            self.release();
            self.trim(&extent, Instant::now()).await?;
        }
        self.looks += 1;
        Ok(())
    }

    /// Returns the last entry that no failover cuts off, if that is more than before. Returns none until the writer has looked which of
    /// the kept batches the stream has: it needs what was safe at the last primary.
    fn safe(&mut self, replication: &Replication, last: EntryId, now: Instant) -> Option<EntryId> {
        let last_replica = {
            let mut condition = self.stream.condition_mut();
            if !replication.replicas.is_empty() || self.stream.has_sentinels && condition.last_replica.is_none() {
                condition.last_replica = Some(now);
            }
            let is_over = condition.last_replica.is_some_and(|seen| now.duration_since(seen) >= NO_REPLICA);
            if is_over && condition.given_up != condition.last_replica {
                condition.given_up = condition.last_replica;
                log::warn!(
                    "Redis has had no replica for {} s: this node keeps what it has appended for {} s from now on, and a failover to a \
                     server without it loses it",
                    NO_REPLICA.as_secs(),
                    KEPT_LEAST.as_secs()
                );
            }
            condition.last_replica
        };
        let safe = self.marks.safe(replication, last, last_replica, now);
        safe.filter(|_| self.stream.ingest().is_looked_up())
    }

    /// Notes how far the reader is from the end of the stream.
    fn compare(&mut self, extent: &Extent, now: Instant) -> Result<(), Trouble> {
        let stream = self.stream;
        let (position, unread) = {
            let mut reading = stream.reading();
            if extent.last < reading.safe && reading.safe > EntryId::default() {
                // Redis has lost what all its replicas had. New entries may stand anywhere.
                reading.read_all_again();
                return Err(Trouble::OtherHistory);
            }
            (reading.position, reading.unread(extent))
        };
        let is_behind = extent.tail.is_some_and(|tail| position < tail);
        let condition = stream.condition();
        self.stuck =
            if is_behind && condition.is_caught_up() && position == self.position { self.stuck + 1 } else { 0 };
        let was_removed = |unread: EntryId| position < unread && extent.first.is_none_or(|first| first > unread);
        if self.unread.is_some_and(was_removed) && position > EntryId::default() {
            stream.metrics.cluster.gaps.add(1);
            stream.reading().note_removed(extent.first);
            if let Some(more) = TRIMMED.pass() {
                log::error!(
                    "entries of the stream were removed before this node had read them (it stands at {position}): messages are missing \
                     here; raise cluster.stream_bytes{more}"
                );
            }
        }
        self.position = position;
        self.unread = extent.tail.filter(|_| is_behind);
        stream.change(|condition| {
            (condition.last, condition.entries, condition.unread) = (extent.last, extent.entries, unread);
            condition.behind_from = is_behind.then(|| condition.behind_from.unwrap_or(now));
        });
        if is_behind && !condition.reads_again() && stream.condition().lag(now) > GRACE {
            stream.set_reach(Reach::Behind);
        }
        if self.stuck > MAX_STUCK { Err(Trouble::Stuck) } else { Ok(()) }
    }

    /// Notes what is safe, and the memory of the stream.
    async fn note(&mut self, extent: &Extent, safe: Option<EntryId>) -> Result<(), Trouble> {
        let stream = self.stream;
        let safe = {
            let mut reading = stream.reading();
            let safe = safe.unwrap_or_default().max(reading.safe);
            reading.safe = safe;
            if let Some(first) = extent.first {
                reading.seen.forget_before(first.min(safe));
            }
            safe
        };
        let bound = stream.buffer.load(Ordering::Relaxed);
        let given_up = stream.ingest().forget(safe, bound, Instant::now());
        if given_up > 0
            && let Some(more) = KEPT.pass()
        {
            let what = match stream.condition().last_replica {
                Some(_) => "no replica has acknowledged them, and a failover may lose them",
                None => "Redis may not have written them to its disk yet",
            };
            log::warn!(
                "{given_up} batches are no longer kept (cluster.buffer is {bound} bytes), although {what}{more}"
            );
        }
        let usage = redis::cmd("MEMORY").arg("USAGE").arg(stream.key()).arg("SAMPLES").arg(50).clone();
        let bytes: Option<u64> = self.try_to("MEMORY USAGE", &usage).await?;
        stream.change(|condition| condition.bytes = bytes.unwrap_or(0));
        Ok(())
    }

    /// Sends a command that the server may refuse: the node works without it.
    async fn try_to<T: FromRedisValue + Default>(&mut self, what: &'static str, command: &Cmd) -> Result<T, Trouble> {
        match ask(&mut self.connection, what, command).await {
            Err(Trouble::Redis(e)) if is_refusal(&e) => {
                if let Some(more) = NOT_ALLOWED.pass() {
                    let why = self.stream.redis.explain(&e);
                    log::warn!("{what}: {why}; the stream in Redis is not kept within its bounds{more}");
                }
                Ok(T::default())
            }
            answer => answer,
        }
    }

    /// Has jobs finished that failed or were aborted and have been silent since.
    fn release(&self) {
        let due = self.stream.hub.due_releases(Instant::now(), MAX_RELEASES);
        if due.is_empty() {
            return;
        }
        let mut ingest = self.stream.ingest();
        for (channel, of) in due {
            ingest.release(&channel, of);
        }
        drop(ingest);
        self.stream.work.notify_one();
    }

    /// Trims what no job in the hub needs, and what is over `cluster.stream_bytes`.
    async fn trim(&mut self, extent: &Extent, now: Instant) -> Result<(), Trouble> {
        let stream = self.stream;
        // By the ids, and by the clock of this node: one id from the future pins all that follow.
        let kept = u64::try_from(KEPT_FOR_OTHERS.as_millis()).unwrap_or(u64::MAX);
        let mut recent = EntryId { milliseconds: extent.last.milliseconds.saturating_sub(kept), number: 0 };
        self.past.push_back((now, extent.last));
        while let Some((at, last)) = self.past.front()
            && now.duration_since(*at) >= KEPT_FOR_OTHERS
        {
            recent = recent.max(*last);
            self.past.pop_front();
        }
        // Also if nothing is trimmed by it: the hub forgets its notes of what is not needed any more.
        let needed = (self.looks % TRIM_EVERY == TRIM_EVERY - 1).then(|| {
            let unneeded = {
                let reading = stream.reading();
                reading.safe.min(reading.position).min(recent)
            };
            stream.hub.first_needed(unneeded)
        });
        let (bytes, bound) = (stream.condition().bytes, stream.stream_bytes.load(Ordering::Relaxed) as u64);
        if bytes > bound && extent.entries > 1 {
            let fit = u64::try_from(u128::from(extent.entries) * u128::from(bound) / u128::from(bytes)).unwrap_or(0);
            let keep = fit.max(extent.entries - extent.entries.div_ceil(BOUND_STEP)).max(1);
            let trim = redis::cmd("XTRIM").arg(stream.key()).arg("MAXLEN").arg("~").arg(keep).clone();
            let removed: u64 = self.try_to("XTRIM", &trim).await?;
            stream.metrics.cluster.trimmed.add(usize::try_from(removed).unwrap_or(0));
            if removed > 0
                && let Some(more) = OVER_BOUND.pass()
            {
                log::warn!(
                    "the stream has {bytes} bytes, more than cluster.stream_bytes ({bound}): its oldest messages are removed, and a node \
                     that starts now does not get them{more}"
                );
            }
            return Ok(());
        }
        let agrees = stream.condition().other_limits.is_none_or(|at| at.elapsed() > OTHER_LIMITS);
        if let Some(needed) = needed.filter(|needed| agrees && extent.first.is_some_and(|first| first < *needed)) {
            // Not about there: an earlier beginning may be between FINISHED and a message that was dropped.
            let trim = redis::cmd("XTRIM").arg(stream.key()).arg("MINID").arg("=").arg(needed.to_string()).clone();
            self.try_to::<u64>("XTRIM", &trim).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::clock::Time;
    use crate::stream::testing::{Redis, batch, entry, node};

    #[tokio::test]
    async fn entries_that_are_removed_before_they_were_read_are_noticed() {
        let redis = Redis::start().await;
        let stream = node(redis.port);
        let mut watch = Watch::new(&stream, stream.connected().await);
        stream.reading().position = entry(2);
        let mut look = |first, last| {
            let (first, tail) = (Some(entry(first)), Some(entry(last)));
            watch.compare(&Extent { entries: 2, first, tail, last: entry(last), added: None }, Instant::now()).unwrap();
            stream.reading().lost_before
        };
        assert_eq!([look(1, 5), look(5, 9)], [None, None], "the last one of the look before is there");
        assert_eq!((look(10, 12), stream.metrics.cluster.gaps.get()), (Some(entry(10)), 1));
    }

    #[tokio::test]
    async fn notes_of_dropped_messages_are_forgotten_also_while_nothing_is_trimmed_by_need() {
        let redis = Redis::start().await;
        let stream = node(redis.port);
        let mut watch = Watch::new(&stream, stream.connected().await);
        let now = Instant::now();
        let past = Time { at: now.checked_sub(Duration::from_secs(3600)).unwrap(), is_known: false };
        let extent = Extent { entries: 9, first: Some(entry(1)), tail: None, last: entry(900_000), added: None };
        (stream.reading().position, stream.reading().safe) = (extent.last, extent.last);
        // Other limits, and a stream over its bound.
        for (number, (limits, bytes)) in (1..).step_by(2).zip([(Some(now), 0), (None, u64::MAX)]) {
            for (number, command) in [(number, "FINISHED"), (number + 1, "TASK")] {
                stream.apply(entry(number), &batch(&stream, number, command), past, false);
            }
            stream.hub.expire(now);
            assert_eq!(stream.hub.dropped(), [(entry(number), entry(number + 1))]);
            stream.change(|condition| (condition.other_limits, condition.bytes) = (limits, bytes));
            watch.looks = TRIM_EVERY - 1;
            watch.trim(&extent, now).await.unwrap();
            assert_eq!(stream.hub.dropped(), []);
        }
    }

    #[tokio::test]
    async fn it_is_noted_once_that_no_replica_is_expected_any_more() {
        let redis = Redis::start().await;
        let stream = node(redis.port);
        let mut watch = Watch::new(&stream, stream.connected().await);
        let now = Instant::now();
        let mut is_said_after = |seconds, replicas: &[u64]| {
            let replication = Replication { replicas: replicas.to_vec(), ..Replication::default() };
            watch.safe(&replication, entry(1), now + Duration::from_secs(seconds));
            let condition = stream.condition();
            condition.given_up.is_some() && condition.given_up == condition.last_replica
        };
        assert!(!is_said_after(0, &[]), "there was none");
        assert!(!is_said_after(1, &[1]) && !is_said_after(600, &[]));
        assert!(is_said_after(601, &[]) && is_said_after(602, &[]));
        assert!(!is_said_after(603, &[1]) && is_said_after(1203, &[]));
    }
}
