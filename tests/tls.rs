//! Viewers over TLS that the monitor itself speaks: real handshakes, by certificates that are made here.

mod common;

use common::http::{STATUS, metrics, status};
use common::viewer::{Session, frame, proxy_header, upgrade_request};
use common::{
    Broker, DEADLINE, Event, Host, MEMORY_KIB, Manager, Monitor, PROGRAM, Viewer, command, is_root, noise,
    open_directory, raise_open_files, relays_at_once, run_words, task, unique, until,
};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use recodex_monitor::config;
use recodex_monitor::net::tls::Certificate;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fs::{Permissions, rename, set_permissions, write};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::scope;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring::{ALL_CIPHER_SUITES, cipher_suite, default_provider};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, RootCertStore, SupportedCipherSuite,
    SupportedProtocolVersion,
};

const DAY: u64 = 24 * 60 * 60;

/// A year, so that nobody warns.
const LONG: u64 = 365 * DAY;

// Certificates.

/// A certificate with its key, as PEM.
struct Pair {
    certificate: String,
    key: String,
    der: CertificateDer<'static>,
}

impl Pair {
    /// One for 127.0.0.1 that ends so many seconds from now, with a P-256 key.
    fn ending_in(seconds: u64) -> Self {
        Self::of(&KeyPair::generate().expect("there is randomness"), now() + seconds, "127.0.0.1")
    }

    fn of(key: &KeyPair, ends: u64, name: &str) -> Self {
        let at = |seconds| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.not_before = at(ends - 2 * LONG);
        params.not_after = at(ends);
        let certificate = params.self_signed(key).expect("a usable key");
        Self { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }

    fn rsa() -> Self {
        Self::of(&KeyPair::from_pem(RSA_KEY).expect("a key"), now() + LONG, "127.0.0.1")
    }

    /// What a client needs that trusts this certificate.
    fn trust(&self) -> Arc<ClientConfig> {
        Arc::new(self.trust_with(ALL_CIPHER_SUITES, &[&TLS12, &TLS13]))
    }

    fn trust_by(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        Arc::new(self.trust_with(ALL_CIPHER_SUITES, &[version]))
    }

    fn trust_with(
        &self,
        suites: &[SupportedCipherSuite],
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut provider = default_provider();
        provider.cipher_suites = suites.to_vec();
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a certificate");
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions);
        let builder = builder.expect("the suites are of these versions").with_root_certificates(roots);
        let mut config = builder.with_no_client_auth();
        // Each handshake here is a whole one.
        config.resumption = Resumption::disabled();
        config
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later").as_secs()
}

/// The files of a certificate, which everybody may read.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new(pair: &Pair) -> Self {
        let files = Self { directory: open_directory() };
        files.put(pair);
        files
    }

    fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    fn put(&self, pair: &Pair) {
        self.put_texts(&pair.certificate, &pair.key);
    }

    fn put_texts(&self, certificate: &str, key: &str) {
        // As whatever renews them does: the old ones are there until the new ones are.
        for (path, text) in [(self.certificate(), certificate), (self.key(), key)] {
            let new = path.with_extension("new");
            write(&new, text).expect("it is ours");
            rename(new, path).expect("it is ours");
        }
    }

    /// What a config says to use them.
    fn keys(&self) -> String {
        tls_keys(&self.certificate(), &self.key())
    }
}

fn tls_keys(certificate: &Path, key: &Path) -> String {
    format!("tls: {{certificate: '{}', key: '{}'}}\n", certificate.display(), key.display())
}

// A monitor that speaks TLS.

struct Server {
    monitor: Monitor,
    pair: Pair,
    trust: Arc<ClientConfig>,
    files: Files,
}

impl Server {
    fn start(config: &str) -> Self {
        Self::with(Pair::ending_in(LONG), config)
    }

    fn with(pair: Pair, config: &str) -> Self {
        let files = Files::new(&pair);
        let monitor = Monitor::start(&format!("{}{config}", files.keys()));
        Self { monitor, trust: pair.trust(), pair, files }
    }

    /// Connects without a handshake.
    fn connected(&self) -> Viewer {
        Viewer::connected(self.monitor.viewers)
    }

    fn secured(&self) -> Viewer {
        self.connected().secured(&self.trust)
    }

    /// The same by this version.
    fn by(&self, version: &'static SupportedProtocolVersion) -> Viewer {
        self.connected().secured(&self.pair.trust_by(version))
    }

    fn upgraded(&self) -> Viewer {
        self.secured().upgrade(&[])
    }

    fn watch(&self, channel: &str) -> Viewer {
        let mut viewer = self.upgraded();
        viewer.send_text(channel);
        viewer
    }

    fn subscribed(&self, channel: &str) -> Viewer {
        self.upgraded().subscribe(channel)
    }

    /// Returns once the monitor has taken everything that this broker has sent.
    fn fence(&self, broker: &Broker) {
        let channel = unique("fence");
        broker.send(&[channel.as_str(), "FINISHED"]);
        let mut viewer = self.watch(&channel);
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
    }

    /// How many viewers were refused for this reason; with [`STATUS`].
    fn refused(&self, reason: &str) -> u64 {
        let series = format!("recodex_monitor_refused_viewers_total{{reason=\"{reason}\"}}");
        metrics(status(&self.monitor)).count(&series)
    }

    fn is_refused(&self, reason: &str, times: u64) {
        until("they are counted", || (self.refused(reason) >= times).then_some(()));
        assert_eq!(self.refused(reason), times, "{reason}");
    }

    fn url(&self) -> String {
        format!("wss://{}/", self.monitor.viewers)
    }
}

/// A monitor with a broker and a viewer that must not notice what others do: [`common::Scene`] over TLS.
struct Scene {
    server: Server,
    broker: Broker,
    viewer: Viewer,
    next: usize,
}

impl Scene {
    fn new(config: &str) -> Self {
        Self::of(Server::start(config))
    }

    fn of(server: Server) -> Self {
        let broker = Broker::connect(server.monitor.brokers);
        let viewer = server.subscribed("healthy");
        let mut scene = Self { server, broker, viewer, next: 0 };
        scene.relays();
        scene
    }

    /// Asserts that a message still reaches the viewer, and at once; returns how long that took.
    fn relays(&mut self) -> Duration {
        let took = relays_at_once(&self.broker, &mut self.viewer, self.next);
        self.next += 1;
        took
    }

