//! The number of entries that a node has still to read.
//!
//! Redis says how many entries were ever added. So the number of the last entry that was read, counted from the very first one, gives the
//! number of those that are left.

use crate::snapshot::stream::EntryId;
use crate::stream::Reading;
use crate::stream::extent::Extent;

/// The number of an entry, counted from the first that was ever added.
#[derive(Debug, Default)]
pub(super) struct Ordinal {
    /// The entry: the last one that was read.
    at: EntryId,
    /// Its number, if it is known.
    number: Option<u64>,
}

impl Ordinal {
    /// Notes that an entry was read. One that was read before does not count.
    fn pass(&mut self, id: EntryId) {
        if id > self.at {
            self.at = id;
            self.number = self.number.map(|number| number + 1);
        }
    }

    /// Returns the number of entries after `position`, and notes the ordinal where the stream shows it: at its end, and before its
    /// beginning. Redis 6.2 does not say how many were added: between the two, the number is not known there.
    fn unread(&mut self, extent: &Extent, position: EntryId) -> Option<u64> {
        if extent.tail.is_none_or(|tail| position >= tail) {
            if position == extent.last {
                *self = Self { at: position, number: extent.added };
            }
            return Some(0);
        }
        if extent.first.is_some_and(|first| position < first) {
            *self = Self { at: position, number: extent.added.map(|added| added.saturating_sub(extent.entries)) };
            return Some(extent.entries);
        }
        let (added, number) = (extent.added?, self.number?);
        Some(added.saturating_sub(number).clamp(1, extent.entries.max(1)))
    }
}

impl Reading {
    /// Notes that an entry was read.
    pub(super) fn pass(&mut self, id: EntryId) {
        self.position = id;
        self.ordinal.pass(id);
    }

    /// Returns the number of entries that the reader has not read of a stream with these numbers, if it is known.
    pub(super) fn unread(&mut self, extent: &Extent) -> Option<u64> {
        self.ordinal.unread(extent, self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> EntryId {
        EntryId { milliseconds, number: 0 }
    }

    /// A stream of which the entries `first` to `last` are left.
    fn stream(first: u64, last: u64) -> Extent {
        let (entries, tail) = (last + 1 - first, Some(at(last)));
        Extent { entries, first: Some(at(first)), last: at(last), tail, added: Some(last) }
    }

    /// A reader that has read up to `position`, with nothing known of it.
    fn reader(position: u64) -> Reading {
        Reading { position: at(position), ..Reading::default() }
    }

    #[test]
    fn a_node_that_starts_has_all_entries_to_read() {
        let mut reading = reader(0);
        assert_eq!(reading.unread(&stream(11, 20)), Some(10));
        (11..=14).for_each(|id| reading.pass(at(id)));
        assert_eq!(reading.unread(&stream(11, 20)), Some(6));
        assert_eq!(reading.unread(&stream(13, 25)), Some(11), "others add, and trim what was read");
        assert_eq!(reading.unread(&stream(18, 25)), Some(8), "others trim what was not read");
        (18..=25).for_each(|id| reading.pass(at(id)));
        assert_eq!(reading.unread(&stream(18, 25)), Some(0));
        assert_eq!(reading.unread(&stream(18, 24)), Some(0), "the numbers are older than the position");
    }

    #[test]
    fn entries_that_are_read_again_do_not_count() {
        let mut reading = reader(20);
        assert_eq!(reading.unread(&stream(11, 20)), Some(0));
        reading.position = at(15);
        assert_eq!(reading.unread(&stream(11, 29)), Some(9));
        (16..=21).for_each(|id| reading.pass(at(id)));
        assert_eq!(reading.unread(&stream(11, 29)), Some(8));
        // A failover has cut off the entries from 17 on, and one was put there.
        reading.position = at(15);
        assert_eq!(reading.unread(&stream(11, 17)), Some(1), "at least the last one is to be read");
        reading.pass(at(17));
        assert_eq!(reading.unread(&stream(11, 17)), Some(0));
        assert_eq!(reading.unread(&stream(11, 19)), Some(2), "the end has corrected the number");
    }

    #[test]
    fn the_number_is_unknown_in_the_middle_of_a_stream() {
        let mut reading = reader(15);
        assert_eq!(reading.unread(&stream(11, 20)), None, "the process before has read so far");
        reading.pass(at(16));
        assert_eq!(reading.unread(&stream(11, 20)), None);
        let of_6 = |first, last| Extent { added: None, ..stream(first, last) };
        let mut reading = reader(0);
        assert_eq!(reading.unread(&of_6(11, 20)), Some(10));
        reading.pass(at(11));
        assert_eq!(reading.unread(&of_6(11, 20)), None, "Redis 6.2");
        (12..=20).for_each(|id| reading.pass(at(id)));
        assert_eq!(reading.unread(&of_6(11, 20)), Some(0));
    }

    #[test]
    fn a_stream_without_entries_has_none_to_read() {
        assert_eq!(reader(0).unread(&Extent::default()), Some(0));
        let trimmed = Extent { last: at(20), added: Some(20), ..Extent::default() };
        assert_eq!(reader(15).unread(&trimmed), Some(0));
    }
}
