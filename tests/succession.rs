//! What a process gets from the one before it, through the service manager: listening sockets, connections, history.

#![allow(missing_docs)]

mod common;

use common::viewer::{V2, frame, proxy_header, upgrade_request, upgrade_request_with};
use common::zmtp::{self, greeted, ready};
use common::{Broker, DEADLINE, Event, Host, Manager, Monitor, RawPeer, Viewer, command, fence, task, unique, until};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use recodex_monitor::peer::Peer;
use recodex_monitor::snapshot::state::Lifecycle;
use recodex_monitor::snapshot::state::{Run, Stage, State, Viewer as Left};
use socket2::SockRef;
use std::borrow::Cow;
use std::fs::File;
use std::io::{IoSlice, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One test at a time: a child of another, on its way from fork to exec, would hold sockets that have to be closed.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A monitor under a manager, which can be restarted.
struct Service {
    manager: Manager,
    monitor: Monitor,
    config: String,
}

impl Service {
    fn start(config: &str) -> Self {
        let manager = Manager::new();
        let monitor = manager.starts(&[], config);
        Self { manager, monitor, config: config.to_owned() }
    }

    /// Ends the process as for a restart.
    fn ends(&mut self) {
        self.monitor.signal("USR2");
        assert_eq!(self.monitor.wait_exit().code(), Some(0));
    }

    fn begins(&mut self) {
        self.monitor = self.manager.restarts(&self.monitor, &self.config);
    }

    fn restart(&mut self) {
        self.ends();
        assert!(self.manager.names().contains(&"succession".into()), "{:?}", self.manager.names());
        self.begins();
        self.monitor.wait_log("took over");
        until("the manager lets go", || (!self.manager.names().contains(&"succession".into())).then_some(()));
    }
}

fn ids(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|i| task(&i.to_string(), "COMPLETED")).collect()
}

fn tasks(broker: &Broker, channel: &str, from: usize, to: usize) {
    for i in from..to {
        broker.task(channel, &i.to_string());
    }
}

#[test]
fn viewers_and_a_broker_notice_nothing_of_restarts() {
    let _alone = alone();
    let mut service = Service::start("");
    let broker = Broker::connect(service.monitor.brokers);
    let events = broker.events();
    let mut viewers: Vec<_> =
        (0..20).map(|i| Viewer::subscribed(service.monitor.viewers, &format!("job {}", i % 4))).collect();
    for round in 0..5 {
        for job in 0..4 {
            tasks(&broker, &format!("job {job}"), round * 10, round * 10 + 10);
        }
        // Some before they are delivered, some after.
        if round % 2 == 0 {
            fence(&service.monitor, &broker);
        }
        service.restart();
    }
    assert_eq!(service.monitor.logged(&["took over 20 viewers, 1 brokers"]).len(), 1);
    assert_eq!(service.monitor.logged(&["broker", "connected"]).len(), 0);
    for job in 0..4 {
        broker.send(&[&format!("job {job}")[..], "FINISHED"]);
    }
    for viewer in &mut viewers {
        viewer.texts(&ids(0, 50));
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
    }
    while let Some(event) = events.next(0) {
        assert_ne!(event, zmq::SocketEvent::DISCONNECTED);
    }
}

#[test]
fn history_is_kept_and_its_time_runs_on() {
    let _alone = alone();
    let mut service = Service::start("history: {release_failed: 2}");
    let broker = Broker::connect(service.monitor.brokers);
    tasks(&broker, "open", 0, 100);
    tasks(&broker, "finished", 0, 3);
    broker.send(&["finished", "FINISHED"]);
    broker.send(&["failed", "FAILED"]);
    fence(&service.monitor, &broker);
    let mut failed = Viewer::watch(service.monitor.viewers, "failed");
    failed.texts(&[command("FAILED")]);
    service.restart();
    let mut late = Viewer::watch(service.monitor.viewers, "finished");
    late.texts(&ids(0, 3));
    late.texts(&[command("FINISHED")]);
    late.closes(1000);
    failed.texts(&[command("FINISHED")]);
    failed.closes(1000);
    let mut late = Viewer::watch(service.monitor.viewers, "open");
    late.texts(&ids(0, 100));
    service.config = "history: {finished: 1}".into();
    service.restart();
    until("what has finished goes", || {
        let mut viewer = Viewer::watch(service.monitor.viewers, "finished");
        viewer.next_within(Duration::from_millis(50)).is_none().then_some(())
    });
}

