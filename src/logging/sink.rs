//! Where log lines go: the journal, a rotating file, or stderr; and what is said about lines that could not be written.

use super::standard::{Standard, Stream};
use super::{Dropped, Line, outage, probe};
use crate::advice;
use crate::config::{DEFAULT_LOG, Logger, Output};
use crate::error::{Exit, Failure};
use chrono::{DateTime, Local};
use nix::libc::O_NONBLOCK;
use rolling_file::{RollingConditionBasic, RollingFileAppender};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// The name under which the journal files the lines.
const IDENTIFIER: &str = "recodex-monitor";

/// Where the settings send log lines.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// The journal.
    Journal,
    /// This file.
    File(PathBuf),
    /// The descriptor that the monitor was started with, in the form of a file.
    Standard(Standard),
    /// Standard error.
    Stderr,
}

impl Target {
    /// What `logger.output` and `logger.file` come to.
    #[must_use]
    pub fn of(settings: &Logger) -> Self {
        match (settings.output, &settings.file) {
            (Output::Journald, _) => Self::Journal,
            (Output::Auto, None) if connected_to_journal() => Self::Journal,
            (Output::Auto, None) | (Output::Stderr, _) => Self::Stderr,
            (Output::Auto | Output::File, Some(file)) => {
                Standard::named(file).map_or_else(|| Self::File(file.clone()), Self::Standard)
            }
            (Output::File, None) => Self::File(DEFAULT_LOG.into()),
        }
    }
}

/// An open target, and how many lines it did not take.
pub(super) struct Sink {
    writer: Writer,
    lost: u64,
    /// When the first of them was lost, and why.
    since: Option<(DateTime<Local>, String)>,
    /// Whether standard error was told that lines cannot be written.
    told: bool,
}

enum Writer {
    Journal(JournalLog),
    File(LogFile),
    Standard(Stream<File>),
    Stderr(Stream<io::Stderr>),
    /// A function prints each line.
    Function(Box<Print>),
}

/// Prints a line, which ends with a newline.
pub(super) type Print = dyn FnMut(&str) -> io::Result<()> + Send;

impl Sink {
    pub(super) fn printing(print: Box<Print>) -> Self {
        Self { writer: Writer::Function(print), lost: 0, since: None, told: false }
    }

    pub(super) fn open(settings: &Logger) -> Result<Self, Failure> {
        let writer = match Target::of(settings) {
            Target::Journal => match journal() {
                Ok(journal) => Writer::Journal(journal),
                // As in a container that has inherited the stream, but not the journal's socket.
                Err(failure) if settings.output == Output::Auto => {
                    log::warn!("{failure}; the log goes to standard error instead");
                    Writer::Stderr(Stream::new(io::stderr()))
                }
                Err(failure) => return Err(failure),
            },
            Target::File(path) => {
                check(&path).map_err(|e| {
                    let what = what_to_do(&path, &e);
                    Failure::new(Exit::Config, format!("logger.file: cannot write {}: {e}; {what}", path.display()))
                })?;
                Writer::File(LogFile::new(path, settings))
            }
            Target::Standard(standard) => Writer::Standard(standard.open().map(Stream::new).map_err(|what| {
                let name = settings.file.as_deref().unwrap_or(Path::new("")).display();
                Failure::new(Exit::Config, format!("logger.file: cannot write to {name}: {what}"))
            })?),
            Target::Stderr => Writer::Stderr(Stream::new(io::stderr())),
        };
        Ok(Self { writer, lost: 0, since: None, told: false })
    }

    /// Writes a line; one that cannot be written is counted and reported as soon as one can.
    pub(super) fn write(&mut self, line: &Line) {
        if !self.settle() {
            self.lost += 1;
        } else if let Err(e) = self.writer.write(line) {
            self.lose(1, &e.to_string());
        }
        if let Some((_, why)) = self.since.as_ref().filter(|_| !self.told)
            && let Some(what) = self.writer.apart()
        {
            self.told = outage::begins(&what, why);
        }
    }

    /// Counts `lost` lines that were dropped before they came here, and reports them.
    pub(super) fn report(&mut self, dropped: &Dropped) {
        let (lost, since) = dropped.take();
        if lost > 0 {
            self.lost += lost;
            self.since.get_or_insert_with(|| (since.into(), "the log could not keep up".into()));
            self.settle();
        }
    }

    /// Writes how many lines were lost, if any; false if that is not possible yet.
    fn settle(&mut self) -> bool {
        let Some((since, why)) = &self.since else { return true };
        let message = format!("{} log lines were lost since {}: {why}", self.lost, since.format("%Y-%m-%d %H:%M:%S"));
        let line = Line { time: SystemTime::now(), level: log::Level::Warn, message, fields: Vec::new() };
        if self.writer.write(&line).is_err() {
            return false;
        }
        if std::mem::take(&mut self.told)
            && let Some(what) = self.writer.apart()
        {
            outage::ends(&what, self.lost);
        }
        (self.lost, self.since) = (0, None);
        true
    }

    fn lose(&mut self, lines: u64, why: &str) {
        self.lost += lines;
        self.since.get_or_insert_with(|| (Local::now(), why.to_owned()));
    }

    pub(super) fn reopen(&mut self, settings: &Logger) {
        if let Writer::File(file) = &mut self.writer {
            *file = LogFile::new(file.path.clone(), settings);
        }
    }
}

