//! A viewer's WebSocket after the upgrade: what it sends is read through tungstenite, and what tungstenite answers is
//! kept back until it may be written, which is only between two frames of the log.

use std::io::{self, Read, Write};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
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
/// The most bytes read at once, whether or not they make a message: empty fragments may go on for ever.
const READ_LIMIT: usize = 1024;

/// A WebSocket that leaves it to its owner when control frames are written.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    protocol: WebSocketContext,
    /// Control frames that wait for the end of the current frame.
    control: Vec<u8>,
    /// Whether reading failed, after which tungstenite must not read again.
    failed: bool,
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
    stream: &'a TcpStream,
    control: &'a mut Vec<u8>,
    /// How many bytes may still be read.
    readable: usize,
    /// How long `control` may get.
    limit: usize,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.readable);
        if length == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = self.stream.try_read(&mut buffer[..length])?;
        self.readable -= count;
        Ok(count)
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
    /// A socket whose peer sent `rest` right after its request.
    #[must_use]
    pub fn new(stream: TcpStream, rest: Vec<u8>) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(CONTROL_LIMIT)
            .max_message_size(Some(MAX_INCOMING))
            .max_frame_size(Some(MAX_INCOMING));
        let protocol = WebSocketContext::from_partially_read(rest, Role::Server, Some(config));
        Self { stream, protocol, control: Vec::new(), failed: false }
    }

    /// The TCP stream, for waiting and for writing frames.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads what the viewer sent, up to the end of a message.
    ///
    /// # Errors
    /// Those of tungstenite: the viewer is gone, or it broke the protocol or a limit.
    pub fn receive(&mut self) -> Result<Received, Error> {
        let mut wire =
            Wire { stream: &self.stream, control: &mut self.control, readable: READ_LIMIT, limit: CONTROL_LIMIT };
        match self.protocol.read(&mut wire) {
            Ok(message) => Ok(Received::Message(message)),
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                Ok(if wire.readable == 0 { Received::Part } else { Received::Nothing })
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

    /// Writes control frames; true once none is left. May be called only between two frames.
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
        Ok(true)
    }

    /// Queues a ping.
    pub fn ping(&mut self) {
        // A ping that finds the queue full is not missed: an unread one is in it already.
        let mut wire = Wire { stream: &self.stream, control: &mut self.control, readable: 0, limit: CONTROL_LIMIT };
        let _ = self.protocol.write(&mut wire, Message::Ping(<_>::default()));
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

    /// Closes: sends `rest`, which ends the frame that was begun, and a close frame, and waits for the viewer's.
    ///
    /// # Errors
    /// The viewer is gone.
    pub async fn close(&mut self, rest: &[u8], code: CloseCode, reason: &'static str) -> Result<(), Error> {
        self.stream.write_all(rest).await?;
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        let mut wire = Wire { stream: &self.stream, control: &mut self.control, readable: 0, limit: usize::MAX };
        // What was kept back goes first, as nothing may follow the close frame: what is in the buffer, then a pong that it
        // had no room for.
        self.protocol.flush(&mut wire)?;
        self.protocol.flush(&mut wire)?;
        self.protocol.close(&mut wire, Some(frame))?;
        if !self.failed {
            loop {
                self.message().await?;
            }
        }
        // What broke the protocol cannot be read on.
        self.finish(&[]).await?;
        Ok(())
    }

    /// Sends `rest`, which ends the frame that was begun, and what was kept back, and waits for the viewer to go.
    ///
    /// # Errors
    /// The viewer is gone.
    pub async fn finish(&mut self, rest: &[u8]) -> io::Result<()> {
        self.stream.write_all(rest).await?;
        self.stream.write_all(&self.control).await?;
        self.stream.shutdown().await?;
        // Unread bytes would turn the end into a reset, and that may overtake the close frame.
        while self.stream.read(&mut [0; 1024]).await? > 0 {}
        Ok(())
    }
}
