//! The watch: once a second it asks the primary and the Sentinels if all is well, has silent jobs released, and trims the stream.
//!
//! A connection that works proves little: a primary that is cut off from its replicas looks healthy, and a reader that waits for a new
//! entry does not notice that it waits at the wrong place.

use crate::config::Server;
use crate::logging::Throttle;
use crate::snapshot::stream::EntryId;
use crate::stream::MessageStream;
use crate::stream::connect::Connection;
use crate::stream::entries::text;
use crate::stream::session::{Replication, Trouble, ask};
use redis::{RedisError, Value};
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
/// The least time, in milliseconds, for which the stream keeps what it has: a node that was away for less misses nothing.
const KEPT_FOR_OTHERS: u64 = 60_000;
/// The part of the entries that one look may trim because of `cluster.stream_bytes`: one in this many. So the estimate of the memory is
/// corrected before too much is gone.
const BOUND_STEP: u64 = 20;
/// The time without a replica after which none is expected any more.
const NO_REPLICA: Duration = Duration::from_secs(600);
/// The most jobs that one look releases.
const MAX_RELEASES: usize = 1000;

static OVER_BOUND: Throttle = Throttle::new(Duration::from_secs(600));
static TRIMMED: Throttle = Throttle::new(Duration::from_secs(60));
static KEPT: Throttle = Throttle::new(Duration::from_secs(60));

/// The stream's own numbers.
#[derive(Debug, Default)]
struct Extent {
    entries: u64,
    first: Option<EntryId>,
    /// The last entry that was ever added.
    last: EntryId,
    /// The largest entry that was removed; Redis 6 does not tell.
    removed: EntryId,
}

/// A point that replicas have still to reach.
struct Mark {
    /// The bytes of the primary's history at that time.
    offset: u64,
    /// The last entry at that time.
    last: EntryId,
    at: Instant,
}

/// The notes of the watch from one look to the next.
struct Watch<'a> {
    stream: &'a MessageStream,
    connection: Connection,
    marks: VecDeque<Mark>,
    stuck: usize,
    position: EntryId,
    looks: u64,
}

