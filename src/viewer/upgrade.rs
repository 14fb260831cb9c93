//! The HTTP side of a viewer's connection: one request, answered by 101 or by an error in one line of text.

use super::answer::{Answer, BAD_REQUEST, HEAD_TOO_LARGE, NO_PROXY_HEADER, NO_TLS, UPGRADE_REQUIRED};
use crate::deadline::timeout;
use crate::net::head_limits::{LONG, MAX_HEAD, SHORT_HEAD};
use crate::net::stream::Stream;
use crate::wire::first_byte::{ClientProtocol, may_begin_proxy_header};
use crate::wire::header_list::has_token;
use std::io;
use std::pin::pin;
use std::time::Duration;
use thiserror::Error;
use tokio_tungstenite::tungstenite::error::{Error as WebSocketError, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::{Request, create_response, write_response};
use tokio_tungstenite::tungstenite::http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue};

/// The time in which a client that is refused may read the answer and go.
const LINGER: Duration = Duration::from_secs(1);
/// The number of bytes of a request that are read at once.
const CHUNK: usize = 1024;

/// The reason why a connection did not become a viewer's.
#[derive(Debug, Error)]
pub(super) enum Refused {
    /// The client went, or could not be written to.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The client got this HTTP status.
    #[error("answered {} {}", .0.status, .0.phrase)]
    Answered(&'static Answer),
}

/// The path of a health check, which finds out that the monitor serves viewers.
const HEALTH: &[u8] = b"/healthz";

/// Returns the method of a health check: a plain request for `/healthz` with GET or HEAD, of HTTP/1.0 or HTTP/1.1. A request for a
/// WebSocket is no health check, even at that path.
pub(super) fn health_check(head: &[u8]) -> Option<&[u8]> {
    let (line, headers) = head.split_at(head.iter().position(|byte| *byte == b'\n')? + 1);
    let mut words = line.trim_ascii_end().split(|byte| *byte == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let path = target.split(|byte| *byte == b'?').next()?;
    if !matches!(method, b"GET" | b"HEAD") || path != HEALTH || !matches!(version, b"HTTP/1.0" | b"HTTP/1.1") {
        return None;
    }
    // The library takes no other method or version.
    let request = [b"GET / HTTP/1.1\r\n", headers].concat();
    let (_, request) = Request::try_parse(&request).ok()??;
    let upgrades = method == b"GET" && version == b"HTTP/1.1" && has_token(request.headers(), &UPGRADE, "websocket");
    (words.next().is_none() && !upgrades).then_some(method)
}

/// Reads the request into `head`; returns the length of the request's head in bytes. Reading ends early if the client speaks another
/// protocol: it waits for an answer and will send no more.
pub(super) async fn read(stream: &mut Stream, head: &mut Vec<u8>) -> Result<usize, Refused> {
    head.reserve(CHUNK);
    let (mut long, mut seen) = (None, 0);
    while matches!(ClientProtocol::of(head), Some(ClientProtocol::Http) | None) {
        if !may_begin_proxy_header(head) {
            if let Some(end) = end_of_head(head, seen) {
                return Ok(end);
            }
            seen = head.len().saturating_sub(3);
        }
        if head.len() > MAX_HEAD {
            break;
        }
        if head.len() >= SHORT_HEAD && long.is_none() {
            long = LONG.acquire().await.ok();
        }
        if stream.read_onto(head, CHUNK).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok(head.len())
}

/// Returns the answer to a request's head with which the WebSocket begins, or that of a refusal, by the request or by `admit`.
pub(super) fn reply(
    head: &[u8],
    admit: impl FnOnce(&HeaderMap) -> Result<(), &'static Answer>,
) -> Result<Vec<u8>, &'static Answer> {
    if head.len() > MAX_HEAD {
        return Err(&HEAD_TOO_LARGE);
    }
    match ClientProtocol::of(head) {
        Some(ClientProtocol::Tls) => return Err(&NO_TLS),
        Some(ClientProtocol::Proxy) => return Err(&NO_PROXY_HEADER),
        _ => {}
    }
    let (_, mut request) = Request::try_parse(head).map_err(|e| judge(&e))?.ok_or(&BAD_REQUEST)?;
    read_lists(request.headers_mut())?;
    let response = create_response(&request).map_err(|e| judge(&e))?;
    admit(request.headers())?;
    let mut reply = Vec::with_capacity(160);
    write_response(&mut reply, &response).map_err(|e| judge(&e))?;
    Ok(reply)
}

/// Replaces each list that asks for an upgrade by the one word that the handshake library looks for, if the list has it.
fn read_lists(headers: &mut HeaderMap) -> Result<(), &'static Answer> {
    for (name, word) in [(CONNECTION, "upgrade"), (UPGRADE, "websocket"), (SEC_WEBSOCKET_VERSION, "13")] {
        if !has_token(headers, &name, word) {
            return Err(&UPGRADE_REQUIRED);
        }
        headers.insert(name, HeaderValue::from_static(word));
    }
    // The key is no list, and may occur once (RFC 6455, section 11.3.1).
    if headers.get_all(SEC_WEBSOCKET_KEY).iter().count() > 1 { Err(&BAD_REQUEST) } else { Ok(()) }
}

/// Answers without waiting and ends the connection. `method` is that of the request: HEAD gets no body.
pub(super) fn end_with(mut stream: Stream, answer: &Answer, method: &[u8]) {
    // One try each: a peer that does not take the answer at once is just closed. Its bytes are read, or the close would be a reset.
    let _ = stream.try_read(&mut [0; 4096]);
    let text = answer.to_string();
    let head = if method == b"HEAD" { text.strip_suffix(answer.text) } else { None };
    let _ = stream.end_with(head.unwrap_or(&text).as_bytes());
}

/// Returns the length of the head, which ends with the first empty line. `seen` bytes need not be looked at again.
fn end_of_head(bytes: &[u8], seen: usize) -> Option<usize> {
    let tail = &bytes[seen..];
    let ends = |i: usize| tail[i] == b'\n' && (tail[i + 1..].starts_with(b"\n") || tail[i + 1..].starts_with(b"\r\n"));
    let at = (0..tail.len()).find(|i| ends(*i))?;
    Some(seen + at + if tail[at + 1] == b'\n' { 2 } else { 3 })
}

/// Returns the answer to a request that the handshake library refuses.
fn judge(error: &WebSocketError) -> &'static Answer {
    match error {
        // Well-formed HTTP, but no WebSocket client of today.
        WebSocketError::Protocol(
            ProtocolError::WrongHttpMethod
            | ProtocolError::WrongHttpVersion
            | ProtocolError::MissingConnectionUpgradeHeader
            | ProtocolError::MissingUpgradeWebSocketHeader
            | ProtocolError::MissingSecWebSocketVersionHeader,
        ) => &UPGRADE_REQUIRED,
        _ => &BAD_REQUEST,
    }
}

