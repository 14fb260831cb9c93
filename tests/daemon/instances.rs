//! The name of an instance (`--instance`), which `%i` in paths of the configuration stands for.

use crate::common::{self, Host, Monitor, PROGRAM, Viewer, is_root, open_directory, run, until};
use std::path::Path;
use std::process::Stdio;

/// Starts a program with the name of an instance.
const NAMED: [&str; 4] = ["sh", "-c", "exec \"$@\" --instance east-1.a", "sh"];

/// A configuration with `%i` in every path that may have it.
fn config(directory: &Path) -> String {
    let at = directory.display();
    format!(
        "websocket_uri: 'unix:{at}/%i.sock'\nzeromq_uri: [127.0.0.1, 0]\nstatus_uri: 'unix:{at}/%i.status'\n\
         logger: {{file: '{at}/%i.log'}}\nhistory: {{state: '{at}/%i.history'}}\nuser: nobody\n"
    )
}

/// Writes that configuration into its directory. Returns its path.
fn written(directory: &Path) -> String {
    let path = directory.join("c.yml");
    std::fs::write(&path, config(directory)).expect("it is ours");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn every_path_has_the_name_at_the_start_at_a_reload_and_for_the_commands() {
    let directory = open_directory();
    let path = written(directory.path());
    let file = |name: &str| directory.path().join(format!("east-1.a.{name}"));
    let nowhere = "127.0.0.1:1".parse().expect("an address");
    let mut monitor = Monitor::start_unread(Path::new(&path), &NAMED, [nowhere; 2], Stdio::null());
    let log = || std::fs::read_to_string(file("log")).unwrap_or_default();
    until("it relays", || log().contains("listening for status requests on").then_some(()));
    drop(Viewer::connected_to(&file("sock")).upgrade(&[]));
    let named = ["-c", &path, "--instance", "east-1.a"];
    let status = run(&[&["status"], &named[..]].concat());
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    // It is not ready, because there is no broker.
    assert_eq!(status.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&status.stderr));
    let at = format!("unix:{}", file("status").display());
    assert!(said.contains(&format!("at {at}: ")), "{said}");
    assert_eq!(run(&["status", &at]).status.code(), Some(1));
    assert_eq!(run(&[&named[..], &["--check-reload"]].concat()).status.code(), Some(0));

    monitor.signal("HUP");
    until("it reloads", || log().contains("the configuration is taken up").then_some(()));
    assert!(!log().contains("need a restart"), "{}", log());
    monitor.stop();
    assert!(file("history").exists());
    assert!(!file("sock").exists() && !file("status").exists());

    let shown = run(&[&named[..], &["--check"]].concat());
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for name in ["sock", "status", "log", "history"] {
        assert!(shown.contains(&file(name).display().to_string()), "{shown}");
    }
    let check = run(&[&["check"], &named[..]].concat());
    let found = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(check.status.code(), Some(0), "{found}");
    for (key, name) in [("websocket_uri", "sock"), ("status_uri", "status")] {
        assert!(found.contains(&format!("{key}: unix:{} can be bound", file(name).display())), "{found}");
    }
}

#[test]
fn a_path_with_a_place_for_the_name_needs_one() {
    let directory = open_directory();
    let path = written(directory.path());
    for (words, start) in [
        (vec!["-c", &path], "recodex-monitor: "),
        (vec!["-c", &path, "--check"], "recodex-monitor: "),
        (vec!["-c", &path, "--check-reload"], "recodex-monitor: "),
        (vec!["status", "-c", &path], "recodex-monitor: "),
        (vec!["check", "-c", &path], "FAILED  configuration: "),
    ] {
        let output = run(&words);
        assert_eq!(output.status.code(), Some(78), "{words:?}");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let error = format!("{start}{path}: logger.file: {}/%i.log has %i", directory.path().display());
        let line = said.lines().find(|line| line.starts_with(&error)).unwrap_or_else(|| panic!("{words:?}: {said}"));
        assert!(line.contains("--instance NAME, or by the unit recodex-monitor@NAME.service"), "{line}");
    }
}

#[test]
fn a_name_that_is_none_is_wrong_use() {
    for words in [
        &["-c", "/dev/null", "--instance", "a/b"][..],
        &["-c", "/dev/null", "--instance", ""],
        &["-c", "/dev/null", "--instance", ".."],
        &["check", "--instance", "%i"],
        &["--instance", "a"],
        &["status", "--instance", "a", "127.0.0.1:1"],
    ] {
        assert_eq!(run(words).status.code(), Some(64), "{words:?}");
    }
    let said = run(&["-c", "/dev/null", "--instance", "a b"]).stderr;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("expected 1 to 64 letters, digits, `.`, `_` and `-`"), "{said}");
}

