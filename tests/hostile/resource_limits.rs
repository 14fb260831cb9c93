//! A system that lacks descriptors or memory, or sets its clock: connected clients do not notice.

use crate::common;

use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{Broker, Event, Host, Monitor, RawPeer, Scene, Viewer, command, fence, open_up, temporary, unique, until};

// Descriptors.

/// The number of files that the monitor may have open.
const FILES: usize = 64;

/// Takes all of the monitor's descriptors and more. Connected clients must not notice, and new ones wait.
///
/// `takes` makes a connection that stays open.
fn out_of_descriptors<T>(takes: impl Fn(&Scene) -> T, target: impl Fn(&Monitor) -> std::net::SocketAddr) {
    const LINE: &str = "cannot accept connections";
    let config =
        "clients: {max: 1000, handshake_timeout: 600}\nzeromq: {max_connections: 1000, handshake_timeout: 600}";
    let mut scene = Scene::new(config);
    // Afterwards, since the monitor does not accept more than its limit allows.
    scene.monitor.limit_open_files(FILES);
    let target = target(&scene.monitor);
    // Not quite all of them that way: one that is refused would wait for an answer.
    let free = FILES - scene.monitor.descriptors() - 4;
    let crowd: Vec<_> = (0..free).map(|_| takes(&scene)).collect();
    let mut more = Vec::new();
    until("there are none left", || {
        more.push(TcpStream::connect(target).expect("the kernel accepts"));
        (!scene.monitor.logged(&[LINE]).is_empty()).then_some(())
    });

    // The processor time of three seconds in which more connect, and nothing can be done about it.
    let (start, before) = (Instant::now(), scene.monitor.cpu());
    while start.elapsed() < Duration::from_secs(3) {
        more.push(TcpStream::connect(target).expect("the kernel accepts"));
        thread::sleep(Duration::from_millis(100)); // observes; nothing is waited for
    }
    let (used, time) = (scene.monitor.cpu().saturating_sub(before), start.elapsed());
    assert!(used < time / 50, "{used:?} of processor time in {time:?}");
    scene.relays();
    let said = scene.monitor.logged(&[LINE]);
    assert_eq!(said.len(), 1, "{said:?}");

    // Who waits is served once there are descriptors, by itself.
    let mut waits = Viewer::connected(scene.monitor.viewers);
    waits.send_raw(common::viewer::upgrade_request("/").as_bytes());
    let broker = Broker::connect(scene.monitor.brokers);
    drop((crowd, more));
    waits.read_upgrade();
    waits.send_text("waits");
    broker.send(&["waits", "FINISHED"]);
    waits.texts(&[command("FINISHED")]);
    waits.closes(1000);
    scene.monitor.wait_log("accepting connections again");
    scene.is_unharmed();
}

#[test]
fn out_of_descriptors_on_the_viewers_port_nobody_connected_notices() {
    let takes = |scene: &Scene| TcpStream::connect(scene.monitor.viewers).expect("the kernel accepts");
    out_of_descriptors(takes, |monitor| monitor.viewers);
}

#[test]
fn out_of_descriptors_on_the_brokers_port_nobody_connected_notices() {
    // Of those who only connect no more than a few are kept.
    out_of_descriptors(|scene| RawPeer::ready(scene.monitor.brokers), |monitor| monitor.brokers);
}

/// By default, viewers are refused before descriptors run out.
#[test]
fn by_default_viewers_leave_descriptors_to_brokers() {
    let few = ["sh", "-c", "ulimit -n 200; exec \"$@\"", "sh"];
    let mut scene = Scene::of(Monitor::start_through(&few, Host::default(), ""));
    let mut crowd = Vec::new();
    loop {
        let mut viewer = Viewer::connected(scene.monitor.viewers);
        viewer.send_raw(common::viewer::upgrade_request("/").as_bytes());
        if viewer.upgrade_or_end().is_none() {
            break;
        }
        viewer.send_text("crowd");
        crowd.push(viewer);
        assert!(crowd.len() < 200, "more viewers than descriptors");
    }
    let newcomers: Vec<_> = (0..10).map(|_| RawPeer::ready(scene.monitor.brokers)).collect();
    drop((crowd, newcomers));
    until("there is room again", || (scene.monitor.descriptors() < 100).then_some(()));
    scene.is_unharmed();
    assert!(scene.monitor.logged(&["cannot accept"]).is_empty());
}

