//! The status listener: its answers, the requests that it refuses, and its numbers.

mod answers;
mod command;
mod events;
mod jobs;
mod metrics;
mod process;

use crate::common::exposition::Metrics;
use crate::common::http::{Answer, STATUS, metrics, status};
use crate::common::{Monitor, until};
use serde_json::Value;

const PLAIN: &str = "text/plain; charset=utf-8";

fn start(config: &str) -> Monitor {
    Monitor::start(&format!("{STATUS}{config}"))
}

/// Waits until this is so of the metrics, and returns them.
fn metrics_when(monitor: &Monitor, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
    let at = status(monitor);
    until(what, || Some(metrics(at)).filter(|metrics| wanted(metrics)))
}

/// Asserts these values of samples, whose names are without the common prefix.
fn counts(metrics: &Metrics, expected: &[(&str, u64)]) {
    for (series, count) in expected {
        assert_eq!(metrics.count(&format!("recodex_monitor_{series}")), *count, "{series}");
    }
}

fn json_of(answer: &Answer) -> Value {
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    serde_json::from_str(&answer.body).expect("JSON")
}

/// The length of a text's frame, as the monitor sends it.
fn frame(text: &str) -> u64 {
    let head = if text.len() < 126 { 2 } else { 4 };
    (head + text.len()) as u64
}
