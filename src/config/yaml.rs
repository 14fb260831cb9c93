//! What is looked at before the settings are read: that a file takes little time and memory, and says each thing once.
//!
//! The YAML library reads a flow of brackets in quadratic time, follows aliases as often as they stand there, and names no place for a
//! key that is there twice.

use super::explain::{self, Mistake};
use super::node;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

/// The largest configuration file, in bytes.
pub const MAX_FILE: u64 = 64 * 1024;
/// The most levels of lists and maps; the settings need three.
pub const MAX_DEPTH: usize = 8;
/// What the error begins with if there are more.
pub(super) const NESTED: &str = "nested deeper than";
/// What the error says of a tag.
const TAG: &str = "a tag (`!name`) has no meaning here; remove it, or put the value in quotes";
/// What the error says if aliases repeat too much.
pub(super) const ALIASES: &str = "the aliases (`*name`) make the file too large; write out what they stand for";
/// The most brackets that open lists and maps. The time that the library takes grows with the file's size times how deep they are nested.
pub const MAX_BRACKETS: usize = 1000;
/// The most that all keys and values may come to, in bytes and one more for each. Only aliases make more of a file than twice its size.
#[expect(clippy::cast_possible_truncation, reason = "it is small")]
const MAX_CONTENT: usize = 2 * MAX_FILE as usize;

/// Looks through a file; returns how many settings are in it.
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

/// Refuses, before the library sees it, what would take it long.
fn scan(text: &str) -> Result<(), Mistake> {
    if text.len() as u64 > MAX_FILE {
        return Err(Mistake { place: None, message: format!("expected at most {MAX_FILE} bytes") });
    }
    if let Some((at, _)) = text.match_indices(['[', '{']).nth(MAX_BRACKETS) {
        let message = format!("more than {MAX_BRACKETS} brackets (`[` or `{{`)");
        return Err(Mistake { place: Some(explain::place(text, at)), message });
    }
    // The library says nothing of those that it knows, and takes them.
    if let Some(at) = node::first_with('!', text) {
        return Err(Mistake { place: Some(explain::place(text, at)), message: TAG.into() });
    }
    // Each is compared with all others.
    let starts_line = |at: usize| {
        text[..at].chars().next_back().is_none_or(|before| explain::BREAKS.contains(&before) || before == '\u{feff}')
    };
    if let Some((at, _)) = text.match_indices("%TAG").find(|(at, _)| starts_line(*at)) {
        return Err(Mistake {
            place: Some(explain::place(text, at)),
            message: "%TAG has no meaning here; remove the line".into(),
        });
    }
    Ok(())
}

/// The error for a key that is there twice: where the second one is, and in which line the first.
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

/// Stands in the library's error for what [`repeated`] says.
const REPEATED: &str = "a key is here again";

/// What was found on the way through a file.
#[derive(Default)]
struct Walk {
    content: usize,
    settings: usize,
    keys: usize,
    /// The number of a key at which to end with an error, since that has a position.
    stop_at: Option<usize>,
    /// A key that is there twice, and the number of the first.
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
    /// Counts it as a setting, unless it is the whole document.
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
    /// The keys before it, with their numbers.
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

/// Takes no value, so that the library names the place of the one that is there.
struct Nothing;

impl Visitor<'_> for Nothing {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }
}

#[cfg(test)]
mod tests;
