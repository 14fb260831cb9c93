//! `watch`: its output, and its errors.

use crate::common;

use common::{Broker, DEADLINE, Monitor, PROGRAM, Terminal, command, open_directory, run, run_words, taken_port};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use std::fs::{read_to_string, write};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use tempfile::TempDir;
use tokio_tungstenite::tungstenite;

/// Runs `watch` until it ends by itself; returns its lines and its status.
fn watch(args: &[&str], meanwhile: impl FnOnce()) -> (Vec<String>, Option<i32>) {
    let mut child = Command::new(PROGRAM)
        .arg("watch")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let (sender, lines) = mpsc::channel();
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    meanwhile();
    let mut all = Vec::new();
    loop {
        match lines.recv_timeout(DEADLINE) {
            Ok(line) => all.push(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("watch does not end; so far: {all:?}");
            }
        }
    }
    (all, child.wait().expect("it can be waited for").code())
}

// What is printed.

#[test]
fn json_has_every_message_as_it_is_and_ends_with_the_job() {
    let monitor = Monitor::start("");
    let url = format!("ws://{}", monitor.viewers);
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["job", "STARTED"]);
    let (lines, status) = watch(&[&url, "job", "--json"], || {
        broker.send(&["job", "TASK", "\u{159}eka", "FAILED"]);
        broker.send(&["job", "FINISHED"]);
    });
    assert_eq!(lines, [command("STARTED"), common::task("\\u0159eka", "FAILED"), command("FINISHED")]);
    assert_eq!(status, Some(0));
}

/// Text from outside must not control the terminal.
#[test]
fn no_escape_sequence_of_others_is_printed() {
    let monitor = Monitor::start("");
    let url = format!("ws://{}", monitor.viewers);
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["job", "TASK", "a\x1b[31mred\x07", "COMPLETED"]);
    broker.send(&["job", "FINISHED"]);
    for args in [vec![url.as_str(), "job"], vec![url.as_str(), "job", "--json"]] {
        let (lines, status) = watch(&args, || ());
        assert_eq!(status, Some(0), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("red")), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("\x1b[31m") || line.contains('\x07')), "{lines:?}");
    }
}

#[test]
fn a_terminal_shows_the_wait_and_then_the_progress() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let url = format!("ws://{}", monitor.viewers);
    let mut terminal = Terminal::start(&[PROGRAM, "watch", &url, "job", "--tasks", "4"], 24, 100, &[]);
    let wait = "no message yet, for ";
    let second = format!("{wait}1 s (the job has not begun, or the id is wrong)");
    terminal.wait_for("how long it has waited", |lines| *lines == [second.clone()]);
    broker.send(&["job", "STARTED"]);
    broker.send(&["job", "TASK", "a", "COMPLETED"]);
    broker.send(&["job", "TASK", "b", "FAILED"]);
    let half = "[##########          ] 2/4 tasks: 1 completed, 1 failed, 0 skipped; STARTED";
    terminal.wait_for("a bar that is half full", |lines| *lines == [half]);
    broker.send(&["job", "FINISHED"]);
    assert_eq!(terminal.end(), Some(0), "{:?}", terminal.lines());
    assert_eq!(terminal.lines(), [half.replace("STARTED", "FINISHED")]);
}

