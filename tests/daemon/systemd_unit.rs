//! The unit, user, log directory and configuration that the packages install: they fit the program and each other, and systemd's
//! tools accept them.

use crate::common;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::Parser;
use recodex_monitor::internals::Cli;
use recodex_monitor::internals::config::{Settings, Source};
use recodex_monitor::internals::error::Exit;
use serde_yaml::Value;
use tempfile::TempDir;

const CONFIG: &str = "etc/recodex/monitor/config.yml";
const SERVICE: &str = "usr/lib/systemd/system/recodex-monitor.service";
const TEMPLATE: &str = "usr/lib/systemd/system/recodex-monitor@.service";
const SYSUSERS: &str = "usr/lib/sysusers.d/recodex-monitor.conf";
const TMPFILES: &str = "usr/lib/tmpfiles.d/recodex-monitor.conf";

/// The highest exposure allowed, in tenths, as `systemd-analyze security` rates it.
const EXPOSURE: u32 = 12;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn path(shipped: &str) -> PathBuf {
    root().join("packaging").join(shipped)
}

fn text(shipped: &str) -> String {
    fs::read_to_string(path(shipped)).unwrap_or_else(|e| panic!("{shipped}: {e}"))
}

fn parse(config: &str) -> Settings {
    Settings::parse(Path::new("config.yml"), config.as_bytes()).unwrap_or_else(|e| panic!("{e}"))
}

/// The template unit, whose instances differ in what it passes on: the name.
#[test]
fn the_template_unit_is_the_unit_with_the_name_of_an_instance() {
    let (unit, template) = (text(SERVICE), text(TEMPLATE));
    let plain = template
        .replace(" --instance %i", "")
        .replace(", instance %i:", ":")
        .replace("recodex-monitor@)", "recodex-monitor)");
    assert_eq!(plain, unit);
    let lines: Vec<&str> = template.lines().filter(|line| line.contains("%i")).collect();
    let [description, start, check] = lines[..] else { panic!("{lines:?}") };
    assert!(description.starts_with("Description="));
    let command = start.strip_prefix("ExecStart=").expect("the command");
    assert_eq!(check, format!("ExecReload={command} --check-reload"));
    for command in [command, &check["ExecReload=".len()..]] {
        let words = command.split_whitespace().map(|word| word.replace("%i", "east-1"));
        assert!(Cli::try_parse_from(words).is_ok(), "{command}");
    }
}

/// The settings of the unit, `Section.Key`; those set more than once have several values.
fn unit() -> BTreeMap<String, Vec<String>> {
    let text = text(SERVICE);
    let mut section = "";
    let mut settings = BTreeMap::<String, Vec<String>>::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
            settings.entry(format!("{section}.{key}")).or_default().push(value.to_owned());
        }
    }
    settings
}

/// A setting of the unit that is set once.
fn setting(key: &str) -> String {
    match unit().get(key).map(Vec::as_slice) {
        Some([value]) => value.clone(),
        other => panic!("{key}: {other:?}"),
    }
}

fn seconds(key: &str) -> u64 {
    setting(key).parse().unwrap_or_else(|e| panic!("{key}: {e}"))
}

// The configuration.

/// The shipped file with every key active: in it `#key` is a setting, `# text` is a comment.
fn uncommented() -> String {
    let active = |line: &str| {
        let rest =
            line.trim_start().strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        rest.map_or_else(|| line.to_owned(), |rest| line[..line.len() - rest.len() - 1].to_owned() + rest)
    };
    text(CONFIG).lines().map(|line| active(line) + "\n").collect()
}

fn keys(config: &str) -> BTreeSet<String> {
    fn walk(prefix: &str, value: &Value, keys: &mut BTreeSet<String>) {
        for (key, value) in value.as_mapping().into_iter().flatten() {
            let name = format!("{prefix}{}", key.as_str().expect("keys are words"));
            walk(&format!("{name}."), value, keys);
            keys.insert(name);
        }
    }
    let mut keys = BTreeSet::new();
    walk("", &serde_yaml::from_str(config).expect("it is YAML"), &mut keys);
    keys
}

#[test]
fn the_shipped_config_is_right_and_sets_nothing_but_defaults() {
    assert_eq!(parse(&text(CONFIG)), Settings::default());
    Source::new(path(CONFIG), None).load().expect("it can be read");
}

#[test]
fn active_in_the_shipped_config_are_the_ports_and_the_level() {
    let active = keys(&text(CONFIG));
    let expected = ["clients", "history", "logger", "logger.level", "websocket_uri", "zeromq", "zeromq_uri"];
    assert_eq!(active, expected.map(str::to_owned).into());
}

