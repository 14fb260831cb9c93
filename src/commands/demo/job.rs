//! The simulated jobs of the demo's broker.

/// A simulated job: the messages that the broker sends, and the texts that every viewer must get.
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) channel: String,
    /// The frames of each message, without the channel id.
    pub(super) messages: Vec<Vec<String>>,
    /// True if the monitor adds FINISHED at the end.
    released: bool,
}

impl Job {
    /// Returns job number `n`, which ends well. Length and task states differ from job to job.
    pub(super) fn plain(n: u64) -> Self {
        let mut messages = run(n, tasks_of(n));
        messages.extend([&["ENDED"][..], &["UPLOADED"], &["FINISHED"]].map(owned));
        Self { number: n, channel: format!("demo_job_{n}"), messages, released: false }
    }

    /// Returns job number `n`, which may also fail, or be aborted by its worker and run by another worker.
    pub(super) fn any(n: u64) -> Self {
        let mut job = Self::plain(n);
        let half = run(n, tasks_of(n) / 2);
        match n % 7 {
            3 => {
                job.messages = half;
                job.messages.push(owned(&["FAILED"]));
                job.released = true;
            }
            5 => {
                let again = std::mem::replace(&mut job.messages, half);
                job.messages.push(owned(&["ABORTED"]));
                job.messages.extend(again);
            }
            _ => {}
        }
        job
    }

    /// Returns the number of messages about tasks.
    pub(super) fn tasks(&self) -> u64 {
        self.messages.iter().filter(|message| message[0] == "TASK").count() as u64
    }

    /// Returns the texts that every viewer must get, without the use of the monitor's own encoder.
    pub(super) fn texts(&self) -> Vec<String> {
        let text = |message: &Vec<String>| match &message[..] {
            [command, task, state] => {
                format!(r#"{{"command": "{command}", "task_id": "{task}", "task_state": "{state}"}}"#)
            }
            message => format!(r#"{{"command": "{}"}}"#, message[0]),
        };
        let added = self.released.then(|| owned(&["FINISHED"]));
        self.messages.iter().chain(&added).map(text).collect()
    }
}

fn tasks_of(n: u64) -> u64 {
    5 + n % 26 * 7 % 26
}

/// Returns the beginning of job number `n`, with this number of tasks.
fn run(n: u64, tasks: u64) -> Vec<Vec<String>> {
    let mut messages: Vec<Vec<String>> = [&["DOWNLOADED"][..], &["STARTED"]].map(owned).to_vec();
    for task in 0..tasks {
        let state = match (task + n % 9) % 9 {
            7 => "FAILED",
            8 => "SKIPPED",
            _ => "COMPLETED",
        };
        messages.push(owned(&["TASK", &format!("task_{task:02}"), state]));
    }
    messages
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_of_every_kind_end_with_finished_for_their_viewers() {
        for n in [1, 3, 5, u64::MAX] {
            let (job, finished) = (Job::any(n), r#"{"command": "FINISHED"}"#);
            let texts = job.texts();
            assert_eq!(texts.iter().filter(|text| *text == finished).count(), 1, "{n}");
            assert_eq!(texts.last().map(String::as_str), Some(finished), "{n}");
            assert_eq!(texts.len() - job.messages.len(), usize::from(n % 7 == 3), "{n}");
            assert!(job.tasks() <= 45, "{n}");
        }
    }
}
