//! `recodex-monitor check`: its findings and its advice. It changes nothing.

#[cfg(feature = "foreign-tests")]
mod cluster;
mod configuration;
mod running;
mod start;
mod unit;

use crate::common::{PROGRAM, run_words, unique};
use std::fs::{Permissions, create_dir, rename, set_permissions, write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;

const PORTS: &str = "websocket_uri: [\"127.0.0.1\", 0]\nzeromq_uri: [\"127.0.0.1\", 0]\nuser: nobody\n";

/// The output of `systemctl show` for a unit like the packaged one, but with files in `/tmp` and the user `nobody`.
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
    /// Creates a machine without the unit.
    fn new() -> Self {
        let machine = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        // The monitor's user is to find the way.
        set_permissions(machine.directory.path(), Permissions::from_mode(0o755)).expect("it is ours");
        create_dir(machine.path("bin")).expect("it is ours");
        machine.answers("systemctl", "LoadState=not-found\n");
        machine.answers("busctl", "a(ss) 0\na(say) 0\na(ss) 0\na(say) 0\n");
        machine
    }

    /// Creates a machine with the unit, in which these texts are replaced.
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

    /// Makes a program of this name that prints an answer.
    fn answers(&self, program: &str, answer: &str) {
        write(self.path(&format!("{program}.answer")), answer).expect("it is ours");
        self.does(program, &format!("/bin/cat '{}'", self.path(&format!("{program}.answer")).display()));
    }

    /// Makes a program of this name that runs a script.
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

    /// The same with another copy of the program, for the configuration that exists.
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

fn check(config: &str) -> (i32, String, String) {
    Machine::new().check(config)
}

fn fails(config: &str, status: i32, words: &[&str]) {
    Machine::new().fails(config, status, words);
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
