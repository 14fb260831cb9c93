//! The manual pages and docs/configuration.md: writes the parts that can be generated from the program, and checks the others.
//!
//! `UPDATE=1 cargo test --test docs` writes the generated parts: in the pages, what each key takes and its default, the usage of each
//! command, the values of limits, and everything between `.\" generated: NAME` and `.\" end`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Arg, CommandFactory, Parser};
use recodex_monitor::internals::Cli;
use recodex_monitor::internals::config::{self, Settings};
use recodex_monitor::internals::logging::{self, CHANNEL, CLOSE_CODE, PEER};
use recodex_monitor::internals::net::head_limits;
use recodex_monitor::internals::net::stream::NOTSENT_LOWAT;
use recodex_monitor::internals::server::reload::{Prepared, READ_LIMIT};
use recodex_monitor::internals::server::shutdown::STOP_LIMIT;
use recodex_monitor::internals::viewer::{proxy_protocol, socket};
use recodex_monitor::internals::wire::close;
use recodex_monitor::internals::wire::message;
use recodex_monitor::internals::wire::zmtp;
use recodex_monitor::internals::{rlimit, status};
use serde_yaml::Value;

const DAEMON: &str = "man/recodex-monitor.8";
const CONFIG: &str = "man/recodex-monitor.yml.5";
const REFERENCE: &str = "docs/configuration.md";
/// The types of the configuration.
const SETTINGS: &str = "src/config/settings.rs";
/// The types of the section `cluster`.
const CLUSTER: &str = "src/config/cluster.rs";
/// The command that writes what is generated.
const WRITE: &str = "UPDATE=1 cargo test --test docs";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The lines of a section.
fn section<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let heading = format!(".Sh {name}");
    let lines: Vec<&str> =
        page.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with(".Sh ")).collect();
    assert!(!lines.is_empty(), "no section {name}");
    lines
}

#[test]
fn the_generated_parts_are_what_the_program_says() {
    let pages = [(REFERENCE, reference()), (CONFIG, with_facts(&read(CONFIG))), (DAEMON, with_tables(&read(DAEMON)))];
    for (name, expected) in &pages {
        if std::env::var_os("UPDATE").is_some() {
            fs::write(path(name), expected).expect("it can be written");
        }
    }
    for (name, expected) in pages {
        let found = read(name);
        let line = 1 + found.lines().zip(expected.lines()).take_while(|(found, expected)| found == expected).count();
        assert!(found == expected, "{name}, line {line}: out of date; `{WRITE}` writes it");
    }
}

/// Markdown as mdoc: `code` and *emphasis* are on lines of their own, with the punctuation that follows.
fn mdoc(text: &str) -> String {
    let (mut page, mut rest) = (String::new(), text);
    let push = |page: &mut String, text: &str| {
        if !text.trim().is_empty() {
            writeln!(page, "{}", text.trim().replace(". ", ".\n")).expect("strings grow");
        }
    };
    while let Some((before, marked)) = rest.split_once(['`', '*']) {
        let mark = &rest[before.len()..=before.len()];
        let (inner, after) = marked.split_once(mark).unwrap_or_else(|| panic!("{text}: {mark} is not closed"));
        rest = after.trim_start_matches([',', ';', ':', '.']);
        push(&mut page, before);
        let name = if mark == "`" { "Li" } else { "Em" };
        push(&mut page, &format!(".{name} {inner} {}", &after[..after.len() - rest.len()]));
    }
    push(&mut page, rest);
    page
}

/// The page of the configuration, with what each key takes and its default between `.It Va KEY` and the description.
fn with_facts(page: &str) -> String {
    let (keys, restart) = (keys(), need_a_restart());
    let (mut described, mut text, mut skips) = (Vec::new(), String::new(), false);
    for line in page.lines() {
        skips &= line != ".Pp";
        if skips {
            continue;
        }
        writeln!(text, "{line}").expect("strings grow");
        if let Some(key) = line.strip_prefix(".It Va ") {
            let default = keys.get(key).unwrap_or_else(|| panic!("{key} is described, but there is no such key"));
            let takes = takes(key);
            let restart = if needs_a_restart(key, &restart) { "; *restart*" } else { "" };
            let facts =
                format!("{}{}; default {}{restart}.", takes[..1].to_uppercase(), &takes[1..], shown(key, default));
            text += &mdoc(&facts);
            described.push(key.to_owned());
            skips = true;
        }
    }
    described.sort();
    assert_eq!(described, keys.into_keys().collect::<Vec<_>>(), "each key is described once");
    text
}

