//! Listening sockets: bound to every address of a host or to a path, accepted from without spinning when descriptors run out.

pub use crate::net::interface::interface_address;
pub use crate::net::unix::{UnixFile, bind_unix, drain_unix, is_listened_at};

use crate::config::Address;
use crate::deadline::timeout;
use crate::error::{Exit, Failure};
use crate::logging::Throttle;
use crate::rlimit;
use crate::systemd::fd_store;
use crate::systemd::fd_store::Listener;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;
use std::cmp::Reverse;
use std::future::poll_fn;
use std::io;
use std::net::{self, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::task::yield_now;

/// Connects that may wait to be accepted; the system may allow fewer (net.core.somaxconn).
const BACKLOG: u32 = 4096;

/// How long the service manager may take to let go of a socket that is in the way.
const LET_GO_TIME: Duration = Duration::from_secs(5);
const LET_GO_PAUSE: Duration = Duration::from_millis(10);

/// How long a connect that has begun may still come: Linux sends the second packet of a connect again for 63 s
/// (`net.ipv4.tcp_synack_retries`).
const ON_THE_WAY: Duration = Duration::from_secs(64);

/// How long accepting pauses after it failed, usually for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The key whose host may be the name of a network interface, as libzmq took it.
pub(super) const TAKES_INTERFACE: &str = "zeromq_uri";

static CANNOT_ACCEPT: Throttle = Throttle::new(Duration::from_secs(60));

/// Where one port listens.
#[derive(Debug, Default)]
pub struct Port {
    /// This process's sockets.
    pub listeners: Vec<TcpListener>,
    /// Those of the processes before, at the same addresses: who waits there, or is on the way, is served, and nobody else
    /// comes.
    pub before: Vec<Before>,
}

/// A listening socket of a process before this one.
#[derive(Debug)]
pub struct Before {
    listener: TcpListener,
    name: String,
    /// A copy of this process's own, which those before share.
    heir: Arc<OwnedFd>,
}

impl Port {
    /// The addresses of this process's sockets.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The same as text. Where an address stands for all of the machine's, it says of which family.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.listeners.iter().filter_map(name).collect()
    }
}

/// Where a socket listens, as text: `[::]` stands for IPv6 alone or for both families.
fn name(listener: &TcpListener) -> Option<String> {
    let at = listener.local_addr().ok()?;
    let families = match at.ip() {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) if SockRef::from(listener).only_v6().ok()? => " (IPv6 only)",
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => " (IPv4 and IPv6)",
        _ => "",
    };
    Some(format!("{at}{families}"))
}

/// Binds every address of `address`; `key` is its configuration key, for errors.
///
/// `*` is every address of the machine. A name's addresses that this machine does not have are left out with a warning,
/// as long as one is left. The name of a network interface is its first IPv4 address, for `zeromq_uri` only. With port 0 all addresses share the port the system chose for the first.
///
/// Where a socket of `kept` listens already, it is taken out, and a new one takes its place without a gap. It is a new one
/// because address filters of the service manager hold for the sockets that are made while they are in force.
///
/// # Errors
/// [`Exit::Unavailable`] if the host does not resolve or a port is taken, [`Exit::NoPermission`] if the system says so.
pub fn bind(key: &str, address: &Address, kept: &mut Vec<Listener>) -> Result<Port, Failure> {
    let mut addresses = resolve(key, address)?;
    let mut port = Port::default();
    let mut missing = None;
    for at in &mut addresses {
        if at.port() == 0
            && let Some(first) = port.listeners.first().and_then(|first: &TcpListener| first.local_addr().ok())
        {
            at.set_port(first.port());
        }
        match bind_beside(*at, address.host.is_empty() || address.host == "*", kept) {
            Ok((listener, before)) => {
                port.listeners.push(listener);
                port.before.extend(before);
            }
            Err(e) if is_missing(&e) => {
                log::warn!("{key}: {at} is not an address of this machine; it is left out ({e})");
                missing = Some(e);
            }
            Err(e) => return Err(cannot_bind(key, &at.to_string(), &e)),
        }
    }
    match missing {
        Some(e) if port.listeners.is_empty() => Err(cannot_bind(key, &address.to_string(), &e)),
        _ => Ok(port),
    }
}

