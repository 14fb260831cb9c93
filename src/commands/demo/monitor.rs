//! The demo's monitor and its ports.

use crate::commands::terminal::Screen;
use crate::config::{Address, Endpoint, History, Seconds, Settings, StatusUri};
use crate::error::{Exit, Failure};
use crate::server::relay::Relay;
use crate::systemd::fd_store::InheritedFds;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::Ordering;

/// The preferred ports: for viewers, for brokers, for the status page.
const PORTS: [u16; 3] = [4567, 7894, 4568];
/// The value of `history.release_failed`. The default is too long for a demo.
const RELEASE: Seconds = Seconds::from_secs(3);

/// Binds a monitor to its default ports. For each one that is in use it takes a free port.
pub(super) fn bind(screen: &Screen) -> Result<Relay, Failure> {
    let free = PORTS.map(|port| if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() { port } else { 0 });
    let relay = match Relay::bind(settings(free), InheritedFds::default()) {
        // Another program took a port in between.
        Err(e) if e.exit() == Exit::Unavailable => Relay::bind(settings([0; 3]), InheritedFds::default()),
        bound => bound,
    }?;
    for (port, bound) in PORTS.into_iter().zip(addresses(&relay)?) {
        if bound.port() != port {
            let bound = bound.port();
            screen.print(&format!("Port {port} is taken, maybe by a running monitor; the demo takes {bound}."))?;
        }
    }
    relay.shared().ids_are_public.store(true, Ordering::Relaxed);
    Ok(relay)
}

fn settings([viewers, brokers, status]: [u16; 3]) -> Settings {
    let at = |port| Address { host: Ipv4Addr::LOCALHOST.to_string(), port };
    Settings {
        websocket_uri: Endpoint::Tcp(at(viewers)),
        zeromq_uri: at(brokers),
        status_uri: StatusUri::At(Endpoint::Tcp(at(status))),
        history: History { release_failed: RELEASE, ..History::default() },
        ..Settings::default()
    }
}

/// Returns the addresses for viewers, brokers and browsers.
pub(super) fn addresses(relay: &Relay) -> Result<[SocketAddr; 3], Failure> {
    match (&relay.viewer_addresses()[..], &relay.broker_addresses()[..], &relay.status_addresses()[..]) {
        ([viewers, ..], [brokers, ..], [status, ..]) => Ok([*viewers, *brokers, *status]),
        _ => Err(Failure::new(Exit::Software, "the monitor listens nowhere")),
    }
}
