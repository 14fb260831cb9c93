//! The log: the form of its lines and their destination. A log that fails does not disturb the relay.

mod file;
mod inherited;
mod journal;
mod lost_file;
mod refusals;
mod rotation;
mod unread;

use crate::common::{Broker, DEADLINE, Monitor, PROMPT, Viewer, make_open, open_directory, task, unique, until};
use chrono::NaiveDateTime;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::{self, File, OpenOptions, read_to_string};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A number of viewers that cause more lines than the 1024 that may wait: each causes two.
const MANY: usize = 700;

/// A monitor whose log is somewhere else than with the harness.
struct Daemon {
    monitor: Monitor,
    config: PathBuf,
    /// Holds `logs`, which only the log is in.
    directory: tempfile::TempDir,
}

/// The other lines of the configuration: the ports and the user.
fn listening_at([viewers, brokers]: [SocketAddr; 2]) -> String {
    let uri = |address: SocketAddr| format!("[\"{}\", {}]", address.ip(), address.port());
    format!("websocket_uri: {}\nzeromq_uri: {}\nuser: nobody\n", uri(viewers), uri(brokers))
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

    /// Prepares a monitor for a start; `prepare` gets its directory of logs.
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

    /// Returns true if a broker's message now reaches a viewer.
    fn relays(&self) {
        let channel = unique("relay");
        let broker = Broker::connect(self.brokers);
        let mut viewer = Viewer::subscribed(self.viewers, &channel);
        broker.task(&channel, "1");
        viewer.texts(&[task("1", "COMPLETED")]);
    }

    /// Connects and disconnects this number of viewers. At level debug, each causes two lines.
    fn has_viewers(&self, count: usize) {
        for number in 0..count {
            Viewer::subscribed(self.viewers, &format!("job-{number}"));
        }
    }

    /// Stops it by SIGTERM, with status 0 and in time; everything that could be written is then.
    fn stop(&mut self) {
        let took = self.monitor.stop();
        assert!(took < PROMPT, "{took:?}");
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

impl Deref for Daemon {
    type Target = Monitor;

    fn deref(&self) -> &Monitor {
        &self.monitor
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
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
                daemon.monitor.assert_alive();
                find(&log, &[&format!("listening for {whom} on ")])
            });
            line.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("an address")
        };
        (daemon.monitor.viewers, daemon.monitor.brokers) = (address("viewers"), address("brokers"));
        daemon
    }

    /// Starts it on ports of its own and returns when it serves; the ports alone are there before signals are handled.
    fn on_ports(self, wrapper: &[&str], logger: &str, stderr: Stdio) -> Daemon {
        let mut daemon = self.run(wrapper, logger, free_ports(), stderr);
        for address in [daemon.viewers, daemon.brokers] {
            until("it listens", || {
                daemon.monitor.assert_alive();
                TcpStream::connect(address).ok()
            });
        }
        drop(Viewer::upgraded(daemon.viewers));
        daemon
    }

    fn run(self, wrapper: &[&str], logger: &str, ports: [SocketAddr; 2], stderr: Stdio) -> Daemon {
        let Self { directory, log } = self;
        let config = directory.path().join("config.yml");
        let logger = logger.replace("LOG", &log.display().to_string());
        fs::write(&config, format!("{}logger: {{{logger}}}\n", listening_at(ports))).expect("it is ours");
        let monitor = Monitor::start_unread(&config, wrapper, ports, stderr);
        Daemon { monitor, config, directory }
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

/// Returns the lines that come out of a FIFO or pipe from now on.
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

/// A pipe that takes nothing more, and what is in it.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter, usize) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let size = fcntl(&writer, FcntlArg::F_GETPIPE_SZ).expect("a pipe has a size");
    let size = usize::try_from(size).expect("a size");
    let filler = [&vec![b'x'; size - 1][..], b"\n"].concat();
    writer.write_all(&filler).expect("there is room");
    (reader, writer, size)
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
