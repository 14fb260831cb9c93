//! The upgrade to a WebSocket, and requests that are refused.

use super::answer;
use crate::common::http::{STATUS, metrics, status};
use crate::common::viewer::{frame, http, proxy_header, upgrade_request, upgrade_request_with};
use crate::common::zmtp::greeting;
use crate::common::{Broker, Kind, Monitor, RawPeer, Viewer, command, until};

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

/// The peer has sent the beginning of its handshake, and waits for the answer.
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

/// A broker that connects to the viewers' port: libzmq, and every part of its bytes that a slow one could send.
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
    let text = b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n";
    let binary = proxy_header([192, 0, 2, 1], &[]);
    // The whole request, the header alone, and with TLS after it.
    for bytes in [
        &[&text[..], request.as_bytes()].concat()[..],
        text,
        &[&text[..], b"\x16\x03\x01\x02\0\x01\0"].concat(),
        &[&binary[..], request.as_bytes()].concat(),
        &binary,
    ] {
        let (status, body) = answer(&monitor, bytes);
        assert_eq!(status, "400");
        assert_eq!(body, "This port takes no PROXY header (websocket_proxy_protocol).\n");
    }
    // In two parts, the first of which ends with an empty line.
    let mut peer = Viewer::connected(monitor.viewers);
    peer.send_raw(&binary[..4]);
    drop(Viewer::subscribed(monitor.viewers, "job"));
    peer.send_raw(&binary[4..]);
    assert!(String::from_utf8_lossy(&peer.raw_to_end()).contains("This port takes no PROXY header"));
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
        next.upgrade_or_end().is_some().then_some(next)
    });
    next.send_text("job");
    next.texts(&[command("STARTED")]);
    broker.send(&["job", "ENDED"]);
    stays.texts(&[command("ENDED")]);
}
