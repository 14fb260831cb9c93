//! A Redis whose data is not what it was: an older copy, keys that are missing or of another type, entries that are deleted.

use super::jobs::{Jobs, begin, to_the_end};
use super::node::{config, metric, node, nodes, sum, wait_above, wait_not_ready, wait_ready};
use crate::common::pause::paused_process;
use crate::common::redis::STREAM;
use crate::common::{Broker, Monitor, Redis, Viewer, fence, until};
use std::time::Duration;

/// Sends messages before and after a harm, and asserts that viewers of both nodes, and late ones, get all of them.
fn loses_nothing(redis: &mut Redis, harm: impl FnOnce(&mut Redis, &[&Monitor; 2], &mut dyn FnMut())) -> Vec<Monitor> {
    let config = config(redis.address(), "");
    let mut nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let (broker, names, mut jobs, mut audience) = begin(&both, 3);
    jobs.tasks(&broker, &names, 90);
    fence(&nodes[0], &broker);
    harm(redis, &both, &mut || {
        jobs.tasks(&broker, &names, 30);
        fence(&nodes[0], &broker);
    });
    both.into_iter().for_each(wait_ready);
    jobs.tasks(&broker, &names, 90);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&both);
    assert_eq!(sum(&both, "gaps_total"), 0);
    nodes.push(node(&config));
    jobs.are_whole_at(&[&nodes[2]]);
    nodes
}

/// The disk lost what Redis had written last, as after a crash of the machine.
#[test]
fn a_redis_that_comes_back_without_its_last_messages_gets_them_again() {
    let nodes = loses_nothing(&mut Redis::durable(&[]), |redis, _, send| {
        redis.keep_copy();
        let had = redis.entries();
        send();
        send();
        assert!(redis.entries() > had);
        redis.kill();
        redis.return_to_copy();
        redis.begin();
    });
    assert!(metric(&nodes[0], "reappended_batches_total") > 0);
    assert_eq!(sum(&[&nodes[0], &nodes[1]], "epochs_total"), 0);
}

/// The stream is as it was: nobody sees a message again.
#[test]
fn an_epoch_that_alone_is_deleted_harms_nobody() {
    loses_nothing(&mut Redis::start(&[]), |redis, both, send| {
        redis.tell(&["DEL", "recodex:epoch"]);
        send();
        for node in both {
            wait_above(node, "epochs_total", 0);
        }
    });
}

#[test]
fn an_epoch_that_somebody_has_changed_harms_nobody() {
    loses_nothing(&mut Redis::start(&[]), |redis, both, send| {
        redis.tell(&["SET", "recodex:epoch", "somebody's"]);
        send();
        for node in both {
            wait_above(node, "epochs_total", 0);
        }
    });
}

/// The stream loses its beginning while the nodes go on, and then their connections are cut: what is gone is not put back behind
/// what came since. `remove` takes everything out of the stream.
fn a_lost_beginning_brings_nothing_out_of_order(remove: &[&str]) {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let (broker, names, mut jobs, mut audience) = begin(&both, 3);
    for _ in 0..3 {
        jobs.tasks(&broker, &names, 30);
        fence(&nodes[0], &broker);
    }
    jobs.are_at(&both);
    redis.tell(remove);
    for _ in 0..3 {
        jobs.tasks(&broker, &names, 30);
        fence(&nodes[0], &broker);
    }
    jobs.are_at(&both);
    redis.tell(&["CLIENT", "KILL", "TYPE", "normal"]);
    for node in both {
        wait_above(node, "reconnects_total", 0);
        wait_ready(node);
    }
    jobs.tasks(&broker, &names, 30);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&both);
    let late = node(&config);
    for name in &names {
        let (texts, code) = to_the_end(&mut Viewer::watch(late.viewers, name));
        assert_eq!(code, Some(1000));
        assert!(jobs.of(name).ends_with(&texts), "the end of the job, in order: {texts:?}");
        assert!(texts.len() >= 41, "what came since: {texts:?}");
    }
}

#[test]
fn a_stream_that_is_deleted_and_begins_anew_stays_in_order() {
    a_lost_beginning_brings_nothing_out_of_order(&["DEL", STREAM]);
}

#[test]
fn a_stream_that_is_emptied_by_hand_stays_in_order() {
    a_lost_beginning_brings_nothing_out_of_order(&["XTRIM", STREAM, "MAXLEN", "0"]);
}

#[test]
fn all_data_that_is_deleted_stays_away_after_a_lost_connection() {
    a_lost_beginning_brings_nothing_out_of_order(&["FLUSHALL"]);
}

/// Somebody else uses the key. The node says so, keeps the messages, and goes on once the key is free.
#[test]
fn a_key_of_another_type_is_named_and_messages_wait() {
    let redis = Redis::start(&[]);
    let monitor = node(&config(redis.address(), ""));
    let (broker, names, mut jobs, mut audience) = begin(&[&monitor], 3);
    jobs.tasks(&broker, &names, 90);
    fence(&monitor, &broker);
    redis.tell(&["SET", STREAM, "text"]);
    jobs.tasks(&broker, &names, 90);
    wait_not_ready(&monitor, "");
    wait_above(&monitor, "buffer_bytes", 0);
    let said = until("it is said", || {
        let log = monitor.log().join("\n");
        (log.contains("WRONGTYPE") || log.contains("another type") || log.contains("wrong kind")).then_some(log)
    });
    assert!(said.contains("WARNING") || said.contains("ERROR"), "{said}");
    redis.tell(&["DEL", STREAM]);
    wait_ready(&monitor);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[&monitor]);
}

/// Entries in the middle are deleted before a node has read them: it misses them, and shows the rest in order.
#[test]
fn deleted_entries_are_missed_by_a_node_that_had_not_read_them() {
    let redis = Redis::start(&[]);
    let nodes = nodes(2, &config(redis.address(), ""));
    let broker = Broker::connect(nodes[0].brokers);
    let mut jobs = Jobs::default();
    jobs.tasks(&broker, &["job"], 30);
    fence(&nodes[0], &broker);
    jobs.are_at(&[&nodes[0], &nodes[1]]);
    let mut there = Viewer::watch(nodes[1].viewers, "job");
    paused_process(nodes[1].pid(), Duration::ZERO, || {
        for _ in 0..6 {
            jobs.tasks(&broker, &["job"], 10);
            fence(&nodes[0], &broker);
        }
        let entries = redis.first_entries(1000);
        for (id, _) in &entries[entries.len() - 6..entries.len() - 3] {
            redis.tell(&["XDEL", STREAM, id]);
        }
    });
    jobs.finish(&broker, &["job"]);
    let (texts, code) = to_the_end(&mut there);
    assert_eq!(code, Some(1000));
    let mut expected = jobs.of("job").iter();
    assert!(texts.iter().all(|text| expected.any(|other| other == text)), "in order, each once: {texts:?}");
    assert!(texts.len() < jobs.of("job").len(), "some were deleted");
    wait_above(&nodes[1], "gaps_total", 0);
    nodes[1].wait_logged(&["ERROR", "missing"]);
    wait_ready(&nodes[1]);
    jobs.are_whole_at(&[&nodes[0]]);
}
