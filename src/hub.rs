//! All channels: takes messages in, hands out cursors, and lets history go when its time or its space is over.
//!
//! Every method takes the time, so that tests need not wait. One lock guards the maps; a run's own lock is taken inside
//! it, never the other way round, and a cursor that reads takes only the run's.

use crate::channel::{Channel, End, Log, Place};
use crate::config::History;
use crate::cursor::{Cursor, Turn};
use crate::logging::Abridged;
use crate::message::{Kind, RELEASE_FRAME};
use crate::metrics::Metrics;
use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// All channels of a monitor.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    metrics: Arc<Metrics>,
    /// Notified when something is due earlier than before.
    earlier: Notify,
}

#[derive(Debug)]
struct State {
    limits: History,
    /// The current run of each channel.
    channels: HashSet<ById>,
    open: Order,
    finished: Order,
    draining: Order,
    /// Runs whose last message said FAILED.
    failed: Order,
    runs: u64,
    /// The sum of what the runs cost, in bytes.
    used: usize,
    stopping: bool,
    /// When [`Hub::keep_time`] wakes.
    alarm: Option<Instant>,
}

/// The channel of [`Hub::probe`]: no id from outside is empty.
const PROBE: &str = "";

/// Runs in the order of their times; the run's number makes equal times distinct.
type Order = BTreeMap<(Instant, u64), Arc<Channel>>;

/// A run, found by the id of its channel.
#[derive(Debug)]
struct ById(Arc<Channel>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        self.0.id()
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id().hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id() == other.0.id()
    }
}

impl Eq for ById {}

/// How much a hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Channels reachable by id.
    pub channels: usize,
    /// Those of them whose job has finished.
    pub finished: usize,
    /// What the history of all runs costs, in bytes.
    pub bytes: usize,
}

