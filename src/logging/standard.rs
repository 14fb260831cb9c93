//! Standard output or standard error as the log file: an inherited descriptor, which is never opened anew.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{S_IFCHR, S_IFMT};
use nix::sys::stat::{fstat, makedev};
use std::fs::File;
use std::io::{self, Write, stderr, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// One of the two descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standard {
    /// Number 1.
    Output,
    /// Number 2.
    Error,
}

impl Standard {
    /// Returns the descriptor that a path names.
    pub(super) fn named(path: &Path) -> Option<Self> {
        let is_one_of = |names: [&str; 4]| names.into_iter().any(|name| path == Path::new(name));
        match path {
            _ if is_one_of(["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1"]) => {
                Some(Self::Output)
            }
            _ if is_one_of(["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2", "/proc/thread-self/fd/2"]) => {
                Some(Self::Error)
            }
            _ => None,
        }
    }

    /// Duplicates the descriptor for writing.
    ///
    /// # Errors
    /// If it was closed when the program was started, or is not open for writing.
    pub(super) fn open(self) -> Result<File, String> {
        let descriptor = match self {
            Self::Output => stdout().as_fd().try_clone_to_owned(),
            Self::Error => stderr().as_fd().try_clone_to_owned(),
        };
        let descriptor = descriptor.map_err(|e| e.to_string())?;
        let flags = fcntl(&descriptor, FcntlArg::F_GETFL).map_err(|e| e.to_string())?;
        match OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE {
            OFlag::O_RDONLY => Err("it is open for reading only; expected one to write to".into()),
            OFlag::O_RDWR if is_null(&descriptor) => {
                Err("it is closed, or nobody can see what is written there; redirect it, or name a file".into())
            }
            _ => Ok(descriptor.into()),
        }
    }
}

/// A descriptor that lines are written to. A part of a line stays, even if the rest cannot be written.
pub(super) struct Stream<W> {
    to: W,
    /// True if the last line was written in part.
    torn: bool,
}

impl<W: Write> Stream<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, torn: false }
    }

    /// Writes a line. If the line before was written in part, it is ended first.
    pub(super) fn write(&mut self, mut line: String) -> io::Result<()> {
        if self.torn {
            line.insert(0, '\n');
        }
        let mut rest = line.as_bytes();
        let mut outcome = Ok(());
        while !rest.is_empty() && outcome.is_ok() {
            match self.to.write(rest) {
                Ok(0) => outcome = Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => outcome = Err(e),
            }
        }
        let written = line.len() - rest.len();
        if written > 0 {
            self.torn = !line.as_bytes()[..written].ends_with(b"\n");
        }
        outcome
    }
}

/// Returns true for the null device. If a standard descriptor is closed when a program starts, Rust opens the null device in its place,
/// for reading and writing. A shell that redirects to it opens it for writing only.
fn is_null(descriptor: &OwnedFd) -> bool {
    fstat(descriptor).is_ok_and(|found| found.st_mode & S_IFMT == S_IFCHR && found.st_rdev == makedev(1, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that may have so many bytes.
    #[derive(Default)]
    struct Limited {
        content: Vec<u8>,
        limit: usize,
    }

    impl Write for Limited {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = (self.limit - self.content.len()).min(bytes.len());
            self.content.extend_from_slice(&bytes[..room]);
            if room == 0 { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(room) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_is_torn_is_ended_before_the_next_one() {
        let mut stream = Stream::new(Limited { limit: 8, ..Limited::default() });
        let mut write = |limit, is_written| {
            stream.to.limit = limit;
            assert_eq!(stream.write("12345\n".into()).is_ok(), is_written);
            String::from_utf8(stream.to.content.clone()).unwrap()
        };
        assert_eq!(write(6, true), "12345\n");
        assert_eq!(write(8, false), "12345\n12");
        assert_eq!(write(8, false), "12345\n12");
        assert_eq!(write(9, false), "12345\n12\n");
        assert_eq!(write(12, false), "12345\n12\n123");
        assert_eq!(write(100, true), "12345\n12\n123\n12345\n");
        assert_eq!(write(100, true), "12345\n12\n123\n12345\n12345\n");
    }
}
