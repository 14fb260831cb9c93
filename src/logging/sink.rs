//! The open target of the log: writes lines, counts those that could not be written, and reports them as soon as possible.

use super::line::{IDENTIFIER, Line};
use super::log_file::LogFile;
use super::outage;
use super::queue::Dropped;
use super::standard::Stream;
use super::target::Target;
use crate::config::{Logger, Output};
use crate::error::{Exit, Failure};
use chrono::{DateTime, Local};
use std::fs::File;
use std::io;
use std::path::Path;
use systemd_journal_logger::JournalLog;

/// An open target, and the lines lost since it was last written to.
pub(super) struct Sink {
    writer: Writer,
    lost: u64,
    /// The time and the cause of the first loss.
    since: Option<(DateTime<Local>, String)>,
    /// True once standard error was told that lines cannot be written.
    told: bool,
}

enum Writer {
    Journal(JournalLog),
    File(LogFile),
    Standard(Stream<File>),
    Stderr(Stream<io::Stderr>),
    /// A function that prints each line.
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
                // A container may inherit the stream to the journal, but not the journal's socket.
                Err(failure) if settings.output == Output::Auto => {
                    log::warn!("{failure}; the log goes to standard error instead");
                    Writer::Stderr(Stream::new(io::stderr()))
                }
                Err(failure) => return Err(failure),
            },
            Target::File(path) => Writer::File(LogFile::check(path, settings)?),
            Target::Standard(standard) => Writer::Standard(standard.open().map(Stream::new).map_err(|what| {
                let name = settings.file.as_deref().unwrap_or(Path::new("")).display();
                Failure::new(Exit::Config, format!("logger.file: cannot write to {name}: {what}"))
            })?),
            Target::Stderr => Writer::Stderr(Stream::new(io::stderr())),
        };
        Ok(Self { writer, lost: 0, since: None, told: false })
    }

    /// Writes a line. A line that cannot be written is counted, and reported before the next one that can.
    pub(super) fn write(&mut self, line: &Line) {
        if !self.report_lost() {
            self.lost += 1;
        } else if let Err(e) = self.writer.write(line) {
            self.lost += 1;
            self.since.get_or_insert_with(|| (Local::now(), e.to_string()));
        }
        if let Some((_, why)) = self.since.as_ref().filter(|_| !self.told)
            && let Some(what) = self.writer.name()
        {
            self.told = outage::begins(&what, why);
        }
    }

    /// Counts the lines for which the queue had no room, and reports them.
    pub(super) fn report(&mut self, dropped: &Dropped) {
        let (lost, since) = dropped.take();
        if lost > 0 {
            self.lost += lost;
            self.since.get_or_insert_with(|| (since.into(), "the log could not keep up".into()));
            self.report_lost();
        }
    }

    /// Writes how many lines were lost, if any. Returns false if that is not possible yet.
    fn report_lost(&mut self) -> bool {
        let Some((since, why)) = &self.since else { return true };
        let message = format!("{} log lines were lost since {}: {why}", self.lost, since.format("%Y-%m-%d %H:%M:%S"));
        if self.writer.write(&Line::warning(message)).is_err() {
            return false;
        }
        if std::mem::take(&mut self.told)
            && let Some(what) = self.writer.name()
        {
            outage::ends(&what, self.lost);
        }
        (self.lost, self.since) = (0, None);
        true
    }

    /// Applies changed settings to a log file, which the next line opens anew.
    pub(super) fn reopen(&mut self, settings: &Logger) {
        if let Writer::File(file) = &mut self.writer {
            *file = LogFile::new(file.path.clone(), settings);
        }
    }
}

impl Writer {
    /// Returns the name of the target, if it is neither standard output nor standard error.
    fn name(&self) -> Option<String> {
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
            Self::File(file) => file.write(&line.full()),
            Self::Standard(stream) => stream.write(line.full()),
            // Readers of standard error have the time from elsewhere, or do not need it.
            Self::Stderr(stream) => stream.write(line.brief()),
            Self::Function(print) => print(&line.brief()),
        }
    }
}

/// Returns the level to which the journal crate gives syslog's priority of `level`; the crate files info as notice, and debug as info.
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

/// Checks that the journal can be reached, as the start does. Sends nothing that it keeps.
///
/// # Errors
/// [`Exit::Config`] if it cannot be reached.
pub(crate) fn reach_journal() -> Result<(), Failure> {
    journal().map(drop)
}
