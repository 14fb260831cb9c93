//! Checks a file before the settings are read: it must not cost much time or memory, and must not have a key twice.
//!
//! The YAML library reads nested brackets in quadratic time, expands every alias, and gives no position for a duplicate key.

use super::error::Mistake;
use super::explain;
use super::node;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

/// The largest configuration file, in bytes.
pub const MAX_FILE: u64 = 64 * 1024;
/// The most levels of lists and maps; the settings need three.
pub const MAX_DEPTH: usize = 8;
/// The beginning of the error for more levels.
pub(super) const NESTED: &str = "nested deeper than";
/// The error for a tag.
const TAG: &str = "a tag (`!name`) has no meaning here; remove it, or put the value in quotes";
/// The error for aliases that expand to too much.
pub(super) const ALIASES: &str = "the aliases (`*name`) make the file too large; write out what they stand for";
/// The most brackets that open lists and maps. The library's time grows with the file's size times the depth of nesting.
pub const MAX_BRACKETS: usize = 1000;
/// The largest sum of the sizes of all keys and values, in bytes plus one for each. Only aliases can exceed twice the file's size.
#[expect(clippy::cast_possible_truncation, reason = "it is small")]
const MAX_CONTENT: usize = 2 * MAX_FILE as usize;

/// Checks a file, and returns the number of settings in it.
pub(super) fn check(text: &str) -> Result<usize, Mistake> {
    scan(text)?;
    let mut documents = serde_yaml::Deserializer::from_str(text);
    let mut walk = Walk::default();
    if let Some(document) = documents.next()
        && let Err(e) = (Node { walk: &mut walk, depth: 0 }).deserialize(document)
    {
        let mistake = explain::yaml(text, &e);
        return Err(match walk.repeated {
            Some((key, first)) => repeated(text, mistake, &key, first),
            None => mistake,
        });
    }
    match documents.next().map(|second| second.deserialize_any(Nothing)) {
        Some(Err(e)) => Err(explain::second_document(text, &e)),
        _ => Ok(walk.settings),
    }
}

/// Refuses a text that would cost the library much time.
fn scan(text: &str) -> Result<(), Mistake> {
    if text.len() as u64 > MAX_FILE {
        return Err(Mistake { position: None, message: format!("expected at most {MAX_FILE} bytes") });
    }
    if let Some((at, _)) = text.match_indices(['[', '{']).nth(MAX_BRACKETS) {
        let message = format!("more than {MAX_BRACKETS} brackets (`[` or `{{`)");
        return Err(Mistake { position: Some(explain::position(text, at)), message });
    }
    // The library would accept the tags that it knows.
    if let Some(at) = node::first_with('!', text) {
        return Err(Mistake { position: Some(explain::position(text, at)), message: TAG.into() });
    }
    // The library compares each of them with all others.
    let starts_line = |at: usize| {
        text[..at].chars().next_back().is_none_or(|before| explain::BREAKS.contains(&before) || before == '\u{feff}')
    };
    if let Some((at, _)) = text.match_indices("%TAG").find(|(at, _)| starts_line(*at)) {
        return Err(Mistake {
            position: Some(explain::position(text, at)),
            message: "%TAG has no meaning here; remove the line".into(),
        });
    }
    Ok(())
}

/// Returns the error for a duplicate key: the position of the second one, and the line of the first.
fn repeated(text: &str, mut mistake: Mistake, key: &str, first: usize) -> Mistake {
    let mut walk = Walk { stop_at: Some(first), ..Walk::default() };
    let found = serde_yaml::Deserializer::from_str(text)
        .next()
        .map(|again| Node { walk: &mut walk, depth: 0 }.deserialize(again));
    if let Some(Err(e)) = found
        && let Some(at) = e.location()
    {
        mistake.message = mistake
            .message
            .replace(REPEATED, &format!("the key `{key}` is here again; it is in line {} already", at.line()));
    }
    mistake
}

/// A marker in the library's error, which [`repeated`] replaces.
const REPEATED: &str = "a key is here again";

/// The state of the walk through a file.
#[derive(Default)]
struct Walk {
    content: usize,
    settings: usize,
    keys: usize,
    /// The number of the key at which the walk ends with an error, to learn its position.
    stop_at: Option<usize>,
    /// A duplicate key, and the number of its first occurrence.
    repeated: Option<(String, usize)>,
}

impl Walk {
    fn take<E: Error>(&mut self, length: usize) -> Result<(), E> {
        self.content += 1 + length;
        if self.content > MAX_CONTENT {
            return Err(E::custom(ALIASES));
        }
        Ok(())
    }
}

/// Any value.
struct Node<'w> {
    walk: &'w mut Walk,
    depth: usize,
}

impl Node<'_> {
    /// Counts this node as a setting, unless it is the whole document.
    fn is_set(&mut self) {
        self.walk.settings += usize::from(self.depth > 0);
    }

    fn value<E: Error>(mut self, length: usize) -> Result<(), E> {
        self.is_set();
        self.walk.take(length)
    }

    fn nested<E: Error>(&self) -> Result<(), E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("{NESTED} {MAX_DEPTH} levels; the settings need three")));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.value(0)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.value(0)
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<(), E> {
        self.value(0)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.value(0)
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<(), E> {
        self.value(0)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.value(0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.value(text.len())
    }

    /// A key or a list item without a value sets nothing.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.walk.take(0)
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        self.nested()?;
        self.is_set();
        let Self { walk, depth } = self;
        walk.take(0)?;
        while list.next_element_seed(Node { walk: &mut *walk, depth: depth + 1 })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.nested()?;
        let Self { walk, depth } = self;
        walk.take(0)?;
        let mut keys = HashMap::new();
        while map.next_key_seed(Key { walk: &mut *walk, keys: &mut keys })?.is_some() {
            map.next_value_seed(Node { walk: &mut *walk, depth: depth + 1 })?;
        }
        Ok(())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(A::Error::custom(TAG))
    }
}

/// A key of a map.
struct Key<'w> {
    walk: &'w mut Walk,
    /// The earlier keys of the map, with their numbers.
    keys: &'w mut HashMap<String, usize>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        let Self { walk, keys } = self;
        walk.take(key.len())?;
        let number = walk.keys;
        walk.keys += 1;
        if walk.stop_at == Some(number) {
            return Err(E::custom("here"));
        }
        match keys.entry(key.to_owned()) {
            Entry::Occupied(first) => {
                walk.repeated = Some((key.to_owned(), *first.get()));
                Err(E::custom(REPEATED))
            }
            Entry::Vacant(entry) => {
                entry.insert(number);
                Ok(())
            }
        }
    }
}

/// Accepts no value, so that the library reports the position of any value.
struct Nothing;

impl Visitor<'_> for Nothing {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }
}

#[cfg(test)]
mod tests;
