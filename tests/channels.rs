//! What a channel does: when it ends, how long its history stays, and how much of it.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::{A_WHILE, Broker, Event, Monitor, Viewer, command, fence, task, task_id, unique, until};

/// A monitor and a broker, which is all most tests here need.
fn start(config: &str) -> (Monitor, Broker) {
    let monitor = Monitor::start(config);
    let broker = Broker::connect(monitor.brokers);
    (monitor, broker)
}

/// Returns when a failed job that the monitor took now has been released, so that any that failed before would be too.
fn release_passes(monitor: &Monitor, broker: &Broker) {
    release_passes_after("FAILED", monitor, broker);
}

/// The same for a job whose last message is `last`.
fn release_passes_after(last: &str, monitor: &Monitor, broker: &Broker) {
    let channel = unique("control");
    let mut viewer = Viewer::watch(monitor.viewers, &channel);
    broker.send(&[channel.as_str(), last]);
    viewer.texts(&[command(last), command("FINISHED")]);
    viewer.closes(1000);
}

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

/// Viewers that come at any time see the same: what there is, then what comes.
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

/// Others get their messages meanwhile; that what is due goes in slices is shown in the hub's own tests.
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

/// Those who are there are not late.
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
fn an_unfinished_channel_expires_and_its_viewers_are_closed_1001() {
    let (monitor, broker) = start("history: {unfinished: 1}");
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    let mut waiting = Viewer::watch(monitor.viewers, "never-begun");
    broker.send(&["job", "STARTED"]);
    viewer.texts(&[command("STARTED")]);
    viewer.is_ended_with(1001);
    waiting.is_ended_with(1001);
    // And its history is gone.
    let mut next = Viewer::watch(monitor.viewers, "job");
    broker.send(&["job", "ENDED"]);
    next.texts(&[command("ENDED")]);
}

/// A message or a new viewer keeps a channel for its whole time again.
#[test]
fn messages_and_new_viewers_keep_an_unfinished_channel() {
    let (monitor, broker) = start("history: {unfinished: 3}");
    let mut talked_to = Viewer::watch(monitor.viewers, "talked-to");
    let mut visited = Viewer::watch(monitor.viewers, "visited");
    let mut left_alone = Viewer::watch(monitor.viewers, "left-alone");
    broker.send(&["visited", "STARTED"]);
    visited.texts(&[command("STARTED")]);
    let mut sent = 0;
    while left_alone.next_within(A_WHILE).is_none() {
        broker.task("talked-to", &sent.to_string());
        Viewer::watch(monitor.viewers, "visited").texts(&[command("STARTED")]);
        sent += 1;
        assert!(sent < 60, "the channel left alone does not expire");
    }
    for id in 0..sent {
        assert_eq!(task_id(&talked_to.text()), id.to_string());
    }
    broker.send(&["visited", "ENDED"]);
    visited.texts(&[command("ENDED")]);
}

#[test]
fn an_empty_channel_costs_nothing_once_its_last_viewer_has_left() {
    let monitor = Monitor::start("");
    let subscribe_and_leave = |names: std::ops::Range<usize>| {
        for name in names {
            Viewer::subscribed(monitor.viewers, &format!("{name:0>250}"));
        }
    };
    subscribe_and_leave(0..500);
    let before = monitor.rss_kib();
    subscribe_and_leave(500..4500);
    let grown = monitor.rss_kib().saturating_sub(before);
    // 4,000 names alone would be 1,000 KiB.
    assert!(grown < 800, "grown by {grown} KiB");
}

/// Asserts that `texts` are the newest of `sent` numbered tasks, without a gap; returns how many.
fn tail_of(sent: usize, viewer: &mut Viewer) -> usize {
    let mut number = || task_id(&viewer.text()).split(' ').next().and_then(|id| id.parse().ok()).expect("a number");
    let first: usize = number();
    for expected in first + 1..sent {
        assert_eq!(number(), expected);
    }
    sent - first
}

#[test]
fn over_channel_messages_the_oldest_go_and_late_viewers_get_the_tail() {
    let (monitor, broker) = start("history: {channel_messages: 100}");
    let mut live = Viewer::watch(monitor.viewers, "job");
    for id in 0..1000 {
        broker.task("job", &id.to_string());
        assert_eq!(task_id(&live.text()), id.to_string(), "a viewer that keeps up misses nothing");
    }
    let retained = tail_of(1000, &mut Viewer::watch(monitor.viewers, "job"));
    assert!((50..=100).contains(&retained), "{retained} messages");
    monitor.wait_log("channel_messages");
    // Its end is kept in any case.
    broker.send(&["job", "FINISHED"]);
    live.texts(&[command("FINISHED")]);
    live.closes(1000);
    let end = Viewer::watch(monitor.viewers, "job").rest();
    assert_eq!(end[end.len() - 2..], [Event::Text(command("FINISHED")), Event::Close(Some(1000))]);
}

