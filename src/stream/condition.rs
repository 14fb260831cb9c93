//! The condition of a node's way to the stream, for the status report and for readiness.

use crate::config::Server;
use crate::snapshot::stream::EntryId;
use crate::stream::MessageStream;
use std::time::Duration;
use tokio::time::Instant;

/// The time for which a node may be behind, or without Redis, until it is not ready: longer than a pause that nobody notices.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// The reach of a node's reader in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Not to its end.
    Behind,
    /// To its end before, and now from its beginning again because of a gap, which does not keep viewers away.
    Again,
    /// To its end.
    End,
}

/// The condition at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    /// The primary, while it is connected.
    pub(crate) server: Option<Server>,
    /// The reach of the node's reader.
    reach: Reach,
    /// True once the node has read the stream to its end.
    has_caught_up: bool,
    /// True once viewers may come.
    settled: bool,
    /// The reason for which the stream cannot be read or written, with details.
    pub(crate) trouble: Option<String>,
    /// True if the stream has an entry of an unknown format.
    pub(crate) unknown_format: bool,
    /// The time when another node was seen that keeps another history.
    pub(super) other_limits: Option<Instant>,
    /// The time since when there is something that was not read.
    pub(super) behind_from: Option<Instant>,
    /// The time of the last answer to the reader.
    pub(super) heard: Instant,
    /// The time since which Redis refuses messages.
    pub(crate) refused_since: Option<Instant>,
    /// The time of the last look that saw a replica.
    pub(super) last_replica: Option<Instant>,
    /// The value of `last_replica` for which it was said that no replica is expected any more.
    pub(super) given_up: Option<Instant>,
    /// The last entry of the stream, as far as it is known.
    pub(crate) last: EntryId,
    /// The number of entries in the stream.
    pub(crate) entries: u64,
    /// The number of entries that were not read at the last look, if it is known.
    pub(super) unread: Option<u64>,
    /// The memory of the stream in Redis, in bytes.
    pub(crate) bytes: u64,
}

impl Condition {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            server: None,
            reach: Reach::Behind,
            has_caught_up: false,
            settled: false,
            trouble: None,
            unknown_format: false,
            other_limits: None,
            behind_from: Some(now),
            heard: now,
            refused_since: None,
            last_replica: None,
            given_up: None,
            last: EntryId::default(),
            entries: 0,
            unread: None,
            bytes: 0,
        }
    }

    /// Returns the time for which there has been something that was not read.
    pub(crate) fn lag(&self, now: Instant) -> Duration {
        self.behind_from.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Returns the time for which the stream may have lost what this node has not read. It also counts while the process is stopped.
    pub(super) fn away(&self, now: Instant) -> Duration {
        self.lag(now).max(now.saturating_duration_since(self.heard))
    }

    /// Returns the number of entries that were not read, if it is known.
    pub(crate) fn lag_entries(&self) -> Option<u64> {
        self.behind_from.map_or(Some(0), |_| self.unread.filter(|_| self.is_connected()))
    }

    /// Returns true while the node has read the stream to its end.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.reach == Reach::End
    }

    /// Returns true while the stream is read from its beginning again because of a gap.
    pub(super) fn reads_again(&self) -> bool {
        self.reach == Reach::Again
    }

    /// Returns true while Redis is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.server.is_some()
    }

    /// Notes that Redis has taken a message; returns true if it refused the one before.
    pub(super) fn takes_again(&mut self) -> bool {
        let refused = self.refused_since.take().is_some();
        if refused {
            self.trouble = None;
        }
        refused
    }

    /// Checks that the node takes messages and shows those of all nodes.
    ///
    /// # Errors
    /// The reason for which it does not.
    pub(crate) fn readiness(&self, now: Instant) -> Result<(), &'static str> {
        let is_long = |since: Instant| now.saturating_duration_since(since) > GRACE;
        if self.unknown_format {
            Err("the stream has a format that this version does not know")
        } else if self.refused_since.is_some_and(is_long) {
            Err("Redis refuses messages")
        } else if self.reach != Reach::Behind || self.has_caught_up && self.lag(now) <= GRACE {
            Ok(())
        } else if !self.is_connected() {
            Err("Redis cannot be reached")
        } else if self.has_caught_up {
            Err("this node is behind the stream")
        } else {
            Err("the stream has not been read yet")
        }
    }
}

impl MessageStream {
    /// Returns the condition now.
    pub(crate) fn condition(&self) -> Condition {
        self.condition_mut().clone()
    }

    /// Changes the condition, and wakes those that wait for a change.
    pub(super) fn change(&self, change: impl FnOnce(&mut Condition)) {
        change(&mut self.condition_mut());
        self.progress.notify_waiters();
    }

    /// Notes how far the node has read; returns true if that is new.
    pub(super) fn set_reach(&self, reach: Reach) -> bool {
        let mut condition = self.condition_mut();
        if reach == Reach::End {
            (condition.has_caught_up, condition.settled, condition.behind_from) = (true, true, None);
        } else {
            condition.behind_from.get_or_insert_with(Instant::now);
        }
        std::mem::replace(&mut condition.reach, reach) != reach
    }

    /// Waits until viewers may come: the stream was read to its end, or that takes too long.
    pub(crate) async fn settled(&self) {
        let settled = async {
            loop {
                let more = self.progress.notified();
                if self.condition_mut().settled {
                    return;
                }
                more.await;
            }
        };
        let late = crate::deadline::timeout(super::session::SETTLE_LIMIT, settled).await.is_err();
        if late && !self.condition_mut().settled {
            log::warn!("the stream is still being read; viewers are accepted, and get the rest when it comes");
            self.settle();
        }
    }

    /// Lets viewers come: they get what there is.
    pub(super) fn settle(&self) {
        self.change(|condition| condition.settled = true);
    }
}