impl Hub {
    /// A hub without channels.
    #[must_use]
    pub fn new(limits: History, metrics: Arc<Metrics>) -> Arc<Self> {
        let state = State {
            limits,
            channels: HashSet::new(),
            open: Order::new(),
            finished: Order::new(),
            draining: Order::new(),
            failed: Order::new(),
            runs: 0,
            used: 0,
            stopping: false,
            alarm: None,
        };
        Arc::new(Self { state: Mutex::new(state), metrics, earlier: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a message's ready frame to its channel and wakes the viewers.
    pub fn publish(&self, now: Instant, id: &str, kind: Kind, frame: &[u8]) {
        self.publisher(now).publish(id, kind, frame);
    }

    /// Takes messages that arrived together. Nobody else gets at the hub meanwhile.
    pub fn publisher(&self, now: Instant) -> Publisher<'_> {
        Publisher { hub: self, state: self.state(), now, appended: 0 }
    }

    /// Subscribes a viewer, from the oldest message kept.
    pub fn subscribe(self: &Arc<Self>, now: Instant, id: &str) -> Cursor {
        let mut state = self.state();
        let channel = state.current(id, now);
        let mut log = channel.log();
        log.viewers += 1;
        let start = log.start();
        if log.place == Place::Open {
            log.touched = now;
        }
        drop(log);
        if id != PROBE {
            self.metrics.viewers.add(1);
        }
        self.evict(&mut state, channel.run());
        self.set_alarm(&mut state);
        drop(state);
        Cursor::new(Arc::clone(self), channel, start)
    }

    /// Takes note that a cursor of `channel` is gone.
    pub(crate) fn leave(&self, channel: &Arc<Channel>) {
        let mut state = self.state();
        let mut log = channel.log();
        log.viewers -= 1;
        let idle =
            log.viewers == 0 && (log.place == Place::Draining || log.place == Place::Open && log.messages() == 0);
        if idle {
            state.remove(channel, &mut log);
        }
    }

    /// Ends every run that is open: viewers get what there is and are told that the monitor stops.
    pub fn stop(&self) {
        let mut state = self.state();
        state.stopping = true;
        // They take no message any more, not even the monitor's own.
        for channel in std::mem::take(&mut state.failed).into_values() {
            channel.log().failed_at = None;
        }
        for channel in state.open.values() {
            channel.log().end = Some(End::Stopping);
            channel.changed.notify_waiters();
        }
    }

    /// Sends a message through the hub and completes when it has come out at a subscribed cursor.
    pub async fn probe(self: &Arc<Self>) {
        let mut cursor = self.subscribe(Instant::now(), PROBE);
        let channel = Arc::clone(cursor.channel());
        let come_out = async {
            loop {
                let changed = channel.changed.notified();
                match cursor.turn(|bytes| Ok(bytes.len())) {
                    Ok(Turn::CaughtUp) => changed.await,
                    _ => return,
                }
            }
        };
        let go_in = async { self.publish(Instant::now(), PROBE, Kind::Progress, RELEASE_FRAME) };
        tokio::join!(come_out, go_in);
        self.state().discard(&channel, End::Finished);
    }

    /// Takes up changed limits. They apply to what comes; what is due by them goes at once.
    pub fn set_limits(&self, limits: History) {
        let mut state = self.state();
        state.limits = limits;
        self.evict(&mut state, 0);
        drop(state);
        self.expire(Instant::now());
    }

    /// What the hub holds now.
    pub fn usage(&self) -> Usage {
        let state = self.state();
        Usage { channels: state.channels.len(), finished: state.finished.len(), bytes: state.used }
    }

    /// Does what is due: releases failed jobs, lets finished and never finished channels go.
    pub fn expire(&self, now: Instant) {
        let mut publisher = self.publisher(now);
        while let Some(channel) = due(&publisher.state.failed, now, publisher.state.limits.release_failed()) {
            self.metrics.released.add(1);
            log::info!("channel {}: failed and fell silent; FINISHED sent in its place", Abridged(channel.id()));
            publisher.append(&channel, channel.log(), Kind::Finished, RELEASE_FRAME);
        }
        let state = &mut publisher.state;
        while let Some(channel) = due(&state.finished, now, Some(state.limits.finished.duration())) {
            state.supersede(&channel);
        }
        let mut expired = 0;
        state.order_open();
        while let Some(channel) = due(&state.open, now, Some(state.limits.unfinished.duration())) {
            expired += 1;
            state.discard(&channel, End::Expired);
            state.order_open();
        }
        if expired > 0 {
            self.metrics.expired.add(expired);
            log::info!("{expired} channel(s) expired: no message and no new viewer within history.unfinished");
        }
        state.alarm = None; // and set again as the publisher goes
    }

    /// Calls [`Hub::expire`] whenever something is due. Never returns.
    pub async fn keep_time(&self) {
        loop {
            let alarm = self.state().alarm;
            let ring = async {
                match alarm {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ring => self.expire(Instant::now()),
                () = self.earlier.notified() => {}
            }
        }
    }

    /// Asserts that the counter equals the sum over all runs, every run is in one place, and nothing is over the bound.
    ///
    /// # Panics
    /// If it is not so.
    #[cfg(any(test, fuzzing))]
    pub fn check(&self) {
        let state = self.state();
        let runs: Vec<_> =
            [&state.open, &state.finished, &state.draining].into_iter().flat_map(Order::values).collect();
        assert_eq!(state.used, runs.iter().map(|channel| channel.cost(&channel.log())).sum::<usize>());
        // Once it stops, nothing is evicted any more and nobody keeps the time.
        assert!(state.used <= state.limits.total_bytes || runs.len() == 1 || state.stopping);
        assert_eq!(state.channels.len(), state.open.len() + state.finished.len());
        for channel in state.failed.values() {
            assert_eq!(channel.log().place, Place::Open);
        }
        if let Some(due) = state.next_due().filter(|_| !state.stopping) {
            assert!(state.alarm.is_some_and(|alarm| alarm <= due));
        }
    }

    fn set_alarm(&self, state: &mut State) {
        let next = state.next_due();
        if next.is_some() && state.alarm.is_none_or(|alarm| next < Some(alarm)) {
            state.alarm = next;
            self.earlier.notify_one();
        }
    }

    /// Brings the history of all runs under its bound, sparing the run numbered `spare`.
    fn evict(&self, state: &mut State, spare: u64) {
        let mut evicted = 0;
        while state.used > state.limits.total_bytes {
            state.order_open();
            let mut oldest = state.draining.values().chain(state.finished.values()).chain(state.open.values());
            let Some(channel) = oldest.find(|channel| channel.run() != spare).cloned() else { break };
            state.discard(&channel, End::Evicted);
            evicted += 1;
        }
        if evicted > 0 {
            let before = self.metrics.evicted.get();
            self.metrics.evicted.add(evicted);
            // One line for the first, then one each time the count gains a digit: a full house evicts all the time.
            if before == 0 || before.ilog10() < self.metrics.evicted.get().ilog10() {
                log::warn!(
                    "the history of all channels is over history.total_bytes ({} bytes): {} evicted so far, the oldest \
                     finished first",
                    state.limits.total_bytes,
                    self.metrics.evicted.get()
                );
            }
        }
    }
}

/// The hub, taken by one broker's link for the messages of one read.
#[derive(Debug)]
pub struct Publisher<'a> {
    hub: &'a Hub,
    state: MutexGuard<'a, State>,
    now: Instant,
    /// What is to be counted in the metrics.
    appended: usize,
}

impl Publisher<'_> {
    /// Appends a message's ready frame to its channel and wakes the viewers.
    pub fn publish(&mut self, id: &str, kind: Kind, frame: &[u8]) {
        let mut channel = self.state.current(id, self.now);
        let mut log = channel.log();
        if log.end == Some(End::Finished) {
            if kind == Kind::Finished {
                self.hub.metrics.repeated.add(1);
                log::debug!("channel {}: dropped a repeated FINISHED", Abridged(id));
                return;
            }
            drop(log);
            self.state.supersede(&channel);
            channel = self.state.current(id, self.now);
            log = channel.log();
        }
        self.append(&channel, log, kind, frame);
    }

    fn append(&mut self, channel: &Arc<Channel>, mut log: MutexGuard<'_, Log>, kind: Kind, frame: &[u8]) {
        if log.end.is_some() {
            return; // the monitor stops
        }
        let (hub, state, now) = (self.hub, &mut *self.state, self.now);
        let trimmed_before = log.trimmed;
        let dropped = log.append(frame, state.limits.channel());
        if channel.id() != PROBE {
            self.appended += 1;
        }
        if dropped > 0 {
            hub.metrics.trimmed.add(dropped);
            if !trimmed_before {
                log::warn!(
                    "channel {}: history is over its bounds (history.channel_messages, history.channel_bytes); its \
                     oldest messages are dropped, late viewers get the rest",
                    Abridged(channel.id())
                );
            }
        }
        state.forget_failure(channel, &mut log);
        log.touched = now;
        match kind {
            Kind::Progress => {}
            Kind::Failed => {
                log.failed_at = Some(now);
                state.failed.insert((now, channel.run()), Arc::clone(channel));
            }
            Kind::Finished => {
                log.finish();
                state.place(channel, &mut log, Place::Finished, now);
            }
        }
        state.count(channel, &mut log);
        let watched = log.viewers > 0;
        drop(log);
        if watched {
            channel.changed.notify_waiters();
        }
        hub.evict(state, channel.run());
    }
}

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        self.hub.metrics.messages.add(self.appended);
        self.hub.set_alarm(&mut self.state);
    }
}