#[test]
fn messages_that_come_while_it_restarts_arrive_once_and_in_order() {
    const MESSAGES: usize = 20_000;
    let _alone = alone();
    let mut service = Service::start("");
    let brokers = service.monitor.brokers;
    let mut viewers: Vec<_> = (0..4).map(|_| Viewer::subscribed(service.monitor.viewers, "job")).collect();
    let broker = std::thread::spawn(move || {
        let broker = Broker::connect(brokers);
        tasks(&broker, "job", 0, MESSAGES);
        broker
    });
    let readers: Vec<_> = viewers
        .drain(..)
        .map(|mut viewer| {
            std::thread::spawn(move || {
                viewer.texts(&ids(0, MESSAGES));
                viewer
            })
        })
        .collect();
    let mut restarts = 0;
    while !broker.is_finished() || restarts < 3 {
        service.restart();
        restarts += 1;
    }
    let broker = broker.join().expect("it could send");
    broker.send(&["job", "FINISHED"]);
    for reader in readers {
        let mut viewer = reader.join().expect("everything came");
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
    }
}

#[test]
fn a_viewer_in_the_middle_of_a_frame_gets_the_rest_of_it() {
    let _alone = alone();
    let mut service = Service::start("");
    let broker = Broker::connect(service.monitor.brokers);
    let mut slow = Viewer::subscribed_with_small_buffer(service.monitor.viewers, "job");
    // Far more than the kernel takes for it.
    let long = |i: usize| format!("{i} {}", "x".repeat(60_000));
    for i in 0..200 {
        broker.task("job", &long(i));
    }
    fence(&service.monitor, &broker);
    for i in 0..200 {
        if i % 50 == 0 {
            service.restart();
        }
        assert_eq!(slow.text(), task(&long(i), "COMPLETED"));
    }
    broker.send(&["job", "FINISHED"]);
    slow.texts(&[command("FINISHED")]);
    slow.closes(1000);
}

#[test]
fn what_a_viewer_has_sent_in_part_it_may_go_on_with() {
    let _alone = alone();
    let mut service = Service::start("");
    let broker = Broker::connect(service.monitor.brokers);
    let at = service.monitor.viewers;
    let ping = frame(0x89, b"here?");
    for cut in 0..ping.len() {
        let mut viewer = Viewer::subscribed(at, "job");
        viewer.send_raw(&frame(0x8a, b"")); // not the first that it sends
        viewer.send_raw(&ping[..cut]);
        let mut fragments = Viewer::subscribed(at, "job");
        fragments.send_frame(0x01, b"not ");
        fragments.send_frame(0x89, b"read?");
        assert_eq!(fragments.next(), Event::Pong(b"read?".to_vec()));
        service.restart();
        viewer.send_raw(&ping[cut..]);
        assert_eq!(viewer.next(), Event::Pong(b"here?".to_vec()), "cut at {cut}");
        fragments.send_frame(0x80, b"heard");
        fragments.send_frame(0x89, b"still?");
        assert_eq!(fragments.next(), Event::Pong(b"still?".to_vec()));
        fragments.send_frame(0x80, b"");
        fragments.closes(1002);
    }
    let channel = unique("job");
    let mut viewer = Viewer::subscribed(at, &channel);
    broker.task(&channel, "1");
    viewer.texts(&ids(1, 2));
}

