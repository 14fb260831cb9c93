//! The last jobs, who is told their ids, and the delivery lag.

use super::{json_of, start};
use crate::common::http::{Answer, Events, ask_unix, get, status};
use crate::common::{self, Broker, Monitor, Viewer, command, until};
use serde_json::{Value, json};
use std::path::PathBuf;

const ID: &str = "student_5d1f02aa-7c39-4a2e-9d51-0b6b7c1c2f10";

/// Starts a monitor whose status listener is a Unix socket, and returns the socket.
fn start_unix() -> (Monitor, PathBuf, tempfile::TempDir) {
    let directory = common::open_directory();
    let socket = directory.path().join("status.sock");
    let monitor = Monitor::start(&format!("status_uri: \"unix:{}\"\n", socket.display()));
    monitor.wait_log("listening for status requests on ");
    (monitor, socket, directory)
}

/// Waits until the list is as wanted, and returns it.
fn jobs_when(ask: impl Fn() -> Answer, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    until(what, || {
        let report = json_of(&ask());
        Some(report["jobs"].as_array().expect("a list").clone()).filter(|jobs| wanted(jobs))
    })
}

fn one_job(jobs: &[Value]) -> bool {
    jobs.len() == 1
}

#[test]
fn over_tcp_nothing_tells_more_of_an_id_than_the_log() {
    let monitor = start("");
    let at = status(&monitor);
    let broker = Broker::connect(monitor.brokers);
    broker.send(&[ID, "STARTED"]);
    let jobs = jobs_when(|| get(at, "/status"), "the job is listed", one_job);
    assert_eq!((&jobs[0]["name"], jobs[0].get("id")), (&json!("student_…"), None));
    let mut events = Events::open(at, "/events");
    let told = events.next_of("status");
    assert!(told.contains("student_…"), "{told}");
    for text in [told, get(at, "/status").body, get(at, "/metrics").body] {
        assert!(!text.contains("5d1f"), "{text}");
    }
}

#[test]
fn through_a_unix_socket_ids_are_told_but_not_to_a_page_under_another_name() {
    let (monitor, socket, _directory) = start_unix();
    let broker = Broker::connect(monitor.brokers);
    broker.send(&[ID, "STARTED"]);
    let ask = |host: &str| ask_unix(&socket, "/status", host);
    jobs_when(|| ask("localhost"), "the job is listed", one_job);
    for host in ["localhost", "LOCALHOST:4568", "127.0.0.1:4568", "[::1]:4568"] {
        let job = &json_of(&ask(host))["jobs"][0];
        assert_eq!((&job["id"], &job["name"]), (&json!(ID), &json!("student_5d1f02aa…")), "{host}");
    }
    for host in ["status.example.org", "localhost.example.org", "1.2.3.4.example.org:4568"] {
        let answer = ask(host);
        assert_eq!(answer.status, 421, "{host}");
        assert!(!answer.body.contains("student"), "{}", answer.body);
    }
}

#[test]
fn jobs_are_told_with_state_viewers_messages_and_a_name_that_hides_nothing() {
    let (monitor, socket, _directory) = start_unix();
    let broker = Broker::connect(monitor.brokers);
    let odd = "<b>\u{202e}a\n";
    let _waiting = Viewer::subscribed(monitor.viewers, "unknown");
    for (id, command) in
        [("open", "STARTED"), ("well", "FINISHED"), ("bad", "FAILED"), ("again", "ABORTED"), (odd, "STARTED")]
    {
        broker.send(&[id, command]);
    }
    let mut viewers: Vec<_> = (0..2).map(|_| Viewer::watch(monitor.viewers, "open")).collect();
    for viewer in &mut viewers {
        viewer.texts(&[command("STARTED")]);
    }
    broker.task("open", "a");
    let ask = |host: &str| ask_unix(&socket, "/status", host);
    let jobs = jobs_when(|| ask("localhost"), "all are there", |jobs| jobs.iter().any(|job| job["messages"] == 2));
    let told: Vec<_> = jobs.iter().map(|job| [&job["id"], &job["state"], &job["viewers"], &job["messages"]]).collect();
    let expected = [
        [json!(odd), json!("open"), json!(0), json!(1)],
        [json!("again"), json!("aborted"), json!(0), json!(1)],
        [json!("bad"), json!("failed"), json!(0), json!(1)],
        [json!("well"), json!("finished"), json!(0), json!(1)],
        [json!("open"), json!("open"), json!(2), json!(2)],
    ];
    assert_eq!(told, expected.each_ref().map(<[Value; 4]>::each_ref));
    assert_eq!(jobs[0]["name"], "<b>\\u{202e}a\\n");
    assert!(jobs.iter().all(|job| job["silent"].as_u64().is_some_and(|silent| silent < 60)), "{jobs:?}");
    drop(viewers);
    jobs_when(|| ask("localhost"), "its viewers have left", |jobs| jobs[4]["viewers"] == 0);
}

#[test]
fn the_delivery_lag_is_told_by_the_bounds_of_its_ranges_once_something_was_delivered() {
    let monitor = start("");
    let at = status(&monitor);
    assert_eq!(json_of(&get(at, "/status"))["lag"], Value::Null);
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    for id in 0..10 {
        broker.task("job", &id.to_string());
        viewer.text();
    }
    let lag = until("the lag is told", || {
        let lag = json_of(&get(at, "/status"))["lag"].clone();
        (lag["count"].as_u64() == Some(10)).then_some(lag)
    });
    let metrics = common::http::metrics(at);
    let bounds = metrics.families()["recodex_monitor_delivery_lag_seconds"].samples.iter();
    let bounds: Vec<_> = bounds.filter_map(|(_, labels, _)| labels.get("le")?.parse().ok()).collect();
    let [p50, p99] = ["p50", "p99"].map(|name| lag[name].as_f64().expect("seconds"));
    assert!(p50 <= p99 && [p50, p99].iter().all(|bound: &f64| bounds.contains(bound)), "{lag}: {bounds:?}");
    // A replay is no delivery of a new message.
    let mut late = Viewer::watch(monitor.viewers, "job");
    (0..10).for_each(|_| drop(late.text()));
    assert_eq!(common::http::metrics(at).count("recodex_monitor_delivery_lag_seconds_count"), 10);
}
