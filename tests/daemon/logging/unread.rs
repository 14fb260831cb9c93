//! A FIFO and a standard error that nobody reads.

use super::{Daemon, MANY, full_pipe, lines, lost, read_lines};
use crate::common::until;
use chrono::Local;
use std::fs::{self, File, Permissions, set_permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;

fn make_fifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("a FIFO");
    set_permissions(path, Permissions::from_mode(0o666)).expect("it is ours");
}

/// Asserts that what was caused by [`MANY`] viewers came out, or was counted.
fn complete(messages: &[String]) {
    let count = |words: &str| messages.iter().filter(|message| message.contains(words)).count() as u64;
    let lost: u64 = messages.iter().filter_map(|message| lost(message)).sum();
    let written = count(" subscribed to channel job-") + count(" left: ");
    assert!(count("listening for") == 2 && written >= 1000, "the first lines wait: {written}");
    assert!(lost > 0, "more came than may wait");
    // Besides: a broker's coming and going, its viewer's, and which of them were lost is not known.
    assert!((0..=20).contains(&(written + lost).abs_diff(2 * MANY as u64)), "{written} written, {lost} lost");
}

#[test]
fn a_fifo_that_nobody_reads_holds_up_neither_start_nor_relay_nor_end() {
    let mut daemon = Daemon::prepare(|logs| make_fifo(&logs.join("monitor.log"))).on_ports(
        &[],
        "output: file, file: LOG, level: debug",
        Stdio::null(),
    );
    daemon.relays();
    daemon.has_viewers(MANY);
    daemon.relays();
    daemon.stop();
}

#[test]
fn who_reads_a_fifo_late_gets_what_waited_and_the_number_of_what_did_not() {
    let mut daemon = Daemon::prepare(|logs| make_fifo(&logs.join("monitor.log"))).on_ports(
        &[],
        "output: file, file: LOG, level: debug",
        Stdio::null(),
    );
    daemon.has_viewers(MANY);
    daemon.relays();
    let log = daemon.log();
    let text = read_lines(|| File::open(log));
    until("the report", || lost(&text.lock().expect("no panic")));
    daemon.relays();
    daemon.stop();
    until("the last line", || text.lock().expect("no panic").contains("] stopped: ").then_some(()));
    let text = text.lock().expect("no panic").clone();
    complete(&lines(&text).into_iter().map(|line| line.message).collect::<Vec<_>>());
}

/// Not when it can be reported, which may be much later.
#[test]
fn the_report_of_lines_that_had_no_room_says_when_the_first_was_lost() {
    let daemon = Daemon::prepare(|logs| make_fifo(&logs.join("monitor.log"))).on_ports(
        &[],
        "output: file, file: LOG, level: debug",
        Stdio::null(),
    );
    daemon.has_viewers(MANY);
    let second = || Local::now().format("%Y-%m-%d %H:%M:%S").to_string();
    let dropped_by = second();
    until("the next second", || (second() > dropped_by).then_some(()));
    let log = daemon.log();
    let text = read_lines(|| File::open(log));
    until("the report", || lost(&text.lock().expect("no panic")));
    let text = text.lock().expect("no panic");
    let since = text.split_once(" were lost since ").expect("it is there").1;
    assert!(since[..dropped_by.len()] <= *dropped_by, "lost by {dropped_by}, not since {since}");
}

#[test]
fn a_fifo_is_never_rotated() {
    let mut daemon = Daemon::prepare(|logs| make_fifo(&logs.join("monitor.log"))).on_ports(
        &[],
        "output: file, file: LOG, level: debug, max-size: 1024, rotations: 2",
        Stdio::null(),
    );
    let text = read_lines({
        let log = daemon.log();
        || File::open(log)
    });
    daemon.has_viewers(50);
    daemon.stop();
    let kind = fs::metadata(daemon.log()).expect("it is there").file_type();
    assert!(kind.is_fifo(), "it is a FIFO no longer");
    until("the last line", || text.lock().expect("no panic").contains("] stopped: ").then_some(()));
}

#[test]
fn stderr_that_nobody_reads_holds_up_neither_start_nor_relay_nor_end() {
    let (reader, writer, _) = full_pipe();
    let mut daemon = Daemon::prepare(|_| {}).on_ports(&[], "output: stderr, level: debug", writer.into());
    daemon.relays();
    daemon.has_viewers(MANY);
    daemon.signal("HUP");
    daemon.relays();
    daemon.stop();
    drop(reader);
}

#[test]
fn who_reads_stderr_late_gets_what_waited_and_the_number_of_what_did_not() {
    let (reader, writer, size) = full_pipe();
    let mut daemon = Daemon::prepare(|_| {}).on_ports(&[], "output: stderr, level: debug", writer.into());
    daemon.has_viewers(MANY);
    daemon.relays();
    let text = read_lines(|| Ok(reader));
    until("the report", || lost(&text.lock().expect("no panic")));
    daemon.relays();
    daemon.stop();
    until("the last line", || text.lock().expect("no panic").contains("] stopped: ").then_some(()));
    let text = text.lock().expect("no panic")[size..].to_owned();
    let messages: Vec<_> = text
        .lines()
        .map(|line| {
            let rest = line.strip_prefix("[recodex-monitor] [").unwrap_or_else(|| panic!("not a line: {line:?}"));
            rest.split_once("] ").expect("a level").1.to_owned()
        })
        .collect();
    complete(&messages);
}

#[test]
fn stderr_that_is_closed_does_not_disturb_the_relay() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut daemon = Daemon::prepare(|_| {}).on_ports(&[], "output: stderr, level: debug", writer.into());
    daemon.has_viewers(10);
    daemon.signal("HUP");
    daemon.relays();
    daemon.stop();
}
