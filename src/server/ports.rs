//! The listening sockets of a monitor: TCP ports, which are bound before root is given up, and Unix sockets, which are bound after that.

use crate::config::{Endpoint, Mode, Settings};
use crate::context::Shared;
use crate::error::Failure;
use crate::net::backlog::Backlog;
use crate::net::listen;
use crate::net::listen::Port;
use crate::net::unix::{UnixFile, bind_unix};
use crate::systemd::fd_store::InheritedFds;
use crate::viewer::accept;
use crate::{broker, status};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

/// The TCP ports of a monitor, bound. A port has no sockets if its clients connect to a Unix socket.
#[derive(Debug)]
pub struct Ports {
    zeromq: Port,
    websocket: Port,
    status: Option<Port>,
}

impl Ports {
    /// Binds the ports, beside the listening sockets of the previous process. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If a host does not resolve or a port cannot be bound.
    pub fn bind(settings: &Settings, fds: &mut InheritedFds) -> Result<Self, Failure> {
        let shared = settings.share_ports;
        let mut bind = |key, endpoint: &Endpoint| match endpoint {
            Endpoint::Tcp(address) => listen::bind(key, address, shared, &mut fds.listeners),
            Endpoint::Unix(_) => Ok(Port::default()),
        };
        let zeromq = bind("zeromq_uri", &Endpoint::Tcp(settings.zeromq_uri.clone()))?;
        let websocket = bind("websocket_uri", &settings.websocket_uri)?;
        let status = settings.status_uri.endpoint().map(|endpoint| bind("status_uri", endpoint)).transpose()?;
        let ports = Self { zeromq, websocket, status };
        fds.note_own(ports.count(), ports.status.is_some(), settings.redis_descriptors());
        Ok(ports)
    }

    /// Returns the number of listening sockets, with the Unix sockets that are to be bound.
    pub(super) fn count(&self) -> usize {
        let status = self.status.as_ref().map_or(0, |port| port.count().max(1));
        self.zeromq.count() + self.websocket.count().max(1) + status
    }
}

/// The listening sockets of a monitor, all bound.
#[derive(Debug)]
pub(super) struct Listeners {
    zeromq: Port,
    websocket: Entrance,
    status: Option<Entrance>,
    /// True if other instances listen at the TCP ports, too.
    shared: bool,
}

/// The sockets at which clients of one kind connect.
#[derive(Debug)]
enum Entrance {
    Tcp(Port),
    /// A socket, its file, and the sockets of previous processes.
    Unix(UnixListener, UnixFile, Vec<UnixListener>),
}

/// Parts of the listening sockets that outlive the tasks that accept.
#[derive(Debug, Default)]
pub(super) struct Remains {
    /// The files of the Unix sockets.
    pub(super) files: Vec<UnixFile>,
    /// The shared ports of brokers.
    brokers: Vec<Backlog>,
    /// The shared ports of viewers.
    viewers: Vec<Backlog>,
}

impl Listeners {
    /// Binds the Unix sockets, as the user that relays. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If a socket cannot be bound. Only the default one of the status listener may be missing.
    pub(super) fn bind(settings: &Settings, ports: Ports, fds: &mut InheritedFds) -> Result<Self, Failure> {
        let Ports { zeromq, websocket, status } = ports;
        let mut bind = |key, endpoint: &Endpoint, mode, port| match endpoint {
            Endpoint::Tcp(_) => Ok(Entrance::Tcp(port)),
            Endpoint::Unix(path) => bind_unix(key, path, mode, &mut fds.unix)
                .map(|(listener, file, previous)| Entrance::Unix(listener, file, previous)),
        };
        let websocket = bind("websocket_uri", &settings.websocket_uri, settings.websocket_mode, websocket)?;
        let status = settings.status_uri.endpoint().zip(status);
        let status = status.map(|(endpoint, port)| bind("status_uri", endpoint, Mode::GROUP, port)).transpose();
        let status = match status {
            Err(e) if settings.status_uri.is_default() => {
                log::warn!("there is no status listener, so that `recodex-monitor status` gets no answer: {e}");
                None
            }
            status => status?,
        };
        Ok(Self { zeromq, websocket, status, shared: settings.share_ports })
    }

    /// Returns the addresses at which viewers connect; none if they come through a Unix socket.
    pub(super) fn viewer_addresses(&self) -> Vec<SocketAddr> {
        self.websocket.addresses()
    }

    /// Returns the addresses at which brokers connect.
    pub(super) fn broker_addresses(&self) -> Vec<SocketAddr> {
        self.zeromq.addresses()
    }

    /// Returns the addresses of the status listener; none if it is a Unix socket.
    pub(super) fn status_addresses(&self) -> Vec<SocketAddr> {
        self.status.as_ref().map_or_else(Vec::new, Entrance::addresses)
    }