    /// Asserts that the same process serves as before, and is small.
    fn is_unharmed(&mut self) {
        self.serves_all();
        let rss = self.server.monitor.rss_kib();
        eprintln!("{rss} KiB");
        assert!(rss < MEMORY_KIB, "{rss} KiB");
    }

    fn serves_all(&mut self) {
        self.server.fence(&self.broker);
        self.relays();
        self.server.monitor.assert_alive();
        assert_eq!(self.server.monitor.logged(&["panicked"]), [""; 0]);
    }

    fn descriptors(&self) -> usize {
        self.server.monitor.descriptors()
    }

    fn all_have_gone(&self, before: usize) {
        until("all have gone", || (self.descriptors() <= before).then_some(()));
    }
}

fn tasks(broker: &Broker, channel: &str, ids: &[String]) {
    for id in ids {
        broker.task(channel, id);
    }
}

fn ids(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|i| i.to_string()).collect()
}

fn texts(ids: &[String]) -> Vec<String> {
    ids.iter().map(|id| task(&id.replace('ú', "\\u00fa"), "COMPLETED")).collect()
}

/// Ends what runs beside a test also when it fails, as threads are waited for.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// What is relayed.

/// Frames whose lengths take one, three and nine bytes.
fn of_all_lengths() -> Vec<String> {
    ["compile".to_owned(), "run ".repeat(50), "ú".repeat(15_000), "judge".to_owned()].to_vec()
}

/// Runs a job before a viewer that is there from the start and one that comes after its end; returns all that each received.
fn job(broker: &Broker, channel: &str, watch: impl Fn() -> Viewer) -> [Vec<u8>; 2] {
    let ids = of_all_lengths();
    let mut live = watch();
    for id in &ids {
        broker.task(channel, id);
        live.texts(&texts(std::slice::from_ref(id)));
    }
    broker.send(&[channel, "FINISHED"]);
    live.texts(&[command("FINISHED")]);
    live.closes(1000);
    let mut late = watch();
    late.texts(&texts(&ids));
    late.texts(&[command("FINISHED")]);
    late.closes(1000);
    [live.received, late.received]
}

#[test]
fn a_job_is_relayed_byte_for_byte_by_every_version_and_cipher_suite() {
    const NO_PINGS: &str = "clients: {ping_interval: 3600}\n";
    let plain = Monitor::start(NO_PINGS);
    let [expected, again] = job(&Broker::connect(plain.brokers), "job", || Viewer::watch(plain.viewers, "job"));
    assert!(expected.len() > 70_000 && expected == again);

    let servers = [Pair::ending_in(LONG), Pair::rsa()].map(|pair| Server::with(pair, NO_PINGS));
    let brokers = servers.each_ref().map(|server| Broker::connect(server.monitor.brokers));
    for suite in ALL_CIPHER_SUITES {
        let by_rsa = format!("{:?}", suite.suite()).contains("_RSA_");
        let (server, broker) = (&servers[usize::from(by_rsa)], &brokers[usize::from(by_rsa)]);
        let version = if suite.tls13().is_some() { &TLS13 } else { &TLS12 };
        let trust = Arc::new(server.pair.trust_with(&[*suite], &[version]));
        let channel = unique("job");
        let watch = || {
            let mut viewer = server.connected().secured(&trust);
            let tls = &viewer.session().conn;
            assert_eq!(tls.protocol_version(), Some(version.version));
            assert_eq!(tls.negotiated_cipher_suite(), Some(*suite));
            let mut viewer = viewer.upgrade(&[]);
            viewer.send_text(&channel);
            viewer
        };
        for received in job(broker, &channel, watch) {
            assert!(received == expected, "{suite:?}: {} bytes, expected {}", received.len(), expected.len());
        }
    }
}

#[test]
fn a_long_history_arrives_whole_and_in_order_at_a_viewer_that_reads_in_small_pieces() {
    let server = Server::start("");
    let broker = Broker::connect(server.monitor.brokers);
    let ids: Vec<_> = (0..200).map(|i| format!("{i} {}", "x".repeat(50_000))).collect();
    tasks(&broker, "job", &ids);
    server.fence(&broker);
    for version in [&TLS13, &TLS12] {
        let slow = server.connected().with_buffer(131_072).secured(&server.pair.trust_by(version));
        let mut slow = slow.upgrade(&[]);
        slow.piece = 1000;
        slow.send_text("job");
        for (index, id) in ids.iter().enumerate() {
            assert_eq!(slow.text(), task(id, "COMPLETED"), "message {index}");
        }
    }
}

/// While it does not read, more comes live than the kernel takes.
#[test]
fn a_viewer_that_pauses_gets_what_came_meanwhile_and_its_pings_answered() {
    let server = Server::start("");
    let broker = Broker::connect(server.monitor.brokers);
    let mut slow = server.connected().with_buffer(131_072).secured(&server.trust).upgrade(&[]).subscribe("job");
    let ids: Vec<_> = (0..200).map(|i| format!("{i} {}", "x".repeat(50_000))).collect();
    tasks(&broker, "job", &ids);
    server.fence(&broker);
    slow.send_frame(0x89, b"here?");
    let mut got = Vec::new();
    let mut pongs = 0;
    while got.len() < ids.len() {
        match slow.next() {
            Event::Text(text) => got.push(text),
            Event::Pong(payload) => {
                assert_eq!(payload, b"here?");
                pongs += 1;
            }
            other => panic!("a text was to come, not {other:?}"),
        }
    }
    assert!(got == texts(&ids), "each once and in order");
    assert_eq!(pongs, 1);
}

/// Some of these end where the kernel takes a part of the last record only.
#[test]
fn the_last_of_what_the_kernel_did_not_take_at_once_arrives_when_it_does() {
    let server = Server::start("clients: {ping_interval: 3600}\n");
    let broker = Broker::connect(server.monitor.brokers);
    let mut viewers: Vec<_> = (0..100)
        .map(|number| {
            let viewer = server.connected().with_buffer(65_536).secured(&server.trust);
            viewer.upgrade(&[]).subscribe(&format!("job {number}"))
        })
        .collect();
    let ids: Vec<_> = (0..viewers.len()).map(|i| format!("{i} {}", "x".repeat(8000))).collect();
    for number in 0..viewers.len() {
        tasks(&broker, &format!("job {number}"), &ids[..number]);
    }
    server.fence(&broker);
    for (number, viewer) in viewers.iter_mut().enumerate() {
        viewer.texts(&texts(&ids[..number]));
    }
}

