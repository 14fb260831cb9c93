//! The relay: both ports, the hub between them, and the way they stop.

use crate::broker::link;
use crate::config::{Endpoint, Settings};
use crate::context::Shared;
use crate::context::permits::ConnectionLimit;
use crate::deadline::timeout_at;
use crate::error::{Exit, Failure};
use crate::handover::fd_queue::FdQueue;
use crate::handover::{Inherited, history_file, history_to_save};
use crate::logging::Throttle;
use crate::metrics::counters::LinkRefusal;
use crate::net::listen;
use crate::net::listen::{Port, UnixFile};
use crate::net::stream::{NOTSENT_LOWAT, Stream};
use crate::net::tls::Certificate;
use crate::peer::Peer;
use crate::server::certificate;
use crate::server::service;
use crate::systemd::fd_store::{InheritedFds, Listener};
use crate::systemd::notify;
use crate::viewer;
use crate::{rlimit, status};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::Instant;

/// How long stopping may take; with what ends the process it stays under the 5 s that are promised.
pub const STOP_LIMIT: Duration = Duration::from_millis(4_500);

/// How long the end waits for those who watch a job at the status listener to be told of it.
const STATUS_GRACE: Duration = Duration::from_millis(500);

/// How long a silent broker's machine is trusted to be there: after a minute it is asked every 10 s, six times.
const KEEPALIVE: (u32, u32, u32) = (60, 10, 6);

/// The most ZeroMQ links that are shaking hands; fewer where few files may be open. The oldest is dropped when the limit is
/// reached, so that idle peers cannot block new ones.
pub const MAX_HANDSHAKES: usize = rlimit::HANDSHAKES;

static NOT_ALLOWED: Throttle = Throttle::new(Duration::from_secs(60));

/// What ends a monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Nothing follows.
    ForGood,
    /// Another process follows at once, and can take over.
    ForRestart,
}

/// The TCP ports of a monitor, bound.
#[derive(Debug)]
pub struct Ports {
    zeromq: Port,
    /// Without any socket if viewers come in through a Unix socket.
    websocket: Port,
    status: Option<Port>,
}

impl Ports {
    /// Binds the ports, beside the sockets that the process before this one left. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If a host does not resolve or a port cannot be bound.
    pub fn bind(settings: &Settings, fds: &mut InheritedFds) -> Result<Self, Failure> {
        let mut bind = |key, address| listen::bind(key, address, &mut fds.listeners);
        let zeromq = bind("zeromq_uri", &settings.zeromq_uri)?;
        let websocket = match &settings.websocket_uri {
            Endpoint::Tcp(address) => bind("websocket_uri", address)?,
            Endpoint::Unix(_) => Port::default(),
        };
        let status = settings.status_uri.as_ref().map(|address| bind("status_uri", address)).transpose()?;
        let ports = Self { zeromq, websocket, status };
        fds.note_own(ports.listeners(), ports.status.is_some());
        Ok(ports)
    }

    /// How many sockets listen, the Unix socket for viewers included.
    fn listeners(&self) -> usize {
        let status = self.status.as_ref().map_or(0, |port| port.listeners.len());
        self.zeromq.listeners.len() + self.websocket.listeners.len().max(1) + status
    }
}

/// A monitor that can begin to relay.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    websocket: ViewerListener,
    zeromq: Port,
    status: Option<Port>,
    fds: InheritedFds,
}

/// Where viewers come in.
#[derive(Debug)]
enum ViewerListener {
    Tcp(Port),
    /// A socket, its file, and the sockets of the process before.
    Unix(UnixListener, UnixFile, Vec<UnixListener>),
}

impl Relay {
    /// Binds the ports, then does what [`Relay::new`] does. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// As [`Ports::bind`] and [`Relay::new`].
    pub fn bind(settings: Settings, mut fds: InheritedFds) -> Result<Self, Failure> {
        let ports = Ports::bind(&settings, &mut fds)?;
        Self::new(settings, ports, fds)
    }

