//! Attacks on the TLS listener.

use super::{Cut, Pair, Scene, Server, hello, ids, texts};
use crate::common::http::STATUS;
use crate::common::viewer::{Session, frame, upgrade_request};
use crate::common::{Broker, DEADLINE, Event, Viewer, noise, raise_open_files, task};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};
use tokio_rustls::rustls::crypto::ring::{ALL_CIPHER_SUITES, cipher_suite};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, ConnectionTrafficSecrets};

/// Ends the threads beside a test even if it fails, because the test waits for them.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn random_bytes_harm_nobody() {
    let mut scene = Scene::new(STATUS);
    let before = scene.descriptors();
    let hello = hello(&scene.server.trust);
    for seed in 0..200 {
        let noise = noise(seed, 400);
        let length = 1 + usize::from(noise[0]);
        let bytes = match seed % 4 {
            0 => noise,
            // In what looks like a handshake.
            1 => [&[0x16, 3, 1, 0, noise[0]], &noise[..]].concat(),
            // In what looks like a hello.
            2 => [&hello[..hello.len().min(length)], &noise[..]].concat(),
            // A hello with a byte changed.
            _ => {
                let mut bytes = hello.clone();
                let at = length % bytes.len();
                bytes[at] ^= noise[1] | 1;
                bytes
            }
        };
        let mut client = scene.server.connected();
        let _ = client.try_send_raw(&bytes);
        if seed % 3 == 0 {
            client.shut_sending();
            client.is_gone_within(DEADLINE);
        }
        if seed % 20 == 0 {
            scene.relays();
        }
    }
    scene.all_have_gone(before);
    assert!(scene.server.refused("tls") > 100);
    scene.is_unharmed();
}

/// In records of 16 KiB, one message of as much as may be said.
#[test]
fn a_hello_without_end_is_not_collected() {
    let mut scene = Scene::new("");
    let record = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("it is short").to_be_bytes();
        [&[0x16, 3, 1], length.as_slice(), bytes].concat()
    };
    let mut client = scene.server.connected();
    let mut sent = client.try_send_raw(&record(&[&[1, 0xFF, 0xFF, 0xFF], [0; 16_000].as_slice()].concat())).map(|()| 0);
    while let Ok(bytes) = sent {
        assert!(bytes < 64 << 20, "still read");
        sent = client.try_send_raw(&record(&[0; 16_000])).map(|()| bytes + 16_000);
    }
    scene.is_unharmed();
}

/// A `ClientHello` with so many bytes more of protocols that a client would speak.
fn talkative(pair: &Pair, bytes: usize) -> Arc<ClientConfig> {
    let mut config = pair.trust_with(ALL_CIPHER_SUITES, &[&TLS12, &TLS13]);
    config.alpn_protocols = vec![vec![b'x'; 255]; bytes / 256];
    config.alpn_protocols.push(b"http/1.1".to_vec());
    Arc::new(config)
}

#[test]
fn a_long_hello_is_read_and_one_over_16_kib_is_not() {
    let mut scene = Scene::new("");
    for bytes in [1500, 2500, 15_000] {
        let trust = talkative(&scene.server.pair, bytes);
        assert!(hello(&trust).len() >= bytes);
        let mut viewer = scene.server.connected().secured(&trust);
        assert_eq!(viewer.session().conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        drop(viewer.upgrade(&[]).subscribe("job"));
    }
    assert!(scene.server.connected().try_secured(&talkative(&scene.server.pair, 17_000)).is_err());
    scene.is_unharmed();
}

#[test]
fn many_long_hellos_that_do_not_end_keep_out_nobody_who_says_less() {
    const SLOW: usize = 2000;
    let mut scene = Scene::new("");
    assert!(raise_open_files() > 2 * SLOW + 200, "too few files may be open for this test");
    let (before, base) = (scene.descriptors(), scene.server.monitor.rss_kib());
    let long = hello(&talkative(&scene.server.pair, 15_000));
    let slow: Vec<_> = (0..SLOW)
        .map(|_| {
            let mut viewer = scene.server.connected();
            viewer.send_raw(&long[..14_000]);
            viewer
        })
        .collect();
    drop(scene.server.subscribed("job"));
    scene.serves_all();
    let rss = scene.server.monitor.rss_kib();
    eprintln!("{base} KiB, then {rss} KiB");
    // All of what they have sent would be more than this, twice.
    assert!(rss < base + 40 * 1024, "{base} KiB, then {rss} KiB");
    drop(slow);
    scene.all_have_gone(before);
}

/// A session of which every record is made here (TLS 1.3, AES-128-GCM).
struct Forger {
    tcp: TcpStream,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Forger {
    const DATA: u8 = 0x17;

    /// Creates a session that has named its channel.
    fn new(pair: &Pair, address: SocketAddr) -> Self {
        let mut config = pair.trust_with(&[cipher_suite::TLS13_AES_128_GCM_SHA256], &[&TLS13]);
        config.enable_secret_extraction = true;
        let viewer = Viewer::connected(address).secured(&Arc::new(config)).upgrade(&[]).subscribe("flooded");
        let Session { conn, sock } = viewer.into_session();
        let (sequence, secrets) = conn.dangerous_extract_secrets().expect("it is allowed").tx;
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { panic!("another cipher: {sequence}") };
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).expect("a key of its length"));
        Self { tcp: sock, key, iv: iv.as_ref().try_into().expect("12 bytes"), sequence }
    }

    /// A record of this type of content, with padding behind it.
    fn record(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut inner = [content, &[kind], vec![0; padding].as_slice()].concat();
        let length = u16::try_from(inner.len() + AES_128_GCM.tag_len()).expect("it is short").to_be_bytes();
        let head = [0x17, 3, 3, length[0], length[1]];
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(head), &mut inner).expect("it is short");
        [head.as_slice(), &inner].concat()
    }

    /// Records, one after another, as one write.
    fn send(&mut self, records: &[(u8, &[u8])]) -> io::Result<()> {
        let bytes: Vec<u8> = records.iter().flat_map(|(kind, content)| self.record(*kind, content, 0)).collect();
        self.tcp.write_all(&bytes)
    }
}

