//! `publish`: the messages that it sends, and those that it refuses.

use crate::common;

use common::{Broker, Monitor, Viewer, command, fence, run, taken_port, task};
use std::fmt::Display;
use std::io::{Read, Write};
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
        (vec!["STARTED", "job"], "did you mean job STARTED?"),
        (vec!["job", "TASK", "COMPLETED", "t1"], "did you mean TASK t1 COMPLETED?"),
        (vec!["job ", "STARTED"], "begins or ends with white space"),
        (vec!["job", "TASK", "\nt1", "COMPLETED"], "begins or ends with white space"),
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

/// Asserts that a message to this address is not taken, and that one line with these words says why.
fn is_not_taken(address: impl Display, words: &[&str]) {
    let output = run(&["publish", "-a", &format!("tcp://{address}"), "job", "STARTED"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for word in words {
        assert!(text.contains(word), "{word} is not in: {text}");
    }
}

#[test]
fn a_monitor_that_does_not_allow_this_machine_is_said_69() {
    let monitor = Monitor::start("zeromq: {allow: [\"192.0.2.0/24\"]}\n");
    is_not_taken(monitor.brokers, &["closed the link in the handshake", "zeromq.allow"]);
}

#[test]
fn another_port_is_known_for_what_it_is_69() {
    let monitor = Monitor::start("status_uri: [\"127.0.0.1\", 0]\n");
    is_not_taken(monitor.viewers, &["is the port where viewers connect", "zeromq_uri"]);
    is_not_taken(monitor.addresses("status requests")[0], &["speaks HTTP", "zeromq_uri"]);
    // A port that speaks TLS answers anything else by an alert, and closes.
    let (listener, address) = taken_port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(b"\x15\x03\x01\0\x02\x02\x46");
        }
    });
    is_not_taken(address, &["speaks TLS", "zeromq_uri"]);
}

#[test]
fn a_host_that_is_not_known_is_said_69() {
    is_not_taken("no-such-host.invalid:7894", &["the host no-such-host.invalid is not known", "spelt right"]);
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
    for (address, wrong) in [
        ("127.0.0.1:7894", "begin with tcp://"),
        ("ipc:///run/x", "begin with tcp://"),
        ("tcp://127.0.0.1", "no port"),
        ("tcp://127.0.0.1:99999", "port is 99999"),
        ("tcp://::1:7894", "brackets"),
        ("tcp://127.0.0.1:7894/", "nothing may follow"),
        ("", "begin with tcp://"),
    ] {
        let output = run(&["publish", "-a", address, "job", "STARTED"]);
        assert!(stderr(&output).contains(wrong), "{address}: {}", stderr(&output));
        assert_eq!(output.status.code(), Some(64), "{address}: {}", stderr(&output));
        assert!(stderr(&output).contains("such as tcp://127.0.0.1:7894"), "{address}: {}", stderr(&output));
    }
}
