//! All channels: takes messages in, hands out cursors, and lets history go when its time or its space is over.
//!
//! Every method takes the time, so that tests need not wait. One lock guards it all: a runtime of one thread never waits
//! for it, and a broker's link takes it once for all the messages of a read.

pub mod cursor;
pub mod run;

use crate::config::History;
use crate::deadline::look_again;
use crate::hub::cursor::{Cursor, Turn};
use crate::hub::run::{Bounds, PROBE, Run, Unfinished};
use crate::logging::{Abridged, Throttle};
use crate::metrics::counters::Metrics;
use crate::snapshot::state::{self, Lifecycle};
use crate::wire::close::End;
use crate::wire::message::{Kind, RELEASE_FRAME};
use slab::Slab;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// The most runs that one call of [`Hub::expire`] releases, lets go or moves; other tasks get their turn before the next call.
///
/// With 200,000 runs due at once, a run took 1 to 2 µs in a debug build, so that a call takes about half a millisecond.
pub const SLICE: usize = 256;

/// How long what is due may wait for links that do not stop sending.
const READ_ON: Duration = Duration::from_secs(1);

static RELEASED: Throttle = Throttle::bursts(5, Duration::from_secs(60));
static EXPIRED: Throttle = Throttle::bursts(5, Duration::from_secs(60));
static TRIMMED: Throttle = Throttle::bursts(5, Duration::from_secs(60));
static LATE: Throttle = Throttle::bursts(5, Duration::from_secs(60));

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
    /// All runs; boxed, so that the slots that a rush leaves behind are small.
    runs: Slab<Box<Run>>,
    /// The slot of each channel's current run.
    channels: HashMap<Arc<str>, usize>,
    open: Order,
    finished: Order,
    draining: Order,
    /// Runs whose last message said FAILED.
    failed: Order,
    /// Runs whose last message said ABORTED.
    aborted: Order,
    /// How many runs were begun.
    begun: u64,
    /// The sum of what the runs cost, in bytes.
    used: usize,
    stopping: bool,
    /// Whether runs stay as they are although their viewers go.
    frozen: bool,
    /// Set while there may be more history than a bound that has changed allows: [`Hub::expire`] brings it down.
    over: bool,
    /// When [`Hub::keep_time`] wakes.
    alarm: Option<Instant>,
}

/// The slots of runs in the order of their times; the run's number makes equal times distinct.
type Order = BTreeMap<(Instant, u64), usize>;

/// How much a hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Channels reachable by id.
    pub channels: usize,
    /// Those of them whose job has finished.
    pub finished: usize,
    /// Runs that are over and kept for viewers that still read them.
    pub draining: usize,
    /// What the history of all runs costs, in bytes.
    pub bytes: usize,
}

