//! The daemon with clients of other projects: a browser with the web client's logic, and Python's `websockets`; libzmq plays the
//! broker. `tests/run` installs what they need.

use crate::common;

use std::time::{Duration, Instant};

use common::browser::Chromium;
use common::{Broker, DEADLINE, Monitor, PythonViewer, command, fence, open_directory};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;

const JOB: &str = "student_5d1f";

#[tokio::test]
async fn a_browser_watches_a_job_from_before_its_start_to_its_end() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let browser = Browser::watch(&monitor, JOB, 4).await;
    browser.until(|dialog| dialog.state == "watching").await;

    broker.send(&[JOB, "DOWNLOADED"]);
    broker.send(&[JOB, "STARTED"]);
    broker.send(&[JOB, "TASK", "compile", "COMPLETED"]);
    broker.send(&[JOB, "TASK", "run", "FAILED"]);
    let halfway = browser.until(|dialog| dialog.failed == 1).await;
    assert_eq!((halfway.completed, halfway.ended, halfway.closed), (1, false, None));

    broker.send(&[JOB, "TASK", "judge", "SKIPPED"]);
    broker.send(&[JOB, "TASK", "clean", "COMPLETED"]);
    broker.send(&[JOB, "ENDED"]);
    broker.send(&[JOB, "UPLOADED"]);
    broker.send(&[JOB, "FINISHED"]);
    let dialog = browser.until(|dialog| dialog.closed.is_some()).await;
    let commands = ["DOWNLOADED", "STARTED", "TASK", "TASK", "TASK", "TASK", "ENDED", "UPLOADED", "FINISHED"];
    assert_eq!(dialog, finished(2, 1, 1, &commands));
    browser.leave().await;
}

#[tokio::test]
async fn a_browser_that_comes_after_the_end_is_shown_everything() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    broker.send(&[JOB, "STARTED"]);
    for task in 0..60 {
        let state = ["COMPLETED", "COMPLETED", "SKIPPED", "FAILED"][task % 4];
        broker.send(&[JOB, "TASK", &format!("task-{task}"), state]);
    }
    broker.send(&[JOB, "FINISHED"]);
    fence(&monitor, &broker);

    let browser = Browser::watch(&monitor, JOB, 60).await;
    let dialog = browser.until(|dialog| dialog.closed.is_some()).await;
    let mut commands = vec!["TASK"; 62];
    (commands[0], commands[61]) = ("STARTED", "FINISHED");
    assert_eq!(dialog, finished(30, 15, 15, &commands));
    browser.leave().await;
}

#[tokio::test]
async fn the_dialog_of_a_job_that_failed_without_finishing_ends() {
    let monitor = Monitor::start("history: {release_failed: 0.5}\n");
    let broker = Broker::connect(monitor.brokers);
    let browser = Browser::watch(&monitor, JOB, 2).await;
    broker.send(&[JOB, "STARTED"]);
    broker.send(&[JOB, "TASK", "compile", "COMPLETED"]);
    broker.send(&[JOB, "FAILED"]);
    let dialog = browser.until(|dialog| dialog.closed.is_some()).await;
    assert_eq!(dialog, finished(1, 0, 0, &["STARTED", "TASK", "FAILED", "FINISHED"]));
    browser.leave().await;
}

/// Opens a dialog in a browser for a job with one message.
async fn begun(monitor: &Monitor, broker: &Broker) -> Browser {
    let browser = Browser::watch(monitor, JOB, 2).await;
    browser.until(|dialog| dialog.state == "watching").await;
    broker.send(&[JOB, "STARTED"]);
    browser.until(|dialog| !dialog.commands.is_empty()).await;
    browser
}

/// Asserts that the dialog has ended although the job has not, and closes the browser.
async fn is_ended_with(code: u16, browser: Browser) {
    let dialog = browser.until(|dialog| dialog.closed.is_some()).await;
    let closed = Some(Closed { code, clean: true });
    assert_eq!(dialog, Dialog { closed, ..finished(0, 0, 0, &["STARTED", "FINISHED"]) });
    browser.leave().await;
}

#[tokio::test]
async fn the_dialog_ends_when_the_monitor_stops() {
    let mut monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let browser = begun(&monitor, &broker).await;
    monitor.signal("TERM");
    is_ended_with(1001, browser).await;
    assert_eq!(monitor.wait_exit().code(), Some(0));
}

#[tokio::test]
async fn the_dialog_ends_when_the_job_expires() {
    let monitor = Monitor::start("history: {unfinished: 5}\n");
    let broker = Broker::connect(monitor.brokers);
    let browser = begun(&monitor, &broker).await;
    is_ended_with(1001, browser).await;
}

#[tokio::test]
async fn the_dialog_ends_when_the_jobs_history_is_evicted() {
    let monitor = Monitor::start("history: {total_bytes: 65536}\n");
    let broker = Broker::connect(monitor.brokers);
    let browser = begun(&monitor, &broker).await;
    // The second has no room beside the first.
    for other in ["other", "another"] {
        broker.task(other, &"x".repeat(60_000));
    }
    is_ended_with(1013, browser).await;
}

#[tokio::test]
async fn the_dialog_of_a_job_that_was_aborted_and_does_not_run_again_ends() {
    let monitor = Monitor::start("history: {release_aborted: 0.5}\n");
    let broker = Broker::connect(monitor.brokers);
    let browser = Browser::watch(&monitor, JOB, 2).await;
    broker.send(&[JOB, "STARTED"]);
    broker.send(&[JOB, "ABORTED"]);
    let dialog = browser.until(|dialog| dialog.closed.is_some()).await;
    assert_eq!(dialog, finished(0, 0, 0, &["STARTED", "ABORTED", "FINISHED"]));
    browser.leave().await;
}

