//! Access for viewers: origins, proxies, the limit of an address, Unix sockets.

mod origins;
mod proxies;
mod proxy_protocol;
mod shares;
mod unix_sockets;

use crate::common::Monitor;
use std::net::{IpAddr, Ipv4Addr};

fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

fn debug(config: &str) -> Monitor {
    Monitor::start(&format!("logger: {{level: debug}}\n{config}"))
}
