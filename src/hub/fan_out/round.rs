//! Rounds: what was appended to a run is written to its quiet viewers, in slices of time.
//!
//! An append only marks its run. So what came in one read of a broker leaves as one write to each viewer. A round that takes longer than a
//! slice goes on in turn with those of other runs. A run that was just marked is written to before the rounds that go on.

use crate::hub::Hub;
use crate::hub::cursor::{WRITE_LIMIT, frames_begun};
use crate::hub::fan_out::audience::Audience;
use crate::hub::fan_out::{Entry, FanOut, Reason, State, number};
use crate::hub::run::Run;
use crate::hub::table::Table;
use crate::metrics::counters::Metrics;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::time::Duration;
use tokio::time::Instant;

/// The time after which writing gives other tasks their turn. The last few writes may take longer.
const SLICE: Duration = Duration::from_millis(1);
/// The number of steps after which the clock is read: a write takes 5 to 10 microseconds.
const STEPS: usize = 16;
/// The bytes that count as a step.
const BYTES: usize = 16 * 1024;

#[cfg(any(test, fuzzing))]
thread_local! {
    /// The number of steps after which every slice is over, if a test has set one.
    pub(super) static STEPS_IN_TEST: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
}

/// A slice of time.
pub(super) struct Slice {
    until: Option<Instant>,
    /// Steps until the clock is read.
    steps: usize,
    is_over: bool,
    /// The steps so far, for tests.
    #[cfg(any(test, fuzzing))]
    tested: u32,
}

impl Slice {
    /// Begins a slice of [`SLICE`].
    pub(super) fn begin() -> Self {
        Self::until(Some(Instant::now() + SLICE))
    }

    fn until(until: Option<Instant>) -> Self {
        Self {
            until,
            steps: STEPS,
            is_over: false,
            #[cfg(any(test, fuzzing))]
            tested: 0,
        }
    }

    /// Begins a slice without an end.
    pub(super) fn endless() -> Self {
        Self::until(None)
    }

    /// Returns true if the slice is over. Called before each step.
    pub(super) fn is_over(&mut self) -> bool {
        #[cfg(any(test, fuzzing))]
        if let Some(most) = STEPS_IN_TEST.get().filter(|_| self.until.is_some()) {
            self.tested += 1;
            self.is_over = self.tested > most;
            return self.is_over;
        }
        self.steps = self.steps.saturating_sub(1);
        if self.steps == 0 {
            self.steps = STEPS;
            self.is_over = self.until.is_some_and(|until| Instant::now() >= until);
        }
        self.is_over
    }

    /// Notes that so many bytes were written.
    fn wrote(&mut self, bytes: usize) {
        self.steps = self.steps.saturating_sub(bytes / BYTES);
    }
}

/// Counts of what a part of a round has written.
#[derive(Default)]
struct Tally {
    /// Viewers that have got everything.
    viewers: usize,
    messages: usize,
    bytes: usize,
    /// An offset, and the number of messages from there on. Most entries of a run are at the same offset.
    known: Option<(u64, usize)>,
}

impl Tally {
    fn count(&self, run: &Run, metrics: &Metrics) {
        if self.bytes > 0 && !run.is_probe() {
            metrics.sent.add(self.messages);
            metrics.sent_bytes.add(self.bytes);
            // All are counted with the delay of the last one, which is at most a slice more than their own.
            metrics.lag.observe(run.appended.elapsed(), self.viewers);
        }
    }
}

impl Hub {
    /// Writes to quiet viewers for a slice of time. Returns true if there is more to write.
    pub(crate) fn deliver(&self) -> bool {
        let mut table = self.table();
        let more = table.deliver(true);
        self.wake(&table);
        more
    }

    /// Completes when there may be something to write.
    pub(crate) async fn some_rounds(&self) {
        self.rounds.notified().await;
    }
}

impl Table {
    /// Notes that a run has grown or ended. Its quiet viewers are written to in the next slice.
    pub(in crate::hub) fn mark(&mut self, slot: usize) {
        let audience = self.runs[slot].audience.as_deref_mut();
        let Some(audience) = audience.filter(|audience| !audience.quiet.is_empty()) else { return };
        audience.more = true;
        if !audience.queued {
            audience.queued = true;
            self.fan_out.fresh.push_back(slot);
        }
    }

