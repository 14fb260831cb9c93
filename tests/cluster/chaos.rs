//! Harms in an order that a seed chooses, one after the other, while jobs run at three nodes with three servers.

use super::jobs::LongJob;
use super::node::{again, metric, node, sentinel_config, wait_ready};
use crate::common::pause::paused_process;
use crate::common::{Broker, DEADLINE, Event, Manager, Monitor, Random, Redis, Sentinels, Viewer};
use std::collections::HashMap;
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
    /// The logs of the processes of nodes that have ended.
    ended: Vec<String>,
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
        Self { servers, sentinels, primary, config, nodes, manager, ended: Vec::new() }
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
                self.has_ended(2);
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
                self.has_ended(0);
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

    /// Waits for the end of a node's process, and keeps its log.
    fn has_ended(&mut self, node: usize) {
        self.nodes[node].wait_exit();
        self.ended.push(format!("node {node}:\n{}", self.nodes[node].log().join("\n")));
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
        (job, spawn(move || patient_to_the_end(&mut viewer)))
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
    let mut wrong = Vec::new();
    for (index, (job, viewer)) in viewers.into_iter().enumerate() {
        let (texts, code) = viewer.join().expect("the viewer is served");
        if texts != sent[job] || code != Some(1000) {
            wrong.push(format!("viewer {index} of job {job}, closed with {code:?}: {}", jumps(&texts, &sent[job])));
        }
    }
    let logs = || nodes.map(|node| node.log().join("\n"));
    assert!(wrong.is_empty(), "{wrong:#?}\n{}\n{}", scene.ended.join("\n"), logs().join("\nstill running:\n"));
    for monitor in nodes {
        assert_eq!((metric(monitor, "gaps_total"), metric(monitor, "epochs_total")), (0, 0));
    }
}

/// Returns what a viewer gets to its end. On a busy machine, Sentinels may need more than one attempt at a failover.
fn patient_to_the_end(viewer: &mut Viewer) -> (Vec<String>, Option<u16>) {
    let mut texts = Vec::new();
    loop {
        match viewer.next_within(3 * DEADLINE) {
            Some(Event::Text(text)) => texts.push(text),
            Some(Event::Ping(payload)) => viewer.send_frame(0x8A, &payload),
            Some(Event::Close(code)) => return (texts, code),
            _ => return (texts, None),
        }
    }
}

/// Describes how the texts that came differ from those that were sent: each place where the next one is not what follows.
fn jumps(came: &[String], sent: &[String]) -> String {
    let places: HashMap<&String, usize> = sent.iter().enumerate().map(|(place, text)| (text, place)).collect();
    let mut next = 0;
    let mut jumps = vec![format!("{} texts of {}", came.len(), sent.len())];
    for text in came {
        let place = places.get(text).copied();
        if place != Some(next) {
            jumps.push(format!("{next} was to come, not {place:?}"));
        }
        next = place.map_or(next, |place| place + 1);
    }
    jumps.join("; ")
}
