//! The status listener: what it answers, to whom it does not, and that the numbers are right.

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::time::{Duration, Instant};

use common::exposition::{Format, Metrics};
use common::http::{self, Answer, Events, STATUS, ask, connect, get, metrics, read_to_close, status};
use common::viewer::upgrade_request;
use common::zmtp::{command as zmtp_command, greeting, message, ready as zmtp_ready};
use common::{
    Broker, Event, Monitor, PROGRAM, RawPeer, Scene, Viewer, command, fence, run, taken_port, task, temporary, until,
};
use nix::sys::socket::{setsockopt, sockopt::RcvBuf};
use serde_json::{Value, json};

/// The most connections at once, the longest head in bytes, and how long a request may take.
const CONNECTIONS: usize = 32;
const MAX_HEAD: usize = 8 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn start(config: &str) -> Monitor {
    Monitor::start(&format!("{STATUS}{config}"))
}

/// Waits until this is so of the metrics, and returns them.
fn metrics_when(monitor: &Monitor, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
    let at = status(monitor);
    until(what, || Some(metrics(at)).filter(|metrics| wanted(metrics)))
}

/// Asserts these counts, each of a sample without the prefix that all have.
fn counts(metrics: &Metrics, expected: &[(&str, u64)]) {
    for (series, count) in expected {
        assert_eq!(metrics.count(&format!("recodex_monitor_{series}")), *count, "{series}");
    }
}

fn json_of(answer: &Answer) -> Value {
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    serde_json::from_str(&answer.body).expect("JSON")
}

// What is answered.

#[test]
fn every_path_has_its_status_and_type_and_none_is_kept_in_a_cache() {
    let monitor = start("");
    let at = status(&monitor);
    for (path, code, kind) in [
        ("/", 200, "text/html; charset=utf-8"),
        ("/healthz", 200, PLAIN),
        ("/readyz", 503, PLAIN),
        ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8"),
        ("/status", 200, "application/json"),
        ("/status?now", 200, "application/json"),
        ("/watch", 400, PLAIN),
        ("/nothing", 404, PLAIN),
        ("/status/", 404, PLAIN),
        ("//status", 404, PLAIN),
        ("/../etc/passwd", 404, PLAIN),
        ("/%73tatus", 404, PLAIN),
    ] {
        let whole = get(at, path);
        assert_eq!((whole.status, whole.header("content-type")), (code, Some(kind)), "{path}");
        assert!(!whole.body.is_empty(), "{path}");
        let head = ask(at, "HEAD", path, "");
        assert_eq!((head.status, head.body.as_str()), (code, ""), "HEAD {path}");
        for answer in [&whole, &head] {
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
            assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
            assert_eq!(answer.header("connection"), Some("close"), "{path}");
            // Nobody else's page may read it.
            assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
            assert_eq!(answer.header("content-type"), Some(kind), "{path}");
            assert_eq!(answer.header("content-security-policy").is_some(), path == "/", "{path}");
        }
        assert_eq!(whole.header("content-length"), Some(whole.body.len().to_string().as_str()), "{path}");
        if !matches!(path, "/metrics" | "/status" | "/status?now") {
            assert_eq!(head.header("content-length"), whole.header("content-length"), "HEAD {path}");
        }
    }
    for path in ["/events", "/watch?channel=job"] {
        let head = ask(at, "HEAD", path, "");
        assert_eq!((head.status, head.body.as_str()), (200, ""), "HEAD {path}");
        assert_eq!(head.header("content-type"), Some("text/event-stream"), "HEAD {path}");
        assert_eq!(head.header("x-accel-buffering"), Some("no"), "HEAD {path}");
    }
    assert_eq!(get(at, "/healthz").body, "ok\n");
}

