//! The program under test. It has a configuration of its own and its log is kept; dropping it kills the process.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::User;

use super::{DEADLINE, PROGRAM, is_root, kill, temporary, until};

/// The host and the ports in a monitor's configuration.
#[derive(Clone, Copy)]
pub(crate) struct Host<'a> {
    pub(crate) name: &'a str,
    pub(crate) viewers: u16,
    pub(crate) brokers: u16,
}

impl Default for Host<'_> {
    fn default() -> Self {
        Host { name: "127.0.0.1", viewers: 0, brokers: 0 }
    }
}

/// Lines of the log, as they come.
#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    all: Vec<String>,
    ended: bool,
}

pub(crate) struct Monitor {
    child: Child,
    log: Arc<Log>,
    /// The first address viewers connect to.
    pub(crate) viewers: SocketAddr,
    /// The first address brokers connect to.
    pub(crate) brokers: SocketAddr,
    _directory: Option<tempfile::TempDir>,
}

impl Monitor {
    /// Starts a monitor on free ports of 127.0.0.1. `config` has more lines of its configuration.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_at(Host::default(), config)
    }

    pub(crate) fn start_at(host: Host<'_>, config: &str) -> Self {
        Self::start_through(&[], host, config)
    }

    /// Starts a monitor whose viewers connect to a Unix socket.
    pub(crate) fn start_unix(path: &Path, config: &str) -> Self {
        let uri = format!("\"unix:{}\"", path.display());
        Self::launch_for(&uri, &[], &[], Host::default(), config)
    }

    /// The same, started by another program, with `descriptors` from number 3 on.
    pub(crate) fn start_unix_with(descriptors: &[OwnedFd], wrapper: &[String], path: &Path, config: &str) -> Self {
        let uri = format!("\"unix:{}\"", path.display());
        let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
        Self::launch_for(&uri, descriptors, &wrapper, Host::default(), config)
    }

    /// Starts a monitor by another program, which must end with `exec "$@"`.
    pub(crate) fn start_through(wrapper: &[&str], host: Host<'_>, config: &str) -> Self {
        Self::launch(&[], wrapper, host, config)
    }

    /// Starts a monitor by another program, with `descriptors` from number 3 on.
    pub(crate) fn start_with(descriptors: &[OwnedFd], wrapper: &[String], host: Host<'_>, config: &str) -> Self {
        Self::launch(descriptors, &wrapper.iter().map(String::as_str).collect::<Vec<_>>(), host, config)
    }

    fn launch(descriptors: &[OwnedFd], wrapper: &[&str], host: Host<'_>, config: &str) -> Self {
        let uri = format!("[\"{}\", {}]", host.name, host.viewers);
        Self::launch_for(&uri, descriptors, wrapper, host, config)
    }

    /// Starts a monitor. `uri` is the address for viewers.
    fn launch_for(uri: &str, descriptors: &[OwnedFd], wrapper: &[&str], host: Host<'_>, config: &str) -> Self {
        let Host { name, brokers, .. } = host;
        let mut text = String::new();
        writeln!(text, "websocket_uri: {uri}").expect("strings grow");
        writeln!(text, "zeromq_uri: [\"{name}\", {brokers}]").expect("strings grow");
        text.push_str(config);
        // A monitor that is started as root becomes another user, and that user must exist.
        if is_root() && !config.lines().any(|line| line.starts_with("user:")) {
            text.push_str("\nuser: nobody\n");
        }
        let (directory, path) = temporary("config.yml", text);
        let viewers_by_tcp = !uri.starts_with("\"unix:");
        Self::run_with(&path, Some(directory), viewers_by_tcp, descriptors, wrapper)
    }

    /// Starts a monitor with the configuration at `path`.
    pub(crate) fn start_from(path: &Path) -> Self {
        Self::run_with(path, None, true, &[], &[])
    }

    /// Starts a monitor with the configuration at `path` by another program, with `descriptors` from number 3 on.
    pub(crate) fn start_from_with(descriptors: &[OwnedFd], wrapper: &[String], path: &Path) -> Self {
        let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
        Self::run_with(path, None, true, descriptors, &wrapper)
    }

    /// Starts a monitor with the ports in its configuration. The harness does not read its log.
    pub(crate) fn start_unread(path: &Path, wrapper: &[&str], ports: [SocketAddr; 2], stderr: Stdio) -> Self {
        let child = spawn(path, &[], wrapper, stderr);
        let log = Log { lines: Mutex::new(Lines { all: Vec::new(), ended: true }), changed: Condvar::new() };
        let [viewers, brokers] = ports;
        Monitor { child, log: Arc::new(log), viewers, brokers, _directory: None }
    }

    fn run_with(
        path: &Path,
        directory: Option<tempfile::TempDir>,
        viewers_by_tcp: bool,
        descriptors: &[OwnedFd],
        wrapper: &[&str],
    ) -> Self {
        let mut child = spawn(path, descriptors, wrapper, Stdio::piped());
        let log = Arc::new(Log::default());
        let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let keeper = Arc::clone(&log);
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
                keeper.lines.lock().expect("nobody panics holding it").all.push(text);
                keeper.changed.notify_all();
                line.clear();
            }
            keeper.lines.lock().expect("nobody panics holding it").ended = true;
            keeper.changed.notify_all();
        });

        let unbound = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut monitor = Monitor { child, log, viewers: unbound, brokers: unbound, _directory: directory };
        monitor.wait_log("listening for viewers on ");
        monitor.wait_log("listening for brokers on ");
        if viewers_by_tcp {
            monitor.viewers = monitor.addresses("viewers")[0];
        }
        monitor.brokers = monitor.addresses("brokers")[0];
        monitor
    }

    /// Returns the addresses that the log has named so far, in a form to which a client can connect.
    pub(crate) fn addresses(&self, whom: &str) -> Vec<SocketAddr> {
        let said = format!("listening for {whom} on ");
        let address = |line: String| {
            let rest = line.split_once(&said)?.1;
            let word = rest.split(|c: char| c.is_whitespace() || c == ',' || c == ';').next()?;
            let mut address: SocketAddr = word.parse().unwrap_or_else(|_| panic!("no address in: {line}"));
            if address.ip().is_unspecified() {
                address.set_ip(match address.ip() {
                    IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                });
            }
            Some(address)
        };
        self.log().into_iter().filter_map(address).collect()
    }

    /// Returns the log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lines.lock().expect("nobody panics holding it").all.clone()
    }

    /// Returns the lines so far that contain all of `words`, in upper or lower case.
    pub(crate) fn logged(&self, words: &[&str]) -> Vec<String> {
        self.log().into_iter().filter(|line| holds(line, words)).collect()
    }

    /// Waits for a line that contains `text`, in upper or lower case.
    pub(crate) fn wait_log(&self, text: &str) -> String {
        self.wait_logged(&[text])
    }

    /// Waits for a line that contains all of `words`, in upper or lower case.
    ///
    /// # Panics
    /// If none comes within [`DEADLINE`], or the log ends without one.
    pub(crate) fn wait_logged(&self, words: &[&str]) -> String {
        let end = Instant::now() + DEADLINE;
        let mut lines: MutexGuard<'_, Lines> = self.log.lines.lock().expect("nobody panics holding it");
        loop {
            if let Some(line) = lines.all.iter().find(|line| holds(line, words)) {
                return line.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            if lines.ended || left.is_zero() {
                let log = lines.all.join("\n");
                drop(lines); // a poisoned lock would hide this
                panic!("no line with {words:?} in the log:\n{log}");
            }
            lines = self.log.changed.wait_timeout(lines, left).expect("nobody panics holding it").0;
        }
    }

    /// Returns the name of this channel's viewer in the log, which has it at level `debug`.
    pub(crate) fn viewer_of(&self, channel: &str) -> String {
        let line = self.wait_log(&format!("subscribed to channel {channel}"));
        let name = line.split_once("viewer ").and_then(|(_, rest)| rest.split_once(" subscribed"));
        name.expect("the line names it").0.to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        assert!(kill(self.child.id(), name).success(), "the process is there to be signalled");
    }

    /// Returns true if this signal was sent to the process and has not reached its handler yet.
    pub(crate) fn has_pending(&self, signal: Signal) -> bool {
        let status = self.proc("status");
        let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).expect("Linux says it");
        let mask = u64::from_str_radix(mask.trim(), 16).expect("a mask in hexadecimal digits");
        mask >> (signal as u32 - 1) & 1 == 1
    }

    /// Waits for the end of the process and of its log.
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = until("the monitor ends", || child.try_wait().expect("it is our child"));
        let lines = self.log.lines.lock().expect("nobody panics holding it");
        let ended = self.log.changed.wait_timeout_while(lines, DEADLINE, |lines| !lines.ended);
        drop(ended);
        status
    }

    /// Stops it by SIGTERM and returns how long that took.
    ///
    /// # Panics
    /// If the exit status is not 0.
    pub(crate) fn stop(&mut self) -> Duration {
        let start = Instant::now();
        self.signal("TERM");
        let status = self.wait_exit();
        assert_eq!(status.code(), Some(0), "status after SIGTERM: {status}");
        start.elapsed()
    }

    /// Asserts that the process still runs.
    pub(crate) fn assert_alive(&mut self) {
        let ended = self.child.try_wait().expect("it is our child");
        assert_eq!(ended, None, "the monitor has ended");
    }

    /// Returns the resident memory, in KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Returns the largest resident memory so far, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, what: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with(what)).expect("Linux says it");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of kB")
    }

    /// Returns the processor time used so far, in user and in kernel mode.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat.rsplit_once(')').expect("the name ends").1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number of ticks")).sum();
        Duration::from_millis(ticks * 10) // USER_HZ is 100 wherever Linux runs
    }

    /// Returns the number of open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the process is there").count()
    }

    /// Lowers its limit of open files while it runs, as the user that it runs as, which may do that.
    pub(crate) fn limit_open_files(&self, files: usize) {
        let mut words = Vec::new();
        if is_root() {
            let nobody = User::from_name("nobody").expect("users can be read").expect("it is there");
            words.extend(["setpriv".into(), "--clear-groups".into()]);
            words.extend([format!("--reuid={}", nobody.uid), format!("--regid={}", nobody.gid)]);
        }
        words.extend(["prlimit".into(), format!("--pid={}", self.pid()), format!("--nofile={files}:{files}")]);
        let status = Command::new(&words[0]).args(&words[1..]).status().expect("util-linux is there");
        assert!(status.success(), "{words:?}");
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("the process is there")
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        if std::thread::panicking() && !log.is_empty() {
            let tail = &log[log.len().saturating_sub(40)..];
            eprintln!("the monitor's log ended:\n{}", tail.join("\n"));
        }
    }
}

