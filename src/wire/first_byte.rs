//! A stream that remembers the first byte that came, by which a server that speaks another protocol is known.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The first byte of a record of TLS that ends a handshake (RFC 8446, section 5.1).
pub(crate) const TLS_ALERT: u8 = 21;
/// The first bytes of records of TLS: change cipher spec, alert, handshake, application data.
pub(crate) const TLS_RECORDS: std::ops::RangeInclusive<u8> = 20..=23;
/// The first byte of a peer that speaks ZeroMQ.
pub(crate) const ZMTP: u8 = 255;
/// The first byte of an answer of a server that speaks HTTP.
pub(crate) const HTTP: u8 = b'H';
/// No byte has come. No protocol that is spoken here begins with it.
pub(crate) const NOTHING: u8 = 0;

/// The first byte that came, or [`NOTHING`]. Clones are the same byte.
#[derive(Debug, Clone, Default)]
pub(crate) struct FirstByte(Arc<AtomicU8>);

impl FirstByte {
    pub(crate) fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stream and the first byte that came from it.
pub(crate) struct Watched<S> {
    stream: S,
    first: FirstByte,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S) -> (Self, FirstByte) {
        let first = FirstByte::default();
        (Self { stream, first: first.clone() }, first)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Some(first) = buffer.filled().get(before) {
            let _ = self.first.0.compare_exchange(NOTHING, *first, Ordering::Relaxed, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