#[test]
fn pings_are_answered_over_tls_before_and_after_subscribing() {
    let server = Server::start("");
    let mut viewer = server.upgraded();
    for name in [None, Some("job")] {
        if let Some(name) = name {
            viewer.send_text(name);
        }
        for payload in [b"".as_slice(), b"1", &[7; 125]] {
            viewer.send_frame(0x89, payload);
            assert_eq!(viewer.next(), Event::Pong(payload.to_vec()));
        }
    }
}

#[test]
fn an_upgrade_and_a_subscription_byte_by_byte_are_read_over_tls() {
    let server = Server::start("");
    let broker = Broker::connect(server.monitor.brokers);
    broker.task("job", "1");
    let mut viewer = server.secured();
    for byte in [upgrade_request("/").into_bytes(), frame(0x81, b"job")].concat() {
        viewer.send_raw(&[byte]);
    }
    viewer.read_upgrade();
    viewer.texts(&texts(&ids(1, 2)));
}

#[test]
fn a_plain_http_request_over_tls_is_answered_426() {
    let server = Server::start("");
    let mut client = server.secured();
    client.send_raw(b"GET / HTTP/1.1\r\nHost: monitor.example\r\n\r\n");
    let answer = String::from_utf8(client.raw_to_end()).expect("answers are text");
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    assert!(client.was_told);
}

// How it ends.

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

/// There is one place, so that the next viewer shows that the one before has gone.
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

// What is refused.

/// A `ClientHello` that a client of ours would send.
fn hello(trust: &Arc<ClientConfig>) -> Vec<u8> {
    let name = "localhost".try_into().expect("a name");
    let mut client = ClientConnection::new(Arc::clone(trust), name).expect("a usable configuration");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("memory is left");
    bytes
}

/// A handshake record with a `ClientHello` of an older version, without extensions.
fn old_hello(minor: u8) -> Vec<u8> {
    let body = [&[3, minor], [7; 32].as_slice(), &[0, 0, 4, 0xC0, 0x09, 0xC0, 0x13, 1, 0]].concat();
    let length = u8::try_from(body.len()).expect("it is short");
    [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length], body.as_slice()].concat()
}

#[test]
fn what_is_not_tls_1_2_or_1_3_is_refused_and_counted() {
    let mut scene = Scene::new(STATUS);
    let refused = |bytes: &[u8]| {
        let mut client = scene.server.connected();
        let _ = client.try_send_raw(bytes);
        client.raw_to_end()
    };
    for minor in 1..=2 {
        let answer = refused(&old_hello(minor));
        // Fatal: protocol_version or, as it lacks what is newer, handshake_failure.
        let [0x15, 3, _, 0, 2, 2, 70 | 40] = answer[..] else { panic!("no such alert: {answer:02x?}") };
    }
    refused(&[0; 100]);
    refused(b"\x15\x03\x03\x00\x02\x02\x28");
    refused(b"gets\r\n\r\n");
    // What a client does that does not like the certificate.
    let stranger = Pair::ending_in(LONG).trust();
    let error = scene.server.connected().try_secured(&stranger).err().expect("nobody knows this certificate");
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    scene.server.is_refused("tls", 6);
    scene.is_unharmed();
}

/// How a client of ours is answered that sends these bytes.
fn answer_to(server: &Server, bytes: &[u8]) -> String {
    let mut client = server.connected();
    let _ = client.try_send_raw(bytes);
    String::from_utf8(client.raw_to_end()).expect("answers are text")
}

