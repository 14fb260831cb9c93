//! `recodex-monitor check`: what it finds, what it says to do, and that it changes nothing.

#![allow(missing_docs)]

mod common;

use common::users::{ALICE, RECODEX, give};
use common::{
    Monitor, PROGRAM, Users, is_root, kill, open_directory, open_up, run_words, skipped, taken_port, temporary, unique,
    until,
};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{File, Permissions, create_dir, read_dir, read_to_string, rename, set_permissions, write};
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PORTS: &str = "websocket_uri: [\"127.0.0.1\", 0]\nzeromq_uri: [\"127.0.0.1\", 0]\nuser: nobody\n";

/// What `systemctl show` tells of a unit like the packaged one; but the tests' files are in `/tmp`, and their user is `nobody`.
const UNIT: &str = "\
MainPID=0
ExecStart={ path=/usr/bin/recodex-monitor ; argv[]=/usr/bin/recodex-monitor -c CONFIG ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }
LimitNOFILE=131072
User=nobody
Group=
DynamicUser=no
SupplementaryGroups=
ReadWritePaths=
ReadOnlyPaths=
InaccessiblePaths=
PrivateTmp=no
PrivateUsers=yes
ProtectHome=no
ProtectSystem=strict
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallFilter=accept bind read write
RuntimeDirectory=recodex
LogsDirectory=recodex
LoadState=loaded
NeedDaemonReload=no
";

/// A machine whose service manager says what the test wants.
struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    /// One without the unit.
    fn new() -> Self {
        let machine = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        // The monitor's user is to find the way.
        set_permissions(machine.directory.path(), Permissions::from_mode(0o755)).expect("it is ours");
        create_dir(machine.path("bin")).expect("it is ours");
        machine.answers("systemctl", "LoadState=not-found\n");
        machine.answers("busctl", "a(ss) 0\na(say) 0\na(ss) 0\na(say) 0\n");
        machine
    }

    /// One with the unit, in which these pieces are replaced.
    fn with_unit(changes: &[(&str, &str)]) -> Self {
        let machine = Self::new();
        let unit = changes.iter().fold(UNIT.to_owned(), |unit, (from, to)| {
            assert!(unit.contains(from), "{from}");
            unit.replace(from, to)
        });
        machine.answers("systemctl", &unit.replace("CONFIG", machine.config().to_str().expect("UTF-8")));
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("config.yml")
    }

    /// Has a program of this name print an answer.
    fn answers(&self, program: &str, answer: &str) {
        write(self.path(&format!("{program}.answer")), answer).expect("it is ours");
        self.does(program, &format!("/bin/cat '{}'", self.path(&format!("{program}.answer")).display()));
    }

    /// Has a program of this name run a script.
    fn does(&self, program: &str, script: &str) {
        let new = self.path(&unique("program"));
        let script = format!("#!/bin/sh\n{script}\n");
        make_program(&["sh", "-c", "printf %s \"$1\" >\"$0\"", new.to_str().expect("UTF-8"), &script]);
        set_permissions(&new, Permissions::from_mode(0o755)).expect("it is ours");
        rename(&new, self.path("bin").join(program)).expect("it is ours");
    }

    /// Checks a configuration; returns the exit status, what was printed and what went to stderr.
    fn check(&self, config: &str) -> (i32, String, String) {
        write(self.config(), config).expect("it is ours");
        self.check_by(PROGRAM)
    }

    /// The same by another copy of the program, of the configuration that is there.
    fn check_by(&self, program: &str) -> (i32, String, String) {
        self.check_with(&[program, "check", "-c", self.config().to_str().expect("UTF-8")])
    }

    fn check_with(&self, words: &[&str]) -> (i32, String, String) {
        let path = format!("PATH={}:/usr/bin:/bin:/usr/sbin:/sbin", self.path("bin").display());
        said(&run_words(&[&["/usr/bin/env", "-u", "CREDENTIALS_DIRECTORY", &path], words].concat()))
    }

    /// Asserts that a check fails with this status and says all of `words` in the line of what failed.
    fn fails(&self, config: &str, status: i32, words: &[&str]) {
        let (found, out, err) = self.check(config);
        let line = out
            .lines()
            .find(|line| line.starts_with("FAILED"))
            .unwrap_or_else(|| panic!("nothing failed:\n{out}{err}"));
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
        assert_eq!(found, status, "{out}{err}");
        assert!(err.contains("1 check failed"), "{out}{err}");
    }

    /// Asserts that a check fails nowhere and says all of `words` in a line that begins with `how`.
    fn passes(&self, config: &str, how: &str, words: &[&str]) {
        let (status, out, err) = self.check(config);
        assert!(has_line(&out, how, words), "{out}{err}");
        assert_eq!(status, 0, "{out}{err}");
    }
}

/// Writes a program by way of another process. This one would have it open for writing while other tests fork, and what is open for
/// writing cannot be run.
fn make_program(words: &[&str]) {
    assert!(run_words(words).status.success(), "{words:?}");
}

fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code().expect("it ends by itself"), text(&output.stdout), text(&output.stderr))
}

