//! Tests of what an entry does to the hub.

use super::*;
use crate::config::Seconds;
use crate::stream::record::tests::read;
use crate::stream::testing::{INGEST, batch, batch_of, entry, frame, node};
use crate::wire::message::Kind;
use std::time::Duration;
use tokio::time::Instant;

fn now() -> Time {
    Time { at: Instant::now(), is_known: false }
}

#[test]
fn a_batch_that_is_in_the_stream_twice_counts_once() {
    let stream = node(1);
    for (id, number, command) in
        [(1, 1, "STARTED"), (2, 1, "STARTED"), (3, 2, "TASK"), (4, 1, "STARTED"), (5, 2, "TASK")]
    {
        assert_eq!(stream.apply(entry(id), &batch(&stream, number, command), now(), false), Applied::Done);
    }
    assert_eq!(stream.history(), ["STARTED", "TASK"]);
    assert_eq!(stream.metrics.cluster.read.get(), 2);
    assert_eq!(stream.metrics.late.get() + stream.metrics.repeated.get(), 0);
}

#[test]
fn a_batch_after_a_gap_is_applied_only_when_the_gap_is_given_up() {
    let stream = node(1);
    let apply =
        |id, number, command, over_gaps| stream.apply(entry(id), &batch(&stream, number, command), now(), over_gaps);
    assert_eq!(apply(1, 1, "ONE", false), Applied::Done);
    assert_eq!(apply(2, 4, "FOUR", false), Applied::Gap(2));
    assert_eq!(apply(2, 4, "FOUR", false), Applied::Gap(2), "it was not applied");
    assert_eq!(stream.history(), ["ONE"]);
    assert_eq!(apply(2, 4, "FOUR", true), Applied::Done);
    assert_eq!(apply(3, 2, "TWO", false), Applied::Done, "it has come later");
    assert_eq!(apply(4, 4, "FOUR", true), Applied::Done);
    assert_eq!(stream.history(), ["ONE", "FOUR", "TWO"]);
}

#[test]
fn a_batch_with_the_largest_number_is_applied_like_others() {
    let stream = node(1);
    let apply = |id, number, command| stream.apply(entry(id), &batch(&stream, number, command), now(), true);
    for (id, number, command) in
        [(1, 1, "ONE"), (2, u64::MAX, "LAST"), (3, 2, "TWO"), (4, u64::MAX - 1, "LAST BUT ONE"), (5, u64::MAX, "LAST")]
    {
        assert_eq!(apply(id, number, command), Applied::Done);
    }
    assert_eq!(stream.history(), ["ONE", "LAST", "TWO", "LAST BUT ONE"]);
    // This node's own next batch is not the one that another program has written.
    assert_eq!(stream.ingest().last(), 0);
}

#[test]
fn an_entry_of_the_past_does_first_what_was_due_before_it() {
    let begun = Instant::now();
    // FINISHED is kept for 300 s. After that, a message begins a new run; before, it is dropped.
    for (after, is_known, expected) in [
        (299, true, ["STARTED", "FINISHED"].as_slice()),
        (300, true, &["TASK"]),
        (300, false, &["STARTED", "FINISHED"]),
    ] {
        let stream = node(1);
        for (number, command, after, is_known) in
            [(1, "STARTED", 0, true), (2, "FINISHED", 0, true), (3, "TASK", after, is_known)]
        {
            let time = Time { at: begun + Duration::from_secs(after), is_known };
            stream.apply(entry(number), &batch(&stream, number, command), time, false);
        }
        assert_eq!(stream.history(), expected, "{after} {is_known}");
    }
}

#[test]
fn a_release_names_a_message_by_its_batch_and_its_place_there() {
    let stream = node(1);
    let failed = frame("FAILED");
    let message =
        |channel: &'static str, kind| Record::Message { channel: channel.into(), kind, frame: (&*failed).into() };
    let records = [message("other", Kind::Begins), message("job", Kind::Failed)];
    let begun = Instant::now();
    let time = Time { at: begun, is_known: false };
    stream.apply(entry(1), &batch_of(&stream, 9, &records), time, false);
    let due = stream.hub.due_releases(begun + Duration::from_secs(10), 5);
    let of = Place { ingest: INGEST, batch: 9, index: 1 };
    assert_eq!(due, [("job".into(), of)]);
    let release = |of| Record::Release { channel: "job".into(), of };
    stream.apply(entry(2), &batch_of(&stream, 10, &[release(Place { index: 0, ..of })]), now(), false);
    assert_eq!(stream.history(), ["FAILED"]);
    stream.apply(entry(3), &batch_of(&stream, 11, &[release(of), release(of)]), now(), false);
    assert_eq!(stream.history(), ["FAILED", "FINISHED"]);
}

#[test]
fn what_cannot_be_read_is_left_out() {
    let stream = node(1);
    assert_eq!(stream.apply(entry(1), b"", now(), false), Applied::Done);
    let mut cut = batch(&stream, 1, "ONE");
    cut.pop();
    assert!(read(&cut).is_err());
    assert_eq!(stream.apply(entry(2), &cut, now(), false), Applied::Done);
    assert_eq!(stream.apply(entry(3), &batch(&stream, 2, "TWO"), now(), false), Applied::Done, "it is no gap");
    assert_eq!(stream.history(), ["TWO"]);
}

#[test]
fn a_node_with_other_limits_is_noticed() {
    let stream = node(1);
    stream.apply(entry(1), &batch(&stream, 1, "ONE"), now(), false);
    assert_eq!(stream.condition().other_limits, None);
    stream.ingest().set_limits(1);
    let other = batch(&stream, 2, "TWO");
    stream.ingest().set_limits(2);
    stream.apply(entry(2), &other, now(), false);
    assert!(stream.condition().other_limits.is_some());
    assert_eq!(stream.history(), ["ONE", "TWO"]);
}

#[test]
fn the_checksum_is_of_all_limits_and_of_nothing_else() {
    let (one, sum) = (History::default(), checksum(&History::default()));
    let second = Seconds::from_secs(1);
    let others = [
        History { finished: second, ..one.clone() },
        History { unfinished: second, ..one.clone() },
        History { release_failed: second, ..one.clone() },
        History { release_aborted: second, ..one.clone() },
        History { channel_messages: 1, ..one.clone() },
        History { channel_bytes: 1, ..one.clone() },
        History { total_bytes: 1, ..one.clone() },
    ];
    let mut sums: Vec<_> = others.iter().map(checksum).chain([sum]).collect();
    sums.sort_unstable();
    sums.dedup();
    assert_eq!(sums.len(), others.len() + 1);
    assert_eq!(checksum(&History { state: Some("/x".into()), ..one }), sum);
    assert_eq!(sum, 2_491_699_552, "nodes with another version of the program compare it");
}