/// docs/configuration.md.
fn reference() -> String {
    let (mut keys, restart) = (keys(), need_a_restart());
    let mut text = format!(
        "# Configuration reference\n\n\
        This page lists every key of `/etc/recodex/monitor/config.yml`. recodex-monitor.yml(5) describes each of them.\n\
        Times are in seconds and may have decimals. Sizes are in bytes. The last column says whether a changed key takes effect with\n\
        `systemctl reload recodex-monitor` or needs `systemctl restart recodex-monitor`.\n\n\
        The page is generated from the types in [`{SETTINGS}`](../{SETTINGS}) and\n\
        [`{CLUSTER}`](../{CLUSTER}): `{WRITE}` writes it.\n\n\
        | key | what it sets | takes | default | takes effect by |\n|---|---|---|---|---|\n"
    );
    for (key, comment) in comments() {
        let Some(default) = keys.remove(&key) else { continue };
        let by = if needs_a_restart(&key, &restart) { "restart" } else { "reload" };
        let default = shown(&key, &default).replace('`', "");
        writeln!(text, "| `{key}` | {comment} | {} | {default} | {by} |", takes(&key)).expect("strings grow");
    }
    assert!(keys.is_empty(), "not in the types: {keys:?}");
    text
}

/// The page of the program, with its synopsis, the usage of each command, limits and exit statuses.
fn with_tables(page: &str) -> String {
    let cli = cli();
    let (mut text, mut parts, mut skips) = (String::new(), 0, false);
    for line in page.lines() {
        skips &= line != ".\\\" end";
        if skips {
            continue;
        }
        let line = match line.strip_prefix(".It Cm ").and_then(|head| cli.find_subcommand(head.split(' ').next()?)) {
            Some(command) => {
                let name = command.get_name();
                let usages: Vec<String> =
                    usages(command, " Oo ", " Oc", " ").into_iter().map(|usage| format!("Cm {name}{usage}")).collect();
                format!(".It {}", usages.join(" | "))
            }
            None if line.contains(" Ta ") => with_limit(line),
            None => line.to_owned(),
        };
        writeln!(text, "{line}").expect("strings grow");
        if let Some(name) = line.strip_prefix(".\\\" generated: ") {
            text += &match name {
                "synopsis" => synopsis(),
                "exit statuses" => exit_statuses(),
                _ => panic!("no part is called {name}"),
            };
            (parts, skips) = (parts + 1, true);
        }
    }
    assert_eq!(parts, 2);
    text
}

fn cli() -> clap::Command {
    let mut cli = Cli::command();
    cli.build();
    cli
}

/// An argument with all of its names, such as `Fl c Ar FILE , Fl -config Ar FILE`.
fn names(arg: &Arg) -> String {
    let name =
        arg.get_value_names().map_or_else(|| arg.get_id().to_string().to_uppercase(), |names| names[0].to_string());
    let value = if arg.get_action().takes_values() { format!(" Ar {name}") } else { String::new() };
    let short = arg.get_short().map(|short| format!("Fl {short}{value}"));
    let names: Vec<String> = short.into_iter().chain(arg.get_long().map(|long| format!("Fl -{long}{value}"))).collect();
    if names.is_empty() { format!("Ar {name}") } else { names.join(" , ") }
}

/// The options of a command that its help names. Only the program itself describes those that every command has.
fn options(command: &clap::Command) -> impl Iterator<Item = &Arg> {
    let all = command.get_name() == "recodex-monitor";
    command
        .get_arguments()
        .filter(move |arg| !arg.is_positional() && !arg.is_hide_set() && (all || arg.get_id() != "help"))
}

/// Returns the usages of a command after its name. A positional argument that excludes several options has a usage of its own.
fn usages(command: &clap::Command, open: &str, close: &str, required: &str) -> Vec<String> {
    let options = options(command).filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()));
    let all: Vec<&Arg> = options.chain(command.get_positionals()).collect();
    let excluded = |arg: &Arg| command.get_arg_conflicts_with(arg);
    let (alone, together): (Vec<&Arg>, Vec<&Arg>) =
        all.into_iter().partition(|arg| arg.is_positional() && excluded(arg).len() > 1);
    let mut usages = vec![usage(command, together, open, close, required)];
    usages.extend(alone.into_iter().map(|arg| format!("{required}{}", names(arg))));
    usages
}

