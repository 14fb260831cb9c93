//! Primaries that die with messages that no replica has. The node that took these messages puts them back.

use super::jobs::{Audience, Jobs, begin, to_the_end};
use super::node::{config, metric, node, nodes, sum, wait_above, wait_ready};
use crate::common::http::{metrics, status};
use crate::common::pause::paused_process;
use crate::common::{Broker, Redis, RedisProxy, Viewer, command, fence};
use std::mem::replace;
use std::time::Duration;

/// A primary with a replica, behind an address that leads to either of them.
pub(crate) struct Pair {
    primary: Redis,
    replica: Redis,
    pub(crate) network: RedisProxy,
}

impl Pair {
    pub(crate) fn start() -> Self {
        Self::with_clock(0)
    }

    /// The replica's clock is so many seconds ahead.
    fn with_clock(seconds: i64) -> Self {
        let primary = Redis::start(&[]);
        let port = primary.port.to_string();
        let replica = Redis::with_clock(seconds, &["--replicaof", "127.0.0.1", &port]);
        replica.wait_online(&primary);
        let network = RedisProxy::to(primary.address());
        Self { primary, replica, network }
    }

    /// Has the replica get nothing more.
    pub(crate) fn divide(&self) {
        self.replica.wait_equal(&self.primary);
        self.replica.freeze();
        self.primary.tell(&["CLIENT", "KILL", "TYPE", "replica"]);
    }

    /// Kills the primary, and puts the replica into its place.
    pub(crate) fn replace(&mut self) {
        let had = self.primary.entries();
        self.primary.kill();
        self.replica.thaw();
        self.replica.tell(&["REPLICAOF", "NO", "ONE"]);
        assert!(self.replica.entries() < had, "the replica lacks a tail");
        self.network.leads_to(self.replica.address());
    }
}

/// A primary dies whose replica lacks a tail. The replica's clock is so many seconds ahead.
fn a_tail_that_the_replica_lacks_is_put_back(clock: i64) {
    let mut redis = Pair::with_clock(clock);
    let config = config(redis.network.address, "");
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let (broker, names, mut jobs, mut audience) = begin(&both, 4);
    jobs.tasks(&broker, &names, 100);
    fence(&nodes[0], &broker);
    redis.divide();
    for _ in 0..10 {
        jobs.tasks(&broker, &names, 20);
        fence(&nodes[0], &broker);
    }
    jobs.are_at(&both);
    redis.replace();
    wait_above(&nodes[0], "reappended_batches_total", 0);
    both.into_iter().for_each(wait_ready);
    jobs.are_at(&both);
    jobs.tasks(&broker, &names, 100);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[both[0], both[1], &node(&config)]);
    assert_eq!(sum(&both, "gaps_total") + sum(&both, "epochs_total"), 0);
}

#[test]
fn a_tail_that_was_not_replicated_is_put_back() {
    a_tail_that_the_replica_lacks_is_put_back(0);
}

/// The ids of the new primary are below those that the readers have seen.
#[test]
fn a_tail_is_put_back_also_if_the_new_primarys_clock_is_an_hour_behind() {
    a_tail_that_the_replica_lacks_is_put_back(-3600);
}

#[test]
fn a_tail_is_put_back_also_if_the_new_primarys_clock_is_ten_years_ahead() {
    a_tail_that_the_replica_lacks_is_put_back(10 * 365 * 86_400);
}

/// The second primary dies as well, before its own replica has what was put back.
#[test]
fn a_tail_that_is_cut_off_twice_is_put_back_twice() {
    let mut redis = Pair::start();
    let third = Redis::replica_of(&redis.replica, &[]);
    let config = config(redis.network.address, "");
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let (broker, names, mut jobs, mut audience) = begin(&both, 4);
    jobs.tasks(&broker, &names, 100);
    fence(&nodes[0], &broker);
    redis.replica.wait_equal(&redis.primary);
    third.wait_equal(&redis.replica);
    third.freeze();
    redis.replica.tell(&["CLIENT", "KILL", "TYPE", "replica"]);
    redis.divide();
    for _ in 0..5 {
        jobs.tasks(&broker, &names, 20);
        fence(&nodes[0], &broker);
    }
    redis.replace();
    wait_above(&nodes[0], "reappended_batches_total", 0);
    both.into_iter().for_each(wait_ready);
    for _ in 0..5 {
        jobs.tasks(&broker, &names, 20);
        fence(&nodes[0], &broker);
    }
    jobs.are_at(&both);
    let before = metric(&nodes[0], "reappended_batches_total");
    let second = replace(&mut redis.replica, third);
    drop(replace(&mut redis.primary, second));
    redis.replace();
    wait_above(&nodes[0], "reappended_batches_total", before);
    both.into_iter().for_each(wait_ready);
    jobs.tasks(&broker, &names, 100);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[both[0], both[1], &node(&config)]);
    assert_eq!(sum(&both, "gaps_total") + sum(&both, "epochs_total"), 0);
}

