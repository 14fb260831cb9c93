//! New settings, a missing store, and history in a file.

use super::{Service, state, tasks};
use crate::common::http::{STATUS, metrics, status};
use crate::common::{self, Broker, DEADLINE, Event, Manager, Monitor, RawPeer, Viewer, command, fence, until};
use crate::{alone, ids};
use std::os::unix::fs::PermissionsExt;

#[test]
fn settings_that_are_new_hold_for_what_is_taken_over() {
    let _alone = alone();
    let mut service = Service::start("");
    let broker = Broker::connect(service.monitor.brokers);
    tasks(&broker, "job", 0, 10);
    let mut viewers: Vec<_> = (0..3).map(|_| Viewer::watch(service.monitor.viewers, "job")).collect();
    for viewer in &mut viewers {
        viewer.texts(&ids(0, 10));
    }
    let mut peer = RawPeer::ready(service.monitor.brokers);
    service.ends();
    service.config = "clients: {max: 2}\nzeromq: {allow: [10.0.0.0/8]}\nhistory: {channel_messages: 4}".into();
    service.begins();
    service.monitor.wait_log("took over 3 viewers");
    peer.is_closed();
    service.monitor.wait_logged(&["zeromq.allow no longer names it"]);
    assert!(Viewer::connected(service.monitor.viewers).upgrade_or_end().is_none(), "there is no place for a fourth");
    service.ends();
    service.config = String::new();
    service.begins();
    tasks(&Broker::connect(service.monitor.brokers), "job", 10, 11);
    for viewer in &mut viewers {
        viewer.texts(&ids(10, 11));
    }
}

/// As Prometheus expects it: what is counted of a process begins with it.
#[test]
fn a_restart_begins_the_numbers_of_the_process_anew() {
    let _alone = alone();
    let mut service = Service::start(STATUS);
    let at = status(&service.monitor);
    let [cpu, started] = ["process_cpu_seconds_total", "process_start_time_seconds"];
    let at_first = metrics(at).value(cpu);
    let before = until("the process has computed", || {
        Some(metrics(at)).filter(|metrics| metrics.value(cpu) > 3.0 * at_first + 0.1)
    });
    service.restart();
    let after = metrics(status(&service.monitor));
    assert!(after.value(cpu) < before.value(cpu), "{} {}", before.value(cpu), after.value(cpu));
    assert!(after.value(started) > before.value(started), "{} {}", before.value(started), after.value(started));
}

#[test]
fn without_a_store_a_restart_closes_as_a_stop_does() {
    let _alone = alone();
    for manager in [Manager::with_room(0), Manager::with_room(2)] {
        let mut monitor = manager.starts(&[], "");
        let mut viewer = Viewer::subscribed(monitor.viewers, "job");
        monitor.signal("USR2");
        viewer.is_ended_with(1001);
        assert_eq!(monitor.wait_exit().code(), Some(0));
        monitor.wait_logged(&["WARNING", "FileDescriptorStoreMax="]);
    }
    let mut monitor = Monitor::start("");
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    monitor.signal("USR2");
    viewer.is_ended_with(1001);
    assert_eq!(monitor.wait_exit().code(), Some(0));
}

#[test]
fn a_stop_closes_under_a_service_manager_too() {
    let _alone = alone();
    let mut service = Service::start("");
    let mut viewer = Viewer::subscribed(service.monitor.viewers, "job");
    service.monitor.signal("TERM");
    viewer.is_ended_with(1001);
    assert_eq!(service.monitor.wait_exit().code(), Some(0));
    assert!(!service.manager.names().contains(&"succession".into()));
}

#[test]
fn viewers_are_told_if_the_next_process_cannot_start() {
    let _alone = alone();
    let mut service = Service::start("");
    let broker = Broker::connect(service.monitor.brokers);
    let at = service.monitor.viewers;
    let mut viewer = Viewer::subscribed(at, "job");
    let mut naming = Viewer::upgraded(at);
    let mut requesting = Viewer::connected(at);
    let mut slow = Viewer::subscribed_with_small_buffer(at, "big");
    for _ in 0..200 {
        broker.task("big", &"x".repeat(60_000));
    }
    fence(&service.monitor, &broker);
    service.ends();
    let wrong = common::temporary("config.yml", "clients: {mux: 1}\n");
    let mut words = service.manager.wrapper(&[]);
    // Without settings a start as root goes on as `recodex`.
    let users = if common::is_root() {
        let Some(users) = common::Users::new() else { return };
        Some(users)
    } else {
        None
    };
    words.extend(users.iter().flat_map(common::Users::wrapper));
    let status = common::with_descriptors(&mut std::process::Command::new(&words[0]), &service.manager.descriptors())
        .args(&words[1..])
        .args([common::PROGRAM.as_ref(), "-c".as_ref(), wrong.1.as_os_str()])
        .status()
        .expect("it runs");
    assert_eq!(status.code(), Some(78));
    service.manager.forgets();
    viewer.is_ended_with(1001);
    naming.is_ended_with(1001);
    assert!(requesting.is_gone_within(DEADLINE));
    // Whatever it still gets, what it has in part comes first.
    let events = slow.rest();
    let in_order = |event: &Event| matches!(event, Event::Text(_) | Event::Close(Some(1001)) | Event::Cut);
    assert!(events.len() > 1 && events.iter().all(in_order), "{:?}", events.last());
}

