//! Listening TCP sockets: bound to every address of a host, beside those of previous processes or of other instances.

use crate::config::Address;
use crate::deadline::timeout;
use crate::error::{Exit, Failure};
use crate::net::interface;
use crate::rlimit;
use crate::systemd::fd_store::{self, Listener};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use socket2::SockRef;
use std::cmp::Reverse;
use std::io;
use std::net::{self, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket};

/// The number of connects that may wait to be accepted; the system may allow fewer (net.core.somaxconn).
const BACKLOG: u32 = 4096;

/// The time in which the service manager has to close a socket that is in the way.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two attempts to bind meanwhile.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// The time in which a connect that has begun may still complete: Linux sends the second packet of a connect again for 63 s
/// (`net.ipv4.tcp_synack_retries`).
const CONNECT_TIME: Duration = Duration::from_secs(64);

/// The key whose host may be the name of a network interface, as libzmq took it.
pub(super) const TAKES_INTERFACE: &str = "zeromq_uri";

/// The listening sockets of one port.
#[derive(Debug, Default)]
pub(crate) struct Port {
    /// This process's sockets.
    pub(crate) listeners: Vec<TcpListener>,
    /// The sockets of the previous process that this one goes on with, at a shared port. The service manager keeps them already.
    pub(crate) adopted: Vec<TcpListener>,
    /// The sockets of previous processes at the same addresses. Connects that wait there or have begun are served; they get no new
    /// ones.
    pub(crate) previous: Vec<PreviousListener>,
}

/// A listening socket of a previous process.
#[derive(Debug)]
pub(crate) struct PreviousListener {
    listener: TcpListener,
    name: String,
    /// A copy of this process's socket at the same address, which the previous ones share.
    successor: Arc<OwnedFd>,
}

impl Port {
    /// Returns the sockets at which this process accepts new connects.
    pub(crate) fn own(&self) -> impl Iterator<Item = &TcpListener> {
        self.adopted.iter().chain(&self.listeners)
    }

    /// Returns the number of those.
    pub(crate) fn count(&self) -> usize {
        self.own().count()
    }

    /// Returns their addresses.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.own().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Returns the same as text, with the families of an address that stands for all of the machine's.
    pub(crate) fn names(&self) -> Vec<String> {
        self.own().filter_map(name).collect()
    }
}

