#![expect(clippy::unchecked_time_subtraction, reason = "the times are constants")]

use super::*;
use crate::config::Seconds;
use crate::handover::Limits;
use crate::snapshot::state::State;
use proptest::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
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

    /// Lets another process go on after `time`, with the cursors whose runs are still there; returns the number of each run
    /// before and after.
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
            };
            (slots, state.encode().unwrap())
        });
        let next = Hub::new(limits, Arc::clone(&self.metrics));
        // So that no two runs of a test have the same number.
        let begun = self.hub.state().begun;
        next.state().begun = begun;
        let numbers: Vec<_> = slots.iter().map(|slot| self.hub.read(*slot, Run::number)).zip(begun + 1..).collect();
        self.now += time;
        let restored = next.restore(self.now, time, &State::decode(&bytes, Limits::NONE).unwrap().runs);
        for cursor in cursors {
            let (slot, offset, rest) = cursor.position();
            let place = slots.iter().position(|other| *other == slot);
            if let Some(place) = place.filter(|_| cursor.is_of(&self.hub)) {
                *cursor = next.resume(restored[place], offset, rest.to_vec());
            }
        }
        next.drop_unused(self.now, &restored);
        self.hub = next;
        numbers
    }
}

/// Asserts that nothing is left in any map.
fn assert_empty(hub: &Hub) {
    let state = hub.state();
    let orders = [&state.open, &state.finished, &state.draining, &state.failed, &state.aborted];
    assert_eq!((state.runs.len(), state.channels.len(), orders.map(Order::len), state.used), (0, 0, [0; 5], 0));
}

fn kind(command: &str) -> Kind {
    crate::wire::message::Message { channel: "x", command, task: None, state: None }.kind()
}

fn frame(text: &str) -> Vec<u8> {
    let mut buffer = Vec::new();
    let message = crate::wire::message::Message { channel: "x", command: text, task: None, state: None };
    message.encode(&mut buffer).to_vec()
}

