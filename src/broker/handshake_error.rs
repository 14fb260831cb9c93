//! Explains a failed handshake for the log, from the bytes that the peer sent.

use crate::wire::first_byte::{ClientProtocol, Shown};
use crate::wire::zmtp::{MECHANISM_END, Parser, Stage};

/// Names the protocol that a peer speaks instead of ZeroMQ.
pub(super) fn other_protocol(parser: &Parser) -> String {
    let bytes = parser.unparsed();
    match ClientProtocol::of(bytes) {
        Some(ClientProtocol::Http) => "it speaks HTTP; viewers connect to websocket_uri, browsers to status_uri".into(),
        Some(ClientProtocol::Tls) => "it speaks TLS, which this port does not".into(),
        Some(ClientProtocol::Proxy) => "it sent a PROXY header, which this port does not take".into(),
        // A greeting may also be wrong after its first byte.
        Some(ClientProtocol::ZeroMq) | None => format!("its first bytes are {}", Shown(bytes)),
    }
}

/// Says how far the handshake was when a peer hung up, and which sockets do so. Returns `None` for a peer that sent nothing, as port
/// probes do: they are not counted and cause no warning.
pub(super) fn hung_up(parser: &Parser) -> Option<String> {
    let bytes = parser.unparsed();
    match parser.stage() {
        Stage::Greeting if bytes.is_empty() => None,
        Stage::Greeting if bytes.len() < MECHANISM_END => Some(format!(
            "before it named its security mechanism, as a socket with CURVE or PLAIN does; its first bytes are {}",
            Shown(bytes)
        )),
        _ => Some("after it named the security mechanism NULL, as a socket other than ROUTER and DEALER does".into()),
    }
}
