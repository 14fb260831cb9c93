//! The viewers' side: what a browser, or what is none, may do, and what it is told.

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::http::{STATUS, metrics, status};
use common::viewer::{frame, http, proxy_header, upgrade_request, upgrade_request_with};
use common::zmtp::greeting;
use common::{A_WHILE, Broker, DEADLINE, Event, Kind, Monitor, RawPeer, Viewer, command, fence, task_id, until};

/// Asserts that the server ends this connection by a close with this code.
///
/// The client here is not polite: it may have sent more than the server cared to read.
fn ends_with(viewer: &mut Viewer, code: u16, why: &str) {
    match viewer.next() {
        Event::Close(got) => assert_eq!(got, Some(code), "{why}"),
        other => panic!("{why}: close {code} was to come, not {other:?}"),
    }
}

// The upgrade.

#[test]
fn any_path_and_what_browsers_ask_for_are_upgraded() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["job", "STARTED"]);
    let browser = [
        ("Origin", "https://recodex.example"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ("Cookie", "session=1"),
        ("User-Agent", "Mozilla/5.0"),
        ("Accept-Encoding", "gzip, deflate, br"),
    ];
    for path in ["/", "/ws", "/a/b?c=d&e=%20", "/monitor/"] {
        let mut viewer = Viewer::connected(monitor.viewers);
        viewer.send_raw(upgrade_request_with(path, &browser).as_bytes());
        let head = viewer.read_upgrade().to_lowercase();
        assert!(!head.contains("sec-websocket-extensions"), "nothing is compressed: {head}");
        viewer.send_text("job");
        viewer.texts(&[command("STARTED")]);
    }
}

/// Firefox lists two connection options; proxies change the case of names.
#[test]
fn header_names_and_tokens_are_understood_in_any_case() {
    let monitor = Monitor::start("");
    let mut viewer = Viewer::connected(monitor.viewers);
    let request = upgrade_request("/")
        .replace("Upgrade: websocket", "UPGRADE: WebSocket")
        .replace("Connection: Upgrade", "connection: keep-alive, upgrade")
        .replace("Sec-WebSocket-Key", "sec-websocket-key");
    viewer.send_raw(request.as_bytes());
    viewer.read_upgrade();
}

/// RFC 9110, sections 5.3 and 5.6.1: several lines of a list are one list; tabs, empty elements and other elements do no harm.
#[test]
fn the_headers_of_an_upgrade_are_read_as_lists() {
    let monitor = Monitor::start("");
    let (upgrade, connection, version) = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13");
    for (line, list) in [
        (connection, "Connection: keep-alive\r\nConnection: Upgrade"),
        (connection, "Connection: Upgrade\r\nConnection: close"),
        (connection, "Connection: keep-alive,\tUpgrade"),
        (connection, "Connection:\tupgrade\t,"),
        (connection, "Connection: ,, Upgrade"),
        (connection, "Connection:\r\nConnection: Upgrade"),
        (upgrade, "Upgrade: websocket, foo"),
        (upgrade, "Upgrade: h2c\r\nUpgrade: WebSocket"),
        (upgrade, "Upgrade:\tfoo/2 ,\twebsocket"),
        (version, "Sec-WebSocket-Version: 13, 8"),
        (version, "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Version:\t13"),
        (version, "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: a,b\r\nSec-WebSocket-Protocol: c"),
    ] {
        let mut viewer = Viewer::connected(monitor.viewers);
        viewer.send_raw(upgrade_request("/").replace(line, list).as_bytes());
        let head = viewer.raw_head();
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{list:?}: {}", String::from_utf8_lossy(&head));
    }
    let key =
        upgrade_request("/").lines().find(|line| line.starts_with("Sec-WebSocket-Key")).unwrap_or_default().to_owned();
    for (line, list, status) in [
        (connection, "Connection: keep-alive, upgrades", "426"),
        (connection, "Connection: keep-alive upgrade", "426"),
        (connection, "Connection: x=\", upgrade,\"", "426"),
        (upgrade, "Upgrade: websockets", "426"),
        (upgrade, "Upgrade: \"websocket\"", "426"),
        (version, "Sec-WebSocket-Version: 8, 7", "426"),
        (&*key, &*format!("{key}\r\n{key}"), "400"),
    ] {
        let request = upgrade_request("/").replace(line, list);
        assert_eq!(answer(&monitor, request.as_bytes()).0, status, "{list:?}");
    }
}

