//! Tests of random operations: every viewer gets an exact part of its run, and the hub's invariants hold.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::io;

#[derive(Debug, Clone)]
enum Step {
    Publish { channel: u8, kind: u8, size: usize },
    Subscribe { channel: u8 },
    Read { viewer: prop::sample::Index, most: usize },
    Leave { viewer: prop::sample::Index },
    Pass { seconds: u64 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let viewer = any::<prop::sample::Index>;
    prop_oneof![
        6 => (0..3u8, 0..8u8, 0..300usize).prop_map(|(channel, kind, size)| Step::Publish { channel, kind, size }),
        2 => (0..3u8).prop_map(|channel| Step::Subscribe { channel }),
        5 => (viewer(), 0..900usize).prop_map(|(viewer, most)| Step::Read { viewer, most }),
        1 => viewer().prop_map(|viewer| Step::Leave { viewer }),
        1 => (0..400u64).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Restart),
    ]
}

/// The commands of [`Step::Publish`] by its number; a larger number means the last command.
const COMMANDS: [&str; 5] = ["FINISHED", "FAILED", "ABORTED", "STARTED", "TASK"];

/// A viewer: its cursor, its run, the offset at which it began, and the bytes that it got.
struct Viewer {
    cursor: Cursor,
    run: u64,
    start: usize,
    got: Vec<u8>,
    end: Option<End>,
}

/// Runs the steps, and compares the bytes that each viewer got with its run as it was published.
fn any_interleaving(limits: &History, steps: Vec<Step>) {
    let whole_history = *limits == History::default();
    let mut bench = Bench::new(limits.clone());
    let mut runs: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut viewers: Vec<Viewer> = Vec::new();
    let mut number = 0;
    let read = |viewer: &mut Viewer, most: usize| {
        if viewer.end.is_some() {
            return;
        }
        let got = &mut viewer.got;
        let turn = viewer.cursor.turn(|pending| match most.min(pending.len()) {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            most => {
                got.extend_from_slice(&pending[..most]);
                Ok(most)
            }
        });
        if let Ok(Turn::Ended(end)) = turn {
            viewer.end = Some(end);
        }
    };
    for step in steps {
        match step {
            Step::Publish { channel, kind, size } => {
                number += 1;
                let id = channel.to_string();
                let command = COMMANDS[usize::from(kind).min(4)];
                let kind = self::kind(command);
                let frame = frame(&format!("{command} {number} {}", "x".repeat(size)));
                let before = bench.metrics.messages.get();
                bench.hub.publish(bench.now, &id, kind, &frame);
                if bench.metrics.messages.get() > before {
                    let table = bench.hub.table();
                    let run = table.runs[table.channels[id.as_str()]].number();
                    runs.entry(run).or_default().extend(frame);
                }
            }
            Step::Subscribe { channel } => {
                let cursor = bench.subscribe(&channel.to_string());
                let (start, run) = bench.hub.read(cursor.slot(), |run| (run.start(), run.number()));
                let start = usize::try_from(start).unwrap();
                assert!(start == 0 || !whole_history);
                viewers.push(Viewer { run, cursor, start, got: Vec::new(), end: None });
            }
            Step::Read { viewer, most } if !viewers.is_empty() => read(viewer.get_mut(&mut viewers), most),
            Step::Leave { viewer } if !viewers.is_empty() => {
                viewers.swap_remove(viewer.index(viewers.len()));
            }
            Step::Pass { seconds } => {
                let unfinished: Vec<_> = {
                    let table = bench.hub.table();
                    table.failed.iter().chain(&table.aborted).map(|((_, run), slot)| (*run, *slot)).collect()
                };
                bench.pass(secs(seconds));
                for (number, slot) in unfinished {
                    let table = bench.hub.table();
                    let run = table.runs.get(slot).filter(|run| run.number() == number);
                    if run.is_some_and(|run| run.end == Some(End::Finished)) {
                        runs.entry(number).or_default().extend(RELEASE_FRAME);
                    }
                }
            }
            Step::Restart => {
                let there = bench.hub.clone();
                let cursors = viewers.iter_mut().map(|viewer| &mut viewer.cursor);
                let numbers = bench.restart(limits.clone(), Duration::ZERO, cursors);
                for (before, after) in numbers {
                    let run = runs.get(&before).cloned().unwrap_or_default();
                    runs.insert(after, run);
                    for viewer in viewers.iter_mut().filter(|viewer| viewer.run == before) {
                        assert!(!viewer.cursor.is_of(&there));
                        viewer.run = after;
                    }
                }
            }
            _ => {}
        }
        bench.check();
    }
    for mut viewer in viewers {
        for _ in 0..10_000 {
            read(&mut viewer, usize::MAX);
        }
        let run = runs.get(&viewer.run).map_or(&[][..], Vec::as_slice);
        let whole = &run[viewer.start..];
        assert!(whole.starts_with(&viewer.got), "no gap, nothing twice, in order");
        match viewer.end {
            None | Some(End::Finished | End::Stopping) => assert_eq!(viewer.got.len(), whole.len(), "everything"),
            Some(End::Expired | End::Evicted | End::Behind) => {
                assert!(!whole_history || viewer.end == Some(End::Expired));
            }
        }
    }
    bench.check();
}

