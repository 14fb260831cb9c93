//! A viewer's WebSocket after the upgrade: what it sends is read through tungstenite, and what tungstenite answers is
//! kept back until it may be written, which is only between two frames of the log.

use super::frame_buffer::Incoming;
use crate::net::stream::Stream;
use crate::wire::message::RELEASE_FRAME;
use std::io::{self, Read, Write};
use tokio::io::Interest;
use tokio::task::yield_now;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

/// The longest message a viewer may send, in bytes: far more than a channel id, little enough for many viewers.
pub const MAX_INCOMING: usize = 4 * 1024;

/// The read buffer of a viewer, in bytes; tungstenite allocates it at once and keeps it. A channel id of the usual length fits.
const READ_BUFFER: usize = 64;
/// The most control bytes kept back: a close frame and a few pongs.
const CONTROL_LIMIT: usize = 512;
/// The most bytes asked of the kernel at once.
const CHUNK: usize = 128;
/// The most bytes read in one turn, whether or not they make a message: empty fragments may go on for ever.
const READ_LIMIT: usize = 1024;

/// A WebSocket that leaves it to its owner when control frames are written.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    protocol: WebSocketContext,
    incoming: Incoming,
    /// Control frames that wait for the end of the current frame; once it closes, everything that is to be sent.
    control: Vec<u8>,
    /// Whether reading failed, after which tungstenite must not read again.
    failed: bool,
}

/// What a socket leaves to another process.
#[derive(Debug)]
pub struct Left {
    /// The stream.
    pub stream: Stream,
    /// How far the protocol is.
    pub protocol: Protocol,
    /// What came and was not dealt with.
    pub incoming: Incoming,
    /// What is to be sent before anything else.
    pub unsent: Vec<u8>,
}

/// How far the protocol is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Messages may be sent both ways.
    Open,
    /// A close frame was sent and not answered.
    Closing,
    /// Nothing that comes matters any more.
    Closed,
}

/// What reading came to.
#[derive(Debug)]
pub enum Received {
    /// A whole message.
    Message(Message),
    /// Bytes, of which there may be more.
    Part,
    /// All there is for now.
    Nothing,
}

