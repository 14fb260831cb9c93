//! The monitor behind nginx and Apache httpd, set up by the examples that are shipped: who comes through them over TLS
//! sees what is seen directly. `tests/run` installs what this needs.

mod common;

use std::fmt::Write as _;
use std::fs::{OpenOptions, read_to_string, write};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{panicking, sleep};
use std::time::Duration;

use common::{Broker, Monitor, PythonViewer, command, kill, taken_port, task, until};
use tempfile::TempDir;

const JOB: &str = "student_5d1f";

/// After how many seconds of silence a server gives up on a connection: by default, and where a test outlasts that.
const TIMEOUT: u64 = 60;
const SHORT_TIMEOUT: u64 = 2;

#[test]
fn nginx_relays_a_job_as_the_monitor_does() {
    relays_a_job_as_the_monitor_does(&NGINX);
}

#[test]
fn apache_relays_a_job_as_the_monitor_does() {
    relays_a_job_as_the_monitor_does(&APACHE);
}

#[test]
fn pings_keep_a_silent_viewer_behind_nginx() {
    pings_keep_a_silent_viewer(&NGINX);
}

#[test]
fn pings_keep_a_silent_viewer_behind_apache() {
    pings_keep_a_silent_viewer(&APACHE);
}

#[test]
fn nginx_relays_the_answer_to_a_plain_request() {
    relays_the_answer_to_a_plain_request(&NGINX);
}

#[test]
fn apache_relays_the_answer_to_a_plain_request() {
    relays_the_answer_to_a_plain_request(&APACHE);
}

fn relays_a_job_as_the_monitor_does(server: &Server) {
    let monitor = Monitor::start("clients: {ping_interval: 3600}\n"); // a ping would be a frame more
    let broker = Broker::connect(monitor.brokers);
    let proxy = Proxy::start(server, &monitor, TIMEOUT);
    let viewers = || [Viewer::direct(&monitor), Viewer::through(&proxy, "/ws"), Viewer::through(&proxy, "/ws/")];

    broker.send(&[JOB, "STARTED"]);
    let mut live = viewers();
    let mut expected = vec![command("STARTED")];
    // Frames whose lengths take one, three and nine bytes.
    for id in ["compile".to_owned(), "run ".repeat(50), "ú".repeat(30_000), "judge".to_owned()] {
        for viewer in &mut live {
            assert_eq!(Some(&viewer.next()), expected.last());
        }
        broker.task(JOB, &id);
        expected.push(task(&id.replace('ú', "\\u00fa"), "COMPLETED"));
    }
    broker.send(&[JOB, "FINISHED"]);
    expected.extend([command("FINISHED"), "closed 1000".to_owned()]);

    let lines: Vec<_> = live.into_iter().chain(viewers()).map(Viewer::all).collect();
    assert_eq!(lines[0][..expected.len()], expected);
    for (index, lines_of_one) in lines.iter().enumerate() {
        assert_eq!(lines_of_one, &lines[0], "viewer {index}");
    }
}

fn pings_keep_a_silent_viewer(server: &Server) {
    let monitor = Monitor::start("clients: {ping_interval: 0.3}\n");
    let broker = Broker::connect(monitor.brokers);
    let proxy = Proxy::start(server, &monitor, SHORT_TIMEOUT);
    broker.send(&[JOB, "STARTED"]);
    let mut viewer = Viewer::through(&proxy, "/ws");
    assert_eq!(viewer.next(), command("STARTED"));
    sleep(Duration::from_secs(3 * SHORT_TIMEOUT));
    broker.send(&[JOB, "FINISHED"]);
    assert_eq!(viewer.all()[..3], [command("STARTED"), command("FINISHED"), "closed 1000".to_owned()]);
}

fn relays_the_answer_to_a_plain_request(server: &Server) {
    let monitor = Monitor::start("");
    let proxy = Proxy::start(server, &monitor, TIMEOUT);
    for path in ["/ws", "/ws/"] {
        let answer = proxy.get(path);
        assert!(answer.starts_with("HTTP/1.1 426 "), "{path}: {answer}");
        assert!(answer.contains("\r\n\r\nThis is the WebSocket port of a ReCodEx monitor"), "{path}: {answer}");
    }
}

/// What differs between the servers.
struct Server {
    /// Runs it in the foreground, with server.conf in the directory $0 and its log on stderr.
    command: &'static str,
    /// What it logs once it listens.
    ready: &'static str,
    /// What is shipped.
    example: &'static str,
    /// What to put into server.conf: TLS on a port, a timeout, and example.conf, whose text is given.
    config: fn(u16, u64, &str) -> String,
}

const NGINX: Server = Server {
    command: r#"nginx -e stderr -p "$0" -c server.conf"#,
    ready: "start worker process ",
    example: "nginx.conf",
    config: nginx_config,
};

const APACHE: Server = Server {
    command: r#""$(command -v apache2 || command -v httpd)" -D FOREGROUND -d "$0" -f server.conf"#,
    ready: "resuming normal operations",
    example: "apache.conf",
    config: apache_config,
};

fn nginx_config(port: u16, timeout: u64, _: &str) -> String {
    format!(
        "daemon off;
        pid nginx.pid;
        error_log stderr notice;
        events {{}}
        http {{
            access_log off;
            client_body_temp_path temp1; proxy_temp_path temp2; fastcgi_temp_path temp3;
            uwsgi_temp_path temp4; scgi_temp_path temp5;
            server {{
                listen 127.0.0.1:{port} ssl;
                ssl_certificate certificate.pem;
                ssl_certificate_key key.pem;
                proxy_read_timeout {timeout}s;
                include example.conf;
            }}
        }}"
    )
}

