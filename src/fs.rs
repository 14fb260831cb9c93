//! Bounded reads of whole files, and names of files beside others. A FIFO or a device in the place of a file never blocks the reader.

use nix::errno::Errno;
use nix::libc::{O_CLOEXEC, O_NOCTTY, O_NONBLOCK, O_PATH, makedev};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::geteuid;
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The longest time that a pipe may take to deliver all of its content.
const PIPE_LIMIT: Duration = Duration::from_secs(5);
/// The longest time that [`settled`] waits for content that keeps changing.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// The byte order mark that some editors, such as Windows' Notepad, write at the beginning of a file in UTF-8.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns a file's content without a byte order mark.
pub(crate) fn without_mark(file: &[u8]) -> &[u8] {
    file.strip_prefix(BYTE_ORDER_MARK).unwrap_or(file)
}

/// Returns true for a file in UTF-16: it begins with the mark of that encoding, or with an ASCII character beside a zero byte.
pub(crate) fn is_utf_16(file: &[u8]) -> bool {
    matches!(file, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=u8::MAX, ..] | [1..=0x7f, 0, ..])
}

/// The most bytes in the path of a Unix socket (`unix(7)`).
pub(crate) const MAX_UNIX_PATH: usize = 107;

/// Returns a path with `.suffix` at its end.
pub(crate) fn with_suffix(path: &Path, suffix: impl AsRef<OsStr>) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Returns the path at which a Unix socket is made before it takes the place of the one at `path`.
///
/// It is `path` with `.new` at its end. If that is too long for a Unix socket, `.new` takes the place of the last four bytes. The
/// result can still be too long if the name has fewer than four.
pub(crate) fn temporary_path(path: &Path) -> PathBuf {
    let long = with_suffix(path, "new");
    if long.as_os_str().len() <= MAX_UNIX_PATH {
        return long;
    }
    let name = path.file_name().unwrap_or_default().as_bytes();
    let short = [&name[..name.len().saturating_sub(4)], b".new"].concat();
    path.with_file_name(OsStr::from_bytes(&short))
}

/// Returns the directory that a path is in; `.` for a bare name.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The kinds of files that [`read_bounded`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accept {
    /// Regular files.
    File,
    /// Also a pipe, which has 5 s to deliver everything, and `/dev/null`, which is empty.
    FileOrPipe,
}

/// The content of a file, and the state of the file that it was read from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    /// Device, inode, and the time of the last change in seconds and nanoseconds.
    stamp: (u64, u64, i64, i64),
}

impl Content {
    /// Returns the number of the device, and of the file on it.
    pub(crate) fn id(&self) -> (u64, u64) {
        (self.stamp.0, self.stamp.1)
    }
}

/// Reads a file of at most `max` bytes. Two results are equal only if the file was not changed between them, see [`settled`].
///
/// # Errors
/// A text for people, without the path: if the file cannot be opened or read, is of another kind, or is larger; and if a pipe
/// delivers nothing, or not all of it in time.
pub(crate) fn read_bounded(path: &Path, max: u64, accept: Accept) -> Result<Content, String> {
    let (file, found) = if geteuid().is_root() {
        // Root may read a path at which others have put something else. Opening a device can do harm, so only a file or a pipe is
        // opened, by the number of what was found.
        let (found_at, found) = open(path, O_PATH)?;
        let _ = kind_of(&found, accept)?;
        (open(Path::new(&format!("/proc/self/fd/{}", found_at.as_raw_fd())), READ)?.0, found)
    } else {
        open(path, READ)?
    };
    // Taken before the file is read, so that a change meanwhile shows in the next reading.
    let stamp = (found.dev(), found.ino(), found.ctime(), found.ctime_nsec());
    let bytes = match kind_of(&found, accept)? {
        Kind::File => read_all(file, max)?,
        Kind::Pipe => read_pipe(file, max)?,
        Kind::Null => Vec::new(),
    };
    Ok(Content { bytes, stamp })
}

/// The kind of a file that is read.
enum Kind {
    File,
    Pipe,
    Null,
}

/// Returns the kind of a file, or the error for one that is not accepted.
fn kind_of(found: &Metadata, accept: Accept) -> Result<Kind, String> {
    let kind = found.file_type();
    let is_null = kind.is_char_device() && found.rdev() == makedev(1, 3);
    match accept {
        _ if kind.is_file() => Ok(Kind::File),
        Accept::FileOrPipe if kind.is_fifo() => Ok(Kind::Pipe),
        Accept::FileOrPipe if is_null => Ok(Kind::Null),
        Accept::FileOrPipe => Err("expected a file or a pipe".into()),
        Accept::File => Err("expected a file".into()),
    }
}

/// Reads until two readings, `quiet` apart, are equal, so that a file that is being written is not taken in part.
///
/// `quiet` may depend on the last reading. Blocks the thread for at most 5 s and one reading.
pub(crate) fn settled<T: PartialEq>(quiet: impl Fn(&T) -> Duration, mut read: impl FnMut() -> T) -> Result<T, String> {
    let start = Instant::now();
    let mut before = read();
    loop {
        sleep(quiet(&before));
        let now = read();
        if now == before {
            return Ok(now);
        }
        if start.elapsed() > SETTLE_LIMIT {
            return Err("it is being changed all the time; reload again once it is saved".into());
        }
        before = now;
    }
}

