//! Who is at the other end of a viewer's connection, as far as it is known.

use crate::config::Proxy;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A viewer's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peer {
    /// Of a TCP connection, or what a proxy said of one.
    Socket(SocketAddr),
    /// What a proxy said without a port.
    Address(IpAddr),
    /// Of the Unix socket.
    Unix,
}

impl Peer {
    /// The IP address, if there is one.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Socket(at) => Some(at.ip()),
            Self::Address(ip) => Some(ip),
            Self::Unix => None,
        }
    }

    /// What counts as one address: of IPv6 the network of 64 bits, all of which one machine usually has (RFC 4291, section 2.5.4);
    /// the Unix socket is one, too.
    #[must_use]
    pub fn network(self) -> IpAddr {
        match self.ip() {
            Some(ip @ IpAddr::V4(_)) => ip,
            Some(IpAddr::V6(ip)) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
            None => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// Whether one of `proxies` is it.
    #[must_use]
    pub fn is_one_of(self, proxies: &[Proxy]) -> bool {
        proxies.iter().any(|proxy| match proxy {
            Proxy::Network(network) => self.ip().is_some_and(|ip| network.contains(ip)),
            Proxy::Unix => self == Self::Unix,
        })
    }

    /// Whether both are surely the same machine: one address, or both this machine (127.0.0.1, `::1`, the Unix socket).
    #[must_use]
    pub fn is_same_machine(self, other: Self) -> bool {
        const LOCAL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let is_local = |peer: Self| peer.ip().is_none_or(|ip| LOCAL.contains(&ip));
        self.ip() == other.ip() || is_local(self) && is_local(other)
    }
}

impl From<SocketAddr> for Peer {
    fn from(at: SocketAddr) -> Self {
        Self::Socket(SocketAddr::new(at.ip().to_canonical(), at.port()))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(at) => at.fmt(f),
            Self::Address(ip) => ip.fmt(f),
            Self::Unix => f.write_str("unix:"),
        }
    }
}
