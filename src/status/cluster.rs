//! The part of the report and of the metrics on a node's way to the stream of its cluster.

use super::openmetrics::Out;
use crate::context::Shared;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;

/// A node of a cluster.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cluster {
    /// The primary, if it is connected.
    pub server: Option<String>,
    /// `primary` while it is connected: messages are read from no replica.
    pub role: Option<String>,
    /// True while Redis is connected.
    pub connected: bool,
    /// True while the node has read the stream to its end.
    pub caught_up: bool,
    /// The reason for which the stream cannot be read or written.
    pub reason: Option<String>,
    /// The last entry that was read.
    pub position: String,
    /// The last entry of the stream.
    pub last: String,
    /// The time for which there has been something that was not read, in seconds.
    pub lag_seconds: f64,
    /// The entries that were not read, if their number is known.
    pub lag_entries: Option<u64>,
    /// The bytes that wait for Redis.
    pub buffer_bytes: usize,
    /// The most of them (`cluster.buffer`).
    pub buffer_max: usize,
    /// The batches that are kept until no failover can cut them off.
    pub kept_batches: usize,
    /// The number of entries in the stream.
    pub stream_entries: u64,
    /// The memory of the stream in Redis, in bytes.
    pub stream_bytes: u64,
    /// Counts since the start, under the names of the metrics.
    pub reconnects: u64,
    pub failovers: u64,
    pub gaps: u64,
    pub epochs: u64,
    pub reappended: u64,
    pub repeated: u64,
    pub trimmed_by_bound: u64,
}

impl Cluster {
    /// Reports the state now; `None` if the monitor works alone.
    pub(super) fn of(shared: &Shared) -> Option<Self> {
        let stream = shared.stream.as_ref()?;
        let (condition, counters) = (stream.condition(), &shared.metrics.cluster);
        let (buffer_bytes, buffer_max) = stream.buffered();
        let trouble = condition.trouble.clone();
        let reason = trouble.or_else(|| condition.readiness(Instant::now()).err().map(Into::into));
        Some(Self {
            server: condition.server.as_ref().map(ToString::to_string),
            role: condition.is_connected().then(|| "primary".into()),
            connected: condition.is_connected(),
            caught_up: condition.is_caught_up(),
            reason,
            position: stream.position().to_string(),
            last: condition.last.to_string(),
            lag_seconds: condition.lag(Instant::now()).as_secs_f64(),
            lag_entries: condition.lag_entries(),
            buffer_bytes,
            buffer_max,
            kept_batches: stream.kept(),
            stream_entries: condition.entries,
            stream_bytes: condition.bytes,
            reconnects: counters.reconnects.get(),
            failovers: counters.failovers.get(),
            gaps: counters.gaps.get(),
            epochs: counters.epochs.get(),
            reappended: counters.reappended.get(),
            repeated: counters.repeated.get(),
            trimmed_by_bound: counters.trimmed.get(),
        })
    }
}

/// Writes the metrics, if the monitor is one of several.
pub(super) fn metrics(shared: &Shared, out: &mut Out<'_>) -> fmt::Result {
    let (Some(stream), Some(now)) = (&shared.stream, Cluster::of(shared)) else { return Ok(()) };
    let (position, counters) = (stream.position(), &shared.metrics.cluster);
    out.gauge("cluster_connected", "Whether Redis is connected", now.connected.into())?;
    if let Some(server) = &now.server {
        out.gauges("cluster_primary_info", "The primary that is connected", "server", [(server.as_str(), 1)])?;
    }
    out.gauge("cluster_caught_up", "Whether the stream was read to its end", now.caught_up.into())?;
    out.seconds(
        "cluster_lag_seconds",
        "How long there has been something in the stream that was not read",
        now.lag_seconds,
    )?;
    if let Some(entries) = now.lag_entries {
        out.gauge("cluster_lag_entries", "Entries of the stream that were not read", entries)?;
    }
    if position.milliseconds > 0 {
        let about = "The time in the id of the last entry that was read, in seconds since the Unix epoch";
        let at = Duration::from_millis(position.milliseconds).as_secs_f64();
        out.seconds("cluster_position_timestamp_seconds", about, at)?;
    }
    out.gauge("cluster_buffer_bytes", "Bytes of messages that wait for Redis", now.buffer_bytes as u64)?;
    out.gauge("cluster_buffer_max_bytes", "The most of them (cluster.buffer)", now.buffer_max as u64)?;
    let about = "Batches that are kept until no failover can cut them off";
    out.gauge("cluster_kept_batches", about, now.kept_batches as u64)?;
    out.gauge("cluster_stream_entries", "Entries of the stream", now.stream_entries)?;
    out.gauge("cluster_stream_bytes", "Memory of the stream in Redis", now.stream_bytes)?;
    for (name, about, counter) in [
        ("cluster_reconnects", "Times that the connections to Redis were made again", &counters.reconnects),
        ("cluster_failovers", "Times that the primary was another one, or had another history", &counters.failovers),
        ("cluster_gaps", "Times that batches were missing in the stream", &counters.gaps),
        ("cluster_epochs", "Times that the stream was gone", &counters.epochs),
        ("cluster_appended_batches", "Batches that Redis has taken", &counters.appended),
        ("cluster_repeated_batches", "Batches that were sent to Redis again", &counters.repeated),
        ("cluster_reappended_batches", "Batches that a failover had cut off", &counters.reappended),
        ("cluster_read_batches", "Batches that were read from the stream", &counters.read),
        ("cluster_trimmed_by_bound", "Entries that were removed because of cluster.stream_bytes", &counters.trimmed),
    ] {
        out.counter(name, about, counter.get())?;
    }
    Ok(())
}
