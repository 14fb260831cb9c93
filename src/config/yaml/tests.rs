//! The usual mistakes in a file and what is said of each; and files that are made to take long.

use super::MAX_FILE;
use crate::config::Settings;
use nix::time::{ClockId, clock_gettime};
use std::path::Path;
use std::time::Duration;

fn parse(text: &str) -> Result<Settings, String> {
    Settings::parse(Path::new("c"), text.as_bytes()).map_err(|e| e.to_string())
}

/// Files with a mistake, and the error for each.
const MISTAKES: &[(&str, &str)] = &[
    ("logger:\n\tlevel: info\n", "2:1: a tab cannot indent YAML; use spaces"),
    ("logger:\n  level: info\n\tfile: x\n", "3:1: a tab cannot indent YAML; use spaces"),
    ("\tlogger: {}\n", "1:1: a tab cannot indent YAML; use spaces"),
    ("zeromq:\n  allow:\n  - ::1\n\t- ::2\n", "4:1: a tab cannot indent YAML; use spaces"),
    ("group: |\n\tx\n", "2:1: a tab cannot indent YAML; use spaces"),
    ("user: x\n\ty\n", "2:1: a tab cannot indent YAML; use spaces"),
    ("logger:\n  level: info\n  \tfile: x\n", "3:3: a tab cannot indent YAML; use spaces"),
    (
        "logger:\n  level:info\n",
        "2:3: logger: invalid type: string \"level:info\", expected the keys of `logger`; is the space after a `:` missing?",
    ),
    ("logger:\n  level:info\n  file: x\n", "3:7: line 2 is no `key: value`; is the space after its `:` missing?"),
    ("level:info\nuser: x\n", "2:5: line 1 is no `key: value`; is the space after its `:` missing?"),
    (
        "level:info\n",
        "1:1: invalid type: string \"level:info\", expected settings as `key: value` lines; is the space after a `:` missing?",
    ),
    ("user: x\nlevel:info\n", "2:1: there is no space after the `:` of this line; expected `key: value`"),
    ("user: x\nlevel:info\ngroup: y\n", "2:1: there is no space after the `:` of this line; expected `key: value`"),
    ("user: x\nb\n", "2:1: expected `key: value`, and this line has no `:`"),
    ("b\nuser: x\n", "2:5: line 1 is no `key: value`; is the space after its `:` missing?"),
    ("user: \"x\ngroup: y\n", "1:7: the quote that opens here is not closed"),
    ("user: 'x\ngroup: y\n", "1:7: the quote that opens here is not closed"),
    (
        "user: \"x\ngroup: \"y\"\n",
        "2:9: nothing can follow the value in this line; a quote within '…' is written '', within \"…\" it is \\\". Or is a quote not closed in a line above?",
    ),
    (
        "user: 'it's'\n",
        "1:11: nothing can follow the value in this line; a quote within '…' is written '', within \"…\" it is \\\". Or is a quote not closed in a line above?",
    ),
    ("user: \"C:\\dir\"\n", "1:10: `\\d` is no escape; within \"…\" write a backslash twice, or put the value in '…'"),
    (
        "user: \"x\" y\n",
        "1:11: nothing can follow the value in this line; a quote within '…' is written '', within \"…\" it is \\\". Or is a quote not closed in a line above?",
    ),
    ("zeromq_uri: [\"::1\", 2\nuser: x\n", "2:5: the `[` in line 1 is not closed, or a `,` is missing before this"),
    ("zeromq_uri: [a, 2\n", "2:1: the `[` in line 1 is not closed, or a `,` is missing before this"),
    ("logger: {level: info\nuser: x\n", "2:5: the `{` in line 1 is not closed, or a `,` is missing before this"),
    ("logger: {level: info\n", "2:1: the `{` in line 1 is not closed, or a `,` is missing before this"),
    ("zeromq_uri: [a, 2]]\n", "1:19: this `]` closes nothing; remove it"),
    ("zeromq_uri: [a, 2}\n", "1:18: expected `]`, found `}`"),
    ("logger: {level: info]\n", "1:21: expected `}`, found `]`"),
    ("user: }\n", "1:7: expected a value, found `}`; if it is one, put it in quotes"),
    ("]\n", "1:1: expected a value, found `]`; if it is one, put it in quotes"),
    ("zeromq_uri: [\"a\" 1]\n", "1:18: expected `,` or `]`"),
    ("zeromq_uri: [a,,1]\n", "1:16: expected a value before this `,`"),
    ("zeromq_uri: [\n", "2:1: the file ends within a `[` or `{` that is not closed"),
    ("user: , b\n", "1:7: expected a value before this `,`"),
    ("%a\n", "1:1: a line cannot begin with `%`; remove it, or put the value in quotes"),
    ("user: %b\n", "1:7: a value cannot begin with `%`; put it in quotes"),
    ("user: @b\n", "1:7: a value cannot begin with `@`; put it in quotes"),
    ("@a: b\n", "1:1: a value cannot begin with `@`; put it in quotes"),
    ("user: `b`\n", "1:7: a value cannot begin with a backquote; put it in quotes"),
    ("user: b: c\n", "1:8: a second `: ` in this line; put the value in quotes"),
    (
        "user: *b\n",
        "1:7: `*` begins the name of an anchor, and there is none of this name; if it is a value, put it in quotes",
    ),
    ("zeromq_uri: [*, 7894]\n", "1:14: a value cannot begin with `*`; put it in quotes"),
    ("user: &\n", "1:7: a value cannot begin with `&`; put it in quotes"),
    ("user: !x y\n", "1:7: a tag (`!name`) has no meaning here; remove it, or put the value in quotes"),
    ("user: !<x\n", "1:7: a tag (`!name`) has no meaning here; remove it, or put the value in quotes"),
    ("user: !e!x y\n", "1:7: a tag (`!name`) has no meaning here; remove it, or put the value in quotes"),
    ("user: !!str x\n", "1:7: a tag (`!name`) has no meaning here; remove it, or put the value in quotes"),
    ("user: ! x\n", "1:7: a tag (`!name`) has no meaning here; remove it, or put the value in quotes"),
    ("!!x\n", "1:1: a tag (`!name`) has no meaning here; remove it, or put the value in quotes"),
    ("# a\n!!map\n", "2:1: a tag (`!name`) has no meaning here; remove it, or put the value in quotes"),
    ("group: &a !!str x\n", "1:11: a tag (`!name`) has no meaning here; remove it, or put the value in quotes"),
    ("user: >x\n", "1:7: a value cannot begin with `>`; put it in quotes"),
    ("user: | x\n", "1:7: a value cannot begin with `|`; put it in quotes"),
    ("user: ? b\n", "1:7: a value cannot begin with `?`; put it in quotes"),
    (
        "user: - b\n",
        "1:7: a list item (`- `) cannot begin here; begin the list in the next line, or put the value in quotes",
    ),
    ("user: |0\n", "1:7: a value cannot begin with `|`; put it in quotes"),
    (
        "user: x\n group: y\n",
        "2:7: this line is indented more than the one above it, which has a value already; indent all keys of one section equally",
    ),
    (
        "logger:\n  level: info\n file: c\n",
        "3:2: the indentation of this line fits no line above it; indent all keys of one section equally",
    ),
    (
        "logger:\n    level: info\n  file: c\nuser: x\n",
        "3:3: the indentation of this line fits no line above it; indent all keys of one section equally",
    ),
    (
        " user: x\ngroup: y\n",
        "2:1: this line does not continue the lines above it; indent all keys of one section equally",
    ),
    (
        "zeromq:\n  allow:\n    - a\n   - b\n",
        "4:4: a list item (`- `) among lines of `key: value`; indent it more, or remove the `- `",
    ),
    (
        "zeromq_uri:\n- a\nuser: x\n- 2\n",
        "4:1: a list item (`- `) among lines of `key: value`; indent it more, or remove the `- `",
    ),
    (
        "zeromq_uri:\n  - a\n  b: 2\n",
        "3:3: this line is indented as the list above it, but does not begin with `- `; indent it otherwise, or make it an item",
    ),
    (
        "user: \"x\"\n  b: y\n",
        "2:3: the indentation of this line fits no line above it; indent all keys of one section equally",
    ),
    ("user = b\n", "1:1: invalid type: string \"user = b\", expected settings as `key: value` lines"),
    (
        "[section]\nuser = b\n",
        "2:1: this line does not continue the lines above it; indent all keys of one section equally",
    ),
    (
        "user: x\n---\ngroup: y\n",
        "3:1: a second document begins here; expected one, so remove the line `---` or `...` before it",
    ),
    (
        "user: x\n...\ngroup: y\n",
        "3:1: a second document begins here; expected one, so remove the line `---` or `...` before it",
    ),
    ("user: \u{7}\n", "1:7: U+0007 is a control character; remove it"),
    ("user: x\n: c\n", "2:1: expected a key before this `:`"),
    ("user: 1\nuser: 2\n", "2:1: the key `user` is here again; it is in line 1 already"),
    (
        "logger:\n  level: info\nclients: {max: 3,\n  max_per_address: 4, max: 5}\n",
        "4:23: clients: the key `max` is here again; it is in line 3 already",
    ),
    ("%YAML 3.0\n---\nuser: x\n", "1:1: expected YAML 1.1 or 1.2; remove the line that begins with `%YAML`"),
    ("%TAG !a! b\n---\nuser: x\n", "1:1: %TAG has no meaning here; remove the line"),
    (
        "user: \"\\u12\"\n",
        "1:10: this `\\` begins no character's number; within \"…\" write a backslash twice, or put the value in '…'",
    ),
    ("user: 'x\n---\n", "1:7: the quote that opens here is not closed"),
    ("[[[[[[[[[1]]]]]]]]]\n", "1:9: nested deeper than 8 levels; the settings need three"),
    (
        "a:\n b:\n  c:\n   d:\n    e:\n     f:\n      g:\n       h:\n        i: 1\n",
        "9:9: nested deeper than 8 levels; the settings need three",
    ),
    ("[a]: 1\n", "1:1: invalid type: sequence, expected a key"),
    ("trusted_proxies: [unix:]\n", "1:19: within brackets a value that ends with `:` must be in quotes"),
    (
        "trusted_proxies: [unix: ]\n",
        "1:19: trusted_proxies[0]: invalid type: map, expected an address or a network, such as \"192.0.2.7\" or \"10.1.0.0/16\", or \"unix:\"; a value that ends with `:` or has `: ` in it must be in quotes",
    ),
    (
        "proxy_header: [x-real-ip]\n",
        "1:15: proxy_header: invalid type: sequence, expected one of x-forwarded-for, x-real-ip, forwarded",
    ),
    (
        "logger: {output: [a]}\n",
        "1:18: logger.output: invalid type: sequence, expected one of auto, journald, file, stderr",
    ),
    (
        "user: {{ recodex_user }}\n",
        "1:8: `{{ … }}` is a placeholder that nobody has filled in; have your deployment fill it in, or put it in quotes",
    ),
    (
        "websocket_uri: [\"127.0.0.1\", {{ port }}]\n",
        "1:31: `{{ … }}` is a placeholder that nobody has filled in; have your deployment fill it in, or put it in quotes",
    ),
    (
        "websocket_uri: [\"127.0.0.1\": 4567]\n",
        "1:17: websocket_uri[0]: invalid type: map, expected a string; between host and port stands a `,`, not a `:`",
    ),
    (
        "accept_exit: yes\n",
        "1:14: accept_exit: invalid type: string \"yes\", expected a boolean; write true or false, without quotes",
    ),
    (
        "clients:\n  finish_on_close: \"false\"\n",
        "2:20: clients.finish_on_close: invalid type: string \"false\", expected a boolean; write true or false, without quotes",
    ),
    ("logger:\nlevel: debug\n", "2:1: `level` belongs under `logger`, indented"),
    ("certificate: /a\n", "1:1: `certificate` belongs under `tls`, indented"),
    ("handshake_timeout: 5\n", "1:1: `handshake_timeout` belongs under `clients` or `zeromq`, indented"),
    (
        "logger: {level:debug}\n",
        "1:10: logger: unknown key `level:debug`; there is no space after the `:`, expected `level: value`",
    ),
    ("{user:x}\n", "1:2: unknown key `user:x`; there is no space after the `:`, expected `user: value`"),
    ("accept_exit:\n", "1:13: accept_exit: there is no value; expected a boolean"),
    ("clients:\n  max:\n", "2:7: clients.max: there is no value; expected a whole number from 1 to 10000000"),
    ("zeromq_uri:\n", "1:12: zeromq_uri: there is no value; expected a host and a port, such as [\"127.0.0.1\", 4567]"),
    (
        "logger:\n  level:\n",
        "2:9: logger.level: there is no value; expected one of debug, info, warning, error, critical",
    ),
    ("tls:\n  certificate:\n  key: /b\n", "2:15: tls.certificate: there is no value; expected a path"),
    ("user: x\nuser : y\n", "2:1: the key `user` is here again; it is in line 1 already"),
];

