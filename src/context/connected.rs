//! The list of connected brokers, for the status report.

use slab::Slab;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The brokers that are connected.
#[derive(Debug, Default)]
pub(crate) struct Connected(Mutex<Slab<(u64, SocketAddr)>>);

/// A broker's entry; dropping it takes the broker off the list.
#[must_use]
#[derive(Debug)]
pub(crate) struct Entry {
    connected: Arc<Connected>,
    at: usize,
}

impl Connected {
    fn entries(&self) -> MutexGuard<'_, Slab<(u64, SocketAddr)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a broker. `since` is when it connected, in seconds since the Unix epoch.
    pub(crate) fn enter(self: &Arc<Self>, peer: SocketAddr, since: u64) -> Entry {
        let at = self.entries().insert((since, peer));
        Entry { connected: Arc::clone(self), at }
    }

    /// Returns when each broker connected and its address, the longest connected first.
    pub(crate) fn list(&self) -> Vec<(u64, SocketAddr)> {
        let mut entries: Vec<_> = self.entries().iter().map(|(_, entry)| *entry).collect();
        entries.sort_unstable();
        entries
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connected.entries().remove(self.at);
    }
}