    /// Writes to quiet viewers for a slice of time: of the runs that were marked since the last one, and, if `all` is set, of those whose
    /// rounds go on. Returns true if there is more to write.
    pub(in crate::hub) fn deliver(&mut self, all: bool) -> bool {
        let mut slice = None;
        while let Some(slot) = self.fan_out.next_run(all) {
            let slice = slice.get_or_insert_with(Slice::begin);
            // The slot may belong to another run by now, or be free.
            if let Some(run) = self.runs.get_mut(slot) {
                self.fan_out.write_round(slot, run, slice);
            }
            if slice.is_over {
                // Runs without a slice so far go first.
                let FanOut { fresh, rounds, .. } = &mut self.fan_out;
                fresh.append(rounds);
                std::mem::swap(fresh, rounds);
                break;
            }
        }
        !self.fan_out.rounds.is_empty()
    }

    /// Writes all there is to the quiet viewers of a run, at once. No message is dropped before the fan-out has tried to send it.
    ///
    /// This is not cut into slices. It happens only if three quarters of a channel's bounds came during the current round, or if a run is
    /// evicted during its round.
    pub(in crate::hub) fn write_all(&mut self, slot: usize) {
        let run = &mut self.runs[slot];
        let Some(mut audience) = run.audience.take() else { return };
        while audience.is_in_round() {
            audience.begin_round(run.log_end());
            self.fan_out.write_to(&mut audience, run, &mut Slice::endless());
            audience.end_round();
        }
        run.audience = Some(audience);
    }
}

impl FanOut {
    fn next_run(&mut self, all: bool) -> Option<usize> {
        self.fresh.pop_front().or_else(|| if all { self.rounds.pop_front() } else { None })
    }

    /// Goes on with the round of a run until it is complete or the slice is over, and queues the run for what comes next.
    fn write_round(&mut self, slot: usize, run: &mut Run, slice: &mut Slice) {
        let Some(mut audience) = run.audience.take() else { return };
        audience.begin_round(run.log_end());
        self.write_to(&mut audience, run, slice);
        audience.end_round();
        audience.queued = audience.is_in_round();
        if audience.queued {
            self.rounds.push_back(slot);
        } else if run.end.is_some() && !audience.quiet.is_empty() {
            self.ended.push_back(slot);
        }
        run.audience = Some(audience);
    }

    /// Writes to the quiet viewers that the round has not come to.
    fn write_to(&mut self, audience: &mut Audience, run: &Run, slice: &mut Slice) {
        let mut tally = Tally::default();
        while audience.pending > 0 && !slice.is_over() {
            audience.pending -= 1;
            let position = audience.pending;
            let index = audience.quiet[position];
            let entry = &mut self.entries[index as usize];
            let before = tally.bytes;
            if let Some(reason) = write(entry, run, &mut tally) {
                entry.state = State::Back(None);
                if let Some(moved) = audience.remove(position) {
                    self.entries[moved as usize].state = State::Quiet(number(position));
                }
                self.back.push_back((index, reason));
            }
            slice.wrote(tally.bytes - before);
        }
        tally.count(run, &self.metrics);
    }
}

/// Writes to one entry what it has not got. Returns the reason if its viewer must become busy.
fn write(entry: &mut Entry, run: &Run, tally: &mut Tally) -> Option<Reason> {
    // If the log was discarded meanwhile, the run has ended: the viewer is closed after the round.
    let pending = run.bytes_from(entry.offset).filter(|bytes| !bytes.is_empty())?;
    let bytes = &pending[..pending.len().min(WRITE_LIMIT)];
    let written = match send(&entry.socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Ok(written) => written,
        Err(Errno::AGAIN | Errno::INTR) => return Some(Reason::Full(Vec::new())),
        Err(e) => return Some(Reason::Gone(Some(e.into()))),
    };
    tally.bytes += written;
    if written == pending.len() {
        tally.viewers += 1;
        let messages = match tally.known {
            Some((offset, messages)) if offset == entry.offset => messages,
            _ => frames_begun(pending, written).1,
        };
        tally.known = Some((entry.offset, messages));
        tally.messages += messages;
        entry.offset += written as u64;
        return None;
    }
    let (end, messages) = frames_begun(pending, written);
    tally.messages += messages;
    entry.offset += end as u64;
    Some(Reason::Full(pending[written..end].to_vec()))
}
