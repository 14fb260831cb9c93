//! Paths, answers, and clients that exceed a limit.

use super::{PLAIN, start};
use crate::common::http::{self, Events, STATUS, ask, connect, get, metrics, read_to_close, status};
use crate::common::zmtp::greeting;
use crate::common::{self, Broker, Event, RawPeer, Scene, Viewer, command, until};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBuf;
use std::io::Write;
use std::time::{Duration, Instant};

/// The most connections at once, the longest head in bytes, and how long a request may take.
const CONNECTIONS: usize = 32;

const MAX_HEAD: usize = 8 * 1024;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

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

/// A page of another site may make a host name of its own resolve to this address.
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

/// A job of 16 MiB with thirty watchers that do not read.
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
