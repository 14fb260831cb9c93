//! Tests of a hub that is fed by the stream of a cluster.

mod late_start;

use super::*;
use crate::snapshot::state::{self, Lifecycle};
use crate::snapshot::stream::{EntryId, Place};

/// A record of an entry.
#[derive(Debug, Clone)]
enum Record {
    Message { channel: String, command: &'static str, size: usize },
    Release { channel: Arc<str>, of: Place },
}

fn message(channel: &str, command: &'static str) -> Record {
    Record::Message { channel: channel.into(), command, size: 0 }
}

/// An entry of the stream, and the time at which it came.
#[derive(Debug, Clone)]
struct Came {
    id: EntryId,
    at: Instant,
    place: Place,
    records: Vec<Record>,
}

fn entry_id(milliseconds: u64) -> EntryId {
    EntryId { milliseconds, number: 0 }
}

impl Hub {
    fn oldest_entry(&self) -> Option<EntryId> {
        self.table().replicated.as_ref()?.oldest_entry()
    }
}

/// A node's hub.
struct Node {
    bench: Bench,
}

impl Node {
    /// A node that has read nothing.
    fn new(limits: &History, now: Instant) -> Self {
        let bench = Bench { now, ..Bench::new(limits.clone()) };
        bench.hub.follow_stream();
        bench.hub.set_in_past(true);
        Self { bench }
    }

    fn hub(&self) -> &Hub {
        &self.bench.hub
    }

    /// Lets time pass as [`Hub::keep_time`] does: it does what is due when it is due.
    fn pass(&mut self, until: Instant) {
        loop {
            let due = self.hub().table().next_due().filter(|due| *due <= until);
            let Some(due) = due else { break };
            self.bench.hub.expire(due);
            self.bench.check();
        }
        self.bench.now = until;
    }

    fn apply(&self, came: &Came) {
        let mut publisher = self.hub().publisher_of(came.at, Entry { id: came.id, next: came.place });
        for record in &came.records {
            match record {
                Record::Message { channel, command, size } => {
                    publisher.publish(channel, kind(command), &frame(&command.repeat(1 + size)));
                }
                Record::Release { channel, of } => publisher.release(channel, *of),
            }
        }
        drop(publisher);
        self.bench.check();
    }

    /// Catches up with these entries, at `now`.
    fn catch_up(&mut self, entries: &[Came], now: Instant) {
        for came in entries {
            // The timekeeper has its turns meanwhile.
            self.hub().expire(now);
            self.hub().expire_until(came.at);
            self.apply(came);
        }
        self.hub().expire_until(now);
        self.hub().set_in_past(false);
        self.bench.now = now;
        self.bench.check();
    }

    /// Returns all that another process would get, in the order of the channels. An open run has its place in the order of the open runs
    /// by an older time, until the hub looks.
    fn saved(&self) -> Vec<String> {
        self.hub().save(self.bench.now, |runs| {
            let text = |(_, run): (usize, state::Run<'_>)| {
                let since = if run.lifecycle == Lifecycle::Open { run.touched } else { run.since };
                format!("{:?}", state::Run { since, ..run })
            };
            let mut runs: Vec<_> = runs.into_iter().map(text).collect();
            runs.sort_unstable();
            runs
        })
    }
}

/// A stream, and a node that reads it as it grows.
struct World {
    node: Node,
    entries: Vec<Came>,
    now: Instant,
    milliseconds: u64,
}

impl World {
    fn new(limits: &History) -> Self {
        let now = Instant::now();
        let node = Node::new(limits, now);
        node.hub().set_in_past(false);
        Self { node, entries: Vec::new(), now, milliseconds: 1_000_000 }
    }

    fn pass(&mut self, milliseconds: u64) {
        self.milliseconds += milliseconds;
        self.now += Duration::from_millis(milliseconds);
        self.node.pass(self.now);
    }

