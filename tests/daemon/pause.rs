//! A process that was paused (SIGSTOP, or a snapshot of the virtual machine): it handles the bytes in its sockets before its
//! deadlines.
//!
//! Each test stops the program before a deadline, lets its peer send, waits until the deadline has passed, and continues the
//! program. Deadlines of a stop and of a restart are in `pause_stop.rs`, those of the commands in `pause_commands.rs`. Every timer
//! of the program is in one of the three, or here:
//!
//! - The status page's time to take an answer (30 s): too long for a pause in a test; a unit test beside it moves the clock.
//! - A listening socket of the previous process is kept for 64 s, too long as well, and a Unix socket that nobody can reach for 1 s.
//!   Both wait by `deadline::timeout`, as the handshakes here do.
//! - A reload waits 30 s for its files: their reader is paused with it, and has the whole time again.
//! - The probe behind `/readyz` (`status/report.rs`) waits for the hub only, in which no time passes in a pause.
//! - Nothing is given up where a timer only begins something: a ping, a sample of the status page, a sign of life for a stream of
//!   events or for the service manager, its status line, a look at the certificate's dates, another try to accept a connection or
//!   to reach the service manager.
//! - The end of the program waits 1 s for the log's thread (`logging/mod.rs`), which reads no socket.

use crate::common;

use common::http::{STATUS, answer, connect, get, status};
use common::pause::{FAR_OVER, OVER, Pause, arrived, has_all, in_time, paused};
use common::viewer::{frame, proxy_header, upgrade_request};
use common::zmtp::{command as zmtp_command, greeted, message, ready};
use common::{Event, Monitor, RawPeer, Viewer, command, open_directory, raise_open_files, task, until};
use rcgen::generate_simple_self_signed;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

fn send(broker: &mut RawPeer, parts: &[&str]) {
    broker.send(&message(parts));
}

fn send_now(broker: &mut RawPeer, parts: &[&str]) {
    send(broker, parts);
    arrived(broker.stream.local_addr().expect("it is connected"));
}

fn say(viewer: &mut Viewer, bytes: &[u8]) {
    viewer.send_raw(bytes);
    arrived(viewer.local_address());
}

fn asks_and_is_answered(peer: &mut RawPeer) {
    peer.send(&zmtp_command("PING", &[0, 0]));
    assert_eq!(peer.read_command().name, "PONG");
}

#[test]
fn a_failed_job_whose_next_message_has_come_is_not_released() {
    in_time(|| {
        let monitor = Monitor::start("history: {release_failed: 3}");
        let mut broker = RawPeer::ready(monitor.brokers);
        let mut viewer = Viewer::subscribed(monitor.viewers, "job");
        let since = Instant::now();
        send(&mut broker, &["job", "FAILED"]);
        viewer.texts(&[command("FAILED")]);
        paused(&monitor, OVER, since, || send_now(&mut broker, &["job", "STARTED"]))?;
        viewer.texts(&[command("STARTED")]);
        send(&mut broker, &["job", "FINISHED"]);
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
        Some(())
    });
}

/// One call of epoll brings 1,024 events, and the broker's is behind those of the viewers.
#[test]
fn a_job_is_not_released_when_two_thousand_viewers_have_sent_before_its_message() {
    in_time(|| {
        raise_open_files();
        let monitor = Monitor::start("history: {release_failed: 3}\nclients: {max: 3000}");
        let mut broker = RawPeer::ready(monitor.brokers);
        let mut viewers: Vec<_> = (0..2_000).map(|_| Viewer::upgraded(monitor.viewers).subscribe("job")).collect();
        send(&mut broker, &["job", "STARTED"]);
        for viewer in &mut viewers {
            viewer.texts(&[command("STARTED")]);
        }
        let since = Instant::now();
        send(&mut broker, &["job", "FAILED"]);
        viewers[0].texts(&[command("FAILED")]);
        paused(&monitor, OVER, since, || {
            for viewer in &mut viewers {
                viewer.send_raw(&frame(0x8A, b""));
            }
            send_now(&mut broker, &["job", "DOWNLOADED"]);
        })?;
        viewers[0].texts(&[command("DOWNLOADED")]);
        viewers[1_999].texts(&[command("FAILED"), command("DOWNLOADED")]);
        Some(())
    });
}