#[test]
fn the_page_may_run_nothing_but_itself() {
    let monitor = start("");
    let page = get(status(&monitor), "/");
    let policy = page.header("content-security-policy").expect("the page has a policy");
    let rules: Vec<_> = policy.split("; ").collect();
    for rule in
        ["default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    {
        assert!(rules.contains(&rule), "{rule}: {policy}");
    }
    for rule in ["script-src 'sha256-", "style-src 'sha256-"] {
        let mut found = rules.iter().filter_map(|found| found.strip_prefix(rule));
        assert!(found.next().is_some_and(|hash| !hash.contains(' ')), "{rule}: {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{policy}");
    // It asks for nothing of another host.
    assert!(!page.body.contains("http://") && !page.body.contains("https://"));
}

/// A page of another site may have its own name lead here.
#[test]
fn every_host_of_a_request_must_be_the_monitors() {
    let monitor = start("");
    let at = status(&monitor);
    for (hosts, code) in [
        ("", 200),
        ("Host: localhost\r\n", 200),
        ("Host: evil.example\r\n", 421),
        ("Host: localhost\r\nHost: evil.example\r\n", 421),
        ("Host: evil.example\r\nHost: localhost\r\n", 421),
    ] {
        let request = format!("GET /status HTTP/1.1\r\n{hosts}\r\n");
        let answer = common::viewer::http(at, request.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{hosts:?}: {answer}");
    }
}

#[test]
fn only_get_and_head_are_answered() {
    let monitor = start("");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        for path in ["/", "/healthz", "/events", "/watch?channel=job", "/nothing"] {
            let answer = ask(status(&monitor), method, path, "Content-Length: 0\r\n");
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method} {path}");
            assert_eq!(answer.header("content-type"), Some(PLAIN));
        }
    }
}

#[test]
fn a_head_may_have_8_kib_and_noise_gets_400() {
    let monitor = start("");
    let at = status(&monitor);
    let padded = |length: usize| {
        let mut head = format!("GET /healthz HTTP/1.1\r\nHost: {at}\r\nX: ");
        head.push_str(&"x".repeat(length - head.len() - 4));
        head + "\r\n\r\n"
    };
    let answered = |request: &[u8]| {
        let mut stream = connect(at);
        stream.write_all(request).expect("it reads");
        http::answer(stream).status
    };
    assert_eq!(answered(padded(MAX_HEAD - 1).as_bytes()), 200);
    // Without the end, so that all is read before the answer.
    assert_eq!(answered(&padded(MAX_HEAD + 4).as_bytes()[..MAX_HEAD]), 431);
    for noise in [
        "\x16\x03\x01\x02\x00\x01\r\n\r\n",
        "hello\r\n\r\n",
        "GET /healthz\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
    ] {
        assert_eq!(answered(noise.as_bytes()), 400, "{noise:?}");
    }
    assert_eq!(get(at, "/healthz").status, 200);
}

#[test]
fn who_speaks_zeromq_or_tls_is_told_once_and_a_probe_is_not() {
    let monitor = start("");
    let at = status(&monitor);
    let said = |bytes: &[u8]| {
        let mut stream = connect(at);
        let _ = stream.write_all(bytes);
        read_to_close(&stream)
    };
    drop(connect(at));
    RawPeer::connect(at).reset();
    said(b"hello\r\n\r\n");
    for _ in 0..2 {
        // All that a slow one could send, and more.
        for bytes in [&b"\xff"[..], &greeting(b"NULL"), b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
            said(bytes);
        }
    }
    let zeromq = "it speaks ZeroMQ, and this is the status port (status_uri); brokers connect to zeromq_uri";
    let tls = "it speaks TLS, and the status port (status_uri) does not; use http://";
    for what in [zeromq, tls] {
        let line = monitor.wait_logged(&["WARNING", "refused a status request from 127.0.0.1:", what]);
        assert!(line.ends_with(what), "{line}");
    }
    assert_eq!(get(at, "/healthz").status, 200);
    assert_eq!(monitor.logged(&["WARNING"]).len(), 2);
}

