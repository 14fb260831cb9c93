//! Nodes that are killed, stopped and ended: the viewers of other nodes do not notice it, and nothing that was taken is lost.

use super::jobs::{Audience, Jobs, LongJob, channels, first, to_the_end};
use super::node::{again, config, node, nodes, sum, wait_ready};
use crate::common::pause::paused_process;
use crate::common::{Broker, Redis, Viewer, command, fence, task};
use std::time::Duration;

#[test]
fn messages_that_a_killed_node_had_taken_stay_at_the_others() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let mut nodes = nodes(2, &config);
    let broker = Broker::connect(nodes[0].brokers);
    let names = channels(6);
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&[&nodes[1]], &names);
    jobs.tasks(&broker, &names, 300);
    jobs.finish(&broker, &names[..3]);
    fence(&nodes[0], &broker);
    nodes[0].signal("KILL");
    nodes[0].wait_exit();
    let third = node(&config);
    jobs.are_at(&[&nodes[1], &third]);
    // The broker goes on at another node.
    let broker = Broker::connect(nodes[1].brokers);
    jobs.tasks(&broker, &names[3..], 60);
    jobs.finish(&broker, &names[3..]);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[&nodes[1], &third]);
    assert_eq!(sum(&[&nodes[1], &third], "gaps_total"), 0);
    // The killed node comes back.
    let first = again(&nodes[0], &config);
    wait_ready(&first);
    jobs.are_whole_at(&[&first]);
}

#[test]
fn after_a_kill_a_single_node_has_its_history_back_from_redis() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let mut node = node(&config);
    let broker = Broker::connect(node.brokers);
    let names = channels(6);
    let mut jobs = Jobs::default();
    for round in 0..3 {
        jobs.tasks(&broker, &names[round..], 200);
        jobs.finish(&broker, &names[round..=round]);
        fence(&node, &broker);
        node.signal("KILL");
        node.wait_exit();
        node = again(&node, &config);
        wait_ready(&node);
        jobs.are_at(&[&node]);
    }
    // libzmq has connected again.
    jobs.tasks(&broker, &names[3..], 30);
    jobs.finish(&broker, &names[3..]);
    fence(&node, &broker);
    jobs.are_whole_at(&[&node]);
}

#[test]
fn viewers_do_not_notice_that_another_node_is_killed() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let mut nodes = nodes(3, &config);
    let mut viewers = [0, 2].map(|index: usize| Viewer::watch(nodes[index].viewers, "job"));
    let job = LongJob::begin(Broker::connect(nodes[0].brokers), "job", Duration::from_millis(2));
    viewers[1].texts(&(0..50).map(|id| task(&id.to_string(), "COMPLETED")).collect::<Vec<_>>());
    nodes[1].signal("KILL");
    nodes[1].wait_exit();
    viewers[1].texts(&(50..100).map(|id| task(&id.to_string(), "COMPLETED")).collect::<Vec<_>>());
    let back = again(&nodes[1], &config);
    wait_ready(&back);
    let mut late = Viewer::watch(back.viewers, "job");
    let sent = job.finish();
    viewers[1].texts(&sent[100..]);
    viewers[1].closes(1000);
    for viewer in [&mut viewers[0], &mut late] {
        viewer.texts(&sent);
        viewer.closes(1000);
    }
}

#[test]
fn a_stopped_process_goes_on_where_it_was() {
    let redis = Redis::start(&[]);
    let nodes = nodes(2, &config(redis.address(), ""));
    let both = [&nodes[0], &nodes[1]];
    let names = channels(4);
    // The node with the broker, and the other.
    for (round, stopped) in [0, 1].into_iter().enumerate() {
        let names: Vec<_> = names.iter().map(|name| format!("{name} of round {round}")).collect();
        let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
        let broker = Broker::connect(nodes[0].brokers);
        audience.join(&both, &names);
        jobs.tasks(&broker, &names, 200);
        // Longer than any deadline of a connection to Redis.
        paused_process(nodes[stopped].pid(), Duration::from_secs(4), || jobs.tasks(&broker, &names, 200));
        jobs.tasks(&broker, &names, 200);
        jobs.finish(&broker, &names);
        audience.get_all(&jobs);
        jobs.are_whole_at(&both);
    }
    assert_eq!(sum(&both, "gaps_total"), 0);
}

