//! ZeroMQ links that are shaking hands, of all listeners together. Their number is bounded: the oldest is dropped for one more.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::task::AbortHandle;

/// The links that are shaking hands, the oldest first.
#[derive(Debug)]
pub(crate) struct Handshakes {
    limit: usize,
    links: Mutex<VecDeque<(SocketAddr, AbortHandle)>>,
}

impl Handshakes {
    /// Creates room for `limit` links.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, links: Mutex::default() }
    }

    /// Returns the most links at once.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Spawns a handshake; returns the peer of the oldest one if that was dropped for it. Its descriptor is closed at the next turn of
    /// the runtime.
    pub(crate) fn begin(
        &self,
        peer: SocketAddr,
        handshake: impl Future<Output = ()> + Send + 'static,
    ) -> Option<SocketAddr> {
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
