//! The limit of open files: the next process takes over all connections that one process accepts, with the same limit.

use crate::{alone, common, ids};

use common::http::{STATUS, connect, report, status};
use common::viewer::upgrade_request;
use common::zmtp::{self, RawPeer};
use common::{Broker, Event, Host, Manager, Monitor, Viewer, command, fence, task, until};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

/// Starts a process that may open `files` files, at the ports of `before`.
fn start(manager: &Manager, before: Option<&Monitor>, files: usize, config: &str) -> Monitor {
    let mut wrapper = manager.wrapper(&[]);
    wrapper.extend(["prlimit".into(), format!("--nofile={files}:{files}")]);
    let host = before.map_or_else(Host::default, |before| Host {
        viewers: before.viewers.port(),
        brokers: before.brokers.port(),
        ..Host::default()
    });
    Monitor::start_with(&manager.descriptors(), &wrapper, host, config)
}

fn end(monitor: &mut Monitor) {
    monitor.signal("USR2");
    assert_eq!(monitor.wait_exit().code(), Some(0));
}

/// Viewers of `job` until one is refused, at most `most`.
fn crowd(monitor: &Monitor, most: usize) -> Vec<Viewer> {
    let mut crowd = Vec::new();
    while crowd.len() < most {
        let mut viewer = Viewer::connected(monitor.viewers);
        viewer.send_raw(upgrade_request("/").as_bytes());
        if viewer.upgrade_or_end().is_none() {
            break;
        }
        viewer.send_text("job");
        crowd.push(viewer);
    }
    crowd
}

#[test]
fn near_the_limit_of_open_files_restarts_lose_nobody() {
    const CONFIG: &str = "clients: {max: 230}";
    let _alone = alone();
    let manager = Manager::new();
    let mut monitor = start(&manager, None, 256, CONFIG);
    let warning = monitor.wait_logged(&["WARNING", "only 256 files", "clients.max is 230", "LimitNOFILE="]);
    let broker = Broker::connect(monitor.brokers);
    let mut viewers = crowd(&monitor, 210);
    assert!((100..210).contains(&viewers.len()), "{}", viewers.len());
    assert!(warning.contains(&format!("enough for {} viewers ", viewers.len())), "{warning}, not {}", viewers.len());
    for round in 0..12 {
        broker.task("job", &round.to_string());
        end(&mut monitor);
        monitor = start(&manager, Some(&monitor), 256, CONFIG);
        monitor.wait_log(&format!("took over {} viewers, 1 brokers and 1 channels", viewers.len()));
    }
    for viewer in &mut viewers {
        viewer.texts(&ids(0, 12));
    }
    assert_eq!(monitor.logged(&["cannot accept"]), [""; 0]);
}