#[test]
fn who_speaks_http_without_tls_is_answered_400_at_once_and_told_once() {
    let mut scene = Scene::new(&format!("{STATUS}clients: {{handshake_timeout: 600}}\n"));
    // The last is all that a slow one could send.
    for request in [&upgrade_request("/"), "GET /healthz HTTP/1.0\r\n\r\n", "POST / HTTP/1.1\r\n", "G"] {
        let answer = answer_to(&scene.server, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nThis port speaks TLS. Use wss:// instead of ws://.\n"), "{answer}");
    }
    scene.server.is_refused("tls", 4);
    scene.is_unharmed();
    let words = ["WARNING", "refused viewer 127.0.0.1:", "it speaks HTTP without TLS, and tls is set; use wss://"];
    scene.server.monitor.wait_logged(&words);
    assert_eq!(scene.server.monitor.logged(&["refused viewer"]).len(), 1);
}

#[test]
fn who_speaks_zeromq_where_tls_is_spoken_is_closed_at_once_and_told_once() {
    let mut scene = Scene::new(&format!("{STATUS}clients: {{handshake_timeout: 600}}\n"));
    for bytes in [&b"\xff"[..], &common::zmtp::greeting(b"NULL")] {
        assert_eq!(answer_to(&scene.server, bytes), "");
    }
    scene.server.is_refused("request", 2);
    scene.is_unharmed();
    scene.server.monitor.wait_logged(&["WARNING", "refused viewer 127.0.0.1:", "it speaks ZeroMQ"]);
    assert_eq!(scene.server.monitor.logged(&["refused viewer"]).len(), 1);
}

/// Which of the two is on is for the proxy to know.
#[test]
fn a_proxy_header_before_tls_that_nobody_expects_is_told() {
    let server = Server::start("clients: {handshake_timeout: 600}\n");
    let header = proxy_header([192, 0, 2, 1], &[]);
    let answer = answer_to(&server, &[header, hello(&server.trust)].concat());
    assert!(answer.contains("This port takes no PROXY header"), "{answer}");
    server.monitor.wait_logged(&["WARNING", "it sent a PROXY header, and websocket_proxy_protocol is off"]);
}

#[test]
fn who_speaks_http_without_tls_behind_a_proxy_is_told_under_its_name() {
    let server = Server::start("websocket_proxy_protocol: true\ntrusted_proxies: [127.0.0.1]\n");
    let header = proxy_header([192, 0, 2, 1], &[]);
    let answer = answer_to(&server, &[&header, upgrade_request("/").as_bytes()].concat());
    assert!(answer.contains("This port speaks TLS."), "{answer}");
    server.monitor.wait_logged(&["refused viewer 192.0.2.1:4711: it speaks HTTP without TLS"]);
}

#[test]
fn one_more_than_clients_max_gets_503_and_silent_ones_are_closed_for_others() {
    let mut scene = Scene::new(&format!("{STATUS}clients: {{max: 2}}\n"));
    let second = scene.server.subscribed("job");
    let silent: Vec<_> = (0..16).map(|_| scene.server.connected()).collect();
    for _ in 0..3 {
        let answer = scene.server.connected().secured(&scene.server.trust).refused(&[]);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    // Each of the others was the oldest once.
    for mut viewer in silent.into_iter().take(8) {
        assert_eq!(viewer.raw_to_end(), b"");
    }
    assert!(scene.server.refused("full") >= 11);
    scene.relays();
    drop(second);
    until("there is room again", || {
        let viewer = scene.server.connected().try_secured(&scene.server.trust).ok()?;
        drop(viewer.upgrade(&[]).subscribe("job"));
        Some(())
    });
}

#[test]
fn a_message_over_4_kib_is_closed_1009_over_tls() {
    let server = Server::start("");
    let broker = Broker::connect(server.monitor.brokers);
    let mut viewer = server.subscribed("job");
    viewer.send_frame(0x81, &[b'x'; 4096]);
    viewer.send_frame(0x81, &[b'x'; 4097]);
    assert_eq!(viewer.next(), Event::Close(Some(1009)));
    let mut viewer = server.subscribed("job");
    viewer.send_raw(&[&[0x82, 0xFF], (1_u64 << 40).to_be_bytes().as_slice(), b"mask"].concat());
    assert_eq!(viewer.next(), Event::Close(Some(1009)));
    let mut viewer = server.upgraded();
    viewer.send_text("");
    assert_eq!(viewer.next(), Event::Close(Some(1008)));
    let mut viewer = server.subscribed("job");
    viewer.send_raw(b"\x81\x03job");
    assert_eq!(viewer.next(), Event::Close(Some(1002)));
    broker.task("job", "1");
    server.watch("job").texts(&texts(&ids(1, 2)));
}

// Deadlines.

#[test]
fn who_does_not_end_a_handshake_is_closed_after_the_handshake_timeout() {
    let mut scene = Scene::new(&format!("{STATUS}clients: {{handshake_timeout: 2}}\n"));
    let hello = hello(&scene.server.trust);
    let start = Instant::now();
    let lengths = [0, 1, 5, 6, hello.len() - 1, hello.len()];
    let mut parts = lengths.map(|length| {
        let mut part = scene.server.connected();
        part.send_raw(&hello[..length]);
        (length, part)
    });
    // The time is that of TLS and the request together.
    let mut requesting = scene.server.secured();
    requesting.send_raw(b"GET / HTTP/1.1\r\n");
    for (length, part) in &mut parts {
        let answer = part.raw_to_end();
        assert_eq!(answer.is_empty(), *length < hello.len(), "{length} bytes: {answer:02x?}");
    }
    assert!(start.elapsed() >= Duration::from_secs(2), "closed after {:?}", start.elapsed());
    assert!(requesting.is_gone_within(DEADLINE));
    scene.server.is_refused("timeout", 7);
    assert_eq!(scene.server.refused("tls"), 0);
    scene.is_unharmed();
}

#[test]
fn a_dribbled_hello_does_not_extend_the_handshake_timeout() {
    let server = Server::start("clients: {handshake_timeout: 0.5}\n");
    let mut slow = server.connected();
    let start = Instant::now();
    for byte in hello(&server.trust) {
        if slow.try_send_raw(&[byte]).is_err() || slow.is_gone_within(Duration::from_millis(20)) {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "still served");
    }
    panic!("the whole hello was read");
}

#[test]
fn who_names_no_channel_over_tls_is_closed_1008_after_the_subscribe_timeout() {
    let server = Server::start("clients: {subscribe_timeout: 0.3}\n");
    let start = Instant::now();
    let mut viewer = server.upgraded();
    viewer.is_ended_with(1008);
    assert!(viewer.was_told);
    assert!(start.elapsed() >= Duration::from_millis(300), "closed after {:?}", start.elapsed());
}

#[test]
fn a_viewer_over_tls_that_answers_no_ping_is_let_go_and_only_it() {
    let server = Server::start(&format!("{STATUS}clients: {{ping_interval: 0.3, ping_timeout: 3}}\n"));
    let broker = Broker::connect(server.monitor.brokers);
    let mut mute = server.subscribed("job");
    let mut answers = server.subscribed("job");
    let end = Instant::now() + DEADLINE;
    // Its pings are answered while the other's are not.
    while !matches!(mute.next_within(Duration::from_millis(1)), Some(Event::Gone | Event::Cut)) {
        answers.is_silent_for(Duration::from_millis(50));
        assert!(Instant::now() < end, "still served");
    }
    let lost = "recodex_monitor_lost_viewers_total{reason=\"silent\"}";
    assert_eq!(metrics(status(&server.monitor)).count(lost), 1);
    broker.task("job", "1");
    answers.texts(&texts(&ids(1, 2)));
}

/// One job of many times what is kept, before a hundred that do not read and one that does.
#[test]
fn a_hundred_viewers_over_tls_that_never_read_cost_little_and_are_let_go() {
    const MESSAGES: usize = 1000;
    let limits = "history: {channel_bytes: 2097152}\nclients: {stall_timeout: 5}\n";
    let mut scene = Scene::new(&format!("{STATUS}{limits}"));
    let (before, base) = (scene.descriptors(), scene.server.monitor.rss_kib());
    let mut stalled: Vec<_> = (0..100)
        .map(|_| {
            let viewer = scene.server.connected().with_buffer(131_072).secured(&scene.server.trust);
            viewer.upgrade(&[]).subscribe("job")
        })
        .collect();
    let mut reads = scene.server.subscribed("job");
    let (mut longest, mut rss) = (Duration::ZERO, 0);
    for id in 0..MESSAGES {
        let text = format!("{id} {}", "x".repeat(30_500));
        scene.broker.task("job", &text);
        assert_eq!(reads.text(), task(&text, "COMPLETED"));
        reads.received.clear();
        if id % 20 == 0 {
            longest = longest.max(scene.relays());
            rss = rss.max(scene.server.monitor.rss_kib());
        }
    }
    eprintln!("stalled viewers: {longest:?}, {base} KiB before, at most {rss} KiB");
    // Each holds a session, the rest of a frame and a record; what all share is the history.
    assert!(rss < base + 16 * 1024, "{base} KiB before, then {rss} KiB");
    let lost = "recodex_monitor_lost_viewers_total{reason=\"stalled\"}";
    until("all were let go", || (metrics(status(&scene.server.monitor)).count(lost) == 100).then_some(()));
    assert!(stalled.iter_mut().all(|viewer| viewer.is_gone_within(DEADLINE)));
    scene.broker.send(&["job", "FINISHED"]);
    reads.texts(&[command("FINISHED")]);
    reads.closes(1000);
    drop(stalled);
    scene.all_have_gone(before);
    scene.is_unharmed();
}

/// What they are still to get stays where it is, once for all.
#[test]
fn a_hundred_viewers_over_tls_that_never_read_a_long_history_cost_little() {
    let mut scene = Scene::new("");
    let before = scene.descriptors();
    tasks(&scene.broker, "job", &(0..160).map(|i| format!("{i} {}", "x".repeat(50_000))).collect::<Vec<_>>());
    scene.serves_all();
    let base = scene.server.monitor.rss_kib();
    let crowd: Vec<_> = (0..100).map(|_| scene.server.watch("job")).collect();
    scene.serves_all();
    let rss = scene.server.monitor.rss_kib();
    eprintln!("{base} KiB, then {rss} KiB");
    // Each holds the frame that it is in, of 50,000 bytes, a record, and its session.
    assert!(rss < base + 10 * 1024, "{base} KiB, then {rss} KiB");
    drop(crowd);
    scene.all_have_gone(before);
    scene.serves_all();
}

// Hostile viewers.

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

    /// One that has named its channel.
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

/// Who updates keys gets its messages all the same, by the keys of that time.
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
    let mut scene = Scene::of(Server::with(Pair::rsa(), ""));
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

/// A connection that is cut once so many bytes were sent.
struct Cut {
    tcp: TcpStream,
    left: usize,
}

impl Read for Cut {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp.read(buffer)
    }
}

impl Write for Cut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = self.tcp.write(&bytes[..bytes.len().min(self.left)])?;
        self.left -= count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

// The start.

/// Runs the program with a certificate and a key until it ends.
fn run_with(wrapper: &[&str], certificate: &Path, key: &Path) -> Output {
    let directory = open_directory();
    let path = directory.path().join("config.yml");
    let ports = "websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n";
    write(&path, format!("{ports}{}", tls_keys(certificate, key))).expect("it is ours");
    run_words(&[wrapper, &[PROGRAM, "-c", path.to_str().expect("UTF-8")]].concat())
}

/// Asserts that it ended with status 78, and one line with these words.
fn refused(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn a_certificate_or_key_that_cannot_be_used_is_refused_78_with_its_path() {
    let pair = Pair::ending_in(LONG);
    let files = Files::new(&pair);
    let (certificate, key) = (files.certificate(), files.key());
    let (shown, shown_key) = (certificate.display().to_string(), key.display().to_string());
    let file = |name: &str, text: &str| {
        let path = files.directory.path().join(name);
        write(&path, text).expect("it is ours");
        path
    };
    let absent = files.directory.path().join("absent.pem");
    let (absent, no_file) = (absent.as_path(), absent.display().to_string());
    refused(&run_with(&[], absent, &key), &["tls.certificate: ", &no_file, "No such file"]);
    refused(&run_with(&[], &certificate, absent), &["tls.key: ", &no_file, "No such file"]);
    let directory = files.directory.path();
    refused(
        &run_with(&[], directory, &key),
        &["tls.certificate: ", &directory.display().to_string(), "expected a file"],
    );

    // Certificates that are none.
    let junk = "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n";
    for (name, text, why) in [
        ("empty.pem", String::new(), "found none"),
        ("text.pem", "no PEM\n".to_owned(), "found none"),
        ("key-only.pem", pair.key.clone(), "found a section \"PRIVATE KEY\""),
        ("der.pem", "\u{30}\u{77}\u{2}\u{1}\u{1}".to_owned(), "found DER"),
        ("half.pem", pair.certificate[..pair.certificate.len() / 2].to_owned(), "expected a certificate in PEM"),
        ("junk.pem", junk.to_owned(), "the first certificate cannot be read"),
    ] {
        let path = file(name, &text);
        refused(&run_with(&[], &path, &key), &["tls.certificate: ", &path.display().to_string(), why]);
    }

    // Keys that are none.
    let junk = "-----BEGIN PRIVATE KEY-----\nbm90IG9uZQ==\n-----END PRIVATE KEY-----\n";
    for (name, text, why) in [
        ("empty.key", String::new(), "found none"),
        ("text.key", "no PEM\n".to_owned(), "found none"),
        ("certificate.key", pair.certificate.clone(), "found a section \"CERTIFICATE\""),
        ("encrypted.key", ENCRYPTED_KEY.to_owned(), "expected a private key without a password in PEM, found one with"),
        (
            "older.key",
            OLDER_ENCRYPTED_KEY.to_owned(),
            "expected a private key without a password in PEM, found one with",
        ),
        ("half.key", pair.key[..pair.key.len() / 2].to_owned(), "expected a private key"),
        ("junk.key", junk.to_owned(), "it is damaged"),
    ] {
        let path = file(name, &text);
        refused(&run_with(&[], &certificate, &path), &["tls.key: ", &path.display().to_string(), why]);
    }
    let other = file("other.key", &Pair::ending_in(LONG).key);
    let words = ["tls.key: ", &other.display().to_string(), "not the key of", &shown];
    refused(&run_with(&[], &certificate, &other), &words);

    // What even root may not read, or who is none.
    set_permissions(&key, Permissions::from_mode(0o000)).expect("it is ours");
    let without: &[&str] = if is_root() { &["setpriv", "--bounding-set=-dac_override,-dac_read_search"] } else { &[] };
    refused(&run_with(without, &certificate, &key), &["tls.key: ", &shown_key, "cannot open it: Permission denied"]);
}

#[test]
fn the_certificates_that_lead_to_the_root_follow_the_first() {
    use rcgen::{BasicConstraints, CertifiedIssuer, IsCa};
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().expect("there is randomness");
    let root = CertifiedIssuer::self_signed(params.clone(), root_key).expect("a usable key");
    params.distinguished_name.push(rcgen::DnType::CommonName, "between");
    let between_key = KeyPair::generate().expect("there is randomness");
    let between = CertifiedIssuer::signed_by(params, between_key, &root).expect("a usable key");
    let leaf_key = KeyPair::generate().expect("there is randomness");
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let leaf = leaf.signed_by(&leaf_key, &between).expect("a usable key");
    let chain =
        Pair { certificate: leaf.pem() + &between.pem(), key: leaf_key.serialize_pem(), der: root.der().clone() };
    // What is trusted is the root alone.
    drop(Server::with(chain, "").subscribed("job"));
}

#[test]
fn a_key_that_only_root_may_read_is_refused_with_what_to_do() {
    if !is_root() {
        return;
    }
    let files = Files::new(&Pair::ending_in(LONG));
    set_permissions(files.key(), Permissions::from_mode(0o600)).expect("it is ours");
    let path = files.key().display().to_string();
    let output = run_with(&[], &files.certificate(), &files.key());
    refused(&output, &["tls.key: ", &path, "Permission denied", "user nobody cannot read it", "LoadCredential="]);
    // With a group of that user it works, after a reload too.
    let nogroup = nix::unistd::User::from_name("nobody").expect("a user database").expect("nobody is there").gid;
    std::os::unix::fs::chown(files.key(), None, Some(nogroup.as_raw())).expect("root may");
    set_permissions(files.key(), Permissions::from_mode(0o640)).expect("it is ours");
    let monitor = Monitor::start(&files.keys());
    monitor.signal("HUP");
    monitor.wait_logged(&["SIGHUP", "taken up"]);
}

#[test]
fn relative_paths_are_those_of_the_credentials_directory() {
    let pair = Pair::ending_in(LONG);
    let files = Files::new(&pair);
    let credentials = format!("CREDENTIALS_DIRECTORY={}", files.directory.path().display());
    let keys = tls_keys(Path::new("certificate.pem"), Path::new("key.pem"));
    let monitor = Monitor::start_through(&["env", &credentials], Host::default(), &keys);
    let server = Server { monitor, trust: pair.trust(), pair, files };
    drop(server.subscribed("job"));
    // Renewed, as it is after a reload of the unit; and an absolute path is none of them.
    let renewed = Pair::ending_in(LONG);
    server.files.put(&renewed);
    server.monitor.signal("HUP");
    server.monitor.wait_logged(&["SIGHUP", "taken up"]);
    drop(server.connected().secured(&renewed.trust()));
    let output = run_with(&["env", &credentials], Path::new("certificate.pem"), Path::new("/key.pem"));
    refused(&output, &["tls.key: /key.pem: "]);
    let output = run_with(&["env", "-u", "CREDENTIALS_DIRECTORY"], Path::new("certificate.pem"), Path::new("key.pem"));
    refused(&output, &["tls.certificate: certificate.pem: cannot open it"]);
}

// Reload.

#[test]
fn a_reload_takes_up_a_renewed_certificate_and_those_who_are_there_go_on() {
    let server = Server::start(STATUS);
    let broker = Broker::connect(server.monitor.brokers);
    let renewed = Pair::ending_in(2 * LONG);
    // One that would resume its session, and so skip the certificate.
    let resuming = |pair: &Pair| {
        let mut config = pair.trust_with(ALL_CIPHER_SUITES, &[&TLS12, &TLS13]);
        config.resumption = Resumption::in_memory_sessions(8);
        Arc::new(config)
    };
    let shown = |viewer: &mut Viewer| {
        let shown = viewer.session().conn.peer_certificates().expect("it was shown");
        shown[0].clone()
    };
    let expiry = || metrics(status(&server.monitor)).count("recodex_monitor_certificate_expiry_timestamp_seconds");
    let trust = resuming(&server.pair);
    let mut old = server.connected().secured(&trust).upgrade(&[]).subscribe("job");
    assert_eq!(shown(&mut old), server.pair.der);
    let first = expiry();

    server.files.put(&renewed);
    assert_eq!(shown(&mut server.secured()), server.pair.der, "not before it is asked to");
    server.monitor.signal("HUP");
    server.monitor.wait_logged(&["SIGHUP", "taken up"]);
    assert!(server.connected().try_secured(&trust).is_err(), "the old one is not shown any more");
    let mut new = server.connected().secured(&resuming(&renewed)).upgrade(&[]).subscribe("job");
    assert_eq!(shown(&mut new), renewed.der);
    assert!((first + LONG - 60..first + LONG + 60).contains(&expiry()));

    broker.task("job", "1");
    for viewer in [&mut old, &mut new] {
        viewer.texts(&texts(&ids(1, 2)));
    }
    broker.send(&["job", "FINISHED"]);
    for mut viewer in [old, new] {
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
        assert!(viewer.was_told);
    }
}

#[test]
fn a_reload_refuses_a_broken_certificate_in_one_line_and_the_old_one_stays() {
    let server = Server::start("");
    let mut viewer = server.subscribed("job");
    let other = Pair::ending_in(LONG);
    let Pair { certificate, key, .. } = &server.pair;
    let (at, key_at) = (server.files.certificate().display().to_string(), server.files.key().display().to_string());
    for (number, (certificate, key, path)) in [
        (&certificate[..certificate.len() / 2], &key[..], &at),
        ("", key, &at),
        (certificate, "", &key_at),
        // As between two steps of a renewal.
        (certificate, &other.key, &key_at),
        (&other.certificate, key, &key_at),
    ]
    .into_iter()
    .enumerate()
    {
        server.files.put_texts(certificate, key);
        server.monitor.signal("HUP");
        let lines = until("it is said", || {
            let lines = server.monitor.logged(&["SIGHUP"]);
            (lines.len() > number).then_some(lines)
        });
        assert_eq!(lines.len(), number + 1);
        let line = &lines[number];
        assert!(line.contains("ERROR") && line.contains("tls.") && line.contains(path.as_str()), "{line}");
        let said = server.monitor.log().len();
        drop(server.subscribed("other"));
        assert_eq!(server.monitor.log().len(), said, "one line: {:?}", server.monitor.log());
    }
    Broker::connect(server.monitor.brokers).task("job", "1");
    viewer.texts(&texts(&ids(1, 2)));
    server.files.put(&other);
    server.monitor.signal("HUP");
    server.monitor.wait_logged(&["SIGHUP", "taken up"]);
    drop(server.connected().secured(&other.trust()));
}

#[test]
fn a_reload_with_other_paths_takes_them_up_and_tls_itself_needs_a_restart() {
    let (one, other) = (Pair::ending_in(LONG), Pair::ending_in(LONG));
    let files = [Files::new(&one), Files::new(&other)];
    let directory = open_directory();
    let config = directory.path().join("config.yml");
    let put = |more: &str| {
        let ports = "websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n";
        write(&config, format!("{ports}{more}")).expect("it is ours");
    };
    put(&files[0].keys());
    let monitor = Monitor::start_from(&config);
    let secured = |pair: &Pair| Viewer::connected(monitor.viewers).secured(&pair.trust());
    drop(secured(&one));
    put(&files[1].keys());
    monitor.signal("HUP");
    monitor.wait_logged(&["SIGHUP", "taken up"]);
    drop(secured(&other));

    // The files of one that is not used any more may be gone; they are not read again.
    put("clients: {max: 7}\n");
    for file in [files[1].certificate(), files[1].key()] {
        std::fs::remove_file(file).expect("it is ours");
    }
    monitor.signal("HUP");
    let line = monitor.wait_logged(&["WARNING", "restart"]);
    assert!(line.ends_with("need a restart: tls"), "{line}");
    drop(secured(&other).upgrade(&[]).subscribe("job"));

    let monitor = Monitor::start_from(&config);
    put(&files[0].keys());
    monitor.signal("HUP");
    let line = monitor.wait_logged(&["WARNING", "restart"]);
    assert!(line.ends_with("need a restart: tls"), "{line}");
    drop(Viewer::subscribed(monitor.viewers, "job"));
}

// The end of a certificate.

#[test]
fn a_certificate_that_ends_soon_is_warned_of_at_the_start_and_at_a_reload() {
    let hour = 60 * 60;
    for (ends, said) in [
        (10 * DAY + hour, Some("it expires in 10 days")),
        (hour, Some("it expires today")),
        (30 * DAY, None),
        (14 * DAY + hour, None),
    ] {
        let mut server = Server::with(Pair::ending_in(ends), "");
        let path = server.files.certificate().display().to_string();
        if let Some(said) = said {
            let line = server.monitor.wait_logged(&["WARNING", "tls.certificate", &path]);
            assert!(line.contains(said), "{line}");
        }
        drop(server.subscribed("job"));
        server.monitor.signal("HUP");
        server.monitor.wait_logged(&["SIGHUP", "taken up"]);
        server.monitor.stop();
        let warnings = server.monitor.logged(&["WARNING"]);
        assert_eq!(warnings.len(), 2 * usize::from(said.is_some()), "{ends} s: {warnings:?}");
    }
}

#[test]
fn a_certificate_that_has_expired_is_warned_of_and_used() {
    let expired = Pair::of(&KeyPair::generate().expect("there is randomness"), now() - DAY, "127.0.0.1");
    let server = Server::with(expired, "");
    let path = server.files.certificate().display().to_string();
    server.monitor.wait_logged(&["WARNING", "tls.certificate", &path, "has expired"]);
    let error = server.connected().try_secured(&server.trust).err().expect("nobody takes it");
    assert!(error.to_string().contains("certificate expired"), "{error}");
    // A browser that was told to go on does.
    let mut renewed = server.pair.trust_with(ALL_CIPHER_SUITES, &[&TLS12, &TLS13]);
    renewed.time_provider = Arc::new(Yesterday);
    drop(server.connected().secured(&Arc::new(renewed)).upgrade(&[]).subscribe("job"));
}

/// A clock that is two days slow.
#[derive(Debug)]
struct Yesterday;

impl tokio_rustls::rustls::time_provider::TimeProvider for Yesterday {
    fn current_time(&self) -> Option<tokio_rustls::rustls::pki_types::UnixTime> {
        Some(tokio_rustls::rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(now() - 2 * DAY)))
    }
}

#[test]
fn a_warning_begins_14_days_before_the_end() {
    let pair = Pair::ending_in(LONG);
    let files = Files::new(&pair);
    let settings = config::Tls { certificate: files.certificate(), key: files.key() };
    let certificate = Certificate::load(&settings).expect("it is good");
    assert_eq!(certificate.path, files.certificate());
    let end = certificate.expires;
    let from_now = end.duration_since(SystemTime::now()).expect("it is later").as_secs();
    assert!((LONG - 60..=LONG).contains(&from_now), "{from_now}");

    let (days, moment) = (|days| Duration::from_secs(days * DAY), Duration::from_nanos(1));
    let said = |at| certificate.warning(at).map(|text| text.split_once("pem: ").expect("the path").1.to_owned());
    let text = |when| Some(format!("it expires {when}; renew it, then reload the monitor"));
    let in_days = |days| text(format!("in {days} days"));
    let today = || text("today".to_owned());
    let expired = Some("it has expired; browsers refuse it".to_owned());
    assert_eq!(said(certificate.begins), None);
    let early = said(certificate.begins - moment).expect("it is not valid yet");
    assert!(early.starts_with("it is valid only from "), "{early}");
    assert_eq!(said(end - days(30)), None);
    assert_eq!(said(end - days(14)), None);
    assert_eq!(said(end - days(14) + moment), in_days(13));
    assert_eq!(said(end - days(10)), in_days(10));
    assert_eq!(said(end - days(2)), in_days(2));
    assert_eq!(said(end - days(1) + moment), today());
    assert_eq!(said(end), today());
    assert_eq!(said(end + moment), expired);
    assert_eq!(said(end + days(400)), expired);
}

// Restarts.

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

// Other programs.

fn watch(variables: &[&str], url: &str) -> Output {
    run_words(&[&["env", "-u", "SSL_CERT_DIR"], variables, &[PROGRAM, "watch", url, "job"]].concat())
}

#[test]
fn watch_over_tls_trusts_what_the_machine_trusts() {
    let server = Server::start("");
    let broker = Broker::connect(server.monitor.brokers);
    broker.task("job", "1");
    broker.send(&["job", "FINISHED"]);
    server.fence(&broker);
    let trust = |path: &Path| format!("SSL_CERT_FILE={}", path.display());
    let output = watch(&[&trust(&server.files.certificate())], &server.url());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().collect::<Vec<_>>(), [task("1", "COMPLETED"), command("FINISHED")]);

    let fails = |variable: &str, url: &str, words: &[&str]| {
        let output = watch(&[variable], url);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
        text.into_owned()
    };
    let other = Files::new(&Pair::ending_in(LONG));
    let trusted = trust(&server.files.certificate());
    fails(&trust(&other.certificate()), &server.url(), &["certificate is refused", "self-signed"]);
    let named = format!("wss://localhost:{}/", server.monitor.viewers.port());
    fails(&trusted, &named, &["certificate is refused", "it is not for localhost"]);
}

