//! The layers of the source: a file uses only its own folder and lower layers, so that no two folders use each other.

use std::fs;
use std::path::{Path, PathBuf};

/// The folders and files of `src/`, each above all that stand before it. What starts the program, `lib.rs` and `main.rs`, is
/// above all of them.
const LAYERS: [&str; 25] = [
    "error",
    "deadline",
    "fs",
    "peer",
    "suggest",
    "advice",
    "rlimit",
    "heap",
    "host_port",
    "wire",
    "config",
    "logging",
    "systemd",
    "metrics",
    "snapshot",
    "hub",
    "net",
    "stream",
    "context",
    "broker",
    "viewer",
    "status",
    "handover",
    "server",
    "commands",
];

const QUESTIONS: [&str; 7] = ["What", "Whether", "Who", "How", "Where", "Why", "Those"];

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of the comment or literal that `text` begins with, or else 0. `before` is the character before it.
fn skipped(text: &str, before: char) -> usize {
    let upto = |end: &str, from: usize| text[from..].find(end).map_or(text.len(), |at| from + at + end.len());
    let escaped = |quote: char| {
        let mut escaped = false;
        let is_end = |c| {
            let was_escaped = std::mem::replace(&mut escaped, false);
            escaped = c == '\\' && !was_escaped;
            c == quote && !was_escaped
        };
        text[1..].find(is_end).map_or(text.len(), |at| at + 2)
    };
    let hashes = text.strip_prefix('r').map_or(0, |rest| rest.len() - rest.trim_start_matches('#').len());
    if text.starts_with("//") {
        upto("\n", 0)
    } else if text.starts_with("/*") {
        upto("*/", 0)
    } else if text.starts_with('r') && text[1 + hashes..].starts_with('"') && (!is_word(before) || before == 'b') {
        upto(&format!("\"{}", "#".repeat(hashes)), hashes + 2)
    } else if text.starts_with('"') {
        escaped('"')
    } else if text.starts_with("'\\") {
        escaped('\'')
    } else if text.starts_with('\'') && text.chars().nth(2) == Some('\'') {
        text.char_indices().nth(3).map_or(text.len(), |(at, _)| at)
    } else {
        0
    }
}

/// The source without its white space, comments and literals. A space stands between two words.
fn code(source: &str) -> String {
    let mut code = String::new();
    let (mut rest, mut before, mut is_apart) = (source, ' ', false);
    while let Some(c) = rest.chars().next() {
        let length = skipped(rest, before);
        if length > 0 || c.is_whitespace() {
            is_apart = true;
        } else {
            if is_apart && is_word(c) && code.ends_with(is_word) {
                code.push(' ');
            }
            code.push(c);
            is_apart = false;
        }
        before = c;
        rest = &rest[length.max(c.len_utf8())..];
    }
    code
}

/// The first name of every path that begins with `crate::`, in `use` lines with their braces and elsewhere.
fn used(source: &str) -> Vec<String> {
    let code = code(source);
    let mut names = Vec::new();
    for (at, path) in code.match_indices("crate::") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let rest = &code[at + path.len()..];
        let first = |text: &str| text.chars().take_while(|c| is_word(*c)).collect::<String>();
        let Some(group) = rest.strip_prefix('{') else {
            names.push(first(rest));
            continue;
        };
        let mut depth = 1;
        names.push(first(group));
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => names.push(first(&group[at + 1..])),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names.retain(|name| !name.is_empty() && name != "self");
    names
}

/// Returns the forbidden imports of a file of this layer.
fn wrong(layer: &str, source: &str) -> Vec<String> {
    let level = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let Some(own) = level(layer) else { return vec![format!("{layer} has no place in LAYERS")] };
    let judge = |name: String| match level(&name) {
        None => Some(format!("{name} has no place in LAYERS")),
        Some(other) if other > own => Some(format!("{layer} is below {name} and uses it")),
        Some(_) => None,
    };
    used(source).into_iter().filter_map(judge).collect()
}

/// Every source file with its path below `src/`.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it is there") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                files.push((path.strip_prefix(&root).expect("it is below").to_owned(), text));
            }
        }
    }
    files.sort();
    files
}

/// The folder of `src/` that a file is in, or its own name.
fn layer(path: &Path) -> String {
    let first = path.iter().next().expect("a name").to_str().expect("UTF-8");
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn no_folder_of_the_source_uses_one_above_it() {
    let mut found = Vec::new();
    let files = sources();
    for (path, text) in files.iter().filter(|(path, _)| !["lib", "main"].contains(&&*layer(path))) {
        found.extend(wrong(&layer(path), text).iter().map(|wrong| format!("src/{}: {wrong}", path.display())));
    }
    assert_eq!(found, Vec::<String>::new());
    for name in LAYERS {
        assert!(files.iter().any(|(path, _)| layer(path) == name), "there is no {name} in src/");
    }
}

#[test]
fn a_use_of_what_is_above_is_found_wherever_it_stands() {
    let below = |name: &str| vec![format!("hub is below {name} and uses it")];
    for (source, expected) in [
        ("use crate::net::stream;", below("net")),
        ("use crate::{\n    config::{History, Typed},\n    viewer::{self, socket},\n};", below("viewer")),
        ("pub(crate) use crate :: server :: relay;", below("server")),
        ("fn f(x: &'a crate::status::Report, quote: '\"') -> u8 { '\\'' }", below("status")),
        ("macro_rules! m { () => { $crate::broker::accept() } }", below("broker")),
        ("let text = r#\"a \" quote\"#; crate::context::Permit::new()", below("context")),
        ("use crate::attic;", vec!["attic has no place in LAYERS".to_owned()]),
        ("use crate::{config::History, hub::run};\nuse super::net;", vec![]),
        ("// crate::net\n/* crate::net */ /// [`crate::net`]\nlet text = \"\\\" crate::net\"; mycrate::net()", vec![]),
    ] {
        assert_eq!(wrong("hub", source), expected, "{source}");
    }
    assert_eq!(wrong("attic", ""), ["attic has no place in LAYERS"]);
}

#[test]
fn doc_lines_name_their_subject() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            let doc = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
            if doc.is_some_and(|doc| doc.split_whitespace().next().is_some_and(|word| QUESTIONS.contains(&word))) {
                found.push(format!("src/{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    assert!(found.len() <= 10, "{} doc lines begin with one of {QUESTIONS:?}:\n{}", found.len(), found.join("\n"));
}
