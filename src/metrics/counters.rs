//! Every counter of the monitor, and their summary for the log.

use super::counter::{Counter, Histogram};
use super::labels::Counts;
use crate::wire::message::Malformed;
use std::fmt;

pub(crate) use super::labels::{Close, LinkRefusal, Loss, ViewerRefusal};

/// The counters of a process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Messages appended to a channel.
    pub messages: Counter,
    /// Messages received from brokers, dropped ones included.
    pub received: Counter,
    /// Bytes received from brokers.
    pub received_bytes: Counter,
    /// Messages sent to viewers.
    pub sent: Counter,
    /// Bytes of messages sent to viewers.
    pub sent_bytes: Counter,
    /// The messages sent that were older than their viewer's subscription.
    pub replayed: Counter,
    /// The time of a message from its broker to the viewers that waited for it.
    pub lag: Histogram,
    /// Messages dropped because they could not be decoded.
    pub malformed: Counts<Malformed>,
    /// FINISHED for a channel that had finished already; dropped.
    pub repeated: Counter,
    /// Other messages for a channel that had finished, which do not begin a new run; dropped.
    pub late: Counter,
    /// `0`, `exit` messages that were ignored.
    pub exits_ignored: Counter,
    /// Channels that got FINISHED from the monitor: their job failed or was aborted, and nothing followed.
    pub released: Counter,
    /// Messages dropped because their channel was over its bounds.
    pub trimmed: Counter,
    /// Channels dropped because the history of all was over its bound.
    pub evicted: Counter,
    /// Channels dropped because their job never finished.
    pub expired: Counter,
    /// Broker links that were refused, or ended because the peer broke a rule or a limit.
    pub links_refused: Counts<LinkRefusal>,
    /// Viewers subscribed.
    pub viewers: Counter,
    /// Connections that did not become a viewer's.
    pub viewers_refused: Counts<ViewerRefusal>,
    /// Viewers given up because they did not read or did not answer.
    pub viewers_lost: Counts<Loss>,
    /// Viewers closed, by code.
    pub closed: Counts<Close>,
    /// The counters of a node in a cluster.
    pub(crate) cluster: ClusterCounters,
}

/// The counters of a node in a cluster.
#[derive(Debug, Default)]
pub(crate) struct ClusterCounters {
    /// Batches that Redis has taken.
    pub appended: Counter,
    /// Batches that were sent again, since Redis had not answered or had refused them.
    pub repeated: Counter,
    /// Batches that Redis had taken, that a failover has cut off, and that were appended again.
    pub reappended: Counter,
    /// Batches that were read from the stream and applied.
    pub read: Counter,
    /// Times that batches were missing in the stream.
    pub gaps: Counter,
    /// Times that the connections to Redis were made again.
    pub reconnects: Counter,
    /// Times that the primary was another one, or one with another history.
    pub failovers: Counter,
    /// Times that the stream was gone.
    pub epochs: Counter,
    /// Entries that were removed because of `cluster.stream_bytes`.
    pub trimmed: Counter,
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} messages", self.messages.get())?;
        let counts = [
            ("malformed", self.malformed.total()),
            ("repeated FINISHED", self.repeated.get()),
            ("messages after FINISHED", self.late.get()),
            ("ignored exits", self.exits_ignored.get()),
            ("released jobs", self.released.get()),
            ("trimmed messages", self.trimmed.get()),
            ("evicted channels", self.evicted.get()),
            ("expired channels", self.expired.get()),
            ("refused links", self.links_refused.total()),
            ("viewers", self.viewers.get()),
            ("refused viewers", self.viewers_refused.total()),
            ("lost viewers", self.viewers_lost.total()),
        ];
        for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, ", {count} {name}")?;
        }
        Ok(())
    }
}
