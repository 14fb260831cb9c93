//! `recodex-monitor check`: what it finds, what it says to do, and that it changes nothing.

#![allow(missing_docs)]

mod common;

use common::{Monitor, is_root, open_directory, run, taken_port, temporary};
use std::fs::{Permissions, read_dir, set_permissions, write};
use std::os::unix::fs::PermissionsExt;

const PORTS: &str = "websocket_uri: [\"127.0.0.1\", 0]\nzeromq_uri: [\"127.0.0.1\", 0]\nuser: nobody\n";

/// Checks a configuration; returns the exit status, what was printed and what went to stderr.
fn check(config: &str) -> (i32, String, String) {
    let (_directory, path) = temporary("config.yml", config);
    let output = run(&["check", "-c", path.to_str().expect("UTF-8")]);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code().expect("it ends by itself"), text(&output.stdout), text(&output.stderr))
}

/// Asserts that a check fails with this status and says all of `words` in the line of what failed.
fn fails(config: &str, status: i32, words: &[&str]) {
    let (found, out, err) = check(config);
    let line =
        out.lines().find(|line| line.starts_with("FAILED")).unwrap_or_else(|| panic!("nothing failed:\n{out}{err}"));
    assert!(words.iter().all(|word| line.contains(word)), "{line}");
    assert_eq!(found, status, "{out}{err}");
    assert!(err.contains("1 check failed"), "{err}");
}

fn warns(config: &str, words: &[&str]) {
    let (status, out, err) = check(config);
    assert!(
        out.lines().any(|line| line.starts_with("warning") && words.iter().all(|word| line.contains(word))),
        "{out}{err}"
    );
    assert_eq!(status, 0, "{out}{err}");
    assert!(out.contains("the monitor would start"), "{out}");
}

#[test]
fn a_good_configuration_is_said_to_be_and_every_line_says_what_about() {
    let directory = open_directory();
    let log = directory.path().join("monitor.log");
    let state = directory.path().join("state");
    let config = format!(
        "{PORTS}status_uri: [localhost, 0]\nlogger: {{output: stderr}}\nhistory: {{state: {}}}\n",
        state.display()
    );
    let (status, out, err) = check(&config);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    for about in
        ["configuration", "zeromq_uri", "websocket_uri", "status_uri", "clients", "user", "logger", "history.state"]
    {
        let word = if about == "user" && !nix::unistd::geteuid().is_root() { "warning" } else { "ok     " };
        assert!(out.contains(&format!("{word} {about}: ")), "{about}: {out}");
    }
    let (status, out, _) =
        check(&format!("{config}logger: {{file: {}}}\n", log.display()).replace("logger: {output: stderr}\n", ""));
    assert_eq!(status, 0, "{out}");
    assert_eq!(read_dir(&directory).expect("it is there").count(), 0, "a check makes nothing");
}

#[test]
fn a_wrong_configuration_fails_with_its_place() {
    fails("logger:\n  levle: info\n", 78, &["FAILED  configuration: ", "config.yml:2:3: ", "did you mean `level`?"]);
}

#[test]
fn a_port_that_another_program_holds_fails_and_the_program_is_named() {
    let (_listener, at) = taken_port();
    let config = format!("{PORTS}status_uri: [\"127.0.0.1\", {}]\n", at.port());
    if is_root() {
        fails(
            &config,
            69,
            &["status_uri: ", "is held by ", &format!("(process {})", std::process::id()), "name another port"],
        );
    } else {
        warns(&config, &["status_uri: ", "is taken"]);
    }
}

#[test]
fn a_port_that_two_keys_name_fails() {
    if !is_root() {
        return;
    }
    let named_twice = || {
        let port = taken_port().1.port(); // free from here on, for anybody to take
        let config = format!("{PORTS}status_uri: [\"127.0.0.1\", {port}]\n").replacen(
            "zeromq_uri: [\"127.0.0.1\", 0]",
            &format!("zeromq_uri: [\"127.0.0.1\", {port}]"),
            1,
        );
        let (status, out, _) = check(&config);
        out.contains("FAILED  status_uri: ")
            .then(|| assert_eq!(status, 69, "{out}"))
            .filter(|()| out.contains("is named by another key"))
    };
    (0..10).find_map(|_| named_twice()).expect("a port that stays free");
}