fn has_line(out: &str, how: &str, words: &[&str]) -> bool {
    out.lines().any(|line| line.starts_with(how) && words.iter().all(|word| line.contains(word)))
}

fn first_line(out: &str) -> &str {
    out.lines().next().expect("it says something")
}

fn check(config: &str) -> (i32, String, String) {
    Machine::new().check(config)
}

fn fails(config: &str, status: i32, words: &[&str]) {
    Machine::new().fails(config, status, words);
}

fn warns(config: &str, words: &[&str]) {
    Machine::new().passes(config, "warning", words);
}

/// A certificate and its key in files with these names; returns their lines of the configuration.
fn certificate(machine: &Machine, names: [&str; 2]) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("it can be made");
    let [certificate, key] = names.map(|name| machine.path(name));
    write(&certificate, made.cert.pem()).expect("it is ours");
    write(&key, made.signing_key.serialize_pem()).expect("it is ours");
    set_permissions(&key, Permissions::from_mode(0o600)).expect("it is ours");
    format!("tls: {{certificate: {}, key: {}}}\n", certificate.display(), key.display())
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
    if nix::unistd::geteuid().is_root() {
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
    assert_eq!(has(&format!("{everywhere}trusted_proxies: [\"192.0.2.9\"]\n")), [false, false], "one elsewhere is");
    let machine = Machine::new();
    let tls = certificate(&machine, ["tls.crt", "tls.key"]);
    set_permissions(machine.path("tls.key"), Permissions::from_mode(0o644)).expect("it is ours");
    let (_, out, _) = machine.check(&format!("{everywhere}{tls}"));
    assert!(!has_line(&out, "warning", &clear) && has_line(&out, "warning", &any), "{out}");
}

/// Runs a check without a configuration on a machine whose `/etc/recodex` is the test's own: with this file, or without.
fn check_the_default(config: Option<&str>) -> Option<(i32, String, String)> {
    const SCRIPT: &str = "set -e; for file in passwd group nsswitch.conf hosts; do cp /etc/$file \"$0\" 2>/dev/null || :; done; \
                          mount --bind \"$0\" /etc; shift; exec \"$@\"";
    if !is_root() {
        return None;
    }
    let machine = Machine::new();
    let etc = machine.path("etc");
    create_dir(&etc).expect("it is ours");
    if let Some(config) = config {
        let directory = etc.join("recodex/monitor");
        std::fs::create_dir_all(&directory).expect("it is ours");
        write(directory.join("config.yml"), config).expect("it is ours");
    }
    let etc = etc.to_str().expect("UTF-8");
    let unshare = ["unshare", "-m", "--propagation", "private"];
    if !run_words(&[&unshare[..], &["true"]].concat()).status.success() {
        skipped("needs the right to make mount namespaces");
        return None;
    }
    Some(machine.check_with(&[&unshare[..], &["sh", "-c", SCRIPT, etc, "-", PROGRAM, "check"]].concat()))
}

#[test]
fn without_a_configuration_the_packages_one_is_checked_where_it_is() {
    let Some((status, out, err)) = check_the_default(Some(PORTS)) else { return };
    assert_eq!(status, 0, "{out}{err}");
    assert!(has_line(&out, "ok", &["configuration: /etc/recodex/monitor/config.yml", "no file is named"]), "{out}");
    assert!(!out.contains("4567"), "{out}");
}

#[test]
fn without_any_configuration_the_defaults_are_checked() {
    let Some((_, out, err)) = check_the_default(None) else { return };
    assert!(
        has_line(&out, "ok", &["configuration: no file is named", "/etc/recodex/monitor/config.yml"]),
        "{out}{err}"
    );
    assert!(out.contains("websocket_uri: 127.0.0.1:4567"), "{out}{err}");
}

#[test]
fn the_first_line_says_as_whom_and_why() {
    if !is_root() {
        let (_, out, _) = check(PORTS);
        assert!(first_line(&out).contains("only root can check as nobody"), "{out}");
        return;
    }
    let line = |machine: &Machine| first_line(&machine.check(PORTS).1).to_owned();
    assert_eq!(line(&Machine::with_unit(&[])), "checked as user nobody, the user of recodex-monitor.service");
    let configured = "checked as user nobody, the user in the configuration: ";
    let machine = Machine::new();
    assert_eq!(line(&machine), format!("{configured}there is no recodex-monitor.service here"));
    machine.answers("systemctl", "LoadState=masked\n");
    assert_eq!(line(&machine), format!("{configured}recodex-monitor.service is masked"));
    machine.does("systemctl", "echo 'System has not been booted with systemd' >&2; exit 1");
    assert!(line(&machine).starts_with(&format!("{configured}systemctl knows no units")));
    machine.does("systemctl", "/bin/cat /dev/zero");
    assert!(line(&machine).contains("the answer of systemctl cannot be read"));
    let as_root = line(&Machine::with_unit(&[("User=nobody", "User=")]));
    assert!(
        as_root.starts_with(
            "checked as user nobody, the user in the configuration: recodex-monitor.service starts the monitor as root"
        ),
        "{as_root}"
    );
}

