//! A log file that is lost while the monitor runs: full disk, limit, missing directory.

use super::{Daemon, Stderr, full_pipe, lines, lost};
use crate::common::{make_open, skipped, until};
use std::fs::{self, OpenOptions, read_to_string};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The limit acts like a full disk: the signal of such a write must not end the daemon.
#[test]
fn a_log_at_the_limit_of_a_files_size_does_not_disturb_the_relay_and_lost_lines_are_counted() {
    let limit = ["prlimit", "--fsize=8192"];
    let mut daemon = Daemon::prepare(|_| {}).on_ports(&limit, "output: file, file: LOG, level: debug", Stdio::null());
    let text = || String::from_utf8_lossy(&fs::read(daemon.log()).expect("it is there")).into_owned();
    let full = || daemon.has_viewers(100);
    let empty = || OpenOptions::new().write(true).open(daemon.log()).and_then(|f| f.set_len(0)).expect("it is ours");
    let count = daemon.loses(full, empty, text);
    assert!(count >= 50, "{count} lines");
    assert!(text().contains("File too large"), "{}", text());
    empty();
    daemon.relays();
    daemon.stop();
    let text = read_to_string(daemon.log()).expect("UTF-8");
    lines(&text);
    assert!(text.contains("] stopped: "), "{text}");
}

/// A file system of 64 KiB.
struct Tiny(PathBuf);

impl Tiny {
    /// Mounts it; `None` where that is not allowed.
    fn mount(at: &Path) -> Option<Self> {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k,mode=777", "tmpfs"]).arg(at).status();
        let mounted = status.is_ok_and(|status| status.success());
        if !mounted {
            skipped("mounting is not allowed here");
        }
        mounted.then(|| Self(at.into()))
    }

    /// Leaves not a byte.
    fn fill(&self) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.0.join("filler")).expect("it opens");
        for size in [4096, 256, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).expect("it is there");
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A monitor that had no space for its log for a while, with its standard error; everything in the file at the end, and the number
/// of lost lines.
fn after_a_full_disk(stderr: Stdio) -> Option<(String, u64)> {
    let mut tiny = None;
    let start = Daemon::prepare(|logs| tiny = Tiny::mount(logs));
    let tiny = tiny?;
    let mut daemon = start.on_ports(&[], "output: file, file: LOG, level: debug", stderr);
    let text = || String::from_utf8_lossy(&fs::read(daemon.log()).expect("it is there")).into_owned();
    let harm = || {
        tiny.fill();
        // The file's last page has space for some lines.
        daemon.has_viewers(100);
        daemon.relays();
    };
    let count = daemon.loses(harm, || tiny.free(), text);
    assert!(count >= 100, "{count} lines");
    let report = text().find("log lines were lost since").expect("it is reported");
    daemon.relays();
    until("the log goes on", || text()[report..].contains("subscribed to channel relay").then_some(()));
    daemon.stop();
    let text = String::from_utf8_lossy(&fs::read(daemon.log()).expect("it is there")).into_owned();
    assert!(text.contains("No space left on device"), "{text}");
    assert!(text.ends_with('\n') && text.contains("] stopped: "), "{text}");
    drop(daemon); // its directory is under the mount
    Some((text, count))
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_does_not_disturb_the_relay_and_lost_lines_are_counted() {
    let Some((text, count)) = after_a_full_disk(Stdio::null()) else { return };
    // Lines are lost, not written twice: each viewer came once and left once.
    let written = text.matches(" subscribed to channel job-").count() + text.matches(" left: ").count();
    assert!(written as u64 + count >= 200, "{written} written, {count} lost");
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_leaves_no_line_torn() {
    let Some((text, _)) = after_a_full_disk(Stdio::null()) else { return };
    lines(&text);
}

#[test]
#[ignore = "needs root"]
fn stderr_is_told_once_that_the_disk_is_full_and_that_it_is_no_longer() {
    let stderr = Stderr::new();
    if after_a_full_disk(stderr.file().into()).is_some() {
        stderr.was_told("/logs/monitor.log", "No space left on device");
    }
}

/// The same without root, with a device that is always full.
#[test]
fn stderr_is_told_once_that_a_file_takes_nothing_and_that_the_next_one_does() {
    let stderr = Stderr::new();
    let start =
        Daemon::prepare(|logs| std::os::unix::fs::symlink("/dev/full", logs.join("monitor.log")).expect("a link"));
    let mut daemon = start.on_ports(&[], "output: file, file: LOG, level: debug", stderr.file().into());
    daemon.has_viewers(20);
    until("it is told", || read_to_string(&stderr.path).expect("UTF-8").contains(" cannot write ").then_some(()));
    daemon.relays();
    fs::remove_file(daemon.log()).expect("it is ours");
    daemon.relays();
    let report = daemon.wait_log(&["log lines were lost since", "No space left on device"]);
    daemon.stop();
    let again = stderr.was_told("/logs/monitor.log", "No space left on device");
    assert!(
        again.contains(&format!("; {} lines were lost", lost(&report).expect("a number"))),
        "{again}, but {report}"
    );
    let text = read_to_string(daemon.log()).expect("UTF-8");
    assert!(lines(&text).iter().any(|line| line.message.starts_with("stopped: ")), "{text}");
}

#[test]
fn a_lost_directory_does_not_disturb_the_relay_and_the_log_goes_on_in_a_new_one() {
    let mut daemon = Daemon::logging_to_file("output: file, file: LOG, level: debug");
    let logs = daemon.directory.path().join("logs");
    daemon.loses(
        || fs::remove_dir_all(&logs).expect("it is ours"),
        || make_open(&logs),
        || read_to_string(daemon.log()).unwrap_or_default(),
    );
    daemon.relays();
    daemon.stop();
    let text = read_to_string(daemon.log()).expect("UTF-8");
    let lines = lines(&text);
    let report = &lines[0];
    assert!(report.level == "WARNING" && report.message.contains("No such file or directory"), "{report:?}");
    assert_eq!(text.matches("were lost").count(), 1, "{text}");
    assert!(text.contains("] stopped: "), "{text}");
}

/// Removes the directory of a log for a while.
fn loses_its_directory(stderr: Stdio) -> Daemon {
    let daemon = Daemon::prepare(|_| {}).on_ports(&[], "output: file, file: LOG, level: debug", stderr);
    let logs = daemon.directory.path().join("logs");
    daemon.loses(
        || fs::remove_dir_all(&logs).expect("it is ours"),
        || make_open(&logs),
        || read_to_string(daemon.log()).unwrap_or_default(),
    );
    daemon
}

#[test]
fn stderr_is_told_that_the_file_cannot_be_written_and_that_it_can_again() {
    let stderr = Stderr::new();
    let mut daemon = loses_its_directory(stderr.file().into());
    daemon.stop();
    stderr.was_told("/logs/monitor.log", "No such file");
}

#[test]
fn stderr_that_nobody_reads_does_not_hold_up_a_file_that_cannot_be_written() {
    let (_reader, writer, _) = full_pipe();
    let mut daemon = loses_its_directory(writer.into());
    daemon.relays();
    daemon.stop();
}
