//! Whatever happens to channels, each viewer gets an exact stretch of its run, or is told; and no byte is lost count
//! of.
//!
//! Input: steps of three bytes. What hub and cursors show is compared with a list of all messages of each channel.

#![no_main]

use libfuzzer_sys::fuzz_target;
use recodex_monitor::internals::wire::close::End;
use recodex_monitor::internals::config::{History, Seconds};
use recodex_monitor::internals::hub::cursor::{Cursor, Turn};
use recodex_monitor::internals::hub::{Hub, Usage};
use recodex_monitor::internals::wire::message::{Kind, Message, RELEASE_FRAME};
use recodex_monitor::internals::metrics::counters::Metrics;
use recodex_monitor::internals::snapshot::reading::Limits;
use recodex_monitor::internals::snapshot::state::State;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const IDS: [&str; 3] = ["a", "bb", "ccc"];

/// All messages of a channel; those from `begin` on are its current run's, unless it was dropped.
#[derive(Default)]
struct Model {
    frames: Vec<(Kind, Vec<u8>)>,
    begin: usize,
    failed: Option<Instant>,
    aborted: Option<Instant>,
    finished: Option<Instant>,
}

struct Viewer {
    cursor: Cursor,
    channel: usize,
    /// The frame that must come next; before the first came, the last it may be.
    next: usize,
    exact: bool,
    /// The part of a frame that has come.
    part: Vec<u8>,
    last: bool,
    /// Which hub its run was in last.
    hub: usize,
}

