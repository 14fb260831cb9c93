//! The counts and the phase of a job, from its messages, as a viewer's dialog shows them.

use crate::logging::escape;
use serde::Deserialize;

/// The fields of a message that a viewer's dialog reads.
#[derive(Debug, Deserialize)]
struct Progress {
    command: String,
    task_state: Option<String>,
}

/// The counts that a viewer's dialog shows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tasks completed, failed and skipped.
    pub(crate) tasks: [u64; 3],
    /// The last command other than TASK and FINISHED.
    phase: String,
    /// True if FINISHED came after the phase.
    finished: bool,
}

impl Tally {
    /// Counts a message. A text that is no message of a monitor becomes the phase.
    pub(crate) fn count(&mut self, text: &str) {
        match serde_json::from_str::<Progress>(text) {
            Ok(Progress { command, task_state }) if command == "TASK" => match task_state.as_deref() {
                Some("COMPLETED") => self.tasks[0] += 1,
                Some("FAILED") => self.tasks[1] += 1,
                _ => self.tasks[2] += 1,
            },
            Ok(Progress { command, .. }) if command == "FINISHED" => self.finished = true,
            Ok(Progress { command, .. }) => (self.phase, self.finished) = (escape(&command), false),
            Err(_) => (self.phase, self.finished) = (escape(text), false),
        }
    }

    /// Returns true if the last command other than TASK was FINISHED.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Forgets a FINISHED that came from the monitor and not from the job, which the code of the close tells.
    pub(crate) fn forget_finished(&mut self) {
        self.finished = false;
    }

    /// Returns the phase as a text for people. A job that failed shows FAILED before its FINISHED.
    pub(crate) fn phase(&self) -> &str {
        match (&*self.phase, self.finished) {
            ("FAILED", true) => "FAILED, FINISHED",
            (_, true) => "FINISHED",
            (phase, false) => phase,
        }
    }

    /// Returns the number of all tasks.
    pub(crate) fn total(&self) -> u64 {
        self.tasks.iter().sum()
    }

    /// Returns the counts and the phase as a text for people.
    pub(crate) fn summary(&self) -> String {
        let [completed, failed, skipped] = self.tasks;
        format!("{completed} completed, {failed} failed, {skipped} skipped; {}", self.phase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_counted_by_state_and_the_last_other_command_is_the_phase() {
        let mut tally = Tally::default();
        for text in [
            r#"{"command": "STARTED"}"#,
            r#"{"command": "TASK", "task_id": "a", "task_state": "COMPLETED"}"#,
            r#"{"command": "TASK", "task_id": "b", "task_state": "FAILED"}"#,
            r#"{"command": "TASK", "task_id": "c", "task_state": "SKIPPED"}"#,
            r#"{"command": "TASK", "task_id": "d", "task_state": "COMPLETED"}"#,
            r#"{"command": "END\nED"}"#,
        ] {
            tally.count(text);
        }
        assert_eq!(tally.total(), 4);
        assert_eq!(tally.summary(), "2 completed, 1 failed, 1 skipped; END\\nED");
        tally.count("\u{1b}[2J");
        assert_eq!(tally.phase(), "\\u{1b}[2J");
    }

    #[test]
    fn finished_hides_every_phase_but_failed_and_may_be_forgotten() {
        for (before, shown) in [("UPLOADED", "FINISHED"), ("FAILED", "FAILED, FINISHED"), ("ABORTED", "FINISHED")] {
            let mut tally = Tally::default();
            for command in [before, "FINISHED"] {
                tally.count(&format!(r#"{{"command": "{command}"}}"#));
            }
            assert_eq!((tally.is_finished(), tally.phase()), (true, shown));
            tally.forget_finished();
            assert_eq!((tally.is_finished(), tally.phase()), (false, before));
        }
    }
}