/// Returns the usage of a command with these arguments, options first. Optional arguments stand between `open` and `close`, together
/// with those that exclude them.
fn usage(command: &clap::Command, mut left: Vec<&Arg>, open: &str, close: &str, required: &str) -> String {
    let mut usage = String::new();
    while !left.is_empty() {
        let arg = left.remove(0);
        let excludes = |a: &Arg, b: &Arg| command.get_arg_conflicts_with(a).iter().any(|c| c.get_id() == b.get_id());
        let (others, rest) = left.into_iter().partition(|other| excludes(arg, other) || excludes(other, arg));
        left = rest;
        let names: Vec<String> = [vec![arg], others].concat().into_iter().map(names).collect();
        let names: Vec<&str> = names.iter().filter_map(|names| names.split(" , ").next()).collect();
        let (open, close) = if arg.is_required_set() { (required, "") } else { (open, close) };
        write!(usage, "{open}{}{close}", names.join(" | ")).expect("strings grow");
    }
    // clap counts what `help` takes as commands of its own.
    if command.get_name() == "help" {
        write!(usage, "{open}Ar COMMAND{close}").expect("strings grow");
    }
    usage
}

fn synopsis() -> String {
    let cli = cli();
    let mut text = String::new();
    let mut add = |command: &clap::Command, name: &str| {
        for usage in usages(command, "\n.Op ", "", "\n.") {
            writeln!(text, ".Nm{name}{usage}").expect("strings grow");
        }
    };
    add(&cli, "");
    for command in cli.get_subcommands() {
        add(command, &format!("\n.Cm {}", command.get_name()));
    }
    text + ".Nm\n.Fl -help | -version\n"
}

/// Asserts that a part of the page describes exactly the options of a command, and names their defaults and values.
fn assert_describes(text: &str, command: &clap::Command) {
    let heads = text.lines().filter_map(|line| line.strip_prefix(".It ")).filter(|head| head.starts_with("Fl "));
    let heads: BTreeSet<String> = heads.map(str::to_owned).collect();
    assert_eq!(heads, options(command).map(names).collect(), "{}", command.get_name());
    let words: Vec<&str> = text.split_whitespace().map(|word| word.trim_end_matches([',', ';', '.'])).collect();
    for arg in command.get_arguments().filter(|arg| arg.get_action().takes_values()) {
        let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned());
        for word in defaults.chain(arg.get_possible_values().iter().map(|value| value.get_name().to_owned())) {
            assert!(words.contains(&word.as_str()), "{}, {}: {word} is not there", command.get_name(), arg.get_id());
        }
    }
}

#[test]
fn every_option_and_command_is_described_and_none_that_is_not_there() {
    let (text, cli) = (read(DAEMON), cli());
    assert_describes(&section(&text, "DESCRIPTION").join("\n"), &cli);
    let commands = section(&text, "COMMANDS").join("\n");
    let mut described = Vec::new();
    for text in commands.split(".It Cm ").skip(1) {
        let name = text.split_whitespace().next().expect("it has a name");
        assert_describes(text, cli.find_subcommand(name).unwrap_or_else(|| panic!("there is no command {name}")));
        described.push(name);
    }
    described.sort_unstable();
    let names: BTreeSet<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
    assert_eq!(described, names.into_iter().collect::<Vec<_>>());
    let accepts = |jobs| Cli::try_parse_from(["recodex-monitor", "demo", "--jobs", jobs]).is_ok();
    assert!(commands.contains("from 1 to 200;") && !accepts("0") && accepts("1") && accepts("200") && !accepts("201"));
}

/// The smallest section `cluster`, which is not there by default.
const SMALLEST_CLUSTER: &str = "cluster: {redis: [\"127.0.0.1:6379\"]}\n";

fn parsed(config: &str) -> Settings {
    Settings::parse(Path::new("c.yml"), config.as_bytes()).unwrap_or_else(|e| panic!("{e}"))
}

/// All keys with their default values, by their full names.
fn keys() -> BTreeMap<String, Value> {
    let mut keys = keys_of(&parsed(SMALLEST_CLUSTER));
    keys.extend(keys_of(&Settings::default()));
    keys
}