#[test]
fn finished_history_stays_for_a_viewer_that_has_named_it() {
    in_time(|| {
        let monitor = Monitor::start("history: {finished: 3}");
        let mut broker = RawPeer::ready(monitor.brokers);
        let mut late = Viewer::upgraded(monitor.viewers);
        let mut viewer = Viewer::subscribed(monitor.viewers, "job");
        let since = Instant::now();
        send(&mut broker, &["job", "FINISHED"]);
        viewer.texts(&[command("FINISHED")]);
        paused(&monitor, OVER, since, || say(&mut late, &frame(0x81, b"job")))?;
        late.texts(&[command("FINISHED")]);
        late.closes(1000);
        Some(())
    });
}

#[test]
fn a_viewer_that_has_named_its_channel_is_subscribed() {
    in_time(|| {
        let monitor = Monitor::start("clients: {subscribe_timeout: 3}");
        let mut broker = RawPeer::ready(monitor.brokers);
        send(&mut broker, &["job", "STARTED"]);
        asks_and_is_answered(&mut broker);
        let since = Instant::now();
        let mut viewer = Viewer::upgraded(monitor.viewers);
        paused(&monitor, OVER, since, || say(&mut viewer, &frame(0x81, b"job")))?;
        viewer.texts(&[command("STARTED")]);
        Some(())
    });
}

#[test]
fn two_thousand_viewers_that_have_named_their_channel_are_subscribed() {
    in_time(|| {
        raise_open_files();
        let monitor = Monitor::start("clients: {max: 3000}");
        let mut broker = RawPeer::ready(monitor.brokers);
        send(&mut broker, &["job", "STARTED"]);
        asks_and_is_answered(&mut broker);
        let since = Instant::now();
        let mut viewers: Vec<_> = (0..2_000).map(|_| Viewer::upgraded(monitor.viewers)).collect();
        paused(&monitor, Pause::over(Duration::from_secs(10)), since, || {
            for viewer in &mut viewers {
                viewer.send_text("job");
            }
            for viewer in viewers.iter().step_by(100) {
                arrived(viewer.local_address());
            }
        })?;
        for viewer in &mut viewers {
            viewer.texts(&[command("STARTED")]);
        }
        Some(())
    });
}

#[test]
fn a_request_that_has_come_is_answered() {
    in_time(|| {
        let monitor = Monitor::start("clients: {handshake_timeout: 3}");
        let since = Instant::now();
        let mut viewer = Viewer::connected(monitor.viewers);
        let request = upgrade_request("/");
        let (begin, rest) = request.split_at(20);
        viewer.send_raw(begin.as_bytes());
        // Whoever comes later is served, so that the first was accepted.
        let _later = Viewer::upgraded(monitor.viewers);
        paused(&monitor, OVER, since, || say(&mut viewer, rest.as_bytes()))?;
        viewer.read_upgrade();
        Some(())
    });
}

#[test]
fn a_brokers_handshake_that_has_come_is_taken() {
    in_time(|| {
        let monitor = Monitor::start("zeromq: {handshake_timeout: 3}");
        let since = Instant::now();
        let mut peer = RawPeer::connect(monitor.brokers);
        peer.read_greeting();
        assert_eq!(peer.read_command().name, "READY");
        paused(&monitor, OVER, since, || {
            peer.send(&greeted(&ready(&[("Socket-Type", b"DEALER"), ("Identity", b"")])));
            arrived(peer.stream.local_addr().expect("it is connected"));
        })?;
        asks_and_is_answered(&mut peer);
        Some(())
    });
}

