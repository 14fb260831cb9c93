//! The relay: both ports, the hub between them, and the way they stop.

use crate::config::Settings;
use crate::failure::Failure;
use crate::hub::Hub;
use crate::listen;
use crate::logging::{self, Throttle};
use crate::metrics::Metrics;
use crate::places::{Place, Places};
use crate::websocket::{upgrade, viewer};
use crate::{limits, service, zmtp};
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// How long stopping may take; with what ends the process it stays under the 5 s that are promised.
const STOP_LIMIT: Duration = Duration::from_millis(4_500);

/// How long a silent broker's machine is trusted to be there: after a minute it is asked every 10 s, six times.
const KEEPALIVE: (u32, u32, u32) = (60, 10, 6);

static VIEWERS_REFUSED: Throttle = Throttle::new(Duration::from_secs(60));
static LINKS_REFUSED: Throttle = Throttle::new(Duration::from_secs(60));

/// What every connection of a monitor shares.
#[derive(Debug)]
pub struct Shared {
    settings: RwLock<Arc<Settings>>,
    /// The channels.
    pub hub: Arc<Hub>,
    /// What happened so far.
    pub metrics: Arc<Metrics>,
    /// The viewers' places.
    pub viewers: Arc<Places>,
    /// The places of ZeroMQ links, whether or not they have shaken hands.
    pub links: Arc<Places>,
    /// The links that have: brokers.
    pub brokers: Arc<Places>,
    /// Notified when there is something new to tell about viewers, brokers or messages.
    pub changed: Arc<Notify>,
    /// True once the monitor stops.
    pub stop: watch::Sender<bool>,
    started: Instant,
}

impl Shared {
    fn new(settings: Settings) -> Arc<Self> {
        let metrics = Arc::new(Metrics::default());
        let changed = Arc::new(Notify::new());
        Arc::new(Self {
            hub: Hub::new(settings.history.clone(), Arc::clone(&metrics)),
            metrics,
            viewers: Places::new(settings.clients.max, Arc::clone(&changed)),
            links: Places::new(settings.zeromq.max_connections, Arc::clone(&changed)),
            brokers: Places::new(usize::MAX, Arc::clone(&changed)),
            changed,
            stop: watch::Sender::new(false),
            started: Instant::now(),
            settings: RwLock::new(Arc::new(settings)),
        })
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes up changed settings; returns the keys of those that need a restart, which stay as they are.
    ///
    /// Deadlines that run already keep their time.
    pub fn reload(&self, new: Settings) -> Vec<&'static str> {
        let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
        let old = settings.as_ref();
        let fixed = [
            ("websocket_uri", old.websocket_uri != new.websocket_uri),
            ("zeromq_uri", old.zeromq_uri != new.zeromq_uri),
            ("user", old.user != new.user),
            ("group", old.group != new.group),
            ("logger.output", old.logger.output != new.logger.output),
            ("logger.file", old.logger.file != new.logger.file),
        ];
        let old = old.clone();
        let logger = crate::config::Logger { output: old.logger.output, file: old.logger.file, ..new.logger };
        let Settings { websocket_uri, zeromq_uri, user, group, .. } = old;
        let new = Settings { websocket_uri, zeromq_uri, user, group, logger, ..new };
        self.viewers.set_limit(new.clients.max);
        self.links.set_limit(new.zeromq.max_connections);
        self.hub.set_limits(new.history.clone());
        logging::reload(&new.logger);
        *settings = Arc::new(new);
        fixed.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
    }

    /// One page about what the monitor does, a line each.
    pub fn summary(&self) -> Vec<String> {
        let (usage, settings) = (self.hub.usage(), self.settings());
        vec![
            format!("recodex-monitor {}, up for {} s", env!("CARGO_PKG_VERSION"), self.started.elapsed().as_secs()),
            format!("viewers: {} of {}", self.viewers.taken(), settings.clients.max),
            format!(
                "broker links: {} of {}, of which {} are connected brokers",
                self.links.taken(),
                settings.zeromq.max_connections,
                self.brokers.taken()
            ),
            format!("channels: {}, of which {} have finished", usage.channels, usage.finished),
            format!("history: {} of {} bytes", usage.bytes, settings.history.total_bytes),
            format!("since the start: {}", self.metrics),
        ]
    }
}

