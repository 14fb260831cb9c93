//! The monitor as a service: its messages to the service manager, signals, and giving up root.

use crate::common;

use common::{
    Broker, DEADLINE, Host, Manager, Monitor, PROGRAM, Reloadable, Viewer, is_root, open_directory, task, until,
};
use std::fs::{Permissions, read_to_string, set_permissions, write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A line of /proc/PID/status, without its name.
fn status(pid: u32, name: &str) -> Vec<String> {
    let text = read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).expect("a line of that name");
    line.split_whitespace().map(str::to_owned).collect()
}

/// Runs the program with a configuration until it ends.
fn run_with(wrapper: &[&str], config: &str) -> Output {
    let directory = open_directory();
    let path = directory.path().join("config.yml");
    write(&path, config).expect("it is ours");
    common::run_words(&[wrapper, &[PROGRAM, "-c", path.to_str().expect("UTF-8")]].concat())
}

fn refused(output: &Output, code: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn ready_is_told_when_both_ports_can_be_used_and_not_before() {
    let manager = Manager::new();
    let monitor = manager.starts(&[], "");
    let first = until("a message", || manager.within(DEADLINE).filter(|message| !message.starts_with("FDSTORE")));
    assert_eq!(first, "READY=1\n", "the first message but for the sockets to be kept");
    Viewer::watch(monitor.viewers, "job");
    TcpStream::connect(monitor.brokers).expect("the port is bound");
}

#[test]
fn ready_is_never_told_by_one_that_cannot_start() {
    let manager = Manager::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let notify = format!("NOTIFY_SOCKET={}", manager.path.display());
    let config = format!("websocket_uri: [127.0.0.1, {port}]\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n");
    refused(&run_with(&["env", &notify], &config), 69, &["websocket_uri", &port.to_string()]);
    assert_eq!(manager.within(Duration::from_millis(1)), None);
}

#[test]
fn the_status_tells_of_viewers_channels_and_brokers() {
    let manager = Manager::new();
    let monitor = manager.starts(&[], "");
    manager.hears("STATUS=0 viewers, 0 channels, 0 messages/s, 0 brokers connected");
    // One that only holds a connection open is no broker.
    let _silent = TcpStream::connect(monitor.brokers).expect("it listens");
    let broker = Broker::connect(monitor.brokers);
    let viewer = Viewer::subscribed(monitor.viewers, "job");
    manager.hears("1 viewers, ");
    broker.task("job", "1");
    drop(viewer);
    manager.hears("STATUS=0 viewers, 1 channels, 0 messages/s, 1 brokers connected");
}

#[test]
fn the_watchdog_is_pinged_at_half_its_time_while_the_relay_moves() {
    let manager = Manager::new();
    let monitor = manager.starts(&["WATCHDOG_USEC=400000"], "");
    manager.hears("WATCHDOG=1");
    let start = Instant::now();
    for _ in 0..5 {
        manager.hears("WATCHDOG=1");
    }
    assert!(start.elapsed() >= Duration::from_millis(900), "not much more often than needed");
    monitor.signal("STOP");
    while manager.within(Duration::from_millis(300)).is_some() {}
    assert_eq!(manager.within(Duration::from_secs(1)), None, "one that does not move does not ping");
    monitor.signal("CONT");
    manager.hears("WATCHDOG=1");
    assert!(monitor.logged(&["error"]).is_empty());
}

#[test]
fn a_watchdog_meant_for_another_process_is_left_alone() {
    let manager = Manager::new();
    let mut monitor = manager.starts(&["WATCHDOG_USEC=10000", "WATCHDOG_PID=1"], "");
    manager.hears("READY=1");
    monitor.stop();
    let mut all = Vec::new();
    while let Some(message) = manager.within(Duration::from_millis(50)) {
        all.push(message);
    }
    assert!(!all.iter().any(|message| message.contains("WATCHDOG")), "{all:?}");
    assert!(all.iter().any(|message| message.contains("STOPPING=1")), "{all:?}");
}

#[test]
fn stopping_is_told_with_the_time_it_may_take() {
    let manager = Manager::new();
    let mut monitor = manager.starts(&[], "");
    manager.hears("READY=1");
    monitor.stop();
    let message = manager.hears("STOPPING=1");
    assert!(message.contains("EXTEND_TIMEOUT_USEC=10000000"), "{message}");
}

#[test]
fn a_reload_is_told_and_applies_levels_limits_and_times() {
    let manager = Manager::new();
    let notify = format!("NOTIFY_SOCKET={}", manager.path.display());
    let reloadable = Reloadable::start(&[&notify], "history: {release_failed: 600}\nclients: {max: 1}\n");
    let monitor = &reloadable.monitor;
    manager.hears("READY=1");
    let broker = Broker::connect(monitor.brokers);
    let mut first = Viewer::subscribed(monitor.viewers, "job");
    assert!(Viewer::connected(monitor.viewers).upgrade_or_end().is_none(), "clients.max is 1");

    reloadable.reload("history: {release_failed: 0.2}\nclients: {max: 2}\nlogger: {level: debug}\n");
    let message = manager.hears("RELOADING=1");
    let time = message.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("its time");
    assert!(time.parse::<u64>().is_ok_and(|time| time > 0), "{time}");
    manager.hears("READY=1");
    monitor.wait_log("SIGHUP");
    let _second = Viewer::subscribed(monitor.viewers, "other");
    monitor.wait_logged(&["[DEBUG]", "subscribed"]);
    broker.send(&["job", "FAILED"]);
    first.texts(&[common::command("FAILED"), common::command("FINISHED")]);
    first.closes(1000);
}

#[test]
fn finish_on_close_holds_for_those_who_are_there_from_a_reload_on() {
    let mut reloadable = Reloadable::start(&[], "clients: {finish_on_close: true}\n");
    let mut viewer = Viewer::subscribed(reloadable.monitor.viewers, "job");
    reloadable.reload("clients: {finish_on_close: false}\n");
    reloadable.monitor.wait_log("the configuration is taken up");
    reloadable.monitor.signal("TERM");
    viewer.closes(1001);
    assert_eq!(reloadable.monitor.wait_exit().code(), Some(0));
}

#[test]
fn a_reload_names_what_needs_a_restart_and_keeps_it() {
    let reloadable = Reloadable::start(&[], "");
    reloadable.reload("group: elsewhere\nlogger: {file: /elsewhere, level: info}\n");
    let line = reloadable.monitor.wait_logged(&["WARNING", "restart"]);
    assert!(line.ends_with("need a restart: group, logger.file"), "{line}");
}

#[test]
fn a_wrong_file_changes_nothing_and_is_reported_with_its_position() {
    let manager = Manager::new();
    let notify = format!("NOTIFY_SOCKET={}", manager.path.display());
    let reloadable = Reloadable::start(&[&notify], "logger: {level: info}\n");
    let monitor = &reloadable.monitor;
    manager.hears("READY=1");
    reloadable.reload("logger: {level: debug}\nclients: {mux: 3}\n");
    let line = monitor.wait_logged(&["ERROR", "SIGHUP"]);
    assert!(line.contains("config.yml:5:11: clients: unknown key `mux`; did you mean `max`?"), "{line}");
    manager.hears("READY=1");
    Viewer::subscribed(monitor.viewers, "job");
    let broker = Broker::connect(monitor.brokers);
    common::fence(monitor, &broker);
    assert!(monitor.logged(&["[DEBUG]"]).is_empty(), "the level stays");
}

#[test]
fn sigusr1_ends_nothing_and_is_noted_once() {
    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    for number in ["1", "2"] {
        monitor.signal("USR1");
        monitor.wait_logged(&["WARNING", "SIGUSR1 is ignored", "recodex-monitor status"]);
        broker.task("job", number);
        viewer.texts(&[task(number, "COMPLETED")]);
    }
    common::fence(&monitor, &broker);
    assert_eq!(monitor.logged(&["SIGUSR1"]).len(), 1);
}

#[test]
fn the_listening_sockets_are_given_to_the_service_manager() {
    let manager = Manager::new();
    let _monitor = manager.starts(&[], "");
    manager.hears("READY=1");
    assert_eq!(manager.names(), ["listener-0-0", "listener-0-1"]);
}

#[test]
fn without_a_service_manager_nothing_is_missed() {
    let mut monitor = Monitor::start("logger: {level: debug}");
    monitor.signal("HUP");
    monitor.wait_log("SIGHUP");
    monitor.stop();
    assert!(monitor.logged(&["service manager"]).is_empty());
}

#[test]
fn a_service_manager_that_is_gone_does_not_disturb() {
    let manager = Manager::new();
    let mut monitor = manager.starts(&["WATCHDOG_USEC=100000"], "");
    manager.hears("WATCHDOG=1");
    drop(manager);
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    broker.task("job", "1");
    viewer.texts(&[task("1", "COMPLETED")]);
    monitor.stop();
}

#[test]
#[ignore = "needs root"]
fn nothing_of_root_is_left() {
    let reloadable = Reloadable::start(&[], "");
    let pid = reloadable.monitor.pid();
    let nobody = nix::unistd::User::from_name("nobody").expect("a user database").expect("nobody is there");
    let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
    assert_eq!(status(pid, "Uid"), vec![uid; 4]);
    assert_eq!(status(pid, "Gid"), vec![gid.clone(); 4]);
    assert_eq!(status(pid, "Groups"), [gid]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(pid, set), ["0000000000000000"], "{set}");
    }
    assert_eq!(status(pid, "NoNewPrivs"), ["1"]);
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there") {
        let thread =
            task.expect("it can be read").file_name().into_string().expect("a number").parse().expect("a number");
        assert_eq!(status(thread, "CapEff"), ["0000000000000000"]);
        assert_eq!(status(thread, "NoNewPrivs"), ["1"]);
    }

    set_permissions(&reloadable.config, Permissions::from_mode(0o600)).expect("it is ours");
    reloadable.monitor.signal("HUP");
    reloadable.monitor.wait_logged(&["ERROR", "Permission denied"]);
}

