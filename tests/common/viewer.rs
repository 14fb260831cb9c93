//! A browser, down to the byte: a small WebSocket client over a plain socket, or over TLS.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::DEADLINE;

/// The key in the example of RFC 6455, and the answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The mask need not be random; it only has to be used.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    /// The connection ended.
    Gone,
    /// The connection ended inside a frame.
    Cut,
}

/// The connection under the WebSocket.
enum Stream {
    Plain(TcpStream),
    Tls(Box<Session>),
}

/// A TLS session of a viewer.
pub(crate) type Session = StreamOwned<ClientConnection, TcpStream>;

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(session) => &session.sock,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Plain(tcp) => tcp.read(buffer),
            Stream::Tls(session) => session.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Stream::Plain(tcp) => tcp.write_all(bytes),
            Stream::Tls(session) => session.write_all(bytes),
        }
    }
}

pub(crate) struct Viewer {
    stream: Stream,
    unread: Vec<u8>,
    /// Every byte after the upgrade.
    pub(crate) received: Vec<u8>,
    /// The number of bytes that it reads at once.
    pub(crate) piece: usize,
    /// True once TLS has said that nothing more will come (`close_notify`).
    pub(crate) was_told: bool,
}

impl Viewer {
    /// Connects, upgrades and names a channel.
    pub(crate) fn watch(address: SocketAddr, channel: &str) -> Self {
        let mut viewer = Self::upgraded(address);
        viewer.send_text(channel);
        viewer
    }

    /// The same for a channel without messages. Returns once the monitor has read the channel id.
    pub(crate) fn subscribed(address: SocketAddr, channel: &str) -> Self {
        Self::watch(address, channel).once_subscribed()
    }

    fn once_subscribed(mut self) -> Self {
        self.send_frame(0x89, b"read?");
        assert_eq!(self.next(), Event::Pong(b"read?".to_vec()));
        self
    }

    /// The same as [`Viewer::subscribed`], but the kernel buffers little for a viewer that does not read.
    pub(crate) fn subscribed_with_small_buffer(address: SocketAddr, channel: &str) -> Self {
        // Still so much that one that reads is not slow.
        Self::connected(address).with_buffer(131_072).upgrade(&[]).subscribe(channel)
    }

    /// Makes the kernel buffer about this number of bytes for it until it reads.
    pub(crate) fn with_buffer(self, bytes: usize) -> Self {
        use nix::sys::socket::{setsockopt, sockopt::RcvBuf};
        setsockopt(self.stream.tcp(), RcvBuf, &bytes).expect("a TCP socket");
        self
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        self.stream.tcp().local_addr().expect("it is connected")
    }

    /// Connects and upgrades.
    pub(crate) fn upgraded(address: SocketAddr) -> Self {
        let mut viewer = Self::connected(address);
        viewer.send_raw(upgrade_request("/").as_bytes());
        viewer.read_upgrade();
        viewer
    }

