//! Counts of what happened.
//!
//! To add a metric:
//!
//! 1. its field in [`counters::Metrics`], and the values of its label, if it has one, in [`labels`];
//! 2. its name and its help text in `status/openmetrics.rs`;
//! 3. its line in `docs/operation.md`, section Metrics;
//! 4. its panel in the example `grafana-dashboard.json`: `tests/prometheus.rs` fails without one.

pub(crate) mod counter;
pub(crate) mod counters;
pub(crate) mod labels;
pub(crate) mod samples;