    /// Reads the certificate and binds the Unix socket, as the user that relays. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the certificate cannot be used, the socket cannot be bound, or too few files may be open.
    pub fn new(mut settings: Settings, ports: Ports, mut fds: InheritedFds) -> Result<Self, Failure> {
        let certificate = settings.tls.as_ref().map(Certificate::load).transpose()?;
        let listeners = ports.listeners();
        let Ports { zeromq, websocket, status } = ports;
        let websocket = match &settings.websocket_uri {
            Endpoint::Tcp(_) => ViewerListener::Tcp(websocket),
            Endpoint::Unix(path) => {
                let mode = settings.websocket_mode;
                let (listener, file, before) = listen::bind_unix("websocket_uri", path, mode, &mut fds.unix)?;
                ViewerListener::Unix(listener, file, before)
            }
        };
        // What is no longer configured.
        fds.listeners.drain(..).for_each(Listener::close);
        fds.unix.drain(..).for_each(|fds| drop(fds.into_listener()));
        let (each, too_many) =
            settings.fit(rlimit::open_files(), listeners).map_err(|e| Failure::new(Exit::Config, e.to_string()))?;
        if let Some(warning) = too_many {
            log::warn!("{warning}");
        }
        let shared = Shared::new(settings, certificate, listeners, &each);
        Ok(Self { shared, websocket, zeromq, status, fds })
    }

    /// What the connections will share.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The addresses viewers connect to; none if they come through a Unix socket.
    #[must_use]
    pub fn viewer_addresses(&self) -> Vec<SocketAddr> {
        match &self.websocket {
            ViewerListener::Tcp(port) => port.addresses(),
            ViewerListener::Unix(..) => Vec::new(),
        }
    }

    /// The addresses brokers connect to.
    #[must_use]
    pub fn broker_addresses(&self) -> Vec<SocketAddr> {
        self.zeromq.addresses()
    }

    /// The addresses of the status listener.
    #[must_use]
    pub fn status_addresses(&self) -> Vec<SocketAddr> {
        self.status.as_ref().map_or_else(Vec::new, Port::addresses)
    }

    /// Relays, at first what the process before left, until `stop` completes or a broker asks for it; then takes what brokers
    /// have already sent, delivers it, and closes every viewer, within 5 s. `history.state` may take its disk longer.
    ///
    /// For a restart nothing is closed: returns where to put everything once the runtime has ended every task, see
    /// [`crate::handover::hand_over`].
    pub async fn run(self, inherited: Option<Inherited>, stop: impl Future<Output = Stop>) -> Option<FdQueue> {
        let Self { shared, websocket, zeromq, status, fds } = self;
        let descriptors =
            zeromq.listeners.iter().chain(status.iter().flat_map(|port| &port.listeners)).map(AsFd::as_fd);
        match &websocket {
            ViewerListener::Tcp(port) => fds.keep(descriptors.chain(port.listeners.iter().map(AsFd::as_fd))),
            ViewerListener::Unix(listener, ..) => fds.keep(descriptors.chain([listener.as_fd()])),
        }
        let mut tasks = JoinSet::new();
        let mut socket = None;
        serve(&mut tasks, "brokers", zeromq, &shared, accept_brokers);
        match websocket {
            ViewerListener::Tcp(port) => serve(&mut tasks, "viewers", port, &shared, accept_viewers),
            ViewerListener::Unix(listener, file, before) => {
                log::info!("listening for viewers on unix:{}", file.path.display());
                for before in before {
                    tasks.spawn(listen::drain_unix(before, viewer_of_unix(&shared)));
                }
                tasks.spawn(listen::accept_unix(listener, viewer_of_unix(&shared)));
                socket = Some(file);
            }
        }
        if let Some(status) = status {
            serve(&mut tasks, "status requests", status, &shared, status::accept);
            tasks.spawn(status::sample(Arc::clone(&shared)));
        }
        tasks.spawn(certificate::watch(Arc::clone(&shared)));
        let hub = Arc::clone(&shared.hub);
        tasks.spawn(async move { hub.keep_time().await });
        // Until the end, while the other tasks are gone.
        tokio::spawn(notify::attend());
        tasks.spawn(service::attend(Arc::clone(&shared)));
        let history = shared.settings().history.clone();
        let adopted = inherited.is_some_and(|inherited| inherited.adopt(&shared));
        if let Some(path) = &history.state {
            history_file::take_up(path, &history, (!adopted).then_some(&*shared.hub));
        }
        service::ready();

        let mut asked = shared.stop.subscribe();
        let stop = tokio::select! {
            stop = stop => stop,
            _ = asked.wait_for(|stop| *stop) => Stop::ForGood,
        };
        service::stopping();
        let deadline = Instant::now() + STOP_LIMIT;
        if stop == Stop::ForRestart {
            match FdQueue::new().await {
                Ok(queue) => {
                    tasks.shutdown().await;
                    shared.hub.freeze();
                    shared.outbox.open();
                    return Some(queue);
                }
                Err(e) => log::warn!("nothing can be handed over to the next process: {e}"),
            }
        }
        log::info!("stopping with {} viewers and {} channels", shared.viewers.taken(), shared.hub.usage().channels);
        tasks.shutdown().await;
        // The web server in front is to know at once.
        if let Some(file) = socket {
            file.remove();
        }
        shared.stop.send_replace(true);
        all_free(&shared.brokers, deadline).await;
        // Before the hub stops: what has failed is still to be released.
        let saving = history_to_save(&shared);
        let saving = saving.map(|(path, history)| spawn_blocking(move || history_file::save(&path, history)));
        shared.hub.stop();
        if !all_free(&shared.viewers, deadline).await {
            log::warn!("{} viewers did not take what was sent to them in time", shared.viewers.taken());
        }
        let grace = deadline.min(Instant::now() + STATUS_GRACE);
        all_free(&shared.status_connections, grace).await;
        if let Some(saving) = saving {
            // A slow disk may take its time.
            service::stopping();
            let _ = saving.await;
        }
        log::info!("stopped: {}", shared.metrics);
        None
    }
}

