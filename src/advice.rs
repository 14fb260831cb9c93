//! What an administrator can do so that the monitor's user can write or read a file: the command, ready to be copied.

use nix::errno::Errno;
use nix::unistd::{AccessFlags, Group, User, access, getegid, geteuid};
use std::fs::{canonicalize, symlink_metadata};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A directory that the packages make for the monitor's user.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Directory {
    path: &'static str,
    mode: &'static str,
}

/// That of the log. What is logged is for the user and its group.
pub(crate) const LOG: Directory = Directory { path: "/var/log/recodex", mode: "0750" };
/// That of Unix sockets, each of which has a mode of its own.
pub(crate) const SOCKET: Directory = Directory { path: "/run/recodex", mode: "0755" };

/// What to do so that the file `path` can be opened for writing, after `error`. `usual` is the directory where such files are.
///
/// A configuration may name any file, and a link lead to any. So the command that gives a file away is said only for a file that
/// is not a link, in a directory that belongs to this user already.
pub(crate) fn to_write(path: &Path, error: &Error, usual: Directory) -> String {
    let Ok(found) = symlink_metadata(path) else { return to_make(path, error, usual) };
    let user = user();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied if found.is_symlink() => {
            format!("it is a link to what user {user} cannot have; remove the link, or name another path")
        }
        ErrorKind::PermissionDenied if found.is_file() && found.nlink() == 1 && is_own(directory(path)) => {
            let command = format!("chown -h {user}:{} {}", group(), word(&resolved(path)));
            format!("it is not writable for user {user}; give it to that user: `{command}`")
        }
        ErrorKind::PermissionDenied => {
            let command = make(Path::new(usual.path), usual);
            format!(
                "it is not writable for user {user}; name a path in a directory of that user, such as this command makes: `{command}`"
            )
        }
        _ => to_make(path, error, usual),
    }
}

/// What to do so that something new can be made at `path`, after `error`. `usual` is the directory where such files are.
pub(crate) fn to_make(path: &Path, error: &Error, usual: Directory) -> String {
    let directory = directory(path);
    match error.kind() {
        ErrorKind::NotFound if !directory.exists() => {
            format!("its directory is missing; make it: `{}`", make(directory, usual))
        }
        ErrorKind::PermissionDenied => {
            format!(
                "user {} cannot make it in {}; name a path in a directory of that user, such as this command makes: `{}`",
                user(),
                directory.display(),
                make(Path::new(usual.path), usual)
            )
        }
        _ => "expected a path in a directory that the monitor's user can write to".into(),
    }
}

/// Adds to `what`, the reason why the file `path` was not read, what to do if this user may not read it.
pub(crate) fn to_read(path: &Path, what: String) -> String {
    if access(path, AccessFlags::R_OK) != Err(Errno::EACCES) {
        return what;
    }
    let user = user();
    format!(
        "{what}; user {user} cannot read it; give it a group of that user (chgrp, and chmod g+r), or have systemd pass a copy on \
         (LoadCredential=, with User= in the unit), which a renewed file needs a restart for"
    )
}

/// The directory that a path is in.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether a directory belongs to this user.
fn is_own(directory: &Path) -> bool {
    directory.metadata().is_ok_and(|found| found.uid() == geteuid().as_raw())
}

/// The user that this process acts as.
fn user() -> String {
    let uid = geteuid();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// The group that this process acts as.
fn group() -> String {
    let gid = getegid();
    Group::from_gid(gid).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}

/// The command that makes a directory for this user, with the mode of the usual one.
fn make(directory: &Path, usual: Directory) -> String {
    format!("install -d -o {} -g {} -m {} {}", user(), group(), usual.mode, word(&resolved(directory)))
}

/// A path without links, as far as it leads to something.
fn resolved(path: &Path) -> PathBuf {
    canonicalize(path).unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => resolved(parent).join(name),
        _ => path.into(),
    })
}

/// A path as one word of a shell.
fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,".contains(c);
    if text.starts_with(|c: char| plain(c) && c != '-') && text.chars().all(plain) {
        return text;
    }
    let quoted = text.replace('\'', r"'\''");
    if text.starts_with('-') { format!("'./{quoted}'") } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_add_anything_to_a_command() {
        for (path, expected) in [
            ("/var/log/recodex", "/var/log/recodex"),
            ("/var/log/a b", "'/var/log/a b'"),
            ("/x; rm -rf y", "'/x; rm -rf y'"),
            ("/x'$(id)'", r"'/x'\''$(id)'\'''"),
            ("-rf", "'./-rf'"),
            ("/x\n`id`", "'/x\n`id`'"),
        ] {
            assert_eq!(word(Path::new(path)), expected);
        }
    }
}
