//! Restarts of a monitor with TLS.

use super::{Files, LONG, Pair, Server, hello, ids, tasks, texts};
use crate::common::viewer::proxy_header;
use crate::common::{Broker, DEADLINE, Event, Manager, Monitor, Viewer, command, task, unique, until};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: a child of another, on its way from fork to exec, would hold sockets that have to be closed.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_restart_closes_viewers_over_tls_1001_and_the_broker_notices_nothing() {
    let _alone = alone();
    let pair = Pair::ending_in(LONG);
    let files = Files::new(&pair);
    let manager = Manager::new();
    let monitor = manager.starts(&[], &files.keys());
    let mut server = Server { monitor, trust: pair.trust(), pair, files };
    let broker = Broker::connect(server.monitor.brokers);
    let events = broker.events();
    let big: Vec<_> = (0..100).map(|i| format!("{i} {}", "x".repeat(50_000))).collect();
    tasks(&broker, "big", &big);
    for round in 0..3 {
        let mut subscribed: Vec<_> = (0..10).map(|_| server.subscribed("quiet")).collect();
        let mut naming = server.upgraded();
        naming.send_frame(0x89, b"read?");
        assert_eq!(naming.next(), Event::Pong(b"read?".to_vec()));
        let mut requesting = server.secured();
        let mut shaking = server.connected();
        shaking.send_raw(&hello(&server.trust)[..100]);
        let mut slow = server.connected().with_buffer(131_072).secured(&server.trust).upgrade(&[]);
        slow.send_text("big");
        assert_eq!(slow.text(), task(&big[0], "COMPLETED"));
        server.fence(&broker);

        server.monitor.signal("USR2");
        assert_eq!(server.monitor.wait_exit().code(), Some(0));
        for viewer in subscribed.iter_mut().chain([&mut naming]) {
            viewer.is_ended_with(1001);
            assert!(viewer.was_told);
        }
        assert!(requesting.is_gone_within(DEADLINE) && shaking.is_gone_within(DEADLINE));
        // Whatever it still gets is in order, and then it is over.
        let mut rest = slow.rest();
        if let Some(Event::Cut | Event::Close(Some(1001))) = rest.last() {
            rest.pop();
        }
        if rest.last() == Some(&Event::Text(command("FINISHED"))) {
            rest.pop();
        }
        assert!(rest.len() < big.len() - 1, "the kernel took it all; the test proves nothing");
        let rest: Vec<_> = rest
            .into_iter()
            .map(|event| if let Event::Text(text) = event { text } else { panic!("a text was to come: {event:?}") })
            .collect();
        assert!(rest == texts(&big[1..=rest.len()]), "in order");

        broker.task("job", &round.to_string());
        server.monitor = manager.restarts(&server.monitor, &server.files.keys());
        server.monitor.wait_log("took over");
        let mut next = server.watch("job");
        next.texts(&texts(&ids(0, round + 1)));
        drop(next);
    }
    assert_eq!(server.monitor.logged(&["broker", "connected"]).len(), 0);
    while let Some(event) = events.next(0) {
        assert_ne!(event, zmq::SocketEvent::DISCONNECTED);
    }
    server.watch("big").texts(&texts(&big));
}

/// The PROXY header has come and the TLS handshake has not when the process ends.
#[test]
fn a_restart_before_the_handshake_forgets_nothing_of_what_the_proxy_protocol_said() {
    let _alone = alone();
    let pair = Pair::ending_in(LONG);
    let files = Files::new(&pair);
    let config = files.keys()
        + "logger: {level: debug}\nwebsocket_proxy_protocol: true\ntrusted_proxies: [127.0.0.1, 10.0.0.7]\n\
           clients: {max_per_address: 1, handshake_timeout: 60}\n";
    let manager = Manager::new();
    let mut monitor = manager.starts(&[], &config);
    let headers = [
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1:"),
        (proxy_header([192, 0, 2, 9], &[]), "192.0.2.9:4711"),
        (proxy_header([10, 0, 0, 7], &[]), "203.0.113.7"),
    ];
    let viewers = headers.map(|(header, name)| {
        let mut viewer = Viewer::connected(monitor.viewers);
        viewer.send_raw(&header);
        (viewer, name)
    });
    let another = |monitor: &Monitor| {
        let mut another = Viewer::connected(monitor.viewers);
        another.send_raw(b"PROXY UNKNOWN\r\n");
        another.secured(&pair.trust()).refused(&[]).starts_with("HTTP/1.1 429 ")
    };
    for _ in 0..2 {
        // The one that is not named has the proxy's share, also where it was handed over.
        assert!(another(&monitor));
        monitor.signal("USR2");
        assert_eq!(monitor.wait_exit().code(), Some(0));
        monitor = manager.restarts(&monitor, &config);
        monitor.wait_log("took over 3 viewers");
        until("the manager lets go", || (!manager.names().contains(&"succession".into())).then_some(()));
    }
    for (viewer, name) in viewers {
        let channel = unique("job");
        let viewer = viewer.secured(&pair.trust()).upgrade(&[("X-Forwarded-For", "203.0.113.7")]);
        let _viewer = viewer.subscribe(&channel);
        assert!(monitor.viewer_of(&channel).starts_with(name), "{name}");
    }
}