#[test]
fn a_subscription_in_the_same_packet_as_the_upgrade_is_read() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["job", "STARTED"]);
    let mut viewer = Viewer::connected(monitor.viewers);
    let mut bytes = upgrade_request("/").into_bytes();
    bytes.extend(frame(0x81, b"job"));
    viewer.send_raw(&bytes);
    viewer.read_upgrade();
    viewer.texts(&[command("STARTED")]);
}

#[test]
fn an_upgrade_and_a_subscription_byte_by_byte_are_read() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["job", "STARTED"]);
    let mut viewer = Viewer::connected(monitor.viewers);
    for byte in upgrade_request("/").bytes() {
        viewer.send_raw(&[byte]);
    }
    viewer.read_upgrade();
    for byte in frame(0x81, b"job") {
        viewer.send_raw(&[byte]);
    }
    viewer.texts(&[command("STARTED")]);
}

/// The status, and the body, of an answer that ends the connection.
fn answer(monitor: &Monitor, request: &[u8]) -> (String, String) {
    let answer = http(monitor.viewers, request);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {head}"));
    assert!(head.starts_with("HTTP/1.1 "), "{head}");
    (status.to_owned(), body.to_owned())
}

#[test]
fn a_plain_http_request_is_answered_426_and_one_line() {
    let monitor = Monitor::start("");
    let request = "GET / HTTP/1.1\r\nHost: monitor.example\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n";
    let whole = http(monitor.viewers, request.as_bytes());
    let (status, body) = answer(&monitor, request.as_bytes());
    assert_eq!(status, "426", "{whole}");
    assert_eq!(body.trim_end().lines().count(), 1, "{whole}");
    let head = whole.split("\r\n\r\n").next().unwrap_or_default().to_lowercase();
    assert!(head.contains("\r\nupgrade: websocket"), "{whole}");
    assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{whole}");
    assert!(head.contains("\r\ncontent-type: text/plain"), "{whole}");
}

/// It has sent the beginning of its handshake, and waits for an answer to that.
#[test]
fn a_client_that_speaks_tls_is_answered_400_at_once_and_told_once() {
    let monitor = Monitor::start("clients: {handshake_timeout: 600}");
    for hello in [&b"\x16"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let (status, whole) = answer(&monitor, hello);
        assert_eq!(status, "400", "{whole}");
        assert!(whole.contains("This port does not speak TLS. Use ws:// instead of wss://."), "{whole}");
    }
    drop(Viewer::subscribed(monitor.viewers, "job"));
    let words =
        ["WARNING", "refused viewer 127.0.0.1:", "it speaks TLS, and this port does not; set tls, or use ws://"];
    monitor.wait_logged(&words);
    assert_eq!(monitor.logged(&["refused viewer"]).len(), 1);
}

/// A broker that has the viewers' port: libzmq, and all that a slow one could send.
#[test]
fn who_speaks_zeromq_is_closed_at_once_and_told_once() {
    let monitor = Monitor::start(&format!("{STATUS}clients: {{handshake_timeout: 600}}\n"));
    for bytes in [&b"\xff"[..], &greeting(b"NULL")] {
        let mut peer = Viewer::connected(monitor.viewers);
        let _ = peer.try_send_raw(bytes);
        assert_eq!(peer.raw_to_end(), b"");
    }
    let broker = Broker::with(monitor.viewers, Kind::Dealer, |_| Ok(()));
    let at = status(&monitor);
    let refused = |reason| metrics(at).count(&format!("recodex_monitor_refused_viewers_total{{reason=\"{reason}\"}}"));
    // It tries again and again.
    until("all are counted", || (refused("request") >= 4).then_some(()));
    drop(broker);
    drop(Viewer::subscribed(monitor.viewers, "job"));
    let what = "it speaks ZeroMQ, and this is the viewers' port (websocket_uri); brokers connect to zeromq_uri";
    assert!(monitor.wait_log("refused viewer 127.0.0.1:").ends_with(what));
    assert_eq!(monitor.logged(&["refused viewer"]).len(), 1);
    assert_eq!(["timeout", "tls", "proxy", "full"].map(refused), [0; 4]);
}