impl Hub {
    /// A hub without channels.
    #[must_use]
    pub fn new(limits: History, metrics: Arc<Metrics>) -> Arc<Self> {
        let state = State {
            limits,
            runs: Slab::new(),
            channels: HashMap::new(),
            open: Order::new(),
            finished: Order::new(),
            draining: Order::new(),
            failed: Order::new(),
            aborted: Order::new(),
            begun: 0,
            used: 0,
            stopping: false,
            frozen: false,
            over: false,
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
        let used = state.used;
        let slot = state.current(id, now);
        let run = &mut state.runs[slot];
        run.viewers += 1;
        run.touched = now;
        let changed = Arc::clone(run.changed.get_or_insert_default());
        let start = run.start();
        if id != PROBE {
            self.metrics.viewers.add(1);
        }
        self.make_room(&mut state, slot, used);
        self.set_alarm(&mut state, now);
        drop(state);
        Cursor::new(Arc::clone(self), slot, changed, start, Vec::new())
    }

    /// Takes note that a cursor of the run in `slot` is gone.
    pub(crate) fn leave(&self, slot: usize) {
        let mut state = self.state();
        if state.frozen {
            return;
        }
        let run = &mut state.runs[slot];
        run.viewers -= 1;
        if run.viewers > 0 {
            return;
        }
        run.changed = None;
        match run.lifecycle {
            None => drop(state.runs.remove(slot)),
            Some(Lifecycle::Draining) => state.remove(slot),
            Some(Lifecycle::Open) if run.messages() == 0 => state.remove(slot),
            Some(Lifecycle::Open | Lifecycle::Finished) => {}
        }
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Shows the run in `slot` to a cursor of it.
    pub(crate) fn read<T>(&self, slot: usize, read: impl FnOnce(&Run) -> T) -> T {
        read(&self.state().runs[slot])
    }

    /// Ends every run that is open: viewers get what there is and are told that the monitor stops.
    pub fn stop(&self) {
        let mut state = self.state();
        state.stopping = true;
        let State { runs, failed, aborted, open, .. } = &mut *state;
        // They take no message any more, not even the monitor's own.
        for slot in [failed, aborted].into_iter().flat_map(std::mem::take).map(|(_, slot)| slot) {
            runs[slot].unfinished = None;
        }
        for slot in open.values() {
            runs[*slot].end = Some(End::Stopping);
            runs[*slot].notify();
        }
    }

    /// Leaves every run as it is from now on, although its viewers go.
    pub fn freeze(&self) {
        self.state().frozen = true;
    }

    /// Shows the runs as another process needs them, each with its slot, in the order in which they began.
    pub fn save<T>(&self, now: Instant, show: impl FnOnce(Vec<(usize, state::Run<'_>)>) -> T) -> T {
        let state = self.state();
        let mut runs: Vec<_> = state.runs.iter().filter(|(_, run)| !run.is_probe()).collect();
        runs.sort_unstable_by_key(|(_, run)| run.number());
        show(runs.into_iter().filter_map(|(slot, run)| Some((slot, run.save(now)?))).collect())
    }

    /// Takes up the runs of another process, which saved them `elapsed` ago; returns their slots. To be followed by
    /// [`Hub::resume`] for their viewers and [`Hub::drop_unused`].
    pub fn restore(&self, now: Instant, elapsed: Duration, runs: &[state::Run<'_>]) -> Vec<usize> {
        let mut state = self.state();
        let mut restore = |saved: &state::Run<'_>| {
            let before = |age| now.checked_sub(elapsed + Duration::from_millis(age)).unwrap_or(now);
            state.begun += 1;
            let mut run = Run::restore(saved, state.begun, before(saved.touched));
            let aborted = saved.aborted.map(|age| (Unfinished::Aborted, before(age)));
            run.unfinished = saved.failed.map(|age| (Unfinished::Failed, before(age))).or(aborted);
            let (id, number, unfinished) = (Arc::clone(run.id()), run.number(), run.unfinished);
            let slot = state.runs.insert(Box::new(run));
            if saved.lifecycle != Lifecycle::Draining {
                state.channels.insert(id, slot);
            }
            if let Some((last, at)) = unfinished {
                state.unfinished(last).insert((at, number), slot);
            }
            state.set_lifecycle(slot, Some(saved.lifecycle), before(saved.since));
            state.count(slot);
            slot
        };
        runs.iter().map(&mut restore).collect()
    }

    /// A cursor for a viewer that had one in another process.
    pub fn resume(self: &Arc<Self>, slot: usize, offset: u64, rest: Vec<u8>) -> Cursor {
        let mut state = self.state();
        let run = &mut state.runs[slot];
        run.viewers += 1;
        let changed = Arc::clone(run.changed.get_or_insert_default());
        drop(state);
        Cursor::new(Arc::clone(self), slot, changed, offset, rest)
    }

    /// Lets those of the runs in `slots` go that nobody needs, and brings what was restored under the limits.
    pub fn drop_unused(&self, now: Instant, slots: &[usize]) {
        let mut state = self.state();
        for &slot in slots {
            let run = &state.runs[slot];
            if run.viewers == 0 && (run.lifecycle == Some(Lifecycle::Draining) || run.messages() == 0) {
                state.remove(slot);
            }
        }
        self.bring_down(state, now);
    }

    /// Brings the history under a bound that is new, as far as [`SLICE`] runs go. [`Hub::keep_time`] does the rest, and what is due by
    /// its time.
    fn bring_down(&self, mut state: MutexGuard<'_, State>, now: Instant) {
        let (bound, mut left) = (state.limits.total_bytes, SLICE);
        self.evict(&mut state, None, bound, &mut left);
        state.over = left == 0;
        self.set_alarm(&mut state, now);
    }

    /// Sends a message through the hub and completes when it has come out at a subscribed cursor. No history goes for it.
    pub async fn probe(self: &Arc<Self>) {
        let mut cursor = self.subscribe(Instant::now(), PROBE);
        let (slot, log) = (cursor.slot(), Arc::clone(cursor.changed()));
        let come_out = async {
            loop {
                let changed = log.notified();
                match cursor.turn(|bytes| Ok(bytes.len())) {
                    Ok(Turn::CaughtUp) => changed.await,
                    _ => return,
                }
            }
        };
        let go_in = async { self.publish(Instant::now(), PROBE, Kind::Progress, RELEASE_FRAME) };
        tokio::join!(come_out, go_in);
        self.state().discard(slot, End::Finished);
    }

    /// Takes up changed limits. They apply to what comes. Up to [`SLICE`] runs that are too many by them go at once, the others and
    /// those that are due follow in slices ([`Hub::keep_time`]).
    pub fn set_limits(&self, limits: History) {
        let mut state = self.state();
        state.limits = limits;
        self.bring_down(state, Instant::now());
    }

    /// What the hub holds now.
    pub fn usage(&self) -> Usage {
        let state = self.state();
        Usage {
            channels: state.channels.len(),
            finished: state.finished.len(),
            draining: state.draining.len(),
            bytes: state.used,
        }
    }

    /// Does what is due, for [`SLICE`] runs at most: releases failed and aborted jobs, lets finished and never finished channels
    /// go, and brings the history under a bound that has changed. If there is more, [`Hub::keep_time`] calls again at once.
    pub fn expire(&self, now: Instant) {
        let mut left = SLICE;
        let mut publisher = self.publisher(now);
        for last in [Unfinished::Failed, Unfinished::Aborted] {
            while left > 0 {
                let time = publisher.state.release_after(last);
                let Some(slot) = due(publisher.state.unfinished(last), now, time) else { break };
                left -= 1;
                self.metrics.released.add(1);
                if let Some(more) = RELEASED.pass() {
                    let what = match last {
                        Unfinished::Failed => "failed",
                        Unfinished::Aborted => "was aborted",
                    };
                    let id = publisher.state.runs[slot].id();
                    log::info!("channel {}: {what} and fell silent; FINISHED sent in its place{more}", Abridged(id));
                }
                let used = publisher.state.used;
                publisher.append(slot, Kind::Finished, RELEASE_FRAME, used);
            }
        }
        let state = &mut *publisher.state;
        while left > 0
            && let Some(slot) = due(&state.finished, now, Some(state.limits.finished.duration()))
        {
            left -= 1;
            state.supersede(slot);
        }
        state.order_open(&mut left);
        while left > 0
            && let Some(slot) = due(&state.open, now, Some(state.limits.unfinished.duration()))
        {
            left -= 1;
            self.metrics.expired.add(1);
            if let Some(more) = EXPIRED.pass() {
                let id = Abridged(state.runs[slot].id());
                log::info!("channel {id}: expired: no message and no new viewer within history.unfinished{more}");
            }
            state.discard(slot, End::Expired);
            state.order_open(&mut left);
        }
        if state.over {
            let bound = state.limits.total_bytes;
            self.evict(state, None, bound, &mut left);
            state.over = left == 0;
        }
        state.alarm = None; // and set again as the publisher goes
    }

    /// Calls [`Hub::expire`] whenever something is due, and lets other tasks have their turn after each call. Never returns.
    ///
    /// Before each call it waits for what is in the sockets: a message that came while the process was paused ends a silence, and a
    /// viewer that named its channel gets the history that is there.
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
                () = ring => {
                    self.read_on().await;
                    self.expire(Instant::now());
                    yield_now().await;
                }
                () = self.earlier.notified() => {}
            }
        }
    }

    /// Completes when brokers' links and viewers have taken up what was in their sockets. A link that does not stop sending is
    /// waited for [`READ_ON`].
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

    /// Asserts that the counter equals the sum over all runs, every run is in one place, and nothing is over the bound.
    ///
    /// # Panics
    /// If it is not so.
    #[cfg(any(test, fuzzing))]
    pub fn check(&self) {
        let state = self.state();
        let placed: Vec<_> =
            [&state.open, &state.finished, &state.draining].into_iter().flat_map(Order::values).collect();
        assert_eq!(state.used, placed.iter().map(|slot| state.runs[**slot].cost()).sum::<usize>());
        let jobs = placed.iter().filter(|slot| !state.runs[***slot].is_probe()).count();
        // Once it stops, nothing is evicted any more and nobody keeps the time.
        assert!(state.used <= state.limits.total_bytes || jobs == 1 || state.stopping || state.over);
        assert_eq!(state.channels.len(), state.open.len() + state.finished.len());
        let gone: Vec<_> = state.runs.iter().filter(|(_, run)| run.lifecycle.is_none()).collect();
        assert_eq!(state.runs.len(), placed.len() + gone.len());
        assert!(gone.iter().all(|(_, run)| run.viewers > 0));
        for (order, last) in [(&state.failed, Unfinished::Failed), (&state.aborted, Unfinished::Aborted)] {
            for (&(at, number), &slot) in order {
                let run = &state.runs[slot];
                assert_eq!(
                    (run.lifecycle, run.number(), run.unfinished),
                    (Some(Lifecycle::Open), number, Some((last, at)))
                );
            }
        }
        let unfinished = state.runs.iter().filter(|(_, run)| run.unfinished.is_some()).count();
        assert_eq!(unfinished, state.failed.len() + state.aborted.len());
        if let Some(due) = state.next_due().filter(|_| !state.stopping) {
            assert!(state.alarm.is_some_and(|alarm| alarm <= due));
        }
        assert!(state.alarm.is_some() || !state.over);
    }

    fn set_alarm(&self, state: &mut State, now: Instant) {
        let next = if state.over { Some(now) } else { state.next_due() };
        if next.is_some() && state.alarm.is_none_or(|alarm| next < Some(alarm)) {
            state.alarm = next;
            self.earlier.notify_one();
        }
    }

    /// Makes room for what the run in slot `slot` has got since `used` bytes were used in all. While the history is over a bound
    /// that has changed, it only keeps from growing.
    fn make_room(&self, state: &mut State, slot: usize, used: usize) {
        if state.runs[slot].is_probe() {
            return;
        }
        let total = state.limits.total_bytes;
        let bound = if state.over { total.max(used) } else { total };
        // No bound on the runs: each that is moved has had a message or a viewer since, and what is evicted is as large as what came.
        let mut left = usize::MAX;
        self.evict(state, Some(slot), bound, &mut left);
    }

    /// Brings the history of all runs under `bound`, sparing the run in slot `spare` and the probe's, as long as there are runs `left`
    /// to be touched.
    fn evict(&self, state: &mut State, spare: Option<usize>, bound: usize, left: &mut usize) {
        let mut evicted = 0;
        while state.used > bound && *left > 0 {
            let complete = state.draining.values().chain(state.finished.values()).find(|slot| Some(**slot) != spare);
            let slot = if let Some(slot) = complete {
                *slot
            } else {
                state.order_open(left);
                let mut open = state.open.values();
                let idle = open.find(|slot| Some(**slot) != spare && !state.runs[**slot].is_probe());
                let Some(&slot) = idle.filter(|_| *left > 0) else { break };
                slot
            };
            *left -= 1;
            state.discard(slot, End::Evicted);
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
        let used = self.state.used;
        let mut slot = self.state.current(id, self.now);
        if self.state.runs[slot].end == Some(End::Finished) {
            match kind {
                Kind::Begins => {
                    self.state.supersede(slot);
                    slot = self.state.current(id, self.now);
                }
                Kind::Finished => {
                    self.hub.metrics.repeated.add(1);
                    log::debug!("channel {}: dropped a repeated FINISHED", Abridged(id));
                    return;
                }
                Kind::Progress | Kind::Failed | Kind::Aborted => {
                    self.hub.metrics.late.add(1);
                    if let Some(more) = LATE.pass() {
                        log::info!("channel {}: dropped a message that came after FINISHED{more}", Abridged(id));
                    }
                    return;
                }
            }
        }
        self.append(slot, kind, frame, used);
    }

    /// Appends a frame to a run; `used` is what was used in all before its message came.
    fn append(&mut self, slot: usize, kind: Kind, frame: &[u8], used: usize) {
        let (hub, state, now) = (self.hub, &mut *self.state, self.now);
        let run = &mut state.runs[slot];
        if run.end.is_some() {
            return; // the monitor stops
        }
        let trimmed_before = run.trimmed;
        let dropped = run.append(frame, Bounds::of(&state.limits));
        if !run.is_probe() {
            self.appended += 1;
        }
        if dropped > 0 {
            hub.metrics.trimmed.add(dropped);
            if !trimmed_before && let Some(more) = TRIMMED.pass() {
                log::warn!(
                    "channel {}: history is over its bounds (history.channel_messages, history.channel_bytes); its \
                     oldest messages are dropped, late viewers get the rest{more}",
                    Abridged(run.id())
                );
            }
        }
        (run.touched, run.appended) = (now, now);
        run.notify();
        state.forget_unfinished(slot);
        match kind {
            Kind::Begins | Kind::Progress => {}
            Kind::Failed => state.note_unfinished(slot, Unfinished::Failed, now),
            Kind::Aborted => state.note_unfinished(slot, Unfinished::Aborted, now),
            Kind::Finished => {
                state.runs[slot].finish();
                state.set_lifecycle(slot, Some(Lifecycle::Finished), now);
            }
        }
        state.count(slot);
        hub.make_room(state, slot, used);
    }
}

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        self.hub.metrics.messages.add(self.appended);
        self.hub.set_alarm(&mut self.state, self.now);
    }
}

