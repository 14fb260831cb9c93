//! Tests of the hub as a whole, by a clock that the tests move.

mod closing;
mod ends;
mod eviction;
mod expiry;
mod fan_out;
mod hand_back;
mod latest;
mod operations;
mod pings;
mod probe;
mod random;
mod replicated;

use super::*;
use crate::config::Seconds;
use crate::hub::cursor::Turn;
use crate::hub::table::Order;
use crate::snapshot::reading::Limits;
use crate::snapshot::state::State;
use crate::wire::message::{Message, RELEASE_FRAME};
use std::borrow::Cow;
use std::time::Duration;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A hub and a clock that a test moves.
struct Bench {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    now: Instant,
}

impl Bench {
    fn new(limits: History) -> Self {
        let metrics = Arc::new(Metrics::default());
        Self { hub: Hub::new(limits, Arc::clone(&metrics)), metrics, now: Instant::now() }
    }

    fn publish(&self, id: &str, command: &str) {
        self.hub.publish(self.now, id, kind(command), &frame(command));
        self.check();
    }

    fn subscribe(&self, id: &str) -> Cursor {
        let cursor = self.hub.subscribe(self.now, id);
        self.check();
        cursor
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.hub.expire(self.now);
        self.check();
    }

    fn check(&self) {
        self.hub.check();
    }

    /// Hands the runs and the cursors over to another hub after `time`; returns the number of each run before and after.
    fn restart<'a>(
        &mut self,
        limits: History,
        time: Duration,
        cursors: impl Iterator<Item = &'a mut Cursor>,
    ) -> Vec<(u64, u64)> {
        self.hub.freeze();
        let (slots, bytes): (Vec<_>, _) = self.hub.save(self.now, |runs| {
            let (slots, runs) = runs.into_iter().unzip();
            let state = State {
                version: "".into(),
                written: 0,
                uptime: 0,
                history_file: None,
                runs,
                links: Cow::default(),
                viewers: Cow::default(),
                stream: None,
            };
            (slots, state.encode().unwrap())
        });
        let next = Hub::new(limits, Arc::clone(&self.metrics));
        // So that no two runs of a test have the same number.
        let begun = self.hub.table().begun;
        next.table().begun = begun;
        let numbers: Vec<_> = slots.iter().map(|slot| self.hub.read(*slot, Run::number)).zip(begun + 1..).collect();
        self.now += time;
        let restored = next.restore(self.now, time, &State::decode(&bytes, Limits::NONE).unwrap().runs);
        for cursor in cursors {
            let (slot, offset, rest) = cursor.position();
            let index = slots.iter().position(|other| *other == slot);
            if let Some(index) = index.filter(|_| cursor.is_of(&self.hub)) {
                *cursor = next.resume(restored[index], offset, rest.to_vec());
            }
        }
        next.drop_unused(self.now, &restored);
        self.hub = next;
        numbers
    }
}

/// Asserts that nothing is left in any map.
fn assert_empty(hub: &Hub) {
    let table = hub.table();
    let orders = [&table.open, &table.finished, &table.draining, &table.failed, &table.aborted];
    assert_eq!((table.runs.len(), table.channels.len(), orders.map(Order::len), table.used), (0, 0, [0; 5], 0));
}

fn kind(command: &str) -> Kind {
    Message { channel: "x", command, task: None, state: None }.kind()
}

fn frame(text: &str) -> Vec<u8> {
    let mut buffer = Vec::new();
    let message = Message { channel: "x", command: text, task: None, state: None };
    message.encode(&mut buffer).to_vec()
}

/// Reads everything that a cursor gives now: the commands, and the last turn.
fn read(cursor: &mut Cursor) -> (Vec<String>, Turn) {
    let mut bytes = Vec::new();
    loop {
        let turn = cursor.turn(|pending| {
            bytes.extend_from_slice(pending);
            Ok(pending.len())
        });
        match turn.unwrap() {
            Turn::Wrote => {}
            end => {
                return (commands(&bytes), end);
            }
        }
    }
}

