//! Counters of what the monitor did, for its log.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What happened since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Messages appended to a channel.
    pub messages: Counter,
    /// Messages dropped because they could not be decoded.
    pub malformed: Counter,
    /// FINISHED for a channel that had finished already; dropped.
    pub repeated: Counter,
    /// `0`, `exit` messages that were ignored.
    pub exits_ignored: Counter,
    /// Channels that got FINISHED from the monitor because their job failed and fell silent.
    pub released: Counter,
    /// Messages dropped because their channel was over its bounds.
    pub trimmed: Counter,
    /// Channels dropped because the history of all was over its bound.
    pub evicted: Counter,
    /// Channels dropped because their job never finished.
    pub expired: Counter,
    /// Broker links that were ended because the peer broke a rule or a limit.
    pub links_refused: Counter,
    /// Viewers subscribed.
    pub viewers: Counter,
    /// Connections turned away because `clients.max` was reached.
    pub viewers_refused: Counter,
    /// Viewers given up because they did not read or did not answer.
    pub viewers_lost: Counter,
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("messages", &self.messages),
            ("malformed", &self.malformed),
            ("repeated FINISHED", &self.repeated),
            ("ignored exits", &self.exits_ignored),
            ("released jobs", &self.released),
            ("trimmed messages", &self.trimmed),
            ("evicted channels", &self.evicted),
            ("expired channels", &self.expired),
            ("refused links", &self.links_refused),
            ("viewers", &self.viewers),
            ("refused viewers", &self.viewers_refused),
            ("lost viewers", &self.viewers_lost),
        ];
        write!(f, "{} {}", counts[0].1.get(), counts[0].0)?;
        for (name, counter) in counts[1..].iter().filter(|(_, counter)| counter.get() > 0) {
            write!(f, ", {} {name}", counter.get())?;
        }
        Ok(())
    }
}
