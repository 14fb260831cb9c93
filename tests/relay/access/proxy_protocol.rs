//! Client addresses by the PROXY protocol.

use super::{debug, loopback};
use crate::common::viewer::{V2, proxy_header as v2, upgrade_request};
use crate::common::{self, Monitor, Viewer, run, temporary, unique};

const PROXIED: &str = "websocket_proxy_protocol: true\ntrusted_proxies: [127.0.0.1]\n";

#[test]
fn with_the_proxy_protocol_a_viewer_is_who_the_header_says() {
    let monitor = debug(PROXIED);
    let local = [V2, &[0x20, 0x00, 0, 0]].concat();
    for (header, name) in [
        (b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n".to_vec(), "192.0.2.1:4711"),
        (b"PROXY TCP6 2001:db8::1 ::1 4711 80\r\n".to_vec(), "[2001:db8::1]:4711"),
        (b"PROXY TCP6 ::ffff:192.0.2.9 ::ffff:127.0.0.1 4711 80\r\n".to_vec(), "192.0.2.9:4711"),
        (v2([192, 0, 2, 2], &[]), "192.0.2.2:4711"),
        (v2([192, 0, 2, 3], &[4, 0, 2, 7, 7]), "192.0.2.3:4711"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1:"),
        (local, "127.0.0.1:"),
    ] {
        // All at once, and byte by byte.
        for step in [usize::MAX, 1] {
            let channel = unique("job");
            let mut viewer = Viewer::connected(monitor.viewers);
            let all = [&header[..], upgrade_request("/").as_bytes()].concat();
            for part in all.chunks(step.min(all.len())) {
                viewer.send_raw(part);
            }
            viewer.read_upgrade();
            drop(viewer.subscribe(&channel));
            assert!(monitor.viewer_of(&channel).starts_with(name), "{name}");
        }
    }
}

#[test]
fn with_the_proxy_protocol_who_sends_no_header_or_is_not_trusted_is_closed() {
    let monitor = Monitor::start(&format!("{PROXIED}clients: {{handshake_timeout: 0.5}}\n"));
    let request = upgrade_request("/");
    for bytes in [
        request.as_bytes().to_vec(),
        b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 99999\r\n".to_vec(),
        [&b"PROXY UNKNOWN "[..], &[b'x'; 5000]].concat(),
        [V2, &[0x21, 0x11, 0xff, 0xff], &[0; 5000]].concat(),
        [V2, &[0x31, 0x11, 0, 12], &[0; 12]].concat(),
        b"PROXY TCP4 192.0.2".to_vec(),
        Vec::new(),
    ] {
        let mut viewer = Viewer::connected(monitor.viewers);
        let _ = viewer.try_send_raw(&bytes);
        assert_eq!(viewer.raw_to_end(), b"", "{bytes:?}");
    }
    let mut stranger = Viewer::connected_from(loopback(2), monitor.viewers);
    let _ = stranger.try_send_raw(&[b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n", request.as_bytes()].concat());
    assert_eq!(stranger.raw_to_end(), b"");
    monitor.wait_logged(&["WARNING", "websocket_proxy_protocol is on"]);
    let mut viewer = Viewer::connected(monitor.viewers);
    viewer.send_raw(&v2([192, 0, 2, 2], &[]));
    drop(viewer.upgrade(&[]));
}

/// A broker that has the proxy's port, and one that has the monitor's own.
#[test]
fn with_the_proxy_protocol_who_speaks_zeromq_is_told_under_its_name() {
    for (header, name) in [(v2([192, 0, 2, 1], &[]), "192.0.2.1:4711"), (Vec::new(), "127.0.0.1:")] {
        let monitor = Monitor::start(&format!("{PROXIED}clients: {{handshake_timeout: 600}}\n"));
        let mut peer = Viewer::connected(monitor.viewers);
        let _ = peer.try_send_raw(&[header, vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f]].concat());
        assert_eq!(peer.raw_to_end(), b"");
        monitor.wait_logged(&["WARNING", &format!("refused viewer {name}"), "it speaks ZeroMQ"]);
    }
}

#[test]
fn each_client_of_the_proxy_protocol_has_its_share() {
    let monitor = Monitor::start(&format!("{PROXIED}clients: {{max_per_address: 1}}\n"));
    let proxied = |client| {
        let mut viewer = Viewer::connected(monitor.viewers);
        viewer.send_raw(&v2(client, &[]));
        viewer
    };
    let _first = proxied([192, 0, 2, 1]).upgrade(&[]);
    let _second = proxied([192, 0, 2, 2]).upgrade(&[]);
    let mut third = proxied([192, 0, 2, 1]);
    let _ = third.try_send_raw(upgrade_request("/").as_bytes());
    assert!(third.raw_to_end().starts_with(b"HTTP/1.1 429 "));
    // A health check is answered, also for an address that has its share.
    let mut check = proxied([192, 0, 2, 1]);
    check.send_raw(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(check.raw_to_end().starts_with(b"HTTP/1.1 200 "));
    monitor.wait_logged(&["WARNING", "refused viewer 192.0.2.1:4711", "max_per_address"]);
}

#[test]
fn with_the_proxy_protocol_a_header_is_believed_only_of_another_proxy_that_it_names() {
    let monitor = debug("websocket_proxy_protocol: true\ntrusted_proxies: [127.0.0.1, 10.0.0.7]\n");
    let local = [V2, &[0x20, 0x00, 0, 0]].concat();
    for (header, name) in [
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1:"),
        (local, "127.0.0.1:"),
        (v2([127, 0, 0, 1], &[]), "127.0.0.1:"),
        (v2([192, 0, 2, 1], &[]), "192.0.2.1:4711"),
        (v2([10, 0, 0, 7], &[]), "203.0.113.7"),
    ] {
        let channel = unique("job");
        let mut viewer = Viewer::connected(monitor.viewers);
        viewer.send_raw(&header);
        drop(viewer.upgrade(&[("X-Forwarded-For", "203.0.113.7")]).subscribe(&channel));
        assert!(monitor.viewer_of(&channel).starts_with(name), "{name}");
    }
}

#[test]
fn whom_the_proxy_protocol_does_not_name_has_the_proxys_own_share() {
    let monitor = Monitor::start(&format!("{PROXIED}clients: {{max_per_address: 1}}\n"));
    let proxied = |header: &[u8]| {
        let mut viewer = Viewer::connected(monitor.viewers);
        viewer.send_raw(header);
        viewer
    };
    let _named = proxied(&v2([192, 0, 2, 1], &[])).upgrade(&[]);
    let _first = proxied(b"PROXY UNKNOWN\r\n").upgrade(&[("X-Forwarded-For", "192.0.2.2")]);
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2([127, 0, 0, 1], &[])] {
        let mut second = proxied(&header);
        let request = common::viewer::upgrade_request_with("/", &[("X-Forwarded-For", "192.0.2.3")]);
        let _ = second.try_send_raw(request.as_bytes());
        assert!(second.raw_to_end().starts_with(b"HTTP/1.1 429 "));
    }
    monitor.wait_logged(&["WARNING", "refused viewer 127.0.0.1:", "max_per_address"]);
}

#[test]
fn the_proxy_protocol_without_trusted_proxies_is_refused_at_the_start() {
    let (_directory, path) = temporary("config.yml", "websocket_proxy_protocol: true\n");
    let output = run(&["-c", path.to_str().expect("UTF-8"), "--check"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("expected trusted_proxies"));
}