#[test]
fn ready_is_with_a_broker_and_healthy_is_always() {
    let monitor = start("");
    let at = status(&monitor);
    let is = |code: u16, text: &str| {
        let answer = until(text, || Some(get(at, "/readyz")).filter(|answer| answer.status == code));
        assert_eq!((answer.body.as_str(), answer.header("content-type")), (text, Some(PLAIN)));
        assert_eq!(get(at, "/healthz").body, "ok\n");
        assert_eq!(metrics(at).count("recodex_monitor_ready"), u64::from(code == 200));
    };
    assert_eq!(get(at, "/readyz").body, "no broker is connected\n");
    // Somebody who is not through with the handshake is no broker.
    let _stranger = RawPeer::connect(monitor.brokers);
    is(503, "no broker is connected\n");
    let broker = Broker::connect(monitor.brokers);
    is(200, "ok\n");
    drop(broker);
    is(503, "no broker is connected\n");
}

#[test]
fn who_asks_while_the_monitor_stops_hears_so() {
    let monitor = start("");
    let at = status(&monitor);
    let broker = Broker::connect(monitor.brokers);
    // One that does not read holds up the stop.
    let _stalled = Viewer::subscribed_with_small_buffer(monitor.viewers, "large");
    let mut viewer = Viewer::subscribed(monitor.viewers, "large");
    let padding = "x".repeat(30_000);
    for id in 0..200 {
        broker.task("large", &format!("{id} {padding}"));
        viewer.text();
    }
    let mut asker = connect(at);
    asker.write_all(b"GET /readyz HTTP/1.1\r\n").expect("it reads");
    // Connections are taken in their order, so that the first has been, too.
    assert_eq!(get(at, "/readyz").status, 200);
    monitor.signal("TERM");
    viewer.texts(&[command("FINISHED")]);
    assert_eq!(viewer.next(), Event::Close(Some(1001)));
    asker.write_all(b"Host: monitor\r\n\r\n").expect("it reads");
    let answer = http::answer(asker);
    assert_eq!((answer.status, answer.body.as_str()), (503, "the monitor stops\n"));
}

// Who asks too much.

#[test]
fn silent_connections_are_let_go_and_meanwhile_the_relay_goes_on() {
    let mut scene = Scene::new(STATUS);
    let at = status(&scene.monitor);
    let began = Instant::now();
    let mut silent: Vec<_> = (0..CONNECTIONS).map(|_| connect(at)).collect();
    for half in silent.iter_mut().step_by(2) {
        half.write_all(b"GET /healthz HTTP/1.1\r\nHost: ").expect("it reads");
    }
    // Connections are taken in their order: this is the one too many.
    assert_eq!(read_to_close(&connect(at)), b"");
    assert!(began.elapsed() < REQUEST_TIMEOUT, "closed at once, and not with the others");
    scene.monitor.wait_logged(&["WARNING", "refused a status request", "32 are open"]);
    scene.relays();
    for silent in &silent {
        read_to_close(silent);
    }
    assert!(began.elapsed() >= REQUEST_TIMEOUT, "they had {:?}", began.elapsed());
    assert_eq!(get(at, "/healthz").status, 200);
    scene.is_unharmed();
}

#[test]
fn places_of_those_who_leave_are_free_at_once() {
    let mut scene = Scene::new(STATUS);
    let at = status(&scene.monitor);
    let before = scene.monitor.descriptors();
    let mut all: Vec<_> = (0..CONNECTIONS).map(|_| Events::open(at, "/watch?channel=job")).collect();
    let began = Instant::now();
    assert_eq!(read_to_close(&connect(at)), b"");
    assert!(began.elapsed() < REQUEST_TIMEOUT, "there was a place for one more");
    scene.relays();
    let began = Instant::now();
    drop(all.pop());
    until("there is a place", || {
        let mut stream = connect(at);
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: monitor\r\n\r\n");
        read_to_close(&stream).starts_with(b"HTTP/1.1 200 OK").then_some(())
    });
    // Otherwise they are missed when they are to be sent something, which is after 15 s.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    scene.broker.send(&["job", "STARTED"]);
    for events in &mut all {
        events.is_next("message", &command("STARTED"));
    }
    drop(all);
    until("nothing is left of them", || (scene.monitor.descriptors() <= before).then_some(()));
    scene.is_unharmed();
}