/// Everything a cursor gives now, as commands, and how it ends.
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
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let commands =
                    text.split("\"command\": \"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
                return (commands.collect(), end);
            }
        }
    }
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
fn finished_history_stays_for_its_time_and_no_longer() {
    let mut bench = Bench::new(History::default());
    bench.publish("job", "FINISHED");
    bench.pass(secs(300) - Duration::from_nanos(1));
    let mut reader = bench.subscribe("job");
    bench.pass(Duration::from_nanos(1));
    assert_eq!(bench.hub.usage().channels, 0);
    assert_eq!(read(&mut reader), got(&["FINISHED"], FINISHED), "who reads it may read it to the end");
    assert!(bench.hub.usage().bytes > 0);
    drop(reader);
    assert_eq!(bench.hub.usage().bytes, 0);
    assert_eq!(read(&mut bench.subscribe("job")), got(&[], CAUGHT_UP));
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

/// An eviction between the last write and the look at what follows must not turn the job's end into another.
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
fn failed_and_then_silence_finishes_the_job() {
    let mut bench = Bench::new(History::default());
    let mut viewer = bench.subscribe("job");
    bench.publish("job", "FAILED");
    bench.pass(secs(10) - Duration::from_nanos(1));
    assert_eq!(read(&mut viewer), got(&["FAILED"], CAUGHT_UP));
    bench.pass(Duration::from_nanos(1));
    assert_eq!(read(&mut viewer), got(&["FINISHED"], FINISHED));
    assert_eq!(bench.metrics.released.get(), 1);
    assert_eq!(read(&mut bench.subscribe("job")), got(&["FAILED", "FINISHED"], FINISHED));
    bench.pass(secs(300));
    assert_eq!(bench.hub.usage().channels, 0);
}

#[test]
fn whatever_follows_failed_keeps_the_job_open() {
    let mut bench = Bench::new(History::default());
    for next in ["STARTED", "ABORTED", "FINISHED"] {
        bench.publish(next, "FAILED");
        bench.pass(secs(9));
        bench.publish(next, next);
        bench.pass(secs(60));
    }
    assert_eq!(bench.metrics.released.get(), 0);
    bench.publish("twice", "FAILED");
    bench.pass(secs(9));
    bench.publish("twice", "FAILED");
    bench.pass(secs(9));
    assert_eq!(bench.metrics.released.get(), 0, "a second FAILED starts the silence anew");
    bench.pass(secs(1));
    assert_eq!(bench.metrics.released.get(), 1);
}

#[test]
fn a_job_is_not_released_when_that_is_off() {
    let never = Seconds::from_secs(0);
    let mut bench = Bench::new(History { release_failed: never, release_aborted: never, ..History::default() });
    bench.publish("failed", "FAILED");
    bench.publish("aborted", "ABORTED");
    bench.pass(secs(3600));
    assert_eq!(bench.metrics.released.get(), 0);
    bench.hub.set_limits(History { release_failed: never, ..History::default() });
    bench.pass(secs(1));
    assert_eq!((bench.metrics.released.get(), bench.hub.usage().finished), (1, 1), "each has its own time");
}

#[test]
fn aborted_and_then_silence_finishes_the_job_and_its_next_run_is_another() {
    let mut bench = Bench::new(History::default());
    let mut viewer = bench.subscribe("job");
    bench.publish("job", "STARTED");
    bench.publish("job", "ABORTED");
    bench.pass(secs(300) - Duration::from_nanos(1));
    assert_eq!(read(&mut viewer), got(&["STARTED", "ABORTED"], CAUGHT_UP));
    bench.pass(Duration::from_nanos(1));
    assert_eq!(read(&mut viewer), got(&["FINISHED"], FINISHED));
    assert_eq!(bench.metrics.released.get(), 1);
    assert_eq!(read(&mut bench.subscribe("job")), got(&["STARTED", "ABORTED", "FINISHED"], FINISHED));
    bench.publish("job", "DOWNLOADED");
    assert_eq!(read(&mut bench.subscribe("job")), got(&["DOWNLOADED"], CAUGHT_UP));
}

#[test]
fn whatever_follows_aborted_keeps_the_job_open() {
    let mut bench = Bench::new(History::default());
    for next in ["DOWNLOADED", "STARTED", "TASK", "FINISHED"] {
        bench.publish(next, "ABORTED");
        bench.pass(secs(299));
        bench.publish(next, next);
        bench.pass(secs(299));
    }
    assert_eq!(bench.metrics.released.get(), 0);
    bench.publish("twice", "ABORTED");
    bench.pass(secs(299));
    bench.publish("twice", "ABORTED");
    bench.pass(secs(299));
    assert_eq!(bench.metrics.released.get(), 0, "a second ABORTED starts the silence anew");
    bench.publish("twice", "FAILED");
    bench.pass(secs(10));
    assert_eq!(bench.metrics.released.get(), 1, "FAILED is waited for as ever");
}

#[test]
fn the_age_of_an_aborted_or_failed_passes_to_the_next_process() {
    for (last, time) in [("ABORTED", 300), ("FAILED", 10)] {
        let mut bench = Bench::new(History::default());
        bench.publish("job", last);
        bench.pass(secs(time - 5));
        bench.restart(History::default(), secs(4), std::iter::empty());
        bench.check();
        bench.pass(secs(1) - Duration::from_nanos(1));
        assert_eq!(bench.metrics.released.get(), 0);
        bench.pass(Duration::from_nanos(1));
        assert_eq!(bench.metrics.released.get(), 1);
    }
}

/// Publishes `last` for 2,000 channels.
fn publish_many(bench: &Bench, last: &str) {
    for n in 0..2_000 {
        bench.hub.publish(bench.now, &n.to_string(), kind(last), &frame(last));
    }
}

/// Calls `expire` until nothing is due; asserts that no call touches more than a slice, by `touched`, and how many do in all.
fn assert_sliced(bench: &mut Bench, time: Duration, touched: impl Fn(&Bench) -> u64) {
    let before = touched(bench);
    bench.now += time;
    let (mut last, mut calls) = (before, 0);
    while last < before + 2_000 {
        bench.hub.expire(bench.now);
        bench.check();
        let now = touched(bench);
        assert!((1..=SLICE as u64).contains(&(now - last)), "{} in one call", now - last);
        (last, calls) = (now, calls + 1);
    }
    assert_eq!(calls, 2_000_usize.div_ceil(SLICE));
}

#[test]
fn what_is_due_at_once_goes_in_slices() {
    let limits = History { release_failed: Seconds::from_secs(60), ..History::default() };
    let mut bench = Bench::new(limits.clone());
    for last in ["FAILED", "ABORTED"] {
        publish_many(&bench, last);
        assert_sliced(&mut bench, secs(300), |bench| bench.metrics.released.get());
        // Now they are finished.
        assert_sliced(&mut bench, secs(300), |bench| 2_000 - bench.hub.usage().channels as u64);
    }
    publish_many(&bench, "STARTED");
    assert_sliced(&mut bench, secs(86_400), |bench| bench.metrics.expired.get());
    assert_empty(&bench.hub);
    publish_many(&bench, "STARTED");
    // By a reload: the first slice at once, and the rest before anything else is asked for.
    bench.hub.set_limits(History { total_bytes: 1, ..limits });
    assert_eq!(bench.metrics.evicted.get(), SLICE as u64);
    bench.check();
    // What comes meanwhile takes only its own place.
    bench.publish("new", "STARTED");
    assert!(bench.metrics.evicted.get() <= SLICE as u64 + 2);
    while bench.hub.usage().channels > 0 {
        let before = bench.metrics.evicted.get();
        bench.hub.expire(bench.now);
        assert!((1..=SLICE as u64).contains(&(bench.metrics.evicted.get() - before)));
        bench.check();
    }
}

#[test]
fn runs_that_have_moved_are_put_in_order_in_slices() {
    let mut bench = Bench::new(History::default());
    publish_many(&bench, "STARTED");
    let begun = bench.now;
    bench.now += secs(1);
    publish_many(&bench, "TASK");
    bench.now = begun + secs(86_400);
    let moved = |bench: &Bench| bench.hub.state().open.keys().filter(|(since, _)| *since > begun).count();
    for calls in 1..=2_000_usize.div_ceil(SLICE) {
        bench.hub.expire(bench.now);
        bench.check();
        assert_eq!(moved(&bench), 2_000.min(calls * SLICE));
    }
    assert_eq!(bench.metrics.expired.get(), 0);
}

/// Counts how many are released between two turns of another task.
#[tokio::test(start_paused = true)]
async fn other_tasks_have_their_turn_between_two_slices() {
    let bench = Bench::new(History::default());
    publish_many(&bench, "FAILED");
    let hub = Arc::clone(&bench.hub);
    let keeper = tokio::spawn(async move { hub.keep_time().await });
    let mut viewer = bench.subscribe("other");
    let mut released = 0;
    tokio::time::sleep(secs(10)).await;
    while released < 2_000 {
        yield_now().await;
        let now = bench.metrics.released.get();
        assert!(now - released <= SLICE as u64, "{} in one turn", now - released);
        if now > released {
            bench.hub.publish(Instant::now(), "other", Kind::Progress, &frame("TASK"));
            assert_eq!(read(&mut viewer), got(&["TASK"], CAUGHT_UP));
        }
        released = now;
    }
    keeper.abort();
}

#[test]
fn what_never_finishes_goes_a_day_after_its_last_message_or_new_viewer() {
    let mut bench = Bench::new(History::default());
    let day = secs(24 * 3600);
    bench.publish("job", "STARTED");
    bench.pass(day - secs(1));
    bench.publish("job", "TASK");
    bench.pass(day - secs(1));
    let mut viewer = bench.subscribe("job");
    bench.pass(day - secs(1));
    assert_eq!(read(&mut viewer), got(&["STARTED", "TASK"], CAUGHT_UP));
    bench.pass(secs(1));
    assert_eq!(read(&mut viewer), got(&[], Turn::Ended(End::Expired)));
    assert_eq!(bench.hub.usage(), Usage { channels: 0, finished: 0, draining: 0, bytes: 0 });
    assert_eq!(bench.metrics.expired.get(), 1);
}

#[test]
fn who_was_touched_stays_when_those_begun_before_and_after_it_go() {
    let mut bench = Bench::new(History::default());
    let half = secs(12 * 3600);
    for id in ["before", "touched", "after"] {
        bench.publish(id, "STARTED");
        bench.pass(secs(1));
    }
    bench.pass(half);
    bench.publish("touched", "TASK");
    bench.pass(half);
    let left: Vec<_> = bench.hub.state().channels.keys().map(ToString::to_string).collect();
    assert_eq!((left, bench.metrics.expired.get()), (vec!["touched".to_owned()], 2));
}

#[test]
fn a_message_saves_its_channel_from_being_the_longest_idle() {
    let mut bench = Bench::new(History { total_bytes: 3 * 700, ..History::default() });
    for id in ["old", "idle"] {
        bench.publish(id, "STARTED");
        bench.pass(secs(1));
    }
    bench.publish("old", "TASK");
    bench.now += secs(1); // and nothing else looks at the order before the eviction does
    for n in 0.. {
        bench.publish(&format!("new {n}"), "STARTED");
        if bench.metrics.evicted.get() > 0 {
            break;
        }
    }
    let state = bench.hub.state();
    assert!(state.channels.contains_key("old") && !state.channels.contains_key("idle"));
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
fn over_the_total_the_oldest_finished_go_first_then_the_longest_idle() {
    let mut bench = Bench::new(History { total_bytes: 6 * 700, ..History::default() });
    bench.publish("idle", "STARTED");
    bench.pass(secs(1));
    bench.publish("finished 1", "FINISHED");
    bench.pass(secs(1));
    bench.publish("finished 2", "FINISHED");
    bench.pass(secs(1));
    bench.publish("busy", "STARTED");
    let mut idle = bench.subscribe("idle"); // touches it
    bench.publish("busy", "TASK");
    bench.pass(secs(1));
    bench.publish("busy", "TASK");
    let alive = |id: &str| bench.hub.state().channels.contains_key(id);
    let mut gone = Vec::new();
    for n in 0..40 {
        bench.publish(&format!("new {n}"), "STARTED");
        for id in ["finished 1", "finished 2", "idle", "busy"] {
            if !alive(id) && !gone.contains(&id) {
                gone.push(id);
            }
        }
    }
    assert_eq!(gone, ["finished 1", "finished 2", "idle", "busy"]);
    assert_eq!(read(&mut idle), got(&[], Turn::Ended(End::Evicted)));
    assert!(bench.metrics.evicted.get() >= 36);
}

#[test]
fn at_the_total_all_stay_and_a_byte_past_it_the_oldest_goes() {
    let bench = Bench::new(History::default());
    bench.publish("old", "STARTED");
    bench.publish("new", "STARTED");
    let bytes = bench.hub.usage().bytes;
    for (total_bytes, channels) in [(bytes, 2), (bytes - 1, 1)] {
        bench.hub.set_limits(History { total_bytes, ..History::default() });
        assert_eq!(bench.hub.usage().channels, channels);
    }
    assert!(bench.hub.state().channels.contains_key("new"));
}

#[test]
fn a_run_that_is_only_drained_goes_before_all_others() {
    let bench = Bench::new(History { total_bytes: 3 * 700, ..History::default() });
    bench.publish("a", "FINISHED");
    let mut slow = bench.subscribe("a");
    bench.publish("b", "FINISHED");
    bench.publish("a", "STARTED");
    bench.publish("c", "STARTED");
    assert_eq!(read(&mut slow), got(&[], Turn::Ended(End::Evicted)));
    assert!(bench.hub.state().channels.contains_key("b"));
}

#[test]
fn the_run_that_takes_a_message_is_never_evicted_by_it() {
    let bench = Bench::new(History { total_bytes: 600, ..History::default() });
    let mut viewer = bench.subscribe("job");
    for _ in 0..20 {
        bench.publish("job", "TASK");
        assert_eq!(read(&mut viewer), got(&["TASK"], CAUGHT_UP));
    }
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

/// A reload does not wait for the end, and looks for what is due.
#[test]
fn a_failed_job_is_not_released_while_the_monitor_stops() {
    let mut bench = Bench::new(History::default());
    bench.publish("job", "FAILED");
    bench.publish("another", "ABORTED");
    bench.hub.stop();
    bench.pass(secs(300));
    assert_eq!(bench.metrics.released.get(), 0);
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

#[tokio::test(start_paused = true)]
async fn time_passes_by_itself_and_an_earlier_deadline_is_seen() {
    let bench = Bench::new(History::default());
    let hub = Arc::clone(&bench.hub);
    let keeper = tokio::spawn(async move { hub.keep_time().await });
    let mut viewer = bench.subscribe("job");
    tokio::time::sleep(secs(60)).await;
    bench.hub.publish(Instant::now(), "job", Kind::Failed, &frame("FAILED"));
    tokio::time::sleep(secs(10) + Duration::from_millis(2)).await;
    assert_eq!(read(&mut viewer), got(&["FAILED", "FINISHED"], FINISHED));
    drop(viewer);
    tokio::time::sleep(secs(301)).await;
    assert_eq!(bench.hub.usage(), Usage { channels: 0, finished: 0, draining: 0, bytes: 0 });
    keeper.abort();
}

#[tokio::test]
async fn a_probe_comes_out_and_leaves_nothing() {
    let bench = Bench::new(History::default());
    bench.hub.probe().await;
    bench.check();
    assert_eq!(bench.hub.state().begun, 1, "it went through a channel");
    assert_eq!(bench.hub.usage(), Usage { channels: 0, finished: 0, draining: 0, bytes: 0 });
    assert_eq!((bench.metrics.messages.get(), bench.metrics.viewers.get()), (0, 0));
}

/// A job of which `total_bytes` holds only the newest part.
fn large_job(bench: &Bench, longest: usize) -> Cursor {
    let mut viewer = bench.subscribe("job");
    for size in (0..300).map(|n| n * 37 % longest) {
        bench.publish("job", &"x".repeat(size));
        assert!(bench.hub.usage().bytes <= 65_536, "one job alone fits");
        while viewer.turn(|pending| Ok(pending.len())).unwrap() == Turn::Wrote {}
    }
    assert!(bench.metrics.trimmed.get() > 0);
    viewer
}

#[tokio::test]
async fn a_probe_evicts_nothing_however_large_a_job_is() {
    for longest in [1_000, 20_000] {
        let bench = Bench::new(History { total_bytes: 65_536, ..History::default() });
        let mut viewer = large_job(&bench, longest);
        bench.hub.probe().await;
        bench.check();
        assert_eq!(read(&mut viewer), got(&[], CAUGHT_UP));
    }
    // The newest message is always kept, and may be over the bound alone.
    let bench = Bench::new(History { total_bytes: 1_000, ..History::default() });
    let mut viewer = bench.subscribe("job");
    bench.publish("job", &"x".repeat(2_000));
    // One that is under way when the next message comes takes no room either, and stays.
    let probe = bench.hub.subscribe(bench.now, PROBE);
    bench.publish("job", "TASK");
    bench.publish("job", &"x".repeat(2_000));
    assert!(bench.hub.state().channels.contains_key(PROBE));
    drop(probe);
    bench.hub.probe().await;
    assert_eq!(bench.metrics.evicted.get(), 0);
    assert_eq!(read(&mut viewer).1, Turn::Ended(End::Behind));
    assert_eq!(read(&mut bench.subscribe("job")).1, CAUGHT_UP);
}

#[test]
fn a_viewer_of_an_idle_channel_evicts_nothing_if_the_job_with_the_longest_history_leaves_room() {
    let bench = Bench::new(History { total_bytes: 65_536, channel_bytes: 60_000, ..History::default() });
    let mut viewer = large_job(&bench, 1_000);
    let _idle = bench.subscribe("idle");
    assert_eq!((read(&mut viewer), bench.metrics.evicted.get()), (got(&[], CAUGHT_UP), 0));
}

#[test]
fn what_waits_for_its_release_is_released_when_it_would_expire() {
    let unfinished = Seconds::from_secs(5);
    for last in ["FAILED", "ABORTED"] {
        let mut bench = Bench::new(History { unfinished, ..History::default() });
        let mut viewer = bench.subscribe("job");
        bench.publish("job", last);
        bench.pass(secs(5) - Duration::from_nanos(1));
        assert_eq!(read(&mut viewer), got(&[last], CAUGHT_UP));
        bench.pass(Duration::from_nanos(1));
        assert_eq!(read(&mut viewer), got(&["FINISHED"], FINISHED));
        assert_eq!((bench.metrics.released.get(), bench.metrics.expired.get()), (1, 0));
    }
    // Where it is never released, it expires as any other.
    let mut bench = Bench::new(History { unfinished, release_failed: Seconds::from_secs(0), ..History::default() });
    bench.publish("job", "FAILED");
    bench.pass(secs(5));
    assert_eq!((bench.metrics.released.get(), bench.metrics.expired.get()), (0, 1));
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

/// The commands of [`Step::Publish`], by its number; those above the last are the last, too.
const COMMANDS: [&str; 5] = ["FINISHED", "FAILED", "ABORTED", "STARTED", "TASK"];

/// A viewer, the run it reads and from where, and what it got.
struct Viewer {
    cursor: Cursor,
    run: u64,
    start: usize,
    got: Vec<u8>,
    end: Option<End>,
}

/// Lets any interleaving happen and compares what each viewer got with the run as it was published.
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
                    let state = bench.hub.state();
                    let run = state.runs[state.channels[id.as_str()]].number();
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
                    let state = bench.hub.state();
                    state.failed.iter().chain(&state.aborted).map(|((_, run), slot)| (*run, *slot)).collect()
                };
                bench.pass(secs(seconds));
                for (number, slot) in unfinished {
                    let state = bench.hub.state();
                    let run = state.runs.get(slot).filter(|run| run.number() == number);
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

/// Whatever can happen to a hub.
#[derive(Debug, Clone)]
enum Operation {
    Step(Step),
    /// A message that was read before others which are in the hub already.
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

/// Lets any operations happen; [`Bench::check`] follows each.
fn any_operations(limits: History, operations: Vec<Operation>) {
    let mut bench = Bench::new(limits);
    let mut viewers: Vec<Cursor> = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
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
            Operation::Probe => runtime.block_on(bench.hub.probe()),
            Operation::Stop => bench.hub.stop(),
            Operation::Restart(limits, seconds) if !bench.hub.state().stopping => {
                drop(bench.restart(limits, secs(seconds), viewers.iter_mut()));
            }
            Operation::Restart(..) | Operation::Step(_) => {}
        }
        bench.check();
    }
    drop(viewers);
    bench.check();
    // Twice, since what failed is finished first.
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
