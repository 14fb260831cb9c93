//! A state that is damaged, hostile or missing.

use super::{pair, state, takes_over, takes_over_at};
use crate::alone;
use crate::common::{Event, Manager, Viewer, until};
use crate::saved_history::{list_of, saved_stream};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use recodex_monitor::internals::peer::Peer;
use recodex_monitor::internals::snapshot::state::{Lifecycle, Run, Stage, State, Viewer as Left};
use socket2::SockRef;
use std::borrow::Cow;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

/// The viewers are known by their port, and nearly all of them are between two frames.
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

/// The lengths in a state are checked before memory is taken for them.
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
        origin: None,
    };
    let runs = (0..1_600_000).map(draining).collect();
    // 3 bytes each take 56 in memory.
    let waiting = saved_stream([&list_of(4_000_000, &[1, 0, 0]), &[0], &[0], &[0]]);
    let nobody = Left { cookie: 1, peer: Peer::Unix, stage: Stage::Naming, received: b"".into(), unsent: b"".into() };
    let of = |runs, viewers: Vec<Left<'_>>| {
        let (links, viewers) = (Cow::default(), viewers.into());
        let state = State {
            version: "0".into(),
            written: 0,
            uptime: 0,
            history_file: None,
            runs,
            links,
            viewers,
            stream: None,
        };
        state.encode().expect("there is memory")
    };
    let (server, _client) = pair();
    let cookie = SockRef::from(&server).cookie().expect("Linux has them");
    let long = Left { cookie, received: vec![0; 2 << 20].into(), ..nobody.clone() };
    for (sockets, bytes, said) in [
        (&[][..], of(runs, Vec::new()), "took over 0 viewers, 0 brokers and 0 channels"),
        (&[&server], of(Vec::new(), vec![nobody; 1_600_000]), "more connections than came with it"),
        (&[&server], of(Vec::new(), vec![long]), "more of a viewer than can wait"),
        (&[], waiting, "its part for the cluster is too large"),
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
