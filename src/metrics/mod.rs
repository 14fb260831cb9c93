//! Counts of what happened.

pub mod counters;
pub mod samples;
