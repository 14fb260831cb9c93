//! The relay: both ports, the hub between them, and the way they stop.

use crate::config::Settings;
use crate::failure::Failure;
use crate::hub::Hub;
use crate::listen::{self, Port};
use crate::logging::{self, Throttle};
use crate::metrics::Metrics;
use crate::places::Places;
use crate::store::{Kept, Listener};
use crate::succession::parcel::Parcel;
use crate::succession::state::Refused;
use crate::succession::{self, Estate, Succession, file};
use crate::websocket::upgrade;
use crate::websocket::viewer::Viewer;
use crate::{limits, service, zmtp};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, timeout_at};

/// How long stopping may take; with what ends the process it stays under the 5 s that are promised.
pub const STOP_LIMIT: Duration = Duration::from_millis(4_500);

/// How long a silent broker's machine is trusted to be there: after a minute it is asked every 10 s, six times.
const KEEPALIVE: (u32, u32, u32) = (60, 10, 6);

/// The most ZeroMQ links of one listener that are shaking hands. One more takes the place of the oldest: who is silent keeps
/// out nobody who is not.
pub const STRANGERS: usize = 32;

/// How many bytes wait in the kernel to be sent to a viewer before it counts as not writable: a burst of frames, and more than
/// fits on the way to most viewers.
pub const UNSENT: u32 = 64 * 1024;

static VIEWERS_REFUSED: Throttle = Throttle::new(Duration::from_secs(60));
static NOT_ALLOWED: Throttle = Throttle::new(Duration::from_secs(60));
static STRANGERS_GONE: Throttle = Throttle::new(Duration::from_secs(60));

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
    /// The brokers' places: of ZeroMQ links that have shaken hands.
    pub brokers: Arc<Places>,
    /// Notified when there is something new to tell about viewers, brokers or messages.
    pub changed: Arc<Notify>,
    /// True once the monitor stops.
    pub stop: watch::Sender<bool>,
    /// What the connections leave to the process after a restart.
    pub succession: Succession,
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
            brokers: Places::new(settings.zeromq.max_connections, Arc::clone(&changed)),
            changed,
            stop: watch::Sender::new(false),
            succession: Succession::default(),
            started: Instant::now(),
            settings: RwLock::new(Arc::new(settings)),
        })
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether `zeromq.allow` names this peer.
    pub fn allows_broker(&self, peer: SocketAddr) -> bool {
        self.settings().zeromq.allow.iter().any(|network| network.contains(peer.ip()))
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
        self.brokers.set_limit(new.zeromq.max_connections);
        self.hub.set_limits(new.history.clone());
        logging::reload(&new.logger);
        *settings = Arc::new(new);
        fixed.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
    }

    /// The history, and the file that it is to be saved to, if there is one.
    pub fn history_to_save(&self) -> Option<(PathBuf, Result<Vec<u8>, Refused>)> {
        let path = self.settings().history.state.clone()?;
        Some((path, succession::history(&self.hub)))
    }

    /// One page about what the monitor does, a line each.
    pub fn summary(&self) -> Vec<String> {
        let (usage, settings) = (self.hub.usage(), self.settings());
        vec![
            format!("recodex-monitor {}, up for {} s", env!("CARGO_PKG_VERSION"), self.started.elapsed().as_secs()),
            format!("viewers: {} of {}", self.viewers.taken(), settings.clients.max),
            format!("brokers: {} of {}", self.brokers.taken(), settings.zeromq.max_connections),
            format!("channels: {}, of which {} have finished", usage.channels, usage.finished),
            format!("history: {} of {} bytes", usage.bytes, settings.history.total_bytes),
            format!("since the start: {}", self.metrics),
        ]
    }
}

/// What ends a monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Nothing follows.
    ForGood,
    /// Another process follows at once, and can take over.
    ForRestart,
}

/// A monitor whose ports are bound.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    websocket: Port,
    zeromq: Port,
    kept: Kept,
}

impl Relay {
    /// Binds both ports, beside the sockets that the process before this one left. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If a host does not resolve or a port cannot be bound.
    pub fn bind(settings: Settings, mut kept: Kept) -> Result<Self, Failure> {
        let zeromq = listen::bind("zeromq_uri", &settings.zeromq_uri, &mut kept.listeners)?;
        let websocket = listen::bind("websocket_uri", &settings.websocket_uri, &mut kept.listeners)?;
        // What is no longer configured.
        kept.listeners.drain(..).for_each(Listener::close);
        Ok(Self { shared: Shared::new(settings), websocket, zeromq, kept })
    }

