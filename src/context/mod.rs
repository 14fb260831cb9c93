//! The context that all connections of a monitor share: settings, permits, counters, the hub.

pub(crate) mod connected;
pub(crate) mod handshakes;
pub(crate) mod outbox;
pub(crate) mod over_limit;
pub(crate) mod permits;
pub(crate) mod quiet;

use crate::config::Settings;
use crate::context::connected::Connected;
use crate::context::handshakes::Handshakes;
use crate::context::outbox::Outbox;
use crate::context::over_limit::OverLimit;
use crate::context::permits::{ConnectionLimit, PerAddressLimit, Room};
use crate::context::quiet::QuietViewers;
use crate::error::{Exit, Failure};
use crate::hub::Hub;
use crate::logging::{self, Throttle};
use crate::metrics::counters::Metrics;
use crate::metrics::process;
use crate::metrics::samples::Samples;
use crate::net::tls::Certificate;
use crate::rlimit::Shares;
use crate::stream::{MAX_NODE, MessageStream};
use rustix::system::uname;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

static NO_PROBE: Throttle = Throttle::new(Duration::from_secs(60));

/// The context that all connections of a monitor share.
#[derive(Debug)]
pub struct Shared {
    /// Its lock is held to copy or to exchange the settings, and never while another lock is taken.
    settings: watch::Sender<Arc<Settings>>,
    /// The certificate, if viewers are served over TLS.
    certificate: RwLock<Option<Arc<Certificate>>>,
    /// The channels.
    pub hub: Arc<Hub>,
    /// The stream of the cluster, if the monitor is one of several.
    pub(crate) stream: Option<Arc<MessageStream>>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The viewers' permits.
    pub viewers: Arc<ConnectionLimit>,
    /// The viewers that are quiet.
    pub(crate) quiet: QuietViewers,
    /// Connections over a limit of viewers.
    pub(crate) over_limit: OverLimit,
    /// The viewers' permits of each address.
    pub(crate) addresses: Arc<PerAddressLimit>,
    /// The brokers' permits: for ZeroMQ links that have shaken hands.
    pub(crate) brokers: Arc<ConnectionLimit>,
    /// The connected brokers.
    pub(crate) connected: Arc<Connected>,
    /// ZeroMQ links that are shaking hands.
    pub(crate) handshakes: Handshakes,
    /// The number of listening sockets.
    pub(crate) listeners: usize,
    /// The counters of the last minutes.
    pub(crate) samples: Samples,
    /// False after a reload that failed.
    pub(crate) reloaded: AtomicBool,
    /// The time of the start, or of the last reload that succeeded.
    in_force_since: Mutex<SystemTime>,
    /// True if everybody may see the ids of jobs: those of the demo.
    pub(crate) ids_are_public: AtomicBool,
    /// The permits of connections to the status listener.
    pub(crate) status_connections: Arc<ConnectionLimit>,
    /// Notified when the number of viewers, brokers or messages changes.
    pub(crate) changed: Arc<Notify>,
    /// True once the monitor stops.
    pub(crate) stop: watch::Sender<bool>,
    /// The connections for the next process.
    pub(crate) outbox: Outbox,
    /// The time of the process's start, by the machine's clock when the context was created.
    pub(crate) born: SystemTime,
    started: Instant,
}

/// Returns the name of this machine, by which other nodes name this one.
fn node_name() -> String {
    uname().nodename().to_string_lossy().chars().take(MAX_NODE / 4).collect()
}

