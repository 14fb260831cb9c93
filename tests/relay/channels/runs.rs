//! Runs of a job: delivery, history, and the next run.

use super::{release_passes, start};
use crate::common::{A_WHILE, Event, Viewer, command, fence, task, task_id, until};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn finished_is_delivered_and_then_everybody_is_closed_1000() {
    let (monitor, broker) = start("");
    let mut viewers: Vec<_> = (0..3).map(|_| Viewer::watch(monitor.viewers, "job")).collect();
    broker.send(&["job", "STARTED"]);
    broker.send(&["job", "FINISHED"]);
    viewers.push(Viewer::watch(monitor.viewers, "job"));
    for viewer in &mut viewers {
        viewer.texts(&[command("STARTED"), command("FINISHED")]);
        viewer.closes(1000);
    }
}

#[test]
fn a_channel_may_be_watched_before_its_first_message() {
    let (monitor, broker) = start("");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    fence(&monitor, &broker);
    viewer.is_silent_for(A_WHILE);
    broker.send(&["job", "STARTED"]);
    viewer.texts(&[command("STARTED")]);
}

#[test]
fn a_viewer_gets_its_own_channel_and_no_other() {
    let (monitor, broker) = start("");
    let names = ["job", "job ", "Job", "jo", "job2", "0"];
    let mut viewers: Vec<_> = names.iter().map(|name| Viewer::watch(monitor.viewers, name)).collect();
    for round in 0..20 {
        for name in names {
            broker.task(name, &format!("{name}{round}"));
        }
    }
    for (name, viewer) in names.iter().zip(&mut viewers) {
        for round in 0..20 {
            assert_eq!(task_id(&viewer.text()), format!("{name}{round}"));
        }
    }
}

/// Viewers that come at any time get the same: the history, then the new messages.
#[test]
fn history_and_live_messages_join_without_a_seam() {
    const MESSAGES: usize = 5000;
    let (monitor, broker) = start("");
    let broker = thread::scope(|scope| {
        let sending = scope.spawn(move || {
            for id in 0..MESSAGES {
                broker.task("job", &id.to_string());
            }
            broker.send(&["job", "FINISHED"]);
            broker // which drops what it has not sent, if it goes
        });
        for _ in 0..20 {
            let mut viewer = Viewer::watch(monitor.viewers, "job");
            assert_eq!(task_id(&viewer.text()), "0");
            scope.spawn(move || {
                for id in 1..MESSAGES {
                    assert_eq!(task_id(&viewer.text()), id.to_string());
                }
                viewer.texts(&[command("FINISHED")]);
                viewer.closes(1000);
            });
        }
        sending.join().expect("the broker has sent it all")
    });
    fence(&monitor, &broker);
}

#[test]
fn a_finished_history_stays_for_its_time_and_is_then_gone() {
    let (monitor, broker) = start("history: {finished: 3}");
    broker.send(&["job", "STARTED"]);
    broker.send(&["job", "FINISHED"]);
    let start = Instant::now();
    fence(&monitor, &broker);
    let fetched = |viewer: &mut Viewer| match viewer.next_within(A_WHILE) {
        None => false,
        Some(event) => {
            assert_eq!(event, Event::Text(command("STARTED")));
            viewer.texts(&[command("FINISHED")]);
            viewer.closes(1000);
            true
        }
    };
    assert!(fetched(&mut Viewer::watch(monitor.viewers, "job")), "a late viewer gets it all");
    let mut first_of_a_new_run = until("the history is gone", || {
        let mut viewer = Viewer::watch(monitor.viewers, "job");
        (!fetched(&mut viewer)).then_some(viewer)
    });
    assert!(start.elapsed() >= Duration::from_secs(3), "gone after only {:?}", start.elapsed());
    broker.send(&["job", "DOWNLOADED"]);
    first_of_a_new_run.texts(&[command("DOWNLOADED")]);
}

#[test]
fn a_repeated_finished_is_dropped() {
    let (monitor, broker) = start("");
    broker.send(&["job", "STARTED"]);
    for _ in 0..3 {
        broker.send(&["job", "FINISHED"]);
    }
    fence(&monitor, &broker);
    for _ in 0..2 {
        let mut late = Viewer::watch(monitor.viewers, "job");
        late.texts(&[command("STARTED"), command("FINISHED")]);
        late.closes(1000);
    }
}

#[test]
fn downloaded_or_started_after_finished_starts_a_run_with_a_history_of_its_own() {
    let (monitor, broker) = start("");
    for begin in ["DOWNLOADED", "STARTED"] {
        let mut first = Viewer::subscribed(monitor.viewers, begin);
        broker.task(begin, "first");
        broker.send(&[begin, "FINISHED"]);
        broker.send(&[begin, begin]);
        broker.task(begin, "second");
        fence(&monitor, &broker);
        first.texts(&[task("first", "COMPLETED"), command("FINISHED")]);
        first.closes(1000);
        let mut second = Viewer::watch(monitor.viewers, begin);
        second.texts(&[command(begin), task("second", "COMPLETED")]);
        broker.send(&[begin, "FINISHED"]);
        second.texts(&[command("FINISHED")]);
        second.closes(1000);
    }
}