/// The slot of the first run of `order`, if it has been there for `time`.
fn due(order: &Order, now: Instant, time: Option<Duration>) -> Option<usize> {
    let (&(since, _), &slot) = order.first_key_value()?;
    (since + time? <= now).then_some(slot)
}

impl State {
    /// The slot of the current run of channel `id`, begun if there is none.
    fn current(&mut self, id: &str, now: Instant) -> usize {
        if let Some(slot) = self.channels.get(id) {
            return *slot;
        }
        self.begun += 1;
        let id: Arc<str> = id.into();
        let mut run = Run::new(Arc::clone(&id), self.begun, now);
        run.end = self.stopping.then_some(End::Stopping);
        let slot = self.runs.insert(Box::new(run));
        self.channels.insert(id, slot);
        self.set_lifecycle(slot, Some(Lifecycle::Open), now);
        self.count(slot);
        slot
    }

    fn order(&mut self, lifecycle: Lifecycle) -> &mut Order {
        match lifecycle {
            Lifecycle::Open => &mut self.open,
            Lifecycle::Finished => &mut self.finished,
            Lifecycle::Draining => &mut self.draining,
        }
    }

    /// Brings the longest idle run to the front of those that are open, if there are runs enough `left` to be touched: a message
    /// costs less when it does not move its run.
    fn order_open(&mut self, left: &mut usize) {
        while *left > 0
            && let Some((&(since, _), &slot)) = self.open.first_key_value()
        {
            let touched = self.runs[slot].touched;
            if touched == since {
                return;
            }
            *left -= 1;
            self.set_lifecycle(slot, Some(Lifecycle::Open), touched);
        }
    }

