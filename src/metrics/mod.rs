//! Counts of what happened.
//!
//! CONTRIBUTING.md lists what a new metric touches.

pub(crate) mod counter;
pub(crate) mod counters;
pub(crate) mod labels;
pub(crate) mod samples;
