//! The last jobs, for the status page.

use crate::hub::Hub;
use crate::hub::run::{Run, Unfinished};
use crate::hub::table::Order;
use crate::wire::message::RELEASE_FRAME;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The longest list of jobs.
pub(crate) const JOBS: usize = 10;
/// The most runs of one order that are looked at: channels without a message are passed over.
const LOOKED_AT: usize = 256;

/// FAILED and ABORTED as ready frames. The first byte occurs in no text of a frame.
const FAILED_FRAME: &[u8] = b"\x81\x15{\"command\": \"FAILED\"}";
const ABORTED_FRAME: &[u8] = b"\x81\x16{\"command\": \"ABORTED\"}";

/// The state of a job, as far as its messages tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobState {
    Open,
    Finished,
    /// The last message, except FINISHED, was FAILED.
    Failed,
    /// The last message, except FINISHED, was ABORTED.
    Aborted,
}

/// A job that has sent a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    /// The number of its run, which no other run of the process has.
    pub number: u64,
    pub id: Arc<str>,
    pub state: JobState,
    pub viewers: usize,
    /// The messages that are kept.
    pub messages: usize,
    /// The time since its last message.
    pub silent: Duration,
}

impl Hub {
    /// Returns the jobs that began last, the newest first.
    ///
    /// They are chosen among the runs at the ends of the orders in which runs expire, so that the number of channels does not matter.
    pub(crate) fn last_jobs(&self, now: Instant) -> Vec<Job> {
        let table = self.table();
        let last = |order: &Order| order.values().rev().take(LOOKED_AT).copied().collect::<Vec<_>>();
        let slots = [last(&table.open), last(&table.finished)].concat();
        let runs = slots.into_iter().map(|slot| &*table.runs[slot]);
        let mut runs: Vec<_> = runs.filter(|run| run.messages() > 0 && !run.is_probe()).collect();
        runs.sort_unstable_by_key(|run| Reverse(run.number()));
        runs.into_iter().take(JOBS).map(|run| job(run, now)).collect()
    }
}

fn job(run: &Run, now: Instant) -> Job {
    Job {
        number: run.number(),
        id: Arc::clone(run.id()),
        state: state(run),
        viewers: run.viewers(),
        messages: run.messages(),
        silent: now.saturating_duration_since(run.appended),
    }
}

fn state(run: &Run) -> JobState {
    match run.unfinished {
        Some((Unfinished::Failed, _)) => return JobState::Failed,
        Some((Unfinished::Aborted, _)) => return JobState::Aborted,
        None => {}
    }
    match run.bytes_from(run.start()).unwrap_or_default().strip_suffix(RELEASE_FRAME) {
        None => JobState::Open,
        Some(before) if before.ends_with(FAILED_FRAME) => JobState::Failed,
        Some(before) if before.ends_with(ABORTED_FRAME) => JobState::Aborted,
        Some(_) => JobState::Finished,
    }
}