// Memory.

/// The program and its libraries take 16 MiB of addresses; what the bounds allow fits into the rest.
#[test]
fn under_a_cap_that_fits_the_bounds_a_flood_does_no_harm() {
    let capped = ["sh", "-c", "ulimit -v 65536; exec \"$@\"", "sh"];
    let config = "history: {total_bytes: 16000000, channel_bytes: 2000000}\nclients: {max: 50}";
    let mut scene = Scene::of(Monitor::start_through(&capped, Host::default(), config));
    let padding = "x".repeat(40_000);
    // A hundred megabytes, in small and large channels, finished and not.
    for number in 0..5_000_usize {
        let channel = format!("job-{}", number / (1 + number % 7));
        scene.broker.task(&channel, &padding[..number * 7919 % padding.len()]);
        if number % 3 == 0 {
            scene.broker.send(&[channel.as_str(), "FINISHED"]);
        }
    }
    fence(&scene.monitor, &scene.broker);
    scene.monitor.wait_log("over history.total_bytes");
    scene.monitor.assert_alive();
    let rss = scene.monitor.rss_kib();
    assert!(rss < 48 * 1024, "{rss} KiB");
}

// The clock.

/// Where libfaketime is; `None` where it is not installed, which fails where everything must be.
fn faketime() -> Option<String> {
    let output = Command::new("faketime").args(["-f", "+0", "printenv", "LD_PRELOAD"]).output().ok();
    let path = output.map(|output| String::from_utf8(output.stdout).expect("a path").trim().to_owned());
    assert!(path.is_some() || !cfg!(feature = "foreign-tests"), "needed, and not installed: faketime");
    if path.is_none() {
        common::skipped("faketime is not installed");
    }
    path
}

/// All timers use a clock that cannot be set.
#[test]
fn a_clock_that_is_set_by_hours_moves_no_deadline() {
    let Some(library) = faketime() else { return };
    let (directory, offset) = temporary("offset", "+0");
    open_up(directory.path());
    open_up(&offset);
    let wrapper = [
        "env",
        &format!("LD_PRELOAD={library}"),
        &format!("FAKETIME_TIMESTAMP_FILE={}", offset.display()),
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
    ];
    let config = "history: {release_failed: 0.3, finished: 3600, unfinished: 3600}
clients: {ping_interval: 0.2, ping_timeout: 10}";
    let mut scene = Scene::of(Monitor::start_through(&wrapper, Host::default(), config));
    let maps = fs::read_to_string(format!("/proc/{}/maps", scene.monitor.pid())).expect("the process is there");
    assert!(maps.contains("libfaketime"), "its clock cannot be set");
    let hour = || {
        let date = [&wrapper[..], &["date", "+%s"]].concat();
        let output = Command::new(date[0]).args(&date[1..]).output().expect("date runs");
        let seconds: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("seconds");
        seconds / 3600
    };
    let real = hour();
    scene.broker.send(&["kept", "STARTED"]);
    scene.broker.send(&["done", "FINISHED"]);
    fence(&scene.monitor, &scene.broker);
    for step in ["+6h", "-6h", "+30h", "+0"] {
        fs::write(&offset, step).expect("it is ours");
        assert!(step == "+0" || hour().abs_diff(real) > 4, "the clock is not set");
        scene.relays();
        let channel = unique("failed");
        let mut viewer = Viewer::subscribed(scene.monitor.viewers, &channel);
        assert!(matches!(viewer.next_within(common::DEADLINE), Some(Event::Ping(_))), "{step}");
        viewer.send_frame(0x8A, b"");
        let start = Instant::now();
        scene.broker.send(&[channel.as_str(), "FAILED"]);
        viewer.texts(&[command("FAILED"), command("FINISHED")]);
        viewer.closes(1000);
        assert!(start.elapsed() >= Duration::from_millis(300), "{step}: released after {:?}", start.elapsed());
        Viewer::watch(scene.monitor.viewers, "kept").texts(&[command("STARTED")]);
        Viewer::watch(scene.monitor.viewers, "done").texts(&[command("FINISHED")]);
    }
    scene.is_unharmed();
}