/// An operation on a hub.
#[derive(Debug, Clone)]
enum Operation {
    Step(Step),
    /// A message that was read before others that are in the hub already.
    Late {
        channel: u8,
        kind: u8,
        milliseconds: u64,
    },
    Limit(History),
    Probe,
    Stop,
    Restart(History, u64),
}

fn limits() -> impl Strategy<Value = History> {
    let times = (0..400u64, 1..500u64, 0..20u64, 0..400u64);
    (times, 1..8usize, 1..2000usize, 1..8000usize).prop_map(|(times, channel_messages, channel_bytes, total_bytes)| {
        let (finished, unfinished, release_failed, release_aborted) = times;
        let [finished, unfinished] = [finished, unfinished].map(Seconds::from_secs);
        let [release_failed, release_aborted] = [release_failed, release_aborted].map(Seconds::from_secs);
        let times = History { finished, unfinished, release_failed, release_aborted, ..History::default() };
        History { channel_messages, channel_bytes, total_bytes, ..times }
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let late = (0..3u8, 0..8u8, 0..3000u64);
    prop_oneof![
        300 => step().prop_map(Operation::Step),
        20 => late.prop_map(|(channel, kind, milliseconds)| Operation::Late { channel, kind, milliseconds }),
        20 => limits().prop_map(Operation::Limit),
        10 => Just(Operation::Probe),
        1 => Just(Operation::Stop),
        20 => (limits(), 0..400u64).prop_map(|(limits, seconds)| Operation::Restart(limits, seconds)),
    ]
}

/// Runs the operations, each followed by [`Bench::check`].
fn any_operations(limits: History, operations: Vec<Operation>) {
    let mut bench = Bench::new(limits);
    let mut viewers: Vec<Cursor> = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let command = |kind: u8| COMMANDS[usize::from(kind).min(4)];
    for operation in operations {
        match operation {
            Operation::Step(Step::Publish { channel, kind, size }) => {
                let text = command(kind);
                bench.hub.publish(bench.now, &channel.to_string(), self::kind(text), &frame(&text.repeat(size)));
            }
            Operation::Late { channel, kind, milliseconds } => {
                let now = bench.now;
                bench.now -= Duration::from_millis(milliseconds);
                bench.publish(&channel.to_string(), command(kind));
                bench.now = now;
            }
            Operation::Step(Step::Subscribe { channel }) => viewers.push(bench.subscribe(&channel.to_string())),
            Operation::Step(Step::Read { viewer, most }) if !viewers.is_empty() => {
                let _ = viewer.get_mut(&mut viewers).turn(|pending| Ok(most.min(pending.len())));
            }
            Operation::Step(Step::Leave { viewer }) if !viewers.is_empty() => {
                viewers.swap_remove(viewer.index(viewers.len()));
            }
            Operation::Step(Step::Pass { seconds }) => bench.pass(secs(seconds)),
            Operation::Limit(limits) => bench.hub.set_limits(limits),
            Operation::Probe => runtime.block_on(bench.hub.probe(|_, _| Ok(()))).map(drop).unwrap(),
            Operation::Stop => bench.hub.stop(),
            Operation::Restart(limits, seconds) if !bench.hub.table().stopping => {
                drop(bench.restart(limits, secs(seconds), viewers.iter_mut()));
            }
            Operation::Restart(..) | Operation::Step(_) => {}
        }
        bench.check();
    }
    drop(viewers);
    bench.check();
    // Twice, because a failed job is finished first.
    bench.pass(secs(86_400));
    bench.pass(secs(86_400));
    assert_empty(&bench.hub);
}

proptest! {
    #[test]
    fn what_is_counted_is_what_is_held_whatever_happens(
        limits in prop_oneof![Just(History::default()), limits()],
        operations in prop::collection::vec(operation(), 0..300),
    ) {
        any_operations(limits, operations);
    }

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
