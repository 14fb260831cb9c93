//! `recodex-monitor status`.

use super::{frame, metrics_when, start};
use crate::common::http::{STATUS, metrics, status};
use crate::common::{Broker, Monitor, PROGRAM, Viewer, command, fence, open_directory, run, taken_port, temporary};
use std::io::Write;
use std::net::TcpListener;
use std::process::Output;

fn printed(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("what is printed is UTF-8");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(!err.contains("panicked"), "{err}");
    (output.status.code(), out, err)
}

/// The rest of the line that begins with this word.
fn line<'a>(screen: &'a str, name: &str) -> &'a str {
    let mut lines = screen.lines().filter_map(|line| line.strip_prefix(name));
    lines.next().unwrap_or_else(|| panic!("no {name}:\n{screen}")).trim()
}

#[test]
fn status_prints_one_screen_and_ends_by_what_is_so() {
    let monitor = start("clients: {max: 50}\n");
    let address = status(&monitor).to_string();
    let head = format!("recodex-monitor {} at {address}:", env!("CARGO_PKG_VERSION"));
    let (code, screen, said) = printed(&run(&["status", &address]));
    assert_eq!((code, line(&screen, &head)), (Some(1), "NOT READY: no broker is connected"), "{screen}{said}");
    assert!(said.contains("no broker is connected"), "{said}");

    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    broker.send(&["job", "STARTED"]);
    viewer.texts(&[command("STARTED")]);
    broker.send(&["only\x1b[31m"]);
    broker.send(&["old", "FINISHED"]);
    metrics_when(&monitor, "all is taken", |metrics| metrics.count("recodex_monitor_received_messages_total") == 3);
    let (code, screen, said) = printed(&run(&["status", &address]));
    assert_eq!((code, said.as_str(), line(&screen, &head)), (Some(0), "", "ready"), "{screen}");
    assert_eq!(line(&screen, "viewers"), "1 of 50");
    assert_eq!(line(&screen, "brokers"), "1 of 64");
    assert_eq!(line(&screen, "channels"), "1 open, 1 finished, 0 over and still read");
    assert!(line(&screen, "history").ends_with(" of 256.0 MiB"), "{screen}");
    assert!(line(&screen, "received").starts_with("3 messages, "), "{screen}");
    assert_eq!(line(&screen, "sent"), format!("1 message, {} bytes; 0 replayed", frame(&command("STARTED"))));
    assert_eq!(line(&screen, "trouble"), "1 malformed message");
    let process: Vec<_> = line(&screen, "process").split(", ").collect();
    let limit = metrics(status(&monitor)).count("process_max_fds");
    assert!(process[0].ends_with(" MiB") && process[1].ends_with(" % of a core since the start"), "{screen}");
    assert!(process[2].ends_with(&format!(" of {limit} descriptors")), "{screen}");
    assert_eq!(line(&screen, "warnings"), "the last 1");
    assert!(screen.contains(" since ") && screen.contains("127.0.0.1:") && screen.contains("fewer than two frames"));
    assert!(screen.lines().count() < 24, "{screen}");
}

#[test]
fn status_finds_the_monitor_by_its_configuration() {
    let monitor = start("");
    let _broker = Broker::connect(monitor.brokers);
    metrics_when(&monitor, "the broker is there", |metrics| metrics.count("recodex_monitor_brokers") == 1);
    let at = status(&monitor);
    let with = |config: &str| {
        let (_directory, path) = temporary("config.yml", config);
        printed(&run(&["status", "-c", path.to_str().expect("UTF-8")]))
    };
    for host in ["127.0.0.1", "localhost", "*"] {
        let (code, screen, said) = with(&format!("status_uri: [\"{host}\", {}]\n", at.port()));
        assert_eq!((code, said.as_str()), (Some(0), ""), "{host}");
        assert!(screen.lines().next().is_some_and(|line| line.ends_with(": ready")), "{screen}");
    }
    let (code, screen, said) = with("status_uri: false\n");
    assert_eq!((code, screen.as_str()), (Some(78), ""));
    assert!(said.contains("status_uri is false"), "{said}");
    // The socket of the packaged service, which may run on this machine.
    let (_, screen, said) = with("");
    assert!((screen + &said).contains(" at unix:/run/recodex/status.sock: "), "{said}");
    let (code, _, said) = with("status_ury: [\"127.0.0.1\", 1]\n");
    assert_eq!(code, Some(78));
    assert!(said.contains("status_ury"), "{said}");
    assert_eq!(printed(&run(&["status", "-c", "/nowhere/config.yml"])).0, Some(78));
    let (code, _, said) = printed(&run(&["status", "-c", "/nowhere/config.yml", "127.0.0.1:1"]));
    assert_eq!(code, Some(64));
    assert!(said.contains("Usage: recodex-monitor status [-c FILE] [--instance NAME]"), "{said}");
}

