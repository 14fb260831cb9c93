//! Tests of the reader and the writer against a server that loses what it is told to lose.

use super::*;
use crate::config::{History, Seconds};
use crate::deadline::timeout;
use crate::stream::record::Record;
use crate::stream::testing::{Redis, batch, batch_of, entry, frame, node, record_of};
use crate::stream::writer;
use crate::wire::message::Kind;

/// The longest time for anything here.
const PROMPT: Duration = Duration::from_secs(60);

/// Reads and writes until something fails, or `is_done` after a change.
async fn run(stream: &MessageStream, is_done: impl FnMut() -> bool) -> Option<Trouble> {
    let (reader, writer) = (stream.connected().await, stream.connected().await);
    let ended = async {
        tokio::select! {
            Err(trouble) = read(stream, reader) => Some(trouble),
            Err(trouble) = writer::write(stream, writer) => Some(trouble),
            () = stream.until(is_done) => None,
        }
    };
    timeout(PROMPT, ended).await.expect("it is done by then")
}

/// Reads until the node has caught up and its history has so many messages.
async fn read_up_to(stream: &MessageStream, count: usize) {
    let trouble = run(stream, || stream.condition().is_caught_up() && stream.history().len() >= count).await;
    assert!(trouble.is_none(), "{trouble:?}");
}

#[tokio::test]
async fn a_gap_makes_the_reader_read_from_the_beginning_again() {
    let redis = Redis::start().await;
    let stream = node(redis.port);
    redis.add(entry(1), batch(&stream, 1, "ONE"));
    redis.add(entry(10), batch(&stream, 2, "TWO"));
    read_up_to(&stream, 2).await;
    // After a failover, the next batches have smaller ids. The node goes on after what it has read.
    redis.state().entries.truncate(1);
    redis.add(entry(2), batch(&stream, 2, "TWO"));
    redis.add(entry(3), batch(&stream, 3, "THREE"));
    redis.add(entry(11), batch(&stream, 4, "FOUR"));
    stream.reading().safe = entry(10);
    read_up_to(&stream, 4).await;
    assert_eq!(stream.history(), ["ONE", "TWO", "THREE", "FOUR"]);
    assert_eq!((stream.metrics.cluster.gaps.get(), stream.position()), (1, entry(11)));
    assert!(!stream.reading().is_from_beginning);
}

#[tokio::test]
async fn a_new_connection_reads_again_what_a_failover_may_have_replaced() {
    let redis = Redis::start().await;
    let stream = node(redis.port);
    redis.add(entry(1), batch(&stream, 1, "ONE"));
    redis.add(entry(10), batch(&stream, 2, "TWO"));
    read_up_to(&stream, 2).await;
    stream.reading().safe = entry(1);
    redis.state().entries.truncate(1);
    redis.add(entry(2), batch(&stream, 2, "TWO"));
    redis.add(entry(3), batch(&stream, 3, "THREE"));
    read_up_to(&stream, 3).await;
    assert_eq!(stream.history(), ["ONE", "TWO", "THREE"]);
    assert_eq!((stream.metrics.cluster.gaps.get(), stream.position()), (0, entry(3)));
}

#[tokio::test]
async fn a_batch_that_is_nowhere_is_given_up() {
    let redis = Redis::start().await;
    let stream = node(redis.port);
    redis.add(entry(1), batch(&stream, 1, "ONE"));
    read_up_to(&stream, 1).await;
    stream.reading().safe = entry(1);
    redis.add(entry(3), batch(&stream, 3, "THREE"));
    read_up_to(&stream, 2).await;
    assert_eq!(stream.history(), ["ONE", "THREE"]);
    assert_eq!(stream.metrics.cluster.gaps.get(), 1);
}

