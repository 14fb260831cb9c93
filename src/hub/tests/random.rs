//! Tests of random operations: every viewer gets an exact part of its run, and the hub's invariants hold.

use super::fan_out::{Far, pair};
use super::*;
use crate::config::Clients;
use crate::hub::fan_out::pings::Pings;
use crate::hub::fan_out::testing::cut_slices;
use crate::hub::fan_out::{HandBack, Key, Position, Reason};
use crate::wire::ws_frame::frame_length;
use proptest::prelude::*;
use rustix::net::{SocketType, sockopt};
use std::collections::HashMap;
use std::io;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Publish {
        channel: u8,
        kind: u8,
        size: usize,
    },
    Subscribe {
        channel: u8,
    },
    Read {
        viewer: prop::sample::Index,
        most: usize,
    },
    Leave {
        viewer: prop::sample::Index,
    },
    Pass {
        seconds: u64,
    },
    Restart,
    /// A viewer that has everything becomes quiet; its socket may have little room.
    Quiet {
        viewer: prop::sample::Index,
        narrow: bool,
    },
    /// A quiet viewer sends a pong, or something else.
    Speak {
        viewer: prop::sample::Index,
        pong: bool,
    },
    /// The hub reads the bytes that quiet viewers have sent.
    Hear,
    /// From now on slices are over after so many steps.
    Cut {
        steps: u32,
    },
    Deliver,
    /// Pings are sent.
    Sweep,
    /// So many viewers that are handed back become busy.
    HandBack {
        most: usize,
    },
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let viewer = any::<prop::sample::Index>;
    // A narrow socket takes a part of a long message.
    let size = prop_oneof![20 => 0..300usize, 1 => Just(6000)];
    prop_oneof![
        6 => (0..3u8, 0..8u8, size).prop_map(|(channel, kind, size)| Step::Publish { channel, kind, size }),
        2 => (0..3u8).prop_map(|channel| Step::Subscribe { channel }),
        5 => (viewer(), 0..900usize).prop_map(|(viewer, most)| Step::Read { viewer, most }),
        1 => viewer().prop_map(|viewer| Step::Leave { viewer }),
        1 => (0..400u64).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Restart),
        8 => (viewer(), any::<bool>()).prop_map(|(viewer, narrow)| Step::Quiet { viewer, narrow }),
        1 => (viewer(), any::<bool>()).prop_map(|(viewer, pong)| Step::Speak { viewer, pong }),
        1 => Just(Step::Hear),
        1 => (0..4u32).prop_map(|steps| Step::Cut { steps }),
        3 => Just(Step::Deliver),
        1 => Just(Step::Sweep),
        2 => (0..4usize).prop_map(|most| Step::HandBack { most }),
    ]
}

/// The commands of [`Step::Publish`] by its number; a larger number means the last command.
pub(super) const COMMANDS: [&str; 5] = ["FINISHED", "FAILED", "ABORTED", "STARTED", "TASK"];

/// The place of a viewer: a busy one has a cursor, a quiet one an entry.
enum Place {
    Busy(Cursor),
    Quiet(Far),
}

/// A viewer: its place, its run, the offset at which it began, and the bytes that it got.
struct Viewer {
    /// Its number as an owner.
    owner: u32,
    place: Place,
    run: u64,
    start: usize,
    /// Pings are among these bytes.
    got: Vec<u8>,
    end: Option<End>,
}

impl Viewer {
    /// Reads at most `most` bytes: from its cursor, or from its socket.
    fn read(&mut self, most: usize) {
        let Self { place, got, end, .. } = self;
        let cursor = match place {
            Place::Quiet(far) => return got.extend(far.bytes(most)),
            Place::Busy(_) if end.is_some() => return,
            Place::Busy(cursor) => cursor,
        };
        let turn = cursor.turn(|pending| match most.min(pending.len()) {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            most => {
                got.extend_from_slice(&pending[..most]);
                Ok(most)
            }
        });
        if let Ok(Turn::Ended(ended)) = turn {
            *end = Some(ended);
        }
    }

    /// Goes on as a busy viewer.
    fn become_busy(&mut self, back: HandBack) {
        if let Place::Quiet(far) = &self.place {
            self.got.extend(far.all_bytes());
        }
        if let Reason::Ping(rest) = &back.reason {
            self.got.extend_from_slice(rest);
        }
        self.place = Place::Busy(back.into_cursor());
    }
}