#[test]
fn a_proxy_header_that_nobody_expects_is_answered_400_and_told_once() {
    let monitor = Monitor::start("clients: {handshake_timeout: 600}");
    let request = upgrade_request("/");
    for header in [b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n".to_vec(), proxy_header([192, 0, 2, 1], &[])] {
        let (status, body) = answer(&monitor, &[&header[..], request.as_bytes()].concat());
        assert_eq!(status, "400");
        assert_eq!(body, "This port takes no PROXY header (websocket_proxy_protocol).\n");
    }
    drop(Viewer::subscribed(monitor.viewers, "job"));
    monitor.wait_logged(&["WARNING", "it sent a PROXY header, and websocket_proxy_protocol is off"]);
    assert_eq!(monitor.logged(&["refused viewer"]).len(), 1);
}

#[test]
fn who_goes_without_a_byte_is_neither_counted_nor_told() {
    let monitor = Monitor::start(STATUS);
    for _ in 0..5 {
        let mut peer = Viewer::connected(monitor.viewers);
        peer.shut_sending();
        assert_eq!(peer.raw_to_end(), b"");
        RawPeer::connect(monitor.viewers).reset();
    }
    drop(Viewer::subscribed(monitor.viewers, "job"));
    let at = status(&monitor);
    until("all have gone", || (metrics(at).count("recodex_monitor_viewers") == 0).then_some(()));
    let reasons = ["full", "address", "origin", "request", "timeout", "tls", "proxy"];
    let metrics = metrics(at);
    let count = |reason| metrics.count(&format!("recodex_monitor_refused_viewers_total{{reason=\"{reason}\"}}"));
    assert_eq!(reasons.map(count), [0; 7]);
    assert_eq!(monitor.logged(&["WARNING"]), [""; 0]);
}

#[test]
fn what_is_not_http_is_answered_400() {
    let monitor = Monitor::start("");
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".as_slice();
    for garbage in [b"hello\r\n\r\n".as_slice(), b"\0\x01\x02\x03\xff\xfe\r\n\r\n", tls, b"GET\r\n\r\n"] {
        assert_eq!(answer(&monitor, garbage).0, "400", "{:?}", String::from_utf8_lossy(garbage));
    }
}

#[test]
fn an_upgrade_without_its_parts_is_refused() {
    let monitor = Monitor::start("");
    for (missing, statuses) in [
        ("Upgrade: websocket\r\n", ["426", "400"]),
        ("Connection: Upgrade\r\n", ["426", "400"]),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ["400", "400"]),
        ("Sec-WebSocket-Version: 13\r\n", ["426", "400"]),
    ] {
        let request = upgrade_request("/");
        assert!(request.contains(missing), "{missing}");
        let (status, _) = answer(&monitor, request.replace(missing, "").as_bytes());
        assert!(statuses.contains(&status.as_str()), "without {missing:?}: {status}");
    }
    let post = upgrade_request("/").replace("GET", "POST");
    assert!(["400", "405", "426"].contains(&answer(&monitor, post.as_bytes()).0.as_str()));
    let older = upgrade_request("/").replace("Version: 13", "Version: 8");
    assert!(["400", "426"].contains(&answer(&monitor, older.as_bytes()).0.as_str()));
}

#[test]
fn a_request_head_over_16_kib_is_answered_431() {
    let monitor = Monitor::start("");
    let with = |length| upgrade_request_with("/", &[("X-Filler", &"x".repeat(length))]);
    assert_eq!(answer(&monitor, with(17_000).as_bytes()).0, "431");
    // Also before its end has come, and spread over many headers.
    let many = "X-Filler: 0123456789\r\n".repeat(1000);
    assert_eq!(answer(&monitor, format!("GET / HTTP/1.1\r\n{many}").as_bytes()).0, "431");
    // At the limit it is a viewer like any other, and a byte past it is none.
    let most = 16_384 - with(0).len();
    let mut viewer = Viewer::connected(monitor.viewers);
    viewer.send_raw(with(most).as_bytes());
    viewer.read_upgrade();
    assert_eq!(answer(&monitor, with(most + 1).as_bytes()).0, "431");
}