/// A student who comes late must see the finished job, not an empty dialog.
#[test]
fn anything_else_after_finished_is_dropped_and_late_viewers_get_the_finished_job() {
    let (monitor, broker) = start("history: {release_failed: 0.2, release_aborted: 0.2}");
    broker.task("job", "only");
    broker.send(&["job", "FINISHED"]);
    for stray in ["ENDED", "UPLOADED", "ABORTED", "FAILED", "OTHER"] {
        broker.send(&["job", stray]);
    }
    broker.task("job", "stray");
    release_passes(&monitor, &broker);
    let mut late = Viewer::watch(monitor.viewers, "job");
    late.texts(&[task("only", "COMPLETED"), command("FINISHED")]);
    late.closes(1000);
    monitor.wait_log("dropped a message that came after FINISHED");
}

/// Viewers that come while one run after the other is sent get one run each, whole.
#[test]
fn whoever_comes_gets_one_run_and_the_whole_of_it() {
    const RUNS: usize = 2000;
    const TASKS: usize = 5;
    let (monitor, broker) = start("");
    // The first run waits for the first viewer.
    let mut first = Some(Viewer::subscribed(monitor.viewers, "job"));
    let sending = thread::spawn(move || {
        for run in 0..RUNS {
            broker.send(&["job", "STARTED"]);
            for id in 0..TASKS {
                broker.task("job", &format!("{run}-{id}"));
            }
            broker.send(&["job", "FINISHED"]);
        }
        broker
    });
    let mut last = 0;
    while last < RUNS - 1 {
        let mut viewer = first.take().unwrap_or_else(|| Viewer::watch(monitor.viewers, "job"));
        viewer.texts(&[command("STARTED")]);
        let text = viewer.text();
        let (run, id) = task_id(&text).split_once('-').expect("both");
        let run: usize = run.parse().expect("a number");
        assert_eq!(id, "0", "run {run} from its beginning");
        assert!(run >= last, "run {run} after run {last}");
        for id in 1..TASKS {
            assert_eq!(task_id(&viewer.text()), format!("{run}-{id}"));
        }
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
        last = run;
    }
    drop(sending.join().expect("all runs are sent"));
}

/// Viewers that are connected already are not late.
#[test]
fn with_finished_0_only_those_who_watch_get_the_end() {
    let (monitor, broker) = start("history: {finished: 0}");
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    for id in 0..1000 {
        broker.task("job", &id.to_string());
    }
    broker.send(&["job", "FINISHED"]);
    for id in 0..1000 {
        assert_eq!(task_id(&viewer.text()), id.to_string());
    }
    viewer.texts(&[command("FINISHED")]);
    viewer.closes(1000);
    let mut late = until("the history is gone", || {
        let mut late = Viewer::watch(monitor.viewers, "job");
        late.next_within(A_WHILE).is_none().then_some(late)
    });
    broker.send(&["job", "STARTED"]);
    late.texts(&[command("STARTED")]);
}

/// A viewer that is still reading a run when the next one begins gets the rest of its own, and nothing of the next.
#[test]
fn a_slow_viewer_gets_the_whole_of_its_run_though_the_next_has_begun() {
    const MESSAGES: usize = 1000;
    let (monitor, broker) = start("");
    let padding = "x".repeat(8192);
    let mut slow = Viewer::subscribed_with_small_buffer(monitor.viewers, "job");
    for id in 0..MESSAGES {
        broker.task("job", &format!("{id} {padding}"));
    }
    broker.send(&["job", "FINISHED"]);
    broker.send(&["job", "STARTED"]);
    broker.task("job", "second");
    fence(&monitor, &broker);
    let mut second = Viewer::watch(monitor.viewers, "job");
    second.texts(&[command("STARTED"), task("second", "COMPLETED")]);
    for id in 0..MESSAGES {
        assert_eq!(task_id(&slow.text()), format!("{id} {padding}"));
    }
    slow.texts(&[command("FINISHED")]);
    slow.closes(1000);
}

#[test]
fn exit_over_zeromq_is_ignored_counted_and_logged() {
    let (mut monitor, broker) = start("");
    let mut zero = Viewer::watch(monitor.viewers, "0");
    broker.send(&["0", "exit"]);
    fence(&monitor, &broker);
    monitor.wait_logged(&["exit", "accept_exit"]);
    monitor.assert_alive();
    broker.send(&["0", "STARTED"]);
    zero.texts(&[command("STARTED")]);
}

#[test]
fn exit_over_zeromq_stops_a_monitor_that_accepts_it() {
    let (mut monitor, broker) = start("accept_exit: true");
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    broker.send(&["job", "STARTED"]);
    broker.send(&["0", "exit"]);
    viewer.texts(&[command("STARTED")]);
    viewer.is_ended_with(1001);
    assert_eq!(monitor.wait_exit().code(), Some(0));
}

#[test]
fn exit_needs_both_its_channel_and_its_command() {
    let (mut monitor, broker) = start("accept_exit: true");
    for frames in [["0", "EXIT"], ["1", "exit"], ["00", "exit"], ["exit", "0"]] {
        broker.send(&frames);
    }
    fence(&monitor, &broker);
    monitor.assert_alive();
}