#[test]
fn a_handshake_that_is_half_done_goes_on() {
    let _alone = alone();
    let mut service = Service::start("");
    let at = service.monitor.viewers;
    let broker = Broker::connect(service.monitor.brokers);
    broker.task("job", "1");
    fence(&service.monitor, &broker);
    let request = upgrade_request("/");
    let name = frame(0x81, b"job");
    for part in [0, 1, 20, request.len() - 1] {
        let mut requesting = Viewer::connected(at);
        requesting.send_raw(&request.as_bytes()[..part]);
        let mut naming = Viewer::upgraded(at);
        naming.send_raw(&name[..part.min(name.len() - 1)]);
        let mut silent = Viewer::upgraded(at);
        // Who comes after them is served after them.
        drop(Viewer::subscribed(at, "fence"));
        service.restart();
        requesting.send_raw(&request.as_bytes()[part..]);
        requesting.read_upgrade();
        requesting.send_raw(&name);
        naming.send_raw(&name[part.min(name.len() - 1)..]);
        silent.send_raw(&name);
        for viewer in [&mut requesting, &mut naming, &mut silent] {
            viewer.texts(&ids(1, 2));
        }
    }
}

#[test]
fn a_channel_id_in_fragments_is_the_one_thing_that_does_not_go_on() {
    let _alone = alone();
    let mut service = Service::start("");
    let mut viewer = Viewer::upgraded(service.monitor.viewers);
    viewer.send_frame(0x01, b"jo");
    viewer.send_frame(0x89, b"read?");
    assert_eq!(viewer.next(), Event::Pong(b"read?".to_vec()));
    service.restart();
    viewer.is_ended_with(1001);
}

#[test]
fn who_is_being_closed_gets_nothing_more_and_goes() {
    let _alone = alone();
    let mut service = Service::start("");
    let broker = Broker::connect(service.monitor.brokers);
    let mut viewer = Viewer::subscribed(service.monitor.viewers, "job");
    let mut bad = Viewer::subscribed(service.monitor.viewers, "job");
    bad.send_raw(&[0xff, 0x80, 0, 0, 0, 0]);
    assert_eq!(bad.next(), Event::Close(Some(1002)));
    broker.send(&["job", "FINISHED"]);
    viewer.texts(&[command("FINISHED")]);
    assert_eq!(viewer.next(), Event::Close(Some(1000)));
    broker.send(&["job", "STARTED"]);
    broker.task("job", "of the next run");
    fence(&service.monitor, &broker);
    service.restart();
    // The server waits for the answer, as before.
    viewer.is_silent_for(Duration::from_millis(100));
    viewer.send_close(1000);
    bad.send_close(1000);
    assert_eq!((viewer.next(), bad.next()), (Event::Gone, Event::Gone));
}

#[test]
fn a_broker_may_be_anywhere_in_its_handshake_or_a_message() {
    let _alone = alone();
    let mut service = Service::start("");
    let whole = |job: &str| {
        [
            greeted(&ready(&[("Socket-Type", b"DEALER")])),
            zmtp::message(&[job, "TASK", "1", "COMPLETED"]),
            zmtp::frame(0x01, job.as_bytes()),
            zmtp::command("PING", &[0, 0, b'!']),
            zmtp::frame(0x01, b"TASK"),
            zmtp::frame(0x01, b"2"),
            zmtp::frame(0x00, b"COMPLETED"),
        ]
        .concat()
    };
    // Each byte costs a restart; every third is enough to meet every field.
    for cut in (0..whole("job 100").len()).step_by(3) {
        let job = format!("job {}", 100 + cut);
        let whole = whole(&job);
        let mut peer = RawPeer::connect(service.monitor.brokers);
        // The opening comes once the task runs, so that the link is no longer only in the queue.
        peer.read_greeting();
        assert_eq!(peer.read_command().name, "READY");
        peer.send(&whole[..cut]);
        service.restart();
        peer.send(&whole[cut..]);
        // Once or, if it had been read before the message was whole, twice.
        assert_eq!(peer.read_command().name, "PONG", "cut at {cut}");
        let mut viewer = Viewer::watch(service.monitor.viewers, &job);
        viewer.texts(&ids(1, 3));
        peer.send(&zmtp::message(&[&job[..], "FINISHED"]));
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
    }
}

#[test]
fn how_far_a_peer_was_that_hangs_up_is_known_after_a_restart() {
    let _alone = alone();
    for (bytes, said) in [(10, "before it named its security mechanism"), (64, "after it named the security mechanism")]
    {
        let mut service = Service::start("");
        let mut peer = RawPeer::connect(service.monitor.brokers);
        peer.read_greeting();
        assert_eq!(peer.read_command().name, "READY");
        peer.send(&zmtp::greeting(b"NULL")[..bytes]);
        service.restart();
        peer.shut_sending();
        service.monitor.wait_logged(&["closed the ZeroMQ link", "hung up in its handshake", said]);
    }
}

