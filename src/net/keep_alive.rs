//! TCP keepalive: connections to machines that have vanished end.

use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::os::fd::AsFd;

/// The time until the machine of a silent peer is probed and the time between two probes, in seconds, and the number of probes.
const KEEPALIVE: (u32, u32, u32) = (60, 10, 6);

/// Has the system probe the peer's machine while nothing comes from it, and end the connection if it does not answer.
pub(crate) fn keep_alive(stream: &impl AsFd) -> io::Result<()> {
    let (idle, interval, count) = KEEPALIVE;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &interval)?;
    setsockopt(stream, sockopt::TcpKeepCount, &count)?;
    Ok(())
}