/// A job of 16 MiB, which thirty watch and do not read.
#[test]
fn streams_that_are_not_read_take_little_memory_and_cost_the_others_nothing() {
    const MESSAGES: usize = 270;
    let mut scene = Scene::new(STATUS);
    let at = status(&scene.monitor);
    let padding = "x".repeat(60_000);
    for id in 0..MESSAGES {
        scene.broker.task("large", &format!("{id} {padding}"));
    }
    scene.relays();
    let before = scene.monitor.rss_kib();
    let deaf: Vec<_> = (0..CONNECTIONS - 1)
        .map(|_| {
            let mut stream = connect(at);
            setsockopt(&stream, RcvBuf, &16_384).expect("a TCP socket");
            stream.write_all(b"GET /watch?channel=large HTTP/1.1\r\nHost: monitor\r\n\r\n").expect("it reads");
            stream
        })
        .collect();
    // One that reads gets everything that there is.
    let mut reads = Events::open(at, "/watch?channel=large");
    let (mut next, mut read) = (None, 0);
    while next != Some(MESSAGES) {
        let (name, data) = reads.next();
        assert_eq!(name, "message");
        let id = common::task_id(&data).split_once(' ').and_then(|(id, _)| id.parse::<usize>().ok()).expect("a number");
        assert_eq!(id, next.unwrap_or(id), "none is left out");
        next = Some(id + 1);
        read += 1;
        if id.is_multiple_of(50) {
            scene.relays();
        }
    }
    eprintln!("{read} messages were kept");
    let rss = scene.monitor.rss_kib();
    eprintln!("{before} KiB, with streams that are not read {rss} KiB");
    // Some pieces of 256 KiB each, and not 16 MiB each.
    assert!(rss < before + 64 * 1024, "{before} KiB, then {rss} KiB");
    drop((deaf, reads));
    scene.serves_all();
}

