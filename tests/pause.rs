//! A process that was paused (SIGSTOP, as a virtual machine's snapshot): what was in its sockets comes before its deadlines.
//!
//! Each test stops the program before a deadline, lets its peer send, waits until the deadline is over, and lets the program go on.

mod common;

use common::http::{STATUS, answer, connect, get, status};
use common::viewer::{frame, upgrade_request};
use common::zmtp::{command as zmtp_command, greeted, message, ready};
use common::{Event, Monitor, RawPeer, Viewer, command, raise_open_files, until};
use std::fs::read_to_string;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Longer than one second, and shorter than what counts as a pause (a second more).
const OVER: Duration = Duration::from_millis(1_500);

/// Stops the program, does this, waits until `time` is over, and lets it go on.
fn paused<T>(monitor: &Monitor, time: Duration, act: impl FnOnce() -> T) -> T {
    monitor.signal("STOP");
    let stat = format!("/proc/{}/stat", monitor.pid());
    until("the program is stopped", || {
        let stat = read_to_string(&stat).ok()?;
        stat.rsplit_once(") ")?.1.starts_with('T').then_some(())
    });
    let began = Instant::now();
    let done = act();
    std::thread::sleep(time.saturating_sub(began.elapsed()));
    monitor.signal("CONT");
    done
}

/// Waits until the other side's kernel has all that was sent from `local`.
fn arrived(local: SocketAddr) {
    let port = format!(":{:04X} ", local.port());
    until("what was sent is in the other socket", || {
        let table = read_to_string("/proc/net/tcp").ok()?;
        let line =
            table.lines().find(|line| line.split_once(": ").is_some_and(|(_, rest)| rest[8..].starts_with(&port)))?;
        line.contains(" 00000000:").then_some(())
    });
}

fn send(broker: &mut RawPeer, parts: &[&str]) {
    broker.send(&message(parts));
}

fn send_now(broker: &mut RawPeer, parts: &[&str]) {
    send(broker, parts);
    arrived(broker.stream.local_addr().expect("it is connected"));
}

fn say(viewer: &mut Viewer, bytes: &[u8]) {
    viewer.send_raw(bytes);
    arrived(viewer.local_address());
}

fn asks_and_is_answered(peer: &mut RawPeer) {
    peer.send(&zmtp_command("PING", &[0, 0]));
    assert_eq!(peer.read_command().name, "PONG");
}

