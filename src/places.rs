//! Places for connections: a limit that may change, and a way to wait until all have gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// The places for one kind of connection.
#[derive(Debug)]
pub struct Places {
    limit: AtomicUsize,
    taken: AtomicUsize,
    freed: Notify,
    /// Notified whenever a place is taken or freed.
    changed: Arc<Notify>,
}

/// One connection's place; dropping it frees the place.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Places {
    /// `limit` places, all free; `changed` is notified whenever one is taken or freed.
    #[must_use]
    pub fn new(limit: usize, changed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { limit: limit.into(), taken: 0.into(), freed: Notify::new(), changed })
    }

    /// Takes a place, if one is free.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
        // Made first, so that it gives the place back if there is none.
        let place = Place(Arc::clone(self));
        (taken < self.limit.load(Ordering::Relaxed)).then_some(place)
    }

    /// Takes a place, even if none is free: for a connection that is there already.
    #[must_use]
    pub fn take_over(self: &Arc<Self>) -> Place {
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
        Place(Arc::clone(self))
    }

    /// Changes the limit. Connections over a lower one stay.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// How many places are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Completes when no place is taken.
    pub async fn all_free(&self) {
        loop {
            let freed = self.freed.notified();
            if self.taken() == 0 {
                return;
            }
            freed.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.taken.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.freed.notify_waiters();
        }
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_may_change() {
        let places = Places::new(2, Arc::default());
        let (first, second) = (places.take(), places.take());
        assert!(first.is_some() && second.is_some());
        assert!(places.take().is_none());
        assert_eq!(places.taken(), 2);
        places.set_limit(1);
        drop(first);
        assert!(places.take().is_none());
        drop(second);
        assert!(places.take().is_some());
        places.set_limit(0);
        assert!(places.take().is_none());
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_one() {
        let places = Places::new(2, Arc::default());
        places.all_free().await;
        let (first, second) = (places.take(), places.take());
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.all_free().await }
        });
        tokio::task::yield_now().await;
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
    }
}