/// A process of an older version waits for the rest of a request.
#[test]
fn who_speaks_another_protocol_is_known_by_what_the_process_before_has_read() {
    let _alone = alone();
    for (first, said) in [(0xff, "it speaks ZeroMQ"), (0x16, "it speaks TLS")] {
        let (server, mut client) = pair();
        let cookie = SockRef::from(&server).cookie().expect("Linux has them");
        let stage = Stage::Request { unproxied: false };
        let left = Left { cookie, peer: Peer::Unix, stage, received: vec![first].into(), unsent: b"".into() };
        let (_, monitor) = takes_over(&[&server], &state(vec![left]));
        drop(server);
        monitor.wait_logged(&["WARNING", "refused viewer", said]);
        client.raw_to_end();
    }
}

#[test]
fn a_link_with_as_much_of_a_message_as_may_be_is_handed_over_with_all_others() {
    let _alone = alone();
    let mut service = Service::start("");
    let mut viewer = Viewer::subscribed(service.monitor.viewers, "job");
    let mut peer = RawPeer::ready(service.monitor.brokers);
    // A frame, commands without a meaning up to the limit, and of what follows only the beginning of its header.
    let ping = zmtp::command("PING", &[0, 0]);
    let mut bytes = zmtp::frame(0x01, b"job");
    while bytes.len() + ping.len() < 98_304 {
        let length = (98_304 - bytes.len() - ping.len()).min(257) - 2;
        let mut body = vec![b'x'; length];
        body[0] = u8::try_from(length - 1).expect("a short command");
        bytes.extend(zmtp::frame(0x04, &body));
    }
    bytes.extend(ping);
    bytes.extend([0x02, 0, 0, 0, 0, 0, 0, 0]);
    peer.send(&bytes);
    assert_eq!(peer.read_command().name, "PONG");
    service.restart();
    Broker::connect(service.monitor.brokers).task("job", "1");
    viewer.texts(&ids(1, 2));
}

#[test]
fn what_a_broker_sent_before_it_was_reset_is_not_lost() {
    let _alone = alone();
    let mut service = Service::start("");
    let mut viewer = Viewer::subscribed(service.monitor.viewers, "job");
    let mut peer = RawPeer::ready(service.monitor.brokers);
    service.ends();
    peer.send(&zmtp::message(&["job", "TASK", "1", "COMPLETED"]));
    peer.reset();
    service.begins();
    viewer.texts(&ids(1, 2));
}

#[test]
fn settings_that_are_new_hold_for_what_is_taken_over() {
    let _alone = alone();
    let mut service = Service::start("");
    let broker = Broker::connect(service.monitor.brokers);
    tasks(&broker, "job", 0, 10);
    let mut viewers: Vec<_> = (0..3).map(|_| Viewer::watch(service.monitor.viewers, "job")).collect();
    for viewer in &mut viewers {
        viewer.texts(&ids(0, 10));
    }
    let mut peer = RawPeer::ready(service.monitor.brokers);
    service.ends();
    service.config = "clients: {max: 2}\nzeromq: {allow: [10.0.0.0/8]}\nhistory: {channel_messages: 4}".into();
    service.begins();
    service.monitor.wait_log("took over 3 viewers");
    peer.is_closed();
    service.monitor.wait_logged(&["zeromq.allow no longer names it"]);
    assert!(!Viewer::connected(service.monitor.viewers).upgrade_or_refusal(), "there is no place for a fourth");
    service.ends();
    service.config = String::new();
    service.begins();
    tasks(&Broker::connect(service.monitor.brokers), "job", 10, 11);
    for viewer in &mut viewers {
        viewer.texts(&ids(10, 11));
    }
}

