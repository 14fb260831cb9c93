//! The journal of systemd, which a test program plays.

use super::{Daemon, MANY, Stderr, free_ports, listening_at, output_of};
use crate::common::{self, Broker, PROGRAM, Viewer, make_open, open_directory, open_up, skipped, until};
use std::collections::HashMap;
use std::fs::{self, File, read_to_string};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

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

/// Returns the variable with which systemd says that standard error goes to the journal. With `other` above 0 it names another file.
fn stream(stderr: &File, other: u64) -> String {
    let metadata = stderr.metadata().expect("it is open");
    format!("JOURNAL_STREAM={}:{}", metadata.dev(), metadata.ino() + other)
}

fn can_be_private() -> bool {
    let directory = open_directory();
    let tried = Command::new(IN_NAMESPACE[0]).args(&IN_NAMESPACE[1..]).arg(directory.path()).arg("true").status();
    let can = tried.is_ok_and(|status| status.success());
    if !can {
        skipped("mount namespaces are not allowed here");
    }
    can
}

#[test]
#[ignore = "needs root"]
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

/// Ends a journal for a while, and later stops the monitor. Returns the reported number of lost lines.
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
#[ignore = "needs root"]
fn a_journal_that_goes_away_does_not_disturb_the_relay_and_the_loss_is_reported() {
    let Some((daemon, journal)) = with_journal("output: journald, level: debug") else { return };
    loses_its_journal(daemon, journal, Journal::end);
}

#[test]
#[ignore = "needs root"]
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
#[ignore = "needs root"]
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
#[ignore = "needs root"]
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
#[ignore = "needs root"]
fn output_journald_without_a_journal_is_refused_78() {
    if !can_be_private() {
        return;
    }
    let directory = open_directory();
    let empty = directory.path().join("empty");
    make_open(&empty);
    let config = directory.path().join("config.yml");
    fs::write(&config, format!("{}logger: {{output: journald}}\n", listening_at(free_ports()))).expect("it is ours");
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
#[ignore = "needs root"]
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

/// A container that inherits the stream but has no journal.
#[test]
#[ignore = "needs root"]
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