#[test]
fn the_shipped_config_has_every_key_with_its_default() {
    let all = uncommented();
    // The keys that have no default, and so need a value of their own here. The others of a cluster have theirs.
    let clustered = parse(
        "cluster: {redis: [\"127.0.0.1:6379\"], sentinel: recodex, user: monitor, password_file: /etc/recodex/monitor/redis.password, \
         tls: {ca: /etc/recodex/monitor/redis-ca.pem}}",
    );
    let of_tls = ["tls.certificate", "tls.key"].map(str::to_owned).into();
    assert_eq!(keys(&all), &keys(&clustered.to_yaml()) | &of_tls);
    let mut settings = parse(&all);
    assert_eq!(settings.cluster.take(), clustered.cluster);
    let defaults = Settings::default();
    // These have no default that could be written down.
    assert_eq!(settings.group.take().as_ref(), Some(&defaults.user));
    assert_eq!(settings.logger.file.take().as_deref(), Some(Path::new("/var/log/recodex/monitor.log")));
    assert_eq!(settings.history.state.take().as_deref(), Some(Path::new("/var/lib/recodex-monitor/history")));
    let status = std::mem::take(&mut settings.status_uri);
    assert_eq!(status.endpoint().map(ToString::to_string).as_deref(), Some("unix:/run/recodex/status.sock"));
    let tls = settings.tls.take().expect("it is set");
    let names = ["tls.crt", "tls.key"].map(|name| Path::new("/etc/recodex/monitor").join(name));
    assert_eq!([tls.certificate, tls.key], names);
    let open_files: usize = setting("Service.LimitNOFILE").parse().expect("a number");
    assert_eq!(settings.clients.max, open_files - 197);
    settings.clients.max = defaults.clients.max;
    assert_eq!(settings, defaults);
}

// The unit.

#[test]
fn the_unit_starts_the_program_with_the_shipped_config() {
    let command = setting("Service.ExecStart");
    let words: Vec<&str> = command.split_whitespace().collect();
    assert_eq!(words[0], format!("/usr/bin/{}", env!("CARGO_PKG_NAME")));
    assert!(Cli::try_parse_from(&words).is_ok(), "{command}");
    assert!(words.contains(&format!("/{CONFIG}").as_str()), "{command}");
    assert_eq!(setting("Service.Type"), "notify");
    assert_eq!(setting("Install.WantedBy"), "multi-user.target");
}

#[test]
fn a_reload_first_checks_the_file_that_the_service_reads() {
    let commands = &unit()["Service.ExecReload"];
    let [check, kill] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!(check, &format!("{} --check-reload", setting("Service.ExecStart")));
    assert!(Cli::try_parse_from(check.split_whitespace()).is_ok(), "{check}");
    assert_eq!(kill, "/bin/kill -HUP $MAINPID");
}

#[test]
fn a_restart_is_told_from_a_stop_and_there_is_room_for_what_is_handed_over() {
    assert_eq!(setting("Service.RestartKillSignal"), "SIGUSR2");
    assert!(seconds("Service.FileDescriptorStoreMax") > 2 * 2 * 9);
    assert!(!unit().contains_key("Service.KillSignal"), "SIGTERM, which closes the viewers");
}

#[test]
fn the_manual_pages_the_unit_names_exist() {
    let pages = setting("Unit.Documentation");
    assert!(pages.contains("man:"));
    for page in pages.split_whitespace() {
        let (name, section) = page
            .strip_prefix("man:")
            .and_then(|page| page.strip_suffix(')'))
            .and_then(|page| page.split_once('('))
            .unwrap_or_else(|| panic!("{page}"));
        assert!(root().join("man").join(format!("{name}.{section}")).is_file(), "{page}");
    }
}

#[test]
fn what_a_restart_cannot_mend_is_not_restarted() {
    let listed = setting("Service.RestartPreventExitStatus");
    let listed: BTreeSet<u8> = listed.split_whitespace().map(|status| status.parse().expect("a status")).collect();
    let ours = [Exit::Usage, Exit::NoPermission, Exit::Config].map(|exit| exit as u8);
    assert_eq!(listed, ours.into());
    assert_eq!(setting("Service.Restart"), "on-failure");
}

#[test]
fn the_unit_waits_longer_than_the_monitor_takes() {
    assert!(seconds("Service.TimeoutStopSec") > 5, "stopping may take 5 s");
    assert!(seconds("Service.WatchdogSec") >= 10, "a busy machine must not look like a stuck monitor");
}

