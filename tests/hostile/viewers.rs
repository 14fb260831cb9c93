//! Attacks on the viewers' port, which is public: the process goes on, uses little memory, and serves the other clients without
//! delay.

use crate::common;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, scope};
use std::time::{Duration, Instant};

use common::http::{STATUS, report};
use common::viewer::{frame, http, upgrade_request, upgrade_request_with};
use common::{DEADLINE, Event, Scene, Viewer, command, raise_open_files, task_id, unique, until};
use serde_json::json;
use socket2::{Domain, Socket, Type};

/// Relays messages during an attack, each at once, and prints the longest time.
fn serves_at_once(scene: &mut Scene, attack: &str) {
    let longest = (0..50).map(|_| scene.relays()).max().unwrap_or_default();
    eprintln!("{attack}: {longest:?}, {} KiB", scene.monitor.rss_kib());
}

/// Sends the same again and again, from a thread of its own, until the monitor closes or `over`.
fn flood<'scope>(scope: &'scope Scope<'scope, '_>, viewer: Viewer, bytes: Vec<u8>, over: &'scope AtomicBool) {
    scope.spawn(move || {
        let mut viewer = viewer;
        while !over.load(Ordering::Relaxed) && viewer.try_send_raw(&bytes).is_ok() {}
    });
}

/// Ends the floods even if the test fails, because the test waits for their threads.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Messages are relayed at once while four viewers send `again` as fast as they can, without end, after they sent `first`.
fn bears(attack: &str, first: &[u8], again: &[u8]) {
    let mut scene = Scene::new("");
    let over = AtomicBool::new(false);
    scope(|scope| {
        let _ends = Ends(&over);
        for _ in 0..4 {
            let mut viewer = Viewer::upgraded(scene.monitor.viewers);
            viewer.send_raw(first);
            flood(scope, viewer, again.repeat(65_536 / again.len()), &over);
        }
        serves_at_once(&mut scene, attack);
    });
    scene.is_unharmed();
}

fn named() -> Vec<u8> {
    frame(0x81, b"flooded")
}

#[test]
fn floods_before_subscribing_delay_nobody() {
    bears("pings before subscribing", b"", &frame(0x89, &[7; 100]));
    bears("pongs before subscribing", b"", &frame(0x8A, b""));
    bears("empty fragments before subscribing", &frame(0x01, b""), &frame(0x00, b""));
}

#[test]
fn floods_after_subscribing_delay_nobody() {
    bears("pings", &named(), &frame(0x89, &[7; 100]));
    bears("pongs", &named(), &frame(0x8A, b""));
    bears("subscriptions", &named(), &frame(0x81, b"another"));
    bears("long messages", &named(), &frame(0x82, &[7; 4096]));
    bears("empty fragments", &[named(), frame(0x01, b"")].concat(), &frame(0x00, b""));
}

#[test]
fn floods_after_a_close_delay_nobody() {
    bears("pings after a bad id", &frame(0x81, b""), &frame(0x89, &[7; 100]));
    bears("empty fragments after a bad id", &[frame(0x81, b""), frame(0x01, b"")].concat(), &frame(0x00, b""));
    bears("anything after a violation", &frame(0x83, b""), &[0xFF; 100]);
}

/// A viewer that sends without end is still pinged, and must answer.
#[test]
fn endless_fragments_do_not_escape_the_deadlines() {
    let mut scene = Scene::new("clients: {subscribe_timeout: 0.3, ping_interval: 0.3, ping_timeout: 0.3}");
    for first in [frame(0x01, b""), [named(), frame(0x01, b"")].concat()] {
        let mut endless = Viewer::upgraded(scene.monitor.viewers);
        endless.send_raw(&first);
        let start = Instant::now();
        while endless.try_send_raw(&frame(0x00, b"").repeat(1000)).is_ok() {
            assert!(start.elapsed() < DEADLINE, "still served");
        }
    }
    scene.viewer = Viewer::subscribed(scene.monitor.viewers, "healthy"); // the first did not answer pings meanwhile
    scene.monitor.assert_alive();
}

