//! Rotation of the log file, by size and after SIGHUP.

use super::{Daemon, Line, full_pipe, lines};
use crate::common::zmtp::message;
use crate::common::{Broker, RawPeer, open_up, until};
use std::fs::{self, Permissions, read_to_string, set_permissions};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;

/// Sends FINISHED twice for each of these channels. The monitor takes all of it at once, and logs the second FINISHED of each channel.
fn repeat_finished(peer: &mut RawPeer, channels: Range<usize>) {
    // The log has the first eight characters.
    let twice = |channel: usize| message(&[&format!("{channel:08}-rotation"), "FINISHED"]).repeat(2);
    peer.send(&channels.flat_map(twice).collect::<Vec<u8>>());
}

/// Returns the channels in the lines that [`repeat_finished`] causes, in the order of the lines.
fn repeated_channels(lines: &[Line]) -> Vec<usize> {
    let channel = |line: &Line| {
        let shown = line.message.strip_prefix("channel ")?.strip_suffix("…: dropped a repeated FINISHED")?;
        Some(shown.parse().expect("a number"))
    };
    lines.iter().filter_map(channel).collect()
}

#[test]
fn the_file_is_rotated_by_size_and_only_so_many_are_kept() {
    let mut daemon = Daemon::logging_to_file("output: file, file: LOG, level: debug, max-size: 1024, rotations: 2");
    let (broker, mut peer) = (Broker::connect(daemon.brokers), RawPeer::ready(daemon.brokers));
    for round in 0..30 {
        broker.send(&["only a channel"]);
        daemon.has_viewers(5);
        repeat_finished(&mut peer, 6 * round..6 * (round + 1));
        assert!(!daemon.rotated(3).exists(), "two are kept");
    }
    daemon.stop();
    let mut names: Vec<_> = fs::read_dir(daemon.directory.path().join("logs"))
        .expect("it is ours")
        .map(|entry| entry.expect("it can be read").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    assert_eq!(names, ["monitor.log", "monitor.log.1", "monitor.log.2"]);
    let mut all = String::new();
    for path in [daemon.rotated(2), daemon.rotated(1), daemon.log()] {
        let text = read_to_string(&path).expect("UTF-8");
        lines(&text); // none is torn between two files
        let longest = text.lines().map(|line| line.len() + 1).max().unwrap_or(0);
        assert!(text.len() < 1024 + longest, "{path:?} has {} bytes", text.len());
        if path != daemon.log() {
            assert!(text.len() >= 1024 - longest, "{path:?} has only {} bytes", text.len());
        }
        all += &text;
    }
    let lines = lines(&all);
    assert!(lines.is_sorted_by_key(|line| line.time), "the higher the number, the older: {all}");
    let channels = repeated_channels(&lines);
    // The files keep at least the lines of the last round, because few lines follow them.
    assert!(channels.len() >= 6 && channels.iter().copied().eq(180 - channels.len()..180), "the last ones: {all}");
}

#[test]
fn no_line_is_lost_or_torn_by_rotation() {
    let mut daemon = Daemon::logging_to_file("output: file, file: LOG, level: debug, max-size: 1024, rotations: 1000");
    let mut peer = RawPeer::ready(daemon.brokers);
    for round in 0..40 {
        repeat_finished(&mut peer, 6 * round..6 * (round + 1));
        daemon.has_viewers(5);
    }
    daemon.stop();
    let oldest = (1..=1000).take_while(|number| daemon.rotated(*number).exists()).last().unwrap_or(0);
    let mut text: String = (1..=oldest).rev().map(|n| read_to_string(daemon.rotated(n)).expect("UTF-8")).collect();
    text += &read_to_string(daemon.log()).expect("UTF-8");
    assert!(oldest > 10, "it was rotated {oldest} times");
    let lines = lines(&text);
    assert!(lines.is_sorted_by_key(|line| line.time), "in the order of time");
    assert!(repeated_channels(&lines).into_iter().eq(0..240), "in the order in which they came: {text}");
    let count = |words: &str| lines.iter().filter(|line| line.message.contains(words)).count();
    assert_eq!(count(" subscribed to channel "), 200);
    assert_eq!(count(" left: "), 200);
    assert_eq!((count("listening for"), count("stopped: ")), (2, 1));
    assert_eq!(count("lost"), 0);
}

#[test]
fn with_no_rotations_the_file_is_never_rotated() {
    is_never_rotated("max-size: 1024, rotations: 0");
}

#[test]
fn with_no_size_the_file_is_never_rotated() {
    is_never_rotated("max-size: 0, rotations: 3");
}

fn is_never_rotated(settings: &str) {
    let mut daemon = Daemon::logging_to_file(&format!("output: file, file: LOG, level: debug, {settings}"));
    daemon.has_viewers(50);
    daemon.stop();
    let text = read_to_string(daemon.log()).expect("UTF-8");
    assert!(text.len() > 4096, "{} bytes", text.len());
    assert!(text.contains("listening for viewers") && text.contains("stopped: "), "{text}");
    assert!(!daemon.rotated(1).exists());
    lines(&text);
}

/// Causes lines that would rotate the file, in a directory to which the monitor may not write.
fn goes_on_without_rotation(stderr: Stdio) {
    let start = Daemon::prepare(|logs| {
        for name in ["monitor.log", "of-somebody-else"] {
            fs::write(logs.join(name), "").expect("it is ours");
        }
        set_permissions(logs.join("monitor.log"), Permissions::from_mode(0o666)).expect("it is ours");
        set_permissions(logs, Permissions::from_mode(0o555)).expect("it is ours");
    });
    let logger = "output: file, file: LOG, level: debug, max-size: 1024, rotations: 2";
    let mut daemon = start.on_ports(&[], logger, stderr);
    daemon.has_viewers(50);
    daemon.relays();
    daemon.stop();
    open_up(&daemon.directory.path().join("logs")); // else it could not be removed
    let text = read_to_string(daemon.log()).expect("UTF-8");
    let count = text.matches(" subscribed to channel ").count();
    assert!(count == 51 && text.contains("stopped: "), "{count} of 51 viewers, and the last line:\n{text}");
    assert!(!daemon.rotated(1).exists());
    lines(&text);
}

#[test]
fn where_it_cannot_be_rotated_the_file_goes_on() {
    goes_on_without_rotation(Stdio::null());
}

#[test]
fn where_it_cannot_be_rotated_the_file_goes_on_even_if_stderr_is_closed() {
    let (reader, stderr) = std::io::pipe().expect("a pipe");
    drop(reader);
    goes_on_without_rotation(stderr.into());
}

#[test]
fn where_it_cannot_be_rotated_the_file_goes_on_even_if_nobody_reads_stderr() {
    let (_reader, stderr, _) = full_pipe();
    goes_on_without_rotation(stderr.into());
}

#[test]
fn after_sighup_a_file_that_was_moved_away_is_begun_anew() {
    for made_anew in [false, true] {
        let mut daemon = Daemon::logging_to_file("output: file, file: LOG, level: debug");
        daemon.relays();
        daemon.wait_log(&["listening for brokers"]);
        let moved = daemon.directory.path().join("logs/monitor.log-20240229");
        fs::rename(daemon.log(), &moved).expect("it is ours");
        if made_anew {
            // As logrotate's `create` does.
            let new = daemon.directory.path().join("logs/monitor.log.new");
            fs::write(&new, "").expect("it is ours");
            set_permissions(&new, Permissions::from_mode(0o666)).expect("it is ours");
            fs::rename(&new, daemon.log()).expect("it is ours");
        }
        daemon.signal("HUP");
        daemon.wait_log(&["[INFO] SIGHUP"]);
        let before = fs::read(&moved).expect("it is there");
        daemon.relays();
        daemon.wait_log(&["subscribed"]);
        daemon.stop();
        assert_eq!(fs::read(&moved).expect("it is there"), before, "nothing more is written to the old one");
        let (old, new) = (String::from_utf8(before).expect("UTF-8"), read_to_string(daemon.log()).expect("UTF-8"));
        lines(&old);
        assert!(old.contains("listening for viewers") && !new.contains("listening for"), "{new}");
        assert!(lines(&new).iter().all(|line| !line.message.contains("lost")), "{new}");
        assert!(!daemon.rotated(1).exists());
    }
}

#[test]
fn after_sighup_the_size_and_the_number_of_rotations_are_those_of_the_new_configuration() {
    let mut daemon = Daemon::logging_to_file("output: file, file: LOG, level: debug");
    daemon.has_viewers(20);
    let config = read_to_string(&daemon.config).expect("it is ours");
    fs::write(&daemon.config, config.replace("level: debug", "level: debug, max-size: 1024, rotations: 1"))
        .expect("it is ours");
    daemon.signal("HUP");
    until("it is rotated", || {
        daemon.has_viewers(5);
        daemon.rotated(1).exists().then_some(())
    });
    daemon.has_viewers(50);
    daemon.stop();
    assert!(daemon.rotated(1).exists() && !daemon.rotated(2).exists());
}

#[test]
fn whatever_the_mask_others_cannot_read_a_log_that_is_begun_anew() {
    let open_mask = ["sh", "-c", "umask 0; exec \"$@\"", "sh"];
    let mut daemon = Daemon::prepare(|_| {}).on_ports(
        &open_mask,
        "output: file, file: LOG, level: debug, max-size: 1024, rotations: 2",
        Stdio::null(),
    );
    let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o7777;
    until("it is rotated twice", || {
        daemon.has_viewers(5);
        daemon.rotated(2).exists().then_some(())
    });
    fs::rename(daemon.log(), daemon.directory.path().join("logs/moved")).expect("it is ours");
    daemon.signal("HUP");
    daemon.relays();
    daemon.stop();
    for path in [daemon.log(), daemon.rotated(1), daemon.rotated(2), daemon.directory.path().join("logs/moved")] {
        assert_eq!(mode(&path), 0o640, "{}", path.display());
    }
}
