//! The end of a broker's link: its cause, its line in the log, and its metric.

use crate::context::Shared;
use crate::logging::Throttle;
use crate::metrics::counters::LinkRefusal;
use crate::wire::zmtp::Violation;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use thiserror::Error;

static FULL: Throttle = Throttle::new(Duration::from_secs(60));
static VIOLATIONS: Throttle = Throttle::new(Duration::from_secs(10));
static OTHER_PROTOCOLS: Throttle = Throttle::new(Duration::from_secs(10));
/// The throttle for peers that hang up. A socket with CURVE or PLAIN may connect only once, so its line must not be held back for
/// long.
static HUNG_UP: Throttle = Throttle::new(Duration::from_secs(10));

/// The cause of a link's end.
#[derive(Debug, Error)]
pub(super) enum Ended {
    #[error("closed by the broker")]
    ByPeer,
    #[error("closed by the broker in the middle of a message, which is dropped")]
    MidMessage,
    #[error("the monitor stops")]
    Stopping,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Violation(#[from] Violation),
    #[error("the handshake took longer than zeromq.handshake_timeout")]
    Handshake,
    #[error("it does not read the answers to its PINGs")]
    NotReading,
    #[error("zeromq.max_connections is reached")]
    Full,
    #[error("zeromq.allow no longer names it")]
    NotAllowed,
    #[error("not ZeroMQ: {0}")]
    OtherProtocol(String),
    #[error("the peer hung up in its handshake {0}")]
    HungUp(String),
}

impl Ended {
    /// Counts the end and logs it, if the monitor refused the peer or the peer did something wrong.
    pub(super) fn report(&self, peer: SocketAddr, shared: &Shared) {
        let Some(refusal) = self.refusal() else { return };
        shared.metrics.links_refused.add(refusal);
        let throttle = match self {
            Self::Full => &FULL,
            Self::OtherProtocol(_) => &OTHER_PROTOCOLS,
            Self::HungUp(_) => &HUNG_UP,
            _ => &VIOLATIONS,
        };
        match throttle.pass() {
            Some(more) => log::warn!(RECODEX_PEER:% = peer; "closed the ZeroMQ link from {peer}: {self}{more}"),
            None => log::debug!(RECODEX_PEER:% = peer; "closed the ZeroMQ link from {peer}: {self}"),
        }
    }

    fn refusal(&self) -> Option<LinkRefusal> {
        match self {
            Self::Violation(_) | Self::OtherProtocol(_) => Some(LinkRefusal::Violation),
            Self::Handshake => Some(LinkRefusal::Timeout),
            Self::NotReading => Some(LinkRefusal::NotReading),
            Self::Full => Some(LinkRefusal::Full),
            Self::NotAllowed => Some(LinkRefusal::NotAllowed),
            Self::HungUp(_) => Some(LinkRefusal::HungUp),
            Self::ByPeer | Self::MidMessage | Self::Stopping | Self::Io(_) => None,
        }
    }
}
