//! The manual pages against the program, both ways: options and commands, keys with their bounds and defaults, limits,
//! exit statuses, examples.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{CommandFactory, Parser};
use recodex_monitor::commands::cli::Cli;
use recodex_monitor::config::{self, Settings};
use recodex_monitor::error::Exit;
use recodex_monitor::logging::{self, CHANNEL, CLOSE_CODE, PEER};
use recodex_monitor::net::head_limits;
use recodex_monitor::net::stream::NOTSENT_LOWAT;
use recodex_monitor::server::relay;
use recodex_monitor::server::reload::{Prepared, READ_LIMIT};
use recodex_monitor::viewer;
use recodex_monitor::viewer::{proxy_protocol, socket};
use recodex_monitor::wire::message;
use recodex_monitor::wire::zmtp;
use recodex_monitor::{rlimit, status};
use serde_yaml::Value;

const DAEMON: &str = "recodex-monitor.8";
const CONFIG: &str = "recodex-monitor.yml.5";

fn path(page: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(page)
}

fn page(page: &str) -> String {
    fs::read_to_string(path(page)).unwrap_or_else(|e| panic!("{page}: {e}"))
}

/// The lines of a section.
fn section<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let heading = format!(".Sh {name}");
    let lines: Vec<&str> =
        page.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with(".Sh ")).collect();
    assert!(!lines.is_empty(), "no section {name}");
    lines
}

/// An item of a list of tags: what follows `.It`, and the lines of its text, those of inner lists apart.
struct Item<'a> {
    depth: usize,
    head: &'a str,
    text: Vec<&'a str>,
    inner: Vec<Item<'a>>,
}

fn items<'a>(lines: &[&'a str]) -> Vec<Item<'a>> {
    let mut open: Vec<Item<'_>> = Vec::new();
    let mut done = Vec::new();
    let mut depth = 0;
    let close = |open: &mut Vec<Item<'a>>, done: &mut Vec<Item<'a>>| {
        let item = open.pop().expect("an item is open");
        open.last_mut().map_or(done, |outer| &mut outer.inner).push(item);
    };
    for line in lines {
        if line.starts_with(".Bl ") {
            depth += 1;
        } else if let Some(head) = line.strip_prefix(".It ") {
            if open.last().is_some_and(|item| item.depth == depth) {
                close(&mut open, &mut done);
            }
            open.push(Item { depth, head, text: Vec::new(), inner: Vec::new() });
        } else if *line == ".El" {
            if open.last().is_some_and(|item| item.depth == depth) {
                close(&mut open, &mut done);
            }
            depth -= 1;
        } else if let Some(item) = open.last_mut() {
            item.text.push(line);
        }
    }
    assert!(open.is_empty() && depth == 0, "a list is not closed");
    done
}

/// Text as it is read: without macros, punctuation where it belongs.
fn read(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        let (line, is_macro) = line.strip_prefix('.').map_or((*line, false), |line| (line, true));
        for word in line.split_whitespace().filter(|word| !is_macro || !MACROS.contains(word)) {
            if !text.is_empty() && !matches!(word, "," | ";" | "." | ":") {
                text.push(' ');
            }
            text.push_str(word);
        }
    }
    text
}

const MACROS: [&str; 14] = ["Ar", "Cm", "Dv", "Em", "Fl", "Li", "No", "Ns", "Oc", "Oo", "Op", "Pa", "Ql", "Va"];

/// What a line of usage says: commands, options (with what they take), and what else there is; what may be left out is
/// in brackets.
#[derive(Debug, Default, PartialEq, Eq)]
struct Usage {
    command: String,
    options: BTreeSet<String>,
    operands: Vec<String>,
}

