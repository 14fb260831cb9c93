//! The monitor behind nginx, Apache httpd, Caddy and `HAProxy`, set up by the examples in the packages. A client behind one of them
//! over TLS gets the same as a client without it, and the monitor knows the client's address. `tests/run` installs what this needs.

/// Tests that do the same with one server each.
macro_rules! with_each {
    ($(fn $name:ident() = $test:ident(&$server:ident);)*) => {
        $(#[test] fn $name() { $test(&$server); })*
    };
}

mod chains;
mod client_address;
mod relaying;

use crate::common::{Broker, Monitor, PythonViewer, command, kill, taken_port, until};
use std::fmt::Write as _;
use std::fs::{OpenOptions, read_to_string, write};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::panicking;
use tempfile::TempDir;

const JOB: &str = "student_5d1f";

/// After how many seconds of silence a server gives up on a connection: by default, and where a test outlasts that.
const TIMEOUT: u64 = 60;

/// The address of the monitor in the examples.
const ADDRESS: &str = "127.0.0.1:4567";

/// An address of this machine's that no proxy has.
const CLIENT: &str = "127.0.0.9";

/// The headers of a client that claims another address.
const PRETENDED: [&str; 5] = [
    "X-Forwarded-For: 203.0.113.7",
    "x-forwarded-for: 203.0.113.8, 127.0.0.1",
    "X-Real-IP: 203.0.113.9",
    "Forwarded: for=203.0.113.10",
    "Forwarded: for=203.0.113.11;x=\"",
];

fn knows_the_client(monitor: &Monitor, proxy: &Proxy) {
    comes_through(monitor, proxy);
    let known = [&format!("viewer {CLIENT}"), "subscribed"];
    until("every viewer is logged as the client", || {
        (monitor.logged(&known).len() == PRETENDED.len() + 2).then_some(())
    });
    assert_eq!(monitor.logged(&["viewer 127.0.0.1"]), Vec::<String>::new());
    assert_eq!(monitor.logged(&["viewer 203.0.113."]), Vec::<String>::new());
}

/// The client watches the job, without such a header, with each of them, and with all.
fn comes_through(monitor: &Monitor, proxy: &Proxy) {
    let broker = Broker::connect(monitor.brokers);
    broker.send(&[JOB, "STARTED"]);
    for headers in PRETENDED.chunks(1).chain([&PRETENDED[..0], &PRETENDED]) {
        let mut viewer = Viewer::from(CLIENT, proxy, headers);
        assert_eq!(viewer.next(), command("STARTED"));
    }
}

/// The differences between the servers.
struct Server {
    /// Runs it in the foreground, with server.conf in the directory $0 and its log on stderr.
    command: &'static str,
    /// The text that it logs once it listens.
    ready: &'static str,
    /// The example in the packages.
    example: &'static str,
    /// The line of it, there as a comment, that reaches the monitor through its Unix socket.
    at_socket: &'static str,
    /// Returns the content of server.conf: TLS on a port, a timeout, and example.conf, whose text is given.
    config: fn(u16, u64, &str) -> String,
}

impl Server {
    fn shipped(&self) -> String {
        let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/usr/share/doc/recodex-monitor/examples");
        read_to_string(Path::new(examples).join(self.example)).unwrap()
    }
}

/// An example for a monitor at this address.
fn at(example: &str, viewers: SocketAddr) -> String {
    with_replaced(example, ADDRESS, &viewers.to_string())
}

/// An example with other words for some that one line has.
fn with_replaced(example: &str, words: &str, others: &str) -> String {
    assert_eq!(example.lines().filter(|line| says(line, words)).count(), 1, "one line says {words}:\n{example}");
    example.replace(words, others)
}

/// Returns true if the line is not a comment, and has these words.
fn says(line: &str, words: &str) -> bool {
    !line.trim_start().starts_with('#') && line.contains(words)
}

const NGINX: Server = Server {
    command: r#"nginx -e stderr -p "$0" -c server.conf"#,
    ready: "start worker process ",
    example: "nginx.conf",
    at_socket: "proxy_pass http://unix:/run/recodex/monitor.sock:;",
    config: nginx_config,
};

const APACHE: Server = Server {
    command: r#""$(command -v apache2 || command -v httpd)" -D FOREGROUND -d "$0" -f server.conf"#,
    ready: "resuming normal operations",
    example: "apache.conf",
    at_socket: r#"ProxyPass "/ws" "unix:/run/recodex/monitor.sock|http://localhost/ws" upgrade=websocket"#,
    config: apache_config,
};

const CADDY: Server = Server {
    command: r#"env -C "$0" XDG_CONFIG_HOME=. XDG_DATA_HOME=. caddy run --adapter caddyfile --config server.conf"#,
    ready: "serving initial configuration",
    example: "caddy.conf",
    at_socket: "reverse_proxy unix//run/recodex/monitor.sock {",
    config: caddy_config,
};

const HAPROXY: Server = Server {
    command: r#"haproxy -W -db -C "$0" -f server.conf"#,
    ready: "Loading success",
    example: "haproxy.cfg",
    at_socket: "server monitor unix@/run/recodex/monitor.sock",
    config: haproxy_config,
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

fn caddy_config(port: u16, timeout: u64, _: &str) -> String {
    // What is said of HTTP/3 keeps its UDP port taken; TCP ports are shared between processes of Caddy.
    format!(
        "{{
            admin off
            auto_https off
            servers {{
                protocols h1 h2 h3
                timeouts {{
                    read_header {timeout}s
                    read_body {timeout}s
                    write {timeout}s
                    idle {timeout}s
                }}
            }}
        }}
        :{port} {{
            bind 127.0.0.1
            tls certificate.pem key.pem
            import example.conf
        }}"
    )
}