/// Returns the commands of the messages in these bytes.
fn commands(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.split("\"command\": \"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

fn got(commands: &[&str], end: Turn) -> (Vec<String>, Turn) {
    (commands.iter().map(|command| (*command).to_owned()).collect(), end)
}

const CAUGHT_UP: Turn = Turn::CaughtUp;
const FINISHED: Turn = Turn::Ended(End::Finished);

#[test]
fn a_viewer_may_come_before_during_and_after_the_run() {
    let bench = Bench::new(History::default());
    let mut before = bench.subscribe("job");
    assert_eq!(read(&mut before), got(&[], CAUGHT_UP));
    bench.publish("job", "STARTED");
    let mut during = bench.subscribe("job");
    assert_eq!(read(&mut during), got(&["STARTED"], CAUGHT_UP));
    bench.publish("job", "FINISHED");
    assert_eq!(read(&mut before), got(&["STARTED", "FINISHED"], FINISHED));
    assert_eq!(read(&mut during), got(&["FINISHED"], FINISHED));
    assert_eq!(read(&mut bench.subscribe("job")), got(&["STARTED", "FINISHED"], FINISHED));
    assert_eq!(read(&mut bench.subscribe("other")), got(&[], CAUGHT_UP));
}

#[test]
fn after_finished_only_downloaded_and_started_begin_a_new_run() {
    let mut bench = Bench::new(History::default());
    for begin in ["DOWNLOADED", "STARTED"] {
        bench.publish(begin, "ENDED");
        bench.publish(begin, "FINISHED");
        let (repeated, late) = (bench.metrics.repeated.get(), bench.metrics.late.get());
        let strays = ["FINISHED", "TASK", "FAILED", "ENDED", "ABORTED", "UPLOADED", "started"];
        for stray in strays {
            bench.publish(begin, stray);
        }
        assert_eq!((bench.metrics.repeated.get(), bench.metrics.late.get()), (repeated + 1, late + 6));
        bench.pass(secs(299));
        let mut old = bench.subscribe(begin);
        bench.publish(begin, begin);
        bench.publish(begin, "TASK");
        let mut new = bench.subscribe(begin);
        assert_eq!(read(&mut new), got(&[begin, "TASK"], CAUGHT_UP));
        assert_eq!(read(&mut old), got(&["ENDED", "FINISHED"], FINISHED));
        drop((old, new));
        bench.check();
    }
    assert_eq!((bench.hub.usage().channels, bench.hub.usage().finished), (2, 0));
    assert_eq!(bench.metrics.released.get(), 0, "a stray FAILED does not have FINISHED sent");
}

/// An eviction between the last write and the next turn must not change the job's end.
#[test]
fn a_viewer_that_has_the_jobs_finished_ends_with_it_though_the_history_has_gone_since() {
    let bench = Bench::new(History::default());
    bench.publish("job", "FINISHED");
    let (mut done, mut behind) = (bench.subscribe("job"), bench.subscribe("job"));
    assert_eq!(done.end(), None);
    assert_eq!(done.turn(|pending| Ok(pending.len())).unwrap(), Turn::Wrote);
    bench.hub.set_limits(History { total_bytes: 1, ..History::default() });
    assert_eq!((done.end(), behind.end()), (Some(End::Finished), Some(End::Evicted)));
    assert_eq!(read(&mut done), got(&[], FINISHED));
    assert_eq!(read(&mut behind), got(&[], Turn::Ended(End::Evicted)));
}

#[test]
fn an_empty_channel_costs_nothing_once_its_last_viewer_left() {
    let bench = Bench::new(History::default());
    let viewers = [bench.subscribe("job"), bench.subscribe("job")];
    assert_eq!(bench.hub.usage().channels, 1);
    let [first, last] = viewers;
    drop(first);
    assert_eq!(bench.hub.usage().channels, 1);
    drop(last);
    assert_eq!(bench.hub.usage(), Usage { channels: 0, finished: 0, draining: 0, bytes: 0 });
}

#[test]
fn a_viewer_overtaken_by_the_bounds_is_told_so_and_never_gets_a_gap() {
    let bench = Bench::new(History { channel_messages: 4, ..History::default() });
    let mut quick = bench.subscribe("job");
    let mut slow = bench.subscribe("job");
    for n in 0..8 {
        bench.publish("job", &n.to_string());
        assert_eq!(read(&mut quick), got(&[&n.to_string()], CAUGHT_UP));
    }
    assert_eq!(read(&mut slow), got(&[], Turn::Ended(End::Behind)));
    assert_eq!(bench.metrics.trimmed.get(), 4);
    assert_eq!(read(&mut bench.subscribe("job")), got(&["4", "5", "6", "7"], CAUGHT_UP));
}

#[test]
fn stopping_delivers_what_there_is_and_nothing_new() {
    let bench = Bench::new(History::default());
    bench.publish("open", "STARTED");
    bench.publish("done", "FINISHED");
    let (mut open, mut done) = (bench.subscribe("open"), bench.subscribe("done"));
    bench.hub.stop();
    bench.publish("open", "TASK");
    assert_eq!(read(&mut open), got(&["STARTED"], Turn::Ended(End::Stopping)));
    assert_eq!(read(&mut done), got(&["FINISHED"], FINISHED));
    assert_eq!(read(&mut bench.subscribe("new")), got(&[], Turn::Ended(End::Stopping)));
}

#[test]
fn a_frame_begun_is_written_to_its_end_even_when_its_history_is_gone() {
    let bench = Bench::new(History { channel_messages: 1, ..History::default() });
    let mut cursor = bench.subscribe("job");
    let mut written = Vec::new();
    let mut take = |cursor: &mut Cursor, most: usize| {
        let turn = cursor.turn(|pending| {
            let took = most.min(pending.len());
            written.extend_from_slice(&pending[..took]);
            Ok(took)
        });
        turn.unwrap()
    };
    let one = frame("ONE");
    bench.publish("job", "ONE");
    assert_eq!(take(&mut cursor, 1), Turn::Wrote);
    assert_eq!(cursor.rest(), &one[1..]);
    bench.publish("job", "TWO");
    bench.publish("job", "THREE");
    assert_eq!(take(&mut cursor, 5), Turn::Wrote);
    assert_eq!(take(&mut cursor, usize::MAX), Turn::Wrote);
    assert_eq!(cursor.rest(), b"");
    assert_eq!(take(&mut cursor, usize::MAX), Turn::Ended(End::Behind));
    assert_eq!(written, one);
}

#[test]
fn a_write_gets_256_kib_at_most_and_one_that_ends_with_a_frame_leaves_no_rest() {
    let bench = Bench::new(History::default());
    let mut cursor = bench.subscribe("job");
    let long = frame(&"x".repeat(60_000));
    for _ in 0..6 {
        bench.hub.publish(bench.now, "job", Kind::Progress, &long);
    }
    let mut most = 0;
    let turn = cursor.turn(|pending| {
        most = pending.len();
        Ok(long.len())
    });
    assert_eq!((turn.unwrap(), most), (Turn::Wrote, 256 * 1024));
    assert!(cursor.rest().is_empty());
    assert_eq!(cursor.turn(|pending| Ok(pending.len())).unwrap(), Turn::Wrote);
    assert_eq!(cursor.rest().len(), 5 * long.len() - 256 * 1024);
}

#[test]
fn changed_limits_apply_to_what_is_there() {
    let bench = Bench::new(History::default());
    bench.publish("old", "FINISHED");
    bench.publish("new", "STARTED");
    bench.hub.set_limits(History { finished: Seconds::from_secs(0), ..History::default() });
    bench.check();
    bench.hub.expire(bench.now);
    assert_eq!(bench.hub.usage().channels, 1);
    bench.hub.set_limits(History { total_bytes: 100, ..History::default() });
    assert_eq!(bench.hub.usage(), Usage { channels: 0, finished: 0, draining: 0, bytes: 0 });
}