/// What tungstenite reads from and writes to.
struct Wire<'a> {
    stream: &'a mut Stream,
    incoming: &'a mut Incoming,
    control: &'a mut Vec<u8>,
    /// How many bytes may still be read.
    readable: usize,
    /// How long `control` may get.
    limit: usize,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.incoming.settle();
        if self.incoming.is_empty() {
            let mut chunk = [0; CHUNK];
            let length = CHUNK.min(self.readable);
            if length == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = self.stream.try_read(&mut chunk[..length])?;
            self.readable -= count;
            self.incoming.push(&chunk[..count]);
        }
        Ok(self.incoming.give(buffer))
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.control.len() + bytes.len() > self.limit {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.control.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket {
    /// A socket whose peer has sent `incoming` and is still to get `unsent`.
    #[must_use]
    pub fn new(stream: Stream, incoming: Incoming, unsent: Vec<u8>) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(CONTROL_LIMIT)
            .max_message_size(Some(MAX_INCOMING))
            .max_frame_size(Some(MAX_INCOMING));
        let mut socket = Self {
            stream,
            protocol: WebSocketContext::new(Role::Server, Some(config)),
            incoming: Incoming::default(),
            control: unsent,
            failed: false,
        };
        if incoming.is_in_message() {
            // The protocol has to know that a message was begun, and nobody looks at what is in it.
            let Self { stream, protocol, incoming, control, .. } = &mut socket;
            incoming.push(b"\x02\x80\0\0\0\0");
            let _ = protocol.read(&mut Wire { stream, incoming, control, readable: 0, limit: CONTROL_LIMIT });
        }
        socket.incoming = incoming;
        socket
    }

    /// The stream, for waiting and for writing frames.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// One that another process was closing. `answer` is whether the viewer has still to answer its close frame.
    #[must_use]
    pub fn closing(stream: Stream, incoming: Incoming, unsent: Vec<u8>, answer: bool) -> Self {
        let mut socket = Self::new(stream, incoming, unsent);
        if answer {
            let Self { stream, protocol, incoming, .. } = &mut socket;
            let control = &mut Vec::new();
            let _ = protocol.close(&mut Wire { stream, incoming, control, readable: 0, limit: usize::MAX }, None);
        } else {
            socket.failed = true;
        }
        socket
    }

    /// What another process needs to go on with it.
    #[must_use]
    pub fn leave(mut self) -> Left {
        let gone = self.flush().is_err() || self.failed || !self.protocol.can_read();
        let protocol = match self.protocol.can_write() {
            true if !gone => Protocol::Open,
            false if !gone => Protocol::Closing,
            _ => Protocol::Closed,
        };
        Left { stream: self.stream, protocol, incoming: self.incoming, unsent: self.control }
    }

    /// Reads what the viewer sent, up to the end of a message.
    ///
    /// # Errors
    /// Those of tungstenite: the viewer is gone, or it broke the protocol or a limit.
    pub fn receive(&mut self) -> Result<Received, Error> {
        let Self { stream, protocol, incoming, control, .. } = self;
        let mut wire = Wire { stream, incoming, control, readable: READ_LIMIT, limit: CONTROL_LIMIT };
        let read = protocol.read(&mut wire);
        let readable = wire.readable;
        self.incoming.settle();
        match read {
            Ok(message) => Ok(Received::Message(message)),
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                Ok(if readable == 0 { Received::Part } else { Received::Nothing })
            }
            Err(e) => {
                self.failed = true;
                Err(e)
            }
        }
    }

    /// Whether control frames wait to be written.
    #[must_use]
    pub fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    /// Writes control frames; true once none is left, here or on its way to the kernel. May be called only between two frames.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn write_control(&mut self) -> io::Result<bool> {
        while !self.control.is_empty() {
            match self.stream.try_write(&self.control) {
                Ok(count) => drop(self.control.drain(..count)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        self.control = Vec::new();
        self.stream.flush()
    }

    /// Queues a ping.
    pub fn ping(&mut self) {
        // A ping that finds the queue full is not missed: an unread one is in it already.
        let Self { stream, protocol, incoming, control, .. } = self;
        let mut wire = Wire { stream, incoming, control, readable: 0, limit: CONTROL_LIMIT };
        let _ = protocol.write(&mut wire, Message::Ping(<_>::default()));
    }

    /// The next message; answers to the viewer's pings go out meanwhile. May be called only between two frames.
    ///
    /// # Errors
    /// As [`Socket::receive`].
    pub async fn message(&mut self) -> Result<Message, Error> {
        loop {
            // Who sends without end must neither hold up the others nor escape its deadline.
            yield_now().await;
            let received = self.receive();
            let written = self.write_control()?;
            match received? {
                Received::Message(message) => return Ok(message),
                Received::Part => {}
                Received::Nothing => {
                    let interest = if written { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
                    self.stream.ready(interest).await?;
                }
            }
        }
    }

    /// Has `rest`, which ends the frame that was begun, sent before what was kept back. Nothing else may be written any more.
    pub fn put_first(&mut self, rest: &[u8]) {
        self.control.splice(0..0, rest.iter().copied());
    }

    /// Has FINISHED, if `finish` asks for it, and a close frame sent after what was kept back; [`Socket::close_out`] sends it all.
    /// Nothing happens if the viewer has closed.
    ///
    /// # Errors
    /// Those of tungstenite.
    pub fn begin_close(&mut self, code: CloseCode, reason: &'static str, finish: bool) -> Result<(), Error> {
        self.flush()?;
        if finish && self.protocol.can_write() {
            self.control.extend_from_slice(RELEASE_FRAME);
        }
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        let Self { stream, protocol, incoming, control, .. } = self;
        let mut wire = Wire { stream, incoming, control, readable: 0, limit: usize::MAX };
        protocol.close(&mut wire, Some(frame))
    }

    /// Sends what was kept back, and waits for the viewer to answer a close frame that it was sent, and to go.
    ///
    /// # Errors
    /// The viewer is gone.
    pub async fn close_out(&mut self) -> Result<(), Error> {
        // What broke the protocol cannot be read on.
        if !self.failed && self.protocol.can_read() {
            loop {
                if let Err(e) = self.message().await {
                    // Both have closed; TLS has a close of its own.
                    if self.stream.is_tls() {
                        let _ = self.stream.shut();
                    }
                    return Err(e);
                }
            }
        }
        Ok(self.finish().await?)
    }

    /// Has the protocol's answers kept back with what is there already: what is in its buffer, then a pong that it had no room for.
    fn flush(&mut self) -> Result<(), Error> {
        let Self { stream, protocol, incoming, control, .. } = self;
        let mut wire = Wire { stream, incoming, control, readable: 0, limit: usize::MAX };
        protocol.flush(&mut wire)?;
        protocol.flush(&mut wire)
    }

    async fn finish(&mut self) -> io::Result<()> {
        while !self.write_control()? {
            self.stream.ready(Interest::WRITABLE).await?;
        }
        self.stream.shutdown().await?;
        // Unread bytes would turn the end into a reset, and that may overtake the close frame.
        self.stream.drain().await
    }
}
