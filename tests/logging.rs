//! The log: the form of its lines, where they go, and that nothing which befalls a log disturbs the relay.

#![allow(missing_docs)]

mod common;

use chrono::{Local, NaiveDateTime};
use common::{
    Broker, DEADLINE, PROGRAM, Viewer, is_root, kill, make_open, open_directory, open_up, task, unique, until,
};
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::geteuid;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, Permissions, read_to_string, set_permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Five seconds are promised; a second more is for a machine that has other things to do.
const PROMPT: Duration = Duration::from_secs(6);

/// The lines of the summary that SIGUSR1 asks for, by how they begin.
const SUMMARY: [&str; 6] =
    ["recodex-monitor ", "viewers: ", "brokers: ", "channels: ", "history: ", "since the start: "];

/// How many viewers cause more lines than the 1024 that may wait: each causes two.
const MANY: usize = 700;

/// A monitor whose log is somewhere else than with the harness, which reads the ports from it.
struct Daemon {
    child: Child,
    viewers: SocketAddr,
    brokers: SocketAddr,
    config: PathBuf,
    /// Holds `logs`, which only the log is in.
    directory: tempfile::TempDir,
}

/// What goes into the configuration besides the log: the ports, and whom to become.
fn ports(viewers: SocketAddr, brokers: SocketAddr) -> String {
    let mut text = String::new();
    for (key, address) in [("websocket_uri", viewers), ("zeromq_uri", brokers)] {
        writeln!(text, "{key}: [\"{}\", {}]", address.ip(), address.port()).expect("strings grow");
    }
    text + "user: nobody\n"
}

/// Two free ports, of a loopback address that nobody else uses, so that they stay free.
fn free_ports() -> [SocketAddr; 2] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id().to_be_bytes();
    let ip = [127, 64 | pid[2] & 63, pid[3], NEXT.fetch_add(1, Ordering::Relaxed)];
    let held = [(); 2].map(|()| TcpListener::bind(SocketAddr::from((ip, 0))).expect("a free port"));
    held.map(|listener| listener.local_addr().expect("it is bound"))
}

impl Daemon {
    /// Starts one that logs to a file as `logger` says, and reads its ports there.
    fn logging_to_file(logger: &str) -> Self {
        Self::prepare(|_| {}).in_file(logger)
    }

    /// One that is about to be started; `prepare` sees its directory of logs.
    fn prepare(prepare: impl FnOnce(&Path)) -> Start {
        let directory = open_directory();
        let logs = directory.path().join("logs");
        make_open(&logs);
        prepare(&logs);
        Start { directory, log: logs.join("monitor.log") }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("logs/monitor.log")
    }

