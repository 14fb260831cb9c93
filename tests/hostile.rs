//! Both ports are reachable by anybody: whatever comes, the process lives, stays small, and serves the others.

mod common;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::zmtp::{command, frame, greeting, long_head, message, ready};
use common::{A_WHILE, Broker, DEADLINE, RawPeer, Scene, Viewer, fence, noise, until};

/// Sends what closes a link; each attack alone, then the monitor must be as before.
fn each_closes_its_link<B: AsRef<[u8]>>(attacks: &[(&str, B)]) {
    let mut scene = Scene::new("");
    for (name, bytes) in attacks {
        eprintln!("attack: {name}");
        let mut peer = RawPeer::connect(scene.monitor.brokers);
        peer.send_what_goes(bytes.as_ref());
        peer.is_closed();
        scene.relays();
    }
    scene.is_unharmed();
}

/// The same for what is sent after a handshake.
fn each_closes_its_ready_link<B: AsRef<[u8]>>(attacks: &[(&str, B)]) {
    let mut scene = Scene::new("");
    for (name, bytes) in attacks {
        eprintln!("attack: {name}");
        let mut peer = RawPeer::ready(scene.monitor.brokers);
        peer.send_what_goes(bytes.as_ref());
        peer.is_closed();
        scene.relays();
    }
    scene.is_unharmed();
    scene.monitor.wait_log("closed the ZeroMQ link");
}

/// A greeting, and what follows it.
fn greeted(rest: &[u8]) -> Vec<u8> {
    [greeting(b"NULL"), rest.to_vec()].concat()
}

// Before the handshake.

#[test]
fn other_protocols_are_closed() {
    let mut zmtp1 = vec![0x01, 0x00];
    zmtp1.extend_from_slice(b"\x04\x00job\x08\x00STARTED");
    let mut zmtp2 = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 1, 6];
    zmtp2.extend_from_slice(&[0, 0]);
    let mut no_signature = greeting(b"NULL");
    no_signature[9] = 0x7E;
    each_closes_its_link(&[
        ("HTTP", b"GET / HTTP/1.1\r\nHost: monitor.example\r\n\r\n".to_vec()),
        ("WebSocket", common::viewer::upgrade_request("/").into_bytes()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("ZMTP 1", zmtp1),
        ("ZMTP 2", zmtp2),
        ("not quite ZMTP's signature", no_signature),
    ]);
}

#[test]
fn random_bytes_are_closed() {
    let attacks: Vec<_> = (1..=20).map(|seed| (format!("seed {seed}"), noise(seed, 100_000))).collect();
    let attacks: Vec<_> = attacks.iter().map(|(name, bytes)| (name.as_str(), bytes)).collect();
    each_closes_its_link(&attacks);
}

/// Whoever knows how a handshake goes, and only then sends noise.
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
        ("half a property name", greeted(&command("READY", b"\xffSocket"))),
        ("half a property length", greeted(&command("READY", b"\x0bSocket-Type\x00\x00"))),
        ("an unknown command", greeted(&command("HELLO", b""))),
        ("ERROR", greeted(&command("ERROR", b"\x02no"))),
        ("an empty command", greeted(&frame(0x04, b""))),
        ("a command name longer than the command", greeted(&frame(0x04, b"\xffREADY"))),
        ("a message instead of READY", greeted(&message(&["job", "STARTED"]))),
        ("PING instead of READY", greeted(&command("PING", b"\x00\x00"))),
        ("reserved flags", greeted(&[0xF8, 5])),
        ("a command of more than 4 KiB", greeted(&command("READY", &[0; 5000]))),
        ("a command of 2^36 bytes", greeted(&long_head(0x04, 1 << 36))),
        ("a command of 2^63 bytes", greeted(&long_head(0x04, 1 << 63))),
        ("a command of 2^64-1 bytes", greeted(&long_head(0x04, u64::MAX))),
        ("a message of 2^36 bytes", greeted(&long_head(0x00, 1 << 36))),
        ("a message of 2^63 bytes", greeted(&long_head(0x00, 1 << 63))),
    ]);
}