    /// Only connects.
    pub(crate) fn connected(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).expect("the monitor listens"))
    }

    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout above zero");
        Self::over(Stream::Plain(stream))
    }

    fn over(stream: Stream) -> Self {
        Viewer { stream, unread: Vec::new(), received: Vec::new(), piece: 65536, was_told: false }
    }

    /// Shakes hands by TLS.
    pub(crate) fn secured(self, config: &Arc<ClientConfig>) -> Self {
        self.try_secured(config).expect("hands are shaken")
    }

    /// The same, but returns an error if the other side does not shake hands.
    pub(crate) fn try_secured(self, config: &Arc<ClientConfig>) -> std::io::Result<Self> {
        let Stream::Plain(tcp) = self.stream else { panic!("it speaks TLS already") };
        let name = tcp.peer_addr()?.ip().into();
        let tls = ClientConnection::new(Arc::clone(config), name).expect("a usable configuration");
        let mut session = StreamOwned::new(tls, tcp);
        session.sock.set_read_timeout(Some(DEADLINE))?;
        while session.conn.is_handshaking() {
            session.conn.complete_io(&mut session.sock)?;
        }
        Ok(Self::over(Stream::Tls(Box::new(session))))
    }

    /// Returns its TLS session.
    pub(crate) fn session(&mut self) -> &mut Session {
        match &mut self.stream {
            Stream::Tls(session) => session,
            Stream::Plain(_) => panic!("it speaks no TLS"),
        }
    }

    pub(crate) fn into_session(self) -> Session {
        match self.stream {
            Stream::Tls(session) => *session,
            Stream::Plain(_) => panic!("it speaks no TLS"),
        }
    }

    /// Only connects, from this address.
    pub(crate) fn connected_from(from: IpAddr, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(from, 0).into()).expect("an address of this machine");
        socket.connect(&address.into()).expect("the monitor listens");
        Self::of(socket.into())
    }

    /// Only connects, to a Unix socket.
    pub(crate) fn connected_to(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the monitor listens");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout above zero");
        // What is used of a TCP stream is what a Unix stream has, too.
        Self::over(Stream::Plain(OwnedFd::from(stream).into()))
    }

    /// Sends an upgrade request with more headers, and asserts that it is accepted.
    pub(crate) fn upgrade(mut self, headers: &[(&str, &str)]) -> Self {
        self.send_raw(upgrade_request_with("/", headers).as_bytes());
        self.read_upgrade();
        self
    }

    /// The same, but asserts that the request is refused. Returns the answer.
    pub(crate) fn refused(mut self, headers: &[(&str, &str)]) -> String {
        let _ = self.try_send_raw(upgrade_request_with("/", headers).as_bytes());
        String::from_utf8(self.raw_to_end()).expect("answers are text")
    }

    /// Names a channel without messages. Returns once the monitor has read the channel id.
    pub(crate) fn subscribe(mut self, channel: &str) -> Self {
        self.send_text(channel);
        self.once_subscribed()
    }

    /// Reads the answer to an upgrade request, and returns its head.
    pub(crate) fn read_upgrade(&mut self) -> String {
        let head = self.upgrade_or_end();
        head.unwrap_or_else(|| panic!("no upgrade, but: {:?}", String::from_utf8_lossy(&self.unread)))
    }

    /// The same, but returns `None` if the connection ends before, or if there is no room for a viewer.
    pub(crate) fn upgrade_or_end(&mut self) -> Option<String> {
        let end = Instant::now() + DEADLINE;
        let length = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill(end) {
                return None;
            }
        };
        if self.unread.starts_with(b"HTTP/1.1 503 ") {
            return None;
        }
        let head = String::from_utf8(self.unread.drain(..length).collect()).expect("heads are ASCII");
        self.received.drain(..length);
        assert!(head.starts_with("HTTP/1.1 101 "), "not upgraded: {head}");
        let accepted = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .any(|(name, value)| name.eq_ignore_ascii_case("Sec-WebSocket-Accept") && value == ACCEPT);
        assert!(accepted, "the key is not answered: {head}");
        Some(head)
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.try_send_raw(bytes).expect("the monitor reads");
    }

    pub(crate) fn try_send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        self.send_raw(&frame(0x81, text.as_bytes()));
    }

    /// Sends a frame whose first byte (FIN, reserved bits, opcode) is given.
    pub(crate) fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.send_raw(&frame(first, payload));
    }

    pub(crate) fn send_close(&mut self, code: u16) {
        self.send_frame(0x88, &code.to_be_bytes());
    }

    /// Ends sending, but not reading.
    pub(crate) fn shut_sending(&self) {
        let _ = self.stream.tcp().shutdown(Shutdown::Write); // the other side may have gone
    }

    /// Ends the connection with a reset, if it is over TCP.
    pub(crate) fn reset(self) {
        SockRef::from(self.stream.tcp()).set_linger(Some(Duration::ZERO)).expect("a socket");
    }

    /// Returns the number of bytes that wait in the kernel to be read.
    pub(crate) fn waiting(&self) -> u64 {
        rustix::io::ioctl_fionread(self.stream.tcp()).expect("a socket")
    }

    /// Returns the next frame, or the end, if one comes within `time`.
    ///
    /// # Panics
    /// If the frame is one that the monitor must not send: masked, fragmented, not encoded in the shortest way, or binary.
    pub(crate) fn next_within(&mut self, time: Duration) -> Option<Event> {
        let end = Instant::now() + time;
        loop {
            if let Some((opcode, payload)) = self.take_frame() {
                return Some(event(opcode, payload));
            }
            if Instant::now() >= end {
                return None;
            }
            if !self.fill(end) && Instant::now() < end {
                return Some(if self.unread.is_empty() { Event::Gone } else { Event::Cut });
            }
        }
    }

    /// Returns the next frame that is not a ping, and answers pings.
    pub(crate) fn next(&mut self) -> Event {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.next_within(left).unwrap_or_else(|| panic!("nothing came within {DEADLINE:?}")) {
                Event::Ping(payload) => drop(self.try_send_raw(&frame(0x8A, &payload))),
                event => return event,
            }
        }
    }

    /// Returns the next text. Any other frame than a ping fails the test.
    pub(crate) fn text(&mut self) -> String {
        match self.next() {
            Event::Text(text) => text,
            other => panic!("a text was to come, not {other:?}"),
        }
    }

    /// Asserts that these texts come next, each once and in this order.
    pub(crate) fn texts<T: AsRef<str>>(&mut self, expected: &[T]) {
        for (index, text) in expected.iter().enumerate() {
            assert_eq!(self.text(), text.as_ref(), "message {index}");
        }
    }

    /// Asserts that the server closes now with this code. Answers the close, and asserts that the connection ends.
    pub(crate) fn closes(&mut self, code: u16) {
        match self.next() {
            Event::Close(got) => assert_eq!(got, Some(code), "the close code"),
            other => panic!("close {code} was to come, not {other:?}"),
        }
        let _ = self.try_send_raw(&frame(0x88, &code.to_be_bytes()));
        assert_eq!(self.next(), Event::Gone, "nothing may follow a close");
    }

    /// Asserts that the monitor ends the subscription, not the job: it sends FINISHED, closes with this code, and the connection
    /// ends.
    pub(crate) fn is_ended_with(&mut self, code: u16) {
        self.texts(&[super::command("FINISHED")]);
        self.closes(code);
    }

    /// Asserts that nothing but pings comes for `time`.
    pub(crate) fn is_silent_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Some(event) = self.next_within(end.saturating_duration_since(Instant::now())) {
            let Event::Ping(payload) = event else { panic!("silence was to be, not {event:?}") };
            self.send_frame(0x8A, &payload);
        }
    }

    /// Returns all events up to the end of the connection. If that is inside a frame, the last event says so.
    pub(crate) fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next();
            match event {
                Event::Gone => return events,
                Event::Cut => {
                    events.push(event);
                    return events;
                }
                _ => {}
            }
            if let Event::Close(Some(code)) = event {
                let _ = self.try_send_raw(&frame(0x88, &code.to_be_bytes()));
            }
            events.push(event);
        }
    }

    /// Returns the bytes up to the end of the connection, which need not be frames.
    pub(crate) fn raw_to_end(&mut self) -> Vec<u8> {
        let end = Instant::now() + DEADLINE;
        while self.fill(end) {}
        assert!(Instant::now() < end, "still open; so far: {:?}", String::from_utf8_lossy(&self.unread));
        std::mem::take(&mut self.unread)
    }

    /// Returns the bytes up to the end of a head, or of the connection.
    pub(crate) fn raw_head(&mut self) -> Vec<u8> {
        let end = Instant::now() + DEADLINE;
        while !self.unread.windows(4).any(|four| four == b"\r\n\r\n") && self.fill(end) {}
        std::mem::take(&mut self.unread)
    }

    /// Returns true if the connection ends within `time`, whatever comes before.
    pub(crate) fn is_gone_within(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        while self.fill(end) {}
        Instant::now() < end
    }

    /// Reads more; false at the end of the connection or of the time.
    fn fill(&mut self, end: Instant) -> bool {
        let mut chunk = vec![0; self.piece];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.stream.tcp().set_read_timeout(Some(left)).expect("a timeout above zero");
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.was_told = matches!(self.stream, Stream::Tls(_));
                    return false;
                }
                Ok(length) => {
                    self.unread.extend_from_slice(&chunk[..length]);
                    self.received.extend_from_slice(&chunk[..length]);
                    return true;
                }
                Err(error) => match error.kind() {
                    // The last is the end of a TLS session that was not told.
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => return false,
                    ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                    _ => panic!("the viewer cannot read: {error}"),
                },
            }
        }
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let [first, second, rest @ ..] = self.unread.as_slice() else { return None };
        assert_eq!(first & 0xF0, 0x80, "whole frames without reserved bits: {first:#04x}");
        assert_eq!(second & 0x80, 0, "servers do not mask");
        let (length, head) = match second & 0x7F {
            126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
            127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).expect("a sane length"), 10),
            short => (usize::from(short), 2),
        };
        let shortest = if length < 126 {
            2
        } else if length < 65536 {
            4
        } else {
            10
        };
        assert_eq!(head, shortest, "a length of {length} in its shortest form");
        assert!(first & 0x08 == 0 || length < 126, "a control frame of {length} bytes");
        if self.unread.len() < head + length {
            return None;
        }
        let opcode = first & 0x0F;
        let payload = self.unread[head..head + length].to_vec();
        self.unread.drain(..head + length);
        Some((opcode, payload))
    }
}