#[test]
fn a_service_manager_that_hangs_is_not_waited_for() {
    let machine = Machine::new();
    machine.does("systemctl", "exec /bin/sleep 1000");
    let (status, out, err) = machine.check(PORTS);
    assert_eq!(status, 0, "{out}{err}");
    assert!(first_line(&out).contains("systemctl did not answer within 5 s"), "{out}");
}

#[test]
fn a_user_of_the_unit_that_is_not_there_fails_and_that_of_the_configuration_does_not_matter() {
    if !is_root() {
        return;
    }
    let elsewhere = PORTS.replace("nobody", "no-such-user");
    Machine::with_unit(&[]).passes(&elsewhere, "ok", &["user: nobody"]);
    let machine = Machine::with_unit(&[("User=nobody", "User=no-such-user")]);
    machine.fails(PORTS, 77, &["user: ", "there is no user \"no-such-user\"", "217/USER"]);
    let machine = Machine::with_unit(&[("Group=\n", "Group=no-such-group\n")]);
    machine.fails(PORTS, 77, &["user: ", "there is no group \"no-such-group\"", "216/GROUP"]);
    let machine = Machine::with_unit(&[("User=nobody", "User=no-such-user"), ("DynamicUser=no", "DynamicUser=yes")]);
    machine.passes(PORTS, "warning", &["user: ", "DynamicUser=yes"]);
}

#[test]
fn a_key_that_only_root_can_read_fails_unless_a_group_or_the_service_manager_has_it() {
    if !is_root() {
        return;
    }
    let machine = Machine::with_unit(&[]);
    let tls = certificate(&machine, ["tls.crt", "tls.key"]);
    let config = format!("{PORTS}{tls}");
    machine.fails(&config, 78, &["tls: ", "tls.key", "Permission denied", "chgrp", "LoadCredential="]);
    Machine::new().fails(&config, 78, &["tls: ", "tls.key", "Permission denied", "chgrp"]);

    let unit = read_to_string(machine.path("systemctl.answer")).expect("it is there");
    machine.answers("systemctl", &unit.replace("SupplementaryGroups=", "SupplementaryGroups=daemon"));
    let daemon = nix::unistd::Group::from_name("daemon").expect("it can be asked").expect("every system has it");
    chown(machine.path("tls.key"), None, Some(daemon.gid.as_raw())).expect("root may");
    set_permissions(machine.path("tls.key"), Permissions::from_mode(0o640)).expect("it is ours");
    machine.passes(&config, "ok", &["tls: ", "its key fits"]);

    set_permissions(machine.path("tls.key"), Permissions::from_mode(0o600)).expect("it is ours");
    let [certificate, key] = ["tls.crt", "tls.key"].map(|name| machine.path(name));
    let credentials = format!("a(ss) 2 \"key\" \"{}\" \"certificate\" \"{}\"", key.display(), certificate.display());
    machine.answers("busctl", &format!("{credentials}\na(say) 0\na(ss) 0\na(say) 0\n"));
    machine.passes(&format!("{PORTS}tls: {{certificate: certificate, key: key}}\n"), "ok", &["tls: ", "its key fits"]);
    let other = format!("{PORTS}tls: {{certificate: certificate, key: other}}\n");
    machine.fails(&other, 78, &["tls.key: other", "no credential of this name", "LoadCredential=other:"]);
}

#[test]
fn a_port_below_1024_fails_unless_the_unit_has_the_capability() {
    let first = read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if first.is_ok_and(|first| first.trim() != "1024") {
        return skipped("needs ports that only root may bind");
    }
    let config = PORTS.replacen("0]", "443]", 1);
    Machine::with_unit(&[]).fails(
        &config,
        77,
        &["websocket_uri: ", "127.0.0.1:443", "AmbientCapabilities=CAP_NET_BIND_SERVICE"],
    );
    let machine = Machine::with_unit(&[
        ("AmbientCapabilities=", "AmbientCapabilities=cap_net_bind_service"),
        ("CapabilityBoundingSet=", "CapabilityBoundingSet=cap_net_bind_service"),
        ("PrivateUsers=yes", "PrivateUsers=no"),
        ("SystemCallFilter=accept bind", "SystemCallFilter=accept bind capset"),
    ]);
    // Whether it is free is another matter.
    let (_, out, _) = machine.check(&config);
    assert!(out.contains("websocket_uri: 127.0.0.1:443") && !out.contains("may not bind"), "{out}");
}

#[test]
fn an_interface_that_the_service_may_not_look_up_is_told_with_the_drop_in_that_helps() {
    let config = PORTS.replace("zeromq_uri: [\"127.0.0.1\"", "zeromq_uri: [\"lo\"");
    let families = |list: &str| format!("LogsDirectory=recodex\nRestrictAddressFamilies={list}");
    let refusing = families("AF_INET AF_INET6 AF_UNIX");
    Machine::with_unit(&[("LogsDirectory=recodex", &refusing)]).fails(
        &config,
        69,
        &["zeromq_uri: ", "write that address, 127.0.0.1", "RestrictAddressFamilies=AF_NETLINK"],
    );
    let allowing = families("AF_INET AF_INET6 AF_NETLINK AF_UNIX");
    let (_, out, _) = Machine::with_unit(&[("LogsDirectory=recodex", &allowing)]).check(&config);
    assert!(out.contains("zeromq_uri: 127.0.0.1:") && !out.contains("AF_NETLINK"), "{out}");
}

