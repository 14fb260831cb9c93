//! The limit of viewers from one address, and health checks over a limit.

use super::loopback;
use crate::common::http::{STATUS, wait_viewers};
use crate::common::viewer::{upgrade_request, upgrade_request_with};
use crate::common::{self, Monitor, Viewer, until};

#[test]
fn an_address_has_no_more_than_its_share_until_one_has_left() {
    let monitor = Monitor::start(&format!("{STATUS}clients: {{max_per_address: 2}}\n"));
    let connect = |last| Viewer::connected_from(loopback(last), monitor.viewers);
    let first = connect(2).upgrade(&[]).subscribe("job");
    // One that has sent nothing counts, too.
    let _second = connect(2);
    wait_viewers(&monitor, 2);
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
fn a_viewer_that_is_refused_does_not_count_for_its_address() {
    let monitor = Monitor::start("allowed_origins: [\"https://a.example\"]\nclients: {max_per_address: 1}\n");
    // Each has its answer and stays, as long as the monitor lets it.
    let refused = [
        ("HTTP/1.1 403 ", upgrade_request_with("/", &[("Origin", "https://b.example")])),
        ("HTTP/1.1 426 ", "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("HTTP/1.1 400 ", "GET /\r\n\r\n".to_owned()),
    ]
    .map(|(answer, request)| {
        let mut refused = Viewer::connected(monitor.viewers);
        refused.send_raw(request.as_bytes());
        let head = String::from_utf8(refused.raw_head()).expect("a head is text");
        assert!(head.starts_with(answer), "{head}");
        refused
    });
    drop(Viewer::subscribed(monitor.viewers, "job"));
    drop(refused);
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

/// Silent connections over a limit do not block a health check.
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