fn pings_and_pauses(pause: Pause, answers: bool) -> Option<()> {
    let monitor = Monitor::start("clients: {ping_interval: 1, ping_timeout: 3}");
    let mut broker = RawPeer::ready(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    let since = Instant::now();
    let asked = viewer.next_within(common::DEADLINE);
    let Some(Event::Ping(payload)) = asked else { panic!("a ping was to come, not {asked:?}") };
    paused(&monitor, pause, since, || {
        if answers {
            say(&mut viewer, &frame(0x8A, &payload));
        }
    })?;
    send(&mut broker, &["job", "STARTED"]);
    viewer.texts(&[command("STARTED")]);
    Some(())
}

#[test]
fn a_viewer_whose_pong_has_come_stays() {
    in_time(|| pings_and_pauses(OVER, true));
}

/// The network may have been paused as well.
#[test]
fn a_viewer_that_could_not_be_heard_over_a_pause_is_asked_again() {
    in_time(|| pings_and_pauses(FAR_OVER, false));
}

#[test]
fn a_status_request_that_has_come_is_answered() {
    in_time(|| {
        let monitor = Monitor::start(STATUS);
        let address = status(&monitor);
        let since = Instant::now();
        let mut stream = connect(address);
        stream.write_all(b"GET /healthz HTTP/1.1\r\n").expect("it is connected");
        // Whoever comes later is served, so that the first was accepted.
        assert_eq!(get(address, "/healthz").status, 200);
        paused(&monitor, Pause::over(Duration::from_secs(5)), since, || {
            stream.write_all(b"Host: localhost\r\n\r\n").expect("it is connected");
            arrived(stream.local_addr().expect("it is connected"));
        })?;
        assert_eq!(answer(stream).status, 200);
        Some(())
    });
}

// Jobs that end by time.

#[test]
fn an_aborted_job_whose_next_message_has_come_is_not_released() {
    in_time(|| {
        let monitor = Monitor::start("history: {release_aborted: 3}");
        let mut broker = RawPeer::ready(monitor.brokers);
        let mut viewer = Viewer::subscribed(monitor.viewers, "job");
        let since = Instant::now();
        send(&mut broker, &["job", "ABORTED"]);
        viewer.texts(&[command("ABORTED")]);
        paused(&monitor, OVER, since, || send_now(&mut broker, &["job", "STARTED"]))?;
        viewer.texts(&[command("STARTED")]);
        Some(())
    });
}

#[test]
fn a_job_that_never_finished_stays_for_a_viewer_that_has_named_it() {
    in_time(|| {
        let monitor = Monitor::start("history: {unfinished: 3}");
        let mut broker = RawPeer::ready(monitor.brokers);
        let mut late = Viewer::upgraded(monitor.viewers);
        let since = Instant::now();
        send(&mut broker, &["job", "STARTED"]);
        asks_and_is_answered(&mut broker);
        paused(&monitor, OVER, since, || say(&mut late, &frame(0x81, b"job")))?;
        late.texts(&[command("STARTED")]);
        Some(())
    });
}

// Handshakes of viewers.

#[test]
fn a_proxy_header_that_has_come_is_taken() {
    in_time(|| {
        let monitor = Monitor::start(
            "websocket_proxy_protocol: true\ntrusted_proxies: [127.0.0.1]\nlogger: {level: debug}\nclients: {handshake_timeout: 3}",
        );
        let header = proxy_header([192, 0, 2, 1], &[]);
        let since = Instant::now();
        let mut viewer = Viewer::connected(monitor.viewers);
        let (begin, rest) = header.split_at(20);
        viewer.send_raw(begin);
        let mut later = Viewer::connected(monitor.viewers);
        later.send_raw(&[&header[..], upgrade_request("/").as_bytes()].concat());
        later.read_upgrade();
        paused(&monitor, OVER, since, || say(&mut viewer, &[rest, upgrade_request("/").as_bytes()].concat()))?;
        viewer.read_upgrade();
        drop(viewer.subscribe("job"));
        assert!(monitor.viewer_of("job").starts_with("192.0.2.1:"));
        Some(())
    });
}

/// The longest time for a TLS handshake here: a debug build on a busy machine takes more than a second.
const TLS: Duration = Duration::from_secs(8);

/// A client's end of TLS, whose steps are made one by one.
struct Tls {
    session: ClientConnection,
    tcp: TcpStream,
}

impl Tls {
    /// A monitor over TLS, and what a client needs that trusts it.
    fn monitor() -> (Monitor, Arc<ClientConfig>, tempfile::TempDir) {
        let own = generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("there is randomness");
        let directory = open_directory();
        let [certificate, key] = ["certificate", "key"].map(|name| directory.path().join(name));
        std::fs::write(&certificate, own.cert.pem()).expect("it is ours");
        std::fs::write(&key, own.signing_key.serialize_pem()).expect("it is ours");
        let files = format!("certificate: '{}', key: '{}'", certificate.display(), key.display());
        let monitor = Monitor::start(&format!("tls: {{{files}}}\nclients: {{handshake_timeout: {}}}", TLS.as_secs()));
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).expect("a certificate");
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("they are known");
        (monitor, Arc::new(builder.with_root_certificates(roots).with_no_client_auth()), directory)
    }

    fn connect(monitor: &Monitor, config: &Arc<ClientConfig>) -> Self {
        let tcp = TcpStream::connect(monitor.viewers).expect("it listens");
        tcp.set_nodelay(true).expect("a TCP socket");
        tcp.set_read_timeout(Some(common::DEADLINE)).expect("a timeout above zero");
        let name = monitor.viewers.ip().into();
        let session = ClientConnection::new(Arc::clone(config), name).expect("a usable configuration");
        Self { session, tcp }
    }

    /// Returns the bytes that it has to send now.
    fn next(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut bytes).expect("memory takes it");
        }
        bytes
    }

    fn send(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).expect("the monitor reads");
        arrived(self.tcp.local_addr().expect("it is connected"));
    }

    /// Reads the monitor's part of the handshake; `None` if it has closed.
    fn shake(&mut self) -> Option<()> {
        while self.session.is_handshaking() && !self.session.wants_write() {
            if self.session.read_tls(&mut self.tcp).expect("an answer in time") == 0 {
                return None;
            }
            self.session.process_new_packets().expect("a handshake");
        }
        Some(())
    }

    fn reads_upgrade(self) {
        let mut head = [0; 12];
        StreamOwned::new(self.session, self.tcp).read_exact(&mut head).expect("an answer in time");
        assert_eq!(&head, b"HTTP/1.1 101");
    }
}

