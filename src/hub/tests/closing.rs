//! Tests of the close frames that quiet viewers get from the fan-out, and of the wait for their answers.

use super::fan_out::{Far, pair};
use super::*;
use crate::config::Clients;
use crate::hub::fan_out::testing::cut_slices;
use crate::hub::fan_out::{HandBack, Position, Reason};
use rustix::net::{SendFlags, SocketType, send, sockopt};

const ANSWER: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

impl Bench {
    /// Sends all close frames.
    fn close_all(&self, finish: bool) {
        while self.hub.close_ended(self.now, finish) {
            self.check();
        }
        self.check();
    }

    /// Makes `count` viewers quiet whose channel ends with `end`. Nothing is closed yet.
    fn ended(&mut self, count: usize, end: End) -> Vec<Far> {
        let crowd = self.crowd("job", count);
        match end {
            End::Finished => self.publish("job", "FINISHED"),
            End::Stopping => self.hub.stop(),
            End::Expired => self.pass(secs(86_400)),
            End::Evicted => {
                self.publish("job", "STARTED");
                self.hub.set_limits(History { total_bytes: 1, ..History::default() });
            }
            End::Behind => panic!("no quiet viewer is behind"),
        }
        self.deliver_all();
        crowd
    }

    /// Returns the end of the only viewer that is handed back, and the reason for that.
    fn only_closing(&self) -> (End, Reason) {
        let HandBack { position, reason, .. } = self.hub.next_back().expect("one is handed back");
        assert!(self.hub.next_back().is_none(), "only one is");
        let Position::Closing(end) = position else { panic!("it was sent a close frame") };
        self.check();
        (end, reason)
    }
}

#[test]
fn each_gets_the_close_frame_of_its_end_once_and_leaves_its_run() {
    for end in [End::Finished, End::Stopping, End::Expired, End::Evicted] {
        for finish in [true, false] {
            let mut bench = Bench::new(History::default());
            let crowd = bench.ended(5, end);
            for far in &crowd {
                far.commands();
            }
            cut_slices(Some(1));
            bench.close_all(finish);
            cut_slices(None);
            bench.close_all(finish);
            for far in &crowd {
                assert_eq!(far.all_bytes(), end.closing_bytes(finish), "{end:?}");
            }
            assert_eq!(bench.hub.table().runs.iter().map(|(_, run)| run.viewers()).sum::<usize>(), 0);
            assert_eq!(bench.metrics.closed.total(), 5);
            assert!(bench.hub.next_back().is_none(), "they are waited for");
        }
    }
}

#[test]
fn a_viewer_that_answers_or_hangs_up_is_gone_once() {
    for answer in [&ANSWER[..], &[], &[&ANSWER[..], b"more"].concat()] {
        let mut bench = Bench::new(History::default());
        let far = bench.ended(1, End::Finished).remove(0);
        bench.close_all(true);
        let key = far.key;
        // Unread bytes would make a hang-up an error.
        far.all_bytes();
        if answer.is_empty() {
            drop(far);
        } else {
            far.say(answer);
        }
        bench.hub.hear(key);
        bench.hub.hear(key);
        assert!(matches!(bench.only_closing(), (End::Finished, Reason::Gone(None))));
        assert_eq!(bench.metrics.closed.total(), 1);
    }
}

/// It sent something before it got the close frame; its answer is to come.
#[test]
fn a_viewer_that_says_something_else_is_handed_back_with_the_bytes() {
    for bytes in [&b"\x81\x81\0\0\0\0x"[..], &ANSWER[..4], &[&[0x8a, 0x80, 0, 0, 0, 0][..], &ANSWER].concat()] {
        let mut bench = Bench::new(History::default());
        let far = bench.ended(1, End::Finished).remove(0);
        bench.close_all(true);
        far.say(bytes);
        bench.hub.hear(far.key);
        let (end, reason) = bench.only_closing();
        assert!(matches!(reason, Reason::Spoke(spoken) if spoken == bytes) && end == End::Finished);
    }
}

#[test]
fn who_does_not_answer_is_gone_after_5_s_and_is_not_pinged() {
    let mut bench = Bench::new(History::default());
    let far = bench.ended(1, End::Finished).remove(0);
    bench.close_all(true);
    far.all_bytes();
    let sweep = |milliseconds| bench.hub.sweep(bench.now + Duration::from_millis(milliseconds), &Clients::default());
    far.say(&[0x8a, 0x80, 1, 2, 3, 4]);
    bench.hub.hear(far.key);
    assert!(!sweep(4999) && bench.hub.next_back().is_none());
    assert!(!sweep(5000) && far.all_bytes().is_empty());
    assert!(matches!(bench.only_closing(), (End::Finished, Reason::Gone(None))), "a pong is no answer");
}

#[test]
fn an_answer_that_waits_in_the_socket_counts() {
    let mut bench = Bench::new(History::default());
    let far = bench.ended(1, End::Finished).remove(0);
    bench.close_all(true);
    far.say(b"\x81\x81\0\0\0\0x");
    assert!(!bench.hub.sweep(bench.now + secs(5), &Clients::default()));
    assert!(matches!(bench.only_closing(), (End::Finished, Reason::Spoke(_))));
}

#[test]
fn a_close_frame_for_which_there_is_no_room_is_handed_back_with_all_that_is_left() {
    let bench = Bench::new(History::default());
    let (near, far) = pair(SocketType::STREAM);
    sockopt::set_socket_send_buffer_size(&near, 1).unwrap();
    while send(&near, b"x", SendFlags::DONTWAIT).is_ok() {}
    let far = bench.quiet_over("job", (near, far));
    bench.hub.stop();
    bench.deliver_all();
    bench.close_all(true);
    let (end, reason) = bench.only_closing();
    assert!(matches!(reason, Reason::Full(rest) if rest == End::Stopping.closing_bytes(true)) && end == End::Stopping);
    assert!(far.all_bytes().iter().all(|byte| *byte == b'x'));
}

#[test]
fn a_hang_up_is_found_by_the_close_frame() {
    let mut bench = Bench::new(History::default());
    drop(bench.ended(1, End::Finished));
    bench.close_all(true);
    assert!(matches!(bench.only_closing(), (End::Finished, Reason::Gone(Some(_)))));
}

/// The run's slot may be another's by then.
#[test]
fn at_the_end_of_the_process_those_that_have_not_answered_come_out() {
    let mut bench = Bench::new(History::default());
    let _crowd = bench.ended(2, End::Expired);
    bench.close_all(true);
    assert_empty(&bench.hub);
    let _other = bench.quiet("other");
    let positions: Vec<_> = std::iter::from_fn(|| bench.hub.next_left()).map(|back| back.position).collect();
    assert!(matches!(&positions[..], [Position::Closing(End::Expired), Position::Closing(_), Position::Reading(_)]));
}
