//! What all viewers of all nodes get while nothing fails.

use super::jobs::{Audience, Jobs, begin, channels, first};
use super::node::{config, metric, node, nodes, report, sum, with_keys};
use crate::common::http::{metrics, status};
use crate::common::{Broker, Monitor, Random, Redis, Viewer, command, fence, run, task, until};

#[test]
fn viewers_of_both_nodes_get_every_byte() {
    let redis = Redis::start(&[]);
    let nodes = nodes(2, &config(redis.address(), ""));
    let both = [&nodes[0], &nodes[1]];
    let broker = Broker::connect(nodes[0].brokers);
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&both, &["job"]);
    jobs.command(&broker, "job", "DOWNLOADED");
    jobs.tasks(&broker, &["job"], 20);
    audience.join(&both, &["job"]);
    jobs.tasks(&broker, &["job"], 20);
    jobs.command(&broker, "job", "ENDED");
    jobs.finish(&broker, &["job"]);
    audience.join(&both, &["job"]);
    audience.get_all(&jobs);
    jobs.are_whole_at(&both);
    // The frames, too, are the same.
    let bytes = both.map(|node| {
        let mut viewer = Viewer::watch(node.viewers, "job");
        jobs.is_whole("job", &mut viewer);
        viewer.received
    });
    assert!(bytes[0] == bytes[1]);
    assert_eq!(sum(&both, "gaps_total") + sum(&both, "repeated_batches_total") + sum(&both, "reconnects_total"), 0);
    let appended = metric(&nodes[0], "appended_batches_total");
    assert!(appended > 0 && metric(&nodes[1], "appended_batches_total") == 0);
    assert_eq!(both.map(|node| metric(node, "read_batches_total")), [appended; 2]);
}

#[test]
fn forty_jobs_at_once_come_to_three_nodes() {
    let redis = Redis::start(&[]);
    let nodes = nodes(3, &config(redis.address(), ""));
    let all: Vec<&Monitor> = nodes.iter().collect();
    let broker = Broker::connect(nodes[1].brokers);
    let names = channels(40);
    let mut random = Random::seeded();
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&all, &names[..20]);
    for count in 0..2000 {
        let channel = &names[random.below(names.len())];
        match random.below(10) {
            0 => jobs.command(&broker, channel, "STARTED"),
            1 => jobs.command(&broker, channel, "caf\u{e9} \"quoted\""),
            _ => jobs.task(&broker, channel),
        }
        if count == 1000 {
            audience.join(&all, &names[20..]);
        }
    }
    jobs.finish(&broker, &names);
    audience.get_all(&jobs_as_sent(&jobs, &names));
    jobs_as_sent(&jobs, &names).are_whole_at(&all);
    assert_eq!(sum(&all, "gaps_total") + sum(&all, "repeated_batches_total"), 0);
}

/// The same jobs with the words that JSON escapes in their escaped form.
fn jobs_as_sent(jobs: &Jobs, names: &[String]) -> Jobs {
    let mut escaped = Jobs::default();
    for name in names {
        for text in jobs.of(name) {
            escaped.expect(name, text.replace("caf\u{e9} \"quoted\"", "caf\\u00e9 \\\"quoted\\\""));
        }
    }
    escaped
}

#[test]
fn a_node_that_starts_late_gets_the_whole_history() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let first = node(&config);
    let broker = Broker::connect(first.brokers);
    let names = channels(10);
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    jobs.tasks(&broker, &names, 300);
    jobs.finish(&broker, &names[..5]);
    fence(&first, &broker);
    let second = node(&config);
    let both = [&first, &second];
    jobs.are_at(&both);
    audience.join(&both, &names);
    jobs.tasks(&broker, &names[5..], 100);
    // A node that starts while messages come.
    let third = Monitor::start(&config);
    jobs.tasks(&broker, &names[5..], 100);
    audience.join(&[&third], &names);
    jobs.finish(&broker, &names[5..]);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[&first, &second, &third]);
}