fn keys_of(settings: &Settings) -> BTreeMap<String, Value> {
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
    walk("", serde_yaml::from_str(&settings.to_yaml()).expect("it is YAML"), &mut keys);
    keys
}

/// A default as the manual writes it.
fn shown(key: &str, default: &Value) -> String {
    match (key, default) {
        ("clients.max", Value::Number(max)) => {
            assert_eq!(max.as_u64(), Some(rlimit::default_max_clients() as u64));
            "the limit of open files less 155, or less 197 with a status listener".into()
        }
        ("zeromq.allow" | "allowed_origins", Value::Sequence(_)) => "everybody".into(),
        ("trusted_proxies", Value::Sequence(_)) => "nobody".into(),
        ("group", Value::Null) => "the user's group".into(),
        ("logger.file", Value::Null) => "none, and with the output `file` it is `/var/log/recodex/monitor.log`".into(),
        (
            "history.state" | "tls" | "cluster" | "cluster.sentinel" | "cluster.password_file" | "cluster.tls",
            Value::Null,
        ) => "none".into(),
        ("status_uri", Value::Null) => "`unix:/run/recodex/status.sock` in the packaged service, else none".into(),
        ("cluster.redis", _) => "none, and it must be set".into(),
        ("cluster.user", Value::Null) => "the user `default`".into(),
        (_, Value::Null) => panic!("{key} has no default; the manual should say what that means, and this test, too"),
        (_, Value::String(text)) => format!("`{text}`"),
        (_, other) => format!("`{}`", serde_json::to_string(other).expect("it is plain data").replace(',', ", ")),
    }
}

/// A file that sets one key.
fn set(key: &str, value: &str) -> String {
    if let Some(inner) = key.strip_prefix("cluster.").filter(|inner| *inner != "redis") {
        return SMALLEST_CLUSTER.replace('}', &format!(", {inner}: {value}}}"));
    }
    let key = key.split_once('.').map_or(format!("{key}: "), |(outer, inner)| format!("{outer}: {{{inner}: "));
    format!("{key}{value}{}\n", if key.contains('{') { "}" } else { "" })
}

fn refused(config: &str) -> String {
    Settings::parse(Path::new("c.yml"), config.as_bytes()).expect_err(config).to_string()
}

/// Returns the program's description of the values that a key may have.
fn takes(key: &str) -> String {
    // A word that is no value where words are; else what is neither a scalar nor what the key takes.
    let list = Settings::parse(Path::new("c.yml"), set(key, "[]").as_bytes());
    let unknown = list.map_or_else(|e| e.to_string(), |_| refused(&set(key, "{}")));
    let words = Settings::parse(Path::new("c.yml"), set(key, "no-such-word").as_bytes()).err().map(|e| e.to_string());
    if let Some((_, known)) = words.as_deref().and_then(|error| error.split_once("(known: ")) {
        return format!("one of {}", known.trim_end_matches(')'));
    }
    let unknown = if unknown.contains("invalid length") { refused(&set(key, "{}")) } else { unknown };
    unknown.split_once("expected ").unwrap_or_else(|| panic!("{unknown}")).1.replace("path string", "a path")
}

/// A file that gives every key another value than its default.
const CHANGED: &str = r#"
websocket_uri: ["127.0.0.2", 1]
websocket_mode: "0600"
websocket_proxy_protocol: true
zeromq_uri: ["127.0.0.2", 2]
status_uri: "unix:/%i"
tls: {certificate: /a, key: /b}
cluster: {redis: ["127.0.0.2:1"], sentinel: other, name: other, user: other, password_file: /a, tls: {}, buffer: 1048576,
    stream_bytes: 1048576}
share_ports: true
allowed_origins: ["https://a.example"]
trusted_proxies: ["127.0.0.2"]
proxy_header: forwarded
accept_exit: true
user: other
group: other
logger: {output: stderr, file: /%i.log, level: debug, max-size: 1, rotations: 1}
history: {finished: 1, unfinished: 1, release_failed: 1, release_aborted: 1, state: /%i.state,
    channel_messages: 1, channel_bytes: 65536, total_bytes: 65536}
clients: {max: 1, max_per_address: 1, handshake_timeout: 1, subscribe_timeout: 1, ping_interval: 1, ping_timeout: 1,
    stall_timeout: 1, finish_on_close: false}
