//! The installed unit, as the service manager describes it.

use super::command::answer_of;
use super::report::Finding;
use crate::config::Instance;
use crate::error::Exit;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The unit without instances.
const UNIT: &str = "recodex-monitor.service";
/// The file of the unit with instances.
const TEMPLATE: &str = "recodex-monitor@.service";

const PROPERTIES: &str = "LoadState,FragmentPath,NeedDaemonReload,MainPID,ExecMainStatus,ExecStart,User,Group,SupplementaryGroups,DynamicUser,\
    AmbientCapabilities,CapabilityBoundingSet,PrivateUsers,SystemCallFilter,LimitNOFILE,RootDirectory,RootImage,ProtectSystem,\
    ProtectHome,PrivateTmp,ReadWritePaths,ReadOnlyPaths,InaccessiblePaths,BindPaths,BindReadOnlyPaths,TemporaryFileSystem,\
    RestrictAddressFamilies,RuntimeDirectory,StateDirectory,CacheDirectory,LogsDirectory,ImportCredential";

/// The directories of unit files. The first one with the unit counts; drop-ins are added.
const DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The installed unit. A property that the service manager does not know is empty.
#[derive(Debug, Default)]
pub(super) struct Unit {
    /// Its name, with that of the instance.
    pub(super) name: String,
    properties: HashMap<String, String>,
}

/// The configuration that a service reads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Configuration {
    /// This file.
    File(PathBuf),
    /// No file: every key has its default.
    Defaults,
    /// The command line cannot be understood.
    Unknown,
}

/// The reason why there is no unit that could be started.
#[derive(Debug)]
pub(super) struct NoUnit {
    /// The reason, as a clause.
    pub(super) why: String,
    /// Advice for a unit that exists but cannot be started.
    pub(super) finding: Option<Finding>,
}

impl From<String> for NoUnit {
    fn from(why: String) -> Self {
        Self { why, finding: None }
    }
}

/// Asks the service manager for the installed unit, or for that of an instance.
pub(super) fn installed(instance: Option<&Instance>) -> Result<Unit, NoUnit> {
    let name = instance.map_or_else(|| UNIT.into(), |instance| format!("recodex-monitor@{}.service", instance.name()));
    let answer = answer_of(Command::new("systemctl").args(["show", "--no-pager", "-p", PROPERTIES, &name]))?;
    let unit = Unit { name, ..Unit::parse(&answer) };
    let name = &unit.name;
    match unit.get("LoadState") {
        "loaded" => Ok(unit),
        "not-found" => Err(format!("there is no {name} here").into()),
        "masked" => {
            let why = format!("{name} is masked");
            let what = format!("{why}, so that it cannot be started; to undo this: `systemctl unmask {name}`");
            Err(NoUnit { why, finding: Some(Finding::Warning(what)) })
        }
        "" => Err("systemctl knows no units (does systemd run here?)".to_owned().into()),
        state => {
            let why = format!("{name} cannot be loaded ({state})");
            let what = format!("{why}, so that it cannot be started; `systemctl status {name}` says what is wrong");
            Err(NoUnit { why, finding: Some(Finding::Failed(Exit::Config, what)) })
        }
    }
}

impl Unit {
    pub(super) fn parse(answer: &str) -> Self {
        let properties = answer.lines().filter_map(|line| line.split_once('='));
        Self {
            name: UNIT.into(),
            properties: properties.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        }
    }

    /// Returns the value of a property.
    pub(super) fn get(&self, property: &str) -> &str {
        self.properties.get(property).map_or("", String::as_str)
    }

    /// Returns the values of a property that is a list.
    pub(super) fn list(&self, property: &str) -> Vec<String> {
        words(self.get(property)).into_iter().map(|(word, _)| word).collect()
    }

    /// Returns true if a property is on.
    pub(super) fn is_on(&self, property: &str) -> bool {
        self.get(property) == "yes"
    }