impl Writer {
    /// What it writes to, if that has nothing to do with standard output and standard error.
    fn apart(&self) -> Option<String> {
        match self {
            Self::Journal(_) => Some("the journal".into()),
            Self::File(file) => Some(file.path.display().to_string()),
            _ => None,
        }
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        match self {
            Self::Journal(journal) => {
                let fields: Vec<(&str, &str)> = line.fields.iter().map(|(key, value)| (*key, value.as_str())).collect();
                journal.journal_send(
                    &log::Record::builder()
                        .level(journal_level(line.level))
                        .target(IDENTIFIER)
                        .args(format_args!("{}", line.message))
                        .key_values(&fields)
                        .build(),
                )
            }
            Self::File(file) => file.write(&format(line)),
            Self::Standard(stream) => stream.write(format(line)),
            // Its reader knows the time, or does not care.
            Self::Stderr(stream) => stream.write(brief(line)),
            Self::Function(print) => print(&brief(line)),
        }
    }
}

/// The level that the journal crate gives the priority which syslog has for `level`; by itself it files info as notice
/// and debug as info.
fn journal_level(level: log::Level) -> log::Level {
    match level {
        log::Level::Info => log::Level::Debug,
        log::Level::Debug => log::Level::Trace,
        other => other,
    }
}

fn journal() -> Result<JournalLog, Failure> {
    let journal = JournalLog::empty().map_err(|e| {
        let what = format!("logger.output: cannot reach the journal: {e}; expected a running systemd-journald");
        Failure::new(Exit::Config, what)
    })?;
    Ok(journal.with_syslog_identifier(IDENTIFIER.into()))
}

/// Looks whether the journal takes lines, as the start does; it is sent nothing that it keeps.
///
/// # Errors
/// [`Exit::Config`] if it cannot be reached.
pub fn reach_journal() -> Result<(), Failure> {
    journal().map(drop)
}

/// A line without its time.
fn brief(line: &Line) -> String {
    format!("[{IDENTIFIER}] [{}] {}\n", level_name(line.level), line.message)
}

/// The Python monitor's line.
fn format(line: &Line) -> String {
    let time = DateTime::<Local>::from(line.time).format("%Y-%m-%d %H:%M:%S,%3f");
    format!("[{time}] [{IDENTIFIER}] [{}] {}\n", level_name(line.level), line.message)
}

/// Python's names.
fn level_name(level: log::Level) -> &'static str {
    match level {
        log::Level::Warn => "WARNING",
        other => other.as_str(),
    }
}

/// Whether a log file can be opened; it is made if it is not there.
fn check(path: &Path) -> io::Result<()> {
    probe::open(path, OpenOptions::new().create(true).mode(0o640))
}

/// What to do so that a log file can be opened, after `error`.
fn what_to_do(path: &Path, error: &io::Error) -> String {
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

/// A file that is rotated by size. It is opened by the first line, and again after an error or when its name leads
/// elsewhere.
struct LogFile {
    path: PathBuf,
    max_size: u64,
    rotations: usize,
    open: Option<Open>,
    /// Whether it has been said that the file cannot be rotated.
    complained: bool,
}

type Appender = RollingFileAppender<RollingConditionBasic>;

struct Open {
    /// Rotates only when it is told to: by itself it would report a failure on stderr, which may be closed or full.
    file: Appender,
    /// What the name led to when it was opened.
    id: Option<(u64, u64)>,
}

/// What a log file's name leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Found {
    /// The numbers of the device and of the file on it.
    id: (u64, u64),
    size: u64,
    regular: bool,
}

impl LogFile {
    fn new(path: PathBuf, settings: &Logger) -> Self {
        let (max_size, rotations) = (settings.max_size as u64, settings.rotations);
        Self { path, max_size, rotations, open: None, complained: false }
    }

    /// Writes a whole line or, if that fails, none of it.
    fn write(&mut self, text: &str) -> io::Result<()> {
        let mut found = self.find();
        let id = |found: Option<Found>| found.map(|found| found.id);
        let mut file = match self.open.take().filter(|open| open.id == id(found)) {
            Some(open) => open.file,
            None => self.appender(&mut found)?,
        };
        // As with Python's handler: no rotation if either is zero.
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

    /// Takes back what was written of a line.
    fn take_back(&self, before: Option<Found>) {
        let Some(Found { id, size, regular: true }) = before else { return };
        // The name may lead elsewhere by now, and a FIFO there must not be waited for.
        if let Ok(file) = OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&self.path)
            && file.metadata().is_ok_and(|now| (now.dev(), now.ino()) == id)
        {
            let _ = file.set_len(size);
        }
    }

    /// Opens the file, and looks at what it is then.
    fn appender(&self, found: &mut Option<Found>) -> io::Result<Appender> {
        let condition = RollingConditionBasic::new();
        let file = RollingFileAppender::new_with_buffer_capacity(&self.path, condition, self.rotations, 0)?;
        *found = self.find();
        Ok(file)
    }

    /// Rotates the file. One that cannot be rotated goes on growing, and says so once.
    fn rotate(&mut self, mut file: Appender, found: &mut Option<Found>) -> io::Result<Appender> {
        let Err(e) = file.rollover() else {
            self.complained = false;
            *found = self.find();
            return Ok(file);
        };
        let mut file = self.appender(found)?;
        if !self.complained {
            let message = format!("{} cannot be rotated and goes on growing: {e}", self.path.display());
            let line = Line { time: SystemTime::now(), level: log::Level::Warn, message, fields: Vec::new() };
            if let Err(e) = file.write_all(format(&line).as_bytes()) {
                self.take_back(*found);
                return Err(e);
            }
            self.complained = true;
            *found = self.find();
        }
        Ok(file)
    }

    fn find(&self) -> Option<Found> {
        let file = std::fs::metadata(&self.path).ok()?;
        Some(Found { id: (file.dev(), file.ino()), size: file.len(), regular: file.is_file() })
    }
}
