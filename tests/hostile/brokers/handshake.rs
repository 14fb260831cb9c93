//! Attacks before the end of the handshake.

use super::{each_closes_its_ready_link, handshake};
use crate::common::http::{STATUS, metrics, status};
use crate::common::zmtp::{command, frame, greeted, greeting, long_head, message, ready};
use crate::common::{
    self, A_WHILE, Broker, DEADLINE, Kind, RawPeer, Scene, Viewer, fence, noise, raise_open_files, until,
};
use recodex_monitor::internals::rlimit::MAX_HANDSHAKES;
use std::fmt::Display;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A timeout so long that only a mistake closes a link.
const PATIENT: &str = "zeromq: {handshake_timeout: 600}";

/// Sends bytes that close a link, each attack alone, and asserts that the monitor still serves others.
fn each_closes_its_link<N: Display, B: AsRef<[u8]>>(attacks: &[(N, B)]) {
    let mut scene = Scene::new(PATIENT);
    for (name, bytes) in attacks {
        eprintln!("attack: {name}");
        let mut peer = RawPeer::connect(scene.monitor.brokers);
        peer.send_what_goes(bytes.as_ref());
        peer.is_closed();
        scene.relays();
    }
    scene.is_unharmed();
}

/// Every power of two from 1 GiB on, one less, and the greatest length there is.
fn huge() -> impl Iterator<Item = u64> {
    (30..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit]).chain([u64::MAX])
}

/// The one line on links that were closed, of a monitor at which `act` is done three times.
fn the_one_line_on(act: impl Fn(SocketAddr)) -> String {
    let mut scene = Scene::new(PATIENT);
    let begun = Instant::now();
    for _ in 0..3 {
        act(scene.monitor.brokers);
    }
    let line = scene.monitor.wait_log("closed the ZeroMQ link");
    scene.is_unharmed();
    // A second line may come after 10 s, as on a busy machine.
    let lines = scene.monitor.logged(&["closed the ZeroMQ link"]).len();
    assert!(lines == 1 || begun.elapsed() > Duration::from_secs(9), "{lines} lines");
    let said = line.split_once("closed the ZeroMQ link from 127.0.0.1:").expect("it names the peer").1;
    said.split_once(": ").expect("it says why").1.to_owned()
}

/// Returns the log's reason for a peer that sends these bytes and waits.
fn said_of(bytes: &[u8]) -> String {
    the_one_line_on(|brokers| {
        let mut peer = RawPeer::connect(brokers);
        peer.send_what_goes(bytes);
        peer.is_closed();
    })
}

