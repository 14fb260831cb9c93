//! The life of a node's connections to Redis: they are made, used until one of them fails, and made again.

use crate::config::Server;
use crate::deadline::{Elapsed, timeout};
use crate::logging::Throttle;
use crate::stream::MessageStream;
use crate::stream::condition::Reach;
use crate::stream::connect::{Away, Connection};
use crate::stream::entries::text;
use crate::stream::extent::Extent;
use crate::stream::{reader, watch, writer};
use redis::{Cmd, FromRedisValue, RedisError, Value};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, sleep};

/// The longest wait of viewers for a stream that is being read.
pub(super) const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// The longest time for a connection with its handshakes.
const CONNECT: Duration = Duration::from_secs(2);
/// The longest time for an answer. A primary that is slower is taken for dead.
pub(super) const ANSWER: Duration = Duration::from_secs(3);
/// The pause before the connections are made again: the shortest, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(200));
/// The time after which connections count as good ones, so that the next pause is the shortest.
const GOOD: Duration = Duration::from_secs(5);

static LOST: Throttle = Throttle::bursts(5, Duration::from_secs(60));
static FOUND: Throttle = Throttle::bursts(5, Duration::from_secs(60));

/// The reason for which the connections are closed.
#[derive(Debug, Error)]
pub(super) enum Trouble {
    #[error("{0}")]
    Away(#[from] Away),
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("no answer to {0} within {seconds} s", seconds = .1.as_secs())]
    Silent(&'static str, Duration),
    #[error("Redis gives an unexpected answer to {0}")]
    Unexpected(&'static str),
    #[error("it has become a replica")]
    Replica,
    #[error("it has restarted or failed over in the meantime, or has lost entries")]
    OtherHistory,
    #[error("the Sentinels name {0} as the primary")]
    OtherPrimary(String),
    #[error("the stream is gone")]
    OtherEpoch,
    #[error("nothing was read for {} s: was this process stopped?", .0.as_secs())]
    Stopped(Duration),
    #[error("the reader does not move")]
    Stuck,
}

/// Sends a command, and waits for its answer.
pub(super) async fn ask<T: FromRedisValue>(
    connection: &mut Connection,
    what: &'static str,
    command: &Cmd,
) -> Result<T, Trouble> {
    within(ANSWER, what, command.query_async(connection)).await
}

/// Waits for an answer for this time.
pub(super) async fn within<T>(
    time: Duration,
    what: &'static str,
    answer: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, Trouble> {
    match timeout(time, answer).await {
        Ok(answer) => Ok(answer?),
        Err(Elapsed) => Err(Trouble::Silent(what, time)),
    }
}

/// The answer of a primary about itself and its replicas.
#[derive(Debug, Default)]
pub(super) struct Replication {
    pub(super) is_primary: bool,
    /// Names the primary's history. It changes with every failover.
    pub(super) id: String,
    /// The bytes of history so far.
    pub(super) offset: u64,
    /// The bytes that each replica has acknowledged.
    pub(super) replicas: Vec<u64>,
}

impl Replication {
    /// Reads the answer to `INFO replication`.
    fn parse(info: &str) -> Self {
        let mut replication = Self::default();
        for (key, value) in info.lines().filter_map(|line| line.trim_end().split_once(':')) {
            match key {
                "role" => replication.is_primary = value == "master",
                "master_replid" => replication.id = value.into(),
                "master_repl_offset" => replication.offset = value.parse().unwrap_or(0),
                _ if key.strip_prefix("slave").is_some_and(|n| n.parse::<u32>().is_ok()) => {
                    let offset = value.split(',').find_map(|part| part.strip_prefix("offset="));
                    replication.replicas.extend(offset.and_then(|offset| offset.parse::<u64>().ok()));
                }
                _ => {}
            }
        }
        replication
    }

    /// Asks a server.
    pub(super) async fn of(connection: &mut Connection) -> Result<Self, Trouble> {
        let info: Value = ask(connection, "INFO", redis::cmd("INFO").arg("replication")).await?;
        let info = match &info {
            Value::VerbatimString { text, .. } => Some(text.as_str()),
            other => text(other),
        };
        info.map(Self::parse).ok_or(Trouble::Unexpected("INFO"))
    }
}

/// Reads and writes the stream for as long as the node runs. Never returns.
pub(crate) async fn run(stream: Arc<MessageStream>) {
    let (mut pause, mut known) = (PAUSE.0, None);
    loop {
        let begun = Instant::now();
        let trouble = match session(&stream, &mut known).await {
            Ok(never) => match never {},
            Err(trouble) => trouble,
        };
        stream.lose(&trouble);
        if begun.elapsed() > GOOD {
            pause = PAUSE.0;
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Connects, and reads and writes until something fails. `known` is the history id of the last primary.
async fn session(stream: &MessageStream, known: &mut Option<String>) -> Result<Infallible, Trouble> {
    let server = stream.redis.find_primary().await?;
    // A primary that hangs takes connections and does not answer; the Sentinels may name another one meanwhile.
    let (Connections { writer, reader, watch }, replication) = tokio::select! {
        connected = connect(stream, &server) => connected?,
        other = watch::watch_sentinels(stream, &server) => return other,
    };
    if known.is_some() {
        stream.metrics.cluster.reconnects.add(1);
    }
    if known.as_ref().is_some_and(|known| *known != replication.id) {
        stream.metrics.cluster.failovers.add(1);
        log::warn!(
            "Redis {server} has another history than the primary before: batches that it lacks are appended again"
        );
    }
    *known = Some(replication.id.clone());
    if let Some(more) = FOUND.pass() {
        log::info!("the messages go through Redis {server}, key {}{more}", stream.key());
    }
    stream.change(|condition| {
        condition.server = Some(server.clone());
        condition.trouble = None;
    });
    let stuck = tokio::try_join!(
        writer::write(stream, writer),
        reader::read(stream, reader),
        watch::watch(stream, watch, &replication.id),
        watch::watch_sentinels(stream, &server)
    );
    stuck.map(|(never, ..)| never)
}

/// The connections of a node to the primary.
struct Connections {
    writer: Connection,
    reader: Connection,
    watch: Connection,
}

/// Connects to the primary, and asks for its history.
async fn connect(stream: &MessageStream, server: &Server) -> Result<(Connections, Replication), Trouble> {
    let one = || stream.redis.connect(server, CONNECT);
    let (writer, reader, mut watch) = tokio::try_join!(one(), one(), one())?;
    let replication = Replication::of(&mut watch).await?;
    if !replication.is_primary {
        return Err(Trouble::Replica);
    }
    // Asked here, so that a missing right is noticed before the stream is read.
    Extent::of(&mut watch, &stream.key()).await?;
    Ok((Connections { writer, reader, watch }, replication))
}

impl MessageStream {
    /// Notes and logs that the connections are lost, or could not be made.
    pub(super) fn lose(&self, trouble: &Trouble) {
        let was_connected = self.condition().is_connected();
        let why = match trouble {
            Trouble::Redis(e) => self.redis.explain(e),
            trouble => trouble.to_string(),
        };
        self.set_reach(Reach::Behind);
        self.ingest().lose();
        self.change(|condition| {
            condition.server = None;
            condition.trouble = Some(why.clone());
            condition.refused_since = None;
        });
        if !matches!(trouble, Trouble::OtherEpoch) {
            self.settle();
        }
        if let Some(more) = LOST.pass() {
            let what = match trouble {
                Trouble::OtherEpoch => "the stream is read anew",
                _ if was_connected => "Redis is lost",
                _ => "Redis cannot be reached",
            };
            log::warn!("{what}: {why}; viewers keep what they have, and messages wait (cluster.buffer){more}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::clock::Time;
    use crate::stream::testing::{Redis, batch, batch_of_another, entry, node};

    /// Reads, writes and watches until `is_done`. The watch is ahead of the others.
    async fn run(stream: &MessageStream, redis: &Redis, is_done: impl FnMut() -> bool) {
        stream.lose(&Trouble::OtherHistory);
        redis.state().watch_is_first = true;
        let mut known = None;
        let ended = async {
            tokio::select! {
                Err(trouble) = Box::pin(session(stream, &mut known)) => Some(trouble),
                () = stream.until(is_done) => None,
            }
        };
        let trouble = timeout(Duration::from_secs(60), ended).await.expect("it is done by then");
        assert!(trouble.is_none(), "{trouble:?}");
    }

    /// The clock of the primary is behind that of the last one, whose second entry is not here. The other ingest is new, so its batch
    /// makes no gap.
    #[tokio::test]
    async fn a_reader_starts_after_what_was_safe_at_the_last_primary() {
        let redis = Redis::start().await;
        let stream = node(redis.port);
        for (id, number, command) in [(1, 1, "ONE"), (10, 2, "TWO")] {
            stream.apply(entry(id), &batch(&stream, number, command), now(), false);
            stream.reading().position = entry(id);
        }
        stream.reading().safe = entry(1);
        redis.add(entry(1), batch(&stream, 1, "ONE"));
        redis.add(entry(2), batch_of_another(&stream, "OTHER"));
        redis.add(entry(3), batch(&stream, 2, "TWO"));
        run(&stream, &redis, || stream.condition().is_caught_up()).await;
        assert_eq!(stream.history(), ["ONE", "TWO", "OTHER"]);
        assert_eq!((stream.position(), stream.metrics.cluster.gaps.get()), (entry(3), 0));
    }

    /// The primary has trimmed its stream up to an entry after that of the batch.
    #[tokio::test]
    async fn a_batch_that_was_not_safe_at_the_last_primary_does_not_count_as_trimmed() {
        let redis = Redis::start().await;
        let stream = node(redis.port);
        stream.publish_one("ONE");
        stream.ingest().send();
        stream.ingest().answered(entry(10), Instant::now());
        stream.reading().safe = entry(5);
        redis.add(entry(50), batch_of_another(&stream, "OTHER"));
        run(&stream, &redis, || stream.history().len() == 2 || stream.kept() == 0).await;
        assert_eq!(stream.metrics.cluster.reappended.get(), 1);
        assert_eq!(redis.numbers(), [1, 1]);
    }

    fn now() -> Time {
        Time { at: Instant::now(), is_known: false }
    }

    #[test]
    fn the_answer_to_info_is_read() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
                    slave0:ip=127.0.0.1,port=1,state=online,offset=1234,lag=0\r\n\
                    slave1:ip=::1,port=2,state=wait_bgsave,offset=7,lag=1\r\n\
                    master_failover_state:no-failover\r\nmaster_replid:abc\r\nmaster_repl_offset:1300\r\n";
        let Replication { is_primary, id, offset, replicas } = Replication::parse(info);
        assert_eq!((is_primary, &*id, offset, replicas), (true, "abc", 1300, vec![1234, 7]));
        assert!(!Replication::parse("role:slave\r\nslave_repl_offset:5\r\n").is_primary);
    }
}
