//! Users for a start as root: a program runs in a namespace that has `recodex` and other users, whatever users this machine has.

use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Output;

use super::{open_directory, run_words, skipped};

/// User and group `recodex`.
pub(crate) const RECODEX: u32 = 64_001;
/// User and group `alice`.
pub(crate) const ALICE: u32 = 64_002;
/// User and group `admin`, who is also in root's group.
const ADMIN: u32 = 64_004;
/// Group `secrets`, which has no members.
pub(crate) const SECRETS: u32 = 64_003;

/// A mount namespace in which these users exist.
pub(crate) struct Users {
    directory: tempfile::TempDir,
}

impl Users {
    /// Returns `None`, and prints that the test is skipped, if this machine cannot do that.
    pub(crate) fn new() -> Option<Self> {
        let directory = open_directory();
        let others = |path: &str| {
            let text = std::fs::read_to_string(path).expect("every system has it");
            let is_ours =
                |line: &str| line.starts_with("recodex:") || path == "/etc/group" && line.starts_with("root:");
            text.split_inclusive('\n').filter(|line| !is_ours(line)).collect::<String>()
        };
        let user = |name, id| format!("{name}:x:{id}:{id}::/nonexistent:/bin/false\n");
        let passwd = others("/etc/passwd") + &user("recodex", RECODEX) + &user("alice", ALICE) + &user("admin", ADMIN);
        let groups = [("recodex", RECODEX), ("alice", ALICE), ("secrets", SECRETS), ("admin", ADMIN)];
        let groups = groups.map(|(name, id)| format!("{name}:x:{id}:\n")).concat() + "root:x:0:admin\n";
        std::fs::write(directory.path().join("passwd"), passwd).expect("it is ours");
        std::fs::write(directory.path().join("group"), others("/etc/group") + &groups).expect("it is ours");
        let users = Self { directory };
        let can = users.run(&["true"]).status.success();
        if !can {
            skipped("mount namespaces are not allowed here");
        }
        can.then_some(users)
    }

    /// Returns the command that starts a program there.
    pub(crate) fn wrapper(&self) -> Vec<String> {
        let at = self.directory.path().display();
        let script =
            format!("mount --bind '{at}/passwd' /etc/passwd && mount --bind '{at}/group' /etc/group && exec \"$@\"");
        ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        let wrapper = self.wrapper();
        run_words(&wrapper.iter().map(String::as_str).chain(words.iter().copied()).collect::<Vec<_>>())
    }
}

/// Gives a file or a directory to a user and its group.
pub(crate) fn give(path: &Path, id: u32) {
    chown(path, Some(id), Some(id)).expect("root may");
}
