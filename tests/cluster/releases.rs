//! Jobs that failed or were aborted, in a cluster: exactly one FINISHED, whichever nodes there are.

use super::jobs::{Audience, Jobs, channels};
use super::node::{again, config, node, nodes, wait_ready};
use crate::common::{Broker, Monitor, Redis, Viewer, command, fence};

const SOON: &str = "history: {release_failed: 1, release_aborted: 2}";

#[test]
fn a_failed_job_is_released_once_for_the_viewers_of_all_nodes() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), SOON);
    let nodes = nodes(3, &config);
    let all: Vec<&Monitor> = nodes.iter().collect();
    let broker = Broker::connect(nodes[0].brokers);
    let names = channels(30);
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&all, &names);
    jobs.tasks(&broker, &names, 60);
    for (index, name) in names.iter().enumerate() {
        jobs.command(&broker, name, ["FAILED", "ABORTED"][index % 2]);
        jobs.expect(name, command("FINISHED"));
    }
    audience.get_all(&jobs);
    jobs.are_whole_at(&all);
    jobs.are_whole_at(&[&node(&config)]);
}

#[test]
fn a_job_that_goes_on_at_another_node_is_not_released() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), SOON);
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let brokers = both.map(|node| Broker::connect(node.brokers));
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&both, &["goes on", "ends"]);
    jobs.command(&brokers[0], "goes on", "FAILED");
    jobs.command(&brokers[0], "ends", "FAILED");
    fence(&nodes[0], &brokers[0]);
    jobs.command(&brokers[1], "goes on", "STARTED");
    fence(&nodes[1], &brokers[1]);
    // The other job, which failed before that, is released meanwhile.
    jobs.expect("ends", command("FINISHED"));
    Viewer::watch(nodes[0].viewers, "ends").texts(jobs.of("ends"));
    jobs.tasks(&brokers[1], &["goes on"], 10);
    jobs.finish(&brokers[1], &["goes on"]);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[both[0], both[1], &node(&config)]);
}

/// The node that took FAILED dies. The others release the job.
#[test]
fn a_job_is_released_though_its_node_has_died() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), SOON);
    let mut nodes = nodes(2, &config);
    let broker = Broker::connect(nodes[0].brokers);
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&[&nodes[1]], &["job"]);
    jobs.tasks(&broker, &["job"], 10);
    jobs.command(&broker, "job", "FAILED");
    fence(&nodes[0], &broker);
    nodes[0].signal("KILL");
    nodes[0].wait_exit();
    jobs.expect("job", command("FINISHED"));
    audience.get_all(&jobs);
    jobs.are_whole_at(&[&nodes[1], &node(&config)]);
}

/// All nodes are gone when the release is due. Those that start later do it.
#[test]
fn a_job_is_released_by_nodes_that_start_later() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), SOON);
    let mut only = node(&config);
    let broker = Broker::connect(only.brokers);
    let mut jobs = Jobs::default();
    jobs.command(&broker, "job", "FAILED");
    fence(&only, &broker);
    only.signal("KILL");
    only.wait_exit();
    let nodes = [again(&only, &config), Monitor::start(&config)];
    nodes.iter().for_each(wait_ready);
    jobs.expect("job", command("FINISHED"));
    jobs.are_whole_at(&[&nodes[0], &nodes[1]]);
}

/// The broker's own FINISHED comes after the release, at another node.
#[test]
fn after_a_release_a_finished_of_the_broker_is_dropped_on_all_nodes() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), SOON);
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let brokers = both.map(|node| Broker::connect(node.brokers));
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&both, &["job"]);
    jobs.command(&brokers[0], "job", "FAILED");
    jobs.expect("job", command("FINISHED"));
    audience.get_all(&jobs);
    brokers[1].send(&["job", "FINISHED"]);
    fence(&nodes[1], &brokers[1]);
    jobs.are_whole_at(&[both[0], both[1], &node(&config)]);
}

/// While Redis is away nobody releases; when it is back, one does.
#[test]
fn a_release_waits_for_redis() {
    let redis = Redis::start(&[]);
    let nodes = nodes(2, &config(redis.address(), SOON));
    let both = [&nodes[0], &nodes[1]];
    let broker = Broker::connect(nodes[0].brokers);
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&both, &["job"]);
    jobs.command(&broker, "job", "FAILED");
    fence(&nodes[0], &broker);
    jobs.are_at(&both);
    redis.freeze();
    let mut viewer = Viewer::watch(nodes[1].viewers, "job");
    viewer.texts(jobs.of("job"));
    viewer.is_silent_for(std::time::Duration::from_millis(2500));
    redis.thaw();
    jobs.expect("job", command("FINISHED"));
    audience.get_all(&jobs);
    jobs.are_whole_at(&both);
}