#[test]
fn a_failed_job_whose_next_message_has_come_is_not_released() {
    let monitor = Monitor::start("history: {release_failed: 1}");
    let mut broker = RawPeer::ready(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    send(&mut broker, &["job", "FAILED"]);
    viewer.texts(&[command("FAILED")]);
    paused(&monitor, OVER, || send_now(&mut broker, &["job", "STARTED"]));
    viewer.texts(&[command("STARTED")]);
    send(&mut broker, &["job", "FINISHED"]);
    viewer.texts(&[command("FINISHED")]);
    viewer.closes(1000);
}

/// One call of epoll brings 1,024 events, and the broker's is behind those of the viewers.
#[test]
fn a_job_is_not_released_when_two_thousand_viewers_have_sent_before_its_message() {
    raise_open_files();
    let monitor = Monitor::start("history: {release_failed: 3}\nclients: {max: 3000}");
    let mut broker = RawPeer::ready(monitor.brokers);
    let mut viewers: Vec<_> = (0..2_000).map(|_| Viewer::upgraded(monitor.viewers).subscribe("job")).collect();
    send(&mut broker, &["job", "STARTED"]);
    for viewer in &mut viewers {
        viewer.texts(&[command("STARTED")]);
    }
    send(&mut broker, &["job", "FAILED"]);
    viewers[0].texts(&[command("FAILED")]);
    paused(&monitor, Duration::from_millis(3_500), || {
        for viewer in &mut viewers {
            viewer.send_raw(&frame(0x8A, b""));
        }
        send_now(&mut broker, &["job", "DOWNLOADED"]);
    });
    viewers[0].texts(&[command("DOWNLOADED")]);
    viewers[1_999].texts(&[command("FAILED"), command("DOWNLOADED")]);
}

#[test]
fn finished_history_stays_for_a_viewer_that_has_named_it() {
    let monitor = Monitor::start("history: {finished: 1}");
    let mut broker = RawPeer::ready(monitor.brokers);
    let mut late = Viewer::upgraded(monitor.viewers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    send(&mut broker, &["job", "FINISHED"]);
    viewer.texts(&[command("FINISHED")]);
    paused(&monitor, OVER, || say(&mut late, &frame(0x81, b"job")));
    late.texts(&[command("FINISHED")]);
    late.closes(1000);
}

#[test]
fn a_viewer_that_has_named_its_channel_is_subscribed() {
    let monitor = Monitor::start("clients: {subscribe_timeout: 1}");
    let mut broker = RawPeer::ready(monitor.brokers);
    send(&mut broker, &["job", "STARTED"]);
    asks_and_is_answered(&mut broker);
    let mut viewer = Viewer::upgraded(monitor.viewers);
    paused(&monitor, OVER, || say(&mut viewer, &frame(0x81, b"job")));
    viewer.texts(&[command("STARTED")]);
}

#[test]
fn two_thousand_viewers_that_have_named_their_channel_are_subscribed() {
    raise_open_files();
    let monitor = Monitor::start("clients: {max: 3000}");
    let mut broker = RawPeer::ready(monitor.brokers);
    send(&mut broker, &["job", "STARTED"]);
    asks_and_is_answered(&mut broker);
    let mut viewers: Vec<_> = (0..2_000).map(|_| Viewer::upgraded(monitor.viewers)).collect();
    paused(&monitor, Duration::from_millis(10_500), || {
        for viewer in &mut viewers {
            viewer.send_text("job");
        }
        for viewer in viewers.iter().step_by(100) {
            arrived(viewer.local_address());
        }
    });
    for viewer in &mut viewers {
        viewer.texts(&[command("STARTED")]);
    }
}

#[test]
fn a_request_that_has_come_is_answered() {
    let monitor = Monitor::start("clients: {handshake_timeout: 1}");
    let mut viewer = Viewer::connected(monitor.viewers);
    let request = upgrade_request("/");
    let (begin, rest) = request.split_at(20);
    viewer.send_raw(begin.as_bytes());
    // Whoever comes later is served, so that the first was accepted.
    let _later = Viewer::upgraded(monitor.viewers);
    paused(&monitor, OVER, || say(&mut viewer, rest.as_bytes()));
    viewer.read_upgrade();
}

#[test]
fn a_brokers_handshake_that_has_come_is_taken() {
    let monitor = Monitor::start("zeromq: {handshake_timeout: 1}");
    let mut peer = RawPeer::connect(monitor.brokers);
    peer.read_greeting();
    assert_eq!(peer.read_command().name, "READY");
    paused(&monitor, OVER, || {
        peer.send(&greeted(&ready(&[("Socket-Type", b"DEALER"), ("Identity", b"")])));
        arrived(peer.stream.local_addr().expect("it is connected"));
    });
    asks_and_is_answered(&mut peer);
}

fn pings_and_pauses(pause: Duration, answers: bool) {
    let monitor = Monitor::start("clients: {ping_interval: 1, ping_timeout: 1}");
    let mut broker = RawPeer::ready(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    let asked = viewer.next_within(common::DEADLINE);
    let Some(Event::Ping(payload)) = asked else { panic!("a ping was to come, not {asked:?}") };
    paused(&monitor, pause, || {
        if answers {
            say(&mut viewer, &frame(0x8A, &payload));
        }
    });
    send(&mut broker, &["job", "STARTED"]);
    viewer.texts(&[command("STARTED")]);
}

#[test]
fn a_viewer_whose_pong_has_come_stays() {
    pings_and_pauses(OVER, true);
}

/// The network may have been paused as well.
#[test]
fn a_viewer_that_could_not_be_heard_over_a_pause_is_asked_again() {
    pings_and_pauses(Duration::from_millis(3_500), false);
}

#[test]
fn a_status_request_that_has_come_is_answered() {
    let monitor = Monitor::start(STATUS);
    let address = status(&monitor);
    let mut stream = connect(address);
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").expect("it is connected");
    // Whoever comes later is served, so that the first was accepted.
    assert_eq!(get(address, "/healthz").status, 200);
    paused(&monitor, Duration::from_millis(5_500), || {
        stream.write_all(b"Host: localhost\r\n\r\n").expect("it is connected");
        arrived(stream.local_addr().expect("it is connected"));
    });
    assert_eq!(answer(stream).status, 200);
}