#[test]
fn each_mistake_is_told_in_plain_words_where_it_is() {
    for (text, said) in MISTAKES {
        assert_eq!(parse(text).unwrap_err(), format!("c:{said}"), "{text:?}");
    }
}

/// The library names no place for some of them.
#[test]
fn aliases_that_repeat_too_much_are_told_with_a_place() {
    let nested = (0..5).fold("- &a0 x\n".to_owned(), |text, level| {
        format!("{text}- &a{}\n{}", level + 1, format!("  - *a{level}\n").repeat(9))
    });
    for repeated in [300, 3000] {
        let error = parse(&(nested.clone() + &"- *a5\n".repeat(repeated))).unwrap_err();
        let place =
            error.strip_suffix(": the aliases (`*name`) make the file too large; write out what they stand for");
        let place = place.and_then(|place| place.strip_prefix("c:")).expect(&error);
        let numbers: Vec<_> = place.split(':').map(str::parse::<usize>).collect();
        assert!(matches!(numbers[..], [Ok(_), Ok(_)]), "{error}");
    }
}

#[test]
fn tabs_elsewhere_and_deep_flows_and_aliases_are_taken() {
    for text in [
        "logger:\n  level:\tinfo\n",
        "logger: {\n\tlevel: info\n}\n",
        "logger: {level: info}\t# a tab\n",
        "logger: {level: &level info}\nuser: *level\n",
        "%YAML 1.1\n---\nuser: x\n",
        "# [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\nuser: \"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"\n",
        "\u{feff}user: x\n",
    ] {
        parse(text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    }
}

/// The processor time of this thread: other threads and processes do not count.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every Linux has it").into()
}

