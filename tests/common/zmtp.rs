//! A peer on the brokers' port that sends exactly the bytes of the test, right or wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::DEADLINE;

pub(crate) struct RawPeer {
    pub(crate) stream: TcpStream,
}

/// A command from the monitor: its name, and the bytes after it.
#[derive(Debug, PartialEq)]
pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) data: Vec<u8>,
}

impl RawPeer {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).expect("the monitor listens"))
    }

    /// Connects from an address of its own.
    pub(crate) fn connect_from(from: IpAddr, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(from, 0).into()).expect("an address of this machine");
        socket.connect(&address.into()).expect("the monitor listens");
        Self::of(socket.into())
    }

    fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout above zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout above zero");
        RawPeer { stream }
    }

    /// Connects and shakes hands as a DEALER.
    pub(crate) fn ready(address: SocketAddr) -> Self {
        Self::connect(address).shaken()
    }

    /// The same from another address. Returns once the monitor has accepted the link.
    pub(crate) fn placed(from: IpAddr, address: SocketAddr) -> Self {
        let mut peer = Self::connect_from(from, address).shaken();
        peer.send(&command("PING", &[0, 0]));
        assert_eq!(peer.read_command().name, "PONG");
        peer
    }

    fn shaken(mut self) -> Self {
        self.send(&greeted(&ready(&[("Socket-Type", b"DEALER"), ("Identity", b"")])));
        assert_eq!(self.read_greeting()[..10], [0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F]);
        assert_eq!(self.read_command().name, "READY");
        self
    }

    /// Ends sending, but not reading.
    pub(crate) fn shut_sending(&self) {
        let _ = self.stream.shutdown(Shutdown::Write); // the other side may have gone
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the monitor reads");
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends until all bytes are sent or the other side has closed.
    pub(crate) fn send_what_goes(&mut self, bytes: &[u8]) {
        let _ = self.try_send(bytes);
    }

    pub(crate) fn read_greeting(&mut self) -> [u8; 64] {
        let mut greeting = [0; 64];
        self.stream.read_exact(&mut greeting).expect("a greeting");
        // What stands in the eight bytes of the signature is anybody's choice.
        greeting[1..9].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1]);
        greeting
    }

    pub(crate) fn read_command(&mut self) -> Command {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).expect("a command");
        assert_eq!(head[0], 0x04, "a short command frame");
        let mut body = vec![0; usize::from(head[1])];
        self.stream.read_exact(&mut body).expect("a whole command");
        let name_end = 1 + usize::from(body[0]);
        Command {
            name: String::from_utf8(body[1..name_end].to_vec()).expect("names are ASCII"),
            data: body[name_end..].to_vec(),
        }
    }

    /// Asserts that the monitor closes this link, whatever it sends before.
    pub(crate) fn is_closed(&mut self) {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return,
                Err(error) => panic!("the monitor keeps this link: {error}"),
            }
        }
    }

    /// Asserts that the link stays open and is silent for `time`.
    pub(crate) fn is_silent_for(&mut self, time: Duration) {
        self.stream.set_read_timeout(Some(time)).expect("a timeout above zero");
        let read = self.stream.read(&mut [0]);
        self.stream.set_read_timeout(Some(DEADLINE)).expect("a timeout above zero");
        let kind = read.map_err(|error| error.kind());
        assert!(matches!(kind, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "the link is not silent: {kind:?}");
    }
}

/// A ZMTP 3.0 greeting with a mechanism of at most 20 bytes.
pub(crate) fn greeting(mechanism: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 3, 0];
    bytes.extend_from_slice(mechanism);
    bytes.resize(64, 0);
    bytes
}

/// A greeting, and what follows it.
pub(crate) fn greeted(rest: &[u8]) -> Vec<u8> {
    [&greeting(b"NULL"), rest].concat()
}

/// A READY command with these properties.
pub(crate) fn ready(properties: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (name, value) in properties {
        data.push(u8::try_from(name.len()).expect("a short name"));
        data.extend_from_slice(name.as_bytes());
        data.extend_from_slice(&u32::try_from(value.len()).expect("a short value").to_be_bytes());
        data.extend_from_slice(value);
    }
    command("READY", &data)
}

/// A command frame.
pub(crate) fn command(name: &str, data: &[u8]) -> Vec<u8> {
    let mut body = vec![u8::try_from(name.len()).expect("a short name")];
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(data);
    frame(0x04, &body)
}

/// A message of these parts.
pub(crate) fn message<P: AsRef<[u8]>>(parts: &[P]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let more = u8::from(index + 1 < parts.len());
        bytes.extend(frame(more, part.as_ref()));
    }
    bytes
}

/// Returns a frame with these flags, in the short form if possible.
pub(crate) fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = match u8::try_from(body.len()) {
        Ok(length) => vec![flags, length],
        Err(_) => long_head(flags, body.len() as u64),
    };
    bytes.extend_from_slice(body);
    bytes
}

/// Returns the head of a frame in the long form, whatever its length.
pub(crate) fn long_head(flags: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![flags | 0x02];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}
