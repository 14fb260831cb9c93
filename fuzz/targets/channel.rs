//! Whatever happens to channels, each viewer gets an exact stretch of its run, or is told; and no byte is lost count
//! of.
//!
//! Input: steps of three bytes. Viewers become quiet and busy; rounds are cut at any place. What hub and cursors show is compared with a list of all messages of each channel.

#![no_main]

use libfuzzer_sys::fuzz_target;
use recodex_monitor::internals::wire::close::End;
use recodex_monitor::internals::config::{History, Seconds};
use recodex_monitor::internals::hub::cursor::{Cursor, Turn};
use recodex_monitor::internals::hub::fan_out::{Returned, connection, cut_slices};
use recodex_monitor::internals::hub::{Hub, Usage};
use recodex_monitor::internals::wire::message::{Kind, Message, RELEASE_FRAME};
use recodex_monitor::internals::metrics::counters::Metrics;
use recodex_monitor::internals::snapshot::reading::Limits;
use recodex_monitor::internals::snapshot::state::State;
use std::borrow::Cow;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
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

/// The place of a viewer: a busy one has a cursor, a quiet one the other end of its connection.
enum Place {
    Busy(Cursor),
    Quiet(UnixStream),
}

struct Viewer {
    /// Its number as an owner.
    number: u32,
    place: Place,
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
    /// Compares what has come with what there was.
    fn compare(&mut self, model: &Model) {
        while !self.part.is_empty() {
            if self.part[0] == 0x89 {
                assert!(self.part.get(1).is_none_or(|length| *length == 0), "a ping");
                if self.part.len() < 2 {
                    break;
                }
                self.part.drain(..2);
                continue;
            }
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
    }

    /// Reads at most `most` bytes; returns the end if a busy viewer has come to it.
    fn read(&mut self, most: usize, model: &Model, whole: bool) -> Option<End> {
        let part = &mut self.part;
        let cursor = match &mut self.place {
            Place::Busy(cursor) => cursor,
            Place::Quiet(far) => {
                let _ = far.take(most as u64).read_to_end(part);
                self.compare(model);
                return None;
            }
        };
        let turn = cursor.turn(|bytes| {
            part.extend_from_slice(&bytes[..most.min(bytes.len())]);
            Ok(most.min(bytes.len()))
        });
        let (turn, has_rest) = (turn.unwrap(), !cursor.rest().is_empty());
        self.compare(model);
        assert!(turn == Turn::Wrote || self.part.is_empty() && !has_rest);
        match turn {
            Turn::Wrote => None,
            Turn::CaughtUp => {
                self.check_has_all(model);
                None
            }
            Turn::Ended(end) => {
                assert!(self.last || end != End::Finished);
                assert!(!whole || matches!(end, End::Finished | End::Stopping));
                Some(end)
            }
        }
    }

    fn check_has_all(&self, model: &Model) {
        assert!(!self.last && self.next == model.frames.len());
    }
}

/// Gives what was handed back to its viewer, if that is still there.
fn take_back(back: Returned, viewers: &mut [Viewer], models: &[Model; 3]) {
    let Some(viewer) = viewers.iter_mut().find(|viewer| viewer.number == back.owner) else { return };
    viewer.read(usize::MAX, &models[viewer.channel], false);
    viewer.part.extend_from_slice(back.ping);
    viewer.compare(&models[viewer.channel]);
    viewer.place = Place::Busy(back.cursor);
}

/// Returns the next viewer that is handed back; one that is closed was never behind.
fn next_back(hub: &Arc<Hub>) -> Option<Returned> {
    hub.next_returned().or_else(|| {
        let closed = hub.next_closed()?;
        assert!(closed.cursor.end().is_some_and(|end| end != End::Behind), "a send to it was tried");
        Some(closed)
    })
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
    // The names of all entries there ever were in this hub.
    let (mut keys, mut numbers) = (Vec::<u64>::new(), 0);
    cut_slices(None);
    for step in steps.chunks_exact(3).take(400) {
        let (id, a, b) = (usize::from(step[0] / 16 % 3), usize::from(step[1]), usize::from(step[2]));
        let whole = metrics.trimmed.get() + metrics.evicted.get() + metrics.expired.get() == 0;
        let model = &mut models[id];
        if step[0] >= 0xc0 {
            let count = viewers.len();
            match step[0] % 16 {
                0..6 if count > 0 => {
                    let mut viewer = viewers.swap_remove(a % count);
                    let (near, far) = connection(b & 1 > 0);
                    viewer.place = match viewer.place {
                        Place::Busy(cursor) if viewer.hub == hubs => {
                            let ping_at = now + Duration::from_secs(b as u64 % 32);
                            match hub.make_quiet(cursor, near, ping_at, viewer.number) {
                                Ok(key) => {
                                    keys.push(key);
                                    Place::Quiet(far)
                                }
                                Err(cursor) => Place::Busy(*cursor),
                            }
                        }
                        place => place,
                    };
                    viewers.push(viewer);
                }
                6 if count > 0 => {
                    if let Place::Quiet(far) = &mut viewers[a % count].place {
                        let spoken: &[u8] = if b & 1 > 0 { &[0x8a, 0x80, 1, 2, 3, 4] } else { b"x" };
                        far.write_all(spoken).unwrap();
                    }
                }
                7 => keys.iter().for_each(|key| hub.hear_from(*key)),
                8 => cut_slices(u32::try_from(b % 4).ok().filter(|steps| *steps > 0)),
                9..11 => drop(hub.write_slice()),
                11 => drop(hub.sweep_slice(now)),
                12.. => {
                    for back in (0..b % 4).map_while(|_| next_back(&hub)) {
                        take_back(back, &mut viewers, &models);
                    }
                }
                _ => {}
            }
            hub.check();
            continue;
        }
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
                // A narrow socket takes a part of a long message.
                let (task, state, mut buffer) = (number.to_string(), "x".repeat(if b > 250 { 6000 } else { b * 2 }), Vec::new());
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
                let (place, part) = (Place::Busy(hub.subscribe(now, IDS[id])), Vec::new());
                numbers += 1;
                viewers.push(Viewer { number: numbers, place, channel: id, next, exact, part, last: false, hub: hubs });
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
                while let Some(back) = hub.next_at_end() {
                    take_back(back, &mut viewers, &models);
                }
                keys.clear();
                hub.freeze();
                let (slots, bytes): (Vec<_>, _) = hub.save(now, |runs| {
                    let (slots, runs) = runs.into_iter().unzip();
                    let state = State { version: "".into(), written: 0, uptime: 0, history_file: None, runs, links: Cow::default(), viewers: Cow::default(), stream: None };
                    (slots, state.encode().unwrap())
                });
                hub = Hub::new(limits.clone(), Arc::clone(&metrics));
                let restored = hub.restore(now, Duration::ZERO, &State::decode(&bytes, Limits::NONE).unwrap().runs);
                for viewer in &mut viewers {
                    let Place::Busy(cursor) = &mut viewer.place else { panic!("all came back") };
                    let (slot, offset, rest) = cursor.position();
                    let place = slots.iter().position(|other| *other == slot);
                    if let Some(place) = place.filter(|_| viewer.hub == hubs) {
                        *cursor = hub.resume(restored[place], offset, rest.to_vec());
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
    cut_slices(None);
    while hub.write_slice() {}
    while let Some(back) = next_back(&hub) {
        take_back(back, &mut viewers, &models);
    }
    for viewer in viewers.iter_mut().filter(|viewer| matches!(viewer.place, Place::Quiet(_))) {
        let model = &models[viewer.channel];
        viewer.read(usize::MAX, model, false);
        assert!(viewer.part.is_empty());
        viewer.check_has_all(model);
    }
    viewers.clear();
    // One call reads a part of the pongs that came before the hang-up.
    for _ in 0..16 {
        keys.iter().for_each(|key| hub.hear_from(*key));
    }
    while let Some(back) = hub.next_returned() {
        drop(back);
    }
    assert!(hub.next_at_end().is_none(), "every hang-up is noticed");
    hub.check();
    hub.expire(now + limits.unfinished.duration());
    hub.expire(now + 2 * limits.unfinished.duration());
    hub.check();
    assert_eq!(hub.usage(), Usage { channels: 0, finished: 0, draining: 0, bytes: 0 });
});