fn haproxy_config(port: u16, timeout: u64, example: &str) -> String {
    let rule = example.lines().find_map(|line| line.split_once("use_backend recodex-monitor ")).expect("a rule").1;
    let backend = with_replaced(example, "timeout tunnel 60s", &format!("timeout tunnel {timeout}s"));
    format!(
        "global
            noreuseport
        defaults
            timeout connect 60s
            timeout client {timeout}s
            timeout server {timeout}s
        frontend web
            mode http
            bind 127.0.0.1:{port} ssl crt both.pem
            use_backend recodex-monitor {rule}
        {backend}\n"
    )
}

/// A server with the monitor behind it.
struct Proxy {
    process: Child,
    port: u16,
    directory: TempDir,
}

impl Proxy {
    /// Starts one before this monitor, by what is shipped.
    fn before(monitor: &Monitor, server: &Server, timeout: u64) -> Self {
        Self::start(server, &at(&server.shipped(), monitor.viewers), timeout)
    }

    /// Starts one that gives up on a connection after so many seconds of silence.
    fn start(server: &Server, example: &str, timeout: u64) -> Self {
        let mut tries = (0..10).map(|_| {
            let port = taken_port().1.port(); // free from here on, for anybody to take
            Self::on(port, server, example, timeout)
        });
        tries.find_map(|proxy| proxy).expect("a port that stays free")
    }

    /// Starts one on this port; `None` if that is taken.
    fn on(port: u16, server: &Server, example: &str, timeout: u64) -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let path = |name| directory.path().join(name);
        write(path("server.conf"), (server.config)(port, timeout, example)).unwrap();
        write(path("example.conf"), example).unwrap();
        let script = format!(
            r#"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test \
                -addext subjectAltName=IP:127.0.0.1 -keyout "$0/key.pem" -out "$0/certificate.pem" &&
            cat "$0/certificate.pem" "$0/key.pem" >"$0/both.pem" &&
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
            if log.to_lowercase().contains("address already in use") {
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

    /// Returns the answer to a GET without an upgrade.
    fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        String::from_utf8(self.answers("127.0.0.1", request.as_bytes())).unwrap()
    }

    /// Returns the bytes that a client at this address gets, until the server closes.
    fn answers(&self, address: &str, sent: &[u8]) -> Vec<u8> {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_quiet", "-verify_return_error", "-servername", "test", "-CAfile"])
            .arg(self.certificate())
            .args(["-bind", &format!("{address}:0"), "-connect", &format!("127.0.0.1:{}", self.port)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        client.stdin.take().unwrap().write_all(sent).unwrap();
        client.wait_with_output().unwrap().stdout
    }
}

impl Drop for Proxy {
    /// Asks the server to end: if it were killed, its workers would go on running.
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

    /// One that connects from this address, with more headers in its request.
    fn from(address: &str, proxy: &Proxy, headers: &[&str]) -> Self {
        let url = format!("wss://127.0.0.1:{}/ws", proxy.port);
        let arguments = [url.into(), JOB.into(), proxy.certificate(), address.into()];
        let arguments = arguments.into_iter().chain(headers.iter().map(PathBuf::from));
        Self { python: PythonViewer::start("tls_viewer.py", arguments), seen: Vec::new() }
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
