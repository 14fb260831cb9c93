//! The bytes of Redis, with a bound for each answer.

use crate::logging::Throttle;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes of an answer. A monitor asks for at most 64 entries of 512 KiB at once, which are 32 MiB.
const MAX_ANSWER: usize = 48 * 1024 * 1024;

static TOO_LONG: Throttle = Throttle::new(Duration::from_secs(60));

/// A stream that fails if more than [`MAX_ANSWER`] bytes come after the last one that was sent. The library takes memory for what comes,
/// and who may append to the stream may append an entry of 512 MiB.
pub(super) struct Bounded<S> {
    stream: S,
    /// The bytes that may still come.
    left: usize,
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, left: MAX_ANSWER }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match self.left.checked_sub(buffer.filled().len() - before) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Err(too_long())),
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.left = MAX_ANSWER;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.left = MAX_ANSWER;
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Logs the cause, which the library does not pass on.
fn too_long() -> io::Error {
    if let Some(more) = TOO_LONG.pass() {
        log::error!(
            "an answer of Redis is longer than {} MiB, so the connection is closed: the stream has entries that no monitor wrote; remove \
             them, and set `proto-max-bulk-len 1mb` in redis.conf{more}",
            MAX_ANSWER >> 20
        );
    }
    io::ErrorKind::InvalidData.into()
}
