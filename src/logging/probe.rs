//! Tests whether a log file can be written, by opening it for a moment or by looking at it.

use nix::errno::Errno;
use nix::libc::{O_NOCTTY, O_NONBLOCK};
use nix::unistd::{AccessFlags, access};
use std::fs::{OpenOptions, metadata, read_link};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The most links in a row that are followed, as by the system.
const MAX_LINKS: usize = 40;

/// Opens a log file with `options`, to append to it, and closes it. Does not wait for the reader of a FIFO.
pub(super) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<()> {
    let opened = options.append(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path);
    match opened {
        Err(e) if e.raw_os_error() == Some(nix::libc::ENXIO) && is_fifo(path) => Ok(()),
        other => other.map(drop),
    }
}

/// Tests whether the start could open a log file, without creating or changing anything. Returns the path where it would be created,
/// if there is nothing yet; the directory of that path is not tested.
///
/// # Errors
/// The error with which the system would refuse to open the file.
pub(crate) fn probe(path: &Path) -> io::Result<Option<PathBuf>> {
    // The reader of a FIFO would notice that it was opened and closed.
    if is_fifo(path) {
        access(path, AccessFlags::W_OK)?;
        return Ok(None);
    }
    match open(path, &mut OpenOptions::new()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => end_of_links(path).map(Some),
        other => other.map(|()| None),
    }
}

fn is_fifo(path: &Path) -> bool {
    metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// Follows links to the path that does not exist.
fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    let mut end = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        // By bytes, because `Path` leaves out such names.
        let name = end.as_os_str().as_bytes().rsplit(|byte| *byte == b'/').next();
        if matches!(name, None | Some(b"" | b"." | b"..")) {
            return Err(Errno::EISDIR.into());
        }
        let Ok(target) = read_link(&end) else { return Ok(end) };
        end = end.parent().unwrap_or(Path::new("")).join(target);
    }
    Err(Errno::ELOOP.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use std::fs::{create_dir, read_dir, write};
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_not_there_is_looked_for_behind_links_and_nothing_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        create_dir(at("sub")).unwrap();
        write(at("file"), "").unwrap();
        mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        for (link, target) in [("to-file", "file"), ("one", "sub/two"), ("sub/two", "../none"), ("loop", "loop")] {
            symlink(target, at(link)).unwrap();
        }
        symlink(at("none/"), at("slash")).unwrap();
        let count = || read_dir(&directory).unwrap().count();
        let before = count();
        for there in ["file", "to-file", "fifo"] {
            assert_eq!(probe(&at(there)).unwrap(), None, "{there}");
        }
        assert_eq!(probe(&at("none")).unwrap(), Some(at("none")));
        assert_eq!(probe(&at("nowhere/none")).unwrap(), Some(at("nowhere/none")));
        assert_eq!(probe(&at("one")).unwrap(), Some(at("sub/../none")));
        let long = "x".repeat(256);
        for (path, errno) in [
            ("sub", Errno::EISDIR),
            ("none/", Errno::EISDIR),
            ("none/.", Errno::EISDIR),
            ("slash", Errno::EISDIR),
            ("loop", Errno::ELOOP),
            ("file/none", Errno::ENOTDIR),
            (&long, Errno::ENAMETOOLONG),
        ] {
            assert_eq!(probe(&at(path)).unwrap_err().raw_os_error(), Some(errno as i32), "{path}");
        }
        assert_eq!(count(), before);
    }
}
