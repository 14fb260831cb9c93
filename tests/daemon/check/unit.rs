//! Findings about the systemd unit, with a test program in place of `systemctl`.

use super::{Machine, PORTS, certificate, check, has_line};
use crate::common::{PROGRAM, is_root, open_directory, run_words, skipped, temporary};
use std::fs::{Permissions, create_dir, read_to_string, set_permissions, write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

const UNSHARE: [&str; 4] = ["unshare", "-m", "--propagation", "private"];

/// Returns whether a mount namespace can be made, and says where it cannot.
fn can_mount() -> bool {
    let can = run_words(&[&UNSHARE[..], &["true"]].concat()).status.success();
    if !can {
        skipped("needs the right to make mount namespaces");
    }
    can
}

fn first_line(out: &str) -> &str {
    out.lines().next().expect("it says something")
}

/// Runs a check without a configuration on a machine whose `/etc/recodex` is the test's own: with this file, or without.
fn check_the_default(config: Option<&str>) -> Option<(i32, String, String)> {
    const SCRIPT: &str = "set -e; for file in passwd group nsswitch.conf hosts; do cp /etc/$file \"$0\" 2>/dev/null || :; done; \
                          mount --bind \"$0\" /etc; shift; exec \"$@\"";
    let machine = Machine::new();
    let etc = machine.path("etc");
    create_dir(&etc).expect("it is ours");
    if let Some(config) = config {
        let directory = etc.join("recodex/monitor");
        std::fs::create_dir_all(&directory).expect("it is ours");
        write(directory.join("config.yml"), config).expect("it is ours");
    }
    let etc = etc.to_str().expect("UTF-8");
    if !can_mount() {
        return None;
    }
    Some(machine.check_with(&[&UNSHARE[..], &["sh", "-c", SCRIPT, etc, "-", PROGRAM, "check"]].concat()))
}

#[test]
#[ignore = "needs root"]
fn without_a_configuration_the_packages_one_is_checked_where_it_is() {
    let Some((status, out, err)) = check_the_default(Some(PORTS)) else { return };
    assert_eq!(status, 0, "{out}{err}");
    assert!(has_line(&out, "ok", &["configuration: /etc/recodex/monitor/config.yml", "no file is named"]), "{out}");
    assert!(!out.contains("4567"), "{out}");
}

#[test]
#[ignore = "needs root"]
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
#[ignore = "needs root"]
fn a_user_of_the_unit_that_is_not_there_fails_and_that_of_the_configuration_does_not_matter() {
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
#[ignore = "needs root"]
fn a_key_that_only_root_can_read_fails_unless_a_group_or_the_service_manager_has_it() {
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
    // The port may be in use, which is not tested here.
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
#[ignore = "needs root"]
fn no_directory_is_promised_that_not_even_the_service_manager_can_make() {
    if !can_mount() {
        return;
    }
    let machine = Machine::with_unit(&[]);
    let history = "history: {state: /var/log/recodex/state}\n";
    write(machine.config(), format!("{PORTS}logger: {{file: /var/log/recodex/monitor.log}}\n{history}"))
        .expect("it is ours");
    let config = machine.config();
    let check = |prepare: &str| {
        let script = format!("mount -t tmpfs tmpfs /var/log && {prepare} && exec \"$@\"");
        let program = ["sh", "-c", &script, "-", PROGRAM, "check", "-c", config.to_str().expect("UTF-8")];
        machine.check_with(&[&UNSHARE[..], &program].concat())
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
#[ignore = "needs root"]
fn a_unit_that_is_used_in_place_of_the_packaged_one_is_a_warning() {
    let etc = Path::new("/etc/systemd/system");
    if !etc.is_dir() {
        return skipped("needs systemd's directories");
    }
    if !can_mount() {
        return;
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
        machine.check_with(&[&UNSHARE[..], &program].concat())
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
#[ignore = "needs root"]
fn a_configuration_that_the_services_user_cannot_read_fails() {
    let machine = Machine::with_unit(&[]);
    write(machine.config(), PORTS).expect("it is ours");
    set_permissions(machine.config(), Permissions::from_mode(0o600)).expect("it is ours");
    machine.fails(PORTS, 78, &["configuration: ", "Permission denied", "chgrp"]);
    machine.answers("systemctl", "LoadState=not-found\n");
    machine.passes(PORTS, "warning", &["configuration: ", "Permission denied", "a reload cannot"]);
}

#[test]
fn the_default_socket_of_the_status_listener_is_checked_and_may_be_missing() {
    let socket = "unix:/run/recodex/status.sock";
    Machine::with_unit(&[]).passes(PORTS, "ok", &["status_uri: ", socket]);
    let refused = Machine::with_unit(&[("InaccessiblePaths=", "InaccessiblePaths=-/run/recodex")]);
    refused.passes(PORTS, "warning", &["status_uri: ", "/run/recodex", "runs without a status listener"]);
    refused.fails(&format!("{PORTS}status_uri: '{socket}'\n"), 77, &["status_uri: "]);
    let (_, out, _) = Machine::new().check(PORTS);
    assert!(!out.contains("status_uri"), "without the service there is none: {out}");
    let (_, out, _) = Machine::with_unit(&[]).check(&format!("{PORTS}status_uri: false\n"));
    assert!(!out.contains("status_uri"), "{out}");
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
    few.passes(PORTS, "ok", &["clients: max is 803, and 1000 files may be open"]);
}
