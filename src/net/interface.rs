//! The names of network interfaces, which libzmq takes for a host to bind.

use nix::ifaddrs::getifaddrs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// Returns the IPv4 addresses of the interface of this name. The address that libzmq binds comes first. `None` if there is no such
/// interface. Fails if they cannot be looked up, for which a netlink socket is needed.
pub(super) fn addresses(name: &str) -> io::Result<Option<Vec<Ipv4Addr>>> {
    let mut found = None;
    for interface in getifaddrs()?.filter(|interface| interface.interface_name == name) {
        let addresses: &mut Vec<_> = found.get_or_insert_default();
        addresses.extend(interface.address.and_then(|address| Some(address.as_sockaddr_in()?.ip())));
    }
    Ok(found)
}

/// Returns the address that libzmq, and so `zeromq_uri`, takes for a host that is the name of an interface.
pub(crate) fn first_address(host: &str) -> Option<IpAddr> {
    let first = addresses(host).ok()??.first().copied()?;
    Some(first.into())
}

/// Returns the advice for a `host` that does not resolve because it is, or may be, the name of an interface.
pub(super) fn hint(key: &str, host: &str) -> Option<String> {
    match addresses(host) {
        Ok(Some(addresses)) if addresses.is_empty() => {
            Some(format!("{host} is a network interface without an IPv4 address; write an address of this machine"))
        }
        Ok(Some(addresses)) => Some(format!(
            "{host} is a network interface, which {key} does not take; write its address, {}",
            addresses[0]
        )),
        Err(e) if key == super::listen::TAKES_INTERFACE => Some(format!(
            "expected an address, a name or \"*\"; if {host} is a network interface, write its address, since it cannot be looked up \
             here ({e}): that needs AF_NETLINK in the service's RestrictAddressFamilies="
        )),
        Ok(None) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_its_address() {
        assert_eq!(first_address("lo"), Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(first_address("no-such-interface"), None);
        assert_eq!(addresses("no-such-interface").unwrap(), None);
    }
}