/// The close frame must find room behind pongs that were kept back, and nothing may follow it.
#[test]
fn a_violation_after_many_pings_is_told() {
    let mut scene = Scene::new("");
    let pings = frame(0x89, &[7; 125]);
    for count in 1..=20 {
        for first in [Vec::new(), named()] {
            let mut viewer = Viewer::upgraded(scene.monitor.viewers);
            viewer.send_raw(&[first, pings.repeat(count), frame(0x83, b"")].concat());
            let mut events = viewer.rest();
            assert_eq!(events.pop(), Some(Event::Close(Some(1002))), "after {count} pings");
            assert!(events.iter().all(|event| *event == Event::Pong(vec![7; 125])), "{events:?}");
        }
    }
    scene.is_unharmed();
}

/// Each is broken a hundred times at once, and nobody reads the answer.
#[test]
fn violations_by_many_leave_nothing_behind() {
    let mut scene = Scene::new("");
    let before = scene.monitor.descriptors();
    for (why, bytes) in [
        ("not masked", b"\x81\x03job".to_vec()),
        ("reserved bits", frame(0xF1, b"job")),
        ("a reserved opcode", frame(0x83, b"job")),
        ("a ping in fragments", frame(0x09, b"job")),
        ("a close in fragments", frame(0x08, &1000_u16.to_be_bytes())),
        ("a ping over 125 bytes", frame(0x89, &[0; 126])),
        ("a continuation of nothing", frame(0x80, b"job")),
        ("fragments without end", [frame(0x01, b"x"), frame(0x00, &[b'x'; 1000]).repeat(10)].concat()),
        ("a message of 1 MiB", frame(0x81, &vec![b'x'; 1 << 20])),
        ("2^63 bytes announced", [&[0x81, 0xFF, 0x7F], [0xFF; 7].as_slice(), b"mask"].concat()),
        ("not UTF-8", frame(0x81, b"\xff")),
        ("half a close code", frame(0x88, b"\x03")),
        ("a close code of 0", frame(0x88, &[0, 0])),
        ("a close reason that is not UTF-8", frame(0x88, b"\x03\xe8\xff")),
    ] {
        let mut crowd: Vec<_> = (0..100).map(|_| Viewer::upgraded(scene.monitor.viewers)).collect();
        for (number, viewer) in crowd.iter_mut().enumerate() {
            if number % 2 == 0 {
                viewer.send_raw(&named());
            }
            let _ = viewer.try_send_raw(&bytes);
        }
        serves_at_once(&mut scene, why);
        drop(crowd);
        until("all have gone", || (scene.monitor.descriptors() <= before).then_some(()));
    }
    scene.is_unharmed();
}

// The upgrade.

