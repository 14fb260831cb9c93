//! The command line and the configuration file: the output and the exit status.

use crate::common;

use std::process::{Command, Output};

use common::{Broker, Monitor, PROGRAM, Viewer, run, taken_port, temporary};

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("what is printed is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("what is printed is UTF-8")
}

/// Checks a config; returns what is printed, and the path of the file.
fn check(config: impl AsRef<[u8]>) -> (Output, String) {
    let (_dir, path) = temporary("config.yml", config);
    let path = path.to_str().expect("temporary paths are UTF-8");
    (run(&["-c", path, "--check"]), path.to_owned())
}

/// Asserts that a config is refused at this line and column, with all these words.
fn refused(config: impl AsRef<[u8]>, place: &str, words: &[&str]) {
    let shown = String::from_utf8_lossy(config.as_ref()).into_owned();
    let (output, path) = check(config);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(78), "{shown}\n{said}");
    assert_eq!(stdout(&output), "", "{shown}");
    assert!(said.contains(&format!("{path}:{place}: ")), "not at {place}:\n{shown}\n{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not said:\n{shown}\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(said.lines().count(), 1, "one line is enough:\n{said}");
}

/// Returns the output of `--check` for a valid configuration.
fn accepted(config: &str) -> String {
    let (output, _) = check(config);
    assert_eq!(output.status.code(), Some(0), "{config}\n{}", stderr(&output));
    stdout(&output)
}

fn setting(yaml: &str, keys: &[&str]) -> serde_yaml::Value {
    let mut value: serde_yaml::Value = serde_yaml::from_str(yaml).expect("--check prints YAML");
    for key in keys {
        value = value.get(key).unwrap_or_else(|| panic!("no {keys:?} in:\n{yaml}")).clone();
    }
    value
}

// The config file.

#[test]
fn an_unknown_key_is_refused_where_it_stands_and_the_nearest_is_named() {
    refused("websocket_ury: [\"127.0.0.1\", 1]\n", "1:1", &["websocket_ury", "websocket_uri"]);
    refused("accept_exit: true\n\nlogger:\n    levle: info\n", "4:5", &["levle", "level"]);
    refused("history: {finished: 1, unfinnished: 2}\n", "1:24", &["unfinnished", "unfinished"]);
    refused("clients:\n  # a comment\n  maxx: 5\n", "3:3", &["maxx", "max"]);
    refused("zeromq: {max_conections: 5}\n", "1:10", &["max_conections", "max_connections"]);
    refused("logger:\n  max_size: 5\n", "2:3", &["max_size", "max-size"]);
    refused("# ě š č\nhistorie: {}\n", "2:1", &["historie", "history"]);
}

#[test]
fn a_file_of_windows_editors_is_read_or_told_apart() {
    let text = "---\r\nwebsocket_uri: [\"127.0.0.1\", 24567]\r\n";
    assert_eq!(accepted(&format!("\u{feff}{text}")), accepted(text));
    let utf_16: Vec<u8> = format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    refused(utf_16, "1:1", &["UTF-16", "save it as UTF-8"]);
    refused("\u{feff}xyzzy: 1\r\n", "1:1", &["unknown key `xyzzy`"]);
}

#[test]
fn a_value_of_the_wrong_type_is_refused_where_it_stands() {
    refused("accept_exit: 5\n", "1:14", &["accept_exit"]);
    refused("websocket_uri: 4567\n", "1:16", &["websocket_uri"]);
    refused("websocket_uri: [\"127.0.0.1\"]\n", "1:16", &["websocket_uri"]);
    refused("websocket_uri: [\"127.0.0.1\", 1, 2]\n", "1:16", &["websocket_uri"]);
    refused("zeromq_uri: [[], 7894]\n", "1:14", &["zeromq_uri"]);
    refused("logger: yes please\n", "1:9", &["logger"]);
    refused("logger:\n    rotations: many\n", "2:16", &["rotations"]);
    refused("history:\n    finished: soon\n", "2:15", &["finished"]);
    refused("clients: {max: 1.5}\n", "1:16", &["max"]);
    refused("- a list\n", "1:1", &[]);
    refused("just words\n", "1:1", &[]);
}

