//! Attacks after the handshake, and the cap on links.

use super::{each_closes_its_ready_link, handshake};
use crate::common::zmtp::{command, frame, greeted, long_head, message, ready};
use crate::common::{self, A_WHILE, Broker, RawPeer, Scene, Viewer, fence, until};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

#[test]
fn frames_with_something_wrong_close_the_link() {
    each_closes_its_ready_link(&[
        ("a frame of 64 KiB and a byte", long_head(0, 65_537)),
        ("a command of more than 4 KiB", command("PING", &[0; 5000])),
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
    for part in [frame(1, b""), frame(1, b"x"), frame(1, &[b'x'; 100]), frame(1, &[b'x'; 1000])] {
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

/// A frame that announces gigabytes is refused at its head. A frame within the limit may come slowly.
#[test]
fn a_frame_of_8_gib_is_refused_at_its_head_and_one_at_the_limit_may_dribble() {
    const LIMIT: usize = 65_536;
    let mut scene = Scene::new("");
    let mut peer = RawPeer::ready(scene.monitor.brokers);
    for byte in long_head(0, 8 << 30) {
        peer.send(&[byte]);
    }
    peer.is_closed();
    let mut peer = RawPeer::ready(scene.monitor.brokers);
    let id = "x".repeat(LIMIT - "dribbled".len() - "TASK".len() - "COMPLETED".len());
    for (number, byte) in message(&["dribbled", "TASK", &id, "COMPLETED"]).into_iter().enumerate() {
        peer.send(&[byte]);
        if number % 8192 == 0 {
            scene.relays();
        }
    }
    assert_eq!(Viewer::watch(scene.monitor.viewers, "dribbled").text(), common::task(&id, "COMPLETED"));
    scene.is_unharmed();
}

/// As many links as there may be, each with as much of a message as it may hold.
#[test]
fn many_half_messages_take_little_memory() {
    let mut scene = Scene::new("zeromq: {max_connections: 66}");
    let mut half = message(&["x".repeat(8000).as_str(); 8]);
    half.truncate(half.len() - 1);
    let mut peers: Vec<_> = (0..64).map(|_| RawPeer::ready(scene.monitor.brokers)).collect();
    for peer in &mut peers {
        peer.send(&half);
    }
    scene.is_unharmed();
}

/// Answers that the peer does not read must not take memory without bound.
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

/// The default limit of links, used up by peers that shake hands correctly and then send nothing.
#[test]
fn idle_peers_that_fill_the_cap_keep_out_only_newcomers_and_are_kept_out_by_zeromq_allow() {
    const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let refused = |scene: &Scene| {
        let mut peer = RawPeer::connect_from(STRANGER, scene.monitor.brokers);
        peer.send_what_goes(&handshake());
        peer.is_closed();
    };
    let mut scene = Scene::new(""); // whose broker is one of 64
    let mut idle: Vec<_> = (1..64).map(|_| RawPeer::placed(STRANGER, scene.monitor.brokers)).collect();
    (0..100).for_each(|_| refused(&scene));
    idle[0].is_silent_for(A_WHILE);
    assert_eq!(scene.monitor.logged(&["zeromq.max_connections is reached"]).len(), 1);
    scene.is_unharmed_for_those_who_are_there();
    drop(idle);
    scene.is_unharmed();

    let mut scene = Scene::new("zeromq: {allow: [\"127.0.0.1\"]}");
    (0..100).for_each(|_| refused(&scene));
    assert!(scene.monitor.logged(&["zeromq.max_connections"]).is_empty());
    scene.is_unharmed();
}

/// Sixty thousand times, half of them by a reset, from addresses enough that ports do not run out.
#[test]
fn peers_that_come_and_go_leave_nothing_behind() {
    let mut scene = Scene::new("");
    let before = scene.monitor.descriptors();
    let mut first = 0;
    for round in 0..60_u8 {
        for number in 0..1000 {
            let peer = RawPeer::connect_from([127, 0, 1, round].into(), scene.monitor.brokers);
            if number % 2 == 0 {
                peer.reset();
            }
        }
        scene.relays();
        if round == 19 {
            until("all descriptors are closed", || (scene.monitor.descriptors() <= before).then_some(()));
            first = scene.monitor.rss_kib();
        }
    }
    until("all descriptors are closed", || (scene.monitor.descriptors() <= before).then_some(()));
    let grown = scene.monitor.rss_kib().saturating_sub(first);
    assert!(grown < 512, "grown by {grown} KiB");
    scene.is_unharmed();
}
