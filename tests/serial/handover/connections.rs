//! Connections at every point of their protocols.

use super::{Service, pair, state, takes_over, tasks};
use crate::common::viewer::{frame, upgrade_request};
use crate::common::zmtp::{self, greeted, ready};
use crate::common::{Broker, Event, RawPeer, Viewer, command, fence, task, unique, until};
use crate::{alone, ids};
use recodex_monitor::internals::peer::Peer;
use recodex_monitor::internals::snapshot::state::{Stage, Viewer as Left};
use socket2::SockRef;
use std::time::Duration;

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