impl Usage {
    fn parse(lines: &[&str]) -> Self {
        let mut usage = Self::default();
        let mut enclosed = 0;
        for line in lines {
            let (mut to_end_of_line, mut mode, mut last) = (false, "", None::<String>);
            for word in line.trim_start_matches('.').split_whitespace() {
                match word {
                    "Op" => to_end_of_line = true,
                    "Oo" => enclosed += 1,
                    "Oc" => (enclosed, last) = (enclosed - 1, None),
                    "Fl" | "Ar" | "Cm" | "Nm" => mode = word,
                    "," | "|" => last = None,
                    _ if mode == "Cm" => word.clone_into(&mut usage.command),
                    _ if mode == "Fl" => {
                        usage.options.insert(format!("-{word}"));
                        last = Some(format!("-{word}"));
                    }
                    _ if mode == "Ar" && last.is_some() => {
                        let option = last.take().unwrap_or_default();
                        usage.options.remove(&option);
                        usage.options.insert(format!("{option} {word}"));
                    }
                    _ if mode == "Ar" && (to_end_of_line || enclosed > 0) => usage.operands.push(format!("[{word}]")),
                    _ if mode == "Ar" => usage.operands.push(word.to_owned()),
                    _ => panic!("{word:?} in {line:?}"),
                }
            }
        }
        usage
    }

    /// Asserts that this line of usage tells about `command` what clap does, each option by one of its names at least.
    fn assert_tells(&self, command: &clap::Command, where_it_stands: &str) {
        let mut operands: Vec<String> = command
            .get_positionals()
            .map(|arg| if arg.is_required_set() { value_name(arg) } else { format!("[{}]", value_name(arg)) })
            .collect();
        // `help` takes the other commands, which clap counts as its own.
        if command.get_name() == "help" && operands.is_empty() {
            operands.push("[COMMAND]".to_owned());
        }
        assert_eq!(self.operands, operands, "operands in {where_it_stands}");
        let mut unknown = self.options.clone();
        for option in options(command) {
            assert!(
                option.spellings.iter().any(|s| self.options.contains(s)),
                "{option:?} is not in {where_it_stands}"
            );
            unknown.retain(|known| !option.spellings.contains(known));
        }
        assert!(unknown.is_empty(), "{unknown:?} in {where_it_stands} are none of the program's options");
    }
}

#[derive(Debug)]
struct CliOption {
    spellings: BTreeSet<String>,
    defaults: Vec<String>,
    values: Vec<String>,
}

fn value_name(arg: &clap::Arg) -> String {
    arg.get_value_names().map_or_else(|| arg.get_id().to_string().to_uppercase(), |names| names[0].to_string())
}

/// The options of a command, without those that every command has.
fn options(command: &clap::Command) -> Vec<CliOption> {
    let of_all = |arg: &clap::Arg| command.get_name() != "recodex-monitor" && arg.get_id() == "help";
    let listed = command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set() && !of_all(arg));
    listed
        .map(|arg| {
            let takes_values = arg.get_action().takes_values();
            let takes = if takes_values { format!(" {}", value_name(arg)) } else { String::new() };
            let defaults = if takes_values { arg.get_default_values() } else { &[] };
            let short = arg.get_short().map(|short| format!("-{short}{takes}"));
            let long = arg.get_long().map(|long| format!("--{long}{takes}"));
            CliOption {
                spellings: short.into_iter().chain(long).collect(),
                defaults: defaults.iter().map(|value| value.to_string_lossy().into_owned()).collect(),
                values: values(arg),
            }
        })
        .collect()
}

fn values(arg: &clap::Arg) -> Vec<String> {
    if !arg.get_action().takes_values() {
        return Vec::new();
    }
    arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect()
}

fn cli() -> clap::Command {
    let mut cli = Cli::command();
    cli.build();
    cli
}

fn commands(cli: &clap::Command) -> BTreeMap<&str, &clap::Command> {
    cli.get_subcommands()
        .filter(|command| !command.is_hide_set())
        .map(|command| (command.get_name(), command))
        .collect()
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|found| found.trim_end_matches([',', ';', '.', ':']) == word)
}