#[test]
fn over_clients_max_is_answered_503_until_one_has_left() {
    let monitor = Monitor::start("clients: {max: 2}");
    let broker = Broker::connect(monitor.brokers);
    let mut stays = Viewer::watch(monitor.viewers, "job");
    let leaves = Viewer::watch(monitor.viewers, "job");
    broker.send(&["job", "STARTED"]);
    stays.texts(&[command("STARTED")]);
    for _ in 0..3 {
        assert_eq!(answer(&monitor, upgrade_request("/").as_bytes()).0, "503");
    }
    drop(leaves);
    let mut next = until("there is room again", || {
        let mut next = Viewer::connected(monitor.viewers);
        next.send_raw(upgrade_request("/").as_bytes());
        next.upgrade_or_refusal().then_some(next)
    });
    next.send_text("job");
    next.texts(&[command("STARTED")]);
    broker.send(&["job", "ENDED"]);
    stays.texts(&[command("ENDED")]);
}

// Deadlines.

#[test]
fn who_sends_no_request_is_closed_after_the_handshake_timeout() {
    let monitor = Monitor::start("clients: {handshake_timeout: 0.3}");
    let start = Instant::now();
    let mut silent = Viewer::connected(monitor.viewers);
    silent.raw_to_end();
    assert!(start.elapsed() >= Duration::from_millis(300), "closed after {:?}", start.elapsed());
    let mut half = Viewer::connected(monitor.viewers);
    half.send_raw(&upgrade_request("/").as_bytes()[..50]);
    half.raw_to_end();
}

#[test]
fn a_dribbled_request_does_not_extend_the_handshake_timeout() {
    let monitor = Monitor::start("clients: {handshake_timeout: 0.5}");
    let mut slow = Viewer::connected(monitor.viewers);
    let start = Instant::now();
    for byte in upgrade_request_with("/", &[("X-Filler", &"x".repeat(10_000))]).bytes() {
        if slow.try_send_raw(&[byte]).is_err() || slow.is_gone_within(Duration::from_millis(20)) {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "still served");
    }
    panic!("the whole request was read");
}

#[test]
fn who_names_no_channel_is_closed_1008_after_the_subscribe_timeout() {
    let monitor = Monitor::start("clients: {subscribe_timeout: 0.3}");
    let start = Instant::now();
    Viewer::upgraded(monitor.viewers).is_ended_with(1008);
    assert!(start.elapsed() >= Duration::from_millis(300), "closed after {:?}", start.elapsed());
}

#[test]
fn who_does_not_answer_a_close_is_let_go_after_5_seconds() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let mut mute = Viewer::subscribed(monitor.viewers, "job");
    let start = Instant::now();
    broker.send(&["job", "FINISHED"]);
    mute.texts(&[command("FINISHED")]);
    assert_eq!(mute.next(), Event::Close(Some(1000)));
    assert_eq!(mute.next(), Event::Gone);
    assert!(start.elapsed() >= Duration::from_secs(5), "let go after {:?}", start.elapsed());
}

#[test]
fn pings_and_fragments_do_not_extend_the_subscribe_timeout() {
    let monitor = Monitor::start("clients: {subscribe_timeout: 0.5}");
    let mut viewer = Viewer::upgraded(monitor.viewers);
    viewer.send_frame(0x01, b"job");
    let (start, mut finished) = (Instant::now(), false);
    loop {
        let _ = viewer.try_send_raw(&frame(0x89, b"p"));
        let _ = viewer.try_send_raw(&frame(0x00, b""));
        match viewer.next_within(Duration::from_millis(20)) {
            Some(Event::Close(code)) => {
                assert!(finished);
                return assert_eq!(code, Some(1008));
            }
            Some(Event::Text(text)) if text == command("FINISHED") => finished = true,
            Some(Event::Pong(_)) | None => assert!(start.elapsed() < DEADLINE, "still served"),
            Some(other) => panic!("close 1008 was to come, not {other:?}"),
        }
    }
}