/// The library takes a second and more for some of these where nothing bounds them, and minutes for the aliases.
#[test]
fn no_file_of_the_largest_size_takes_much_longer_than_a_plain_one() {
    let size = usize::try_from(MAX_FILE).unwrap() - 40;
    let fill = |text: &str| text.repeat(size / text.len());
    let lines = |line: &dyn Fn(usize) -> String| {
        let mut text = String::new();
        for number in 0.. {
            let line = line(number);
            if text.len() + line.len() > size {
                break;
            }
            text += &line;
        }
        text
    };
    let plain = format!("zeromq:\n  allow:\n{}", fill("  - 10.0.0.0/16\n"));
    let took = || {
        let start = cpu();
        assert!(parse(&plain).is_ok());
        cpu().saturating_sub(start)
    };
    let most = took().max(took()) * 10;
    for text in [
        fill("["),
        fill("{"),
        fill("[{"),
        fill("[a,"),
        fill("{a: "),
        fill("[\n"),
        fill("- "),
        fill("? "),
        fill("&a "),
        fill("!"),
        fill("!a "),
        fill("a: "),
        fill("- [\n"),
        fill("?["),
        fill("%"),
        fill("\t"),
        fill(":"),
        fill("'"),
        fill("\""),
        fill("---\n"),
        fill("[]: a\n"),
        fill("- |\n"),
        fill("#\n"),
        fill("\n"),
        format!("user: {}", fill("x")),
        format!("user: {}", fill("x\n ")),
        format!("user: \"{}\"", fill("\\n")),
        format!("user: |\n{}", fill("  x\n")),
        format!("[{}]", fill("a,")),
        format!("{{{}}}", fill("a,")),
        format!("[{}]", fill("a: b,")),
        format!("[{}]", fill("? a,")),
        format!("[{}]", fill("[],")),
        format!("{}{}", "[".repeat(1000), fill("a,")[1000..].to_owned()),
        format!("{}{}", "{a: ".repeat(1000), fill("a: b,")[4000..].to_owned()),
        lines(&|number| format!("%TAG !{number}! a\n")),
        lines(&|number| format!("k{number}: 1\n")),
        lines(&|number| format!("- &a{number} x\n")),
        lines(&|number| " ".repeat(number) + "a:\n"),
        format!("allowed_origins:\n- &a \"http://{}\"\n{}", "a".repeat(size / 2), "- *a\n".repeat(size / 10)),
        {
            let nested = |level: usize| format!("- &a{}\n{}", level + 1, format!("  - *a{level}\n").repeat(9));
            let text = (0..5).fold("- &a0 x\n".to_owned(), |text, level| text + &nested(level));
            let rest = (size - text.len()) / 6;
            text + &"- *a5\n".repeat(rest)
        },
    ] {
        let start = cpu();
        let parsed = parse(&text).map(drop);
        let took = cpu().saturating_sub(start);
        let shown: String = text.chars().take(60).collect();
        assert!(took < most, "{took:?} instead of {most:?} for {shown:?}, {} bytes: {parsed:?}", text.len());
        assert!(text.len() as u64 <= MAX_FILE, "{shown}");
    }
}