    /// Has the service manager keep the listening sockets for the next process. It has those already that were adopted.
    pub(super) fn keep(&self, fds: &InheritedFds) {
        let status = self.status.iter().flat_map(Entrance::new_sockets);
        let zeromq = self.zeromq.listeners.iter().map(AsFd::as_fd);
        fds.keep(zeromq.chain(status).chain(self.websocket.new_sockets()));
    }

    /// Begins to accept, with one task for each socket.
    pub(super) fn serve(self, tasks: &mut JoinSet<()>, shared: &Arc<Shared>) -> Remains {
        let Self { zeromq, websocket, status, shared: is_shared } = self;
        let mut remains = Remains::default();
        if is_shared {
            remains.brokers = backlogs(&zeromq);
            if let Entrance::Tcp(port) = &websocket {
                remains.viewers = backlogs(port);
            }
        }
        serve(tasks, "brokers", zeromq, shared, broker::accept::accept_brokers);
        let file = serve_either(
            tasks,
            "viewers",
            websocket,
            shared,
            accept_viewers,
            accept_unix_viewers,
            accept_waiting_viewers,
        );
        remains.files.extend(file);
        if let Some(status) = status {
            let (tcp, unix, waiting) = (status::accept_tcp, status::accept_unix, status::accept_waiting);
            remains.files.extend(serve_either(tasks, "status requests", status, shared, tcp, unix, waiting));
        }
        remains
    }

    /// Returns true if there is a status listener.
    pub(super) fn has_status(&self) -> bool {
        self.status.is_some()
    }
}

impl Entrance {
    fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Tcp(port) => port.addresses(),
            Self::Unix(..) => Vec::new(),
        }
    }

    /// Returns the sockets that this process made.
    fn new_sockets(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Tcp(port) => port.listeners.iter().map(AsFd::as_fd).collect(),
            Self::Unix(listener, ..) => vec![listener.as_fd()],
        }
    }
}

impl Remains {
    /// Accepts the connects that wait at shared ports, and leaves these ports to the other instances. The tasks that accept must have
    /// ended.
    pub(super) async fn leave_shared_ports(&mut self, shared: &Arc<Shared>) {
        for backlog in self.brokers.drain(..) {
            backlog.drain(|listener| broker::accept::accept_brokers(listener, Arc::clone(shared))).await;
        }
        for backlog in self.viewers.drain(..) {
            backlog.drain(|listener| accept::accept_tcp(listener, Arc::clone(shared))).await;
        }
    }
}

/// Accepts viewers over TCP, once they may come.
async fn accept_viewers(listener: TcpListener, shared: Arc<Shared>) {
    settled(&shared).await;
    accept::accept_tcp(listener, shared).await;
}

/// Accepts viewers at a Unix socket, once they may come.
async fn accept_unix_viewers(listener: UnixListener, shared: Arc<Shared>) {
    settled(&shared).await;
    accept::accept_unix(listener, shared).await;
}

/// Accepts the viewers that wait at a Unix socket of a previous process, once they may come.
async fn accept_waiting_viewers(listener: UnixListener, shared: Arc<Shared>) {
    settled(&shared).await;
    accept::accept_waiting(listener, shared).await;
}

/// Waits until viewers may come: in a cluster, until the history was read from the stream.
async fn settled(shared: &Shared) {
    if let Some(stream) = &shared.stream {
        stream.settled().await;
    }
}

/// Copies the sockets of a port.
fn backlogs(port: &Port) -> Vec<Backlog> {
    let copies = port.own().map(Backlog::of);
    let noted = |e| log::debug!("connects that wait at a stop will be closed: {e}");
    copies.filter_map(|copy| copy.map_err(noted).ok()).collect()
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
    for listener in port.adopted.into_iter().chain(port.listeners) {
        tasks.spawn(accept(listener, Arc::clone(shared)));
    }
    for previous in port.previous {
        let shared = Arc::clone(shared);
        tasks.spawn(previous.drain(move |listener| accept(listener, shared)));
    }
}

/// Accepts connections with `tcp` or with `unix`, and with `waiting` those that wait at the Unix sockets of previous processes. Returns
/// the file of the Unix socket, if there is one.
fn serve_either<F, G, H>(
    tasks: &mut JoinSet<()>,
    whom: &str,
    entrance: Entrance,
    shared: &Arc<Shared>,
    tcp: fn(TcpListener, Arc<Shared>) -> F,
    unix: fn(UnixListener, Arc<Shared>) -> G,
    waiting: fn(UnixListener, Arc<Shared>) -> H,
) -> Option<UnixFile>
where
    F: Future<Output = ()> + Send + 'static,
    G: Future<Output = ()> + Send + 'static,
    H: Future<Output = ()> + Send + 'static,
{
    match entrance {
        Entrance::Tcp(port) => {
            serve(tasks, whom, port, shared, tcp);
            None
        }
        Entrance::Unix(listener, file, previous) => {
            log::info!("listening for {whom} on unix:{}", file.path.display());
            for listener in previous {
                tasks.spawn(waiting(listener, Arc::clone(shared)));
            }
            tasks.spawn(unix(listener, Arc::clone(shared)));
            Some(file)
        }
    }
}
