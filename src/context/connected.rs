//! The brokers that are connected, for those who ask.

use crate::status::report::Connected;
use slab::Slab;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The brokers that are connected.
#[derive(Debug, Default)]
pub struct Roll(Mutex<Slab<(u64, SocketAddr)>>);

/// One of them; dropping it takes it off.
#[derive(Debug)]
pub struct Entry {
    roll: Arc<Roll>,
    at: usize,
}

impl Roll {
    fn entries(&self) -> MutexGuard<'_, Slab<(u64, SocketAddr)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a broker on it, connected since a time in seconds since the Unix epoch.
    #[must_use]
    pub fn enter(self: &Arc<Self>, peer: SocketAddr, since: u64) -> Entry {
        let at = self.entries().insert((since, peer));
        Entry { roll: Arc::clone(self), at }
    }

    /// Who is on it, the longest connected first.
    #[must_use]
    pub fn read(&self) -> Vec<Connected> {
        let mut entries: Vec<_> = self.entries().iter().map(|(_, entry)| *entry).collect();
        entries.sort_unstable();
        entries.into_iter().map(|(since, peer)| Connected { address: peer.to_string(), since }).collect()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.roll.entries().remove(self.at);
    }
}