#[test]
fn malformed_upgrades_are_refused() {
    let mut scene = Scene::new("");
    let good = upgrade_request("/");
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1).into_bytes()
    };
    let headers = |count| upgrade_request_with("/", &vec![("A", "b"); count]).into_bytes();
    for (why, request, status) in [
        ("HTTP/1.0", with("HTTP/1.1", "HTTP/1.0"), 426),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400),
        ("no version", with(" HTTP/1.1", ""), 400),
        ("a method in lower case", with("GET", "get"), 426),
        ("no path", with("GET / ", "GET "), 400),
        ("a space in the path", with("GET / ", "GET /a b "), 400),
        ("NUL in the path", with("GET / ", "GET /\0 "), 400),
        ("an empty key", with("dGhlIHNhbXBsZSBub25jZQ==", ""), 400),
        ("a short key", with("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400),
        ("a long key", with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSBvZiBtb3Jl"), 400),
        ("a key that is not Base64", with("dGhlIHNhbXBsZSBub25jZQ==", "????????????????????????"), 400),
        ("version 0", with("Version: 13", "Version: 0"), 426),
        ("version 130", with("Version: 13", "Version: 130"), 426),
        ("another protocol", with("Upgrade: websocket", "Upgrade: h2c"), 426),
        ("keep-alive only", with("Connection: Upgrade", "Connection: keep-alive"), 426),
        ("no colon", with("Host: ", "Host "), 400),
        ("a space before the colon", with("Host:", "Host :"), 400),
        ("no name", with("Host:", ":"), 400),
        ("a folded line", with("monitor.example", "monitor\r\n .example"), 400),
        ("NUL in a value", with("monitor.example", "monitor\0.example"), 400),
        ("CR in a value", with("monitor.example", "monitor\r.example"), 400),
        ("octets in a name", with("Host:", "H\u{f6}st:"), 400),
        ("200 headers", headers(200), 400),
        ("64 KiB in one header", upgrade_request_with("/", &[("A", &"b".repeat(65_536))]).into_bytes(), 431),
        ("64 KiB in the path", upgrade_request(&format!("/{}", "a".repeat(65_536))).into_bytes(), 431),
        ("64 KiB in 8,192 headers", headers(8192), 431),
        ("64 KiB without a line", vec![b'G'; 65_536], 431),
        ("64 KiB of NUL", vec![0; 65_536], 431),
    ] {
        let answer = http(scene.monitor.viewers, &request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{why}: {answer}");
        assert!(answer.contains("\r\nConnection: ") && answer.ends_with(".\n"), "{why}: {answer}");
        scene.relays();
    }
    scene.is_unharmed();
}

/// Slow-loris: requests that come byte by byte and never end, in the request line or in the headers.
#[test]
fn many_slow_requests_delay_nobody() {
    let mut scene = Scene::new("clients: {handshake_timeout: 1}");
    let before = scene.monitor.descriptors();
    let over = AtomicBool::new(false);
    scope(|scope| {
        let _ends = Ends(&over);
        for (begin, byte) in [("GET /", b"a"), ("GET / HTTP/1.1\r\nHost: monitor.example\r\nA: ", b"b")] {
            let mut crowd: Vec<_> = (0..400).map(|_| Viewer::connected(scene.monitor.viewers)).collect();
            let over = &over;
            scope.spawn(move || {
                crowd.retain_mut(|viewer| viewer.try_send_raw(begin.as_bytes()).is_ok());
                while !crowd.is_empty() && !over.load(Ordering::Relaxed) {
                    crowd.retain_mut(|viewer| viewer.try_send_raw(byte).is_ok());
                }
            });
        }
        serves_at_once(&mut scene, "slow requests");
        until("all were closed, however slow", || (scene.monitor.descriptors() <= before).then_some(()));
    });
    scene.is_unharmed();
}

// Channels.

#[test]
fn many_channels_of_one_viewer_each_take_little_and_go_with_it() {
    const VIEWERS: usize = 1000;
    let mut scene = Scene::new(STATUS);
    let allowed = raise_open_files();
    assert!(allowed > VIEWERS + 500, "{allowed} open files are too few for this test");
    let before = scene.monitor.descriptors();
    let crowd: Vec<_> = (0..VIEWERS)
        .map(|_| Viewer::subscribed(scene.monitor.viewers, &format!("{:x<256}", unique("crowd"))))
        .collect();
    serves_at_once(&mut scene, "1,000 channels");
    scene.is_unharmed();
    drop(crowd);
    until("all have gone", || (scene.monitor.descriptors() <= before).then_some(()));
    assert_eq!(report(&scene.monitor)["channels"], json!({"open": 1, "finished": 1, "draining": 0}));
}

/// One job of 64 MiB, which is four times what is kept, before a hundred that do not read and one that does.
#[test]
fn a_hundred_viewers_that_never_read_cost_the_others_nothing() {
    const MESSAGES: usize = 2200;
    let mut scene = Scene::new("");
    let padding = "x".repeat(30_500);
    let stalled: Vec<_> =
        (0..100).map(|_| Viewer::subscribed_with_small_buffer(scene.monitor.viewers, "job")).collect();
    let mut reads = Viewer::subscribed(scene.monitor.viewers, "job");
    let (mut longest, mut rss) = (Duration::ZERO, 0);
    for id in 0..MESSAGES {
        scene.broker.task("job", &format!("{id} {padding}"));
        let text = reads.text();
        assert_eq!(task_id(&text).split_once(' '), Some((id.to_string().as_str(), padding.as_str())));
        reads.received.clear();
        if id % 100 == 0 {
            longest = longest.max(scene.relays());
            rss = rss.max(scene.monitor.rss_kib());
        }
    }
    eprintln!("stalled viewers: {longest:?}, {rss} KiB");
    // The history has 16 MiB, and what is over it is moved; each viewer may hold the rest of a frame.
    assert!(rss < 80 * 1024, "{rss} KiB");
    scene.broker.send(&["job", "FINISHED"]);
    reads.texts(&[command("FINISHED")]);
    reads.closes(1000);
    drop(stalled);
    scene.serves_all();
}

/// A frame that was begun is ended before the viewer's close is answered.
#[test]
fn a_close_in_the_middle_of_a_frame_is_answered_behind_it() {
    const MESSAGES: usize = 200;
    let mut scene = Scene::new("");
    let padding = "x".repeat(60_000);
    for id in 0..MESSAGES {
        scene.broker.task("job", &format!("{id} {padding}"));
    }
    scene.relays();
    for _ in 0..10 {
        let mut slow = Viewer::watch(scene.monitor.viewers, "job");
        // Much of the history is written at once, so that frames are cut where the kernel takes no more.
        assert_eq!(task_id(&slow.text()), format!("0 {padding}"));
        scene.relays();
        slow.send_close(1000);
        let mut events = slow.rest();
        assert_eq!(events.pop(), Some(Event::Close(Some(1000))));
        assert!(events.len() < MESSAGES - 1, "the kernel took it all; the test proves nothing");
        assert!(events.iter().all(|event| matches!(event, Event::Text(_))));
    }
}

// Crowds.

/// Connects from one of many addresses, as one has too few ports; when dropped, the connection ends by a reset.
fn connect_from(number: usize, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let [.., third, fourth] = number.to_be_bytes();
    socket
        .bind(&SocketAddr::from((Ipv4Addr::new(127, 1, third, fourth.max(1)), 0)).into())
        .expect("an address of ours");
    socket.set_linger(Some(Duration::ZERO)).expect("a TCP socket");
    socket.connect(&address.into()).expect("the monitor listens");
    socket.into()
}

/// Ten thousand, or as many as may be open, connect as fast as they can: each is served or refused.
#[test]
fn ten_thousand_connects_at_once_are_served_or_refused() {
    let mut scene = Scene::new("clients: {max: 4000, subscribe_timeout: 600}");
    let number = 10_000.min(raise_open_files().saturating_sub(3000));
    let before = scene.monitor.descriptors();
    let start = Instant::now();
    let mut crowd: Vec<_> = (0..number)
        .map(|number| {
            let mut viewer = Viewer::of(connect_from(number, scene.monitor.viewers));
            let _ = viewer.try_send_raw(upgrade_request("/").as_bytes());
            viewer
        })
        .collect();
    let took = start.elapsed();
    let served = crowd.iter_mut().filter_map(|viewer| viewer.upgrade_or_end().is_some().then_some(())).count();
    eprintln!("{number} connects in {took:?}, {served} served, {} KiB", scene.monitor.rss_kib());
    assert_eq!(served, number.min(4000 - 1));
    serves_at_once(&mut scene, "a crowd that has come");
    drop(crowd);
    until("all have gone", || (scene.monitor.descriptors() <= before).then_some(()));
    scene.is_unharmed();
}

#[test]
fn connecting_and_leaving_leaves_nothing_behind() {
    const CYCLES: usize = 10_000;
    let mut scene = Scene::new("");
    let cycles = |scene: &mut Scene, count| {
        let before = scene.monitor.descriptors();
        let mut longest = Duration::ZERO;
        for number in 0..count {
            let mut viewer = Viewer::of(connect_from(number, scene.monitor.viewers));
            match number % 4 {
                0 => {}
                1 => viewer.send_raw(upgrade_request("/").as_bytes()),
                _ => {
                    viewer.send_raw(
                        &[upgrade_request("/").into_bytes(), frame(0x81, unique("left").as_bytes())].concat(),
                    );
                    if number % 4 == 3 {
                        viewer.send_close(1000);
                        viewer.raw_to_end();
                    }
                }
            }
            if number % 100 == 0 {
                longest = longest.max(scene.relays());
            }
        }
        until("all have gone", || (scene.monitor.descriptors() <= before).then_some(()));
        (longest, scene.monitor.rss_kib())
    };
    let (_, before) = cycles(&mut scene, CYCLES / 5);
    let (longest, after) = cycles(&mut scene, CYCLES);
    eprintln!("{CYCLES} cycles: {longest:?}, {before} KiB before, {after} KiB after");
    assert!(after < before + 2048, "{before} KiB before, {after} KiB after");
    scene.is_unharmed();
}