/// The last of its two steps, with which its request comes.
#[test]
fn a_tls_handshake_that_has_come_is_taken() {
    in_time(|| {
        let (monitor, config, _directory) = Tls::monitor();
        let since = Instant::now();
        let mut viewer = Tls::connect(&monitor, &config);
        let hello = viewer.next();
        viewer.send(&hello);
        viewer.shake()?;
        viewer.session.writer().write_all(upgrade_request("/").as_bytes()).expect("there is room");
        let rest = viewer.next();
        paused(&monitor, Pause::over(TLS), since, || viewer.send(&rest))?;
        viewer.reads_upgrade();
        Some(())
    });
}

/// The first step, which is answered after the pause: the rest of the handshake has the whole time again.
#[test]
fn a_tls_handshake_that_could_not_go_on_over_a_pause_goes_on() {
    in_time(|| {
        let (monitor, config, _directory) = Tls::monitor();
        let since = Instant::now();
        let mut viewer = Tls::connect(&monitor, &config);
        let hello = viewer.next();
        viewer.send(&hello[..20]);
        // Whoever comes later is served, so that the first was accepted.
        let _later = Viewer::connected(monitor.viewers).secured(&config);
        paused(&monitor, Pause::far_over(TLS), since, || viewer.send(&hello[20..]))?;
        viewer.shake().expect("it goes on");
        viewer.session.writer().write_all(upgrade_request("/").as_bytes()).expect("there is room");
        let rest = viewer.next();
        viewer.send(&rest);
        viewer.reads_upgrade();
        Some(())
    });
}

