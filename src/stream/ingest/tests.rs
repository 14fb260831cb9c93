//! Tests of an ingest's batches, against a model of a stream that loses its end.

use super::*;
use crate::stream::record::tests::read;
use crate::stream::record::{MAX_BATCH, split};
use crate::wire::message::RELEASE_FRAME;
use proptest::prelude::*;

fn ingest() -> Ingest {
    let mut ingest = Ingest::new("node".into(), 7);
    assert_ne!(ingest.id(), Ingest::new("node".into(), 7).id());
    ingest.put_back(&HashSet::new(), EntryId::default());
    ingest
}

fn at(milliseconds: u64) -> EntryId {
    EntryId { milliseconds, number: 0 }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A text frame that has the number `n`, and `length` more bytes.
fn frame(n: u32, length: usize) -> Vec<u8> {
    let payload = [&n.to_be_bytes()[..], &vec![b'x'; length]].concat();
    [&[0x81, 127][..], &(payload.len() as u64).to_be_bytes(), &payload].concat()
}

impl Ingest {
    fn publish_one(&mut self, n: u32, length: usize) {
        self.publish("job", Kind::Progress, &frame(n, length));
    }

    /// Sends a batch; returns its bytes.
    fn send_one(&mut self) -> Option<Vec<u8>> {
        self.send().map(|(bytes, _)| bytes.to_vec())
    }

    /// Appends, sends and has answered one message, in entry `at`; returns the bytes of its batch.
    fn append_one(&mut self, n: u32, at: EntryId, now: Instant) -> Vec<u8> {
        self.publish_one(n, 0);
        let batch = self.send_one().unwrap();
        self.answered(at, now);
        batch
    }

    fn numbers(&self) -> (Vec<u64>, Vec<u64>) {
        let waiting = self.waiting.iter().map(|batch| batch.number);
        (waiting.collect(), self.kept.iter().map(|batch| batch.number).collect())
    }

    /// Checks what is counted, and that each batch is what it says.
    fn check(&self) {
        assert_eq!(self.waiting_bytes(), self.waiting.iter().map(|batch| batch.bytes.len()).sum::<usize>());
        assert_eq!(self.kept_bytes, self.kept.iter().map(|batch| batch.bytes.len()).sum::<usize>());
        assert_eq!((self.kept(), self.is_empty()), (self.kept.len(), self.waiting.is_empty()));
        let waiting = self.waiting.iter().map(|batch| (batch.number, &batch.bytes));
        let kept = self.kept.iter().map(|batch| (batch.number, &batch.bytes));
        for (number, bytes) in waiting.chain(kept) {
            let (head, _) = read(bytes).unwrap();
            assert_eq!((head.ingest, head.number, &*head.node), (self.id, number, "node"));
        }
        let records = self.waiting.iter().map(|batch| read(&batch.bytes).unwrap().1.len());
        assert_eq!(self.waiting(), records.sum::<usize>());
        assert!(self.numbers().0.is_sorted_by(|one, next| one < next), "{:?}", self.numbers());
    }
}

#[test]
fn messages_gather_in_a_batch_until_it_is_sent_and_it_never_grows_after_that() {
    let mut ingest = ingest();
    assert_eq!((ingest.send_one(), ingest.last(), ingest.waiting()), (None, 0, 0));
    ingest.publish_one(1, 0);
    ingest.release("other", Place { ingest: 1, batch: 2, index: 3 });
    assert_eq!((ingest.last(), ingest.waiting()), (1, 2));
    let first = ingest.send_one().unwrap();
    let (head, records) = read(&first).unwrap();
    assert_eq!((head.number, head.limits, records.len()), (1, 7, 2));
    ingest.set_limits(8);
    for n in 2..5 {
        ingest.publish_one(n, 0);
        ingest.check();
        assert_eq!(ingest.send(), Some((&*first, true)), "the same bytes again until they are answered");
    }
    assert_eq!(ingest.numbers(), (vec![1, 2], vec![]), "one is under way, and the next grows");
    ingest.answered(at(1), Instant::now());
    ingest.check();
    let (second, is_repeated) = ingest.send().unwrap();
    let (head, records) = read(second).unwrap();
    assert_eq!((head.number, head.limits, records.len(), is_repeated), (2, 8, 3, false));
    ingest.answered(at(2), Instant::now());
    assert_eq!((ingest.send_one(), ingest.waiting_bytes(), ingest.numbers()), (None, 0, (vec![], vec![1, 2])));
    assert_eq!(ingest.oldest_kept(), Some(at(1)));
}

#[test]
fn a_batch_that_is_full_is_followed_by_another() {
    let mut ingest = ingest();
    for n in 0..25 {
        ingest.publish_one(n, 100_000);
        ingest.check();
    }
    assert_eq!(ingest.numbers().0, (1..14).collect::<Vec<_>>(), "a batch grows until it is full");
    assert!(ingest.waiting.iter().all(|batch| batch.bytes.len() <= MAX_BATCH));
    let mut found = Vec::new();
    while let Some(batch) = ingest.send_one() {
        found.extend(read(&batch).unwrap().1.into_iter().map(number));
        ingest.answered(at(found.len() as u64), Instant::now());
    }
    assert_eq!(found, (0..25).collect::<Vec<_>>(), "all of them, in order");
}

/// Returns the number in the message of a record.
fn number(record: Record<'_>) -> u32 {
    let Record::Message { frame, .. } = record else { panic!("{record:?}") };
    u32::from_be_bytes(*frame[10..].first_chunk().unwrap())
}

#[test]
fn a_kept_batch_is_forgotten_when_it_is_safe_and_old_enough() {
    let (mut ingest, begun) = (ingest(), Instant::now());
    for n in 1..4 {
        ingest.append_one(n, at(u64::from(n)), begun + secs(u64::from(n)));
    }
    let everything = at(9);
    let mut kept_at = |safe, now| {
        assert_eq!(ingest.forget(safe, usize::MAX, now), 0);
        ingest.check();
        ingest.numbers().1
    };
    assert_eq!(kept_at(everything, begun + secs(6) - Duration::from_millis(1)), [1, 2, 3]);
    assert_eq!(kept_at(EntryId::default(), begun + secs(60)), [1, 2, 3], "none of them is safe");
    assert_eq!(kept_at(everything, begun + secs(6)), [2, 3]);
    assert_eq!(kept_at(at(2), begun + secs(60)), [3]);
    assert_eq!(kept_at(EntryId { milliseconds: 2, number: u64::MAX }, begun + secs(60)), [3]);
    assert_eq!(kept_at(at(3), begun + secs(60)), [0; 0]);
}

#[test]
fn the_oldest_kept_batches_are_given_up_over_a_bound() {
    let (mut ingest, now) = (ingest(), Instant::now());
    let batches: Vec<_> = (1..5).map(|n| ingest.append_one(n, at(u64::from(n)), now)).collect();
    let size = batches[0].len();
    assert_eq!((ingest.forget(EntryId::default(), 4 * size, now), ingest.kept()), (0, 4));
    assert_eq!((ingest.forget(EntryId::default(), 4 * size - 1, now), ingest.numbers().1), (1, vec![2, 3, 4]));
    assert_eq!((ingest.forget(EntryId::default(), size, now), ingest.numbers().1), (2, vec![4]));
    assert_eq!((ingest.forget(EntryId::default(), 0, now), ingest.kept()), (1, 0));
    ingest.check();
}

#[test]
fn what_the_stream_lacks_goes_before_what_waits_in_the_order_of_numbers() {
    let (mut ingest, now) = (ingest(), Instant::now());
    let batches: Vec<_> = (1..5).map(|n| ingest.append_one(n, at(u64::from(n)), now)).collect();
    ingest.publish_one(5, 0);
    assert_eq!(ingest.put_back(&HashSet::from([1, 2, 3, 4]), EntryId::default()), 0);
    assert_eq!(ingest.put_back(&HashSet::from([1, 3, 99]), EntryId::default()), 2);
    ingest.check();
    assert_eq!(ingest.numbers(), (vec![2, 4, 5], vec![1, 3]));
    ingest.publish_one(6, 0);
    for number in [2, 4] {
        assert_eq!(ingest.send(), Some((&*batches[number - 1], true)), "the same bytes as before");
        ingest.answered(at(10 + number as u64), now);
    }
    // The stream has 1, 3, 2, 4 now, and loses the last three.
    assert_eq!(ingest.put_back(&HashSet::from([1]), EntryId::default()), 3);
    ingest.check();
    assert_eq!(ingest.numbers(), (vec![2, 3, 4, 5], vec![1]));
    // It loses the rest before 3 and 4 are answered.
    ingest.send_one();
    ingest.answered(at(20), now);
    assert_eq!(ingest.put_back(&HashSet::new(), EntryId::default()), 2);
    ingest.check();
    assert_eq!(ingest.numbers(), (vec![1, 2, 3, 4, 5], vec![]));
    assert_eq!(ingest.oldest_kept(), None);
}

#[test]
fn a_batch_that_waits_grows_although_others_were_put_back() {
    let (mut ingest, now) = (ingest(), Instant::now());
    ingest.append_one(1, at(1), now);
    ingest.put_back(&HashSet::new(), EntryId::default());
    ingest.publish_one(2, 0);
    ingest.publish_one(3, 0);
    assert_eq!((ingest.numbers().0, ingest.waiting()), (vec![1, 2], 3), "the first was sent, the second was not");
}

#[test]
fn another_process_goes_on_with_the_batches_as_they_are() {
    let (mut ingest, now) = (ingest(), Instant::now());
    ingest.append_one(1, at(1), now);
    ingest.append_one(2, EntryId { milliseconds: 2, number: 5 }, now);
    ingest.publish_one(3, 0);
    ingest.send_one();
    ingest.publish_one(4, 0);
    let mut next = Ingest::new("node".into(), 9);
    let (waiting, kept) = ingest.save();
    let saved = state::StreamState {
        name: "recodex".into(),
        ingest: ingest.id(),
        next: ingest.last() + 1,
        waiting,
        kept,
        seen: Vec::new(),
        position: at(7),
        safe: at(7),
        epoch: None,
        dropped: Vec::new(),
    };
    next.restore(saved.clone(), now);
    next.check();
    assert_eq!((next.save(), next.id(), next.last(), next.limits()), (ingest.save(), ingest.id(), 4, 9));
    assert_eq!((next.waiting(), next.oldest_kept()), (2, Some(at(1))));
    // A batch that waits may be in the stream.
    next.publish_one(5, 0);
    assert_eq!(next.numbers(), (vec![3, 4, 5], vec![1, 2]));
    assert_eq!(next.send(), Some((&*saved.waiting[0].bytes, true)));
    next.forget(at(7), usize::MAX, now + KEPT_LEAST);
    assert_eq!(next.kept(), 2, "nobody has looked yet if the stream has them");
    next.put_back(&HashSet::from([1, 2]), EntryId::default());
    // They are kept for as long as if they had been answered just now.
    next.forget(at(7), usize::MAX, now + KEPT_LEAST.saturating_sub(Duration::from_millis(1)));
    assert_eq!(next.kept(), 2);
    next.forget(at(7), usize::MAX, now + KEPT_LEAST);
    assert_eq!(next.kept(), 0);
}

/// A step of an ingest, or of its stream.
#[derive(Debug, Clone)]
enum Step {
    Publish(usize),
    /// A batch is sent; it is taken if the first is true, and answered if both are.
    Send(bool, bool),
    /// The stream loses this many entries at its end, and the ingest looks what is there.
    FailOver(usize),
    /// The stream loses its oldest entries, and the ingest connects again.
    Trim(usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop_oneof![Just(0_usize), Just(200_000)].prop_map(Step::Publish),
        8 => any::<(bool, bool)>().prop_map(|(taken, answered)| Step::Send(taken, answered)),
        2 => (0..6_usize).prop_map(Step::FailOver),
        1 => (0..3_usize).prop_map(Step::Trim),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    /// While an ingest lives and keeps everything, all messages are in the stream at the end, but for what was trimmed.
    #[test]
    fn nothing_is_lost_by_a_stream_that_loses_its_end(steps in prop::collection::vec(step(), 0..80)) {
        let (mut ingest, now) = (ingest(), Instant::now());
        let mut stream: Vec<(EntryId, Vec<u8>)> = Vec::new();
        let (mut published, mut entries, mut trimmed) = (0, 0, Vec::new());
        let mut sent: Option<Vec<u8>> = None;
        let tail = [Step::FailOver(0)].into_iter().chain(std::iter::repeat_n(Step::Send(true, true), 300));
        for step in steps.into_iter().chain(tail) {
            match step {
                Step::Publish(length) => {
                    published += 1;
                    ingest.publish_one(published, length);
                }
                Step::Send(taken, answered) => {
                    let Some((batch, is_repeated)) = ingest.send().map(|(batch, again)| (batch.to_vec(), again)) else {
                        continue;
                    };
                    if let Some(before) = sent.take() {
                        prop_assert!(is_repeated && before == batch, "one at a time, and the same bytes");
                    }
                    if taken {
                        entries += 1;
                        stream.push((at(entries), batch.clone()));
                    }
                    if taken && answered {
                        ingest.answered(at(entries), now);
                    } else {
                        sent = Some(batch);
                    }
                }
                Step::FailOver(cut) => {
                    stream.truncate(stream.len().saturating_sub(cut));
                    look_up(&mut ingest, &stream);
                    sent = None;
                }
                Step::Trim(count) => {
                    trimmed.extend(stream.drain(..count.min(stream.len())));
                    look_up(&mut ingest, &stream);
                    sent = None;
                }
                Step::Restart => {
                    let mut next = Ingest::new("node".into(), 7);
                    let (waiting, kept) = ingest.save();
                    next.restore(state::StreamState {
                        name: "".into(),
                        ingest: ingest.id(),
                        next: ingest.last() + 1,
                        waiting,
                        kept,
                        seen: Vec::new(),
                        position: at(0),
                        safe: at(0),
                        epoch: None,
            dropped: Vec::new(),
                    }, now);
                    ingest = next;
                }
            }
            ingest.check();
        }
        prop_assert!(ingest.is_empty());
        let of = |entries: &[(EntryId, Vec<u8>)]| {
            let records = entries.iter().flat_map(|(_, batch)| read(batch).unwrap().1);
            records.map(number).collect::<Vec<_>>()
        };
        let (mut there, mut messages) = (HashSet::new(), of(&stream));
        let first_copies: Vec<_> = messages.iter().copied().filter(|n| there.insert(*n)).collect();
        prop_assert!(!trimmed.is_empty() || first_copies.is_sorted(), "in order, but for copies: {:?}", messages);
        messages.extend(of(&trimmed));
        messages.sort_unstable();
        messages.dedup();
        prop_assert_eq!(messages, (1..=published).collect::<Vec<_>>());
    }
}

/// Looks which of the kept batches are in the stream, as the writer does, and puts back the others.
fn look_up(ingest: &mut Ingest, stream: &[(EntryId, Vec<u8>)]) {
    let Some(oldest) = ingest.oldest_kept() else { return };
    let found = stream.iter().filter(|(at, _)| *at >= oldest);
    let found: HashSet<_> = found.map(|(_, batch)| split(batch).unwrap().0.number).collect();
    let trimmed = stream.first().map_or(EntryId::default(), |(first, _)| at(first.milliseconds - 1));
    let lacks = |kept: &&Kept| !found.contains(&kept.number) && kept.at > trimmed;
    let lacking = ingest.kept.iter().filter(lacks).count();
    assert_eq!(ingest.put_back(&found, trimmed), lacking);
    assert_eq!(ingest.kept.iter().find(lacks).map(|kept| kept.number), None);
}

#[test]
fn what_was_trimmed_is_not_put_back_unless_another_stream_has_begun() {
    let (mut ingest, now) = (ingest(), Instant::now());
    for n in 1..6 {
        ingest.append_one(n, at(u64::from(n)), now);
    }
    assert_eq!(ingest.put_back(&HashSet::from([3, 4]), at(2)), 1);
    assert_eq!(ingest.numbers(), (vec![5], vec![1, 2, 3, 4]));
    ingest.begin_anew();
    assert_eq!(ingest.put_back(&HashSet::new(), at(1000)), 4);
    ingest.check();
    assert_eq!(ingest.numbers(), (vec![1, 2, 3, 4, 5], vec![]));
}

#[test]
fn nothing_is_forgotten_before_it_is_known_what_the_stream_has() {
    let (mut ingest, now) = (ingest(), Instant::now());
    for n in 1..4 {
        ingest.append_one(n, at(u64::from(n)), now);
    }
    // The connections are lost, and so may be the end of the stream.
    ingest.lose();
    let later = now + secs(60);
    assert_eq!((ingest.forget(at(9), 0, later), ingest.kept()), (0, 3));
    assert_eq!(ingest.put_back(&HashSet::from([1, 2]), EntryId::default()), 1);
    assert_eq!((ingest.forget(at(9), usize::MAX, later), ingest.kept(), ingest.waiting()), (0, 0, 1));
}

#[test]
fn a_release_is_a_record_like_a_message() {
    let mut ingest = ingest();
    ingest.publish("job", Kind::Failed, RELEASE_FRAME);
    let of = Place { ingest: 5, batch: 6, index: 7 };
    ingest.release("job", of);
    let batch = ingest.send_one().unwrap();
    let expected = Record::Release { channel: "job".into(), of };
    assert_eq!(read(&batch).unwrap().1[1], expected);
}
