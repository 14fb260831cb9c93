//! The writer: it puts back what a failover has cut off, and then appends one batch after the other.

use crate::logging::Throttle;
use crate::snapshot::stream::EntryId;
use crate::stream::MessageStream;
use crate::stream::connect::Connection;
use crate::stream::entries::{self, Entry};
use crate::stream::extent::Extent;
use crate::stream::reader::READ;
use crate::stream::record::{self, FORMAT};
use crate::stream::session::{Trouble, ask, within};
use redis::{Cmd, RedisError, Value};
use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The most entries of one answer. With the longest batches they have 4 MiB.
const COUNT: usize = 8;
/// The pause before a batch that was refused is sent again.
const PAUSE: Duration = Duration::from_millis(200);

static TAKEN: Throttle = Throttle::new(Duration::from_secs(60));
static REFUSED: Throttle = Throttle::new(Duration::from_secs(60));

/// Appends batches until something fails.
pub(super) async fn write(stream: &MessageStream, mut connection: Connection) -> Result<Infallible, Trouble> {
    put_back(stream, &mut connection).await?;
    loop {
        let command = next(stream).await;
        match ask::<String>(&mut connection, "XADD", &command).await {
            Ok(id) => {
                let at = id.parse().map_err(|_| Trouble::Unexpected("XADD"))?;
                stream.ingest().answered(at, Instant::now());
                stream.metrics.cluster.appended.add(1);
                stream.room.notify_waiters();
                if stream.condition_mut().takes_again()
                    && let Some(more) = TAKEN.pass()
                {
                    log::info!("Redis takes messages again{more}");
                }
                stream.progress.notify_waiters();
            }
            Err(Trouble::Redis(e)) if is_refusal(&e) => {
                let why = stream.redis.explain(&e);
                stream.change(|condition| {
                    condition.refused_since.get_or_insert_with(Instant::now);
                    condition.trouble = Some(format!("Redis refuses messages: {why}"));
                });
                if let Some(more) = REFUSED.pass() {
                    log::error!("Redis refuses messages: {why}; they wait (cluster.buffer), and are sent again{more}");
                }
                sleep(PAUSE).await;
            }
            Err(trouble) => return Err(trouble),
        }
    }
}

/// Returns true if a server refuses a batch, and another try on the same connection may succeed.
pub(super) fn is_refusal(error: &RedisError) -> bool {
    error.code().is_some_and(|code| code != "READONLY" && code != "NOAUTH")
}

/// Waits for a batch; returns the command that appends it.
async fn next(stream: &MessageStream) -> Cmd {
    loop {
        let more = stream.work.notified();
        {
            let mut ingest = stream.ingest();
            if let Some((batch, is_repeated)) = ingest.send() {
                if is_repeated {
                    stream.metrics.cluster.repeated.add(1);
                }
                let mut command = redis::cmd("XADD");
                command.arg(stream.key()).arg("*").arg(FORMAT).arg(batch);
                return command;
            }
        }
        more.await;
    }
}

/// Looks which of the kept batches are in the stream, and has the others appended again.
async fn put_back(stream: &MessageStream, connection: &mut Connection) -> Result<(), Trouble> {
    let (id, oldest) = {
        let ingest = stream.ingest();
        (ingest.id(), ingest.oldest_kept())
    };
    let Some(oldest) = oldest else {
        stream.ingest().put_back(&HashSet::new(), EntryId::default());
        return Ok(());
    };
    // A batch after `safe` may have been cut off by a failover, so it does not count as trimmed.
    let trimmed = Extent::of(connection, &stream.key()).await?.trimmed().min(stream.reading().safe);
    let (mut found, mut from) = (HashSet::new(), oldest.to_string());
    loop {
        let mut range = redis::cmd("XRANGE");
        range.arg(stream.key()).arg(&from).arg("+").arg("COUNT").arg(COUNT);
        let answer: Value = within(READ, "XRANGE", range.query_async(connection)).await?;
        let entries = entries::of_xrange(answer).ok_or(Trouble::Unexpected("XRANGE"))?;
        found.extend(entries.iter().filter_map(|entry| number_of(entry, id)));
        match entries.last() {
            Some(last) if entries.len() == COUNT => from = format!("({}", last.id),
            _ => break,
        }
    }
    let count = stream.ingest().put_back(&found, trimmed);
    if count > 0 {
        stream.metrics.cluster.reappended.add(count);
        log::warn!("{count} batches that Redis had taken are not in the stream, and are appended again");
    }
    Ok(())
}

/// Returns the number of a batch of this ingest.
fn number_of(entry: &Entry, ingest: u64) -> Option<u64> {
    let (head, _) = record::split(entry.batch.as_deref().ok()?).ok()?;
    (head.ingest == ingest).then_some(head.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_of_the_ingest_that_its_head_names() {
        let head = record::Head { ingest: 7, number: 3, node: "a".into(), limits: 0 };
        let entry = |batch| Entry { id: EntryId::default(), batch };
        assert_eq!(number_of(&entry(Ok(record::begin(&head))), 7), Some(3));
        assert_eq!(number_of(&entry(Ok(record::begin(&head))), 8), None);
        assert_eq!((number_of(&entry(Err("2".into())), 7), number_of(&entry(Ok(vec![])), 7)), (None, None));
    }
}
