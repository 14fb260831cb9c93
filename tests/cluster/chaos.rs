//! Harms in an order that a seed chooses, one after the other, while jobs run at three nodes with three servers.

use super::jobs::LongJob;
use super::node::{again, metric, node, nodes, sentinel_config, wait_ready};
use crate::common::pause::paused_process;
use crate::common::{Broker, Monitor, Random, Redis, Sentinels, Viewer, until};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The time for which harm is done. It may be longer in a run by hand: `CHAOS_SECONDS=600`.
fn time() -> Duration {
    let seconds = std::env::var("CHAOS_SECONDS").map_or(25, |text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds)
}

struct Scene {
    servers: Vec<Redis>,
    sentinels: Sentinels,
    primary: u16,
    config: String,
    /// The third is killed now and then; the others keep their viewers.
    nodes: Vec<Monitor>,
}

impl Scene {
    fn start() -> Self {
        let mut servers = vec![Redis::durable(&[])];
        for _ in 0..2 {
            servers.push(Redis::replica_of(&servers[0], &["--appendonly", "yes", "--appendfsync", "always"]));
        }
        let sentinels = Sentinels::start(3, servers[0].address(), &[&servers[1], &servers[2]]);
        let primary = servers[0].port;
        let config = sentinel_config(&sentinels.addresses(), "");
        let nodes = nodes(3, &config);
        Self { servers, sentinels, primary, config, nodes }
    }

    /// Does one harm, and waits until it is mended.
    fn harm(&mut self, which: usize) {
        let primary = self.servers.iter().position(|server| server.port == self.primary).expect("it is one of them");
        let replica = (primary + 1) % 3;
        match which {
            0 => {
                eprintln!("the primary is killed, and comes back after the failover");
                self.servers[primary].kill();
                self.primary = self.sentinels.wait_switch(self.primary);
                self.servers[primary].begin();
                self.wait_replicas();
            }
            1 => {
                eprintln!("the primary is stopped, and goes on after the failover");
                self.servers[primary].freeze();
                self.primary = self.sentinels.wait_switch(self.primary);
                self.servers[primary].thaw();
                self.wait_replicas();
            }
            2 => {
                eprintln!("the primary is stopped for a moment");
                self.servers[primary].freeze();
                sleep(Duration::from_millis(200));
                self.servers[primary].thaw();
            }
            3 => {
                eprintln!("a replica is killed");
                self.servers[replica].kill();
                self.servers[replica].begin();
                self.wait_replicas();
            }
            4 => {
                eprintln!("a node without brokers is killed");
                self.nodes[2].signal("KILL");
                self.nodes[2].wait_exit();
                self.nodes[2] = again(&self.nodes[2], &self.config);
            }
            5 => {
                eprintln!("a node with a broker is stopped for three seconds");
                paused_process(self.nodes[0].pid(), Duration::from_secs(3), || ());
            }
            _ => {
                eprintln!("all connections of the primary are cut");
                self.servers[primary].tell(&["CLIENT", "KILL", "TYPE", "normal"]);
            }
        }
        self.nodes.iter().for_each(wait_ready);
    }

    /// Waits until the other servers follow the primary.
    fn wait_replicas(&self) {
        for server in self.servers.iter().filter(|server| server.port != self.primary) {
            until("the replica follows the new primary", || {
                let follows = server.info("role")? == "slave" && server.info("master_link_status")? == "up";
                (follows && server.info("master_port")? == self.primary.to_string()).then_some(())
            });
        }
    }
}

#[test]
fn whatever_dies_viewers_get_every_message_once() {
    let mut random = Random::seeded();
    let mut scene = Scene::start();
    let pause = Duration::from_millis(3);
    let jobs = [0, 1].map(|index: usize| {
        LongJob::begin(Broker::connect(scene.nodes[index].brokers), &format!("job {index}"), pause)
    });
    let mut viewers: Vec<_> = (0..2)
        .flat_map(|node| ["job 0", "job 1"].map(|job| (job, node)))
        .map(|(job, node): (&str, usize)| (job, Viewer::watch(scene.nodes[node].viewers, job)))
        .collect();
    let start = Instant::now();
    while start.elapsed() < time() {
        scene.harm(random.below(7));
        sleep(Duration::from_millis(random.below(1000) as u64));
    }
    let sent = jobs.map(LongJob::finish);
    let late = node(&scene.config);
    let nodes = [&scene.nodes[0], &scene.nodes[1], &scene.nodes[2], &late];
    for monitor in nodes {
        viewers.extend(["job 0", "job 1"].map(|job| (job, Viewer::watch(monitor.viewers, job))));
    }
    for (job, viewer) in &mut viewers {
        viewer.texts(&sent[usize::from(*job == "job 1")]);
        viewer.closes(1000);
    }
    for monitor in nodes {
        assert_eq!((metric(monitor, "gaps_total"), metric(monitor, "epochs_total")), (0, 0));
    }
}
