//! The end of a connection and of its TLS session.

use super::{Server, tasks, texts};
use crate::common::viewer::{Session, upgrade_request};
use crate::common::{Broker, DEADLINE, Event, command, task, unique, until};
use std::io::{Read, Write};
use tokio_rustls::rustls::version::{TLS12, TLS13};

#[test]
fn a_finished_job_is_closed_1000_and_the_session_ended() {
    let server = Server::start("");
    let broker = Broker::connect(server.monitor.brokers);
    for version in [&TLS13, &TLS12] {
        let channel = unique("job");
        let mut viewer = server.by(version).upgrade(&[]).subscribe(&channel);
        broker.send(&[channel.as_str(), "FINISHED"]);
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
        assert!(viewer.was_told);
    }
}

#[test]
fn a_viewers_close_is_answered_and_the_session_ended() {
    let server = Server::start("");
    for mut viewer in [server.upgraded(), server.subscribed("job")] {
        viewer.send_close(1000);
        assert_eq!(viewer.next(), Event::Close(Some(1000)));
        assert_eq!(viewer.next(), Event::Gone);
        assert!(viewer.was_told);
    }
}

#[test]
fn a_health_check_is_answered_also_where_viewers_are_all() {
    let server = Server::start("clients: {max: 1}\n");
    let ask = |request: &[u8]| {
        let mut client = server.connected().secured(&server.trust);
        client.send_raw(request);
        String::from_utf8(client.raw_to_end()).expect("answers are text")
    };
    assert!(ask(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").ends_with("\r\n\r\nok\n"));
    let _viewer = server.watch("job");
    assert!(ask(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").ends_with("\r\n\r\nok\n"));
    assert!(ask(upgrade_request("/").as_bytes()).starts_with("HTTP/1.1 503 "));
}

/// There is one permit, so the next viewer shows that the previous one has disconnected.
#[test]
fn who_goes_in_any_way_makes_room_for_the_next() {
    let server = Server::start("clients: {max: 1}\nlogger: {level: info}\n");
    let next = || {
        until("there is room", || {
            let mut viewer = server.connected().try_secured(&server.trust).ok()?;
            viewer.try_send_raw(upgrade_request("/").as_bytes()).ok()?;
            viewer.upgrade_or_end()?;
            Some(viewer.subscribe("job"))
        })
    };
    drop(next());

    // It only says, by TCP, that it sends nothing more.
    let mut half = next();
    half.shut_sending();
    half.rest();
    drop(half);

    // It only says so by TLS, and keeps the connection.
    let mut told = next();
    told.session().conn.send_close_notify();
    told.send_raw(b"");
    let Session { conn, sock } = told.session();
    conn.complete_io(sock).expect("the monitor reads");
    told.rest();

    // A reset.
    let reset = next().into_session().sock;
    nix::sys::socket::setsockopt(
        &reset,
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger { l_onoff: 1, l_linger: 0 },
    )
    .expect("a TCP socket");
    drop(reset);

    // A session that is broken by what is no record of it.
    let mut broken = next();
    broken
        .session()
        .sock
        .write_all(&[0x17, 3, 3, 0, 32, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9])
        .expect("it reads");
    broken.session().sock.write_all(&[9; 16]).expect("it reads");
    let told = broken.session().read(&mut [0; 100]).expect_err("an alert was to come");
    assert!(told.to_string().contains("fatal alert"), "{told}");
    next();
    let lines = server.monitor.logged(&["panicked"]);
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn a_stop_closes_viewers_over_tls_1001_and_ends_their_sessions() {
    let mut server = Server::start("");
    let broker = Broker::connect(server.monitor.brokers);
    let ids: Vec<_> = (0..100).map(|i| format!("{i} {}", "x".repeat(50_000))).collect();
    tasks(&broker, "big", &ids);
    server.fence(&broker);
    let mut slow = server.connected().with_buffer(131_072).secured(&server.trust).upgrade(&[]);
    slow.send_text("big");
    assert_eq!(slow.text(), task(&ids[0], "COMPLETED"));
    let mut subscribed = server.subscribed("job");
    let mut naming = server.upgraded();
    naming.send_frame(0x89, b"read?");
    assert_eq!(naming.next(), Event::Pong(b"read?".to_vec()));
    let mut requesting = server.secured();
    let mut silent = server.connected();
    server.fence(&broker); // so that those before it are accepted
    server.monitor.signal("TERM");
    for viewer in [&mut subscribed, &mut naming] {
        viewer.is_ended_with(1001);
        assert!(viewer.was_told);
    }
    assert!(requesting.is_gone_within(DEADLINE) && silent.is_gone_within(DEADLINE));
    slow.texts(&texts(&ids[1..]));
    slow.is_ended_with(1001);
    assert!(slow.was_told);
    assert_eq!(server.monitor.wait_exit().code(), Some(0));
}