/// A monitor whose ports are bound.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    websocket: Vec<TcpListener>,
    zeromq: Vec<TcpListener>,
}

impl Relay {
    /// Binds both ports. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If a host does not resolve or a port cannot be bound.
    pub fn bind(settings: Settings) -> Result<Self, Failure> {
        let zeromq = listen::bind("zeromq_uri", &settings.zeromq_uri)?;
        let websocket = listen::bind("websocket_uri", &settings.websocket_uri)?;
        Ok(Self { shared: Shared::new(settings), websocket, zeromq })
    }

    /// What the connections will share.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The addresses viewers connect to.
    #[must_use]
    pub fn viewer_addresses(&self) -> Vec<SocketAddr> {
        self.websocket.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The addresses brokers connect to.
    #[must_use]
    pub fn broker_addresses(&self) -> Vec<SocketAddr> {
        self.zeromq.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Relays until `stop` completes or a broker asks for it; then takes what brokers have already sent, delivers it,
    /// and closes every viewer, within 5 s.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { shared, websocket, zeromq } = self;
        let max = shared.settings().clients.max;
        if max > limits::open_files() {
            let files = limits::open_files();
            log::warn!(
                "clients.max is {max}, but only {files} files may be open at once; raise the limit of open files"
            );
        }
        let mut tasks = JoinSet::new();
        for listener in zeromq {
            announce("brokers", &listener);
            tasks.spawn(accept_brokers(listener, Arc::clone(&shared)));
        }
        for listener in websocket {
            announce("viewers", &listener);
            tasks.spawn(accept_viewers(listener, Arc::clone(&shared)));
        }
        let hub = Arc::clone(&shared.hub);
        tasks.spawn(async move { hub.keep_time().await });
        tasks.spawn(service::attend(Arc::clone(&shared)));
        service::ready();

        let mut asked = shared.stop.subscribe();
        tokio::select! {
            () = stop => {}
            _ = asked.wait_for(|stop| *stop) => {}
        }
        service::stopping();
        let deadline = Instant::now() + STOP_LIMIT;
        log::info!("stopping with {} viewers and {} channels", shared.viewers.taken(), shared.hub.usage().channels);
        tasks.shutdown().await;
        shared.stop.send_replace(true);
        let _ = timeout_at(deadline, shared.links.all_free()).await;
        shared.hub.stop();
        if timeout_at(deadline, shared.viewers.all_free()).await.is_err() {
            log::warn!("{} viewers did not take what was sent to them in time", shared.viewers.taken());
        }
        log::info!("stopped: {}", shared.metrics);
    }
}

fn announce(whom: &str, listener: &TcpListener) {
    if let Ok(at) = listener.local_addr() {
        log::info!("listening for {whom} on {at}");
    }
}

async fn accept_brokers(listener: TcpListener, shared: Arc<Shared>) {
    let refused = |_, peer: SocketAddr| {
        shared.metrics.links_refused.add(1);
        if let Some(more) = LINKS_REFUSED.pass() {
            log::warn!(RECODEX_PEER:% = peer; "refused a broker link from {peer}: zeromq.max_connections is reached{more}");
        }
    };
    let serve = |stream: TcpStream, peer, place: Place| {
        if let Err(e) = keep_alive(&stream) {
            log::debug!(RECODEX_PEER:% = peer; "broker {peer}: no TCP keepalive: {e}");
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { zmtp::serve(stream, peer, &shared, place).await });
    };
    listen::accept(listener, &shared.links, serve, refused).await;
}

async fn accept_viewers(listener: TcpListener, shared: Arc<Shared>) {
    let refused = |stream: TcpStream, peer: SocketAddr| {
        shared.metrics.viewers_refused.add(1);
        if let Some(more) = VIEWERS_REFUSED.pass() {
            log::warn!(RECODEX_PEER:% = peer; "refused viewer {peer}: clients.max is reached{more}");
        }
        upgrade::turn_away(&stream);
    };
    let serve = |stream, peer, place| {
        tokio::spawn(viewer::serve(stream, peer, Arc::clone(&shared), place));
    };
    listen::accept(listener, &shared.viewers, serve, refused).await;
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, count) = KEEPALIVE;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &interval)?;
    setsockopt(stream, sockopt::TcpKeepCount, &count)?;
    Ok(())
}
