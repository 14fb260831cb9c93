//! The harness of the integration tests: the program under test, and its peers.
//!
//! Every wait ends at an event or at [`DEADLINE`]; nothing here depends on how fast the machine is.

#![allow(dead_code, unused_imports)] // every test binary is a crate of its own and uses its own part of this

mod broker;
#[cfg(feature = "foreign-tests")]
pub(crate) mod browser;
pub(crate) mod exposition;
mod faulty_network;
pub(crate) mod http;
mod manager;
mod monitor;
mod namespace;
pub(crate) mod pause;
mod python;
pub(crate) mod redis;
mod redis_proxy;
mod reloadable;
pub(crate) mod resp;
mod scene;
mod sentinels;
mod terminal;
pub(crate) mod users;
pub(crate) mod viewer;
pub(crate) mod zmtp;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;
use std::fs::{Permissions, set_permissions};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) use broker::{Broker, Kind, fence};
pub(crate) use faulty_network::{Faults, FaultyNetwork, Random};
pub(crate) use manager::Manager;
pub(crate) use monitor::{Host, Monitor, with_descriptors};
pub(crate) use namespace::Namespace;
pub(crate) use python::PythonViewer;
pub(crate) use redis::Redis;
pub(crate) use redis_proxy::RedisProxy;
pub(crate) use reloadable::{Changing, Reloadable};
pub(crate) use scene::{MEMORY_KIB, Scene, relays_at_once};
pub(crate) use sentinels::{PRIMARY, Sentinels};
pub(crate) use terminal::Terminal;
pub(crate) use users::Users;
pub(crate) use viewer::{Event, Viewer};
pub(crate) use zmtp::RawPeer;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_recodex-monitor");

/// The longest wait for an event that must happen. Only a failing test waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The time within which a stop ends: five seconds are promised, and one more is for a machine that has other things to do.
pub(crate) const PROMPT: Duration = Duration::from_secs(6);

/// The wait in which something must *not* happen, if no event shows that it cannot happen any more.
pub(crate) const A_WHILE: Duration = Duration::from_millis(500);

/// Calls `ask` again and again until it returns a value.
///
/// # Panics
/// If there is none within [`DEADLINE`].
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns a channel id that no other test uses.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Returns the text that a viewer gets for a command without a task.
pub(crate) fn command(word: &str) -> String {
    format!("{{\"command\": \"{word}\"}}")
}

/// Returns the text that a viewer gets for a task.
pub(crate) fn task(id: &str, state: &str) -> String {
    format!("{{\"command\": \"TASK\", \"task_id\": \"{id}\", \"task_state\": \"{state}\"}}")
}

/// The task id inside a text, for tests that send numbered tasks.
pub(crate) fn task_id(text: &str) -> &str {
    let rest = text.split_once("\"task_id\": \"").unwrap_or_else(|| panic!("not a task: {text}")).1;
    rest.split_once('"').expect("task ids here hold no quotes").0
}

/// Runs the program to its end.
///
/// # Panics
/// If it does not end within [`DEADLINE`]; it is then killed.
pub(crate) fn run(args: &[&str]) -> Output {
    run_words(&[&[PROGRAM], args].concat())
}

/// Runs a command to its end, as [`run`] does.
pub(crate) fn run_words(words: &[&str]) -> Output {
    run_within(DEADLINE, words)
}

/// Runs a command to its end. `limit` is for a command that computes for long on a machine that has other things to do.
///
/// # Panics
/// If it does not end within `limit`; it is then killed.
pub(crate) fn run_within(limit: Duration, words: &[&str]) -> Output {
    let child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let pid = child.id();
    let (sender, receiver) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(limit) else {
        kill(pid, "KILL");
        panic!("still running after {limit:?}: {words:?}");
    };
    waiter.join().expect("the waiter does not panic").expect("the output was received");
    output.expect("the program can be waited for")
}

/// Sends a signal by its name, such as `TERM`.
pub(crate) fn kill(pid: u32, signal: &str) -> ExitStatus {
    Command::new("sh").args(["-c", "kill -\"$0\" \"$1\"", signal, &pid.to_string()]).status().expect("sh runs")
}

/// Takes a port of the loopback address, until the listener is dropped.
pub(crate) fn taken_port() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// Makes a file in a new directory, which is removed with the returned guard.
pub(crate) fn temporary(name: &str, content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join(name);
    std::fs::write(&path, content).expect("it is writable");
    (dir, path)
}

/// A directory in which everybody may make files, as in `/tmp`. A configuration in it that root owns is root's alone.
pub(crate) fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    set_permissions(directory.path(), Permissions::from_mode(0o1777)).expect("it is ours");
    directory
}

/// A new directory that everybody may write to, and remove files of others from.
pub(crate) fn make_open(path: &Path) {
    std::fs::create_dir(path).expect("a new directory");
    open_up(path);
}

/// Lets everybody write to a file or a directory.
pub(crate) fn open_up(path: &Path) {
    set_permissions(path, Permissions::from_mode(0o777)).expect("it is ours");
}

/// Raises the limit of open files of this process, which the monitor inherits, to 20,000 if that is allowed. Returns the limit.
pub(crate) fn raise_open_files() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit");
    let limit = hard.min(20_000).max(soft);
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).expect("it is not above the hard limit");
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Returns true if the test runs as root. A test that needs root is ignored without it, which `tests/run` counts.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// Says that a test is skipped, also where the output of tests that pass is not shown: `tests/run` counts these lines.
pub(crate) fn skipped(why: &str) {
    let thread = std::thread::current();
    writeln!(std::io::stderr(), "skipped: {}: {why}", thread.name().unwrap_or("a test")).expect("it can be written");
}

/// Bytes that look random and are the same in every run (xorshift64).
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