#[test]
fn a_terminal_shows_no_finished_of_the_monitors_and_failed_beside_the_jobs_own() {
    let mut monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let url = format!("ws://{}", monitor.viewers);
    let watch = |channel| Terminal::start(&[PROGRAM, "watch", &url, channel], 24, 100, &[]);
    let (mut began, mut silent) = (watch("began"), watch("silent"));
    broker.send(&["began", "STARTED"]);
    let phase = "0 tasks: 0 completed, 0 failed, 0 skipped; ";
    began.wait_for("the phase", |lines| *lines == [format!("{phase}STARTED")]);
    silent.wait_for("the wait", |lines| lines.iter().any(|line| line.contains("no message yet")));
    broker.send(&["failed", "FAILED"]);
    broker.send(&["failed", "FINISHED"]);
    let mut failed = watch("failed");
    assert_eq!(failed.end(), Some(0), "{:?}", failed.lines());
    assert_eq!(failed.lines(), [format!("{phase}FAILED, FINISHED")]);
    monitor.stop();
    let told = |line: &String| line.contains("the job did not finish") && line.contains("1001");
    for (terminal, shown) in [(&mut began, format!("{phase}STARTED")), (&mut silent, "no message yet, for ".into())] {
        assert_eq!(terminal.end(), Some(1), "{:?}", terminal.lines());
        let lines = terminal.lines();
        assert!(lines[0].starts_with(&shown) && lines.iter().any(told), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("FINISHED")), "{lines:?}");
    }
}

#[test]
fn ctrl_c_leaves_the_progress_and_ends_130() {
    let monitor = Monitor::start("");
    let url = format!("ws://{}", monitor.viewers);
    let broker = Broker::connect(monitor.brokers);
    let mut terminal = Terminal::start(&[PROGRAM, "watch", &url, "job"], 24, 40, &[]);
    broker.send(&["job", "TASK", "a", "COMPLETED"]);
    // A line that is too long for the terminal is cut.
    terminal.wait_for("the progress", |lines| *lines == ["1 tasks: 1 completed, 0 failed, 0 skipp"]);
    terminal.write("\x03");
    assert_eq!(terminal.end(), Some(130), "{:?}", terminal.lines());
    assert_eq!(
        terminal.lines(),
        ["1 tasks: 1 completed, 0 failed, 0 skipped; ", "recodex-monitor: interrupted before FINISHED"]
            .map(str::trim_end)
    );
}

#[test]
fn a_terminal_without_a_cursor_gets_json() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["job", "FINISHED"]);
    common::fence(&monitor, &broker);
    let url = format!("ws://{}", monitor.viewers);
    let mut terminal = Terminal::start(&[PROGRAM, "watch", &url, "job"], 24, 80, &[("TERM", "dumb")]);
    assert_eq!(terminal.end(), Some(0), "{:?}", terminal.lines());
    assert_eq!(terminal.lines(), [command("FINISHED")]);
}

// What is wrong with what was typed.

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("what is printed is UTF-8")
}

/// Asserts that `watch` ends with this status and one line with all these words.
fn fails(args: &[&str], status: i32, words: &[&str]) {
    let output = run(&[&["watch"], args].concat());
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{args:?}: {word:?} is not in: {text}");
    }
}

#[test]
fn what_is_no_url_of_a_monitor_is_refused_64() {
    for (url, words) in [
        ("not a url", "expected one such as ws://127.0.0.1:4567/"),
        ("127.0.0.1:4567", "did you mean ws://127.0.0.1:4567 ?"),
        ("https://recodex.example.org/ws", "did you mean wss://recodex.example.org/ws ?"),
        ("ws://127.0.0.1:70000/", "a number from 1 to 65535"),
    ] {
        fails(&[url, "job"], 64, &[url, words]);
    }
    fails(&["ws:/127.0.0.1:4567", "job"], 64, &["did you mean ws://127.0.0.1:4567 ?"]);
    fails(&["unix:/run/recodex/monitor.sock", "job"], 64, &["a Unix socket cannot be watched"]);
    fails(&["job", "ws://127.0.0.1:1/"], 64, &["expected the URL first, then the channel id"]);
    let output = run(&["watch", "ws://127.0.0.1:1/", "job", "--tasks", "0"]);
    assert_eq!((output.status.code(), stderr(&output).contains("0 is not in 1..")), (Some(64), true));
    fails(&["ws://127.0.0.1:1/", ""], 64, &["the channel id is empty"]);
    fails(&["ws://127.0.0.1:1/", &"j".repeat(257)], 64, &["expected 1 to 256 bytes"]);
    fails(&["ws://127.0.0.1:1/", "job", "--ca", "/dev/null"], 64, &["--ca is for TLS"]);
    fails(&["wss://127.0.0.1:1/", "job", "--ca", "/nowhere/ca.pem"], 64, &["--ca /nowhere/ca.pem: cannot open it"]);
    fails(&["wss://127.0.0.1:1/", "job", "--ca", "Cargo.toml"], 64, &["expected certificates in PEM"]);
}