/// Messages are relayed at once while four viewers each do `again`, which sends as many records as it returns, without end.
fn bears<F>(attack: &str, mut viewer: impl FnMut(&Server) -> F)
where
    F: FnMut() -> io::Result<usize> + Send,
{
    const RECORDS: usize = 10_000;
    let mut scene = Scene::new("");
    let before = scene.descriptors();
    let (over, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut longest = Duration::ZERO;
    scope(|scope| {
        let _ends = Ends(&over);
        for _ in 0..4 {
            let mut again = viewer(&scene.server);
            let (over, sent) = (&over, &sent);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    match again() {
                        Ok(count) => sent.fetch_add(count, Ordering::Relaxed),
                        Err(_) => return,
                    };
                }
            });
        }
        let (start, mut messages) = (Instant::now(), 0);
        while messages < 50 || sent.load(Ordering::Relaxed) < RECORDS {
            longest = longest.max(scene.relays());
            messages += 1;
            assert!(start.elapsed() < 3 * DEADLINE, "{attack}: only {sent:?} records were taken");
        }
    });
    eprintln!("{attack}: {longest:?}, {sent:?} records, {} KiB", scene.server.monitor.rss_kib());
    scene.all_have_gone(before);
    scene.is_unharmed();
}

/// Each byte in a record of its own.
fn in_small_records(session: &mut Session, bytes: &[u8]) -> io::Result<usize> {
    for byte in bytes {
        session.conn.writer().write_all(&[*byte])?;
    }
    while session.conn.wants_write() {
        session.conn.write_tls(&mut session.sock)?;
    }
    Ok(bytes.len())
}

#[test]
fn floods_of_small_records_delay_nobody() {
    for version in [&TLS13, &TLS12] {
        bears("small records", |server| {
            let mut session = server.by(version).upgrade(&[]).subscribe("flooded").into_session();
            let pings = frame(0x89, &[7; 100]).repeat(5);
            move || in_small_records(&mut session, &pings)
        });
        bears("small records before the request", |server| {
            let mut session = server.by(version).into_session();
            let mut begun = false;
            move || {
                // Not so much that it would be refused for its length.
                let bytes = if std::mem::replace(&mut begun, true) { &b"x"[..] } else { b"GET / HTTP/1.1\r\nA: " };
                in_small_records(&mut session, bytes)
            }
        });
    }
}

#[test]
fn floods_of_empty_records_delay_nobody() {
    let ping = frame(0x89, b"");
    bears("empty records", |server| {
        let mut forger = Forger::new(&server.pair, server.monitor.viewers);
        let ping = ping.clone();
        move || {
            // More in a row are refused.
            let mut records = vec![(Forger::DATA, &[][..]); 32];
            records.push((Forger::DATA, &ping));
            forger.send(&records).map(|()| records.len())
        }
    });
    bears("records of nothing but padding", |server| {
        let mut forger = Forger::new(&server.pair, server.monitor.viewers);
        let ping = ping.clone();
        move || {
            let padded = forger.record(Forger::DATA, b"", 16_000);
            forger.tcp.write_all(&padded)?;
            forger.send(&[(Forger::DATA, &ping)]).map(|()| 2)
        }
    });
}

#[test]
fn empty_records_without_end_are_refused() {
    let mut scene = Scene::new("");
    let mut forger = Forger::new(&scene.server.pair, scene.server.monitor.viewers);
    let mut sent = 0;
    while forger.send(&[(Forger::DATA, &[][..]); 100]).is_ok() {
        sent += 100;
        assert!(sent < 10_000_000, "still read");
    }
    scene.is_unharmed();
}

