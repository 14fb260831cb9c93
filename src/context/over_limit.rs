//! Connections over `clients.max` or `clients.max_per_address`. Their requests are read nevertheless: one may be a health check, and the
//! others are told why they are refused. Their number is bounded: the oldest is refused for one more.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use tokio::sync::oneshot::{Receiver, Sender, channel};

/// The connections over a limit, the oldest first.
#[derive(Debug)]
pub(crate) struct OverLimit {
    limit: usize,
    turns: Mutex<VecDeque<Sender<()>>>,
}

/// A connection's turn; dropping it makes room for another.
#[must_use]
#[derive(Debug)]
pub struct Turn(Receiver<()>);

impl OverLimit {
    /// Creates room for `limit` connections.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, turns: Mutex::default() }
    }

    /// Begins a turn. If there is no room, the turn of the oldest connection is over.
    pub(crate) fn enter(&self) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|turn| !turn.is_closed());
        if turns.len() >= self.limit {
            turns.pop_front();
        }
        let (turn, receiver) = channel();
        turns.push_back(turn);
        Turn(receiver)
    }
}

impl Turn {
    /// Completes when the turn is over.
    pub(crate) async fn over(&mut self) {
        let _ = (&mut self.0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn the_oldest_turn_is_over_for_one_more_and_one_that_was_dropped_makes_room() {
        let over_limit = OverLimit::new(2);
        let (mut first, second) = (over_limit.enter(), over_limit.enter());
        drop(second);
        let mut third = over_limit.enter();
        assert_eq!((first.over().now_or_never(), third.over().now_or_never()), (None, None));
        let mut fourth = over_limit.enter();
        assert_eq!((first.over().now_or_never(), third.over().now_or_never()), (Some(()), None));
        assert_eq!(fourth.over().now_or_never(), None);
    }
}