/// Watches until something is wrong. `history` is the id of the primary's history.
pub(super) async fn watch(
    stream: &MessageStream,
    connection: Connection,
    history: &str,
) -> Result<Infallible, Trouble> {
    let position = EntryId::default();
    let mut watch = Watch { stream, connection, marks: VecDeque::new(), stuck: 0, position, looks: 0 };
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

impl Watch<'_> {
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
        self.compare(&extent)?;
        self.note(&extent, safe).await?;
        if self.stream.condition().caught_up {
            self.release();
            self.trim(&extent, safe).await?;
        }
        self.looks += 1;
        Ok(())
    }

    /// Returns the last entry that no failover cuts off: all replicas have acknowledged it, or there are none.
    fn safe(&mut self, replication: &Replication, last: EntryId, now: Instant) -> Option<EntryId> {
        let last_replica = {
            let mut condition = self.stream.condition_mut();
            if !replication.replicas.is_empty() || self.stream.has_sentinels && condition.last_replica.is_none() {
                condition.last_replica = Some(now);
            }
            condition.last_replica
        };
        let expects_replicas = last_replica.is_some_and(|seen| now.duration_since(seen) < NO_REPLICA);
        let acknowledged = match replication.replicas.iter().min() {
            Some(least) => *least,
            None if expects_replicas => 0,
            None => u64::MAX,
        };
        self.marks.push_back(Mark { offset: replication.offset, last, at: now });
        let mut safe = None;
        // Without replicas the time decides. It is the time in which a Redis writes what it has taken to its disk.
        let is_safe = |mark: &Mark| {
            mark.offset <= acknowledged
                && (acknowledged != u64::MAX || now.duration_since(mark.at) >= super::ingest::KEPT_LEAST)
        };
        while let Some(mark) = self.marks.pop_front_if(|mark| is_safe(mark)) {
            safe = Some(mark.last);
        }
        safe
    }

    /// Notes how far the reader is from the end of the stream.
    fn compare(&mut self, extent: &Extent) -> Result<(), Trouble> {
        let position = self.stream.reading().position;
        let is_behind = position < extent.last && extent.entries > 0;
        let waits = self.stream.condition().caught_up;
        self.stuck = if is_behind && waits && position == self.position { self.stuck + 1 } else { 0 };
        self.position = position;
        if extent.removed > position && is_behind && position > EntryId::default() {
            self.stream.metrics.cluster.gaps.add(1);
            if let Some(more) = TRIMMED.pass() {
                log::error!(
                    "entries of the stream were removed before this node had read them (it stands at {position}): messages are missing \
                     here; raise cluster.stream_bytes{more}"
                );
            }
        }
        let lag = if is_behind { extent.last.milliseconds.saturating_sub(position.milliseconds) } else { 0 };
        self.stream.change(|condition| {
            (condition.last, condition.entries) = (extent.last, extent.entries);
            condition.lag = Duration::from_millis(lag);
        });
        if self.stuck > MAX_STUCK { Err(Trouble::Stuck) } else { Ok(()) }
    }

    /// Notes what is safe, and the memory of the stream.
    async fn note(&mut self, extent: &Extent, safe: Option<EntryId>) -> Result<(), Trouble> {
        let stream = self.stream;
        {
            let mut reading = stream.reading();
            reading.safe = safe.unwrap_or_default().max(reading.safe);
            if let Some(first) = extent.first {
                let first = first.min(reading.safe);
                reading.seen.forget_before(first);
            }
        }
        let safe = stream.reading().safe;
        let bound = stream.buffer.load(Ordering::Relaxed);
        let given_up = stream.ingest().forget(safe, bound, Instant::now());
        if given_up > 0
            && let Some(more) = KEPT.pass()
        {
            log::warn!(
                "{given_up} batches are no longer kept although no replica has acknowledged them (cluster.buffer is {bound} bytes): a \
                 failover may lose them{more}"
            );
        }
        let usage = redis::cmd("MEMORY").arg("USAGE").arg(stream.key()).arg("SAMPLES").arg(50).clone();
        let bytes: Option<u64> = ask(&mut self.connection, "MEMORY USAGE", &usage).await?;
        stream.change(|condition| condition.bytes = bytes.unwrap_or(0));
        Ok(())
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
    async fn trim(&mut self, extent: &Extent, safe: Option<EntryId>) -> Result<(), Trouble> {
        let stream = self.stream;
        let (bytes, bound) = (stream.condition().bytes, stream.stream_bytes.load(Ordering::Relaxed) as u64);
        if bytes > bound && extent.entries > 1 {
            let fit = u64::try_from(u128::from(extent.entries) * u128::from(bound) / u128::from(bytes)).unwrap_or(0);
            let keep = fit.max(extent.entries - extent.entries.div_ceil(BOUND_STEP)).max(1);
            let removed: u64 = ask(
                &mut self.connection,
                "XTRIM",
                redis::cmd("XTRIM").arg(stream.key()).arg("MAXLEN").arg("~").arg(keep),
            )
            .await?;
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
        let Some(safe) =
            safe.filter(|_| self.looks % TRIM_EVERY == TRIM_EVERY - 1 && !stream.condition().has_other_limits)
        else {
            return Ok(());
        };
        let recent = EntryId { milliseconds: extent.last.milliseconds.saturating_sub(KEPT_FOR_OTHERS), number: 0 };
        let unneeded = safe.min(recent);
        let oldest = stream.hub.oldest_entry().map_or(unneeded, |oldest| oldest.min(unneeded));
        if extent.first.is_some_and(|first| first < oldest) {
            let trim = redis::cmd("XTRIM").arg(stream.key()).arg("MINID").arg("~").arg(oldest.to_string()).clone();
            ask::<u64>(&mut self.connection, "XTRIM", &trim).await?;
        }
        Ok(())
    }
}

impl Extent {
    /// Asks for the numbers of a stream. One that does not exist has none.
    async fn of(connection: &mut Connection, key: &str) -> Result<Self, Trouble> {
        let answer = ask::<Value>(connection, "XINFO STREAM", redis::cmd("XINFO").arg("STREAM").arg(key)).await;
        let answer = match answer {
            Err(Trouble::Redis(e)) if is_missing(&e) => return Ok(Self::default()),
            answer => answer?,
        };
        Self::parse(&answer).ok_or(Trouble::Unexpected("XINFO STREAM"))
    }

    /// Reads a list of names and values in turn.
    fn parse(answer: &Value) -> Option<Self> {
        let Value::Array(parts) = answer else { return None };
        let mut extent = Self::default();
        for pair in parts.chunks_exact(2) {
            match (text(&pair[0])?, &pair[1]) {
                ("length", Value::Int(length)) => extent.entries = u64::try_from(*length).ok()?,
                ("last-generated-id", id) => extent.last = text(id)?.parse().ok()?,
                ("max-deleted-entry-id", id) => extent.removed = text(id)?.parse().ok()?,
                ("first-entry", Value::Array(entry)) => extent.first = Some(text(entry.first()?)?.parse().ok()?),
                _ => {}
            }
        }
        Some(extent)
    }
}

/// Returns true for the error of a key that does not exist.
fn is_missing(error: &RedisError) -> bool {
    error.to_string().contains("no such key")
}
