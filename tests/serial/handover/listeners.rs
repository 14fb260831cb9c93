//! Listening sockets, Unix sockets and the PROXY protocol.

use super::{Service, pair};
use crate::common::http::{STATUS, ask_unix, wait_viewers};
use crate::common::viewer::{V2, proxy_header, upgrade_request, upgrade_request_with};
use crate::common::{self, Broker, DEADLINE, Host, Manager, Monitor, Viewer, command, unique, until};
use crate::{alone, ids};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

/// Keeps two listening sockets of a process that has ended. Returns their addresses.
fn left_listening(manager: &Manager) -> [SocketAddr; 2] {
    ["listener-0-0", "listener-0-1"].map(|name| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
        let at = listener.local_addr().expect("it is bound");
        manager.keep(name, listener.into());
        at
    })
}

#[test]
fn who_connects_between_two_processes_is_served_by_the_second() {
    let _alone = alone();
    let manager = Manager::new();
    let [viewers, brokers] = left_listening(&manager);
    let early = TcpStream::connect(viewers).expect("somebody listens");
    let host = Host { viewers: viewers.port(), brokers: brokers.port(), ..Host::default() };
    let monitor = manager.starts_at(host, &[], "");
    assert_eq!((monitor.viewers, monitor.brokers), (viewers, brokers));
    let mut viewer = Viewer::of(early);
    viewer.send_raw(upgrade_request("/").as_bytes());
    viewer.read_upgrade();
    viewer.send_text("early");
    Broker::connect(brokers).task("early", "1");
    viewer.texts(&ids(1, 2));
    assert!(["listener-1-0", "listener-1-1"].iter().all(|name| manager.names().contains(&(*name).into())));
}

#[test]
fn a_listening_socket_that_is_no_longer_configured_is_closed() {
    let _alone = alone();
    let manager = Manager::new();
    let [viewers, brokers] = left_listening(&manager);
    let monitor = manager.starts_at(Host { brokers: brokers.port(), ..Host::default() }, &[], "");
    assert_eq!(monitor.brokers, brokers);
    assert_ne!(monitor.viewers, viewers);
    until("nobody listens there", || TcpStream::connect(viewers).is_err().then_some(()));
}

#[test]
fn a_listening_socket_at_one_address_makes_way_for_one_at_all() {
    let _alone = alone();
    let manager = Manager::new();
    let [viewers, brokers] = left_listening(&manager);
    let host = Host { name: "*", viewers: viewers.port(), brokers: brokers.port() };
    let monitor = manager.starts_at(host, &[], "");
    assert_eq!(monitor.viewers.port(), viewers.port());
    until("the older one is gone", || (manager.names().len() == 2).then_some(()));
    drop(Viewer::subscribed(viewers, "job"));
}