/// A connection that is closed with bytes unread is reset, which may overtake the answer.
#[test]
fn what_a_refused_client_has_sent_is_read_before_it_is_closed() {
    in_time(|| {
        let monitor = Monitor::start("logger: {level: debug}");
        let mut client = TcpStream::connect(monitor.viewers).expect("it listens");
        client.set_read_timeout(Some(common::DEADLINE)).expect("a timeout above zero");
        let since = Instant::now();
        client.write_all(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n").expect("it reads");
        let mut told = String::new();
        // It says at once that nothing follows its answer, and goes on reading for a second.
        client.read_to_string(&mut told).expect("an answer, and its end");
        assert!(told.starts_with("HTTP/1.1 426 "), "{told}");
        paused(&monitor, Pause::over(Duration::from_secs(1)), since, || {
            client.write_all(b"body").expect("it is connected");
            arrived(client.local_addr().expect("it is connected"));
        })?;
        // By its refusal, or by its whole time if the machine made the pause much longer.
        monitor.wait_log(" left: ");
        assert!(client.take_error().expect("a socket").is_none(), "it was reset");
        Some(())
    });
}

// Viewers that do not read, and those that close.

const LARGE: usize = 200;

/// A viewer that reads nothing and has more coming than fits on the way.
fn stalled(monitor: &Monitor, broker: &mut RawPeer) -> Viewer {
    let viewer = Viewer::subscribed_with_small_buffer(monitor.viewers, "job");
    for number in 0..LARGE {
        send(broker, &["job", "TASK", &large(number), "COMPLETED"]);
    }
    asks_and_is_answered(broker);
    viewer
}

fn large(number: usize) -> String {
    format!("{number}{}", "x".repeat(8192))
}

/// A viewer that stalls over a pause; then it takes the rest, of which nothing may be missing.
fn stalls_and_pauses(pause: Pause, reads: bool) -> Option<()> {
    let monitor = Monitor::start("clients: {stall_timeout: 3}");
    let mut broker = RawPeer::ready(monitor.brokers);
    let since = Instant::now();
    let mut viewer = stalled(&monitor, &mut broker);
    let mut taken = Vec::new();
    paused(&monitor, pause, since, || {
        if reads {
            until("it has taken all that is on the way", || {
                while let Some(event) = viewer.next_within(Duration::from_millis(10)) {
                    taken.push(event);
                }
                has_all(viewer.local_address()).then_some(())
            });
        }
    })?;
    assert!(taken.len() < LARGE, "it was not stalled");
    taken.extend((taken.len()..LARGE).map(|_| viewer.next()));
    for (number, event) in taken.into_iter().enumerate() {
        assert_eq!(event, Event::Text(task(&large(number), "COMPLETED")), "message {number}");
    }
    Some(())
}

#[test]
fn a_stalled_viewer_that_has_taken_its_bytes_stays() {
    in_time(|| stalls_and_pauses(OVER, true));
}

/// The network may have been paused as well.
#[test]
fn a_viewer_that_took_nothing_over_a_pause_has_its_time_again() {
    in_time(|| stalls_and_pauses(FAR_OVER, false));
}

/// Otherwise the connection would end with a reset, because its answer would be unread.
#[test]
fn a_close_that_was_answered_is_over() {
    in_time(|| {
        let monitor = Monitor::start("logger: {level: debug}");
        let mut broker = RawPeer::ready(monitor.brokers);
        let mut viewer = Viewer::subscribed(monitor.viewers, "job");
        let since = Instant::now();
        send(&mut broker, &["job", "FINISHED"]);
        viewer.texts(&[command("FINISHED")]);
        assert_eq!(viewer.next(), Event::Close(Some(1000)));
        paused(&monitor, Pause::over(Duration::from_secs(5)), since, || {
            say(&mut viewer, &frame(0x88, &1000_u16.to_be_bytes()));
        })?;
        assert_eq!(viewer.next(), Event::Gone);
        monitor.wait_log("left: closed with 1000");
        // Its close would have been given up.
        assert_eq!(monitor.logged(&["viewer ", " is closed: "]), [""; 0]);
        Some(())
    });
}