    /// What the connections will share.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The addresses viewers connect to.
    #[must_use]
    pub fn viewer_addresses(&self) -> Vec<SocketAddr> {
        self.websocket.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The addresses brokers connect to.
    #[must_use]
    pub fn broker_addresses(&self) -> Vec<SocketAddr> {
        self.zeromq.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Relays, at first what the process before left, until `stop` completes or a broker asks for it; then takes what brokers
    /// have already sent, delivers it, and closes every viewer, within 5 s. `history.state` may take its disk longer.
    ///
    /// For a restart nothing is closed: returns where to put everything once the runtime has ended every task, see
    /// [`succession::hand_over`].
    pub async fn run(self, estate: Option<Estate>, stop: impl Future<Output = Stop>) -> Option<Parcel> {
        let Self { shared, websocket, zeromq, kept } = self;
        let max = shared.settings().clients.max;
        if max > limits::open_files() {
            let files = limits::open_files();
            log::warn!(
                "clients.max is {max}, but only {files} files may be open at once; raise the limit of open files"
            );
        }
        kept.keep(zeromq.listeners.iter().chain(&websocket.listeners));
        let mut tasks = JoinSet::new();
        for listener in zeromq.listeners {
            announce("brokers", &listener);
            tasks.spawn(accept_brokers(listener, Arc::clone(&shared)));
        }
        for listener in websocket.listeners {
            announce("viewers", &listener);
            tasks.spawn(accept_viewers(listener, Arc::clone(&shared)));
        }
        for before in zeromq.before {
            let shared = Arc::clone(&shared);
            tasks.spawn(before.drain(|listener| accept_brokers(listener, shared)));
        }
        for before in websocket.before {
            let shared = Arc::clone(&shared);
            tasks.spawn(before.drain(|listener| accept_viewers(listener, shared)));
        }
        let hub = Arc::clone(&shared.hub);
        tasks.spawn(async move { hub.keep_time().await });
        tasks.spawn(service::attend(Arc::clone(&shared)));
        let history = shared.settings().history.clone();
        if let Some(path) = &history.state {
            file::take_up(path, &history, estate.is_none().then_some(&*shared.hub));
        }
        if let Some(estate) = estate {
            estate.adopt(&shared);
        }
        service::ready();

        let mut asked = shared.stop.subscribe();
        let stop = tokio::select! {
            stop = stop => stop,
            _ = asked.wait_for(|stop| *stop) => Stop::ForGood,
        };
        service::stopping();
        if stop == Stop::ForRestart {
            match Parcel::new() {
                Ok(parcel) => {
                    tasks.shutdown().await;
                    shared.hub.freeze();
                    shared.succession.begin();
                    return Some(parcel);
                }
                Err(e) => log::warn!("nothing can be handed over to the next process: {e}"),
            }
        }
        let deadline = Instant::now() + STOP_LIMIT;
        log::info!("stopping with {} viewers and {} channels", shared.viewers.taken(), shared.hub.usage().channels);
        tasks.shutdown().await;
        shared.stop.send_replace(true);
        let _ = timeout_at(deadline, shared.brokers.all_free()).await;
        // Before the hub stops: what has failed is still to be released.
        let saving = shared.history_to_save();
        let saving = saving.map(|(path, history)| spawn_blocking(move || file::save(&path, history)));
        shared.hub.stop();
        if timeout_at(deadline, shared.viewers.all_free()).await.is_err() {
            log::warn!("{} viewers did not take what was sent to them in time", shared.viewers.taken());
        }
        if let Some(saving) = saving {
            // A slow disk may take its time.
            service::stopping();
            let _ = saving.await;
        }
        log::info!("stopped: {}", shared.metrics);
        None
    }
}

fn announce(whom: &str, listener: &TcpListener) {
    if let Ok(at) = listener.local_addr() {
        log::info!("listening for {whom} on {at}");
    }
}

async fn accept_brokers(listener: TcpListener, shared: Arc<Shared>) {
    let mut strangers = VecDeque::<(SocketAddr, AbortHandle)>::new();
    let serve = |stream: TcpStream, peer: SocketAddr| {
        if !shared.allows_broker(peer) {
            shared.metrics.links_refused.add(1);
            if let Some(more) = NOT_ALLOWED.pass() {
                log::warn!(RECODEX_PEER:% = peer; "refused a ZeroMQ link from {peer}: zeromq.allow does not name it{more}");
            }
            return;
        }
        if let Err(e) = keep_alive(&stream) {
            log::debug!(RECODEX_PEER:% = peer; "broker {peer}: no TCP keepalive: {e}");
        }
        strangers.retain(|(_, handshake)| !handshake.is_finished());
        if strangers.len() >= STRANGERS
            && let Some((oldest, handshake)) = strangers.pop_front()
        {
            handshake.abort();
            shared.metrics.links_refused.add(1);
            if let Some(more) = STRANGERS_GONE.pass() {
                log::warn!(
                    RECODEX_PEER:% = oldest;
                    "closed the ZeroMQ link from {oldest}: {STRANGERS} others began a handshake after it{more}"
                );
            }
        }
        let handshake = tokio::spawn(zmtp::serve(stream, peer, Arc::clone(&shared)));
        strangers.push_back((peer, handshake.abort_handle()));
    };
    listen::accept(listener, serve).await;
}

async fn accept_viewers(listener: TcpListener, shared: Arc<Shared>) {
    let serve = |stream: TcpStream, peer: SocketAddr| {
        let Some(place) = shared.viewers.take() else {
            shared.metrics.viewers_refused.add(1);
            if let Some(more) = VIEWERS_REFUSED.pass() {
                log::warn!(RECODEX_PEER:% = peer; "refused viewer {peer}: clients.max is reached{more}");
            }
            return upgrade::turn_away(&stream);
        };
        // Without it the kernel would buffer megabytes for a viewer that does not read.
        if let Err(e) = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT) {
            log::debug!(RECODEX_PEER:% = peer; "viewer {peer}: its send buffer is not bounded: {e}");
        }
        tokio::spawn(Viewer::new(stream, peer, Arc::clone(&shared), place).serve());
    };
    listen::accept(listener, serve).await;
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, count) = KEEPALIVE;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &interval)?;
    setsockopt(stream, sockopt::TcpKeepCount, &count)?;
    Ok(())
}