/// The deadlines end with what they are for.
#[test]
fn a_subscribed_viewer_outlives_the_handshake_and_subscribe_timeouts() {
    let monitor = Monitor::start("clients: {handshake_timeout: 0.3, subscribe_timeout: 0.3}");
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    Viewer::upgraded(monitor.viewers).is_ended_with(1008);
    Viewer::connected(monitor.viewers).raw_to_end();
    broker.send(&["job", "FINISHED"]);
    viewer.texts(&[command("FINISHED")]);
    viewer.closes(1000);
}

// The subscription.

#[test]
fn a_first_frame_that_names_no_channel_is_closed_by_the_code_for_it() {
    let monitor = Monitor::start("");
    let (long, far_too_long) = ("x".repeat(257), "x".repeat(10_000));
    for (first, payload, code, why) in [
        (0x82, b"job".as_slice(), 1003, "binary"),
        (0x82, b"", 1003, "empty binary"),
        (0x81, b"", 1008, "empty id"),
        (0x81, long.as_bytes(), 1008, "id of 257 bytes"),
        (0x81, far_too_long.as_bytes(), 1008, "id of 10,000 bytes"),
        (0x81, b"job\xff", 1007, "not UTF-8"),
        (0x81, b"\xed\xa0\x80", 1007, "a surrogate"),
        (0x81, b"\xc5", 1007, "half a letter"),
    ] {
        let mut viewer = Viewer::upgraded(monitor.viewers);
        viewer.send_frame(first, payload);
        ends_with(&mut viewer, code, why);
        let _ = viewer.try_send_raw(&frame(0x88, &code.to_be_bytes()));
        assert_eq!(viewer.next(), Event::Gone, "{why}");
    }
}

#[test]
fn ids_up_to_256_bytes_are_channels() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    for id in ["x".repeat(256), "ž".repeat(128), "\u{1F600}".repeat(64), " ".to_owned(), "\0".to_owned()] {
        let mut viewer = Viewer::watch(monitor.viewers, &id);
        broker.send(&[id.as_str(), "FINISHED"]);
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
    }
}

#[test]
fn a_subscription_in_fragments_with_a_ping_between_is_one_id() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["úloha 1", "STARTED"]);
    let mut viewer = Viewer::upgraded(monitor.viewers);
    let id = "úloha 1".as_bytes();
    viewer.send_frame(0x01, &id[..1]); // inside a letter
    viewer.send_frame(0x89, b"between");
    assert_eq!(viewer.next(), Event::Pong(b"between".to_vec()));
    viewer.send_frame(0x00, &id[1..4]);
    viewer.send_frame(0x00, b"");
    viewer.send_frame(0x80, &id[4..]);
    viewer.texts(&[command("STARTED")]);
}

#[test]
fn fragments_are_counted_together() {
    let monitor = Monitor::start("");
    let mut viewer = Viewer::upgraded(monitor.viewers);
    viewer.send_frame(0x01, &[b'x'; 200]);
    viewer.send_frame(0x80, &[b'x'; 57]);
    viewer.closes(1008);
}

// After the subscription.

#[test]
fn what_a_viewer_sends_after_subscribing_is_ignored() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    viewer.send_text("another");
    viewer.send_text("");
    viewer.send_frame(0x82, b"\xff\xfe binary");
    viewer.send_frame(0x8A, b"a pong nobody asked for");
    viewer.send_frame(0x81, &[b'x'; 4096]);
    viewer.send_frame(0x01, b"in ");
    viewer.send_frame(0x80, b"fragments");
    viewer.send_frame(0x89, b"read");
    assert_eq!(viewer.next(), Event::Pong(b"read".to_vec()));
    broker.send(&["another", "STARTED"]);
    broker.send(&["job", "ENDED"]);
    viewer.texts(&[command("ENDED")]);
}

