//! The handshake of a WebSocket client. The answer is checked by RFC 6455, section 4.1, with its headers read as lists.

use crate::wire::header_list::{elements, has_token};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError, SubProtocolError};
use tokio_tungstenite::tungstenite::handshake::client::{Response, generate_request};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use tokio_tungstenite::tungstenite::http::{StatusCode, Uri};
use tokio_tungstenite::tungstenite::protocol::Role;

/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// The number of bytes that are read at once.
const CHUNK: usize = 4096;

/// Requests the WebSocket at `uri`.
///
/// # Errors
/// [`Error::Http`] with the answer if its status is not 101; another error if the answer is wrong or the connection breaks.
pub(crate) async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    uri: Uri,
    mut stream: S,
) -> Result<WebSocketStream<S>, Error> {
    let (request, key) = generate_request(uri.into_client_request()?)?;
    stream.write_all(&request).await?;
    stream.flush().await?;
    let mut bytes = Vec::new();
    let (end, response) = loop {
        if bytes.len() > MAX_HEAD {
            return Err(Error::AttackAttempt);
        }
        bytes.reserve(CHUNK);
        if (&mut stream).take(CHUNK as u64).read_buf(&mut bytes).await? == 0 {
            return Err(ProtocolError::HandshakeIncomplete.into());
        }
        if let Some(answer) = Response::try_parse(&bytes)? {
            break answer;
        }
    };
    let rest = bytes.split_off(end);
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::Http(Box::new(response.map(|_| Some(rest)))));
    }
    verify(&response, &derive_accept_key(key.as_bytes()))?;
    Ok(WebSocketStream::from_partially_read(stream, rest, Role::Client, None).await)
}

/// Checks an answer of status 101.
fn verify(response: &Response, accept: &str) -> Result<(), ProtocolError> {
    let headers = response.headers();
    if !has_token(headers, &UPGRADE, "websocket") {
        return Err(ProtocolError::MissingUpgradeWebSocketHeader);
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err(ProtocolError::MissingConnectionUpgradeHeader);
    }
    let mut accepts = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
    if accepts.next().is_none_or(|first| first != accept) || accepts.next().is_some() {
        return Err(ProtocolError::SecWebSocketAcceptKeyMismatch);
    }
    // The request asks for no subprotocol.
    if elements(headers, &SEC_WEBSOCKET_PROTOCOL).next().is_some() {
        return Err(ProtocolError::SecWebSocketSubProtocolError(SubProtocolError::ServerSentSubProtocolNoneRequested));
    }
    if elements(headers, &SEC_WEBSOCKET_EXTENSIONS).next().is_some() {
        return Err(ProtocolError::InvalidHeader(Box::new(SEC_WEBSOCKET_EXTENSIONS)));
    }
    Ok(())
}