#[test]
fn without_a_store_a_restart_closes_as_a_stop_does() {
    let _alone = alone();
    for manager in [Manager::with_room(0), Manager::with_room(2)] {
        let mut monitor = manager.starts(&[], "");
        let mut viewer = Viewer::subscribed(monitor.viewers, "job");
        monitor.signal("USR2");
        viewer.is_ended_with(1001);
        assert_eq!(monitor.wait_exit().code(), Some(0));
        monitor.wait_logged(&["WARNING", "FileDescriptorStoreMax="]);
    }
    let mut monitor = Monitor::start("");
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    monitor.signal("USR2");
    viewer.is_ended_with(1001);
    assert_eq!(monitor.wait_exit().code(), Some(0));
}

#[test]
fn a_stop_closes_under_a_service_manager_too() {
    let _alone = alone();
    let mut service = Service::start("");
    let mut viewer = Viewer::subscribed(service.monitor.viewers, "job");
    service.monitor.signal("TERM");
    viewer.is_ended_with(1001);
    assert_eq!(service.monitor.wait_exit().code(), Some(0));
    assert!(!service.manager.names().contains(&"succession".into()));
}

#[test]
fn viewers_are_told_if_the_next_process_cannot_start() {
    let _alone = alone();
    let mut service = Service::start("");
    let broker = Broker::connect(service.monitor.brokers);
    let at = service.monitor.viewers;
    let mut viewer = Viewer::subscribed(at, "job");
    let mut naming = Viewer::upgraded(at);
    let mut requesting = Viewer::connected(at);
    let mut slow = Viewer::subscribed_with_small_buffer(at, "big");
    for _ in 0..200 {
        broker.task("big", &"x".repeat(60_000));
    }
    fence(&service.monitor, &broker);
    service.ends();
    let wrong = common::temporary("config.yml", "clients: {mux: 1}\n");
    let mut words = service.manager.wrapper(&[]);
    // Without settings a start as root goes on as `recodex`.
    let users = if nix::unistd::geteuid().is_root() {
        let Some(users) = common::Users::new() else { return };
        Some(users)
    } else {
        None
    };
    words.extend(users.iter().flat_map(common::Users::wrapper));
    let status = common::with_descriptors(&mut std::process::Command::new(&words[0]), &service.manager.descriptors())
        .args(&words[1..])
        .args([common::PROGRAM.as_ref(), "-c".as_ref(), wrong.1.as_os_str()])
        .status()
        .expect("it runs");
    assert_eq!(status.code(), Some(78));
    service.manager.forgets();
    viewer.is_ended_with(1001);
    naming.is_ended_with(1001);
    assert!(requesting.is_gone_within(DEADLINE));
    // Whatever it still gets, what it has in part comes first.
    let events = slow.rest();
    let in_order = |event: &Event| matches!(event, Event::Text(_) | Event::Close(Some(1001)) | Event::Cut);
    assert!(events.len() > 1 && events.iter().all(in_order), "{:?}", events.last());
}

/// Puts a state of one's own in the place of what a process left; returns the log line about it.
fn takes_over(sockets: &[&TcpStream], state: &[u8]) -> (String, Monitor) {
    takes_over_at(0, sockets, state)
}

/// The same by a process whose viewers come to this port.
fn takes_over_at(viewers: u16, sockets: &[&TcpStream], state: &[u8]) -> (String, Monitor) {
    let manager = Manager::new();
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("a pair");
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create("state", flags).expect("there is memory"));
    file.write_all(state).expect("there is room");
    let seals = FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK);
    fcntl(&file, seals).expect("it may be sealed");
    let send = |what: u8, fds: &[i32]| {
        let rights = [ControlMessage::ScmRights(fds)];
        sendmsg::<()>(ours.as_raw_fd(), &[IoSlice::new(&[what])], &rights, MsgFlags::empty(), None)
            .expect("there is room");
    };
    send(b's', &sockets.iter().map(|socket| socket.as_raw_fd()).collect::<Vec<_>>());
    send(b'!', &[file.as_raw_fd()]);
    manager.keep("succession", theirs);
    let monitor = manager.starts_at(Host { viewers, ..Host::default() }, &[], "");
    let line = until("it says what it did", || monitor.logged(&["the previous process"]).into_iter().next());
    until("the manager lets go", || manager.names().iter().all(|name| name.starts_with("listener")).then_some(()));
    drop(Viewer::subscribed(monitor.viewers, "job"));
    (line, monitor)
}

