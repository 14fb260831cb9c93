//! Instances that share their ports (`share_ports`): who gets a connect, a restart of one, and its stop for good.

use super::Service;
use crate::alone;
use crate::common::viewer::upgrade_request;
use crate::common::{
    self, Broker, DEADLINE, Host, Manager, Monitor, Viewer, command, is_root, taken_port, until, with_descriptors,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

/// Shares the ports. Nothing listens at this address of Redis, so no message comes to a viewer.
const SHARED: &str = "cluster: {redis: [\"127.0.0.1:1\"]}\nshare_ports: true\nlogger: {level: debug}\n";

/// Two ports that are free.
fn free_ports() -> Host<'static> {
    let (_one, viewers) = taken_port();
    let (_other, brokers) = taken_port();
    Host { viewers: viewers.port(), brokers: brokers.port(), ..Host::default() }
}

/// A connection with a request that was not answered yet.
fn asking(at: SocketAddr) -> Viewer {
    let mut viewer = Viewer::connected(at);
    viewer.send_raw(upgrade_request("/").as_bytes());
    viewer
}

/// Two instances, each under a manager of its own.
struct Pair {
    managers: [Manager; 2],
    host: Host<'static>,
    monitors: [Monitor; 2],
}

impl Pair {
    fn start() -> Self {
        let (managers, host) = ([Manager::new(), Manager::new()], free_ports());
        let monitors = [0, 1].map(|i| managers[i].starts_at(host, &[], SHARED));
        Self { managers, host, monitors }
    }

    /// Connects viewers, which are spread over both.
    fn viewers(&self, count: usize, channel: &str) -> Vec<Viewer> {
        (0..count).map(|_| Viewer::subscribed(self.monitors[0].viewers, channel)).collect()
    }

    /// Connects brokers, which are spread over both, until each instance has one.
    fn brokers(&self) -> Vec<Broker> {
        let brokers: Vec<_> = (0..32).map(|_| Broker::connect(self.monitors[0].brokers)).collect();
        for monitor in &self.monitors {
            monitor.wait_logged(&["broker 127.0.0.1:", "connected"]);
        }
        brokers
    }

    /// Stops both. Each of the viewers must be connected and is told.
    fn stop(&mut self, viewers: Vec<Viewer>) {
        for monitor in &self.monitors {
            monitor.signal("TERM");
        }
        for mut viewer in viewers {
            viewer.texts(&[command("FINISHED")]);
            viewer.closes(1001);
        }
        for monitor in &mut self.monitors {
            assert_eq!(monitor.wait_exit().code(), Some(0));
        }
    }
}

/// Returns the number of viewers that have subscribed to a channel.
fn subscribed(monitor: &Monitor, channel: &str) -> usize {
    monitor.logged(&[&format!("subscribed to channel {channel}")]).len()
}

#[test]
fn two_instances_both_get_connects() {
    let _alone = alone();
    let mut pair = Pair::start();
    let viewers = pair.viewers(64, "job");
    let of = || pair.monitors.each_ref().map(|monitor| subscribed(monitor, "job"));
    until("all are there", || (of().iter().sum::<usize>() == 64).then_some(()));
    assert!(of().iter().all(|count| *count > 0), "{:?}", of());
    drop(pair.brokers());
    pair.stop(viewers);
}

#[test]
fn a_restart_of_one_loses_no_connect_and_touches_no_connection_of_the_other() {
    let _alone = alone();
    let mut pair = Pair::start();
    let mut viewers = pair.viewers(32, "job");
    let brokers = pair.brokers();
    let names = pair.managers[0].names();
    for _ in 0..3 {
        pair.monitors[0].signal("USR2");
        assert_eq!(pair.monitors[0].wait_exit().code(), Some(0));
        // About half of them wait at the port of the process that has ended.
        let mut waiting: Vec<_> = (0..32).map(|_| asking(pair.monitors[1].viewers)).collect();
        pair.monitors[0] = pair.managers[0].starts_at(pair.host, &[], SHARED);
        pair.monitors[0].wait_log("took over");
        for mut viewer in waiting.drain(..) {
            viewer.read_upgrade();
            viewer.send_text("job");
            viewers.push(viewer);
        }
        // The socket was adopted: it keeps its name, and there is no other.
        let kept = || pair.managers[0].names();
        until("the manager lets go", || (!kept().contains(&"succession".into())).then_some(()));
        assert_eq!(kept(), names);
    }
    let of = || pair.monitors.each_ref().map(|monitor| subscribed(monitor, "job"));
    // The restarted instance still gets connects, and so does the other.
    let before = of();
    viewers.extend(pair.viewers(64, "job"));
    until("both have more", || of().iter().zip(before).all(|(now, before)| *now > before).then_some(()));
    for monitor in &pair.monitors {
        assert_eq!(monitor.logged(&["broker", "disconnected"]), Vec::<String>::new());
    }
    drop(brokers);
    pair.stop(viewers);
}