fn resolve(key: &str, address: &Address) -> Result<Vec<SocketAddr>, Failure> {
    let Address { host, port } = address;
    if host.is_empty() || host == "*" {
        let v6_exists = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
        let every: IpAddr = if v6_exists { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        return Ok(vec![(every, *port).into()]);
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if key == TAKES_INTERFACE
        && let Some(ip) = interface_address(host)
    {
        return Ok(vec![(ip, *port).into()]);
    }
    let mut addresses = Vec::new();
    for at in (host, *port).to_socket_addrs().map_err(|e| {
        let what = super::interface::hint(key, host).unwrap_or_else(|| "expected an address, a name or \"*\"".into());
        Failure::new(Exit::Unavailable, format!("{key}: cannot resolve host {host:?}: {e}; {what}"))
    })? {
        if !addresses.contains(&at) {
            addresses.push(at);
        }
    }
    Ok(addresses)
}

/// Binds an address; returns what is kept there already, too.
fn bind_beside(
    at: SocketAddr,
    both_families: bool,
    kept: &mut Vec<Listener>,
) -> io::Result<(TcpListener, Vec<Before>)> {
    let mut before: Vec<_> = kept.extract_if(.., |listener| is_bound(&listener.socket, at, both_families)).collect();
    before.sort_by_key(|listener| Reverse(listener.generation));
    before.drain(rlimit::generations(rlimit::open_files()).min(before.len())..).for_each(Listener::close);
    let near = |kept: &Listener| kept.socket.local_addr().is_ok_and(|other| other.port() == at.port());
    let shares = !before.is_empty() || kept.iter().any(near);
    for listener in before.iter().chain(kept.iter().filter(|listener| near(listener))) {
        setsockopt(&listener.socket, sockopt::ReusePort, &true)?;
    }
    let deadline = Instant::now() + LET_GO_TIME;
    let listener = loop {
        match bind_one(at, both_families, shares) {
            // Another user's, as `User=` was changed: two users cannot share a port.
            Err(e) if shares && e.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                before.drain(..).chain(kept.extract_if(.., |listener| near(listener))).for_each(Listener::close);
                std::thread::sleep(LET_GO_PAUSE);
            }
            bound => break bound?,
        }
    };
    if !before.is_empty() {
        // Without it, both get them; some may still be on the way when the older one is closed.
        choose(&listener, before.len()).unwrap_or_else(|e| log::debug!("{at}: new connects cannot be told apart: {e}"));
    }
    if before.is_empty() {
        return Ok((listener, Vec::new()));
    }
    let heir = Arc::new(listener.as_fd().try_clone_to_owned()?);
    let usable = |Listener { name, socket, .. }| {
        socket.set_nonblocking(true)?;
        Ok(Before { listener: TcpListener::from_std(socket)?, name, heir: Arc::clone(&heir) })
    };
    let before = before.into_iter().map(usable).collect::<io::Result<_>>()?;
    Ok((listener, before))
}

/// Of all sockets that listen at the same address, lets the one after `others` get every new connect.
fn choose(listener: &TcpListener, others: usize) -> io::Result<()> {
    use nix::libc::{BPF_K, BPF_RET, sock_filter, sock_fprog};
    // "Return others."
    let code = u16::try_from(BPF_RET | BPF_K).map_err(io::Error::other)?;
    let mut program = [sock_filter { code, jt: 0, jf: 0, k: u32::try_from(others).unwrap_or(u32::MAX) }];
    let program = sock_fprog { len: 1, filter: program.as_mut_ptr() };
    Ok(setsockopt(listener, sockopt::AttachReusePortCbpf, &program)?)
}

fn bind_one(at: SocketAddr, both_families: bool, shares: bool) -> io::Result<TcpListener> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Without it a restarted monitor would wait for its old connections to time out.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(shares)?;
    if at.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &!both_families)?;
    }
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

/// Whether a listener is what [`bind_one`] would make.
fn is_bound(listener: &net::TcpListener, at: SocketAddr, both_families: bool) -> bool {
    listener.local_addr().is_ok_and(|bound| bound == at)
        && (at.is_ipv4() || SockRef::from(listener).only_v6().is_ok_and(|only| only != both_families))
}

fn is_missing(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT};
    matches!(error.raw_os_error(), Some(EADDRNOTAVAIL | EAFNOSUPPORT))
}

pub(super) fn cannot_bind(key: &str, at: &str, error: &io::Error) -> Failure {
    let (exit, hint) = match error.kind() {
        io::ErrorKind::AddrInUse => (Exit::Unavailable, "; another program, perhaps another monitor, listens there"),
        io::ErrorKind::PermissionDenied => {
            (Exit::NoPermission, "; a port below 1024 needs root or CAP_NET_BIND_SERVICE, see recodex-monitor(8)")
        }
        io::ErrorKind::AddrNotAvailable => (Exit::Unavailable, "; expected an address of this machine"),
        _ => (Exit::Unavailable, ""),
    };
    Failure::new(exit, format!("{key}: cannot listen on {at}: {error}{hint}"))
}

impl Before {
    /// Accepts with `accept` who waits there or is on the way, and lets the socket go.
    pub async fn drain<F: Future<Output = ()>>(self, accept: impl FnOnce(TcpListener) -> F) {
        let _ = timeout(ON_THE_WAY, accept(self.listener)).await;
        fd_store::forget(&self.name);
        // Now that it has the port alone, nobody else is to share it.
        let alone = setsockopt(&self.heir, sockopt::ReusePort, &false);
        alone.unwrap_or_else(|e| log::debug!("the port stays shared: {e}"));
    }
}

/// Accepts TCP connections for ever; `serve` gets each.
pub async fn accept(listener: TcpListener, mut serve: impl FnMut(TcpStream, SocketAddr)) {
    accept_from(
        |cx| listener.poll_accept(cx),
        |(stream, peer)| {
            serve(stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        },
    )
    .await;
}

/// Accepts connections of a Unix socket for ever; `serve` gets each.
pub async fn accept_unix(listener: UnixListener, mut serve: impl FnMut(UnixStream)) {
    accept_from(|cx| listener.poll_accept(cx), |(stream, _)| serve(stream)).await;
}

async fn accept_from<C>(mut next: impl FnMut(&mut Context<'_>) -> Poll<io::Result<C>>, mut serve: impl FnMut(C)) {
    // Whether accepting fails now, and if so, whether that was logged.
    let mut failing = None;
    loop {
        match poll_fn(&mut next).await {
            Ok(connection) => {
                if failing.take() == Some(true) {
                    log::info!("accepting connections again");
                }
                serve(connection);
                // One at a time: what it was refused or another was dropped for is closed before the next one takes a descriptor.
                yield_now().await;
            }
            // The client went before it was accepted.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                failing.get_or_insert_with(|| {
                    let more = CANNOT_ACCEPT.pass();
                    if let Some(more) = &more {
                        log::error!(
                            "cannot accept connections: {e}; those connected are served, new ones wait \
                             (see the limit of open files and clients.max){more}"
                        );
                    }
                    more.is_some()
                });
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