fn pair() -> (TcpStream, Viewer) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
    let viewer = Viewer::of(TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens"));
    (listener.accept().expect("somebody connects").0, viewer)
}

/// The viewers' port is known, and nearly all of them are between two frames.
#[test]
fn viewers_are_told_if_the_state_cannot_be_read_and_brokers_are_not() {
    let _alone = alone();
    let ((server, mut viewer), (of_broker, mut broker)) = (pair(), pair());
    let port = server.local_addr().expect("it is connected").port();
    let (line, _monitor) = takes_over_at(port, &[&of_broker, &server], b"none");
    assert!(line.contains("it is no state of a monitor; 2 connections are closed"), "{line}");
    drop((server, of_broker));
    viewer.is_ended_with(1001);
    assert_eq!(broker.raw_to_end(), b"");
}

fn state(viewers: Vec<Left<'_>>) -> Vec<u8> {
    State {
        version: "0".into(),
        written: 0,
        uptime: 0,
        history_file: None,
        runs: Vec::new(),
        links: Cow::default(),
        viewers: viewers.into(),
    }
    .encode()
    .expect("it is small")
}

#[test]
fn a_state_that_cannot_be_used_is_refused_in_one_line_and_its_connections_closed() {
    let _alone = alone();
    let (server, mut client) = pair();
    let cookie = SockRef::from(&server).cookie().expect("Linux has them");
    let naming =
        |cookie| Left { cookie, peer: Peer::Unix, stage: Stage::Naming, received: b"".into(), unsent: b"".into() };
    let good = state(vec![naming(cookie)]);
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    for (bytes, why) in [
        (changed(0, b'x'), "it is no state of a monitor"),
        (changed(8, 200), "its format is 200, expected 3 or 2"),
        (changed(good.len() - 1, 77), "its checksum is wrong"),
        (good[..good.len() - 1].to_vec(), "bytes, expected"),
        (good[..10].to_vec(), "it is no state of a monitor"),
        (Vec::new(), "it is no state of a monitor"),
        (state(vec![naming(cookie + 1)]), "it does not match the sockets"),
        (state(vec![naming(cookie), naming(cookie)]), "more connections than came with it"),
        (state(Vec::new()), "it does not match the sockets"),
    ] {
        let (line, monitor) = takes_over(&[&server], &bytes);
        assert!(line.contains("WARNING") && line.contains(why) && line.contains("1 connections are closed"), "{line}");
        assert_eq!(monitor.logged(&["WARNING"]).len(), 1);
    }
    // The last one that has it is this test.
    let (line, _monitor) = takes_over(&[&server], &good);
    assert!(line.contains("took over 1 viewers"), "{line}");
    client.send_text("job");
    client.send_frame(0x89, b"read?");
    assert_eq!(client.next(), Event::Pong(b"read?".to_vec()));
}

/// What is claimed is looked at before memory is taken for it.
#[test]
fn a_hostile_state_takes_little_memory() {
    let _alone = alone();
    let draining = |_| Run {
        id: "x".into(),
        frames: b"".into(),
        start: 0,
        trimmed: false,
        lifecycle: Lifecycle::Draining,
        since: 0,
        touched: 0,
        failed: None,
        aborted: None,
    };
    let runs = (0..1_600_000).map(draining).collect();
    let nobody = Left { cookie: 1, peer: Peer::Unix, stage: Stage::Naming, received: b"".into(), unsent: b"".into() };
    let of = |runs, viewers: Vec<Left<'_>>| {
        let (links, viewers) = (Cow::default(), viewers.into());
        let state = State { version: "0".into(), written: 0, uptime: 0, history_file: None, runs, links, viewers };
        state.encode().expect("there is memory")
    };
    let (server, _client) = pair();
    let cookie = SockRef::from(&server).cookie().expect("Linux has them");
    let long = Left { cookie, received: vec![0; 2 << 20].into(), ..nobody.clone() };
    for (sockets, bytes, said) in [
        (&[][..], of(runs, Vec::new()), "took over 0 viewers, 0 brokers and 0 channels"),
        (&[&server], of(Vec::new(), vec![nobody; 1_600_000]), "more connections than came with it"),
        (&[&server], of(Vec::new(), vec![long]), "more of a viewer than can wait"),
    ] {
        let (line, monitor) = takes_over(sockets, &bytes);
        assert!(line.contains(said), "{line}");
        let peak = monitor.peak_kib();
        assert!(peak < 64 * 1024, "{said}: {peak} KiB");
    }
}

