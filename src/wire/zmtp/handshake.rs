//! The handshake: greeting and READY, the peer's to be checked and the monitor's to be sent.

use super::{GREETING, MAX_IDENTITY, Violation, quoted, short_string};
use crate::wire::first_byte::ZMTP;

/// The end of the security mechanism's name in a greeting, with the zeros that fill it up.
pub(crate) const MECHANISM_END: usize = 32;
/// The only security mechanism, as a greeting names it.
const MECHANISM: &[u8; 20] = b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Checks a greeting; returns false if it is not whole. Reports a violation at the first wrong byte.
pub(super) fn check_greeting(bytes: &[u8]) -> Result<bool, Violation> {
    if bytes.first().is_some_and(|first| *first != ZMTP) || bytes.get(9).is_some_and(|last| last & 1 == 0) {
        return Err(Violation::NotZmtp);
    }
    if let Some(&version) = bytes.get(10).filter(|version| **version < 3) {
        return Err(Violation::OldVersion(version));
    }
    let Some(mechanism) = bytes.get(12..MECHANISM_END) else { return Ok(false) };
    if mechanism != MECHANISM {
        let end = mechanism.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        return Err(Violation::Mechanism(quoted(&mechanism[..end])));
    }
    Ok(bytes.len() >= GREETING)
}

/// Checks the properties of READY: the socket's type must be a broker's, and the routing id may have any value.
pub(super) fn check_ready(mut properties: &[u8]) -> Result<(), Violation> {
    const BAD: Violation = Violation::BadCommand("READY");
    let mut socket = None;
    while !properties.is_empty() {
        let (name, rest) = short_string(properties).ok_or(BAD)?;
        let (length, rest) = rest.split_first_chunk().ok_or(BAD)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| BAD)?;
        let (value, rest) = rest.split_at_checked(length).ok_or(BAD)?;
        if name.is_empty() || !name.is_ascii() {
            return Err(BAD);
        }
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            socket = Some(value);
        } else if name.eq_ignore_ascii_case(b"Identity") && value.len() > MAX_IDENTITY {
            return Err(BAD);
        }
        properties = rest;
    }
    match socket.ok_or(Violation::NoSocketType)? {
        b"ROUTER" | b"DEALER" => Ok(()),
        other => Err(Violation::SocketType(quoted(other))),
    }
}

/// Returns the first bytes of a ROUTER with this routing id: its greeting and READY.
pub(crate) fn opening(routing_id: &str) -> Vec<u8> {
    let mut bytes = vec![ZMTP, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1];
    bytes.extend_from_slice(MECHANISM);
    bytes.resize(GREETING, 0);
    let mut ready = b"\x05READY".to_vec();
    for (name, value) in [("Socket-Type", "ROUTER"), ("Identity", routing_id)] {
        ready.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        ready.extend_from_slice(name.as_bytes());
        ready.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        ready.extend_from_slice(value.as_bytes());
    }
    bytes.extend([super::frame::COMMAND, u8::try_from(ready.len()).unwrap_or(u8::MAX)]);
    bytes.extend(ready);
    bytes
}
