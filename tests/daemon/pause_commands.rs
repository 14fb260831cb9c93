//! The commands after a pause (Ctrl-Z, SIGSTOP): they handle the monitor's bytes before their deadlines.
//!
//! TCP connects, handshakes of TLS and the close of a connection wait as the cases here do. A monitor is given up after 80 s of
//! silence, which no test waits for. `demo` has no other waits than `watch`.

use crate::common;

use common::pause::{arrived, paused_process};
use common::zmtp::{greeted, ready};
use common::{DEADLINE, PROGRAM, command, taken_port, until};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::tungstenite::{WebSocket, accept};

/// Longer than a command waits for an answer (5 s), by less than what counts as a pause.
const AFTER_AN_ANSWER: Duration = Duration::from_millis(5_500);
/// Longer than `watch` waits for the close after FINISHED (10 s), by less than what counts as a pause.
const AFTER_THE_CLOSE: Duration = Duration::from_millis(10_500);

fn start(args: &[&str]) -> Child {
    let mut program = Command::new(PROGRAM);
    program.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    program.spawn().expect("the program starts")
}

fn connection(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("the command connects");
    stream.set_nodelay(true).expect("a TCP socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout above zero");
    stream
}

/// Waits until a whole request is in the socket, and leaves it there.
fn wait_for_request(stream: &TcpStream) {
    let mut bytes = [0; 4096];
    until("a request", || {
        let length = stream.peek(&mut bytes).expect("it is connected");
        bytes[..length].windows(4).any(|four| four == b"\r\n\r\n").then_some(())
    });
}

fn is_there(stream: &TcpStream) {
    arrived(stream.local_addr().expect("it is connected"));
}

fn close(socket: &mut WebSocket<TcpStream>) {
    socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).expect("it is connected");
    socket.flush().expect("it is connected");
}

/// Reads until the command has closed, then waits for its end.
fn end(mut stream: impl Read, child: Child) -> Output {
    let _ = stream.read_to_end(&mut Vec::new());
    child.wait_with_output().expect("it is our child")
}

fn watches(address: SocketAddr) -> Child {
    start(&["watch", &format!("ws://{address}"), "job", "--json"])
}

#[test]
fn watch_takes_an_answer_to_its_handshake_that_has_come() {
    let (listener, address) = taken_port();
    let child = watches(address);
    let stream = connection(&listener);
    wait_for_request(&stream);
    let mut socket = paused_process(child.id(), AFTER_AN_ANSWER, || {
        let socket = accept(stream).expect("it is a WebSocket client's");
        is_there(socket.get_ref());
        socket
    });
    assert_eq!(socket.read().expect("the channel id"), Message::text("job"));
    socket.send(Message::text(command("FINISHED"))).expect("it is connected");
    close(&mut socket);
    while socket.read().is_ok() {}
    drop(socket);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it is our child");
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
    assert_eq!(String::from_utf8_lossy(&stdout), command("FINISHED") + "\n");
}

#[test]
fn watch_takes_a_close_after_finished_that_has_come() {
    let (listener, address) = taken_port();
    let mut child = watches(address);
    let mut socket = accept(connection(&listener)).expect("it is a WebSocket client's");
    socket.read().expect("the channel id");
    socket.send(Message::text(command("FINISHED"))).expect("it is connected");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("UTF-8");
    assert_eq!(line, command("FINISHED") + "\n");
    paused_process(child.id(), AFTER_THE_CLOSE, || {
        close(&mut socket);
        is_there(socket.get_ref());
    });
    while socket.read().is_ok() {}
    drop(socket);
    let Output { status, stderr, .. } = child.wait_with_output().expect("it is our child");
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
}

#[test]
fn status_takes_an_answer_that_has_come() {
    let (listener, address) = taken_port();
    let child = start(&["status", &address.to_string()]);
    let mut stream = connection(&listener);
    wait_for_request(&stream);
    paused_process(child.id(), AFTER_AN_ANSWER, || {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").expect("it is connected");
        is_there(&stream);
    });
    let Output { stderr, .. } = end(stream, child);
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(stderr.contains("it answers 404"), "{stderr}");
}

#[test]
fn publish_takes_a_handshake_that_has_come() {
    let (listener, address) = taken_port();
    let child = start(&["publish", "--address", &format!("tcp://{address}"), "job", "STARTED"]);
    let mut stream = connection(&listener);
    // Its greeting.
    stream.read_exact(&mut [0; 64]).expect("a greeting");
    paused_process(child.id(), AFTER_AN_ANSWER, || {
        stream
            .write_all(&greeted(&ready(&[("Socket-Type", b"DEALER"), ("Identity", b"recodex-monitor")])))
            .expect("it is connected");
        is_there(&stream);
    });
    let Output { status, stderr, .. } = end(stream, child);
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
}
