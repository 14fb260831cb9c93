//! ZeroMQ links that are shaking hands, of all listeners together: so many, and the oldest is dropped for one more.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::task::AbortHandle;

/// The links that are shaking hands, the oldest first.
#[derive(Debug)]
pub struct Handshakes {
    limit: usize,
    links: Mutex<VecDeque<(SocketAddr, AbortHandle)>>,
}

impl Handshakes {
    /// Room for `limit` of them.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, links: Mutex::default() }
    }

    /// The most at once.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Begins one as a task; returns the peer of the oldest if that had to be dropped for it. Its descriptor is closed the next
    /// time that the runtime has its turn.
    pub fn begin(&self, peer: SocketAddr, handshake: impl Future<Output = ()> + Send + 'static) -> Option<SocketAddr> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|(_, handshake)| !handshake.is_finished());
        let dropped = if links.len() < self.limit { None } else { links.pop_front() };
        links.push_back((peer, tokio::spawn(handshake).abort_handle()));
        dropped.map(|(oldest, handshake)| {
            handshake.abort();
            oldest
        })
    }
}
