//! Log lines on stderr, with everything from outside escaped and repeated lines held back.

use crate::config::Level;
use log::{LevelFilter, Log, Metadata, Record};
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Of what libraries say, only what is worth a warning concerns an administrator.
        metadata.target().starts_with("recodex_monitor") || metadata.level() <= LevelFilter::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut line = format!("[recodex-monitor] [{}] ", level_name(record.level()));
            // Writing to a String cannot fail, and neither can a closed stderr be reported anywhere.
            let _ = write!(Escaped(&mut line), "{}", record.args());
            line.push('\n');
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

fn level_name(level: log::Level) -> &'static str {
    match level {
        log::Level::Warn => "WARNING",
        other => other.as_str(),
    }
}

/// Starts logging at `level`. A second call only changes the level.
pub fn start(level: Level) {
    let _ = log::set_logger(&Stderr);
    log::set_max_level(level.filter());
}

/// Text with every character that could forge or garble a line written as an escape.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            // Besides controls: what moves or hides text on a terminal (line separators, direction marks).
            if c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
            {
                write!(self.0, "{}", c.escape_default())?;
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}

/// Makes text from outside fit to be printed on one line.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let _ = Escaped(&mut escaped).write_str(text);
    escaped
}

/// A channel id for the log: at most half of it, and eight characters. Who knows an id may watch its job.
#[derive(Debug)]
pub struct Abridged<'a>(pub &'a str);

impl fmt::Display for Abridged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = (self.0.chars().count() / 2).min(8);
        for c in self.0.chars().take(shown) {
            f.write_char(c)?;
        }
        f.write_str("…")
    }
}

/// Lets one line through per period and says how many it held back. For what outsiders can cause at will.
#[derive(Debug)]
pub struct Throttle {
    period: Duration,
    last: Mutex<(Option<Instant>, u64)>,
}

impl Throttle {
    /// Lets one line through per `period`.
    #[must_use]
    pub const fn new(period: Duration) -> Self {
        Self { period, last: Mutex::new((None, 0)) }
    }

    /// Logs a warning, if it is time for one.
    pub fn warn(&self, message: impl FnOnce() -> String) {
        self.log(log::Level::Warn, message);
    }

    /// Logs an information, if it is time for one.
    pub fn info(&self, message: impl FnOnce() -> String) {
        self.log(log::Level::Info, message);
    }

    fn log(&self, level: log::Level, message: impl FnOnce() -> String) {
        if let Some(held) = self.pass(Instant::now()) {
            let held =
                if held > 0 { format!(" ({held} more like this since the last such line)") } else { String::new() };
            log::log!(level, "{}{held}", message());
        }
    }

    /// Whether a line may pass now; if so, how many were held back before it.
    fn pass(&self, now: Instant) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.is_some_and(|at| now < at + self.period) {
            last.1 += 1;
            return None;
        }
        last.0 = Some(now);
        Some(std::mem::take(&mut last.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_forge_a_line() {
        assert_eq!(escape("a\n[x]\r\u{1b}[31m\u{7f}\u{85}\u{202e}é"), "a\\n[x]\\r\\u{1b}[31m\\u{7f}\\u{85}\\u{202e}é");
    }

    #[test]
    fn an_id_is_never_shown_whole() {
        for (id, shown) in [("", "…"), ("a", "…"), ("ab", "a…"), ("student_5d1f3c9e-0b7a", "student_…")] {
            assert_eq!(Abridged(id).to_string(), shown);
        }
    }

    #[test]
    fn one_line_per_period_and_the_rest_counted() {
        let throttle = Throttle::new(Duration::from_secs(10));
        let start = Instant::now();
        assert_eq!(throttle.pass(start), Some(0));
        assert_eq!(throttle.pass(start + Duration::from_secs(1)), None);
        assert_eq!(throttle.pass(start + Duration::from_millis(9_999)), None);
        assert_eq!(throttle.pass(start + Duration::from_secs(10)), Some(2));
        assert_eq!(throttle.pass(start + Duration::from_secs(20)), Some(0));
    }
}
