//! A viewer's end of the WebSocket, as the web client is: for the commands that watch a channel.

use crate::commands::connect::{Socket, connect, is_end};
use crate::commands::monitor_url::MonitorUrl;
use crate::deadline::timeout_at;
use crate::error::{Exit, Failure};
use crate::logging::escape;
use crate::wire::message::check_channel;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Bytes;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::Message;

/// How long a monitor may send nothing, no ping either, before it is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(60);
/// How long it may take to give one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a monitor may take to end the connection after its close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The code of a close frame without one (RFC 6455, section 7.4.1).
pub const NO_CODE: u16 = 1005;

/// What a viewer gets next.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A message, as the monitor wrote it.
    Text(String),
    /// The monitor closed, with this code and reason; without a code, with [`NO_CODE`].
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
    socket: Socket,
    /// When the next sign of life is due, and whether it was asked for.
    due: Instant,
    asked: bool,
    /// The monitor's close, and when the connection must have ended after it.
    closed: Option<(u16, String, Instant)>,
}

impl Client {
    /// Connects to the monitor at `url` and subscribes to `channel`. Certificates in the PEM file `ca` are trusted in addition to
    /// the system's.
    ///
    /// # Errors
    /// [`Exit::Usage`] if `url` is no `ws://` or `wss://` URL, or `channel` or `ca` is wrong; [`Exit::Unavailable`] if no monitor
    /// answers within 5 s for each step.
    pub async fn subscribe(url: &str, channel: &str, ca: Option<&Path>) -> Result<Self, Failure> {
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

    /// True once the monitor's close frame has come; [`Client::next`] returns it when the connection has ended.
    #[must_use]
    pub fn has_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Waits for the next message, or for the monitor's close. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] if the connection breaks, or the monitor gives no sign of life for 80 s.
    pub async fn next(&mut self) -> Result<Received, Failure> {
        let broken = |what: String| Failure::new(Exit::Unavailable, format!("the connection broke: {what}"));
        loop {
            if let Some((code, reason, end_by)) = self.closed.clone() {
                // The answer to the close goes out while reading to the end.
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

/// Says why a WebSocket broke.
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

/// The counts that a viewer's dialog shows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Tasks completed, failed and skipped.
    pub tasks: [u64; 3],
    /// The last command that was not a task, nor FINISHED.
    phase: String,
    /// Set if FINISHED came after it.
    finished: bool,
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
            Ok(Progress { command, .. }) if command == "FINISHED" => self.finished = true,
            Ok(Progress { command, .. }) => (self.phase, self.finished) = (escape(&command), false),
            Err(_) => (self.phase, self.finished) = (escape(text), false),
        }
    }

    /// True if the last command that was not a task was FINISHED.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Forgets a FINISHED that was not the job's own, as the code of the close has told.
    pub fn forget_finished(&mut self) {
        self.finished = false;
    }

    /// Returns the phase, for people: a job that failed has FAILED before its FINISHED.
    #[must_use]
    pub fn phase(&self) -> &str {
        match (&*self.phase, self.finished) {
            ("FAILED", true) => "FAILED, FINISHED",
            (_, true) => "FINISHED",
            (phase, false) => phase,
        }
    }

    /// Returns the number of all tasks.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.tasks.iter().sum()
    }

    /// Returns the counts and the phase, for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let [completed, failed, skipped] = self.tasks;
        format!("{completed} completed, {failed} failed, {skipped} skipped; {}", self.phase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    /// A progress line is drawn meanwhile, which drops the future.
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
        // As a progress line does it that is drawn meanwhile.
        while began.elapsed() < SILENCE {
            assert!(timeout_at(Instant::now() + Duration::from_millis(700), client.next()).await.is_err());
        }
        let error = client.next().await.unwrap_err();
        assert_eq!(error.to_string(), "the connection broke: the monitor has not answered for 80 s");
        assert_eq!(began.elapsed().as_secs(), 80);
        drop(silent);
    }

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
        assert_eq!(tally.phase(), "\\u{1b}[2J");
    }

    #[test]
    fn finished_hides_every_phase_but_failed_and_may_be_forgotten() {
        for (before, shown) in [("UPLOADED", "FINISHED"), ("FAILED", "FAILED, FINISHED"), ("ABORTED", "FINISHED")] {
            let mut tally = Tally::default();
            for command in [before, "FINISHED"] {
                tally.count(&format!(r#"{{"command": "{command}"}}"#));
            }
            assert_eq!((tally.is_finished(), tally.phase()), (true, shown));
            tally.forget_finished();
            assert_eq!((tally.is_finished(), tally.phase()), (false, before));
        }
    }
}
