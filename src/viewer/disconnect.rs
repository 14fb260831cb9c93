//! The reasons why a viewer leaves or is refused, and the log lines and counters of each. Reasons that are its channel's are in
//! `wire::close`.

use super::answer::{self, FOREIGN, NO_PROXY_HEADER, NO_TLS, TLS_REQUIRED, TOO_MANY};
use super::upgrade::Refused;
use crate::config::Settings;
use crate::context::Shared;
use crate::logging::Throttle;
use crate::metrics::counters::{Close, Loss, ViewerRefusal};
use crate::peer::Peer;
use crate::wire::close::End;
use std::io;
use std::time::Duration;
use thiserror::Error;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, error::CapacityError};

static LOST: Throttle = Throttle::new(Duration::from_secs(10));
static FULL: Throttle = Throttle::new(Duration::from_secs(60));
static ADDRESS: Throttle = Throttle::new(Duration::from_secs(60));
static NO_PROXY: Throttle = Throttle::new(Duration::from_secs(60));
static ZEROMQ: Throttle = Throttle::new(Duration::from_secs(60));
static TLS: Throttle = Throttle::new(Duration::from_secs(60));
static PLAIN: Throttle = Throttle::new(Duration::from_secs(60));
static PROXY_HEADER: Throttle = Throttle::new(Duration::from_secs(60));

