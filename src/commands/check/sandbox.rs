//! The paths that the service's sandbox lets it see and write, apart from owners and modes.

use super::unit::Unit;
use std::path::{Path, PathBuf};

/// The access of the service to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// It can write there.
    Writable,
    /// It can read there.
    ReadOnly,
    /// It has a private file there, which is removed when it stops.
    Private,
    /// It sees another file there, which the check cannot see.
    Replaced,
    /// It sees no file there.
    Hidden,
}

#[derive(Debug)]
struct Rule {
    at: PathBuf,
    reach: Reach,
    /// The setting it comes from.
    why: String,
}

/// The sandbox of a unit.
#[derive(Debug)]
pub(super) struct Sandbox {
    rules: Vec<Rule>,
    /// Directories that the service manager makes as the service starts, and gives to the service's user.
    made: Vec<PathBuf>,
    /// A directory for lasting files of the service, to name in errors.
    own: Option<PathBuf>,
    /// The missing paths without which the service does not start.
    missing: Vec<(PathBuf, &'static str)>,
}

impl Sandbox {
    pub(super) fn of(unit: &Unit) -> Self {
        let mut sandbox = Self { rules: Vec::new(), made: Vec::new(), own: None, missing: Vec::new() };
        sandbox.protect(unit);
        let listed = [
            ("ReadWritePaths", Reach::Writable),
            ("ReadOnlyPaths", Reach::ReadOnly),
            ("InaccessiblePaths", Reach::Hidden),
        ];
        for (key, reach) in listed {
            for path in unit.list(key) {
                let (path, may_be_missing) = match path.strip_prefix('-') {
                    Some(path) => (path, true),
                    None => (path.as_str(), false),
                };
                let path = path.trim_start_matches('+');
                if !may_be_missing && is_missing(Path::new(path)) {
                    sandbox.missing.push((path.into(), key));
                }
                sandbox.rule(path, reach, format!("{key}={path}"));
            }
        }
        for key in ["BindPaths", "BindReadOnlyPaths"] {
            for path in unit.list(key) {
                let mut parts = path.trim_start_matches('-').split(':');
                let (from, to) = (parts.next().unwrap_or_default(), parts.next());
                sandbox.rule(to.unwrap_or(from), Reach::Replaced, format!("{key}={path}"));
            }
        }
        for path in unit.list("TemporaryFileSystem") {
            let at = path.split(':').next().unwrap_or_default();
            sandbox.rule(at, Reach::Private, format!("TemporaryFileSystem={path}"));
        }
        for (key, at) in [
            ("RuntimeDirectory", "/run"),
            ("StateDirectory", "/var/lib"),
            ("CacheDirectory", "/var/cache"),
            ("LogsDirectory", "/var/log"),
        ] {
            for name in unit.list(key) {
                // `name:link` has a link to it, too.
                let path = Path::new(at).join(name.split(':').next().unwrap_or_default());
                sandbox.rule(&path, Reach::Writable, format!("{key}={name}"));
                sandbox.made.push(path);
            }
        }
        // The first path of the packaged unit's ReadWritePaths= is the log directory; /run is emptied at each boot.
        let written =
            unit.list("ReadWritePaths").first().map(|path| PathBuf::from(path.trim_start_matches(['-', '+'])));
        let lasting = sandbox.made.iter().rev().find(|path| !path.starts_with("/run")).cloned();
        sandbox.own = lasting.or(written).or_else(|| sandbox.made.last().cloned());
        sandbox
    }

    /// Adds the rules of `ProtectSystem=` and its like, see systemd.exec(5).
    fn protect(&mut self, unit: &Unit) {
        let (system, home) = (unit.get("ProtectSystem"), unit.get("ProtectHome"));
        let read_only: &[&str] = match system {
            "strict" => &["/"],
            "full" => &["/usr", "/boot", "/efi", "/etc"],
            "yes" => &["/usr", "/boot", "/efi"],
            _ => &[],
        };
        for path in read_only {
            self.rule(path, Reach::ReadOnly, format!("ProtectSystem={system}"));
        }
        let homes = ["/home", "/root", "/run/user"];
        if system == "strict" {
            for path in ["/dev", "/proc", "/sys"].iter().chain(&homes) {
                self.rule(path, Reach::Writable, format!("ProtectSystem={system}"));
            }
        }
        let reach = match home {
            "yes" => Reach::Hidden,
            "read-only" => Reach::ReadOnly,
            "tmpfs" => Reach::Private,
            _ => Reach::Writable,
        };
        for path in homes.iter().filter(|_| reach != Reach::Writable) {
            self.rule(path, reach, format!("ProtectHome={home}"));
        }
        if unit.is_on("PrivateTmp") {
            for path in ["/tmp", "/var/tmp"] {
                self.rule(path, Reach::Private, "PrivateTmp=yes".into());
            }
        }
        for key in ["RootDirectory", "RootImage"] {
            if !matches!(unit.get(key), "" | "/") {
                self.rule("/", Reach::Replaced, format!("{key}={}", unit.get(key)));
            }
        }
    }

    fn rule(&mut self, at: impl AsRef<Path>, reach: Reach, why: String) {
        self.rules.push(Rule { at: resolve(at.as_ref()), reach, why });
    }

