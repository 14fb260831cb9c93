//! Translates the errors of the YAML library into plain words: the mistake in the line, and the correction.

use super::error::{Mistake, Position};
use super::node;
use super::typed::typed;

/// The line breaks of YAML.
pub(super) const BREAKS: [char; 5] = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];

/// Returns line and column of a byte.
pub(super) fn position(text: &str, at: usize) -> Position {
    let before = &text[..at];
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

/// Translates an error of the YAML library in `text`: a syntax error, or one that the type of a value raised.
pub(super) fn yaml(text: &str, error: &serde_yaml::Error) -> Mistake {
    let position = error.location().map(|at| (at.line(), at.column()));
    let raw = Raw::of(error);
    if raw.problem == "repetition limit exceeded" {
        // This error has no position.
        let position = node::first_with('*', text).map(|at| self::position(text, at));
        return Mistake { position, message: super::yaml::ALIASES.into() };
    }
    match position.and_then(|position| Some((position, known(text, position, &raw)?))) {
        Some((position, (elsewhere, message))) => Mistake { position: Some(elsewhere.unwrap_or(position)), message },
        None => match SHORT.iter().find_map(|begin| raw.all.find(begin)) {
            Some(at) => Mistake { position, message: raw.all[at..].into() },
            None => Mistake { position, message: typed(raw.all) },
        },
    }
}

/// The messages that are shown without the path of keys to the mistake, since that path can be very long.
const SHORT: [&str; 2] = [super::yaml::NESTED, super::yaml::ALIASES];

/// Returns the error for content after the first document; `error` is at the beginning of that content.
pub(super) fn second_document(text: &str, error: &serde_yaml::Error) -> Mistake {
    let position = error.location().map(|at| (at.line(), at.column()));
    let ends = |line: &Line<'_>| line.text.starts_with("---") || line.text.starts_with("...");
    let lines = position.map_or(0..0, |(line, _)| line.saturating_sub(1)..line + 1);
    let message = if lines.map(|number| Line::of(text, number)).any(|line| ends(&line)) {
        "a second document begins here; expected one, so remove the line `---` or `...` before it"
    } else {
        "this line does not continue the lines above it; indent all keys of one section equally"
    };
    Mistake { position, message: message.into() }
}

/// The parts of the library's message.
struct Raw {
    /// The whole message without the first position.
    all: String,
    /// The mistake.
    problem: String,
    /// The construct that was being read, and the position of its beginning if that differs from the position of the mistake.
    context: String,
    began: Option<Position>,
}

impl Raw {
    fn of(error: &serde_yaml::Error) -> Self {
        let mut all = error.to_string();
        if let Some(at) = error.location() {
            all = all.replacen(&format!(" at line {} column {}", at.line(), at.column()), "", 1);
        }
        let (problem, context) = all.split_once(", while ").unwrap_or((&all, ""));
        let (context, position) = context.split_once(" at line ").unwrap_or((context, ""));
        let began =
            position.split_once(" column ").and_then(|(line, column)| Some((line.parse().ok()?, column.parse().ok()?)));
        Self { problem: problem.to_owned(), context: context.to_owned(), began, all }
    }
}

/// A line, for a look at the characters around a column.
#[derive(Clone, Copy)]
struct Line<'t> {
    text: &'t str,
}

impl<'t> Line<'t> {
    fn of(text: &'t str, number: usize) -> Self {
        Self { text: text.split('\n').nth(number.wrapping_sub(1)).unwrap_or("").trim_end_matches('\r') }
    }

    /// Returns the text before a column.
    fn before(self, column: usize) -> &'t str {
        let end = self.text.char_indices().nth(column.saturating_sub(1)).map_or(self.text.len(), |(at, _)| at);
        &self.text[..end]
    }

    fn at(self, column: usize) -> Option<char> {
        self.text[self.before(column).len()..].chars().next()
    }

    fn begins_at(self, column: usize) -> bool {
        self.before(column).trim_start().is_empty()
    }

    /// Guesses if the line has a key, with or without a value.
    fn has_key(self) -> bool {
        self.text.contains(": ") || self.text.trim_end().ends_with(':')
    }
}

