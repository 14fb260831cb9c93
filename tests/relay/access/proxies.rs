//! Client addresses in the headers of trusted proxies.

use super::{debug, loopback};
use crate::common::{self, Broker, Host, Monitor, Viewer, command, temporary, unique};
use std::fs::{Permissions, set_permissions, write};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

/// A viewer from 127.0.0.`last` with these headers, which subscribes. Returns its name in the log.
fn known_as(monitor: &Monitor, last: u8, headers: &[(&str, &str)]) -> String {
    let channel = unique("job");
    let viewer = Viewer::connected_from(loopback(last), monitor.viewers).upgrade(headers).subscribe(&channel);
    drop(viewer);
    monitor.viewer_of(&channel)
}

#[test]
fn only_trusted_proxies_are_believed() {
    let monitor = debug("trusted_proxies: [127.0.0.2, 127.0.0.3]\n");
    let forwarded = [("X-Forwarded-For", "203.0.113.7, 192.0.2.1")];
    assert_eq!(known_as(&monitor, 2, &forwarded), "192.0.2.1");
    assert!(known_as(&monitor, 4, &forwarded).starts_with("127.0.0.4:"));
    assert_eq!(known_as(&monitor, 2, &[("X-Forwarded-For", "192.0.2.1, 127.0.0.3")]), "192.0.2.1");
}

/// A socket for both families shows IPv4 peers in their IPv6 form, and tools print that form.
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