/// Returns these bytes without the pings, which stand between whole frames.
fn without_pings(mut bytes: &[u8]) -> Vec<u8> {
    let mut others = Vec::new();
    while let [first, _, ..] = *bytes {
        let (frame, rest) = bytes.split_at(frame_length(bytes).min(bytes.len()));
        match first {
            0x89 => assert_eq!(frame, [0x89, 0]),
            _ => others.extend_from_slice(frame),
        }
        bytes = rest;
    }
    others.extend_from_slice(bytes);
    others
}

/// The hub, and what it has to give.
struct World {
    bench: Bench,
    /// All that was published to each run, by its number.
    runs: HashMap<u64, Vec<u8>>,
    viewers: Vec<Viewer>,
    /// The names of all entries there ever were.
    keys: Vec<Key>,
    owners: u32,
}

impl World {
    fn publish(&mut self, id: &str, kind: Kind, frame: &[u8]) {
        let before = self.bench.metrics.messages.get();
        self.bench.hub.publish(self.bench.now, id, kind, frame);
        if self.bench.metrics.messages.get() > before {
            let table = self.bench.hub.table();
            let run = table.runs[table.channels[id]].number();
            self.runs.entry(run).or_default().extend(frame);
        }
    }

    fn subscribe(&mut self, id: &str) {
        let cursor = self.bench.subscribe(id);
        let (start, run) = self.bench.hub.read(cursor.slot(), |run| (run.start(), run.number()));
        let start = usize::try_from(start).unwrap();
        self.owners += 1;
        let place = Place::Busy(cursor);
        self.viewers.push(Viewer { owner: self.owners, place, run, start, got: Vec::new(), end: None });
    }

    fn pass(&mut self, seconds: u64) {
        let unfinished: Vec<_> = {
            let table = self.bench.hub.table();
            table.failed.iter().chain(&table.aborted).map(|((_, run), slot)| (*run, *slot)).collect()
        };
        self.bench.pass(secs(seconds));
        for (number, slot) in unfinished {
            let table = self.bench.hub.table();
            let run = table.runs.get(slot).filter(|run| run.number() == number);
            // It may have been evicted since, after its viewers got the message.
            if run.is_some_and(|run| run.end_at(run.log_end()) == Some(End::Finished)) {
                self.runs.entry(number).or_default().extend(RELEASE_FRAME);
            }
        }
    }

    /// Makes a viewer quiet, if it has everything.
    fn quiet(&mut self, viewer: usize, narrow: bool) {
        let mut viewer = self.viewers.swap_remove(viewer);
        viewer.place = match viewer.place {
            Place::Busy(cursor) if cursor.is_of(&self.bench.hub) && cursor.is_caught_up() => {
                let (near, far) = pair(SocketType::STREAM);
                if narrow {
                    sockopt::set_socket_send_buffer_size(&near, 1).unwrap();
                }
                let pings = Pings::at(self.bench.now + secs(u64::from(viewer.owner) % 20));
                let key = self.bench.hub.join(cursor, near, pings, viewer.owner, |_, _| Ok(()));
                self.keys.push(key);
                Place::Quiet(Far { socket: far, key })
            }
            place => place,
        };
        self.viewers.push(viewer);
    }

    fn hear(&mut self) {
        for key in &self.keys {
            self.bench.hub.hear(*key);
            self.bench.check();
        }
    }

    /// Gives what was handed back to its viewer, if that is still there.
    fn take_back(&mut self, back: HandBack) {
        if let (Reason::Stop, Position::Reading(cursor)) = (&back.reason, &back.position) {
            assert_ne!(cursor.end(), Some(End::Behind), "a quiet viewer is never behind");
        }
        match self.viewers.iter_mut().find(|viewer| viewer.owner == back.owner) {
            Some(viewer) => viewer.become_busy(back),
            None => drop(back),
        }
    }

    fn restart(&mut self, limits: &History) {
        while let Some(back) = self.bench.hub.next_left() {
            self.take_back(back);
        }
        self.keys.clear();
        let there = self.bench.hub.clone();
        let cursors = self.viewers.iter_mut().map(|viewer| match &mut viewer.place {
            Place::Busy(cursor) => cursor,
            Place::Quiet(_) => panic!("all came back"),
        });
        let numbers = self.bench.restart(limits.clone(), Duration::ZERO, cursors);
        for (before, after) in numbers {
            let run = self.runs.get(&before).cloned().unwrap_or_default();
            self.runs.insert(after, run);
            for viewer in self.viewers.iter_mut().filter(|viewer| viewer.run == before) {
                assert!(matches!(&viewer.place, Place::Busy(cursor) if !cursor.is_of(&there)));
                viewer.run = after;
            }
        }
    }