/// Returns the address of a socket as text. `[::]` stands for IPv6 alone or for both families.
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
/// `*` is every address of the machine. A name's addresses that this machine does not have are left out with a warning, as long as
/// one is left. The name of a network interface is its first IPv4 address, for `zeromq_uri` only. With port 0 all addresses share the
/// port that the system chose for the first.
///
/// A socket of `kept` at one of the addresses is taken out, and a new one takes its place without a gap. It is a new one because
/// address filters of the service manager hold for the sockets that are made while they are in force.
///
/// With `shared`, other instances of the monitor listen at the same addresses, each with one socket, and the system spreads the new
/// connects. A new socket in place of a kept one would then get only its share of them, and the connects that wait at the kept one would
/// need another process. So the kept socket is adopted, and nothing says which socket gets a connect.
///
/// # Errors
/// [`Exit::Unavailable`] if the host does not resolve or a port is taken, [`Exit::NoPermission`] if the system says so.
pub(crate) fn bind(key: &str, address: &Address, shared: bool, kept: &mut Vec<Listener>) -> Result<Port, Failure> {
    let mut addresses = resolve(key, address)?;
    let is_wildcard = address.host.is_empty() || address.host == "*";
    let mut port = Port::default();
    let mut missing = None;
    for at in &mut addresses {
        if at.port() == 0
            && let Some(first) = port.addresses().first()
        {
            at.set_port(first.port());
        }
        let bind = if shared { bind_shared } else { bind_address };
        match bind(&mut port, *at, is_wildcard, kept) {
            Ok(()) => {}
            Err(e) if is_missing(&e) => {
                log::warn!("{key}: {at} is not an address of this machine; it is left out ({e})");
                missing = Some(e);
            }
            Err(e) if shared && e.kind() == io::ErrorKind::AddrInUse => return Err(cannot_share(key, *at, &e)),
            Err(e) => return Err(cannot_bind(key, &at.to_string(), &e)),
        }
    }
    match missing {
        Some(e) if port.count() == 0 => Err(cannot_bind(key, &address.to_string(), &e)),
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
        && let Some(ip) = interface::first_address(host)
    {
        return Ok(vec![(ip, *port).into()]);
    }
    let mut addresses = Vec::new();
    for at in (host, *port).to_socket_addrs().map_err(|e| {
        let what = interface::hint(key, host).unwrap_or_else(|| "expected an address, a name or \"*\"".into());
        Failure::new(Exit::Unavailable, format!("{key}: cannot resolve host {host:?}: {e}; {what}"))
    })? {
        if !addresses.contains(&at) {
            addresses.push(at);
        }
    }
    Ok(addresses)
}

/// Binds an address. Adds the new socket to `port`, and the sockets of `kept` at this address, which have no new connects any more.
fn bind_address(port: &mut Port, at: SocketAddr, both_families: bool, kept: &mut Vec<Listener>) -> io::Result<()> {
    let mut previous = take_previous(at, both_families, kept);
    let listener = listen_beside(at, both_families, false, &mut previous, kept)?;
    if previous.is_empty() {
        port.listeners.push(listener);
        return Ok(());
    }
    // Without this, both sockets get new connects; some may still be on the way when the older one is closed.
    route_connects(&listener, previous.len())
        .unwrap_or_else(|e| log::debug!("{at}: an older socket also gets new connects: {e}"));
    let successor = Arc::new(listener.as_fd().try_clone_to_owned()?);
    let usable = |Listener { name, socket, .. }| {
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket)?;
        Ok(PreviousListener { listener, name, successor: Arc::clone(&successor) })
    };
    let previous = previous.into_iter().map(usable).collect::<io::Result<Vec<_>>>()?;
    port.previous.extend(previous);
    port.listeners.push(listener);
    Ok(())
}

/// Adopts the newest socket of `kept` at this address or, if there is none, listens there beside other instances.
fn bind_shared(port: &mut Port, at: SocketAddr, both_families: bool, kept: &mut Vec<Listener>) -> io::Result<()> {
    let mut previous = take_previous(at, both_families, kept).into_iter();
    let Some(newest) = previous.next() else {
        port.listeners.push(listen_beside(at, both_families, true, &mut Vec::new(), kept)?);
        return Ok(());
    };
    if previous.len() > 0 || !getsockopt(&newest.socket, sockopt::ReusePort)? {
        // The previous process did not share its ports. After quick restarts there are older sockets, and a preference among them.
        previous.for_each(Listener::close);
        setsockopt(&newest.socket, sockopt::ReusePort, &true)?;
        // The index of no socket leaves the choice to the system. The call fails if there has been no preference.
        route_connects(&newest.socket, usize::MAX)
            .unwrap_or_else(|e| log::debug!("{at}: no preference to take away: {e}"));
    }
    newest.socket.set_nonblocking(true)?;
    port.adopted.push(TcpListener::from_std(newest.socket)?);
    Ok(())
}

/// Checks that every address of `address` can be shared with the instances that run, without listening there: a socket that listens
/// would get connects. Returns the addresses as text.
///
/// # Errors
/// As [`bind`].
pub(crate) fn probe_shared(key: &str, address: &Address) -> Result<Vec<String>, Failure> {
    let is_wildcard = address.host.is_empty() || address.host == "*";
    let probe = |at: SocketAddr| match bind_socket(at, is_wildcard, true) {
        Ok(_) => Ok(at.to_string()),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(cannot_share(key, at, &e)),
        Err(e) => Err(cannot_bind(key, &at.to_string(), &e)),
    };
    resolve(key, address)?.into_iter().map(probe).collect()
}

