//! Everybody other than root who can change the file at a path, or put another one there.

use nix::libc::{S_IFDIR, S_IFLNK, S_IFMT, S_ISVTX};
use nix::sys::stat::{FileStat, lstat};
use nix::unistd::{Gid, Group, Uid, User};
use std::collections::VecDeque;
use std::env::current_dir;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::read_link;
use std::path::{Component, Path, PathBuf};

/// The most symbolic links that are followed to a file, as in Linux.
const MAX_LINKS: usize = 40;
/// The permission of the group to write. The permissions of an access control list are shown in it, too.
const GROUP_WRITES: u32 = 0o020;
/// The permission of everybody to write.
const ALL_WRITE: u32 = 0o002;

/// Somebody other than root who can change the file at the path of a configuration, or put another one there.
#[derive(Debug)]
pub(crate) struct Writer {
    /// The file or directory that they can change.
    path: PathBuf,
    pub(crate) who: Who,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Who {
    User(Uid),
    /// The group of a file, or the users and groups in its access control list.
    Group(Gid),
    Everybody,
}

/// Returns everybody other than root who can change what is at `path`, and the file's owner. `read` are the device and inode numbers of
/// the file that was read there.
pub(crate) fn writers(path: &Path, read: (u64, u64)) -> Result<(Vec<Writer>, Uid), String> {
    let from = if path.is_absolute() { PathBuf::new() } else { current_dir().map_err(|e| e.to_string())? };
    let mut left = names(&from.join(path));
    let (mut at, mut writers, mut links) = (PathBuf::from("/"), Vec::new(), 0);
    let look = |path: &Path| lstat(path).map_err(|e| format!("cannot look at {}: {e}", path.display()));
    while let Some(name) = left.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let entry = at.join(name);
        let found = look(&entry)?;
        writers.extend(of_directory(&at, &look(&at)?, &entry, &found));
        match found.st_mode & S_IFMT {
            S_IFLNK => {
                links += 1;
                if links > MAX_LINKS {
                    return Err("there are too many symbolic links on the way".into());
                }
                let target = read_link(&entry).map_err(|e| format!("cannot read {}: {e}", entry.display()))?;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                names(&target).into_iter().rev().for_each(|name| left.push_front(name));
            }
            S_IFDIR => at = entry,
            _ if left.is_empty() && (found.st_dev, found.st_ino) == read => {
                writers.extend(of_entry(&entry, &found));
                return Ok((writers, Uid::from_raw(found.st_uid)));
            }
            _ => return Err(format!("{} is not the file that was read", entry.display())),
        }
    }
    Err("it is a directory".into())
}

/// Returns the names in a path, and `..`; without `/` and `.`.
fn names(path: &Path) -> VecDeque<OsString> {
    let named = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        _ => None,
    };
    path.components().filter_map(named).collect()
}

/// Returns everybody other than root who can replace `entry` in a directory. `found` is the status of the entry.
fn of_directory(path: &Path, directory: &FileStat, entry: &Path, found: &FileStat) -> Vec<Writer> {
    let mut writers = of_entry(path, directory);
    if directory.st_mode & S_ISVTX != 0 {
        // With the sticky bit, only the owners of the directory and of the entry can.
        writers.retain(|writer| matches!(writer.who, Who::User(_)));
        if directory.st_mode & (GROUP_WRITES | ALL_WRITE) != 0 && found.st_uid != 0 {
            writers.push(Writer { path: entry.into(), who: Who::User(Uid::from_raw(found.st_uid)) });
        }
    }
    writers
}

/// Returns everybody other than root who can write a file or a directory.
fn of_entry(path: &Path, found: &FileStat) -> Vec<Writer> {
    let who = [
        (found.st_uid != 0).then(|| Who::User(Uid::from_raw(found.st_uid))),
        (found.st_mode & ALL_WRITE != 0).then_some(Who::Everybody),
        // Counts also if the group is root's, because the permissions of an access control list are shown there.
        (found.st_mode & GROUP_WRITES != 0).then(|| Who::Group(Gid::from_raw(found.st_gid))),
    ];
    who.into_iter().flatten().map(|who| Writer { path: path.into(), who }).collect()
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} can be changed by ", self.path.display())?;
        match self.who {
            Who::User(uid) => match User::from_uid(uid) {
                Ok(Some(user)) => write!(f, "user {}", user.name),
                _ => write!(f, "user {uid}"),
            },
            Who::Group(gid) => {
                match Group::from_gid(gid) {
                    Ok(Some(group)) => write!(f, "group {}", group.name)?,
                    _ => write!(f, "group {gid}")?,
                }
                f.write_str(", or by those whom its access control list names")
            }
            Who::Everybody => f.write_str("everybody"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Accept, read_bounded};
    use std::os::unix::fs::symlink;

    #[test]
    fn another_file_than_the_one_that_was_read_has_no_writers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.yml");
        std::fs::write(&path, "a").unwrap();
        let read = read_bounded(&path, 1, Accept::File).unwrap();
        assert!(writers(&path, read.id()).is_ok());
        std::fs::rename(&path, directory.path().join("old")).unwrap();
        std::fs::write(&path, "a").unwrap();
        let error = writers(&path, read.id()).unwrap_err();
        assert!(error.ends_with("c.yml is not the file that was read"), "{error}");
    }

    #[test]
    fn links_in_a_circle_end() {
        let directory = tempfile::tempdir().unwrap();
        symlink("b", directory.path().join("a")).unwrap();
        symlink("a", directory.path().join("b")).unwrap();
        assert!(writers(&directory.path().join("a"), (0, 0)).unwrap_err().contains("too many symbolic links"));
    }
}