/// Returns the message for a syntax error, and its position if that is not the one that the library reports.
fn known(text: &str, at: Position, raw: &Raw) -> Option<(Option<Position>, String)> {
    let (line, column) = at;
    let here = Line::of(text, line);
    let found = here.at(column);
    let began = raw.began.unwrap_or((1, 1));
    let quotes = |what: &str| match what {
        "`" => "a value cannot begin with a backquote; put it in quotes".to_owned(),
        what => format!("a value cannot begin with `{what}`; put it in quotes"),
    };
    let plain = |message: &str| Some((None, message.to_owned()));
    match raw.problem.as_str() {
        "found character that cannot start any token" if found == Some('\t') => plain(TAB),
        "found a tab character that violates indentation"
        | "found a tab character where an indentation space is expected" => plain(TAB),
        "found character that cannot start any token" => {
            Some((None, quotes(&found.map(String::from).unwrap_or_default())))
        }
        "mapping values are not allowed in this context" => Some((None, misplaced_colon(text, at))),
        "could not find expected ':'" if raw.context.contains("simple key") => {
            let message = if Line::of(text, began.0).text.contains(':') {
                "there is no space after the `:` of this line; expected `key: value`"
            } else {
                "expected `key: value`, and this line has no `:`"
            };
            Some((Some(began), message.into()))
        }
        "found unexpected end of stream" | "found unexpected document indicator" => {
            Some((Some(began), "the quote that opens here is not closed".into()))
        }
        "found unexpected ':'" if raw.context.contains("plain scalar") => {
            Some((Some(began), "within brackets a value that ends with `:` must be in quotes".into()))
        }
        problem if problem.ends_with("invalid type: map, expected a key") && here.before(column).ends_with('{') => {
            plain(
                "`{{ … }}` is a placeholder that nobody has filled in; have your deployment fill it in, or put it in quotes",
            )
        }
        "did not find expected key" => Some((None, no_key(here, column))),
        "did not find expected '-' indicator" => plain(
            "this line is indented as the list above it, but does not begin with `- `; indent it otherwise, or make it an item",
        ),
        "did not find expected ',' or ']'" => Some((None, unclosed('[', ']', at, found, began))),
        "did not find expected ',' or '}'" => Some((None, unclosed('{', '}', at, found, began))),
        "did not find expected node content" => Some((
            None,
            match found {
                None => "the file ends within a `[` or `{` that is not closed".into(),
                Some(',') => "expected a value before this `,`".into(),
                Some(found) => format!("expected a value, found `{found}`; if it is one, put it in quotes"),
            },
        )),
        "did not find expected alphabetic or numeric character" if raw.context.contains("anchor") => {
            Some((Some(began), quotes("&")))
        }
        "did not find expected alphabetic or numeric character" if raw.context.contains("alias") => {
            Some((Some(began), quotes("*")))
        }
        "unknown anchor" => plain(
            "`*` begins the name of an anchor, and there is none of this name; if it is a value, put it in quotes",
        ),
        "found unknown escape character" => {
            let escape: String = here.text[here.before(column).len()..].chars().take(2).collect();
            Some((
                None,
                format!("`{escape}` is no escape; within \"…\" write a backslash twice, or put the value in '…'"),
            ))
        }
        "did not find expected hexadecimal number" | "found invalid Unicode character escape code" => plain(
            "this `\\` begins no character's number; within \"…\" write a backslash twice, or put the value in '…'",
        ),
        "block sequence entries are not allowed in this context" => {
            plain("a list item (`- `) cannot begin here; begin the list in the next line, or put the value in quotes")
        }
        "mapping keys are not allowed in this context" => Some((None, quotes("?"))),
        "did not find expected comment or line break" | "found an indentation indicator equal to 0"
            if raw.context.contains("block scalar") =>
        {
            let sign = if Line::of(text, began.0).at(began.1) == Some('>') { ">" } else { "|" };
            Some((Some(began), quotes(sign)))
        }
        "found undefined tag handle" => Some((None, quotes("!"))),
        _ if raw.context.contains("tag") && !raw.context.contains("directive") => Some((Some(began), quotes("!"))),
        "found incompatible YAML document" => {
            plain("expected YAML 1.1 or 1.2; remove the line that begins with `%YAML`")
        }
        _ if raw.context.contains("directive") || raw.problem.contains("directive") => {
            Some((Some((line, 1)), "a line cannot begin with `%`; remove it, or put the value in quotes".into()))
        }
        _ if raw.problem.starts_with("control characters are not allowed") => {
            let (at, found) = text.char_indices().find(|(_, c)| is_control(*c))?;
            Some((Some(position(text, at)), format!("U+{:04X} is a control character; remove it", u32::from(found))))
        }
        _ => None,
    }
}

const TAB: &str = "a tab cannot indent YAML; use spaces";

/// Returns true for the characters that the library refuses.
fn is_control(c: char) -> bool {
    (c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}')) || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// Returns the message for a `: ` in a place where there can be no key.
fn misplaced_colon(text: &str, (line, column): Position) -> String {
    if Line::of(text, line).before(column).contains(": ") {
        return "a second `: ` in this line; put the value in quotes".into();
    }
    let is_blank = |line: &Line<'_>| matches!(line.text.trim_start().chars().next(), None | Some('#'));
    let above = (1..line).rev().map(|number| (number, Line::of(text, number))).find(|(_, above)| !is_blank(above));
    match above {
        Some((number, above)) if !above.has_key() => format!("line {number} is no `key: value`; is the space after its `:` missing?"),
        _ => "this line is indented more than the one above it, which has a value already; indent all keys of one section equally".into(),
    }
}

/// Returns the message for something else in the place of a map's next key.
fn no_key(here: Line<'_>, column: usize) -> String {
    let found = here.at(column);
    match found {
        Some(found @ (']' | '}')) => format!("this `{found}` closes nothing; remove it"),
        Some('-') if here.begins_at(column) => "a list item (`- `) among lines of `key: value`; indent it more, or remove the `- `".into(),
        Some(':') if here.begins_at(column) => "expected a key before this `:`".into(),
        _ if here.begins_at(column) => "the indentation of this line fits no line above it; indent all keys of one section equally".into(),
        _ => "nothing can follow the value in this line; a quote within '…' is written '', within \"…\" it is \\\". Or is a quote not \
              closed in a line above?"
            .into(),
    }
}

/// Returns the message for a list or a map in brackets that is not continued or closed.
fn unclosed(open: char, close: char, (line, _): Position, found: Option<char>, began: (usize, usize)) -> String {
    match found {
        Some(found @ (']' | '}')) => format!("expected `{close}`, found `{found}`"),
        _ if began.0 < line => {
            format!("the `{open}` in line {} is not closed, or a `,` is missing before this", began.0)
        }
        _ => format!("expected `,` or `{close}`"),
    }
}