#[test]
fn a_message_over_4_kib_is_closed_1009() {
    let monitor = Monitor::start("");
    let mut whole = Viewer::watch(monitor.viewers, "job");
    whole.send_frame(0x81, &[b'x'; 4097]);
    ends_with(&mut whole, 1009, "one frame");

    let mut fragments = Viewer::watch(monitor.viewers, "job");
    fragments.send_frame(0x02, &[b'x'; 2048]);
    fragments.send_frame(0x00, &[b'x'; 2048]);
    fragments.send_frame(0x80, b"x");
    ends_with(&mut fragments, 1009, "fragments");

    for length in [1 << 20, 1 << 40, (1 << 63) - 1_u64] {
        let mut announced = Viewer::watch(monitor.viewers, "job");
        let mut head = vec![0x82, 0xFF];
        head.extend_from_slice(&length.to_be_bytes());
        announced.send_raw(&head);
        announced.send_raw(b"mask");
        ends_with(&mut announced, 1009, "only announced");
    }
    assert!(monitor.rss_kib() < 32 * 1024);
}

#[test]
fn what_breaks_the_protocol_is_closed_1002() {
    let monitor = Monitor::start("");
    for subscribed in [false, true] {
        for (bytes, why) in [
            (b"\x81\x03job".to_vec(), "not masked"),
            (frame(0xC1, b"job"), "first reserved bit"),
            (frame(0xA1, b"job"), "second reserved bit"),
            (frame(0x91, b"job"), "third reserved bit"),
            (frame(0x83, b"job"), "reserved opcode"),
            (frame(0x8B, b""), "reserved control opcode"),
            (frame(0x80, b"job"), "a continuation of nothing"),
            (frame(0x09, b"p"), "a ping in fragments"),
            (frame(0x89, &[0; 126]), "a ping over 125 bytes"),
            (frame(0x88, b"\x03"), "a close with half a code"),
            ([frame(0x01, b"j"), frame(0x81, b"ob")].concat(), "a text inside a text"),
        ] {
            let mut viewer =
                if subscribed { Viewer::watch(monitor.viewers, "job") } else { Viewer::upgraded(monitor.viewers) };
            viewer.send_raw(&bytes);
            ends_with(&mut viewer, 1002, &format!("{why}, subscribed: {subscribed}"));
        }
    }
}

#[test]
fn pings_are_answered_before_and_after_subscribing() {
    let monitor = Monitor::start("");
    let mut viewer = Viewer::upgraded(monitor.viewers);
    for payload in [b"".as_slice(), b"1", &[7; 125]] {
        viewer.send_frame(0x89, payload);
        assert_eq!(viewer.next(), Event::Pong(payload.to_vec()));
    }
    viewer.send_text("job");
    for payload in [b"".as_slice(), b"1", &[7; 125]] {
        viewer.send_frame(0x89, payload);
        assert_eq!(viewer.next(), Event::Pong(payload.to_vec()));
    }
}

/// Of many pings the last must be answered, and nothing may grow by those that are not.
#[test]
fn a_flood_of_pings_does_no_harm() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    let flood = frame(0x89, &[7; 100]).repeat(1000);
    for _ in 0..20 {
        viewer.send_raw(&flood);
        while viewer.next_within(Duration::ZERO).is_some() {}
    }
    broker.send(&["job", "FINISHED"]);
    let finished = std::iter::repeat_with(|| viewer.next()).find(|event| !matches!(event, Event::Pong(_)));
    assert_eq!(finished, Some(Event::Text(command("FINISHED"))));
    assert!(monitor.rss_kib() < 32 * 1024);
}

#[test]
fn a_clients_close_is_answered() {
    let monitor = Monitor::start("");
    for subscribed in [false, true] {
        for (payload, answer) in [
            (b"".to_vec(), None),
            (1000_u16.to_be_bytes().to_vec(), Some(1000)),
            (1001_u16.to_be_bytes().to_vec(), Some(1001)),
            ([&4000_u16.to_be_bytes()[..], "důvod".as_bytes()].concat(), Some(4000)),
        ] {
            let mut viewer =
                if subscribed { Viewer::watch(monitor.viewers, "job") } else { Viewer::upgraded(monitor.viewers) };
            viewer.send_frame(0x88, &payload);
            let Event::Close(code) = viewer.next() else { panic!("a close was to come") };
            assert!(code.is_none() || code == answer || code == Some(1000), "{payload:?}: {code:?}");
            assert_eq!(viewer.next(), Event::Gone);
        }
    }
}