#[test]
fn ports_are_shared_only_with_a_cluster_and_a_status_socket_of_each_instance() {
    let with = |config: &str| {
        let (_directory, path) = common::temporary("c.yml", format!("share_ports: true\n{config}"));
        let output = run(&["-c", path.to_str().expect("UTF-8"), "--check"]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let cluster = "cluster: {redis: [\"127.0.0.1:1\"]}\n";
    for (config, hint) in [
        (String::new(), "expected a section cluster"),
        (format!("{cluster}status_uri: [127.0.0.1, 4568]\n"), "such as \"unix:/run/recodex/%i.sock\""),
        (format!("{cluster}websocket_uri: [127.0.0.2, 7894]\n"), "to have different ports"),
        (format!("{cluster}status_uri: 'unix:/run/recodex/s'\n"), "expected status_uri to have %i in its path"),
        (format!("{cluster}history: {{state: /var/lib/h}}\n"), "expected history.state to have %i in its path"),
    ] {
        let (code, said) = with(&config);
        assert!(code == Some(78) && said.contains("share_ports is on: ") && said.contains(hint), "{code:?} {said}");
    }
    assert_eq!(with(cluster).0, Some(0));
    // Each instance has a name and files of its own.
    let (code, said) = with(&format!("{cluster}status_uri: 'unix:/run/recodex/%i'\n"));
    assert!(code == Some(78) && said.contains("--instance NAME"), "{code:?} {said}");
}

#[test]
fn the_status_socket_is_for_the_user_and_the_group_and_a_name_of_another_site_is_refused() {
    let directory = open_directory();
    let path = directory.path().join("status");
    let mut monitor = Monitor::start(&format!("status_uri: 'unix:{}'\n", path.display()));
    monitor.wait_log(&format!("listening for status requests on unix:{}", path.display()));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("it is there").permissions());
    assert_eq!(mode & 0o777, 0o660);
    // A browser reaches it through a port that SSH forwards, and a web server under a name that it sets.
    for (host, code) in [("localhost", 200), ("127.0.0.1:4568", 200), ("evil.example:4568", 421)] {
        assert_eq!(common::http::ask_unix(&path, "/status", host).status, code, "{host}");
    }
    // The command says what may be wrong.
    let refused = |words: &[&str], hint: &str| {
        let output = common::run_words(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(69) && said.contains(hint), "{said}");
    };
    let at = format!("unix:{}", path.display());
    if is_root() {
        let other = ["setpriv", "--reuid=64009", "--regid=64009", "--clear-groups", PROGRAM, "status", &at];
        refused(&other, "a member of the group that the monitor runs as");
    }
    monitor.stop();
    refused(&[PROGRAM, "status", &at], "is the monitor running");
    assert_eq!(run(&["status", "unix:status"]).status.code(), Some(64));
}

/// Starts a monitor whose runtime directory is this one, as a service has it, with a configuration that has no address for the status
/// listener.
fn with_runtime_directory(directory: &Path, words: &str, config: &str) -> Monitor {
    let environment = format!("RUNTIME_DIRECTORY={}:/elsewhere", directory.display());
    let script = format!("exec \"$@\" {words}");
    Monitor::start_through(&["env", &environment, "sh", "-c", &script, "sh"], Host::default(), config)
}

#[test]
fn a_service_has_a_status_socket_of_its_own_unless_the_configuration_says_otherwise() {
    for (words, name) in [("", "status.sock"), ("--instance a", "status-a.sock")] {
        let directory = open_directory();
        let path = directory.path().join(name);
        let mut monitor = with_runtime_directory(directory.path(), words, "");
        monitor.wait_log(&format!("listening for status requests on unix:{}", path.display()));
        assert_eq!(common::http::ask_unix(&path, "/healthz", "localhost").status, 200);
        monitor.signal("HUP");
        monitor.wait_log("the configuration is taken up");
        assert!(monitor.logged(&["need a restart"]).is_empty());
        assert_eq!(common::http::ask_unix(&path, "/healthz", "localhost").status, 200);
        monitor.stop();
        assert!(!path.exists());
    }
    let directory = open_directory();
    let mut monitor = with_runtime_directory(directory.path(), "", "status_uri: false\n");
    monitor.stop();
    assert!(monitor.logged(&["status requests"]).is_empty() && monitor.logged(&["WARNING"]).is_empty());
}

#[test]
fn a_service_without_room_for_the_default_socket_runs_and_says_so() {
    let directory = open_directory();
    std::fs::create_dir(directory.path().join("status.sock")).expect("it is ours");
    let monitor = with_runtime_directory(directory.path(), "", "");
    let line = monitor.wait_logged(&["WARNING", "there is no status listener"]);
    assert!(line.contains("status.sock"), "{line}");
    let broker = common::Broker::connect(monitor.brokers);
    common::fence(&monitor, &broker);
}

#[test]
fn a_socket_that_another_monitor_has_is_refused() {
    let directory = open_directory();
    let path = directory.path().join("status");
    let config = format!("status_uri: 'unix:{}'\nuser: nobody\n", path.display());
    let _monitor = Monitor::start_at(Host::default(), &config);
    let ports = "websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\n";
    let (_directory, path) = common::temporary("c.yml", format!("{ports}{config}"));
    let output = run(&["-c", path.to_str().expect("UTF-8")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(69) && said.contains("status_uri: cannot listen on unix:"), "{said}");
}