/// Takes the sockets at this address out of `kept`, the newest first, and closes those for which there are too few descriptors.
fn take_previous(at: SocketAddr, both_families: bool, kept: &mut Vec<Listener>) -> Vec<Listener> {
    let mut previous: Vec<_> = kept.extract_if(.., |listener| is_bound(&listener.socket, at, both_families)).collect();
    previous.sort_by_key(|listener| Reverse(listener.generation));
    previous.drain(rlimit::generations(rlimit::open_files()).min(previous.len())..).for_each(Listener::close);
    previous
}

/// Listens at an address, beside the `previous` sockets there and those of `kept` at its port. They are closed if the port cannot be
/// shared with them. With `shared`, other instances may listen there, too.
fn listen_beside(
    at: SocketAddr,
    both_families: bool,
    shared: bool,
    previous: &mut Vec<Listener>,
    kept: &mut Vec<Listener>,
) -> io::Result<TcpListener> {
    let is_near = |kept: &Listener| kept.socket.local_addr().is_ok_and(|other| other.port() == at.port());
    let is_beside = !previous.is_empty() || kept.iter().any(is_near);
    for listener in previous.iter().chain(kept.iter().filter(|listener| is_near(listener))) {
        setsockopt(&listener.socket, sockopt::ReusePort, &true)?;
    }
    let deadline = Instant::now() + CLOSE_TIMEOUT;
    loop {
        match bind_socket(at, both_families, shared || is_beside).and_then(|socket| socket.listen(BACKLOG)) {
            // The previous sockets belong to another user, because `User=` was changed: two users cannot share a port.
            Err(e) if is_beside && e.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                previous.drain(..).chain(kept.extract_if(.., |listener| is_near(listener))).for_each(Listener::close);
                std::thread::sleep(RETRY_PAUSE);
            }
            listening => return listening,
        }
    }
}

/// Gives every new connect to the last of the sockets that listen at the same address, which comes after `others`.
fn route_connects(listener: &impl AsFd, others: usize) -> io::Result<()> {
    use nix::libc::{BPF_K, BPF_RET, sock_filter, sock_fprog};
    // "Return others."
    let code = u16::try_from(BPF_RET | BPF_K).map_err(io::Error::other)?;
    let mut program = [sock_filter { code, jt: 0, jf: 0, k: u32::try_from(others).unwrap_or(u32::MAX) }];
    let program = sock_fprog { len: 1, filter: program.as_mut_ptr() };
    Ok(setsockopt(listener, sockopt::AttachReusePortCbpf, &program)?)
}

/// Binds a socket to an address, which it `shares` with other sockets if that is set.
fn bind_socket(at: SocketAddr, both_families: bool, shares: bool) -> io::Result<TcpSocket> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Without this option a restarted monitor would wait for its old connections to time out.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(shares)?;
    if at.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &!both_families)?;
    }
    socket.bind(at)?;
    Ok(socket)
}

/// Returns true if a socket is bound as [`bind_socket`] would bind it.
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

fn cannot_share(key: &str, at: SocketAddr, error: &io::Error) -> Failure {
    let what = "expected only instances of the monitor there that run as the same user and have share_ports, too";
    Failure::new(Exit::Unavailable, format!("{key}: cannot listen on {at}: {error}; {what}"))
}

impl PreviousListener {
    /// Accepts with `accept` the connects that wait there or are on the way, and closes the socket.
    pub(crate) async fn drain<F: Future<Output = ()>>(self, accept: impl FnOnce(TcpListener) -> F) {
        let _ = timeout(CONNECT_TIME, accept(self.listener)).await;
        fd_store::forget(&self.name);
        // This process has the port alone now, and no other socket is to share it.
        let alone = setsockopt(&self.successor, sockopt::ReusePort, &false);
        alone.unwrap_or_else(|e| log::debug!("the port stays shared: {e}"));
    }
}
