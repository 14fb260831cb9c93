//! Pings: when each viewer gets the next one and has to answer it, and the sweep over the quiet ones.
//!
//! There is no queue of deadlines. A sweep looks at all entries in turn. The next one begins when the earliest deadline has come, but not
//! before [`PAUSE`] has passed, unless an entry with an earlier deadline comes. An entry costs a few nanoseconds in a sweep, and no memory.

use crate::config::Clients;
use crate::deadline;
use crate::hub::Hub;
use crate::hub::fan_out::round::Slice;
use crate::hub::fan_out::{Reason, State};
use crate::hub::table::Table;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The least time between two sweeps, and so the most by which a ping or the end of a wait for its answer comes late.
const PAUSE: Duration = Duration::from_millis(100);

/// A ping without payload.
const PING: [u8; 2] = [0x89, 0];

/// The time of a viewer's next ping, and the deadline of its answer. Both stay the same while the viewer becomes quiet or busy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pings {
    ping_at: Instant,
    /// Set while a ping is not answered.
    answer_by: Option<Instant>,
}

impl Pings {
    /// Begins with a first ping at `ping_at`.
    pub(crate) fn at(ping_at: Instant) -> Self {
        Self { ping_at, answer_by: None }
    }

    /// Begins with a first ping in `clients.ping_interval`.
    pub(crate) fn new(clients: &Clients) -> Self {
        Self::at(Instant::now() + clients.ping_interval.duration())
    }

    /// Returns the next deadline.
    pub(crate) fn next(&self) -> Instant {
        self.answer_by.map_or(self.ping_at, |by| by.min(self.ping_at))
    }

    /// Returns true if a ping is due.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.ping_at <= now
    }

    /// Returns true if the answer to a ping has not come in time.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.answer_by.is_some_and(|by| by <= now)
    }

    /// Notes that the viewer sent something.
    pub(crate) fn answered(&mut self) {
        self.answer_by = None;
    }

    /// Notes that a ping is sent now. The next one is due a whole number of intervals after this one was due, so that viewers keep their
    /// distance in time.
    pub(crate) fn sent(&mut self, now: Instant, clients: &Clients) {
        let interval = clients.ping_interval.duration().max(Duration::from_millis(1));
        if let Some(late) = now.checked_duration_since(self.ping_at) {
            let intervals = late.as_nanos() / interval.as_nanos() + 1;
            self.ping_at += interval * u32::try_from(intervals).unwrap_or(u32::MAX);
        }
        self.answer_by.get_or_insert_with(|| now + clients.ping_timeout.duration());
    }

    /// Notes that the viewer could not be heard until now: it is to be pinged again, and its time begins then.
    pub(crate) fn begin_again(&mut self) {
        self.answer_by = None;
    }

    /// Returns the deadlines of a viewer that has until `at` to answer its close frame, and is not pinged any more.
    pub(crate) fn closing(at: Instant) -> Self {
        Self { ping_at: at, answer_by: Some(at) }
    }
}

impl Hub {
    /// Looks at quiet viewers' deadlines for a slice of time: sends the pings that are due, and hands back the viewers that have not
    /// answered one. Returns true if the sweep has to go on.
    pub(crate) fn sweep(&self, now: Instant, clients: &Clients) -> bool {
        let mut table = self.table();
        let more = table.sweep(now, clients);
        self.wake(&table);
        more
    }

    /// Waits until the next sweep is due.
    pub(crate) async fn sweep_due(&self) {
        loop {
            let earlier = self.sweep_earlier.notified();
            let at = self.table().fan_out.sweep_at;
            let due = async {
                match at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => return,
                () = earlier => {}
            }
        }
    }

    /// Notes a deadline that is new.
    pub(super) fn note_deadline(&self, table: &mut Table, at: Instant) {
        let fan_out = &mut table.fan_out;
        fan_out.earliest = Some(fan_out.earliest.map_or(at, |earliest| earliest.min(at)));
        if fan_out.sweep_at.is_none_or(|sweep_at| at < sweep_at) {
            fan_out.sweep_at = Some(at);
            self.sweep_earlier.notify_one();
        }
    }
}

impl Table {
    fn sweep(&mut self, now: Instant, clients: &Clients) -> bool {
        let mut slice = Slice::begin();
        if self.fan_out.swept == 0 {
            self.fan_out.earliest = None;
        }
        while self.fan_out.swept < self.fan_out.entries.capacity() {
            if slice.is_over() {
                return true;
            }
            let index = self.fan_out.swept;
            self.fan_out.swept += 1;
            self.keep_deadlines(index, now, clients);
        }
        let fan_out = &mut self.fan_out;
        fan_out.swept = 0;
        fan_out.sweep_at = fan_out.earliest.map(|at| at.max(now + PAUSE));
        false
    }

    /// Sends the ping of an entry if it is due, or hands the entry back if it has not answered in time.
    fn keep_deadlines(&mut self, index: usize, now: Instant, clients: &Clients) {
        let Some(entry) = self.fan_out.entry(index) else { return };
        let (is_over, is_closing) = (entry.pings.is_over(now), matches!(entry.state, State::Closing(_)));
        match (is_over, is_closing) {
            (true, true) => self.keep_closing(index, now),
            // The answer may already be in the socket.
            (true, false) => self.hear(index),
            (false, _) => {}
        }
        let Some(entry) = self.fan_out.entry(index) else { return };
        let is_silent = !is_closing && entry.pings.is_over(now);
        if is_silent {
            if !deadline::was_paused(entry.pings.next()) {
                return self.hand_back(index, Reason::Silent);
            }
            entry.pings.begin_again();
        }
        if !is_closing && (is_silent || entry.pings.is_due(now)) {
            entry.pings.sent(now, clients);
            // Between two frames: an entry never has a rest of one.
            let sent = send(&entry.socket, &PING, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            match sent {
                Ok(2) => {}
                Ok(count) => return self.hand_back(index, Reason::Ping(&PING[count..])),
                Err(Errno::AGAIN | Errno::INTR) => return self.hand_back(index, Reason::Ping(&PING)),
                Err(e) => return self.hand_back(index, Reason::Gone(Some(e.into()))),
            }
        }
        let (next, earliest) = (entry.pings.next(), &mut self.fan_out.earliest);
        *earliest = Some(earliest.map_or(next, |earliest| earliest.min(next)));
    }
}
