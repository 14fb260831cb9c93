//! A start as root, with a configuration and with paths that other users can write.

mod configuration;
mod paths;

use crate::common::users::give;
use crate::common::{self, PROGRAM, Users, kill, open_directory, until};
use std::fs::{File, Permissions, create_dir, read_dir, read_to_string, set_permissions, write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const PORTS: &str = "websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\n";

/// A directory that only root may write to.
fn make(path: &Path) -> PathBuf {
    create_dir(path).expect("a new directory");
    set_permissions(path, Permissions::from_mode(0o755)).expect("it is ours");
    path.to_owned()
}

/// Writes a configuration that belongs to `owner`.
fn configure(path: &Path, owner: u32, config: &str) {
    write(path, format!("{PORTS}{config}")).expect("it is ours");
    set_permissions(path, Permissions::from_mode(0o640)).expect("it is ours");
    give(path, owner);
}

/// Starts the program as root with the configuration at `path`, until it relays or has ended.
fn start(users: &Users, directory: &Path, path: &str) -> Result<Child, (Option<i32>, String)> {
    let stderr = directory.join(format!("stderr-{}", common::unique("of")));
    let words = users.wrapper();
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .args([PROGRAM, "-c", path])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&stderr).expect("it is ours"))
        .spawn()
        .expect("it starts");
    // The ports are told by the log; that all came to its end is seen at the ids.
    let pid = child.id();
    until("it relays, or ends", || {
        if let Some(status) = child.try_wait().expect("our child") {
            return Some(Err((status.code(), read_to_string(&stderr).expect("UTF-8"))));
        }
        let relays = read_to_string(format!("/proc/{pid}/task/{pid}/children")).is_ok()
            && read_to_string(format!("/proc/{pid}/status")).is_ok_and(|text| text.contains("NoNewPrivs:\t1"))
            && listens(pid);
        relays.then_some(Ok(()))
    })
    .map(|()| child)
}

/// Returns true if the process has started its log, which is the last step before it relays.
fn listens(pid: u32) -> bool {
    let Ok(threads) = read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| read_to_string(thread.path().join("comm")).is_ok_and(|name| name == "log\n"))
}

/// A line of numbers in /proc/PID/status.
fn ids(child: &Child, name: &str) -> Vec<u32> {
    let text = read_to_string(format!("/proc/{}/status", child.id())).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).expect("a line of that name");
    line.split_whitespace().map(|id| id.parse().expect("a number")).collect()
}

fn stop(mut child: Child) {
    assert!(kill(child.id(), "TERM").success());
    assert_eq!(until("it ends", || child.try_wait().expect("our child")).code(), Some(0));
}

/// A place for a test: a directory in which everybody may make files, as in `/tmp`, and the users.
struct Place {
    users: Users,
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Option<Self> {
        Some(Self { users: Users::new()?, directory: open_directory() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A name that nothing else on this machine has.
    fn name(&self) -> String {
        text(Path::new(self.directory.path().file_name().expect("it has one"))).to_owned()
    }

    /// Starts it and asserts who it became.
    fn becomes(&self, path: &str, [uid, gid]: [u32; 2]) {
        let child = start(&self.users, self.directory.path(), path);
        let child = child.unwrap_or_else(|(code, text)| panic!("{path}: {code:?}: {text}"));
        assert_eq!((ids(&child, "Uid"), ids(&child, "Gid")), (vec![uid; 4], vec![gid; 4]), "{path}");
        assert_eq!(ids(&child, "Groups"), [gid]);
        stop(child);
    }

    /// Starts it and asserts that it ends so; returns what it said.
    fn refuses(&self, path: &str, code: i32, words: &[&str]) -> String {
        match start(&self.users, self.directory.path(), path) {
            Ok(child) => {
                stop(child);
                panic!("{path}: it started");
            }
            Err((found, text)) => {
                assert_eq!(found, Some(code), "{path}: {text}");
                assert_eq!(text.lines().count(), 1, "{text}");
                for word in words {
                    assert!(text.contains(word), "{word:?} is not in: {text}");
                }
                text
            }
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