#[test]
#[ignore = "needs root"]
fn a_port_below_1024_works_when_started_as_root() {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = (600..1024).rev().find(free).expect("a free port");
    let mut monitor = Monitor::start_at(Host { name: "127.0.0.1", viewers: port, brokers: 0 }, "");
    assert_eq!(monitor.viewers, SocketAddr::from(([127, 0, 0, 1], port)));
    assert_eq!(status(monitor.pid(), "CapEff"), ["0000000000000000"]);
    Viewer::subscribed(monitor.viewers, "job");
    monitor.stop();
}

#[test]
fn a_port_below_1024_is_refused_77_without_root() {
    let as_nobody: &[&str] =
        if is_root() { &["setpriv", "--reuid=nobody", "--clear-groups", "--inh-caps=-all"] } else { &[] };
    if read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").is_ok_and(|start| start.trim() != "1024") {
        return common::skipped("this machine gives low ports to everybody");
    }
    // The program must be within reach of that user.
    let directory = open_directory();
    let program = directory.path().join("recodex-monitor");
    // By another process: a descriptor of this one might be inherited by a child of another test, and then it is busy.
    assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().expect("cp runs").success());
    let config = directory.path().join("config.yml");
    write(&config, "websocket_uri: [127.0.0.1, 79]\nzeromq_uri: [127.0.0.1, 0]\n").expect("it is ours");
    let words = [as_nobody, &[program.to_str().expect("UTF-8"), "-c", config.to_str().expect("UTF-8")]].concat();
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output().expect("it starts");
    refused(&output, 77, &["websocket_uri", "127.0.0.1:79", "CAP_NET_BIND_SERVICE"]);
}

