//! A replica takes the place of its primary: by Sentinels, and by a proxy that leads to another server.

use super::jobs::{Jobs, LongJob, begin, first};
use super::node::{
    metric, node, nodes, readiness, sentinel_config, sum, wait_above, wait_not_ready, wait_ready, with_keys,
};
use crate::common::{Broker, Monitor, Redis, RedisProxy, Sentinels, Viewer, fence, until};
use std::time::Duration;

/// A primary with replicas, three Sentinels, and nodes.
struct Scene {
    servers: Vec<Redis>,
    sentinels: Sentinels,
    config: String,
    nodes: Vec<Monitor>,
}

impl Scene {
    fn start(replicas: usize, options: &[&str]) -> Self {
        let mut servers = vec![Redis::start(options)];
        for _ in 0..replicas {
            servers.push(Redis::replica_of(&servers[0], options));
        }
        let sentinels = Sentinels::start(3, servers[0].address(), &servers[1..].iter().collect::<Vec<_>>());
        let config = sentinel_config(&sentinels.addresses(), "");
        let nodes = nodes(2, &config);
        Self { servers, sentinels, config, nodes }
    }

    /// Does something to the primary while a job runs, and asserts that its viewers at both nodes, late ones, and those of a
    /// node that starts afterwards get all of it.
    fn loses_nothing(mut self, harm: impl FnOnce(&mut Vec<Redis>, &Sentinels)) -> Self {
        let mut viewers: Vec<_> = self.nodes.iter().map(|node| Viewer::watch(node.viewers, "job")).collect();
        let job = LongJob::begin(Broker::connect(self.nodes[0].brokers), "job", Duration::from_millis(1));
        for viewer in &mut viewers {
            first(viewer, 100);
        }
        harm(&mut self.servers, &self.sentinels);
        self.nodes.iter().for_each(wait_ready);
        let sent = job.finish();
        for viewer in &mut viewers {
            viewer.texts(&sent[100..]);
            viewer.closes(1000);
        }
        self.nodes.push(node(&self.config));
        for node in &self.nodes {
            let mut late = Viewer::watch(node.viewers, "job");
            late.texts(&sent);
            late.closes(1000);
            assert_eq!(metric(node, "gaps_total"), 0);
            assert_eq!(metric(node, "epochs_total"), 0);
        }
        self
    }
}

#[test]
fn a_killed_primary_is_replaced_by_the_sentinels_and_nothing_is_lost() {
    let scene = Scene::start(1, &[]).loses_nothing(|servers, sentinels| {
        servers[0].kill();
        assert_eq!(sentinels.wait_switch(servers[0].port), servers[1].port);
    });
    for node in &scene.nodes[..2] {
        assert!(metric(node, "failovers_total") > 0);
    }
}

#[test]
fn a_stopped_primary_that_comes_back_after_the_failover_loses_nothing() {
    Scene::start(1, &[]).loses_nothing(|servers, sentinels| {
        servers[0].freeze();
        assert_eq!(sentinels.wait_switch(servers[0].port), servers[1].port);
        servers[0].thaw();
        until("the old primary follows the new one", || {
            (servers[0].info("role")? == "slave" && servers[0].info("master_link_status")? == "up").then_some(())
        });
    });
}

#[test]
fn a_primary_that_ends_is_replaced_and_nothing_is_lost() {
    Scene::start(1, &[]).loses_nothing(|servers, sentinels| {
        servers[0].stop();
        assert_eq!(sentinels.wait_switch(servers[0].port), servers[1].port);
    });
}

#[test]
fn a_replica_under_sentinels_dies_unnoticed() {
    let scene = Scene::start(2, &[]).loses_nothing(|servers, _| servers[1].kill());
    assert_eq!(sum(&[&scene.nodes[0], &scene.nodes[1]], "reconnects_total"), 0);
}

#[test]
fn a_replica_under_sentinels_ends_unnoticed() {
    let scene = Scene::start(2, &["--min-replicas-to-write", "1"]).loses_nothing(|servers, _| servers[1].stop());
    assert_eq!(sum(&[&scene.nodes[0], &scene.nodes[1]], "reconnects_total"), 0);
}

#[test]
fn a_sentinel_dies_unnoticed() {
    let mut scene = Scene::start(1, &[]);
    scene.sentinels.kill(0);
    let scene = scene.loses_nothing(|servers, sentinels| {
        servers[0].kill();
        assert_eq!(sentinels.wait_switch(servers[0].port), servers[1].port);
    });
    assert!(metric(&scene.nodes[0], "failovers_total") > 0);
}

#[test]
fn all_redis_servers_at_once_die_and_come_back_with_what_they_had() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    Scene::start(1, &options).loses_nothing(|servers, _| {
        servers.iter_mut().for_each(Redis::kill);
        servers.iter_mut().for_each(Redis::begin);
    });
}

/// A primary that its replica and the Sentinels do not reach any more, but that the nodes do reach.
struct CutOff {
    primary: Redis,
    replica: Redis,
    network: RedisProxy,
    sentinels: Sentinels,
    config: String,
    nodes: Vec<Monitor>,
}

impl CutOff {
    /// Starts all, with more options for the primary. Nothing is cut off yet.
    fn start(options: &[&str]) -> Self {
        let primary = Redis::start(options);
        let network = RedisProxy::to(primary.address());
        let port = network.address.port().to_string();
        let replica = Redis::start(&["--replicaof", "127.0.0.1", &port, "--repl-timeout", "60"]);
        replica.wait_online(&primary);
        let sentinels = Sentinels::start(3, network.address, &[&replica]);
        let config = sentinel_config(&sentinels.addresses(), "");
        let nodes = nodes(2, &config);
        Self { primary, replica, network, sentinels, config, nodes }
    }