#[test]
fn a_value_out_of_its_range_is_refused_where_it_stands() {
    refused("websocket_uri: [\"127.0.0.1\", 65536]\n", "1:30", &["65535"]);
    refused("websocket_uri: [\"127.0.0.1\", -1]\n", "1:30", &["-1"]);
    refused("zeromq_uri:\n    - \"127.0.0.1\"\n    - \"70000\"\n", "3:7", &["70000"]);
    refused("zeromq_uri:\n    - \"127.0.0.1\"\n    - http\n", "3:7", &["http"]);
    refused("logger: {level: loud}\n", "1:17", &["loud", "debug", "info", "warning", "error", "critical"]);
    refused("logger: {level: warn}\n", "1:17", &["warning"]);
    refused("history: {finished: -1}\n", "1:21", &["-1"]);
    refused("history: {finished: .inf}\n", "1:21", &["finished"]);
    refused("history: {finished: .nan}\n", "1:21", &["finished"]);
    refused("history: {finished: 1e300}\n", "1:21", &["finished"]);
    refused("history: {channel_messages: 0}\n", "1:29", &["channel_messages"]);
    refused("clients: {max: 0}\n", "1:16", &["max"]);
    refused("clients: {ping_interval: 0}\n", "1:26", &["ping_interval"]);
    refused("clients: {max: 99999999999999999999999}\n", "1:16", &["max"]);
}

#[test]
fn what_is_not_yaml_is_refused_where_it_is_in_plain_words() {
    // A tab cannot indent, and an editor does not show it.
    refused("logger:\n\tlevel: info\n", "2:1", &["a tab cannot indent YAML; use spaces"]);
    refused("logger: {level: info\n", "2:1", &["`{` in line 1 is not closed"]);
    refused("websocket_uri: [\"127.0.0.1, 4567]\n", "1:17", &["quote that opens here is not closed"]);
    refused("zeromq_uri: [*, 7894]\n", "1:14", &["put it in quotes"]);
    refused("logger: *nothing\n", "1:9", &["put it in quotes"]);
    refused("user: b: c\n", "1:8", &["put the value in quotes"]);
    refused("logger:\n    level:info\n    rotations: 3\n", "3:14", &["line 2", "space after its `:`"]);
    refused("accept_exit: true\n\naccept_exit: false\n", "3:1", &["the key `accept_exit`", "line 1"]);
    refused("\0\0\0\0", "1:1", &["control character"]);
    // Of two documents it is not clear which is meant.
    refused("accept_exit: true\n---\naccept_exit: false\n", "3:1", &["second document"]);
}

#[test]
fn a_file_that_would_take_long_is_refused() {
    refused("[".repeat(60_000), "1:1001", &["more than 1000 brackets"]);
    refused(format!("zeromq: {}{}\n", "[".repeat(20), "]".repeat(20)), "1:16", &["nested deeper than 8 levels"]);
    let (output, path) = check("#".repeat(70_000));
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains(&format!("{path}: expected at most 65536 bytes")), "{}", stderr(&output));
}

/// A configuration from a pipe, as a shell's `<(…)` makes it.
#[test]
fn a_config_may_come_from_a_pipe_that_is_not_empty() {
    let from = |input: &str| {
        let script = format!("{input} | exec \"$0\" --check -c /dev/stdin");
        Command::new("sh").args(["-c", &script, PROGRAM]).output().expect("sh runs")
    };
    let output = from("sleep 0.1; echo 'user: somebody'");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(setting(&stdout(&output), &["user"]), "somebody");
    let output = from("true");
    assert_eq!((output.status.code(), stderr(&output).contains("/dev/stdin: this pipe is empty")), (Some(78), true));
    assert_eq!(run(&["-c", "/dev/null", "--check"]).status.code(), Some(0));
    assert_eq!(run(&["-c", "/dev/zero", "--check"]).status.code(), Some(78));
}

/// What every command prints to a standard output of this kind.
fn printed_to(file: &str, args: &str) -> Output {
    let script = format!("exec \"$0\" {args} > {file}");
    Command::new("sh").args(["-c", &script, PROGRAM]).output().expect("sh runs")
}

#[test]
fn output_that_cannot_be_written_is_an_error_and_no_panic() {
    for args in ["--check", "--help", "--version", "help publish", "completions bash", "demo --jobs 1"] {
        let output = printed_to("/dev/full", args);
        assert_eq!(output.status.code(), Some(74), "{args}: {}", stderr(&output));
        assert!(
            stderr(&output).contains("cannot write to standard output: No space left"),
            "{args}: {}",
            stderr(&output)
        );
        assert_eq!(stderr(&output).lines().count(), 1, "{args}: {}", stderr(&output));
    }
}