// Metrics.

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
    assert_eq!(*open.samples(), *in_format("").1.samples());

    assert_eq!(open.count(&format!("recodex_monitor_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1);
    for (name, family) in open.families() {
        assert!(name.starts_with("recodex_monitor_"), "{name}");
        assert!(["counter", "gauge", "histogram"].contains(&family.kind.as_str()), "{name}");
    }
    // Those of the configuration.
    counts(&open, &[("brokers_limit", 64), ("history_limit_bytes", 268_435_456), ("config_reload_success", 1)]);
    assert!(!open.samples().contains_key("recodex_monitor_certificate_expiry_timestamp_seconds"), "without tls");
}

/// If it moved, every scrape would be a restart to who counts them.
#[test]
fn the_time_of_the_start_does_not_move() {
    let monitor = start("");
    let at = status(&monitor);
    let (mut times, began) = (BTreeSet::new(), Instant::now());
    while began.elapsed() < Duration::from_millis(1500) {
        times.insert(metrics(at).count("recodex_monitor_start_time_seconds"));
        times.insert(json_of(&get(at, "/status"))["started"].as_u64().expect("a time"));
    }
    assert_eq!(times.len(), 1, "{times:?}");
}

/// The length of a text's frame, as the monitor sends it.
fn frame(text: &str) -> u64 {
    let head = if text.len() < 126 { 2 } else { 4 };
    (head + text.len()) as u64
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
    assert!(!one_more.upgrade_or_refusal());
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

// The report.

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

// What happens, as it happens.

#[test]
fn the_stream_begins_with_samples_settings_warnings_and_status_and_goes_on_with_status() {
    let monitor = start("clients: {max: 77}\n");
    let at = status(&monitor);
    let mut events = Events::open(at, "/events");
    let mut next = |name: &str| -> Value {
        let (found, data) = events.next();
        assert_eq!(found, name);
        serde_json::from_str(&data).expect("the data is JSON")
    };
    let samples = next("samples");
    assert_eq!(samples["period"], 1);
    assert!(samples["samples"].is_array());
    let settings = next("settings");
    let settings: serde_yaml::Value = serde_yaml::from_str(settings.as_str().expect("a string")).expect("YAML");
    assert_eq!(settings["clients"]["max"], 77);
    assert_eq!(next("warnings"), json!([]));
    let mut report = json_of(&get(at, "/status"));
    report.as_object_mut().expect("an object").remove("warnings");
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<BTreeSet<_>>();
    let first = next("status");
    for (number, told) in [first].into_iter().chain((0..2).map(|_| next("status"))).enumerate() {
        let mut told_keys = keys(&told);
        if let Some(sample) = told.get("sample") {
            assert_eq!(sample.as_array().map(Vec::len), Some(4), "{sample}");
            told_keys.remove("sample");
        } else {
            assert_eq!(number, 0, "there is a sample after a second");
        }
        assert_eq!(told_keys, keys(&report), "status {number}");
    }
}

#[test]
fn samples_have_what_was_received_and_sent_in_their_second() {
    let monitor = start("");
    let at = status(&monitor);
    let broker = Broker::connect(monitor.brokers);
    let mut viewers: Vec<_> = (0..2).map(|_| Viewer::subscribed(monitor.viewers, "job")).collect();
    let mut events = Events::open(at, "/events");
    events.next_json("status");
    for id in 0..10 {
        broker.task("job", &id.to_string());
    }
    for viewer in &mut viewers {
        (0..10).for_each(|_| drop(viewer.text()));
    }
    let mut sums = [0; 2];
    let last = until("all are in samples", || {
        let sample = events.next_json("status")["sample"].clone();
        for (sum, at) in sums.iter_mut().zip([1, 2]) {
            *sum += sample[at].as_u64().expect("a rate");
        }
        (sums[0] >= 10 && sums[1] >= 20).then_some(sample)
    });
    assert_eq!(last[3], 2, "viewers");
    // A sample's rate is of a second that may have been a little longer.
    assert!(sums[0] <= 12 && sums[1] <= 23, "{sums:?}");
    // Who comes later gets them, oldest first, and the last of them again with the first status.
    let mut late = Events::open(at, "/events");
    let samples = late.next_json("samples");
    let samples = samples["samples"].as_array().expect("a list");
    let times: Vec<_> = samples.iter().map(|sample| sample[0].as_u64().expect("a time")).collect();
    assert!(times.is_sorted() && times.contains(&last[0].as_u64().expect("a time")), "{times:?}");
    let newest = late.next_json("status")["sample"].clone();
    assert!(newest == samples[samples.len() - 1] || newest[0].as_u64() > times.last().copied(), "{newest}");
}

#[test]
fn a_warning_reaches_those_who_listen() {
    let monitor = start("");
    let mut events = Events::open(status(&monitor), "/events");
    assert_eq!(events.next_json("warnings"), json!([]));
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["only"]);
    let warnings = events.next_json("warnings");
    let warning = &warnings[0];
    assert_eq!((warnings.as_array().map(Vec::len), &warning["level"]), (Some(1), &json!("warning")));
    assert!(warning["text"].as_str().is_some_and(|text| text.contains("fewer than two frames")), "{warning}");
    let since = Duration::from_secs_f64(warning["time"].as_f64().expect("a time"));
    let now = std::time::UNIX_EPOCH.elapsed().expect("it is after 1970");
    assert!(now.checked_sub(since).is_some_and(|ago| ago < common::DEADLINE), "{warning}");
    let mut late = Events::open(status(&monitor), "/events");
    assert_eq!(late.next_json("warnings"), warnings);
}

#[test]
fn settings_that_a_reload_takes_up_are_told_and_one_that_fails_shows_in_the_metrics() {
    let directory = common::open_directory();
    let path = directory.path().join("config.yml");
    let write = |more: &str| {
        let user = if nix::unistd::geteuid().is_root() { "user: nobody\n" } else { "" };
        let ports = "websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\n";
        std::fs::write(&path, format!("{ports}{STATUS}{user}{more}")).expect("it is ours");
    };
    write("clients: {max: 5}\n");
    let monitor = Monitor::start_from(&path);
    let at = status(&monitor);
    let mut events = Events::open(at, "/events");
    assert!(events.next_of("settings").contains("max: 5\\n"));
    write("clients: {max: 6}\n");
    monitor.signal("HUP");
    assert!(events.next_of("settings").contains("max: 6\\n"));
    counts(&metrics(at), &[("viewers_limit", 6), ("config_reload_success", 1)]);

    write("clients: {max: none}\n");
    monitor.signal("HUP");
    let warnings = events.next_json("warnings");
    assert_eq!(warnings.as_array().and_then(|all| all.last()).expect("a notice")["level"], "error");
    counts(&metrics(at), &[("viewers_limit", 6), ("config_reload_success", 0)]);
    write("clients: {max: 8}\n");
    monitor.signal("HUP");
    assert!(events.next_of("settings").contains("max: 8\\n"));
    counts(&metrics(at), &[("viewers_limit", 8), ("config_reload_success", 1)]);
}

// One job.

#[test]
fn a_job_is_watched_from_its_beginning_to_its_close() {
    let monitor = start("");
    let at = status(&monitor);
    let broker = Broker::connect(monitor.brokers);
    let mut early = Events::open(at, "/watch?channel=job");
    broker.send(&["job", "STARTED"]);
    early.is_next("message", &command("STARTED"));
    broker.task("job", "\u{159}eka \"a\"\n<b>");
    let task = task("\\u0159eka \\\"a\\\"\\n<b>", "COMPLETED");
    early.is_next("message", &task);
    // As a student who comes late.
    let mut late = Events::open(at, "/watch?channel=job");
    late.is_next("message", &command("STARTED"));
    late.is_next("message", &task);
    broker.send(&["job", "FINISHED"]);
    let after = Events::open(at, "/watch?channel=job");
    for (mut events, seen) in [(early, 2), (late, 2), (after, 0)] {
        if seen == 0 {
            events.is_next("message", &command("STARTED"));
            events.is_next("message", &task);
        }
        events.is_next("message", &command("FINISHED"));
        let close: Value = serde_json::from_str(&events.next_of("close")).expect("JSON");
        assert_eq!(close, json!({"code": 1000, "reason": ""}));
        assert_eq!(events.next_or_end(), None);
    }
}

#[test]
fn a_channel_id_of_1_to_256_bytes_may_be_watched_and_no_other() {
    let monitor = start("");
    let at = status(&monitor);
    let broker = Broker::connect(monitor.brokers);
    for query in ["", "?", "?channel", "?channel=", "?other=job", "?CHANNEL=job"] {
        let answer = get(at, &format!("/watch{query}"));
        assert_eq!((answer.status, answer.header("content-type")), (400, Some(PLAIN)), "{query:?}");
        assert_eq!(answer.body.lines().count(), 1, "{query:?}: {}", answer.body);
    }
    for (id, escaped) in [
        ("x".repeat(256), "x".repeat(256)),
        ("\u{fa}".repeat(128), "%C3%BA".repeat(128)),
        ("a b&c=d+#%".to_owned(), "a+b%26c%3Dd%2B%23%25".to_owned()),
    ] {
        broker.send(&[id.as_str(), "FINISHED"]);
        let path = format!("/watch?x=1&channel={escaped}&channel=other");
        Events::open(at, &path).is_next("message", &command("FINISHED"));
    }
    for escaped in ["x".repeat(257), "%C3%BA".repeat(128) + "x"] {
        assert_eq!(get(at, &format!("/watch?channel={escaped}")).status, 400);
    }
}

#[test]
fn the_longest_messages_are_watched_whole() {
    let monitor = start("");
    let at = status(&monitor);
    let broker = Broker::connect(monitor.brokers);
    let texts: Vec<_> = [("\u{1}", "\\u0001", 65_000), ("\u{fa}", "\\u00fa", 32_500), ("x", "x", 65_000)]
        .into_iter()
        .map(|(character, escaped, count)| {
            broker.task("job", &character.repeat(count));
            task(&escaped.repeat(count), "COMPLETED")
        })
        .collect();
    assert!(texts[0].len() > 256 * 1024);
    let mut events = Events::open(at, "/watch?channel=job");
    let mut expect = || {
        for text in &texts {
            let (name, data) = events.next();
            assert!(name == "message" && data == *text, "{name}: {} bytes, not {}", data.len(), text.len());
        }
    };
    expect();
    for character in ["\u{1}".repeat(65_000), "\u{fa}".repeat(32_500), "x".repeat(65_000)] {
        broker.task("job", &character);
    }
    expect();
    broker.send(&["job", "FINISHED"]);
    events.is_next("message", &command("FINISHED"));
    assert_eq!(events.next().0, "close");
}

#[test]
fn who_stops_watching_leaves_the_channel() {
    let monitor = start("");
    let at = status(&monitor);
    let open = || metrics(at).count("recodex_monitor_channels{state=\"open\"}");
    let watching: Vec<_> = (0..3).map(|job| Events::open(at, &format!("/watch?channel=job-{job}"))).collect();
    assert_eq!(open(), 3);
    drop(watching);
    until("their channels are gone", || (open() == 0).then_some(()));
}

#[test]
fn watchers_are_told_that_the_monitor_stops() {
    for with_viewer in [false, true] {
        let mut monitor = start("");
        let at = status(&monitor);
        let viewer = with_viewer.then(|| Viewer::subscribed(monitor.viewers, "job"));
        let broker = Broker::connect(monitor.brokers);
        broker.send(&["job", "STARTED"]);
        let mut watching: Vec<_> = (0..3).map(|_| Events::open(at, "/watch?channel=job")).collect();
        for events in &mut watching {
            events.is_next("message", &command("STARTED"));
        }
        monitor.signal("TERM");
        for events in &mut watching {
            let close: Value = serde_json::from_str(&events.next_of("close")).expect("JSON");
            assert_eq!(close, json!({"code": 1001, "reason": "the monitor stops"}));
            assert_eq!(events.next_or_end(), None);
        }
        drop(viewer);
        assert_eq!(monitor.wait_exit().code(), Some(0));
    }
}

// `recodex-monitor status`.

fn printed(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("what is printed is UTF-8");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(!err.contains("panicked"), "{err}");
    (output.status.code(), out, err)
}

/// The rest of the line that begins with this word.
fn line<'a>(screen: &'a str, name: &str) -> &'a str {
    let mut lines = screen.lines().filter_map(|line| line.strip_prefix(name));
    lines.next().unwrap_or_else(|| panic!("no {name}:\n{screen}")).trim()
}