// Where there is no monitor.

#[test]
fn nobody_listening_is_said_69() {
    let (listener, free) = taken_port();
    drop(listener);
    fails(&[&format!("ws://{free}"), "job"], 69, &["nothing listens at port", "is the monitor running"]);
}

#[test]
fn a_host_that_is_not_known_is_said_69() {
    fails(&["ws://no-such-host.invalid/", "job"], 69, &["the host no-such-host.invalid is not known"]);
}

#[test]
fn a_port_that_is_silent_is_given_up_69() {
    let (_listener, silent) = taken_port();
    fails(&[&format!("ws://{silent}/"), "job"], 69, &["no answer to the WebSocket handshake"]);
    fails(
        &[&format!("wss://{silent}/"), "job"],
        69,
        &["no answer to the TLS handshake", &format!("use ws://{silent}/")],
    );
}

#[test]
fn the_port_of_brokers_is_known_as_such() {
    let monitor = Monitor::start("");
    for scheme in ["ws", "wss"] {
        let url = format!("{scheme}://{}/", monitor.brokers);
        fails(&[&url, "job"], 69, &["that is the port where brokers connect"]);
    }
}

/// Answers every request by `answer`, whatever was asked for.
fn server(answer: String) -> SocketAddr {
    let (listener, address) = taken_port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
                request.push(byte[0]);
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

#[test]
fn an_answer_that_is_no_upgrade_is_explained_69() {
    for (answer, words) in [
        ("403 Forbidden", &["403 Forbidden", "does not let this client in"][..]),
        ("404 Not Found", &["404 Not Found", "no monitor at the path /ws"]),
        ("426 Upgrade Required", &["426 Upgrade Required", "does not pass the WebSocket upgrade on"]),
        ("429 Too Many Requests", &["429", "too many viewers from this address"]),
        ("503 Service Unavailable", &["503", "is full or stops"]),
        ("502 Bad Gateway", &["502", "is the monitor running?"]),
        ("200 OK", &["200 OK", "is the path right?"]),
        ("400 Bad Request", &["400", "use wss://"]),
        ("301 Moved Permanently\r\nLocation: https://elsewhere.example/", &["301", "https://elsewhere.example/"]),
        ("500 Internal Server Error", &["500", "is it a monitor?"]),
    ] {
        let text = "What\tit says\u{1b}[2J\nand more\n";
        let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len());
        fails(&[&format!("ws://{}/ws", server(answer)), "job"], 69, words);
    }
    for (answer, words) in [
        ("SSH-2.0-OpenSSH_10.0\r\n", "speaks another protocol than HTTP; use that of viewers"),
        ("HTTP/9 what\r\n\r\n", "its answer is not that of a WebSocket server; is it a monitor?"),
        ("", "the server closed the connection in the WebSocket handshake; is it a monitor?"),
    ] {
        fails(&[&format!("ws://{}/", server(answer.to_owned())), "job"], 69, &[words]);
    }
}

