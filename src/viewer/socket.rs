//! A viewer's WebSocket after the upgrade. tungstenite reads the viewer's bytes; its answers are kept back until they may be written,
//! which is only between two frames of the log.

use super::frame_buffer::FrameBuffer;
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

/// A WebSocket whose owner decides when control frames are written.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    protocol: WebSocketContext,
    frames: FrameBuffer,
    /// Control frames that wait for the end of the current frame; once the socket closes, all bytes that are still to be sent.
    control: Vec<u8>,
    /// True once reading has failed, after which tungstenite must not read again.
    failed: bool,
}

/// The parts of a socket that another process needs to go on with it.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) stream: Stream,
    pub(super) protocol: Protocol,
    /// The viewer's bytes that were not dealt with.
    pub(super) frames: FrameBuffer,
    /// The bytes to be sent before anything else.
    pub(super) unsent: Vec<u8>,
}

/// The state of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Messages may be sent both ways.
    Open,
    /// A close frame was sent and not answered.
    Closing,
    /// Nothing that comes matters any more.
    Closed,
}

/// The result of a read.
#[derive(Debug)]
pub(super) enum Received {
    /// A whole message.
    Message(Message),
    /// Bytes, of which there may be more.
    Part,
    /// All there is for now.
    Nothing,
}

/// The stream that tungstenite reads from and writes to.
struct Wire<'a> {
    stream: &'a mut Stream,
    frames: &'a mut FrameBuffer,
    control: &'a mut Vec<u8>,
    /// The number of bytes that may still be read.
    readable: usize,
    /// The bound on the length of `control`.
    limit: usize,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.frames.forget_given();
        if self.frames.is_empty() {
            let mut chunk = [0; CHUNK];
            let length = CHUNK.min(self.readable);
            if length == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = self.stream.try_read(&mut chunk[..length])?;
            self.readable -= count;
            self.frames.push(&chunk[..count]);
        }
        Ok(self.frames.give(buffer))
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
    /// Creates the socket of a viewer that has sent `frames` and is still to get `unsent`.
    pub(super) fn new(stream: Stream, frames: FrameBuffer, unsent: Vec<u8>) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(CONTROL_LIMIT)
            .max_message_size(Some(MAX_INCOMING))
            .max_frame_size(Some(MAX_INCOMING));
        let mut socket = Self {
            stream,
            protocol: WebSocketContext::new(Role::Server, Some(config)),
            frames: FrameBuffer::default(),
            control: unsent,
            failed: false,
        };
        if frames.is_in_message() {
            // The protocol has to know that a message was begun; nobody looks at its text.
            socket.frames.push(b"\x02\x80\0\0\0\0");
            let (protocol, mut wire) = socket.split(0, CONTROL_LIMIT);
            let _ = protocol.read(&mut wire);
        }
        socket.frames = frames;
        socket
    }

    /// Creates a socket that another process was closing. `unanswered` is true if the viewer has not answered its close frame.
    pub(super) fn closing(stream: Stream, frames: FrameBuffer, unsent: Vec<u8>, unanswered: bool) -> Self {
        let mut socket = Self::new(stream, frames, unsent);
        if unanswered {
            // The close frame was sent, or is in `unsent`.
            let unsent = std::mem::take(&mut socket.control);
            let (protocol, mut wire) = socket.split(0, usize::MAX);
            let _ = protocol.close(&mut wire, None);
            socket.control = unsent;
        } else {
            socket.failed = true;
        }
        socket
    }

    /// Returns the protocol and its stream, of which it may read `readable` bytes, and write until `limit` bytes are kept back.
    fn split(&mut self, readable: usize, limit: usize) -> (&mut WebSocketContext, Wire<'_>) {
        let Self { stream, protocol, frames, control, .. } = self;
        (protocol, Wire { stream, frames, control, readable, limit })
    }

    /// Returns the stream, for waiting and for writing frames.
    pub(super) fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Takes the socket apart for another process.
    pub(super) fn into_parts(mut self) -> Parts {
        let gone = self.flush().is_err() || self.failed || !self.protocol.can_read();
        let protocol = match self.protocol.can_write() {
            true if !gone => Protocol::Open,
            false if !gone => Protocol::Closing,
            _ => Protocol::Closed,
        };
        Parts { stream: self.stream, protocol, frames: self.frames, unsent: self.control }
    }

    /// Returns true if nothing is under way in either direction: the socket of a viewer that may become quiet. All that was there must have
    /// been read before.
    ///
    /// TLS is always under way, since its records are encrypted here.
    pub(super) fn is_idle(&mut self) -> bool {
        let is_open = !self.failed && self.protocol.can_read() && self.protocol.can_write();
        let has_all_frames = self.frames.bytes().is_empty() && !self.frames.is_in_message();
        !self.stream.is_tls() && is_open && has_all_frames && self.flush().is_ok() && !self.has_control()
    }

    /// Reads the viewer's bytes, up to the end of a message. Fails if the viewer is gone, or broke the protocol or a limit.
    pub(super) fn receive(&mut self) -> Result<Received, Error> {
        let (protocol, mut wire) = self.split(READ_LIMIT, CONTROL_LIMIT);
        let read = protocol.read(&mut wire);
        let readable = wire.readable;
        self.frames.forget_given();
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

    /// Returns true if control frames wait to be written.
    pub(super) fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    /// Writes control frames; true once none is left, here or on its way to the kernel. May be called only between two frames.
    pub(super) fn write_control(&mut self) -> io::Result<bool> {
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
    pub(super) fn ping(&mut self) {
        // If the queue is full, the ping is dropped. It is not needed: the queue already has one that the viewer has not read.
        let (protocol, mut wire) = self.split(0, CONTROL_LIMIT);
        let _ = protocol.write(&mut wire, Message::Ping(<_>::default()));
    }

    /// Waits for the next message; answers to the viewer's pings go out meanwhile. May be called only between two frames.
    pub(super) async fn message(&mut self) -> Result<Message, Error> {
        loop {
            // A viewer that sends without end must neither hold up the others nor escape its deadline.
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

    /// Puts `rest`, the end of a frame that was begun, before the control frames. Nothing else may be written any more.
    pub(super) fn put_first(&mut self, rest: &[u8]) {
        self.control.splice(0..0, rest.iter().copied());
    }

    /// Queues FINISHED, if `finish` asks for it, and a close frame; [`Socket::close_out`] sends them. Does nothing if the viewer has
    /// closed.
    pub(super) fn begin_close(&mut self, code: CloseCode, reason: &'static str, finish: bool) -> Result<(), Error> {
        self.flush()?;
        if finish && self.protocol.can_write() {
            self.control.extend_from_slice(RELEASE_FRAME);
        }
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        let (protocol, mut wire) = self.split(0, usize::MAX);
        protocol.close(&mut wire, Some(frame))
    }

    /// Sends the control frames, and waits until the viewer has answered its close frame and is gone.
    pub(super) async fn close_out(&mut self) -> Result<(), Error> {
        // After an error of the protocol nothing can be read.
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

    /// Moves the protocol's answers to the control frames: those in its buffer, then a pong that it had no room for.
    fn flush(&mut self) -> Result<(), Error> {
        let (protocol, mut wire) = self.split(0, usize::MAX);
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
