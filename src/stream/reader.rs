//! The reader: it reads the stream from where the node stands, and feeds the hub.

use crate::logging::Throttle;
use crate::snapshot::state;
use crate::snapshot::stream::EntryId;
use crate::stream::apply::Applied;
use crate::stream::clock::{Clock, Time};
use crate::stream::condition::Reach;
use crate::stream::connect::Connection;
use crate::stream::entries::{self, Entry};
use crate::stream::extent::Extent;
use crate::stream::ingest::random;
use crate::stream::record::FORMAT;
use crate::stream::session::{Trouble, ask, within};
use crate::stream::unread::Ordinal;
use crate::stream::watch::KEPT_FOR_OTHERS;
use crate::stream::writer::is_refusal;
use crate::stream::{MessageStream, Reading};
use redis::Value;
use std::convert::Infallible;
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

/// The fewest and the most entries of one answer. With the longest batches these are 4 and 32 MiB.
const COUNT: (usize, usize) = (8, 64);
/// The bytes that an answer should have: the number of entries follows from those of the answer before.
const ANSWER_BYTES: usize = 2 * 1024 * 1024;
/// The longest time for an answer with entries, which may be large.
pub(super) const READ: Duration = Duration::from_secs(10);
/// The longest wait of Redis for a new entry.
const BLOCK: Duration = Duration::from_secs(1);
/// The bytes of batches after which other tasks have their turn.
const SLICE: usize = 64 * 1024;
/// The pause before an entry of an unknown format is looked at again: an administrator may have removed it.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(5);

static GAP: Throttle = Throttle::new(Duration::from_secs(60));
static READ_TO_END: Throttle = Throttle::bursts(5, Duration::from_secs(60));
static UNKNOWN: Throttle = Throttle::new(Duration::from_secs(60));

/// Reads the stream until something fails.
pub(super) async fn read(stream: &MessageStream, mut connection: Connection) -> Result<Infallible, Trouble> {
    // Before the first answer: the watch soon notes what is safe in the stream of this primary, which may have replaced what was read.
    let (mut from, mut count) = (stream.reading().start_again(), COUNT.0);
    let mut clock = Some(clock_of(&mut connection).await?);
    let extent = Extent::of(&mut connection, &stream.key()).await?;
    stream.reading().unread(&extent);
    stream.end_lost(from, extent.first, Instant::now());
    stream.condition_mut().heard = Instant::now();
    stream.hub.begin_by(from);
    stream.hub.set_in_past(true);
    loop {
        let read = fetch(stream, &mut connection, from, count, clock.is_none()).await?;
        stream.hear(Instant::now())?;
        let is_end = read.len() < count;
        count = next_count(&read).unwrap_or(count);
        // All entries of the stream come: nothing is missing that could still be found.
        let over_gaps = clock.is_some() && stream.reading().is_from_beginning;
        match take(stream, read, &mut clock, over_gaps).await {
            Taken::All(Some(last)) => from = last,
            Taken::All(None) => {}
            Taken::Again => {
                let first = Extent::of(&mut connection, &stream.key()).await?.first;
                stream.reading().note_removed(first);
                from = EntryId::default();
                stream.reading().read_all_again();
                // Viewers have what they had: the node stays ready.
                stream.set_reach(Reach::Again);
                stream.hub.set_in_past(true);
                clock = Some(clock_of(&mut connection).await?);
                continue;
            }
            Taken::Unknown(before) => {
                stream.set_reach(Reach::Behind);
                stream.change(|condition| condition.unknown_format = true);
                from = before.unwrap_or(from);
                // It may last until an upgrade, and jobs must not stay for ever until then.
                stream.hub.set_in_past(false);
                sleep(UNKNOWN_PAUSE).await;
                stream.hub.set_in_past(clock.is_some());
                continue;
            }
        }
        if is_end {
            if clock.take().is_some() {
                stream.hub.come_to_now().await;
            }
            let lost_before = stream.reading().come_to_end();
            if let Some(first) = lost_before {
                stream.end_before(first, Instant::now());
            }
            stream.change(|condition| condition.unknown_format = false);
            if stream.set_reach(Reach::End)
                && let Some(more) = READ_TO_END.pass()
            {
                log::info!("the stream was read up to entry {from}{more}");
            }
        }
        stream.progress.notify_waiters();
    }
}

