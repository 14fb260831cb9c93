//! A viewer's WebSocket after the upgrade: what it sends is read through tungstenite, and what tungstenite answers is
//! kept back until it may be written, which is only between two frames of the log.

use std::io::{self, Read, Write};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

/// The longest message a viewer may send, in bytes: far more than a channel id, little enough for many viewers.
pub const MAX_INCOMING: usize = 4 * 1024;

/// The read buffer of a viewer, in bytes; tungstenite allocates it at once and keeps it.
const READ_BUFFER: usize = 128;
/// The most control bytes kept back: a close frame and a few pongs.
const CONTROL_LIMIT: usize = 512;

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

/// What tungstenite reads from and writes to.
struct Wire<'a> {
    stream: &'a TcpStream,
    control: &'a mut Vec<u8>,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.try_read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.control.len() + bytes.len() > CONTROL_LIMIT {
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

    /// The next message the viewer sent, if it is whole.
    ///
    /// # Errors
    /// Those of tungstenite: the viewer is gone, or it broke the protocol or a limit.
    pub fn receive(&mut self) -> Result<Option<Message>, Error> {
        let mut wire = Wire { stream: &self.stream, control: &mut self.control };
        match self.protocol.read(&mut wire) {
            Ok(message) => Ok(Some(message)),
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
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
        let _ = self
            .protocol
            .write(&mut Wire { stream: &self.stream, control: &mut self.control }, Message::Ping(<_>::default()));
    }

    /// The next message; answers to the viewer's pings go out meanwhile. May be called only between two frames.
    ///
    /// # Errors
    /// As [`Socket::receive`].
    pub async fn message(&mut self) -> Result<Message, Error> {
        loop {
            let received = self.receive();
            let written = self.write_control()?;
            if let Some(message) = received? {
                return Ok(message);
            }
            let interest = if written { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            self.stream.ready(interest).await?;
        }
    }

    /// Closes: sends `rest`, which ends the frame that was begun, and a close frame, and waits for the viewer's.
    ///
    /// # Errors
    /// The viewer is gone.
    pub async fn close(&mut self, rest: &[u8], code: CloseCode, reason: &'static str) -> Result<(), Error> {
        self.stream.write_all(rest).await?;
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        let mut wire = Wire { stream: &self.stream, control: &mut self.control };
        self.protocol.close(&mut wire, Some(frame))?;
        if !self.failed {
            loop {
                self.message().await?;
            }
        }
        // What broke the protocol cannot be read on, but must be taken: unread bytes would turn the end into a reset,
        // and that may overtake the close frame.
        self.stream.write_all(&self.control).await?;
        self.stream.shutdown().await?;
        while self.stream.read(&mut [0; 1024]).await? > 0 {}
        Ok(())
    }
}
