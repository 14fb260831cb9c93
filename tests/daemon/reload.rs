//! A reload: settings that are taken up or refused, files that are being saved or are not regular files, and a stop during a
//! reload.

use crate::common;

use common::http::{self, STATUS, report, wait_viewers};
use common::viewer::upgrade_request_with;
use common::zmtp::message;
use common::{
    A_WHILE, Broker, DEADLINE, Event, Manager, PROMPT, RawPeer, Reloadable, Viewer, command, fence, task, unique, until,
};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use recodex_monitor::internals::config::Settings;
use recodex_monitor::internals::server::relay::Relay;
use recodex_monitor::internals::systemd::fd_store::InheritedFds;
use std::fs::{remove_file, write};
use std::io::Write as _;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::time::{Duration, Instant};

/// A message gets through.
fn relays(reloadable: &Reloadable) {
    let mut viewer = Viewer::subscribed(reloadable.monitor.viewers, "job");
    Broker::connect(reloadable.monitor.brokers).send(&["job", "STARTED"]);
    viewer.texts(&[command("STARTED")]);
}

/// Reloads, and waits until that is refused with a line that holds `word`.
fn refused(reloadable: &Reloadable, word: &str) -> String {
    let lines = || reloadable.monitor.logged(&["ERROR", "SIGHUP", "stays as it was"]);
    let before = lines().len();
    reloadable.monitor.signal("HUP");
    let line = until("the reload is refused", || lines().get(before).cloned());
    assert!(line.contains(word), "{line}");
    line
}

#[test]
fn a_fifo_in_the_place_of_the_configuration_holds_up_neither_relay_nor_stop() {
    let mut reloadable = Reloadable::start(&[], "");
    remove_file(&reloadable.config).expect("it is ours");
    mkfifo(&reloadable.config, Mode::from_bits_truncate(0o666)).expect("it is our directory");
    let line = refused(&reloadable, "expected a file");
    assert!(line.contains("config.yml: "), "{line}");
    relays(&reloadable);
    let took = reloadable.monitor.stop();
    assert!(took < PROMPT, "{took:?}");
}

#[test]
fn what_is_too_large_or_nested_too_deep_is_refused_at_a_reload() {
    let reloadable = Reloadable::start(&[], "");
    reloadable.write(&"[".repeat(60_000));
    refused(&reloadable, "config.yml:4:999: more than 1000 brackets");
    reloadable.write(&format!("zeromq: {}", "[".repeat(20) + &"]".repeat(20)));
    refused(&reloadable, "config.yml:4:16: nested deeper than 8 levels");
    reloadable.write(&"#".repeat(70_000));
    refused(&reloadable, "expected at most 65536 bytes");
    relays(&reloadable);
}

/// Such a file would remove every restriction, because every setting would have its default.
#[test]
fn a_file_that_sets_nothing_is_refused_at_a_reload_and_taken_at_a_start() {
    let reloadable = Reloadable::start(&[], "zeromq: {allow: [192.0.2.1]}\n");
    for nothing in ["", "\n", "# only a comment\n", "---\n", "{}\n", "logger:\nzeromq:\n", "history: {}\n", "~\n"] {
        write(&reloadable.config, nothing).expect("it is ours");
        refused(&reloadable, "it sets nothing");
    }
    RawPeer::connect(reloadable.monitor.brokers).is_closed();
    // A list without items is a setting: nobody.
    write(&reloadable.config, "zeromq: {allow: []}\n").expect("it is ours");
    reloadable.monitor.signal("HUP");
    reloadable.monitor.wait_log("the configuration is taken up");
}

/// Such a file sets nothing either.
#[test]
fn a_file_that_is_only_a_tag_is_refused_at_a_reload() {
    let reloadable = Reloadable::start(&[], "zeromq: {allow: [192.0.2.1]}\n");
    for tag in ["!!x\n", "!!map\n", "!x\n"] {
        write(&reloadable.config, tag).expect("it is ours");
        refused(&reloadable, "config.yml:1:1: a tag (`!name`) has no meaning here");
    }
    RawPeer::connect(reloadable.monitor.brokers).is_closed();
}

/// Reloads, and waits until that has happened.
fn takes_up(reloadable: &Reloadable, config: &str) {
    let lines = || reloadable.monitor.logged(&["the configuration is taken up"]).len();
    let before = lines();
    reloadable.reload(config);
    until("the configuration is taken up", || (lines() > before).then_some(()));
}