zeromq: {allow: ["127.0.0.2"], max_connections: 1, handshake_timeout: 1}
"#;

/// The keys that a reload names instead of taking them up.
fn need_a_restart() -> Vec<&'static str> {
    let changed = parsed(CHANGED);
    for (key, default) in keys() {
        assert_ne!(keys_of(&changed).get(&key), Some(&default), "{key}");
    }
    Prepared::new(changed, &Settings::default(), 2).unwrap_or_else(|e| panic!("{e}")).fixed
}

/// Returns true if a changed key takes effect at a restart only. `fixed` are the keys that a reload names.
fn needs_a_restart(key: &str, fixed: &[&str]) -> bool {
    let Some(inner) = key.strip_prefix("cluster.") else { return fixed.contains(&key) };
    // A reload names the whole section, so each of its keys is changed alone.
    let section = |settings: &Settings| {
        serde_yaml::from_str::<Value>(&settings.to_yaml()).expect("it is YAML")["cluster"].clone()
    };
    let mut old = section(&parsed(SMALLEST_CLUSTER));
    old["password_file"] = "/old".into();
    let mut new = old.clone();
    new[inner] = section(&parsed(CHANGED))[inner].clone();
    let settings = |cluster: Value| {
        let mut file = serde_yaml::Mapping::new();
        file.insert("cluster".into(), cluster);
        parsed(&serde_yaml::to_string(&file).expect("it is plain data"))
    };
    let prepared = Prepared::new(settings(new), &settings(old), 2).unwrap_or_else(|e| panic!("{e}"));
    prepared.fixed.contains(&"cluster")
}

/// The keys in the order of the types of the configuration, each with the comment above it: `pub key: Type`.
fn comments() -> Vec<(String, String)> {
    let (mut prefix, mut comment, mut found) = (None, String::new(), Vec::new());
    for line in (read(SETTINGS) + &read(CLUSTER)).lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            comment += if comment.is_empty() { "" } else { " " };
            comment += text;
        } else if let Some(name) = line.strip_prefix("pub struct ") {
            prefix = match name.trim_end_matches(" {") {
                "Settings" => Some(String::new()),
                group @ ("Logger" | "History" | "Clients" | "Zeromq" | "Cluster") => Some(group.to_lowercase() + "."),
                _ => None,
            };
            comment.clear();
        } else if let (Some(prefix), Some((field, _))) =
            (&prefix, line.strip_prefix("pub ").and_then(|rest| rest.split_once(':')))
        {
            let field = if prefix == "logger." { field.replace('_', "-") } else { field.to_owned() };
            found.push((format!("{prefix}{field}"), std::mem::take(&mut comment)));
        } else if !line.starts_with("#[") {
            comment.clear();
        }
    }
    found
}

fn whole<N: TryInto<usize>>(number: N) -> usize {
    number.try_into().ok().expect("a small number")
}

/// The limits that are in the code, by their names in the tables of limits.
fn limits() -> BTreeMap<&'static str, usize> {
    BTreeMap::from([
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
        ("links that shake hands", rlimit::MAX_HANDSHAKES),
        ("unsent bytes in the kernel", NOTSENT_LOWAT as usize),
        ("answer to a close", whole(close::CLOSE_TIMEOUT.as_secs())),
        ("routing id of a peer", zmtp::MAX_IDENTITY),
        ("context of a PING", zmtp::MAX_PING_CONTEXT),
        ("configuration file", whole(config::MAX_FILE)),
        ("levels of lists and maps", config::MAX_DEPTH),
        ("brackets in it", config::MAX_BRACKETS),
        ("time to read it at a reload", whole(READ_LIMIT.as_secs())),
        // Half a second less, for what ends the process.
        ("time to stop", whole(STOP_LIMIT.as_millis().div_ceil(1000))),
        ("waiting log lines", logging::QUEUE),
        ("log line", logging::MAX_LINE),
        ("status connections", status::CONNECTIONS),
        ("status request head", status::MAX_HEAD),
        ("time for a status request", whole(status::REQUEST_TIMEOUT.as_secs())),
        ("status answer not taken", whole(status::STALL_TIMEOUT.as_secs())),
        ("remembered warnings", logging::NOTICES),
        ("last log lines at the end", whole(logging::CLOSE_TIMEOUT.as_secs())),
    ])
}