impl Viewer {
    fn read(&mut self, most: usize, model: &Model, whole: bool) -> Option<End> {
        let part = &mut self.part;
        let turn = self.cursor.turn(|bytes| {
            part.extend_from_slice(&bytes[..most.min(bytes.len())]);
            Ok(most.min(bytes.len()))
        });
        while !self.part.is_empty() {
            let candidates = if self.exact { self.next } else { 0 }..model.frames.len().min(self.next + 1);
            let at = candidates.clone().find(|at| self.part.starts_with(&model.frames[*at].1));
            let length = if let Some(at) = at.filter(|_| !self.last) {
                (self.next, self.exact, self.last) = (at + 1, true, model.frames[at].0 == Kind::Finished);
                model.frames[at].1.len()
            } else if self.part.starts_with(RELEASE_FRAME) && !self.last {
                let before = self.next.checked_sub(1).map(|at| model.frames[at].0);
                assert!(!self.exact || matches!(before, Some(Kind::Failed | Kind::Aborted)));
                (self.exact, self.last) = (true, true);
                RELEASE_FRAME.len()
            } else {
                let begun = |frame: &[u8]| frame.starts_with(&self.part);
                let known = begun(RELEASE_FRAME) || candidates.clone().any(|at| begun(&model.frames[at].1));
                assert!(known && !self.last, "a gap, a frame twice, or one that is torn");
                break;
            };
            self.part.drain(..length);
        }
        let turn = turn.unwrap();
        assert!(turn == Turn::Wrote || self.part.is_empty() && self.cursor.rest().is_empty());
        match turn {
            Turn::Wrote => None,
            Turn::CaughtUp => {
                assert!(!self.last && self.next == model.frames.len());
                None
            }
            Turn::Ended(end) => {
                assert!(self.last || end != End::Finished);
                assert!(!whole || matches!(end, End::Finished | End::Stopping));
                Some(end)
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let [tight, steps @ ..] = input else { return };
    let mut limits = History::default();
    if tight & 1 > 0 {
        (limits.channel_messages, limits.channel_bytes, limits.total_bytes) = (5, 1024, 4000);
        limits.unfinished = Seconds::from_secs(500);
    }
    let metrics = Arc::new(Metrics::default());
    let (mut hub, mut hubs) = (Hub::new(limits.clone(), Arc::clone(&metrics)), 0);
    let (mut now, mut stopped, mut number) = (Instant::now(), false, 0);
    let mut models: [Model; 3] = <_>::default();
    let mut viewers = Vec::<Viewer>::new();
    for step in steps.chunks_exact(3).take(400) {
        let (id, a, b) = (usize::from(step[0] / 16 % 3), usize::from(step[1]), usize::from(step[2]));
        let whole = metrics.trimmed.get() + metrics.evicted.get() + metrics.expired.get() == 0;
        let model = &mut models[id];
        match step[0] % 16 {
            0..6 => {
                let (kind, command) = [
                    (Kind::Finished, "FINISHED"),
                    (Kind::Failed, "FAILED"),
                    (Kind::Aborted, "ABORTED"),
                    (Kind::Begins, "STARTED"),
                    (Kind::Progress, "TASK"),
                ][a.min(4)];
                number += 1;
                let (task, state, mut buffer) = (number.to_string(), "x".repeat(b * 2), Vec::new());
                let message = Message { channel: IDS[id], command, task: Some(&task), state: Some(&state) };
                let (before, frame) = (metrics.messages.get(), message.encode(&mut buffer).to_vec());
                hub.publish(now, IDS[id], kind, &frame);
                let taken = metrics.messages.get() > before;
                let dropped = model.finished.is_some() && kind != Kind::Begins;
                assert!(!whole || stopped || taken != dropped);
                if taken {
                    if model.finished.is_some() {
                        model.begin = model.frames.len();
                    }
                    model.frames.push((kind, frame));
                    model.failed = (kind == Kind::Failed).then_some(now);
                    model.aborted = (kind == Kind::Aborted).then_some(now);
                    model.finished = (kind == Kind::Finished).then_some(now);
                }
            }
            6..8 if viewers.len() < 16 => {
                let (next, exact) = if whole && !stopped { (model.begin, true) } else { (model.frames.len(), false) };
                let cursor = hub.subscribe(now, IDS[id]);
                viewers.push(Viewer { cursor, channel: id, next, exact, part: Vec::new(), last: false, hub: hubs });
            }
            8..13 if !viewers.is_empty() => {
                let at = a % viewers.len();
                let most = if b < 200 { b + 1 } else { usize::MAX };
                let viewer = &mut viewers[at];
                if viewer.read(most, &models[viewer.channel], whole).is_some_and(|end| end != End::Stopping || stopped)
                {
                    viewers.swap_remove(at);
                }
            }
            13 if !viewers.is_empty() => drop(viewers.swap_remove(a % viewers.len())),
            14 => {
                now += Duration::from_secs(a as u64 * 2);
                hub.expire(now);
                for model in &mut models {
                    if model.failed.is_some_and(|at| at + limits.release_failed.duration() <= now) {
                        (model.failed, model.finished) = (None, Some(now));
                    }
                    if model.aborted.is_some_and(|at| at + limits.release_aborted.duration() <= now) {
                        (model.aborted, model.finished) = (None, Some(now));
                    }
                    if model.finished.is_some_and(|at| at + limits.finished.duration() <= now) {
                        (model.begin, model.finished) = (model.frames.len(), None);
                    }
                }
            }
            // Another process goes on; who reads a run that is gone stays with the hub that is.
            15 if a < 100 && !stopped => {
                hub.freeze();
                let (slots, bytes): (Vec<_>, _) = hub.save(now, |runs| {
                    let (slots, runs) = runs.into_iter().unzip();
                    let state = State { version: "".into(), written: 0, uptime: 0, history_file: None, runs, links: Cow::default(), viewers: Cow::default() };
                    (slots, state.encode().unwrap())
                });
                hub = Hub::new(limits.clone(), Arc::clone(&metrics));
                let restored = hub.restore(now, Duration::ZERO, &State::decode(&bytes, Limits::NONE).unwrap().runs);
                for viewer in &mut viewers {
                    let (slot, offset, rest) = viewer.cursor.position();
                    let place = slots.iter().position(|other| *other == slot);
                    if let Some(place) = place.filter(|_| viewer.hub == hubs) {
                        viewer.cursor = hub.resume(restored[place], offset, rest.to_vec());
                        viewer.hub = hubs + 1;
                    }
                }
                hub.drop_unused(now, &restored);
                hub.expire(now);
                hubs += 1;
            }
            15 if a > 250 => {
                hub.stop();
                stopped = true;
            }
            _ => {}
        }
        hub.check();
    }
    viewers.clear();
    hub.expire(now + limits.unfinished.duration());
    hub.expire(now + 2 * limits.unfinished.duration());
    hub.check();
    assert_eq!(hub.usage(), Usage { channels: 0, finished: 0, draining: 0, bytes: 0 });
});
