//! What every connection of a monitor shares.

pub mod connected;
pub mod handshakes;
pub mod outbox;
pub mod over_limit;
pub mod permits;

use crate::config::Settings;
use crate::context::connected::Connected;
use crate::context::handshakes::Handshakes;
use crate::context::outbox::Outbox;
use crate::context::over_limit::OverLimit;
use crate::context::permits::{ConnectionLimit, PerAddressLimit, Room};
use crate::hub::Hub;
use crate::logging;
use crate::metrics::counters::Metrics;
use crate::metrics::samples::Samples;
use crate::net::tls::Certificate;
use crate::rlimit::Shares;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// What every connection of a monitor shares.
#[derive(Debug)]
pub struct Shared {
    /// Its lock is held to copy or to exchange what is in it, and never while another lock is taken.
    settings: watch::Sender<Arc<Settings>>,
    /// With what viewers are served over TLS.
    certificate: RwLock<Option<Arc<Certificate>>>,
    /// The channels.
    pub hub: Arc<Hub>,
    /// What happened so far.
    pub metrics: Arc<Metrics>,
    /// The viewers' permits.
    pub viewers: Arc<ConnectionLimit>,
    /// Connections over a limit of viewers.
    pub over_limit: OverLimit,
    /// How many viewers each address has, where that is bounded.
    pub addresses: Arc<PerAddressLimit>,
    /// The brokers' permits: for ZeroMQ links that have shaken hands.
    pub brokers: Arc<ConnectionLimit>,
    /// Who they are.
    pub connected: Arc<Connected>,
    /// ZeroMQ links that are shaking hands.
    pub handshakes: Handshakes,
    /// How many sockets listen.
    pub(crate) listeners: usize,
    /// What happened lately.
    pub samples: Samples,
    /// Whether the last reload succeeded.
    pub reloaded: AtomicBool,
    /// The permits of connections to the status listener.
    pub status_connections: Arc<ConnectionLimit>,
    /// Notified when there is something new to tell about viewers, brokers or messages.
    pub changed: Arc<Notify>,
    /// True once the monitor stops.
    pub stop: watch::Sender<bool>,
    /// What the connections leave to the process after a restart.
    pub outbox: Outbox,
    /// When the monitor started, as the machine's clock had it.
    pub born: SystemTime,
    started: Instant,
}

impl Shared {
    /// `settings` are within `shares`.
    pub(crate) fn new(
        settings: Settings,
        certificate: Option<Certificate>,
        listeners: usize,
        shares: &Shares,
    ) -> Arc<Self> {
        let metrics = Arc::new(Metrics::default());
        let changed = Arc::new(Notify::new());
        let room = Room::new(shares.both);
        Arc::new(Self {
            hub: Hub::new(settings.history.clone(), Arc::clone(&metrics)),
            metrics,
            viewers: ConnectionLimit::new(settings.clients.max, Arc::clone(&room), Arc::clone(&changed)),
            over_limit: OverLimit::new(shares.over_limit),
            addresses: Arc::default(),
            brokers: ConnectionLimit::new(settings.zeromq.max_connections, room, Arc::clone(&changed)),
            status_connections: ConnectionLimit::new(shares.status, Room::new(shares.status), Arc::default()),
            connected: Arc::default(),
            handshakes: Handshakes::new(shares.handshakes),
            listeners,
            samples: Samples::default(),
            reloaded: AtomicBool::new(true),
            changed,
            stop: watch::Sender::new(false),
            outbox: Outbox::default(),
            born: SystemTime::now(),
            started: Instant::now(),
            certificate: RwLock::new(certificate.map(Arc::new)),
            settings: watch::Sender::new(Arc::new(settings)),
        })
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }

    /// The settings in force, and those of each reload from now on.
    pub fn settings_from_now_on(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.subscribe()
    }

    /// For how long the monitor has been up.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The certificate in force, if viewers are served over TLS.
    pub fn certificate(&self) -> Option<Arc<Certificate>> {
        self.certificate.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether `zeromq.allow` names this peer.
    pub fn allows_broker(&self, peer: SocketAddr) -> bool {
        self.settings().zeromq.allows(peer.ip())
    }

    /// Takes up changed settings and a new certificate, if there is one, whole. Never waits for anything outside.
    ///
    /// Deadlines that run already keep their time.
    pub fn take_up(&self, new: Settings, certificate: Option<Certificate>) {
        if let Some(warning) = certificate.as_ref().and_then(|certificate| certificate.warning(SystemTime::now())) {
            log::warn!("{warning}");
        }
        if let Some(new) = certificate {
            *self.certificate.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(new));
        }
        self.viewers.set_limit(new.clients.max);
        self.brokers.set_limit(new.zeromq.max_connections);
        self.hub.set_limits(new.history.clone());
        logging::reload(&new.logger);
        self.settings.send_replace(Arc::new(new));
    }

    /// One page about what the monitor does, a line each.
    pub fn summary(&self) -> Vec<String> {
        let (usage, settings) = (self.hub.usage(), self.settings());
        vec![
            format!("recodex-monitor {}, up for {} s", env!("CARGO_PKG_VERSION"), self.uptime().as_secs()),
            format!("viewers: {} of {}", self.viewers.taken(), settings.clients.max),
            format!("brokers: {} of {}", self.brokers.taken(), settings.zeromq.max_connections),
            format!("channels: {}, of which {} have finished", usage.channels, usage.finished),
            format!("history: {} of {} bytes", usage.bytes, settings.history.total_bytes),
            format!("since the start: {}", self.metrics),
        ]
    }
}
