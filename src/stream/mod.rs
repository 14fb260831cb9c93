//! The stream of a cluster: every message goes through it, and every hub is fed by reading it.
//!
//! ```text
//! broker -> ingest (batches) -> writer -> Redis -> reader -> hub
//! ```
//!
//! So there is one order for all nodes. A node has three connections to the primary: the writer's, the reader's, and that of the
//! watch. When one of them fails, all three are closed and made anew, because nobody knows what the others have lost.

mod apply;
mod away;
mod bounded;
mod clock;
mod condition;
pub(crate) mod connect;
mod entries;
mod extent;
mod handover;
mod ingest;
mod password;
mod reader;
pub(crate) mod record;
mod safe;
mod seen;
mod sentinel;
mod session;
#[cfg(test)]
mod testing;
mod unread;
mod watch;
mod writer;

pub(crate) use condition::Condition;
pub(crate) use record::MAX_NODE;
pub(crate) use session::run;

use crate::config::{Cluster, History};
use crate::error::Failure;
use crate::hub::Hub;
use crate::logging::Throttle;
use crate::metrics::counters::Metrics;
use crate::snapshot::stream::EntryId;
use crate::stream::connect::Redis;
use crate::stream::ingest::Ingest;
use crate::stream::seen::Seen;
use crate::stream::unread::Ordinal;
use crate::wire::message::Kind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

static HALF_FULL: Throttle = Throttle::new(Duration::from_secs(60));
static FULL: Throttle = Throttle::new(Duration::from_secs(60));

/// The stream, as all connections of a node share it.
#[derive(Debug)]
pub(crate) struct MessageStream {
    redis: Redis,
    /// The first part of the keys: `cluster.name`.
    name: String,
    /// True if the primary may change: replicas are expected then, also while none is connected.
    has_sentinels: bool,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    /// `cluster.buffer`.
    buffer: AtomicUsize,
    /// `cluster.stream_bytes`.
    stream_bytes: AtomicUsize,
    /// Its lock is held for one record, one answer, or the records of one read.
    ingest: Mutex<Ingest>,
    /// Its lock is never held while another one is taken.
    reading: Mutex<Reading>,
    condition: Mutex<Condition>,
    /// Notified when a batch waits.
    work: Notify,
    /// Notified when Redis has answered a batch.
    room: Notify,
    /// Notified when entries were read, or the condition has changed.
    progress: Notify,
}

/// The progress of the reader.
#[derive(Debug, Default)]
struct Reading {
    /// The last entry that was read.
    position: EntryId,
    ordinal: Ordinal,
    /// The entry up to which no failover cuts anything off.
    safe: EntryId,
    seen: Seen,
    /// The random text beside the stream, once it is known.
    epoch: Option<String>,
    /// True while the stream is read from its first entry: a batch that is missing then is nowhere.
    is_from_beginning: bool,
    /// The first entry of the stream, once it is known that entries before it were removed that this node had not read.
    lost_before: Option<EntryId>,
}

