//! Tests of pings: each viewer gets them in its own phase, and has to answer in time, unless the process could not hear it.

use super::fan_out::{Far, pair};
use super::*;
use crate::config::Clients;
use crate::deadline::timeout;
use crate::hub::fan_out::Reason;
use crate::hub::fan_out::pings::Pings;
use crate::hub::fan_out::testing::cut_slices;
use rustix::net::{SendFlags, SocketType, send};
use tokio::join;
use tokio::task::yield_now;
use tokio::time::advance;

const PING: [u8; 2] = [0x89, 0];
const PONG: [u8; 6] = [0x8a, 0x80, 1, 2, 3, 4];

/// Settings with pings every 10 s, to be answered within 4 s.
fn clients() -> Clients {
    let [ping_interval, ping_timeout] = [10, 4].map(Seconds::from_secs);
    Clients { ping_interval, ping_timeout, ..Clients::default() }
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl Bench {
    /// Makes a viewer quiet that is to be pinged in so many milliseconds.
    fn pinged_in(&self, milliseconds: u64) -> Far {
        self.quiet_with("job", Pings::at(self.now + ms(milliseconds)), pair(SocketType::STREAM))
    }

    /// Sweeps so many milliseconds after the bench's time.
    fn sweep_in(&self, milliseconds: u64) {
        assert!(!self.hub.sweep(self.now + ms(milliseconds), &clients()));
        self.check();
    }
}

/// Returns true if the viewer got one ping and nothing else.
fn is_pinged(far: &Far) -> bool {
    let bytes = far.all_bytes();
    assert!(bytes.is_empty() || bytes == PING, "{bytes:?}");
    !bytes.is_empty()
}

#[test]
fn pings_come_when_they_are_due_once_and_keep_their_phase() {
    let bench = Bench::new(History::default());
    let crowd = [bench.pinged_in(3000), bench.pinged_in(7000)];
    let mut got = Vec::new();
    // A sweep at 3.05 s is late by 50 ms; the next ping is still due at 13 s.
    for at in [2999, 3050, 3100, 6999, 7000, 7001, 12_999, 13_000, 13_100, 16_999, 17_099, 22_999, 23_000] {
        bench.sweep_in(at);
        for (index, far) in crowd.iter().enumerate() {
            if is_pinged(far) {
                got.push((at, index));
                far.say(&PONG);
                bench.hub.hear(far.key);
            }
        }
    }
    assert_eq!(got, [(3050, 0), (7000, 1), (13_000, 0), (17_099, 1), (23_000, 0)]);
    assert!(bench.hub.next_back().is_none());
}

#[test]
fn a_viewer_that_does_not_answer_is_handed_back_when_its_time_is_over() {
    let bench = Bench::new(History::default());
    let (silent, speaks) = (bench.pinged_in(1000), bench.pinged_in(1000));
    bench.sweep_in(1000);
    assert!(is_pinged(&silent) && is_pinged(&speaks));
    speaks.say(&PONG);
    bench.sweep_in(4999);
    assert!(bench.hub.next_back().is_none());
    // The pong waits in the socket, and nobody has read it.
    bench.sweep_in(5000);
    let back = bench.hub.next_back().expect("one is silent");
    assert!(matches!(back.reason, Reason::Silent) && back.pings.is_over(bench.now + ms(5000)));
    assert!(bench.hub.next_back().is_none());
    bench.check();
    bench.sweep_in(10_999);
    assert!(bench.hub.next_back().is_none() && !is_pinged(&speaks));
    bench.sweep_in(11_000);
    assert!(is_pinged(&speaks));
}

#[test]
fn what_a_viewer_has_sent_counts_before_its_time_is_over() {
    let bench = Bench::new(History::default());
    let (speaks, gone) = (bench.pinged_in(0), bench.pinged_in(0));
    bench.sweep_in(0);
    speaks.say(b"x");
    assert!(is_pinged(&gone));
    drop(gone);
    bench.sweep_in(4000);
    let whys: Vec<_> = std::iter::from_fn(|| bench.hub.next_back()).map(|back| back.reason).collect();
    assert!(matches!(&whys[..], [Reason::Spoke(bytes), Reason::Gone(None)] if bytes == b"x"), "{whys:?}");
    bench.check();
}

#[test]
fn a_ping_for_which_there_is_no_room_is_handed_back() {
    let bench = Bench::new(History::default());
    let (near, far) = pair(SocketType::STREAM);
    while send(&near, b"x", SendFlags::DONTWAIT).is_ok() {}
    let far = bench.quiet_with("job", Pings::at(bench.now), (near, far));
    let other = bench.pinged_in(0);
    bench.sweep_in(0);
    let back = bench.hub.next_back().expect("it is handed back");
    assert!(matches!(back.reason, Reason::Ping(rest) if rest == PING));
    assert_eq!(back.pings.next(), bench.now + secs(4), "the time for the answer has begun");
    assert!(bench.hub.next_back().is_none() && is_pinged(&other));
    assert!(far.all_bytes().iter().all(|byte| *byte == b'x'));
}

#[test]
fn a_ping_to_a_viewer_that_is_gone_finds_out() {
    let bench = Bench::new(History::default());
    drop(bench.pinged_in(0));
    bench.sweep_in(0);
    let back = bench.hub.next_back().expect("it is handed back");
    assert!(matches!(back.reason, Reason::Gone(Some(_))));
    bench.sweep_in(4000);
    assert!(bench.hub.next_back().is_none());
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_of_the_process_a_new_ping_is_sent_and_nobody_is_given_up() {
    let bench = Bench::new(History::default());
    let far = bench.pinged_in(0);
    bench.sweep_in(0);
    assert!(is_pinged(&far));
    advance(ms(4000 + 1001)).await;
    bench.sweep_in(5001);
    assert!(bench.hub.next_back().is_none() && is_pinged(&far), "it is asked again");
    advance(ms(3999)).await;
    bench.sweep_in(9000);
    assert!(bench.hub.next_back().is_none() && !is_pinged(&far));
    advance(ms(1)).await;
    bench.sweep_in(9001);
    assert!(matches!(bench.hub.next_back().expect("it has not answered").reason, Reason::Silent));
}

/// Long after its time, a pong in the socket is still an answer.
#[tokio::test(start_paused = true)]
async fn after_a_pause_an_answer_that_waits_in_the_socket_counts() {
    let bench = Bench::new(History::default());
    let far = bench.pinged_in(0);
    bench.sweep_in(0);
    assert!(is_pinged(&far));
    far.say(&PONG);
    advance(ms(8000)).await;
    bench.sweep_in(8000);
    assert!(bench.hub.next_back().is_none() && !is_pinged(&far), "the next ping is due at 10 s");
    advance(ms(2000)).await;
    bench.sweep_in(10_000);
    assert!(is_pinged(&far));
}

#[test]
fn a_sweep_in_slices_sees_all_and_those_that_come_meanwhile() {
    let bench = Bench::new(History::default());
    let mut crowd: Vec<_> = (0..6).map(|_| bench.pinged_in(1000)).collect();
    let first = crowd.remove(0);
    let key = first.key;
    drop(first);
    cut_slices(Some(2));
    let now = bench.now + ms(1000);
    assert!(bench.hub.sweep(now, &clients()), "it goes on");
    assert_eq!(bench.drop_back(), 1, "the ping failed");
    bench.hub.hear(key);
    // At an index behind the sweep, with an earlier deadline than all others.
    let late = bench.pinged_in(1200);
    while bench.hub.sweep(now, &clients()) {
        bench.check();
    }
    cut_slices(None);
    assert!(crowd.iter().all(is_pinged) && !is_pinged(&late));
    assert_eq!(bench.hub.sweep_at(), Some(bench.now + ms(1200)));
    bench.sweep_in(1200);
    assert!(is_pinged(&late));
}

#[test]
fn sweeps_are_not_more_frequent_than_every_100_ms_and_end_with_the_last_viewer() {
    let bench = Bench::new(History::default());
    let keys = [bench.pinged_in(1000), bench.pinged_in(1001)].map(|far| far.key);
    assert_eq!(bench.hub.sweep_at(), Some(bench.now + ms(1000)));
    bench.sweep_in(1000);
    assert_eq!(bench.drop_back(), 1);
    assert_eq!(bench.hub.sweep_at(), Some(bench.now + ms(1100)));
    for key in keys {
        bench.hub.hear(key);
    }
    assert_eq!(bench.drop_back(), 1);
    bench.sweep_in(1100);
    assert_eq!(bench.hub.sweep_at(), None, "there is nobody");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_is_due_earlier_when_somebody_with_an_earlier_deadline_comes() {
    let bench = Bench::new(History::default());
    let _later = bench.pinged_in(100_000);
    let mut sooner = None;
    let (due, ()) = join!(timeout(secs(50), bench.hub.sweep_due()), async {
        yield_now().await;
        sooner = Some(bench.pinged_in(3000));
    });
    due.expect("it is told");
    let waited = bench.now.elapsed();
    assert!((ms(3000)..ms(3100)).contains(&waited), "{waited:?}");
    bench.sweep_in(3001);
    assert!(is_pinged(&sooner.unwrap()));
    // Then it is due for the answer.
    bench.hub.sweep_due().await;
    assert!((ms(7000)..ms(7200)).contains(&bench.now.elapsed()));
}
