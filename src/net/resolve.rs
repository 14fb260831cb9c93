//! Names of hosts become addresses, in threads that a stop does not wait for.
//!
//! The system's resolver can take half a minute, and cannot be interrupted. The runtime would wait for a thread of its own when it ends.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread;
use tokio::sync::{Semaphore, oneshot};

/// The most names that are looked up at the same time. A further one waits.
const MAX_LOOKUPS: usize = 32;

static LOOKUPS: Semaphore = Semaphore::const_new(MAX_LOOKUPS);

/// Returns the addresses of a host, with this port. If this is dropped, the lookup goes on without it.
pub(crate) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![(ip, port).into()]);
    }
    let permit = LOOKUPS.acquire().await.map_err(io::Error::other)?;
    let (found, answer) = oneshot::channel();
    let host = host.to_owned();
    thread::Builder::new().name("resolve".into()).spawn(move || {
        let addresses = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        drop(permit);
        // Nobody may wait any more.
        let _ = found.send(addresses);
    })?;
    answer.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_and_names_are_resolved() {
        assert_eq!(resolve("127.0.0.1", 1).await.unwrap(), ["127.0.0.1:1".parse().unwrap()]);
        assert_eq!(resolve("::1", 1).await.unwrap(), ["[::1]:1".parse().unwrap()]);
        assert!(resolve("localhost", 1).await.unwrap().iter().all(|at| at.ip().is_loopback() && at.port() == 1));
        assert!(resolve("no.such.host.invalid", 1).await.is_err());
    }
}