#[test]
fn key_updates_delay_nobody_and_those_without_end_are_refused() {
    let refresh = |session: &mut Session| {
        session.conn.refresh_traffic_keys().map_err(io::Error::other)?;
        session.conn.write_tls(&mut session.sock)
    };
    // Whoever does it does not read the answers.
    bears("key updates", |server| {
        let mut session = server.by(&TLS13).upgrade(&[]).subscribe("flooded").into_session();
        let ping = frame(0x89, b"");
        move || {
            for _ in 0..30 {
                refresh(&mut session)?;
            }
            in_small_records(&mut session, &ping).map(|count| count + 30)
        }
    });
    let mut scene = Scene::new("");
    let mut session = scene.server.by(&TLS13).upgrade(&[]).subscribe("job").into_session();
    let mut sent = 0;
    while refresh(&mut session).is_ok() {
        sent += 1;
        assert!(sent < 10_000_000, "still read");
    }
    scene.is_unharmed();
}

/// A viewer that updates its keys still gets its messages, under the new keys.
#[test]
fn messages_go_on_after_key_updates() {
    let server = Server::start("");
    let broker = Broker::connect(server.monitor.brokers);
    let mut viewer = server.by(&TLS13).upgrade(&[]).subscribe("job");
    for id in ids(0, 200) {
        viewer.session().conn.refresh_traffic_keys().expect("TLS 1.3 can");
        viewer.send_frame(0x89, b"");
        broker.task("job", &id);
        let mut events = [viewer.next(), viewer.next()];
        events.sort_by_key(|event| matches!(event, Event::Text(_)));
        assert_eq!(events, [Event::Pong(Vec::new()), Event::Text(task(&id, "COMPLETED"))]);
    }
}

#[test]
fn a_rush_of_handshakes_with_an_rsa_key_delays_nobody() {
    const VIEWERS: usize = 500;
    let mut scene = Scene::of(Server::with(Pair::rsa(), "clients: {handshake_timeout: 600, subscribe_timeout: 600}\n"));
    assert!(raise_open_files() > 2 * VIEWERS + 200, "too few files may be open for this test");
    let (at, trust) = (scene.server.monitor.viewers, Arc::clone(&scene.server.trust));
    let before = scene.descriptors();
    let (mut longest, start) = (Duration::ZERO, Instant::now());
    let crowd: Vec<_> = scope(|scope| {
        let rush: Vec<_> = (0..10)
            .map(|_| {
                // All connect, and say hello, before the first goes on.
                let waiting: Vec<_> = (0..VIEWERS / 10).map(|_| Viewer::connected(at)).collect();
                let trust = &trust;
                scope.spawn(move || waiting.into_iter().map(|viewer| viewer.secured(trust)).collect::<Vec<_>>())
            })
            .collect();
        while !rush.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            longest = longest.max(scene.relays());
        }
        rush.into_iter().flat_map(|viewers| viewers.join().expect("all shook hands")).collect()
    });
    eprintln!("{VIEWERS} handshakes in {:?}: {longest:?}, {} KiB", start.elapsed(), scene.server.monitor.rss_kib());
    let mut crowd: Vec<_> = crowd.into_iter().map(|viewer| viewer.upgrade(&[]).subscribe("job")).collect();
    scene.broker.task("job", "1");
    for viewer in &mut crowd {
        viewer.texts(&texts(&ids(1, 2)));
    }
    drop(crowd);
    scene.all_have_gone(before);
    scene.serves_all();
}

#[test]
fn handshakes_that_are_cut_anywhere_leave_nothing_behind() {
    const CONNECTS: u64 = 500;
    let mut scene = Scene::new("");
    let request = upgrade_request("/");
    let before = scene.descriptors();
    let round = |scene: &mut Scene, seeds: std::ops::Range<u64>| {
        for seed in seeds {
            let random = noise(seed, 2);
            let version = [&TLS12, &TLS13][usize::from(random[0] % 2)];
            let left = usize::from(u16::from_le_bytes([random[0], random[1]]) % 800);
            let tcp = TcpStream::connect(scene.server.monitor.viewers).expect("it listens");
            tcp.set_read_timeout(Some(DEADLINE)).expect("a timeout above zero");
            tcp.set_nodelay(true).expect("a TCP socket");
            let name = "127.0.0.1".try_into().expect("a name");
            let mut tls = ClientConnection::new(scene.server.pair.trust_by(version), name).expect("it is usable");
            let mut cut = Cut { tcp, left };
            let mut shake = || -> io::Result<()> {
                while tls.is_handshaking() {
                    tls.complete_io(&mut cut)?;
                }
                tls.writer().write_all(request.as_bytes())?;
                while tls.wants_write() {
                    tls.write_tls(&mut cut)?;
                }
                Ok(())
            };
            let _ = shake();
            if seed % 50 == 0 {
                scene.relays();
            }
        }
        scene.all_have_gone(before);
        scene.server.monitor.rss_kib()
    };
    let first = round(&mut scene, 1..CONNECTS / 2);
    let second = round(&mut scene, 1000..1000 + CONNECTS);
    eprintln!("{first} KiB, then {second} KiB");
    assert!(second < first + 1024, "{first} KiB, then {second} KiB");
    scene.is_unharmed();
}