#[tokio::test]
async fn what_a_failover_has_cut_off_is_appended_again_before_what_waits() {
    let redis = Redis::start().await;
    let stream = node(redis.port);
    for (count, command) in (1..).zip(["ONE", "TWO", "THREE"]) {
        stream.publish_one(command);
        read_up_to(&stream, count).await;
    }
    assert_eq!((redis.numbers(), stream.kept()), (vec![1, 2, 3], 3));
    redis.state().entries.truncate(1);
    stream.publish_one("FOUR");
    read_up_to(&stream, 4).await;
    assert_eq!(redis.numbers(), [1, 2, 3, 4]);
    assert_eq!(stream.history(), ["ONE", "TWO", "THREE", "FOUR"]);
    let metrics = &stream.metrics.cluster;
    assert_eq!((metrics.reappended.get(), metrics.gaps.get()), (2, 0));
}

#[tokio::test]
async fn a_batch_without_an_answer_is_sent_again_and_shown_once() {
    let redis = Redis::start().await;
    let stream = node(redis.port);
    redis.state().drops_answer = true;
    stream.publish_one("ONE");
    assert!(run(&stream, || false).await.is_some());
    stream.publish_one("TWO");
    read_up_to(&stream, 2).await;
    assert_eq!(redis.numbers(), [1, 1, 2], "what was sent does not grow");
    let state = redis.state();
    assert_eq!(state.entries[0].1, state.entries[1].1);
    assert_eq!(stream.history(), ["ONE", "TWO"]);
    assert_eq!(stream.metrics.cluster.repeated.get(), 1);
}

#[tokio::test]
async fn another_stream_is_read_from_its_beginning_and_what_is_known_stays() {
    let redis = Redis::start().await;
    let stream = node(redis.port);
    redis.add(entry(20), batch(&stream, 1, "ONE"));
    read_up_to(&stream, 1).await;
    let epoch = redis.state().epoch.take();
    assert!(epoch.is_some_and(|epoch| epoch.len() == 32));
    redis.state().entries.clear();
    redis.add(entry(5), batch(&stream, 1, "ONE"));
    redis.add(entry(6), batch(&stream, 2, "TWO"));
    assert!(matches!(run(&stream, || false).await, Some(Trouble::OtherEpoch)));
    assert_eq!(stream.position(), EntryId::default());
    read_up_to(&stream, 2).await;
    assert_eq!(stream.history(), ["ONE", "TWO"]);
    assert_eq!(stream.metrics.cluster.epochs.get(), 1);
}

/// Returns the channels of the hub.
fn channels(stream: &MessageStream) -> Vec<String> {
    let mut names: Vec<_> =
        stream.hub.save(Instant::now(), |runs| runs.iter().map(|(_, run)| run.id.to_string()).collect());
    names.sort();
    names
}

/// So long ago that the stream may have lost what came since.
fn long_ago() -> Instant {
    Instant::now().checked_sub(KEPT_FOR_OTHERS).unwrap()
}

/// The connection broke in the pause too: it is not known for how long.
#[tokio::test]
async fn after_a_long_pause_jobs_whose_rest_has_left_the_stream_end() {
    let redis = Redis::start().await;
    let stream = node(redis.port);
    redis.add(entry(1), batch(&stream, 1, "STARTED"));
    read_up_to(&stream, 1).await;
    stream.reading().safe = entry(1);
    redis.state().entries.clear();
    redis.add(entry(10), batch_of(&stream, 2, &[record_of("other", "STARTED")]));
    stream.lose(&Trouble::Stuck);
    stream.condition_mut().heard = long_ago();
    read_up_to(&stream, 0).await;
    assert_eq!((channels(&stream), stream.metrics.evicted.get()), (vec!["other".into()], 1));
    stream.lose(&Trouble::Stuck);
    redis.state().entries.clear();
    redis.add(entry(20), batch(&stream, 3, "STARTED"));
    read_up_to(&stream, 1).await;
    assert_eq!(channels(&stream), ["job", "other"], "the pause has ended with the first answer");
}