/// Asserts that a list describes exactly the options of a command, by all of their names, with defaults and values.
fn assert_describes(list: &[Item<'_>], command: &clap::Command) {
    let name = command.get_name();
    let described: Vec<(BTreeSet<String>, String)> =
        list.iter().map(|item| (Usage::parse(&[item.head]).options, read(&item.text))).collect();
    let options = options(command);
    for option in &options {
        let found = described.iter().find(|(spellings, _)| *spellings == option.spellings);
        let (_, text) = found.unwrap_or_else(|| panic!("{name}: {option:?} is not described"));
        for word in option.defaults.iter().chain(&option.values) {
            assert!(has_word(text, word), "{name}: {option:?}: {word} is not in {text:?}");
        }
    }
    for (spellings, _) in &described {
        assert!(options.iter().any(|option| option.spellings == *spellings), "{name} has no option {spellings:?}");
    }
}

#[test]
fn the_synopsis_is_what_the_program_accepts() {
    let (text, cli) = (page(DAEMON), cli());
    let lines = section(&text, "SYNOPSIS");
    let mut usages = BTreeMap::<String, Usage>::new();
    for lines in lines.split(|line| *line == ".Nm").filter(|lines| !lines.is_empty()) {
        let usage = Usage::parse(lines);
        let known = usages.entry(usage.command.clone()).or_default();
        known.options.extend(usage.options);
        known.operands.extend(usage.operands);
    }
    usages.remove("").expect("the daemon is in the synopsis").assert_tells(&cli, "the synopsis of the daemon");
    let commands = commands(&cli);
    assert_eq!(usages.keys().map(String::as_str).collect::<Vec<_>>(), commands.keys().copied().collect::<Vec<_>>());
    for (name, usage) in &usages {
        usage.assert_tells(commands[name.as_str()], &format!("the synopsis of {name}"));
    }
}

#[test]
fn every_option_and_command_is_described_and_none_that_is_not_there() {
    let (text, cli) = (page(DAEMON), cli());
    assert_describes(&items(&section(&text, "DESCRIPTION")), &cli);

    let list = items(&section(&text, "COMMANDS"));
    let commands = commands(&cli);
    let usages: Vec<Usage> = list.iter().map(|item| Usage::parse(&[item.head])).collect();
    let described: BTreeSet<&str> = usages.iter().map(|usage| usage.command.as_str()).collect();
    assert_eq!(described, commands.keys().copied().collect());
    assert_eq!(usages.len(), described.len(), "a command is described twice");
    for (item, usage) in list.iter().zip(&usages) {
        let command = commands[usage.command.as_str()];
        usage.assert_tells(command, &format!("COMMANDS, {}", usage.command));
        // An inner list that is not one of options would be a list of words.
        assert_describes(&item.inner, command);
        for word in command.get_positionals().flat_map(values) {
            assert!(has_word(&read(&item.text), &word), "{}: {word} is not described", usage.command);
        }
    }
}

#[test]
fn the_number_of_jobs_has_the_bounds_that_are_described() {
    let text = page(DAEMON);
    let list = items(&section(&text, "COMMANDS"));
    let jobs = list.iter().flat_map(|item| &item.inner).find(|item| item.head.contains("-jobs")).expect("it is there");
    let text = read(&jobs.text);
    let bounds = text.split_once("from ").and_then(|(_, rest)| rest.split_once(';')).expect("its bounds are there").0;
    let (min, max) = bounds.split_once(" to ").expect("two bounds");
    let (min, max): (u64, u64) = (min.parse().expect("a number"), max.parse().expect("a number"));
    let accepted = |jobs: u64| Cli::try_parse_from(["recodex-monitor", "demo", "--jobs", &jobs.to_string()]).is_ok();
    assert!(accepted(min) && accepted(max) && !accepted(min - 1) && !accepted(max + 1), "{min} to {max}");
}

/// All keys with their default values, by their full names.
fn keys() -> BTreeMap<String, Value> {
    fn walk(prefix: &str, value: Value, keys: &mut BTreeMap<String, Value>) {
        match value {
            Value::Mapping(map) => {
                for (key, value) in map {
                    let key = key.as_str().expect("keys are words");
                    let name = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
                    walk(&name, value, keys);
                }
            }
            value => drop(keys.insert(prefix.to_owned(), value)),
        }
    }
    let mut keys = BTreeMap::new();
    walk("", serde_yaml::from_str(&Settings::default().to_yaml()).expect("it is YAML"), &mut keys);
    keys
}

/// A default as the manual writes it.
fn shown(key: &str, default: &Value) -> String {
    match (key, default) {
        ("clients.max", Value::Number(max)) => {
            assert_eq!(max.as_u64(), Some(rlimit::default_max_clients() as u64));
            "the limit of open files less 152".into()
        }
        ("zeromq.allow" | "allowed_origins", Value::Sequence(_)) => "everybody".into(),
        ("trusted_proxies", Value::Sequence(_)) => "nobody".into(),
        ("group", Value::Null) => "the user's group".into(),
        ("logger.file", Value::Null) => "none, and with the output file it is /var/log/recodex/monitor.log".into(),
        ("history.state" | "status_uri" | "tls", Value::Null) => "none".into(),
        (_, Value::Null) => panic!("{key} has no default; the manual should say what that means, and this test, too"),
        (_, Value::String(text)) => text.clone(),
        (_, other) => serde_json::to_string(other).expect("it is plain data").replace(',', ", "),
    }
}

/// A file that sets one key.
fn set(key: &str, value: &str) -> String {
    let key = key.split_once('.').map_or(format!("{key}: "), |(outer, inner)| format!("{outer}: {{{inner}: "));
    format!("{key}{value}{}\n", if key.contains('{') { "}" } else { "" })
}

fn refused(config: &str) -> String {
    Settings::parse(Path::new("c.yml"), config.as_bytes()).expect_err(config).to_string()
}

/// What the program says it expects of a key's value.
fn expected(key: &str) -> String {
    // A word that is no value where words are; else what is neither a scalar nor what the key takes.
    let list = Settings::parse(Path::new("c.yml"), set(key, "[]").as_bytes());
    let unknown = list.map_or_else(|e| e.to_string(), |_| refused(&set(key, "{}")));
    let words = Settings::parse(Path::new("c.yml"), set(key, "no-such-word").as_bytes()).err().map(|e| e.to_string());
    if let Some((_, known)) = words.as_deref().and_then(|error| error.split_once("(known: ")) {
        return format!("one of {}", known.trim_end_matches(')'));
    }
    let unknown = if unknown.contains("invalid length") { refused(&set(key, "{}")) } else { unknown };
    unknown.split_once("expected ").unwrap_or_else(|| panic!("{unknown}")).1.to_owned()
}

#[test]
fn every_key_is_described_with_its_type_bounds_and_default_and_none_that_is_not_there() {
    let (text, keys) = (page(CONFIG), keys());
    let mut described = BTreeSet::new();
    let mut lines = Vec::new();
    for name in text.lines().filter_map(|line| line.strip_prefix(".Sh ")) {
        lines.push(section(&text, name));
    }
    for item in lines.iter().flat_map(|lines| items(lines)) {
        let Some(key) = item.head.strip_prefix("Va ") else { continue };
        let default = keys.get(key).unwrap_or_else(|| panic!("{key} is described, but there is no such key"));
        assert!(described.insert(key.to_owned()), "{key} is described twice");
        let end = item.text.iter().position(|line| *line == ".Pp").unwrap_or_else(|| panic!("{key}: what does it do?"));
        let facts = read(&item.text[..end]);
        let facts: Vec<&str> = facts.trim_end_matches('.').split("; ").collect();
        let [kind, stated, ..] = facts[..] else { panic!("{key}: expected type; default, found {facts:?}") };
        assert_eq!(stated, format!("default {}", shown(key, default)), "the default of {key}");
        let kind = kind[..1].to_lowercase() + &kind[1..];
        match expected(key).as_str() {
            // What serde calls a path.
            "path string" => assert_eq!(kind, "a path", "the type of {key}"),
            expected => assert_eq!(kind, expected.replace('`', ""), "the type of {key}"),
        }
        assert!(!read(&item.text[end + 1..]).is_empty(), "{key}: what does it do?");
    }
    let missing: Vec<&String> = keys.keys().filter(|key| !described.contains(*key)).collect();
    assert!(missing.is_empty(), "not described: {missing:?}");
}

/// Another value that the key can have.
fn other(key: &str, default: &Value) -> Value {
    match (key, default) {
        (_, Value::Bool(value)) => Value::from(!value),
        (_, Value::Number(number)) => Value::from(number.as_u64().expect("defaults are whole") + 1),
        ("allowed_origins", _) => serde_yaml::from_str("[\"https://a.example\"]").expect("it is YAML"),
        ("status_uri", _) => serde_yaml::from_str("[\"127.0.0.1\", 0]").expect("it is YAML"),
        ("tls", _) => serde_yaml::from_str("{certificate: /a, key: /b}").expect("it is YAML"),
        ("websocket_mode", _) => Value::from("0600"),
        ("zeromq.allow" | "trusted_proxies", _) => serde_yaml::from_str("[\"127.0.0.2\"]").expect("it is YAML"),
        (_, Value::Sequence(_)) => serde_yaml::from_str("[\"127.0.0.2\", 0]").expect("it is YAML"),
        ("proxy_header", _) => Value::from("forwarded"),
        ("logger.level", _) => Value::from("debug"),
        ("logger.output", _) => Value::from("stderr"),
        _ => Value::from("/other"),
    }
}

/// The keys that a reload names instead of taking them up.
fn need_a_restart() -> BTreeSet<String> {
    let here = "websocket_uri: [\"127.0.0.1\", 0]\nzeromq_uri: [\"127.0.0.1\", 0]\ntrusted_proxies: [\"127.0.0.1\"]\n";
    let here = Settings::parse(Path::new("c.yml"), here.as_bytes()).expect("it is right");
    let needs_restart = |(key, default): (&String, &Value)| {
        let mut changed: Value = serde_yaml::from_str(&here.to_yaml()).expect("it is YAML");
        let place = key.split('.').fold(&mut changed, |place, word| &mut place[word]);
        *place = other(key, default);
        let changed = serde_yaml::to_string(&changed).expect("it was YAML");
        let changed = Settings::parse(Path::new("c.yml"), changed.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        assert_ne!(changed, here, "{key}");
        let named = Prepared::new(changed, &here, 2).unwrap_or_else(|e| panic!("{key}: {e}")).fixed;
        assert!(named.is_empty() || named == [key], "{key}: {named:?}");
        (!named.is_empty()).then(|| key.clone())
    };
    keys().iter().filter_map(needs_restart).collect()
}

#[test]
fn the_keys_that_need_a_restart_are_marked_and_no_others() {
    let text = page(CONFIG);
    let sections: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(".Sh ")).collect();
    let marked: BTreeSet<String> = sections
        .iter()
        .flat_map(|name| items(&section(&text, name)))
        .filter(|item| item.text.iter().take_while(|line| **line != ".Pp").any(|line| *line == ".Em restart ."))
        .filter_map(|item| item.head.strip_prefix("Va ").map(str::to_owned))
        .collect();
    assert_eq!(marked, need_a_restart());
}

/// What the types of the configuration say about each key, in their order: of `pub key: Type`, the comment above it.
fn comments() -> Vec<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/mod.rs");
    let source = fs::read_to_string(source).expect("it is there");
    let sections = [
        ("Settings", ""),
        ("Logger", "logger."),
        ("History", "history."),
        ("Clients", "clients."),
        ("Zeromq", "zeromq."),
    ];
    let (mut section, mut comment, mut found) = (None, String::new(), Vec::new());
    for line in source.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub struct ") {
            let name = name.trim_end_matches(" {");
            section = sections.iter().find(|(known, _)| *known == name).map(|(_, prefix)| *prefix);
        }
        if let Some(text) = line.strip_prefix("/// ") {
            comment = if comment.is_empty() { text.to_owned() } else { comment + " " + text };
        } else if !line.starts_with("#[") {
            if let (Some(prefix), Some((field, _))) =
                (section, line.strip_prefix("pub ").and_then(|rest| rest.split_once(':')))
            {
                let field = if prefix == "logger." { field.replace('_', "-") } else { field.to_owned() };
                found.push((format!("{prefix}{field}"), std::mem::take(&mut comment)));
            }
            comment.clear();
        }
        if line == "}" {
            section = None;
        }
    }
    found
}

