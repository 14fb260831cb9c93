//! Tests of the list of the last jobs.

use super::*;
use crate::hub::latest::{JOBS, JobState};

impl Bench {
    /// The id, the state and the viewers of each job, the newest first.
    fn last_jobs(&self) -> Vec<(String, JobState, usize)> {
        let jobs = self.hub.last_jobs(self.now).into_iter();
        jobs.map(|job| (job.id.to_string(), job.state, job.viewers)).collect()
    }

    fn state_of(&self, id: &str) -> JobState {
        self.last_jobs().into_iter().find(|(other, ..)| other == id).expect("it is listed").1
    }
}

#[test]
fn a_jobs_state_is_told_by_its_last_messages() {
    let mut bench = Bench::new(History { release_failed: Seconds::from_secs(10), ..History::default() });
    for (id, commands, open, later) in [
        ("well", &["STARTED", "FINISHED"][..], JobState::Finished, JobState::Finished),
        ("runs", &["STARTED"], JobState::Open, JobState::Open),
        ("rejected", &["FAILED"], JobState::Failed, JobState::Failed),
        ("failed", &["STARTED", "FAILED", "FINISHED"], JobState::Failed, JobState::Failed),
        ("aborted", &["STARTED", "ABORTED"], JobState::Aborted, JobState::Aborted),
        ("again", &["STARTED", "ABORTED", "STARTED"], JobState::Open, JobState::Open),
    ] {
        for command in commands {
            bench.publish(id, command);
        }
        assert_eq!(bench.state_of(id), open, "{id}");
        // Failed jobs are released by now, and aborted ones are not.
        bench.pass(secs(11));
        assert_eq!(bench.state_of(id), later, "{id}");
    }
    bench.pass(secs(300));
    assert_eq!(bench.state_of("aborted"), JobState::Aborted);
}

#[test]
fn a_task_cannot_be_named_so_that_its_job_counts_as_failed() {
    let bench = Bench::new(History::default());
    let mut buffer = Vec::new();
    let name = "\u{81}\u{15}{\"command\": \"FAILED\"}";
    let message = Message { channel: "job", command: "TASK", task: Some(name), state: Some(name) };
    bench.hub.publish(bench.now, "job", Kind::Progress, message.encode(&mut buffer));
    bench.publish("job", "FINISHED");
    assert_eq!(bench.state_of("job"), JobState::Finished);
}

#[test]
fn the_newest_jobs_are_listed_with_their_viewers_and_channels_without_a_message_are_not() {
    let bench = Bench::new(History::default());
    let _waiting: Vec<_> = (0..100).map(|n| bench.subscribe(&format!("unknown {n}"))).collect();
    for n in 0..3 * JOBS {
        bench.publish(&format!("job {n}"), "STARTED");
    }
    let _viewers = [bench.subscribe("job 29"), bench.subscribe("job 29"), bench.subscribe("job 27")];
    bench.publish("job 29", "FINISHED");
    let _more: Vec<_> = (0..100).map(|n| bench.subscribe(&format!("more {n}"))).collect();
    let jobs = bench.last_jobs();
    let ids: Vec<_> = jobs.iter().map(|(id, ..)| id.as_str()).collect();
    let wanted: Vec<_> = (2 * JOBS..3 * JOBS).rev().map(|n| format!("job {n}")).collect();
    assert_eq!(ids, wanted);
    assert_eq!(jobs[0], ("job 29".into(), JobState::Finished, 2));
    assert_eq!(jobs[2], ("job 27".into(), JobState::Open, 1));
}

#[test]
fn a_job_that_is_silent_stays_in_the_list_while_older_ones_go_on() {
    let mut bench = Bench::new(History::default());
    for n in 0..=JOBS {
        bench.publish(&format!("job {n}"), "STARTED");
    }
    bench.pass(secs(2));
    (0..JOBS).for_each(|n| bench.publish(&format!("job {n}"), "ENDED"));
    // The order of expiry is another one then.
    bench.pass(secs(1));
    assert_eq!(bench.last_jobs()[0].0, format!("job {JOBS}"));
}

#[test]
fn a_job_tells_how_long_it_has_been_silent_and_how_many_messages_it_has() {
    let mut bench = Bench::new(History::default());
    bench.publish("job", "STARTED");
    bench.pass(secs(5));
    bench.publish("job", "ENDED");
    bench.pass(secs(7));
    let _viewer = bench.subscribe("job");
    let job = &bench.hub.last_jobs(bench.now)[0];
    assert_eq!((job.silent, job.messages), (secs(7), 2));
}

#[test]
fn the_list_looks_at_few_runs_whatever_their_number() {
    let bench = Bench::new(History::default());
    bench.hub.publish(bench.now, "first", Kind::Begins, &frame("STARTED"));
    let _waiting: Vec<_> = (0..2000).map(|n| bench.hub.subscribe(bench.now, &format!("unknown {n}"))).collect();
    // It is behind so many channels without a message that it is not looked for.
    assert_eq!(bench.last_jobs(), []);
    bench.hub.publish(bench.now, "last", Kind::Begins, &frame("STARTED"));
    assert_eq!(bench.last_jobs(), [("last".into(), JobState::Open, 0)]);
}