#[test]
fn what_is_to_be_written_outside_of_the_units_paths_is_told_with_the_drop_in_that_helps() {
    let directory = open_directory();
    let shown = directory.path().display();
    let unix = PORTS.replace("[\"127.0.0.1\", 0]\nzeromq", &format!("\"unix:{shown}/monitor.sock\"\nzeromq"));
    for (config, about, status) in [
        (format!("{PORTS}history: {{state: {shown}/state}}\n"), "history.state: ", 0),
        (format!("{PORTS}logger: {{file: {shown}/monitor.log}}\n"), "logger: ", 78),
        (unix, "websocket_uri: ", 69),
    ] {
        let drop_in = format!("ReadWritePaths={shown}");
        let words = [about, "ProtectSystem=strict", "systemctl edit", &drop_in];
        match status {
            0 => Machine::with_unit(&[]).passes(&config, "warning", &words),
            _ => Machine::with_unit(&[]).fails(&config, status, &words),
        }
        let machine = Machine::with_unit(&[("ReadWritePaths=", &drop_in)]);
        machine.passes(&config, "ok", &[about]);
        let private = Machine::with_unit(&[("PrivateTmp=no", "PrivateTmp=yes"), ("ReadWritePaths=", &drop_in)]);
        let (_, out, _) = private.check(&config);
        if directory.path().starts_with("/tmp") {
            assert!(
                has_line(
                    &out,
                    if about == "websocket_uri: " { "FAILED" } else { "warning" },
                    &[about, "PrivateTmp=yes"]
                ),
                "{out}"
            );
        }
    }
    let packaged = format!("{PORTS}logger: {{file: /var/log/recodex/monitor.log}}\n");
    if !Path::new("/var/log/recodex").exists() {
        // An administrator's unit may still have LogsDirectory=, with which the service manager makes it.
        Machine::with_unit(&[]).passes(&packaged, "ok", &["logger: ", "can be created"]);
        let ours = [("LogsDirectory=recodex\n", ""), ("ReadWritePaths=", "ReadWritePaths=-/var/log/recodex")];
        let command = ["`install -d -o nobody -g ", " -m 0755 /var/log/recodex`"];
        Machine::with_unit(&ours).fails(&packaged, 78, &["logger: ", "no such directory", command[0], command[1]]);
    }
    let missing = Machine::with_unit(&[("ReadWritePaths=", "ReadWritePaths=/no/such/path")]);
    missing.fails(PORTS, 78, &["service: ", "/no/such/path", "226/NAMESPACE"]);
}

#[test]
fn no_directory_is_promised_that_not_even_the_service_manager_can_make() {
    if !is_root() {
        return;
    }
    let unshare = ["unshare", "-m", "--propagation", "private"];
    if !run_words(&[&unshare[..], &["true"]].concat()).status.success() {
        return skipped("needs the right to make mount namespaces");
    }
    let machine = Machine::with_unit(&[]);
    let history = "history: {state: /var/log/recodex/state}\n";
    write(machine.config(), format!("{PORTS}logger: {{file: /var/log/recodex/monitor.log}}\n{history}"))
        .expect("it is ours");
    let config = machine.config();
    let check = |prepare: &str| {
        let script = format!("mount -t tmpfs tmpfs /var/log && {prepare} && exec \"$@\"");
        let program = ["sh", "-c", &script, "-", PROGRAM, "check", "-c", config.to_str().expect("UTF-8")];
        machine.check_with(&[&unshare[..], &program].concat())
    };
    let (status, out, err) = check("true");
    assert!(status == 0 && has_line(&out, "ok", &["logger: ", "can be created"]), "{out}{err}");
    let read_only = "mount -o remount,ro /var/log";
    for (prepare, why) in [
        (read_only, "mounted read-only"),
        (&format!("mkdir /var/log/recodex && {read_only}"), "mounted read-only"),
        ("ln -s none /var/log/recodex", "a link to nothing"),
    ] {
        let (status, out, err) = check(prepare);
        assert!(has_line(&out, "FAILED", &["logger: /var/log/recodex: ", why]), "{prepare}: {out}{err}");
        assert!(has_line(&out, "warning", &["history.state: ", why, "lost at a stop"]), "{prepare}: {out}{err}");
        assert_eq!(status, 78, "{prepare}: {out}{err}");
    }
}

