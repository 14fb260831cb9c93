//! The end of many quiet viewers at once: a job's end, expiry, eviction, a stop.

use super::{GIVEN_UP, NO_PINGS, calm, end, on_each_way, texts};
use crate::common::viewer::frame;
use crate::common::{DEADLINE, Event, PROMPT, Viewer, command, task};
use std::thread::scope;
use std::time::{Duration, Instant};

/// The time in which a viewer has to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Asserts that a viewer gets this end; answers the close if `answers`.
fn gets_end(viewer: &mut Viewer, code: u16, answers: bool) {
    for expected in end(code) {
        assert_eq!(viewer.next(), expected);
    }
    if answers {
        answers_close(viewer, code);
    }
}

/// Answers a close, and asserts that nothing follows it. The monitor may have waited long enough already.
fn answers_close(viewer: &mut Viewer, code: u16) {
    let _ = viewer.try_send_raw(&frame(0x88, &code.to_be_bytes()));
    assert_eq!(viewer.next(), Event::Gone, "nothing follows a close");
}

/// Half of them do not answer the close. Another channel's messages go on all the time.
#[test]
fn three_hundred_quiet_viewers_get_finished_and_those_that_do_not_answer_the_close_go_later() {
    const VIEWERS: usize = 300;
    on_each_way(NO_PINGS, |server| {
        let mut other = server.subscribed("other");
        let mut viewers = server.quiet("job", VIEWERS);
        let start = Instant::now();
        server.broker.send(&["job", "FINISHED"]);
        for (number, viewer) in viewers.iter_mut().enumerate() {
            gets_end(viewer, 1000, number % 2 == 0);
            server.tasks("other", number, number + 1);
            other.texts(&texts(number, number + 1));
        }
        // The viewers that answered are gone already.
        let (mut sent, mut left) = (VIEWERS, u64::MAX);
        while left > 1 {
            server.tasks("other", sent, sent + 1);
            other.texts(&texts(sent, sent + 1));
            sent += 1;
            left = server.count("viewers");
            assert!(start.elapsed() < 2 * DEADLINE, "{left} are left");
        }
        assert!(start.elapsed() >= CLOSE_TIMEOUT, "all have gone after {:?}", start.elapsed());
        for viewer in viewers.iter_mut().skip(1).step_by(2) {
            assert_eq!(viewer.next(), Event::Gone);
        }
        assert_eq!(server.count("closed_viewers_total{code=\"1000\"}"), VIEWERS as u64);
        assert_eq!(server.count("sent_messages_total"), (VIEWERS + sent) as u64);
        assert_eq!(server.count("channels{state=\"draining\"}"), 0);
    });
}

/// Viewers of the run that has finished get nothing of the next one, and the other way round.
#[test]
fn quiet_viewers_of_a_finished_run_get_nothing_of_the_next_that_comes_at_once() {
    on_each_way(NO_PINGS, |server| {
        let mut before = Vec::new();
        for run in 0..5 {
            let mut now = Vec::new();
            for _ in 0..20 {
                // They get what is there, and so need no ping to show that they are there.
                let mut viewer = server.connected().upgrade(&[]);
                viewer.send_text("job");
                if run > 0 {
                    viewer.texts(&[command("STARTED"), task(&run.to_string(), "COMPLETED")]);
                } else {
                    viewer.send_frame(0x89, b"read?");
                    assert_eq!(viewer.next(), Event::Pong(b"read?".to_vec()));
                }
                now.push(viewer);
            }
            calm();
            server.broker.send(&["job", "FINISHED"]);
            server.broker.send(&["job", "STARTED"]);
            server.tasks("job", run + 1, run + 2);
            server.fence();
            for viewer in &mut now {
                gets_end(viewer, 1000, false);
            }
            before.extend(now);
        }
        for viewer in &mut before {
            answers_close(viewer, 1000);
        }
        server.counts("viewers", 0);
    });
}

#[test]
fn quiet_viewers_of_a_job_that_is_released_get_finished_and_1000() {
    on_each_way("history: {release_failed: 0.5}\n", |server| {
        let mut viewers = server.quiet("job", 50);
        server.broker.send(&["job", "FAILED"]);
        for viewer in &mut viewers {
            viewer.texts(&[command("FAILED"), command("FINISHED")]);
            viewer.closes(1000);
        }
        assert_eq!(server.count("released_channels_total"), 1);
    });
}

