//! Tests of a node that starts late: without viewers, a hub is a function of the stream and the time.

use super::*;
use proptest::prelude::*;

#[test]
fn nothing_expires_by_the_time_now_before_the_stream_was_read() {
    let limits = History { unfinished: Seconds::from_secs(60), ..History::default() };
    let mut world = World::new(&limits);
    for command in ["STARTED", "TASK", "TASK", "FAILED"] {
        world.message("job", command);
        world.pass(59_000);
    }
    let late = world.late(&limits, EntryId::default());
    assert_eq!(late.saved(), world.node.saved());
    assert_eq!(late.bench.metrics.expired.get(), 0);
    // It reads again.
    late.hub().set_in_past(true);
    let soon = world.now + secs(2);
    assert_eq!(late.hub().table().alarm, None);
    late.hub().expire(soon);
    assert_eq!(late.bench.metrics.expired.get(), 0, "an alarm from before may ring");
    late.hub().set_in_past(false);
    assert!(late.hub().table().alarm.is_some());
    late.hub().expire(soon);
    assert_eq!(late.bench.metrics.expired.get(), 1);
}

/// Otherwise a node that starts would take the message after FINISHED for a new job.
#[test]
fn the_stream_does_not_begin_between_finished_and_a_message_that_was_dropped() {
    let far = EntryId { milliseconds: u64::MAX, number: 0 };
    let mut world = World::new(&History::default());
    world.message("released", "STARTED");
    let of = world.message("released", "FAILED");
    world.message("job", "STARTED");
    world.release("released", of);
    world.message("job", "FINISHED");
    world.message("other", "STARTED");
    world.message("job", "TASK");
    world.message("another", "STARTED");
    world.message("released", "TASK");
    world.message("last", "STARTED");
    let ids: Vec<_> = world.entries.iter().map(|came| came.id).collect();
    assert_eq!(world.node.hub().first_needed(far), ids[0]);
    world.pass(300_000);
    assert_eq!(world.node.hub().oldest_entry(), Some(ids[5]));
    assert_eq!(world.node.hub().first_needed(far), ids[1], "the FAILED, which the release needs");
    assert_eq!(world.late(&History::default(), ids[1]).saved(), world.node.saved());
    assert_ne!(world.late(&History::default(), ids[5]).saved(), world.node.saved());
    world.message("other", "FINISHED");
    world.message("another", "FINISHED");
    world.pass(300_000);
    assert_eq!(world.node.hub().first_needed(far), ids[9], "the messages that were dropped are before it");
    assert!(world.node.hub().table().replicated.as_ref().unwrap().dropped.is_empty());
    assert_eq!(world.node.hub().first_needed(ids[2]), ids[2]);
}

/// A step of the world.
#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(u8, u8, usize)>),
    Pass(u64),
    /// The node asks for the releases that are due.
    Ask,
    /// The releases that were asked for are in the stream, from so many nodes.
    Release(usize),
    /// The stream loses what no node needs, but not this last part.
    Trim(usize),
}

const COMMANDS: [&str; 7] = ["STARTED", "TASK", "TASK", "FINISHED", "FINISHED", "FAILED", "ABORTED"];

fn step() -> impl Strategy<Value = Step> {
    let message = (0..5_u8, 0..7_u8, 0..8_usize);
    prop_oneof![
        10 => prop::collection::vec(message, 1..4).prop_map(Step::Append),
        3 => (0..30_000_u64).prop_map(Step::Pass),
        2 => (0..200_000_u64).prop_map(Step::Pass),
        3 => Just(Step::Ask),
        2 => (1..3_usize).prop_map(Step::Release),
        2 => (0..20_usize).prop_map(Step::Trim),
    ]
}

/// Limits so small that each channel's bounds are met. The bound of all channels is not: which run it evicts depends on runs that a node
/// that starts late has never seen.
fn limits() -> History {
    History {
        finished: Seconds::from_secs(60),
        unfinished: Seconds::from_secs(150),
        release_failed: Seconds::from_secs(10),
        release_aborted: Seconds::from_secs(40),
        channel_messages: 5,
        channel_bytes: 300,
        ..History::default()
    }
}

proptest! {
    /// Without viewers, a hub is a function of the stream and the time, from any point at which a node has it begin.
    #[test]
    fn a_node_that_starts_late_comes_to_have_what_the_others_have(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new(&limits());
        let (mut pending, mut first): (Vec<Record>, _) = (Vec::new(), EntryId::default());
        for step in steps {
            match step {
                Step::Append(messages) => {
                    let record = |(channel, command, size): (u8, u8, usize)| Record::Message {
                        channel: channel.to_string(),
                        command: COMMANDS[usize::from(command)],
                        size,
                    };
                    world.append(messages.into_iter().map(record).collect());
                }
                Step::Pass(milliseconds) => world.pass(milliseconds),
                Step::Ask => {
                    let due = world.node.hub().due_releases(world.now, 2);
                    pending.extend(due.into_iter().map(|(channel, of)| Record::Release { channel, of }));
                }
                Step::Release(nodes) => {
                    for _ in 0..nodes {
                        world.append(pending.clone());
                    }
                    pending.clear();
                }
                Step::Trim(recent) => {
                    let safe = world.entries.len().checked_sub(recent + 1).map_or(first, |last| world.entries[last].id);
                    first = world.node.hub().first_needed(safe).max(first);
                }
            }
        }
        // A node asks for each release once.
        world.append(pending);
        for from in [EntryId::default(), first] {
            let late = world.late(&limits(), from);
            prop_assert_eq!(late.saved(), world.node.saved());
            prop_assert_eq!(late.hub().usage(), world.node.hub().usage());
            prop_assert_eq!(late.hub().oldest_entry(), world.node.hub().oldest_entry());
            let asks = |node: &Node| {
                let table = node.hub().table();
                let open = table.runs.iter().map(|(_, run)| (run.id().clone(), run.unfinished));
                let mut open: Vec<_> = open.collect();
                open.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
                open
            };
            prop_assert_eq!(asks(&late), asks(&world.node));
        }
    }
}
