//! The Unix socket for viewers. There is always one at its path, and no other file is replaced.

use super::listen::cannot_bind;
use crate::advice;
use crate::config::Mode;
use crate::deadline::timeout;
use crate::error::{Exit, Failure};
use crate::fs::temporary_path;
use crate::systemd::fd_store::UnixListener as InheritedFds;
use nix::sys::stat::{self, umask};
use socket2::{Domain, SockAddr, Socket, Type};
use std::ffi::OsStr;
use std::fs::{File, remove_file, rename, symlink_metadata};
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};

/// The time after which nobody waits at a Unix socket any more.
const WAIT_TIME: Duration = Duration::from_secs(1);

/// The file of a Unix socket that this process bound.
#[derive(Debug)]
pub(crate) struct UnixFile {
    pub(crate) path: PathBuf,
    /// The number of the device, and that of the file on it.
    id: (u64, u64),
}

impl UnixFile {
    /// Removes the file. Another file that has come to its path stays.
    pub(crate) fn remove(self) {
        let shown = self.path.display();
        match symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.id => {
                remove_file(&self.path).unwrap_or_else(|e| log::debug!("{shown} stays: {e}"));
            }
            Ok(_) => log::warn!("{shown} is no longer the socket of this process, and stays"),
            Err(e) => log::debug!("{shown} cannot be removed: {e}"),
        }
    }
}

/// Binds a Unix socket at `path`, with the permissions `mode`; `key` is its configuration key, for errors.
///
/// A socket of `kept`, or one at which nobody listens, is replaced in one step, so that there is always one. Returns the kept sockets
/// too, at which viewers may wait. The file mode mask of the process is another for a moment, so there must be no other threads.
///
/// # Errors
/// [`Exit::Unavailable`] if something else is there or at its temporary path, or another program listens;
/// [`Exit::NoPermission`] if the system says so.
pub(crate) fn bind_unix(
    key: &str,
    path: &Path,
    mode: Mode,
    kept: &mut Vec<InheritedFds>,
) -> Result<(UnixListener, UnixFile, Vec<UnixListener>), Failure> {
    let failed = |e: &io::Error| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
            let exit = if e.kind() == io::ErrorKind::NotFound { Exit::Unavailable } else { Exit::NoPermission };
            let what = advice::to_make(path, e, advice::SOCKET);
            Failure::new(exit, format!("{key}: cannot listen on unix:{}: {e}; {what}", path.display()))
        }
        _ => cannot_bind(key, &format!("unix:{}", path.display()), e),
    };
    let previous: Vec<_> = kept.extract_if(.., |kept| kept.is_at(path)).collect();
    let new = temporary_path(path);
    may_replace(key, path, previous.is_empty())?;
    may_replace(key, &new, true)?;
    let bound = || {
        match remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // The mask sets the mode. A later chmod might change another file, which the owner of the directory has put at this path.
        let mask = umask(stat::Mode::from_bits_truncate(!mode.bits() & 0o777));
        let listener = UnixListener::bind(&new);
        umask(mask);
        let listener = listener?;
        let renamed = symlink_metadata(&new).and_then(|found| {
            rename(&new, path)?;
            Ok(UnixFile { path: path.into(), id: (found.dev(), found.ino()) })
        });
        if renamed.is_err() {
            let _ = remove_file(&new);
        }
        Ok((listener, renamed?))
    };
    let (listener, file) = bound().map_err(|e| failed(&e))?;
    let previous = previous.into_iter().filter_map(|kept| kept.into_listener().ok()).collect();
    Ok((listener, file, previous))
}

/// Checks that a Unix socket may replace the file at `path`: there is none, or a socket. If `asks` is set, nobody may listen there.
fn may_replace(key: &str, path: &Path, asks: bool) -> Result<(), Failure> {
    let Ok(found) = symlink_metadata(path) else { return Ok(()) };
    let shown = path.display();
    let what = if !found.file_type().is_socket() {
        format!("{key}: {shown} is there already, and no socket; remove it, or name another path")
    } else if !asks {
        return Ok(());
    } else {
        match listening(path) {
            Listening::Nobody => return Ok(()),
            Listening::Somebody => {
                return Err(cannot_bind(key, &format!("unix:{shown}"), &io::ErrorKind::AddrInUse.into()));
            }
            Listening::Unknown => format!(
                "{key}: {shown} is there already, and this user may not connect to it; perhaps nobody listens there any more: if so, \
                 remove it"
            ),
        }
    };
    Err(Failure::new(Exit::Unavailable, what))
}