/// A stop takes what brokers have sent, and appends it before the process ends.
#[test]
fn a_stop_loses_nothing_that_was_taken() {
    let redis = Redis::start(&[]);
    let mut nodes = nodes(2, &config(redis.address(), ""));
    let broker = Broker::connect(nodes[0].brokers);
    let mut jobs = Jobs::default();
    let mut there = Viewer::subscribed(nodes[0].viewers, "job");
    let mut other = Viewer::subscribed(nodes[1].viewers, "job");
    jobs.tasks(&broker, &["job"], 5000);
    nodes[0].stop();
    // The viewer here is told that its subscription has ended.
    let (mut seen, code) = to_the_end(&mut there);
    assert_eq!(code, Some(1001));
    assert_eq!(seen.pop(), Some(command("FINISHED")));
    assert!(jobs.of("job").starts_with(&seen), "a beginning of the job, in order");
    // libzmq may still have had some: of those that were taken, none is lost.
    let broker = Broker::connect(nodes[1].brokers);
    broker.send(&["job", "FINISHED"]);
    let (mut elsewhere, code) = to_the_end(&mut other);
    assert_eq!((elsewhere.pop(), code), (Some(command("FINISHED")), Some(1000)));
    assert!(jobs.of("job").starts_with(&elsewhere), "a beginning of the job, in order");
    assert!(elsewhere.len() >= seen.len(), "{} here, {} there", seen.len(), elsewhere.len());
    let (mut late, _) = to_the_end(&mut Viewer::watch(nodes[1].viewers, "job"));
    late.pop();
    assert_eq!(late, elsewhere);
}

/// A stop of a node without a broker.
#[test]
fn viewers_do_not_notice_that_another_node_ends() {
    let redis = Redis::start(&[]);
    let mut nodes = nodes(3, &config(redis.address(), ""));
    let mut others = [0, 2].map(|index: usize| Viewer::watch(nodes[index].viewers, "job"));
    let mut there = Viewer::watch(nodes[1].viewers, "job");
    let job = LongJob::begin(Broker::connect(nodes[0].brokers), "job", Duration::from_millis(2));
    let beginning = first(&mut there, 50);
    nodes[1].stop();
    // Its own viewers have a beginning of the job, and their dialogs end.
    let (mut rest, code) = to_the_end(&mut there);
    assert_eq!((rest.pop(), code), (Some(command("FINISHED")), Some(1001)));
    let seen = [beginning, rest].concat();
    // The job goes on after the stop.
    let more = first(&mut others[1], seen.len() + 50);
    let sent = job.finish();
    assert!(sent.starts_with(&seen) && sent.len() > seen.len() + 1, "a beginning of the job, in order");
    others[0].texts(&sent);
    others[1].texts(&sent[more.len()..]);
    for viewer in &mut others {
        viewer.closes(1000);
    }
    let both = [&nodes[0], &nodes[2]];
    assert_eq!(sum(&both, "reconnects_total") + sum(&both, "gaps_total") + sum(&both, "repeated_batches_total"), 0);
}

#[test]
fn a_stop_after_everything_was_taken_loses_nothing_at_all() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let mut nodes = nodes(2, &config);
    let broker = Broker::connect(nodes[0].brokers);
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    let names = channels(3);
    audience.join(&[&nodes[1]], &names);
    jobs.tasks(&broker, &names, 3000);
    fence(&nodes[0], &broker);
    nodes[0].stop();
    jobs.are_at(&[&nodes[1], &node(&config)]);
    let broker = Broker::connect(nodes[1].brokers);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
}
