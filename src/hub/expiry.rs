//! Expiry: silent jobs are released and old runs removed when their time is over.

use crate::deadline::look_again;
use crate::hub::run::Unfinished;
use crate::hub::table::{Order, Table};
use crate::hub::{Hub, Publisher};
use crate::logging::{Abridged, Throttle};
use crate::wire::close::End;
use crate::wire::message::{Kind, RELEASE_FRAME};
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// The most runs that one call of [`Hub::expire`] releases, removes or moves; other tasks get their turn before the next call.
///
/// With 200,000 runs due at once, a run took 1 to 2 µs in a debug build, so that a call takes about half a millisecond.
pub(super) const SLICE: usize = 256;

/// The longest wait for links that do not stop sending, before expiry goes on.
const READ_ON: Duration = Duration::from_secs(1);

static RELEASED: Throttle = Throttle::bursts(5, Duration::from_secs(60));
static EXPIRED: Throttle = Throttle::bursts(5, Duration::from_secs(60));

impl Hub {
    /// Releases failed and aborted jobs, removes finished channels and expires unfinished ones whose time is over, and brings the
    /// history under a bound that has changed.
    ///
    /// Touches `SLICE` runs at most. If more are due, [`Hub::keep_time`] calls again at once.
    pub fn expire(&self, now: Instant) {
        let mut left = SLICE;
        let mut publisher = self.publisher(now);
        if publisher.table.replicated.is_none() {
            release_silent(&mut publisher, now, &mut left);
        }
        let table = &mut *publisher.table;
        // An alarm from before may ring.
        if !table.is_in_past() {
            self.remove_due(table, now, &mut left);
        }
        if table.over {
            self.evict_over_total(table, &mut left);
        }
        // The publisher sets it again when it is dropped.
        table.alarm = None;
    }

    /// Removes the runs whose time is over, and touches at most `left` of them.
    pub(super) fn remove_due(&self, table: &mut Table, now: Instant, left: &mut usize) {
        table.remove_finished(now, left);
        self.expire_unfinished(table, now, left);
    }

    /// Discards open runs that had no message and no new viewer within `history.unfinished`.
    fn expire_unfinished(&self, table: &mut Table, now: Instant, left: &mut usize) {
        table.order_open(left);
        while *left > 0
            && let Some(slot) = due(&table.open, now, Some(table.limits.unfinished.duration()))
        {
            *left -= 1;
            self.metrics.expired.add(1);
            if let Some(more) = EXPIRED.pass() {
                let id = Abridged(table.runs[slot].id());
                log::info!("channel {id}: expired: no message and no new viewer within history.unfinished{more}");
            }
            table.discard(slot, End::Expired);
            table.order_open(left);
        }
    }

    /// Calls [`Hub::expire`] whenever something is due, and gives other tasks their turn after each call. Never returns.
    ///
    /// Before each call it waits until what is in the sockets has been read: a message that came while the process was paused ends a
    /// silence, and a viewer that named its channel gets the history that is there.
    pub async fn keep_time(&self) {
        loop {
            let alarm = self.table().alarm;
            let ring = async {
                match alarm {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ring => {
                    self.read_on().await;
                    self.expire(Instant::now());
                    yield_now().await;
                }
                () = self.earlier.notified() => {}
            }
        }
    }

    /// Completes when links and viewers have read what was in their sockets, or after [`READ_ON`] if a link does not stop sending.
    async fn read_on(&self) {
        let until = Instant::now() + READ_ON;
        loop {
            let before = self.metrics.received_bytes.get();
            look_again().await;
            if self.metrics.received_bytes.get() == before || Instant::now() >= until {
                return;
            }
        }
    }

    /// Sets the alarm to the time when something is due, and wakes [`Hub::keep_time`] if that is earlier than before.
    pub(super) fn set_alarm(&self, table: &mut Table, now: Instant) {
        let next = match &table.replicated {
            _ if table.over => Some(now),
            Some(replicated) if replicated.is_in_past() => None,
            _ => table.next_due(),
        };
        if next.is_some() && table.alarm.is_none_or(|alarm| next < Some(alarm)) {
            table.alarm = next;
            self.earlier.notify_one();
        }
    }
}

impl Publisher<'_> {
    /// Counts and logs a job that is finished in place of its broker; `what` has happened to it.
    pub(super) fn count_released(&self, slot: usize, what: &str) {
        self.hub.metrics.released.add(1);
        if let Some(more) = RELEASED.pass() {
            let id = Abridged(self.table.runs[slot].id());
            log::info!("channel {id}: {what} and fell silent; FINISHED sent in its place{more}");
        }
    }
}

impl Table {
    /// Makes runs unreachable that finished longer ago than `history.finished`.
    fn remove_finished(&mut self, now: Instant, left: &mut usize) {
        while *left > 0
            && let Some(slot) = due(&self.finished, now, Some(self.limits.finished.duration()))
        {
            *left -= 1;
            self.supersede(slot);
        }
    }

    /// Returns how long a job is silent after such a message until it is released, or `None` for never.
    ///
    /// It is not longer than `history.unfinished`, so that a job which waits for its release does not expire instead.
    pub(super) fn release_after(&self, last: Unfinished) -> Option<Duration> {
        let time = match last {
            Unfinished::Failed => self.limits.release_failed(),
            Unfinished::Aborted => self.limits.release_aborted(),
        };
        time.map(|time| time.min(self.limits.unfinished.duration()))
    }

    /// Returns the earliest time at which [`Hub::expire`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let after = |order: &Order, time: Option<Duration>| Some(order.first_key_value()?.0.0 + time?);
        // A hub that is fed by a stream finishes no job by itself.
        let release = |last| self.release_after(last).filter(|_| self.replicated.is_none());
        [
            after(&self.failed, release(Unfinished::Failed)),
            after(&self.aborted, release(Unfinished::Aborted)),
            after(&self.finished, Some(self.limits.finished.duration())),
            after(&self.open, Some(self.limits.unfinished.duration())),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// Sends FINISHED to the channels of jobs that failed or were aborted and have been silent since.
fn release_silent(publisher: &mut Publisher<'_>, now: Instant, left: &mut usize) {
    for last in [Unfinished::Failed, Unfinished::Aborted] {
        while *left > 0 {
            let time = publisher.table.release_after(last);
            let Some(slot) = due(publisher.table.unfinished(last), now, time) else { break };
            *left -= 1;
            publisher.count_released(
                slot,
                match last {
                    Unfinished::Failed => "failed",
                    Unfinished::Aborted => "was aborted",
                },
            );
            let used = publisher.table.used;
            publisher.append(slot, Kind::Finished, RELEASE_FRAME, used);
        }
    }
}

/// Returns the slot of the first run of `order` if its time was at least `time` ago.
fn due(order: &Order, now: Instant, time: Option<Duration>) -> Option<usize> {
    let (&(since, _), &slot) = order.first_key_value()?;
    (since + time? <= now).then_some(slot)
}
