//! Checks that the ports can be bound, and finds the holders of those that cannot.

use super::account::Account;
use super::holder;
use super::holder::Holder;
use super::report::Finding;
use super::unit::Unit;
use crate::config::Address;
use crate::error::Exit;
use crate::net::interface;
use crate::net::listen::{self, Port};
use crate::systemd::fd_store::InheritedFds;
use nix::unistd::geteuid;
use std::fs::read_to_string;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

/// The drop-in for a service that may not bind a port, as advice.
const DROP_IN: &str = "`systemctl edit recodex-monitor` and add the lines [Service], CapabilityBoundingSet=CAP_NET_BIND_SERVICE, \
     AmbientCapabilities=CAP_NET_BIND_SERVICE, PrivateUsers=no and SystemCallFilter=capset; or name a port of 1024 or above";

/// Checks that the monitor can bind a port, or already holds it. `held` keeps the port bound until all ports are checked, to find two
/// keys with the same port. A `shared` port is bound without listening, because instances that run would lose connects.
pub(super) fn port(
    key: &str,
    address: &Address,
    shared: bool,
    held: &mut Vec<Port>,
    unit: Option<&Unit>,
    account: Option<&Account>,
) -> Finding {
    let is_low = address.port != 0 && address.port < first_free_port();
    if let Some(why) = unit.filter(|_| is_low).and_then(Unit::refuses_low_ports) {
        let what = format!("{address}: the service may not bind a port below {} ({why}): {DROP_IN}", first_free_port());
        return Finding::Failed(Exit::NoPermission, what);
    }
    if let Some(unit) = unit
        && !unit.allows_family("AF_NETLINK")
        && let Some(ip) = interface::first_address(&address.host)
    {
        let what = format!(
            "{address}: the service may not look up the address of a network interface; write that address, {ip}, or `systemctl edit \
             recodex-monitor` and add the lines [Service] and RestrictAddressFamilies=AF_NETLINK"
        );
        return Finding::Failed(Exit::Unavailable, what);
    }
    let bound = if shared {
        listen::probe_shared(key, address)
    } else {
        listen::bind(key, address, false, &mut InheritedFds::default().listeners).map(|port| {
            let at = port.names();
            held.push(port);
            at
        })
    };
    match bound {
        Ok(at) if shared => Finding::Good(format!("{} can be bound and shared", at.join(" and "))),
        Ok(at) => Finding::Good(format!("{} can be bound", at.join(" and "))),
        Err(failure) if failure.exit() == Exit::Unavailable && !is_free(address) => {
            // Any instance may hold a shared port.
            let holder = holder::of_port(&addresses(address), unit.filter(|_| !shared), account);
            held_by(&address.to_string(), &holder, unit.map(|unit| &*unit.name), "end it, or name another port")
        }
        Err(failure) if failure.exit() == Exit::NoPermission && is_low && unit.is_some() => {
            Finding::Good(format!("{address}: the service may bind it; only root can check if it is free"))
        }
        Err(failure) => Finding::from(&failure),
    }
}

/// Returns the finding about an address that is in use, a port or a Unix socket. A start says it in `net::listen::cannot_bind`.
pub(super) fn held_by(address: &str, holder: &Holder, unit: Option<&str>, what_to_do: &str) -> Finding {
    match holder {
        Holder::Myself => {
            Finding::Failed(Exit::Unavailable, format!("{address} is named by another key, too; name another port"))
        }
        Holder::Monitor(pid) => Finding::Good(format!("{address} is held by the monitor that runs (process {pid})")),
        Holder::Manager(name) => Finding::Warning(format!(
            "{address} is held by {name} (process 1), which is right if the port is kept for the monitor"
        )),
        Holder::Stranger(pid, name) => {
            let not = unit.map_or_else(String::new, |unit| format!(", which is not the main process of {unit}"));
            Finding::Failed(
                Exit::Unavailable,
                format!("{address} is held by {name} (process {pid}){not}; {what_to_do}"),
            )
        }
        Holder::Unknown => {
            let who = if geteuid().is_root() {
                "the process cannot be found"
            } else {
                "only root can see which one: run this as root"
            };
            Finding::Warning(format!(
                "{address} is held by a process, which is right only if that is the monitor; {who}"
            ))
        }
    }
}

/// Returns the first port that any user may bind.
fn first_free_port() -> u16 {
    let read = read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    read.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

fn addresses(address: &Address) -> Vec<SocketAddr> {
    let host = if matches!(address.host.as_str(), "" | "*") { "0.0.0.0" } else { &address.host };
    if let Some(ip) = interface::first_address(host) {
        return vec![(ip, address.port).into()];
    }
    (host.trim_matches(['[', ']']), address.port).to_socket_addrs().map_or_else(|_| Vec::new(), Iterator::collect)
}

fn is_free(address: &Address) -> bool {
    !addresses(address).iter().any(|at| TcpListener::bind(at).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse))
}

/// Returns true if only this machine can connect to an address.
pub(super) fn is_local(address: &Address) -> bool {
    let addresses = addresses(address);
    !addresses.is_empty() && addresses.iter().all(|at| at.ip().to_canonical().is_loopback())
}