#[test]
fn ports_that_the_monitor_holds_are_as_they_should_be() {
    let monitor = Monitor::start("");
    let config = format!(
        "websocket_uri: [\"127.0.0.1\", {}]\nzeromq_uri: [\"127.0.0.1\", {}]\nuser: nobody\n",
        monitor.viewers.port(),
        monitor.brokers.port()
    );
    let (status, out, err) = check(&config);
    assert_eq!(status, 0, "{out}{err}");
    if is_root() {
        let held = format!("is held by the monitor that runs (process {})", monitor.pid());
        assert_eq!(out.matches(&held).count(), 2, "{out}");
    }
}

#[test]
fn a_host_that_does_not_resolve_fails_as_at_the_start() {
    fails(&format!("{PORTS}status_uri: [\"no.such.host.invalid\", 1]\n"), 69, &["status_uri: ", "cannot resolve host"]);
}

#[test]
fn a_user_that_is_not_there_fails() {
    let config = PORTS.replace("nobody", "no-such-user");
    if is_root() {
        fails(&config, 77, &["user: ", "there is no user \"no-such-user\"", "create it"]);
    } else {
        warns(&config, &["there is no user no-such-user"]);
    }
}

#[test]
fn a_log_that_the_monitors_user_cannot_write_fails() {
    fails(
        &format!("{PORTS}logger: {{file: /nowhere/at/all/m.log}}\n"),
        78,
        &["logger: ", "there is no such directory"],
    );
    if !is_root() {
        return;
    }
    let directory = open_directory();
    let log = directory.path().join("m.log");
    write(&log, "").expect("it is ours");
    let config = format!("{PORTS}logger: {{file: {}}}\n", log.display());
    fails(&config, 78, &["cannot write", "give it to the monitor's user"]);
    set_permissions(&log, Permissions::from_mode(0o666)).expect("it is ours");
    warns(&config, &["logger: ", "can be written", "ReadWritePaths="]);
    set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("it is ours");
    warns(
        &format!("{PORTS}history: {{state: {}.state}}\n", log.display()),
        &["history.state: ", "nothing can be made in it"],
    );
}

#[test]
fn a_certificate_that_cannot_be_read_fails_with_its_path() {
    fails(
        &format!("{PORTS}tls: {{certificate: /nowhere/c.pem, key: /nowhere/k.pem}}\n"),
        78,
        &["tls", "/nowhere/c.pem", "cannot open it"],
    );
}

#[test]
fn what_is_in_the_way_of_a_unix_socket_fails_and_is_left_alone() {
    let directory = open_directory();
    let path = directory.path().join("monitor.sock");
    let config = format!("websocket_uri: \"unix:{}\"\nzeromq_uri: [\"127.0.0.1\", 0]\nuser: nobody\n", path.display());
    let (status, out, _) = check(&config);
    assert!(status == 0 && out.contains("can be bound"), "{out}");
    assert!(!path.exists());
    write(&path, "mine").expect("it is ours");
    fails(&config, 69, &["websocket_uri: ", "is there already, and no socket"]);
    assert_eq!(std::fs::read(&path).expect("it is there"), b"mine");
}

#[test]
fn what_is_worth_a_second_look_is_a_warning() {
    warns(
        &PORTS.replace("zeromq_uri: [\"127.0.0.1\"", "zeromq_uri: [\"*\""),
        &["zeromq.allow: ", "whoever reaches the port"],
    );
    warns(&format!("{PORTS}clients: {{max: 9000000}}\n"), &["clients: ", "max is 9000000", "LimitNOFILE="]);
    warns(&format!("{PORTS}status_uri: [\"*\", 0]\n"), &["status_uri: ", "from other machines"]);
    warns(&format!("{PORTS}trusted_proxies: [\"0.0.0.0/0\"]\n"), &["trusted_proxies names everybody"]);
    warns(&format!("{PORTS}clients: {{max_per_address: 5}}\n"), &["max_per_address bounds the web server"]);
}

#[test]
fn without_a_file_the_defaults_are_checked() {
    let output = run(&["check"]);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("configuration: none given") && out.contains("127.0.0.1:4567"), "{out}");
}
