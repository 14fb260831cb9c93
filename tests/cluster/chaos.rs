//! Harms in an order that a seed chooses, one after the other, while jobs run at three nodes with three servers.

use super::jobs::{LongJob, to_the_end};
use super::node::{again, metric, node, sentinel_config, wait_ready};
use crate::common::pause::paused_process;
use crate::common::{Broker, DEADLINE, Manager, Monitor, Random, Redis, Sentinels, Viewer};
use std::thread::{sleep, spawn};
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
    /// The first is under the service manager. The third is killed now and then; the others keep their viewers.
    nodes: Vec<Monitor>,
    manager: Manager,
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
        let manager = Manager::new();
        let nodes = vec![manager.starts(&[], &config), Monitor::start(&config), Monitor::start(&config)];
        nodes.iter().for_each(wait_ready);
        Self { servers, sentinels, primary, config, nodes, manager }
    }

    /// Does one harm, and waits until it is mended.
    fn harm(&mut self, which: usize) {
        let primary = self.servers.iter().position(|server| server.port == self.primary).expect("it is one of them");
        let replica = (primary + 1) % 3;
        match which {
            0 => {
                eprintln!("the primary is killed, and comes back after the failover");
                self.servers[primary].kill();
                self.sentinels.wait_switch(self.primary);
                self.servers[primary].begin();
            }
            1 => {
                eprintln!("the primary is stopped, and goes on after the failover");
                self.servers[primary].freeze();
                self.sentinels.wait_switch(self.primary);
                self.servers[primary].thaw();
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
            6 => {
                eprintln!("a node is stopped while the primary is killed, and goes on after the failover");
                let node = self.nodes[1].pid();
                paused_process(node, Duration::ZERO, || {
                    self.servers[primary].kill();
                    self.sentinels.wait_switch(self.primary);
                });
                self.servers[primary].begin();
            }
            7 => {
                eprintln!("the primary takes messages that no replica gets, and is killed");
                let replicas: Vec<_> = self.servers.iter().filter(|server| server.port != self.primary).collect();
                for replica in &replicas {
                    replica.freeze();
                }
                self.servers[primary].tell(&["CLIENT", "KILL", "TYPE", "replica"]);
                sleep(Duration::from_millis(300));
                self.servers[primary].signal("KILL");
                for replica in &replicas {
                    replica.thaw();
                }
                self.servers[primary].kill();
                self.sentinels.wait_switch(self.primary);
                self.servers[primary].begin();
            }
            8 => {
                eprintln!("a node with a broker is restarted");
                self.nodes[0].signal("USR2");
                self.nodes[0].wait_exit();
                self.nodes[0] = self.manager.restarts(&self.nodes[0], &self.config);
            }
            _ => {
                eprintln!("all connections of the primary are cut");
                self.servers[primary].tell(&["CLIENT", "KILL", "TYPE", "normal"]);
            }
        }
        self.wait_replicas();
        self.nodes.iter().for_each(wait_ready);
    }

    /// Waits until the Sentinels name a primary that the other servers follow. It need not be the one that took over first: on a
    /// busy machine there may be a failover that no harm of this test has made.
    fn wait_replicas(&mut self) {
        let start = Instant::now();
        loop {
            let follows = |server: &Redis, primary: u16| -> Option<bool> {
                let is_replica = server.info("role")? == "slave" && server.info("master_link_status")? == "up";
                Some(is_replica && server.info("master_port")? == primary.to_string())
            };
            if let Some(primary) = self.sentinels.primary() {
                self.primary = primary;
                if self.servers.iter().all(|server| server.port == primary || follows(server, primary) == Some(true)) {
                    return;
                }
            }
            // A Sentinel looks for servers that follow another primary every 10 s.
            assert!(start.elapsed() < 3 * DEADLINE, "the servers do not follow one primary");
            sleep(Duration::from_millis(20));
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
    // Threads, since a viewer that does not read is disconnected after 30 s.
    let watch = |monitor: &Monitor, job: usize| {
        let mut viewer = Viewer::watch(monitor.viewers, &format!("job {job}"));
        (job, spawn(move || to_the_end(&mut viewer)))
    };
    let mut viewers: Vec<_> = (0..4).map(|index| watch(&scene.nodes[index / 2], index % 2)).collect();
    let start = Instant::now();
    while start.elapsed() < time() {
        scene.harm(random.below(10));
        sleep(Duration::from_millis(random.below(1000) as u64));
    }
    let sent = jobs.map(LongJob::finish);
    let late = node(&scene.config);
    let nodes = [&scene.nodes[0], &scene.nodes[1], &scene.nodes[2], &late];
    for monitor in nodes {
        viewers.extend([0, 1].map(|job| watch(monitor, job)));
    }
    for (index, (job, viewer)) in viewers.into_iter().enumerate() {
        let (texts, code) = viewer.join().expect("the viewer is served");
        let same = texts.iter().zip(&sent[job]).take_while(|(text, sent)| text == sent).count();
        let next = (texts.get(same), sent[job].get(same));
        assert_eq!((next, code), ((None, None), Some(1000)), "viewer {index} of job {job}, after {same} messages");
    }
    for monitor in nodes {
        assert_eq!((metric(monitor, "gaps_total"), metric(monitor, "epochs_total")), (0, 0));
    }
}
