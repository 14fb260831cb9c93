//! The exit status of a check is that of a start.

use super::Machine;
use crate::common::users::{ALICE, RECODEX, give};
use crate::common::{PROGRAM, Users, kill, open_up, temporary, until};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{File, Permissions, create_dir, read_dir, read_to_string, set_permissions, write};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory of root's in which a test puts what is in the way: `own` in it is the user's, `open` is as `/tmp`.
struct Scene {
    directory: PathBuf,
    /// Sockets at which somebody listens.
    listeners: Vec<UnixListener>,
    /// A socket of another type.
    datagrams: Option<UnixDatagram>,
}

impl Scene {
    fn new(directory: PathBuf) -> Self {
        for (name, mode) in [("", 0o755), ("own", 0o755), ("open", 0o1777)] {
            create_dir(directory.join(name)).expect("it is new");
            set_permissions(directory.join(name), Permissions::from_mode(mode)).expect("it is ours");
        }
        give(&directory.join("own"), RECODEX);
        Self { directory, listeners: Vec::new(), datagrams: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes a file of the user's.
    fn file(&self, name: &str) {
        write(self.path(name), "").expect("it is ours");
        give(&self.path(name), RECODEX);
    }

    fn link(&self, name: &str, target: &str) {
        let target = if target.starts_with("..") { self.path(&target[3..]) } else { target.into() };
        symlink(target, self.path(name)).expect("it is ours");
    }

    /// Makes a socket of root's at which nobody listens.
    fn stale(&self, name: &str) {
        UnixListener::bind(self.path(name)).expect("it is ours");
    }

    /// The line of the configuration that names the log.
    fn log(&self, name: &str) -> String {
        format!("logger: {{file: \"{}/{name}\"}}\n", self.directory.display())
    }

    fn unix(&self, name: &str) -> String {
        format!("websocket_uri: \"unix:{}/{name}\"\n", self.directory.display())
    }

    /// The line of the configuration for a socket whose path has so many bytes.
    fn long_unix(&self, length: usize) -> String {
        let left = length - self.path("own/").as_os_str().len();
        self.unix(&format!("own/{}", "s".repeat(left)))
    }

    fn history(&self, name: &str) -> String {
        format!("history: {{state: \"{}/{name}\"}}\n", self.directory.display())
    }

    /// All that is in the directory.
    fn content(&self) -> Vec<PathBuf> {
        let list = |path: &Path| -> Vec<PathBuf> {
            read_dir(path).expect("root may").map(|entry| entry.expect("it can be read").path()).collect()
        };
        let mut all: Vec<_> = ["", "own", "open"].iter().flat_map(|name| list(&self.path(name))).collect();
        all.sort();
        all
    }
}

/// A function that makes an obstacle in a scene. Returns lines of the configuration.
type Arrange = fn(&mut Scene) -> String;

/// The obstacles to a start, with its exit status; `None` if that depends on the machine.
const SITUATIONS: &[(&str, Option<i32>, Arrange)] = &[
    ("nothing", Some(0), |_| String::new()),
    // The log
    ("a new log", Some(0), |scene| scene.log("own/log")),
    ("a log in root's directory", Some(78), |scene| scene.log("log")),
    ("a log in a missing directory", Some(78), |scene| scene.log("own/none/log")),
    ("a log of the user's in root's directory", Some(0), |scene| {
        scene.file("log");
        scene.log("log")
    }),
    ("a log of root's in the user's directory", Some(78), |scene| {
        write(scene.path("own/log"), "").expect("it is ours");
        scene.log("own/log")
    }),
    ("a log that the user may only read", Some(78), |scene| {
        scene.file("own/log");
        set_permissions(scene.path("own/log"), Permissions::from_mode(0o400)).expect("it is ours");
        scene.log("own/log")
    }),
    ("a log below a file", Some(78), |scene| {
        scene.file("own/file");
        scene.log("own/file/log")
    }),
    ("a link to nothing in the user's directory", Some(0), |scene| {
        scene.link("own/log", "../own/target");
        scene.log("own/log")
    }),
    ("a link to nothing in root's directory", Some(78), |scene| {
        scene.link("own/log", "../target");
        scene.log("own/log")
    }),
    ("a link of root's to nothing in the user's directory", Some(0), |scene| {
        scene.link("log", "../own/target");
        scene.log("log")
    }),
    ("a link of another user's in an open directory", None, |scene| {
        scene.link("open/log", "../own/target");
        lchown(scene.path("open/log"), Some(ALICE), Some(ALICE)).expect("root may");
        scene.log("open/log")
    }),
    ("a link to a missing directory", Some(78), |scene| {
        scene.link("own/log", "/nonexistent/log");
        scene.log("own/log")
    }),
    ("a link to itself", Some(78), |scene| {
        scene.link("own/log", "log");
        scene.log("own/log")
    }),
    ("a FIFO", Some(0), |scene| {
        mkfifo(&scene.path("own/log"), Mode::S_IRWXU).expect("it is ours");
        give(&scene.path("own/log"), RECODEX);
        scene.log("own/log")
    }),
    ("a FIFO of root's", Some(78), |scene| {
        mkfifo(&scene.path("own/log"), Mode::S_IRWXU).expect("it is ours");
        scene.log("own/log")
    }),
    ("a socket for a log", Some(78), |scene| {
        scene.stale("own/log");
        give(&scene.path("own/log"), RECODEX);
        scene.log("own/log")
    }),
    ("a directory for a log", Some(78), |scene| scene.log("own")),
    ("a log with a slash at its end", Some(78), |scene| scene.log("own/log/")),
    ("a log with a dot at its end", Some(78), |scene| scene.log("own/log/.")),
    ("a name of 255 characters", Some(0), |scene| scene.log(&format!("own/{}", "x".repeat(255)))),
    ("a name of 256 characters", Some(78), |scene| scene.log(&format!("own/{}", "x".repeat(256)))),
    ("a log in /proc", Some(78), |_| "logger: {file: /proc/log}\n".into()),
    ("a descriptor that is not open", Some(78), |_| "logger: {file: /proc/self/fd/777}\n".into()),
    ("no terminal", Some(78), |_| "logger: {file: /dev/tty}\n".into()),
    ("the null device", Some(0), |_| "logger: {file: /dev/null}\n".into()),
    ("a journal that may not be there", None, |_| "logger: {output: journald}\n".into()),
    // The saved history
    ("a history in the user's directory", Some(0), |scene| scene.history("own/history")),
    ("a history in root's directory", Some(0), |scene| scene.history("history")),
    ("a history in a missing directory", Some(0), |scene| scene.history("own/none/history")),
    ("a history that is none", Some(78), |scene| {
        write(scene.path("own/history"), "something else").expect("it is ours");
        scene.history("own/history")
    }),
    ("a directory where the history is written", Some(78), |scene| {
        create_dir(scene.path("own/history.new")).expect("it is ours");
        scene.history("own/history")
    }),
    // The Unix socket
    ("a new socket", Some(0), |scene| scene.unix("own/socket")),
    ("a socket in root's directory", Some(77), |scene| scene.unix("socket")),
    ("a socket in a missing directory", Some(69), |scene| scene.unix("own/none/socket")),
    ("a socket below a file", Some(69), |scene| {
        scene.file("own/file");
        scene.unix("own/file/socket")
    }),
    ("a stale socket of the user's", Some(0), |scene| {
        scene.stale("own/socket");
        give(&scene.path("own/socket"), RECODEX);
        scene.unix("own/socket")
    }),
    ("a stale socket of root's in the user's directory", Some(0), |scene| {
        scene.stale("own/socket");
        scene.unix("own/socket")
    }),
    ("a stale socket of root's in an open directory", Some(77), |scene| {
        scene.stale("open/socket");
        scene.unix("open/socket")
    }),
    ("a socket that everybody may use", Some(69), |scene| {
        scene.listeners.push(UnixListener::bind(scene.path("own/socket")).expect("it is ours"));
        open_up(&scene.path("own/socket"));
        scene.unix("own/socket")
    }),
    ("a socket that only root may use", Some(69), |scene| {
        scene.listeners.push(UnixListener::bind(scene.path("own/socket")).expect("it is ours"));
        scene.unix("own/socket")
    }),
    ("a link to a socket", Some(69), |scene| {
        scene.stale("own/real");
        scene.link("own/socket", "real");
        scene.unix("own/socket")
    }),
    ("a file for a socket", Some(69), |scene| {
        scene.file("own/socket");
        scene.unix("own/socket")
    }),
    ("a directory in the place of the new socket", Some(69), |scene| {
        create_dir(scene.path("own/socket.new")).expect("it is ours");
        scene.unix("own/socket")
    }),
    ("a file in the place of the new socket", Some(69), |scene| {
        scene.file("own/socket.new");
        scene.unix("own/socket")
    }),
    ("somebody who listens in the place of the new socket", Some(69), |scene| {
        scene.listeners.push(UnixListener::bind(scene.path("own/socket.new")).expect("it is ours"));
        scene.unix("own/socket")
    }),
    ("a socket for datagrams", Some(69), |scene| {
        scene.datagrams = Some(UnixDatagram::bind(scene.path("own/socket")).expect("it is ours"));
        give(&scene.path("own/socket"), RECODEX);
        scene.unix("own/socket")
    }),
    ("a path of 104 bytes", Some(0), |scene| scene.long_unix(104)),
    ("a path of 107 bytes", Some(0), |scene| scene.long_unix(107)),
    ("a path of 108 bytes", Some(78), |scene| scene.long_unix(108)),
    ("a log where the socket is", Some(78), |scene| scene.log("own/socket") + &scene.unix("own/socket")),
    ("a socket of root's in the place of the new one", Some(77), |scene| {
        scene.stale("open/socket.new");
        scene.unix("open/socket")
    }),
    // Two of them: the first that the start comes to gives the status.
    ("a log and a socket in root's directory", Some(78), |scene| scene.log("log") + &scene.unix("socket")),
];

/// Starts the monitor by way of `words`; returns the status with which it ends, or 0 if it relays.
fn start(words: &[&str]) -> (i32, String) {
    let (_directory, stderr) = temporary("stderr", "");
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&stderr).expect("it is ours"))
        .spawn()
        .expect("it starts");
    let tasks = format!("/proc/{}/task", child.id());
    let ended = until("it relays, or ends", || {
        // The thread of the log is the last thing before it relays.
        let logs =
            |thread: std::fs::DirEntry| read_to_string(thread.path().join("comm")).is_ok_and(|name| name == "log\n");
        let relays = read_dir(&tasks).is_ok_and(|mut threads| threads.any(|thread| thread.is_ok_and(logs)));
        let status = child.try_wait().expect("our child");
        (relays || status.is_some()).then_some(status)
    });
    if ended.is_none() {
        assert!(kill(child.id(), "TERM").success());
    }
    let status = child.wait().expect("our child");
    (status.code().expect("it ends by itself"), read_to_string(&stderr).expect("UTF-8"))
}

