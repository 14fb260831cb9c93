//! Restarts by a service manager, under load: connections, buffer and positions pass to the next process.

use super::jobs::{Audience, Jobs, LongJob, begin, channels, first};
use super::node::{again, config, metric, node, readiness, sum, wait_above, wait_ready, with_keys};
use super::tails::Pair;
use crate::common::viewer::upgrade_request;
use crate::common::{Broker, Manager, Monitor, Redis, RedisProxy, Viewer, fence, open_directory, until};
use std::time::Duration;

/// A node under a service manager.
struct Service {
    manager: Manager,
    monitor: Monitor,
    config: String,
}

impl Service {
    fn start(config: &str) -> Self {
        let manager = Manager::new();
        let monitor = manager.starts(&[], config);
        wait_ready(&monitor);
        Self { manager, monitor, config: config.to_owned() }
    }

    /// Restarts it as `systemctl restart` does.
    fn restart(&mut self) {
        self.restart_after(|| ());
    }

    /// Restarts it, and does something while no process runs.
    fn restart_after(&mut self, act: impl FnOnce()) {
        self.monitor.signal("USR2");
        assert_eq!(self.monitor.wait_exit().code(), Some(0));
        act();
        self.monitor = self.manager.restarts(&self.monitor, &self.config);
        self.monitor.wait_log("took over");
        until("the manager lets go", || (!self.manager.names().contains(&"succession".into())).then_some(()));
    }
}

/// Both nodes are restarted in turn while a job runs. Its viewers keep their connections.
#[test]
fn restarts_under_load_lose_and_double_nothing() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let mut services = [Service::start(&config), Service::start(&config)];
    let mut viewers: Vec<_> =
        services.iter().flat_map(|service| [(); 3].map(|()| Viewer::watch(service.monitor.viewers, "job"))).collect();
    let job = LongJob::begin(Broker::connect(services[0].monitor.brokers), "job", Duration::from_millis(1));
    for _ in 0..3 {
        for service in &mut services {
            first(&mut viewers[0], 50);
            service.restart();
            wait_ready(&service.monitor);
        }
    }
    let sent = job.finish();
    viewers[0].texts(&sent[300..]);
    viewers[0].closes(1000);
    for viewer in &mut viewers[1..] {
        viewer.texts(&sent);
        viewer.closes(1000);
    }
    let late = node(&config);
    for monitor in [&services[0].monitor, &services[1].monitor, &late] {
        let mut viewer = Viewer::watch(monitor.viewers, "job");
        viewer.texts(&sent);
        viewer.closes(1000);
        assert_eq!(metric(monitor, "gaps_total"), 0);
    }
}

/// The buffer passes to the next process, and so does the batch that is under way.
#[test]
fn a_restart_while_redis_is_away_keeps_the_buffer() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let mut service = Service::start(&config);
    let other = node(&config);
    let (broker, names, mut jobs, mut audience) = begin(&[&service.monitor, &other], 3);
    jobs.tasks(&broker, &names, 300);
    fence(&service.monitor, &broker);
    jobs.are_at(&[&service.monitor]);
    redis.freeze();
    for _ in 0..2 {
        jobs.tasks(&broker, &names, 300);
        service.restart();
    }
    jobs.tasks(&broker, &names, 300);
    redis.thaw();
    wait_ready(&service.monitor);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[&service.monitor, &other, &node(&config)]);
    assert_eq!(sum(&[&service.monitor, &other], "gaps_total"), 0);
}

/// A full buffer, too: the links are not read by the next process either.
#[test]
fn a_restart_with_a_full_buffer_loses_nothing() {
    let redis = Redis::start(&[]);
    let mut service = Service::start(&with_keys(&format!("redis: [\"{}\"], buffer: 1048576", redis.address()), ""));
    let broker = Broker::connect(service.monitor.brokers);
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&[&service.monitor], &["job"]);
    fence(&service.monitor, &broker);
    redis.freeze();
    for index in 0..400 {
        jobs.task_of(&broker, "job", &format!("{index} {}", "x".repeat(10_000)));
    }
    jobs.finish(&broker, &["job"]);
    service.monitor.wait_logged(&["ERROR", "full"]);
    service.restart();
    let buffered = metric(&service.monitor, "buffer_bytes");
    assert!((1 << 20..3 << 19).contains(&buffered), "{buffered} bytes are in the buffer");
    redis.thaw();
    audience.get_all(&jobs);
    jobs.are_whole_at(&[&service.monitor]);
}

