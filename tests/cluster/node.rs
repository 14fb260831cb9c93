//! Monitors of one cluster: their configuration, their start, and the state that they report.

use crate::common::http::{STATUS, get, metrics, status};
use crate::common::{Host, Monitor, until};
use serde_json::Value;
use std::net::SocketAddr;

/// Returns the configuration of a node whose Redis, or whose proxy to it, is at this address. `more` are more lines of it.
pub(crate) fn config(redis: SocketAddr, more: &str) -> String {
    with_keys(&format!("redis: [\"{redis}\"]"), more)
}

/// Returns the configuration of a node that asks Sentinels.
pub(crate) fn sentinel_config(sentinels: &[SocketAddr], more: &str) -> String {
    let addresses: Vec<_> = sentinels.iter().map(|address| format!("\"{address}\"")).collect();
    with_keys(&format!("redis: [{}], sentinel: {}", addresses.join(", "), crate::common::PRIMARY), more)
}

/// Returns the configuration of a node with these keys of `cluster`.
pub(crate) fn with_keys(cluster: &str, more: &str) -> String {
    format!("{STATUS}cluster: {{{cluster}}}\n{more}\n")
}

/// Starts a node, and waits until it is ready.
pub(crate) fn node(config: &str) -> Monitor {
    let monitor = Monitor::start(config);
    wait_ready(&monitor);
    monitor
}

/// Starts nodes with the same configuration, and waits until they are ready.
pub(crate) fn nodes(count: usize, config: &str) -> Vec<Monitor> {
    let nodes: Vec<_> = (0..count).map(|_| Monitor::start(config)).collect();
    nodes.iter().for_each(wait_ready);
    nodes
}

/// Starts a node at the ports of one that has ended.
pub(crate) fn again(before: &Monitor, config: &str) -> Monitor {
    Monitor::start_at(
        Host { viewers: before.viewers.port(), brokers: before.brokers.port(), ..Host::default() },
        config,
    )
}

/// Waits until the node has read the stream to its end.
pub(crate) fn wait_ready(monitor: &Monitor) {
    until("the node is ready", || (readiness(monitor).0 == 200).then_some(()));
}

/// Waits until the node is not ready, for a reason with these words.
pub(crate) fn wait_not_ready(monitor: &Monitor, why: &str) {
    let mut last = (0, String::new());
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        until("the node is not ready", || {
            last = readiness(monitor);
            (last.0 == 503 && last.1.contains(why)).then_some(())
        });
    }));
    assert!(found.is_ok(), "not ready because of {why:?} was to come, not {last:?}");
}

/// Returns the status and the text of `/readyz`.
pub(crate) fn readiness(monitor: &Monitor) -> (u16, String) {
    let answer = get(status(monitor), "/readyz");
    (answer.status, answer.body)
}

/// Returns the value of a metric of the cluster, such as `gaps_total`.
pub(crate) fn metric(monitor: &Monitor, name: &str) -> u64 {
    metrics(status(monitor)).count(&format!("recodex_monitor_cluster_{name}"))
}

/// Returns the sum of a metric over all nodes.
pub(crate) fn sum(nodes: &[&Monitor], name: &str) -> u64 {
    nodes.iter().map(|node| metric(node, name)).sum()
}

/// Waits until a metric of the cluster is above `bound`.
pub(crate) fn wait_above(monitor: &Monitor, name: &str, bound: u64) {
    until(name, || (metric(monitor, name) > bound).then_some(()));
}

/// Returns the part about the cluster of the status report.
pub(crate) fn report(monitor: &Monitor) -> Value {
    let answer = get(status(monitor), "/status");
    let report: Value = serde_json::from_str(&answer.body).expect("the report is JSON");
    report["cluster"].clone()
}
