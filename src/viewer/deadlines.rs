//! The deadlines of a viewer that gets its channel's messages: its next ping, the answer to one, and progress of its socket.

use super::disconnect::Disconnect;
use crate::config::Clients;
use crate::deadline;
use crate::hub::fan_out::pings::Pings;
use std::pin::Pin;
use tokio::time::{Instant, Sleep};

/// A viewer's deadlines.
#[derive(Debug)]
pub(super) struct Deadlines {
    pings: Pings,
    /// Set while the socket has no room.
    room_by: Option<Instant>,
}

impl Deadlines {
    pub(super) fn new(pings: Pings) -> Self {
        Self { pings, room_by: None }
    }

    /// Returns the deadlines that stay while the viewer is quiet.
    pub(super) fn pings(&self) -> Pings {
        self.pings
    }

    /// Returns the next deadline.
    pub(super) fn next(&self) -> Instant {
        self.room_by.map_or(self.pings.next(), |by| by.min(self.pings.next()))
    }

    /// Returns true if the viewer is to be given up, unless it has sent or taken something meanwhile.
    pub(super) fn is_over(&self) -> bool {
        let now = Instant::now();
        self.pings.is_over(now) || self.room_by.is_some_and(|by| by <= now)
    }

    /// Returns true if this process was paused before it saw that the next deadline is over.
    pub(super) fn was_paused(&self) -> bool {
        deadline::was_paused(self.next())
    }

    /// Sets the timer to the next deadline, or to `also` if that is earlier. A deadline that moved further away is found when the timer
    /// completes.
    pub(super) fn arm(&self, timer: Pin<&mut Sleep>, also: Option<Instant>) {
        let next = also.map_or(self.next(), |also| also.min(self.next()));
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
            self.pings.answered();
        }
    }

    /// Notes that the viewer sent something.
    pub(super) fn answered(&mut self) {
        self.pings.answered();
    }

    /// Returns true if a ping is due now; sets the deadlines that follow. `paused` is true if this process was paused meanwhile. Fails
    /// if the viewer is to be given up.
    pub(super) fn check(&mut self, clients: &Clients, paused: bool) -> Result<bool, Disconnect> {
        let now = Instant::now();
        let mut is_due = false;
        match (self.room_by.is_some_and(|by| by <= now), self.pings.is_over(now)) {
            (false, false) => {}
            // The viewer could not be heard: a new ping is sent, and the whole time begins again.
            _ if paused => {
                if self.room_by.is_some() {
                    self.room_by = Some(now + clients.stall_timeout.duration());
                }
                self.pings.begin_again();
                is_due = true;
            }
            (true, _) => return Err(Disconnect::Stalled),
            (false, true) => return Err(Disconnect::Silent),
        }
        is_due |= self.pings.is_due(now);
        if is_due {
            self.pings.sent(now, clients);
        }
        Ok(is_due)
    }
}
