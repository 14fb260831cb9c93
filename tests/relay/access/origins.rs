//! The origins of pages.

use crate::common::http::{STATUS, report};
use crate::common::{self, Monitor, Viewer, temporary, until};
use std::fs::{Permissions, set_permissions, write};
use std::os::unix::fs::PermissionsExt;

#[test]
fn without_allowed_origins_every_page_may_connect() {
    let monitor = Monitor::start("");
    for origin in ["https://anywhere.example", "null", "garbage \u{e9}"] {
        drop(Viewer::connected(monitor.viewers).upgrade(&[("Origin", origin)]));
    }
}

#[test]
fn a_page_of_a_foreign_origin_gets_403_and_is_logged_once_with_its_origin_escaped() {
    let origins = "allowed_origins: [\"https://recodex.example.org\", \"http://localhost:8080\"]\n";
    let mut monitor = Monitor::start(&format!("{STATUS}{origins}"));
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
    assert_eq!(report(&monitor)["totals"]["viewers_refused"], 5);
    // The log is whole then.
    monitor.stop();
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
