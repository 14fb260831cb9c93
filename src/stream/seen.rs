//! The batches that a node has read, by the numbers that their ingests gave them.
//!
//! A batch may be in the stream twice: it was sent again, or put back after a failover. It counts once. A number that is left out is a
//! gap: the batch may stand elsewhere in the stream, come later, or be lost.

use crate::snapshot::stream::{EntryId, MAX_MISSING, ReadFrom};
use std::collections::HashMap;

/// The number of ingests up to which none is forgotten. Each process that does not go on from another is a new one.
const MAX_INGESTS: usize = 4096;

/// The numbers of all ingests.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ingests: HashMap<u64, Numbers>,
}

#[derive(Debug)]
struct Numbers {
    /// The largest number.
    last: u64,
    /// The last entry.
    at: EntryId,
    /// The ranges of smaller numbers that were left out, the ends included.
    missing: Vec<(u64, u64)>,
}

/// The meaning of a batch's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the next one, or the first of its ingest, or one that was missing.
    New,
    /// It was read before.
    Known,
    /// This many are missing before it.
    Gap(u64),
}

impl Seen {
    /// Returns the meaning of a batch.
    pub(super) fn judge(&self, ingest: u64, number: u64) -> Verdict {
        let Some(numbers) = self.ingests.get(&ingest) else { return Verdict::New };
        if number > numbers.last {
            return match number - numbers.last - 1 {
                0 => Verdict::New,
                missing => Verdict::Gap(missing),
            };
        }
        let is_missing = numbers.missing.iter().any(|(first, last)| (*first..=*last).contains(&number));
        if is_missing { Verdict::New } else { Verdict::Known }
    }

    /// Notes that a batch was read, in this entry. Numbers before it that were not read are missing from now on.
    pub(super) fn note(&mut self, ingest: u64, number: u64, at: EntryId) {
        // Numbers before the first one that is read are from before the beginning of the stream. If they come later (they were put back
        // after FLUSHALL), they would come in the wrong order.
        let numbers = self.ingests.entry(ingest).or_insert(Numbers { last: number, at, missing: Vec::new() });
        numbers.at = numbers.at.max(at);
        if number > numbers.last {
            if number > numbers.last + 1 {
                if numbers.missing.len() == MAX_MISSING {
                    numbers.missing.remove(0);
                }
                numbers.missing.push((numbers.last + 1, number - 1));
            }
            numbers.last = number;
        } else if let Some(i) = numbers.missing.iter().position(|(first, last)| (*first..=*last).contains(&number)) {
            let (first, last) = numbers.missing.remove(i);
            let before = (first < number).then(|| (first, number - 1));
            let after = (number < last).then(|| (number + 1, last));
            numbers.missing.splice(i..i, before.into_iter().chain(after));
        }
    }

    /// If there are many ingests, forgets those of which nothing is left in a stream that begins with the entry `first`.
    pub(super) fn forget_before(&mut self, first: EntryId) {
        if self.ingests.len() > MAX_INGESTS {
            self.ingests.retain(|_, numbers| numbers.at >= first);
        }
    }

    /// Goes on with the numbers of another process.
    pub(super) fn restore(&mut self, saved: Vec<ReadFrom>) {
        let numbers = |ReadFrom { ingest, last, at, missing }| (ingest, Numbers { last, at, missing });
        self.ingests = saved.into_iter().map(numbers).collect();
    }