/// The first run of `order` that has been there for `time`.
fn due(order: &Order, now: Instant, time: Option<std::time::Duration>) -> Option<Arc<Channel>> {
    let (&(since, _), channel) = order.first_key_value()?;
    (since + time? <= now).then(|| Arc::clone(channel))
}

impl State {
    /// The current run of channel `id`, begun if there is none.
    fn current(&mut self, id: &str, now: Instant) -> Arc<Channel> {
        if let Some(ById(channel)) = self.channels.get(id) {
            return Arc::clone(channel);
        }
        self.runs += 1;
        let channel = Channel::new(id, self.runs, now);
        self.channels.insert(ById(Arc::clone(&channel)));
        let mut log = channel.log();
        log.end = self.stopping.then_some(End::Stopping);
        self.place(&channel, &mut log, Place::Open, now);
        self.count(&channel, &mut log);
        drop(log);
        channel
    }

    fn order(&mut self, place: Place) -> Option<&mut Order> {
        match place {
            Place::Open => Some(&mut self.open),
            Place::Finished => Some(&mut self.finished),
            Place::Draining => Some(&mut self.draining),
            Place::Gone => None,
        }
    }

    /// Brings the longest idle run to the front of those that are open: a message costs less when it does not move its run.
    fn order_open(&mut self) {
        while let Some((&(since, _), channel)) = self.open.first_key_value() {
            let channel = Arc::clone(channel);
            let mut log = channel.log();
            let touched = log.touched;
            if touched == since {
                return;
            }
            self.place(&channel, &mut log, Place::Open, touched);
        }
    }

    fn place(&mut self, channel: &Arc<Channel>, log: &mut Log, place: Place, since: Instant) {
        let key = (log.since, channel.run());
        if let Some(order) = self.order(log.place) {
            order.remove(&key);
        }
        (log.place, log.since) = (place, since);
        if let Some(order) = self.order(place) {
            order.insert((since, channel.run()), Arc::clone(channel));
        }
    }

    /// Brings what is counted for a run up to date.
    fn count(&mut self, channel: &Channel, log: &mut Log) {
        let cost = channel.cost(log);
        self.used = self.used - log.counted + cost;
        log.counted = cost;
    }

    fn forget_failure(&mut self, channel: &Channel, log: &mut Log) {
        if let Some(at) = log.failed_at.take() {
            self.failed.remove(&(at, channel.run()));
        }
    }

    /// Makes a finished run unreachable by id; it stays for the viewers that still read it.
    fn supersede(&mut self, channel: &Arc<Channel>) {
        let mut log = channel.log();
        if log.viewers == 0 {
            self.remove(channel, &mut log);
        } else {
            self.channels.remove(channel.id());
            let since = log.since;
            self.place(channel, &mut log, Place::Draining, since);
        }
    }

    /// Lets a run and its history go, its viewers with it.
    fn discard(&mut self, channel: &Arc<Channel>, end: End) {
        let mut log = channel.log();
        log.discard(end);
        self.remove(channel, &mut log);
        drop(log);
        channel.changed.notify_waiters();
    }

    fn remove(&mut self, channel: &Arc<Channel>, log: &mut Log) {
        self.forget_failure(channel, log);
        if matches!(log.place, Place::Open | Place::Finished) {
            self.channels.remove(channel.id());
        }
        let since = log.since;
        self.place(channel, log, Place::Gone, since);
        self.used -= std::mem::take(&mut log.counted);
    }

    fn next_due(&self) -> Option<Instant> {
        let after = |order: &Order, time: Option<std::time::Duration>| Some(order.first_key_value()?.0.0 + time?);
        [
            after(&self.failed, self.limits.release_failed()),
            after(&self.finished, Some(self.limits.finished.duration())),
            after(&self.open, Some(self.limits.unfinished.duration())),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

#[cfg(test)]
mod tests;
