//! A viewer's connection: TCP, TLS over it, or a Unix socket, each read and written without waiting.

use socket2::{Domain, SockRef};
use std::io::{self, Read, Write};
use std::net;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net as unix;
use std::task::{Context, Poll};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::yield_now;
use tokio_rustls::rustls::ServerConnection;

/// The number of bytes that wait in the kernel to be sent to a peer before its socket counts as not writable: a burst of frames, and
/// more than fits on the way to most viewers. Without it the kernel would buffer megabytes for a peer that does not read.
pub const NOTSENT_LOWAT: u32 = 64 * 1024;

/// The most bytes that one write to a TLS session takes: those of one record (RFC 8446, section 5.1). This also bounds the encrypted
/// bytes that wait in the process until the kernel takes them.
const RECORD: usize = 16 * 1024;
/// The number of times that a TLS session may read records without data before other tasks have their turn.
const EMPTY_READS: usize = 4;

/// A viewer's connection.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<Session>),
    /// A Unix socket.
    Unix(UnixStream),
}

/// A TLS session after its handshake.
#[derive(Debug)]
pub struct Session {
    tcp: TcpStream,
    tls: ServerConnection,
}

/// The socket that rustls reads from and writes to.
pub(crate) struct Raw<'a>(pub(crate) &'a TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Session {
    /// Creates a session whose handshake is over.
    pub(super) fn new(tcp: TcpStream, mut tls: ServerConnection) -> Box<Self> {
        tls.set_buffer_limit(Some(RECORD));
        Box::new(Self { tcp, tls })
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for _ in 0..EMPTY_READS {
            match self.tls.reader().read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // The client disconnected without a close of TLS, as many do.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            self.tls.read_tls(&mut Raw(&self.tcp))?;
            let processed = self.tls.process_new_packets();
            // An alert, or an answer to a key update.
            let _ = self.flush();
            processed.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        }
        // There may be more; the socket stays readable.
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.flush()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = self.tls.writer().write(&bytes[..bytes.len().min(RECORD)])?;
        self.flush()?;
        Ok(count)
    }

    /// Returns true if the kernel has taken all bytes that waited.
    fn flush(&mut self) -> io::Result<bool> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Raw(&self.tcp)) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

impl Stream {
    /// Adopts a socket of another process. Must be called in a tokio runtime.
    pub(crate) fn adopt(socket: OwnedFd) -> io::Result<Self> {
        SockRef::from(&socket).set_nonblocking(true)?;
        if SockRef::from(&socket).domain()? == Domain::UNIX {
            return UnixStream::from_std(unix::UnixStream::from(socket)).map(Self::Unix);
        }
        TcpStream::from_std(net::TcpStream::from(socket)).map(Self::Tcp)
    }

    /// Returns the socket, for another process; a TLS session has none, since its keys stay here.
    pub(crate) fn into_socket(self) -> Option<OwnedFd> {
        match self {
            Self::Tcp(tcp) => tcp.into_std().ok().map(Into::into),
            Self::Unix(unix) => unix.into_std().ok().map(Into::into),
            Self::Tls(_) => None,
        }
    }

    /// Makes the system send every write at once, even a short one.
    pub(crate) fn send_at_once(&self) -> io::Result<()> {
        if let Self::Tcp(tcp) = self { tcp.set_nodelay(true) } else { Ok(()) }
    }

