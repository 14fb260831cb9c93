//! A client of the status listener: one request for each connection, since the listener answers only one.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use super::exposition::{Format, Metrics};
use super::{DEADLINE, Monitor, until};
use serde_json::Value;

/// The line of a configuration that turns the status listener on.
pub(crate) const STATUS: &str = "status_uri: [\"127.0.0.1\", 0]\n";

/// Returns the address of the status listener of a monitor with [`STATUS`].
pub(crate) fn status(monitor: &Monitor) -> SocketAddr {
    monitor.wait_log("listening for status requests on ");
    monitor.addresses("status requests")[0]
}

/// Returns the report of a monitor with [`STATUS`] on its state now.
pub(crate) fn report(monitor: &Monitor) -> Value {
    let answer = get(status(monitor), "/status");
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).expect("the report is JSON")
}

/// Waits until a monitor with [`STATUS`] has this number of viewers. Connections that have sent nothing count, too.
pub(crate) fn wait_viewers(monitor: &Monitor, count: usize) {
    until(&format!("{count} viewers are there"), || (report(monitor)["viewers"]["now"] == count).then_some(()));
}

/// Returns the current metrics, in the format that Prometheus asks for.
pub(crate) fn metrics(address: SocketAddr) -> Metrics {
    let answer = ask(address, "GET", "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n");
    Metrics::parse(&answer.body, Format::OpenMetrics)
}

/// An answer, read to the end of its connection.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Returns the value of this header, if there is one. Fails if the header occurs twice.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut found = found.by_ref().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let value = found.next();
        assert_eq!(found.next(), None, "{name} is there twice:\n{}", self.head);
        value
    }

    fn read(mut stream: impl Read) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("it answers, and closes");
        let text = String::from_utf8(bytes).expect("answers are text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no whole head: {text:?}"));
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let mut answer = Answer { status: status.expect("a status"), head: head.to_owned(), body: body.to_owned() };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = unchunked(body);
        }
        answer
    }
}

/// Joins the content of these chunks, of which the last is empty.
fn unchunked(mut chunks: &str) -> String {
    let mut text = String::new();
    loop {
        let (length, rest) = chunks.split_once("\r\n").expect("a length");
        let length = usize::from_str_radix(length, 16).expect("a length in hexadecimal digits");
        if length == 0 {
            return text;
        }
        text.push_str(&rest[..length]);
        chunks = rest[length..].strip_prefix("\r\n").expect("a chunk ends with its line");
    }
}

/// Asks for `path` with these headers, each with its line break.
pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = connect(address);
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    Answer::read(stream)
}

/// Asks for `path` through a Unix socket, by this name of the host.
pub(crate) fn ask_unix(socket: &Path, path: &str, host: &str) -> Answer {
    let mut stream = UnixStream::connect(socket).expect("the monitor listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout above zero");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    Answer::read(stream)
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path, "")
}

/// Reads the answer on a connection to which the whole request was sent.
pub(crate) fn answer(stream: TcpStream) -> Answer {
    Answer::read(stream)
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the monitor listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout above zero");
    stream.set_write_timeout(Some(DEADLINE)).expect("a timeout above zero");
    stream
}

/// Asserts that the other side has closed, or closes within the deadline. Returns the bytes before the close.
pub(crate) fn read_to_close(mut stream: &TcpStream) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return all,
            Ok(length) => all.extend_from_slice(&piece[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return all,
            Err(error) => panic!("the connection stays: {error}"),
        }
    }
}

/// A stream of server-sent events.
pub(crate) struct Events {
    stream: TcpStream,
    /// Received bytes that are not decoded yet: chunks with their lengths.
    chunked: Vec<u8>,
    text: String,
    ended: bool,
}

impl Events {
    pub(crate) fn open(address: SocketAddr, path: &str) -> Self {
        let mut stream = connect(address);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut events = Events { stream, chunked: Vec::new(), text: String::new(), ended: false };
        let length = loop {
            if let Some(at) = events.chunked.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(events.fill(), "a head was to come, not {:?}", String::from_utf8_lossy(&events.chunked));
        };
        let head = String::from_utf8(events.chunked.drain(..length).collect()).expect("heads are ASCII");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        events
    }

    /// The next event: its name and its data.
    pub(crate) fn next(&mut self) -> (String, String) {
        self.next_or_end().expect("an event was to come, not the end")
    }

    /// Returns the data of the next event of this name, and skips the events before it.
    pub(crate) fn next_of(&mut self, name: &str) -> String {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < DEADLINE, "no event {name}");
            let (found, data) = self.next();
            if found == name {
                return data;
            }
        }
    }

    /// The same as JSON.
    pub(crate) fn next_json(&mut self, name: &str) -> serde_json::Value {
        serde_json::from_str(&self.next_of(name)).expect("the data is JSON")
    }

    /// Asserts that this is the next event.
    pub(crate) fn is_next(&mut self, name: &str, data: &str) {
        assert_eq!(self.next(), (name.to_owned(), data.to_owned()));
    }

    /// The next event, or `None` at the proper end of the stream.
    ///
    /// # Panics
    /// If the monitor sends anything but an event in its usual form, or the stream is cut.
    pub(crate) fn next_or_end(&mut self) -> Option<(String, String)> {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < DEADLINE, "signs of life were all that came");
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if event == ":" {
                    continue;
                }
                let (name, data) = event.split_once('\n').unwrap_or_else(|| panic!("no event: {event:?}"));
                let name = name.strip_prefix("event: ").unwrap_or_else(|| panic!("no name: {event:?}"));
                let data = data.strip_prefix("data: ").unwrap_or_else(|| panic!("no data: {event:?}"));
                assert!(!data.contains(['\n', '\r']), "data of one line: {event:?}");
                return Some((name.to_owned(), data.to_owned()));
            }
            if self.ended {
                assert_eq!(self.text, "", "the stream ended inside an event");
                return None;
            }
            if !self.take_chunk() {
                assert!(self.fill(), "the stream was cut");
            }
        }
    }

    /// Decodes a chunk, if there is a whole one.
    fn take_chunk(&mut self) -> bool {
        let Some(line) = self.chunked.windows(2).position(|two| two == b"\r\n") else { return false };
        let length = std::str::from_utf8(&self.chunked[..line]).expect("a length in ASCII");
        let length = usize::from_str_radix(length, 16).expect("a length in hexadecimal digits");
        let end = line + 2 + length;
        if self.chunked.len() < end + 2 {
            return false;
        }
        assert_eq!(self.chunked[end..end + 2], *b"\r\n", "a chunk ends with its line");
        self.text.push_str(std::str::from_utf8(&self.chunked[line + 2..end]).expect("events are UTF-8"));
        self.chunked.drain(..end + 2);
        self.ended = length == 0;
        true
    }

    /// Reads more; false at the end.
    fn fill(&mut self) -> bool {
        let mut piece = vec![0; 65536];
        let length = self.stream.read(&mut piece).expect("there is more to come");
        self.chunked.extend_from_slice(&piece[..length]);
        length > 0
    }
}
