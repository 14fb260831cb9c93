//! Findings about a configuration on a machine without a unit.

use super::{Machine, PORTS, certificate, check, fails, has_line};
use crate::common::{Monitor, is_root, open_directory, taken_port};
use std::fs::{Permissions, read_dir, set_permissions, write};
use std::os::unix::fs::PermissionsExt;

fn warns(config: &str, words: &[&str]) {
    Machine::new().passes(config, "warning", words);
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
        let word = if about == "user" && !is_root() { "warning" } else { "ok     " };
        assert!(out.contains(&format!("{word} {about}: ")), "{about}: {out}");
    }
    if is_root() {
        assert!(out.ends_with("all is well\n"), "{out}");
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
    let process = format!("(process {})", std::process::id());
    fails(&config, 69, &["status_uri: ", "is held by ", &process, "name another port"]);
}

#[test]
#[ignore = "needs root"]
fn a_port_that_two_keys_name_fails() {
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
    let interface = "which status_uri does not take; write its address, 127.0.0.1";
    fails(&format!("{PORTS}status_uri: [lo, 0]\n"), 69, &["status_uri: ", "lo is a network interface", interface]);
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
#[ignore = "needs root"]
fn a_log_that_the_monitors_user_cannot_write_fails() {
    fails(
        &format!("{PORTS}logger: {{file: /nowhere/at/all/m.log}}\n"),
        78,
        &["logger: ", "there is no such directory"],
    );
    let directory = open_directory();
    let log = directory.path().join("m.log");
    write(&log, "").expect("it is ours");
    let config = format!("{PORTS}logger: {{file: {}}}\n", log.display());
    fails(&config, 78, &["cannot write", "give it to the monitor's user"]);
    set_permissions(&log, Permissions::from_mode(0o666)).expect("it is ours");
    Machine::new().passes(&config, "ok", &["logger: ", "can be written"]);
    set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("it is ours");
    warns(&config, &["logger: ", "can be written, but not rotated", "no file can be created in it"]);
    warns(
        &format!("{PORTS}history: {{state: {}.state}}\n", log.display()),
        &["history.state: ", "no file can be created in it", "give it to the monitor's user", "will be lost at a stop"],
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
        &["zeromq.allow: ", "every machine that reaches the port"],
    );
    warns(&format!("{PORTS}clients: {{max: 9000000}}\n"), &["clients: ", "max is 9000000", "LimitNOFILE="]);
    warns(&format!("{PORTS}status_uri: [\"*\", 0]\n"), &["status_uri: ", "from other machines"]);
    warns(&format!("{PORTS}trusted_proxies: [\"0.0.0.0/0\"]\n"), &["trusted_proxies names everybody"]);
    warns(&format!("{PORTS}clients: {{max_per_address: 5}}\n"), &["max_per_address limits the web server"]);
}

#[test]
fn viewers_who_come_from_other_machines_in_the_clear_or_from_any_site_are_a_warning() {
    let everywhere = PORTS.replacen("127.0.0.1", "*", 1);
    let clear = ["websocket_uri: ", "without encryption", "set tls"];
    let any = ["allowed_origins: ", "any web site", "https://recodex.example.org"];
    let has = |config: &str| {
        let (status, out, err) = check(config);
        assert_eq!(status, 0, "{out}{err}");
        [has_line(&out, "warning", &clear), has_line(&out, "warning", &any)]
    };
    assert_eq!(has(&everywhere), [true, true]);
    assert_eq!(has(&everywhere.replacen('*', "0.0.0.0", 1)), [true, true]);
    assert_eq!(has(&format!("{everywhere}allowed_origins: [\"https://recodex.example.org\"]\n")), [true, false]);
    assert_eq!(has(PORTS), [false, false], "a web server of this machine is in front");
    let behind = |proxies: &str| has(&format!("{everywhere}trusted_proxies: [{proxies}]\n"));
    assert_eq!(behind("\"127.0.0.1\", \"::1\", \"127.0.0.0/8\", \"unix:\""), [true, true], "it needs no open port");
    for elsewhere in ["\"192.0.2.9\"", "\"127.0.0.1\", \"2001:db8::9\"", "\"0.0.0.0/0\""] {
        assert_eq!(behind(elsewhere), [false, true], "a web server of another machine is in front");
    }
    let machine = Machine::new();
    let tls = certificate(&machine, ["tls.crt", "tls.key"]);
    set_permissions(machine.path("tls.key"), Permissions::from_mode(0o644)).expect("it is ours");
    let (_, out, _) = machine.check(&format!("{everywhere}{tls}"));
    assert!(!has_line(&out, "warning", &clear) && has_line(&out, "warning", &any), "{out}");
}