/// A node dies together with the primary: only what it alone had is lost, and viewers who have seen it keep it.
#[test]
fn another_nodes_messages_are_not_lost_with_the_tail_of_one_that_dies() {
    let mut redis = Pair::start();
    let config = config(redis.network.address, "");
    let mut nodes = nodes(2, &config);
    let brokers = [0, 1].map(|index: usize| Broker::connect(nodes[index].brokers));
    let (mut kept, mut lost, mut audience) = (Jobs::default(), Jobs::default(), Audience::default());
    audience.join(&[&nodes[1]], &["kept"]);
    kept.tasks(&brokers[1], &["kept"], 50);
    fence(&nodes[1], &brokers[1]);
    redis.divide();
    for _ in 0..10 {
        kept.tasks(&brokers[1], &["kept"], 10);
        lost.tasks(&brokers[0], &["lost"], 10);
        fence(&nodes[1], &brokers[1]);
        fence(&nodes[0], &brokers[0]);
    }
    lost.are_at(&[&nodes[1]]);
    nodes[0].signal("KILL");
    nodes[0].wait_exit();
    redis.replace();
    wait_above(&nodes[1], "reappended_batches_total", 0);
    wait_ready(&nodes[1]);
    kept.finish(&brokers[1], &["kept"]);
    audience.get_all(&kept);
    lost.are_at(&[&nodes[1]]);
    kept.are_whole_at(&[&nodes[1], &node(&config)]);
}

/// A broker moves from one node to another in the middle of two jobs, and finishes the second of them. A failover then cuts off what
/// came last from both nodes, and the second node is the first to put its part back.
#[test]
fn the_rest_of_a_broker_that_had_moved_is_put_back_in_another_order() {
    let mut redis = Pair::start();
    let config = config(redis.network.address, "");
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let brokers = both.map(|node| Broker::connect(node.brokers));
    let (names, mut jobs, mut audience) = (["open", "finished"], Jobs::default(), Audience::default());
    audience.join(&both, &names);
    jobs.tasks(&brokers[0], &names, 6);
    fence(&nodes[0], &brokers[0]);
    redis.divide();
    jobs.tasks(&brokers[0], &names, 4);
    fence(&nodes[0], &brokers[0]);
    jobs.tasks(&brokers[1], &names, 2);
    jobs.finish(&brokers[1], &names[1..]);
    fence(&nodes[1], &brokers[1]);
    jobs.are_at(&both);
    paused_process(nodes[0].pid(), Duration::ZERO, || {
        redis.replace();
        fence(&nodes[1], &brokers[1]);
    });
    fence(&nodes[0], &brokers[0]);
    for node in both {
        assert!(metric(node, "reappended_batches_total") > 0);
    }
    jobs.finish(&brokers[1], &names[..1]);
    // Those who were there have everything in the order in which it came first.
    audience.get_all(&jobs);
    jobs.are_whole_at(&both);
    // A node that starts later has it in the order of the stream: three of the first node, the rest of the second, and two of the first.
    let late = node(&config);
    let is_at = |name: &str, order: &[usize]| {
        let expected: Vec<_> = order.iter().map(|index| jobs.of(name)[*index].clone()).collect();
        assert_eq!(to_the_end(&mut Viewer::watch(late.viewers, name)), (expected, Some(1000)), "{name}");
    };
    is_at("open", &[0, 1, 2, 5, 3, 4, 6]);
    // The two came after FINISHED.
    assert_eq!(jobs.of("finished").last(), Some(&command("FINISHED")));
    is_at("finished", &[0, 1, 2, 5, 6]);
    assert_eq!(metrics(status(&late)).count("recodex_monitor_late_messages_total"), 2);
    assert_eq!(sum(&[both[0], both[1], &late], "gaps_total"), 0);
}