/// A reader such as `| head`, which has read enough.
#[test]
fn a_reader_that_has_gone_is_no_error() {
    // `check` needs ports that are free, whatever else runs here.
    let ports = "websocket_uri: [\"127.0.0.1\", 0]\nzeromq_uri: [\"127.0.0.1\", 0]\nuser: nobody\n";
    let (_directory, config) = temporary("config.yml", ports);
    let check = format!("check -c {}", config.display());
    for args in ["--check", "--help", "--version", "completions bash", "demo --jobs 1", &check] {
        let (reader, writer) = std::io::pipe().expect("there are pipes");
        drop(reader);
        let words: Vec<_> = args.split(' ').collect();
        let output = Command::new(PROGRAM).args(words).stdout(writer).output().expect("the program starts");
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{args}");
    }
}

#[test]
fn a_standard_output_that_is_closed_ends_no_command_with_a_panic() {
    for args in ["--check", "--help", "completions bash", "demo --jobs 1"] {
        let output = printed_to("/dev/null >&-", args);
        assert!(!stderr(&output).contains("panicked"), "{args}: {}", stderr(&output));
    }
}

#[test]
fn what_is_not_utf_8_is_refused_where_it_stands() {
    refused(b"logger:\n    file: \"/tmp/\xff\"\n", "2:17", &["UTF-8"]);
    refused(b"# \xc5\xa1 \xe9\n", "1:5", &["UTF-8"]);
    refused(b"\x7fELF\x02\xff\xfe", "1:6", &["UTF-8"]);
}

#[test]
fn a_missing_config_is_refused_78() {
    let (_dir, path) = temporary("other.yml", "");
    let missing = path.with_file_name("missing.yml");
    for args in [vec!["-c", missing.to_str().expect("UTF-8"), "--check"], vec!["-c", missing.to_str().expect("UTF-8")]]
    {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
        assert!(stderr(&output).contains("missing.yml"), "{}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1);
    }
}

#[test]
fn a_config_that_cannot_be_read_is_refused() {
    let (dir, path) = temporary("config.yml", "");
    let output = run(&["-c", dir.path().to_str().expect("UTF-8"), "--check"]);
    assert!(matches!(output.status.code(), Some(78)), "a directory: {}", stderr(&output));
    assert!(!stderr(&output).contains("panicked"));

    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o000)).expect("it is ours");
    if std::fs::read(&path).is_err() {
        // Not so for root, whom no permission stops.
        let output = run(&["-c", path.to_str().expect("UTF-8"), "--check"]);
        assert!(matches!(output.status.code(), Some(78)), "{}", stderr(&output));
    }
}

/// A monitor told to start with a bad config does not start, and says the same.
#[test]
fn a_bad_config_is_refused_without_check_too() {
    let (_dir, path) = temporary("config.yml", "logger:\n  level: loud\n");
    let path = path.to_str().expect("UTF-8");
    let output = run(&["-c", path]);
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains(&format!("{path}:2:10: ")), "{}", stderr(&output));
    assert!(!stderr(&output).contains("listening"), "{}", stderr(&output));
}

/// The unit runs `--check-reload` before each reload, into the journal.
#[test]
fn a_check_of_a_reload_says_nothing_but_what_is_wrong() {
    let (dir, path) = temporary("config.yml", "");
    let shown = path.to_str().expect("UTF-8");
    let check = |config: &str| {
        std::fs::write(&path, config).expect("it is ours");
        let output = run(&["-c", shown, "--check-reload"]);
        assert_eq!(stdout(&output), "", "{config}");
        (output.status.code(), stderr(&output))
    };
    let state = dir.path().join("state");
    let history = format!("history: {{state: {}}}\n", state.display());
    assert_eq!(check("user: no-such-user\n"), (Some(0), String::new()), "it needs a restart");
    assert_eq!(check(&history), (Some(0), String::new()));
    assert!(!state.exists(), "it makes nothing");
    let config = "logger:\n  levle: info\n";
    let (status, said) = check(config);
    assert_eq!((status, said.lines().count()), (Some(78), 1), "{said}");
    assert!(said.contains(&format!("{shown}:2:3: ")) && said.contains("`level`"), "{said}");
    std::fs::create_dir(&state).expect("it is ours");
    let tls = "tls: {certificate: /nowhere/c.pem, key: /nowhere/k.pem}\n";
    for (config, why) in [("", "it sets nothing"), (&*history, "history.state: "), (tls, "/nowhere/c.pem")] {
        let (status, said) = check(config);
        assert_eq!((status, said.lines().count()), (Some(78), 1), "{config}: {said}");
        assert!(said.contains(why), "{config}: {said}");
    }
    let credentials = check("tls: {certificate: c.pem, key: k.pem}\n");
    assert_eq!(credentials, (Some(0), String::new()), "only the service's main process can read them");
    assert_eq!(run(&["--check-reload"]).status.code(), Some(64), "there is nothing to check");
}

