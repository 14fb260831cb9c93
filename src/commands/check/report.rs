//! The findings of a check, printed one a line, each with what to do.

use crate::commands::terminal::print;
use crate::error::{Exit, Failure};
use crate::logging::escape;

/// A finding about one thing.
#[derive(Debug)]
pub(super) enum Finding {
    /// Nothing is to be done.
    Good(String),
    /// The monitor works, but perhaps not as it is meant to.
    Warning(String),
    /// The monitor would not start, or not serve. The status is the one that it would end with.
    Failed(Exit, String),
}

impl From<&Failure> for Finding {
    fn from(failure: &Failure) -> Self {
        Self::Failed(failure.exit(), failure.to_string())
    }
}

/// The findings so far, counted.
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
        print(&format!("{}\n", escape(text)))
    }

    /// Counts a finding, and prints it.
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
        // A message from elsewhere in the program begins with what it is about.
        let what = what.strip_prefix(about).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&what);
        Self::say(&format!("{how} {about}: {what}"))
    }

    /// Prints the result.
    ///
    /// # Errors
    /// With the status of the first failure, if something failed.
    pub(super) fn end(self) -> Result<(), Failure> {
        match self.exit {
            None if self.warnings == 0 => Self::say("all is well"),
            None => Self::say(&format!("the monitor would start; {} to look at", count(self.warnings, "warning"))),
            Some(exit) => Err(Failure::new(exit, format!("{} failed", count(self.failed, "check")))),
        }
    }
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