#[test]
#[ignore = "needs root"]
fn what_is_logged_before_the_log_is_open_is_in_it() {
    let directory = open_directory();
    let hosts = directory.path().join("hosts");
    write(&hosts, "127.0.0.1 two.example\n192.0.2.77 two.example\n").expect("it is ours");
    let script = format!("mount --bind '{}' /etc/hosts && exec \"$@\"", hosts.display());
    let wrapper = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"];
    let monitor = Monitor::start_through(&wrapper, Host { name: "two.example", viewers: 0, brokers: 0 }, "");
    let lines = monitor.logged(&["WARNING", "192.0.2.77", "is left out"]);
    assert_eq!(lines.len(), 2, "one for each port: {:?}", monitor.log());
    Viewer::subscribed(monitor.viewers, "job");
}

#[test]
#[ignore = "needs root"]
fn a_user_that_is_missing_or_root_is_refused_77() {
    let ports = "websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\n";
    refused(&run_with(&[], &format!("{ports}user: no-such-user\n")), 77, &["there is no user", "no-such-user"]);
    refused(&run_with(&[], &format!("{ports}user: nobody\ngroup: no-such-group\n")), 77, &["there is no group"]);
    refused(&run_with(&[], &format!("{ports}user: root\n")), 77, &["never relays as root"]);
    refused(&run_with(&[], &format!("{ports}user: nobody\ngroup: root\n")), 77, &["never relays as root"]);
}

