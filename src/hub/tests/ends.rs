//! Tests of the ends of runs: all quiet viewers get the last bytes, and are closed after that.

use super::fan_out::Far;
use super::*;
use crate::hub::fan_out::Reason;
use crate::hub::fan_out::testing::cut_slices;

/// Checks that all get these commands before the first of them is to be closed, and that each is closed with this end.
fn all_end(bench: &Bench, crowd: &[Far], commands: &[&str], end: End) {
    assert!(bench.hub.next_ended().is_none(), "not before all have everything");
    cut_slices(Some(1));
    bench.deliver_all();
    cut_slices(None);
    for far in crowd {
        assert_eq!(far.commands(), commands);
    }
    for _ in crowd {
        let back = bench.hub.next_ended().expect("all are closed");
        bench.check();
        let cursor = back.into_cursor();
        assert_eq!(cursor.end(), Some(end));
        drop(cursor);
        bench.check();
    }
    assert!(bench.hub.next_ended().is_none() && bench.hub.next_back().is_none());
}

#[test]
fn at_the_end_of_a_run_all_get_its_last_bytes_and_are_closed_then() {
    let bench = Bench::new(History::default());
    let crowd = bench.crowd("job", 5);
    cut_slices(Some(0));
    bench.publish("job", "STARTED");
    bench.publish("job", "FINISHED");
    all_end(&bench, &crowd, &["STARTED", "FINISHED"], End::Finished);
}

#[test]
fn a_viewer_that_becomes_quiet_after_the_end_is_closed() {
    let bench = Bench::new(History::default());
    bench.publish("job", "FINISHED");
    cut_slices(Some(0));
    let far = bench.quiet("job");
    all_end(&bench, &[far], &[], End::Finished);
}

#[test]
fn before_an_eviction_all_get_what_was_there() {
    let bench = Bench::new(History { total_bytes: 3000, ..History::default() });
    let crowd = bench.crowd("old", 4);
    cut_slices(Some(0));
    let mut publisher = bench.hub.publisher(bench.now);
    publisher.publish("old", Kind::Progress, &frame("STARTED"));
    publisher.publish("new", Kind::Progress, &frame(&"x".repeat(2200)));
    drop(publisher);
    assert_eq!(bench.metrics.evicted.get(), 1);
    all_end(&bench, &crowd, &["STARTED"], End::Evicted);
}

#[test]
fn before_it_expires_all_get_what_was_there() {
    let mut bench = Bench::new(History::default());
    let crowd = bench.crowd("job", 4);
    cut_slices(Some(0));
    bench.publish("job", "STARTED");
    bench.pass(secs(86_400));
    assert_eq!(bench.metrics.expired.get(), 1);
    all_end(&bench, &crowd, &["STARTED"], End::Expired);
    assert_empty(&bench.hub);
}

#[test]
fn at_a_stop_all_open_runs_end_after_their_last_bytes() {
    for (steps, commands) in [(Some(0), &["STARTED"][..]), (None, &[])] {
        let bench = Bench::new(History::default());
        let crowd: Vec<_> = ["a", "b", "c"].into_iter().flat_map(|id| bench.crowd(id, 2)).collect();
        cut_slices(steps);
        for id in ["a", "b", "c"] {
            bench.publish(id, "STARTED");
        }
        if steps.is_none() {
            assert!(crowd.iter().all(|far| far.commands() == ["STARTED"]));
        }
        bench.hub.stop();
        bench.check();
        all_end(&bench, &crowd, commands, End::Stopping);
    }
}

#[test]
fn at_the_end_of_the_process_all_that_are_left_come_out() {
    let bench = Bench::new(History::default());
    let mut crowd = bench.crowd("a", 3);
    crowd.extend(bench.crowd("b", 3));
    crowd[1].say(b"x");
    bench.hub.hear(crowd[1].key);
    bench.hub.freeze();
    let left: Vec<_> = std::iter::from_fn(|| bench.hub.next_left()).collect();
    let stopped = left.iter().filter(|back| matches!(back.reason, Reason::Stop)).count();
    assert_eq!((left.len(), stopped), (6, 5));
    assert!(matches!(&left[0].reason, Reason::Spoke(bytes) if bytes == b"x"));
    bench.check();
}
