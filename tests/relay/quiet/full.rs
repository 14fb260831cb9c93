//! Quiet viewers that stop reading until their socket is full, often in the middle of a frame, and read again later or never.

use super::{GIVEN_UP, NO_PINGS, Server, calm, end, on_each_way, texts};
use crate::common::{A_WHILE, DEADLINE, Event, Viewer, command, task, until};
use std::thread::{scope, sleep};
use std::time::Duration;

/// More than the kernel takes for a viewer that does not read, in frames that do not fit into its room as a whole.
const MANY: usize = 60;

fn long(number: usize) -> String {
    format!("{number} {}", "x".repeat(60_000 + 37 * number % 4000))
}

fn long_text(number: usize) -> String {
    task(&long(number), "COMPLETED")
}

/// Sends the long tasks with these numbers, and returns once the monitor has taken them.
fn send_long(server: &Server, channel: &str, from: usize, to: usize) {
    for number in from..to {
        server.broker.task(channel, &long(number));
    }
    server.fence();
}

/// Returns the number of messages of which the kernel has taken at least a part, for all viewers.
fn sent(server: &Server) -> u64 {
    server.count("sent_messages_total")
}

#[test]
fn a_quiet_viewer_that_reads_again_gets_every_byte_once_and_then_live_messages() {
    on_each_way(NO_PINGS, |server| {
        let mut reads = server.subscribed("job");
        let mut slow = server.subscribed_with_small_buffer("job");
        let mut pieces = server.subscribed_with_small_buffer("job");
        pieces.piece = 1009;
        let at = |round: usize| round * (MANY + 10);
        for round in 0..3 {
            calm();
            // The one that reads shows that the others wait because of themselves.
            let before = sent(&server);
            for number in at(round)..at(round) + MANY {
                server.broker.task("job", &long(number));
                assert_eq!(reads.text(), long_text(number));
            }
            server.fence();
            let took = sent(&server) - before - 1;
            assert!(took < 3 * MANY as u64, "the kernel took it all; the test proves nothing");
            for viewer in [&mut slow, &mut pieces] {
                for number in at(round)..at(round) + MANY {
                    assert_eq!(viewer.text(), long_text(number), "round {round}");
                }
            }
            // They have got everything, so this is live.
            for number in at(round) + MANY..at(round + 1) {
                server.tasks("job", number, number + 1);
                for viewer in [&mut reads, &mut slow, &mut pieces] {
                    viewer.texts(&texts(number, number + 1));
                }
            }
        }
        assert!(reads.received == slow.received, "the same bytes");
        assert!(reads.received == pieces.received, "the same bytes, read in pieces");
    });
}

/// It reads a little whenever a message comes, so that it is nearly always full, and catches up in the end.
#[test]
fn a_viewer_that_is_full_again_and_again_gets_every_message_once() {
    on_each_way(NO_PINGS, |server| {
        let mut slow = server.subscribed_with_small_buffer("job");
        calm();
        let broker = server.broker;
        scope(|scope| {
            let sending = scope.spawn(move || {
                for number in 0..3 * MANY {
                    broker.task("job", &long(number));
                    if number % 50 == 49 {
                        sleep(Duration::from_millis(200));
                    }
                }
                broker
            });
            for number in 0..3 * MANY {
                assert_eq!(slow.text(), long_text(number));
                if number % 7 == 0 {
                    sleep(Duration::from_millis(20));
                }
            }
            drop(sending.join().expect("it could send"));
        });
    });
}

/// The whole job and its end wait for a viewer whose socket is full.
#[test]
fn a_full_viewer_gets_the_rest_of_a_job_that_has_finished_and_begun_again() {
    on_each_way(NO_PINGS, |server| {
        let mut slow = server.subscribed_with_small_buffer("job");
        calm();
        send_long(&server, "job", 0, MANY);
        server.broker.send(&["job", "FINISHED"]);
        server.broker.send(&["job", "STARTED"]);
        server.tasks("job", 0, 3);
        server.fence();
        for number in 0..MANY {
            assert_eq!(slow.text(), long_text(number));
        }
        slow.texts(&[command("FINISHED")]);
        slow.closes(1000);
        server.counts("viewers", 0);
        server.counts("channels{state=\"draining\"}", 0);
        assert_eq!(server.count("lost_viewers_total{reason=\"stalled\"}"), 0);
    });
}

/// Asserts that a viewer which is given up gets whole messages from the first on, and then the end if the kernel had room for it.
fn is_given_up(viewer: &mut Viewer, name: &str) {
    let mut events = viewer.rest();
    events.retain(|event| !matches!(event, Event::Ping(_)));
    if events.ends_with(&end(GIVEN_UP)) {
        events.truncate(events.len() - 2);
    } else {
        // Even if all of a message has come, a part of a TLS record may be lost.
        events.pop_if(|event| *event == Event::Cut);
    }
    assert!(events.len() < MANY, "the kernel took it all; the test proves nothing");
    for (number, event) in events.into_iter().enumerate() {
        assert_eq!(event, Event::Text(long_text(number)), "{name}");
    }
}