    /// Sends messages before the cut, calls `during` after it, and asserts that all come after the failover.
    fn loses_nothing(&self, during: impl FnOnce(&mut Jobs, &Broker, &[String])) {
        let both = [&self.nodes[0], &self.nodes[1]];
        let (broker, names, mut jobs, mut audience) = begin(&both, 4);
        jobs.tasks(&broker, &names, 100);
        fence(both[0], &broker);
        self.replica.wait_equal(&self.primary);
        self.network.hold_insiders();
        during(&mut jobs, &broker, &names);
        assert_eq!(self.sentinels.wait_switch(self.network.address.port()), self.replica.port);
        for node in both {
            wait_above(node, "failovers_total", 0);
        }
        both.into_iter().for_each(wait_ready);
        jobs.tasks(&broker, &names, 100);
        jobs.finish(&broker, &names);
        audience.get_all(&jobs);
        jobs.are_whole_at(&[both[0], both[1], &node(&self.config)]);
        assert_eq!(sum(&both, "gaps_total") + sum(&both, "epochs_total"), 0);
    }
}

/// It goes on taking messages, which are in no replica.
#[test]
fn a_primary_that_is_cut_off_and_goes_on_taking_writes_loses_nothing() {
    let scene = CutOff::start(&[]);
    scene.loses_nothing(|jobs, broker, names| {
        for _ in 0..20 {
            jobs.tasks(broker, names, 20);
            fence(&scene.nodes[0], broker);
        }
        jobs.are_at(&[&scene.nodes[0], &scene.nodes[1]]);
        assert!(scene.replica.entries() < scene.primary.entries(), "the replica lacks a tail");
    });
    assert!(metric(&scene.nodes[0], "reappended_batches_total") > 0);
}

/// It refuses messages, as in the shipped redis.conf. They wait for the failover.
#[test]
fn a_primary_that_is_cut_off_and_takes_no_writes_loses_nothing() {
    let scene = CutOff::start(&["--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"]);
    scene.loses_nothing(|jobs, broker, names| {
        until("the primary refuses writes", || {
            jobs.tasks(broker, names, 4);
            (metric(&scene.nodes[0], "buffer_bytes") > 0).then_some(())
        });
        jobs.tasks(broker, names, 100);
    });
}

/// Nodes keep the primary that they have, and a node that starts waits for a Sentinel.
#[test]
fn while_all_sentinels_are_away_messages_pass() {
    let mut scene = Scene::start(1, &[]);
    let both = [&scene.nodes[0], &scene.nodes[1]];
    let mut viewers = both.map(|node| Viewer::watch(node.viewers, "job"));
    let job = LongJob::begin(Broker::connect(both[0].brokers), "job", Duration::from_millis(10));
    (0..3).for_each(|_| scene.sentinels.kill(0));
    let late = Monitor::start(&scene.config);
    wait_not_ready(&late, "");
    // The nodes ask once a second.
    first(&mut viewers[0], 300);
    both.into_iter().for_each(wait_ready);
    let sent = job.finish();
    viewers[0].texts(&sent[300..]);
    viewers[0].closes(1000);
    viewers[1].texts(&sent);
    viewers[1].closes(1000);
    assert_eq!(readiness(&late).0, 503);
}

/// The administrator's own failovers: no message is cut off.
#[test]
fn a_failover_by_hand_loses_nothing() {
    Scene::start(1, &[]).loses_nothing(|servers, sentinels| {
        sentinels.fail_over();
        assert_eq!(sentinels.wait_switch(servers[0].port), servers[1].port);
    });
}

#[test]
fn a_primary_that_hands_over_to_its_replica_loses_nothing() {
    let primary = Redis::start(&[]);
    let replica = Redis::replica_of(&primary, &[]);
    let keys = format!("redis: [\"{}\", \"{}\"]", primary.address(), replica.address());
    let config = with_keys(&keys, "");
    let nodes = nodes(2, &config);
    let mut viewers: Vec<_> = nodes.iter().map(|node| Viewer::watch(node.viewers, "job")).collect();
    let job = LongJob::begin(Broker::connect(nodes[0].brokers), "job", Duration::from_millis(1));
    first(&mut viewers[0], 100);
    primary.tell(&["FAILOVER"]);
    until("the replica is the primary", || (replica.info("role")? == "master").then_some(()));
    for node in &nodes {
        wait_above(node, "failovers_total", 0);
        wait_ready(node);
    }
    let sent = job.finish();
    viewers[0].texts(&sent[100..]);
    viewers[1].texts(&sent);
    let late = node(&config);
    viewers.push(Viewer::watch(late.viewers, "job"));
    viewers[2].texts(&sent);
    for viewer in &mut viewers {
        viewer.closes(1000);
    }
}

/// One of the Sentinels takes connections and does not answer.
#[test]
fn a_sentinel_that_hangs_delays_no_failover() {
    let scene = Scene::start(1, &[]);
    scene.sentinels.freeze(0);
    scene.loses_nothing(|servers, sentinels| {
        servers[0].kill();
        assert_eq!(sentinels.wait_switch(servers[0].port), servers[1].port);
    });
}
