//! Server-sent events for the page: about the monitor, and about one job.

use super::report::Report;
use super::sampling::PERIOD;
use super::write_deadline::WriteDeadline;
use crate::context::Shared;
use crate::hub::cursor::Turn;
use crate::logging;
use crate::wire::ws_frame::{checked_frame_length, frame_text};
use http_body_util::channel::{Channel, Sender};
use hyper::body::Bytes;
use serde::Serialize;
use serde_json::json;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The time after which a silent stream sends an empty comment, so that both ends notice if the other is gone.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// The writing end of a stream of events.
struct Events {
    body: Sender<Bytes>,
    deadline: WriteDeadline,
    text: String,
}

/// The reader is gone.
struct Gone;

impl Events {
    fn new(deadline: WriteDeadline) -> (Self, Channel<Bytes>) {
        let (body, channel) = Channel::new(1);
        (Self { body, deadline, text: String::new() }, channel)
    }

    /// Adds an event; `data` has no line breaks.
    fn add(&mut self, name: &str, data: &str) {
        let _ = write!(self.text, "event: {name}\ndata: {data}\n\n");
    }

    fn add_json(&mut self, name: &str, data: &impl Serialize) {
        if let Ok(data) = serde_json::to_string(data) {
            self.add(name, &data);
        }
    }

    /// Sends the events added, or else an empty comment.
    async fn send(&mut self) -> Result<(), Gone> {
        if self.text.is_empty() {
            self.text.push_str(":\n\n");
        }
        let text = std::mem::take(&mut self.text);
        self.body.send_data(text.into()).await.map_err(|_| Gone)?;
        self.deadline.restart();
        Ok(())
    }
}

/// Starts a stream about the monitor: its state every second; settings and warnings when they change. It has the ids
/// of jobs if `with_ids`.
pub(super) fn events(shared: &Arc<Shared>, with_ids: bool, deadline: WriteDeadline) -> Channel<Bytes> {
    let (mut events, channel) = Events::new(deadline);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let (mut tick, mut stop) = (shared.samples.subscribe(), shared.stop.subscribe());
        events.add_json("samples", &json!({"period": PERIOD.as_secs(), "samples": shared.samples.all()}));
        let (mut shown, mut warned) = (String::new(), None);
        loop {
            let settings = shared.settings().to_yaml();
            if settings != shown {
                events.add_json("settings", &settings);
                shown = settings;
            }
            let seen = logging::noticed();
            if warned.replace(seen) != Some(seen) {
                events.add_json("warnings", &logging::notices());
            }
            let mut report = serde_json::to_value(Report::of(&shared, with_ids).await).unwrap_or_default();
            if let Some(report) = report.as_object_mut() {
                // Warnings have an event of their own.
                report.remove("warnings");
                if let Some(sample) = shared.samples.last() {
                    report.insert("sample".into(), json!(sample));
                }
            }
            events.add_json("status", &report);
            if events.send().await.is_err() {
                return;
            }
            tokio::select! {
                _ = tick.changed() => {}
                () = events.deadline.ended() => return,
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    });
    channel
}

/// Starts a stream of one channel's messages, as a viewer gets them, without a FINISHED that the monitor would add for a viewer. The
/// event `close` has the close code.
pub(super) fn watch(shared: &Arc<Shared>, channel: &str, deadline: WriteDeadline) -> Channel<Bytes> {
    let (mut events, body) = Events::new(deadline);
    let mut cursor = shared.hub.subscribe(Instant::now(), channel);
    tokio::spawn(async move {
        let log = Arc::clone(cursor.changed());
        // The last frame may be incomplete.
        let mut frames = Vec::new();
        loop {
            let changed = log.notified();
            let turn = cursor.turn(|bytes| {
                frames.extend_from_slice(bytes);
                Ok(bytes.len())
            });
            match turn {
                Ok(Turn::Wrote) => {
                    let mut at = 0;
                    while let Some(length) = checked_frame_length(&frames[at..]) {
                        events.add("message", frame_text(&frames[at..at + length]));
                        at += length;
                    }
                    frames.drain(..at);
                }
                Ok(Turn::CaughtUp) => tokio::select! {
                    () = changed => continue,
                    () = events.deadline.ended() => return,
                    () = sleep(KEEPALIVE) => {}
                },
                Err(_) => return,
                Ok(Turn::Ended(end)) => {
                    let (code, reason) = end.close();
                    events.add_json("close", &json!({"code": u16::from(code), "reason": reason}));
                    let _ = events.send().await;
                    return;
                }
            }
            if events.send().await.is_err() {
                return;
            }
        }
    });
    body
}