impl MessageStream {
    /// Prepares the stream for `hub`, which it feeds from now on. `node` is the name of this node for other nodes.
    ///
    /// # Errors
    /// [`crate::error::Exit::Config`] if the password or the certificates cannot be read.
    pub(crate) fn new(
        cluster: &Cluster,
        history: &History,
        node: String,
        hub: Arc<Hub>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, Failure> {
        let redis = Redis::load(cluster)?;
        hub.follow_stream();
        Ok(Arc::new(Self {
            redis,
            name: cluster.name.clone(),
            has_sentinels: cluster.sentinel.is_some(),
            hub,
            metrics,
            buffer: cluster.buffer.into(),
            stream_bytes: cluster.stream_bytes.into(),
            ingest: Mutex::new(Ingest::new(node, apply::checksum(history))),
            reading: Mutex::new(Reading { is_from_beginning: true, ..Reading::default() }),
            condition: Mutex::new(Condition::new(Instant::now())),
            work: Notify::new(),
            room: Notify::new(),
            progress: Notify::new(),
        }))
    }

    /// Takes up settings that have changed.
    pub(crate) fn set_limits(&self, cluster: &Cluster, history: &History) {
        self.buffer.store(cluster.buffer, Ordering::Relaxed);
        self.stream_bytes.store(cluster.stream_bytes, Ordering::Relaxed);
        self.ingest().set_limits(apply::checksum(history));
        self.room.notify_waiters();
    }

    fn ingest(&self) -> MutexGuard<'_, Ingest> {
        self.ingest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn condition_mut(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the key of the stream.
    fn key(&self) -> String {
        format!("{}:messages", self.name)
    }

    /// Returns the key of the epoch: a random text that whoever finds none writes. It is gone when the stream is.
    fn epoch_key(&self) -> String {
        format!("{}:epoch", self.name)
    }

    /// Locks the ingest for messages that arrived together.
    pub(crate) fn appender(&self) -> Appender<'_> {
        Appender { stream: self, ingest: self.ingest() }
    }

    /// Returns the bytes that wait for Redis, and the most of them.
    pub(crate) fn buffered(&self) -> (usize, usize) {
        (self.ingest().waiting_bytes(), self.buffer.load(Ordering::Relaxed))
    }

    /// Returns the number of batches that are kept until no failover can cut them off.
    pub(crate) fn kept(&self) -> usize {
        self.ingest().kept()
    }

    /// Returns the last entry that was read.
    pub(crate) fn position(&self) -> EntryId {
        self.reading().position
    }

    /// Waits until the buffer has room for more.
    pub(crate) async fn room(&self) {
        loop {
            let more = self.room.notified();
            if self.ingest().waiting_bytes() < self.buffer.load(Ordering::Relaxed) {
                return;
            }
            more.await;
        }
    }

    /// Waits until Redis has everything and this node has read it, or until `deadline`. Returns at once if Redis is away.
    pub(crate) async fn flush(&self, deadline: Instant) {
        let all = async {
            loop {
                let more = self.progress.notified();
                let (is_empty, last) = {
                    let ingest = self.ingest();
                    (ingest.is_empty(), ingest.last_answer())
                };
                let is_done = is_empty && last.is_none_or(|last| self.reading().position >= last);
                let condition = self.condition();
                if is_done || condition.unknown_format || !condition.is_connected() {
                    return;
                }
                more.await;
            }
        };
        let _ = crate::deadline::timeout_at(deadline, all).await;
    }

    /// Warns when the buffer is half full, and when it is full.
    fn warn_of_buffer(&self, bytes: usize) {
        let bound = self.buffer.load(Ordering::Relaxed);
        if bytes >= bound {
            if let Some(more) = FULL.pass() {
                log::error!(
                    "{bytes} bytes of messages wait for Redis, and cluster.buffer is full: brokers are not read until Redis takes \
                     messages again; ZeroMQ then keeps 1,000 messages of each broker and drops the others{more}"
                );
            }
        } else if bytes >= bound / 2
            && let Some(more) = HALF_FULL.pass()
        {
            log::warn!("{bytes} bytes of messages wait for Redis: cluster.buffer ({bound} bytes) is half full{more}");
        }
    }
}

/// The ingest, locked by one broker's link for the messages of one read.
#[derive(Debug)]
pub(crate) struct Appender<'a> {
    stream: &'a MessageStream,
    ingest: MutexGuard<'a, Ingest>,
}

impl Appender<'_> {
    /// Appends a message's ready frame to the batch that grows.
    pub(crate) fn publish(&mut self, channel: &str, kind: Kind, frame: &[u8]) {
        self.ingest.publish(channel, kind, frame);
    }
}

impl Drop for Appender<'_> {
    fn drop(&mut self) {
        if !self.ingest.is_empty() {
            self.stream.work.notify_one();
            self.stream.warn_of_buffer(self.ingest.waiting_bytes());
        }
    }
}
