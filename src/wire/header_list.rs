//! Headers as lists (RFC 9110, sections 5.3 and 5.6.1): header lines in, elements out.

use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderName};

/// Returns the elements of a header, of all its lines, in their order.
///
/// A comma in a quoted string does not separate elements. Blanks and tabs around an element are trimmed, and empty elements left out.
pub(crate) fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().flat_map(|line| split(line.as_bytes(), b','))
}

/// Returns true if one of the elements of a header is this token, in any case.
#[must_use]
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    elements(headers, name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

/// Splits `text` at the separators outside of quoted strings. The parts are trimmed, and empty ones left out.
pub(crate) fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text.split(move |&byte| {
        if quoted {
            (quoted, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
            return false;
        }
        quoted = byte == b'"';
        byte == separator
    });
    parts.map(<[u8]>::trim_ascii).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::http::HeaderValue;
    use tokio_tungstenite::tungstenite::http::header::CONNECTION;

    fn connection(lines: &[&str]) -> HeaderMap {
        let line = |text: &&str| (CONNECTION, HeaderValue::from_str(text).unwrap());
        lines.iter().map(line).collect()
    }

    #[test]
    fn a_list_may_have_several_lines_tabs_quotes_and_empty_elements() {
        let lists: [(&[&str], &[&str]); 8] = [
            (&[], &[]),
            (&["", ",", " ,\t, "], &[]),
            (&["a"], &["a"]),
            (&["a,b", "c"], &["a", "b", "c"]),
            (&["\ta\t,\t b ,"], &["a", "b"]),
            (&["a b"], &["a b"]),
            (&["a=\"b, c\", d", "e=\"\\\",\", f"], &["a=\"b, c\"", "d", "e=\"\\\",\"", "f"]),
            // A string that is not closed ends with its line.
            (&["a=\"b, c", "d"], &["a=\"b, c", "d"]),
        ];
        for (lines, expected) in lists {
            let headers = connection(lines);
            let found: Vec<_> = elements(&headers, &CONNECTION).map(|item| str::from_utf8(item).unwrap()).collect();
            assert_eq!(found, expected, "{lines:?}");
        }
    }

    #[test]
    fn a_token_is_an_element_as_a_whole_in_any_case() {
        for lines in [&["Upgrade"][..], &["close", "upgrade"], &["keep-alive,\tUPGRADE,"]] {
            assert!(has_token(&connection(lines), &CONNECTION, "upgrade"), "{lines:?}");
        }
        for lines in [&[][..], &["upgrades"], &["keep-alive upgrade"], &["\"upgrade\""], &["x=\", upgrade,\""]] {
            assert!(!has_token(&connection(lines), &CONNECTION, "upgrade"), "{lines:?}");
        }
    }
}
