//! The condition of a node's way to the stream, for the status report and for readiness.

use crate::config::Server;
use crate::snapshot::stream::EntryId;
use crate::stream::MessageStream;
use std::time::Duration;
use tokio::time::Instant;

/// The time for which a node may be behind, or without Redis, until it is not ready: longer than a pause that nobody notices.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// The condition at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    /// The primary, while it is connected.
    pub(crate) server: Option<Server>,
    /// True while the node has read the stream to its end.
    pub(crate) caught_up: bool,
    /// True once the node has read the stream to its end.
    has_caught_up: bool,
    /// True once viewers may come.
    settled: bool,
    /// The time since which the node is not caught up.
    behind_since: Instant,
    /// The reason for which the stream cannot be read or written, with details.
    pub(crate) trouble: Option<String>,
    /// True if the stream has an entry of an unknown format.
    pub(crate) unknown_format: bool,
    /// The time when another node was seen that keeps another history.
    pub(super) other_limits: Option<Instant>,
    /// True while the stream is read again because of a gap, which does not keep viewers away.
    pub(super) reads_again: bool,
    /// The time since when there is something that was not read.
    pub(super) behind_from: Option<Instant>,
    /// The time since which Redis refuses messages.
    pub(crate) refused_since: Option<Instant>,
    /// The time of the last look that saw a replica.
    pub(super) last_replica: Option<Instant>,
    /// The last entry of the stream, as far as it is known.
    pub(crate) last: EntryId,
    /// The number of entries in the stream.
    pub(crate) entries: u64,
    /// The memory of the stream in Redis, in bytes.
    pub(crate) bytes: u64,
}

impl Condition {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            server: None,
            caught_up: false,
            has_caught_up: false,
            settled: false,
            behind_since: now,
            trouble: None,
            unknown_format: false,
            other_limits: None,
            reads_again: false,
            behind_from: Some(now),
            refused_since: None,
            last_replica: None,
            last: EntryId::default(),
            entries: 0,
            bytes: 0,
        }
    }

    /// Returns the time for which there has been something that was not read.
    pub(crate) fn lag(&self, now: Instant) -> Duration {
        self.behind_from.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
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
        } else if self.caught_up || self.reads_again || self.has_caught_up && !is_long(self.behind_since) {
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

    /// Notes if the node has read the stream to its end; returns true if that is new.
    pub(super) fn set_caught_up(&self, caught_up: bool) -> bool {
        let mut condition = self.condition_mut();
        let is_new = condition.caught_up != caught_up;
        if is_new {
            condition.caught_up = caught_up;
            condition.behind_since = Instant::now();
            if caught_up {
                condition.has_caught_up = true;
                condition.settled = true;
                condition.behind_from = None;
            }
        }
        is_new
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
