//! `publish`: what it sends, and what it refuses to send.

mod common;

use common::{Broker, Monitor, Viewer, command, fence, run, taken_port, task};
use std::process::Output;

fn publish(monitor: &Monitor, words: &[&str]) -> Output {
    let address = format!("tcp://{}", monitor.brokers);
    run(&[&["publish", "-a", &address], words].concat())
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("what is printed is UTF-8")
}

#[test]
fn what_a_broker_would_send_is_sent() {
    let monitor = Monitor::start("");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    for words in [
        vec!["job", "STARTED"],
        vec!["job", "TASK", "\u{159}eka", "COMPLETED"],
        vec!["--any", "job", "TASK", "compile"],
        vec!["--any", "job", "exit", "\u{1b}", "any state"],
        vec!["job", "FINISHED"],
    ] {
        let output = publish(&monitor, &words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", stderr(&output));
        assert_eq!((stderr(&output).as_str(), output.stdout.len()), ("", 0), "{words:?}");
    }
    viewer.texts(&[
        command("STARTED"),
        task("\\u0159eka", "COMPLETED"),
        "{\"command\": \"TASK\", \"task_id\": \"compile\"}".to_owned(),
        "{\"command\": \"exit\", \"task_id\": \"\\u001b\", \"task_state\": \"any state\"}".to_owned(),
        command("FINISHED"),
    ]);
    viewer.closes(1000);
}

/// Each is refused before anything is sent, in one line that says what was expected.
#[test]
fn what_no_broker_sends_is_refused_64_and_not_sent() {
    let monitor = Monitor::start("");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    let (long, huge) = ("j".repeat(257), "x".repeat(65_536));
    for (words, said) in [
        (vec!["job", "STRATED"], "did you mean STARTED?"),
        (vec!["job", "finished"], "did you mean FINISHED?"),
        (vec!["job", "xyzzy"], "known: DOWNLOADED, STARTED, TASK, ENDED, UPLOADED, FAILED, ABORTED, FINISHED"),
        (vec!["job", "TASK"], "such as TASK compile_01 COMPLETED"),
        (vec!["job", "TASK", "t1"], "such as TASK compile_01 COMPLETED"),
        (vec!["job", "TASK", "t1", "COMPLETE"], "did you mean COMPLETED?"),
        (vec!["job", "FINISHED", "t1"], "FINISHED has no task"),
        (vec!["job", "FINISHED", "t1", "COMPLETED"], "FINISHED has no task"),
        (vec!["0", "exit"], "accept_exit"),
        (vec!["", "STARTED"], "expected 1 to 256 bytes"),
        (vec![&long, "STARTED"], "expected 1 to 256 bytes"),
        (vec!["--any", "", "STARTED"], "expected 1 to 256 bytes"),
        (vec!["--any", &long, "STARTED"], "expected 1 to 256 bytes"),
        (vec!["--any", "job", &huge], "expected at most 65536"),
        (vec!["job", "\u{1b}[2J"], "\\u{1b}[2J"),
    ] {
        let output = publish(&monitor, &words);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(64), "{words:?}: {text}");
        assert!(text.contains(said), "{words:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{words:?}: {text}");
    }
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["job", "FINISHED"]);
    viewer.texts(&[command("FINISHED")]);
    viewer.closes(1000);
}

#[test]
fn exit_is_sent_where_it_is_asked_for() {
    let mut monitor = Monitor::start("");
    let output = publish(&monitor, &["--any", "0", "exit"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    fence(&monitor, &Broker::connect(monitor.brokers));
    monitor.stop();
    assert_eq!(monitor.logged(&["exit", "accept_exit"]).len(), 1);
}

#[test]
fn nobody_listening_is_said_69() {
    let (listener, free) = taken_port();
    drop(listener);
    let output = run(&["publish", "--address", &format!("tcp://{free}"), "job", "STARTED"]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("nothing listens at tcp://{free}")), "{}", stderr(&output));
}

/// Something listens, but speaks no ZeroMQ: `publish` must not wait for ever.
#[test]
fn what_does_not_answer_ends_with_an_error() {
    let (_listener, silent) = taken_port();
    let output = run(&["publish", "-a", &format!("tcp://{silent}"), "job", "STARTED"]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    assert!(stderr(&output).contains("no monitor answers"), "{}", stderr(&output));
}

#[test]
fn what_is_no_address_is_refused_64() {
    for address in ["127.0.0.1:7894", "ipc:///run/x", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", ""] {
        let output = run(&["publish", "-a", address, "job", "STARTED"]);
        assert_eq!(output.status.code(), Some(64), "{address}: {}", stderr(&output));
        assert!(stderr(&output).contains("such as tcp://127.0.0.1:7894"), "{address}: {}", stderr(&output));
    }
}