/// The instance is paused, so that connects wait at its port when it is told to stop.
#[test]
fn a_stop_for_good_accepts_who_waits_and_leaves_the_port_to_the_other() {
    let _alone = alone();
    let mut pair = Pair::start();
    let at = pair.monitors[0].viewers;
    pair.monitors[0].signal("STOP");
    let connect = |sends: bool| {
        let mut stream = TcpStream::connect(at).expect("both listen");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout above zero");
        if sends {
            stream.write_all(upgrade_request("/").as_bytes()).expect("there is room");
        }
        stream
    };
    let waiting: Vec<_> = (0..96).map(|i| connect(i % 2 == 0)).collect();
    pair.monitors[0].signal("TERM");
    pair.monitors[0].signal("CONT");
    assert_eq!(pair.monitors[0].wait_exit().code(), Some(0));
    // The manager still has the socket, at which nobody listens any more.
    assert!(pair.managers[0].names().contains(&"listener-0-0".into()));
    drop(pair.viewers(32, "later"));
    until("all are at the other", || (subscribed(&pair.monitors[1], "later") == 32).then_some(()));
    pair.monitors[1].stop();
    for (i, mut stream) in waiting.into_iter().enumerate() {
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        assert!(read.is_ok(), "connection {i} was reset: {read:?}");
        assert!(i % 2 == 1 || bytes.starts_with(b"HTTP/1.1 "), "{i}: {:?}", String::from_utf8_lossy(&bytes));
    }
}

/// The service manager starts it again and again. Meanwhile nobody accepts at its sockets.
#[test]
fn an_instance_that_cannot_start_leaves_its_ports_to_the_other() {
    let _alone = alone();
    let (_taken, taken) = taken_port();
    let tls = "tls: {certificate: /nowhere, key: /nowhere}\n";
    // The start fails before the viewers' socket is adopted, and after both are.
    for (brokers, wrong, status) in [(taken.port(), "", 69), (0, tls, 78)] {
        let mut pair = Pair::start();
        pair.monitors[0].signal("USR2");
        assert_eq!(pair.monitors[0].wait_exit().code(), Some(0));
        let brokers = if brokers > 0 { brokers } else { pair.host.brokers };
        let config = format!(
            "websocket_uri: [127.0.0.1, {}]\nzeromq_uri: [127.0.0.1, {brokers}]\nuser: nobody\n{SHARED}{wrong}",
            pair.host.viewers
        );
        let (_directory, path) = common::temporary("c.yml", config);
        let words = pair.managers[0].wrapper(&[]);
        let mut command = Command::new(&words[0]);
        let output = with_descriptors(&mut command, &pair.managers[0].descriptors())
            .args(&words[1..])
            .args([common::PROGRAM.as_ref(), "-c".as_ref(), path.as_os_str()])
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(status), "{}", String::from_utf8_lossy(&output.stderr));
        // The manager's copies do not listen any more, even before it lets them go.
        drop(pair.viewers(32, "job"));
        until("all are at the other", || (subscribed(&pair.monitors[1], "job") == 32).then_some(()));
        until("the manager lets go", || pair.managers[0].names().is_empty().then_some(()));
        pair.monitors[0] = pair.managers[0].starts_at(pair.host, &[], SHARED);
        let viewers = pair.viewers(64, "again");
        until("it gets connects again", || (subscribed(&pair.monitors[0], "again") > 0).then_some(()));
        pair.stop(viewers);
    }
}