    /// Returns true for TLS, whose state cannot be handed to another process.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Reads the bytes that are there. Fails with [`io::ErrorKind::WouldBlock`] if there are none.
    pub(crate) fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_read(buffer),
            Self::Tls(session) => session.try_read(buffer),
            Self::Unix(unix) => unix.try_read(buffer),
        }
    }

    /// Writes as many bytes as there is room for. Fails with [`io::ErrorKind::WouldBlock`] if there is none.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_write(bytes),
            Self::Tls(session) => session.try_write(bytes),
            Self::Unix(unix) => unix.try_write(bytes),
        }
    }

    /// Returns true if the kernel has taken all bytes that were written.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match self {
            Self::Tls(session) => session.flush(),
            Self::Tcp(_) | Self::Unix(_) => Ok(true),
        }
    }

    /// Completes when there are bytes to read. All bytes that were there must have been read before.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx),
            Self::Tls(session) => session.tcp.poll_read_ready(cx),
            Self::Unix(unix) => unix.poll_read_ready(cx),
        }
    }

    /// Completes when there is room to write.
    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_write_ready(cx),
            Self::Tls(session) => session.tcp.poll_write_ready(cx),
            Self::Unix(unix) => unix.poll_write_ready(cx),
        }
    }

    /// Waits until there are bytes to read, or room to write, as `interest` asks for.
    pub(crate) async fn ready(&self, interest: Interest) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.ready(interest).await,
            Self::Tls(session) => session.tcp.ready(interest).await,
            Self::Unix(unix) => unix.ready(interest).await,
        }
        .map(drop)
    }

    /// Reads to the end and drops the bytes. Bytes that were written go out meanwhile.
    pub(crate) async fn drain(&mut self) -> io::Result<()> {
        loop {
            let flushed = self.flush()?;
            match self.try_read(&mut [0; 1024]) {
                Ok(0) => return Ok(()),
                // A client that sends without end must not hold up the others.
                Ok(_) => yield_now().await,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready(Self::interest(flushed)).await?,
                Err(e) => return Err(e),
            }
        }
    }

    /// Reads at most `limit` bytes onto the end of `bytes`, and nothing if the future is dropped. Returns their number: 0 at the end.
    pub(crate) async fn read_onto(&mut self, bytes: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
        loop {
            let (start, flushed) = (bytes.len(), self.flush()?);
            bytes.resize(start + limit, 0);
            let read = self.try_read(&mut bytes[start..]);
            bytes.truncate(start + *read.as_ref().unwrap_or(&0));
            match read {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready(Self::interest(flushed)).await?,
                read => return read,
            }
        }
    }

    fn interest(flushed: bool) -> Interest {
        if flushed { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE }
    }

    /// Writes all of `bytes`.
    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready(Interest::WRITABLE).await?,
                Err(e) => return Err(e),
            }
        }
        self.flushed().await
    }

    async fn flushed(&mut self) -> io::Result<()> {
        while !self.flush()? {
            self.ready(Interest::WRITABLE).await?;
        }
        Ok(())
    }

    /// Writes the last bytes of a connection that is dropped next, without waiting: bytes that the kernel does not take are lost. Fails
    /// with [`io::ErrorKind::WouldBlock`] then.
    pub(crate) fn end_with(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Self::Tls(session) = self else { return end_socket(&SockRef::from(&*self), bytes) };
        let Session { tcp, tls } = &mut **session;
        tls.set_buffer_limit(None);
        tls.writer().write_all(bytes)?;
        tls.send_close_notify();
        let mut records = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut records)?;
        }
        end_socket(&SockRef::from(&*tcp), &records)
    }

    /// Tells the peer that nothing more will be written.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        if let Self::Tls(session) = self {
            session.tls.send_close_notify();
            self.flushed().await?;
        }
        self.shut()
    }

    /// Does the same without waiting for the bytes that were written.
    pub(crate) fn shut(&mut self) -> io::Result<()> {
        if let Self::Tls(session) = self {
            session.tls.send_close_notify();
            session.flush()?;
        }
        SockRef::from(&*self).shutdown(net::Shutdown::Write)
    }
}

/// Writes the last bytes to a socket that does not block, and tells the peer that nothing more will come. Fails as [`Stream::end_with`].
///
/// The kernel takes more bytes than before: the bound on bytes that wait for a viewer is lifted, so that a viewer that does not read now
/// gets its close frame as soon as it does.
pub(crate) fn end_socket(socket: &SockRef<'_>, mut bytes: &[u8]) -> io::Result<()> {
    // Only TCP has this bound.
    let _ = socket.set_tcp_notsent_lowat(u32::MAX);
    let sent = loop {
        if bytes.is_empty() {
            break Ok(());
        }
        match socket.send(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(e) => break Err(e),
        }
    };
    sent.and(socket.shutdown(net::Shutdown::Write))
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.as_fd(),
            Self::Tls(session) => session.tcp.as_fd(),
            Self::Unix(unix) => unix.as_fd(),
        }
    }
}
