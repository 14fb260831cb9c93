//! Real Redis servers, each with a port and a directory of its own, which can be killed, stopped and started again.

use std::fs::{read_to_string, rename, write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::resp::{Connection, Reply};
use super::{DEADLINE, kill, until};

/// The ports that [`free_port`] hands out. The kernel gives none of them to sockets without a port of their own, so that a server
/// which is killed finds its port free again.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Returns a port of the loopback address that nothing listens on, and that stays free for this process.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Other processes that run tests begin at other ports.
    let first = u16::try_from(u64::from(std::process::id()) * 331 % u64::from(count)).expect("it is below the count");
    for _ in 0..count {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (first + next % count) % count;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free from {PORTS:?}");
}

/// A Redis server. Dropping it kills the process.
pub(crate) struct Redis {
    child: Option<Child>,
    /// Its clock is that of [`Redis::set_clock`].
    has_clock: bool,
    options: Vec<String>,
    pub(crate) port: u16,
    password: Option<String>,
    directory: tempfile::TempDir,
}

impl Redis {
    /// Starts a server that keeps nothing on disk, with more `options`, such as `["--maxmemory", "1mb"]`.
    pub(crate) fn start(options: &[&str]) -> Self {
        let mut redis = Self::not_yet(options);
        redis.begin();
        redis
    }

    /// Starts a server whose clock can be set, by [`Redis::set_clock`].
    pub(crate) fn with_clock(seconds: i64, options: &[&str]) -> Self {
        let mut redis = Self::not_yet(options);
        redis.has_clock = true;
        redis.set_clock(seconds);
        redis.begin();
        redis
    }

    /// Sets its clock so many seconds ahead of the machine's.
    pub(crate) fn set_clock(&self, seconds: i64) {
        let new = self.directory.path().join("clock.new");
        write(&new, seconds.to_string()).expect("it is writable");
        rename(new, self.clock()).expect("it is writable");
    }

    fn clock(&self) -> PathBuf {
        self.directory.path().join("clock")
    }

    /// Starts a server that has each answered command on disk.
    pub(crate) fn durable(options: &[&str]) -> Self {
        Self::start(&[&["--appendonly", "yes", "--appendfsync", "always"], options].concat())
    }

    /// Starts a replica, and waits until it has what the primary has.
    pub(crate) fn replica_of(primary: &Redis, options: &[&str]) -> Self {
        let port = primary.port.to_string();
        let replica = Self::start(&[&["--replicaof", "127.0.0.1", &port], options].concat());
        replica.wait_online(primary);
        replica
    }

    /// A server that has a port, but is only started by [`Redis::begin`].
    pub(crate) fn not_yet(options: &[&str]) -> Self {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let password = options.windows(2).find(|two| two[0] == "--requirepass").map(|two| two[1].to_owned());
        Self {
            child: None,
            has_clock: false,
            options: words(options),
            port: free_port(),
            password,
            directory: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    /// Starts the process, on the same port and with the same files as before. Returns once it answers and has read its files.
    pub(crate) fn begin(&mut self) {
        self.launch();
        until("Redis answers", || {
            let ended = self.child.as_mut().expect("it was started").try_wait().expect("it is our child");
            assert!(ended.is_none(), "Redis ended: {}", self.log());
            self.try_ask(&["PING"]).filter(|reply| *reply == Reply::Status("PONG".into()))
        });
    }

    /// Starts the process without waiting for it.
    pub(crate) fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let mut command = Command::new(server());
        if self.has_clock {
            command.env("LD_PRELOAD", clock_library()).env("CLOCK", self.clock());
        }
        let child = command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", ""])
            .args(["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"])
            .args(["--shutdown-timeout", "1", "--enable-debug-command", "yes", "--logfile", "log", "--dir"])
            .arg(self.directory.path())
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Redis is installed");
        self.child = Some(child);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Returns the answer to a command, which may be an error.
    pub(crate) fn ask<W: AsRef<[u8]>>(&self, words: &[W]) -> Reply {
        self.try_ask(words).expect("Redis answers")
    }

    /// Returns the answer to a command, which may not be an error.
    pub(crate) fn tell<W: AsRef<[u8]>>(&self, words: &[W]) -> Reply {
        match self.ask(words) {
            Reply::Error(error) => panic!("Redis refuses: {error}"),
            reply => reply,
        }
    }

    /// Returns the answer to a command, or `None` if there is none within a second.
    pub(crate) fn try_ask<W: AsRef<[u8]>>(&self, words: &[W]) -> Option<Reply> {
        let mut connection = Connection::open(self.address(), Duration::from_secs(1)).ok()?;
        if let Some(password) = &self.password {
            connection.ask(&["AUTH", password]).ok()?;
        }
        connection.ask(words).ok()
    }

    /// Changes a setting while it runs; not the password.
    pub(crate) fn set(&self, name: &str, value: &str) {
        self.tell(&["CONFIG", "SET", name, value]);
    }

    /// Makes it ask for this password.
    pub(crate) fn set_password(&mut self, password: &str) {
        self.tell(&["CONFIG", "SET", "requirepass", password]);
        self.password = Some(password.to_owned());
    }

    /// Returns a field of `INFO`.
    pub(crate) fn info(&self, field: &str) -> Option<String> {
        let Reply::Bulk(text) = self.try_ask(&["INFO", "all"])? else { return None };
        let text = String::from_utf8(text).expect("INFO is text");
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::to_owned));
        Some(value.unwrap_or_else(|| panic!("INFO has no {field}")))
    }

    /// Waits until it is a replica that follows its primary. It need not get what comes yet, see [`Redis::wait_online`].
    pub(crate) fn wait_link(&self) {
        until("the replica follows its primary", || {
            let is_replica = self.info("role")? == "slave";
            (is_replica && self.info("master_link_status")? == "up").then_some(())
        });
    }

    /// Waits until `primary` sends to this replica everything that comes. A replica that is "online" may first have to acknowledge
    /// what it got when it connected.
    pub(crate) fn wait_online(&self, primary: &Redis) {
        self.wait_link();
        primary.tell(&["PUBLISH", "harness", "x"]);
        self.wait_equal(primary);
    }

    /// Waits until this replica has everything that `primary` has now.
    pub(crate) fn wait_equal(&self, primary: &Redis) {
        let offset: u64 = primary.info("master_repl_offset").expect("it answers").parse().expect("a number");
        until("the replica has what the primary has", || {
            (self.info("slave_repl_offset")?.parse::<u64>().expect("a number") >= offset).then_some(())
        });
    }

    /// Returns the number of entries of the stream.
    pub(crate) fn entries(&self) -> u64 {
        match self.tell(&["XLEN", STREAM]) {
            Reply::Integer(entries) => u64::try_from(entries).expect("a number of entries"),
            reply => panic!("not a number: {reply:?}"),
        }
    }

    /// Returns the ids and the fields of the first entries of the stream.
    pub(crate) fn first_entries(&self, count: usize) -> Vec<(String, Vec<Vec<u8>>)> {
        let entries = self.tell(&["XRANGE", STREAM, "-", "+", "COUNT", &count.to_string()]).array();
        let entry = |entry: Reply| {
            let mut parts = entry.array().into_iter();
            let id = parts.next().expect("an id").text();
            (id, parts.next().expect("fields").array().into_iter().map(Reply::bytes).collect())
        };
        entries.into_iter().map(entry).collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends a signal, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        assert!(kill(self.pid(), name).success(), "Redis is there to be signalled");
    }

    /// Stops the process, and returns once it does not run any more (`SIGSTOP`).
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
        let stat = format!("/proc/{}/stat", self.pid());
        until("Redis is stopped", || read_to_string(&stat).ok()?.rsplit_once(") ")?.1.starts_with('T').then_some(()));
    }

    /// Lets it go on after [`Redis::freeze`].
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    /// Kills the process.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
    }

    /// Ends the process by `SIGTERM`.
    pub(crate) fn stop(&mut self) {
        self.signal("TERM");
        let mut child = self.child.take().expect("it runs");
        let start = Instant::now();
        while child.try_wait().expect("it is our child").is_none() {
            assert!(start.elapsed() < DEADLINE, "Redis does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Copies its files to where [`Redis::return_to_copy`] finds them.
    pub(crate) fn keep_copy(&self) {
        self.copy_files("cp -a appendonlydir copy");
    }

    /// Puts the copied files into the place of its own. It must not run.
    pub(crate) fn return_to_copy(&self) {
        assert!(self.child.is_none(), "it must not run");
        self.copy_files("rm -r appendonlydir && mv copy appendonlydir");
    }

    fn copy_files(&self, script: &str) {
        let status = Command::new("sh").args(["-c", script]).current_dir(self.directory.path()).status();
        assert!(status.expect("sh runs").success(), "{script}");
    }

    /// Returns the server's log.
    pub(crate) fn log(&self) -> String {
        read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

/// Returns the name of the program: Redis, or Valkey where that is installed instead.
pub(crate) fn server() -> &'static str {
    let is_there = |name: &&str| Command::new(name).arg("--version").stdout(Stdio::null()).status().is_ok();
    ["redis-server", "valkey-server"].into_iter().find(is_there).expect("Redis or Valkey is installed")
}

/// Returns the path of the library by which a process has a clock of its own.
fn clock_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/clock.c");
        let new = directory.join(format!("clock.{}", std::process::id()));
        let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&new, &source]).status();
        assert!(status.expect("a C compiler is there").success(), "{} can be compiled", source.display());
        let path = directory.join("clock.so");
        rename(new, &path).expect("it is writable");
        path
    })
}

/// The key of the stream of a cluster that has the name by default.
pub(crate) const STREAM: &str = "recodex:messages";

impl Drop for Redis {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