#[test]
fn the_option_check_is_the_old_name_of_a_check_of_the_configuration_only() {
    let (_directory, path) = temporary("c.yml", "clients: {max: 7}\n");
    let path = path.to_str().expect("UTF-8");
    let output = run(&["check", "--config-only", "-c", path]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(setting(&stdout(&output), &["clients", "max"]), 7);
    assert_eq!(stdout(&run(&["-c", path, "--check"])), stdout(&output));
    let help = stdout(&run(&["--help"]));
    assert!(!help.contains("--check\n") && !help.contains("--check "), "{help}");
    std::fs::write(path, "clients: {mux: 7}\n").expect("it is ours");
    let output = run(&["check", "--config-only", "-c", path]);
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("c.yml:1:11: clients: unknown key `mux`"), "{said}");
}

#[test]
fn an_empty_config_is_all_defaults() {
    let defaults = stdout(&run(&["--check"]));
    for config in ["", "\n", "---\n", "# nothing\n", "---\n...\n", "{}\n", "logger: {}\nhistory: {}\n"] {
        assert_eq!(accepted(config), defaults, "{config:?}");
    }
    for (keys, value) in [
        (["history", "finished"], 300),
        (["history", "unfinished"], 86_400),
        (["history", "release_failed"], 10),
        (["history", "release_aborted"], 300),
        (["history", "channel_messages"], 200_000),
        (["history", "channel_bytes"], 16_777_216),
        (["history", "total_bytes"], 268_435_456),
        (["clients", "handshake_timeout"], 10),
        (["clients", "subscribe_timeout"], 10),
        (["clients", "ping_interval"], 20),
        (["clients", "ping_timeout"], 20),
        (["clients", "stall_timeout"], 30),
        (["zeromq", "max_connections"], 64),
        (["zeromq", "handshake_timeout"], 5),
    ] {
        assert_eq!(setting(&defaults, &keys).as_u64(), Some(value), "{keys:?}");
    }
    assert_eq!(setting(&defaults, &["accept_exit"]), false);
    assert_eq!(setting(&defaults, &["websocket_uri"])[1], 4567);
    assert_eq!(setting(&defaults, &["zeromq_uri"])[1], 7894);
}

#[test]
fn the_config_of_the_python_monitor_means_the_same() {
    let printed = accepted(
        "---
websocket_uri:
    - \"127.0.0.1\"
    - \"4567\"
zeromq_uri:
    - \"127.0.0.1\"
    - 7894
logger:
    file: \"/var/log/recodex/monitor.log\"
    level: \"debug\"
    max-size: 1048576
    rotations: 3
...
",
    );
    assert_eq!(setting(&printed, &["websocket_uri"])[0], "127.0.0.1");
    assert_eq!(setting(&printed, &["websocket_uri"])[1], 4567);
    assert_eq!(setting(&printed, &["zeromq_uri"])[1], 7894);
    assert_eq!(setting(&printed, &["logger", "file"]), "/var/log/recodex/monitor.log");
    assert_eq!(setting(&printed, &["logger", "level"]), "debug");
    assert_eq!(setting(&printed, &["logger", "max-size"]), 1_048_576);
    assert_eq!(setting(&printed, &["logger", "rotations"]), 3);
}

#[test]
fn what_check_prints_is_a_config_that_means_the_same() {
    for config in [
        "",
        "websocket_uri: [\"*\", \"1\"]\nzeromq_uri: [\"::1\", 65535]\naccept_exit: true\n",
        "logger: {file: \"/with: odd\\n 'characters' #\", level: critical, max-size: 2000000, rotations: 0}\n",
        "history: {finished: 0.3, unfinished: 1.5, release_failed: 0, channel_messages: 10, channel_bytes: 4096}\n",
        "clients: {max: 7, ping_interval: 0.25, stall_timeout: 3}\nzeromq: {max_connections: 1}\n",
    ] {
        let printed = accepted(config);
        assert_eq!(accepted(&printed), printed, "from {config:?}");
    }
}

