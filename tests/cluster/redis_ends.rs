//! A Redis that is killed, stopped and ended while messages come, without a Sentinel: it comes back at its place.

use super::jobs::{Jobs, LongJob, begin, first};
use super::node::{config, metric, node, nodes, sum, wait_above, wait_not_ready, wait_ready};
use crate::common::{Broker, Monitor, Redis, RedisProxy, Viewer, fence};
use std::time::Duration;

/// Does something with Redis while a job runs whose viewers are at both nodes, and asserts that they and late viewers, also at a
/// node that starts late, get all of it.
fn harms_nobody(redis: &mut Redis, harm: impl FnOnce(&mut Redis, &[Monitor])) -> Vec<Monitor> {
    let config = config(redis.address(), "");
    let mut nodes = nodes(2, &config);
    let mut viewers: Vec<_> = nodes.iter().map(|node| Viewer::watch(node.viewers, "job")).collect();
    let job = LongJob::begin(Broker::connect(nodes[0].brokers), "job", Duration::from_millis(1));
    for viewer in &mut viewers {
        first(viewer, 100);
    }
    harm(redis, &nodes);
    nodes.iter().for_each(wait_ready);
    let sent = job.finish();
    for viewer in &mut viewers {
        viewer.texts(&sent[100..]);
        viewer.closes(1000);
    }
    nodes.push(node(&config));
    for node in &nodes {
        let mut late = Viewer::watch(node.viewers, "job");
        late.texts(&sent);
        late.closes(1000);
        assert_eq!(metric(node, "gaps_total"), 0);
        assert_eq!(metric(node, "epochs_total"), 0);
    }
    nodes
}

#[test]
fn a_redis_that_is_killed_and_comes_back_loses_nothing() {
    let nodes = harms_nobody(&mut Redis::durable(&[]), |redis, nodes| {
        redis.kill();
        for node in nodes {
            wait_not_ready(node, "Redis cannot be reached");
        }
        redis.begin();
    });
    assert!(metric(&nodes[0], "reconnects_total") > 0 && metric(&nodes[1], "reconnects_total") > 0);
}

#[test]
fn a_redis_that_ends_and_comes_back_loses_nothing() {
    harms_nobody(&mut Redis::durable(&[]), |redis, nodes| {
        redis.stop();
        for node in nodes {
            wait_not_ready(node, "Redis cannot be reached");
        }
        redis.begin();
    });
}

#[test]
fn a_redis_that_is_killed_five_times_loses_nothing() {
    harms_nobody(&mut Redis::durable(&[]), |redis, nodes| {
        for _ in 0..5 {
            redis.kill();
            redis.begin();
            nodes.iter().for_each(wait_ready);
        }
    });
}

#[test]
fn a_redis_that_is_stopped_and_goes_on_loses_nothing() {
    harms_nobody(&mut Redis::start(&[]), |redis, nodes| {
        redis.freeze();
        for node in nodes {
            wait_not_ready(node, "");
        }
        redis.thaw();
    });
}

#[test]
fn connections_that_redis_ends_are_made_anew() {
    let nodes = harms_nobody(&mut Redis::start(&[]), |redis, nodes| {
        for round in 0..3 {
            redis.tell(&["CLIENT", "KILL", "TYPE", "normal"]);
            for node in nodes {
                wait_above(node, "reconnects_total", round);
            }
            nodes.iter().for_each(wait_ready);
        }
    });
    assert_eq!(sum(&[&nodes[0]], "failovers_total"), 0);
}

/// Answers that come only when the node no longer waits for them.
#[test]
fn a_network_to_redis_that_stalls_loses_nothing() {
    let redis = Redis::start(&[]);
    let proxy = RedisProxy::to(redis.address());
    let config = config(proxy.address, "");
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let (broker, names, mut jobs, mut audience) = begin(&both, 4);
    jobs.tasks(&broker, &names, 100);
    fence(&nodes[0], &broker);
    proxy.hold();
    jobs.tasks(&broker, &names, 300);
    for node in &nodes {
        wait_not_ready(node, "");
    }
    proxy.mend();
    nodes.iter().for_each(wait_ready);
    jobs.tasks(&broker, &names, 100);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[both[0], both[1], &node(&config)]);
}

/// Does something with a replica, and asserts that nobody notices it: nobody waits for it, since the messages are at the primary.
fn nobody_notices(harm: impl FnOnce(&mut Redis, &mut dyn FnMut())) {
    let primary = Redis::start(&[]);
    let mut replica = Redis::replica_of(&primary, &[]);
    let nodes = nodes(2, &config(primary.address(), ""));
    let both = [&nodes[0], &nodes[1]];
    let (broker, names, mut jobs, mut audience) = begin(&both, 4);
    let mut send = || {
        jobs.tasks(&broker, &names, 100);
        fence(&nodes[0], &broker);
    };
    send();
    harm(&mut replica, &mut send);
    send();
    replica.begin();
    replica.wait_online(&primary);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&both);
    assert_eq!(sum(&both, "reconnects_total") + sum(&both, "repeated_batches_total"), 0);
}

#[test]
fn a_replica_that_dies_is_noticed_by_nobody() {
    nobody_notices(|replica, send| {
        replica.freeze();
        send();
        replica.thaw();
        replica.kill();
    });
}

#[test]
fn a_replica_that_ends_is_noticed_by_nobody() {
    nobody_notices(|replica, send| {
        send();
        replica.stop();
    });
}

/// The batches that an ingest keeps until replicas have them.
#[test]
fn batches_are_kept_until_a_replica_has_them() {
    let primary = Redis::start(&[]);
    let replica = Redis::replica_of(&primary, &[]);
    let node = node(&config(primary.address(), ""));
    let broker = Broker::connect(node.brokers);
    let mut jobs = Jobs::default();
    jobs.tasks(&broker, &["job"], 100);
    fence(&node, &broker);
    let none_kept =
        || crate::common::until("the replica has all", || (metric(&node, "kept_batches") == 0).then_some(()));
    none_kept();
    replica.freeze();
    jobs.tasks(&broker, &["job"], 100);
    fence(&node, &broker);
    wait_above(&node, "kept_batches", 0);
    replica.thaw();
    none_kept();
}

/// Redis ends connections that say nothing (`timeout`). A node says something often enough.
#[test]
fn a_redis_that_ends_idle_connections_ends_none_of_a_node() {
    let redis = Redis::start(&["--timeout", "3"]);
    let node = node(&config(redis.address(), ""));
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(metric(&node, "reconnects_total"), 0);
}
