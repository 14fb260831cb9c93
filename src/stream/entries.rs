//! The entries in an answer of Redis.

use crate::snapshot::stream::EntryId;
use crate::stream::record::FORMAT;
use redis::Value;

/// The most characters, and names of fields, that are shown of an unknown version.
const MAX_VERSION: usize = 20;

/// An entry of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: EntryId,
    /// The batch; or else the names of the fields, which are the version of an unknown format.
    pub(super) batch: Result<Vec<u8>, String>,
}

/// Takes the entries out of an answer to XREAD of one stream; an answer without entries has none.
pub(super) fn of_xread(answer: Value) -> Option<Vec<Entry>> {
    match answer {
        Value::Nil => Some(Vec::new()),
        Value::Array(mut streams) => match streams.pop()? {
            Value::Array(mut stream) => of_xrange(stream.pop()?),
            _ => None,
        },
        _ => None,
    }
}

/// Takes the entries out of an answer to XRANGE.
pub(super) fn of_xrange(answer: Value) -> Option<Vec<Entry>> {
    let Value::Array(entries) = answer else { return None };
    entries.into_iter().map(entry).collect()
}

/// Takes one entry: its id, and a list of fields and values.
fn entry(value: Value) -> Option<Entry> {
    let Value::Array(parts) = value else { return None };
    let [id, fields] = <[Value; 2]>::try_from(parts).ok()?;
    let id = text(&id)?.parse().ok()?;
    let Value::Array(fields) = fields else { return None };
    let names = |fields: &[Value]| {
        let names = fields.iter().step_by(2).take(MAX_VERSION).map(|name| text(name).unwrap_or_default());
        let names = names.collect::<Vec<_>>().join(", ");
        names.chars().take(MAX_VERSION).flat_map(char::escape_debug).collect()
    };
    let batch = match <[Value; 2]>::try_from(fields) {
        Ok([field, Value::BulkString(batch)]) if text(&field) == Some(FORMAT) => Ok(batch),
        Ok(fields) => Err(names(&fields)),
        Err(fields) => Err(names(&fields)),
    };
    Some(Entry { id, batch })
}

/// Returns the text of a string.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn entries_of_the_known_format_have_a_batch() {
        let entry = |id: &str, fields: &[&str]| {
            Value::Array(vec![string(id), Value::Array(fields.iter().copied().map(string).collect())])
        };
        let range = || {
            Value::Array(vec![
                entry("1-0", &[FORMAT, "x"]),
                entry("1-1", &["2", "x"]),
                entry("2-0", &[FORMAT, "x", "a", "b"]),
            ])
        };
        let read = Value::Array(vec![Value::Array(vec![string("recodex:messages"), range()])]);
        let at = |milliseconds, number| EntryId { milliseconds, number };
        let expected = || {
            vec![
                Entry { id: at(1, 0), batch: Ok(b"x".to_vec()) },
                Entry { id: at(1, 1), batch: Err("2".into()) },
                Entry { id: at(2, 0), batch: Err(format!("{FORMAT}, a")) },
            ]
        };
        assert_eq!((of_xread(read), of_xrange(range())), (Some(expected()), Some(expected())));
        assert_eq!(of_xread(Value::Nil), Some(Vec::new()));
        for other in [Value::Int(1), Value::Array(vec![]), Value::Array(vec![Value::Array(vec![entry("x", &[])])])] {
            assert_eq!(of_xread(other), None);
        }
    }
}
