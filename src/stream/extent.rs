//! The numbers of the stream itself: its first and last entries, and how many there are.

use crate::snapshot::stream::EntryId;
use crate::stream::connect::Connection;
use crate::stream::entries::text;
use crate::stream::session::{Trouble, ask};
use redis::{RedisError, Value};

/// The stream's own numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) entries: u64,
    pub(super) first: Option<EntryId>,
    /// The last entry that was ever added.
    pub(super) last: EntryId,
    /// The last entry that is there.
    pub(super) tail: Option<EntryId>,
    /// The number of entries that were ever added; Redis 6.2 does not say it.
    pub(super) added: Option<u64>,
}

impl Extent {
    /// Asks for the numbers of a stream. One that does not exist has none.
    pub(super) async fn of(connection: &mut Connection, key: &str) -> Result<Self, Trouble> {
        let answer = ask::<Value>(connection, "XINFO STREAM", redis::cmd("XINFO").arg("STREAM").arg(key)).await;
        let answer = match answer {
            Err(Trouble::Redis(e)) if is_missing(&e) => return Ok(Self::default()),
            answer => answer?,
        };
        Self::parse(&answer).ok_or(Trouble::Unexpected("XINFO STREAM"))
    }

    /// Returns the last entry that was removed from the beginning, or one before that.
    pub(super) fn trimmed(&self) -> EntryId {
        match self.first {
            Some(EntryId { milliseconds, number: 0 }) => {
                EntryId { milliseconds: milliseconds.saturating_sub(1), number: u64::MAX }
            }
            Some(first) => EntryId { number: first.number - 1, ..first },
            None => self.last,
        }
    }

    /// Reads a list of names and values in turn.
    fn parse(answer: &Value) -> Option<Self> {
        let Value::Array(parts) = answer else { return None };
        let mut extent = Self::default();
        for pair in parts.chunks_exact(2) {
            match (text(&pair[0])?, &pair[1]) {
                ("length", Value::Int(length)) => extent.entries = u64::try_from(*length).ok()?,
                ("entries-added", Value::Int(added)) => extent.added = Some(u64::try_from(*added).ok()?),
                ("last-generated-id", id) => extent.last = text(id)?.parse().ok()?,
                ("first-entry", Value::Array(entry)) => extent.first = Some(text(entry.first()?)?.parse().ok()?),
                ("last-entry", Value::Array(entry)) => extent.tail = Some(text(entry.first()?)?.parse().ok()?),
                _ => {}
            }
        }
        Some(extent)
    }
}

/// Returns true for the error of a key that does not exist.
fn is_missing(error: &RedisError) -> bool {
    error.to_string().contains("no such key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::{ErrorKind, Value::Array};

    fn string(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn entry(id: &str) -> Value {
        Array(vec![string(id), Array(vec![string("1"), string("batch")])])
    }

    /// The answer of Redis 7, in its order, without the numbers in `without`.
    fn answer(first: Value, without: &[&str]) -> Value {
        let pairs = [
            ("length", Value::Int(3)),
            ("radix-tree-keys", Value::Int(1)),
            ("radix-tree-nodes", Value::Int(2)),
            ("last-generated-id", string("1700000000123-4")),
            ("max-deleted-entry-id", string("1700000000000-1")),
            ("entries-added", Value::Int(4)),
            ("recorded-first-entry-id", string("1700000000001-0")),
            ("groups", Value::Int(0)),
            ("first-entry", first),
            ("last-entry", entry("1700000000123-4")),
        ];
        let pairs = pairs.into_iter().filter(|(name, _)| !without.contains(name));
        Array(pairs.flat_map(|(name, value)| [string(name), value]).collect())
    }

    #[test]
    fn the_answer_to_xinfo_is_read() {
        let at = |milliseconds, number| EntryId { milliseconds, number };
        let last = at(1_700_000_000_123, 4);
        let first = Some(at(1_700_000_000_001, 0));
        let expected = |added| Extent { entries: 3, first, tail: Some(last), last, added };
        assert_eq!(Extent::parse(&answer(entry("1700000000001-0"), &[])), Some(expected(Some(4))));
        let of_6 =
            answer(entry("1700000000001-0"), &["max-deleted-entry-id", "entries-added", "recorded-first-entry-id"]);
        assert_eq!(Extent::parse(&of_6), Some(expected(None)));
        assert_eq!(expected(None).trimmed(), at(1_700_000_000_000, u64::MAX));
        let empty = Extent { entries: 3, first: None, tail: None, last, added: Some(4) };
        assert_eq!(Extent::parse(&answer(Value::Nil, &["last-entry"])), Some(empty), "all entries were removed");
        assert_eq!(Extent { last, ..Extent::default() }.trimmed(), last);
        assert_eq!(Extent { first: Some(at(7, 2)), ..Extent::default() }.trimmed(), at(7, 1));
    }

    #[test]
    fn another_answer_is_refused() {
        let wrong = [
            Value::Nil,
            string("OK"),
            Array(vec![Value::Int(1), Value::Int(2)]),
            Array(vec![string("length"), Value::Int(-1)]),
            Array(vec![string("last-generated-id"), string("x")]),
            Array(vec![string("last-entry"), Array(vec![Value::Int(1)])]),
            answer(Array(vec![]), &[]),
            answer(entry("1-x"), &[]),
        ];
        for answer in wrong {
            assert_eq!(Extent::parse(&answer), None, "{answer:?}");
        }
    }

    #[test]
    fn a_stream_that_does_not_exist_is_told_from_a_failure() {
        let error = |text: &'static str| RedisError::from((ErrorKind::UnexpectedReturnType, text));
        assert!(is_missing(&error("no such key")));
        assert!(!is_missing(&error("connection reset")));
    }
}
