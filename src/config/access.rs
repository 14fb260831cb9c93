//! The addresses of `zeromq.allow` and `trusted_proxies`, and the header of `proxy_header`.

use super::address::UNIX;
use super::value;
use crate::peer::Peer;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::{Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

const PROXY_EXPECTED: &str = "an address or a network, such as \"192.0.2.7\" or \"10.1.0.0/16\", or \"unix:\"";
const NETWORK_EXPECTED: &str = "an address or a network, such as \"192.0.2.7\", \"10.1.0.0/16\" or \"2001:db8::/32\"";
const TOO_WIDE: &str = "96 bits or more after an address in the form \"::ffff:192.0.2.7\"; every address of IPv4 is \"0.0.0.0/0\", \
                        every one of IPv6 is \"::/0\"";

/// An item of `trusted_proxies`: a peer that may name the viewer's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// Peers of a network.
    Network(Network),
    /// Every client of the Unix socket.
    Unix,
}

impl Proxy {
    /// Returns true if it can be on another machine.
    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Network(network) if !network.is_loopback())
    }

    /// Returns true if one of `proxies` names this peer.
    pub(crate) fn any(proxies: &[Self], peer: Peer) -> bool {
        proxies.iter().any(|proxy| match proxy {
            Self::Network(network) => peer.ip().is_some_and(|ip| network.contains(ip)),
            Self::Unix => peer == Peer::Unix,
        })
    }
}

impl Serialize for Proxy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Network(network) => network.serialize(serializer),
            Self::Unix => UNIX.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Proxy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Proxy;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(PROXY_EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Proxy, E> {
                if text == UNIX {
                    return Ok(Proxy::Unix);
                }
                let network = Network::parse(text, PROXY_EXPECTED);
                network.map(Proxy::Network).map_err(|expected| E::invalid_value(Unexpected::Str(text), &expected))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The header of a request in which trusted proxies name the viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// A list of addresses; each proxy appends the address of its client.
    XForwardedFor,
    /// One address.
    XRealIp,
    /// The header of RFC 7239.
    Forwarded,
}

impl ProxyHeader {
    /// Returns the header's name, in lower case.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::XRealIp => "x-real-ip",
            Self::Forwarded => "forwarded",
        }
    }
}

/// Reads [`ProxyHeader`].
pub(super) fn proxy_header<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ProxyHeader, D::Error> {
    value::word(deserializer, "x-forwarded-for, x-real-ip, forwarded")
}

/// A network, or a single address. IPv4-mapped addresses (`::ffff:192.0.2.7`) are converted to IPv4, as the addresses of peers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Returns the networks that together contain every address.
    pub(crate) fn all() -> Vec<Self> {
        vec![Self(Ipv4Net::default().into()), Self(Ipv6Net::default().into())]
    }

    /// Parses an address or a network. The error is the text for people that says what was expected.
    fn parse(text: &str, expected: &'static str) -> Result<Self, &'static str> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| expected)?;
        let IpNet::V6(v6) = network else { return Ok(Self(network)) };
        let Some(address) = v6.addr().to_ipv4_mapped() else { return Ok(Self(network)) };
        // A wider network would contain all IPv4 addresses, and IPv6 addresses that no machine has.
        let length = v6.prefix_len().checked_sub(96).ok_or(TOO_WIDE)?;
        Ipv4Net::new(address, length).map(|v4| Self(v4.into())).map_err(|_| expected)
    }

    /// Returns true if all addresses of the network are this machine's own.
    pub(crate) fn is_loopback(&self) -> bool {
        self.0.network().is_loopback() && self.0.broadcast().is_loopback()
    }

    /// Returns true if the address is in the network.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Network;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(NETWORK_EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Network, E> {
                let network = Network::parse(text, NETWORK_EXPECTED);
                network.map_err(|expected| E::invalid_value(Unexpected::Str(text), &expected))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A type whose values form a list in the configuration.
pub(super) trait Listed {
    /// The name of the values in errors.
    const WHAT: &str;
}

impl Listed for Network {
    const WHAT: &str = "addresses and networks";
}

impl Listed for Proxy {
    const WHAT: &str = "addresses and networks";
}

/// Reads a list.
pub(super) fn list<'de, D: Deserializer<'de>, T: Listed + Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct List<T>(PhantomData<T>);
    impl<'de, T: Listed + Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of {}", T::WHAT)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = list.next_element()? {
                items.push(item);
            }
            Ok(items)
        }
    }
    deserializer.deserialize_seq(List(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        Network::parse(text, "a network").unwrap()
    }

    #[test]
    fn a_network_of_ipv4_in_its_form_for_ipv6_is_that_of_ipv4() {
        for (text, printed) in [
            ("::ffff:127.0.0.1", "127.0.0.1/32"),
            ("::ffff:7f00:1", "127.0.0.1/32"),
            ("::FFFF:192.0.2.10/128", "192.0.2.10/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:10.1.2.3/104", "10.1.2.3/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("::1", "::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
        ] {
            assert_eq!(serde_yaml::to_string(&network(text)).unwrap().trim().trim_matches('\''), printed, "{text}");
        }
        assert!(network("::ffff:127.0.0.0/104").contains("127.1.2.3".parse().unwrap()));
        assert!(!network("::ffff:127.0.0.1").contains("127.0.0.2".parse().unwrap()));
        for text in ["::ffff:0:0/95", "::ffff:192.0.2.0/24", "::ffff:0:0/0"] {
            assert_eq!(Network::parse(text, "a network"), Err(TOO_WIDE), "{text}");
        }
    }

    #[test]
    fn no_other_network_of_ipv6_has_addresses_of_ipv4() {
        // The obsolete IPv4-compatible form, and the forms of two translation methods: their peers count as IPv6.
        for text in
            ["::192.0.2.10", "64:ff9b::192.0.2.10", "::ffff:0:192.0.2.10", "2002:c000:20a::/48", "::/0", "::/90"]
        {
            assert!(!network(text).contains("192.0.2.10".parse().unwrap()), "{text}");
        }
    }
}