/// docs/configuration.md, as the types have it.
fn reference() -> String {
    let (keys, restart) = (keys(), need_a_restart());
    let mut text = "# Configuration reference\n\n\
        Every key of `/etc/recodex/monitor/config.yml`, written from the types in [`src/config/mod.rs`](../src/config/mod.rs) by\n\
        `UPDATE=1 cargo test --test manual reference`. More about each is in recodex-monitor.yml(5). Times are seconds and may have\n\
        decimals, sizes are bytes. `systemctl reload recodex-monitor` takes up a change, `systemctl restart recodex-monitor` where the\n\
        last column says so.\n\n\
        | key | what it sets | takes | default | taken up by |\n|---|---|---|---|---|\n"
        .to_owned();
    let mut told = BTreeSet::new();
    for (key, comment) in comments() {
        let Some(default) = keys.get(&key) else { continue };
        let by = if restart.contains(&key) { "restart" } else { "reload" };
        let default = shown(&key, default);
        let takes = expected(&key).replace("path string", "a path");
        writeln!(text, "| `{key}` | {comment} | {takes} | {default} | {by} |").expect("strings grow");
        told.insert(key);
    }
    assert_eq!(told, keys.into_keys().collect(), "every key has its place in the types");
    text
}

#[test]
fn the_configuration_reference_is_what_the_types_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let reference = reference();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &reference).expect("it can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == reference,
        "docs/configuration.md is not what the types say; UPDATE=1 cargo test --test manual reference writes it"
    );
}

