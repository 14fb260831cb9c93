//! Files that are read whole: never more than a bound, and nothing but files, so that a FIFO or a device in the place of one holds up
//! nobody.

use nix::libc::{O_CLOEXEC, O_NOCTTY, O_NONBLOCK, makedev};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The longest time that a pipe may take to deliver all of its content.
const PIPE_LIMIT: Duration = Duration::from_secs(5);
/// The longest time that [`settled`] waits for content that keeps changing.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// The byte order mark that some editors, such as Windows' Notepad, write at the beginning of a file in UTF-8.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns a file's content without a byte order mark.
#[must_use]
pub fn without_mark(file: &[u8]) -> &[u8] {
    file.strip_prefix(BYTE_ORDER_MARK).unwrap_or(file)
}

/// Returns true for a file in UTF-16: it begins with the mark of that encoding, or with an ASCII character beside a zero byte.
#[must_use]
pub fn is_utf_16(file: &[u8]) -> bool {
    matches!(file, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=u8::MAX, ..] | [1..=0x7f, 0, ..])
}

/// Reads a regular file of at most `max` bytes.
///
/// # Errors
/// A text for people, without the path: if it cannot be opened or read, is no regular file, or is larger.
pub fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    read_stamped(path, max).map(|read| read.bytes)
}

/// The directory that a path is in; `.` for a bare name.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What was read of a file, and from which of its states.
#[derive(Debug, PartialEq, Eq)]
pub struct Stamped {
    /// The content.
    pub bytes: Vec<u8>,
    /// Device, inode, and the time of the last change in seconds and nanoseconds.
    stamp: (u64, u64, i64, i64),
}

impl Stamped {
    /// The numbers of the device and of the file on it.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        (self.stamp.0, self.stamp.1)
    }
}

/// Reads as [`read_bounded`] does, for [`settled`]: two readings are equal only if the file was not changed between them.
///
/// # Errors
/// As [`read_bounded`].
pub fn read_stamped(path: &Path, max: u64) -> Result<Stamped, String> {
    let (file, found) = open(path)?;
    if !found.is_file() {
        return Err("expected a file".into());
    }
    // Taken before it is read, so that a change while it is read shows in the next reading.
    let stamp = (found.dev(), found.ino(), found.ctime(), found.ctime_nsec());
    Ok(Stamped { bytes: read_all(file, max)?, stamp })
}

/// Reads as [`read_bounded`] does, but also a pipe, which has 5 s to deliver everything, and `/dev/null`, which is empty.
///
/// # Errors
/// As [`read_bounded`]; and if a pipe delivers nothing, or not all of it in time.
pub fn read_bounded_or_pipe(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    let (file, found) = open(path)?;
    let kind = found.file_type();
    if kind.is_fifo() {
        return read_pipe(file, max);
    }
    let is_null = kind.is_char_device() && found.rdev() == makedev(1, 3);
    if !found.is_file() && !is_null {
        return Err("expected a file or a pipe".into());
    }
    read_all(file, max)
}

/// Reads until two readings, `quiet` apart, give the same: a file that is being written is not taken in part.
///
/// `quiet` may depend on what was read. Blocks the thread, for at most 5 s and a reading.
///
/// # Errors
/// A text for people, if the content still changes after 5 s.
pub fn settled<T: PartialEq>(quiet: impl Fn(&T) -> Duration, mut read: impl FnMut() -> T) -> Result<T, String> {
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

fn open(path: &Path) -> Result<(File, Metadata), String> {
    // Without O_NONBLOCK a FIFO would hold up whoever opens it.
    let open = OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOCTTY | O_CLOEXEC).open(path);
    let file = open.map_err(|e| format!("cannot open it: {e}"))?;
    let found = file.metadata().map_err(|e| cannot_read(&e))?;
    Ok((file, found))
}

fn read_all(file: File, max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(|e| cannot_read(&e))?;
    bounded(bytes, max)
}

fn read_pipe(mut pipe: File, max: u64) -> Result<Vec<u8>, String> {
    let (end, mut bytes) = (Instant::now() + PIPE_LIMIT, Vec::new());
    while bytes.len() as u64 <= max {
        // Polled first: a FIFO that nobody has opened for writing yet would read as empty.
        let left = end.saturating_duration_since(Instant::now());
        let ready = poll(
            &mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)],
            PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO),
        );
        match ready {
            Ok(0) => return Err(format!("this pipe did not end within {} s", PIPE_LIMIT.as_secs())),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(cannot_read(&e.into())),
            Ok(_) => {}
        }
        let mut piece = [0; 4096];
        match pipe.read(&mut piece) {
            Ok(0) if bytes.is_empty() => return Err("this pipe is empty".into()),
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => return Err(cannot_read(&e)),
        }
    }
    bounded(bytes, max)
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
    use std::os::fd::AsRawFd;

    #[test]
    fn a_file_is_read_up_to_the_bound_and_nothing_else_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, "12345").unwrap();
        assert_eq!(read_bounded(&path, 5), Ok(b"12345".to_vec()));
        assert_eq!(read_bounded(&path, 4), Err("expected at most 4 bytes".into()));
        let fifo = directory.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for other in [directory.path(), &fifo, Path::new("/dev/zero"), Path::new("/dev/null")] {
            assert_eq!(read_bounded(other, 5), Err("expected a file".into()), "{}", other.display());
        }
        assert!(
            read_bounded(&directory.path().join("none"), 5).unwrap_err().starts_with("cannot open it: No such file")
        );
    }

    #[test]
    fn a_pipe_is_read_to_its_end_where_it_may_be_one() {
        let read = |text: &[u8], max| {
            use io::Write;
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(text).unwrap();
            drop(writer);
            read_bounded_or_pipe(Path::new(&format!("/dev/fd/{}", reader.as_raw_fd())), max)
        };
        assert_eq!(read(b"a: 1\n", 5), Ok(b"a: 1\n".to_vec()));
        assert_eq!(read(b"a: 1\n", 4), Err("expected at most 4 bytes".into()));
        assert_eq!(read(b"", 4), Err("this pipe is empty".into()));
        assert_eq!(read_bounded_or_pipe(Path::new("/dev/null"), 4), Ok(Vec::new()));
        assert_eq!(read_bounded_or_pipe(Path::new("/dev/zero"), 4), Err("expected a file or a pipe".into()));
    }

    #[test]
    fn content_is_taken_once_two_readings_agree() {
        let mut readings = ["", "cut", "whole", "whole", "other"].into_iter();
        let quiet = |text: &&str| Duration::from_millis(if text.is_empty() { 2 } else { 1 });
        assert_eq!(settled(quiet, || readings.next().unwrap()), Ok("whole"));
    }
}
