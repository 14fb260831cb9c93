//! The deadlines of a viewer that gets its channel's messages: its next ping, the answer to one, and progress of its socket.

use super::disconnect::Disconnect;
use crate::config::Clients;
use crate::deadline;
use std::pin::Pin;
use tokio::time::{Instant, Sleep};

/// A viewer's deadlines.
#[derive(Debug)]
pub(super) struct Deadlines {
    ping_at: Instant,
    /// Set while a ping is not answered.
    answer_by: Option<Instant>,
    /// Set while the socket has no room.
    room_by: Option<Instant>,
}

impl Deadlines {
    pub(super) fn new(clients: &Clients) -> Self {
        Self { ping_at: Instant::now() + clients.ping_interval.duration(), answer_by: None, room_by: None }
    }

    /// Returns the next deadline.
    pub(super) fn next(&self) -> Instant {
        [self.answer_by, self.room_by].into_iter().flatten().fold(self.ping_at, Instant::min)
    }

    /// Returns true if the viewer is to be given up, unless it has sent or taken something meanwhile.
    pub(super) fn is_over(&self) -> bool {
        let now = Instant::now();
        [self.answer_by, self.room_by].into_iter().flatten().any(|by| by <= now)
    }

    /// Returns true if this process was paused before it saw that the next deadline is over.
    pub(super) fn was_paused(&self) -> bool {
        deadline::was_paused(self.next())
    }

    /// Sets the timer to the next deadline. A deadline that moved further away is found when the timer completes.
    pub(super) fn arm(&self, timer: Pin<&mut Sleep>) {
        let next = self.next();
        if next < timer.deadline() || timer.is_elapsed() {
            timer.reset(next);
        }
    }

    /// Notes that nothing could be written.
    pub(super) fn blocked(&mut self, clients: &Clients) {
        self.room_by.get_or_insert_with(|| Instant::now() + clients.stall_timeout.duration());
    }

    /// Notes that something was written; after a stall, that shows that the viewer reads.
    pub(super) fn wrote(&mut self) {
        if self.room_by.take().is_some() {
            self.answer_by = None;
        }
    }

    /// Notes that the viewer sent something.
    pub(super) fn answered(&mut self) {
        self.answer_by = None;
    }

    /// Returns true if a ping is due now; sets the deadlines that follow. `paused` is true if this process was paused meanwhile. Fails
    /// if the viewer is to be given up.
    pub(super) fn check(&mut self, clients: &Clients, paused: bool) -> Result<bool, Disconnect> {
        let now = Instant::now();
        let over = |by: Option<Instant>| by.is_some_and(|by| by <= now);
        match (over(self.room_by), over(self.answer_by)) {
            (false, false) => {}
            // The viewer could not be heard: a new ping is sent, and the whole time begins again.
            _ if paused => {
                if self.room_by.is_some() {
                    self.room_by = Some(now + clients.stall_timeout.duration());
                }
                (self.answer_by, self.ping_at) = (None, now);
            }
            (true, _) => return Err(Disconnect::Stalled),
            (false, true) => return Err(Disconnect::Silent),
        }
        if self.ping_at > now {
            return Ok(false);
        }
        self.ping_at = now + clients.ping_interval.duration();
        self.answer_by.get_or_insert_with(|| now + clients.ping_timeout.duration());
        Ok(true)
    }
}