impl Shared {
    /// Creates the context of a monitor whose `settings` are within `shares`. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the quiet viewers cannot be watched, or the password or the certificates for Redis cannot be read.
    pub(crate) fn new(
        settings: Settings,
        certificate: Option<Certificate>,
        listeners: usize,
        shares: &Shares,
    ) -> Result<Arc<Self>, Failure> {
        let metrics = Arc::new(Metrics::default());
        let changed = Arc::new(Notify::new());
        let room = Room::new(shares.both);
        let hub = Hub::new(settings.history.clone(), Arc::clone(&metrics));
        let stream = settings.cluster.as_ref().map(|cluster| {
            MessageStream::new(cluster, &settings.history, node_name(), Arc::clone(&hub), Arc::clone(&metrics))
        });
        // Taken once, and not again at each question: by a clock that is set later, the process would have started at another time,
        // which Prometheus takes for a restart.
        let (age, now) = (process::age(), SystemTime::now());
        let quiet = QuietViewers::new();
        let quiet = quiet.map_err(|e| Failure::new(Exit::Software, format!("cannot set up event handling: {e}")))?;
        Ok(Arc::new(Self {
            hub,
            stream: stream.transpose()?,
            metrics,
            viewers: ConnectionLimit::new(settings.clients.max, Arc::clone(&room), Arc::clone(&changed)),
            quiet,
            over_limit: OverLimit::new(shares.over_limit),
            addresses: Arc::default(),
            brokers: ConnectionLimit::new(settings.zeromq.max_connections, room, Arc::clone(&changed)),
            status_connections: ConnectionLimit::new(shares.status, Room::new(shares.status), Arc::default()),
            connected: Arc::default(),
            handshakes: Handshakes::new(shares.handshakes),
            listeners,
            samples: Samples::default(),
            reloaded: AtomicBool::new(true),
            in_force_since: Mutex::new(now),
            ids_are_public: AtomicBool::new(false),
            changed,
            stop: watch::Sender::new(false),
            outbox: Outbox::default(),
            born: now.checked_sub(age).unwrap_or(now),
            started: Instant::now().checked_sub(age).unwrap_or_else(Instant::now),
            certificate: RwLock::new(certificate.map(Arc::new)),
            settings: watch::Sender::new(Arc::new(settings)),
        }))
    }

    /// Sends a message through the hub to a quiet viewer of the monitor's own, and completes when it has come out of the socket and the
    /// viewer's hang-up was noticed.
    pub(crate) async fn probe(&self) {
        match self.hub.probe(|socket, key| self.quiet.watch(socket, key.into())).await {
            Ok(Some(probe)) => probe.hang_up().await,
            Ok(None) => {}
            // The message did not come out: no answer is the right one.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => std::future::pending().await,
            // A machine without free sockets says nothing about the relay.
            Err(e) => {
                if let Some(more) = NO_PROBE.pass() {
                    log::warn!("no message can be sent through the hub to test it: {e}{more}");
                }
            }
        }
    }

    /// Returns the settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }

    /// Returns a receiver of the settings in force, and of those of each reload from now on.
    pub(crate) fn settings_from_now_on(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.subscribe()
    }

    /// Logs the number of messages that are dropped at the end of the process, if there are some.
    pub(crate) fn warn_of_unsent(&self) {
        if let Some(unsent) = self.stream.as_ref().map(|stream| stream.unsent()).filter(|unsent| *unsent > 0) {
            log::error!("{unsent} messages that Redis has not taken are dropped; history.state would keep them");
        }
    }

    /// Returns the time since the start.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the time at which the settings in force were taken up, at the start or by a reload.
    pub(crate) fn in_force_since(&self) -> SystemTime {
        *self.in_force_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the certificate in force, if viewers are served over TLS.
    pub(crate) fn certificate(&self) -> Option<Arc<Certificate>> {
        self.certificate.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns true if `zeromq.allow` names this peer.
    pub(crate) fn allows_broker(&self, peer: SocketAddr) -> bool {
        self.settings().zeromq.allows(peer.ip())
    }

    /// Puts new settings in force, and a new certificate if there is one. Never waits for files or peers.
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
        if let (Some(stream), Some(cluster)) = (&self.stream, &new.cluster) {
            stream.set_limits(cluster, &new.history);
        }
        logging::reload(&new.logger);
        *self.in_force_since.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
        self.settings.send_replace(Arc::new(new));
    }
}
