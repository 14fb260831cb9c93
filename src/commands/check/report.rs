//! Prints and counts the findings of a check, one a line.

use crate::commands::terminal::print;
use crate::error::{Exit, Failure};
use crate::logging::one_line;

/// A finding about one thing.
#[derive(Debug)]
pub(super) enum Finding {
    /// Nothing needs to be done.
    Good(String),
    /// The monitor would start, but perhaps not work as intended.
    Warning(String),
    /// The monitor would not start, or not serve. It would end with this exit status.
    Failed(Exit, String),
}

impl From<&Failure> for Finding {
    fn from(failure: &Failure) -> Self {
        Self::Failed(failure.exit(), failure.to_string())
    }
}

/// The counts of the findings so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The status of the first failure.
    exit: Option<Exit>,
    failed: usize,
    warnings: usize,
}

impl Report {
    /// Prints a line.
    pub(super) fn say(text: &str) -> Result<(), Failure> {
        print(&format!("{}\n", one_line(text)))
    }

    /// Counts and prints a finding.
    pub(super) fn add(&mut self, about: &str, finding: Finding) -> Result<(), Failure> {
        let (how, what) = match finding {
            Finding::Good(what) => ("ok     ", what),
            Finding::Warning(what) => {
                self.warnings += 1;
                ("warning", what)
            }
            Finding::Failed(exit, what) => {
                self.failed += 1;
                self.exit.get_or_insert(exit);
                ("FAILED ", what)
            }
        };
        // Some messages already begin with their subject.
        let what = what.strip_prefix(about).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&what);
        Self::say(&format!("{how} {about}: {what}"))
    }

    /// Prints the result. Fails with the exit status of the first failure.
    pub(super) fn end(self) -> Result<(), Failure> {
        match self.exit {
            None if self.warnings == 0 => Self::say("all is well"),
            None => Self::say(&format!("the monitor would start, with {}", count(self.warnings, "warning"))),
            Some(exit) => Err(Failure::new(exit, format!("{} failed", count(self.failed, "check")))),
        }
    }
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
