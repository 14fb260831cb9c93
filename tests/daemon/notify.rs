//! A service manager that takes no messages: the relay goes on, and the messages that matter arrive when there is room.

use crate::common;

use common::{Broker, DEADLINE, Monitor, PROMPT, Viewer, command, open_directory, open_up, task, until};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The socket of a service manager that reads only when it is asked to.
struct Frozen {
    socket: UnixDatagram,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Frozen {
    fn new() -> Self {
        let directory = open_directory();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket in a directory of ours");
        open_up(&path);
        socket.set_read_timeout(Some(DEADLINE)).expect("a time");
        Self { socket, path, _directory: directory }
    }

    /// Fills its queue, as another service of the machine may.
    fn fill(&self) {
        let other = UnixDatagram::unbound().expect("a socket");
        other.set_nonblocking(true).expect("it is ours");
        while other.send_to(b"OTHER=1", &self.path).is_ok() {}
    }

    fn starts(&self, variables: &[&str], config: &str) -> Monitor {
        let notify = format!("NOTIFY_SOCKET={}", self.path.display());
        let words: Vec<_> = ["env", &notify].into_iter().chain(variables.iter().copied()).map(str::to_owned).collect();
        Monitor::start_with(&[], &words, common::Host::default(), config)
    }

    /// The next message of the monitor's.
    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        loop {
            let length = self.socket.recv(&mut bytes).expect("a message in time");
            if &bytes[..length] != b"OTHER=1" {
                return String::from_utf8_lossy(&bytes[..length]).into_owned();
            }
        }
    }

    /// The messages up to one that holds `text`.
    fn up_to(&self, text: &str) -> Vec<String> {
        let mut all = vec![self.next()];
        while !all.last().is_some_and(|last| last.contains(text)) {
            all.push(self.next());
        }
        all
    }
}

#[test]
fn a_full_queue_holds_up_neither_the_relay_nor_its_stop() {
    let manager = Frozen::new();
    let mut monitor = manager.starts(&["WATCHDOG_USEC=200000"], "status_uri: [127.0.0.1, 0]");
    manager.up_to("READY=1");
    manager.fill();
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    monitor.wait_log("the service manager does not take messages");
    for i in 0..10 {
        broker.task("job", &i.to_string());
        viewer.texts(&[task(&i.to_string(), "COMPLETED")]);
    }
    Viewer::subscribed(monitor.viewers, "other");
    assert_eq!(common::http::get(common::http::status(&monitor), "/readyz").status, 200);
    let start = Instant::now();
    monitor.signal("TERM");
    viewer.texts(&[command("FINISHED")]);
    viewer.closes(1001);
    assert_eq!(monitor.wait_exit().code(), Some(0));
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
}

#[test]
fn ready_arrives_in_its_order_with_the_newest_status_when_there_is_room() {
    let manager = Frozen::new();
    manager.fill();
    let monitor = manager.starts(&["WATCHDOG_USEC=200000"], "");
    let _viewer = Viewer::subscribed(monitor.viewers, "job");
    monitor.signal("HUP");
    monitor.wait_log("the configuration is taken up");
    // The turn that took it up is over once another viewer is served.
    let _other = Viewer::subscribed(monitor.viewers, "other");
    let all = manager.up_to("READY=1");
    let first = |text: &str| all.iter().position(|message| message.contains(text)).expect(text);
    assert!(first("FDSTORE=1") < first("RELOADING=1") && first("RELOADING=1") < first("READY=1"), "{all:?}");
    for text in ["STATUS=", "WATCHDOG=1"] {
        assert!(all.iter().filter(|message| message.contains(text)).count() < 2, "{all:?}");
    }
}

#[test]
fn a_restart_that_cannot_be_told_is_a_stop_that_saves_the_history() {
    let manager = Frozen::new();
    let directory = open_directory();
    let saved = directory.path().join("history");
    let mut monitor = manager.starts(&[], &format!("history: {{state: '{}'}}", saved.display()));
    manager.up_to("READY=1");
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    broker.task("job", "1");
    viewer.texts(&[task("1", "COMPLETED")]);
    manager.fill();
    let start = Instant::now();
    monitor.signal("USR2");
    viewer.texts(&[command("FINISHED")]);
    viewer.closes(1001);
    assert_eq!(monitor.wait_exit().code(), Some(0));
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    monitor.wait_logged(&["WARNING", "nothing can be handed over", "does not answer within 1 s"]);
    assert!(saved.exists());
}

#[test]
fn an_abstract_socket_is_told_too() {
    let name = format!("recodex-monitor-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    let socket = UnixDatagram::bind_addr(&address).expect("a name of ours");
    socket.set_read_timeout(Some(DEADLINE)).expect("a time");
    let notify = format!("NOTIFY_SOCKET=@{name}");
    let _monitor = Monitor::start_through(&["env", &notify], common::Host::default(), "");
    let mut bytes = [0; 4096];
    until("READY=1", || {
        let length = socket.recv(&mut bytes).expect("a message in time");
        bytes[..length].starts_with(b"READY=1").then_some(())
    });
}

#[test]
fn a_socket_of_no_known_kind_is_a_warning() {
    let monitor = Monitor::start_through(&["env", "NOTIFY_SOCKET=notify"], common::Host::default(), "");
    monitor.wait_logged(&["WARNING", "NOTIFY_SOCKET=notify", "expected an absolute path"]);
}

#[test]
fn a_watchdog_too_quick_to_keep_gets_ten_signs_of_life_a_second_and_a_warning() {
    let manager = Frozen::new();
    let start = Instant::now();
    let monitor = manager.starts(&["WATCHDOG_USEC=1"], "");
    monitor.wait_logged(&["WARNING", "WATCHDOG_USEC=", "100ms"]);
    for _ in 0..20 {
        manager.up_to("WATCHDOG=1");
    }
    // Of the first one, and of how late any of them is read, nothing is known.
    assert!(start.elapsed() >= Duration::from_millis(1_900), "{:?}", start.elapsed());
}

#[test]
fn the_time_zero_is_no_watchdog() {
    let manager = Frozen::new();
    let mut monitor = manager.starts(&["WATCHDOG_USEC=0"], "");
    manager.up_to("READY=1");
    monitor.stop();
    let all = manager.up_to("STOPPING=1");
    assert!(!all.iter().any(|message| message.contains("WATCHDOG=1")), "{all:?}");
}

#[test]
fn an_error_pipe_that_nobody_reads_does_not_hold_up_the_end_of_a_failed_start() {
    // The pipe is full from the beginning, and the process has both its ends.
    let script = "exec 3<>\"$0\"; rm \"$0\"; dd if=/dev/zero of=/proc/self/fd/3 oflag=nonblock bs=4096 2>&-; \
                  exec \"$@\" 2>&3";
    let directory = open_directory();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a directory of ours");
    let config = directory.path().join("config.yml");
    std::fs::write(&config, "clients: {mux: 1}").expect("it is ours");
    let words = ["sh", "-c", script, pipe.to_str().expect("UTF-8"), common::PROGRAM, "-c"];
    let mut child = std::process::Command::new(words[0]).args(&words[1..]).arg(&config).spawn().expect("a shell");
    let status = until("its end", || child.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(78));
}