    /// The access of the service to a path, and the setting that says so.
    pub(super) fn reach(&self, path: &Path) -> (Reach, &str) {
        let path = resolve(path);
        let mut rules: Vec<&Rule> = self.rules.iter().filter(|rule| path.starts_with(&rule.at)).collect();
        // From the root down. Of two rules for the same path, the stricter one comes last and holds.
        rules.sort_by_key(|rule| (rule.at.components().count(), rule.reach));
        let mut found = (Reach::Writable, "");
        for rule in rules {
            // Below a path that is hidden or private, only a bind mount gives access again.
            if found.0 < Reach::Private || rule.reach == Reach::Replaced {
                found = (rule.reach, &rule.why);
            }
        }
        found
    }

    /// True if the service manager makes this directory as the service starts.
    pub(super) fn makes(&self, directory: &Path) -> bool {
        self.made.iter().any(|made| made == directory || *made == resolve(directory))
    }

    /// A directory for lasting files of the service, to name in errors.
    pub(super) fn own(&self) -> Option<&Path> {
        self.own.as_deref()
    }

    /// The missing paths without which the service does not start, each with the setting that names it.
    pub(super) fn missing(&self) -> &[(PathBuf, &'static str)] {
        &self.missing
    }
}

fn is_missing(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// The path with its symbolic links resolved, as far as it exists and this user may see it.
fn resolve(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            // Joined with nothing, it would end with a slash.
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(unit: &str, path: &str) -> Reach {
        Sandbox::of(&Unit::parse(unit)).reach(Path::new(path)).0
    }

    const PACKAGED: &str = "ProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\nReadWritePaths=-/var/log/recodex\nRuntimeDirectory=recodex\n";

    #[test]
    fn the_directory_to_name_is_one_whose_files_stay() {
        for (unit, expected) in [
            (PACKAGED, "/var/log/recodex"),
            ("RuntimeDirectory=recodex\nLogsDirectory=recodex\nReadWritePaths=/srv\n", "/var/log/recodex"),
            ("RuntimeDirectory=recodex\n", "/run/recodex"),
        ] {
            assert_eq!(Sandbox::of(&Unit::parse(unit)).own(), Some(Path::new(expected)), "{unit}");
        }
    }

    #[test]
    fn the_service_manager_makes_no_directory_that_is_only_writable() {
        let makes = |unit: &str| Sandbox::of(&Unit::parse(unit)).makes(Path::new("/var/log/recodex"));
        assert!(!makes(PACKAGED));
        assert!(makes("LogsDirectory=recodex\n"));
    }

    #[test]
    fn the_packaged_service_writes_its_own_directories_only() {
        for (path, expected) in [
            ("/var/log/recodex/monitor.log", Reach::Writable),
            ("/run/recodex/monitor.sock", Reach::Writable),
            ("/var/log/recodex2/monitor.log", Reach::ReadOnly),
            ("/srv/x", Reach::ReadOnly),
            ("/etc/recodex/monitor/config.yml", Reach::ReadOnly),
            ("/dev/null", Reach::Writable),
            ("/tmp/x", Reach::Private),
            ("/home/x/y", Reach::Hidden),
            ("/root/tls.key", Reach::Hidden),
        ] {
            assert_eq!(reach(PACKAGED, path), expected, "{path}");
        }
    }

    #[test]
    fn a_drop_in_opens_and_closes_paths() {
        // systemd tells the paths of a drop-in in the same line.
        let with = |line: &str| match line.strip_prefix("ReadWritePaths=") {
            Some(more) => PACKAGED.replace("-/var/log/recodex", &format!("-/var/log/recodex {more}")),
            None => format!("{PACKAGED}{line}\n"),
        };
        let opened = with("ReadWritePaths=\"/srv/with space\" -/srv/a /home/x");
        assert_eq!(reach(&opened, "/srv/with space/state"), Reach::Writable);
        assert_eq!(reach(&opened, "/srv/a"), Reach::Writable);
        assert_eq!(reach(&opened, "/srv/ab"), Reach::ReadOnly);
        assert_eq!(reach(&opened, "/home/x/y"), Reach::Hidden, "what is hidden stays so");
        assert_eq!(reach(&with("InaccessiblePaths=/var/log/recodex/x"), "/var/log/recodex/x/y"), Reach::Hidden);
        assert_eq!(reach(&with("ReadOnlyPaths=/var/log/recodex"), "/var/log/recodex/x"), Reach::ReadOnly);
        assert_eq!(reach(&with("BindPaths=/srv/a:/home/x:rbind"), "/home/x/y"), Reach::Replaced);
        assert_eq!(reach(&with("TemporaryFileSystem=/srv:ro"), "/srv/y"), Reach::Private);
        assert_eq!(reach(&with("RootDirectory=/srv"), "/var/lib/y"), Reach::Replaced);
    }

    #[test]
    fn without_protection_everything_is_writable_but_what_is_said() {
        assert_eq!(reach("", "/etc/x"), Reach::Writable);
        assert_eq!(reach("ProtectSystem=full\nProtectHome=no\n", "/etc/x"), Reach::ReadOnly);
        assert_eq!(reach("ProtectSystem=yes\n", "/etc/x"), Reach::Writable);
        assert_eq!(reach("ProtectSystem=strict\nProtectHome=no\n", "/home/x"), Reach::Writable);
        assert_eq!(reach("ProtectSystem=strict\nProtectHome=read-only\n", "/home/x"), Reach::ReadOnly);
    }

    #[test]
    fn a_path_that_must_be_there_and_is_not_is_found() {
        let unit = Unit::parse("ReadWritePaths=/no/such/path -/none/either /tmp\n");
        assert_eq!(Sandbox::of(&unit).missing(), [(PathBuf::from("/no/such/path"), "ReadWritePaths")]);
    }
}