#[cfg(feature = "foreign-tests")]
#[test]
fn a_python_viewer_over_tls_gets_what_one_without_gets() {
    use common::PythonViewer;
    let no_pings = "clients: {ping_interval: 3600}\n";
    let (server, plain) = (Server::start(no_pings), Monitor::start(no_pings));
    let lines = |url: String, at: SocketAddr, certificate: Option<PathBuf>| {
        let broker = Broker::connect(at);
        broker.send(&["job", "STARTED"]);
        let arguments = [url.into(), "job".into()].into_iter().chain(certificate);
        let mut live = PythonViewer::start("tls_viewer.py", arguments);
        let mut lines = vec![live.next()];
        for id in of_all_lengths() {
            broker.task("job", &id);
            lines.push(live.next());
        }
        broker.send(&["job", "FINISHED"]);
        lines.extend(live.rest());
        lines
    };
    let expected = lines(format!("ws://{}", plain.viewers), plain.brokers, None);
    assert_eq!(expected[0], command("STARTED"));
    assert_eq!(expected[1..5], texts(&of_all_lengths()));
    assert_eq!(expected[5..7], [command("FINISHED"), "closed 1000".to_owned()]);
    assert_eq!(lines(server.url(), server.monitor.brokers, Some(server.files.certificate())), expected);
}