#[test]
fn an_address_of_the_configuration_is_escaped() {
    let directory = open_directory();
    let config = format!("status_uri: \"unix:{}/a\\e[31mb\"\n", directory.path().display());
    let _monitor = Monitor::start(&config);
    let (_directory, path) = temporary("config.yml", config);
    let (code, screen, said) = printed(&run(&["status", "-c", path.to_str().expect("UTF-8")]));
    assert_eq!(code, Some(1), "there is no broker: {said}");
    assert!(screen.contains("31mb: NOT READY") && !screen.contains('\x1b'), "{screen:?}");
}

/// Answers one request with this, whatever it is.
fn one_answer(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody connects");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            std::io::Read::read_exact(&mut stream, &mut byte).expect("a request");
            request.push(byte[0]);
        }
        stream.write_all(answer.as_bytes()).expect("it reads");
    });
    address
}

#[test]
fn status_says_69_where_no_monitor_answers() {
    let (listener, free) = taken_port();
    drop(listener);
    let monitor = Monitor::start("");
    for (address, why) in [
        (free.to_string(), "nothing listens there; is the monitor running"),
        ("no-such-host.invalid:1".to_owned(), "the host no-such-host.invalid is not known"),
        (monitor.brokers.to_string(), "that is the port where brokers connect; ask at the status_uri"),
        (monitor.viewers.to_string(), "that is the port where viewers connect; ask at the status_uri"),
        (one_answer("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "it answers 404"),
        (one_answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), "its answer is not that of a monitor"),
        (one_answer("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}"), "closed the connection within its answer"),
        (one_answer("SSH-2.0-OpenSSH\r\n"), "its answer is no HTTP"),
        (one_answer(""), "closed the connection without an answer"),
    ] {
        let (code, screen, said) = printed(&run(&["status", &address]));
        assert_eq!((code, screen.as_str()), (Some(69), ""), "{said}");
        assert!(said.contains(&address) && said.contains(why) && said.lines().count() == 1, "{why}: {said}");
    }
}

/// Returns the exit status of `status` with this standard output.
fn ended_into(address: &str, output: impl Into<std::process::Stdio>) -> (Option<i32>, String) {
    let ran = std::process::Command::new(PROGRAM).args(["status", address]).stdout(output).output();
    let ran = ran.expect("the program starts");
    (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
}

/// Such as `| true` and `| head -1`.
#[test]
fn status_into_a_pipe_that_nobody_reads_ends_by_what_is_so() {
    let monitor = Monitor::start(STATUS);
    let address = status(&monitor).to_string();
    let unread = || std::io::pipe().expect("there are pipes").1;
    let (code, said) = ended_into(&address, unread());
    assert_eq!((code, said.lines().count()), (Some(1), 1), "no broker is connected: {said}");
    let broker = Broker::connect(monitor.brokers);
    fence(&monitor, &broker);
    assert_eq!(ended_into(&address, unread()), (Some(0), String::new()));
    // A full disk is another matter than a monitor that is not ready.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("it is there");
    assert_eq!(ended_into(&address, full).0, Some(74));
}