#[test]
fn a_unit_that_is_used_in_place_of_the_packaged_one_is_a_warning() {
    if !is_root() {
        return;
    }
    let unshare = ["unshare", "-m", "--propagation", "private"];
    let etc = Path::new("/etc/systemd/system");
    if !etc.is_dir() || !run_words(&[&unshare[..], &["true"]].concat()).status.success() {
        return skipped("needs systemd's directories and the right to make mount namespaces");
    }
    let used = "LoadState=loaded\nFragmentPath=/etc/systemd/system/recodex-monitor.service";
    let machine = Machine::with_unit(&[("LoadState=loaded", used)]);
    write(machine.config(), PORTS).expect("it is ours");
    let config = machine.config();
    let check = |prepare: &str| {
        let script = format!(
            "cd /etc/systemd/system && mount -t tmpfs tmpfs . && cd . && mount -t tmpfs tmpfs /usr/lib/systemd/system && cd \"$PWD\" && \
             {prepare} && exec \"$@\""
        );
        let program = ["sh", "-c", &script, "-", PROGRAM, "check", "-c", config.to_str().expect("UTF-8")];
        machine.check_with(&[&unshare[..], &program].concat())
    };
    let packaged = "/usr/lib/systemd/system/recodex-monitor.service";
    let words = ["service: ", "uses /etc/systemd/system/recodex-monitor.service, and not ", packaged, "(rm)"];
    for (prepare, is_shadowed) in [
        (format!("touch recodex-monitor.service {packaged}"), true),
        ("touch recodex-monitor.service".into(), false),
        (format!("touch {packaged} && ln -s {packaged} recodex-monitor.service"), false),
    ] {
        let (status, out, err) = check(&prepare);
        assert_eq!(has_line(&out, "warning", &words), is_shadowed, "{prepare}: {out}{err}");
        assert_eq!(status, 0, "{prepare}: {out}{err}");
    }
}

#[test]
fn a_service_whose_protection_could_not_be_set_up_is_led_to_the_drop_in_for_containers() {
    let ended = |status: &str| Machine::with_unit(&[("MainPID=0", &format!("MainPID=0\nExecMainStatus={status}"))]);
    let helps = "\"Containers\", has the drop-in that helps";
    ended("226").passes(PORTS, "warning", &["service: ", "226/NAMESPACE", "container", helps]);
    ended("217").passes(PORTS, "warning", &["service: ", "217/USER", "PrivateUsers=yes", helps]);
    let (_, out, _) = ended("78").check(PORTS);
    assert!(!out.contains("ontainer"), "{out}");
}

#[test]
fn a_unit_that_systemd_does_not_start_is_said_to_be_so() {
    let machine = Machine::new();
    machine.answers("systemctl", "LoadState=masked\n");
    machine.passes(PORTS, "warning", &["service: ", "is masked", "systemctl unmask recodex-monitor"]);
    machine.answers("systemctl", "LoadState=bad-setting\n");
    machine.fails(PORTS, 78, &["service: ", "bad-setting", "systemctl status recodex-monitor"]);
}

#[test]
fn a_configuration_that_the_services_user_cannot_read_fails() {
    if !is_root() {
        return;
    }
    let machine = Machine::with_unit(&[]);
    write(machine.config(), PORTS).expect("it is ours");
    set_permissions(machine.config(), Permissions::from_mode(0o600)).expect("it is ours");
    machine.fails(PORTS, 78, &["configuration: ", "Permission denied", "chgrp"]);
    machine.answers("systemctl", "LoadState=not-found\n");
    machine.passes(PORTS, "warning", &["configuration: ", "Permission denied", "a reload cannot"]);
}

#[test]
fn a_service_that_reads_another_configuration_is_a_warning() {
    let (_directory, other) = temporary("other.yml", PORTS);
    let other = other.to_str().expect("UTF-8");
    Machine::with_unit(&[("CONFIG", other)]).passes(PORTS, "warning", &["service: ", "reads", other, "-c"]);
    Machine::with_unit(&[(" -c CONFIG", "")]).passes(PORTS, "warning", &["service: ", "reads no configuration"]);
    let changed = Machine::with_unit(&[("NeedDaemonReload=no", "NeedDaemonReload=yes")]);
    changed.passes(PORTS, "warning", &["service: ", "systemctl daemon-reload"]);
    let few = Machine::with_unit(&[("LimitNOFILE=131072", "LimitNOFILE=1000")]);
    few.passes(&format!("{PORTS}clients: {{max: 999}}\n"), "warning", &["clients: ", "only 1000 files may be open"]);
    few.passes(PORTS, "ok", &["clients: max is 848, and 1000 files may be open"]);
}

/// A copy of the program.
fn copy_of_the_program(machine: &Machine, name: &str) -> String {
    let path = machine.path(name);
    let path = path.to_str().expect("UTF-8").to_owned();
    make_program(&["cp", PROGRAM, &path]);
    path
}

/// Starts a monitor from a copy of the program.
fn start_copy(program: &str, config: &str) -> (Monitor, String) {
    const SCRIPT: &str = "shift; exec \"$0\" \"$@\"";
    let monitor = Monitor::start_through(&["sh", "-c", SCRIPT, program], common::Host::default(), config);
    let ports = format!(
        "websocket_uri: [\"127.0.0.1\", {}]\nzeromq_uri: [\"127.0.0.1\", 0]\nuser: nobody\n",
        monitor.viewers.port()
    );
    (monitor, ports)
}