    /// Returns the file of the unit, and another file of the same name that systemd ignores because of it.
    pub(super) fn shadowed(&self) -> Option<(&Path, PathBuf)> {
        let used = Path::new(self.get("FragmentPath"));
        let real = used.canonicalize().ok()?;
        let file = if self.name == UNIT { UNIT } else { TEMPLATE };
        let rank = DIRECTORIES.iter().position(|directory| used.parent() == Some(Path::new(directory)))?;
        let others = DIRECTORIES[rank + 1..].iter().map(|directory| Path::new(directory).join(file));
        // One directory may be a link to another one.
        let is_other = |path: &PathBuf| path.canonicalize().is_ok_and(|path| path != real);
        others.into_iter().find(is_other).map(|other| (used, other))
    }

    /// Returns the reason, as a clause, if the service manager could not set up the unit's protection at the last start.
    pub(super) fn unprotected(&self) -> Option<&'static str> {
        match self.get("ExecMainStatus") {
            "226" => Some(
                "the last start ended with 226/NAMESPACE, so systemd could not set up the unit's protection (ProtectSystem= and its like)",
            ),
            "217" if self.is_on("PrivateUsers") => Some(
                "the last start ended with 217/USER, so the user was not there, or systemd could not set up PrivateUsers=yes",
            ),
            _ => None,
        }
    }

    /// Returns the user that the service manager starts the monitor as; `None` for root.
    pub(super) fn user(&self) -> Option<&str> {
        Some(self.get("User")).filter(|user| !matches!(*user, "" | "root" | "0"))
    }

    /// Returns the service's main process, if it runs.
    pub(super) fn main_pid(&self) -> Option<u32> {
        self.get("MainPID").parse().ok().filter(|pid| *pid > 0)
    }

    /// Returns the first runtime directory, which the service manager makes for the service.
    pub(super) fn runtime_directory(&self) -> Option<PathBuf> {
        self.list("RuntimeDirectory").first().map(|name| Path::new("/run").join(name))
    }

    /// Returns the limit of open files, if there is one.
    pub(super) fn open_files(&self) -> Option<u64> {
        self.get("LimitNOFILE").parse().ok()
    }

    /// Returns the configuration that the service reads.
    pub(super) fn configuration(&self) -> Configuration {
        let Some((_, command)) = self.get("ExecStart").split_once("argv[]=") else { return Configuration::Unknown };
        let command = command.split(" ; ").next().unwrap_or_default();
        let mut arguments = command.split_whitespace().skip(1);
        while let Some(argument) = arguments.next() {
            let value = match argument {
                "-c" | "--config" => arguments.next(),
                _ => argument.strip_prefix("--config=").or_else(|| argument.strip_prefix("-c")),
            };
            if let Some(value) = value {
                return Configuration::File(value.into());
            }
        }
        Configuration::Defaults
    }

    /// Returns the setting that prevents the service from binding a port below 1024, if there is one.
    pub(super) fn refuses_low_ports(&self) -> Option<&'static str> {
        let has = |set: &str| self.list(set).iter().any(|capability| capability == "cap_net_bind_service");
        if self.user().is_some() && !has("AmbientCapabilities") {
            return Some("AmbientCapabilities= has no CAP_NET_BIND_SERVICE");
        }
        if !has("CapabilityBoundingSet") {
            return Some("CapabilityBoundingSet= has no CAP_NET_BIND_SERVICE");
        }
        if self.is_on("PrivateUsers") {
            return Some("PrivateUsers=yes");
        }
        // The monitor gives the capability up once its ports are bound, and exits if it cannot.
        (!self.allows_call("capset")).then_some("SystemCallFilter= has no capset")
    }

    /// Returns true if the service may have sockets of an address family.
    pub(super) fn allows_family(&self, family: &str) -> bool {
        self.allows("RestrictAddressFamilies", family)
    }

    fn allows_call(&self, call: &str) -> bool {
        self.allows("SystemCallFilter", call)
    }

    /// Returns true if a list allows `what`. After a `~` the list names the refused values. An empty list allows everything.
    fn allows(&self, property: &str, what: &str) -> bool {
        let filter = self.get(property);
        let named = |list: &str| list.split_whitespace().any(|word| word == what);
        match filter.strip_prefix('~') {
            Some(refused) => !named(refused),
            None => filter.is_empty() || named(filter),
        }
    }
}

