//! The relay: both ports, the hub between them, and the way they stop.

use crate::config::Settings;
use crate::failure::Failure;
use crate::hub::Hub;
use crate::listen::{self, Admission};
use crate::logging::Throttle;
use crate::metrics::Metrics;
use crate::websocket::{upgrade, viewer};
use crate::{limits, zmtp};
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
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
    /// The settings in force.
    pub settings: Settings,
    /// The channels.
    pub hub: Arc<Hub>,
    /// What happened so far.
    pub metrics: Arc<Metrics>,
    /// True once the monitor stops.
    pub stop: watch::Sender<bool>,
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
        let metrics = Arc::new(Metrics::default());
        let hub = Hub::new(settings.history.clone(), Arc::clone(&metrics));
        let shared = Shared { settings, hub, metrics, stop: watch::Sender::new(false) };
        Ok(Self { shared: Arc::new(shared), websocket, zeromq })
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
        let (max_viewers, max_links) = (shared.settings.clients.max, shared.settings.zeromq.max_connections);
        if max_viewers > limits::open_files() {
            log::warn!(
                "clients.max is {max_viewers}, but only {} files may be open at once; raise the limit of open files",
                limits::open_files()
            );
        }
        let viewers = Arc::new(Semaphore::new(max_viewers));
        let links = Arc::new(Semaphore::new(max_links));
        let mut tasks = JoinSet::new();
        for listener in zeromq {
            announce("brokers", &listener);
            tasks.spawn(accept_brokers(listener, Arc::clone(&links), Arc::clone(&shared)));
        }
        for listener in websocket {
            announce("viewers", &listener);
            tasks.spawn(accept_viewers(listener, Arc::clone(&viewers), Arc::clone(&shared)));
        }
        let hub = Arc::clone(&shared.hub);
        tasks.spawn(async move { hub.keep_time().await });

        let mut asked = shared.stop.subscribe();
        tokio::select! {
            () = stop => {}
            _ = asked.wait_for(|stop| *stop) => {}
        }
        let deadline = Instant::now() + STOP_LIMIT;
        let usage = shared.hub.usage();
        log::info!(
            "stopping with {} viewers and {} channels",
            max_viewers - viewers.available_permits(),
            usage.channels
        );
        tasks.shutdown().await;
        shared.stop.send_replace(true);
        let _ = timeout_at(deadline, all(&links, max_links)).await;
        shared.hub.stop();
        if timeout_at(deadline, all(&viewers, max_viewers)).await.is_err() {
            log::warn!(
                "{} viewers did not take what was sent to them in time",
                max_viewers - viewers.available_permits()
            );
        }
        log::info!("stopped: {}", shared.metrics);
    }
}

/// Completes when every place is free again.
async fn all(places: &Semaphore, max: usize) {
    let _ = places.acquire_many(u32::try_from(max).unwrap_or(u32::MAX)).await;
}

fn announce(whom: &str, listener: &TcpListener) {
    if let Ok(at) = listener.local_addr() {
        log::info!("listening for {whom} on {at}");
    }
}

async fn accept_brokers(listener: TcpListener, places: Arc<Semaphore>, shared: Arc<Shared>) {
    let refused = |_, peer| {
        shared.metrics.links_refused.add(1);
        LINKS_REFUSED.warn(|| format!("refused a broker link from {peer}: zeromq.max_connections is reached"));
    };
    let serve = |stream: TcpStream, peer, admission: Admission| {
        if let Err(e) = keep_alive(&stream) {
            log::debug!("broker {peer}: no TCP keepalive: {e}");
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { zmtp::serve(stream, peer, &shared, admission).await });
    };
    listen::accept(listener, places, serve, refused).await;
}

async fn accept_viewers(listener: TcpListener, places: Arc<Semaphore>, shared: Arc<Shared>) {
    let refused = |stream: TcpStream, peer| {
        shared.metrics.viewers_refused.add(1);
        VIEWERS_REFUSED.warn(|| format!("refused viewer {peer}: clients.max is reached"));
        upgrade::turn_away(&stream);
    };
    let serve = |stream, peer, admission| {
        tokio::spawn(viewer::serve(stream, peer, Arc::clone(&shared), admission));
    };
    listen::accept(listener, places, serve, refused).await;
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, count) = KEEPALIVE;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &interval)?;
    setsockopt(stream, sockopt::TcpKeepCount, &count)?;
    Ok(())
}
