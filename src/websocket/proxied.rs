//! What proxies say about the viewer behind them: the header of the PROXY protocol, X-Forwarded-For and Forwarded.

use super::stream::Stream;
use crate::config::Proxy;
use crate::peer::Peer;
use proxy_header::{ParseConfig, ProxyHeader};
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue};

/// The shortest header of the PROXY protocol, in bytes: `PROXY UNKNOWN` of version 1.
const SHORTEST: usize = 15;
/// The longest header of version 1, in bytes (PROXY protocol, section 2.1).
const LONGEST_TEXT: usize = 107;
/// What of a header of version 2 says how long it is, in bytes.
const BINARY_HEAD: usize = 16;
/// The longest header that is taken, in bytes: of version 2, with addresses and what may come with them, such as a name and a
/// certificate's.
pub const MAX_HEADER: usize = 2048;
/// What a header of version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What has come of a PROXY header.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    /// At least so many bytes are missing.
    Missing(usize),
    /// All of it: the client, unless the proxy speaks for itself.
    Whole(Option<SocketAddr>),
    /// None.
    Wrong,
}

/// Reads the rest of a header into `bytes`; returns the client's address, unless the proxy speaks for itself.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if it is none.
pub async fn read(stream: &mut Stream, bytes: &mut Vec<u8>) -> io::Result<Option<SocketAddr>> {
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

/// Looks at the bytes of a PROXY header so far. Who reads what is missing, and no more, never reads past its end.
#[must_use]
pub fn header(bytes: &[u8]) -> Header {
    let binary = bytes.starts_with(&SIGNATURE[..SIGNATURE.len().min(bytes.len())]);
    let text = bytes.starts_with(&b"PROXY "[..bytes.len().min(6)]);
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

/// The viewer for whom `peer`, if it is one of `trusted`, made this request.
///
/// Of the addresses in X-Forwarded-For or Forwarded, each added by a proxy to those before it, it is the last that is not of
/// a proxy itself. A proxy adds to one of the headers and usually lets the other pass as it came: where they disagree, one of
/// them is made up, and the peer stays who it is.
#[must_use]
pub fn viewer(peer: Peer, headers: &HeaderMap, trusted: &[Proxy]) -> Peer {
    if !peer.is_one_of(trusted) {
        return peer;
    }
    let said = |name: &str, address: fn(&str) -> Option<Peer>| {
        let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        (!values.is_empty()).then(|| {
            let mut viewer = peer;
            // From the end, where the proxy's own word stands, whatever a client put before it.
            for item in values.join(&b',').rsplit(|byte| *byte == b',') {
                let Some(address) = str::from_utf8(item).ok().and_then(address) else { break };
                viewer = address;
                if !viewer.is_one_of(trusted) {
                    break;
                }
            }
            viewer
        })
    };
    match (said("x-forwarded-for", |item| address(item.trim())), said("forwarded", forwarded)) {
        (Some(one), Some(other)) if one.ip() != other.ip() => peer,
        (Some(viewer), _) | (None, Some(viewer)) => viewer,
        (None, None) => peer,
    }
}

/// The address in one element of Forwarded (RFC 7239): `for=192.0.2.60;proto=http` or `for="[2001:db8::17]:4711"`.
///
/// Elements are told apart by commas, also in quotes: no address has one, and a quote that a client left open must not hide what
/// a proxy said after it.
fn forwarded(element: &str) -> Option<Peer> {
    let mut pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let node = pairs.find(|(name, _)| name.eq_ignore_ascii_case("for"))?.1;
    address(node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node))
}

/// An address with or without a port; one of IPv6 may stand in brackets.
fn address(text: &str) -> Option<Peer> {
    if let Ok(at) = text.parse::<SocketAddr>() {
        return Some(at.into());
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|ip| Peer::Address(ip.to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trusted() -> Vec<Proxy> {
        serde_yaml::from_str("[10.0.0.0/8, \"2001:db8:1::/48\"]").unwrap()
    }

    fn seen(peer: &str, lines: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        viewer(peer.parse::<SocketAddr>().unwrap().into(), &headers, &trusted()).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let line = ("x-forwarded-for", "192.0.2.1");
        assert_eq!(seen("10.1.1.1:9", &[line]), "192.0.2.1");
        assert_eq!(seen("198.51.100.1:9", &[line]), "198.51.100.1:9");
        assert_eq!(seen("10.1.1.1:9", &[]), "10.1.1.1:9");
    }

    #[test]
    fn the_viewer_is_the_last_that_is_no_proxy() {
        for (value, viewer) in [
            ("203.0.113.7, 192.0.2.1", "192.0.2.1"),
            ("203.0.113.7, 192.0.2.1, 10.2.2.2", "192.0.2.1"),
            ("10.3.3.3, 10.2.2.2", "10.3.3.3"),
            ("192.0.2.1:4711", "192.0.2.1:4711"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("203.0.113.7, unknown, 10.2.2.2", "10.2.2.2"),
            ("unknown", "10.1.1.1:9"),
            ("", "10.1.1.1:9"),
        ] {
            assert_eq!(seen("10.1.1.1:9", &[("x-forwarded-for", value)]), viewer, "{value}");
        }
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", HeaderValue::from_bytes(b"\xff, 192.0.2.1").unwrap());
        let peer = Peer::Socket("10.1.1.1:9".parse().unwrap());
        assert_eq!(viewer(peer, &headers, &trusted()).to_string(), "192.0.2.1");
        let twice = [("x-forwarded-for", "203.0.113.7"), ("x-forwarded-for", "192.0.2.1")];
        assert_eq!(seen("10.1.1.1:9", &twice), "192.0.2.1");
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_has_it() {
        for (value, viewer) in [
            ("for=192.0.2.43", "192.0.2.43"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "[2001:db8:cafe::17]:4711"),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("for=192.0.2.43, for=198.51.100.17;by=_x", "198.51.100.17"),
            ("for=192.0.2.43, for=\"10.9.9.9:80\"", "192.0.2.43"),
            ("for=\"203.0.113.7\";x=\", for=192.0.2.43", "192.0.2.43"),
            ("for=192.0.2.43;by=\"a,b;for=203.0.113.7\"", "10.1.1.1:9"),
            ("for=_hidden, for=10.2.2.2", "10.2.2.2"),
            ("proto=https", "10.1.1.1:9"),
        ] {
            assert_eq!(seen("10.1.1.1:9", &[("forwarded", value)]), viewer, "{value}");
        }
    }

    #[test]
    fn where_the_headers_disagree_neither_is_believed() {
        let both = |one, other| seen("10.1.1.1:9", &[("x-forwarded-for", one), ("forwarded", other)]);
        assert_eq!(both("192.0.2.1", "for=192.0.2.1"), "192.0.2.1");
        assert_eq!(both("192.0.2.1", "for=203.0.113.7"), "10.1.1.1:9");
        assert_eq!(both("192.0.2.1", "for=unknown"), "10.1.1.1:9");
    }

    #[test]
    fn a_proxy_header_is_read_to_its_end_and_no_further() {
        let binary = |family, body: &[u8]| {
            let length = u16::try_from(body.len()).unwrap().to_be_bytes();
            [SIGNATURE, &[0x21, family], &length, body].concat()
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
            let start = [&b""[..], b"PROXY TCP4 ", SIGNATURE][start];
            let bytes = [start, &bytes].concat();
            for end in 0..bytes.len() {
                if let Header::Missing(count) = header(&bytes[..end]) {
                    prop_assert!(count > 0);
                }
            }
        }

        #[test]
        fn no_header_breaks_it(value in "[ -~]{0,60}") {
            let _ = (forwarded(&value), address(&value));
        }
    }
}
