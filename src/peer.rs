//! The address at the other end of a viewer's connection, as far as it is known.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A viewer's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peer {
    /// The address of a TCP connection, or of one that a proxy named.
    Socket(SocketAddr),
    /// An address that a proxy named without a port.
    Address(IpAddr),
    /// The Unix socket.
    Unix,
}

impl Peer {
    /// Returns the IP address, if there is one.
    pub(crate) fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Socket(at) => Some(at.ip()),
            Self::Address(ip) => Some(ip),
            Self::Unix => None,
        }
    }

    /// Returns the address by which connections are counted: of IPv6 the network of 64 bits, all of which one machine usually has (RFC
    /// 4291, section 2.5.4). `::1` and the Unix socket count as 127.0.0.1.
    pub(crate) fn network(self) -> IpAddr {
        match self.ip().filter(|_| !self.is_local()) {
            Some(ip @ IpAddr::V4(_)) => ip,
            Some(IpAddr::V6(ip)) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
            None => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// Returns true if both are the same machine for certain: one address, or both this machine.
    pub(crate) fn is_same_machine(self, other: Self) -> bool {
        self.ip() == other.ip() || self.is_local() && other.is_local()
    }

    /// Returns true for this machine: 127.0.0.1, `::1` or the Unix socket.
    fn is_local(self) -> bool {
        const LOCAL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        self.ip().is_none_or(|ip| LOCAL.contains(&ip))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_counts_as_one_address_and_no_other_does() {
        let network = |text: &str| Peer::Address(text.parse().unwrap()).network();
        let here = network("127.0.0.1");
        assert_eq!((network("::1"), Peer::Unix.network()), (here, here));
        for other in ["127.0.0.2", "::2", "::", "0.0.0.0", "2001:db8::1"] {
            assert_ne!(network(other), here, "{other}");
        }
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:0:0:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
    }
}
