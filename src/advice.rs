//! Hints for files that the monitor cannot write or read. They contain a ready command only for the directories that the packages
//! make: for any other path a link could lead the command elsewhere.

use crate::fs::directory_of;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, Group, User, access, getegid, geteuid};
use std::fs::symlink_metadata;
use std::io::{Error, ErrorKind};
use std::path::Path;

/// A directory that the packages make for the monitor's user. Only root can write to its parent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Directory {
    path: &'static str,
    mode: &'static str,
}

/// The directory of the log, which other ReCodEx services share. The log files have modes of their own.
pub(crate) const LOG: Directory = Directory { path: "/var/log/recodex", mode: "0755" };
/// The directory of Unix sockets, each of which has a mode of its own.
pub(crate) const SOCKET: Directory = Directory { path: "/run/recodex", mode: "0755" };

impl Directory {
    /// Returns the command that gives this process's user the directory, if `directory` is this one.
    pub(crate) fn command(&self, directory: &Path) -> Option<String> {
        let command = || format!("install -d -o {} -g {} -m {} {}", user(), group(), self.mode, self.path);
        (directory == Path::new(self.path)).then(command)
    }
}

/// Returns a hint for the file `path`, which could not be opened for writing because of `error`. `usual` is the directory of such files.
pub(crate) fn to_write(path: &Path, error: &Error, usual: Directory) -> String {
    match symlink_metadata(path) {
        Ok(found) if found.is_symlink() && is_about_the_way(error) => {
            format!(
                "it is a link to a path that user {} cannot write to; remove the link, or name another path",
                user()
            )
        }
        Ok(_) if error.kind() == ErrorKind::PermissionDenied => {
            format!("expected a file that user {} can write to, or another path", user())
        }
        _ => to_make(path, error, usual),
    }
}

/// Returns a hint for the file or socket that could not be made at `path` because of `error`. `usual` is the directory of such files.
pub(crate) fn to_make(path: &Path, error: &Error, usual: Directory) -> String {
    let directory = directory_of(path);
    if !is_about_the_way(error) {
        return "expected a path in a directory that the monitor's user can write to".into();
    }
    let (user, shown) = (user(), directory.display());
    let command = usual.command(directory);
    if let Some(command) = command.filter(|_| access(directory, AccessFlags::W_OK | AccessFlags::X_OK).is_err()) {
        return format!("user {user} cannot make it there; give that user the directory: `{command}`");
    }
    format!("the directory {shown} must exist, and user {user} must be able to write to it")
}

/// Returns true for an error that owners, modes or a missing directory cause.
fn is_about_the_way(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied)
}

/// Adds advice to `what`, the reason why the file `path` was not read, if this process's user may not read it.
pub(crate) fn to_read(path: &Path, what: String) -> String {
    if access(path, AccessFlags::R_OK) != Err(Errno::EACCES) {
        return what;
    }
    let user = user();
    format!(
        "{what}; user {user} cannot read it; give it a group of that user (chgrp, and chmod g+r), or have systemd pass a copy on \
         (LoadCredential=, with User= in the unit); a renewed file then needs a restart"
    )
}

/// Returns the user of this process.
fn user() -> String {
    let uid = geteuid();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// Returns the group of this process.
fn group() -> String {
    let gid = getegid();
    Group::from_gid(gid).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}