/// A web server in between may add to the lists, and may write them in several lines.
#[test]
fn the_headers_of_an_answer_are_read_as_lists() {
    let (listener, address) = taken_port();
    let answers = [
        ("Connection: keep-alive, Upgrade\r\nUpgrade: websocket", true),
        ("Connection: keep-alive\r\nConnection:\tupgrade,\r\nUpgrade: foo\r\nUpgrade: WebSocket", true),
        ("Connection: Upgrade\r\nUpgrade: foo, websocket", true),
        ("Connection: close\r\nUpgrade: websocket", false),
        ("Connection: Upgrade\r\nUpgrade: websockets", false),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: a", false),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate", false),
    ];
    let server = std::thread::spawn(move || {
        for ((headers, _), stream) in answers.into_iter().zip(listener.incoming()) {
            let mut stream = stream.expect("somebody connects");
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
                request.push(byte[0]);
            }
            let request = String::from_utf8(request).expect("it is text");
            let key =
                request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("there is a key");
            let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
            let answer =
                format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\n{headers}\r\n\r\n");
            // FINISHED and the close with 1000 at once.
            let end = b"\x81\x16{\"command\":\"FINISHED\"}\x88\x02\x03\xe8";
            let _ = stream.write_all(&[answer.as_bytes(), end].concat());
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    for (headers, taken) in answers {
        let output = run(&["watch", &format!("ws://{address}/"), "job"]);
        assert_eq!(output.status.code(), Some(if taken { 0 } else { 69 }), "{headers:?}: {}", stderr(&output));
        assert_eq!(stderr(&output).contains("its answer is not that of a WebSocket server"), !taken, "{headers:?}");
    }
    server.join().expect("it answers all");
}

/// Answers one viewer's handshake as a monitor does, sends `bytes` and then ends the connection.
fn monitor_that_sends(bytes: &'static [u8]) -> SocketAddr {
    let (listener, address) = taken_port();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("somebody watches");
        let mut socket = tungstenite::accept(stream).expect("a WebSocket client");
        socket.read().expect("it subscribes");
        socket.get_mut().write_all(bytes).expect("it reads");
        // The answer to a close, if it was sent one, or the client's end.
        if !bytes.is_empty() {
            let _ = socket.get_mut().read(&mut [0; 64]);
        }
    });
    address
}

#[test]
fn an_end_without_a_close_frame_or_its_code_is_said_in_plain_words() {
    let at = |bytes| format!("ws://{}/", monitor_that_sends(bytes));
    fails(&[&at(b""), "job"], 69, &["the server ended it without a close frame; does the monitor still run?"]);
    fails(&[&at(b"\x88\x00"), "job"], 1, &["ended the subscription without a code"]);
    fails(&[&at(b"\x88\x02\x03\xf5"), "job"], 1, &["ended the subscription with 1013"]);
    fails(&[&at(b"\xff\x00"), "job"], 69, &["sent what no WebSocket server may send"]);
}

