//! The lines of the log file.

use super::{Daemon, lines};
use crate::common::{self, Broker, Viewer};
use chrono::Local;
use std::fs::{self, Permissions, read_to_string, set_permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn a_line_of_the_file_has_the_form_of_the_python_monitors() {
    let before = Local::now().naive_local() - Duration::from_secs(1);
    let mut daemon = Daemon::logging_to_file("output: file, file: LOG, level: debug");
    daemon.relays();
    Broker::connect(daemon.brokers).send(&["only a channel"]);
    daemon.wait_log(&["] [WARNING] dropped a message from broker 127.0.0.1:"]);
    daemon.stop();
    let lines = lines(&read_to_string(daemon.log()).expect("UTF-8"));
    let after = Local::now().naive_local();
    assert!(lines.is_sorted_by_key(|line| line.time), "in the order of time: {lines:?}");
    assert!(lines.iter().all(|line| (before..=after).contains(&line.time)), "local time: {lines:?}");
    for (level, begin) in [
        ("INFO", "listening for viewers on 127.0.0.1:"),
        ("INFO", "listening for brokers on 127.0.0.1:"),
        ("INFO", "broker 127.0.0.1:"),
        ("DEBUG", "viewer 127.0.0.1:"),
        ("WARNING", "dropped a message from broker 127.0.0.1:"),
        ("INFO", "SIGTERM: stopping"),
        ("INFO", "stopped: "),
    ] {
        assert!(
            lines.iter().any(|line| line.level == level && line.message.starts_with(begin)),
            "no {level} line begins {begin:?}: {lines:?}"
        );
    }
}

#[test]
fn lines_below_the_level_are_left_out() {
    for (level, expected) in [
        ("debug", &["DEBUG", "ERROR", "INFO", "WARNING"][..]),
        ("info", &["ERROR", "INFO", "WARNING"]),
        ("warning", &["ERROR", "WARNING"]),
        ("error", &["ERROR"]),
        ("critical", &["ERROR"]), // nothing is more severe here
    ] {
        let logger = format!("output: file, file: LOG, level: {level}");
        let mut daemon = Daemon::prepare(|_| {}).on_ports(&[], &logger, Stdio::null());
        daemon.relays(); // info: a broker comes; debug: a viewer
        Broker::connect(daemon.brokers).send(&["", "with an empty channel"]); // warning
        fs::write(&daemon.config, "no_such_key: 1\n").expect("it is ours");
        daemon.signal("HUP"); // error
        daemon.wait_log(&["SIGHUP"]);
        daemon.relays();
        if expected.contains(&"WARNING") {
            daemon.wait_log(&["dropped a message"]);
        }
        daemon.stop();
        let mut levels: Vec<_> =
            lines(&read_to_string(daemon.log()).expect("UTF-8")).into_iter().map(|line| line.level).collect();
        levels.sort();
        levels.dedup();
        assert_eq!(levels, expected, "at level {level}");
    }
}

#[test]
fn with_a_file_and_output_auto_the_file_gets_the_lines_and_stderr_none() {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut daemon = Daemon::prepare(|_| {}).on_ports(&[], "file: LOG", writer.into());
    daemon.wait_log(&["[INFO] listening for brokers on"]);
    daemon.stop();
    let mut stderr = String::new();
    reader.read_to_string(&mut stderr).expect("UTF-8");
    assert_eq!(stderr, "");
}

#[test]
fn a_file_that_is_there_is_continued() {
    let mut daemon = Daemon::prepare(|logs| {
        fs::write(logs.join("monitor.log"), "of an earlier run\n").expect("it is ours");
        set_permissions(logs.join("monitor.log"), Permissions::from_mode(0o666)).expect("it is ours");
    })
    .in_file("output: file, file: LOG");
    daemon.stop();
    let text = read_to_string(daemon.log()).expect("UTF-8");
    assert!(lines(text.strip_prefix("of an earlier run\n").expect("it is kept")).len() >= 3, "{text}");
}

#[test]
fn control_characters_from_outside_never_come_raw_into_the_file() {
    let mut daemon = Daemon::logging_to_file("output: file, file: LOG, level: debug");
    let forged =
        "\n\u{1b}\u{202e}\u{61c}\u{2060}\u{e0041}[\r\u{7f}\u{85}\u{2028}[2024-02-29 00:00:00,000] [ERROR] forged";
    let mut viewer = Viewer::subscribed(daemon.viewers, forged);
    let broker = Broker::connect(daemon.brokers);
    broker.send(&[forged, forged, forged, forged]);
    viewer.text();
    broker.send(&[forged, "FINISHED"]);
    broker.send(&[forged, "FINISHED"]);
    let line = daemon.wait_log(&["DEBUG", "subscribed"]);
    assert!(line.contains(r"\n\u{1b}\u{202e}\u{61c}\u{2060}\u{e0041}["), "{line}");
    // A close with a reason, a request that is none, and a malformed message.
    let mut other = Viewer::subscribed(daemon.viewers, "job");
    other.send_frame(0x88, b"\x0f\xa0 \x1b[31m\n[x]");
    let _ = other.rest();
    let _ = common::viewer::http(daemon.viewers, "GET /\u{1b}[31m\r[x]\u{202e} HTTP/1.1\r\n\n\r\n".as_bytes());
    broker.send(&[b"\x1b[31m\n\xff".as_slice(), b"\n"]);
    daemon.wait_log(&["WARNING", "dropped a message"]);
    drop(viewer);
    daemon.stop();
    let text = read_to_string(daemon.log()).expect("UTF-8");
    assert!(lines(&text).iter().all(|line| line.level != "ERROR"), "{text}");
}
