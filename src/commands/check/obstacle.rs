//! Finds the reason why the service cannot read a file or write in a directory: its sandbox, or owners and modes. Owners and modes
//! are checked as the user that the check has become.

use super::report::Finding;
use super::sandbox::{Reach, Sandbox};
use crate::advice;
use crate::error::Exit;
use crate::fs::directory_of;
use nix::errno::Errno;
use nix::libc::S_ISVTX;
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access, geteuid};
use std::fs::{Metadata, OpenOptions, metadata, symlink_metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A reason why the service cannot use a path.
pub(super) struct Obstacle {
    pub(super) kind: Kind,
    /// The path, the reason, and what to do.
    pub(super) what: String,
}

/// The kinds of obstacles.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The service's user may not use it.
    Permission,
    /// It does not exist, or nobody can write to it.
    Absent,
    /// Only the service sees it, and it is removed when the service stops.
    Private,
    /// The check cannot see what the service sees there.
    Unknown,
}

impl Obstacle {
    /// Returns the finding: a failure with this exit status, or a warning if the obstacle is not certain.
    pub(super) fn finding(self, exit: Exit) -> Finding {
        if self.kind == Kind::Unknown { Finding::Warning(self.what) } else { Finding::Failed(exit, self.what) }
    }
}

/// Returns the reason why the service cannot read a file, if there is one.
pub(super) fn unreadable(path: &Path, sandbox: Option<&Sandbox>) -> Option<Obstacle> {
    let shown = path.display();
    if let Some(sandbox) = sandbox {
        let (reach, why) = sandbox.reach(path);
        if reach > Reach::ReadOnly {
            let kind = if reach == Reach::Replaced { Kind::Unknown } else { Kind::Permission };
            let what = match kind {
                Kind::Unknown => {
                    format!("{shown}: the service sees another file there ({why}), which cannot be checked")
                }
                _ => {
                    format!("{shown}: the service cannot see it ({why}); put it elsewhere, such as below /etc/recodex")
                }
            };
            return Some(Obstacle { kind, what });
        }
    }
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let e = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).err()?;
    let what_to_do = match e.kind() {
        ErrorKind::PermissionDenied => {
            "; give it a group of the monitor's user (chgrp, chmod 640), and let that user into the directories above it"
        }
        _ => "",
    };
    let kind = if e.kind() == ErrorKind::PermissionDenied { Kind::Permission } else { Kind::Absent };
    Some(Obstacle { kind, what: format!("{shown}: cannot open it: {e}{what_to_do}") })
}

/// Returns the reason why the sandbox lets nothing be written at `path`, which is `directory` or a file in it, if there is one.
pub(super) fn outside(path: &Path, directory: &Path, sandbox: Option<&Sandbox>) -> Option<Obstacle> {
    let sandbox = sandbox?;
    let shown = directory.display();
    let (reach, why) = sandbox.reach(path);
    let elsewhere = sandbox.own().map_or_else(
        || "name another path".to_owned(),
        |own| format!("name another path, such as below {}", own.display()),
    );
    let (kind, what) = match reach {
        Reach::Writable => return None,
        Reach::ReadOnly => (
            Kind::Absent,
            format!(
                "the service cannot write there ({why}): `systemctl edit recodex-monitor` and add the lines [Service] and \
                 ReadWritePaths={shown}; or {elsewhere}"
            ),
        ),
        Reach::Hidden => (Kind::Permission, format!("the service cannot see the directory ({why}); {elsewhere}")),
        Reach::Private => (
            Kind::Private,
            format!(
                "the service has a private directory there ({why}), which is removed when the service stops; \
                 {elsewhere}"
            ),
        ),
        Reach::Replaced => {
            (Kind::Unknown, format!("the service sees another directory there ({why}), which cannot be checked"))
        }
    };
    Some(Obstacle { kind, what: format!("{shown}: {what}") })
}