#[test]
fn quiet_viewers_of_channels_that_expire_get_finished_and_1001() {
    on_each_way("history: {unfinished: 3}\n", |server| {
        let mut waits = server.quiet("never-begun", 50);
        let mut begun: Vec<_> = (0..50).map(|_| server.subscribed("begun")).collect();
        server.broker.send(&["begun", "STARTED"]);
        for viewer in &mut begun {
            viewer.texts(&[command("STARTED")]);
        }
        for viewer in waits.iter_mut().chain(&mut begun) {
            gets_end(viewer, 1001, true);
        }
        server.counts("viewers", 0);
        assert_eq!(server.count("expired_channels_total"), 2);
        assert_eq!(server.count("closed_viewers_total{code=\"1001\"}"), 100);
        assert_eq!(server.count("channels{state=\"open\"}"), 0);
    });
}

#[test]
fn quiet_viewers_of_channels_that_are_evicted_get_finished_and_1013() {
    let long = "x".repeat(40_000);
    on_each_way("history: {total_bytes: 100000}\n", |server| {
        let mut evicted: Vec<_> = (0..50).map(|_| server.subscribed("evicted")).collect();
        let mut stays = server.quiet("stays", 20);
        server.broker.task("evicted", &long);
        for viewer in &mut evicted {
            assert_eq!(viewer.text(), task(&long, "COMPLETED"));
        }
        calm();
        server.broker.task("stays", &long);
        server.broker.task("stays", &long);
        for viewer in &mut evicted {
            gets_end(viewer, GIVEN_UP, true);
        }
        for viewer in &mut stays {
            viewer.texts(&[task(&long, "COMPLETED"), task(&long, "COMPLETED")]);
        }
        server.counts("viewers", 20);
        assert_eq!(server.count("evicted_channels_total"), 1);
        assert_eq!(server.count("closed_viewers_total{code=\"1013\"}"), 50);
    });
}

/// Half of them never read again, and their sockets are full.
#[test]
fn a_stop_with_three_hundred_quiet_viewers_tells_all_that_read_within_5_seconds() {
    const VIEWERS: usize = 300;
    let long = |number: usize| format!("{number} {}", "x".repeat(60_000));
    on_each_way(NO_PINGS, |mut server| {
        let mut never: Vec<_> = (0..VIEWERS / 2).map(|_| server.subscribed_with_small_buffer("job")).collect();
        let mut viewers = server.quiet("job", VIEWERS / 2);
        for number in 0..20 {
            server.broker.task("job", &long(number));
        }
        server.fence();
        let start = Instant::now();
        let took = scope(|scope| {
            let threads: Vec<_> = viewers
                .chunks_mut(50)
                .map(|viewers| {
                    scope.spawn(move || {
                        for viewer in viewers {
                            for number in 0..20 {
                                assert_eq!(viewer.text(), task(&long(number), "COMPLETED"));
                            }
                            gets_end(viewer, 1001, true);
                        }
                    })
                })
                .collect();
            let took = server.monitor.stop();
            for thread in threads {
                thread.join().expect("each gets all and its end");
            }
            took
        });
        assert!(took < PROMPT, "{took:?}");
        assert!(start.elapsed() < 2 * PROMPT, "the last was told after {:?}", start.elapsed());
        for viewer in &mut never {
            let events = viewer.rest();
            let whole = events.iter().filter(|event| matches!(event, Event::Text(_))).count();
            assert!(whole <= 21, "{whole} messages");
            for (number, event) in events.into_iter().enumerate() {
                match event {
                    Event::Text(text) if text == command("FINISHED") => assert_eq!(number + 1, whole),
                    Event::Text(text) => assert_eq!(text, task(&long(number), "COMPLETED")),
                    Event::Close(code) => assert_eq!((code, number), (Some(1001), whole)),
                    Event::Cut => assert_eq!(number, whole),
                    other => panic!("{other:?}"),
                }
            }
        }
    });
}

/// Messages that were sent just before the signal come before the end.
#[test]
fn at_a_stop_quiet_viewers_get_what_was_sent_before_it() {
    on_each_way(NO_PINGS, |mut server| {
        let mut viewers = server.quiet("job", 100);
        server.tasks("job", 0, 50);
        server.fence();
        server.tasks("job", 50, 100);
        server.monitor.signal("TERM");
        let mut last = None;
        for viewer in &mut viewers {
            let mut events = viewer.rest();
            assert_eq!(events.split_off(events.len() - 2), end(1001));
            assert!(events.len() >= 50, "{} messages", events.len());
            let got: Vec<_> = texts(0, events.len()).into_iter().map(Event::Text).collect();
            assert_eq!(events, got);
            assert_eq!(*last.get_or_insert(events.len()), events.len(), "all get the same");
        }
        assert_eq!(server.monitor.wait_exit().code(), Some(0));
    });
}