/// Returns a clock by the time of the primary, or of this machine if that is earlier.
async fn clock_of(connection: &mut Connection) -> Result<Clock, Trouble> {
    let (seconds, micros): (u64, u64) = ask(connection, "TIME", &redis::cmd("TIME")).await?;
    let primary = seconds.saturating_mul(1000).saturating_add(micros / 1000);
    // If one of both clocks is ahead, entries must not seem older than they are.
    Ok(Clock::new(primary.min(state::now()), Instant::now()))
}

/// The outcome of some entries.
enum Taken {
    /// All of them are in the hub; the last one is named.
    All(Option<EntryId>),
    /// The stream must be read from its beginning.
    Again,
    /// One has an unknown format; the one before it is named.
    Unknown(Option<EntryId>),
}

/// Applies entries to the hub.
async fn take(stream: &MessageStream, read: Vec<Entry>, clock: &mut Option<Clock>, over_gaps: bool) -> Taken {
    let (mut last, mut bytes) = (None, 0);
    for Entry { id, batch } in read {
        let batch = match batch {
            Ok(batch) => batch,
            Err(version) => return unknown(stream, id, &version, last),
        };
        let now = Instant::now();
        let time = clock.as_mut().map_or(Time { at: now, is_known: false }, |clock| clock.time_of(id, now));
        if let Applied::Gap(missing) = stream.apply(id, &batch, time, over_gaps) {
            stream.metrics.cluster.gaps.add(1);
            if let Some(more) = GAP.pass() {
                log::error!(
                    "{missing} batches are missing before entry {id} of the stream; it is read from its beginning again{more}"
                );
            }
            return Taken::Again;
        }
        stream.reading().pass(id);
        last = Some(id);
        bytes += batch.len();
        if bytes >= SLICE {
            bytes = 0;
            yield_now().await;
        }
    }
    Taken::All(last)
}

/// Logs an entry whose format has the version `version`. `last` is the one before it.
fn unknown(stream: &MessageStream, id: EntryId, version: &str, last: Option<EntryId>) -> Taken {
    if let Some(more) = UNKNOWN.pass() {
        log::error!(
            "{}: entry {id} has format {version:?}, and this version knows {FORMAT:?} only; nothing is read from there on until this node \
             is upgraded{more}",
            stream.key()
        );
    }
    Taken::Unknown(last)
}

/// Returns the number of entries to ask for next, if there were some.
fn next_count(read: &[Entry]) -> Option<usize> {
    let bytes: usize = read.iter().map(|entry| entry.batch.as_ref().map_or(0, Vec::len)).sum();
    let each = bytes.checked_div(read.len())?;
    Some((ANSWER_BYTES / each.max(1)).clamp(COUNT.0, COUNT.1))
}

/// Reads up to `count` entries after `from`, and the epoch. Waits for a new one if `wait` is true.
async fn fetch(
    stream: &MessageStream,
    connection: &mut Connection,
    from: EntryId,
    count: usize,
    wait: bool,
) -> Result<Vec<Entry>, Trouble> {
    let mut both = redis::pipe();
    both.cmd("XREAD").arg("COUNT").arg(count);
    if wait {
        both.arg("BLOCK").arg(u64::try_from(BLOCK.as_millis()).unwrap_or(0));
    }
    both.arg("STREAMS").arg(stream.key()).arg(from.to_string());
    both.cmd("GET").arg(stream.epoch_key());
    let (read, epoch): (Value, Option<String>) = within(READ, "XREAD", both.query_async(connection)).await?;
    let epoch = match epoch {
        Some(epoch) => Some(epoch),
        None => set_epoch(stream, connection).await?,
    };
    epoch.map_or(Ok(()), |epoch| stream.check_epoch(epoch))?;
    entries::of_xread(read).ok_or(Trouble::Unexpected("XREAD"))
}