#[test]
fn messages_of_60_kb_and_channels_of_256_bytes_come_to_all() {
    let redis = Redis::start(&[]);
    let nodes = nodes(2, &config(redis.address(), ""));
    let both = [&nodes[0], &nodes[1]];
    let broker = Broker::connect(nodes[0].brokers);
    let long = "x".repeat(256);
    let names = ["large", long.as_str(), "\u{17e}lu\u{165}ou\u{10d}k\u{fd} k\u{16f}\u{148}"];
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&both, &names);
    for index in 0..90_usize {
        let id = char::from(b'a' + u8::try_from(index % 26).expect("it is below 26")).to_string();
        jobs.task_of(&broker, names[index % 3], &id.repeat(60_000 - index * 600));
        jobs.task_of(&broker, names[(index + 1) % 3], "small");
    }
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&both);
}

#[test]
fn a_burst_of_20000_messages_comes_to_both_nodes() {
    let redis = Redis::start(&[]);
    let nodes = nodes(2, &config(redis.address(), ""));
    let both = [&nodes[0], &nodes[1]];
    let (broker, names, mut jobs, mut audience) = begin(&both, 4);
    jobs.tasks(&broker, &names, 20_000);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&both);
    let batches = metric(&nodes[0], "appended_batches_total");
    assert!(batches < 10_000, "{batches} batches for 20,000 messages");
    assert_eq!(redis.entries(), batches);
}

/// Brokers of two nodes: each has its own jobs, and both send to one channel, where only the order of each is promised.
#[test]
fn brokers_at_both_nodes_are_heard_at_both() {
    let redis = Redis::start(&[]);
    let nodes = nodes(2, &config(redis.address(), ""));
    let both = [&nodes[0], &nodes[1]];
    let brokers = both.map(|node| Broker::connect(node.brokers));
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    let mut shared = both.map(|node| Viewer::watch(node.viewers, "shared"));
    audience.join(&both, &["job 0", "job 1"]);
    for index in 0..500 {
        for (number, broker) in brokers.iter().enumerate() {
            jobs.task(broker, &format!("job {number}"));
            broker.task("shared", &format!("{number} {index}"));
        }
    }
    jobs.finish(&brokers[0], &["job 0"]);
    jobs.finish(&brokers[1], &["job 1"]);
    audience.get_all(&jobs);
    let seen = shared.each_mut().map(|viewer| first(viewer, 1000));
    assert_eq!(seen[0], seen[1], "one order everywhere");
    for number in 0..2 {
        let expected = (0..500).map(|index| task(&format!("{number} {index}"), "COMPLETED"));
        let of_one = seen[0].iter().filter(|text| text.contains(&format!("\"task_id\": \"{number} ")));
        assert!(of_one.cloned().eq(expected), "broker {number}");
    }
}

#[test]
fn a_second_run_replaces_the_first_on_all_nodes() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let brokers = both.map(|node| Broker::connect(node.brokers));
    let (mut first, mut second, mut audience) = (Jobs::default(), Jobs::default(), Audience::default());
    audience.join(&both, &["job"]);
    first.tasks(&brokers[0], &["job"], 10);
    first.finish(&brokers[0], &["job"]);
    audience.get_all(&first);
    // It belongs to no run, at whichever node it comes.
    brokers[1].task("job", "late");
    fence(&nodes[1], &brokers[1]);
    first.are_whole_at(&both);
    second.command(&brokers[1], "job", "DOWNLOADED");
    second.tasks(&brokers[1], &["job"], 10);
    fence(&nodes[1], &brokers[1]);
    until("the other node has it, too", || {
        (Viewer::watch(nodes[0].viewers, "job").text() == command("DOWNLOADED")).then_some(())
    });
    audience.join(&both, &["job"]);
    second.finish(&brokers[1], &["job"]);
    audience.get_all(&second);
    let late = node(&config);
    second.are_whole_at(&[both[0], both[1], &late]);
}