fn whole<N: TryInto<usize>>(number: N) -> usize {
    number.try_into().ok().expect("a small number")
}

#[test]
fn the_table_of_limits_has_every_limit_that_can_be_set_and_those_in_the_code() {
    let (text, keys) = (page(DAEMON), keys());
    let mut limits = BTreeMap::new();
    for item in items(&section(&text, "LIMITS")) {
        let cells: Vec<&str> = item.head.split(" Ta ").collect();
        let [limit, value, happens] = cells[..] else { panic!("expected three cells: {}", item.head) };
        assert!(!happens.is_empty());
        let known = limits.entry(limit.trim_start_matches("Va ")).or_insert(value);
        assert_eq!(*known, value, "two values for {limit}");
    }
    for (key, default) in &keys {
        let bound = matches!(key.split('.').next(), Some("history" | "clients" | "zeromq")) || key == "logger.max-size";
        let bound = bound && !default.is_bool();
        let value = limits.get(key.as_str());
        assert!(value.is_some() || !bound, "{key} is not in the table of limits");
        if let Some(value) = value.filter(|_| key != "clients.max") {
            assert_eq!(*value, shown(key, default), "{key}");
        }
    }
    for (name, value) in [
        ("connections over a limit", rlimit::OVER_LIMIT),
        ("PROXY header", proxy_protocol::MAX_HEADER),
        ("request head", head_limits::MAX_HEAD),
        ("short request head", head_limits::SHORT_HEAD),
        ("long request heads at once", head_limits::LONG_HEADS),
        ("message from a viewer", socket::MAX_INCOMING),
        ("channel id", message::MAX_CHANNEL_ID),
        ("command of the protocol", zmtp::MAX_COMMAND),
        ("frame", zmtp::MAX_MESSAGE),
        ("message", zmtp::MAX_MESSAGE),
        ("frames of a message", zmtp::MAX_PARTS),
        ("links that shake hands", relay::MAX_HANDSHAKES),
        ("unsent bytes in the kernel", NOTSENT_LOWAT as usize),
        ("answer to a close", whole(viewer::CLOSE_TIMEOUT.as_secs())),
        ("routing id of a peer", zmtp::MAX_IDENTITY),
        ("context of a PING", zmtp::MAX_PING_CONTEXT),
        ("configuration file", whole(config::MAX_FILE)),
        ("levels of lists and maps", config::MAX_DEPTH),
        ("brackets in it", config::MAX_BRACKETS),
        ("time to read it at a reload", whole(READ_LIMIT.as_secs())),
        // Half a second less, for what ends the process.
        ("time to stop", whole(relay::STOP_LIMIT.as_millis().div_ceil(1000))),
        ("waiting log lines", logging::QUEUE),
        ("log line", logging::MAX_LINE),
        ("status connections", status::CONNECTIONS),
        ("status request head", status::MAX_HEAD),
        ("time for a status request", whole(status::REQUEST_TIMEOUT.as_secs())),
        ("status answer not taken", whole(status::STALL_TIMEOUT.as_secs())),
        ("remembered warnings", logging::NOTICES),
        ("last log lines at the end", whole(logging::CLOSE_TIMEOUT.as_secs())),
    ] {
        assert_eq!(limits.remove(name), Some(value.to_string().as_str()), "{name}");
    }
    // The heads of the tables, and what the system sets.
    limits.remove("Em limit");
    assert_eq!(limits.remove("open files"), Some("system's"));
    let unknown: Vec<_> = limits.keys().filter(|limit| !keys.contains_key(**limit)).collect();
    assert!(unknown.is_empty(), "neither keys nor in the code: {unknown:?}");
}

