//! Samples of the last ten minutes, for the status page.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// The number of samples kept: one a second for ten minutes.
const SAMPLES: usize = 600;

/// A sample: seconds since the Unix epoch, messages received and sent in the second before, viewers.
pub(crate) type Sample = (u64, u64, u64, usize);

/// The samples of the last ten minutes.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    samples: Mutex<VecDeque<Sample>>,
    /// Changes with every sample.
    tick: watch::Sender<u64>,
}

impl Samples {
    /// Returns all samples, the oldest first.
    pub(crate) fn all(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Returns the newest sample.
    pub(crate) fn last(&self) -> Option<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).back().copied()
    }

    /// Adds a sample. Drops the oldest one if there is no room.
    pub(crate) fn add(&self, sample: Sample) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
        drop(samples);
        self.tick.send_modify(|tick| *tick += 1);
    }

    /// Returns a receiver that is notified of every new sample.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.tick.subscribe()
    }
}
