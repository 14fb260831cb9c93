//! A Redis that is away: at the start, in mid-job, for so long that the buffer is full, and at a stop.

use super::jobs::{Audience, Jobs, begin, channels};
use super::node::{again, config, metric, node, nodes, readiness, wait_above, wait_not_ready, wait_ready, with_keys};
use crate::common::http::{metrics, status};
use crate::common::{
    A_WHILE, Broker, Manager, Monitor, Redis, RedisProxy, Viewer, fence, open_directory, open_up, task, until,
};
use std::path::Path;
use std::thread;

/// Waits until the node has received so many messages.
fn wait_taken(monitor: &Monitor, messages: u64) {
    let address = status(monitor);
    until("the messages are taken", || {
        (metrics(address).count("recodex_monitor_received_messages_total") >= messages).then_some(())
    });
}

#[test]
fn a_node_whose_redis_is_away_at_its_start_serves_viewers_and_takes_messages() {
    let mut redis = Redis::not_yet(&[]);
    let manager = Manager::new();
    let config = config(redis.address(), "");
    let monitor = manager.starts(&[], &config);
    manager.hears("READY=1");
    wait_not_ready(&monitor, "Redis cannot be reached");
    let (broker, names, mut jobs, mut audience) = begin(&[&monitor], 3);
    drop(Viewer::subscribed(monitor.viewers, "job"));
    jobs.tasks(&broker, &names, 300);
    wait_above(&monitor, "buffer_bytes", 0);
    assert_eq!(metric(&monitor, "connected"), 0);
    redis.begin();
    wait_ready(&monitor);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[&monitor, &node(&config)]);
}

#[test]
fn while_redis_is_away_viewers_get_the_history_that_there_is() {
    let mut redis = Redis::durable(&[]);
    let nodes = nodes(2, &config(redis.address(), ""));
    let both = [&nodes[0], &nodes[1]];
    let (broker, names, mut jobs, mut audience) = begin(&both, 3);
    jobs.tasks(&broker, &names, 300);
    jobs.finish(&broker, &names[..1]);
    fence(&nodes[0], &broker);
    jobs.are_at(&both);
    redis.kill();
    for node in both {
        wait_not_ready(node, "Redis cannot be reached");
    }
    jobs.are_at(&both);
    audience.join(&both, &names[1..]);
    jobs.tasks(&broker, &names[1..], 300);
    wait_above(&nodes[0], "buffer_bytes", 0);
    let mut viewer = Viewer::watch(nodes[0].viewers, "job 1");
    viewer.texts(&jobs.of("job 1")[..100]);
    viewer.is_silent_for(A_WHILE);
    redis.begin();
    both.into_iter().for_each(wait_ready);
    jobs.finish(&broker, &names[1..]);
    audience.get_all(&jobs);
    jobs.are_whole_at(&both);
}

/// Links of brokers are not read while the buffer is full: libzmq's queue takes 1,000 messages, and then the broker waits.
#[test]
fn a_full_buffer_stops_the_links_and_loses_nothing() {
    let redis = Redis::start(&[]);
    let keys = format!("redis: [\"{}\"], buffer: 1048576", redis.address());
    let config = with_keys(&keys, "");
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let broker = Broker::connect(nodes[0].brokers);
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&both, &["job"]);
    jobs.task(&broker, "job");
    fence(&nodes[0], &broker);
    redis.freeze();
    let sender = thread::spawn(move || {
        for index in 0..600 {
            jobs.task_of(&broker, "job", &format!("{index} {}", "x".repeat(20_000)));
        }
        jobs.finish(&broker, &["job"]);
        (broker, jobs)
    });
    nodes[0].wait_logged(&["WARNING", "half"]);
    nodes[0].wait_logged(&["ERROR", "full"]);
    thread::sleep(A_WHILE);
    let buffered = metric(&nodes[0], "buffer_bytes");
    // The messages of one more read of the link may be in the buffer, too.
    assert!((1 << 20..3 << 19).contains(&buffered), "{buffered} bytes are in the buffer");
    assert_eq!(metric(&nodes[0], "buffer_max_bytes"), 1 << 20);
    // It still serves viewers.
    Viewer::watch(nodes[0].viewers, "job").texts(&[task("0", "COMPLETED")]);
    redis.thaw();
    let (_broker, jobs) = sender.join().expect("the broker can send");
    audience.get_all(&jobs);
    both.into_iter().for_each(wait_ready);
    jobs.are_whole_at(&both);
    until("the buffer is empty", || (metric(&nodes[0], "buffer_bytes") == 0).then_some(()));
}

fn state(path: &Path) -> String {
    format!("history: {{state: '{}'}}", path.display())
}