#[test]
fn a_process_that_only_calls_itself_the_monitor_is_a_stranger() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    // Its name is the monitor's, and its user too; but its program is another file.
    let (monitor, config) = start_copy(&copy_of_the_program(&machine, "recodex-monitor"), "");
    let process = format!("is held by recodex-monitor (process {})", monitor.pid());
    machine.fails(&config, 69, &["websocket_uri: ", &process, "end it, or name another port"]);
    // This is the monitor's program, but another user's.
    let monitor = Monitor::start("user: daemon\n");
    let config = format!(
        "websocket_uri: [\"127.0.0.1\", {}]\n{}",
        monitor.viewers.port(),
        &PORTS[PORTS.find("zeromq").expect("it is there")..]
    );
    machine.fails(&config, 69, &["websocket_uri: ", &format!("(process {})", monitor.pid()), "end it"]);
}

#[test]
fn a_monitor_whose_program_was_replaced_is_known() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    let program = copy_of_the_program(&machine, "recodex-monitor");
    let (monitor, config) = start_copy(&program, "");
    rename(copy_of_the_program(&machine, "new"), &program).expect("it is ours");
    write(machine.config(), config).expect("it is ours");
    let (status, out, err) = machine.check_by(&program);
    assert_eq!(status, 0, "{out}{err}");
    assert!(out.contains(&format!("is held by the monitor that runs (process {})", monitor.pid())), "{out}");
}

#[test]
fn with_a_unit_only_its_main_process_is_the_monitor() {
    if !is_root() {
        return;
    }
    let (monitor, config) = start_copy(PROGRAM, "");
    let machine = Machine::with_unit(&[("MainPID=0", &format!("MainPID={}", monitor.pid()))]);
    let held = format!("is held by the monitor that runs (process {})", monitor.pid());
    machine.passes(&config, "ok", &["websocket_uri: ", &held]);
    let words = ["websocket_uri: ", "not the main process of recodex-monitor.service", "end it"];
    Machine::with_unit(&[]).fails(&config, 69, &words);
}

#[test]
fn a_unix_socket_that_the_monitor_holds_is_as_it_should_be() {
    let directory = open_directory();
    let path = directory.path().join("monitor.sock");
    let monitor = Monitor::start_unix(&path, "");
    let config = format!("websocket_uri: \"unix:{}\"\nzeromq_uri: [\"127.0.0.1\", 0]\nuser: nobody\n", path.display());
    let held = format!("is held by the monitor that runs (process {})", monitor.pid());
    if is_root() {
        Machine::new().passes(&config, "ok", &["websocket_uri: unix:", &held]);
        Machine::with_unit(&[("ReadWritePaths=", &format!("ReadWritePaths={}", directory.path().display()))]).fails(
            &config,
            69,
            &["websocket_uri: unix:", "not the main process"],
        );
    }
}

/// A directory of root's in which a test puts what is in the way: `own` in it is the user's, `open` is as `/tmp`.
struct Scene {
    directory: PathBuf,
    /// Sockets at which somebody listens.
    listeners: Vec<UnixListener>,
    /// A socket of another type.
    datagrams: Option<UnixDatagram>,
}