#[test]
fn history_outlives_a_stop_in_a_file() {
    let _alone = alone();
    let directory = common::open_directory();
    let path = directory.path().join("history");
    let config = format!("history: {{state: '{}', release_failed: 1}}", path.display());
    let mut monitor = Monitor::start(&config);
    let broker = Broker::connect(monitor.brokers);
    tasks(&broker, "open", 0, 100);
    broker.send(&["failed", "FAILED"]);
    fence(&monitor, &broker);
    let mut viewer = Viewer::watch(monitor.viewers, "open");
    monitor.stop();
    viewer.texts(&ids(0, 100));
    viewer.is_ended_with(1001);
    let mode = std::fs::metadata(&path).expect("it is saved").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    drop(broker);
    let monitor = Monitor::start(&config);
    monitor.wait_logged(&["took up 3 channels"]);
    assert!(!path.exists(), "it is never taken up twice");
    let broker = Broker::connect(monitor.brokers);
    tasks(&broker, "open", 100, 101);
    Viewer::watch(monitor.viewers, "open").texts(&ids(0, 101));
    Viewer::watch(monitor.viewers, "failed").texts(&[command("FAILED"), command("FINISHED")]);
}

#[test]
fn a_file_is_not_taken_up_beside_what_was_handed_over() {
    let _alone = alone();
    let directory = common::open_directory();
    common::open_up(directory.path());
    let path = directory.path().join("history");
    let mut service = Service::start(&format!("history: {{state: '{}'}}", path.display()));
    let broker = Broker::connect(service.monitor.brokers);
    tasks(&broker, "job", 0, 2);
    let mut viewer = Viewer::watch(service.monitor.viewers, "job");
    viewer.texts(&ids(0, 2));
    std::fs::write(&path, state(Vec::new())).expect("it is ours");
    common::open_up(&path);
    service.restart();
    until("it is removed", || (!path.exists()).then_some(()));
    tasks(&broker, "job", 2, 3);
    viewer.texts(&ids(2, 3));
}

#[test]
fn a_history_that_is_too_old_is_said_and_removed() {
    let _alone = alone();
    let directory = common::open_directory();
    common::open_up(directory.path());
    let path = directory.path().join("history");
    std::fs::write(&path, state(Vec::new())).expect("it is ours");
    common::open_up(&path);
    let monitor = Monitor::start(&format!("history: {{state: '{}'}}", path.display()));
    monitor.wait_logged(&["WARNING", &path.display().to_string(), "s ago, more than history.finished"]);
    assert!(!path.exists());
    let mut monitor = Monitor::start("history: {state: /proc/history}");
    monitor.wait_logged(&["ERROR", "history.state: cannot write /proc/history.new"]);
    monitor.stop();
    monitor.wait_logged(&["ERROR", "history.state: cannot save the history to /proc/history"]);
}

/// Such a write fails as on a full disk. Its signal must not end the process before the viewers get their end.
#[test]
fn what_is_larger_than_a_file_may_be_is_neither_saved_nor_handed_over_and_said() {
    let _alone = alone();
    let directory = common::open_directory();
    let path = directory.path().join("history");
    let config = format!("history: {{state: '{}'}}", path.display());
    let limit = ["prlimit", "--fsize=1000"];

    let mut monitor = Monitor::start_through(&limit, common::Host::default(), &config);
    tasks(&Broker::connect(monitor.brokers), "job", 0, 100);
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    viewer.texts(&ids(0, 100));
    monitor.signal("TERM");
    viewer.is_ended_with(1001);
    assert_eq!(monitor.wait_exit().code(), Some(0));
    monitor.wait_logged(&["ERROR", "history.state: cannot save the history", "File too large"]);
    assert_eq!(std::fs::read_dir(directory.path()).expect("it is ours").count(), 0);

    let manager = Manager::new();
    let mut monitor = manager.starts(&limit, &config);
    tasks(&Broker::connect(monitor.brokers), "job", 0, 100);
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    viewer.texts(&ids(0, 100));
    monitor.signal("USR2");
    assert_eq!(monitor.wait_exit().code(), Some(0));
    viewer.is_ended_with(1001);
    monitor.wait_logged(&["ERROR", "cannot hand over", "File too large"]);
    assert!(!manager.names().contains(&"succession".into()));
}