#[test]
fn two_services_of_one_redis_hear_nothing_of_each_other() {
    let redis = Redis::start(&[]);
    let named = |name: &str| with_keys(&format!("redis: [\"{}\"], name: {name}", redis.address()), "");
    let nodes = [node(&named("one")), node(&named("two"))];
    let brokers = [0, 1].map(|index: usize| Broker::connect(nodes[index].brokers));
    let mut jobs = [Jobs::default(), Jobs::default()];
    for _ in 0..100 {
        for (jobs, broker) in jobs.iter_mut().zip(&brokers) {
            jobs.task(broker, "job");
        }
    }
    for index in 0..2 {
        jobs[index].command(&brokers[index], "job", ["ENDED", "UPLOADED"][index]);
        jobs[index].finish(&brokers[index], &["job"]);
        fence(&nodes[index], &brokers[index]);
        jobs[index].are_whole_at(&[&nodes[index]]);
        let key = ["one:messages", "two:messages"][index];
        assert_ne!(redis.tell(&["EXISTS", key]), crate::common::resp::Reply::Integer(0));
    }
}

#[test]
fn nodes_report_their_cluster() {
    let redis = Redis::start(&[]);
    let nodes = nodes(2, &config(redis.address(), ""));
    let broker = Broker::connect(nodes[0].brokers);
    let mut jobs = Jobs::default();
    jobs.tasks(&broker, &["job"], 10);
    jobs.finish(&broker, &["job"]);
    fence(&nodes[0], &broker);
    for node in &nodes {
        jobs.are_whole_at(&[node]);
        // The watch asks once a second.
        let report = until("the report knows the stream", || {
            let report = report(node);
            (report["stream_entries"].as_u64()? > 0 && report["position"] == report["last"]).then_some(report)
        });
        let is = |key: &str, expected: serde_json::Value| assert_eq!(report[key], expected, "{key} in {report}");
        is("server", redis.address().to_string().into());
        is("connected", true.into());
        is("caught_up", true.into());
        is("reason", serde_json::Value::Null);
        is("role", "primary".into());
        is("lag_seconds", serde_json::json!(0.0));
        is("lag_entries", 0.into());
        is("buffer_max", (64 << 20).into());
        let counts = ["reconnects", "failovers", "gaps", "epochs", "reappended", "repeated", "trimmed_by_bound"];
        for count in counts {
            is(count, 0.into());
        }
        let output = run(&["status", &status(node).to_string()]);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let position = report["position"].as_str().expect("an id");
        for line in [
            &format!("cluster     Redis {} (primary), read up to {position}; ", redis.address()),
            "\n            0 entries and 0.0 s behind; ",
            "\n            0 reconnects, 0 failovers, 0 gaps, 0 new streams, 0 batches put back, 0 batches sent again, 0 entries trimmed ",
        ] {
            assert!(text.contains(line), "{line:?} in {text}");
        }
        let metrics = metrics(status(node));
        let primary = format!("recodex_monitor_cluster_primary_info{{server=\"{}\"}}", redis.address());
        assert_eq!(metrics.count(&primary), 1);
        let milliseconds: f64 = position.split('-').next().and_then(|id| id.parse().ok()).expect("an id");
        let at = metrics.value("recodex_monitor_cluster_position_timestamp_seconds");
        assert!((at * 1000.0 - milliseconds).abs() < 0.5, "{at} of {position}");
        for (gauge, value) in [
            ("connected", 1),
            ("caught_up", 1),
            ("lag_entries", 0),
            ("buffer_max_bytes", 64 << 20),
            ("buffer_bytes", 0),
        ] {
            assert_eq!(metric(node, gauge), value, "{gauge}");
        }
        assert_eq!(metric(node, "stream_entries"), redis.entries());
        assert!(metric(node, "stream_bytes") > 0);
    }
}

#[test]
fn a_node_with_other_history_limits_is_named() {
    let redis = Redis::start(&[]);
    let one = node(&config(redis.address(), ""));
    let other = node(&config(redis.address(), "history: {finished: 7}"));
    Broker::connect(one.brokers).task("job", "1");
    let line = other.wait_logged(&["WARNING", "history"]);
    Viewer::watch(other.viewers, "job").texts(&[task("1", "COMPLETED")]);
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux says it");
    assert!(line.contains(name.trim_end()), "the other node is named: {line}");
}
