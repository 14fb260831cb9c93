//! Counts of what happened.
//!
//! To add a metric: its field stands in [`counters::Metrics`], the values of its label in [`labels`]. `status/openmetrics.rs` gives it its
//! name and its help text, and `docs/operation.md`, section Metrics, explains it. `tests/prometheus.rs` fails if the page does not.

pub mod counter;
pub mod counters;
pub mod labels;
pub mod samples;
