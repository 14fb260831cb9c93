//! Tests of the probe: it comes out of a socket, and leaves nothing.

use super::*;
use crate::deadline::timeout;
use crate::hub::fan_out::testing::cut_slices;
use std::task::Poll;
use tokio::join;

const NOTHING: Usage = Usage { channels: 0, finished: 0, draining: 0, bytes: 0 };

/// Probes. Fails if nothing comes out.
async fn complete_probe(bench: &Bench) {
    timeout(secs(20), bench.hub.probe(|_, _| Ok(()))).await.expect("it comes out").unwrap();
}

#[tokio::test]
async fn a_probe_comes_out_and_leaves_nothing() {
    let bench = Bench::new(History::default());
    complete_probe(&bench).await;
    bench.check();
    assert_eq!(bench.hub.table().begun, 1, "it went through a channel");
    assert_eq!(bench.hub.usage(), NOTHING);
    assert_eq!((bench.metrics.messages.get(), bench.metrics.viewers.get()), (0, 0));
}

#[tokio::test]
async fn a_probe_that_is_dropped_in_the_middle_leaves_nothing() {
    let bench = Bench::new(History::default());
    let mut probe = Box::pin(bench.hub.probe(|_, _| Ok(())));
    let begun = std::future::poll_fn(|cx| Poll::Ready(probe.as_mut().poll(cx).is_pending())).await;
    assert!(begun && bench.hub.usage().channels == 1, "it waits for its socket");
    bench.check();
    drop(probe);
    bench.check();
    assert_empty(&bench.hub);
    complete_probe(&bench).await;
}

#[tokio::test]
async fn of_two_probes_each_comes_out() {
    let bench = Bench::new(History::default());
    join!(complete_probe(&bench), complete_probe(&bench));
    assert_eq!(bench.hub.table().begun, 2, "one after the other");
    bench.check();
    assert_empty(&bench.hub);
}

#[tokio::test]
async fn a_probe_completes_while_the_monitor_stops() {
    let bench = Bench::new(History::default());
    bench.hub.stop();
    complete_probe(&bench).await;
    bench.check();
    assert_empty(&bench.hub);
}

/// A stop in the middle: the probe's message is in its socket by then.
#[tokio::test]
async fn a_probe_completes_if_the_monitor_stops_meanwhile() {
    let bench = Bench::new(History::default());
    let mut probe = Box::pin(bench.hub.probe(|_, _| Ok(())));
    let begun = std::future::poll_fn(|cx| Poll::Ready(probe.as_mut().poll(cx).is_pending())).await;
    assert!(begun, "it waits for its socket");
    bench.hub.stop();
    bench.deliver_all();
    drop(bench.hub.next_ended().expect("its entry is closed as any other"));
    timeout(secs(20), probe).await.expect("it comes out").unwrap();
    bench.check();
    assert_empty(&bench.hub);
}

/// Otherwise a long round would look like a relay that hangs.
#[tokio::test]
async fn a_probe_does_not_wait_for_the_round_of_a_channel() {
    let bench = Bench::new(History::default());
    let crowd = bench.crowd("job", 40);
    cut_slices(Some(4));
    bench.publish("job", "STARTED");
    complete_probe(&bench).await;
    cut_slices(None);
    let served = crowd.iter().filter(|far| !far.commands().is_empty()).count();
    assert_eq!(served, 4, "the round has not gone on");
    bench.deliver_all();
}
