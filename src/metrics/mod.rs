//! Counts of what happened, and what the process takes from the machine.
//!
//! CONTRIBUTING.md lists what a new metric touches.

pub(crate) mod counter;
pub(crate) mod counters;
pub(crate) mod labels;
pub(crate) mod process;
pub(crate) mod quantiles;
pub(crate) mod samples;