#[test]
fn a_connection_without_its_whole_request_gets_the_settings_of_a_reload() {
    let common = format!("{STATUS}logger: {{level: debug}}\nclients: {{handshake_timeout: 60, max_per_address: 2}}\n");
    let reloadable = Reloadable::start(&[], &common);
    let monitor = &reloadable.monitor;
    let request = |headers: &[(&str, &str)]| upgrade_request_with("/", headers).into_bytes();
    let answered = |viewer: &mut Viewer, bytes: &[u8]| {
        viewer.send_raw(bytes);
        String::from_utf8(viewer.raw_head()).expect("heads are text")
    };
    let known_as = |mut viewer: Viewer, bytes: &[u8]| {
        let answer = answered(&mut viewer, bytes);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let channel = unique("job");
        viewer.send_text(&channel);
        monitor.viewer_of(&channel)
    };

    // One has sent nothing, and one a part of its request.
    let foreign = request(&[("Origin", "https://evil.example")]);
    let (mut silent, mut begun) = (Viewer::connected(monitor.viewers), Viewer::connected(monitor.viewers));
    begun.send_raw(&foreign[..20]);
    takes_up(&reloadable, &format!("{common}allowed_origins: [\"https://good.example\"]\n"));
    for (viewer, rest) in [(&mut silent, &foreign[..]), (&mut begun, &foreign[20..])] {
        let answer = answered(viewer, rest);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    drop((silent, begun));
    wait_viewers(monitor, 0);

    let both = request(&[("X-Forwarded-For", "192.0.2.1"), ("X-Real-IP", "192.0.2.2")]);
    let (becomes_proxy, other) = (Viewer::connected(monitor.viewers), Viewer::connected(monitor.viewers));
    takes_up(&reloadable, &format!("{common}trusted_proxies: [127.0.0.1]\n"));
    assert_eq!(known_as(becomes_proxy, &both), "192.0.2.1");
    takes_up(&reloadable, &format!("{common}trusted_proxies: [127.0.0.1]\nproxy_header: x-real-ip\n"));
    assert_eq!(known_as(other, &both), "192.0.2.2");
    let no_proxy = Viewer::connected(monitor.viewers);
    takes_up(&reloadable, &common);
    assert!(known_as(no_proxy, &both).starts_with("127.0.0.1:"));
}

#[test]
fn the_share_of_a_connection_that_a_reload_makes_a_proxys_is_its_viewers() {
    let common = "logger: {level: debug}\nclients: {handshake_timeout: 60, max_per_address: 1}\n";
    let reloadable = Reloadable::start(&[], common);
    let connected = || Viewer::connected(reloadable.monitor.viewers);
    let first = connected();
    takes_up(&reloadable, &format!("{common}trusted_proxies: [127.0.0.1]\n"));
    let of_viewer = [("X-Forwarded-For", "192.0.2.1")];
    let _first = first.upgrade(&of_viewer);
    let answer = connected().refused(&of_viewer);
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    let _proxys_own = connected().upgrade(&[]);
}

#[test]
fn a_history_file_that_cannot_be_written_is_said_at_a_reload() {
    let reloadable = Reloadable::start(&[], "");
    let directory = reloadable.config.parent().expect("it has one");
    let state = |name: &str| format!("history: {{state: '{}'}}\n", directory.join(name).display());
    let warnings = || reloadable.monitor.logged(&["WARNING", "history.state: cannot write", "will not outlive a stop"]);
    takes_up(&reloadable, &state("history"));
    assert_eq!(warnings(), Vec::<String>::new());
    let files = std::fs::read_dir(directory).expect("it is ours").count();
    assert_eq!(files, 1, "nothing is left beside the configuration");
    takes_up(&reloadable, &state("missing/history"));
    until("it is said", || (warnings().len() == 1).then_some(()));
    assert!(warnings()[0].contains("missing/history.new"), "{:?}", warnings());
}

#[test]
fn a_file_that_is_being_saved_is_taken_up_once_it_is_whole() {
    let reloadable = Reloadable::start(&[], "clients: {max: 1}\n");
    // What stands there at each moment is good, and sets no limit.
    let changing = reloadable.keep_changing();
    reloadable.monitor.signal("HUP");
    std::thread::sleep(A_WHILE);
    assert!(reloadable.monitor.logged(&["SIGHUP"]).is_empty(), "{:?}", reloadable.monitor.log());
    drop(changing);
    reloadable.write("clients: {max: 2}\n");
    reloadable.monitor.wait_log("the configuration is taken up");
    let _viewers = [Viewer::upgraded(reloadable.monitor.viewers), Viewer::upgraded(reloadable.monitor.viewers)];
    assert!(Viewer::connected(reloadable.monitor.viewers).upgrade_or_end().is_none(), "clients.max is 2");
}

#[test]
fn a_file_that_does_not_come_to_rest_is_refused() {
    let reloadable = Reloadable::start(&[], "");
    let changing = reloadable.keep_changing();
    refused(&reloadable, "it is being changed all the time");
    drop(changing);
    reloadable.reload("");
    reloadable.monitor.wait_log("the configuration is taken up");
}

#[test]
fn signals_that_come_during_a_reload_make_one_more() {
    let manager = Manager::new();
    let reloadable = Reloadable::start(&[&format!("NOTIFY_SOCKET={}", manager.path.display())], "");
    manager.hears("READY=1");
    let changing = reloadable.keep_changing();
    reloadable.monitor.signal("HUP");
    manager.hears("RELOADING=1");
    for _ in 0..5 {
        reloadable.monitor.signal("HUP");
    }
    drop(changing);
    reloadable.write("");
    let told = || {
        let heard = until("a message", || manager.within(DEADLINE));
        ["RELOADING=1", "READY=1"].into_iter().find(|what| heard.contains(what))
    };
    for message in ["READY=1", "RELOADING=1", "READY=1"] {
        assert_eq!(until("a message of reloads", told), message);
    }
    let end = Instant::now() + A_WHILE;
    while let Some(message) = manager.within(end.saturating_duration_since(Instant::now())) {
        assert!(!message.contains("RELOADING"), "{message}");
    }
}

#[test]
fn a_stop_during_a_reload_is_prompt_and_nothing_follows_stopping() {
    let manager = Manager::new();
    let mut reloadable = Reloadable::start(&[&format!("NOTIFY_SOCKET={}", manager.path.display())], "");
    manager.hears("READY=1");
    // It does not answer the close, so that the stop takes its time.
    let mut viewer = Viewer::subscribed(reloadable.monitor.viewers, "job");
    fence(&reloadable.monitor, &Broker::connect(reloadable.monitor.brokers));
    let changing = reloadable.keep_changing();
    reloadable.monitor.signal("HUP");
    manager.hears("RELOADING=1");
    reloadable.monitor.signal("TERM");
    manager.hears("STOPPING=1");
    reloadable.monitor.signal("HUP");
    drop(changing);
    reloadable.write("clients: {max: 1}\n");
    // The file has come to rest while the monitor still stops.
    reloadable.monitor.wait_log("the monitor stops, so the configuration is not taken up");
    viewer.texts(&[command("FINISHED")]);
    assert_eq!(viewer.next(), Event::Close(Some(1001)));
    viewer.send_close(1001);
    assert_eq!(reloadable.monitor.wait_exit().code(), Some(0));
    while let Some(message) = manager.within(Duration::from_millis(1)) {
        assert!(!message.contains("READY") && !message.contains("RELOADING"), "after STOPPING: {message}");
    }
}

#[test]
fn a_reload_that_is_asked_for_during_a_stop_does_not_begin() {
    let manager = Manager::new();
    let mut reloadable = Reloadable::start(&[&format!("NOTIFY_SOCKET={}", manager.path.display())], STATUS);
    manager.hears("READY=1");
    let mut viewer = Viewer::subscribed(reloadable.monitor.viewers, "job");
    fence(&reloadable.monitor, &Broker::connect(reloadable.monitor.brokers));
    let mut request = http::connect(http::status(&reloadable.monitor));
    // This one is answered, so the one before it is accepted, too.
    report(&reloadable.monitor);
    reloadable.monitor.signal("TERM");
    manager.hears("STOPPING=1");
    reloadable.monitor.signal("HUP");
    until("SIGHUP is delivered", || (!reloadable.monitor.has_pending(Signal::SIGHUP)).then_some(()));
    // Sent later, so answered later.
    request.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it reads");
    assert_eq!(http::answer(request).status, 200);
    viewer.texts(&[command("FINISHED")]);
    assert_eq!(viewer.next(), Event::Close(Some(1001)));
    viewer.send_close(1001);
    assert_eq!(reloadable.monitor.wait_exit().code(), Some(0));
    while let Some(message) = manager.within(Duration::from_millis(1)) {
        assert!(!message.contains("READY") && !message.contains("RELOADING"), "after STOPPING: {message}");
    }
}

#[test]
fn neither_a_stop_nor_a_restart_waits_for_a_reload() {
    for (signal, end) in [("TERM", "stopped: "), ("USR2", "handed over")] {
        let manager = Manager::new();
        let mut reloadable = Reloadable::start(&[&format!("NOTIFY_SOCKET={}", manager.path.display())], "");
        manager.hears("READY=1");
        let changing = reloadable.keep_changing();
        reloadable.monitor.signal("HUP");
        manager.hears("RELOADING=1");
        let start = Instant::now();
        reloadable.monitor.signal(signal);
        assert_eq!(reloadable.monitor.wait_exit().code(), Some(0));
        // Reading would go on for longer.
        assert!(start.elapsed() < Duration::from_secs(4), "{signal}: {:?}", start.elapsed());
        reloadable.monitor.wait_log(end);
        assert!(reloadable.monitor.logged(&["taken up"]).is_empty());
        manager.hears("STOPPING=1");
        while let Some(message) = manager.within(Duration::from_millis(1)) {
            assert!(!message.contains("READY"), "after STOPPING: {message}");
        }
        drop(changing);
    }
}

#[test]
fn a_broker_that_zeromq_allow_no_longer_names_is_closed_in_a_handshake_too() {
    let reloadable = Reloadable::start(&[], &format!("{STATUS}zeromq: {{allow: [127.0.0.0/8]}}\n"));
    let (monitor, [removed, kept]) =
        (&reloadable.monitor, ["127.0.0.2", "127.0.0.3"].map(|ip| ip.parse().expect("an address")));
    let (mut broker, mut other) = (RawPeer::placed(removed, monitor.brokers), RawPeer::placed(kept, monitor.brokers));
    let mut stranger = RawPeer::connect_from(removed, monitor.brokers);
    stranger.read_greeting();
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    broker.send(&message(&["job", "TASK", "1", "COMPLETED"]));
    viewer.texts(&[task("1", "COMPLETED")]);
    reloadable.reload(&format!("{STATUS}zeromq: {{allow: [127.0.0.3]}}\n"));
    broker.is_closed();
    stranger.is_closed();
    monitor.wait_logged(&[
        "INFO",
        "broker 127.0.0.2",
        "disconnected after 1 messages: zeromq.allow no longer names it",
    ]);
    monitor.wait_logged(&["WARNING", "closed the ZeroMQ link from 127.0.0.2", "zeromq.allow no longer names it"]);
    assert_eq!(report(monitor)["totals"]["links_refused"], 2);
    other.send(&message(&["job", "TASK", "2", "COMPLETED"]));
    viewer.texts(&[task("2", "COMPLETED")]);
    RawPeer::connect_from(removed, monitor.brokers).is_closed();
}

/// With more threads than the program has, two locks in two orders would end in a deadlock.
#[test]
fn reloads_and_brokers_do_not_wait_for_each_other() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    // Its end would wait for threads that wait for each other.
    let runtime = ManuallyDrop::new(runtime);
    let text = "websocket_uri: [\"127.0.0.1\", 0]\nzeromq_uri: [\"127.0.0.1\", 0]\n";
    let settings = Settings::parse(Path::new("c.yml"), text.as_bytes()).expect("it is right");
    let relay = {
        let _inside = runtime.enter();
        Relay::bind(settings.clone(), InheritedFds::default()).expect("some port is free")
    };
    let (shared, brokers) = (relay.shared(), relay.broker_addresses()[0]);
    runtime.spawn(relay.run(None, std::future::pending()));
    let reloads = std::thread::spawn({
        let shared = std::sync::Arc::clone(&shared);
        move || (0..20_000).for_each(|_| shared.take_up(settings.clone(), None))
    });
    // Each of these looks at the settings, and each message that follows takes the hub.
    let mut peer = RawPeer::ready(brokers);
    let burst = [message(&["0", "exit"]), message(&["job", "STARTED"])].concat().repeat(50);
    let start = Instant::now();
    while !reloads.is_finished() {
        peer.send(&burst);
        assert!(start.elapsed() < 3 * DEADLINE, "they wait for each other");
    }
    reloads.join().expect("it does not panic");
    assert!(shared.metrics.exits_ignored.get() > 0);
}
