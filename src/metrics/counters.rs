//! Counters of what the monitor did, for its log and for those who watch it.

use crate::wire::message::Malformed;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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

/// What is counted apart.
pub trait Label: Copy {
    /// The name of each, in the order of [`Label::index`].
    const NAMES: &'static [&'static str];

    /// Its place among the names.
    fn index(self) -> usize;
}

/// A counter for each label.
#[derive(Debug)]
pub struct Counts<L>(Box<[Counter]>, PhantomData<L>);

impl<L: Label> Default for Counts<L> {
    fn default() -> Self {
        Self(L::NAMES.iter().map(|_| Counter::default()).collect(), PhantomData)
    }
}

impl<L: Label> Counts<L> {
    /// Counts one.
    pub fn add(&self, label: L) {
        self.0[label.index()].add(1);
    }

    /// The sum so far.
    pub fn total(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }

    /// The count of each so far.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        L::NAMES.iter().copied().zip(self.0.iter().map(Counter::get))
    }
}

macro_rules! labels {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$what])* $variant,)+ }

        impl Label for $name {
            const NAMES: &'static [&'static str] = &[$($text),+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

labels! {
    /// Why a connection did not become a viewer's.
    ViewerRefusal {
        /// `clients.max` was reached.
        Full = "full",
        /// `clients.max_per_address` was reached.
        Address = "address",
        /// `allowed_origins` does not name its page's origin.
        Origin = "origin",
        /// It sent what is no WebSocket request.
        Request = "request",
        /// It sent no whole request within `clients.handshake_timeout`.
        Timeout = "timeout",
        /// The TLS handshake failed.
        Tls = "tls",
        /// It came from no trusted proxy, or without the PROXY header that was to come.
        Proxy = "proxy",
    }
}

labels! {
    /// Why a broker's link was refused or ended.
    LinkRefusal {
        /// `zeromq.allow` does not name the peer.
        NotAllowed = "not_allowed",
        /// Too many others were shaking hands.
        Crowded = "crowded",
        /// It broke a rule or a limit of the protocol.
        Violation = "violation",
        /// No handshake within `zeromq.handshake_timeout`.
        Timeout = "timeout",
        /// It did not read the answers to its PINGs.
        NotReading = "not_reading",
        /// `zeromq.max_connections` was reached.
        Full = "full",
        /// It sent something and closed the link before its handshake was over.
        HungUp = "hung_up",
    }
}

labels! {
    /// Why a viewer was given up.
    Loss {
        /// It did not read.
        Stalled = "stalled",
        /// It did not answer a ping.
        Silent = "silent",
    }
}

/// A code with which the monitor closes viewers (RFC 6455, section 7.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close(usize);

impl Close {
    const CODES: [u16; 8] = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1013];

    /// The code, if the monitor uses it.
    #[must_use]
    pub fn with(code: u16) -> Option<Self> {
        Self::CODES.iter().position(|known| *known == code).map(Self)
    }
}

impl Label for Close {
    const NAMES: &'static [&'static str] = &["1000", "1001", "1002", "1003", "1007", "1008", "1009", "1013"];

    fn index(self) -> usize {
        self.0
    }
}

impl Label for Malformed {
    const NAMES: &'static [&'static str] = &["frames", "empty_channel", "long_channel", "not_utf8"];

    fn index(self) -> usize {
        self as usize
    }
}

/// How long something took, counted by ranges.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [Counter; Self::BOUNDS.len() + 1],
    nanoseconds: Counter,
}

impl Histogram {
    /// The upper bounds of the ranges, in microseconds.
    const BOUNDS: [u64; 15] = [
        100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
        10_000_000,
    ];

    /// Counts one.
    pub fn observe(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let range = Self::BOUNDS.iter().position(|bound| nanoseconds <= bound * 1000).unwrap_or(Self::BOUNDS.len());
        self.counts[range].add(1);
        self.nanoseconds.add(usize::try_from(nanoseconds).unwrap_or(usize::MAX));
    }

    /// The sum, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "a sum of seconds needs no more than 52 bits")]
    pub fn sum(&self) -> f64 {
        self.nanoseconds.get() as f64 / 1e9
    }

    /// Each range's upper bound, in seconds, and count.
    #[expect(clippy::cast_precision_loss, reason = "the bounds are small")]
    pub fn ranges(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = Self::BOUNDS.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().map(Counter::get))
    }
}

/// What happened since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Messages appended to a channel.
    pub messages: Counter,
    /// Messages received from brokers, whatever became of them.
    pub received: Counter,
    /// Bytes received from brokers.
    pub received_bytes: Counter,
    /// Messages sent to viewers.
    pub sent: Counter,
    /// Bytes of messages sent to viewers.
    pub sent_bytes: Counter,
    /// Of the messages sent, those that were there before their viewer.
    pub replayed: Counter,
    /// How long a message took from its broker to the viewers that waited for it.
    pub lag: Histogram,
    /// Messages dropped because they could not be decoded.
    pub malformed: Counts<Malformed>,
    /// FINISHED for a channel that had finished already; dropped.
    pub repeated: Counter,
    /// Other messages for a channel that had finished, which do not begin a new run; dropped.
    pub late: Counter,
    /// `0`, `exit` messages that were ignored.
    pub exits_ignored: Counter,
    /// Channels that got FINISHED from the monitor because their job failed or was aborted, and nothing followed.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_a_name_each() {
        assert_eq!(Close::CODES.map(|code| code.to_string())[..], *Close::NAMES);
        assert_eq!(Malformed::NotUtf8.index() + 1, Malformed::NAMES.len());
        let counts = Counts::<ViewerRefusal>::default();
        counts.add(ViewerRefusal::Proxy);
        counts.add(ViewerRefusal::Proxy);
        counts.add(ViewerRefusal::Full);
        let counted: Vec<_> = counts.each().filter(|(_, count)| *count > 0).collect();
        assert_eq!((counted, counts.total()), (vec![("full", 1), ("proxy", 2)], 3));
    }

    #[test]
    fn a_time_is_counted_in_the_range_it_is_in() {
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let counted: Vec<_> = histogram.ranges().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(0.0001, 2), (0.00025, 1), (10.0, 1), (f64::INFINITY, 1)]);
        assert!((histogram.sum() - 20.000_202).abs() < 1e-9);
    }
}