/// Returns true if a process listens at a Unix socket, or if that cannot be told.
pub(crate) fn is_listened_at(path: &Path) -> bool {
    !matches!(listening(path), Listening::Nobody)
}

/// The process that listens at a Unix socket: none, one, or unknown.
#[derive(Debug, PartialEq, Eq)]
enum Listening {
    Nobody,
    Somebody,
    Unknown,
}

fn listening(path: &Path) -> Listening {
    use nix::libc::{EACCES, EAGAIN, EPROTOTYPE};
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    match connect().map_err(|e| e.raw_os_error()) {
        // Its queue is full; or it is a socket of another type.
        Ok(()) | Err(Some(EAGAIN | EPROTOTYPE)) => Listening::Somebody,
        // This user may not connect, even if somebody listens.
        Err(Some(EACCES)) if path.as_os_str().as_bytes().contains(&b'\n') => Listening::Unknown,
        Err(Some(EACCES)) => listed(path).unwrap_or(Listening::Unknown),
        Err(_) => Listening::Nobody,
    }
}

/// Looks for a Unix socket in the system's table, which has the path at which each was bound: that of the socket, or the temporary
/// one of a monitor. The answer is unknown if the directory in that path is not there (any more).
///
/// A path may have line ends and look like another line of the table. So a process can pretend to listen, but cannot hide it.
fn listed(path: &Path) -> io::Result<Listening> {
    /// `SO_ACCEPTCON` among the flags.
    const LISTENS: u32 = 0x10000;
    let new = temporary_path(path);
    let names = [path.file_name(), new.file_name()];
    let id = |path: &Path| {
        let directory = path.parent().filter(|_| path.is_absolute()).ok_or(io::ErrorKind::NotFound)?.metadata()?;
        io::Result::Ok((directory.dev(), directory.ino()))
    };
    let directory = id(path)?;
    let mut found = Listening::Nobody;
    for line in BufReader::new(File::open("/proc/self/net/unix")?).split(b'\n') {
        let line = line?;
        // Num RefCount Protocol Flags Type St Inode Path
        let mut rest = &line[..];
        let columns = [(); 7].map(|()| {
            let column = rest.trim_ascii_start();
            let end = column.iter().position(|byte| *byte == b' ').unwrap_or(column.len());
            rest = &column[end..];
            &column[..end]
        });
        let flags = str::from_utf8(columns[3]).ok().and_then(|flags| u32::from_str_radix(flags, 16).ok()).unwrap_or(0);
        let bound = Path::new(OsStr::from_bytes(rest.strip_prefix(b" ").unwrap_or(rest)));
        if flags & LISTENS != 0 && names.contains(&bound.file_name()) {
            match id(bound) {
                Ok(id) if id == directory => return Ok(Listening::Somebody),
                Err(e) if e.kind() == io::ErrorKind::NotFound => found = Listening::Unknown,
                // Another directory, or one that this user cannot look at.
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Accepts the connections that wait at a socket which nobody can reach any more.
pub(crate) async fn drain_unix(listener: UnixListener, mut serve: impl FnMut(UnixStream)) {
    while let Ok(Ok((stream, _))) = timeout(WAIT_TIME, listener.accept()).await {
        serve(stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    #[test]
    fn a_socket_that_listens_is_found_in_the_systems_table() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("a b.sock"), directory.path().join("other"));
        std::fs::create_dir(&other).unwrap();
        let is = |expected| assert_eq!(listed(&path).unwrap(), expected);
        is(Listening::Nobody);
        let bound = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        bound.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        is(Listening::Nobody);
        let elsewhere = UnixListener::bind(other.join("a b.sock")).unwrap();
        is(Listening::Nobody);
        bound.listen(1).unwrap();
        is(Listening::Somebody);
        drop(bound);
        is(Listening::Nobody);
        // Its directory has gone, or is another one from here.
        std::fs::remove_dir_all(&other).unwrap();
        is(Listening::Unknown);
        drop(elsewhere);
        // As a monitor does it.
        remove_file(&path).unwrap();
        let renamed = UnixListener::bind(temporary_path(&path)).unwrap();
        rename(temporary_path(&path), &path).unwrap();
        is(Listening::Somebody);
        drop(renamed);
        is(Listening::Nobody);
    }

    #[test]
    fn a_socket_of_another_type_counts_as_one_that_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("datagrams");
        let socket = UnixDatagram::bind(&path).unwrap();
        assert!(is_listened_at(&path));
        drop(socket);
        assert!(!is_listened_at(&path));
    }
}