    /// Returns the numbers for another process.
    pub(super) fn save(&self) -> Vec<ReadFrom> {
        let saved = |(ingest, numbers): (&u64, &Numbers)| ReadFrom {
            ingest: *ingest,
            last: numbers.last,
            at: numbers.at,
            missing: numbers.missing.clone(),
        };
        self.ingests.iter().map(saved).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(milliseconds: u64) -> EntryId {
        EntryId { milliseconds, number: 0 }
    }

    #[test]
    fn a_batch_counts_once_wherever_it_stands() {
        let mut seen = Seen::default();
        assert_eq!(seen.judge(1, 7), Verdict::New, "the stream may have been trimmed before it");
        seen.note(1, 7, at(1));
        assert_eq!([6, 7, 8].map(|number| seen.judge(1, number)), [Verdict::Known, Verdict::Known, Verdict::New]);
        assert_eq!(seen.judge(2, 1), Verdict::New, "another ingest");
        assert_eq!(seen.judge(1, 11), Verdict::Gap(3));
        seen.note(1, 11, at(2));
        let judged = [8, 9, 10, 11, 12].map(|number| seen.judge(1, number));
        assert_eq!(judged, [Verdict::New, Verdict::New, Verdict::New, Verdict::Known, Verdict::New]);
        seen.note(1, 9, at(3));
        let judged = [8, 9, 10].map(|number| seen.judge(1, number));
        assert_eq!(judged, [Verdict::New, Verdict::Known, Verdict::New]);
        for number in [8, 10] {
            seen.note(1, number, at(3));
            assert_eq!(seen.judge(1, number), Verdict::Known);
        }
    }

    #[test]
    fn gaps_are_remembered_up_to_a_bound_and_ingests_as_long_as_the_stream_has_them_or_they_are_few() {
        let mut seen = Seen::default();
        for number in (1..).step_by(2).take(MAX_MISSING + 2) {
            seen.note(1, number, at(number));
        }
        assert_eq!((seen.judge(1, 2), seen.judge(1, 4)), (Verdict::Known, Verdict::New));
        let mut next = Seen::default();
        next.restore(seen.save());
        assert_eq!((next.judge(1, 2), next.judge(1, 4)), (Verdict::Known, Verdict::New));
        next.note(2, 1, at(5));
        next.forget_before(at(6));
        assert_eq!(next.judge(2, 1), Verdict::Known, "there are few");
        for ingest in 10..10 + MAX_INGESTS as u64 {
            next.note(ingest, 1, at(6));
        }
        next.forget_before(at(6));
        assert_eq!(
            (next.judge(2, 1), next.judge(1, 4), next.judge(10, 1)),
            (Verdict::New, Verdict::New, Verdict::Known)
        );
    }

    #[test]
    fn the_largest_numbers_are_numbers_like_others() {
        let mut seen = Seen::default();
        seen.note(1, 1, at(1));
        assert_eq!(seen.judge(1, u64::MAX), Verdict::Gap(u64::MAX - 2));
        seen.note(1, u64::MAX, at(2));
        for number in [2, u64::MAX - 1, 1000] {
            assert_eq!(seen.judge(1, number), Verdict::New);
            seen.note(1, number, at(3));
            assert_eq!(seen.judge(1, number), Verdict::Known);
        }
        // A range up to the ends, as no process hands it over.
        let saved = ReadFrom { ingest: 2, last: u64::MAX, at: at(1), missing: vec![(0, u64::MAX)] };
        seen.restore(vec![saved]);
        for number in [u64::MAX, 0, 5] {
            seen.note(2, number, at(3));
            assert_eq!(seen.judge(2, number), Verdict::Known);
        }
        assert_eq!(seen.judge(2, 6), Verdict::New);
    }

    /// A stream with the batches of two ingests, as a reader meets it.
    #[derive(Debug, Clone)]
    enum Step {
        /// An ingest appends its next batch, this many times.
        Append(u64, usize),
        /// The stream loses this many entries at its end, and the ingests put back what it lacks. The reader goes on from this many
        /// entries before the cut.
        FailOver(usize, usize),
        /// The reader reads up to this many entries.
        Read(usize),
        /// The reader is another process.
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..2_u64, 1..3_usize).prop_map(|(ingest, times)| Step::Append(ingest, times)),
            2 => (0..8_usize, 0..4_usize).prop_map(|(cut, before)| Step::FailOver(cut, before)),
            6 => (1..5_usize).prop_map(Step::Read),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        /// The reader applies a batch after a gap as if it had read from the beginning, and what was missing when it comes.
        #[test]
        fn each_batch_is_new_exactly_once(steps in prop::collection::vec(step(), 0..60)) {
            let (mut seen, mut stream, mut next, mut read) = (Seen::default(), Vec::new(), [1, 1], 0);
            let mut new = Vec::new();
            for step in steps.into_iter().chain([Step::Read(1000)]) {
                match step {
                    Step::Append(ingest, times) => {
                        let number = &mut next[usize::try_from(ingest).unwrap()];
                        stream.extend(std::iter::repeat_n((ingest, *number), times));
                        *number += 1;
                    }
                    Step::FailOver(cut, before) => {
                        stream.truncate(stream.len().saturating_sub(cut));
                        read = read.min(stream.len()).saturating_sub(before);
                        for (ingest, next) in (0..).zip(next) {
                            let lacking: Vec<_> = (1..next).filter(|n| !stream.contains(&(ingest, *n))).collect();
                            stream.extend(lacking.into_iter().map(|number| (ingest, number)));
                        }
                    }
                    Step::Read(count) => {
                        for (i, (ingest, number)) in stream.iter().copied().enumerate().skip(read).take(count) {
                            if seen.judge(ingest, number) != Verdict::Known {
                                new.push((ingest, number));
                            }
                            seen.note(ingest, number, at(i as u64));
                            prop_assert_eq!(seen.judge(ingest, number), Verdict::Known);
                            read = i + 1;
                        }
                    }
                    Step::Restart => {
                        let saved = seen.save();
                        seen = Seen::default();
                        seen.restore(saved);
                    }
                }
            }
            new.sort_unstable();
            let all: Vec<_> = (0..).zip(next).flat_map(|(ingest, next)| (1..next).map(move |n| (ingest, n))).collect();
            prop_assert_eq!(new, all);
        }

        /// Whatever order the numbers come in: those after the first one are new once, and those before it never, because they are
        /// from before the stream's beginning.
        #[test]
        fn each_number_is_new_once_in_any_order(numbers in prop::collection::vec(1..60_u64, 1..200)) {
            let (mut seen, mut new) = (Seen::default(), Vec::new());
            for number in &numbers {
                match seen.judge(1, *number) {
                    Verdict::Known => {}
                    Verdict::New => new.push(*number),
                    Verdict::Gap(missing) => {
                        let last = numbers.iter().take_while(|n| *n != number).max().unwrap();
                        prop_assert_eq!(missing, number - last - 1);
                        new.push(*number);
                    }
                }
                seen.note(1, *number, at(*number));
            }
            let mut expected: Vec<_> = numbers.iter().copied().filter(|number| *number >= numbers[0]).collect();
            expected.sort_unstable();
            expected.dedup();
            new.sort_unstable();
            prop_assert_eq!(new, expected);
        }
    }
}