    /// Moves a run to another state; `None` takes it out of the hub.
    fn set_lifecycle(&mut self, slot: usize, lifecycle: Option<Lifecycle>, since: Instant) {
        let run = &mut self.runs[slot];
        let number = run.number();
        let (old, before) = (run.lifecycle, run.since);
        (run.lifecycle, run.since) = (lifecycle, since);
        if let Some(old) = old {
            self.order(old).remove(&(before, number));
        }
        if let Some(lifecycle) = lifecycle {
            self.order(lifecycle).insert((since, number), slot);
        }
    }

    /// Brings what is counted for a run up to date.
    fn count(&mut self, slot: usize) {
        let run = &mut self.runs[slot];
        let cost = run.cost();
        self.used = self.used - run.counted + cost;
        run.counted = cost;
    }

    /// The runs whose last message was this one.
    fn unfinished(&mut self, last: Unfinished) -> &mut Order {
        match last {
            Unfinished::Failed => &mut self.failed,
            Unfinished::Aborted => &mut self.aborted,
        }
    }

    /// The time of silence after such a message before a job is released, or `None` for never. It is not longer than
    /// `history.unfinished`: a job that waits for its release never expires instead.
    fn release_after(&self, last: Unfinished) -> Option<Duration> {
        let time = match last {
            Unfinished::Failed => self.limits.release_failed(),
            Unfinished::Aborted => self.limits.release_aborted(),
        };
        time.map(|time| time.min(self.limits.unfinished.duration()))
    }