#[test]
fn a_viewer_that_only_ends_its_half_of_the_connection_is_let_go() {
    let monitor = Monitor::start("");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    viewer.shut_sending();
    viewer.rest();
}

// Viewers that do not answer, read or stay.

#[test]
fn a_viewer_that_answers_pings_stays() {
    let monitor = Monitor::start("clients: {ping_interval: 0.2, ping_timeout: 5}");
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    for _ in 0..6 {
        match viewer.next_within(DEADLINE) {
            Some(Event::Ping(payload)) => viewer.send_frame(0x8A, &payload),
            other => panic!("a ping was to come, not {other:?}"),
        }
    }
    broker.send(&["job", "FINISHED"]);
    viewer.texts(&[command("FINISHED")]);
    viewer.closes(1000);
}

#[test]
fn a_viewer_that_answers_no_ping_is_let_go_and_only_it() {
    let monitor = Monitor::start("clients: {ping_interval: 0.3, ping_timeout: 3}");
    let broker = Broker::connect(monitor.brokers);
    let mut mute = Viewer::watch(monitor.viewers, "job");
    let mut answers = Viewer::watch(monitor.viewers, "job");
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            assert_eq!(answers.text(), command("FINISHED"));
            answers.closes(1000);
        });
        let mut events = Vec::new();
        while events.last() != Some(&Event::Gone) {
            events.push(mute.next_within(DEADLINE).expect("pings and an end are to come"));
        }
        // It may be a laptop that wakes: its dialog is to end.
        let end = [Event::Text(command("FINISHED")), Event::Close(Some(1013)), Event::Gone];
        let pings = events.len() - end.len();
        assert_eq!(events[pings..], end);
        assert!(pings > 0, "it was not even asked");
        assert!(events[..pings].iter().all(|event| matches!(event, Event::Ping(_))), "{events:?}");
        broker.send(&["job", "FINISHED"]);
        other.join().expect("the viewer that answers is served");
    });
}

/// Messages are no reason not to ask whether anybody is there.
#[test]
fn a_viewer_that_answers_no_ping_is_let_go_though_messages_flow() {
    let monitor = Monitor::start("clients: {ping_interval: 0.2, ping_timeout: 0.5}");
    let broker = Broker::connect(monitor.brokers);
    let mut mute = Viewer::watch(monitor.viewers, "job");
    let start = Instant::now();
    for id in 0.. {
        broker.task("job", &id.to_string());
        match mute.next_within(Duration::from_millis(20)) {
            Some(Event::Gone | Event::Close(_)) => return,
            Some(Event::Ping(_) | Event::Text(_)) | None => assert!(start.elapsed() < DEADLINE, "still served"),
            other => panic!("{other:?}"),
        }
    }
}

/// The history is bounded and the others do not wait; the one that reads nothing sees no gap, only an end.
#[test]
fn a_viewer_that_never_reads_costs_the_others_nothing() {
    const MESSAGES: usize = 4000; // of 8 KiB: 32 MiB, twice what is kept
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let padding = "x".repeat(8192);
    let mut stalled = Viewer::subscribed(monitor.viewers, "job");
    let mut reads = Viewer::subscribed(monitor.viewers, "job");
    for id in 0..MESSAGES {
        broker.task("job", &format!("{id} {padding}"));
        if id % 100 == 99 {
            for id in id - 99..=id {
                assert_eq!(task_id(&reads.text()), format!("{id} {padding}"));
            }
        }
    }
    let rss = monitor.rss_kib();
    assert!(rss < 80 * 1024, "{rss} KiB for a history of at most 16 MiB");
    let mut events = stalled.rest();
    assert_eq!(events.pop(), Some(Event::Close(Some(1013))));
    assert_eq!(events.pop(), Some(Event::Text(command("FINISHED"))));
    assert!(events.len() < MESSAGES, "the kernel took it all; the test proves nothing");
    for (id, event) in events.into_iter().enumerate() {
        let Event::Text(text) = event else { panic!("a text was to come, not {event:?}") };
        assert_eq!(task_id(&text), format!("{id} {padding}"));
    }
    broker.send(&["job", "FINISHED"]);
    reads.texts(&[command("FINISHED")]);
    reads.closes(1000);
}

