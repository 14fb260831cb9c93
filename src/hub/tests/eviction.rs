//! Tests of `history.total_bytes`: the order of evictions, and the runs that are spared.

use super::*;

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
    let table = bench.hub.table();
    assert!(table.channels.contains_key("old") && !table.channels.contains_key("idle"));
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
    let alive = |id: &str| bench.hub.table().channels.contains_key(id);
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
    assert!(bench.hub.table().channels.contains_key("new"));
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
    assert!(bench.hub.table().channels.contains_key("b"));
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
        bench.hub.probe(|_, _| Ok(())).await.unwrap();
        bench.check();
        assert_eq!(read(&mut viewer), got(&[], CAUGHT_UP));
    }
    // The newest message is always kept, and may be over the bound alone.
    let bench = Bench::new(History { total_bytes: 1_000, ..History::default() });
    let mut viewer = bench.subscribe("job");
    bench.publish("job", &"x".repeat(2_000));
    // A probe under way when the next message comes takes no room either, and is not evicted.
    let probe = bench.hub.subscribe(bench.now, PROBE);
    bench.publish("job", "TASK");
    bench.publish("job", &"x".repeat(2_000));
    assert!(bench.hub.table().channels.contains_key(PROBE));
    drop(probe);
    bench.hub.probe(|_, _| Ok(())).await.unwrap();
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
