//! Tests of rounds: what is published reaches every quiet viewer once and in order, in slices, and no run waits for another's round.

use super::*;
use crate::hub::fan_out::Key;
use crate::hub::fan_out::pings::Pings;
use crate::hub::fan_out::testing::cut_slices;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown, socketpair,
};
use std::os::fd::OwnedFd;

/// A quiet viewer, seen from the other end of its socket.
pub(super) struct Far {
    pub(super) socket: OwnedFd,
    pub(super) key: Key,
}

impl Far {
    /// Reads at most `most` bytes of what is there.
    pub(super) fn bytes(&self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; most];
        let count = recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT).map_or(0, |(count, _)| count);
        bytes.truncate(count);
        bytes
    }

    /// Reads all there is.
    pub(super) fn all_bytes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.bytes(1 << 16) {
                bytes if bytes.is_empty() => return all,
                bytes => all.extend(bytes),
            }
        }
    }

    /// Reads all messages that are there; returns their commands.
    pub(super) fn commands(&self) -> Vec<String> {
        super::commands(&self.all_bytes())
    }

    /// Sends something to the monitor.
    pub(super) fn say(&self, bytes: &[u8]) {
        assert_eq!(send(&self.socket, bytes, SendFlags::NOSIGNAL), Ok(bytes.len()));
    }
}