#[test]
fn durations_may_be_decimals() {
    let printed = accepted("history: {finished: 0.3, release_failed: 0}\nclients: {ping_timeout: 1.25}\n");
    assert_eq!(setting(&printed, &["history", "finished"]).as_f64(), Some(0.3));
    assert_eq!(setting(&printed, &["history", "release_failed"]).as_f64(), Some(0.0));
    assert_eq!(setting(&printed, &["clients", "ping_timeout"]).as_f64(), Some(1.25));
}

/// `--check` only checks: neither port is touched.
#[test]
fn check_binds_nothing() {
    let (_listener, taken) = taken_port();
    accepted(&format!("websocket_uri: [\"127.0.0.1\", {}]\n", taken.port()));
}

// The ports.

#[test]
fn a_taken_port_is_refused_69_and_named() {
    let (_listener, taken) = taken_port();
    for (websocket, zeromq) in [(taken.port(), 0), (0, taken.port())] {
        let config = format!(
            "websocket_uri: [\"127.0.0.1\", {websocket}]\nzeromq_uri: [\"127.0.0.1\", {zeromq}]\nuser: nobody\n"
        );
        let (_dir, path) = temporary("config.yml", config);
        let output = run(&["-c", path.to_str().expect("UTF-8")]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(69), "{said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(last.contains(&taken.to_string()), "which address: {said}");
    }
}

#[test]
fn two_monitors_do_not_share_a_port() {
    let first = Monitor::start("");
    let config = format!(
        "websocket_uri: [\"127.0.0.1\", {}]\nzeromq_uri: [\"127.0.0.1\", {}]\nuser: nobody\n",
        first.viewers.port(),
        first.brokers.port()
    );
    let (_dir, path) = temporary("config.yml", config);
    let output = run(&["-c", path.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    Viewer::upgraded(first.viewers);
}

#[test]
fn a_host_that_does_not_resolve_is_refused_69_and_named() {
    for key in ["websocket_uri", "zeromq_uri"] {
        let other = if key == "zeromq_uri" { "websocket_uri" } else { "zeromq_uri" };
        let config = format!("{key}: [\"no-such-host.invalid\", 0]\n{other}: [\"127.0.0.1\", 0]\nuser: nobody\n");
        let (_dir, path) = temporary("config.yml", config);
        let output = run(&["-c", path.to_str().expect("UTF-8")]);
        assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
        assert!(stderr(&output).contains("no-such-host.invalid"), "{}", stderr(&output));
    }
}

#[test]
fn an_address_of_another_machine_is_refused_69() {
    let config = "websocket_uri: [\"192.0.2.1\", 0]\nzeromq_uri: [\"127.0.0.1\", 0]\nuser: nobody\n";
    let (_dir, path) = temporary("config.yml", config);
    let output = run(&["-c", path.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    assert!(stderr(&output).contains("192.0.2.1"), "{}", stderr(&output));
}

// The command line.

#[test]
fn a_command_line_that_means_nothing_is_refused_64() {
    for args in [
        vec!["--unknown"],
        vec!["-c"],
        vec!["unknown"],
        vec!["watch"],
        vec!["watch", "ws://127.0.0.1:1"],
        vec!["publish", "job"],
        vec!["publish", "a", "b", "c", "d", "e"],
        vec!["demo", "--jobs", "many"],
        vec!["-c", "a.yml", "-c", "b.yml"],
    ] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {}", stderr(&output));
        assert_ne!(stderr(&output), "", "{args:?}");
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}

#[test]
fn version_and_help_are_printed() {
    let version = run(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(stdout(&version).trim_end(), format!("recodex-monitor {}", env!("CARGO_PKG_VERSION")));
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for word in ["--check-reload", "--version", "check", "demo", "watch", "publish"] {
        assert!(stdout(&help).contains(word), "{word}");
    }
}

#[test]
fn the_level_of_the_log_is_heeded() {
    let debug_lines_at = |level: &str| {
        let mut monitor = Monitor::start(&format!("logger: {{level: {level}}}"));
        let broker = Broker::connect(monitor.brokers);
        broker.send(&["job", "FINISHED"]);
        broker.send(&["job", "FINISHED"]);
        common::fence(&monitor, &broker);
        monitor.stop();
        monitor.logged(&["debug"]).len()
    };
    assert!(debug_lines_at("debug") > 0);
    assert_eq!(debug_lines_at("info"), 0);
}