/// After a restart, a process that does not share its ports has an older socket at each, and gives new connects to the second.
#[test]
fn who_begins_to_share_takes_the_preference_away() {
    let _alone = alone();
    let mut service = Service::start("");
    service.restart();
    service.config = SHARED.into();
    service.restart();
    let [viewers, brokers] = [service.monitor.viewers.port(), service.monitor.brokers.port()];
    let second = Manager::new();
    let other = second.starts_at(Host { viewers, brokers, ..Host::default() }, &[], SHARED);
    let connected: Vec<_> = (0..64).map(|_| Viewer::subscribed(other.viewers, "job")).collect();
    let of = || [&service.monitor, &other].map(|monitor| subscribed(monitor, "job"));
    until("all are there", || (of().iter().sum::<usize>() == 64).then_some(()));
    assert!(of().iter().all(|count| *count > 0), "{:?}", of());
    drop(connected);
}

#[test]
fn an_instance_that_does_not_share_or_has_another_user_is_refused() {
    let _alone = alone();
    let pair = Pair::start();
    let Host { viewers, brokers, .. } = pair.host;
    let ports = format!("websocket_uri: [127.0.0.1, {viewers}]\nzeromq_uri: [127.0.0.1, {brokers}]\nuser: nobody\n");
    let directory = common::open_directory();
    let run = |prefix: &[&str], config: &str| {
        let path = directory.path().join("c.yml");
        std::fs::write(&path, format!("{ports}{config}")).expect("it is ours");
        let output = common::run_words(&[prefix, &[common::PROGRAM, "-c", path.to_str().expect("UTF-8")]].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&[], "");
    assert!(code == Some(69) && said.contains("another program, perhaps another monitor"), "{code:?} {said}");
    if is_root() {
        let (code, said) = run(&["setpriv", "--reuid=nobody", "--clear-groups"], SHARED);
        assert!(code == Some(69) && said.contains("run as the same user and have share_ports"), "{code:?} {said}");
    }
}

/// Both instances and the next process of one run as a user other than root, as under systemd.
#[test]
fn instances_of_one_user_share_their_ports() {
    let _alone = alone();
    let (managers, host) = ([Manager::new(), Manager::new()], free_ports());
    let user = ["setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all"].map(str::to_owned);
    let user = if is_root() { &user[..] } else { &[] };
    let directory = common::open_directory();
    let path = directory.path().join("c.yml");
    let Host { viewers, brokers, .. } = host;
    let ports = format!("websocket_uri: [127.0.0.1, {viewers}]\nzeromq_uri: [127.0.0.1, {brokers}]\nuser: nobody\n");
    std::fs::write(&path, ports + SHARED).expect("it is ours");
    let start = |i: usize| {
        let wrapper = [&managers[i].wrapper(&[])[..], user].concat();
        Monitor::start_from_with(&managers[i].descriptors(), &wrapper, &path)
    };
    let mut monitors = [start(0), start(1)];
    monitors[0].signal("USR2");
    assert_eq!(monitors[0].wait_exit().code(), Some(0));
    monitors[0] = start(0);
    let at = monitors[0].viewers;
    let connected: Vec<_> = (0..64).map(|_| Viewer::subscribed(at, "job")).collect();
    let of = || monitors.each_ref().map(|monitor| subscribed(monitor, "job"));
    until("all are there", || (of().iter().sum::<usize>() == 64).then_some(()));
    assert!(of().iter().all(|count| *count > 0), "{:?}", of());
    drop(connected);
    if is_root() {
        // The managers are in this process, which is none of the holders that a check expects.
        managers.iter().for_each(Manager::forgets);
        let output = common::run(&["check", "-c", path.to_str().expect("UTF-8")]);
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(out.contains(&format!("127.0.0.1:{viewers} is held by the monitor that runs")), "{out}");
    }
}

#[test]
fn a_check_beside_instances_that_run_finds_that_the_ports_can_be_shared() {
    let _alone = alone();
    let pair = Pair::start();
    let Host { viewers, brokers, .. } = pair.host;
    let ports = format!("websocket_uri: [127.0.0.1, {viewers}]\nzeromq_uri: [127.0.0.1, {brokers}]\nuser: nobody\n");
    let (_directory, path) = common::temporary("c.yml", format!("{ports}{SHARED}"));
    let output = common::run(&["check", "-c", path.to_str().expect("UTF-8")]);
    let out = String::from_utf8_lossy(&output.stdout);
    for (key, port) in [("websocket_uri", viewers), ("zeromq_uri", brokers)] {
        assert!(out.contains(&format!("ok      {key}: 127.0.0.1:{port} can be bound and shared")), "{out}");
    }
}