#[test]
fn a_parcel_that_is_none_is_left_alone() {
    let _alone = alone();
    for descriptor in [
        std::fs::File::open("/dev/null").expect("it is always there").into(),
        OwnedFd::from(TcpListener::bind("127.0.0.1:0").expect("some port is free")),
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("a pair").0,
    ] {
        let manager = Manager::new();
        manager.keep("succession", descriptor);
        let monitor = manager.starts(&[], "");
        drop(Viewer::subscribed(monitor.viewers, "job"));
        until("the manager lets go", || (!manager.names().contains(&"succession".into())).then_some(()));
    }
}

#[test]
fn history_outlives_a_stop_in_a_file() {
    let _alone = alone();
    let directory = common::open_directory();
    let path = directory.path().join("history");
    let config = format!("history: {{state: '{}', release_failed: 1}}", path.display());
    let mut monitor = Monitor::start(&config);
    let broker = Broker::connect(monitor.brokers);
    tasks(&broker, "open", 0, 100);
    broker.send(&["failed", "FAILED"]);
    fence(&monitor, &broker);
    let mut viewer = Viewer::watch(monitor.viewers, "open");
    monitor.stop();
    viewer.texts(&ids(0, 100));
    viewer.is_ended_with(1001);
    let mode = std::fs::metadata(&path).expect("it is saved").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    drop(broker);
    let monitor = Monitor::start(&config);
    monitor.wait_logged(&["took up 3 channels"]);
    assert!(!path.exists(), "it is never taken up twice");
    let broker = Broker::connect(monitor.brokers);
    tasks(&broker, "open", 100, 101);
    Viewer::watch(monitor.viewers, "open").texts(&ids(0, 101));
    Viewer::watch(monitor.viewers, "failed").texts(&[command("FAILED"), command("FINISHED")]);
}

#[test]
fn a_file_is_not_taken_up_beside_what_was_handed_over() {
    let _alone = alone();
    let directory = common::open_directory();
    common::open_up(directory.path());
    let path = directory.path().join("history");
    let mut service = Service::start(&format!("history: {{state: '{}'}}", path.display()));
    let broker = Broker::connect(service.monitor.brokers);
    tasks(&broker, "job", 0, 2);
    let mut viewer = Viewer::watch(service.monitor.viewers, "job");
    viewer.texts(&ids(0, 2));
    std::fs::write(&path, state(Vec::new())).expect("it is ours");
    common::open_up(&path);
    service.restart();
    until("it is removed", || (!path.exists()).then_some(()));
    tasks(&broker, "job", 2, 3);
    viewer.texts(&ids(2, 3));
}

#[test]
fn a_history_that_is_too_old_is_said_and_removed() {
    let _alone = alone();
    let directory = common::open_directory();
    common::open_up(directory.path());
    let path = directory.path().join("history");
    std::fs::write(&path, state(Vec::new())).expect("it is ours");
    common::open_up(&path);
    let monitor = Monitor::start(&format!("history: {{state: '{}'}}", path.display()));
    monitor.wait_logged(&["WARNING", &path.display().to_string(), "s ago, more than history.finished"]);
    assert!(!path.exists());
    let mut monitor = Monitor::start("history: {state: /proc/history}");
    monitor.wait_logged(&["ERROR", "history.state: cannot write /proc/history.new"]);
    monitor.stop();
    monitor.wait_logged(&["ERROR", "history.state: cannot save the history to /proc/history"]);
}

