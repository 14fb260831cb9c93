//! What the page shows as it happens: server-sent events about the monitor, and about one job.

use super::report::{Report, seconds};
use crate::context::Shared;
use crate::deadline::passed;
use crate::hub::cursor::Turn;
use crate::logging;
use crate::wire::message::{checked_frame_length, frame_text};
use http_body_util::channel::{Channel, Sender};
use hyper::body::Bytes;
use serde::Serialize;
use serde_json::json;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// The time between two samples.
const PERIOD: Duration = Duration::from_secs(1);
/// How often a silent stream shows that it is there, so that neither end waits for one that is gone.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// Takes a sample every second. Never returns.
pub async fn sample(shared: Arc<Shared>) {
    let metrics = &shared.metrics;
    let counts = || [metrics.received.get(), metrics.sent.get()];
    let mut beat = interval(PERIOD);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut at = beat.tick().await;
    let mut before = counts();
    loop {
        let now = beat.tick().await;
        let milliseconds = u64::try_from(now.duration_since(at).as_millis()).unwrap_or(u64::MAX).max(1);
        let after = counts();
        let rate = |i: usize| (after[i] - before[i]).saturating_mul(1000).div_ceil(milliseconds);
        shared.samples.add((seconds(SystemTime::now()), rate(0), rate(1), shared.viewers.taken()));
        (at, before) = (now, after);
    }
}

/// Until when an answer may take for what it is at.
#[derive(Debug, Clone)]
pub(super) struct WriteDeadline(Arc<(watch::Sender<Option<Instant>>, Duration)>);

impl WriteDeadline {
    pub(super) fn new(patience: Duration) -> Self {
        Self(Arc::new((watch::Sender::new(Some(Instant::now() + patience)), patience)))
    }

    /// It goes on, and has as long again.
    fn goes_on(&self) {
        self.0.0.send_replace(Some(Instant::now() + self.0.1));
    }

    /// Nobody takes it any more.
    pub(super) fn end(&self) {
        self.0.0.send_replace(None);
    }

    /// Completes when nobody takes it any more.
    async fn ended(&self) {
        let _ = self.0.0.subscribe().wait_for(Option::is_none).await;
    }

    /// Completes when it has not gone on in time.
    pub(super) async fn stalled(&self) {
        loop {
            let until = *self.0.0.borrow();
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => passed(until).await,
                None => return,
            }
        }
    }
}

/// The writing end of a stream of events.
struct Events {
    body: Sender<Bytes>,
    pace: WriteDeadline,
    text: String,
}

/// The reader is gone.
struct Gone;

impl Events {
    fn new(pace: WriteDeadline) -> (Self, Channel<Bytes>) {
        let (body, channel) = Channel::new(1);
        (Self { body, pace, text: String::new() }, channel)
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

    /// Sends what was added, or a sign of life.
    async fn send(&mut self) -> Result<(), Gone> {
        if self.text.is_empty() {
            self.text.push_str(":\n\n");
        }
        let text = std::mem::take(&mut self.text);
        self.body.send_data(text.into()).await.map_err(|_| Gone)?;
        self.pace.goes_on();
        Ok(())
    }
}

/// What an operator wants to see, every second.
pub(super) fn events(shared: &Arc<Shared>, pace: WriteDeadline) -> Channel<Bytes> {
    let (mut events, channel) = Events::new(pace);
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
            let mut report = serde_json::to_value(Report::of(&shared).await).unwrap_or_default();
            if let Some(report) = report.as_object_mut() {
                // They have an event of their own.
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
                () = events.pace.ended() => return,
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    });
    channel
}

/// One channel, as a viewer gets it, but for the FINISHED that the monitor adds at an end of its own: the code of `close` tells that.
pub(super) fn watch(shared: &Arc<Shared>, channel: &str, pace: WriteDeadline) -> Channel<Bytes> {
    let (mut events, body) = Events::new(pace);
    let mut cursor = shared.hub.subscribe(Instant::now(), channel);
    tokio::spawn(async move {
        let log = Arc::clone(cursor.changed());
        // The last one may be there in part.
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
                    () = events.pace.ended() => return,
                    () = sleep(SIGN_OF_LIFE) => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::yield_now;

    /// As after a pause, when the answer's deadline and room for more of it are found together.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_goes_on_when_its_time_is_over_has_as_long_again() {
        let patience = Duration::from_secs(30);
        let (begun, pace) = (Instant::now(), WriteDeadline::new(patience));
        let reader = pace.clone();
        let given_up = tokio::spawn(async move { pace.stalled().await });
        sleep(patience).await;
        // The steps from a socket to what is written to it.
        for _ in 0..3 {
            yield_now().await;
        }
        reader.goes_on();
        given_up.await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 60);
    }
}