impl Scene {
    fn new(directory: PathBuf) -> Self {
        for (name, mode) in [("", 0o755), ("own", 0o755), ("open", 0o1777)] {
            create_dir(directory.join(name)).expect("it is new");
            set_permissions(directory.join(name), Permissions::from_mode(mode)).expect("it is ours");
        }
        give(&directory.join("own"), RECODEX);
        Self { directory, listeners: Vec::new(), datagrams: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes a file of the user's.
    fn file(&self, name: &str) {
        write(self.path(name), "").expect("it is ours");
        give(&self.path(name), RECODEX);
    }

    fn link(&self, name: &str, target: &str) {
        let target = if target.starts_with("..") { self.path(&target[3..]) } else { target.into() };
        symlink(target, self.path(name)).expect("it is ours");
    }

    /// Makes a socket of root's at which nobody listens.
    fn stale(&self, name: &str) {
        UnixListener::bind(self.path(name)).expect("it is ours");
    }

    /// The line of the configuration that names the log.
    fn log(&self, name: &str) -> String {
        format!("logger: {{file: \"{}/{name}\"}}\n", self.directory.display())
    }

    fn unix(&self, name: &str) -> String {
        format!("websocket_uri: \"unix:{}/{name}\"\n", self.directory.display())
    }

    /// The line of the configuration for a socket whose path has so many bytes.
    fn long_unix(&self, length: usize) -> String {
        let left = length - self.path("own/").as_os_str().len();
        self.unix(&format!("own/{}", "s".repeat(left)))
    }

    fn history(&self, name: &str) -> String {
        format!("history: {{state: \"{}/{name}\"}}\n", self.directory.display())
    }

    /// All that is in the directory.
    fn content(&self) -> Vec<PathBuf> {
        let list = |path: &Path| -> Vec<PathBuf> {
            read_dir(path).expect("root may").map(|entry| entry.expect("it can be read").path()).collect()
        };
        let mut all: Vec<_> = ["", "own", "open"].iter().flat_map(|name| list(&self.path(name))).collect();
        all.sort();
        all
    }
}

/// What is in the way, made in a scene; returns lines of the configuration.
type Arrange = fn(&mut Scene) -> String;

/// What may be in the way of a start, with the status of the start, or none where that depends on the machine.
const SITUATIONS: &[(&str, Option<i32>, Arrange)] = &[
    ("nothing", Some(0), |_| String::new()),
    // The log
    ("a new log", Some(0), |scene| scene.log("own/log")),
    ("a log in root's directory", Some(78), |scene| scene.log("log")),
    ("a log in a missing directory", Some(78), |scene| scene.log("own/none/log")),
    ("a log of the user's in root's directory", Some(0), |scene| {
        scene.file("log");
        scene.log("log")
    }),
    ("a log of root's in the user's directory", Some(78), |scene| {
        write(scene.path("own/log"), "").expect("it is ours");
        scene.log("own/log")
    }),
    ("a log that the user may only read", Some(78), |scene| {
        scene.file("own/log");
        set_permissions(scene.path("own/log"), Permissions::from_mode(0o400)).expect("it is ours");
        scene.log("own/log")
    }),
    ("a log below a file", Some(78), |scene| {
        scene.file("own/file");
        scene.log("own/file/log")
    }),
    ("a link to nothing in the user's directory", Some(0), |scene| {
        scene.link("own/log", "../own/target");
        scene.log("own/log")
    }),
    ("a link to nothing in root's directory", Some(78), |scene| {
        scene.link("own/log", "../target");
        scene.log("own/log")
    }),
    ("a link of root's to nothing in the user's directory", Some(0), |scene| {
        scene.link("log", "../own/target");
        scene.log("log")
    }),
    ("a link of another user's in an open directory", None, |scene| {
        scene.link("open/log", "../own/target");
        lchown(scene.path("open/log"), Some(ALICE), Some(ALICE)).expect("root may");
        scene.log("open/log")
    }),
    ("a link to a missing directory", Some(78), |scene| {
        scene.link("own/log", "/nonexistent/log");
        scene.log("own/log")
    }),
    ("a link to itself", Some(78), |scene| {
        scene.link("own/log", "log");
        scene.log("own/log")
    }),
    ("a FIFO", Some(0), |scene| {
        mkfifo(&scene.path("own/log"), Mode::S_IRWXU).expect("it is ours");
        give(&scene.path("own/log"), RECODEX);
        scene.log("own/log")
    }),
    ("a FIFO of root's", Some(78), |scene| {
        mkfifo(&scene.path("own/log"), Mode::S_IRWXU).expect("it is ours");
        scene.log("own/log")
    }),
    ("a socket for a log", Some(78), |scene| {
        scene.stale("own/log");
        give(&scene.path("own/log"), RECODEX);
        scene.log("own/log")
    }),
    ("a directory for a log", Some(78), |scene| scene.log("own")),
    ("a log with a slash at its end", Some(78), |scene| scene.log("own/log/")),
    ("a log with a dot at its end", Some(78), |scene| scene.log("own/log/.")),
    ("a name of 255 characters", Some(0), |scene| scene.log(&format!("own/{}", "x".repeat(255)))),
    ("a name of 256 characters", Some(78), |scene| scene.log(&format!("own/{}", "x".repeat(256)))),
    ("a log in /proc", Some(78), |_| "logger: {file: /proc/log}\n".into()),
    ("a descriptor that is not open", Some(78), |_| "logger: {file: /proc/self/fd/777}\n".into()),
    ("no terminal", Some(78), |_| "logger: {file: /dev/tty}\n".into()),
    ("the null device", Some(0), |_| "logger: {file: /dev/null}\n".into()),
    ("a journal that may not be there", None, |_| "logger: {output: journald}\n".into()),
    // The saved history
    ("a history in the user's directory", Some(0), |scene| scene.history("own/history")),
    ("a history in root's directory", Some(0), |scene| scene.history("history")),
    ("a history in a missing directory", Some(0), |scene| scene.history("own/none/history")),
    ("a history that is none", Some(78), |scene| {
        write(scene.path("own/history"), "something else").expect("it is ours");
        scene.history("own/history")
    }),
    ("a directory where the history is written", Some(78), |scene| {
        create_dir(scene.path("own/history.new")).expect("it is ours");
        scene.history("own/history")
    }),
    // The Unix socket
    ("a new socket", Some(0), |scene| scene.unix("own/socket")),
    ("a socket in root's directory", Some(77), |scene| scene.unix("socket")),
    ("a socket in a missing directory", Some(69), |scene| scene.unix("own/none/socket")),
    ("a socket below a file", Some(69), |scene| {
        scene.file("own/file");
        scene.unix("own/file/socket")
    }),
    ("a stale socket of the user's", Some(0), |scene| {
        scene.stale("own/socket");
        give(&scene.path("own/socket"), RECODEX);
        scene.unix("own/socket")
    }),
    ("a stale socket of root's in the user's directory", Some(0), |scene| {
        scene.stale("own/socket");
        scene.unix("own/socket")
    }),
    ("a stale socket of root's in an open directory", Some(77), |scene| {
        scene.stale("open/socket");
        scene.unix("open/socket")
    }),
    ("a socket that everybody may use", Some(69), |scene| {
        scene.listeners.push(UnixListener::bind(scene.path("own/socket")).expect("it is ours"));
        open_up(&scene.path("own/socket"));
        scene.unix("own/socket")
    }),
    ("a socket that only root may use", Some(69), |scene| {
        scene.listeners.push(UnixListener::bind(scene.path("own/socket")).expect("it is ours"));
        scene.unix("own/socket")
    }),
    ("a link to a socket", Some(69), |scene| {
        scene.stale("own/real");
        scene.link("own/socket", "real");
        scene.unix("own/socket")
    }),
    ("a file for a socket", Some(69), |scene| {
        scene.file("own/socket");
        scene.unix("own/socket")
    }),
    ("a directory in the place of the new socket", Some(69), |scene| {
        create_dir(scene.path("own/socket.new")).expect("it is ours");
        scene.unix("own/socket")
    }),
    ("a file in the place of the new socket", Some(69), |scene| {
        scene.file("own/socket.new");
        scene.unix("own/socket")
    }),
    ("somebody who listens in the place of the new socket", Some(69), |scene| {
        scene.listeners.push(UnixListener::bind(scene.path("own/socket.new")).expect("it is ours"));
        scene.unix("own/socket")
    }),
    ("a socket for datagrams", Some(69), |scene| {
        scene.datagrams = Some(UnixDatagram::bind(scene.path("own/socket")).expect("it is ours"));
        give(&scene.path("own/socket"), RECODEX);
        scene.unix("own/socket")
    }),
    ("a path of 104 bytes", Some(0), |scene| scene.long_unix(104)),
    ("a path of 107 bytes", Some(0), |scene| scene.long_unix(107)),
    ("a path of 108 bytes", Some(78), |scene| scene.long_unix(108)),
    ("a log where the socket is", Some(78), |scene| scene.log("own/socket") + &scene.unix("own/socket")),
    ("a socket of root's in the place of the new one", Some(77), |scene| {
        scene.stale("open/socket.new");
        scene.unix("open/socket")
    }),
    // Two of them: the first that the start comes to gives the status.
    ("a log and a socket in root's directory", Some(78), |scene| scene.log("log") + &scene.unix("socket")),
];

/// Starts the monitor by way of `words`; returns the status with which it ends, or 0 if it relays.
fn start(words: &[&str]) -> (i32, String) {
    let (_directory, stderr) = temporary("stderr", "");
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&stderr).expect("it is ours"))
        .spawn()
        .expect("it starts");
    let tasks = format!("/proc/{}/task", child.id());
    let ended = until("it relays, or ends", || {
        // The thread of the log is the last thing before it relays.
        let logs =
            |thread: std::fs::DirEntry| read_to_string(thread.path().join("comm")).is_ok_and(|name| name == "log\n");
        let relays = read_dir(&tasks).is_ok_and(|mut threads| threads.any(|thread| thread.is_ok_and(logs)));
        let status = child.try_wait().expect("our child");
        (relays || status.is_some()).then_some(status)
    });
    if ended.is_none() {
        assert!(kill(child.id(), "TERM").success());
    }
    let status = child.wait().expect("our child");
    (status.code().expect("it ends by itself"), read_to_string(&stderr).expect("UTF-8"))
}