#[test]
fn a_stop_saves_what_the_buffer_holds_and_the_next_start_appends_it() {
    let mut redis = Redis::durable(&[]);
    let directory = open_directory();
    open_up(directory.path());
    let config = config(redis.address(), &state(&directory.path().join("history")));
    let mut first = node(&config);
    let other = node(&super::node::config(redis.address(), ""));
    let broker = Broker::connect(first.brokers);
    let names = channels(3);
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&[&other], &names);
    jobs.tasks(&broker, &names, 90);
    fence(&first, &broker);
    redis.kill();
    wait_not_ready(&first, "Redis cannot be reached");
    let taken = 90 + 1;
    jobs.tasks(&broker, &names, 300);
    wait_taken(&first, taken + 300);
    first.stop();
    drop(broker);
    redis.begin();
    let second = again(&first, &config);
    wait_ready(&second);
    jobs.are_at(&[&second, &other]);
    let broker = Broker::connect(second.brokers);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[&second, &other, &node(&super::node::config(redis.address(), ""))]);
}

#[test]
fn a_stop_without_a_file_says_how_much_it_drops() {
    let redis = Redis::start(&[]);
    let mut monitor = node(&config(redis.address(), ""));
    let broker = Broker::connect(monitor.brokers);
    fence(&monitor, &broker);
    redis.freeze();
    for index in 0..77 {
        broker.task("job", &index.to_string());
    }
    wait_taken(&monitor, 78);
    monitor.stop();
    monitor.wait_logged(&["ERROR", "77 messages"]);
}

/// A stop waits for the answer of a Redis that is only slow to come back.
#[test]
fn a_stop_saves_also_what_is_under_way() {
    let redis = Redis::start(&[]);
    let directory = open_directory();
    open_up(directory.path());
    let config = config(redis.address(), &state(&directory.path().join("history")));
    let mut first = node(&config);
    let broker = Broker::connect(first.brokers);
    let mut jobs = Jobs::default();
    fence(&first, &broker);
    redis.freeze();
    jobs.tasks(&broker, &["job"], 200);
    wait_taken(&first, 201);
    first.stop();
    drop(broker);
    // Redis has read the batch that was under way.
    redis.thaw();
    let second = again(&first, &config);
    wait_ready(&second);
    let broker = Broker::connect(second.brokers);
    jobs.finish(&broker, &["job"]);
    fence(&second, &broker);
    jobs.are_whole_at(&[&second, &node(&super::node::config(redis.address(), ""))]);
    assert_eq!(readiness(&second).0, 200);
}

/// A network that swallows everything: connects succeed, and no answer comes. Viewers wait for the stream only for a while.
#[test]
fn a_node_whose_redis_hangs_at_its_start_serves_viewers_after_a_while() {
    let redis = Redis::start(&[]);
    let proxy = RedisProxy::to(redis.address());
    proxy.hold();
    let manager = Manager::new();
    let config = config(proxy.address, "");
    let monitor = manager.starts(&[], &config);
    manager.hears("READY=1");
    assert_eq!(readiness(&monitor).0, 503);
    let broker = Broker::connect(monitor.brokers);
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    jobs.tasks(&broker, &["job"], 100);
    wait_above(&monitor, "buffer_bytes", 0);
    audience.join(&[&monitor], &["job"]);
    drop(Viewer::subscribed(monitor.viewers, "other"));
    assert_eq!(readiness(&monitor).0, 503);
    proxy.mend();
    wait_ready(&monitor);
    jobs.finish(&broker, &["job"]);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[&monitor, &node(&config)]);
}

/// A larger buffer comes with a reload, and the links are read again.
#[test]
fn a_reload_gives_a_full_buffer_more_room() {
    let redis = Redis::start(&[]);
    let directory = open_directory();
    let path = directory.path().join("c.yml");
    let write = |buffer: usize| {
        let keys = format!("redis: [\"{}\"], buffer: {buffer}", redis.address());
        let ports = "websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n";
        std::fs::write(&path, format!("{ports}{}", with_keys(&keys, ""))).expect("it is ours");
    };
    write(1 << 20);
    let monitor = Monitor::start_from(&path);
    wait_ready(&monitor);
    let broker = Broker::connect(monitor.brokers);
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&[&monitor], &["job"]);
    fence(&monitor, &broker);
    redis.freeze();
    for index in 0..400 {
        jobs.task_of(&broker, "job", &format!("{index} {}", "x".repeat(10_000)));
    }
    monitor.wait_logged(&["ERROR", "full"]);
    write(64 << 20);
    monitor.signal("HUP");
    wait_taken(&monitor, 401);
    assert_eq!(metric(&monitor, "buffer_max_bytes"), 64 << 20);
    redis.thaw();
    jobs.finish(&broker, &["job"]);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[&monitor]);
}