    fn note_unfinished(&mut self, slot: usize, last: Unfinished, now: Instant) {
        let run = &mut self.runs[slot];
        run.unfinished = Some((last, now));
        let number = run.number();
        self.unfinished(last).insert((now, number), slot);
    }

    fn forget_unfinished(&mut self, slot: usize) {
        let run = &mut self.runs[slot];
        if let Some((last, at)) = run.unfinished.take() {
            let number = run.number();
            self.unfinished(last).remove(&(at, number));
        }
    }

    /// Makes a finished run unreachable by id; it stays for the viewers that still read it.
    fn supersede(&mut self, slot: usize) {
        let run = &self.runs[slot];
        if run.viewers == 0 {
            self.remove(slot);
        } else {
            self.channels.remove(run.id());
            let since = run.since;
            self.set_lifecycle(slot, Some(Lifecycle::Draining), since);
        }
    }

    /// Lets a run and its history go, its viewers with it.
    fn discard(&mut self, slot: usize, end: End) {
        self.runs[slot].discard(end);
        self.runs[slot].notify();
        self.remove(slot);
    }

    /// Takes a run out; its slot stays for as long as it has viewers.
    fn remove(&mut self, slot: usize) {
        self.forget_unfinished(slot);
        let run = &mut self.runs[slot];
        self.used -= std::mem::take(&mut run.counted);
        if matches!(run.lifecycle, Some(Lifecycle::Open | Lifecycle::Finished)) {
            self.channels.remove(run.id());
        }
        let (since, viewers) = (run.since, run.viewers);
        self.set_lifecycle(slot, None, since);
        if viewers == 0 {
            self.runs.remove(slot);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let after = |order: &Order, time: Option<Duration>| Some(order.first_key_value()?.0.0 + time?);
        [
            after(&self.failed, self.release_after(Unfinished::Failed)),
            after(&self.aborted, self.release_after(Unfinished::Aborted)),
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