#[test]
fn a_check_as_root_has_the_status_of_the_start_whatever_is_in_the_way() {
    let Some(users) = Users::new() else { return };
    let machine = Machine::new();
    let mut wrong = Vec::new();
    for (number, (situation, expected, arrange)) in SITUATIONS.iter().enumerate() {
        let mut scene = Scene::new(machine.path(&number.to_string()));
        let lines = arrange(&mut scene);
        let websocket = if lines.contains("websocket_uri") { "" } else { "websocket_uri: [\"127.0.0.1\", 0]\n" };
        let config = scene.path("config.yml");
        write(&config, format!("zeromq_uri: [\"127.0.0.1\", 0]\n{websocket}user: recodex\n{lines}"))
            .expect("it is ours");
        let before = scene.content();
        // Without a terminal.
        let wrapper: Vec<_> = ["setsid".to_owned()].into_iter().chain(users.wrapper()).collect();
        let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
        let config = config.to_str().expect("UTF-8");
        let (checked, out, err) = machine.check_with(&[&wrapper[..], &[PROGRAM, "check", "-c", config]].concat());
        assert_eq!(scene.content(), before, "a check changes nothing: {situation}");
        let (started, said) = start(&[&wrapper[..], &[PROGRAM, "-c", config]].concat());
        if checked != started || expected.is_some_and(|expected| started != expected) {
            wrong.push(format!(
                "{situation}: check {checked}, start {started}, expected {expected:?}\n{out}{err}{said}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