fn event(opcode: u8, payload: Vec<u8>) -> Event {
    match opcode {
        0x1 => Event::Text(String::from_utf8(payload).expect("texts are UTF-8")),
        0x8 if payload.is_empty() => Event::Close(None),
        0x8 => {
            std::str::from_utf8(&payload[2..]).expect("reasons are UTF-8");
            Event::Close(Some(u16::from_be_bytes([payload[0], payload[1]])))
        }
        0x9 => Event::Ping(payload),
        0xA => Event::Pong(payload),
        other => panic!("no server frame has opcode {other:#x}: {payload:02x?}"),
    }
}

/// Returns a client's frame, masked, with the shortest form of its length.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | u8::try_from(short).expect("below 126")),
        middle @ 126..65536 => {
            bytes.push(0x80 | 0x7E);
            bytes.extend_from_slice(&u16::try_from(middle).expect("below 65536").to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 0x7F);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

pub(crate) fn upgrade_request(path: &str) -> String {
    upgrade_request_with(path, &[])
}

/// Returns an upgrade request with additional headers.
pub(crate) fn upgrade_request_with(path: &str, headers: &[(&str, &str)]) -> String {
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: monitor.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
    );
    for (name, value) in headers {
        write!(request, "{name}: {value}\r\n").expect("strings grow");
    }
    request + "\r\n"
}

/// The beginning of a PROXY header of version 2.
pub(crate) const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A PROXY header of version 2 for a TCP connection over IPv4 from port 4711, with `more` after the addresses.
pub(crate) fn proxy_header(client: [u8; 4], more: &[u8]) -> Vec<u8> {
    let length = u16::try_from(12 + more.len()).expect("it is short").to_be_bytes();
    [V2, &[0x21, 0x11], &length, &client, &[127, 0, 0, 1, 0x12, 0x67, 0, 80], more].concat()
}

/// Sends a request without changes, and returns the answer up to the end of the connection.
pub(crate) fn http(address: SocketAddr, request: &[u8]) -> String {
    let mut client = Viewer::connected(address);
    let _ = client.try_send_raw(request); // a server may answer before it has read everything
    String::from_utf8(client.raw_to_end()).expect("answers are text")
}