#[test]
fn status_prints_one_screen_and_ends_by_what_is_so() {
    let monitor = start("clients: {max: 50}\n");
    let address = status(&monitor).to_string();
    let head = format!("recodex-monitor {} at {address}:", env!("CARGO_PKG_VERSION"));
    let (code, screen, said) = printed(&run(&["status", &address]));
    assert_eq!((code, line(&screen, &head)), (Some(1), "NOT READY: no broker is connected"), "{screen}{said}");
    assert!(said.contains("no broker is connected"), "{said}");

    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    broker.send(&["job", "STARTED"]);
    viewer.texts(&[command("STARTED")]);
    broker.send(&["only\x1b[31m"]);
    broker.send(&["old", "FINISHED"]);
    metrics_when(&monitor, "all is taken", |metrics| metrics.count("recodex_monitor_received_messages_total") == 3);
    let (code, screen, said) = printed(&run(&["status", &address]));
    assert_eq!((code, said.as_str(), line(&screen, &head)), (Some(0), "", "ready"), "{screen}");
    assert_eq!(line(&screen, "viewers"), "1 of 50");
    assert_eq!(line(&screen, "brokers"), "1 of 64");
    assert_eq!(line(&screen, "channels"), "1 open, 1 finished, 0 over and still read");
    assert!(line(&screen, "history").ends_with(" of 256.0 MiB"), "{screen}");
    assert!(line(&screen, "received").starts_with("3 messages, "), "{screen}");
    assert_eq!(line(&screen, "sent"), format!("1 message, {} bytes; 0 replayed", frame(&command("STARTED"))));
    assert_eq!(line(&screen, "trouble"), "1 malformed message");
    assert_eq!(line(&screen, "warnings"), "the last 1");
    assert!(screen.contains(" since ") && screen.contains("127.0.0.1:") && screen.contains("fewer than two frames"));
    assert!(screen.lines().count() < 24, "{screen}");
}

