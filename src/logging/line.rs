//! A line of the log: its journal fields, and its text in each of the formats.

use super::escape::one_line;
use super::{CHANNEL, CLOSE_CODE, PEER};
use chrono::{DateTime, Local};
use log::kv::{Key, Value, VisitSource};
use log::{Level, Record};
use std::time::SystemTime;

/// The name under which the journal files the lines.
pub(super) const IDENTIFIER: &str = "recodex-monitor";

/// One line on its way to the log.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, String)>,
}

impl Line {
    /// Creates a line of now. `text` is escaped and cut.
    pub(super) fn new(level: Level, text: &str, fields: Vec<(&'static str, String)>) -> Self {
        Self { time: SystemTime::now(), level, message: one_line(text), fields }
    }

    /// Creates a warning of the log's own, whose text needs no escapes.
    pub(super) fn warning(message: String) -> Self {
        Self { time: SystemTime::now(), level: Level::Warn, message, fields: Vec::new() }
    }

    /// Returns the line without its time.
    pub(super) fn brief(&self) -> String {
        format!("[{IDENTIFIER}] [{}] {}\n", level_name(self.level), self.message)
    }

    /// Returns the line as the Python monitor wrote it.
    pub(super) fn full(&self) -> String {
        let time = DateTime::<Local>::from(self.time).format("%Y-%m-%d %H:%M:%S,%3f");
        format!("[{time}] {}", self.brief())
    }
}

/// Returns Python's name of a level.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::Warn => "WARNING",
        other => other.as_str(),
    }
}

/// Returns the journal fields among a record's key-value pairs.
pub(super) fn fields(record: &Record<'_>) -> Vec<(&'static str, String)> {
    struct Known(Vec<(&'static str, String)>);
    impl<'kvs> VisitSource<'kvs> for Known {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            if let Some(known) = [PEER, CHANNEL, CLOSE_CODE].into_iter().find(|known| *known == key.as_str()) {
                self.0.push((known, value.to_string()));
            }
            Ok(())
        }
    }
    let mut known = Known(Vec::new());
    let _ = record.key_values().visit(&mut known);
    known.0
}