#[test]
fn a_peer_that_speaks_another_protocol_is_named_once() {
    let http = "not ZeroMQ: it speaks HTTP; viewers connect to websocket_uri, browsers to status_uri";
    assert_eq!(said_of(common::viewer::upgrade_request("/").as_bytes()), http);
    // All that a slow one could send.
    assert_eq!(said_of(b"G"), http);
    assert_eq!(said_of(b"\x16\x03\x01\x02\x00\x01\x00"), "not ZeroMQ: it speaks TLS, which this port does not");
    let proxy = "not ZeroMQ: it sent a PROXY header, which this port does not take";
    assert_eq!(said_of(b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 7894\r\n"), proxy);
    assert_eq!(said_of(&common::viewer::proxy_header([192, 0, 2, 9], &[])), proxy);
    assert_eq!(said_of(b"\n\x1b[31m\"\xc3\xa9"), r#"not ZeroMQ: its first bytes are "\n\x1b[31m\"\xc3\xa9""#);
    assert_eq!(said_of(&[b'x'; 3000]), r#"not ZeroMQ: its first bytes are "xxxxxxxxxxxxxxxx…""#);
    let mut not_quite = greeting(b"NULL");
    not_quite[9] = 0x7E;
    assert!(said_of(&not_quite).starts_with(r#"not ZeroMQ: its first bytes are "\xff\x00"#));
}

#[test]
fn a_peer_that_hangs_up_has_its_line_beside_those_of_other_protocols() {
    let scene = Scene::new("zeromq: {handshake_timeout: 600}\nlogger: {level: debug}\n");
    for _ in 0..3 {
        let mut browser = RawPeer::connect(scene.monitor.brokers);
        browser.send_what_goes(b"GET / HTTP/1.1\r\n\r\n");
        browser.is_closed();
    }
    let mut curve = RawPeer::connect(scene.monitor.brokers);
    curve.send(&greeting(b"CURVE")[..10]);
    curve.shut_sending();
    scene.monitor.wait_logged(&["WARNING", "hung up in its handshake"]);
    // Nobody's end is without a line.
    assert!(scene.monitor.logged(&["closed the ZeroMQ link", "it speaks HTTP"]).len() >= 3);
}

#[test]
fn what_a_peer_says_of_itself_is_told_escaped() {
    assert_eq!(said_of(&greeting(b"CURVE")), r#"security mechanism "CURVE", expected NULL"#);
    assert_eq!(said_of(&greeting(b"\n\x1b[31m")), r#"security mechanism "\n\u{1b}[31m", expected NULL"#);
    let error = said_of(&greeted(&command("ERROR", b"\x05no\n\x1b[")));
    assert_eq!(error, r#"the peer sent ERROR "no\n\u{1b}[""#);
    let long = said_of(&greeted(&command("ERROR", &[&[200][..], &[b'x'; 200]].concat())));
    assert_eq!(long, format!("the peer sent ERROR \"{}\"", "x".repeat(64)));
    let socket = said_of(&greeted(&ready(&[("Socket-Type", &[b'x'; 200])])));
    assert_eq!(socket, format!("Socket-Type \"{}\", expected ROUTER or DEALER", "x".repeat(64)));
}

/// The log does not name a mechanism that is incomplete.
#[test]
fn a_peer_that_hangs_up_in_its_handshake_is_told_how_far_it_was() {
    let before = |bytes: &str| {
        format!(
            "the peer hung up in its handshake before it named its security mechanism, as a socket with CURVE or PLAIN \
             does; its first bytes are \"{bytes}\""
        )
    };
    let after = "the peer hung up in its handshake after it named the security mechanism NULL, as a socket other than \
                 ROUTER and DEALER does";
    let signature = r"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f";
    let (null, curve) = (handshake(), greeting(b"CURVE"));
    for (bytes, said) in [
        (&null[..1], before(r"\xff")),
        (&null[..10], before(signature)),
        (&curve[..31], before(&format!(r"{signature}\x03\x00CURV…"))),
        (&null[..32], after.into()),
        (&null[..64], after.into()),
        (&null[..null.len() - 1], after.into()),
        // Of a client of telnet.
        (b"\xff\xfd\x03\xff\xfb\x18", before(r"\xff\xfd\x03\xff\xfb\x18")),
    ] {
        let ends = the_one_line_on(|brokers| {
            let mut peer = RawPeer::connect(brokers);
            peer.send(bytes);
            peer.shut_sending();
            peer.is_closed();
        });
        let resets = the_one_line_on(|brokers| {
            let mut peer = RawPeer::connect(brokers);
            // Once the opening has come, the link is read as soon as something comes.
            peer.read_greeting();
            peer.send(bytes);
            peer.reset();
        });
        assert_eq!((&ends, &resets), (&said, &said));
    }
}

/// libzmq sees the monitor's mechanism, disconnects and does not try again. It may do so before it has sent a byte.
#[test]
fn a_socket_of_libzmq_with_plain_is_told() {
    let mut scene = Scene::new(&format!("logger: {{level: debug}}\n{PATIENT}"));
    let peer = Broker::with(scene.monitor.brokers, Kind::Dealer, |socket| {
        socket.set_plain_username(Some("broker"))?;
        socket.set_plain_password(Some("secret"))
    });
    scene.monitor.wait_log("a socket with CURVE or PLAIN");
    drop(peer);
    scene.is_unharmed();
}

#[test]
fn who_hangs_up_is_counted_and_a_probe_that_sends_nothing_is_not() {
    let mut scene = Scene::new(&format!("{STATUS}{PATIENT}"));
    for _ in 0..5 {
        let mut ends = RawPeer::connect(scene.monitor.brokers);
        ends.shut_sending();
        ends.is_closed();
        RawPeer::connect(scene.monitor.brokers).reset();
    }
    let mut peer = RawPeer::connect(scene.monitor.brokers);
    peer.send(&greeting(b"NULL"));
    peer.shut_sending();
    peer.is_closed();
    let at = status(&scene.monitor);
    let count =
        |reason: &str| metrics(at).count(&format!("recodex_monitor_refused_links_total{{reason=\"{reason}\"}}"));
    until("the peer is counted", || (count("hung_up") == 1).then_some(()));
    scene.is_unharmed();
    let reasons = ["hung_up", "violation", "timeout", "crowded", "not_reading", "full", "not_allowed"];
    assert_eq!(reasons.map(count), [1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(scene.monitor.logged(&["closed the ZeroMQ link"]).len(), 1);
}

#[test]
fn other_protocols_are_closed() {
    let mut zmtp1 = vec![0x01, 0x00];
    zmtp1.extend_from_slice(b"\x04\x00job\x08\x00STARTED");
    let signed = |rest: &[u8]| [&[0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F], rest].concat();
    let mut no_signature = greeting(b"NULL");
    no_signature[9] = 0x7E;
    each_closes_its_link(&[
        ("HTTP", b"GET / HTTP/1.1\r\nHost: monitor.example\r\n\r\n".to_vec()),
        ("WebSocket", common::viewer::upgrade_request("/").into_bytes()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("ZMTP 1", zmtp1),
        ("ZMTP 1 with a long identity", [&[0xFF, 0, 0, 0, 0, 0, 0, 1, 0, 0][..], &[b'x'; 255]].concat()),
        ("ZMTP 1 by a library that knows 2", signed(&[0])),
        ("ZMTP 2", signed(&[1, 6, 0, 0])),
        ("ZMTP 2, numbered as such", signed(&[2, 6, 0, 0])),
        ("not quite ZMTP's signature", no_signature),
    ]);
}

#[test]
fn random_bytes_are_closed() {
    let attacks: Vec<_> = (1..=20).map(|seed| (format!("seed {seed}"), noise(seed, 100_000))).collect();
    let attacks: Vec<_> = attacks.iter().map(|(name, bytes)| (name.as_str(), bytes)).collect();
    each_closes_its_link(&attacks);
}

/// A peer that shakes hands correctly and then sends random bytes.
#[test]
fn random_bytes_after_a_greeting_or_a_handshake_do_no_harm() {
    let mut scene = Scene::new("");
    for seed in 1..=20 {
        let mut peer = RawPeer::connect(scene.monitor.brokers);
        peer.send_what_goes(&greeted(&noise(seed, 100_000)));
        peer.is_closed();
        let mut peer = RawPeer::ready(scene.monitor.brokers);
        peer.send_what_goes(&noise(seed, 100_000));
        drop(peer);
        scene.relays();
    }
    scene.is_unharmed();
}

#[test]
fn other_security_mechanisms_are_closed() {
    each_closes_its_link(&[
        ("PLAIN", greeting(b"PLAIN")),
        ("CURVE", greeting(b"CURVE")),
        ("none", greeting(b"")),
        ("lower case", greeting(b"null")),
        ("longer", greeting(b"NULLNULLNULLNULLNULL")),
        ("NULL and then something", greeting(b"NULL\0X")),
        ("control characters", greeting(b"\n\x1b[31mNULL")),
    ]);
}

#[test]
fn handshakes_with_something_wrong_are_closed() {
    let property = |name: &str, value: &[u8]| greeted(&ready(&[(name, value)]));
    each_closes_its_link(&[
        ("no Socket-Type", property("Identity", b"x")),
        ("no property", greeted(&ready(&[]))),
        ("SUB", property("Socket-Type", b"SUB")),
        ("PUSH", property("Socket-Type", b"PUSH")),
        ("an unknown Socket-Type", property("Socket-Type", b"\n\x1b[31mROUTER")),
        ("an empty Socket-Type", property("Socket-Type", b"")),
        ("a property that announces more than there is", {
            greeted(&command("READY", b"\x0bSocket-Type\x00\x00\x00\xffDEALER"))
        }),
        ("a property of 4 GiB", greeted(&command("READY", b"\x0bSocket-Type\xff\xff\xff\xffDEALER"))),
        ("a property name that is not UTF-8", greeted(&command("READY", b"\x02\xC3\x28\x00\x00\x00\x00"))),
        ("a Socket-Type that is not UTF-8", property("Socket-Type", b"DEALER\xFF")),
        ("a Socket-Type of 3,000 bytes", property("Socket-Type", &[b'x'; 3000])),
        ("an Identity of 256 bytes", { greeted(&ready(&[("Socket-Type", b"DEALER"), ("Identity", &[b'x'; 256])])) }),
        ("a property without a name", greeted(&ready(&[("Socket-Type", b"DEALER"), ("", b"x")]))),
        ("half a property name", greeted(&command("READY", b"\xffSocket"))),
        ("half a property length", greeted(&command("READY", b"\x0bSocket-Type\x00\x00"))),
        ("an unknown command", greeted(&command("HELLO", b""))),
        ("ERROR", greeted(&command("ERROR", b"\x02no"))),
        ("an empty command", greeted(&frame(0x04, b""))),
        ("a command name longer than the command", greeted(&frame(0x04, b"\xffREADY"))),
        ("a message instead of READY", greeted(&message(&["job", "STARTED"]))),
        ("PING instead of READY", greeted(&command("PING", b"\x00\x00"))),
        ("a command of more than 4 KiB", greeted(&command("READY", &[0; 5000]))),
    ]);
}

/// A READY that ends too early is refused, wherever it ends.
#[test]
fn a_ready_that_ends_too_early_closes_the_link() {
    let whole = &ready(&[("Identity", b"x"), ("Socket-Type", b"DEALER")])[2..];
    let cut = |length: usize| (format!("READY of {length} bytes"), greeted(&frame(0x04, &whole[..length])));
    each_closes_its_link(&(0..whole.len()).map(cut).collect::<Vec<_>>());
}

#[test]
fn flags_that_mean_nothing_close_the_link() {
    let wrong = (0..=u8::MAX).filter(|flags| flags & 0xF8 != 0 || flags & 0x05 == 0x05);
    let attacks: Vec<_> = wrong.map(|flags| (format!("flags {flags:#04x}"), [flags, 5])).collect();
    each_closes_its_ready_link(&attacks);
    let before: Vec<_> = attacks.iter().map(|(name, bytes)| (name, greeted(bytes))).collect();
    each_closes_its_link(&before);
}

/// The head of a frame is checked before its body comes.
#[test]
fn announced_gigabytes_close_the_link_before_they_come() {
    let named = |what, bytes: Vec<u8>| (what, bytes);
    let in_the_handshake: Vec<_> = huge()
        .flat_map(|length| {
            [
                named(format!("a command of {length}"), greeted(&long_head(4, length))),
                named(format!("a message of {length}"), greeted(&long_head(0, length))),
            ]
        })
        .collect();
    each_closes_its_link(&in_the_handshake);
    let later: Vec<_> = huge()
        .flat_map(|length| {
            [
                named(format!("a command of {length}"), long_head(4, length)),
                named(format!("a message of {length}"), long_head(0, length)),
                named(format!("a first part of {length}"), long_head(1, length)),
                named(format!("a later part of {length}"), [frame(1, b"job"), long_head(0, length)].concat()),
            ]
        })
        .collect();
    each_closes_its_ready_link(&later);
}

#[test]
fn who_is_silent_is_closed_after_the_handshake_timeout() {
    let mut scene = Scene::new("zeromq: {handshake_timeout: 0.3}");
    let handshake = handshake();
    let begun = [0, 1, 2, 9, 10, 11, 12, 13, 17, 31, 32, 33, 63, 64, 65, 66, 72, handshake.len() - 1];
    let start = Instant::now();
    let mut peers: Vec<_> = begun.iter().map(|_| RawPeer::connect(scene.monitor.brokers)).collect();
    for (peer, length) in peers.iter_mut().zip(begun) {
        peer.send(&handshake[..length]);
    }
    for peer in &mut peers {
        peer.is_closed();
        assert!(start.elapsed() >= Duration::from_millis(300), "closed after {:?}", start.elapsed());
    }
    scene.monitor.wait_logged(&["closed the ZeroMQ link", "zeromq.handshake_timeout"]);
    // Those who are through are silent as long as they like.
    let mut ready = RawPeer::ready(scene.monitor.brokers);
    ready.is_silent_for(Duration::from_secs(1));
    scene.is_unharmed();
}

#[test]
fn nine_thousand_silent_connections_keep_nobody_out() {
    let mut scene = Scene::new(PATIENT);
    let allowed = raise_open_files();
    assert!(allowed >= 9_100, "{allowed} open files are too few for this test");
    let before = scene.monitor.descriptors();
    let mut silent = Vec::new();
    for _ in 0..9 {
        silent.extend((0..1000).map(|_| TcpStream::connect(scene.monitor.brokers).expect("the kernel accepts")));
        scene.is_unharmed();
    }
    until("all but a few are closed", || (scene.monitor.descriptors() <= before + MAX_HANDSHAKES).then_some(()));
    scene.is_unharmed();
    drop(silent);
    until("all are closed", || (scene.monitor.descriptors() <= before).then_some(()));
}

/// The other side ends at once, and nothing stays of a link wherever it was cut.
#[test]
fn a_handshake_may_be_cut_at_every_byte() {
    let mut scene = Scene::new(PATIENT);
    let before = scene.monitor.descriptors();
    let handshake = handshake();
    for length in 0..=handshake.len() {
        let mut ends = RawPeer::connect(scene.monitor.brokers);
        ends.send(&handshake[..length]);
        ends.shut_sending();
        ends.is_closed();
        let mut resets = RawPeer::connect(scene.monitor.brokers);
        resets.send(&handshake[..length]);
        resets.reset();
        scene.relays();
    }
    until("all descriptors are closed", || (scene.monitor.descriptors() <= before).then_some(()));
    scene.is_unharmed();
}

/// Silent links, as many as may be open, do not keep a broker out, nor those that come faster than they time out.
#[test]
fn who_is_silent_keeps_nobody_out() {
    let mut scene = Scene::new("zeromq: {max_connections: 3, handshake_timeout: 600}");
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.extend((0..100).map(|_| RawPeer::connect(scene.monitor.brokers)));
        fence(&scene.monitor, &Broker::connect(scene.monitor.brokers));
        scene.relays();
    }
    scene.monitor.wait_log("others began a handshake after it");
    let first: &mut RawPeer = &mut silent[0];
    first.is_closed();
    drop(silent);
    scene.is_unharmed();
}

/// Connects a peer that does not shake hands.
fn stranger(scene: &Scene) -> RawPeer {
    let mut peer = RawPeer::connect(scene.monitor.brokers);
    peer.read_greeting();
    assert_eq!(peer.read_command().name, "READY");
    peer
}

#[test]
fn as_many_as_have_a_place_may_shake_hands_and_one_more_takes_that_of_the_oldest() {
    let mut scene = Scene::new(PATIENT);
    let mut silent: Vec<_> = (0..MAX_HANDSHAKES).map(|_| stranger(&scene)).collect();
    silent[0].is_silent_for(A_WHILE);
    silent.push(stranger(&scene));
    silent[0].is_closed();
    silent[1].is_silent_for(A_WHILE);
    // Those who are through are none of them.
    silent[1].send(&handshake());
    scene.relays();
    silent.push(stranger(&scene));
    silent[1].send(&message(&["through", "FINISHED"]));
    Viewer::watch(scene.monitor.viewers, "through").texts(&[common::command("FINISHED")]);
    silent[2].is_silent_for(A_WHILE);
    scene.is_unharmed();
}

#[test]
fn whom_zeromq_allow_does_not_name_is_closed_and_logged_once() {
    let mut scene = Scene::new("zeromq: {allow: [\"127.0.0.1\", \"fd00::/8\"]}");
    for from in [[127, 0, 0, 2], [127, 0, 1, 1]] {
        for _ in 0..20 {
            let mut refused = RawPeer::connect_from(from.into(), scene.monitor.brokers);
            refused.send_what_goes(&greeting(b"NULL"));
            refused.is_closed();
        }
    }
    let words = ["zeromq.allow does not name it"];
    scene.monitor.wait_logged(&words);
    scene.is_unharmed();
    assert_eq!(scene.monitor.logged(&words).len(), 1);
}

#[test]
fn a_dribbled_handshake_does_not_extend_the_timeout() {
    let mut scene = Scene::new("zeromq: {handshake_timeout: 0.5}");
    let mut peer = RawPeer::connect(scene.monitor.brokers);
    let start = Instant::now();
    let filler = [("X-Filler", [0; 200].as_slice()), ("Socket-Type", b"DEALER")];
    let closed = greeted(&ready(&filler)).into_iter().any(|byte| {
        assert!(start.elapsed() < DEADLINE, "still served");
        std::thread::sleep(Duration::from_millis(20)); // which is the attack
        peer.try_send(&[byte]).is_err()
    });
    assert!(closed, "the whole handshake was read");
    scene.is_unharmed();
}