/// Splits a list as systemd prints it: at spaces, but not within quotes; a backslash takes the special meaning from the next
/// character. Each word comes with true if it was quoted.
pub(super) fn words(text: &str) -> Vec<(String, bool)> {
    let (mut words, mut word) = (Vec::new(), None::<(String, bool)>);
    let (mut quoted, mut chars) = (false, text.chars());
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default().1 = true;
            }
            '\\' => word.get_or_insert_default().0.extend(chars.next()),
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().0.push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_names_its_configuration_in_any_way() {
        let of = |argv: &str| {
            let exec = format!("ExecStart={{ path=/usr/bin/m ; argv[]={argv} ; ignore_errors=no ; pid=0 }}\n");
            Unit::parse(&exec).configuration()
        };
        let file = Configuration::File("/etc/c.yml".into());
        for argv in
            ["/usr/bin/m -c /etc/c.yml", "/usr/bin/m --config /etc/c.yml", "m --config=/etc/c.yml", "m -c/etc/c.yml"]
        {
            assert_eq!(of(argv), file, "{argv}");
        }
        assert_eq!(of("/usr/bin/m"), Configuration::Defaults);
        assert_eq!(of("/usr/bin/m -c"), Configuration::Defaults);
        assert_eq!(Unit::parse("ExecStart=[unprintable]\n").configuration(), Configuration::Unknown);
    }

    #[test]
    fn low_ports_need_the_capability_outside_a_user_namespace_and_the_call_that_gives_it_up() {
        let packaged =
            "User=recodex\nAmbientCapabilities=\nCapabilityBoundingSet=\nPrivateUsers=yes\nSystemCallFilter=bind\n";
        let with = |changes: &[(&str, &str)]| {
            let text = changes.iter().fold(packaged.to_owned(), |text, (from, to)| text.replace(from, to));
            Unit::parse(&text).refuses_low_ports()
        };
        let ambient = ("AmbientCapabilities=", "AmbientCapabilities=cap_chown cap_net_bind_service");
        let bounding = ("CapabilityBoundingSet=", "CapabilityBoundingSet=cap_net_bind_service");
        let users = ("PrivateUsers=yes", "PrivateUsers=no");
        let call = ("SystemCallFilter=bind", "SystemCallFilter=bind capset");
        assert!(with(&[]).is_some_and(|why| why.contains("Ambient")));
        assert!(with(&[ambient]).is_some_and(|why| why.contains("Bounding")));
        assert!(with(&[ambient, bounding]).is_some_and(|why| why.contains("PrivateUsers")));
        assert!(with(&[ambient, bounding, users]).is_some_and(|why| why.contains("capset")));
        assert_eq!(with(&[ambient, bounding, users, call]), None);
        assert_eq!(with(&[ambient, bounding, users, ("=bind", "=~reboot")]), None);
        assert_eq!(with(&[("User=recodex", "User="), bounding, users, call]), None, "root needs no ambient one");
    }

    #[test]
    fn words_are_split_as_systemd_joins_them() {
        let split = |text: &str| words(text).into_iter().map(|(word, _)| word).collect::<Vec<_>>();
        assert_eq!(split(r#""/srv/with space" -/srv/a"#), ["/srv/with space", "-/srv/a"]);
        assert_eq!(split(r#"  a "" b\ c "#), ["a", "", "b c"]);
        assert_eq!(split(r#"a "never closed"#), ["a", "never closed"]);
        assert_eq!(split("\\"), [""]);
    }
}