    /// The file numbered so, as rotation makes it.
    fn rotated(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("logs/monitor.log.{number}"))
    }

    /// Waits for a line in the log file.
    fn wait_log(&self, words: &[&str]) -> String {
        wait_in(&self.log(), words)
    }

    /// Whether a broker's message comes to a viewer now.
    fn relays(&self) {
        let channel = unique("relay");
        let broker = Broker::connect(self.brokers);
        let mut viewer = Viewer::subscribed(self.viewers, &channel);
        broker.task(&channel, "1");
        viewer.texts(&[task("1", "COMPLETED")]);
    }

    /// Has so many viewers come and go. At level debug that is two lines each.
    fn has_viewers(&self, count: usize) {
        for number in 0..count {
            Viewer::subscribed(self.viewers, &format!("job-{number}"));
        }
    }

    fn signal(&self, signal: &str) {
        assert!(kill(self.child.id(), signal).success(), "SIG{signal}");
    }

    fn wait_exit(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("the monitor ends", || child.try_wait().expect("it is our child"))
    }

    /// Stops it by SIGTERM, with status 0 and in time; everything that could be written is then.
    fn stop(&mut self) {
        let start = Instant::now();
        self.signal("TERM");
        assert_eq!(self.wait_exit().code(), Some(0));
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    }

    /// Does `harm`, has lines come, does `mend`, until a loss is reported in what `read` returns; the report's count.
    ///
    /// That takes a second time only if the mending came before the lines were to be written.
    fn loses(&self, mut harm: impl FnMut(), mut mend: impl FnMut(), read: impl Fn() -> String) -> u64 {
        until("a loss is reported", || {
            harm();
            self.has_viewers(5);
            self.relays();
            mend();
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(2) {
                // The next line that can be written says it.
                self.relays();
                if let Some(count) = lost(&read()) {
                    return Some(count);
                }
            }
            None
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() && self.log().is_file() {
            let text = fs::read(self.log()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("the log ended:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// A monitor that is about to be started.
struct Start {
    directory: tempfile::TempDir,
    log: PathBuf,
}

impl Start {
    /// Starts it with a log file and ports that the log tells.
    fn in_file(self, logger: &str) -> Daemon {
        let log = self.log.clone();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut daemon = self.run(&[], logger, [any; 2], Stdio::null());
        let mut address = |whom: &str| {
            let line = until(whom, || {
                assert_eq!(daemon.child.try_wait().expect("it is our child"), None, "it has ended");
                find(&log, &[&format!("listening for {whom} on ")])
            });
            line.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("an address")
        };
        (daemon.viewers, daemon.brokers) = (address("viewers"), address("brokers"));
        daemon
    }

    /// Starts it on ports of its own and returns when it serves; the ports alone are there before signals are handled.
    fn on_ports(self, wrapper: &[&str], logger: &str, stderr: Stdio) -> Daemon {
        let mut daemon = self.run(wrapper, logger, free_ports(), stderr);
        for address in [daemon.viewers, daemon.brokers] {
            until("it listens", || {
                assert_eq!(daemon.child.try_wait().expect("it is our child"), None, "it has ended");
                TcpStream::connect(address).ok()
            });
        }
        drop(Viewer::upgraded(daemon.viewers));
        daemon
    }

    fn run(self, wrapper: &[&str], logger: &str, [viewers, brokers]: [SocketAddr; 2], stderr: Stdio) -> Daemon {
        let Self { directory, log } = self;
        let config = directory.path().join("config.yml");
        let logger = logger.replace("LOG", &log.display().to_string());
        fs::write(&config, format!("{}logger: {{{logger}}}\n", ports(viewers, brokers))).expect("it is ours");
        let words = [wrapper, &[PROGRAM]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("-c").arg(&config);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
        Daemon { child: child.expect("the program starts"), viewers, brokers, config, directory }
    }
}

/// A line of the file, without what every line begins with.
#[derive(Debug, PartialEq)]
struct Line {
    time: NaiveDateTime,
    level: String,
    message: String,
}

/// Takes a line of the file apart; `None` if it is not whole or has characters that it may not have.
fn line(text: &str) -> Option<Line> {
    if text.contains(|c: char| c.is_control() || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{e0000}'..='\u{e007f}')) {
        return None;
    }
    let (time, rest) = text.strip_prefix('[')?.split_once("] [recodex-monitor] [")?;
    let digits: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    if digits != "0000-00-00 00:00:00,000" {
        return None;
    }
    let time = NaiveDateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S,%3f").ok()?;
    let (level, message) = rest.split_once("] ")?;
    let known = ["DEBUG", "INFO", "WARNING", "ERROR"].contains(&level);
    let whole = known && !message.is_empty() && !message.contains("[recodex-monitor]");
    whole.then(|| Line { time, level: level.into(), message: message.into() })
}

/// Every line of a file, or of several.
fn lines(text: &str) -> Vec<Line> {
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn: {text:?}");
    text.lines().map(|text| line(text).unwrap_or_else(|| panic!("not a line: {text:?}"))).collect()
}

/// A line of the file with these words, if it is there.
fn find(path: &Path, words: &[&str]) -> Option<String> {
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    let whole = text.rsplit_once('\n')?.0;
    whole.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
}

fn wait_in(path: &Path, words: &[&str]) -> String {
    until(&format!("a line with {words:?}"), || find(path, words))
}

/// The number in the report of a loss, if there is one.
fn lost(text: &str) -> Option<u64> {
    let (before, _) = text.split_once(" log lines were lost since ")?;
    before.rsplit(' ').next()?.parse().ok().filter(|count| *count > 0)
}

/// Asserts that these lines hold whole summaries only, and returns how many. The first may have been rotated away.
fn whole_summaries(lines: &[Line], first_may_be_cut: bool) -> usize {
    let parts: Vec<usize> = lines
        .iter()
        .filter(|line| line.level == "INFO")
        .filter_map(|line| SUMMARY.iter().position(|begin| line.message.starts_with(begin)))
        .collect();
    let begin = if first_may_be_cut { parts.iter().position(|part| *part == 0).unwrap_or(parts.len()) } else { 0 };
    assert!((0..begin).all(|at| parts[at] == SUMMARY.len() - begin + at), "a summary is torn: {parts:?}");
    let whole = parts[begin..].chunks(SUMMARY.len());
    for summary in whole.clone() {
        assert!(summary.iter().copied().eq(0..SUMMARY.len()), "a summary is torn: {parts:?}");
    }
    whole.len()
}

// The file

#[test]
fn a_line_of_the_file_has_the_form_of_the_python_monitors() {
    let before = Local::now().naive_local() - Duration::from_secs(1);
    let mut daemon = Daemon::logging_to_file("output: file, file: LOG, level: debug");
    daemon.relays();
    Broker::connect(daemon.brokers).send(&["only a channel"]);
    daemon.wait_log(&["] [WARNING] dropped a message from broker 127.0.0.1:"]);
    daemon.stop();
    let lines = lines(&read_to_string(daemon.log()).expect("UTF-8"));
    let after = Local::now().naive_local();
    assert!(lines.is_sorted_by_key(|line| line.time), "in the order of time: {lines:?}");
    assert!(lines.iter().all(|line| (before..=after).contains(&line.time)), "local time: {lines:?}");
    for (level, begin) in [
        ("INFO", "listening for viewers on 127.0.0.1:"),
        ("INFO", "listening for brokers on 127.0.0.1:"),
        ("INFO", "broker 127.0.0.1:"),
        ("DEBUG", "viewer 127.0.0.1:"),
        ("WARNING", "dropped a message from broker 127.0.0.1:"),
        ("INFO", "SIGTERM: stopping"),
        ("INFO", "stopped: "),
    ] {
        assert!(
            lines.iter().any(|line| line.level == level && line.message.starts_with(begin)),
            "no {level} line begins {begin:?}: {lines:?}"
        );
    }
}

#[test]
fn lines_below_the_level_are_left_out() {
    for (level, expected) in [
        ("debug", &["DEBUG", "ERROR", "INFO", "WARNING"][..]),
        ("info", &["ERROR", "INFO", "WARNING"]),
        ("warning", &["ERROR", "WARNING"]),
        ("error", &["ERROR"]),
        ("critical", &["ERROR"]), // nothing is more severe here
    ] {
        let logger = format!("output: file, file: LOG, level: {level}");
        let mut daemon = Daemon::prepare(|_| {}).on_ports(&[], &logger, Stdio::null());
        daemon.relays(); // info: a broker comes; debug: a viewer
        Broker::connect(daemon.brokers).send(&["", "with an empty channel"]); // warning
        fs::write(&daemon.config, "no_such_key: 1\n").expect("it is ours");
        daemon.signal("HUP"); // error
        daemon.wait_log(&["SIGHUP"]);
        daemon.relays();
        if expected.contains(&"WARNING") {
            daemon.wait_log(&["dropped a message"]);
        }
        daemon.stop();
        let mut levels: Vec<_> =
            lines(&read_to_string(daemon.log()).expect("UTF-8")).into_iter().map(|line| line.level).collect();
        levels.sort();
        levels.dedup();
        assert_eq!(levels, expected, "at level {level}");
    }
}

#[test]
fn with_a_file_and_output_auto_the_file_gets_the_lines_and_stderr_none() {
    let mut daemon = Daemon::prepare(|_| {}).on_ports(&[], "file: LOG", Stdio::piped());
    daemon.wait_log(&["[INFO] listening for brokers on"]);
    daemon.stop();
    let mut stderr = String::new();
    daemon.child.stderr.take().expect("it is piped").read_to_string(&mut stderr).expect("UTF-8");
    assert_eq!(stderr, "");
}

#[test]
fn a_file_that_is_there_is_continued() {
    let mut daemon = Daemon::prepare(|logs| {
        fs::write(logs.join("monitor.log"), "of an earlier run\n").expect("it is ours");
        set_permissions(logs.join("monitor.log"), Permissions::from_mode(0o666)).expect("it is ours");
    })
    .in_file("output: file, file: LOG");
    daemon.stop();
    let text = read_to_string(daemon.log()).expect("UTF-8");
    assert!(lines(text.strip_prefix("of an earlier run\n").expect("it is kept")).len() >= 3, "{text}");
}

#[test]
fn control_characters_from_outside_never_come_raw_into_the_file() {
    let mut daemon = Daemon::logging_to_file("output: file, file: LOG, level: debug");
    let forged =
        "\n\u{1b}\u{202e}\u{61c}\u{2060}\u{e0041}[\r\u{7f}\u{85}\u{2028}[2024-02-29 00:00:00,000] [ERROR] forged";
    let mut viewer = Viewer::subscribed(daemon.viewers, forged);
    let broker = Broker::connect(daemon.brokers);
    broker.send(&[forged, forged, forged, forged]);
    viewer.text();
    broker.send(&[forged, "FINISHED"]);
    broker.send(&[forged, "FINISHED"]);
    let line = daemon.wait_log(&["DEBUG", "subscribed"]);
    assert!(line.contains(r"\n\u{1b}\u{202e}\u{61c}\u{2060}\u{e0041}["), "{line}");
    // A close with a reason, a request that is none, and a malformed message.
    let mut other = Viewer::subscribed(daemon.viewers, "job");
    other.send_frame(0x88, b"\x0f\xa0 \x1b[31m\n[x]");
    let _ = other.rest();
    let _ = common::viewer::http(daemon.viewers, "GET /\u{1b}[31m\r[x]\u{202e} HTTP/1.1\r\n\n\r\n".as_bytes());
    broker.send(&[b"\x1b[31m\n\xff".as_slice(), b"\n"]);
    daemon.wait_log(&["WARNING", "dropped a message"]);
    drop(viewer);
    daemon.stop();
    let text = read_to_string(daemon.log()).expect("UTF-8");
    assert!(lines(&text).iter().all(|line| line.level != "ERROR"), "{text}");
}

// Rotation

#[test]
fn the_file_is_rotated_by_size_and_only_so_many_are_kept() {
    let mut daemon = Daemon::logging_to_file("output: file, file: LOG, level: debug, max-size: 1024, rotations: 2");
    let broker = Broker::connect(daemon.brokers);
    for _ in 0..30 {
        daemon.signal("USR1");
        broker.send(&["only a channel"]);
        daemon.has_viewers(5);
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
    whole_summaries(&lines, true);
}

#[test]
fn no_line_is_lost_or_torn_by_rotation() {
    let mut daemon = Daemon::logging_to_file("output: file, file: LOG, level: debug, max-size: 1024, rotations: 1000");
    for _ in 0..40 {
        // Two signals that wait would be one; one that came before a viewer is taken before it.
        daemon.signal("USR1");
        daemon.has_viewers(5);
    }
    daemon.stop();
    let oldest = (1..=1000).take_while(|number| daemon.rotated(*number).exists()).last().unwrap_or(0);
    let mut text: String = (1..=oldest).rev().map(|n| read_to_string(daemon.rotated(n)).expect("UTF-8")).collect();
    text += &read_to_string(daemon.log()).expect("UTF-8");
    assert!(oldest > 10, "it was rotated {oldest} times");
    let lines = lines(&text);
    assert!(lines.is_sorted_by_key(|line| line.time), "in the order of time");
    assert_eq!(whole_summaries(&lines, false), 40);
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

/// Has lines come that would rotate the file, in a directory that the monitor may not write to.
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

// A file that cannot be had

/// Runs the monitor to its end as somebody who is not root, if possible, and asserts that it refuses the log file.
fn refuses(log: &Path, as_nobody: bool) {
    let directory = open_directory();
    let addresses = free_ports();
    let config = directory.path().join("config.yml");
    let text = format!("{}logger: {{output: file, file: \"{}\"}}\n", ports(addresses[0], addresses[1]), log.display());
    fs::write(&config, text).expect("it is ours");
    let mut words = vec![PROGRAM.to_owned(), "-c".into(), config.display().to_string()];
    if as_nobody && geteuid().is_root() {
        // The program must be within reach of that user.
        let program = directory.path().join("recodex-monitor");
        // By another process: what a test started meanwhile would else hold the copy open for writing for a moment.
        assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().is_ok_and(|status| status.success()), "a copy");
        words[0] = program.display().to_string();
        let before = ["setpriv", "--reuid=nobody", "--clear-groups", "--inh-caps=-all"];
        words.splice(0..0, before.map(str::to_owned));
    }
    let Output { status, stderr, .. } = output_of(&words);
    let stderr = String::from_utf8(stderr).expect("UTF-8");
    assert_eq!(status.code(), Some(78), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    assert!(stderr.ends_with('\n') && stderr.starts_with("recodex-monitor: logger.file: "), "{stderr}");
    // The file, or the directory it cannot be in.
    let parent = log.parent().expect("it is absolute").display().to_string();
    assert!(stderr.contains(&parent), "{} is not named: {stderr}", log.display());
    for address in addresses {
        assert!(TcpStream::connect(address).is_err(), "{address} is still open");
        TcpListener::bind(address).expect("the port is free");
    }
}

fn output_of(words: &[String]) -> Output {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let start = Instant::now();
    while child.try_wait().expect("it is our child").is_none() {
        if start.elapsed() > DEADLINE {
            let _ = child.kill();
            panic!("it did not end by itself");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("it is our child")
}

#[test]
fn a_log_in_a_directory_that_is_missing_is_refused_78() {
    let directory = open_directory();
    for as_nobody in [true, false] {
        refuses(&directory.path().join("missing/monitor.log"), as_nobody);
        refuses(&directory.path().join("missing/too/monitor.log"), as_nobody);
    }
    assert!(!directory.path().join("missing").exists(), "nothing is made as root");
}

#[test]
fn a_log_that_is_a_directory_is_refused_78() {
    let directory = open_directory();
    make_open(&directory.path().join("monitor.log"));
    refuses(&directory.path().join("monitor.log"), true);
    refuses(&directory.path().join("monitor.log"), false);
}

#[test]
fn a_log_below_a_file_is_refused_78() {
    let directory = open_directory();
    fs::write(directory.path().join("file"), "").expect("it is ours");
    for as_nobody in [true, false] {
        refuses(&directory.path().join("file/monitor.log"), as_nobody);
    }
}

#[test]
fn a_log_that_others_own_is_refused_78() {
    if !is_root() {
        return;
    }
    let directory = open_directory();
    let log = directory.path().join("monitor.log");
    fs::write(&log, "").expect("it is ours");
    set_permissions(&log, Permissions::from_mode(0o600)).expect("it is ours");
    refuses(&log, true);
    assert_eq!(fs::metadata(&log).expect("it is there").uid(), 0);
}

// Standard output and standard error as a file

/// What the program wrote to a descriptor that it was started with as standard error, until it ended; `read` returns it so far.
fn stderr_of(logger: &str, wrapper: &[&str], stderr: Stdio, read: impl Fn() -> String) -> String {
    let mut daemon = Daemon::prepare(|_| {}).on_ports(wrapper, logger, stderr);
    daemon.has_viewers(20);
    daemon.signal("HUP");
    let wait = |words: &str| until(words, || Some(read()).filter(|text| text.contains(words)));
    wait("SIGHUP: the configuration is taken up");
    daemon.relays();
    daemon.stop();
    let text = wait("] stopped: ");
    assert!(text.contains("] listening for viewers on "), "{text}");
    assert_eq!(text.matches(" subscribed to channel job-").count(), 20, "{text}");
    text
}

/// With a size at which a file of its own would be rotated several times.
fn logger_to(name: &str) -> String {
    format!("output: file, file: {name}, level: debug, max-size: 1024, rotations: 1")
}

#[test]
fn standard_output_and_error_are_written_as_they_were_inherited() {
    let to_stderr = ["sh", "-c", "exec \"$@\" 1>&2", "sh"];
    for (name, wrapper) in [
        ("/dev/stderr", &[][..]),
        ("/dev/fd/2", &[]),
        ("/proc/self/fd/2", &[]),
        ("/dev/stdout", &to_stderr),
        ("/dev/fd/1", &to_stderr),
        ("/proc/self/fd/1", &to_stderr),
        ("/proc/thread-self/fd/1", &to_stderr),
    ] {
        // A pipe that belongs to the user who starts it, as root.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let text = read_lines(|| Ok(reader));
        let text = stderr_of(&logger_to(name), wrapper, writer.into(), || text.lock().expect("no panic").clone());
        lines(&text);
    }
}

#[test]
fn an_inherited_file_is_neither_rotated_nor_cut_nor_opened_anew() {
    let directory = open_directory();
    let path = directory.path().join("private");
    fs::write(&path, "of an earlier run\n").expect("it is ours");
    set_permissions(&path, Permissions::from_mode(0o600)).expect("it is ours");
    let file = OpenOptions::new().append(true).open(&path).expect("it is ours");
    let text = stderr_of(&logger_to("/dev/stderr"), &[], file.into(), || read_to_string(&path).expect("UTF-8"));
    assert!(text.len() > 2048, "it would have been rotated");
    lines(text.strip_prefix("of an earlier run\n").expect("it is kept"));
    assert_eq!(fs::read_dir(directory.path()).expect("it is ours").count(), 1);
}

#[test]
fn an_inherited_socket_or_terminal_is_written_to() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let text = read_lines(|| Ok(ours));
    stderr_of(&logger_to("/dev/stderr"), &[], OwnedFd::from(theirs).into(), || text.lock().expect("no panic").clone());
    let nix::pty::OpenptyResult { master, slave } = nix::pty::openpty(None, None).expect("a terminal");
    let text = read_lines(|| Ok(File::from(master)));
    stderr_of(&logger_to("/dev/stderr"), &[], slave.into(), || text.lock().expect("no panic").clone());
}

#[test]
fn standard_output_that_is_closed_or_cannot_be_written_is_refused_78() {
    for (redirection, says) in [(">&-", "it is closed"), ("</dev/null 1<&0", "it is open for reading only")] {
        let directory = open_directory();
        let config = directory.path().join("config.yml");
        let [viewers, brokers] = free_ports();
        fs::write(&config, format!("{}logger: {{output: file, file: /dev/stdout}}\n", ports(viewers, brokers)))
            .expect("it is ours");
        let script = format!("exec \"$@\" {redirection}");
        let words = ["sh", "-c", &script, "sh", PROGRAM, "-c", &config.display().to_string()].map(str::to_owned);
        let Output { status, stderr, .. } = output_of(&words);
        let stderr = String::from_utf8(stderr).expect("UTF-8");
        assert_eq!(status.code(), Some(78), "{stderr}");
        assert!(stderr.contains("logger.file: cannot write to /dev/stdout: ") && stderr.contains(says), "{stderr}");
    }
}

// A file that is lost while it runs

/// As a full disk: the signal that comes with such a write must not end the daemon.
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
            println!("skipped: mounting is not allowed here");
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
    if !is_root() {
        return None;
    }
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
fn a_full_disk_does_not_disturb_the_relay_and_lost_lines_are_counted() {
    let Some((text, count)) = after_a_full_disk(Stdio::null()) else { return };
    // Lines are lost, not written twice: each viewer came once and left once.
    let written = text.matches(" subscribed to channel job-").count() + text.matches(" left: ").count();
    assert!(written as u64 + count >= 200, "{written} written, {count} lost");
}

#[test]
fn a_full_disk_leaves_no_line_torn() {
    let Some((text, _)) = after_a_full_disk(Stdio::null()) else { return };
    lines(&text);
}

#[test]
fn stderr_is_told_once_that_the_disk_is_full_and_that_it_is_no_longer() {
    let stderr = Stderr::new();
    if after_a_full_disk(stderr.file().into()).is_some() {
        stderr.was_told("/logs/monitor.log", "No space left on device");
    }
}

/// The same for everybody, by a device that is always full.
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

// A log that nobody reads

fn make_fifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("a FIFO");
    set_permissions(path, Permissions::from_mode(0o666)).expect("it is ours");
}

/// What comes out of a FIFO or pipe from now on, line by line.
///
/// Opening it may wait for the other end.
fn read_lines<R: Read>(open: impl FnOnce() -> std::io::Result<R> + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let shared = Arc::clone(&text);
    std::thread::spawn(move || {
        let mut source = BufReader::new(open().expect("it opens"));
        let mut line = Vec::new();
        while source.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            shared.lock().expect("no panic").push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
    text
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

/// A pipe that takes nothing more, and what is in it.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter, usize) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let size = fcntl(&writer, FcntlArg::F_GETPIPE_SZ).expect("a pipe has a size");
    let size = usize::try_from(size).expect("a size");
    let filler = [&vec![b'x'; size - 1][..], b"\n"].concat();
    writer.write_all(&filler).expect("there is room");
    (reader, writer, size)
}

#[test]
fn stderr_that_nobody_reads_holds_up_neither_start_nor_relay_nor_end() {
    let (reader, writer, _) = full_pipe();
    let mut daemon = Daemon::prepare(|_| {}).on_ports(&[], "output: stderr, level: debug", writer.into());
    daemon.relays();
    daemon.has_viewers(MANY);
    daemon.signal("USR1");
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
    daemon.signal("USR1");
    daemon.relays();
    daemon.stop();
}

/// A file as standard error, which is not where the log goes.
struct Stderr {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Stderr {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("stderr");
        File::create(&path).expect("it is ours");
        Self { path, _directory: directory }
    }

    fn file(&self) -> File {
        OpenOptions::new().append(true).open(&self.path).expect("it is ours")
    }

    /// Asserts that nothing stands there but that the log could not be written to what ends so, for this reason, and that it can
    /// again; returns the second line.
    fn was_told(&self, what: &str, why: &str) -> String {
        let text = read_to_string(&self.path).expect("UTF-8");
        let told: Vec<&str> = text.lines().collect();
        let [failed, again] = told[..] else { panic!("two lines: {text}") };
        assert!(failed.starts_with("[recodex-monitor] [ERROR] cannot write the log to "), "{text}");
        assert!(failed.contains(&format!("{what}: {why}")), "{text}");
        assert!(failed.ends_with("; lines are lost until it can be written again"), "{text}");
        assert!(again.starts_with("[recodex-monitor] [INFO] the log is written to "), "{text}");
        assert!(again.contains(&format!("{what} again; ")) && again.ends_with(" lines were lost"), "{text}");
        again.to_owned()
    }
}

/// Has a log lose its directory for a while.
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

// The journal

/// A stand-in for systemd-journald, at its place in a mount namespace of the monitor's own.
struct Journal {
    path: PathBuf,
    entries: Arc<Mutex<Vec<Entry>>>,
    running: Option<(Arc<AtomicBool>, JoinHandle<UnixDatagram>)>,
}

type Entry = HashMap<String, Vec<u8>>;

impl Journal {
    fn new(directory: &Path) -> Self {
        let mut journal = Self { path: directory.join("socket"), entries: Arc::default(), running: None };
        journal.begin();
        journal
    }

    fn begin(&mut self) {
        let _ = fs::remove_file(&self.path); // one that crashed has left it
        let socket = UnixDatagram::bind(&self.path).expect("a socket in a directory of ours");
        open_up(&self.path);
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time over 0");
        self.read(socket);
    }

    fn read(&mut self, socket: UnixDatagram) {
        let stop = Arc::new(AtomicBool::new(false));
        let (entries, stopped) = (Arc::clone(&self.entries), Arc::clone(&stop));
        let receive = move || {
            let mut bytes = vec![0; 256 * 1024];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(length) = socket.recv(&mut bytes)
                    && length > 0
                {
                    entries.lock().expect("no panic").push(entry(&bytes[..length]));
                }
            }
            socket
        };
        self.running = Some((stop, std::thread::spawn(receive)));
    }

    /// Reads no more; the socket stays, as that of a journal that is stopped.
    fn pause(&mut self) -> UnixDatagram {
        let (stop, thread) = self.running.take().expect("it runs");
        stop.store(true, Ordering::Relaxed);
        thread.join().expect("entries are as the native protocol has them")
    }

    fn end(&mut self) {
        self.crash();
        fs::remove_file(&self.path).expect("it is ours");
    }

    /// Ends and leaves the file of its socket.
    fn crash(&mut self) {
        drop(self.pause());
    }

    /// The entries so far whose message holds all these words.
    fn holding(&self, words: &[&str]) -> Vec<Entry> {
        let entries = self.entries.lock().expect("no panic");
        let holds = |entry: &&Entry| words.iter().all(|word| field(entry, "MESSAGE").contains(word));
        entries.iter().filter(holds).cloned().collect()
    }

    fn wait(&self, words: &[&str]) -> Entry {
        until(&format!("an entry with {words:?}"), || self.holding(words).into_iter().next())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Some((stop, _)) = &self.running {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Takes a datagram of the journal's native protocol apart.
fn entry(mut bytes: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n').expect("a field ends with a newline");
        let (head, rest) = (&bytes[..end], &bytes[end + 1..]);
        let (key, value, rest) = if let Some(sign) = head.iter().position(|byte| *byte == b'=') {
            (&head[..sign], &head[sign + 1..], rest)
        } else {
            let (length, rest) = rest.split_first_chunk().expect("a length");
            let length = usize::try_from(u64::from_le_bytes(*length)).expect("a length");
            assert_eq!(rest[length], b'\n', "a field ends with a newline");
            (head, &rest[..length], &rest[length + 1..])
        };
        let key = String::from_utf8(key.to_vec()).expect("names are ASCII");
        assert_eq!(entry.insert(key.clone(), value.to_vec()), None, "{key} comes twice");
        bytes = rest;
    }
    entry
}

/// A field as text; empty if it is not there.
fn field<'a>(entry: &'a Entry, name: &str) -> &'a str {
    entry.get(name).map_or("", |value| str::from_utf8(value).expect("UTF-8"))
}

/// Runs its arguments where the directory that comes first is the journal's.
const IN_NAMESPACE: [&str; 5] = [
    "unshare",
    "-m",
    "sh",
    "-c",
    "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && mount --bind \"$0\" /run/systemd/journal && exec \"$@\"",
];

/// A monitor that logs to a stand-in journal; `None` where that is not possible.
fn with_journal(logger: &str) -> Option<(Daemon, Journal)> {
    with_journal_and("JOURNAL_STREAM=", logger, Stdio::null())
}

/// The same as under systemd, which connects standard error to the journal and names that connection.
fn with_journal_at_stderr(stderr: File) -> Option<(Daemon, Journal)> {
    with_journal_and(&stream(&stderr, 0), "output: auto, level: debug", stderr.into())
}

fn with_journal_and(variable: &str, logger: &str, stderr: Stdio) -> Option<(Daemon, Journal)> {
    if !can_be_private() {
        return None;
    }
    let mut journal = None;
    let start = Daemon::prepare(|logs| journal = Some(Journal::new(logs)));
    let logs = start.log.with_file_name("").display().to_string();
    let daemon = start.on_ports(&[&["env", variable], &IN_NAMESPACE[..], &[&logs]].concat(), logger, stderr);
    journal.map(|journal| (daemon, journal))
}

/// What systemd sets to say that standard error is connected to the journal; for another than 0, that something else is.
fn stream(stderr: &File, other: u64) -> String {
    let metadata = stderr.metadata().expect("it is open");
    format!("JOURNAL_STREAM={}:{}", metadata.dev(), metadata.ino() + other)
}

fn can_be_private() -> bool {
    if !is_root() {
        return false;
    }
    let directory = open_directory();
    let tried = Command::new(IN_NAMESPACE[0]).args(&IN_NAMESPACE[1..]).arg(directory.path()).arg("true").status();
    let can = tried.is_ok_and(|status| status.success());
    if !can {
        println!("skipped: mount namespaces are not allowed here");
    }
    can
}

#[test]
fn the_journal_gets_messages_with_priorities_and_fields() {
    let Some((mut daemon, journal)) = with_journal("output: journald, level: debug") else { return };
    let channel = "a channel\nwith two lines";
    let broker = Broker::connect(daemon.brokers);
    let mut viewer = Viewer::subscribed(daemon.viewers, channel);
    broker.send(&[channel, "FINISHED"]);
    assert_eq!(viewer.text(), common::command("FINISHED"));
    viewer.closes(1000);
    broker.send(&["only a channel"]);
    fs::write(&daemon.config, "no_such_key: 1\n").expect("it is ours");
    daemon.signal("HUP");

    let entry = journal.wait(&["viewer 127.0.0.1:", "subscribed to channel"]);
    assert_eq!(field(&entry, "PRIORITY"), "7");
    assert_eq!(field(&entry, "RECODEX_CHANNEL"), channel, "whole, and with its newline");
    let peer = field(&entry, "RECODEX_PEER").to_owned();
    assert!(field(&entry, "MESSAGE").starts_with(&format!("viewer {peer} subscribed")), "{entry:?}");
    assert!(peer.parse::<SocketAddr>().is_ok(), "{peer}");
    let entry = journal.wait(&[&format!("viewer {peer} left")]);
    assert_eq!((field(&entry, "PRIORITY"), field(&entry, "RECODEX_CLOSE_CODE")), ("7", "1000"));
    assert_eq!(field(&entry, "RECODEX_PEER"), peer);
    let entry = journal.wait(&["listening for viewers on"]);
    assert_eq!(field(&entry, "PRIORITY"), "6");
    assert!(!entry.keys().any(|key| key.starts_with("RECODEX_")), "{entry:?}");
    assert_eq!(field(&journal.wait(&["broker 127.0.0.1:", " connected"]), "PRIORITY"), "6");
    let entry = journal.wait(&["dropped a message from broker"]);
    assert_eq!(field(&entry, "PRIORITY"), "4");
    assert!(field(&entry, "RECODEX_PEER").parse::<SocketAddr>().is_ok(), "{entry:?}");
    assert_eq!(field(&journal.wait(&["SIGHUP: the configuration is wrong"]), "PRIORITY"), "3");

    daemon.stop();
    journal.wait(&["stopped: "]);
    for entry in journal.holding(&[]) {
        assert_eq!(field(&entry, "SYSLOG_IDENTIFIER"), "recodex-monitor", "{entry:?}");
        // The journal knows time, name and level by itself.
        assert!(!field(&entry, "MESSAGE").starts_with('['), "{entry:?}");
        assert!(!field(&entry, "MESSAGE").contains('\n'), "{entry:?}");
    }
}

/// Has a journal go away, for a while, and the monitor stop later; returns the number of lost lines as it was reported.
fn loses_its_journal(mut daemon: Daemon, journal: Journal, go: impl Fn(&mut Journal)) -> u64 {
    journal.wait(&["listening for brokers"]);
    let journal = Mutex::new(journal);
    let count = daemon.loses(
        || go(&mut journal.lock().expect("no panic")),
        || journal.lock().expect("no panic").begin(),
        || {
            let entries = journal.lock().expect("no panic").holding(&["lost"]);
            entries.iter().map(|entry| field(entry, "MESSAGE").to_owned() + "\n").collect()
        },
    );
    let journal = journal.into_inner().expect("no panic");
    let report = journal.wait(&["log lines were lost since"]);
    assert_eq!(field(&report, "PRIORITY"), "4");
    daemon.relays();
    daemon.stop();
    journal.wait(&["stopped: "]);
    count
}

#[test]
fn a_journal_that_goes_away_does_not_disturb_the_relay_and_the_loss_is_reported() {
    let Some((daemon, journal)) = with_journal("output: journald, level: debug") else { return };
    loses_its_journal(daemon, journal, Journal::end);
}

#[test]
fn with_output_auto_stderr_is_told_that_the_journal_has_gone_and_that_it_has_come_back() {
    for (go, why) in [(Journal::end as fn(&mut Journal), "No such file"), (Journal::crash, "Connection refused")] {
        let stderr = Stderr::new();
        let Some((daemon, journal)) = with_journal_at_stderr(stderr.file()) else { return };
        let count = loses_its_journal(daemon, journal, go);
        let again = stderr.was_told("the journal", why);
        assert!(again.contains(&format!("; {count} lines were lost")), "{again}, but {count} lines");
    }
}

/// The stream that is standard error goes with the journal.
#[test]
fn with_output_auto_a_journal_that_goes_away_with_its_stream_does_not_disturb_the_relay() {
    let (reader, stderr) = UnixStream::pair().expect("a pair");
    let Some((daemon, journal)) = with_journal_at_stderr(OwnedFd::from(stderr).into()) else { return };
    let reader = Mutex::new(Some(reader));
    loses_its_journal(daemon, journal, |journal| {
        drop(reader.lock().expect("no panic").take());
        journal.end();
    });
}

#[test]
fn a_journal_that_nobody_reads_holds_up_neither_relay_nor_end_and_the_loss_is_reported() {
    let Some((mut daemon, mut journal)) = with_journal("output: journald, level: debug") else { return };
    journal.wait(&["listening for brokers"]);
    let socket = journal.pause();
    daemon.relays();
    // The socket holds some hundred lines itself.
    daemon.has_viewers(2 * MANY);
    daemon.relays();
    journal.read(socket);
    let report = journal.wait(&["log lines were lost since"]);
    assert_eq!(field(&report, "PRIORITY"), "4");
    let socket = journal.pause();
    daemon.has_viewers(2 * MANY);
    daemon.relays();
    daemon.stop();
    drop(socket);
}

#[test]
fn output_journald_without_a_journal_is_refused_78() {
    if !can_be_private() {
        return;
    }
    let directory = open_directory();
    let empty = directory.path().join("empty");
    make_open(&empty);
    let config = directory.path().join("config.yml");
    let [viewers, brokers] = free_ports();
    fs::write(&config, format!("{}logger: {{output: journald}}\n", ports(viewers, brokers))).expect("it is ours");
    let mut words: Vec<String> = IN_NAMESPACE.map(str::to_owned).to_vec();
    words.extend([empty.display().to_string(), PROGRAM.into(), "-c".into(), config.display().to_string()]);
    let Output { status, stderr, .. } = output_of(&words);
    let stderr = String::from_utf8(stderr).expect("UTF-8");
    assert_eq!(status.code(), Some(78), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    assert!(stderr.contains("logger.output") && stderr.contains("journal"), "{stderr}");
}

/// As under systemd, which connects stderr to the journal and names that connection.
#[test]
fn output_auto_is_the_journal_only_if_stderr_is_connected_to_it() {
    if !can_be_private() {
        return;
    }
    for connected in [true, false] {
        let mut journal = None;
        let start = Daemon::prepare(|logs| journal = Some(Journal::new(logs)));
        let journal = journal.expect("it was prepared");
        let logs = start.log.with_file_name("").display().to_string();
        let path = start.directory.path().join("stderr");
        let stderr = File::create(&path).expect("it is ours");
        let stream = stream(&stderr, u64::from(!connected));
        let wrapper = [&["env", &stream], &IN_NAMESPACE[..], &[&logs]].concat();
        let mut daemon = start.on_ports(&wrapper, "output: auto", stderr.into());
        daemon.stop();
        let text = read_to_string(&path).expect("UTF-8");
        if connected {
            journal.wait(&["stopped: "]);
            assert_eq!(text, "");
        } else {
            assert!(text.contains("[recodex-monitor] [INFO] stopped: "), "{text}");
            assert!(journal.holding(&[]).is_empty());
        }
    }
}

/// As in a container, which inherits the stream but has no journal.
#[test]
fn output_auto_is_stderr_if_the_journal_cannot_be_reached() {
    if !can_be_private() {
        return;
    }
    let start = Daemon::prepare(|_| {});
    let empty = start.log.with_file_name("").display().to_string();
    let path = start.directory.path().join("stderr");
    let stderr = File::create(&path).expect("it is ours");
    let stream = stream(&stderr, 0);
    let wrapper = [&["env", &stream], &IN_NAMESPACE[..], &[&empty]].concat();
    let mut daemon = start.on_ports(&wrapper, "output: auto", stderr.into());
    daemon.stop();
    let text = read_to_string(&path).expect("UTF-8");
    let first = text.lines().next().expect("a line");
    assert!(first.starts_with("[recodex-monitor] [WARNING] logger.output: cannot reach the journal: "), "{text}");
    assert!(first.ends_with("; the log goes to standard error instead"), "{text}");
    assert!(text.contains("[recodex-monitor] [INFO] stopped: "), "{text}");
}
