//! The known word that is nearest to an unknown one.

use strsim::damerau_levenshtein;

/// The longest word, in bytes, for which one is looked for: the time and memory that it takes grow with the word.
const MAX_WORD: usize = 64;

/// Returns the word of `known` that `found` was probably meant to be, if one is near. Case does not matter.
#[must_use]
pub fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    if found.len() > MAX_WORD {
        return None;
    }
    let found = found.to_lowercase();
    let distance = |name: &&str| damerau_levenshtein(&name.to_lowercase(), &found);
    let nearest = *known.iter().min_by_key(|name| distance(name))?;
    (distance(&nearest) <= found.len().max(nearest.len()) / 2).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_whatever_its_case() {
        let known = ["STARTED", "TASK", "FINISHED"];
        for (found, word) in [
            ("STRATED", Some("STARTED")),
            ("started", Some("STARTED")),
            ("Finish", Some("FINISHED")),
            ("xyzzy", None),
            ("", None),
        ] {
            assert_eq!(nearest(found, &known), word, "{found}");
        }
        assert_eq!(nearest(&"S".repeat(MAX_WORD + 1), &known), None);
        assert_eq!(nearest("STARTED", &[]), None);
    }
}
