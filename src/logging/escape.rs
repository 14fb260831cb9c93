//! Text from outside for one line of the log: escaped, cut, and channel ids abridged.

use super::MAX_LINE;
use std::fmt::{self, Write as _};

/// Returns true for a character that could forge or garble a line, hide in it, or change the order of its text.
///
/// By the general categories of Unicode 16.0 these are Cc (controls), Cf (format characters, with the marks of direction and the tags),
/// Zl and Zp (separators of lines and paragraphs). By `DerivedCoreProperties.txt` it is also every `Default_Ignorable_Code_Point`, which
/// is not drawn: fillers, variation selectors, and code points reserved for such characters. Characters for private use and
/// unassigned ones are drawn, as a box at worst, and are not escaped.
fn is_escaped(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}'
        | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}'
        | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// A writer that escapes every character of [`is_escaped`].
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if is_escaped(c) {
                write!(self.0, "{}", c.escape_default())?;
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}

/// Escapes text from outside, so that it can be printed on one line.
#[must_use]
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let _ = Escaped(&mut escaped).write_str(text);
    escaped
}

/// Escapes text from outside and cuts it to [`MAX_LINE`] bytes, so that it is one line of the log or of an output.
#[must_use]
pub(crate) fn one_line(text: &str) -> String {
    cut(escape(text))
}

/// Cuts a line to [`MAX_LINE`] bytes.
fn cut(mut line: String) -> String {
    if line.len() > MAX_LINE {
        let end = (0..=MAX_LINE).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

/// A channel id for the log: at most half of it, and at most eight characters. An id is secret: it allows to watch its job.
#[derive(Debug)]
pub(crate) struct Abridged<'a>(pub &'a str);

impl fmt::Display for Abridged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = (self.0.chars().count() / 2).min(8);
        for c in self.0.chars().take(shown) {
            f.write_char(c)?;
        }
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_forge_a_line() {
        let escaped = "a\\n[x]\\r\\u{1b}[31m\\u{7f}\\u{85}\\u{202e}é";
        assert_eq!(escape("a\n[x]\r\u{1b}[31m\u{7f}\u{85}\u{202e}é"), escaped);
    }

    /// The tables of the crate `regex-syntax`, for Unicode 16.0, decide.
    #[test]
    fn exactly_what_controls_formats_separates_or_is_not_drawn_is_escaped() {
        let class = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]";
        let hir = regex_syntax::parse(class).expect("a class of characters");
        let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = hir.kind() else {
            panic!("not a class: {hir:?}")
        };
        let known = |c: char| class.ranges().iter().any(|range| (range.start()..=range.end()).contains(&c));
        let differ: Vec<char> = ('\0'..=char::MAX).filter(|c| is_escaped(*c) != known(*c)).collect();
        assert_eq!(differ, Vec::<char>::new());
    }

    #[test]
    fn what_hides_or_turns_text_is_escaped() {
        for (text, escaped) in [
            ("a\u{61c}b", r"a\u{61c}b"),
            ("a\u{2060}b\u{ad}", r"a\u{2060}b\u{ad}"),
            ("\u{e0001}\u{e0041}\u{e007f}\u{fe0f}", r"\u{e0001}\u{e0041}\u{e007f}\u{fe0f}"),
            ("\u{180e}\u{fff9}\u{fffb}\u{110bd}\u{1d173}", r"\u{180e}\u{fff9}\u{fffb}\u{110bd}\u{1d173}"),
            ("Příliš žluťoučký 学生 🎓 e\u{301}", "Příliš žluťoučký 学生 🎓 e\u{301}"),
        ] {
            assert_eq!(escape(text), escaped);
        }
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(cut("é".repeat(MAX_LINE / 2)).len(), MAX_LINE);
        assert_eq!(cut(format!("x{}", "é".repeat(MAX_LINE / 2))), format!("x{}…", "é".repeat(MAX_LINE / 2 - 1)));
    }

    #[test]
    fn an_id_is_never_shown_whole() {
        for (id, shown) in [("", "…"), ("a", "…"), ("ab", "a…"), ("student_5d1f3c9e-0b7a", "student_…")] {
            assert_eq!(Abridged(id).to_string(), shown);
        }
    }
}