#[test]
fn a_quiet_viewer_that_becomes_full_and_stays_so_is_given_up_after_the_stall_timeout() {
    on_each_way("clients: {max: 2, stall_timeout: 1, ping_interval: 3600}\n", |server| {
        let mut full = server.subscribed_with_small_buffer("job");
        calm();
        for number in 0..MANY {
            server.broker.task("job", &long(number));
        }
        server.counts("lost_viewers_total{reason=\"stalled\"}", 1);
        server.counts("viewers", 0);
        is_given_up(&mut full, server.name());
        let _next = server.serves_one_more().expect("its permit is free");
        let _more = server.serves_one_more().expect("there are two");
        assert!(server.serves_one_more().is_none(), "the permit was freed twice");
        assert_eq!(server.count("lost_viewers_total{reason=\"stalled\"}"), 1);
    });
}

/// A viewer that does not read cannot see a ping, either.
#[test]
fn a_full_viewer_that_answers_no_ping_is_given_up_after_the_ping_timeout() {
    on_each_way("clients: {stall_timeout: 3600, ping_interval: 1.5, ping_timeout: 1}\n", |server| {
        let mut full = server.subscribed_with_small_buffer("job");
        calm();
        for number in 0..MANY {
            server.broker.task("job", &long(number));
        }
        server.counts("lost_viewers_total{reason=\"silent\"}", 1);
        server.counts("viewers", 0);
        is_given_up(&mut full, server.name());
        assert_eq!(server.count("lost_viewers_total{reason=\"stalled\"}"), 0);
    });
}

/// The ping stands between two whole messages, and the viewer that then reads and answers stays.
#[test]
fn a_ping_that_is_due_while_a_viewer_is_full_comes_when_it_reads() {
    on_each_way("clients: {stall_timeout: 3600, ping_interval: 2, ping_timeout: 15}\n", |server| {
        let mut full = server.subscribed_with_small_buffer("job");
        let mut later = server.subscribed("other");
        calm();
        for number in 0..MANY {
            server.broker.task("job", &long(number));
        }
        // It subscribed before the other one, so its ping is due, too.
        assert!(matches!(later.next_within(DEADLINE), Some(Event::Ping(_))));
        let (mut pings, mut got) = (0, 0);
        while got < MANY {
            match full.next_within(DEADLINE) {
                Some(Event::Ping(payload)) => {
                    full.send_frame(0x8A, &payload);
                    pings += 1;
                }
                Some(Event::Text(text)) => {
                    assert_eq!(text, long_text(got));
                    got += 1;
                }
                other => panic!("{other:?} after {got} messages"),
            }
        }
        until("the ping comes at last", || match full.next_within(A_WHILE) {
            Some(Event::Ping(payload)) => {
                full.send_frame(0x8A, &payload);
                Some(())
            }
            None => (pings > 0).then_some(()),
            other => panic!("{other:?}"),
        });
        server.tasks("job", 0, 3);
        full.texts(&texts(0, 3));
    });
}

/// Its pongs wait until a frame is whole.
#[test]
fn pings_of_a_full_viewer_are_answered_between_whole_messages() {
    on_each_way(NO_PINGS, |server| {
        let mut full = server.subscribed_with_small_buffer("job");
        calm();
        send_long(&server, "job", 0, MANY);
        for number in 0..10_u32 {
            full.send_frame(0x89, &number.to_be_bytes());
        }
        let (mut pongs, mut got) = (0, 0);
        while got < MANY || pongs < 10 {
            match full.next() {
                Event::Text(text) => {
                    assert_eq!(text, long_text(got));
                    got += 1;
                }
                Event::Pong(payload) => {
                    assert_eq!(payload, u32::to_be_bytes(pongs));
                    pongs += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        server.tasks("job", 0, 3);
        full.texts(&texts(0, 3));
    });
}

/// It hangs up while much waits for it; those that read do not notice.
#[test]
fn full_viewers_that_hang_up_are_gone_once() {
    on_each_way(NO_PINGS, |server| {
        let mut reads = server.subscribed("job");
        let full: Vec<_> = (0..20).map(|_| server.subscribed_with_small_buffer("job")).collect();
        calm();
        for number in 0..MANY {
            server.broker.task("job", &long(number));
            assert_eq!(reads.text(), long_text(number));
        }
        for (number, viewer) in full.into_iter().enumerate() {
            if number % 2 == 0 {
                viewer.reset();
            } else {
                drop(viewer);
            }
        }
        server.counts("viewers", 1);
        server.tasks("job", 0, 3);
        reads.texts(&texts(0, 3));
        assert_eq!(server.count("lost_viewers_total{reason=\"stalled\"}"), 0);
    });
}