#[test]
fn a_monitor_that_is_killed_is_said_69() {
    let mut monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let url = format!("ws://{}/", monitor.viewers);
    let mut child = Command::new(PROGRAM)
        .args(["watch", &url, "job"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    broker.send(&["job", "STARTED"]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("it is read");
    assert_eq!(line, format!("{}\n", command("STARTED")));
    monitor.signal("KILL");
    monitor.wait_exit();
    let output = child.wait_with_output().expect("it can be waited for");
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    assert!(stderr(&output).contains("does the monitor still run?"), "{}", stderr(&output));
}

#[test]
fn a_full_monitor_says_why() {
    let monitor = Monitor::start("clients: {max: 1}\n");
    let _viewer = common::Viewer::upgraded(monitor.viewers);
    fails(&[&format!("ws://{}/", monitor.viewers), "job"], 69, &["503 Service Unavailable", "(clients.max)"]);
}

// TLS.

/// The monitor would wait an hour for the rest of what it takes for a request.
#[test]
fn a_port_without_tls_is_known_at_once() {
    let monitor = Monitor::start("clients: {handshake_timeout: 3600}\n");
    let url = format!("wss://{}/ws?a", monitor.viewers);
    fails(&[&url, "job"], 69, &["the port does not speak TLS", &format!("use ws://{}/ws?a", monitor.viewers)]);
}

/// A certificate with its key, and what vouches for it.
struct Tls {
    directory: TempDir,
}

impl Tls {
    /// Makes a certificate that `issuer` signs, or that signs itself.
    fn new(params: &CertificateParams, issuer: Option<&Issuer<'_, KeyPair>>) -> Self {
        let key = KeyPair::generate().expect("there is randomness");
        let certificate = match issuer {
            Some(issuer) => params.signed_by(&key, issuer),
            None => params.self_signed(&key),
        };
        let tls = Self { directory: open_directory() };
        write(tls.certificate(), certificate.expect("a usable key").pem()).expect("it is ours");
        write(tls.key(), key.serialize_pem()).expect("it is ours");
        tls
    }

    fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    /// Starts a monitor with it, with one finished job.
    fn monitor(&self) -> Monitor {
        let (certificate, key) = (self.certificate(), self.key());
        let monitor =
            Monitor::start(&format!("tls: {{certificate: '{}', key: '{}'}}\n", certificate.display(), key.display()));
        Broker::connect(monitor.brokers).send(&["job", "FINISHED"]);
        monitor
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, "a server");
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([]).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// Asserts that one who trusts `ca` gets the job.
fn is_trusted(monitor: &Monitor, ca: &Path) {
    let url = format!("wss://{}/", monitor.viewers);
    let output = run(&["watch", &url, "job", "--ca", text(ca)]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}\n", command("FINISHED")));
}

#[test]
fn a_port_with_tls_is_known_as_such() {
    let monitor = Tls::new(&params("127.0.0.1"), None).monitor();
    let url = format!("ws://{}/ws", monitor.viewers);
    fails(&[&url, "job"], 69, &["if the port speaks TLS", &format!("use wss://{}/ws", monitor.viewers)]);
    let address = monitor.viewers.to_string();
    for words in [&["status", &address][..], &["publish", "-a", &format!("tcp://{address}"), "job", "ENDED"]] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
        assert!(stderr(&output).contains("refuses plain HTTP, as "), "{}", stderr(&output));
    }
}

#[test]
fn a_self_signed_certificate_is_trusted_if_it_is_given_whatever_it_says_of_cas() {
    let other = Tls::new(&params("127.0.0.1"), None);
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let mut params = params("127.0.0.1");
        params.is_ca = is_ca;
        let tls = Tls::new(&params, None);
        let monitor = tls.monitor();
        let url = format!("wss://{}/", monitor.viewers);
        fails(&[&url, "job"], 69, &["it is self-signed", "--ca"]);
        fails(
            &[&url, "job", "--ca", text(&other.certificate())],
            69,
            &["it is self-signed", "not among the certificates that --ca names"],
        );
        is_trusted(&monitor, &tls.certificate());
        // Among others.
        let both = tls.directory.path().join("both.pem");
        let pem = |tls: &Tls| read_to_string(tls.certificate()).expect("it is there");
        write(&both, pem(&other) + &pem(&tls)).expect("it is ours");
        is_trusted(&monitor, &both);
        // It is for its own name only.
        let named = format!("wss://localhost:{}/", monitor.viewers.port());
        fails(&[&named, "job", "--ca", text(&both)], 69, &["it is not for localhost; it is for 127.0.0.1"]);
    }
}

/// A machine without trusted certificates, such as a container without the package ca-certificates.
#[test]
fn a_machine_that_trusts_nothing_needs_a_certificate_that_is_given() {
    let tls = Tls::new(&params("127.0.0.1"), None);
    let monitor = tls.monitor();
    let watch = |more: &[&str]| {
        let url = format!("wss://{}/", monitor.viewers);
        let bare = ["env", "-u", "SSL_CERT_DIR", "SSL_CERT_FILE=/dev/null", PROGRAM, "watch"];
        run_words(&[&bare[..], &[&url, "job"], more].concat())
    };
    let output = watch(&[]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    assert!(stderr(&output).contains("this system trusts no certificate"), "{}", stderr(&output));
    let output = watch(&["--ca", text(&tls.certificate())]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = watch(&["--ca", text(&Tls::new(&params("127.0.0.1"), None).certificate())]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    assert!(stderr(&output).contains("it is self-signed"), "{}", stderr(&output));
}

#[test]
fn a_certificate_of_an_unknown_issuer_is_trusted_if_the_issuer_is_given() {
    let key = || KeyPair::generate().expect("there is randomness");
    let (ca_params, ca_key) = (authority("The CA"), key());
    let ca = ca_params.self_signed(&ca_key).expect("a usable key").pem();
    let tls = Tls::new(&params("127.0.0.1"), Some(&Issuer::new(ca_params, ca_key)));
    let ca_file = tls.directory.path().join("ca.pem");
    write(&ca_file, ca).expect("it is ours");
    let monitor = tls.monitor();
    let url = format!("wss://{}/", monitor.viewers);
    fails(&[&url, "job"], 69, &["its issuer (CN=The CA", "is not trusted", "--ca"]);
    is_trusted(&monitor, &ca_file);
    is_trusted(&monitor, &tls.certificate());
    let script = format!("cat {} | exec \"$0\" watch {url} job --ca /dev/stdin", text(&ca_file));
    let output = Command::new("sh").args(["-c", &script, PROGRAM]).output().expect("sh runs");
    assert_eq!(output.status.code(), Some(0), "a pipe: {}", stderr(&output));
}

/// Somebody who has the key of a server that is trusted is not trusted for other names.
#[test]
fn a_certificate_that_is_none_of_a_ca_vouches_for_no_other() {
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        let key = KeyPair::generate().expect("there is randomness");
        let mut params_of_server = params("other.example");
        params_of_server.is_ca = is_ca;
        let pem = params_of_server.self_signed(&key).expect("a usable key").pem();
        let mut forged = params("127.0.0.1");
        forged.distinguished_name.push(DnType::CommonName, "a forged one");
        let tls = Tls::new(&forged, Some(&Issuer::new(params_of_server, key)));
        let given = tls.directory.path().join("given.pem");
        write(&given, pem).expect("it is ours");
        let monitor = tls.monitor();
        let url = format!("wss://{}/", monitor.viewers);
        fails(
            &[&url, "job", "--ca", text(&given)],
            69,
            &["is not trusted", "neither this certificate nor that of its issuer"],
        );
    }
}

#[test]
fn a_certificate_out_of_its_time_is_refused_also_if_it_is_given() {
    let with_dates = |from, to| {
        let mut params = params("127.0.0.1");
        (params.not_before, params.not_after) = (from, to);
        params
    };
    let (past, past_end) = (date_time_ymd(2001, 1, 2), date_time_ymd(2002, 6, 15));
    let (future, far) = (date_time_ymd(2101, 6, 15), date_time_ymd(2102, 1, 2));
    for (from, to, words) in [
        (past, past_end, &["it expired on 2002-06-1", "needs a new one"]),
        (future, far, &["it is valid only from 2101-06-1", "clock"]),
    ] {
        let tls = Tls::new(&with_dates(from, to), None);
        let monitor = tls.monitor();
        let url = format!("wss://{}/", monitor.viewers);
        fails(&[&url, "job", "--ca", text(&tls.certificate())], 69, words);
    }
}

/// A reader such as `| head -1`.
#[test]
fn a_reader_that_has_gone_ends_it_quietly_and_a_full_disk_is_an_error() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["job", "STARTED"]);
    let url = format!("ws://{}", monitor.viewers);
    let into = |output: Stdio| {
        let ran = Command::new(PROGRAM).args(["watch", "--json", &url, "job"]).stdout(output).output();
        let ran = ran.expect("the program starts");
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let (reader, unread) = std::io::pipe().expect("there are pipes");
    drop(reader);
    assert_eq!(into(unread.into()), (Some(0), String::new()));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("it is there");
    assert_eq!(into(full.into()).0, Some(74));
}