/// What waits to be sent to a peer, as the kernel counts it, in bytes.
fn sending(from: SocketAddr, to: SocketAddr) -> usize {
    let hex = |at: SocketAddr| format!("0100007F:{:04X}", at.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("there is /proc");
    let line =
        table.lines().find(|line| line.contains(&format!("{} {}", hex(from), hex(to)))).expect("it is connected");
    let queues = line.split_whitespace().nth(4).expect("the queues");
    usize::from_str_radix(&queues[..8], 16).expect("a number")
}

#[test]
fn the_kernel_buffers_little_for_a_viewer_that_does_not_read() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let mut stalled = Viewer::subscribed_with_small_buffer(monitor.viewers, "job");
    let padding = "x".repeat(8192);
    let mut reads = Viewer::subscribed(monitor.viewers, "job");
    for id in 0..1000 {
        broker.task("job", &format!("{id} {padding}"));
        assert_eq!(task_id(&reads.text()), format!("{id} {padding}"));
    }
    let waits = sending(monitor.viewers, stalled.local_address());
    assert!((1..256 * 1024).contains(&waits), "{waits} bytes of 8 MiB wait in the kernel");
    broker.send(&["job", "FINISHED"]);
    let mut events = stalled.rest();
    assert_eq!(events.pop(), Some(Event::Close(Some(1000))));
    assert_eq!(events.len(), 1001);
}

/// Only a place that becomes free tells, as whoever reads to find out does not stall.
#[test]
fn a_viewer_whose_write_stalls_is_let_go_after_the_stall_timeout() {
    let monitor = Monitor::start("clients: {max: 1, stall_timeout: 0.5, ping_interval: 3600, ping_timeout: 3600}");
    let broker = Broker::connect(monitor.brokers);
    let padding = "x".repeat(8192);
    let mut stalled = Viewer::subscribed_with_small_buffer(monitor.viewers, "job");
    for id in 0..1500 {
        broker.task("job", &format!("{id} {padding}"));
    }
    until("its place is free", || {
        let mut next = Viewer::connected(monitor.viewers);
        next.send_raw(upgrade_request("/").as_bytes());
        next.upgrade_or_refusal().then_some(())
    });
    // What the kernel had taken, the rest of a frame, and the end.
    let mut events = stalled.rest();
    assert_eq!(events.pop(), Some(Event::Close(Some(1013))));
    assert_eq!(events.pop(), Some(Event::Text(command("FINISHED"))));
    assert!(events.len() < 1500, "the kernel took it all; the test proves nothing");
    for (id, event) in events.into_iter().enumerate() {
        let Event::Text(text) = event else { panic!("a text was to come, not {event:?}") };
        assert_eq!(task_id(&text), format!("{id} {padding}"));
    }
}

#[test]
fn viewers_that_leave_a_silent_channel_are_freed_at_once() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    fence(&monitor, &broker);
    let before = monitor.descriptors();
    let viewers: Vec<_> = (0..50).map(|_| Viewer::watch(monitor.viewers, "job")).collect();
    until("all are there", || (monitor.descriptors() >= before + 50).then_some(()));
    let mut half_closed = Vec::new();
    for (number, viewer) in viewers.into_iter().enumerate() {
        if number % 2 == 0 {
            drop(viewer);
        } else {
            viewer.shut_sending();
            half_closed.push(viewer);
        }
    }
    until("all are gone", || (monitor.descriptors() <= before).then_some(()));
}

/// Two hundred at once, some of them odd, on one channel.
#[test]
fn many_viewers_of_one_channel_get_the_same() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let mut viewers: Vec<_> = (0..200).map(|_| Viewer::watch(monitor.viewers, "job")).collect();
    for id in 0..50 {
        broker.task("job", &id.to_string());
    }
    broker.send(&["job", "FINISHED"]);
    for viewer in &mut viewers {
        for id in 0..50 {
            assert_eq!(task_id(&viewer.text()), id.to_string());
        }
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
    }
}

#[test]
fn a_viewer_of_a_silent_channel_hears_nothing() {
    let monitor = Monitor::start("");
    Viewer::watch(monitor.viewers, "job").is_silent_for(A_WHILE);
}
