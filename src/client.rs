//! A viewer's end of the WebSocket, as the web client is: for the commands that watch a channel.

use crate::failure::{Exit, Failure};
use crate::logging::escape;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long a monitor may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a viewer gets next.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A message, as the monitor wrote it.
    Text(String),
    /// The monitor closed, with this code and reason.
    Closed(u16, String),
}

/// A message, as far as a viewer's dialog reads it.
#[derive(Debug, Deserialize)]
struct Progress {
    command: String,
    task_state: Option<String>,
}

/// A subscribed viewer.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    /// Connects to the monitor at `url` and subscribes to `channel`.
    ///
    /// # Errors
    /// [`Exit::Usage`] if it is no `ws://` or `wss://` URL, [`Exit::Unavailable`] if no monitor answers.
    pub async fn subscribe(url: &str, channel: &str) -> Result<Self, Failure> {
        let unavailable = |what: String| Failure::new(Exit::Unavailable, format!("cannot watch at {url}: {what}"));
        let connected = timeout(CONNECT_TIMEOUT, connect_async(url));
        let (mut socket, _) =
            connected.await.map_err(|_| unavailable("no answer within 10 s".into()))?.map_err(|e| match e {
                Error::Url(_) | Error::HttpFormat(_) => Failure::new(
                    Exit::Usage,
                    format!("{url} is no URL of a monitor ({e}); expected one such as ws://127.0.0.1:4567/"),
                ),
                Error::Io(e) if e.kind() == ErrorKind::InvalidData => unavailable(format!("no TLS: {e}")),
                Error::Io(e) => unavailable(format!("{e}; is the monitor running?")),
                e => unavailable(format!("{e}; is it a monitor?")),
            })?;
        socket.send(Message::text(channel)).await.map_err(|e| unavailable(e.to_string()))?;
        Ok(Self { socket })
    }

    /// The next message, or how the monitor closed.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] if the connection breaks.
    pub async fn next(&mut self) -> Result<Received, Failure> {
        let broken = |what: String| Failure::new(Exit::Unavailable, format!("the connection broke: {what}"));
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(Received::Text(text.as_str().into())),
                Some(Ok(Message::Close(frame))) => {
                    // The answer to the close goes out while reading to the end.
                    while let Some(Ok(_)) = self.socket.next().await {}
                    let (code, reason) = frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
                    return Ok(Received::Closed(code, reason));
                }
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(broken(e.to_string())),
                None => return Err(broken("it ended without a close".into())),
            }
        }
    }
}

/// What a viewer's dialog counts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Tasks completed, failed and skipped.
    pub tasks: [u64; 3],
    /// The last command that was not a task.
    pub phase: String,
}

impl Tally {
    /// Counts a message. What is no message of a monitor is shown as it is.
    pub fn count(&mut self, text: &str) {
        match serde_json::from_str::<Progress>(text) {
            Ok(Progress { command, task_state }) if command == "TASK" => match task_state.as_deref() {
                Some("COMPLETED") => self.tasks[0] += 1,
                Some("FAILED") => self.tasks[1] += 1,
                _ => self.tasks[2] += 1,
            },
            Ok(Progress { command, .. }) => self.phase = escape(&command),
            Err(_) => self.phase = escape(text),
        }
    }

    /// All tasks counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.tasks.iter().sum()
    }

    /// The counts and the phase, for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let [completed, failed, skipped] = self.tasks;
        format!("{completed} completed, {failed} failed, {skipped} skipped; {}", self.phase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_counted_by_state_and_the_last_other_command_is_the_phase() {
        let mut tally = Tally::default();
        for text in [
            r#"{"command": "STARTED"}"#,
            r#"{"command": "TASK", "task_id": "a", "task_state": "COMPLETED"}"#,
            r#"{"command": "TASK", "task_id": "b", "task_state": "FAILED"}"#,
            r#"{"command": "TASK", "task_id": "c", "task_state": "SKIPPED"}"#,
            r#"{"command": "TASK", "task_id": "d", "task_state": "COMPLETED"}"#,
            r#"{"command": "END\nED"}"#,
        ] {
            tally.count(text);
        }
        assert_eq!(tally.total(), 4);
        assert_eq!(tally.summary(), "2 completed, 1 failed, 1 skipped; END\\nED");
        tally.count("\u{1b}[2J");
        assert_eq!(tally.phase, "\\u{1b}[2J");
    }
}