#[test]
fn status_finds_the_monitor_by_its_configuration() {
    let monitor = start("");
    let _broker = Broker::connect(monitor.brokers);
    metrics_when(&monitor, "the broker is there", |metrics| metrics.count("recodex_monitor_brokers") == 1);
    let at = status(&monitor);
    let with = |config: &str| {
        let (_directory, path) = temporary("config.yml", config);
        printed(&run(&["status", "-c", path.to_str().expect("UTF-8")]))
    };
    for host in ["127.0.0.1", "localhost", "*"] {
        let (code, screen, said) = with(&format!("status_uri: [\"{host}\", {}]\n", at.port()));
        assert_eq!((code, said.as_str()), (Some(0), ""), "{host}");
        assert!(screen.lines().next().is_some_and(|line| line.ends_with(": ready")), "{screen}");
    }
    let (code, screen, said) = with("");
    assert_eq!((code, screen.as_str()), (Some(78), ""));
    assert!(said.contains("status_uri"), "{said}");
    let (code, _, said) = with("status_ury: [\"127.0.0.1\", 1]\n");
    assert_eq!(code, Some(78));
    assert!(said.contains("status_ury"), "{said}");
    assert_eq!(printed(&run(&["status", "-c", "/nowhere/config.yml"])).0, Some(78));
    let (code, _, said) = printed(&run(&["status", "-c", "/nowhere/config.yml", "127.0.0.1:1"]));
    assert_eq!(code, Some(64));
    assert!(said.contains("Usage: recodex-monitor status [-c FILE | ADDRESS]"), "{said}");
}