/// Waits until all places are free, or until the deadline; returns whether they are. In a task of its own, so that connections have
/// their turn before it, see [`crate::deadline::turns`].
async fn all_free(places: &Arc<ConnectionLimit>, deadline: Instant) -> bool {
    let places = Arc::clone(places);
    let waiting = tokio::spawn(async move { timeout_at(deadline, places.all_free()).await });
    waiting.await.is_ok_and(|waited| waited.is_ok())
}

/// Accepts at a port's sockets, and those before them.
fn serve<F: Future<Output = ()> + Send + 'static>(
    tasks: &mut JoinSet<()>,
    whom: &str,
    port: Port,
    shared: &Arc<Shared>,
    accept: fn(TcpListener, Arc<Shared>) -> F,
) {
    for at in port.names() {
        log::info!("listening for {whom} on {at}");
    }
    for listener in port.listeners {
        tasks.spawn(accept(listener, Arc::clone(shared)));
    }
    for before in port.before {
        let shared = Arc::clone(shared);
        tasks.spawn(before.drain(move |listener| accept(listener, shared)));
    }
}

async fn accept_brokers(listener: TcpListener, shared: Arc<Shared>) {
    let serve = |stream: TcpStream, peer: SocketAddr| {
        if !shared.allows_broker(peer) {
            shared.metrics.links_refused.add(LinkRefusal::NotAllowed);
            if let Some(more) = NOT_ALLOWED.pass() {
                log::warn!(RECODEX_PEER:% = peer; "refused a ZeroMQ link from {peer}: zeromq.allow does not name it{more}");
            }
            return;
        }
        if let Err(e) = keep_alive(&stream) {
            log::debug!(RECODEX_PEER:% = peer; "broker {peer}: no TCP keepalive: {e}");
        }
        link::shake_hands(peer, link::serve(stream, peer, Arc::clone(&shared)), &shared);
    };
    listen::accept(listener, serve).await;
}

async fn accept_viewers(listener: TcpListener, shared: Arc<Shared>) {
    let serve = |stream: TcpStream, peer: SocketAddr| {
        // Without it the kernel would buffer megabytes for a viewer that does not read.
        if let Err(e) = SockRef::from(&stream).set_tcp_notsent_lowat(NOTSENT_LOWAT) {
            log::debug!(RECODEX_PEER:% = peer; "viewer {peer}: its send buffer is not bounded: {e}");
        }
        viewer::admit(Stream::Tcp(stream), Peer::Socket(peer), &shared);
    };
    listen::accept(listener, serve).await;
}

fn viewer_of_unix(shared: &Arc<Shared>) -> impl FnMut(UnixStream) + use<> {
    let shared = Arc::clone(shared);
    move |stream| viewer::admit(Stream::Unix(stream), Peer::Unix, &shared)
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, count) = KEEPALIVE;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &interval)?;
    setsockopt(stream, sockopt::TcpKeepCount, &count)?;
    Ok(())
}
