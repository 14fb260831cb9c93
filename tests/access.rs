//! Who may come in, and as whom: origins, proxies, shares of an address, Unix sockets.

#![allow(missing_docs)]

mod common;

use common::viewer::{V2, proxy_header as v2, upgrade_request};
use common::{Broker, Host, Monitor, Viewer, command, open_directory, run, temporary, unique, until};
use std::fs::{Permissions, metadata, set_permissions, write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

fn debug(config: &str) -> Monitor {
    Monitor::start(&format!("logger: {{level: debug}}\n{config}"))
}

/// A viewer from 127.0.0.`last` with these headers, which subscribes; returns under which name it is known.
fn known_as(monitor: &Monitor, last: u8, headers: &[(&str, &str)]) -> String {
    let channel = unique("job");
    let viewer = Viewer::connected_from(loopback(last), monitor.viewers).upgrade(headers).subscribe(&channel);
    drop(viewer);
    monitor.viewer_of(&channel)
}

#[test]
fn without_allowed_origins_every_page_may_connect() {
    let monitor = Monitor::start("");
    for origin in ["https://anywhere.example", "null", "garbage \u{e9}"] {
        drop(Viewer::connected(monitor.viewers).upgrade(&[("Origin", origin)]));
    }
}

#[test]
fn a_page_of_a_foreign_origin_gets_403_and_is_logged_once_with_its_origin_escaped() {
    let monitor = Monitor::start("allowed_origins: [\"https://recodex.example.org\", \"http://localhost:8080\"]\n");
    for origin in ["https://recodex.example.org", "HTTPS://ReCodEx.example.org", "http://localhost:8080"] {
        drop(Viewer::connected(monitor.viewers).upgrade(&[("Origin", origin)]));
    }
    drop(Viewer::connected(monitor.viewers).upgrade(&[]));
    let long = format!("https://{}", "x".repeat(1500));
    for origin in ["https://evil.example\u{202e}", "http://recodex.example.org", "null", "", &long] {
        let answer = Viewer::connected(monitor.viewers).refused(&[("Origin", origin)]);
        assert!(
            answer.starts_with("HTTP/1.1 403 Forbidden\r\n") && answer.contains("allowed_origins"),
            "{origin}: {answer}"
        );
    }
    monitor.signal("USR1");
    monitor.wait_log("5 refused viewers");
    let lines = monitor.logged(&["WARNING", "allowed_origins does not name its page's origin"]);
    assert_eq!(lines.len(), 1);
    assert!(!lines[0].contains('\u{202e}'), "{lines:?}");
}

#[test]
fn of_a_request_that_names_two_origins_neither_counts() {
    let monitor = Monitor::start("allowed_origins: [\"https://a.example\", \"https://b.example\"]\n");
    let (a, b) = (("Origin", "https://a.example"), ("Origin", "https://b.example"));
    drop(Viewer::connected(monitor.viewers).upgrade(&[a, a]));
    for two in [[a, b], [a, ("Origin", "https://evil.example")], [("Origin", "https://evil.example"), a]] {
        let answer = Viewer::connected(monitor.viewers).refused(&two);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{two:?}: {answer}");
    }
}

#[test]
fn a_wildcard_allows_the_pages_of_every_host_below_a_domain() {
    let monitor = Monitor::start("allowed_origins: [\"https://*.example.org/\"]\n");
    for origin in ["https://a.example.org", "https://a.b.example.org"] {
        drop(Viewer::connected(monitor.viewers).upgrade(&[("Origin", origin)]));
    }
    for origin in ["https://example.org", "https://evil.example/.example.org", "http://a.example.org"] {
        let answer = Viewer::connected(monitor.viewers).refused(&[("Origin", origin)]);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{origin}: {answer}");
    }
}

#[test]
fn a_reload_takes_up_origins_and_shares() {
    let (_directory, path) = temporary("config.yml", "");
    set_permissions(path.parent().expect("it has one"), Permissions::from_mode(0o755)).expect("it is ours");
    let config = |more: &str| {
        let text = "websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n";
        write(&path, format!("{text}{more}")).expect("it is ours");
    };
    config("");
    let monitor = Monitor::start_from(&path);
    drop(Viewer::connected(monitor.viewers).upgrade(&[("Origin", "https://a.example")]));
    config("allowed_origins: [\"https://b.example\"]\nclients: {max_per_address: 1}\n");
    monitor.signal("HUP");
    monitor.wait_log("the configuration is taken up");
    let answer = Viewer::connected(monitor.viewers).refused(&[("Origin", "https://a.example")]);
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let request = common::viewer::upgrade_request_with("/", &[("Origin", "https://b.example")]);
    let _one = until("the one that was refused has gone", || {
        let mut viewer = Viewer::connected(monitor.viewers);
        let _ = viewer.try_send_raw(request.as_bytes());
        viewer.raw_head().starts_with(b"HTTP/1.1 101 ").then_some(viewer)
    });
    assert!(Viewer::connected(monitor.viewers).refused(&[]).starts_with("HTTP/1.1 429 "));
}

#[test]
fn an_address_has_no_more_than_its_share_until_one_has_left() {
    let monitor = Monitor::start("clients: {max_per_address: 2}\n");
    let connect = |last| Viewer::connected_from(loopback(last), monitor.viewers);
    let first = connect(2).upgrade(&[]).subscribe("job");
    // One that has sent nothing counts, too.
    let _second = connect(2);
    until("the second one is there", || {
        monitor.signal("USR1");
        monitor.logged(&["viewers: 2 of"]).first().cloned()
    });
    let answer = connect(2).refused(&[]);
    assert!(answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{answer}");
    assert!(answer.contains("Retry-After") && answer.contains("clients.max_per_address"), "{answer}");
    let _other = connect(3).upgrade(&[]).subscribe("job");
    drop(first);
    until("there is room again", || {
        let mut viewer = connect(2);
        let _ = viewer.try_send_raw(upgrade_request("/").as_bytes());
        let answer = String::from_utf8(viewer.raw_head()).expect("heads are text");
        answer.starts_with("HTTP/1.1 101 ").then_some(())
    });
    let refused = ["WARNING", "refused viewer 127.0.0.2", "max_per_address"];
    monitor.wait_logged(&refused);
    assert_eq!(monitor.logged(&refused).len(), 1);
}

#[test]
fn only_trusted_proxies_are_believed() {
    let monitor = debug("trusted_proxies: [127.0.0.2, 127.0.0.3]\n");
    let forwarded = [("X-Forwarded-For", "203.0.113.7, 192.0.2.1")];
    assert_eq!(known_as(&monitor, 2, &forwarded), "192.0.2.1");
    assert!(known_as(&monitor, 4, &forwarded).starts_with("127.0.0.4:"));
    assert_eq!(known_as(&monitor, 2, &[("X-Forwarded-For", "192.0.2.1, 127.0.0.3")]), "192.0.2.1");
}

/// A socket for both families has its peers of IPv4 in their form for IPv6, and tools print them so.
#[test]
fn an_address_of_ipv4_is_the_same_in_its_form_for_ipv6() {
    let config = "logger: {level: debug}\ntrusted_proxies: [\"::ffff:127.0.0.2\", \"::ffff:127.0.0.8/125\"]\n\
                  zeromq: {allow: [\"::ffff:127.0.0.1\"]}\nclients: {max_per_address: 1}\n";
    let monitor = Monitor::start_at(Host { name: "*", ..Host::default() }, config);
    let at = |port| (Ipv4Addr::LOCALHOST, port).into();
    let connect = |last| Viewer::connected_from(loopback(last), at(monitor.viewers.port()));
    for (last, header, known) in [
        (2, "::ffff:192.0.2.1", "192.0.2.1"),
        (9, "[::ffff:192.0.2.2]:80", "192.0.2.2:80"),
        (3, "192.0.2.3", "127.0.0.3:"),
    ] {
        let channel = unique("job");
        drop(connect(last).upgrade(&[("X-Forwarded-For", header)]).subscribe(&channel));
        let name = monitor.viewer_of(&channel);
        assert!(name.starts_with(known), "{name}");
    }
    let _first = connect(2).upgrade(&[("X-Forwarded-For", "::ffff:192.0.2.4")]);
    assert!(connect(9).refused(&[("X-Forwarded-For", "192.0.2.4")]).starts_with("HTTP/1.1 429 "));
    drop(connect(9).upgrade(&[("X-Forwarded-For", "64:ff9b::192.0.2.4")]));
    // The broker's address is in zeromq.allow.
    let broker = Broker::connect(at(monitor.brokers.port()));
    broker.send(&["job", "STARTED"]);
    let mut viewer = connect(4).upgrade(&[]);
    viewer.send_text("job");
    viewer.texts(&[command("STARTED")]);
}

#[test]
fn only_the_header_that_proxy_header_names_is_believed() {
    let all = [
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Real-IP", "192.0.2.2"),
        ("Forwarded", "for=\"[2001:db8::1]:4711\";proto=https"),
    ];
    for (config, at) in [
        ("", 0),
        ("proxy_header: x-forwarded-for\n", 0),
        ("proxy_header: x-real-ip\n", 1),
        ("proxy_header: forwarded\n", 2),
    ] {
        let monitor = debug(&format!("trusted_proxies: [127.0.0.2]\n{config}"));
        let named = ["192.0.2.1", "192.0.2.2", "[2001:db8::1]:4711"][at];
        assert_eq!(known_as(&monitor, 2, &all), named, "{config}");
        let others: Vec<_> = all.into_iter().filter(|header| *header != all[at]).collect();
        assert!(known_as(&monitor, 2, &others).starts_with("127.0.0.2:"), "{config}");
        assert!(known_as(&monitor, 3, &all).starts_with("127.0.0.3:"), "{config}");
    }
}

#[test]
fn a_proxy_that_names_nobody_or_itself_counts_as_itself_and_it_is_said() {
    let nobody = [Some("\u{202e}, unknown"), Some("203.0.113.7,"), None];
    let itself = [Some("203.0.113.7, 127.0.0.2"), Some("127.0.0.2:80"), Some("192.0.2.1, ::ffff:127.0.0.2")];
    for (values, whom) in [(nobody, "no viewer"), (itself, "itself")] {
        let monitor = debug("trusted_proxies: [127.0.0.2, 127.0.0.3]\n");
        for value in values {
            let headers: Vec<_> = value.map(|value| ("X-Forwarded-For", value)).into_iter().collect();
            assert!(known_as(&monitor, 2, &headers).starts_with("127.0.0.2:"), "{value:?}");
        }
        let lines = monitor.logged(&["proxy 127.0.0.2:", " named "]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(&format!("named {whom} in x-forwarded-for (proxy_header)")), "{lines:?}");
    }
}

/// nginx's `proxy_set_header Forwarded 'for=$remote_addr;host="$host"'`, with what a client can send as its host: nginx passes on
/// quotes and backslashes.
#[test]
fn what_a_client_puts_into_forwarded_by_its_host_never_gets_it_another_share() {
    let config =
        "trusted_proxies: [127.0.0.1]\nproxy_header: forwarded\nclients: {max_per_address: 2, subscribe_timeout: 60}\n";
    let monitor = debug(config);
    let behind = |host: &str| {
        let mut viewer = Viewer::connected(monitor.viewers);
        let said = format!("for=192.0.2.1;host=\"{host}\"");
        viewer.send_raw(common::viewer::upgrade_request_with("/", &[("Forwarded", &said)]).as_bytes());
        let head = String::from_utf8(viewer.raw_head()).expect("heads are text");
        (head.starts_with("HTTP/1.1 101 "), viewer)
    };
    let viewers = ["recodex.example.org", "[2001:db8::1]:443"].map(behind);
    assert!(viewers.iter().all(|(admitted, _)| *admitted));
    assert!(!behind("recodex.example.org").0, "192.0.2.1 has its share");
    // These count as the proxy, which has a share of its own.
    let hosts = ["a,for=203.0.113.1;x=", "a\",for=203.0.113.1;host=\"b", "a\";for=\"203.0.113.1", "a\\", "\""];
    let admitted: Vec<_> = hosts.into_iter().map(behind).collect();
    assert_eq!(admitted.iter().map(|(admitted, _)| *admitted).collect::<Vec<_>>(), [true, true, false, false, false]);
    monitor.wait_logged(&["viewer 127.0.0.1:", "answered 429"]);
}

#[test]
fn a_reload_takes_up_another_proxy_header() {
    let (_directory, path) = temporary("config.yml", "");
    set_permissions(path.parent().expect("it has one"), Permissions::from_mode(0o755)).expect("it is ours");
    let config = |header: &str| {
        let text = "websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\nlogger: {level: debug}\n";
        write(&path, format!("{text}trusted_proxies: [127.0.0.2]\nproxy_header: {header}\n")).expect("it is ours");
    };
    config("x-forwarded-for");
    let monitor = Monitor::start_from(&path);
    let both = [("X-Forwarded-For", "192.0.2.1"), ("Forwarded", "for=192.0.2.2")];
    assert_eq!(known_as(&monitor, 2, &both), "192.0.2.1");
    config("forwarded");
    monitor.signal("HUP");
    monitor.wait_log("the configuration is taken up");
    assert_eq!(known_as(&monitor, 2, &both), "192.0.2.2");
}

#[test]
fn behind_a_trusted_proxy_every_address_has_its_own_share() {
    let monitor = Monitor::start("trusted_proxies: [127.0.0.0/8]\nclients: {max_per_address: 1}\n");
    let behind = |address: &str| {
        let mut viewer = Viewer::connected(monitor.viewers);
        viewer.send_raw(common::viewer::upgrade_request_with("/", &[("X-Forwarded-For", address)]).as_bytes());
        let head = String::from_utf8(viewer.raw_head()).expect("heads are text");
        (head.lines().next().expect("a status").to_owned(), viewer)
    };
    let (one, _first) = behind("192.0.2.1");
    let (two, _second) = behind("192.0.2.2");
    let (six, _third) = behind("2001:db8::1");
    assert!([one, two, six].iter().all(|status| status.starts_with("HTTP/1.1 101 ")));
    for taken in ["192.0.2.1", "::ffff:192.0.2.2", "2001:db8::ffff:1"] {
        assert!(behind(taken).0.starts_with("HTTP/1.1 429 "), "{taken}");
    }
    assert!(behind("2001:db8:0:1::1").0.starts_with("HTTP/1.1 101 "));
}

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

#[test]
fn a_health_check_comes_from_any_address_with_any_host_and_origin() {
    const HEALTHY: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-store\r\nContent-Type: text/plain\r\n\
                           Content-Length: 3\r\n\r\n";
    let config = "allowed_origins: [\"https://a.example\"]\ntrusted_proxies: [127.0.0.2]\nclients: {max: 2, max_per_address: 1}\n\
                  logger: {level: debug}\nstatus_uri: [127.0.0.1, 0]\n";
    let monitor = Monitor::start(config);
    let ask = |last, request: &str| {
        let mut check = Viewer::connected_from(loopback(last), monitor.viewers);
        check.send_raw(request.as_bytes());
        String::from_utf8(check.raw_to_end()).expect("answers are text")
    };
    let all = || {
        for last in [1, 2, 3] {
            for (request, body) in [
                ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "ok\n"),
                ("GET /healthz HTTP/1.0\r\n\r\n", "ok\n"),
                (
                    "GET /healthz HTTP/1.1\r\nHost: b:1\r\nOrigin: https://evil.example\r\nX-Forwarded-For: x\r\n\r\n",
                    "ok\n",
                ),
                ("HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n", ""),
            ] {
                assert_eq!(ask(last, request), format!("{HEALTHY}{body}"), "{request:?}");
            }
        }
    };
    all();
    // Its address has its share.
    let one = Viewer::connected_from(loopback(1), monitor.viewers).upgrade(&[]).subscribe("job");
    all();
    // An upgrade on the path is a viewer, and they are all then.
    let mut two = Viewer::connected_from(loopback(3), monitor.viewers);
    two.send_raw(upgrade_request("/healthz").as_bytes());
    two.read_upgrade();
    let two = two.subscribe("job");
    all();
    let metrics = common::http::metrics(common::http::status(&monitor));
    let refused = metrics.samples().iter().filter(|(name, _)| name.contains("refused_viewers"));
    assert!(refused.clone().count() > 0 && refused.into_iter().all(|(_, count)| *count == 0.0));
    // Others are refused as before.
    for (last, path, status) in [(3, "/", 429), (4, "/healthz", 503), (4, "/", 503)] {
        let answer = ask(last, &upgrade_request(path));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    assert!(ask(4, "POST /healthz HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 426 "));
    assert!(!monitor.logged(&["DEBUG", "it was a health check"]).is_empty());
    assert_eq!(monitor.log().iter().filter(|line| line.contains("health check") && !line.contains("DEBUG")).count(), 0);
    drop((one, two));
}

#[test]
fn a_viewer_refused_by_clients_max_does_not_count_for_its_address() {
    let monitor = Monitor::start("clients: {max: 1, max_per_address: 1}\n");
    let _viewer = Viewer::connected_from(loopback(1), monitor.viewers).upgrade(&[]).subscribe("job");
    // Each has its answer and stays, as long as the monitor lets it.
    let _refused: Vec<_> = (0..3)
        .map(|_| {
            let mut refused = Viewer::connected_from(loopback(2), monitor.viewers);
            refused.send_raw(upgrade_request("/").as_bytes());
            let head = String::from_utf8(refused.raw_head()).expect("a head is text");
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
            refused
        })
        .collect();
}

/// Whoever stays over a limit and sends nothing keeps out no health check.
#[test]
fn silent_connections_over_a_limit_are_refused_for_those_after_them() {
    for config in
        ["clients: {max: 1, handshake_timeout: 600}\n", "clients: {max_per_address: 1, handshake_timeout: 600}\n"]
    {
        let monitor = Monitor::start(config);
        let _viewer = Viewer::connected(monitor.viewers).upgrade(&[]).subscribe("job");
        let mut silent: Vec<_> = (0..20).map(|_| Viewer::connected(monitor.viewers)).collect();
        for viewer in &mut silent[..12] {
            let answer = String::from_utf8(viewer.raw_to_end()).expect("it is text");
            assert!(answer.starts_with("HTTP/1.1 503 ") || answer.starts_with("HTTP/1.1 429 "), "{answer}");
        }
        let check = common::viewer::http(monitor.viewers, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(check.starts_with("HTTP/1.1 200 "), "{check}");
    }
}

/// A directory for a socket, and the socket's path.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = open_directory();
    let path = directory.path().join("monitor.sock");
    (directory, path)
}

fn relays(monitor: &Monitor, path: &Path) {
    let channel = unique("job");
    let broker = Broker::connect(monitor.brokers);
    broker.send(&[&channel[..], "STARTED"]);
    let mut viewer = Viewer::connected_to(path).upgrade(&[]);
    viewer.send_text(&channel);
    viewer.texts(&[command("STARTED")]);
    broker.send(&[&channel[..], "FINISHED"]);
    viewer.texts(&[command("FINISHED")]);
    viewer.closes(1000);
}

#[test]
fn viewers_come_through_a_unix_socket_with_its_mode_and_it_goes_with_a_stop() {
    let (_directory, path) = place();
    for (config, mode) in [("", 0o660), ("websocket_mode: \"0606\"\n", 0o606), ("websocket_mode: 0666\n", 0o666)] {
        let mut monitor = Monitor::start_unix(&path, config);
        let found = metadata(&path).expect("it is there");
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o7777, mode);
        if nix::unistd::geteuid().is_root() {
            let nobody = nix::unistd::User::from_name("nobody").expect("it can be asked").expect("it is there");
            assert_eq!((found.uid(), found.gid()), (nobody.uid.as_raw(), nobody.gid.as_raw()));
        }
        relays(&monitor, &path);
        let mut viewer = Viewer::connected_to(&path).upgrade(&[]).subscribe("job");
        monitor.signal("TERM");
        viewer.is_ended_with(1001);
        assert_eq!(monitor.wait_exit().code(), Some(0));
        assert!(!path.exists());
    }
}

#[test]
fn a_socket_that_a_killed_monitor_left_is_replaced() {
    let (_directory, path) = place();
    let mut monitor = Monitor::start_unix(&path, "");
    monitor.signal("KILL");
    monitor.wait_exit();
    assert!(path.exists());
    let monitor = Monitor::start_unix(&path, "");
    let mut check = Viewer::connected_to(&path);
    check.send_raw(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(check.raw_to_end().starts_with(b"HTTP/1.1 200 "));
    relays(&monitor, &path);
}

#[test]
fn a_stop_removes_no_other_than_the_socket_of_this_process() {
    let (_directory, path) = place();
    let mut monitor = Monitor::start_unix(&path, "");
    std::fs::remove_file(&path).expect("it is ours");
    write(&path, "mine").expect("it is ours");
    monitor.signal("TERM");
    assert_eq!(monitor.wait_exit().code(), Some(0));
    assert_eq!(std::fs::read_to_string(&path).expect("it stays"), "mine");
    std::fs::remove_file(&path).expect("it is ours");
    let mut monitor = Monitor::start_unix(&path, "");
    std::fs::remove_file(&path).expect("it is ours");
    let next = Monitor::start_unix(&path, "");
    monitor.signal("TERM");
    assert_eq!(monitor.wait_exit().code(), Some(0));
    relays(&next, &path);
}

#[test]
fn a_unix_socket_may_have_as_long_a_path_as_the_system_allows() {
    let directory = open_directory();
    let room = 107 - directory.path().as_os_str().len() - 1;
    let path = directory.path().join("s".repeat(room));
    for _ in 0..2 {
        let mut monitor = Monitor::start_unix(&path, "");
        relays(&monitor, &path);
        monitor.signal("KILL");
        monitor.wait_exit();
        assert_eq!(std::fs::read_dir(directory.path()).expect("it is ours").count(), 1);
    }
    let (_other, config) = temporary("config.yml", format!("websocket_uri: \"unix:{}s\"\n", path.display()));
    let output = run(&["-c", config.to_str().expect("UTF-8"), "--check"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("expected at most 107 bytes"), "{output:?}");
}

#[test]
fn a_configuration_in_the_place_of_the_sockets_temporary_name_is_refused_and_stays() {
    let (directory, path) = place();
    let config = directory.path().join("monitor.sock.new");
    let text = format!("websocket_uri: \"unix:{}\"\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n", path.display());
    write(&config, &text).expect("it is ours");
    let named = config.to_str().expect("UTF-8");
    for arguments in [&["-c", named][..], &["check", "-c", named]] {
        let output = run(arguments);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains("the configuration both use"), "{said}");
        assert_eq!(std::fs::read_to_string(&config).expect("it stays"), text);
    }
}

#[test]
fn what_is_in_the_way_of_a_unix_socket_is_left_alone_and_said() {
    let (_directory, path) = place();
    let (_other, config) = temporary(
        "config.yml",
        format!("websocket_uri: \"unix:{}\"\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n", path.display()),
    );
    let start = || run(&["-c", config.to_str().expect("UTF-8")]);
    write(&path, "mine").expect("it is ours");
    let output = start();
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is there already, and no socket"));
    std::fs::remove_file(&path).expect("it is ours");
    let listener = UnixListener::bind(&path).expect("nobody is there");
    common::open_up(&path);
    let output = start();
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another program"), "{output:?}");
    listener.set_nonblocking(true).expect("a socket");
    assert!(listener.accept().is_ok(), "it listens still, and was asked");
    drop(listener);
    std::fs::remove_file(&path).expect("it is ours");
    let nowhere = path.join("below");
    let (_other, config) = temporary(
        "config.yml",
        format!("websocket_uri: \"unix:{}\"\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n", nowhere.display()),
    );
    let output = run(&["-c", config.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("websocket_uri: cannot listen on unix:"));
}

#[test]
fn behind_a_unix_socket_the_proxy_is_believed_if_it_is_trusted() {
    let (_directory, path) = place();
    for (config, name) in [("trusted_proxies: [\"unix:\"]\n", "192.0.2.1"), ("", "unix:")] {
        let monitor = Monitor::start_unix(&path, &format!("logger: {{level: debug}}\n{config}"));
        let channel = unique("job");
        drop(Viewer::connected_to(&path).upgrade(&[("X-Forwarded-For", "192.0.2.1")]).subscribe(&channel));
        assert_eq!(monitor.viewer_of(&channel), name);
    }
}
