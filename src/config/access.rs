//! Who may connect, and whose word is taken.

use super::address::UNIX;
use super::value;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::{Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

/// Who may speak for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// Peers of a network.
    Network(Network),
    /// Everybody who can open the Unix socket.
    Unix,
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
                f.write_str("an address or a network, such as \"192.0.2.7\" or \"10.1.0.0/16\", or \"unix:\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Proxy, E> {
                let proxy = if text == UNIX { Some(Proxy::Unix) } else { Network::parse(text).map(Proxy::Network) };
                proxy.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The header of a request in which trusted proxies name the viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// A list of addresses, to which each proxy adds its client's.
    XForwardedFor,
    /// One address.
    XRealIp,
    /// As RFC 7239 has it.
    Forwarded,
}

impl ProxyHeader {
    /// Its name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
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

/// The addresses of a network; one address is the smallest. Those of IPv4 are never in their form for IPv6 (`::ffff:192.0.2.7`), since
/// the addresses of peers are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Every address.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![Self(Ipv4Net::default().into()), Self(Ipv6Net::default().into())]
    }

    fn parse(text: &str) -> Option<Self> {
        let network: IpNet = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
        let mapped = match network {
            IpNet::V6(v6) => v6.prefix_len().checked_sub(96).zip(v6.addr().to_ipv4_mapped()),
            IpNet::V4(_) => None,
        };
        let v4 = mapped.and_then(|(length, address)| Ipv4Net::new(address, length).ok());
        Some(Self(v4.map_or(network, IpNet::V4)))
    }

    /// Whether the address is in the network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
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
                f.write_str("an address or a network, such as \"192.0.2.7\", \"10.1.0.0/16\" or \"2001:db8::/32\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Network, E> {
                Network::parse(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// What a list in the configuration holds.
pub(super) trait Listed {
    /// Its name in errors.
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

    #[test]
    fn a_network_of_ipv4_in_its_form_for_ipv6_is_that_of_ipv4() {
        for (text, network) in [
            ("::ffff:127.0.0.1", "127.0.0.1/32"),
            ("::ffff:7f00:1", "127.0.0.1/32"),
            ("::ffff:10.1.2.3/104", "10.1.2.3/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::ffff:0.0.0.0/95"),
            ("::/0", "::/0"),
            ("::1", "::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
        ] {
            assert_eq!(
                serde_yaml::to_string(&Network::parse(text)).unwrap().trim().trim_matches('\''),
                network,
                "{text}"
            );
        }
        assert!(Network::parse("::ffff:127.0.0.0/104").unwrap().contains("127.1.2.3".parse().unwrap()));
        assert!(!Network::parse("::ffff:127.0.0.1").unwrap().contains("127.0.0.2".parse().unwrap()));
    }
}
