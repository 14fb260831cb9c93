//! Listening sockets: bound to every address of a host, accepted from without spinning when descriptors run out.

use crate::config::Address;
use crate::failure::{Exit, Failure};
use crate::logging::Throttle;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connects that may wait to be accepted; the system may allow fewer (net.core.somaxconn).
const BACKLOG: u32 = 4096;

/// How long accepting pauses after it failed, usually for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

static CANNOT_ACCEPT: Throttle = Throttle::new(Duration::from_secs(60));

/// Binds every address of `address`; `key` is its configuration key, for errors.
///
/// `*` is every address of the machine. A name's addresses that this machine does not have are left out with a warning,
/// as long as one is left. With port 0 all addresses share the port the system chose for the first.
///
/// # Errors
/// [`Exit::Unavailable`] if the host does not resolve or a port is taken, [`Exit::NoPermission`] if the system says so.
pub fn bind(key: &str, address: &Address) -> Result<Vec<TcpListener>, Failure> {
    let mut addresses = resolve(key, address)?;
    let mut listeners = Vec::new();
    let mut missing = None;
    for at in &mut addresses {
        if at.port() == 0
            && let Some(first) = listeners.first().and_then(|first: &TcpListener| first.local_addr().ok())
        {
            at.set_port(first.port());
        }
        match bind_one(*at, address.host.is_empty() || address.host == "*") {
            Ok(listener) => listeners.push(listener),
            Err(e) if is_missing(&e) => {
                log::warn!("{key}: {at} is not an address of this machine; it is left out ({e})");
                missing = Some(e);
            }
            Err(e) => return Err(cannot_bind(key, &at.to_string(), &e)),
        }
    }
    match missing {
        Some(e) if listeners.is_empty() => Err(cannot_bind(key, &address.to_string(), &e)),
        _ => Ok(listeners),
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
    let mut addresses = Vec::new();
    for at in (host, *port).to_socket_addrs().map_err(|e| {
        Failure::new(
            Exit::Unavailable,
            format!("{key}: cannot resolve host {host:?}: {e}; expected an address, a name or \"*\""),
        )
    })? {
        if !addresses.contains(&at) {
            addresses.push(at);
        }
    }
    Ok(addresses)
}

fn bind_one(at: SocketAddr, both_families: bool) -> io::Result<TcpListener> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Without it a restarted monitor would wait for its old connections to time out.
    socket.set_reuseaddr(true)?;
    if at.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &!both_families)?;
    }
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

fn is_missing(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT};
    matches!(error.raw_os_error(), Some(EADDRNOTAVAIL | EAFNOSUPPORT))
}

fn cannot_bind(key: &str, at: &str, error: &io::Error) -> Failure {
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

/// Accepts for ever; `serve` gets every connection.
pub async fn accept(listener: TcpListener, mut serve: impl FnMut(TcpStream, SocketAddr)) {
    // Whether accepting fails now, and if so, whether that was logged.
    let mut failing = None;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if failing.take() == Some(true) {
                    log::info!("accepting connections again");
                }
                serve(stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()));
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
