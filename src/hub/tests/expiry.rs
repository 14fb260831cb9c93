//! Tests of what happens in time: releases, and the end of finished and of silent channels.

#![expect(clippy::unchecked_time_subtraction, reason = "the times are constants")]

use super::*;
use crate::hub::expiry::SLICE;
use tokio::task::yield_now;

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
    // A job that is never released expires like any other.
    let mut bench = Bench::new(History { unfinished, release_failed: Seconds::from_secs(0), ..History::default() });
    bench.publish("job", "FAILED");
    bench.pass(secs(5));
    assert_eq!((bench.metrics.released.get(), bench.metrics.expired.get()), (0, 1));
}

/// Publishes `last` for 2,000 channels.
fn publish_many(bench: &Bench, last: &str) {
    for n in 0..2_000 {
        bench.hub.publish(bench.now, &n.to_string(), kind(last), &frame(last));
    }
}

/// Calls `expire` until nothing is due. Asserts that no call touches more than a slice, counted by `touched`, and the number of calls.
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
    // A reload evicts the first slice at once, and `expire` the rest.
    bench.hub.set_limits(History { total_bytes: 1, ..limits });
    assert_eq!(bench.metrics.evicted.get(), SLICE as u64);
    bench.check();
    // A message that comes meanwhile evicts no more than its own size.
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
    let moved = |bench: &Bench| bench.hub.table().open.keys().filter(|(since, _)| *since > begun).count();
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
    let left: Vec<_> = bench.hub.table().channels.keys().map(ToString::to_string).collect();
    assert_eq!((left, bench.metrics.expired.get()), (vec!["touched".to_owned()], 2));
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
