//! Expiry: a node that starts late shows no job that the other nodes have already dropped.

use super::jobs::Jobs;
use super::node::{config, node, nodes};
use crate::common::http::report;
use crate::common::{A_WHILE, Broker, Event, Monitor, Redis, Viewer, command, fence, task, until};
use std::time::Duration;

/// Waits until a node has no finished job any more.
fn wait_forgotten(node: &Monitor) {
    until("the job is forgotten", || (report(node)["channels"]["finished"] == 0).then_some(()));
}

#[test]
fn a_finished_job_is_forgotten_by_all_nodes() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "history: {finished: 6}");
    let nodes = nodes(2, &config);
    let broker = Broker::connect(nodes[0].brokers);
    let (mut jobs, mut others) = (Jobs::default(), Jobs::default());
    jobs.tasks(&broker, &["job"], 20);
    others.tasks(&broker, &["other"], 20);
    jobs.finish(&broker, &["job"]);
    fence(&nodes[0], &broker);
    jobs.are_whole_at(&[&nodes[0], &nodes[1]]);
    for node in &nodes {
        wait_forgotten(node);
    }
    assert!(redis.entries() > 0);
    let late = node(&config);
    Viewer::watch(late.viewers, "job").is_silent_for(A_WHILE);
    // The same id begins anew.
    let mut viewers = [&nodes[0], &nodes[1], &late].map(|node| Viewer::subscribed(node.viewers, "job"));
    broker.send(&["job", "STARTED"]);
    broker.send(&["job", "FINISHED"]);
    for viewer in &mut viewers {
        viewer.texts(&[command("STARTED"), command("FINISHED")]);
        viewer.closes(1000);
    }
    others.are_at(&[&nodes[0], &nodes[1], &late]);
}

/// The time for which a node was down counts.
#[test]
fn the_history_of_a_node_that_was_down_is_as_old_as_that_of_others() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "history: {finished: 10}");
    let first = node(&config);
    let broker = Broker::connect(first.brokers);
    let mut jobs = Jobs::default();
    jobs.tasks(&broker, &["job"], 20);
    jobs.finish(&broker, &["job"]);
    fence(&first, &broker);
    std::thread::sleep(Duration::from_secs(4));
    let late = node(&config);
    let mut seen = Viewer::watch(late.viewers, "job");
    seen.texts(jobs.of("job"));
    wait_forgotten(&first);
    let began = std::time::Instant::now();
    wait_forgotten(&late);
    assert!(began.elapsed() < Duration::from_secs(3), "it is forgotten {:?} later", began.elapsed());
}

#[test]
fn an_unfinished_job_ends_at_all_nodes() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "history: {unfinished: 2}");
    let nodes = nodes(2, &config);
    let broker = Broker::connect(nodes[0].brokers);
    let mut viewers = [&nodes[0], &nodes[1]].map(|node| Viewer::subscribed(node.viewers, "job"));
    broker.task("job", "1");
    for viewer in &mut viewers {
        viewer.texts(&[task("1", "COMPLETED")]);
        viewer.is_ended_with(1001);
    }
    // The ages that a late node knows are not exact to the millisecond.
    std::thread::sleep(A_WHILE);
    let late = node(&config);
    assert_eq!(Viewer::watch(late.viewers, "job").next_within(A_WHILE), None::<Event>);
}