/// Every status that the program exits with, 0 apart. The match does not compile while one is missing here.
fn statuses() -> BTreeSet<u8> {
    let all = [
        Exit::Failed,
        Exit::Usage,
        Exit::Unavailable,
        Exit::Software,
        Exit::NoPermission,
        Exit::Config,
        Exit::Output,
        Exit::Interrupted,
    ];
    all.into_iter()
        .inspect(|exit| match exit {
            Exit::Failed
            | Exit::Usage
            | Exit::Unavailable
            | Exit::Software
            | Exit::NoPermission
            | Exit::Config
            | Exit::Output
            | Exit::Interrupted => {}
        })
        .map(|exit| exit as u8)
        .collect()
}

#[test]
fn every_exit_status_is_described_and_none_that_is_not_there() {
    let text = page(DAEMON);
    let described: BTreeSet<u8> = items(&section(&text, "EXIT STATUS"))
        .iter()
        .map(|item| item.head.parse().unwrap_or_else(|e| panic!("{}: {e}", item.head)))
        .collect();
    let mut expected = statuses();
    expected.insert(0);
    assert_eq!(described, expected);
}

#[test]
fn the_journal_fields_are_those_in_the_code() {
    let text = page(DAEMON);
    let lines = section(&text, "LOGGING");
    let described: BTreeSet<&str> = items(&lines).iter().map(|item| item.head.trim_start_matches("Li ")).collect();
    assert_eq!(described, BTreeSet::from(["SYSLOG_IDENTIFIER", CHANNEL, PEER, CLOSE_CODE]));
}

