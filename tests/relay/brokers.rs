//! The brokers' port: libzmq as a broker may use it, links that break, and ports that are opened again.

use crate::common;

use std::thread;
use std::time::{Duration, Instant};

use common::zmtp::{command, greeting, message, ready};
use common::{Broker, Host, Kind, Monitor, RawPeer, Viewer, fence, unique, until};
use zmq::SocketEvent;

/// The kinds of brokers that ReCodEx may use, with more options if wanted.
fn each_sort(monitor: &Monitor, options: impl Fn(&zmq::Socket) -> zmq::Result<()>) -> Vec<(&'static str, Broker)> {
    let named = |socket: &zmq::Socket| socket.set_identity(b"broker-1").and_then(|()| options(socket));
    vec![
        ("ROUTER", Broker::with(monitor.brokers, Kind::Router, &options)),
        ("ROUTER with an identity", Broker::with(monitor.brokers, Kind::Router, named)),
        ("DEALER", Broker::with(monitor.brokers, Kind::Dealer, &options)),
    ]
}

#[test]
fn routers_with_and_without_identity_and_dealers_are_served() {
    let monitor = Monitor::start("");
    for (sort, broker) in each_sort(&monitor, |_| Ok(())) {
        let channel = unique("sort");
        let mut viewer = Viewer::watch(monitor.viewers, &channel);
        for id in 0..100 {
            broker.task(&channel, &id.to_string());
        }
        for id in 0..100 {
            assert_eq!(viewer.text(), common::task(&id.to_string(), "COMPLETED"), "{sort}");
        }
    }
}

/// libzmq drops a link if its PINGs are not answered in time. A link that stays shows that they are answered.
#[test]
fn links_with_heartbeats_stand() {
    let monitor = Monitor::start("");
    let brokers = each_sort(&monitor, |socket| {
        socket.set_heartbeat_ivl(100)?;
        socket.set_heartbeat_timeout(1500)?;
        socket.set_heartbeat_ttl(10_000)
    });
    let watched: Vec<_> = brokers.iter().map(|(sort, broker)| (sort, broker, broker.events())).collect();
    for (_, broker, _) in &watched {
        fence(&monitor, broker);
    }
    // Silence for longer than the time after which an unanswered PING ends the link.
    let end = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < end {
        for (sort, _, events) in &watched {
            while let Some(event) = events.next(20) {
                let broken = [SocketEvent::DISCONNECTED, SocketEvent::CLOSED, SocketEvent::CONNECT_RETRIED];
                assert!(!broken.contains(&event), "{sort}: {event:?}");
            }
        }
    }
    for (_, broker, _) in &watched {
        fence(&monitor, broker);
    }
}

#[test]
fn every_ping_is_answered_by_a_pong_with_its_context() {
    let monitor = Monitor::start("");
    let mut peer = RawPeer::ready(monitor.brokers);
    let channel = unique("ping");
    for context in ["", "1", "sixteen bytes ok"] {
        let mut data = vec![0, 100]; // the time to live, in tenths of a second
        data.extend_from_slice(context.as_bytes());
        peer.send(&command("PING", &data));
        peer.send(&message(&[channel.as_str(), "STARTED"]));
        let pong = peer.read_command();
        assert_eq!((pong.name.as_str(), pong.data.as_slice()), ("PONG", context.as_bytes()));
    }
    // Many at once, in the order they were sent.
    let mut burst = Vec::new();
    for number in 0_u16..200 {
        let [high, low] = number.to_be_bytes();
        burst.extend(command("PING", &[0, 0, high, low]));
    }
    peer.send(&burst);
    for number in 0_u16..200 {
        assert_eq!(peer.read_command().data, number.to_be_bytes());
    }
    Viewer::watch(monitor.viewers, &channel).texts(&vec![common::command("STARTED"); 3]);
}

/// A control frame may stand between the parts of a message.
#[test]
fn a_ping_between_the_parts_of_a_message_does_not_break_it() {
    let monitor = Monitor::start("");
    let mut peer = RawPeer::ready(monitor.brokers);
    let channel = unique("between");
    peer.send(&common::zmtp::frame(1, channel.as_bytes()));
    peer.send(&command("PING", &[0, 0, b'c']));
    assert_eq!(peer.read_command().data, b"c");
    peer.send(&common::zmtp::frame(0, b"STARTED"));
    assert_eq!(Viewer::watch(monitor.viewers, &channel).text(), common::command("STARTED"));
}

