//! A job over TLS: every version, history, pauses, pings.

use super::{LONG, Pair, Server, ids, tasks, texts};
use crate::common::viewer::{frame, upgrade_request};
use crate::common::{Broker, Event, Monitor, Viewer, command, task, unique};
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring::ALL_CIPHER_SUITES;
use tokio_rustls::rustls::version::{TLS12, TLS13};

/// Runs a job before a viewer that is there from the start and one that comes after its end; returns all that each received.
fn job(broker: &Broker, channel: &str, watch: impl Fn() -> Viewer) -> [Vec<u8>; 2] {
    let ids = of_all_lengths();
    let mut live = watch();
    for id in &ids {
        broker.task(channel, id);
        live.texts(&texts(std::slice::from_ref(id)));
    }
    broker.send(&[channel, "FINISHED"]);
    live.texts(&[command("FINISHED")]);
    live.closes(1000);
    let mut late = watch();
    late.texts(&texts(&ids));
    late.texts(&[command("FINISHED")]);
    late.closes(1000);
    [live.received, late.received]
}

/// Frames whose lengths take one, three and nine bytes.
fn of_all_lengths() -> Vec<String> {
    ["compile".to_owned(), "run ".repeat(50), "ú".repeat(15_000), "judge".to_owned()].to_vec()
}

#[test]
fn a_job_is_relayed_byte_for_byte_by_every_version_and_cipher_suite() {
    const NO_PINGS: &str = "clients: {ping_interval: 3600}\n";
    let plain = Monitor::start(NO_PINGS);
    let [expected, again] = job(&Broker::connect(plain.brokers), "job", || Viewer::watch(plain.viewers, "job"));
    assert!(expected.len() > 70_000 && expected == again);

    let servers = [Pair::ending_in(LONG), Pair::rsa()].map(|pair| Server::with(pair, NO_PINGS));
    let brokers = servers.each_ref().map(|server| Broker::connect(server.monitor.brokers));
    for suite in ALL_CIPHER_SUITES {
        let by_rsa = format!("{:?}", suite.suite()).contains("_RSA_");
        let (server, broker) = (&servers[usize::from(by_rsa)], &brokers[usize::from(by_rsa)]);
        let version = if suite.tls13().is_some() { &TLS13 } else { &TLS12 };
        let trust = Arc::new(server.pair.trust_with(&[*suite], &[version]));
        let channel = unique("job");
        let watch = || {
            let mut viewer = server.connected().secured(&trust);
            let tls = &viewer.session().conn;
            assert_eq!(tls.protocol_version(), Some(version.version));
            assert_eq!(tls.negotiated_cipher_suite(), Some(*suite));
            let mut viewer = viewer.upgrade(&[]);
            viewer.send_text(&channel);
            viewer
        };
        for received in job(broker, &channel, watch) {
            assert!(received == expected, "{suite:?}: {} bytes, expected {}", received.len(), expected.len());
        }
    }
}

#[test]
fn a_long_history_arrives_whole_and_in_order_at_a_viewer_that_reads_in_small_pieces() {
    let server = Server::start("");
    let broker = Broker::connect(server.monitor.brokers);
    let ids: Vec<_> = (0..200).map(|i| format!("{i} {}", "x".repeat(50_000))).collect();
    tasks(&broker, "job", &ids);
    server.fence(&broker);
    for version in [&TLS13, &TLS12] {
        let slow = server.connected().with_buffer(131_072).secured(&server.pair.trust_by(version));
        let mut slow = slow.upgrade(&[]);
        slow.piece = 1000;
        slow.send_text("job");
        for (index, id) in ids.iter().enumerate() {
            assert_eq!(slow.text(), task(id, "COMPLETED"), "message {index}");
        }
    }
}

/// While it does not read, more comes live than the kernel takes.
#[test]
fn a_viewer_that_pauses_gets_what_came_meanwhile_and_its_pings_answered() {
    let server = Server::start("");
    let broker = Broker::connect(server.monitor.brokers);
    let mut slow = server.connected().with_buffer(131_072).secured(&server.trust).upgrade(&[]).subscribe("job");
    let ids: Vec<_> = (0..200).map(|i| format!("{i} {}", "x".repeat(50_000))).collect();
    tasks(&broker, "job", &ids);
    server.fence(&broker);
    slow.send_frame(0x89, b"here?");
    let mut got = Vec::new();
    let mut pongs = 0;
    while got.len() < ids.len() {
        match slow.next() {
            Event::Text(text) => got.push(text),
            Event::Pong(payload) => {
                assert_eq!(payload, b"here?");
                pongs += 1;
            }
            other => panic!("a text was to come, not {other:?}"),
        }
    }
    assert!(got == texts(&ids), "each once and in order");
    assert_eq!(pongs, 1);
}

/// Some of these end where the kernel takes a part of the last record only.
#[test]
fn the_last_of_what_the_kernel_did_not_take_at_once_arrives_when_it_does() {
    let server = Server::start("clients: {ping_interval: 3600}\n");
    let broker = Broker::connect(server.monitor.brokers);
    let mut viewers: Vec<_> = (0..100)
        .map(|number| {
            let viewer = server.connected().with_buffer(65_536).secured(&server.trust);
            viewer.upgrade(&[]).subscribe(&format!("job {number}"))
        })
        .collect();
    let ids: Vec<_> = (0..viewers.len()).map(|i| format!("{i} {}", "x".repeat(8000))).collect();
    for number in 0..viewers.len() {
        tasks(&broker, &format!("job {number}"), &ids[..number]);
    }
    server.fence(&broker);
    for (number, viewer) in viewers.iter_mut().enumerate() {
        viewer.texts(&texts(&ids[..number]));
    }
}

#[test]
fn pings_are_answered_over_tls_before_and_after_subscribing() {
    let server = Server::start("");
    let mut viewer = server.upgraded();
    for name in [None, Some("job")] {
        if let Some(name) = name {
            viewer.send_text(name);
        }
        for payload in [b"".as_slice(), b"1", &[7; 125]] {
            viewer.send_frame(0x89, payload);
            assert_eq!(viewer.next(), Event::Pong(payload.to_vec()));
        }
    }
}

#[test]
fn an_upgrade_and_a_subscription_byte_by_byte_are_read_over_tls() {
    let server = Server::start("");
    let broker = Broker::connect(server.monitor.brokers);
    broker.task("job", "1");
    let mut viewer = server.secured();
    for byte in [upgrade_request("/").into_bytes(), frame(0x81, b"job")].concat() {
        viewer.send_raw(&[byte]);
    }
    viewer.read_upgrade();
    viewer.texts(&texts(&ids(1, 2)));
}

#[test]
fn a_plain_http_request_over_tls_is_answered_426() {
    let server = Server::start("");
    let mut client = server.secured();
    client.send_raw(b"GET / HTTP/1.1\r\nHost: monitor.example\r\n\r\n");
    let answer = String::from_utf8(client.raw_to_end()).expect("answers are text");
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    assert!(client.was_told);
}