/// Between two processes of a node, a failover cuts off what the first had appended. The second puts it back.
#[test]
fn a_failover_during_a_restart_loses_nothing() {
    let mut redis = Pair::start();
    let config = config(redis.network.address, "");
    let mut service = Service::start(&config);
    let other = node(&config);
    let (broker, names, mut jobs, mut audience) = begin(&[&service.monitor, &other], 3);
    jobs.tasks(&broker, &names, 90);
    fence(&service.monitor, &broker);
    redis.divide();
    jobs.tasks(&broker, &names, 90);
    fence(&service.monitor, &broker);
    jobs.are_at(&[&service.monitor, &other]);
    service.restart_after(|| redis.replace());
    wait_above(&service.monitor, "reappended_batches_total", 0);
    jobs.tasks(&broker, &names, 90);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[&service.monitor, &other, &node(&config)]);
    assert_eq!(sum(&[&service.monitor, &other], "gaps_total"), 0);
}

/// The same for a stop that saves its state, and a start some time later.
#[test]
fn a_failover_between_a_stop_and_a_start_loses_nothing() {
    let mut redis = Pair::start();
    let directory = open_directory();
    let state = format!("history: {{state: '{}'}}", directory.path().join("history").display());
    let config = config(redis.network.address, &state);
    let mut first = node(&config);
    let broker = Broker::connect(first.brokers);
    let names = channels(3);
    let mut jobs = Jobs::default();
    jobs.tasks(&broker, &names, 90);
    fence(&first, &broker);
    redis.divide();
    jobs.tasks(&broker, &names, 90);
    fence(&first, &broker);
    first.stop();
    redis.replace();
    drop(broker);
    let second = again(&first, &config);
    wait_above(&second, "reappended_batches_total", 0);
    let broker = Broker::connect(second.brokers);
    jobs.finish(&broker, &names);
    fence(&second, &broker);
    jobs.are_whole_at(&[&second, &node(&super::node::config(redis.network.address, ""))]);
}

/// The node has in its file what Redis does not have any more.
#[test]
fn a_stream_that_is_emptied_between_a_stop_and_a_start_is_noticed() {
    let redis = Redis::start(&[]);
    let directory = open_directory();
    let state = format!("history: {{state: '{}'}}", directory.path().join("history").display());
    let config = config(redis.address(), &state);
    let mut first = node(&config);
    let broker = Broker::connect(first.brokers);
    let mut jobs = Jobs::default();
    jobs.tasks(&broker, &["open", "done"], 40);
    jobs.finish(&broker, &["done"]);
    fence(&first, &broker);
    first.stop();
    drop(broker);
    redis.tell(&["FLUSHALL"]);
    let second = again(&first, &config);
    wait_ready(&second);
    second.wait_logged(&["ERROR", "stream"]);
    assert_eq!(metric(&second, "epochs_total"), 1);
    let broker = Broker::connect(second.brokers);
    jobs.tasks(&broker, &["open"], 20);
    jobs.finish(&broker, &["open"]);
    fence(&second, &broker);
    jobs.are_whole_at(&[&second]);
}

/// The service manager keeps the socket. Those who connect to it while no process runs are not let in before the stream was read.
#[test]
fn viewers_that_wait_at_a_unix_socket_since_a_crash_are_let_in_once_the_stream_was_read() {
    let redis = Redis::start(&[]);
    let network = RedisProxy::to(redis.address());
    let directory = open_directory();
    let path = directory.path().join("viewers.sock");
    let manager = Manager::new();
    let config = config(network.address, "");
    let start = || Monitor::start_unix_with(&manager.descriptors(), &manager.wrapper(&[]), &path, &config);
    let watch = || {
        let mut viewer = Viewer::connected_to(&path);
        viewer.send_raw(upgrade_request("/").as_bytes());
        viewer
    };
    let mut first = start();
    wait_ready(&first);
    let broker = Broker::connect(first.brokers);
    let (mut jobs, mut there) = (Jobs::default(), watch());
    jobs.tasks(&broker, &["job"], 20);
    jobs.finish(&broker, &["job"]);
    there.read_upgrade();
    there.send_text("job");
    jobs.is_whole("job", &mut there);
    first.signal("KILL");
    first.wait_exit();
    let mut waiting = watch();
    network.delay(Duration::from_millis(200));
    let second = start();
    waiting.read_upgrade();
    assert_eq!(readiness(&second).0, 200);
    waiting.send_text("job");
    jobs.is_whole("job", &mut waiting);
}

/// A monitor becomes a node, and a node a monitor without a cluster: its viewers and its history stay.
#[test]
fn a_restart_into_a_cluster_and_out_of_it_loses_nothing() {
    let redis = Redis::start(&[]);
    let with = config(redis.address(), "");
    let alone = crate::common::http::STATUS;
    let manager = Manager::new();
    let mut monitor = manager.starts(&[], alone);
    let (broker, names, mut jobs, mut audience) = begin(&[&monitor], 3);
    for config in [&with[..], alone] {
        jobs.tasks(&broker, &names, 90);
        fence(&monitor, &broker);
        monitor.signal("USR2");
        assert_eq!(monitor.wait_exit().code(), Some(0));
        monitor = manager.restarts(&monitor, config);
        monitor.wait_log("took over");
        jobs.are_at(&[&monitor]);
    }
    jobs.tasks(&broker, &names, 90);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[&monitor]);
}