#[test]
fn a_second_monitor_at_the_same_address_is_refused_as_ever() {
    let _alone = alone();
    let mut service = Service::start("");
    service.restart();
    let [viewers, brokers] = [service.monitor.viewers.port(), service.monitor.brokers.port()];
    let text = format!("websocket_uri: [127.0.0.1, {viewers}]\nzeromq_uri: [127.0.0.1, {brokers}]\nuser: nobody\n");
    let (_directory, path) = common::temporary("config.yml", text);
    let output = common::run(&["-c", path.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_handed_over_and_cannot_be_used_is_closed() {
    let _alone = alone();
    let manager = Manager::new();
    let (server, mut other) = pair();
    manager.keep("stored", server.into());
    manager.keep("null", std::fs::File::open("/dev/null").expect("it is always there").into());
    let monitor = manager.starts(&[], "");
    until("the manager lets go", || (manager.names().len() == 2).then_some(()));
    assert!(other.is_gone_within(DEADLINE));
    assert_eq!(monitor.logged(&["WARNING", "it is no listening socket"]).len(), 2);
}

#[test]
fn a_restart_keeps_those_behind_a_unix_socket_their_names_and_who_waits() {
    let _alone = alone();
    let directory = common::open_directory();
    let path = directory.path().join("monitor.sock");
    let config = "logger: {level: debug}\ntrusted_proxies: [\"unix:\"]\nclients: {max_per_address: 1}\n";
    let config = format!("{STATUS}{config}");
    let manager = Manager::new();
    let start = || Monitor::start_unix_with(&manager.descriptors(), &manager.wrapper(&[]), &path, &config);
    let mut monitor = start();
    let mut viewer = Viewer::connected_to(&path).upgrade(&[("X-Forwarded-For", "192.0.2.1")]).subscribe("job");
    for _ in 0..3 {
        monitor.signal("USR2");
        assert_eq!(monitor.wait_exit().code(), Some(0));
        // Nobody listens now, and yet it can be connected to.
        let mut waiting = Viewer::connected_to(&path);
        waiting.send_raw(upgrade_request("/").as_bytes());
        monitor = start();
        monitor.wait_log("took over 1 viewers");
        waiting.read_upgrade();
        assert!(path.exists());
        // Its share is taken still.
        let answer = Viewer::connected_to(&path).refused(&[("X-Forwarded-For", "192.0.2.1")]);
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
        drop(waiting);
        wait_viewers(&monitor, 1);
        until("the manager lets go of what is over", || (manager.names().len() == 3).then_some(()));
    }
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["job", "FINISHED"]);
    viewer.texts(&[command("FINISHED")]);
    viewer.closes(1000);
    monitor.wait_logged(&["viewer 192.0.2.1 left"]);
}

#[test]
fn a_restart_keeps_a_status_request_that_waits_at_a_unix_socket() {
    let _alone = alone();
    let directory = common::open_directory();
    let [viewers, status] = ["monitor.sock", "status.sock"].map(|name| directory.path().join(name));
    let config = format!("status_uri: 'unix:{}'\n", status.display());
    let manager = Manager::new();
    let start = || Monitor::start_unix_with(&manager.descriptors(), &manager.wrapper(&[]), &viewers, &config);
    let mut monitor = start();
    let kept = || until("the manager keeps three sockets", || (manager.names().len() == 3).then_some(()));
    for _ in 0..3 {
        kept();
        monitor.signal("USR2");
        assert_eq!(monitor.wait_exit().code(), Some(0));
        // Nobody listens now, and yet it can be connected to.
        let mut waiting = UnixStream::connect(&status).expect("the manager keeps the socket");
        waiting.set_read_timeout(Some(DEADLINE)).expect("a timeout above zero");
        waiting.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("there is room");
        monitor = start();
        let mut answer = String::new();
        waiting.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(ask_unix(&status, "/healthz", "localhost").status, 200);
    }
    kept();
    monitor.stop();
    assert!(!status.exists() && !viewers.exists());
}

#[test]
fn a_restart_in_the_middle_of_a_proxy_header_changes_nothing() {
    let _alone = alone();
    let config = "logger: {level: debug}\nwebsocket_proxy_protocol: true\ntrusted_proxies: [127.0.0.1]\n";
    let config = format!("{STATUS}{config}");
    let manager = Manager::new();
    let mut monitor = manager.starts(&[], &config);
    let header = proxy_header([192, 0, 2, 9], &[]);
    let mut parts: Vec<_> = [0, 1, 15, 16, 20, header.len()]
        .into_iter()
        .map(|sent| {
            let mut viewer = Viewer::connected(monitor.viewers);
            viewer.send_raw(&header[..sent]);
            (sent, viewer)
        })
        .collect();
    wait_viewers(&monitor, 6);
    monitor.signal("USR2");
    assert_eq!(monitor.wait_exit().code(), Some(0));
    monitor = manager.restarts(&monitor, &config);
    monitor.wait_log("took over 6 viewers");
    for (sent, viewer) in &mut parts {
        viewer.send_raw(&header[*sent..]);
        viewer.send_raw(upgrade_request("/").as_bytes());
        viewer.read_upgrade();
        let channel = unique("job");
        viewer.send_text(&channel);
        assert_eq!(monitor.viewer_of(&channel), "192.0.2.9:4711");
    }
}

#[test]
fn a_proxy_that_is_no_longer_trusted_after_a_restart_is_closed_in_the_middle_of_its_header() {
    let _alone = alone();
    let config = |trusted: &str| {
        format!("{STATUS}logger: {{level: debug}}\nwebsocket_proxy_protocol: true\ntrusted_proxies: [{trusted}]\n")
    };
    let mut service = Service::start(&config("127.0.0.1"));
    let header = proxy_header([192, 0, 2, 9], &[]);
    let mut viewer = Viewer::connected(service.monitor.viewers);
    viewer.send_raw(&header[..20]);
    wait_viewers(&service.monitor, 1);
    service.config = config("10.0.0.7");
    service.restart();
    let _ = viewer.try_send_raw(&[&header[20..], upgrade_request("/").as_bytes()].concat());
    assert_eq!(viewer.raw_to_end(), b"");
    service.monitor.wait_logged(&["WARNING", "refused viewer 127.0.0.1:", "trusted_proxies does not name it"]);
}

/// Each viewer has sent a PROXY header and half a request when the process ends. Its other half claims another address.
#[test]
fn a_restart_does_not_forget_that_a_proxy_named_nobody() {
    let _alone = alone();
    let config = "logger: {level: debug}\nwebsocket_proxy_protocol: true\ntrusted_proxies: [127.0.0.1, 10.0.0.7]\n\
                  clients: {max_per_address: 3, handshake_timeout: 60}\n";
    let mut service = Service::start(&format!("{STATUS}{config}"));
    let headers = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        [V2, &[0x20, 0x00, 0, 0]].concat(),
        proxy_header([127, 0, 0, 1], &[]),
        proxy_header([192, 0, 2, 9], &[]),
        proxy_header([10, 0, 0, 7], &[]),
    ];
    let names = ["127.0.0.1:", "127.0.0.1:", "127.0.0.1:", "192.0.2.9:4711", "203.0.113.7"];
    let request = upgrade_request_with("/", &[("X-Forwarded-For", "203.0.113.7")]);
    let (first, rest) = request.as_bytes().split_at(30);
    let mut viewers: Vec<_> = headers
        .iter()
        .map(|header| {
            let mut viewer = Viewer::connected(service.monitor.viewers);
            viewer.send_raw(&[header, first].concat());
            viewer
        })
        .collect();
    // Whoever comes later is answered after these have been read. More than one restart: it must be handed on, too.
    for _ in 0..2 {
        for _ in 0..2 {
            let mut later = Viewer::connected(service.monitor.viewers);
            later.send_raw(&[&proxy_header([192, 0, 2, 50], &[]), request.as_bytes()].concat());
            later.read_upgrade();
        }
        // The three whom the proxy does not name have its own share.
        let mut fourth = Viewer::connected(service.monitor.viewers);
        let _ = fourth.try_send_raw(&[&headers[0], request.as_bytes()].concat());
        assert!(fourth.raw_to_end().starts_with(b"HTTP/1.1 429 "));
        wait_viewers(&service.monitor, 5);
        service.restart();
    }
    for (viewer, name) in viewers.iter_mut().zip(names) {
        viewer.send_raw(rest);
        viewer.read_upgrade();
        let channel = unique("job");
        viewer.send_text(&channel);
        assert!(service.monitor.viewer_of(&channel).starts_with(name), "{name}");
    }
}