/// Answers and ends the connection.
pub(super) async fn refuse(stream: &mut Stream, answer: &'static Answer) -> Refused {
    let answered = pin!(async {
        stream.write_all(answer.to_string().as_bytes()).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would send a reset, and the client might never see the answer.
        stream.drain().await
    });
    let _ = timeout(LINGER, answered).await;
    Refused::Answered(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_check_is_plain_http_whatever_its_headers() {
        for (head, method) in [
            ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", Some("GET")),
            ("GET /healthz HTTP/1.0\r\n\r\n", Some("GET")),
            ("HEAD /healthz HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", Some("HEAD")),
            ("GET /healthz?from=haproxy HTTP/1.1\n\n", Some("GET")),
            ("GET /healthz HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n", Some("GET")),
            ("GET /healthz HTTP/1.1\r\nUpgrade: h2c, websocket\r\n\r\n", None),
            ("POST /healthz HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("OPTIONS /healthz HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("GET /healthz/ HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("GET //healthz HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("GET /healthz\r\n\r\n", None),
            ("GET /healthz HTTP/2.0\r\n\r\n", None),
            ("GET /healthz HTTP/1.1 x\r\n\r\n", None),
            ("GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", None),
            ("\x16/healthz", None),
        ] {
            assert_eq!(health_check(head.as_bytes()), method.map(str::as_bytes), "{head:?}");
        }
    }

    #[test]
    fn the_head_ends_at_the_first_empty_line_wherever_the_bytes_were_split() {
        for (bytes, end) in
            [(&b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest\r\n\r\n"[..], 24), (b"GET /\n\nrest", 7), (b"a\r\n\n\n", 4)]
        {
            let found = (1..=bytes.len()).find_map(|arrived| {
                let seen = (arrived - 1).saturating_sub(3);
                end_of_head(&bytes[..arrived], seen).map(|end| (arrived, end))
            });
            assert_eq!(found, Some((end, end)));
            assert_eq!(end_of_head(bytes, 0), Some(end));
        }
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\nA: b\r\n", 0), None);
    }
}