/// Writes a new epoch unless another node does; returns the one that holds. Returns `None` while Redis refuses to write.
async fn set_epoch(stream: &MessageStream, connection: &mut Connection) -> Result<Option<String>, Trouble> {
    let epoch = format!("{:016x}{:016x}", random(), random());
    let set = ask::<Value>(connection, "SET", redis::cmd("SET").arg(stream.epoch_key()).arg(epoch).arg("NX")).await;
    match set {
        Err(Trouble::Redis(e)) if is_refusal(&e) => return Ok(None),
        set => set?,
    };
    ask(connection, "GET", redis::cmd("GET").arg(stream.epoch_key())).await
}

impl Reading {
    /// Goes back to the entry after which a new connection reads, and returns it: a failover may have cut off what was read after it, and
    /// may have put other entries there.
    fn start_again(&mut self) -> EntryId {
        self.position = self.safe.min(self.position);
        self.is_from_beginning |= self.position == EntryId::default();
        self.position
    }

    /// Has the stream read from its beginning.
    pub(super) fn read_all_again(&mut self) {
        (self.position, self.safe, self.is_from_beginning) = (EntryId::default(), EntryId::default(), true);
        self.ordinal = Ordinal::default();
    }

    /// Notes that entries are missing, and that the stream begins with the entry `first`.
    pub(super) fn note_removed(&mut self, first: Option<EntryId>) {
        let removed = first.filter(|first| *first > self.position);
        self.lost_before = self.lost_before.max(removed);
    }

    /// Notes that the stream was read to its end. Returns the entry before which some are missing that were not found.
    fn come_to_end(&mut self) -> Option<EntryId> {
        self.is_from_beginning = false;
        self.lost_before.take()
    }
}

impl MessageStream {
    /// Ends the jobs whose rest has left the stream while this node was away: their viewers would wait for it for as long as
    /// `history.unfinished`. The stream begins with the entry `first`, and this node goes on after `from`.
    fn end_lost(&self, from: EntryId, first: Option<EntryId>, now: Instant) {
        let Some(first) = first.filter(|first| from > EntryId::default() && *first > from) else { return };
        // The stream keeps everything for this long. It may also begin later because nothing has come for long.
        if self.condition().away(now) >= KEPT_FOR_OTHERS {
            self.end_before(first, now);
        }
    }

    /// Ends the jobs that began before the entry `first` of the stream, and are open.
    fn end_before(&self, first: EntryId, now: Instant) {
        let count = self.hub.end_lost(now, first);
        if count > 0 {
            log::warn!(
                "a part of {count} jobs was removed from the stream before this node had read it: their viewers are closed, and may connect \
                 again"
            );
        }
    }

    /// Notes an answer to the reader.
    ///
    /// # Errors
    /// The one before is so long ago that the stream may have lost what came next: a new connection finds out.
    fn hear(&self, now: Instant) -> Result<(), Trouble> {
        let mut condition = self.condition_mut();
        let silence = now.saturating_duration_since(condition.heard);
        if silence >= KEPT_FOR_OTHERS {
            return Err(Trouble::Stopped(silence));
        }
        condition.heard = now;
        Ok(())
    }

    /// Compares the epoch of the stream with the known one.
    fn check_epoch(&self, epoch: String) -> Result<(), Trouble> {
        let mut reading = self.reading();
        if reading.epoch.as_ref() == Some(&epoch) {
            return Ok(());
        }
        let is_first = reading.epoch.replace(epoch).is_none();
        if is_first {
            return Ok(());
        }
        reading.read_all_again();
        drop(reading);
        self.ingest().begin_anew();
        self.metrics.cluster.epochs.add(1);
        log::error!(
            "the stream {} is gone, and another one has begun (FLUSHALL, or a Redis without its data): jobs in memory go on, and the \
             history of the others is lost",
            self.key()
        );
        Err(Trouble::OtherEpoch)
    }
}

#[cfg(test)]
mod tests;
