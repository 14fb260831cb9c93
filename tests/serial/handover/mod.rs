//! The listening sockets, connections and history that a process gets from the previous one, through the service manager.

mod connections;
mod damaged;
mod listeners;
mod quiet;
mod settings;
mod shared_ports;

use crate::common::{Broker, Host, Manager, Monitor, Viewer, until};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use recodex_monitor::internals::snapshot::state::{State, Viewer as Left};
use std::borrow::Cow;
use std::fs::File;
use std::io::{IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

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

fn tasks(broker: &Broker, channel: &str, from: usize, to: usize) {
    for i in from..to {
        broker.task(channel, &i.to_string());
    }
}

/// Starts a process that gets these sockets and this state from a previous one. Returns its log line about them.
fn takes_over(sockets: &[&TcpStream], state: &[u8]) -> (String, Monitor) {
    takes_over_at(0, sockets, state)
}

/// The same for a process with this port for viewers.
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

fn state(viewers: Vec<Left<'_>>) -> Vec<u8> {
    State {
        version: "0".into(),
        written: 0,
        uptime: 0,
        history_file: None,
        runs: Vec::new(),
        links: Cow::default(),
        viewers: viewers.into(),
        stream: None,
    }
    .encode()
    .expect("it is small")
}
