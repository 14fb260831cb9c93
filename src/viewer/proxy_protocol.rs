//! The header of the PROXY protocol, with which a proxy names the client at the beginning of a connection.

use crate::net::stream::Stream;
use crate::wire::first_byte::{PROXY_BINARY, PROXY_TEXT, may_begin_with};
use proxy_header::{ParseConfig, ProxyHeader};
use std::io;
use std::net::SocketAddr;

/// The shortest header of the PROXY protocol, in bytes: `PROXY UNKNOWN` of version 1.
const SHORTEST: usize = 15;
/// The longest header of version 1, in bytes (PROXY protocol, section 2.1).
const LONGEST_TEXT: usize = 107;
/// The length of the first part of a header of version 2, which says how long the rest is, in bytes.
const BINARY_HEAD: usize = 16;
/// The longest header that is taken, in bytes: of version 2, with addresses and extensions, such as a host name and that of a
/// certificate.
pub const MAX_HEADER: usize = 2048;

/// The state of a PROXY header of which some bytes have come.
#[derive(Debug, PartialEq, Eq)]
enum Header {
    /// At least so many bytes are missing.
    Missing(usize),
    /// The header is whole: the client, unless the proxy speaks for itself.
    Whole(Option<SocketAddr>),
    /// The bytes are no header.
    Wrong,
}

/// Reads the rest of a header into `bytes`; returns the client's address, unless the proxy speaks for itself. Fails with
/// [`io::ErrorKind::InvalidData`] if the bytes are no header.
pub(super) async fn read(stream: &mut Stream, bytes: &mut Vec<u8>) -> io::Result<Option<SocketAddr>> {
    loop {
        match header(bytes) {
            Header::Missing(count) => {
                if stream.read_onto(bytes, count).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Header::Whole(client) => return Ok(client),
            Header::Wrong => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Parses the bytes of a PROXY header so far. A reader that reads the missing bytes, and no more, never reads past its end.
fn header(bytes: &[u8]) -> Header {
    let (binary, text) = (may_begin_with(bytes, PROXY_BINARY), may_begin_with(bytes, PROXY_TEXT));
    if !binary && !text {
        return Header::Wrong;
    }
    let missing = match bytes.len() {
        short @ ..SHORTEST => SHORTEST - short,
        SHORTEST if binary => 1,
        length if binary => {
            let whole = BINARY_HEAD + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
            if whole > MAX_HEADER {
                return Header::Wrong;
            }
            whole.saturating_sub(length)
        }
        length if length < LONGEST_TEXT && !bytes.ends_with(b"\n") => 1,
        _ => 0,
    };
    if missing > 0 {
        return Header::Missing(missing);
    }
    match ProxyHeader::parse(bytes, ParseConfig::default()) {
        Ok((header, length)) if length == bytes.len() => {
            Header::Whole(header.proxied_address().map(|address| address.source))
        }
        _ => Header::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_proxy_header_is_read_to_its_end_and_no_further() {
        let binary = |family, body: &[u8]| {
            let length = u16::try_from(body.len()).unwrap().to_be_bytes();
            [PROXY_BINARY, &[0x21, family], &length, body].concat()
        };
        let client = || Header::Whole(Some("192.0.2.1:4711".parse().unwrap()));
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x67, 0, 80];
        for (sent, came_to) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(), client()),
            (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(), Header::Whole(Some("[2001:db8::1]:1".parse().unwrap()))),
            (b"PROXY UNKNOWN\r\n".to_vec(), Header::Whole(None)),
            (b"PROXY UNKNOWN 1 2 3 4\r\n".to_vec(), Header::Whole(None)),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 66000\r\n".to_vec(), Header::Wrong),
            ([&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat(), Header::Wrong),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), Header::Wrong),
            (binary(0x11, &v4), client()),
            (binary(0x11, &[&v4[..], &[4, 0, 1, 0]].concat()), client()),
            (binary(0x11, &v4[1..]), Header::Wrong),
            (binary(0x00, &[]), Header::Whole(None)),
            (binary(0x31, &[7; 216]), Header::Whole(None)),
            (binary(0x11, &[0; MAX_HEADER]), Header::Wrong),
        ] {
            let (mut read, mut found) = (0, header(&[]));
            while let Header::Missing(count) = found {
                read += count;
                assert!(read <= sent.len(), "{sent:?}");
                found = header(&sent[..read]);
            }
            assert_eq!(found, came_to, "{}", String::from_utf8_lossy(&sent));
            assert!(found == Header::Wrong || read == sent.len());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..300), start in 0..3_usize) {
            let start = [&b""[..], b"PROXY TCP4 ", PROXY_BINARY][start];
            let bytes = [start, &bytes].concat();
            for end in 0..bytes.len() {
                if let Header::Missing(count) = header(&bytes[..end]) {
                    prop_assert!(count > 0);
                }
            }
        }
    }
}