/// As a full disk: the signal that comes with such a write must not end the process before it has told everybody.
#[test]
fn what_is_larger_than_a_file_may_be_is_neither_saved_nor_handed_over_and_said() {
    let _alone = alone();
    let directory = common::open_directory();
    let path = directory.path().join("history");
    let config = format!("history: {{state: '{}'}}", path.display());
    let limit = ["prlimit", "--fsize=1000"];

    let mut monitor = Monitor::start_through(&limit, common::Host::default(), &config);
    tasks(&Broker::connect(monitor.brokers), "job", 0, 100);
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    viewer.texts(&ids(0, 100));
    monitor.signal("TERM");
    viewer.is_ended_with(1001);
    assert_eq!(monitor.wait_exit().code(), Some(0));
    monitor.wait_logged(&["ERROR", "history.state: cannot save the history", "File too large"]);
    assert_eq!(std::fs::read_dir(directory.path()).expect("it is ours").count(), 0);

    let manager = Manager::new();
    let mut monitor = manager.starts(&limit, &config);
    tasks(&Broker::connect(monitor.brokers), "job", 0, 100);
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    viewer.texts(&ids(0, 100));
    monitor.signal("USR2");
    assert_eq!(monitor.wait_exit().code(), Some(0));
    viewer.is_ended_with(1001);
    monitor.wait_logged(&["ERROR", "cannot hand over", "File too large"]);
    assert!(!manager.names().contains(&"succession".into()));
}

/// Two listening sockets of a process that is gone, and where they listen.
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
    let manager = Manager::new();
    let start = || Monitor::start_unix_with(&manager.descriptors(), &manager.wrapper(&[]), &path, config);
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
        until("the others have gone", || {
            monitor.signal("USR1");
            monitor.logged(&["viewers: 1 of"]).first().cloned()
        });
        until("the manager lets go of what is over", || (manager.names().len() == 2).then_some(()));
    }
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["job", "FINISHED"]);
    viewer.texts(&[command("FINISHED")]);
    viewer.closes(1000);
    monitor.wait_logged(&["viewer 192.0.2.1 left"]);
}

#[test]
fn a_restart_in_the_middle_of_a_proxy_header_changes_nothing() {
    let _alone = alone();
    let config = "logger: {level: debug}\nwebsocket_proxy_protocol: true\ntrusted_proxies: [127.0.0.1]\n";
    let manager = Manager::new();
    let mut monitor = manager.starts(&[], config);
    let header = proxy_header([192, 0, 2, 9], &[]);
    let mut parts: Vec<_> = [0, 1, 15, 16, 20, header.len()]
        .into_iter()
        .map(|sent| {
            let mut viewer = Viewer::connected(monitor.viewers);
            viewer.send_raw(&header[..sent]);
            (sent, viewer)
        })
        .collect();
    until("all are there", || {
        monitor.signal("USR1");
        monitor.logged(&["viewers: 6 of"]).first().cloned()
    });
    monitor.signal("USR2");
    assert_eq!(monitor.wait_exit().code(), Some(0));
    monitor = manager.restarts(&monitor, config);
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
        format!("logger: {{level: debug}}\nwebsocket_proxy_protocol: true\ntrusted_proxies: [{trusted}]\n")
    };
    let mut service = Service::start(&config("127.0.0.1"));
    let header = proxy_header([192, 0, 2, 9], &[]);
    let mut viewer = Viewer::connected(service.monitor.viewers);
    viewer.send_raw(&header[..20]);
    until("it is there", || {
        service.monitor.signal("USR1");
        service.monitor.logged(&["viewers: 1 of"]).first().cloned()
    });
    service.config = config("10.0.0.7");
    service.restart();
    let _ = viewer.try_send_raw(&[&header[20..], upgrade_request("/").as_bytes()].concat());
    assert_eq!(viewer.raw_to_end(), b"");
    service.monitor.wait_logged(&["WARNING", "refused viewer 127.0.0.1:", "trusted_proxies does not name it"]);
}

/// Each viewer has sent a PROXY header and half a request when the process ends, and then says that it is somebody else.
#[test]
fn a_restart_does_not_forget_that_a_proxy_named_nobody() {
    let _alone = alone();
    let config = "logger: {level: debug}\nwebsocket_proxy_protocol: true\ntrusted_proxies: [127.0.0.1, 10.0.0.7]\n\
                  clients: {max_per_address: 3, handshake_timeout: 60}\n";
    let mut service = Service::start(config);
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
        until("the others have gone", || {
            service.monitor.signal("USR1");
            service.monitor.logged(&["viewers: 5 of"]).first().cloned()
        });
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
