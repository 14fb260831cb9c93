//! A month of jobs, a million, on a simulated clock: runs are removed when they are due, and their memory is freed.
//!
//! The test measures the memory of its whole process.

use crate::alone;
use recodex_monitor::internals::config::History;
use recodex_monitor::internals::hub::cursor::{Cursor, Turn};
use recodex_monitor::internals::hub::{Hub, Usage};
use recodex_monitor::internals::metrics::counters::Metrics;
use recodex_monitor::internals::wire::message::{Kind, Message};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, sleep_until};

/// The number of jobs, unless the environment variable JOBS has another one.
const JOBS: u64 = 200_000;

/// The time between two jobs: a million take thirty days.
const PACE: Duration = Duration::from_millis(2_592);

/// How many jobs come before memory is measured for the first time: more than a day's, for only then do the first that
/// never finish go, and as many are held as ever will be.
const FIRST: u64 = 40_000;

/// The largest difference of memory between then and the end, in KiB. A leak of 128 bytes for each job that never finished is
/// larger.
const TOLERANCE_KIB: u64 = 512;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The length of a job, in multiples of [`PACE`].
const LENGTH: u64 = 3;

/// The end of a job. Of fifty jobs, one never ends, one fails, and one is aborted without a FINISHED.
fn end_of(job: u64) -> Option<Kind> {
    match job % 50 {
        7 => None,
        23 => Some(Kind::Failed),
        31 => Some(Kind::Aborted),
        _ => Some(Kind::Finished),
    }
}

/// Every twentieth job is watched from before its beginning, and, if it finishes, by another viewer after its end.
fn is_watched(job: u64) -> bool {
    job % 20 == 7 || job % 20 == 3
}

fn id(job: u64) -> String {
    format!("student_{job:08x}-0b7a-4c1e")
}

fn frame(command: &str, size: usize) -> Vec<u8> {
    let (task, mut buffer) = ("x".repeat(size), Vec::new());
    Message { channel: "x", command, task: Some(&task), state: Some("COMPLETED") }.encode(&mut buffer).to_vec()
}

/// Reads all available bytes. Returns their number, and the end.
fn read(cursor: &mut Cursor) -> (usize, Turn) {
    let mut bytes = 0;
    loop {
        let turn = cursor.turn(|pending| {
            bytes += pending.len();
            Ok(pending.len())
        });
        match turn.expect("writing does not fail") {
            Turn::Wrote => {}
            end => return (bytes, end),
        }
    }
}

/// Returns the numbers that a hub must have once job number `now` has begun: all channels, and the finished ones.
fn held(now: u64) -> (usize, usize) {
    let (mut channels, mut finished) = (0, 0);
    for job in now.saturating_sub(40_000)..=now {
        let since = |message: u64| PACE * u32::try_from(now - job - message).expect("40,000 at the most");
        let history = History::default();
        let (unfinished, kept) = (history.unfinished.duration(), history.finished.duration());
        let is_over = now - job >= LENGTH;
        match end_of(job) {
            _ if !is_over => channels += 1,
            None => channels += usize::from(since(LENGTH - 1) < unfinished),
            Some(kind) => {
                let released = match kind {
                    Kind::Failed => history.release_failed.duration(),
                    Kind::Aborted => history.release_aborted.duration(),
                    _ => Duration::ZERO,
                };
                channels += usize::from(since(LENGTH) < released + kept);
                finished += usize::from((released..released + kept).contains(&since(LENGTH)));
            }
        }
    }
    (channels, finished)
}

fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("there is /proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS is there");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of kB")
}

#[test]
fn a_month_of_jobs_leaves_no_more_behind_than_its_first_days() {
    let _alone = alone();
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime").block_on(month());
}

async fn month() {
    let jobs = std::env::var("JOBS").map_or(JOBS, |jobs| jobs.parse().expect("JOBS is a number"));
    assert!(jobs > FIRST, "JOBS is more than {FIRST}");
    let metrics = Arc::new(Metrics::default());
    let hub = Hub::new(History::default(), Arc::clone(&metrics));
    let keeper = tokio::spawn({
        let hub = Arc::clone(&hub);
        async move { hub.keep_time().await }
    });
    let frames: Vec<_> = (0..8).map(|size| frame("TASK", 20 << size)).collect();
    let finished = frame("FINISHED", 0);
    let mut watching = VecDeque::new();
    let (mut first, mut most, mut sent) = (0, Usage { channels: 0, finished: 0, draining: 0, bytes: 0 }, 0);
    let start = Instant::now();
    for job in 0..jobs {
        let now = Instant::now();
        if is_watched(job) {
            watching.push_back((job, hub.subscribe(now, &id(job)), 0));
        }
        for begun in (0..LENGTH).filter_map(|ago| job.checked_sub(ago)) {
            let frame = &frames[usize::try_from((job + begun) % 8).expect("below 8")];
            hub.publish(now, &id(begun), Kind::Progress, frame);
            sent += 1;
        }
        if let Some(over) = job.checked_sub(LENGTH)
            && let Some(kind) = end_of(over)
        {
            hub.publish(now, &id(over), kind, &finished);
            sent += 1;
        }
        for (_, cursor, got) in &mut watching {
            *got += read(cursor).0;
        }
        // Whoever watches what never ends goes after ten jobs more; the others when all is over.
        while watching.front().is_some_and(|(watched, ..)| job - watched > 10) {
            let (watched, mut cursor, got) = watching.pop_front().expect("one is there");
            let end = read(&mut cursor).1;
            assert_eq!(end == Turn::CaughtUp, end_of(watched).is_none(), "{watched}: {end:?}");
            if end_of(watched).is_some() {
                let all = read(&mut hub.subscribe(Instant::now(), &id(watched))).0;
                assert_eq!(got, all, "{watched}: who comes late gets what was got before");
            }
        }
        let usage = hub.usage();
        if usage.bytes > most.bytes {
            most = usage;
        }
        if job % 5_000 == 0 {
            assert_eq!((usage.channels, usage.finished), held(job), "at job {job}");
        }
        if job == FIRST {
            first = rss_kib();
        }
        sleep_until(now + PACE).await;
    }
    let days = start.elapsed().as_secs_f64() / DAY.as_secs_f64();
    let full = rss_kib();
    watching.clear();
    sleep(2 * DAY).await;
    let last = rss_kib();
    println!("{jobs} jobs, {sent} messages in {days:.1} days: at the most {most:?}");
    println!("{first} KiB after {FIRST} jobs, {full} KiB at the last, {last} KiB when all is forgotten");
    assert_eq!(hub.usage(), Usage { channels: 0, finished: 0, draining: 0, bytes: 0 });
    let count = |is: fn(Option<Kind>) -> bool| (0..jobs).filter(|job| is(end_of(*job))).count() as u64;
    // Of the last jobs the end did not come.
    let never = count(|end| end.is_none());
    let released = count(|end| matches!(end, Some(Kind::Failed | Kind::Aborted)));
    assert!(metrics.expired.get() - never <= LENGTH && released - metrics.released.get() <= LENGTH, "{metrics}");
    assert_eq!(metrics.messages.get(), sent + metrics.released.get());
    assert_eq!((metrics.evicted.get(), metrics.trimmed.get(), metrics.repeated.get()), (0, 0, 0));
    assert!(last <= first + TOLERANCE_KIB, "memory has grown");
    keeper.abort();
}