fn spawn(config: &Path, descriptors: &[OwnedFd], wrapper: &[&str], stderr: Stdio) -> Child {
    let words = [wrapper, &[PROGRAM]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg("-c").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    with_descriptors(&mut command, descriptors).spawn().expect("the program starts")
}

/// Makes a command pass these descriptors to its program, from number 3 on.
pub(crate) fn with_descriptors<'a>(program: &'a mut Command, descriptors: &[OwnedFd]) -> &'a mut Command {
    // Moved up first, so that none is overwritten by another.
    let high: Vec<OwnedFd> = descriptors.iter().map(dup_above).collect();
    let place = move || {
        for (fd, place) in high.iter().zip(3..) {
            #[expect(unsafe_code, reason = "descriptors are placed by their numbers")]
            // SAFETY: in the child, which has nothing of its own at these numbers yet.
            if unsafe { nix::libc::dup2(fd.as_raw_fd(), place) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    #[expect(unsafe_code, reason = "only between fork and exec is the child's table its own")]
    // SAFETY: dup2 is all that it calls, which may be called there.
    unsafe {
        program.pre_exec(place)
    }
}

fn dup_above(fd: &OwnedFd) -> OwnedFd {
    use nix::fcntl::{FcntlArg, fcntl};
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(200)).expect("descriptors are left");
    #[expect(unsafe_code, reason = "a descriptor that comes by its number is owned by saying so")]
    // SAFETY: it has just been made.
    unsafe {
        OwnedFd::from_raw_fd(number)
    }
}

fn holds(line: &str, words: &[&str]) -> bool {
    let line = line.to_lowercase();
    words.iter().all(|word| line.contains(&word.to_lowercase()))
}
