//! The last warnings and errors, for the status page and `recodex-monitor status`.

use super::NOTICES;
use super::line::Line;
use log::Level;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::SystemTime;

/// A warning or an error, as it was logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Notice {
    /// The time, in seconds since the Unix epoch.
    pub time: f64,
    /// `warning` or `error`.
    pub level: String,
    /// The text.
    pub text: String,
}

/// The last [`NOTICES`] notices, the newest first, and the number of all.
#[derive(Default)]
pub(super) struct Notices {
    pub(super) last: VecDeque<Notice>,
    pub(super) count: u64,
}

impl Notices {
    pub(super) fn add(&mut self, line: &Line) {
        let time = line.time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let level = if line.level == Level::Warn { "warning" } else { "error" };
        self.last.truncate(NOTICES - 1);
        self.last.push_front(Notice { time, level: level.into(), text: line.message.clone() });
        self.count += 1;
    }
}