#[tokio::test]
async fn a_connection_that_lives_is_made_anew_after_a_long_pause() {
    let redis = Redis::start().await;
    let stream = node(redis.port);
    redis.add(entry(1), batch(&stream, 1, "STARTED"));
    read_up_to(&stream, 1).await;
    let trouble = run(&stream, || {
        if stream.condition().is_caught_up() {
            stream.condition_mut().heard = long_ago();
        }
        false
    });
    assert!(matches!(trouble.await, Some(Trouble::Stopped(_))));
}

/// A slow reader, or one that was stopped. Some jobs are found to end when the stream is read again.
#[tokio::test]
async fn jobs_whose_rest_was_removed_under_the_reader_end_once_it_is_at_the_end() {
    let redis = Redis::start().await;
    let stream = node(redis.port);
    // A second before the time of the server: a job that has finished is not over.
    let (before, after) = (entry(3_599_000), entry(3_599_010));
    redis.add(before, batch_of(&stream, 1, &["job", "ends"].map(|channel| record_of(channel, "STARTED"))));
    read_up_to(&stream, 1).await;
    stream.reading().safe = before;
    redis.state().entries.clear();
    redis.add(after, batch_of(&stream, 3, &[record_of("ends", "FINISHED"), record_of("new", "STARTED")]));
    let trouble = run(&stream, || stream.position() == after && stream.condition().is_caught_up()).await;
    assert!(trouble.is_none(), "{trouble:?}");
    assert_eq!((channels(&stream), stream.metrics.evicted.get()), (vec!["ends".into(), "new".into()], 1));
    assert_eq!(stream.metrics.cluster.gaps.get(), 1);
}

/// The stream is larger than its bound, so that it lacks what this node has read. The new primary has all that comes after, in another
/// order.
#[tokio::test]
async fn a_gap_ends_no_job_if_nothing_was_removed_that_was_not_read() {
    let redis = Redis::start().await;
    let stream = node(redis.port);
    redis.add(entry(1), batch(&stream, 1, "ONE"));
    redis.add(entry(10), batch(&stream, 2, "TWO"));
    read_up_to(&stream, 2).await;
    stream.reading().safe = entry(10);
    redis.state().entries[0] = (entry(9), batch(&stream, 3, "THREE"));
    redis.add(entry(11), batch(&stream, 4, "FOUR"));
    read_up_to(&stream, 4).await;
    assert_eq!(stream.history(), ["ONE", "TWO", "THREE", "FOUR"]);
    assert_eq!((stream.metrics.evicted.get(), stream.metrics.cluster.gaps.get()), (0, 1));
}

/// A message that keeps a job may still have to be read.
#[tokio::test]
async fn a_connection_that_is_lost_while_a_node_catches_up_expires_nothing() {
    let stream = node(1);
    stream.hub.set_in_past(true);
    let day = Duration::from_secs(24 * 3600);
    let at = Instant::now().checked_sub(day).unwrap();
    stream.apply(entry(1), &batch(&stream, 1, "ONE"), Time { at, is_known: true }, false);
    stream.lose(&Trouble::Stuck);
    stream.hub.expire(Instant::now());
    assert_eq!(stream.history(), ["ONE"]);
    stream.hub.set_in_past(false);
    stream.hub.expire(Instant::now());
    assert_eq!(stream.history(), [""; 0]);
}

/// Nothing keeps the time here: viewers are let in as soon as the node has caught up.
#[tokio::test]
async fn a_job_that_is_over_is_gone_once_the_node_has_caught_up() {
    let redis = Redis::start().await;
    let stream = node(redis.port);
    stream.hub.set_limits(History { unfinished: Seconds::from_secs(1800), ..History::default() });
    for number in 1..=1000 {
        let (kind, frame) = (Kind::Progress, frame("STARTED"));
        let channel = format!("job {number}").into();
        redis.add(entry(number), batch_of(&stream, number, &[Record::Message { channel, kind, frame: frame.into() }]));
    }
    read_up_to(&stream, 0).await;
    assert_eq!(stream.hub.usage().channels, 0);
    assert_eq!(stream.metrics.expired.get(), 1000);
}