/// The blocks of literal text in a section.
fn literals(page: &str, name: &str) -> Vec<String> {
    let lines = section(page, name);
    let blocks = lines.split(|line| line.starts_with(".Bd ")).skip(1);
    blocks.map(|block| block.split(|line| *line == ".Ed").next().unwrap_or_default().join("\n") + "\n").collect()
}

#[test]
fn the_examples_are_what_the_program_reads_and_says() {
    let text = page(CONFIG);
    let examples = literals(&text, "EXAMPLES");
    assert!(examples.len() > 1);
    for example in examples.iter().chain(&literals(&text, "DESCRIPTION")) {
        if let Err(e) = Settings::parse(Path::new("example"), example.as_bytes()) {
            panic!("{e}:\n{example}");
        }
    }
    let [said] = &literals(&text, "DIAGNOSTICS")[..] else { panic!("expected one example") };
    let error = refused("logger:\n  levle: info\n").replace("c.yml", "config.yml");
    assert!(error.starts_with(said.trim_end()), "the manual: {said}the program: {error}");

    let text = page(DAEMON);
    let mut commands = 0;
    for line in literals(&text, "EXAMPLES").concat().lines() {
        let Some(command) = line.trim_start_matches(['#', '$', ' ']).strip_prefix("recodex-monitor ") else { continue };
        let words = ["recodex-monitor"].into_iter().chain(command.split_whitespace());
        if let Err(e) = Cli::try_parse_from(words) {
            panic!("{line}: {e}");
        }
        commands += 1;
    }
    assert!(commands > 3);
}

/// A tool that a test needs: `None` where it is not installed, which fails where everything must be.
fn tool(name: &str, debian: &str) -> Option<Command> {
    let found = Command::new(name).arg("--version").output().is_ok();
    assert!(found || !cfg!(feature = "foreign-tests"), "needed, and not installed: {name} (package {debian})");
    if !found {
        eprintln!("not checked: {name} is not installed (package {debian})");
    }
    found.then(|| Command::new(name))
}

#[test]
fn the_pages_are_well_formed() {
    for page in [DAEMON, CONFIG] {
        let Some(mut mandoc) = tool("mandoc", "mandoc") else { return };
        let output = mandoc.args(["-T", "lint", "-W", "warning"]).arg(path(page)).output().expect("mandoc runs");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{page}: {}\n{said}", output.status);
    }
}

/// What most systems show them by; its tables break where a column is too narrow.
#[test]
fn the_pages_have_room_in_80_columns() {
    for page in [DAEMON, CONFIG] {
        let Some(mut groff) = tool("groff", "groff-base") else { return };
        let output = groff.args(["-mandoc", "-Tascii", "-rLL=78n"]).arg(path(page)).output().expect("groff runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{page}: {}\n{said}", output.status);
    }
}