/// Returns the reason why the service can make no file in a directory, if there is one.
pub(super) fn unwritable(directory: &Path, sandbox: Option<&Sandbox>) -> Option<Obstacle> {
    if let Some(obstacle) = outside(directory, directory, sandbox).or_else(|| unmakable(directory)) {
        return Some(obstacle);
    }
    let (kind, why) = match metadata(directory) {
        // The modes of these directories say something else.
        Ok(found) if found.is_dir() && is_of_processes(directory) => {
            (Kind::Absent, "no file can be created in it, since it belongs to the system; name another path".into())
        }
        Ok(found) if found.is_dir() => {
            let e = access(directory, AccessFlags::W_OK | AccessFlags::X_OK).err()?;
            if becomes_the_users(directory, &found, sandbox) {
                return None;
            }
            let kind = if e == Errno::EACCES { Kind::Permission } else { Kind::Absent };
            (
                kind,
                format!("no file can be created in it: {e}; {}", to_give(directory, "give it to the monitor's user")),
            )
        }
        Ok(_) => (Kind::Absent, "it is no directory; name another path".into()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            if sandbox.is_some_and(|sandbox| sandbox.makes(directory)) {
                return None;
            }
            (
                Kind::Absent,
                format!(
                    "there is no such directory; {}",
                    to_give(directory, "make it, and give it to the monitor's user")
                ),
            )
        }
        Err(e) => (
            Kind::Permission,
            format!("it cannot be checked: {e}; let the monitor's user into the directories above it"),
        ),
    };
    Some(Obstacle { kind, what: format!("{}: {why}", directory.display()) })
}

/// Returns the reason why nobody can make a directory or a file in it, not even the service manager as root, if there is one.
fn unmakable(directory: &Path) -> Option<Obstacle> {
    let refused = |why: &str| Some(Obstacle { kind: Kind::Absent, what: format!("{}: {why}", directory.display()) });
    let is_missing = |path: &Path| metadata(path).is_err_and(|e| e.kind() == ErrorKind::NotFound);
    if is_missing(directory) && symlink_metadata(directory).is_ok() {
        return refused("it is a link to nothing; remove the link, or name another path");
    }
    // A missing directory would be made in the nearest existing one.
    let above = |path: &&Path| !path.as_os_str().is_empty() && !is_missing(path);
    let nearest = directory.ancestors().find(above).unwrap_or(Path::new("."));
    if statvfs(nearest).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY)) {
        return refused(
            "no file can be created there, since the file system is mounted read-only; mount it writable, or name another path",
        );
    }
    None
}

/// Returns advice for a directory that the user cannot write to: a command if the packages make it, else the `usual` advice.
fn to_give(directory: &Path, usual: &str) -> String {
    let command = [advice::LOG, advice::SOCKET].iter().find_map(|made| made.command(directory));
    command.map_or_else(|| usual.to_owned(), |command| format!("give the monitor's user the directory: `{command}`"))
}

/// Returns true if the service manager gives a directory and its content to the service's user when the service starts.
fn becomes_the_users(directory: &Path, found: &Metadata, sandbox: Option<&Sandbox>) -> bool {
    sandbox.is_some_and(|sandbox| sandbox.makes(directory)) && found.uid() != geteuid().as_raw()
}

/// Returns true for `/proc` and its subdirectories.
fn is_of_processes(directory: &Path) -> bool {
    statfs(directory).is_ok_and(|found| found.filesystem_type() == PROC_SUPER_MAGIC)
}

/// Returns the reason why the service cannot open a file for writing, unless the start of the service removes it.
pub(super) fn unopened(path: &Path, e: &io::Error, sandbox: Option<&Sandbox>) -> Option<Obstacle> {
    let is_refused = e.kind() == ErrorKind::PermissionDenied;
    let directory = directory_of(path);
    if is_refused && metadata(directory).is_ok_and(|found| becomes_the_users(directory, &found, sandbox)) {
        return None;
    }
    let (kind, what_to_do) = match e.kind() {
        ErrorKind::PermissionDenied => (Kind::Permission, "give it to the monitor's user"),
        _ => (Kind::Absent, "name another path"),
    };
    Some(Obstacle { kind, what: format!("cannot write {}: {e}; {what_to_do}", path.display()) })
}

/// Returns the reason why the service cannot remove what is at `path` from a directory that it can write to, if there is one.
pub(super) fn unremovable(path: &Path, sandbox: Option<&Sandbox>) -> Option<Obstacle> {
    let at = directory_of(path);
    let (found, directory) = (symlink_metadata(path).ok()?, metadata(at).ok()?);
    let is_sticky = directory.mode() & S_ISVTX != 0;
    let is_mine = [found.uid(), directory.uid()].contains(&geteuid().as_raw());
    if !is_sticky || is_mine || becomes_the_users(at, &directory, sandbox) {
        return None;
    }
    let what = "it belongs to another user, in a directory where users can remove only their own files; remove it, or name another path";
    Some(Obstacle { kind: Kind::Permission, what: format!("{}: {what}", path.display()) })
}