    /// Lets every viewer get what there is.
    fn settle(&mut self) {
        cut_slices(None);
        self.bench.deliver_all();
        self.hear();
        while let Some(back) = self.bench.hub.next_back().or_else(|| self.bench.hub.next_ended()) {
            self.take_back(back);
            self.bench.check();
        }
        for viewer in &mut self.viewers {
            match &viewer.place {
                Place::Quiet(far) => viewer.got.extend(far.all_bytes()),
                Place::Busy(_) => (0..10_000).for_each(|_| viewer.read(usize::MAX)),
            }
        }
    }
}

/// Runs the steps, and compares the bytes that each viewer got with its run as it was published.
fn any_interleaving(limits: &History, steps: Vec<Step>) {
    let whole_history = *limits == History::default();
    let mut world = World {
        bench: Bench::new(limits.clone()),
        runs: HashMap::new(),
        viewers: Vec::new(),
        keys: Vec::new(),
        owners: 0,
    };
    let mut number = 0;
    cut_slices(None);
    for step in steps {
        let count = world.viewers.len();
        match step {
            Step::Publish { channel, kind, size } => {
                number += 1;
                let command = COMMANDS[usize::from(kind).min(4)];
                let frame = frame(&format!("{command} {number} {}", "x".repeat(size)));
                world.publish(&channel.to_string(), self::kind(command), &frame);
            }
            Step::Subscribe { channel } => {
                world.subscribe(&channel.to_string());
                assert!(!whole_history || world.viewers.iter().all(|viewer| viewer.start == 0));
            }
            Step::Read { viewer, most } if count > 0 => viewer.get_mut(&mut world.viewers).read(most),
            Step::Leave { viewer } if count > 0 => drop(world.viewers.swap_remove(viewer.index(count))),
            Step::Pass { seconds } => world.pass(seconds),
            Step::Restart => world.restart(limits),
            Step::Quiet { viewer, narrow } if count > 0 => world.quiet(viewer.index(count), narrow),
            Step::Speak { viewer, pong } if count > 0 => {
                if let Place::Quiet(far) = &viewer.get(&world.viewers).place {
                    far.say(if pong { &[0x8a, 0x80, 1, 2, 3, 4] } else { b"x" });
                }
            }
            Step::Hear => world.hear(),
            Step::Cut { steps } => cut_slices(Some(steps).filter(|steps| *steps > 0)),
            Step::Deliver => drop(world.bench.hub.deliver()),
            Step::Sweep => drop(world.bench.hub.sweep(world.bench.now, &Clients::default())),
            Step::HandBack { most } => {
                for _ in 0..most {
                    let hub = &world.bench.hub;
                    if let Some(back) = hub.next_back().or_else(|| hub.next_ended()) {
                        world.take_back(back);
                    }
                }
            }
            _ => {}
        }
        world.bench.check();
    }
    world.settle();
    for viewer in &world.viewers {
        let run = world.runs.get(&viewer.run).map_or(&[][..], Vec::as_slice);
        let (whole, got) = (&run[viewer.start..], without_pings(&viewer.got));
        assert!(whole.starts_with(&got), "no gap, nothing twice, in order");
        match viewer.end {
            None | Some(End::Finished | End::Stopping) => assert_eq!(got.len(), whole.len(), "everything"),
            Some(End::Expired | End::Evicted | End::Behind) => {
                assert!(!whole_history || viewer.end == Some(End::Expired));
            }
        }
    }
    world.viewers.clear();
    // One call reads a part of the pongs that came before the hang-up.
    (0..8).for_each(|_| world.hear());
    world.bench.drop_back();
    assert!(world.bench.hub.next_left().is_none(), "every hang-up is noticed");
}

proptest! {
    #[test]
    fn any_interleaving_gives_every_viewer_an_exact_prefix_of_its_run(steps in prop::collection::vec(step(), 0..200)) {
        any_interleaving(&History::default(), steps);
    }

    #[test]
    fn under_tight_bounds_a_viewer_gets_an_exact_stretch_or_is_told(steps in prop::collection::vec(step(), 0..200)) {
        let limits = History {
            unfinished: Seconds::from_secs(500),
            channel_messages: 5,
            channel_bytes: 1024,
            total_bytes: 3000,
            ..History::default()
        };
        any_interleaving(&limits, steps);
    }
}