#[test]
fn who_is_silent_is_closed_after_the_handshake_timeout() {
    let mut scene = Scene::new("zeromq: {handshake_timeout: 0.3}");
    for bytes in [vec![], vec![0xFF], greeting(b"NULL"), greeted(&ready(&[("Socket-Type", b"DEALER")])[..10])] {
        let start = Instant::now();
        let mut peer = RawPeer::connect(scene.monitor.brokers);
        peer.send(&bytes);
        peer.is_closed();
        assert!(start.elapsed() >= Duration::from_millis(300), "closed after {:?}", start.elapsed());
    }
    scene.monitor.wait_log("closed the ZeroMQ link");
    // Those who are through are silent as long as they like.
    let mut ready = RawPeer::ready(scene.monitor.brokers);
    ready.is_silent_for(Duration::from_secs(1));
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

/// A peer whose link was taken, and who does not shake hands.
fn stranger(scene: &Scene) -> RawPeer {
    let mut peer = RawPeer::connect(scene.monitor.brokers);
    peer.read_greeting();
    assert_eq!(peer.read_command().name, "READY");
    peer
}

#[test]
fn thirty_two_may_shake_hands_and_one_more_takes_the_place_of_the_oldest() {
    let mut scene = Scene::new("zeromq: {handshake_timeout: 600}");
    let mut silent: Vec<_> = (0..32).map(|_| stranger(&scene)).collect();
    silent[0].is_silent_for(A_WHILE);
    silent.push(stranger(&scene));
    silent[0].is_closed();
    silent[1].is_silent_for(A_WHILE);
    // Those who are through are none of them.
    silent[1].send(&greeted(&ready(&[("Socket-Type", b"DEALER")])));
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
    assert_eq!(scene.monitor.logged(&["zeromq.allow does not name it"]).len(), 1);
    scene.is_unharmed();
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

// After the handshake.

#[test]
fn frames_with_something_wrong_close_the_link() {
    each_closes_its_ready_link(&[
        ("a frame of 2^36 bytes", long_head(0, 1 << 36)),
        ("a frame of 2^63 bytes", long_head(0, 1 << 63)),
        ("a frame of 2^64-1 bytes", long_head(0, u64::MAX)),
        ("a frame of 64 KiB and a byte", long_head(0, 65_537)),
        ("a later part of 2^36 bytes", [frame(1, b"job"), long_head(0, 1 << 36)].concat()),
        ("a later part of 2^64-1 bytes", [frame(1, b"job"), long_head(1, u64::MAX)].concat()),
        ("a command of 2^36 bytes", long_head(4, 1 << 36)),
        ("a command of more than 4 KiB", command("PING", &[0; 5000])),
        ("reserved flag bits", frame(0x08, b"job")),
        ("all flag bits", frame(0xFF, b"job")),
        ("a command with MORE", frame(0x05, b"\x04PING\x00\x00")),
        ("PING without a time to live", command("PING", b"\x00")),
        ("an empty command", frame(0x04, b"")),
        ("a second READY", ready(&[("Socket-Type", b"DEALER")])),
    ]);
}

#[test]
fn a_message_over_64_kib_in_all_closes_the_link() {
    let part = "x".repeat(8000);
    each_closes_its_ready_link(&[
        ("nine parts of 8,000 bytes", message(&[part.as_str(); 9])),
        ("sixteen parts of 8,000 bytes", message(&[part.as_str(); 16])),
    ]);
}

#[test]
fn a_message_of_more_than_16_parts_closes_the_link() {
    let mut scene = Scene::new("");
    let mut peer = RawPeer::ready(scene.monitor.brokers);
    let parts = |count: usize| {
        let mut parts = vec!["sixteen", "STARTED"];
        parts.resize(count, "");
        message(&parts)
    };
    peer.send(&parts(16));
    let text = "{\"command\": \"STARTED\", \"task_id\": \"\", \"task_state\": \"\"}";
    assert_eq!(Viewer::watch(scene.monitor.viewers, "sixteen").text(), text);
    peer.send(&parts(17));
    peer.is_closed();
    scene.is_unharmed();
}

#[test]
fn an_endless_multipart_message_closes_the_link() {
    let mut scene = Scene::new("");
    for part in [frame(1, b""), frame(1, b"x"), frame(1, &[b'x'; 1000])] {
        let mut peer = RawPeer::ready(scene.monitor.brokers);
        peer.send_what_goes(&part.repeat(100_000));
        peer.is_closed();
        scene.relays();
    }
    scene.is_unharmed();
}

#[test]
fn a_large_message_in_dribbles_closes_the_link_and_takes_no_memory() {
    let mut scene = Scene::new("");
    let mut peer = RawPeer::ready(scene.monitor.brokers);
    for _ in 0..8 {
        peer.send(&frame(1, &[b'x'; 8000]));
        scene.relays();
    }
    // The last part, which is over the limit, grows byte by byte.
    let closed = frame(1, &[b'x'; 4000]).iter().any(|byte| peer.try_send(&[*byte]).is_err());
    if !closed {
        peer.is_closed();
    }
    scene.is_unharmed();
}

/// Answers that nobody reads must not pile up.
#[test]
fn pings_whose_answers_are_not_read_take_no_memory() {
    let mut scene = Scene::new("");
    let mut peer = RawPeer::ready(scene.monitor.brokers);
    peer.stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout above zero");
    let flood = command("PING", b"\x00\x00sixteen bytes ok").repeat(10_000);
    for _ in 0..100 {
        if peer.try_send(&flood).is_err() {
            break;
        }
    }
    scene.is_unharmed();
}

#[test]
fn unknown_commands_are_ignored_or_close_the_link_but_do_no_harm() {
    let mut scene = Scene::new("");
    let mut peer = RawPeer::ready(scene.monitor.brokers);
    for name in ["SUBSCRIBE", "CANCEL", "X", "PONG"] {
        peer.send_what_goes(&command(name, b"data"));
    }
    scene.is_unharmed();
}

#[test]
fn links_over_max_connections_are_closed_until_one_has_left() {
    let mut scene = Scene::new("zeromq: {max_connections: 3}"); // one of which is the scene's broker
    let second = RawPeer::ready(scene.monitor.brokers);
    let third = RawPeer::ready(scene.monitor.brokers);
    for _ in 0..3 {
        let mut over = RawPeer::connect(scene.monitor.brokers);
        over.send_what_goes(&greeted(&ready(&[("Socket-Type", b"DEALER")])));
        over.is_closed();
    }
    scene.relays();
    scene.monitor.wait_log("zeromq.max_connections is reached");
    // libzmq tries again by itself.
    let waits = Broker::connect(scene.monitor.brokers);
    drop((second, third));
    fence(&scene.monitor, &waits);
    drop(waits);
    scene.is_unharmed();
}

#[test]
fn peers_that_only_connect_and_leave_leave_nothing_behind() {
    let mut scene = Scene::new("");
    let before = scene.monitor.descriptors();
    for _ in 0..500 {
        drop(TcpStream::connect(scene.monitor.brokers).expect("the monitor listens"));
        drop(TcpStream::connect(scene.monitor.viewers).expect("the monitor listens"));
    }
    scene.relays();
    until("all descriptors are closed", || (scene.monitor.descriptors() <= before).then_some(()));
    scene.is_unharmed();
}

// The viewers' port.

#[test]
fn random_bytes_from_viewers_do_no_harm() {
    let mut scene = Scene::new("");
    for seed in 1..=20 {
        let bytes = noise(seed, 20_000);
        for stage in 0..3 {
            let mut viewer = match stage {
                0 => Viewer::connected(scene.monitor.viewers),
                1 => Viewer::upgraded(scene.monitor.viewers),
                _ => Viewer::watch(scene.monitor.viewers, "healthy"),
            };
            let _ = viewer.try_send_raw(&bytes);
            viewer.shut_sending();
            viewer.raw_to_end();
        }
        scene.relays();
    }
    scene.is_unharmed();
}

#[test]
fn many_half_sent_requests_take_little_memory() {
    let mut scene = Scene::new("");
    let half = common::viewer::upgrade_request_with("/", &[("X-Filler", &"x".repeat(15_000))]);
    let half = half.trim_end().as_bytes();
    let mut crowd: Vec<_> = (0..300).map(|_| Viewer::connected(scene.monitor.viewers)).collect();
    for viewer in &mut crowd {
        viewer.send_raw(half);
    }
    scene.is_unharmed();
}

// The log.

/// Whatever others can put into a line of the log must not look like another line, or paint the terminal.
#[test]
fn nothing_from_outside_reaches_the_log_raw() {
    const FORGED: &str = "x\nFORGED line\r\x1b[31mFORGED\x1b]0;FORGED\x07\u{9b}31m\u{85}FORGED\u{2028}FORGED";
    let mut scene = Scene::new("logger: {level: debug}\naccept_exit: false\nhistory: {release_failed: 0.1}");
    let broker = &scene.broker;
    // Channels: watched, begun, finished twice, released, over-long.
    let mut viewer = Viewer::watch(scene.monitor.viewers, FORGED);
    broker.send(&[FORGED, FORGED, FORGED, FORGED]);
    viewer.text();
    broker.send(&[FORGED, "FINISHED"]);
    broker.send(&[FORGED, "FINISHED"]);
    broker.send(&[FORGED, "FAILED"]);
    broker.send(&[FORGED.repeat(10).as_str(), "STARTED"]);
    broker.send(&[FORGED]);
    viewer.text();
    viewer.closes(1000);
    let mut released = Viewer::watch(scene.monitor.viewers, FORGED);
    released.rest();
    // An over-long id by a viewer, a strange path and strange headers, a close reason.
    Viewer::watch(scene.monitor.viewers, &FORGED.repeat(10)).rest();
    let request = common::viewer::upgrade_request_with("/", &[("X-Forwarded-For", FORGED), ("Origin", FORGED)]);
    common::viewer::http(scene.monitor.viewers, request.as_bytes());
    common::viewer::http(scene.monitor.viewers, format!("GET /{FORGED} HTTP/1.1\r\n\r\n").as_bytes());
    let mut leaves = Viewer::watch(scene.monitor.viewers, "job");
    leaves.send_frame(0x88, &[&1000_u16.to_be_bytes()[..], b"x\nFORGED\x1b[31m"].concat());
    leaves.rest();
    // A strange mechanism, property, Socket-Type, identity, command, error.
    let escape = FORGED.as_bytes();
    for bytes in [
        greeting(b"\nFORGED\x1b[31m"),
        greeted(&ready(&[("Socket-Type", escape)])),
        greeted(&ready(&[("X\nFORGED\x1b[31m", b"x")])),
        greeted(&command("\nFORGED\x1b[31m", b"x")),
        greeted(&command("ERROR", b"\x0f\nFORGED\x1b[31m...")),
    ] {
        let mut peer = RawPeer::connect(scene.monitor.brokers);
        peer.send(&bytes);
        peer.is_closed();
    }
    let mut named = RawPeer::connect(scene.monitor.brokers);
    named.send(&greeted(&ready(&[("Socket-Type", b"DEALER"), ("Identity", escape)])));
    named.send(&message(&["0", "exit", FORGED]));
    named.send(&frame(0x08, b""));
    named.is_closed();
    scene.is_unharmed();

    scene.monitor.signal("KILL");
    scene.monitor.wait_exit();
    let log = scene.monitor.log();
    assert!(log.len() > 3, "the log at level debug: {log:?}");
    for line in &log {
        assert!(!line.trim_start().starts_with("FORGED"), "forged: {line:?}");
        let raw = |c: char| c.is_control() && c != '\t' || matches!(c, '\u{2028}' | '\u{2029}');
        assert!(!line.contains(raw), "raw characters: {line:?}");
    }
}