/// Answers one request with this, whatever it is.
fn one_answer(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody connects");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            std::io::Read::read_exact(&mut stream, &mut byte).expect("a request");
            request.push(byte[0]);
        }
        stream.write_all(answer.as_bytes()).expect("it reads");
    });
    address
}

#[test]
fn status_says_69_where_no_monitor_answers() {
    let (listener, free) = taken_port();
    drop(listener);
    let monitor = Monitor::start("");
    for (address, why) in [
        (free.to_string(), "nothing listens there; is the monitor running"),
        ("no-such-host.invalid:1".to_owned(), "the host no-such-host.invalid is not known"),
        (monitor.brokers.to_string(), "that is the port where brokers connect; ask at the status_uri"),
        (monitor.viewers.to_string(), "that is the port where viewers connect; ask at the status_uri"),
        (one_answer("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "it answers 404"),
        (one_answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), "its answer is not that of a monitor"),
        (one_answer("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}"), "closed the connection within its answer"),
        (one_answer("SSH-2.0-OpenSSH\r\n"), "its answer is no HTTP"),
        (one_answer(""), "closed the connection without an answer"),
    ] {
        let (code, screen, said) = printed(&run(&["status", &address]));
        assert_eq!((code, screen.as_str()), (Some(69), ""), "{said}");
        assert!(said.contains(&address) && said.contains(why) && said.lines().count() == 1, "{why}: {said}");
    }
}

/// What `status` ends with when its output goes there.
fn ended_into(address: &str, output: impl Into<std::process::Stdio>) -> (Option<i32>, String) {
    let ran = std::process::Command::new(PROGRAM).args(["status", address]).stdout(output).output();
    let ran = ran.expect("the program starts");
    (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
}

/// Such as `| true` and `| head -1`.
#[test]
fn status_into_a_pipe_that_nobody_reads_ends_by_what_is_so() {
    let monitor = Monitor::start(STATUS);
    let address = status(&monitor).to_string();
    let unread = || std::io::pipe().expect("there are pipes").1;
    let (code, said) = ended_into(&address, unread());
    assert_eq!((code, said.lines().count()), (Some(1), 1), "no broker is connected: {said}");
    let broker = Broker::connect(monitor.brokers);
    fence(&monitor, &broker);
    assert_eq!(ended_into(&address, unread()), (Some(0), String::new()));
    // A full disk is another matter than a monitor that is not ready.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("it is there");
    assert_eq!(ended_into(&address, full).0, Some(74));
}