#[test]
fn with_everything_taken_that_there_is_a_restart_loses_nobody() {
    const CONFIG: &str = "status_uri: [127.0.0.1, 0]\nzeromq: {handshake_timeout: 600}";
    let _alone = alone();
    let manager = Manager::new();
    let mut monitor = start(&manager, None, 256, CONFIG);
    let mut viewers = crowd(&monitor, 128);
    let mut brokers = Vec::new();
    while brokers.len() < 64 {
        brokers.push(RawPeer::ready(monitor.brokers));
    }
    let silent: Vec<_> = (0..32).map(|_| RawPeer::connect(monitor.brokers)).collect();
    let at = status(&monitor);
    let mut events: Vec<_> = (0..32).map(|_| connect(at)).collect();
    for stream in &mut events {
        // Some are over the share of the status listener.
        let _ = stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    monitor.wait_log("others began a handshake after it");
    monitor.wait_log("refused a status request");
    brokers[0].send(&zmtp::message(&["job", "TASK", "0", "COMPLETED"]));
    for viewer in &mut viewers {
        viewer.texts(&ids(0, 1));
    }
    assert!(viewers.len() > 64, "{}", viewers.len());
    let open = monitor.descriptors();
    assert!((190..256).contains(&open), "{open}");
    // Each leaves its listening sockets for a minute.
    for _ in 0..10 {
        end(&mut monitor);
        monitor = start(&manager, Some(&monitor), 256, CONFIG);
        let line = monitor.wait_log("took over");
        let (links, viewers) = (brokers.len() + silent.len() - 8, viewers.len());
        assert!(line.contains(&format!("took over {viewers} viewers, {links} brokers")), "{line}");
    }
    for (number, broker) in brokers.iter_mut().enumerate() {
        let number = (number + 1).to_string();
        broker.send(&zmtp::message(&["job", "TASK", &number, "COMPLETED"]));
        viewers[0].texts(&[task(&number, "COMPLETED")]);
    }
    for viewer in &mut viewers[1..] {
        viewer.texts(&ids(1, brokers.len() + 1));
    }
    assert_eq!(monitor.logged(&["cannot accept"]), [""; 0]);
    assert!(monitor.descriptors() < 256);
}

/// The administrator lowered `LimitNOFILE=`.
#[test]
fn under_a_lower_limit_as_many_go_on_as_fit_and_the_history_is_kept() {
    let _alone = alone();
    for (files, go_on, finish) in [(123, 63, true), (123, 63, false), (83, 33, true)] {
        let manager = Manager::new();
        let mut monitor = start(&manager, None, 1024, "");
        let broker = Broker::connect(monitor.brokers);
        broker.task("other", "0");
        broker.task("job", "0");
        let mut viewers = crowd(&monitor, 100);
        for viewer in &mut viewers {
            viewer.texts(&ids(0, 1));
        }
        end(&mut monitor);
        let config = format!("clients: {{finish_on_close: {finish}}}");
        let monitor = start(&manager, Some(&monitor), files, &config);
        // So that nobody but the monitor has them.
        manager.forgets();
        let numbers = format!("101 connections, and the limit of open files ({files}) has room for {}", go_on + 1);
        monitor.wait_logged(&["WARNING", &numbers, "LimitNOFILE="]);
        monitor.wait_log(&format!("took over {go_on} viewers, 1 brokers and 2 channels"));
        broker.task("job", "1");
        let text = task("1", "COMPLETED");
        let (mut stay, mut told) = (0, 0);
        for viewer in &mut viewers {
            match viewer.next() {
                Event::Text(found) if found == text => stay += 1,
                Event::Text(found) if found == command("FINISHED") && finish => {
                    viewer.closes(1001);
                    told += 1;
                }
                Event::Close(Some(1001)) if !finish => told += 1,
                // It was beyond what could be received at all.
                Event::Gone => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(stay, go_on);
        assert!(told > 0);
        drop(viewers);
        until("there is room", || (monitor.descriptors() < files / 2).then_some(()));
        let mut late = Viewer::watch(monitor.viewers, "job");
        late.texts(&ids(0, 2));
        Viewer::watch(monitor.viewers, "other").texts(&ids(0, 1));
        fence(&monitor, &broker);
    }
}

#[test]
fn silent_zeromq_links_are_left_out_before_brokers_and_viewers() {
    let _alone = alone();
    let manager = Manager::new();
    let config = "zeromq: {handshake_timeout: 600}";
    let mut monitor = start(&manager, None, 1024, config);
    let mut brokers = Vec::new();
    let mut silent = Vec::new();
    for number in 0..20 {
        silent.push(RawPeer::connect(monitor.brokers));
        let mut broker = RawPeer::ready(monitor.brokers);
        broker.send(&zmtp::message(&[&format!("job {number}"), "TASK", "0", "COMPLETED"]));
        brokers.push(broker);
    }
    let mut viewers: Vec<_> = (0..20).map(|number| Viewer::watch(monitor.viewers, &format!("job {number}"))).collect();
    for viewer in &mut viewers {
        viewer.texts(&ids(0, 1));
    }
    end(&mut monitor);
    // Room for 42 brokers and viewers, and for six links that shake hands.
    let monitor = start(&manager, Some(&monitor), 93, config);
    monitor.wait_log("has room for 46: 14 are closed");
    monitor.wait_log("took over 20 viewers, 26 brokers");
    for (number, broker) in brokers.iter_mut().enumerate() {
        broker.send(&zmtp::message(&[&format!("job {number}"), "TASK", "1", "COMPLETED"]));
    }
    for viewer in &mut viewers {
        viewer.texts(&ids(1, 2));
    }
}

#[test]
fn what_fits_beside_more_listeners_fits_at_the_next_restart_too() {
    const CONFIG: &str = "zeromq: {handshake_timeout: 600}";
    let _alone = alone();
    let manager = Manager::new();
    let mut monitor = start(&manager, None, 256, CONFIG);
    let mut brokers: Vec<_> = (0..64).map(|_| RawPeer::ready(monitor.brokers)).collect();
    let all = crowd(&monitor, 256);
    let more = format!(
        "{CONFIG}
status_uri: [127.0.0.1, 0]"
    );
    let mut silent = Vec::new();
    let mut taken = Vec::new();
    for _ in 0..3 {
        silent.extend((0..32).map(|_| RawPeer::connect(monitor.brokers)));
        monitor.wait_log("others began a handshake after it");
        end(&mut monitor);
        monitor = start(&manager, Some(&monitor), 256, &more);
        let line = monitor.wait_log("took over");
        taken.push(line[line.find("took over").expect("it is there")..].split(" from").next().map(str::to_owned));
        assert_eq!(monitor.logged(&["has room for"]).len(), usize::from(taken.len() == 1), "{taken:?}");
        brokers[0].send(&zmtp::message(&["job", "TASK", "0", "COMPLETED"]));
    }
    assert!(taken[0] == taken[1] && taken[1] == taken[2], "{taken:?}");
    drop(all);
}

#[test]
fn those_for_whom_there_is_no_room_are_told() {
    let _alone = alone();
    let manager = Manager::new();
    let mut monitor = start(&manager, None, 1024, "");
    let mut viewers = crowd(&monitor, 60);
    drop(Viewer::subscribed(monitor.viewers, "fence"));
    end(&mut monitor);
    let _monitor = start(&manager, Some(&monitor), 103, "");
    until("twelve are told", || {
        viewers.retain_mut(|viewer| {
            viewer.next_within(Duration::from_millis(1)).is_none_or(|event| {
                // After a restart the first pings are spread over an interval.
                if event == Event::Ping(Vec::new()) {
                    return true;
                }
                assert_eq!(event, Event::Text(command("FINISHED")));
                viewer.closes(1001);
                false
            })
        });
        (viewers.len() == 48).then_some(())
    });
}

/// Connections over `clients.max` have a share of their own, whatever they send.
#[test]
fn connections_over_the_limit_take_their_share_and_no_more() {
    let _alone = alone();
    let manager = Manager::new();
    let monitor = start(&manager, None, 256, &format!("{STATUS}clients: {{handshake_timeout: 600}}"));
    let viewers = crowd(&monitor, 256);
    let open = monitor.descriptors();
    let mut silent: Vec<_> = (0..40).map(|_| connect(monitor.viewers)).collect();
    let check = common::viewer::http(monitor.viewers, b"GET /healthz HTTP/1.0\r\n\r\n");
    assert!(check.starts_with("HTTP/1.1 200 OK\r\n"), "{check}");
    // The oldest were refused for those after them.
    for stream in silent.drain(..33) {
        let answer = String::from_utf8(common::http::read_to_close(&stream)).expect("it is text");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    assert!(monitor.descriptors() <= open + silent.len(), "{} of {open}", monitor.descriptors());
    assert_eq!(report(&monitor)["viewers"], json!({"now": viewers.len(), "max": viewers.len()}));
    assert_eq!(monitor.logged(&["cannot accept"]), [""; 0]);
}

#[test]
fn a_small_limit_is_shared_and_a_tiny_one_refused() {
    let _alone = alone();
    for files in [64, 128] {
        let manager = Manager::new();
        let mut monitor = start(&manager, None, files, "status_uri: [127.0.0.1, 0]");
        monitor.wait_logged(&["WARNING", &format!("only {files} files")]);
        let broker = Broker::connect(monitor.brokers);
        let mut viewers = crowd(&monitor, files);
        assert!(viewers.len() >= 5, "{}", viewers.len());
        end(&mut monitor);
        let monitor = start(&manager, Some(&monitor), files, "status_uri: [127.0.0.1, 0]");
        monitor.wait_log(&format!("took over {} viewers, 1 brokers", viewers.len()));
        broker.task("job", "0");
        for viewer in &mut viewers {
            viewer.texts(&ids(0, 1));
        }
    }
    let (_directory, path) =
        common::temporary("c.yml", "websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n");
    let path = path.to_str().expect("UTF-8");
    // From what is not even enough for the runtime on.
    for files in (8..16).chain([32]) {
        for words in [&["-c", path][..], &["check", "-c", path]] {
            let limit = format!("--nofile={files}:{files}");
            let output = common::run_words(&[&["prlimit", &limit, common::PROGRAM], words].concat());
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(output.status.code(), Some(78), "{files}: {said}");
            let only = format!("only {files} files may be open at once, and the monitor needs at least 45");
            assert!(said.contains(&only) && said.contains("LimitNOFILE="), "{files}: {said}");
        }
    }
}

#[test]
fn a_reload_is_held_to_the_limit_as_the_start_is() {
    let _alone = alone();
    let text = |more: &str| {
        format!(
            "{STATUS}websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\nlogger: {{output: stderr}}\n{more}\n"
        )
    };
    let directory = common::open_directory();
    let path = directory.path().join("c.yml");
    fs::write(&path, text("clients: {max: 10}")).expect("it is ours");
    let monitor = Monitor::start_from(&path);
    monitor.limit_open_files(256);
    fs::write(&path, text("clients: {max: 1000}\nzeromq: {max_connections: 100}")).expect("it is ours");
    monitor.signal("HUP");
    monitor.wait_logged(&["WARNING", "only 256 files", "clients.max is 1000", "zeromq.max_connections is 100"]);
    monitor.wait_log("the configuration is taken up");
    let report = report(&monitor);
    assert_eq!(report["viewers"], json!({"now": 0, "max": 70}));
    assert_eq!((&report["brokers"]["now"], &report["brokers"]["max"]), (&json!(0), &json!(69)));
}

#[test]
fn what_the_process_inherits_is_counted_and_the_settings_in_force_say_it() {
    let max = |inherited: usize, variables: &[&str]| -> usize {
        let null = fs::File::open("/dev/null").expect("it is always there");
        let inherited: Vec<_> =
            (0..inherited).map(|_| null.try_clone().expect("descriptors are left").into()).collect();
        let output = common::with_descriptors(&mut Command::new("prlimit"), &inherited)
            .args(["--nofile=1024:1024", "env"])
            .args(variables)
            .args([common::PROGRAM, "--check"])
            .output()
            .expect("util-linux has it");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let max = text.lines().find_map(|line| line.trim().strip_prefix("max: "));
        max.and_then(|max| max.parse().ok()).unwrap_or_else(|| panic!("no number: {text}"))
    };
    let (few, many) = (max(0, &[]), max(50, &[]));
    assert!((few - many).abs_diff(50) < 10, "{few}, {many}");
    // Descriptors that were kept for another process are none of this one's.
    assert_eq!(max(50, &["LISTEN_PID=1", "LISTEN_FDS=50"]), many);
}
