//! Labels: the reasons and codes that are counted apart.

use super::counter::Counter;
use crate::wire::message::Malformed;
use std::marker::PhantomData;

/// The values of a label, each with a counter of its own.
pub trait Label: Copy {
    /// The name of each value, in the order of [`Label::index`].
    const NAMES: &'static [&'static str];

    /// Returns the index of its name.
    fn index(self) -> usize;
}

/// A counter for each value of a label.
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

    /// Returns the sum so far.
    pub fn total(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }

    /// Returns the name and the count of each value.
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
    /// The reason for which a connection did not become a viewer's.
    ViewerRefusal {
        /// `clients.max` was reached.
        Full = "full",
        /// `clients.max_per_address` was reached.
        Address = "address",
        /// `allowed_origins` does not name its page's origin.
        Origin = "origin",
        /// It sent something else than a WebSocket request.
        Request = "request",
        /// It sent no whole request within `clients.handshake_timeout`.
        Timeout = "timeout",
        /// The TLS handshake failed.
        Tls = "tls",
        /// It did not come from a trusted proxy, or without the PROXY header that was expected.
        Proxy = "proxy",
    }
}

labels! {
    /// The reason for which a broker's link was refused or ended.
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
    /// The reason for which a viewer was given up.
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

    /// Returns the code, if the monitor uses it.
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
}