#[test]
fn user_and_log_directory_are_the_same_everywhere() {
    let defaults = Settings::default();
    let (user, group) = (setting("Service.User"), setting("Service.Group"));
    assert_eq!((&user, &group), (&defaults.user, &defaults.user));
    let active = |shipped| {
        let text = text(shipped);
        let lines: Vec<String> = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        let [line] = &lines[..] else { panic!("{shipped}: expected one line") };
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(active(SYSUSERS)[..2], ["u", &user]);
    // At a start, systemd would give all of an existing LogsDirectory= to the user.
    assert!(!unit().keys().any(|key| key.starts_with("Service.LogsDirectory")));
    let writable = setting("Service.ReadWritePaths");
    let directory = writable.strip_prefix('-').expect("the service starts without it");
    // With the colons, one that exists stays as it is.
    assert_eq!(active(TMPFILES), ["d", directory, ":0755", &format!(":{user}"), &format!(":{group}"), "-"]);
    // Where `logger.output: file` writes is inside.
    let file = parse(&uncommented()).logger.file.expect("it is set");
    assert_eq!(file.parent(), Some(Path::new(directory)));
}

// systemd's own view.

/// Runs a tool of systemd; `None` where it is not installed, which fails where everything must be.
fn systemd(name: &str, args: &[&str]) -> Option<Output> {
    let output = Command::new(name).args(args).output();
    assert!(
        output.is_ok() || !cfg!(feature = "foreign-tests"),
        "needed, and not installed: {name} (package systemd): {output:?}"
    );
    if output.is_err() {
        common::skipped(&format!("{name} is not installed (package systemd)"));
    }
    output.ok()
}

fn said(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A unit in a file of its own, with a program that exists.
fn copy(directory: &TempDir, shipped: &str) -> String {
    let copy = directory.path().join(Path::new(shipped).file_name().expect("it has a name"));
    let program = env!("CARGO_BIN_EXE_recodex-monitor");
    fs::write(&copy, text(shipped).replace("/usr/bin/recodex-monitor", program)).expect("it can be written");
    copy.to_str().expect("temporary paths are UTF-8").to_owned()
}

fn temporary() -> TempDir {
    tempfile::tempdir().expect("there is a place for temporary files")
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let directory = temporary();
    for shipped in [SERVICE, TEMPLATE] {
        let unit = copy(&directory, shipped);
        // The manual pages are not installed here; that they exist is checked above.
        let Some(output) = systemd("systemd-analyze", &["verify", "--man=no", "--recursive-errors=no", &unit]) else {
            return;
        };
        let is_ours = |line: &&str| line.contains("recodex-monitor.service") || line.contains("recodex-monitor@");
        let about_ours: Vec<String> = said(&output).lines().filter(is_ours).map(str::to_owned).collect();
        assert!(output.status.success() && about_ours.is_empty(), "{}", said(&output));
    }
}

#[test]
fn the_sandbox_leaves_little_exposed() {
    let directory = temporary();
    let unit = copy(&directory, SERVICE);
    let rate = |threshold: u32| {
        let threshold = format!("--threshold={threshold}");
        systemd("systemd-analyze", &["security", "--offline=true", "--no-pager", &threshold, &unit])
    };
    let Some(output) = rate(EXPOSURE) else { return };
    assert!(output.status.success(), "{}", said(&output));
    let none = rate(0).expect("it was there a moment ago");
    assert!(!none.status.success(), "the threshold has no effect: {}", said(&none));
}

#[test]
fn the_user_and_the_log_directory_are_made() {
    let directory = temporary();
    let root = directory.path();
    // Owners can only be given by root; others see that the files are read without complaint.
    let is_root = common::is_root();
    fs::create_dir(root.join("etc")).expect("it can be made");
    let (arg, users, dirs) = (format!("--root={}", root.display()), path(SYSUSERS), path(TMPFILES));
    let (users, dirs) = (users.to_str().expect("UTF-8"), dirs.to_str().expect("UTF-8"));

    let dry: &[&str] = if is_root { &[] } else { &["--dry-run"] };
    let Some(output) = systemd("systemd-sysusers", &[dry, &[&arg, users]].concat()) else { return };
    assert!(output.status.success(), "{}", said(&output));
    if !is_root {
        assert!(said(&output).contains("recodex"), "{}", said(&output));
        return;
    }
    let passwd = fs::read_to_string(root.join("etc/passwd")).expect("a user was made");
    let [line] = &passwd.lines().collect::<Vec<_>>()[..] else { panic!("{passwd}") };
    let fields: Vec<&str> = line.split(':').collect();
    assert_eq!(fields[0], "recodex");
    assert!(fields[6].ends_with("/nologin"), "{line}");
    let group = fs::read_to_string(root.join("etc/group")).expect("a group was made");
    assert!(group.starts_with("recodex:") && group.lines().count() == 1, "{group}");

    let create = || {
        let output = systemd("systemd-tmpfiles", &["--create", &arg, dirs]).expect("it comes with systemd-sysusers");
        assert!(output.status.success(), "{}", said(&output));
        let found = fs::metadata(root.join("var/log/recodex")).expect("the log directory is there");
        (found.permissions().mode() & 0o7777, found.uid(), found.gid())
    };
    let id = |field: &str| field.parse::<u32>().expect("an id");
    assert_eq!(create(), (0o755, id(fields[2]), id(fields[3])));
    // One that exists keeps its mode and owner.
    fs::set_permissions(root.join("var/log/recodex"), fs::Permissions::from_mode(0o2770)).expect("root may");
    std::os::unix::fs::chown(root.join("var/log/recodex"), Some(0), Some(4)).expect("root may");
    assert_eq!(create(), (0o2770, 0, 4));
}
