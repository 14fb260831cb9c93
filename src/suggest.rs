//! Finds the known word that is nearest to an unknown word.

use strsim::damerau_levenshtein;

/// The longest unknown word, in bytes: time and memory grow with its length.
const MAX_WORD: usize = 64;

/// Returns the word of `known` that was probably meant by `found`, if one is near. Case does not matter.
pub(crate) fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
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
