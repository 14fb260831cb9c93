//! Jobs that failed or were aborted, and their release.

use super::{release_passes, release_passes_after, start};
use crate::common::{A_WHILE, Event, Viewer, command, fence, task, until};
use std::time::Duration;

#[test]
fn failed_and_then_silence_is_released_by_a_finished_of_the_monitors_own() {
    let (monitor, broker) = start("history: {release_failed: 0.3}");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    broker.send(&["job", "STARTED"]);
    broker.send(&["job", "FAILED"]);
    let all = [command("STARTED"), command("FAILED"), command("FINISHED")];
    viewer.texts(&all);
    viewer.closes(1000);
    let mut late = Viewer::watch(monitor.viewers, "job");
    late.texts(&all);
    late.closes(1000);
}

#[test]
fn a_failed_job_that_nobody_watches_is_released_too() {
    let (monitor, broker) = start("history: {release_failed: 0.3}");
    broker.send(&["job", "FAILED"]);
    release_passes(&monitor, &broker);
    let mut late = Viewer::watch(monitor.viewers, "job");
    late.texts(&[command("FAILED"), command("FINISHED")]);
    late.closes(1000);
}

/// The broker's own FINISHED, when it comes later, is a repeated one.
#[test]
fn after_a_release_the_brokers_own_finished_is_dropped() {
    let (monitor, broker) = start("history: {release_failed: 0.2}");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    broker.send(&["job", "FAILED"]);
    viewer.texts(&[command("FAILED"), command("FINISHED")]);
    viewer.closes(1000);
    broker.send(&["job", "FINISHED"]);
    fence(&monitor, &broker);
    let mut late = Viewer::watch(monitor.viewers, "job");
    late.texts(&[command("FAILED"), command("FINISHED")]);
    late.closes(1000);
}

#[test]
fn failed_and_then_something_else_in_time_is_not_released() {
    let (monitor, broker) = start("history: {release_failed: 1}");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    broker.send(&["job", "FAILED"]);
    broker.send(&["job", "STARTED"]);
    release_passes(&monitor, &broker);
    broker.send(&["job", "ENDED"]);
    viewer.texts(&[command("FAILED"), command("STARTED"), command("ENDED")]);
}

#[test]
fn viewers_that_come_do_not_put_off_the_release() {
    let (monitor, broker) = start("history: {release_failed: 1}");
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    broker.send(&["job", "FAILED"]);
    viewer.texts(&[command("FAILED")]);
    until("the job is released", || {
        Viewer::watch(monitor.viewers, "job").texts(&[command("FAILED")]);
        viewer.next_within(Duration::from_millis(50)).map(|event| assert_eq!(event, Event::Text(command("FINISHED"))))
    });
    viewer.closes(1000);
}

#[test]
fn failed_twice_is_released_once_after_the_second() {
    let (monitor, broker) = start("history: {release_failed: 0.3}");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    broker.send(&["job", "FAILED"]);
    broker.send(&["job", "FAILED"]);
    viewer.texts(&[command("FAILED"), command("FAILED"), command("FINISHED")]);
    viewer.closes(1000);
}

/// Only the command FAILED counts, not a task that failed.
#[test]
fn a_failed_task_is_not_a_failed_job() {
    let (monitor, broker) = start("history: {release_failed: 0.3}");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    broker.send(&["job", "TASK", "compile", "FAILED"]);
    release_passes(&monitor, &broker);
    broker.send(&["job", "ENDED"]);
    viewer.texts(&[task("compile", "FAILED"), command("ENDED")]);
}

/// The job is expected to run again.
#[test]
fn aborted_is_not_released_as_soon_as_failed_is() {
    let (monitor, broker) = start("history: {release_failed: 0.3}");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    broker.send(&["job", "ABORTED"]);
    release_passes(&monitor, &broker);
    broker.send(&["job", "STARTED"]);
    viewer.texts(&[command("ABORTED"), command("STARTED")]);
}

#[test]
fn aborted_and_then_silence_is_released_and_the_next_run_is_another() {
    let (monitor, broker) = start("history: {release_aborted: 0.3}");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    broker.send(&["job", "STARTED"]);
    broker.send(&["job", "ABORTED"]);
    let all = [command("STARTED"), command("ABORTED"), command("FINISHED")];
    viewer.texts(&all);
    viewer.closes(1000);
    let mut late = Viewer::watch(monitor.viewers, "job");
    late.texts(&all);
    late.closes(1000);
    monitor.wait_log("was aborted and fell silent; FINISHED sent in its place");
    // Then the job runs again after all.
    broker.send(&["job", "DOWNLOADED"]);
    broker.send(&["job", "FINISHED"]);
    fence(&monitor, &broker);
    let mut again = Viewer::watch(monitor.viewers, "job");
    again.texts(&[command("DOWNLOADED"), command("FINISHED")]);
    again.closes(1000);
}

#[test]
fn aborted_and_then_something_else_in_time_is_not_released() {
    let (monitor, broker) = start("history: {release_aborted: 1}");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    broker.send(&["job", "ABORTED"]);
    broker.send(&["job", "STARTED"]);
    release_passes_after("ABORTED", &monitor, &broker);
    broker.send(&["job", "ENDED"]);
    viewer.texts(&[command("ABORTED"), command("STARTED"), command("ENDED")]);
}

#[test]
fn release_failed_0_and_release_aborted_0_mean_never() {
    let (monitor, broker) = start("history: {release_failed: 0, release_aborted: 0}");
    for last in ["FAILED", "ABORTED"] {
        let mut viewer = Viewer::watch(monitor.viewers, last);
        broker.send(&[last, last]);
        viewer.texts(&[command(last)]);
        viewer.is_silent_for(A_WHILE);
        broker.send(&[last, "STARTED"]);
        viewer.texts(&[command("STARTED")]);
    }
}

/// Other viewers get their messages meanwhile. Unit tests of the hub show that due runs are handled in slices.
#[test]
fn two_hundred_thousand_failed_jobs_write_a_few_lines() {
    const JOBS: usize = 200_000;
    let (monitor, broker) = start("history: {release_failed: 1, release_aborted: 1}");
    let mut viewer = Viewer::subscribed(monitor.viewers, "other");
    for job in 0..JOBS {
        broker.send(&[format!("job-{job}").as_str(), ["FAILED", "ABORTED"][job % 2]]);
        if job % 10_000 == 0 {
            broker.task("other", &job.to_string());
            viewer.texts(&[task(&job.to_string(), "COMPLETED")]);
        }
    }
    // One viewer for each kind, of the last that came.
    for job in [JOBS - 2, JOBS - 1] {
        let mut last = Viewer::watch(monitor.viewers, &format!("job-{job}"));
        last.texts(&[command(["FAILED", "ABORTED"][job % 2]), command("FINISHED")]);
        last.closes(1000);
    }
    monitor.wait_log("fell silent; FINISHED sent in its place");
    let lines = monitor.log().len();
    assert!(lines < 50, "{lines} lines");
}