/// The name of a limit in a row such as `.It PROXY header Ta 2048 Ta closed without an answer`.
fn limit_in(row: &str) -> Option<&str> {
    let (head, _) = row.split_once(" Ta ")?;
    Some(head.trim_start_matches(".It ").trim_start_matches("Va ")).filter(|name| *name != "Em limit")
}

/// A row of a table of limits with the value that is in force by default.
fn with_limit(row: &str) -> String {
    let cells: Vec<&str> = row.split(" Ta ").collect();
    let [head, value, happens] = cells[..] else { panic!("expected three cells: {row}") };
    let value = match limit_in(row) {
        None | Some("open files" | "clients.max") => value.to_owned(),
        Some(name) => {
            let code = limits().get(name).map(ToString::to_string);
            let value = code.or_else(|| keys().get(name).map(|default| shown(name, default)));
            value.unwrap_or_else(|| panic!("neither a key nor in the code: {name}"))
        }
    };
    format!("{head} Ta {} Ta {happens}", value.replace('`', ""))
}

#[test]
fn the_tables_have_every_limit_that_can_be_set_and_those_in_the_code() {
    let text = read(DAEMON);
    let told: BTreeSet<&str> = section(&text, "LIMITS").into_iter().filter_map(limit_in).collect();
    let keys = keys();
    let is_limit = |key: &&String| {
        let group = key.split('.').next();
        matches!(group, Some("history" | "clients" | "zeromq")) && !keys[*key].is_bool()
            || ["logger.max-size", "cluster.buffer", "cluster.stream_bytes"].contains(&key.as_str())
    };
    for name in limits().into_keys().chain(keys.keys().filter(is_limit).map(String::as_str)) {
        assert!(told.contains(name), "{name} is not in the tables of limits");
    }
}

#[test]
fn the_journal_fields_are_those_in_the_code() {
    let text = read(DAEMON);
    let described = section(&text, "LOGGING").into_iter().filter_map(|line| line.strip_prefix(".It Li "));
    assert_eq!(described.collect::<BTreeSet<_>>(), BTreeSet::from(["SYSLOG_IDENTIFIER", CHANNEL, PEER, CLOSE_CODE]));
}

/// The exit statuses and their meanings, from the table in docs/operation.md, which has those of the code.
fn exit_statuses() -> String {
    let (operation, code) = (read("docs/operation.md"), read("src/error.rs"));
    let rows =
        operation.lines().skip_while(|line| *line != "## Exit statuses").skip_while(|line| !line.starts_with("|---"));
    let (mut list, mut described) = (String::new(), BTreeSet::new());
    for row in rows.skip(1).take_while(|line| line.starts_with('|')) {
        let mut cells = row.trim_start_matches("| ").split(" | ");
        let (Some(status), Some(meaning)) = (cells.next(), cells.next()) else { panic!("expected two cells: {row}") };
        described.insert(status);
        write!(list, ".It {status}\n{}", mdoc(meaning)).expect("strings grow");
    }
    let variants = code.lines().filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "));
    let statuses = variants.map(|(_, status)| status).chain(["0", "SIGABRT"]);
    assert_eq!(described, statuses.collect::<BTreeSet<_>>());
    list
}

/// The blocks of literal text in a section.
fn literals(page: &str, name: &str) -> Vec<String> {
    let lines = section(page, name);
    let blocks = lines.split(|line| line.starts_with(".Bd ")).skip(1);
    blocks.map(|block| block.split(|line| *line == ".Ed").next().unwrap_or_default().join("\n") + "\n").collect()
}

#[test]
fn the_examples_are_what_the_program_reads_and_says() {
    let text = read(CONFIG);
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

    let text = read(DAEMON);
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
        // Not by eprintln!, which is not shown of a test that passes: `tests/run` counts these lines.
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = writeln!(io::stderr(), "skipped: {test}: {name} is not installed (package {debian})");
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

/// Most systems show the pages with groff, whose tables break if a column is too narrow.
#[test]
fn the_pages_have_room_in_80_columns() {
    for page in [DAEMON, CONFIG] {
        let Some(mut groff) = tool("groff", "groff-base") else { return };
        let output = groff.args(["-mandoc", "-Tascii", "-rLL=78n"]).arg(path(page)).output().expect("groff runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{page}: {}\n{said}", output.status);
    }
}