#[test]
fn a_python_viewer_gets_every_message_to_the_byte_and_a_normal_close() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let send = |tasks: std::ops::Range<u32>| tasks.for_each(|task| broker.task(JOB, &format!("úloha {task}")));
    let task = |task| common::task(&format!("\\u00faloha {task}"), "COMPLETED");
    send(0..200);
    let mut viewer = python_viewer(&monitor);
    assert_eq!(viewer.next(), task(0));
    send(200..400);
    broker.send(&[JOB, "FINISHED"]);
    let mut expected: Vec<String> = (1..400).map(task).collect();
    expected.extend([command("FINISHED"), "closed 1000".to_owned()]);
    assert_eq!(viewer.rest(), expected);
}

#[test]
fn a_python_viewer_is_told_by_the_code_that_the_monitor_goes_away() {
    let mut monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    broker.send(&[JOB, "STARTED"]);
    let mut viewer = python_viewer(&monitor);
    assert_eq!(viewer.next(), command("STARTED"));
    monitor.stop();
    assert_eq!(viewer.rest(), [command("FINISHED"), "closed 1001".to_owned()]);
}

#[test]
fn a_python_viewer_over_tls_gets_what_one_without_gets() {
    let directory = open_directory();
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| directory.path().join(name));
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a name");
    fs::write(&certificate, cert.pem()).expect("it is ours");
    fs::write(&key, signing_key.serialize_pem()).expect("it is ours");
    let no_pings = "clients: {ping_interval: 3600}\n";
    let tls = format!("tls: {{certificate: {}, key: {}}}\n", certificate.display(), key.display());
    let tasks = ["compile".to_owned(), "run ".repeat(50), "ú".repeat(15_000), "judge".to_owned()];
    let lines = |monitor: &Monitor, scheme: &str, certificate: Option<&PathBuf>| {
        let broker = Broker::connect(monitor.brokers);
        broker.send(&[JOB, "STARTED"]);
        let url = format!("{scheme}://{}", monitor.viewers);
        let arguments = [url.into(), JOB.into()].into_iter().chain(certificate.cloned());
        let mut live = PythonViewer::start("tls_viewer.py", arguments);
        let mut lines = vec![live.next()];
        for id in &tasks {
            broker.task(JOB, id);
            lines.push(live.next());
        }
        broker.send(&[JOB, "FINISHED"]);
        lines.extend(live.rest());
        lines
    };
    let expected = lines(&Monitor::start(no_pings), "ws", None);
    assert_eq!(expected[0], command("STARTED"));
    assert_eq!(expected[1..5], tasks.clone().map(|id| common::task(&id.replace('ú', "\\u00fa"), "COMPLETED")));
    assert_eq!(expected[5..7], [command("FINISHED"), "closed 1000".to_owned()]);
    assert_eq!(lines(&Monitor::start(&(tls + no_pings)), "wss", Some(&certificate)), expected);
}

/// The dialog after FINISHED and the closing handshake.
fn finished(completed: u32, skipped: u32, failed: u32, commands: &[&str]) -> Dialog {
    Dialog {
        completed,
        skipped,
        failed,
        state: "finished".to_owned(),
        ended: true,
        commands: commands.iter().map(ToString::to_string).collect(),
        errors: 0,
        closed: Some(Closed { code: 1000, clean: true }),
    }
}

/// The state of the dialog, and the page's notes about its connection.
#[derive(Debug, PartialEq, Deserialize)]
struct Dialog {
    completed: u32,
    skipped: u32,
    failed: u32,
    state: String,
    ended: bool,
    commands: Vec<String>,
    errors: u32,
    closed: Option<Closed>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Closed {
    code: u16,
    #[serde(rename = "wasClean")]
    clean: bool,
}

const READ_DIALOG: &str = r#"
    const text = name => document.getElementById(name).textContent.trim();
    return {
        completed: Number(text("completed")), skipped: Number(text("skipped")), failed: Number(text("failed")),
        state: text("state"), ended: !document.querySelector("button").disabled,
        commands: seen.commands, errors: seen.errors, closed: seen.closed,
    };
"#;

/// A headless Chromium showing tests/foreign/viewer.html.
struct Browser(Chromium);

impl Browser {
    async fn watch(monitor: &Monitor, channel: &str, tasks: usize) -> Self {
        let chromium = Chromium::start().await;
        let page = concat!("file://", env!("CARGO_MANIFEST_DIR"), "/tests/foreign/viewer.html");
        chromium
            .client
            .goto(&format!("{page}#url=ws://{}&channel={channel}&tasks={tasks}", monitor.viewers))
            .await
            .unwrap();
        Self(chromium)
    }

    /// Waits until the dialog is as `wanted`.
    async fn until(&self, wanted: impl Fn(&Dialog) -> bool) -> Dialog {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let dialog = self.0.client.execute(READ_DIALOG, Vec::new()).await.unwrap();
            let dialog = serde_json::from_value(dialog).unwrap();
            if wanted(&dialog) {
                return dialog;
            }
            assert!(Instant::now() < deadline, "the dialog stays at {dialog:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn leave(self) {
        self.0.leave().await;
    }
}

fn python_viewer(monitor: &Monitor) -> PythonViewer {
    PythonViewer::start("viewer.py", [&format!("ws://{}", monitor.viewers), JOB])
}
