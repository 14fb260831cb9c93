//! The metrics and the report.

use super::{counts, frame, json_of, metrics_when, start};
use crate::common::exposition::{Format, Metrics};
use crate::common::http::{ask, get, metrics, status};
use crate::common::viewer::upgrade_request;
use crate::common::zmtp::{command as zmtp_command, greeting, message, ready as zmtp_ready};
use crate::common::{self, Broker, RawPeer, Viewer, command, task};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[test]
fn both_formats_say_the_same_and_only_who_asks_gets_openmetrics() {
    let monitor = start("");
    let at = status(&monitor);
    let in_format = |accept: &str| {
        let answer = ask(at, "GET", "/metrics", accept);
        let format = match answer.header("content-type") {
            Some(OPEN_METRICS) => Format::OpenMetrics,
            Some("text/plain; version=0.0.4; charset=utf-8") => Format::Text,
            other => panic!("{other:?}"),
        };
        (format, Metrics::parse(&answer.body, format))
    };
    for accept in [
        "",
        "Accept: */*\r\n",
        "Accept: text/plain\r\n",
        "Accept: text/html,*/*;q=0.8\r\n",
        "Accept: application/openmetrics-text;q=0\r\n",
        "Accept: application/openmetrics-text;q=0.1\r\nAccept: text/plain\r\n",
        "Accept: image/png\r\n",
    ] {
        assert!(in_format(accept).0 == Format::Text, "{accept}");
    }
    // What Prometheus sends.
    let (format, open) = in_format(
        "Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
         text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n",
    );
    assert!(format == Format::OpenMetrics);
    // The process takes more while it answers, so only the names of that are the same.
    let samples = |metrics: &Metrics| -> BTreeMap<String, Option<f64>> {
        let value = |name: &str, value: f64| Some(value).filter(|_| !name.starts_with("process_"));
        metrics.samples().iter().map(|(name, found)| (name.clone(), value(name, *found))).collect()
    };
    assert_eq!(samples(&open), samples(&in_format("").1));

    assert_eq!(open.count(&format!("recodex_monitor_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1);
    for (name, family) in open.families() {
        assert!(name.starts_with("recodex_monitor_") || name.starts_with("process_"), "{name}");
        assert!(["counter", "gauge", "histogram"].contains(&family.kind.as_str()), "{name}");
    }
    // Those of the configuration.
    counts(&open, &[("brokers_limit", 64), ("history_limit_bytes", 268_435_456), ("config_last_reload_successful", 1)]);
    assert!(!open.samples().contains_key("recodex_monitor_certificate_expiry_timestamp_seconds"), "without tls");
}

/// If the start time changed, Prometheus would count a restart at every scrape.
#[test]
fn the_time_of_the_start_does_not_move() {
    let monitor = start("");
    let at = status(&monitor);
    let (mut times, mut exact, began) = (BTreeSet::new(), BTreeSet::new(), Instant::now());
    while began.elapsed() < Duration::from_millis(1500) {
        let metrics = metrics(at);
        exact.insert(metrics.value("process_start_time_seconds").to_string());
        times.insert(metrics.count("recodex_monitor_start_time_seconds"));
        times.insert(json_of(&get(at, "/status"))["started"].as_u64().expect("a time"));
    }
    assert_eq!((times.len(), exact.len()), (1, 1), "{times:?} {exact:?}");
}

#[test]
fn what_is_delivered_is_counted_message_by_message() {
    let monitor = start("clients: {max: 3}\n");
    let at = status(&monitor);
    let broker = Broker::connect(monitor.brokers);
    let (one, finished) = (task("compile", "COMPLETED"), command("FINISHED"));
    // Three that come while a viewer waits, and are there for the next.
    let mut first = Viewer::subscribed(monitor.viewers, "job");
    for _ in 0..3 {
        broker.task("job", "compile");
        first.texts(&[&one]);
    }
    let mut second = Viewer::watch(monitor.viewers, "job");
    second.texts(&[&one, &one, &one]);
    counts(
        &metrics(at),
        &[
            ("received_messages_total", 3),
            ("sent_messages_total", 6),
            ("replayed_messages_total", 3),
            ("sent_bytes_total", 6 * frame(&one)),
            ("delivery_lag_seconds_count", 3),
            ("subscribed_viewers_total", 2),
            ("viewers", 2),
            ("viewers_limit", 3),
            ("brokers", 1),
            ("channels{state=\"open\"}", 1),
            ("channels{state=\"finished\"}", 0),
        ],
    );
    broker.send(&["job", "FINISHED"]);
    for viewer in [&mut first, &mut second] {
        viewer.texts(&[&finished]);
        viewer.closes(1000);
    }
    let metrics = metrics_when(&monitor, "both have left", |metrics| metrics.count("recodex_monitor_viewers") == 0);
    counts(
        &metrics,
        &[
            ("received_messages_total", 4),
            ("sent_messages_total", 8),
            ("replayed_messages_total", 3),
            ("sent_bytes_total", 6 * frame(&one) + 2 * frame(&finished)),
            ("delivery_lag_seconds_count", 5),
            ("subscribed_viewers_total", 2),
            ("closed_viewers_total{code=\"1000\"}", 2),
            ("channels{state=\"open\"}", 0),
            ("channels{state=\"finished\"}", 1),
            ("channels{state=\"draining\"}", 0),
        ],
    );
    let lag = metrics.value("recodex_monitor_delivery_lag_seconds_sum");
    assert!(lag > 0.0 && lag < 5.0 * common::DEADLINE.as_secs_f64(), "{lag} s");
}

#[test]
fn what_is_dropped_is_counted_by_kind() {
    let monitor = start("");
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["job", "FINISHED"]);
    broker.send(&["job", "FINISHED"]);
    broker.task("job", "late");
    broker.send(&["job", "ABORTED"]);
    broker.send(&["0", "exit"]);
    broker.send(&["only"]);
    for _ in 0..2 {
        broker.send(&["", "STARTED"]);
    }
    broker.send(&["x".repeat(257).as_str(), "STARTED"]);
    for _ in 0..3 {
        broker.send(&[b"job", &b"\xff"[..]]);
    }
    let metrics = metrics_when(&monitor, "everything is counted", |metrics| {
        metrics.count("recodex_monitor_received_messages_total") >= 12
    });
    counts(
        &metrics,
        &[
            ("received_messages_total", 12),
            ("repeated_finished_total", 1),
            ("late_messages_total", 2),
            ("exits_ignored_total", 1),
            ("malformed_messages_total{kind=\"frames\"}", 1),
            ("malformed_messages_total{kind=\"empty_channel\"}", 2),
            ("malformed_messages_total{kind=\"long_channel\"}", 1),
            ("malformed_messages_total{kind=\"not_utf8\"}", 3),
        ],
    );
}

#[test]
fn who_is_refused_or_closed_is_counted_by_reason_or_code_and_nothing_says_whose_it_is() {
    let monitor = start("clients: {max: 3}\nallowed_origins: [\"https://recodex.example.org\"]\n");
    let at = status(&monitor);
    let answer = common::viewer::http(monitor.viewers, b"GET / HTTP/1.1\r\nHost: monitor\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    for _ in 0..2 {
        let answer = Viewer::connected(monitor.viewers).refused(&[("Origin", "https://elsewhere.example")]);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    let nobody = || {
        metrics_when(&monitor, "all have left", |metrics| metrics.count("recodex_monitor_viewers") == 0);
    };
    nobody();
    for (first, length, code) in [(0x81, 0, 1008), (0x82, 3, 1003), (0x81, 3, 1007), (0xC1, 3, 1002)] {
        let mut viewer = Viewer::upgraded(monitor.viewers);
        viewer.send_frame(first, &[0xff; 3][..length]);
        viewer.closes(code);
        nobody();
    }
    let _there: Vec<_> = (0..3).map(|_| Viewer::subscribed(monitor.viewers, "secret-channel")).collect();
    let mut one_more = Viewer::connected(monitor.viewers);
    one_more.send_raw(upgrade_request("/").as_bytes());
    assert!(one_more.upgrade_or_end().is_none());
    drop(one_more);
    let full = "recodex_monitor_refused_viewers_total{reason=\"full\"}";
    let metrics = metrics_when(&monitor, "the refusal is counted", |metrics| metrics.count(full) > 0);
    counts(
        &metrics,
        &[
            ("viewers", 3),
            ("subscribed_viewers_total", 3),
            ("refused_viewers_total{reason=\"full\"}", 1),
            ("refused_viewers_total{reason=\"origin\"}", 2),
            ("refused_viewers_total{reason=\"request\"}", 1),
            ("refused_viewers_total{reason=\"address\"}", 0),
            ("refused_viewers_total{reason=\"timeout\"}", 0),
            ("closed_viewers_total{code=\"1000\"}", 0),
            ("closed_viewers_total{code=\"1002\"}", 1),
            ("closed_viewers_total{code=\"1003\"}", 1),
            ("closed_viewers_total{code=\"1007\"}", 1),
            ("closed_viewers_total{code=\"1008\"}", 1),
        ],
    );

    let text = get(at, "/metrics").body;
    assert!(!text.contains("secret") && !text.contains("127.0.0.1") && !text.contains("elsewhere"), "{text}");
    let samples = metrics.families().values().flat_map(|family| &family.samples);
    let labels: BTreeSet<_> = samples.flat_map(|(_, labels, _)| labels.keys().map(String::as_str)).collect();
    assert_eq!(labels, BTreeSet::from(["code", "kind", "le", "reason", "state", "version"]));
}

#[test]
fn bytes_from_brokers_are_counted_as_they_come_over_the_wire() {
    let monitor = start("");
    let greeting = [greeting(b"NULL"), zmtp_ready(&[("Socket-Type", b"DEALER"), ("Identity", b"")])].concat();
    let messages = [message(&["job", "STARTED"]), message(&["job", "TASK", &"x".repeat(1000), "COMPLETED"])].concat();
    let mut peer = RawPeer::ready(monitor.brokers);
    peer.send(&messages);
    peer.send(&zmtp_command("PING", &[0, 0]));
    assert_eq!(peer.read_command().name, "PONG");
    let bytes = greeting.len() + messages.len() + zmtp_command("PING", &[0, 0]).len();
    counts(&metrics(status(&monitor)), &[("received_messages_total", 2), ("received_bytes_total", bytes as u64)]);
}

#[test]
fn channels_that_are_trimmed_released_expired_or_evicted_are_counted() {
    let monitor = start("history: {channel_messages: 8, release_failed: 0.1, unfinished: 0.5}\n");
    let broker = Broker::connect(monitor.brokers);
    // One too many drops a quarter.
    for id in 0..9 {
        broker.task("trimmed", &id.to_string());
    }
    broker.send(&["failed", "FAILED"]);
    let metrics = metrics_when(&monitor, "released and expired", |metrics| {
        ["released", "expired"].iter().all(|name| metrics.count(&format!("recodex_monitor_{name}_channels_total")) > 0)
    });
    counts(
        &metrics,
        &[
            ("trimmed_messages_total", 3),
            ("released_channels_total", 1),
            ("expired_channels_total", 1),
            ("evicted_channels_total", 0),
            ("channels{state=\"finished\"}", 1),
            ("channels{state=\"open\"}", 0),
        ],
    );

    let monitor = start("history: {total_bytes: 100000}\n");
    let broker = Broker::connect(monitor.brokers);
    let padding = "x".repeat(40_000);
    broker.task("first", &padding);
    let mut viewer = Viewer::watch(monitor.viewers, "first");
    viewer.text();
    for channel in ["second", "third"] {
        broker.task(channel, &padding);
    }
    viewer.is_ended_with(1013);
    let metrics =
        metrics_when(&monitor, "all is taken", |metrics| metrics.count("recodex_monitor_received_messages_total") == 3);
    counts(&metrics, &[("evicted_channels_total", 1), ("closed_viewers_total{code=\"1013\"}", 1)]);
    let bytes = metrics.count("recodex_monitor_history_bytes");
    assert!((80_000..=100_000).contains(&bytes), "two of them: {bytes}");
}

#[test]
fn lost_viewers_and_refused_links_are_counted_by_their_reasons() {
    let config = "clients: {ping_interval: 0.1, ping_timeout: 0.1, handshake_timeout: 0.2}\n\
                  zeromq: {max_connections: 1, handshake_timeout: 0.2}\n";
    let monitor = start(config);
    let _silent = Viewer::subscribed(monitor.viewers, "job");
    let _slow = TcpStream::connect(monitor.viewers).expect("the monitor listens");
    let _broker = Broker::connect(monitor.brokers);
    metrics_when(&monitor, "the broker is there", |metrics| metrics.count("recodex_monitor_brokers") == 1);
    let mut second = RawPeer::ready(monitor.brokers);
    second.is_closed();
    let mut stranger = RawPeer::connect(monitor.brokers);
    stranger.send_what_goes(&[b'x'; 64]);
    stranger.is_closed();
    let _half = RawPeer::connect(monitor.brokers);
    let metrics = metrics_when(&monitor, "all are counted", |metrics| {
        metrics.count("recodex_monitor_refused_links_total{reason=\"timeout\"}") > 0
            && metrics.count("recodex_monitor_lost_viewers_total{reason=\"silent\"}") > 0
            && metrics.count("recodex_monitor_refused_viewers_total{reason=\"timeout\"}") > 0
    });
    counts(
        &metrics,
        &[
            ("lost_viewers_total{reason=\"silent\"}", 1),
            ("lost_viewers_total{reason=\"stalled\"}", 0),
            ("refused_viewers_total{reason=\"timeout\"}", 1),
            ("refused_links_total{reason=\"timeout\"}", 1),
            ("refused_links_total{reason=\"full\"}", 1),
            ("refused_links_total{reason=\"violation\"}", 1),
            ("refused_links_total{reason=\"not_allowed\"}", 0),
        ],
    );

    let monitor = start("zeromq: {allow: [\"192.0.2.0/24\"]}\n");
    RawPeer::connect(monitor.brokers).is_closed();
    counts(&common::http::metrics(status(&monitor)), &[("refused_links_total{reason=\"not_allowed\"}", 1)]);
}

#[test]
fn the_report_and_the_metrics_agree() {
    let monitor = start("history: {total_bytes: 1000000}\nclients: {max: 7}\n");
    let at = status(&monitor);
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    broker.send(&["job", "STARTED"]);
    viewer.texts(&[command("STARTED")]);
    broker.send(&["old", "FINISHED"]);
    broker.send(&["only"]);
    let http = common::viewer::http(monitor.viewers, b"GET / HTTP/1.1\r\nHost: monitor\r\n\r\n");
    assert!(http.starts_with("HTTP/1.1 426 "), "{http}");
    let metrics = metrics_when(&monitor, "everything is counted", |metrics| {
        metrics.count("recodex_monitor_received_messages_total") == 3
            && metrics.count("recodex_monitor_refused_viewers_total{reason=\"request\"}") == 1
            && metrics.count("recodex_monitor_viewers") == 1
    });
    let report = json_of(&get(at, "/status"));
    for (path, series) in [
        ("/started", "start_time_seconds"),
        ("/viewers/now", "viewers"),
        ("/viewers/max", "viewers_limit"),
        ("/brokers/now", "brokers"),
        ("/brokers/max", "brokers_limit"),
        ("/channels/open", "channels{state=\"open\"}"),
        ("/channels/finished", "channels{state=\"finished\"}"),
        ("/channels/draining", "channels{state=\"draining\"}"),
        ("/history/bytes", "history_bytes"),
        ("/history/max", "history_limit_bytes"),
        ("/totals/messages_received", "received_messages_total"),
        ("/totals/bytes_received", "received_bytes_total"),
        ("/totals/messages_sent", "sent_messages_total"),
        ("/totals/bytes_sent", "sent_bytes_total"),
        ("/totals/messages_replayed", "replayed_messages_total"),
        ("/totals/malformed", "malformed_messages_total{kind=\"frames\"}"),
        ("/totals/viewers_subscribed", "subscribed_viewers_total"),
        ("/totals/viewers_refused", "refused_viewers_total{reason=\"request\"}"),
        ("/totals/viewers_lost", "lost_viewers_total{reason=\"silent\"}"),
        ("/totals/links_refused", "refused_links_total{reason=\"full\"}"),
        ("/totals/channels_evicted", "evicted_channels_total"),
    ] {
        let said = report.pointer(path).and_then(Value::as_u64);
        assert_eq!(said, Some(metrics.count(&format!("recodex_monitor_{series}"))), "{path} is {series}");
    }
    let totals = report["totals"].as_object().expect("an object");
    assert_eq!(totals.len(), 11, "all are compared: {totals:?}");
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (&report["ready"], &report["reason"], &report["certificate"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    let (now, started, uptime) = (report["now"].as_u64(), report["started"].as_u64(), report["uptime"].as_u64());
    let up = now.zip(started).map(|(now, started)| now - started).expect("times");
    assert!(uptime.is_some_and(|uptime| up.abs_diff(uptime) <= 1), "{report}");
    let broker = &report["brokers"]["connected"][0];
    assert!(broker["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{broker}");
    assert!(broker["since"].as_u64() >= started && broker["since"].as_u64() <= now, "{report}");
    let warnings = report["warnings"].as_array().expect("a list");
    assert!(
        warnings
            .iter()
            .any(|notice| notice["text"].as_str().is_some_and(|text| text.contains("fewer than two frames")))
    );
}
