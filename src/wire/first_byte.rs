//! The first bytes of the protocols that may come to a port.

use std::fmt;

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
/// The number of first bytes that tell every protocol here from the others.
pub(crate) const ENOUGH: usize = PROXY_BINARY.len();

/// A protocol that a client may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientProtocol {
    ZeroMq,
    Tls,
    Http,
    Proxy,
}

impl ClientProtocol {
    /// Returns the protocol of a client that begins with these bytes. A part of an HTTP method counts as HTTP, unless a PROXY header
    /// may begin so too.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let is_http = !PROXY_TEXT.starts_with(bytes) && HTTP_METHODS.iter().any(|method| may_begin_with(bytes, method));
        match *bytes.first()? {
            ZMTP => Some(Self::ZeroMq),
            TLS_HANDSHAKE => Some(Self::Tls),
            _ if bytes.starts_with(PROXY_TEXT) || bytes.starts_with(PROXY_BINARY) => Some(Self::Proxy),
            _ => is_http.then_some(Self::Http),
        }
    }
}

/// Returns true if bytes of which only the first may have come begin with `start`, as far as they have come.
pub(crate) fn may_begin_with(bytes: &[u8], start: &[u8]) -> bool {
    bytes.starts_with(start) || start.starts_with(bytes)
}

/// Returns true if a binary PROXY header may begin with these bytes, which end a request's head where they stop after the empty line.
pub(crate) fn may_begin_proxy_header(bytes: &[u8]) -> bool {
    !bytes.is_empty() && PROXY_BINARY.starts_with(bytes)
}

/// Bytes for the log, in quotes, escaped and cut to the first 16.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 16;
        let shown = &self.0[..self.0.len().min(MOST)];
        let more = if self.0.len() > MOST { "…" } else { "" };
        write!(f, "\"{}{more}\"", shown.escape_ascii())
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
            (b"PR", None),
            (b"PRI", Some(ClientProtocol::Http)),
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
