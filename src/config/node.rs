//! Finds the position of a tag or an alias. The YAML library accepts the tags that it knows (`!!str`), and gives no position for an
//! alias that it refuses.

use super::explain::BREAKS;
use std::iter::Peekable;
use std::str::CharIndices;

/// Returns the byte at which the first node begins with `sign`. Comments, quotes, block scalars and the middle of values are skipped.
pub(super) fn first_with(sign: char, text: &str) -> Option<usize> {
    let mut scan = Scan { chars: text.char_indices().peekable(), column: 0, brackets: 0 };
    let mut parent = 0;
    // True while a node can begin at the next character.
    let mut starts = true;
    // True after a blank or at the beginning of a line.
    let mut apart = true;
    while let Some((at, char)) = scan.next() {
        let column = scan.column - 1;
        match char {
            _ if BREAKS.contains(&char) => {
                (starts, apart, parent) = (true, true, 0);
                scan.column = 0;
                continue;
            }
            ' ' | '\t' | '\u{feff}' => {
                apart = true;
                continue;
            }
            '#' if apart => scan.skip_line(),
            _ if char == sign && starts => return Some(at),
            '"' | '\'' if starts => {
                scan.skip_quoted(char);
                (starts, parent) = (false, column);
            }
            '-' if column == 0 && text[at..].starts_with("---") => scan.skip_word(),
            '-' | '?' | ':' if scan.is_alone() && (starts || char == ':') => {
                if char != ':' {
                    parent = column;
                }
                starts = true;
            }
            '|' | '>' if starts && scan.brackets == 0 => {
                scan.skip_block(parent);
                starts = true;
            }
            '[' | '{' if starts => scan.brackets += 1,
            '[' | '{' | ',' if scan.brackets > 0 => starts = true,
            ']' | '}' if scan.brackets > 0 => {
                scan.brackets -= 1;
                starts = false;
            }
            // An anchor, an alias or a tag: a node may follow.
            '&' | '*' | '!' if starts => scan.skip_word(),
            // If this is a key, its block scalar is indented more.
            _ if starts => (starts, parent) = (false, column),
            _ => {}
        }
        apart = false;
    }
    None
}

struct Scan<'t> {
    chars: Peekable<CharIndices<'t>>,
    /// The column of the next character, from 0.
    column: usize,
    /// The number of open brackets.
    brackets: usize,
}

impl Scan<'_> {
    fn next(&mut self) -> Option<(usize, char)> {
        self.column += 1;
        self.chars.next()
    }

    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|(_, char)| *char)
    }

    /// Returns true if the sign before this stands alone and is no part of a value.
    fn is_alone(&mut self) -> bool {
        let flows = self.brackets > 0;
        self.peek().is_none_or(|next| is_space(next) || flows && matches!(next, ',' | '[' | ']' | '{' | '}'))
    }

    fn skip_line(&mut self) {
        while self.peek().is_some_and(|next| !BREAKS.contains(&next)) {
            self.next();
        }
    }

    fn skip_word(&mut self) {
        while self.peek().is_some_and(|next| !is_space(next) && !matches!(next, ',' | '[' | ']' | '{' | '}')) {
            self.next();
        }
    }

    fn skip_quoted(&mut self, quote: char) {
        while let Some((_, char)) = self.next() {
            if char == '\\' && quote == '"' {
                self.next();
            } else if char == quote {
                break;
            }
        }
    }

    /// Skips the lines of a block scalar, which are indented more than `parent`.
    fn skip_block(&mut self, parent: usize) {
        loop {
            self.skip_line();
            let mut ahead = self.chars.clone();
            ahead.next();
            let indent = ahead.clone().take_while(|(_, char)| *char == ' ').count();
            match ahead.nth(indent) {
                Some((_, char)) if indent > parent || BREAKS.contains(&char) => {
                    self.next();
                }
                _ => break,
            }
        }
    }
}

fn is_space(char: char) -> bool {
    char == ' ' || char == '\t' || BREAKS.contains(&char)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_where_a_node_begins_and_nowhere_else() {
        for text in [
            "^!!x",
            "^!!map\n",
            "--- ^!!map\n",
            "user: ^!!str x\n",
            "user: ^! x\n",
            "user: ^!<tag:yaml.org,2002:str> x\n",
            "^!x user: a\n",
            "user: &a ^!!str x\n",
            "a: [1, ^!x 2]\n",
            "a: [^!x 2]\n",
            "a: {b: c, ^!x d: e}\n",
            "\"a\":\n  \"b\": |\n    !x\n  c: ^!x d\n",
            "a:\n  - b\n  - ^!x c\n",
            "a:\n- - ^!x c\n",
            "a: \"x\n  y\"\nb: ^!x c\n",
            "a: |\n  !x\n\n  !y\nb: ^!x c\n",
            "a:\n- b: >-\n    !x\n  c: ^!x d\n",
            "- |\n  !x\n- ^!x\n",
            "# it's !x\na: ^!x c\n",
            "a: b#c\nd: ^!x e\n",
            "? ^!x a\n: b\n",
            "a: b\r\nc: ^!x d\r\n",
            "\u{feff}^!x a\n",
        ] {
            assert_eq!(first_with('!', &text.replace('^', "")), text.find('^'), "{text:?}");
        }
        for text in [
            "",
            "user: x!y\n",
            "user: x !y\n",
            "user: \"!x\"\n",
            "user: '!x'\n",
            "user: '''!x'\n",
            "user: \"\\\"!x\"\n",
            "user: x # !y\n",
            "# !x\n",
            "user: |\n  !x\n",
            "logger:\n  file: >-\n    !x\n",
            "\"a\": \"x\n !y\"\n",
            "a: [\"!x\", b!c]\n",
            "a: http://b/!c\n",
        ] {
            assert_eq!(first_with('!', text), None, "{text:?}");
        }
        assert_eq!(first_with('*', "a: &a [1]\nb: [*a]\n"), Some(14));
    }
}