#[test]
fn completions_are_printed_for_each_shell() {
    for (shell, sign) in
        [("bash", "complete -F"), ("zsh", "#compdef recodex-monitor"), ("fish", "complete -c recodex-monitor")]
    {
        let output = common::run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains(sign), "{shell}");
    }
    assert_eq!(common::run(&["completions", "tcsh"]).status.code(), Some(64));
}

/// A container without a service manager: PID 1, another user, no capability, and a read-only file system.
#[test]
#[ignore = "needs root"]
fn as_pid_1_on_a_read_only_root_it_relays_and_ends_with_sigterm() {
    const SCRIPT: &str = "mount -o remount,bind,ro / && exec setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set=-all \
                          --no-new-privs \"$0\" -c \"$1\"";
    let unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"];
    let can = |script: &str| common::run_words(&[&unshare[..], &["sh", "-c", script]].concat()).status.success();
    if !can("mount -o remount,bind,ro /") {
        return common::skipped("needs the right to make namespaces, and to mount in them");
    }
    let directory = open_directory();
    let (config, log) = (directory.path().join("config.yml"), directory.path().join("stderr"));
    write(&config, "websocket_uri: [\"*\", 0]\nzeromq_uri: [\"*\", 0]\n").expect("it is ours");
    let mut child = Command::new(unshare[0])
        .args(&unshare[1..])
        .args(["sh", "-c", SCRIPT, PROGRAM, config.to_str().expect("UTF-8")])
        .env_remove("JOURNAL_STREAM")
        .stderr(std::fs::File::create(&log).expect("it is ours"))
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let logged = || read_to_string(&log).expect("UTF-8");
    until("it listens", || logged().contains("listening for viewers").then_some(()));
    let children = read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).expect("it runs");
    let pid = children.trim().parse().expect("one child");
    assert_eq!(status(pid, "NSpid").last().map(String::as_str), Some("1"));
    assert_eq!(status(pid, "CapEff"), ["0000000000000000"]);
    assert!(common::kill(pid, "HUP").success());
    until("it reloads", || logged().contains("the configuration is taken up").then_some(()));
    assert!(common::kill(pid, "TERM").success());
    assert_eq!(child.wait().expect("our child").code(), Some(0), "{}", logged());
    assert!(logged().contains("stopped: 0 messages"), "{}", logged());
}
