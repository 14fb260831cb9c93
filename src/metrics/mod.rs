//! Counts of what happened.

pub mod counters;
