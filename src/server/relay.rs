//! The relay: its ports, and the tasks that serve them from the start to the stop.

use crate::broker::accept::accept_brokers;
use crate::config::{Endpoint, Settings};
use crate::context::Shared;
use crate::error::{Exit, Failure};
use crate::handover::fd_queue::FdQueue;
use crate::handover::{Inherited, history_file};
use crate::net::listen;
use crate::net::listen::Port;
use crate::net::tls::Certificate;
use crate::net::unix::{UnixFile, bind_unix};
use crate::server::shutdown::{Running, STOP_LIMIT};
use crate::server::{certificate, watchdog};
use crate::systemd::fd_store::{InheritedFds, Listener};
use crate::systemd::{notify, readiness};
use crate::viewer::{accept, quiet};
use crate::{rlimit, status, stream};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The kind of a stop that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// No process takes over.
    ForGood,
    /// Another process starts at once, and can take over.
    ForRestart,
}

/// The end of a relay.
#[derive(Debug)]
pub enum Ended {
    /// All connections are closed.
    Stopped,
    /// Everything goes into this queue, once all tasks have ended.
    HandOver(FdQueue),
}

/// The TCP ports of a monitor, bound.
#[derive(Debug)]
pub struct Ports {
    zeromq: Port,
    /// Has no socket if viewers connect through a Unix socket.
    websocket: Port,
    status: Option<Port>,
}

impl Ports {
    /// Binds the ports, beside the listening sockets of the previous process. Must be called in a tokio runtime.
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
        fds.note_own(ports.listeners(), ports.status.is_some(), settings.redis_descriptors());
        Ok(ports)
    }

    /// Returns the number of listening sockets, the Unix socket for viewers included.
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

/// The socket at which viewers are accepted.
#[derive(Debug)]
enum ViewerListener {
    Tcp(Port),
    /// A socket, its file, and the sockets of previous processes.
    Unix(UnixListener, UnixFile, Vec<UnixListener>),
}

impl Relay {
    /// Binds the ports, then does what [`Relay::new`] does. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If a port or the Unix socket cannot be bound, the certificate cannot be used, or too few files may be open.
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
                let (listener, file, previous) = bind_unix("websocket_uri", path, mode, &mut fds.unix)?;
                ViewerListener::Unix(listener, file, previous)
            }
        };
        // The other inherited sockets are for addresses that are no longer configured.
        fds.listeners.drain(..).for_each(Listener::close);
        fds.unix.drain(..).for_each(|fds| drop(fds.into_listener()));
        let (each, too_many) =
            settings.fit(rlimit::open_files(), listeners).map_err(|e| Failure::new(Exit::Config, e.to_string()))?;
        if let Some(warning) = too_many {
            log::warn!("{warning}");
        }
        let shared = Shared::new(settings, certificate, listeners, &each)?;
        Ok(Self { shared, websocket, zeromq, status, fds })
    }

    /// Returns what the connections will share.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Returns the addresses at which viewers connect; none if they come through a Unix socket.
    pub fn viewer_addresses(&self) -> Vec<SocketAddr> {
        match &self.websocket {
            ViewerListener::Tcp(port) => port.addresses(),
            ViewerListener::Unix(..) => Vec::new(),
        }
    }

    /// Returns the addresses at which brokers connect.
    pub fn broker_addresses(&self) -> Vec<SocketAddr> {
        self.zeromq.addresses()
    }

    /// Returns the addresses of the status listener.
    pub fn status_addresses(&self) -> Vec<SocketAddr> {
        self.status.as_ref().map_or_else(Vec::new, Port::addresses)
    }

    /// Relays until `stop` completes or a broker asks for a stop. Begins with what was inherited.
    ///
    /// A stop for good takes what brokers have already sent, delivers it, and closes every viewer, within 5 s. Only the disk of
    /// `history.state` may take longer. For a restart nothing is closed, unless nobody keeps the connections for the next process.
    pub async fn run(self, inherited: Option<Inherited>, stop: impl Future<Output = Stop>) -> Ended {
        let running = self.start();
        restore(inherited, &running.shared);
        readiness::ready();

        let stop = stop_asked_for(stop, &running.shared).await;
        readiness::stopping();
        let deadline = Instant::now() + STOP_LIMIT;
        if stop == Stop::ForRestart {
            match FdQueue::new().await {
                Ok(queue) => {
                    running.freeze().await;
                    return Ended::HandOver(queue);
                }
                Err(e) => log::warn!("nothing can be handed over to the next process: {e}"),
            }
        }
        running.stop(deadline).await;
        Ended::Stopped
    }

    /// Starts all tasks.
    fn start(self) -> Running {
        self.keep_listeners();
        let Self { shared, websocket, zeromq, status, .. } = self;
        let mut tasks = JoinSet::new();
        serve(&mut tasks, "brokers", zeromq, &shared, accept_brokers);
        let socket_file = serve_viewers(&mut tasks, websocket, &shared);
        if let Some(status) = status {
            serve(&mut tasks, "status requests", status, &shared, status::accept);
            tasks.spawn(status::sample(Arc::clone(&shared)));
        }
        tasks.spawn(certificate::watch(Arc::clone(&shared)));
        let hub = Arc::clone(&shared.hub);
        tasks.spawn(async move { hub.keep_time().await });
        // These tasks are not in `tasks`, because they also run while those end.
        tokio::spawn(notify::send_waiting());
        quiet::serve(&shared);
        if let Some(stream) = &shared.stream {
            tokio::spawn(stream::run(Arc::clone(stream)));
        }
        tasks.spawn(watchdog::report(Arc::clone(&shared)));
        Running { shared, tasks, socket_file }
    }

    /// Has the service manager keep the listening sockets for the next process.
    fn keep_listeners(&self) {
        let Self { websocket, zeromq, status, fds, .. } = self;
        let ports = zeromq.listeners.iter().chain(status.iter().flat_map(|port| &port.listeners)).map(AsFd::as_fd);
        match websocket {
            ViewerListener::Tcp(port) => fds.keep(ports.chain(port.listeners.iter().map(AsFd::as_fd))),
            ViewerListener::Unix(listener, ..) => fds.keep(ports.chain([listener.as_fd()])),
        }
    }
}