/// The flags for a file that is read. Without `O_NONBLOCK`, opening a FIFO would wait for a writer.
const READ: i32 = O_NONBLOCK | O_NOCTTY;

fn open(path: &Path, flags: i32) -> Result<(File, Metadata), String> {
    let open = OpenOptions::new().read(true).custom_flags(flags | O_CLOEXEC).open(path);
    let file = open.map_err(|e| format!("cannot open it: {e}"))?;
    let found = file.metadata().map_err(|e| cannot_read(&e))?;
    Ok((file, found))
}

fn read_all(file: File, max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(|e| cannot_read(&e))?;
    bounded(bytes, max)
}

fn read_pipe(pipe: File, max: u64) -> Result<Vec<u8>, String> {
    match read_to_end(pipe, max, PIPE_LIMIT) {
        Ok(bytes) if bytes.is_empty() => Err("this pipe is empty".into()),
        Ok(bytes) => bounded(bytes, max),
        Err(e) if e.kind() == io::ErrorKind::TimedOut => {
            Err(format!("this pipe did not end within {} s", PIPE_LIMIT.as_secs()))
        }
        Err(e) => Err(cannot_read(&e)),
    }
}

/// Reads a pipe until its end, or until it has delivered more than `max` bytes.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] if that takes longer than `limit`.
pub(crate) fn read_to_end(mut pipe: impl Read + AsFd, max: u64, limit: Duration) -> io::Result<Vec<u8>> {
    let (end, mut bytes) = (Instant::now() + limit, Vec::new());
    while bytes.len() as u64 <= max {
        // Polled first: a FIFO without a writer yet would read as empty.
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(Errno::EINTR) => continue,
            ready => ready?,
        };
        let mut piece = [0; 4096];
        match pipe.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(bytes)
}

fn bounded(bytes: Vec<u8>, max: u64) -> Result<Vec<u8>, String> {
    if bytes.len() as u64 > max { Err(format!("expected at most {max} bytes")) } else { Ok(bytes) }
}

fn cannot_read(error: &io::Error) -> String {
    format!("cannot read it: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use std::fs::write;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_file_is_read_up_to_the_bound_and_nothing_else_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, "12345").unwrap();
        let read = |path: &Path, max| read_bounded(path, max, Accept::File).map(|content| content.bytes);
        assert_eq!(read(&path, 5), Ok(b"12345".to_vec()));
        assert_eq!(read(&path, 4), Err("expected at most 4 bytes".into()));
        let fifo = directory.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for other in [directory.path(), &fifo, Path::new("/dev/zero"), Path::new("/dev/null")] {
            assert_eq!(read(other, 5), Err("expected a file".into()), "{}", other.display());
        }
        assert!(read(&directory.path().join("none"), 5).unwrap_err().starts_with("cannot open it: No such file"));
    }

    /// Opening a socket fails, so that the error shows if it was tried.
    #[test]
    #[ignore = "needs root"]
    fn root_opens_nothing_but_files_and_pipes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _socket = UnixListener::bind(&path).unwrap();
        assert_eq!(read_bounded(&path, 5, Accept::File), Err("expected a file".into()));
        assert_eq!(read_bounded(&path, 5, Accept::FileOrPipe), Err("expected a file or a pipe".into()));
    }

    #[test]
    fn a_pipe_is_read_to_its_end_where_it_may_be_one() {
        let at = |path: &str, max| read_bounded(Path::new(path), max, Accept::FileOrPipe).map(|content| content.bytes);
        let read = |text: &[u8], max| {
            use io::Write;
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(text).unwrap();
            drop(writer);
            at(&format!("/dev/fd/{}", reader.as_raw_fd()), max)
        };
        assert_eq!(read(b"a: 1\n", 5), Ok(b"a: 1\n".to_vec()));
        assert_eq!(read(b"a: 1\n", 4), Err("expected at most 4 bytes".into()));
        assert_eq!(read(b"", 4), Err("this pipe is empty".into()));
        assert_eq!(at("/dev/null", 4), Ok(Vec::new()));
        assert_eq!(at("/dev/zero", 4), Err("expected a file or a pipe".into()));
    }

    #[test]
    fn content_is_taken_once_two_readings_agree() {
        let mut readings = ["", "cut", "whole", "whole", "other"].into_iter();
        let quiet = |text: &&str| Duration::from_millis(if text.is_empty() { 2 } else { 1 });
        assert_eq!(settled(quiet, || readings.next().unwrap()), Ok("whole"));
    }

    #[test]
    fn a_sockets_temporary_path_is_as_short_as_it_must_be() {
        let directory = format!("/{}/", "d".repeat(90));
        for (name, temporary) in [
            ("socket", "socket.new"),
            ("socket-of11", "socket-of11.new"),
            ("socket-of-12", "socket-o.new"),
            ("socket-of-15-by", "socket-of-1.new"),
        ] {
            let temporary = format!("{directory}{temporary}");
            assert_eq!(temporary_path(Path::new(&format!("{directory}{name}"))), Path::new(&temporary));
        }
    }
}