// Keys. They protect nothing; rcgen makes none of these.

/// 2048 bits.
const RSA_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQDojG1k1lftSpuG
SFlmW/k0A6m8zZ7Q/VgehjQ6XdOiwgprMOsDKTJQZ7BBKhLToKB8WeSJnxNs+mw0
T4i+fbeeBaNlL9OM7IYAmnnO7dZXWtGxnUHHuGiMaXOqA9f9jHhg/5rB6JJqawTN
NIZSDDirnQsqHMQMW9PUSUWK/Nv00vQ7tHhZcsaHCIHiQ3FLrmTWyuDGXuXo4qwf
hjKcHs1zPwZgn+jYHLxdygjp6S7Gv8U7SHCb4fApz2pVUMmVyJRvKrSYdMBq4BRJ
4X2Wl19zsK/lwNSpPVbEKUUAeDG48Z/jGGSVKPGsa26IoQaxX5Fou5DycrhfqYi1
No0hwIWbAgMBAAECggEAcDuR8lhGYFYhIFpblzytVY6tBVuhmhCjTjwMCd1NrmAC
4j/eNIzV5Rtd491X7742pj1GQKs/F1n3DfoSr4kCLOhgtw2xhnKCq9jiD94Wk9tX
l+ajIC5eeuHL+lJXlF2OnZXPDWXfADA9RYJjj0aptR2ajU0Ly0EoR2zDfPRTfeDE
Vld9TYa7em05NPlmEiUme58KCilSxOo5AoUO5tGo7pxfE0ZXsYF93Xdtiql+ci/4
u4E01AsG5YfNHXYyirEinr+fFS1Efyk+ltYKGPypc0Do1YlJKeasm1pXmD6tSRwy
OHEy197kWVWsc+/MalCcr/gmHTxziv0LlrAUWaeWyQKBgQD+tBCu5UMlpNRz5JWM
bfC+6jWNbfftMvrEW5Quy0+BADXZjQpVhIHFhoHCP/gX+Eg56harbY2h0u9R5YRl
hyY0PG8kwVPxRu81d5oLJ9YtBBScvA4JCUItKcPsFsjOzafpjoH/rrCyVaPrnKq2
UYJtnjx4m3OBvSJvPy+u17jc0wKBgQDpu31P83FzVLcvDmJDEIC1peWOpXSZDJC3
aWBO+6IRpoFdfR6t3PAaXl42xnB9xfHo3EPcbJEr08rGg5v5aEEmz4e4D0NngEKF
kkf1Gvl+SnkKX6FALD8UsFFv7TUs2MQAX+Yq4DtKuqKjYGmU7Fib/XKcH19T+JRP
0xldvjQXGQKBgQD0BgZ52hM0DLCzfEw/Z9Ggx/mYz8QaEJ6q4+ab0pQQTuhIz1UY
S8SdP1owhmMma+ye+ATSJzrr0JETUKdBMnPK1h/SAhtvbXufKUB/8aHELUWmSJHV
3HX3mS0pk0a+w9Bc9vjbwz1tDpnnEYmI9ZzVcyYSkzTeFxvXo50GkY1+mwKBgQCA
LVWXVsXMnZSntZeld5NeClBNXecHV6C1NJCgP9atH0aqYkdEyXjSvRWlrEVcdAUp
0kFUzCUAh/EX1Gzg5Y91HTIsehJY3Dmezo2vmM9htq2SRsdDTgB59Ad0/fy/T1CN
dAnhUX6yiI9QUTsVdFdTlDYZ8ApzHksXS4kJo5klYQKBgH8c+atT9Kbgk1FQfakC
Rh2cEbHvZPL8a3Ke/YsGctKAA67Vbm26balg427FAkNZTAJSQvChlLrJoEv8Enso
5Rn8uL0+ymWk7+h3ps7O7oCVPcGYVjdm2BhbT23emFQGxzTw0ZPBccJvHFrxCzgI
NpbkItFMHtdvcRptnOZN7xK4
-----END PRIVATE KEY-----
";