impl Drop for Far {
    /// Hangs up. If the socket was only closed, the end would not be noticed while a program that another test has just started holds a
    /// copy of it.
    fn drop(&mut self) {
        // The hub may have hung up before.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

/// Returns the two ends of a connection of this type.
pub(super) fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

impl Bench {
    /// Makes a new viewer quiet that has everything of its channel.
    pub(super) fn quiet(&self, id: &str) -> Far {
        self.quiet_over(id, pair(SocketType::STREAM))
    }

    /// Does the same, with this connection.
    pub(super) fn quiet_over(&self, id: &str, (near, far): (OwnedFd, OwnedFd)) -> Far {
        self.quiet_with(id, Pings::at(self.now + secs(100_000)), (near, far))
    }

    /// Does the same, with these deadlines.
    pub(super) fn quiet_with(&self, id: &str, pings: Pings, (near, far): (OwnedFd, OwnedFd)) -> Far {
        let mut cursor = self.subscribe(id);
        read(&mut cursor);
        let key = self.hub.join(cursor, near, pings, 7, |_, _| Ok(()));
        self.check();
        Far { socket: far, key }
    }

    /// Makes `count` viewers quiet.
    pub(super) fn crowd(&self, id: &str, count: usize) -> Vec<Far> {
        (0..count).map(|_| self.quiet(id)).collect()
    }

    /// Writes to quiet viewers until there is nothing more to write.
    pub(super) fn deliver_all(&self) {
        while self.hub.deliver() {
            self.check();
        }
        self.check();
    }

    /// Drops the viewers that are handed back; returns how many they were.
    pub(super) fn drop_back(&self) -> usize {
        let dropped = std::iter::from_fn(|| self.hub.next_back()).count();
        self.check();
        dropped
    }
}

/// Returns the number of viewers to whom something was sent. Reads it.
fn served(crowd: &[Far]) -> usize {
    crowd.iter().filter(|far| !far.all_bytes().is_empty()).count()
}

#[test]
fn what_comes_in_one_read_leaves_as_one_write_to_each_viewer() {
    let bench = Bench::new(History::default());
    let packets = || pair(SocketType::SEQPACKET);
    let [first, second, third] = ["a", "a", "a"].map(|id| bench.quiet_over(id, packets()));
    let other = bench.quiet_over("b", packets());
    let (lag, sent) = (|| bench.metrics.lag.ranges().map(|(_, count)| count).sum::<u64>(), &bench.metrics.sent);
    for round in 1..3 {
        let mut publisher = bench.hub.publisher(bench.now);
        for (id, command) in [("a", "ONE"), ("b", "TWO"), ("a", "THREE"), ("b", "FOUR"), ("a", "FIVE")] {
            publisher.publish(id, Kind::Progress, &frame(command));
        }
        assert!(first.bytes(1000).is_empty(), "nothing leaves before the read is over");
        drop(publisher);
        bench.check();
        for far in [&first, &second, &third] {
            assert_eq!(far.bytes(1000), [frame("ONE"), frame("THREE"), frame("FIVE")].concat());
        }
        assert_eq!(other.bytes(1000), [frame("TWO"), frame("FOUR")].concat());
        assert!([&first, &second, &third, &other].iter().all(|far| far.bytes(1000).is_empty()));
        assert_eq!((sent.get(), lag()), (round * 11, round * 4), "all messages and viewers are counted");
    }
    assert!(bench.hub.next_back().is_none());
}

#[test]
fn the_bytes_sent_are_counted() {
    let bench = Bench::new(History::default());
    let far = bench.quiet("job");
    bench.publish("job", "STARTED");
    assert_eq!(bench.metrics.sent_bytes.get(), far.all_bytes().len() as u64);
    assert_eq!(bench.metrics.replayed.get(), 0);
}

/// In a round of seven, one viewer leaves and one comes after any number of them got the message; then another message comes, and one
/// more leaves.
#[test]
fn viewers_may_leave_and_come_at_any_place_of_a_round() {
    for (steps, leaves) in (0..=7).flat_map(|steps| (0..7).map(move |leaves| (steps, leaves))) {
        let bench = Bench::new(History::default());
        let mut crowd: Vec<_> = bench.crowd("job", 7);
        cut_slices(Some(steps));
        bench.publish("job", "ONE");
        let mut got: Vec<_> = crowd.iter().map(Far::commands).collect();
        assert_eq!(got.iter().flatten().count(), steps as usize, "the round was cut");
        let leave = |far: Far| {
            let key = far.key;
            drop(far);
            bench.hub.hear(key);
            assert_eq!(bench.drop_back(), 1);
        };
        leave(crowd.remove(leaves));
        got.remove(leaves);
        let late = bench.quiet("job");
        bench.publish("job", "TWO");
        leave(crowd.remove(leaves / 2));
        got.remove(leaves / 2);
        cut_slices(Some(1));
        bench.deliver_all();
        cut_slices(None);
        for (far, mut got) in crowd.iter().zip(got) {
            got.extend(far.commands());
            assert_eq!(got, ["ONE", "TWO"], "cut after {steps}, {leaves} left");
        }
        assert_eq!(late.commands(), ["TWO"]);
        assert!(bench.hub.next_back().is_none());
    }
}

#[test]
fn a_run_that_is_marked_afresh_does_not_wait_for_the_round_of_another() {
    let bench = Bench::new(History::default());
    let (long, short) = (bench.crowd("long", 40), bench.quiet("short"));
    cut_slices(Some(4));
    for command in ["ONE", "TWO", "THREE"] {
        bench.publish("long", command);
        bench.publish("short", command);
        assert_eq!(short.commands(), [command], "it has its slice at once");
    }
    assert_eq!(served(&long), 4, "a publisher begins the round, and does not go on with it");
    bench.publish("short", "FINISHED");
    assert_eq!(short.commands(), ["FINISHED"]);
    assert!(bench.hub.deliver());
    assert_eq!(served(&long), 4);
    bench.deliver_all();
    cut_slices(None);
    assert_eq!(served(&long), 36, "four have got all in two parts");
}

#[test]
fn runs_of_one_read_each_have_their_slice_before_a_long_one_has_had_three() {
    let bench = Bench::new(History::default());
    let (long, short) = (bench.crowd("long", 40), ["b", "c", "d"].map(|id| bench.quiet(id)));
    cut_slices(Some(4));
    let mut publisher = bench.hub.publisher(bench.now);
    for id in ["long", "b", "c", "d"] {
        publisher.publish(id, Kind::Progress, &frame("ONE"));
    }
    drop(publisher);
    assert!(bench.hub.deliver() && bench.hub.deliver());
    cut_slices(None);
    assert!(served(&long) < 12);
    assert!(short.iter().all(|far| far.commands() == ["ONE"]));
}

#[test]
fn two_long_rounds_have_their_slices_in_turn() {
    let bench = Bench::new(History::default());
    let (one, two) = (bench.crowd("one", 12), bench.crowd("two", 12));
    cut_slices(Some(4));
    bench.publish("one", "ONE");
    bench.publish("two", "TWO");
    let mut done = [served(&one), served(&two)];
    assert_eq!(done, [4, 4]);
    for step in 0.. {
        let more = bench.hub.deliver();
        bench.check();
        let now = [served(&one), served(&two)];
        assert!(now[step % 2] == 4 && now[1 - step % 2] == 0, "{now:?} in slice {step}");
        done = [done[0] + now[0], done[1] + now[1]];
        if !more {
            break;
        }
    }
    cut_slices(None);
    assert_eq!(done, [12, 12]);
}

/// Half of the channel's history comes between the first and the last slice of a round, and is over its bounds then.
#[test]
fn a_quiet_viewer_gets_all_however_small_the_bounds_are() {
    for steps in [Some(0), Some(2), None] {
        for limits in [
            History { channel_messages: 4, ..History::default() },
            History { channel_messages: 1, ..History::default() },
            History { channel_bytes: 300, ..History::default() },
        ] {
            let bench = Bench::new(limits);
            let crowd = bench.crowd("job", 5);
            cut_slices(steps);
            let all: Vec<_> = (0..40).map(|n| n.to_string()).collect();
            let (one_read, each) = all.split_at(20);
            let mut publisher = bench.hub.publisher(bench.now);
            for command in one_read {
                publisher.publish("job", Kind::Progress, &frame(command));
            }
            drop(publisher);
            for command in each {
                bench.publish("job", command);
            }
            bench.deliver_all_from(steps);
            assert!(bench.metrics.trimmed.get() > 0);
            for far in &crowd {
                assert_eq!(far.commands(), all, "slices of {steps:?}");
            }
            assert!(bench.hub.next_back().is_none());
        }
    }
}

impl Bench {
    /// Ends the cutting of slices if they were cut after `steps`, and writes what is left.
    fn deliver_all_from(&self, steps: Option<u32>) {
        if steps.is_some() {
            assert!(self.hub.deliver(), "the round was cut");
        }
        cut_slices(None);
        self.deliver_all();
    }
}

/// The slot of a run that is gone may wait in a queue, of rounds or of ended runs, when another run gets it.
#[test]
fn a_slot_that_is_used_again_while_it_is_in_the_queues_does_no_harm() {
    for steps in [Some(0), None] {
        let bench = Bench::new(History::default());
        let gone = bench.crowd("gone", 3);
        cut_slices(steps);
        bench.publish("gone", "STARTED");
        bench.hub.set_limits(History { total_bytes: 1, ..History::default() });
        bench.hub.deliver();
        bench.check();
        for far in gone {
            assert_eq!(far.commands(), ["STARTED"], "it has the last message although no slice came to it");
            let key = far.key;
            drop(far);
            bench.hub.hear(key);
        }
        assert_eq!(bench.drop_back(), 3);
        assert_eq!(bench.hub.table().runs.len(), 0);
        bench.hub.set_limits(History::default());
        let crowd = bench.crowd("new", 3);
        assert_eq!(bench.hub.table().runs.iter().map(|(slot, _)| slot).collect::<Vec<_>>(), [0], "the same slot");
        cut_slices(None);
        assert!(bench.hub.next_ended().is_none(), "the new run has not ended");
        bench.deliver_all();
        bench.publish("new", "ONE");
        bench.deliver_all();
        assert!(crowd.iter().all(|far| far.commands() == ["ONE"]));
        assert!(bench.hub.next_ended().is_none() && bench.hub.next_back().is_none());
    }
}