/// Goes on with what the previous process handed over, or else with the history in the file of `history.state`.
fn restore(inherited: Option<Inherited>, shared: &Arc<Shared>) {
    let history = shared.settings().history.clone();
    let adopted = inherited.is_some_and(|inherited| inherited.adopt(shared));
    if let Some(path) = &history.state {
        history_file::take_up(path, &history, (!adopted).then_some((&*shared.hub, shared.stream.as_deref())));
    }
}

/// Waits until `stop` completes, or a broker asks for a stop.
async fn stop_asked_for(stop: impl Future<Output = Stop>, shared: &Shared) -> Stop {
    let mut stopped = shared.stop.subscribe();
    tokio::select! {
        stop = stop => stop,
        _ = stopped.wait_for(|stop| *stop) => Stop::ForGood,
    }
}

/// Accepts connections at a port's sockets and, as long as connections may wait there, at those of previous processes.
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
    for previous in port.previous {
        let shared = Arc::clone(shared);
        tasks.spawn(previous.drain(move |listener| accept(listener, shared)));
    }
}

/// Waits until viewers may come: in a cluster, until the history was read from the stream.
async fn settled(shared: &Shared) {
    if let Some(stream) = &shared.stream {
        stream.settled().await;
    }
}

/// Accepts viewers; returns the file of their Unix socket, if they come through one.
fn serve_viewers(tasks: &mut JoinSet<()>, viewers: ViewerListener, shared: &Arc<Shared>) -> Option<UnixFile> {
    match viewers {
        ViewerListener::Tcp(port) => {
            serve(tasks, "viewers", port, shared, |listener, shared| async move {
                settled(&shared).await;
                accept::accept_tcp(listener, shared).await;
            });
            None
        }
        ViewerListener::Unix(listener, file, previous) => {
            log::info!("listening for viewers on unix:{}", file.path.display());
            for listener in previous {
                tasks.spawn(accept::accept_waiting(listener, Arc::clone(shared)));
            }
            let shared = Arc::clone(shared);
            tasks.spawn(async move {
                settled(&shared).await;
                accept::accept_unix(listener, shared).await;
            });
            Some(file)
        }
    }
}