const ENCRYPTED_KEY: &str = "\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAh3M6UBTh/mVwICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEIZ1CVTyUwLkDa16cO6EAwAEgZC1
mWTJGrGbOE+c7rNN+RevZB+EXMKu6RpqUqtZNuJYRLrM313JR4KajMzoK4xAK7Pc
o3qhbZtoPkFV5FAd5wWTzBjUuXHFX3NR1nn+pOc5N8OdlgLK9p35fyd55KLYX9FL
1CZ1DhNeGGUsy+Y471/T2pzZQbyDkThCk1a9fmfduTYnKFsRyjjHZXK5EwOzwUc=
-----END ENCRYPTED PRIVATE KEY-----
";

/// As openssl wrote them before version 1.0.
const OLDER_ENCRYPTED_KEY: &str = "\
-----BEGIN EC PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-128-CBC,ADC05F45F49CC819ACE61FB148D7C585

bLVGOtAS1dX3oyI/O0z0PqU3qljr28wARe1dW1GAASDkFhHJdf48q5U+T3BwwDyF
YQ5XSOmo76RMtCsF5f57hPmZcwwRu+rppF2hTZeTwRoV8+yGbWIn2IbdanomqCpv
aim597pUG/b1nM9G+i48owBofvg+xPVyy+b/0UA+EwA=
-----END EC PRIVATE KEY-----
";