#[test]
fn the_handshake_names_a_router_and_its_routing_id() {
    let monitor = Monitor::start("");
    let mut peer = RawPeer::connect(monitor.brokers);
    peer.send(&greeting(b"NULL"));
    let theirs = peer.read_greeting();
    assert_eq!(theirs[9] & 0x01, 1, "the signature ends so");
    assert_eq!(theirs[10], 3, "the major version");
    assert_eq!(&theirs[12..32], b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(theirs[32..], [0; 32], "not a server, and the rest is filler");
    peer.send(&ready(&[("Socket-Type", b"ROUTER"), ("Identity", b"")]));
    let command = peer.read_command();
    assert_eq!(command.name, "READY");
    let property = |name: &str, value: &str| {
        let bytes = ready(&[(name, value.as_bytes())]);
        let wanted = &bytes[2 + "READY".len() + 1..];
        command.data.windows(wanted.len()).any(|window| window == wanted)
    };
    assert!(property("Socket-Type", "ROUTER"), "{command:?}");
    assert!(property("Identity", "recodex-monitor"), "{command:?}");
}

/// Handshakes of others: property names in any case, unknown properties, an unknown minor version.
#[test]
fn a_handshake_other_libraries_send_is_understood() {
    let monitor = Monitor::start("");
    let mut newer = greeting(b"NULL");
    newer[11] = 1;
    for (greeting, properties) in [
        (greeting(b"NULL"), vec![("socket-type", b"DEALER".as_slice())]),
        (greeting(b"NULL"), vec![("X-Vendor", b"".as_slice()), ("SOCKET-TYPE", b"ROUTER".as_slice())]),
        (newer, vec![("Socket-Type", b"DEALER".as_slice()), ("Identity", &[0xFF; 255])]),
    ] {
        let mut peer = RawPeer::connect(monitor.brokers);
        peer.send(&greeting);
        peer.send(&ready(&properties));
        let channel = unique("other");
        peer.send(&message(&[channel.as_str(), "STARTED"]));
        assert_eq!(Viewer::watch(monitor.viewers, &channel).text(), common::command("STARTED"));
    }
}

/// The bytes of the whole link may come in pieces of any size.
#[test]
fn a_conversation_sent_byte_by_byte_is_understood() {
    let monitor = Monitor::start("");
    let mut peer = RawPeer::connect(monitor.brokers);
    let channel = unique("dribble");
    let mut bytes = greeting(b"NULL");
    bytes.extend(ready(&[("Socket-Type", b"DEALER")]));
    bytes.extend(message(&[channel.as_str(), "TASK", &"t".repeat(300), "COMPLETED"]));
    bytes.extend(message(&[channel.as_str(), "FINISHED"]));
    for byte in bytes {
        peer.send(&[byte]);
    }
    let mut viewer = Viewer::watch(monitor.viewers, &channel);
    viewer.texts(&[common::task(&"t".repeat(300), "COMPLETED"), common::command("FINISHED")]);
    viewer.closes(1000);
}

#[test]
fn a_hundred_thousand_messages_from_two_brokers_at_once_arrive_each_once_and_in_order() {
    const EACH: usize = 50_000;
    let monitor = Monitor::start("");
    thread::scope(|scope| {
        for number in 0..2 {
            let monitor = &monitor;
            let channel = unique("flood");
            let mut viewer = Viewer::subscribed(monitor.viewers, &channel);
            let name = channel.clone();
            scope.spawn(move || {
                let broker = Broker::connect(monitor.brokers);
                for id in 0..EACH {
                    broker.task(&name, &format!("{number}-{id}"));
                }
                broker.send(&[name.as_str(), "FINISHED"]);
                fence(monitor, &broker);
                // One that comes after it all.
                let mut late = Viewer::watch(monitor.viewers, &name);
                for id in 0..EACH {
                    assert_eq!(common::task_id(&late.text()), format!("{number}-{id}"));
                }
                late.texts(&[common::command("FINISHED")]);
                late.closes(1000);
            });
            scope.spawn(move || {
                for id in 0..EACH {
                    assert_eq!(common::task_id(&viewer.text()), format!("{number}-{id}"));
                }
                viewer.texts(&[common::command("FINISHED")]);
                viewer.closes(1000);
            });
        }
    });
}

#[test]
fn two_brokers_with_the_same_identity_are_both_served() {
    let monitor = Monitor::start("");
    let twin = || Broker::with(monitor.brokers, Kind::Router, |socket| socket.set_identity(b"twin"));
    let (first, second) = (twin(), twin());
    let channels = [unique("twin"), unique("twin")];
    for id in 0..1000 {
        first.task(&channels[0], &id.to_string());
        second.task(&channels[1], &id.to_string());
    }
    for channel in &channels {
        let mut viewer = Viewer::watch(monitor.viewers, channel);
        for id in 0..1000 {
            assert_eq!(common::task_id(&viewer.text()), id.to_string());
        }
    }
}

/// If a broker dies, its whole messages are delivered, and a message that it had only begun is not.
#[test]
fn of_a_broker_that_dies_inside_a_message_all_whole_messages_are_delivered_and_nothing_else() {
    let monitor = Monitor::start("");
    let channel = unique("dies");
    let last = message(&[channel.as_str(), "TASK", "partial", "COMPLETED"]);
    // Inside the first part's head, at the end of a part, inside the last part.
    for cut in [1, 2 + channel.len(), last.len() - 1] {
        let mut viewer = Viewer::watch(monitor.viewers, &channel);
        let mut peer = RawPeer::ready(monitor.brokers);
        let mut bytes = Vec::new();
        for id in 0..500 {
            bytes.extend(message(&[channel.as_str(), "TASK", &id.to_string(), "COMPLETED"]));
        }
        bytes.extend_from_slice(&last[..cut]);
        peer.send(&bytes);
        drop(peer);
        for id in 0..500 {
            assert_eq!(common::task_id(&viewer.text()), id.to_string());
        }
        let next = Broker::connect(monitor.brokers);
        next.send(&[channel.as_str(), "FINISHED"]);
        viewer.texts(&[common::command("FINISHED")]);
        viewer.closes(1000);
    }
}

/// If the monitor is restarted, a broker notices only a pause.
#[test]
fn a_broker_finds_a_restarted_monitor_again() {
    let mut first = Monitor::start("");
    let brokers = [
        Broker::connect(first.brokers),
        Broker::with(first.brokers, Kind::Router, |socket| socket.set_identity(b"broker-1")),
        Broker::with(first.brokers, Kind::Dealer, |_| Ok(())),
    ];
    for broker in &brokers {
        fence(&first, broker);
    }
    let again = Host { viewers: first.viewers.port(), brokers: first.brokers.port(), ..Host::default() };
    first.stop();
    let second = Monitor::start_at(again, "");
    assert_eq!((second.viewers.port(), second.brokers.port()), (again.viewers, again.brokers));
    for broker in &brokers {
        let channel = unique("restart");
        let mut viewer = Viewer::watch(second.viewers, &channel);
        // What is sent while the link is down may be lost: ask until something comes.
        let mut sent = 0;
        let first_id: usize = until("the broker is back", || {
            broker.task(&channel, &sent.to_string());
            sent += 1;
            match viewer.next_within(Duration::from_millis(100)) {
                Some(common::Event::Text(text)) => Some(common::task_id(&text).parse().expect("a number")),
                Some(other) => panic!("a text was to come, not {other:?}"),
                None => None,
            }
        });
        for id in first_id + 1..sent {
            assert_eq!(common::task_id(&viewer.text()), id.to_string(), "nothing is lost or twice once it is back");
        }
    }
}

fn every_address_of(host: &str, viewers: u16, brokers: u16) -> Monitor {
    let monitor = Monitor::start_at(Host { name: host, viewers, brokers }, "");
    let first = Broker::connect(monitor.brokers);
    fence(&monitor, &first);
    for brokers in monitor.addresses("brokers") {
        let broker = Broker::connect(brokers);
        for viewers in monitor.addresses("viewers") {
            let channel = unique("host");
            let mut viewer = Viewer::watch(viewers, &channel);
            broker.send(&[channel.as_str(), "FINISHED"]);
            viewer.texts(&[common::command("FINISHED")]);
            viewer.closes(1000);
        }
    }
    monitor
}

#[test]
fn an_asterisk_listens_on_every_address() {
    let monitor = every_address_of("*", 0, 0);
    for address in [monitor.viewers, monitor.brokers] {
        let port = address.port();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(), "port {port}");
    }
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        assert!(!monitor.logged(&["listening for viewers on [::]:", " (IPv4 and IPv6)"]).is_empty());
        let monitor = every_address_of("::", 0, 0);
        assert!(!monitor.logged(&["listening for brokers on [::]:", " (IPv6 only)"]).is_empty());
    }
}

/// The same as libzmq's bind.
#[test]
fn the_name_of_an_interface_is_its_first_ipv4_address_for_brokers_only() {
    let ports = "websocket_uri: [\"127.0.0.1\", 0]\nzeromq_uri: [lo, 0]\nuser: nobody\n";
    let (_directory, path) = common::temporary("config.yml", ports);
    let monitor = Monitor::start_from(&path);
    assert_eq!(monitor.addresses("brokers")[0].ip().to_string(), "127.0.0.1");
    let broker = Broker::connect(monitor.brokers);
    fence(&monitor, &broker);
}

#[test]
fn localhost_listens_on_what_it_resolves_to() {
    let monitor = every_address_of("localhost", 0, 0);
    assert!(monitor.viewers.ip().is_loopback() && monitor.brokers.ip().is_loopback());
}

#[test]
fn an_ipv6_address_listens_there() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return; // a machine without IPv6
    }
    let monitor = every_address_of("::1", 0, 0);
    assert_eq!(monitor.viewers.ip().to_string(), "::1");
    assert!(!monitor.logged(&["listening for viewers on [::1]:"]).is_empty());
    assert!(!monitor.logged(&["listening for brokers on [::1]:"]).is_empty());
}
