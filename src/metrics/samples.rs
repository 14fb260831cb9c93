//! Samples of the last ten minutes, for the status page.

use super::quantiles::Quantiles;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// The number of samples kept: one a second for ten minutes.
const SAMPLES: usize = 600;

/// A sample: seconds since the Unix epoch, messages received and sent in the second before, viewers, processor time of the second before
/// in percent of one core.
pub(crate) type Sample = (u64, u64, u64, usize, f64);

/// The samples of the last ten minutes.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    all: Mutex<VecDeque<Sample>>,
    lag: Mutex<Option<Quantiles>>,
    /// Changes with every sample.
    tick: watch::Sender<u64>,
}

impl Samples {
    /// Returns all samples, the oldest first.
    pub(crate) fn all(&self) -> Vec<Sample> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Returns the newest sample.
    pub(crate) fn last(&self) -> Option<Sample> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).back().copied()
    }

    /// Returns the delivery lag of the last minute; `None` if nothing was delivered.
    pub(crate) fn lag(&self) -> Option<Quantiles> {
        *self.lag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the delivery lag of the last minute.
    pub(crate) fn set_lag(&self, lag: Option<Quantiles>) {
        *self.lag.lock().unwrap_or_else(PoisonError::into_inner) = lag;
    }

    /// Adds a sample. Drops the oldest one if there is no room.
    pub(crate) fn add(&self, sample: Sample) {
        let mut samples = self.all.lock().unwrap_or_else(PoisonError::into_inner);
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