fn apache_config(port: u16, timeout: u64, example: &str) -> String {
    let mut places = ["/usr/lib/apache2/modules", "/etc/httpd/modules"].into_iter();
    let modules = places.find(|path| Path::new(path).is_dir()).expect("Debian's or Fedora's place");
    let named = example.lines().find_map(|line| line.split_once("a2enmod ")).expect("the modules it needs").1;
    let mut config = String::new();
    for module in ["mpm_event", "unixd", "authz_core", "ssl"].into_iter().chain(named.split(' ')) {
        let load = format!("LoadModule {module}_module {modules}/mod_{module}.so");
        writeln!(config, "<IfModule !{module}_module>\n{load}\n</IfModule>").unwrap();
    }
    // The user, by nobody's number, is for root only.
    config
        + &format!(
            "ServerName 127.0.0.1
            DefaultRuntimeDir .
            PidFile apache.pid
            ErrorLog /dev/stderr
            User #65534
            Group #65534
            Timeout {timeout}
            Listen 127.0.0.1:{port}
            <VirtualHost 127.0.0.1:{port}>
                SSLEngine on
                SSLCertificateFile certificate.pem
                SSLCertificateKeyFile key.pem
                Include example.conf
            </VirtualHost>"
        )
}

/// A server with the monitor behind it.
struct Proxy {
    process: Child,
    port: u16,
    directory: TempDir,
}

impl Proxy {
    /// Starts one that gives up on a connection after so many seconds of silence.
    fn start(server: &Server, monitor: &Monitor, timeout: u64) -> Self {
        let mut tries = (0..10).map(|_| {
            let port = taken_port().1.port(); // free from here on, for anybody to take
            Self::on(port, server, monitor, timeout)
        });
        tries.find_map(|proxy| proxy).expect("a port that stays free")
    }

    /// Starts one on this port; `None` if that is taken.
    fn on(port: u16, server: &Server, monitor: &Monitor, timeout: u64) -> Option<Self> {
        let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/usr/share/doc/recodex-monitor/examples");
        let example = read_to_string(Path::new(examples).join(server.example)).unwrap();
        assert_eq!(example.matches("127.0.0.1:4567").count(), 1, "it says in one place where the monitor is");
        let example = example.replace("127.0.0.1:4567", &monitor.viewers.to_string());

        let directory = TempDir::new().unwrap();
        let path = |name| directory.path().join(name);
        write(path("server.conf"), (server.config)(port, timeout, &example)).unwrap();
        write(path("example.conf"), example).unwrap();
        let script = format!(
            r#"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test \
                -addext subjectAltName=IP:127.0.0.1 -keyout "$0/key.pem" -out "$0/certificate.pem" &&
            PATH=$PATH:/usr/sbin && exec setpriv --pdeathsig TERM {}"#,
            server.command
        );
        let process = Command::new("sh")
            .args(["-c", &script])
            .arg(directory.path())
            .stdin(Stdio::null())
            .stderr(OpenOptions::new().create(true).append(true).open(path("log")).unwrap())
            .spawn()
            .unwrap();
        let mut proxy = Self { process, port, directory };
        let listens = until("the server listens", || {
            let ended = proxy.process.try_wait().unwrap();
            let log = proxy.log();
            if log.contains("Address already in use") {
                return Some(false);
            }
            assert_eq!(ended, None, "the server has ended");
            log.contains(server.ready).then_some(true)
        });
        listens.then_some(proxy)
    }

    fn log(&self) -> String {
        read_to_string(self.directory.path().join("log")).unwrap()
    }

    fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    /// What a GET without an upgrade is answered.
    fn get(&self, path: &str) -> String {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_quiet", "-verify_return_error", "-servername", "test", "-CAfile"])
            .arg(self.certificate())
            .args(["-connect", &format!("127.0.0.1:{}", self.port)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        client.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
        String::from_utf8(client.wait_with_output().unwrap().stdout).unwrap()
    }
}

impl Drop for Proxy {
    /// Asks it to go, since one that is killed leaves its workers behind.
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            kill(self.process.id(), "TERM");
            let _ = self.process.wait();
        }
        if panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// `tests/foreign/tls_viewer.py`, watching the job.
struct Viewer {
    python: PythonViewer,
    seen: Vec<String>,
}

impl Viewer {
    fn direct(monitor: &Monitor) -> Self {
        Self::start(&format!("ws://{}", monitor.viewers), None)
    }

    fn through(proxy: &Proxy, path: &str) -> Self {
        Self::start(&format!("wss://127.0.0.1:{}{path}", proxy.port), Some(proxy.certificate()))
    }

    fn start(url: &str, certificate: Option<PathBuf>) -> Self {
        let arguments = [url.into(), JOB.into()].into_iter().chain(certificate);
        Self { python: PythonViewer::start("tls_viewer.py", arguments), seen: Vec::new() }
    }

    fn next(&mut self) -> String {
        let line = self.python.next();
        self.seen.push(line.clone());
        line
    }

    /// Every line, from the first to the last.
    fn all(self) -> Vec<String> {
        [self.seen, self.python.rest()].concat()
    }
}
