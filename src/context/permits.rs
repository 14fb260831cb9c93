//! Permits for connections: a limit that may change, and a way to wait until all have gone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// The number of connections that several kinds may have together. Each kind also has a limit of its own.
#[derive(Debug)]
pub(crate) struct Room {
    size: usize,
    taken: AtomicUsize,
}

impl Room {
    /// Creates room for `size` connections.
    pub(crate) fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { size, taken: 0.into() })
    }
}

/// The limit for one kind of connection.
#[derive(Debug)]
pub struct ConnectionLimit {
    limit: AtomicUsize,
    taken: AtomicUsize,
    room: Arc<Room>,
    freed: Notify,
    /// Notified whenever a permit is taken or freed.
    changed: Arc<Notify>,
}

/// One connection's permit; dropping it frees the permit.
#[must_use]
#[derive(Debug)]
pub(crate) struct Permit(Arc<ConnectionLimit>);

impl ConnectionLimit {
    /// Creates a limit of `limit` permits in `room`, all free; `changed` is notified whenever one is taken or freed.
    pub(crate) fn new(limit: usize, room: Arc<Room>, changed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { limit: limit.into(), taken: 0.into(), room, freed: Notify::new(), changed })
    }

    /// Takes a permit, if one is free.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Permit> {
        let free = self.taken() < self.limit() && self.room.taken.load(Ordering::Relaxed) < self.room.size;
        free.then(|| self.take_over())
    }

    /// Takes a permit, even if none is free: for a connection that was handed over.
    pub(crate) fn take_over(self: &Arc<Self>) -> Permit {
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.room.taken.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
        Permit(Arc::clone(self))
    }

    /// Returns the number of permits.
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the limit. Connections over a lower one stay.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Returns the number of permits that are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Completes when no permit is taken.
    pub(crate) async fn all_free(&self) {
        loop {
            let freed = self.freed.notified();
            if self.taken() == 0 {
                return;
            }
            freed.await;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.room.taken.fetch_sub(1, Ordering::Relaxed);
        if self.0.taken.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.freed.notify_waiters();
        }
        self.0.changed.notify_one();
    }
}

/// The number of connections of each address, where it is bounded.
#[derive(Debug, Default)]
pub(crate) struct PerAddressLimit(Mutex<HashMap<IpAddr, usize>>);

/// The permit of one connection of an address; dropping it frees the permit.
#[must_use]
#[derive(Debug)]
pub(crate) struct AddressPermit {
    addresses: Arc<PerAddressLimit>,
    address: IpAddr,
}

impl PerAddressLimit {
    /// Takes a permit for `address`, if it has fewer than `limit`.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr, limit: usize) -> Option<Box<AddressPermit>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= limit {
            if *count == 0 {
                counts.remove(&address);
            }
            return None;
        }
        *count += 1;
        Some(Box::new(AddressPermit { addresses: Arc::clone(self), address }))
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_may_change() {
        let limit = ConnectionLimit::new(2, Room::new(9), Arc::default());
        let (first, second) = (limit.take(), limit.take());
        assert!(first.is_some() && second.is_some());
        assert!(limit.take().is_none());
        assert_eq!(limit.taken(), 2);
        limit.set_limit(1);
        drop(first);
        assert!(limit.take().is_none());
        drop(second);
        assert!(limit.take().is_some());
        limit.set_limit(0);
        assert!(limit.take().is_none());
    }

    #[test]
    fn kinds_that_share_a_room_fill_it_together() {
        let room = Room::new(3);
        let [viewers, brokers] = [(); 2].map(|()| ConnectionLimit::new(2, Arc::clone(&room), Arc::default()));
        let (one, two, three) = (viewers.take(), viewers.take(), brokers.take());
        assert!(one.is_some() && two.is_some() && three.is_some());
        assert!(brokers.take().is_none());
        let four = brokers.take_over();
        drop(one);
        assert!(viewers.take().is_none(), "it is over its size still");
        drop(four);
        assert!(brokers.take().is_some());
    }

    #[test]
    fn each_address_has_its_share_and_leaves_nothing_behind() {
        let addresses = Arc::new(PerAddressLimit::default());
        let [one, other] = ["192.0.2.1", "2001:db8::"].map(|address| address.parse().unwrap());
        let first = addresses.take(one, 2);
        let second = addresses.take(one, 2);
        assert!(first.is_some() && second.is_some() && addresses.take(one, 2).is_none());
        let third = addresses.take(other, 1);
        assert!(third.is_some() && addresses.take(other, 0).is_none());
        drop(first);
        assert!(addresses.take(one, 1).is_none() && addresses.take(one, 2).is_some());
        drop((second, third));
        assert!(addresses.take(one, 0).is_none());
        assert!(addresses.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_one() {
        let limit = ConnectionLimit::new(2, Room::new(2), Arc::default());
        limit.all_free().await;
        let (first, second) = (limit.take(), limit.take());
        let waiting = tokio::spawn({
            let limit = Arc::clone(&limit);
            async move { limit.all_free().await }
        });
        tokio::task::yield_now().await;
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
    }
}
