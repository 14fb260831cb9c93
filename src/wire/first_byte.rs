//! The first bytes of the protocols that may come to a port, and a stream that remembers the first byte that came.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The first byte of a record of TLS that ends a handshake (RFC 8446, section 5.1).
pub(crate) const TLS_ALERT: u8 = 21;
/// The first byte of a client that speaks TLS.
const TLS_HANDSHAKE: u8 = 22;
/// The first bytes of records of TLS: change cipher spec, alert, handshake, application data.
pub(crate) const TLS_RECORDS: std::ops::RangeInclusive<u8> = 20..=23;
/// The first byte of a peer that speaks ZeroMQ.
pub(crate) const ZMTP: u8 = 255;
/// The first byte of an answer of a server that speaks HTTP.
pub(crate) const HTTP: u8 = b'H';
/// The first bytes of a client that speaks HTTP: a method (RFC 9110 and 5789), or HTTP/2 (RFC 9113, section 3.4).
const HTTP_METHODS: [&[u8]; 10] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"CONNECT ", b"PATCH ", b"TRACE ", b"PRI "];
/// The first bytes of a header of the PROXY protocol, version 1.
pub(crate) const PROXY_TEXT: &[u8] = b"PROXY ";
/// The first bytes of a header of the PROXY protocol, version 2.
pub(crate) const PROXY_BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// How many first bytes tell every protocol here from the others.
pub(crate) const ENOUGH: usize = PROXY_BINARY.len();
/// No byte has come. No protocol that is spoken here begins with it.
pub(crate) const NOTHING: u8 = 0;

/// A protocol that a client may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientProtocol {
    ZeroMq,
    Tls,
    Http,
    Proxy,
}

impl ClientProtocol {
    /// The protocol of a client that begins with these bytes. A part of an HTTP method is taken for HTTP.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let is_http = HTTP_METHODS.iter().any(|method| bytes.starts_with(method) || method.starts_with(bytes));
        match *bytes.first()? {
            ZMTP => Some(Self::ZeroMq),
            TLS_HANDSHAKE => Some(Self::Tls),
            _ if bytes.starts_with(PROXY_TEXT) || bytes.starts_with(PROXY_BINARY) => Some(Self::Proxy),
            _ => is_http.then_some(Self::Http),
        }
    }
}

/// Bytes for the log, in quotes and escaped; of long ones the first.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 16;
        let shown = &self.0[..self.0.len().min(MOST)];
        let more = if self.0.len() > MOST { "…" } else { "" };
        write!(f, "\"{}{more}\"", shown.escape_ascii())
    }
}

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

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_known_by_its_first_bytes() {
        for (bytes, protocol) in [
            (&b""[..], None),
            (b"\xff", Some(ClientProtocol::ZeroMq)),
            (b"\x16", Some(ClientProtocol::Tls)),
            (b"\x16\x03\x01", Some(ClientProtocol::Tls)),
            (b"\x15\x03", None),
            (b"G", Some(ClientProtocol::Http)),
            (b"GET", Some(ClientProtocol::Http)),
            (b"OPTIONS * HTTP/1.1\r\n", Some(ClientProtocol::Http)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(ClientProtocol::Http)),
            (b"get / HTTP/1.1\r\n", None),
            (b"GETS", None),
            (b"HELO there", None),
            (b"PROXY TCP4 ", Some(ClientProtocol::Proxy)),
            (b"\r\n\r\n\0\r\nQUIT\n\x21", Some(ClientProtocol::Proxy)),
            (b"\r\n\r\n", None),
            (b"\0\x01", None),
        ] {
            assert_eq!(ClientProtocol::of(bytes), protocol, "{}", Shown(bytes));
        }
    }

    #[test]
    fn bytes_are_shown_escaped_and_not_too_many() {
        assert_eq!(Shown(b"a\"\n\x1b[31m\xff").to_string(), r#""a\"\n\x1b[31m\xff""#);
        assert_eq!(Shown(&[b'x'; 16]).to_string(), format!("\"{}\"", "x".repeat(16)));
        assert_eq!(Shown(&[b'x'; 17]).to_string(), format!("\"{}…\"", "x".repeat(16)));
    }
}
