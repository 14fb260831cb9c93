//! Peers and messages that are refused.

use super::{LONG, Pair, Scene, Server, hello, ids, texts};
use crate::common::http::STATUS;
use crate::common::viewer::{proxy_header, upgrade_request};
use crate::common::{self, Broker, Event, until};

/// A handshake record with a `ClientHello` of an older version, without extensions.
fn old_hello(minor: u8) -> Vec<u8> {
    let body = [&[3, minor], [7; 32].as_slice(), &[0, 0, 4, 0xC0, 0x09, 0xC0, 0x13, 1, 0]].concat();
    let length = u8::try_from(body.len()).expect("it is short");
    [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length], body.as_slice()].concat()
}

#[test]
fn what_is_not_tls_1_2_or_1_3_is_refused_and_counted() {
    let mut scene = Scene::new(STATUS);
    let refused = |bytes: &[u8]| {
        let mut client = scene.server.connected();
        let _ = client.try_send_raw(bytes);
        client.raw_to_end()
    };
    for minor in 1..=2 {
        let answer = refused(&old_hello(minor));
        // Fatal: protocol_version or, as it lacks what is newer, handshake_failure.
        let [0x15, 3, _, 0, 2, 2, 70 | 40] = answer[..] else { panic!("no such alert: {answer:02x?}") };
    }
    refused(&[0; 100]);
    refused(b"\x15\x03\x03\x00\x02\x02\x28");
    refused(b"gets\r\n\r\n");
    // What a client does that does not like the certificate.
    let stranger = Pair::ending_in(LONG).trust();
    let error = scene.server.connected().try_secured(&stranger).err().expect("nobody knows this certificate");
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    scene.server.is_refused("tls", 6);
    scene.is_unharmed();
}

/// Returns the answer to a client that sends these bytes.
fn answer_to(server: &Server, bytes: &[u8]) -> String {
    let mut client = server.connected();
    let _ = client.try_send_raw(bytes);
    String::from_utf8(client.raw_to_end()).expect("answers are text")
}

#[test]
fn who_speaks_http_without_tls_is_answered_400_at_once_and_told_once() {
    let mut scene = Scene::new(&format!("{STATUS}clients: {{handshake_timeout: 600}}\n"));
    // The last is all that a slow one could send.
    for request in [&upgrade_request("/"), "GET /healthz HTTP/1.0\r\n\r\n", "POST / HTTP/1.1\r\n", "G"] {
        let answer = answer_to(&scene.server, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nThis port speaks TLS. Use wss:// instead of ws://.\n"), "{answer}");
    }
    scene.server.is_refused("tls", 4);
    scene.is_unharmed();
    let words = ["WARNING", "refused viewer 127.0.0.1:", "it speaks HTTP without TLS, and tls is set; use wss://"];
    scene.server.monitor.wait_logged(&words);
    assert_eq!(scene.server.monitor.logged(&["refused viewer"]).len(), 1);
}

#[test]
fn who_speaks_zeromq_where_tls_is_spoken_is_closed_at_once_and_told_once() {
    let mut scene = Scene::new(&format!("{STATUS}clients: {{handshake_timeout: 600}}\n"));
    for bytes in [&b"\xff"[..], &common::zmtp::greeting(b"NULL")] {
        assert_eq!(answer_to(&scene.server, bytes), "");
    }
    scene.server.is_refused("request", 2);
    scene.is_unharmed();
    scene.server.monitor.wait_logged(&["WARNING", "refused viewer 127.0.0.1:", "it speaks ZeroMQ"]);
    assert_eq!(scene.server.monitor.logged(&["refused viewer"]).len(), 1);
}

/// The proxy must know whether this port expects TLS or the PROXY protocol.
#[test]
fn a_proxy_header_before_tls_that_nobody_expects_is_told() {
    let server = Server::start("clients: {handshake_timeout: 600}\n");
    let header = proxy_header([192, 0, 2, 1], &[]);
    let answer = answer_to(&server, &[header, hello(&server.trust)].concat());
    assert!(answer.contains("This port takes no PROXY header"), "{answer}");
    server.monitor.wait_logged(&["WARNING", "it sent a PROXY header, and websocket_proxy_protocol is off"]);
}

#[test]
fn a_second_proxy_header_and_tls_within_tls_are_told_as_such() {
    let server = Server::start("websocket_proxy_protocol: true\ntrusted_proxies: [127.0.0.1]\n");
    let header = proxy_header([192, 0, 2, 1], &[]);
    assert!(answer_to(&server, &[&header[..], &header].concat()).contains("This port takes no PROXY header"));
    server.monitor.wait_logged(&["WARNING", "it sent a second PROXY header; only one is expected"]);
    let server = Server::start("");
    let mut viewer = server.secured();
    viewer.send_raw(&hello(&server.trust));
    viewer.raw_to_end();
    server.monitor.wait_logged(&["WARNING", "it speaks TLS within TLS; only one is expected"]);
}

#[test]
fn who_speaks_http_without_tls_behind_a_proxy_is_told_under_its_name() {
    let server = Server::start("websocket_proxy_protocol: true\ntrusted_proxies: [127.0.0.1]\n");
    let header = proxy_header([192, 0, 2, 1], &[]);
    let answer = answer_to(&server, &[&header, upgrade_request("/").as_bytes()].concat());
    assert!(answer.contains("This port speaks TLS."), "{answer}");
    server.monitor.wait_logged(&["refused viewer 192.0.2.1:4711: it speaks HTTP without TLS"]);
}

#[test]
fn one_more_than_clients_max_gets_503_and_silent_ones_are_closed_for_others() {
    let mut scene = Scene::new(&format!("{STATUS}clients: {{max: 2}}\n"));
    let second = scene.server.subscribed("job");
    let silent: Vec<_> = (0..16).map(|_| scene.server.connected()).collect();
    for _ in 0..3 {
        let answer = scene.server.connected().secured(&scene.server.trust).refused(&[]);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    // Each of the others was the oldest once.
    for mut viewer in silent.into_iter().take(8) {
        assert_eq!(viewer.raw_to_end(), b"");
    }
    assert!(scene.server.refused("full") >= 11);
    scene.relays();
    drop(second);
    until("there is room again", || {
        let mut viewer = scene.server.connected().try_secured(&scene.server.trust).ok()?;
        viewer.try_send_raw(upgrade_request("/").as_bytes()).ok()?;
        viewer.upgrade_or_end()?;
        drop(viewer.subscribe("job"));
        Some(())
    });
}

#[test]
fn a_message_over_4_kib_is_closed_1009_over_tls() {
    let server = Server::start("");
    let broker = Broker::connect(server.monitor.brokers);
    let mut viewer = server.subscribed("job");
    viewer.send_frame(0x81, &[b'x'; 4096]);
    viewer.send_frame(0x81, &[b'x'; 4097]);
    assert_eq!(viewer.next(), Event::Close(Some(1009)));
    let mut viewer = server.subscribed("job");
    viewer.send_raw(&[&[0x82, 0xFF], (1_u64 << 40).to_be_bytes().as_slice(), b"mask"].concat());
    assert_eq!(viewer.next(), Event::Close(Some(1009)));
    let mut viewer = server.upgraded();
    viewer.send_text("");
    assert_eq!(viewer.next(), Event::Close(Some(1008)));
    let mut viewer = server.subscribed("job");
    viewer.send_raw(b"\x81\x03job");
    assert_eq!(viewer.next(), Event::Close(Some(1002)));
    broker.task("job", "1");
    server.watch("job").texts(&texts(&ids(1, 2)));
}