#[test]
fn over_channel_bytes_the_oldest_go_and_late_viewers_get_the_tail() {
    let (monitor, broker) = start("history: {channel_bytes: 65536}");
    let padding = "x".repeat(1000);
    let mut live = Viewer::watch(monitor.viewers, "job");
    for id in 0..500 {
        broker.task("job", &format!("{id} {padding}"));
        live.text();
    }
    let retained = tail_of(500, &mut Viewer::watch(monitor.viewers, "job"));
    assert!((30..=63).contains(&retained), "{retained} messages");
    monitor.wait_log("channel_bytes");
}

/// A gap would tell a student something wrong; a close makes the page ask anew.
#[test]
fn a_viewer_that_fell_behind_what_is_kept_is_closed_1013_and_never_sees_a_gap() {
    const MESSAGES: usize = 3000;
    let (monitor, broker) = start("history: {channel_bytes: 1000000}");
    let padding = "x".repeat(8192);
    let mut slow = Viewer::subscribed_with_small_buffer(monitor.viewers, "job");
    for id in 0..MESSAGES {
        broker.task("job", &format!("{id} {padding}"));
    }
    fence(&monitor, &broker);
    let mut events = slow.rest();
    assert_eq!(events.pop(), Some(Event::Close(Some(1013))));
    assert_eq!(events.pop(), Some(Event::Text(command("FINISHED"))));
    assert!(events.len() < MESSAGES, "the kernel took it all; the test proves nothing");
    for (id, event) in events.into_iter().enumerate() {
        let Event::Text(text) = event else { panic!("a text was to come, not {event:?}") };
        assert_eq!(task_id(&text), format!("{id} {padding}"));
    }
    // Asking anew gets what there is.
    tail_of(MESSAGES, &mut Viewer::watch(monitor.viewers, "job"));
}

/// Fills a channel with about 100 KB.
fn fill(broker: &Broker, channel: &str) {
    let padding = "x".repeat(1000);
    for id in 0..100 {
        broker.task(channel, &format!("{id} {padding}"));
    }
}

/// Whether a channel still has its history.
fn is_kept(monitor: &Monitor, channel: &str) -> bool {
    match Viewer::watch(monitor.viewers, channel).next_within(A_WHILE) {
        None => false,
        Some(Event::Text(_)) => true,
        Some(other) => panic!("a text or silence was to come, not {other:?}"),
    }
}

#[test]
fn over_total_bytes_the_oldest_finished_go_first() {
    // Room for three to four channels of 100 KB, however the memory for them is rounded.
    let (monitor, broker) = start("history: {total_bytes: 500000}");
    fill(&broker, "idle");
    for channel in ["finished-1", "finished-2"] {
        fill(&broker, channel);
        broker.send(&[channel, "FINISHED"]);
    }
    fence(&monitor, &broker);
    assert!(is_kept(&monitor, "finished-1"), "all of this fits");
    for number in 1..=2 {
        let channel = format!("more-{number}");
        fill(&broker, &channel);
        broker.send(&[channel.as_str(), "FINISHED"]);
    }
    fence(&monitor, &broker);
    assert!(!is_kept(&monitor, "finished-1"), "the oldest finished goes first");
    assert!(is_kept(&monitor, "idle"), "before what is not finished");
    assert!(is_kept(&monitor, "more-2"), "the newest stays");
    monitor.wait_log("total_bytes");
}

#[test]
fn over_total_bytes_with_nothing_finished_the_longest_idle_goes_and_its_viewers_are_closed_1013() {
    let (monitor, broker) = start("history: {total_bytes: 500000}");
    let mut viewer = Viewer::watch(monitor.viewers, "open-0");
    for number in 0..6 {
        fill(&broker, &format!("open-{number}"));
        fence(&monitor, &broker);
    }
    let mut events = viewer.rest();
    assert_eq!(events.pop(), Some(Event::Close(Some(1013))));
    assert_eq!(events.pop(), Some(Event::Text(command("FINISHED"))));
    assert_eq!(events.len(), 100, "it had everything before it was evicted");
    assert!(!is_kept(&monitor, "open-0"));
    assert!(is_kept(&monitor, "open-5"));
    monitor.wait_log("total_bytes");
}

/// However many jobs never finish, memory stays within its bound.
#[test]
fn twenty_thousand_jobs_that_never_finish_stay_within_total_bytes() {
    let (monitor, broker) = start("history: {total_bytes: 4000000}");
    let padding = "x".repeat(1000);
    for job in 0..20_000 {
        broker.task(&format!("job-{job}"), &padding);
    }
    fence(&monitor, &broker);
    let rss = monitor.rss_kib();
    assert!(rss < 32 * 1024, "{rss} KiB");
    assert!(is_kept(&monitor, "job-19999"));
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
