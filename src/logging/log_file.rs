//! The log file: written line by line, rotated by size, and opened again when its path leads to another file.

use super::line::Line;
use super::probe;
use super::standard::Standard;
use crate::advice;
use crate::config::Logger;
use crate::error::{Exit, Failure};
use nix::libc::O_NONBLOCK;
use rolling_file::{RollingConditionBasic, RollingFileAppender};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file that is rotated by size. The first line opens it; it is opened again after an error, or when its path leads to another file.
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    max_size: u64,
    rotations: usize,
    open: Option<Open>,
    /// True once the log says that the file cannot be rotated.
    complained: bool,
}

type Appender = RollingFileAppender<RollingConditionBasic>;

struct Open {
    /// Rotates only on request: by itself it would report a failure on stderr, which may be closed or full.
    file: Appender,
    /// The file to which the path led when it was opened.
    id: Option<(u64, u64)>,
}

/// The file to which a log file's path leads.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Found {
    /// The numbers of the device and of the inode.
    id: (u64, u64),
    size: u64,
    regular: bool,
}

impl LogFile {
    /// Creates a log file that can be opened. The file is created if it does not exist.
    ///
    /// # Errors
    /// [`Exit::Config`] if it cannot be opened.
    pub(super) fn check(path: PathBuf, settings: &Logger) -> Result<Self, Failure> {
        probe::open(&path, OpenOptions::new().create(true).mode(0o640)).map_err(|e| {
            let hint = hint(&path, &e);
            Failure::new(Exit::Config, format!("logger.file: cannot write {}: {e}; {hint}", path.display()))
        })?;
        Ok(Self::new(path, settings))
    }

    pub(super) fn new(path: PathBuf, settings: &Logger) -> Self {
        let (max_size, rotations) = (settings.max_size as u64, settings.rotations);
        Self { path, max_size, rotations, open: None, complained: false }
    }

    /// Writes a whole line or, if that fails, nothing.
    pub(super) fn write(&mut self, text: &str) -> io::Result<()> {
        let mut found = self.find();
        let id = |found: Option<Found>| found.map(|found| found.id);
        let mut file = match self.open.take().filter(|open| open.id == id(found)) {
            Some(open) => open.file,
            None => self.appender(&mut found)?,
        };
        // There is no rotation if either is zero, as with Python's handler.
        if self.rotations > 0
            && self.max_size > 0
            && found.is_some_and(|found| found.regular && found.size >= self.max_size)
        {
            file = self.rotate(file, &mut found)?;
        }
        if let Err(e) = file.write_all(text.as_bytes()).and_then(|()| file.flush()) {
            self.take_back(found);
            return Err(e);
        }
        self.open = Some(Open { file, id: id(found) });
        Ok(())
    }

    /// Removes the part of a line that was written.
    fn take_back(&self, before: Option<Found>) {
        let Some(Found { id, size, regular: true }) = before else { return };
        // The path may lead to another file by now, and the reader of a FIFO must not be waited for.
        if let Ok(file) = OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&self.path)
            && file.metadata().is_ok_and(|now| (now.dev(), now.ino()) == id)
        {
            let _ = file.set_len(size);
        }
    }

    /// Opens the file, and updates `found`.
    fn appender(&self, found: &mut Option<Found>) -> io::Result<Appender> {
        let condition = RollingConditionBasic::new();
        let file = RollingFileAppender::new_with_buffer_capacity(&self.path, condition, self.rotations, 0)?;
        *found = self.find();
        Ok(file)
    }

    /// Rotates the file. A file that cannot be rotated goes on growing; the log says so once.
    fn rotate(&mut self, mut file: Appender, found: &mut Option<Found>) -> io::Result<Appender> {
        let Err(e) = file.rollover() else {
            self.complained = false;
            *found = self.find();
            return Ok(file);
        };
        let mut file = self.appender(found)?;
        if !self.complained {
            let message = format!("{} cannot be rotated and goes on growing: {e}", self.path.display());
            if let Err(e) = file.write_all(Line::warning(message).full().as_bytes()) {
                self.take_back(*found);
                return Err(e);
            }
            self.complained = true;
            *found = self.find();
        }
        Ok(file)
    }

    /// Looks which file the path leads to.
    fn find(&self) -> Option<Found> {
        let file = std::fs::metadata(&self.path).ok()?;
        Some(Found { id: (file.dev(), file.ino()), size: file.len(), regular: file.is_file() })
    }
}

/// Says what to do so that a log file can be opened after `error`.
fn hint(path: &Path, error: &io::Error) -> String {
    match std::fs::read_link(path).ok().filter(|target| Standard::named(target).is_some()) {
        Some(target) => {
            let target = target.display();
            format!(
                "it is a link to {target}, which this user may not open anew; write `logger.file: {target}` instead"
            )
        }
        None => advice::to_write(path, error, advice::LOG),
    }
}