#[test]
#[ignore = "needs root"]
fn a_check_as_root_has_the_status_of_the_start_whatever_is_in_the_way() {
    let Some(users) = Users::new() else { return };
    let machine = Machine::new();
    let mut wrong = Vec::new();
    for (number, (situation, expected, arrange)) in SITUATIONS.iter().enumerate() {
        let mut scene = Scene::new(machine.path(&number.to_string()));
        let lines = arrange(&mut scene);
        let websocket = if lines.contains("websocket_uri") { "" } else { "websocket_uri: [\"127.0.0.1\", 0]\n" };
        let config = scene.path("config.yml");
        write(&config, format!("zeromq_uri: [\"127.0.0.1\", 0]\n{websocket}user: recodex\n{lines}"))
            .expect("it is ours");
        let before = scene.content();
        // Without a terminal.
        let wrapper: Vec<_> = ["setsid".to_owned()].into_iter().chain(users.wrapper()).collect();
        let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
        let config = config.to_str().expect("UTF-8");
        let (checked, out, err) = machine.check_with(&[&wrapper[..], &[PROGRAM, "check", "-c", config]].concat());
        assert_eq!(scene.content(), before, "a check changes nothing: {situation}");
        let (started, said) = start(&[&wrapper[..], &[PROGRAM, "-c", config]].concat());
        if checked != started || expected.is_some_and(|expected| started != expected) {
            wrong.push(format!(
                "{situation}: check {checked}, start {started}, expected {expected:?}\n{out}{err}{said}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
