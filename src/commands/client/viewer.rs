//! A viewer that subscribes to one channel, as the web client does.

use crate::commands::client::connect::{Socket, connect, is_end};
use crate::commands::client::monitor_url::MonitorUrl;
use crate::deadline::timeout_at;
use crate::error::{Exit, Failure};
use crate::wire::message::check_channel;
use futures_util::{SinkExt, StreamExt};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Bytes;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::Message;

/// The time without any frame from the monitor after which the viewer sends a ping.
const SILENCE: Duration = Duration::from_secs(60);
/// The time limit for the monitor to answer that ping.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The time limit for the monitor to end the connection after its close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The code of a close frame without one (RFC 6455, section 7.4.1).
pub(crate) const NO_CODE: u16 = 1005;

/// An event for a viewer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A message, as the monitor wrote it.
    Text(String),
    /// The monitor closed with this code and reason. The code is [`NO_CODE`] if there was none.
    Closed(u16, String),
}

/// A subscribed viewer.
pub(crate) struct Client {
    socket: Socket,
    /// The time by which the next frame must come, and true if a ping was sent for it.
    due: Instant,
    asked: bool,
    /// The code and the reason of the monitor's close, and the time by which the connection must end.
    closed: Option<(u16, String, Instant)>,
}

impl Client {
    /// Connects to the monitor at `url` and subscribes to `channel`. Certificates in the PEM file `ca` are trusted in addition to
    /// the system's.
    ///
    /// # Errors
    /// [`Exit::Usage`] if `url` is no `ws://` or `wss://` URL, or `channel` or `ca` is wrong; [`Exit::Unavailable`] if no monitor
    /// answers within 5 s for each step.
    pub(crate) async fn subscribe(url: &str, channel: &str, ca: Option<&Path>) -> Result<Self, Failure> {
        check_channel(channel).map_err(|what| Failure::new(Exit::Usage, what))?;
        if MonitorUrl::parse(url).is_err() && MonitorUrl::parse(channel).is_ok() {
            let what =
                format!("{url} is no URL of a monitor, but {channel} is; expected the URL first, then the channel id");
            return Err(Failure::new(Exit::Usage, what));
        }
        let mut socket = connect(url, ca).await?;
        let sent = socket.send(Message::text(channel)).await;
        sent.map_err(|e| Failure::new(Exit::Unavailable, format!("cannot watch at {url}: {}", broke(&e))))?;
        Ok(Self { socket, due: Instant::now() + SILENCE, asked: false, closed: None })
    }

    /// Returns true once the monitor's close frame has come. [`Client::next`] returns the close when the connection has ended.
    pub(crate) fn has_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Waits for the next message, or for the monitor's close. Dropping the future loses no message.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] if the connection breaks, or the monitor gives no sign of life for 80 s.
    pub(crate) async fn next(&mut self) -> Result<Received, Failure> {
        let broken = |what: String| Failure::new(Exit::Unavailable, format!("the connection broke: {what}"));
        loop {
            if let Some((code, reason, end_by)) = self.closed.clone() {
                // Reading to the end also sends the answer to the close.
                let end = async { while let Some(Ok(_)) = self.socket.next().await {} };
                let _ = timeout_at(end_by, end).await;
                return Ok(Received::Closed(code, reason));
            }
            let Ok(received) = timeout_at(self.due, self.socket.next()).await else {
                if self.asked {
                    let silent = (SILENCE + ANSWER_TIMEOUT).as_secs();
                    return Err(broken(format!("the monitor has not answered for {silent} s")));
                }
                (self.due, self.asked) = (self.due + ANSWER_TIMEOUT, true);
                let ping = self.socket.send(Message::Ping(Bytes::new()));
                let _ = timeout_at(self.due, ping).await;
                continue;
            };
            (self.due, self.asked) = (Instant::now() + SILENCE, false);
            match received {
                Some(Ok(Message::Text(text))) => return Ok(Received::Text(text.as_str().into())),
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) =
                        frame.map_or((NO_CODE, String::new()), |f| (f.code.into(), f.reason.to_string()));
                    self.closed = Some((code, reason, Instant::now() + CLOSE_TIMEOUT));
                }
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(broken(broke(&e))),
                None => return Err(broken(broke(&Error::ConnectionClosed))),
            }
        }
    }
}

/// Explains why a WebSocket broke.
fn broke(error: &Error) -> String {
    let ended = "the server ended it without a close frame; does the monitor still run?";
    match error {
        Error::Io(e) if !is_end(e) => e.to_string(),
        Error::Io(_)
        | Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => ended.into(),
        Error::Capacity(_) => "the server sent a message that is longer than any of a monitor".into(),
        _ => "the server sent what no WebSocket server may send; is it a monitor?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    /// `watch` drops the future whenever it draws its progress line.
    #[tokio::test]
    async fn a_close_is_not_lost_if_nobody_waits_when_the_connection_ends() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            let frame = CloseFrame { code: CloseCode::Away, reason: "stops".into() };
            socket.send(Message::Close(Some(frame))).await.unwrap();
            socket
        });
        let mut client = Client::subscribe(&url, "job", None).await.unwrap();
        let server = server.await.unwrap();
        while client.closed.is_none() {
            assert!(timeout_at(Instant::now() + Duration::from_millis(50), client.next()).await.is_err());
        }
        drop(server);
        assert_eq!(client.next().await.unwrap(), Received::Closed(1001, "stops".into()));
    }

    #[tokio::test]
    async fn a_monitor_that_gives_no_sign_of_life_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            tokio_tungstenite::accept_async(stream).await.unwrap()
        });
        let mut client = Client::subscribe(&url, "job", None).await.unwrap();
        let silent = server.await.unwrap();
        tokio::time::pause();
        let began = Instant::now();
        // As `watch` does when it draws its progress line.
        while began.elapsed() < SILENCE {
            assert!(timeout_at(Instant::now() + Duration::from_millis(700), client.next()).await.is_err());
        }
        let error = client.next().await.unwrap_err();
        assert_eq!(error.to_string(), "the connection broke: the monitor has not answered for 80 s");
        assert_eq!(began.elapsed().as_secs(), 80);
        drop(silent);
    }
}
