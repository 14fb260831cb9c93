//! Tests of random operations on a hub: what is counted is what is held, and nothing is left at the end.

use super::fan_out::{Far, pair};
use super::random::{COMMANDS, Step, step};
use super::*;
use crate::hub::fan_out::HandBack;
use crate::hub::fan_out::pings::Pings;
use crate::hub::fan_out::testing::cut_slices;
use proptest::prelude::*;
use rustix::net::SocketType;
use std::io;
use tokio::task::yield_now;

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

/// Probes while rounds go on: the probe's may not have begun.
async fn probe(hub: &Arc<Hub>) -> io::Result<()> {
    let rounds = async {
        loop {
            hub.deliver();
            yield_now().await;
        }
    };
    tokio::select! {
        probed = hub.probe(|_, _| Ok(())) => probed.map(drop),
        () = rounds => Ok(()),
    }
}

/// Runs the operations, each followed by [`Bench::check`].
fn any_operations(limits: History, operations: Vec<Operation>) {
    let mut bench = Bench::new(limits);
    let mut viewers: Vec<Cursor> = Vec::new();
    let mut quiet: Vec<Far> = Vec::new();
    cut_slices(None);
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
            Operation::Step(Step::Quiet { viewer, .. }) if !viewers.is_empty() => {
                let cursor = viewers.swap_remove(viewer.index(viewers.len()));
                if cursor.is_of(&bench.hub) && cursor.rest().is_empty() && cursor.end().is_none() {
                    let (near, socket) = pair(SocketType::STREAM);
                    let key = bench.hub.join(cursor, near, Pings::at(bench.now), 0, |_, _| Ok(()));
                    quiet.push(Far { socket, key });
                }
            }
            Operation::Step(Step::Speak { viewer, .. }) if !quiet.is_empty() => {
                drop(quiet.swap_remove(viewer.index(quiet.len())));
            }
            Operation::Step(Step::Cut { steps }) => cut_slices(Some(steps).filter(|steps| *steps > 0)),
            Operation::Step(Step::Deliver) => drop(bench.hub.deliver()),
            Operation::Step(Step::HandBack { .. }) => {
                viewers.extend(bench.hub.next_back().or_else(|| bench.hub.next_ended()).map(HandBack::into_cursor));
            }
            Operation::Limit(limits) => bench.hub.set_limits(limits),
            Operation::Probe => runtime.block_on(probe(&bench.hub)).unwrap(),
            Operation::Stop => bench.hub.stop(),
            Operation::Restart(limits, seconds) if !bench.hub.table().stopping => {
                viewers.extend(std::iter::from_fn(|| bench.hub.next_left()).map(HandBack::into_cursor));
                bench.check();
                drop(bench.restart(limits, secs(seconds), viewers.iter_mut()));
            }
            Operation::Restart(..) | Operation::Step(_) => {}
        }
        bench.check();
    }
    drop(viewers);
    while bench.hub.next_left().is_some() {}
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
}