    /// Appends an entry, which the node reads at once.
    fn append(&mut self, records: Vec<Record>) -> Place {
        let number = self.entries.len() as u64;
        let id = EntryId { milliseconds: self.milliseconds, number };
        let place = Place { ingest: 1 + number % 2, batch: 1 + number, index: 0 };
        let came = Came { id, at: self.now, place, records };
        self.node.apply(&came);
        self.entries.push(came);
        place
    }

    fn message(&mut self, channel: &str, command: &'static str) -> Place {
        self.append(vec![message(channel, command)])
    }

    fn release(&mut self, channel: &str, of: Place) {
        self.append(vec![Record::Release { channel: channel.into(), of }]);
    }

    /// Returns the releases that the node asks for.
    fn asks(&self) -> Vec<(String, Place)> {
        let due = self.node.hub().due_releases(self.now, 100);
        due.into_iter().map(|(channel, of)| (channel.to_string(), of)).collect()
    }

    /// Returns the commands of a channel's history.
    fn history(&self, channel: &str) -> Vec<String> {
        let table = self.node.hub().table();
        let run = table.channels.get(channel).map(|slot| &table.runs[*slot]);
        run.map_or_else(Vec::new, |run| commands(run.bytes_from(run.start()).unwrap()))
    }

    /// Returns a node that starts now, and reads the stream from this entry on.
    fn late(&self, limits: &History, from: EntryId) -> Node {
        let mut node = Node::new(limits, self.now);
        let first = self.entries.partition_point(|came| came.id < from);
        node.catch_up(&self.entries[first..], self.now);
        node
    }
}

#[test]
fn a_job_that_failed_is_finished_by_a_record_and_never_by_a_node_itself() {
    let mut world = World::new(&History::default());
    let failed = world.message("failed", "FAILED");
    let aborted = world.append(vec![message("other", "STARTED"), message("aborted", "ABORTED")]);
    let aborted = Place { index: 1, ..aborted };
    world.pass(9_999);
    assert_eq!(world.asks(), []);
    world.pass(1);
    assert_eq!(world.node.hub().table().next_due(), Some(world.now - secs(10) + secs(24 * 3600)), "no release is due");
    assert_eq!(world.asks(), [("failed".to_owned(), failed)]);
    assert_eq!(world.asks(), [], "once");
    world.pass(290_000);
    assert_eq!(world.asks(), [("aborted".to_owned(), aborted)]);
    world.pass(10_000);
    assert_eq!((world.history("failed"), world.history("aborted")), (vec!["FAILED".into()], vec!["ABORTED".into()]));
    assert_eq!(world.node.bench.metrics.released.get(), 0);
    for _ in 0..2 {
        // Two nodes have asked.
        world.release("failed", failed);
        world.append(vec![message("other", "TASK"), Record::Release { channel: "aborted".into(), of: aborted }]);
    }
    assert_eq!(world.history("failed"), ["FAILED", "FINISHED"]);
    assert_eq!(world.history("aborted"), ["ABORTED", "FINISHED"]);
    assert_eq!(world.node.bench.metrics.released.get(), 2);
    assert_eq!((world.node.bench.metrics.repeated.get(), world.node.bench.metrics.late.get()), (0, 0));
}

#[test]
fn releases_are_returned_up_to_a_limit_and_the_others_later() {
    let mut world = World::new(&History::default());
    for (channel, command) in [("a", "FAILED"), ("b", "ABORTED"), ("c", "FAILED"), ("d", "ABORTED")] {
        world.message(channel, command);
    }
    world.pass(400_000);
    let asks = |limit| {
        let due = world.node.hub().due_releases(world.now, limit);
        due.into_iter().map(|(channel, _)| channel.to_string()).collect::<Vec<_>>()
    };
    assert_eq!([asks(1), asks(2), asks(9)], [vec!["a"], vec!["c", "b"], vec!["d"]]);
}

#[test]
fn a_message_between_a_job_and_its_release_keeps_it_open() {
    let mut world = World::new(&History::default());
    for next in ["STARTED", "TASK", "FAILED", "ABORTED"] {
        let of = world.message(next, "FAILED");
        world.pass(10_000);
        assert_eq!(world.asks(), [(next.to_owned(), of)]);
        let last = world.message(next, next);
        world.release(next, of);
        assert_eq!(world.history(next), ["FAILED", next]);
        if next == "FAILED" {
            world.pass(10_000);
            assert_eq!(world.asks(), [(next.to_owned(), last)], "its own silence counts");
        }
    }
    assert_eq!(world.node.bench.metrics.released.get(), 0);
}

#[test]
fn a_release_of_another_run_or_of_none_does_nothing() {
    let mut world = World::new(&History::default());
    let of = world.message("job", "FAILED");
    world.release("job", Place { ingest: of.ingest + 1, ..of });
    world.release("job", Place { batch: of.batch + 1, ..of });
    world.release("job", Place { index: 1, ..of });
    world.release("other", of);
    assert_eq!((world.history("job"), world.history("other")), (vec!["FAILED".into()], vec![]));
    world.message("job", "FINISHED");
    world.message("job", "STARTED");
    world.release("job", of);
    assert_eq!(world.history("job"), ["STARTED"], "the release was of the run before");
    world.pass(24 * 3_600_000);
    assert_eq!(world.history("job"), [""; 0]);
    world.release("job", of);
    assert_eq!(world.node.hub().usage().channels, 0, "the channel is gone");
    // A channel that has a viewer only.
    let viewer = world.node.bench.subscribe("job");
    world.release("job", of);
    assert_eq!(world.history("job"), [""; 0]);
    drop(viewer);
}

#[test]
fn the_oldest_entry_is_that_of_the_oldest_run_of_a_broker_that_is_there() {
    let limits = History { unfinished: Seconds::from_secs(3600), ..History::default() };
    let mut world = World::new(&limits);
    assert_eq!(world.node.hub().oldest_entry(), None);
    let viewer = world.node.bench.subscribe("viewed");
    assert_eq!(world.node.hub().oldest_entry(), None, "a viewer's run is not in the stream");
    world.message("finishes", "STARTED");
    world.pass(1000);
    world.message("viewed", "STARTED");
    world.pass(1000);
    world.message("open", "STARTED");
    world.message("finishes", "FINISHED");
    let ids: Vec<_> = world.entries.iter().map(|came| came.id).collect();
    assert_eq!(world.node.hub().oldest_entry(), Some(ids[0]));
    world.pass(299_999);
    assert_eq!(world.node.hub().oldest_entry(), Some(ids[0]), "its history stays for history.finished");
    world.pass(1);
    assert_eq!(world.node.hub().oldest_entry(), Some(ids[1]));
    world.message("viewed", "FINISHED");
    world.message("viewed", "STARTED");
    let again = world.entries.last().unwrap().id;
    assert_eq!(world.node.hub().oldest_entry(), Some(ids[2]), "its viewer reads it, but it is not reachable");
    world.message("open", "FINISHED");
    world.pass(300_000);
    assert_eq!(world.node.hub().oldest_entry(), Some(again));
    drop(viewer);
    world.pass(3_600_000);
    assert_eq!(world.node.hub().oldest_entry(), None);
}

#[test]
fn a_restored_run_is_as_old_as_its_first_entry() {
    let mut world = World::new(&History::default());
    // The viewer's run has the smaller number, and the later entry.
    let viewer = world.node.bench.subscribe("viewed");
    world.message("older", "STARTED");
    world.pass(1000);
    world.message("viewed", "STARTED");
    let [older, later] = [world.entries[0].id, world.entries[1].id];
    assert_eq!(world.node.hub().oldest_entry(), Some(older));
    drop(viewer);
    let next = Node::new(&History::default(), world.now);
    world.node.hub().save(world.now, |runs| {
        let runs: Vec<_> = runs.into_iter().map(|(_, run)| run).collect();
        next.hub().restore(world.now, Duration::ZERO, &runs);
    });
    assert_eq!(next.hub().oldest_entry(), Some(older));
    let finished = Came { id: entry_id(u64::MAX), ..world.entries[1].clone() };
    next.apply(&Came { records: vec![message("older", "FINISHED")], ..finished });
    next.hub().expire_until(world.now + secs(300));
    assert_eq!(next.hub().oldest_entry(), Some(later));
}

/// After a failover, a batch may come back in an entry with a smaller id than others.
#[test]
fn the_oldest_entry_is_the_smallest_and_not_the_first_that_came() {
    let node = Node::new(&History::default(), Instant::now());
    for (n, milliseconds) in [(1, 20), (2, 10), (3, 30)] {
        let place = Place { ingest: 1, batch: n, index: 0 };
        let records = vec![message(&n.to_string(), "STARTED")];
        node.apply(&Came { id: entry_id(milliseconds), at: node.bench.now, place, records });
    }
    assert_eq!(node.hub().oldest_entry(), Some(entry_id(10)));
}

/// The new primary's clock may be behind, so that what is appended again has smaller ids than before.
#[test]
fn a_run_that_a_failover_may_have_moved_is_as_old_as_what_it_left() {
    let mut world = World::new(&History::default());
    world.message("before", "STARTED");
    world.pass(1000);
    let safe = world.entries[0].id;
    world.message("moved", "STARTED");
    world.message("before", "FINISHED");
    world.message("before", "TASK");
    world.node.hub().begin_by(safe);
    world.message("after", "STARTED");
    world.message("before", "TASK");
    world.pass(300_000);
    let far = EntryId { milliseconds: u64::MAX, number: 0 };
    assert_eq!((world.node.hub().oldest_entry(), world.node.hub().first_needed(far)), (Some(safe), safe));
    world.message("moved", "FINISHED");
    world.pass(300_000);
    let after = world.entries[4].id;
    assert_eq!(world.node.hub().oldest_entry(), Some(after));
    assert_eq!(world.node.hub().first_needed(far), safe, "one of the messages that were dropped is after it");
    world.node.hub().save(world.now, |runs| assert_eq!(runs[0].1.origin.unwrap().began, after));
}

/// A node was away for longer than the stream keeps messages.
#[test]
fn jobs_whose_rest_is_nowhere_are_ended_and_the_others_stay() {
    let mut world = World::new(&History::default());
    let waits = world.node.bench.subscribe("waits");
    world.message("lost", "STARTED");
    world.message("finished", "FINISHED");
    world.pass(1000);
    world.message("kept", "STARTED");
    world.message("lost", "TASK");
    let viewer = world.node.bench.subscribe("lost");
    let first = world.entries[2].id;
    assert_eq!(world.node.hub().end_lost(world.now, first), 2);
    world.node.bench.check();
    assert!(world.history("lost").is_empty() && world.history("kept") == ["STARTED"]);
    assert_eq!(world.history("finished"), ["FINISHED"]);
    for cursor in [waits, viewer] {
        assert_eq!(cursor.end(), Some(End::Evicted));
    }
    assert_eq!(world.node.hub().end_lost(world.now, first), 0);
}

/// Otherwise the stream would begin at a message that was dropped, and a node that starts would take it for a new job.
#[test]
fn messages_that_were_dropped_are_known_after_a_restart() {
    let mut world = World::new(&History::default());
    world.message("ended", "STARTED");
    world.message("ended", "FINISHED");
    world.pass(1000);
    world.message("open", "STARTED");
    world.message("ended", "TASK");
    let most = EntryId { milliseconds: u64::MAX, number: 0 };
    let finished = world.entries[1].id;
    world.pass(300_000);
    let next = Node::new(&History::default(), world.now);
    world.node.hub().save(world.now, |runs| {
        let runs: Vec<_> = runs.into_iter().map(|(_, run)| run).collect();
        next.hub().restore(world.now, Duration::ZERO, &runs);
    });
    next.hub().restore_dropped(world.node.hub().dropped());
    assert_eq!(next.hub().first_needed(most), finished);
    assert_eq!(world.node.hub().first_needed(most), finished);
}
