//! Viewers over the monitor's own TLS: real handshakes, with certificates that are made here.

mod certificates;
mod deadlines;
mod ends;
mod hostile;
mod refusals;
mod relay;
mod restarts;
mod watch;

use crate::common::http::{metrics, status};
use crate::common::{
    Broker, MEMORY_KIB, Monitor, PROGRAM, Viewer, command, open_directory, relays_at_once, run_words, task, unique,
    until,
};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use std::fs::{rename, write};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring::{ALL_CIPHER_SUITES, default_provider};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, SupportedCipherSuite, SupportedProtocolVersion,
};

const DAY: u64 = 24 * 60 * 60;

/// A year, so that the monitor does not warn.
const LONG: u64 = 365 * DAY;

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

    /// Returns the TLS configuration of a client that trusts this certificate.
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
pub(crate) struct Files {
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

    /// Returns the lines of a configuration that use them.
    fn keys(&self) -> String {
        tls_keys(&self.certificate(), &self.key())
    }
}

fn tls_keys(certificate: &Path, key: &Path) -> String {
    format!("tls: {{certificate: '{}', key: '{}'}}\n", certificate.display(), key.display())
}

/// A monitor whose viewers speak TLS, with the files of its certificate.
pub(crate) struct Server {
    pub(crate) monitor: Monitor,
    pair: Pair,
    pub(crate) trust: Arc<ClientConfig>,
    pub(crate) files: Files,
}

impl Server {
    pub(crate) fn start(config: &str) -> Self {
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

    /// Returns the number of viewers that were refused for this reason. Needs [`STATUS`].
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

/// A monitor with a broker and a viewer, which must not notice an attack: [`common::Scene`] over TLS.
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

    /// Asserts that a message still reaches the viewer at once. Returns the time that it took.
    fn relays(&mut self) -> Duration {
        let took = relays_at_once(&self.broker, &mut self.viewer, self.next);
        self.next += 1;
        took
    }

    /// Asserts that the same process still serves its clients, and uses little memory.
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

/// A `ClientHello` that a client of ours would send.
fn hello(trust: &Arc<ClientConfig>) -> Vec<u8> {
    let name = "localhost".try_into().expect("a name");
    let mut client = ClientConnection::new(Arc::clone(trust), name).expect("a usable configuration");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("memory is left");
    bytes
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

/// Asserts that it ended with status 78, and one line with these words.
fn refused(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

fn watch(variables: &[&str], url: &str) -> Output {
    run_words(&[&["env", "-u", "SSL_CERT_DIR"], variables, &[PROGRAM, "watch", url, "job"]].concat())
}

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
