//! Answers of Redis that come late or never: batches are sent again, and nobody sees a message twice.

use super::jobs::{Audience, Jobs, begin, channels};
use super::node::{config, metric, node, nodes, sum, wait_ready};
use crate::common::{Broker, Faults, FaultyNetwork, Random, Redis, RedisProxy, fence, until};
use std::time::Duration;

/// Redis has the batch, but its connection ends before the answer.
#[test]
fn batches_whose_answers_are_lost_are_shown_once() {
    let redis = Redis::start(&[]);
    let proxy = RedisProxy::to(redis.address());
    let ingest = node(&config(proxy.address, ""));
    let other = node(&config(redis.address(), ""));
    let both = [&ingest, &other];
    let (broker, names, mut jobs, mut audience) = begin(&both, 4);
    for lost in 1..=3 {
        jobs.tasks(&broker, &names, 20);
        proxy.lose_answers(1);
        jobs.tasks(&broker, &names, 20);
        until("an answer is lost", || (proxy.lost() == lost).then_some(()));
        fence(&ingest, &broker);
    }
    // Several answers in a row.
    proxy.lose_answers(2);
    jobs.tasks(&broker, &names, 20);
    until("the answers are lost", || (proxy.lost() == 5).then_some(()));
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[both[0], both[1], &node(&config(redis.address(), ""))]);
    assert!(metric(&ingest, "repeated_batches_total") >= 1);
    assert_eq!(sum(&both, "gaps_total"), 0);
    assert_eq!(metric(&other, "reconnects_total"), 0);
}

/// The network delivers a batch after its connection has ended, and after the node has sent it again: it stands in the stream
/// twice, the second time after later ones.
#[test]
fn batches_that_come_twice_are_shown_once() {
    let redis = Redis::start(&[]);
    let proxy = RedisProxy::to(redis.address());
    let ingest = node(&config(proxy.address, ""));
    let other = node(&config(redis.address(), ""));
    let both = [&ingest, &other];
    let (broker, names, mut jobs, mut audience) = begin(&both, 4);
    for late in 1..=4 {
        jobs.tasks(&broker, &names, 20);
        fence(&ingest, &broker);
        proxy.delay_requests(late % 2 + 1);
        let before = proxy.came_late();
        jobs.tasks(&broker, &names, 20);
        until("a request comes late", || (proxy.came_late() > before + late % 2).then_some(()));
        fence(&ingest, &broker);
    }
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    let late = node(&config(redis.address(), ""));
    let all = [both[0], both[1], &late];
    jobs.are_whole_at(&all);
    assert!(metric(&ingest, "repeated_batches_total") >= 6);
    assert!(redis.entries() >= metric(&ingest, "appended_batches_total") + 6, "batches stand in the stream twice");
    assert_eq!(sum(&all, "gaps_total"), 0);
}

/// The connection stands, requests arrive, and no answer comes back.
#[test]
fn a_network_that_drops_all_answers_shows_nobody_a_double() {
    let redis = Redis::start(&[]);
    let proxy = RedisProxy::to(redis.address());
    let ingest = node(&config(proxy.address, ""));
    let other = node(&config(redis.address(), ""));
    let both = [&ingest, &other];
    let (broker, names, mut jobs, mut audience) = begin(&both, 4);
    jobs.tasks(&broker, &names, 100);
    fence(&ingest, &broker);
    proxy.drop_answers();
    let before = redis.entries();
    jobs.tasks(&broker, &names, 100);
    until("Redis has the batch", || (redis.entries() > before).then_some(()));
    until("the node notices it", || (metric(&ingest, "connected") == 0).then_some(()));
    proxy.mend();
    wait_ready(&ingest);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[both[0], both[1], &node(&config(redis.address(), ""))]);
    assert_eq!(sum(&both, "gaps_total"), 0);
}

#[test]
fn a_slow_redis_delays_and_loses_nothing() {
    let redis = Redis::start(&[]);
    let proxy = RedisProxy::to(redis.address());
    proxy.delay(Duration::from_millis(50));
    let config = config(proxy.address, "");
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let (broker, names, mut jobs, mut audience) = begin(&both, 4);
    jobs.tasks(&broker, &names, 5000);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[both[0], both[1], &node(&config)]);
    assert_eq!(sum(&both, "reconnects_total") + sum(&both, "repeated_batches_total"), 0);
}

/// The nodes' connections are delayed, split, stalled and cut at random. The seed is printed.
#[test]
fn a_faulty_network_to_redis_loses_and_doubles_nothing() {
    let redis = Redis::start(&[]);
    let mut random = Random::seeded();
    for faults in [Faults::Cuts, Faults::Resets] {
        let network = FaultyNetwork::to(redis.address(), faults, random.fork());
        let config = config(network.address, "");
        let nodes = nodes(2, &config);
        let both = [&nodes[0], &nodes[1]];
        let broker = Broker::connect(nodes[0].brokers);
        let names: Vec<_> = channels(4).iter().map(|name| format!("{name} {}", faults == Faults::Cuts)).collect();
        let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
        audience.join(&both, &names);
        for _ in 0..20 {
            jobs.tasks(&broker, &names, 100);
            std::thread::sleep(Duration::from_millis(50));
        }
        jobs.finish(&broker, &names);
        until("links were cut", || (network.cuts() > 0).then_some(()));
        network.mend();
        audience.get_all(&jobs);
        nodes.iter().for_each(wait_ready);
        jobs.are_whole_at(&[both[0], both[1], &node(&config)]);
        assert_eq!(sum(&both, "gaps_total"), 0);
    }
}
