//! Standard output or standard error as the log file: the descriptor that the monitor was started with, which is never opened anew.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{S_IFCHR, S_IFMT};
use nix::sys::stat::{fstat, makedev};
use std::fs::File;
use std::io::{stderr, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// One of the two descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standard {
    /// Number 1.
    Output,
    /// Number 2.
    Error,
}

impl Standard {
    /// The descriptor that a path names.
    pub(super) fn named(path: &Path) -> Option<Self> {
        let is_one_of = |names: [&str; 3]| names.into_iter().any(|name| path == Path::new(name));
        match path {
            _ if is_one_of(["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"]) => Some(Self::Output),
            _ if is_one_of(["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"]) => Some(Self::Error),
            _ => None,
        }
    }

    /// The descriptor, to be written to.
    ///
    /// # Errors
    /// With what is wrong, if it was closed when the program was started, or is not open for writing.
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

/// Whether this is the null device. Rust opens it, for reading and writing, at the number of each standard descriptor that is
/// closed when a program starts. A shell that redirects to it opens it for writing only.
fn is_null(descriptor: &OwnedFd) -> bool {
    fstat(descriptor).is_ok_and(|found| found.st_mode & S_IFMT == S_IFCHR && found.st_rdev == makedev(1, 3))
}