/// The reason why a viewer's connection ended.
#[derive(Debug, Error)]
pub(super) enum Disconnect {
    /// The viewer broke a rule.
    #[error("closed with {code}: {reason}")]
    Closed { code: CloseCode, reason: &'static str },
    /// Nothing more comes from its channel.
    #[error("closed with {}: {}", .0.close().0, .0.close().1)]
    Ended(End),
    /// The viewer named no channel in time. That may be the network's fault, and the student's dialog waits.
    #[error("closed with {}: no channel id within clients.subscribe_timeout", CloseCode::Policy)]
    Unnamed,
    #[error("it closed")]
    ByPeer,
    #[error("it went without closing")]
    Gone,
    #[error("nothing could be written to it for clients.stall_timeout")]
    Stalled,
    #[error("it did not answer a ping within clients.ping_timeout")]
    Silent,
    #[error("no whole request within clients.handshake_timeout")]
    Handshake,
    #[error("no TLS handshake: {0}")]
    Tls(io::Error),
    #[error("it speaks ZeroMQ")]
    ZeroMq,
    #[error("no header of the PROXY protocol: {0}")]
    Proxy(io::Error),
    /// This is not the end of the connection: its request is still read, in a turn of those over a limit.
    #[error("clients.max_per_address is reached")]
    OverAddressLimit,
    #[error("it was a health check")]
    HealthCheck,
    #[error("the monitor stops")]
    Stopping,
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Disconnect {
    pub(super) fn closed(code: CloseCode, reason: &'static str) -> Self {
        Self::Closed { code, reason }
    }
}

impl From<End> for Disconnect {
    fn from(end: End) -> Self {
        Self::Ended(end)
    }
}

impl From<tungstenite::Error> for Disconnect {
    fn from(error: tungstenite::Error) -> Self {
        use tungstenite::Error as E;
        use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
        match error {
            E::ConnectionClosed | E::AlreadyClosed => Self::ByPeer,
            E::Protocol(ResetWithoutClosingHandshake) => Self::Gone,
            E::Io(e) => Self::Io(e),
            E::Utf8(_) => Self::closed(CloseCode::Invalid, "not UTF-8"),
            E::Capacity(CapacityError::MessageTooLong { .. }) => Self::closed(CloseCode::Size, "message too long"),
            _ => Self::closed(CloseCode::Protocol, "against the WebSocket protocol"),
        }
    }
}

impl Disconnect {
    /// Returns the code and the reason of the monitor's close frame, if it sends one.
    pub(super) fn close(&self) -> Option<(CloseCode, &'static str)> {
        match self {
            Self::Closed { code, reason } => Some((*code, reason)),
            Self::Ended(end) => Some(end.close()),
            Self::Unnamed => Some((CloseCode::Policy, "no channel id in time")),
            Self::Stalled => Some((CloseCode::Again, "nothing could be sent for too long")),
            Self::Silent => Some((CloseCode::Again, "no answer to a ping")),
            _ => None,
        }
    }

    /// Returns true if the monitor ends the connection though the job has not finished and the viewer has broken no rule. FINISHED then
    /// goes before the close frame, if `clients.finish_on_close` is on and the viewer has not got the job's own.
    pub(super) fn is_by_monitor(&self) -> bool {
        match self {
            Self::Ended(end) => *end != End::Finished,
            Self::Stalled | Self::Silent | Self::Unnamed => true,
            _ => false,
        }
    }

    /// Returns true if the viewer will hardly answer a close frame.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Stalled | Self::Silent)
    }

    /// Logs the end of a viewer's connection.
    pub(super) fn log(&self, peer: Peer) {
        match self {
            Self::Closed { .. } | Self::Ended(_) | Self::Unnamed => {
                let code = self.close().map_or(0, |(code, _)| code.into());
                log::debug!(RECODEX_PEER:% = peer, RECODEX_CLOSE_CODE = code; "viewer {peer} left: {self}");
            }
            _ => log::debug!(RECODEX_PEER:% = peer; "viewer {peer} left: {self}"),
        }
    }

    /// Counts the disconnect, and logs what concerns an administrator.
    pub(super) fn count(&self, shared: &Shared, peer: Peer) {
        let lost = match self {
            Self::Stalled => Some(Loss::Stalled),
            Self::Silent => Some(Loss::Silent),
            _ => None,
        };
        if let Some(lost) = lost {
            shared.metrics.viewers_lost.add(lost);
            if let Some(more) = LOST.pass() {
                log::info!(RECODEX_PEER:% = peer; "gave up viewer {peer}: {self}{more}");
            }
        }
        if let Some((code, _)) = self.close().filter(|_| !self.is_lost())
            && let Some(code) = Close::with(code.into())
        {
            shared.metrics.closed.add(code);
        }
        if let Some(refusal) = self.refusal() {
            refused(shared, peer, refusal);
        }
        if let Some((throttle, what)) = self.other_protocol(&shared.settings()) {
            warn(throttle, peer, what);
        }
    }

    /// Returns the warning about a client that speaks another protocol than its port, and its throttle.
    fn other_protocol(&self, settings: &Settings) -> Option<(&'static Throttle, &'static str)> {
        match self {
            Self::ZeroMq => Some((
                &ZEROMQ,
                "it speaks ZeroMQ, and this is the viewers' port (websocket_uri); brokers connect to zeromq_uri",
            )),
            Self::Refused(Refused::Answered(answer)) => match *answer {
                answer if *answer == NO_TLS && settings.tls.is_some() => {
                    Some((&TLS, "it speaks TLS within TLS; only one is expected"))
                }
                answer if *answer == NO_TLS => Some((
                    &TLS,
                    "it speaks TLS, and this port does not; set tls, or use ws:// (http:// in a web server in front)",
                )),
                answer if *answer == TLS_REQUIRED => Some((
                    &PLAIN,
                    "it speaks HTTP without TLS, and tls is set; use wss:// (https:// in a web server in front)",
                )),
                answer if *answer == NO_PROXY_HEADER && settings.websocket_proxy_protocol => {
                    Some((&PROXY_HEADER, "it sent a second PROXY header; only one is expected"))
                }
                answer if *answer == NO_PROXY_HEADER => {
                    Some((&PROXY_HEADER, "it sent a PROXY header, and websocket_proxy_protocol is off"))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the label under which a refusal is counted.
    fn refusal(&self) -> Option<ViewerRefusal> {
        match self {
            Self::Handshake => Some(ViewerRefusal::Timeout),
            Self::Tls(_) => Some(ViewerRefusal::Tls),
            Self::Proxy(_) => Some(ViewerRefusal::Proxy),
            Self::ZeroMq => Some(ViewerRefusal::Request),
            Self::Refused(Refused::Answered(answer)) => Some(match *answer {
                answer if *answer == FOREIGN => ViewerRefusal::Origin,
                answer if *answer == TOO_MANY => ViewerRefusal::Address,
                answer if *answer == answer::FULL => ViewerRefusal::Full,
                answer if *answer == TLS_REQUIRED => ViewerRefusal::Tls,
                _ => ViewerRefusal::Request,
            }),
            _ => None,
        }
    }
}

/// Counts a connection that does not become a viewer's, and logs a warning.
pub(super) fn refused(shared: &Shared, peer: Peer, why: ViewerRefusal) {
    shared.metrics.viewers_refused.add(why);
    let (throttle, what) = match why {
        ViewerRefusal::Full => (&FULL, "clients.max is reached"),
        ViewerRefusal::Address => (&ADDRESS, "its address has clients.max_per_address viewers"),
        ViewerRefusal::Proxy => (
            &NO_PROXY,
            "websocket_proxy_protocol is on, and it sent no PROXY header or trusted_proxies does not name it",
        ),
        // These are logged elsewhere, with the reason, or not at all, because anybody could cause them.
        ViewerRefusal::Origin | ViewerRefusal::Request | ViewerRefusal::Timeout | ViewerRefusal::Tls => return,
    };
    warn(throttle, peer, what);
}

fn warn(throttle: &Throttle, peer: Peer, what: &str) {
    if let Some(more) = throttle.pass() {
        log::warn!(RECODEX_PEER:% = peer; "refused viewer {peer}: {what}{more}");
    }
}
