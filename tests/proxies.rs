//! The monitor behind nginx, Apache httpd, Caddy and `HAProxy`, set up by the examples that are shipped: who comes
//! through them over TLS sees what is seen directly, and the monitor sees who that is. `tests/run` installs what this
//! needs.

mod common;

use std::fmt::Write as _;
use std::fs::{OpenOptions, read_to_string, write};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{panicking, sleep};
use std::time::Duration;

use common::{Broker, Monitor, PythonViewer, command, kill, open_directory, taken_port, task, until};
use tempfile::TempDir;

const JOB: &str = "student_5d1f";

/// After how many seconds of silence a server gives up on a connection: by default, and where a test outlasts that.
const TIMEOUT: u64 = 60;
const SHORT_TIMEOUT: u64 = 2;

/// Where the examples have the monitor.
const ADDRESS: &str = "127.0.0.1:4567";
const SOCKET: &str = "/run/recodex/monitor.sock";

/// An address of this machine's that no proxy has.
const CLIENT: &str = "127.0.0.9";

#[test]
fn nginx_relays_a_job_as_the_monitor_does() {
    relays_a_job_as_the_monitor_does(&NGINX);
}

#[test]
fn apache_relays_a_job_as_the_monitor_does() {
    relays_a_job_as_the_monitor_does(&APACHE);
}

#[test]
fn caddy_relays_a_job_as_the_monitor_does() {
    relays_a_job_as_the_monitor_does(&CADDY);
}

#[test]
fn haproxy_relays_a_job_as_the_monitor_does() {
    relays_a_job_as_the_monitor_does(&HAPROXY);
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
fn pings_keep_a_silent_viewer_behind_caddy() {
    pings_keep_a_silent_viewer(&CADDY);
}

#[test]
fn pings_keep_a_silent_viewer_behind_haproxy() {
    pings_keep_a_silent_viewer(&HAPROXY);
}

#[test]
fn nginx_relays_the_answer_to_a_plain_request() {
    relays_the_answer_to_a_plain_request(&NGINX);
}

#[test]
fn apache_relays_the_answer_to_a_plain_request() {
    relays_the_answer_to_a_plain_request(&APACHE);
}

#[test]
fn caddy_relays_the_answer_to_a_plain_request() {
    relays_the_answer_to_a_plain_request(&CADDY);
}

#[test]
fn haproxy_relays_the_answer_to_a_plain_request() {
    relays_the_answer_to_a_plain_request(&HAPROXY);
}

#[test]
fn the_monitor_sees_who_is_behind_nginx() {
    sees_who_it_is(&NGINX);
}

#[test]
fn the_monitor_sees_who_is_behind_apache() {
    sees_who_it_is(&APACHE);
}

#[test]
fn the_monitor_sees_who_is_behind_caddy() {
    sees_who_it_is(&CADDY);
}

#[test]
fn the_monitor_sees_who_is_behind_haproxy() {
    sees_who_it_is(&HAPROXY);
}

#[test]
fn the_monitor_sees_who_is_behind_nginx_at_a_unix_socket() {
    sees_who_it_is_at_a_unix_socket(&NGINX);
}

#[test]
fn the_monitor_sees_who_is_behind_apache_at_a_unix_socket() {
    sees_who_it_is_at_a_unix_socket(&APACHE);
}

#[test]
fn the_monitor_sees_who_is_behind_caddy_at_a_unix_socket() {
    sees_who_it_is_at_a_unix_socket(&CADDY);
}

#[test]
fn the_monitor_sees_who_is_behind_haproxy_at_a_unix_socket() {
    sees_who_it_is_at_a_unix_socket(&HAPROXY);
}

#[test]
fn nginx_passes_on_no_other_header_that_could_name_somebody() {
    passes_no_other_header_on(&NGINX);
}

#[test]
fn apache_passes_on_no_other_header_that_could_name_somebody() {
    passes_no_other_header_on(&APACHE);
}

#[test]
fn caddy_passes_on_no_other_header_that_could_name_somebody() {
    passes_no_other_header_on(&CADDY);
}

#[test]
fn haproxy_passes_on_no_other_header_that_could_name_somebody() {
    passes_no_other_header_on(&HAPROXY);
}

#[test]
fn the_monitor_sees_who_is_behind_haproxy_by_the_proxy_protocol_2() {
    sees_who_it_is_by_the_proxy_protocol("send-proxy-v2");
}

#[test]
fn the_monitor_sees_who_is_behind_haproxy_by_the_proxy_protocol_1() {
    sees_who_it_is_by_the_proxy_protocol("send-proxy");
}

/// As the example says, with `HAProxy`'s own version of HTTP, also where viewers have all places.
#[test]
fn haproxy_asks_whether_the_monitor_serves_viewers() {
    let monitor = Monitor::start("clients: {max: 1}\nlogger: {level: debug}\n");
    let last = "http-request del-header Forwarded";
    let checked = format!("{last}\n    option httpchk GET /healthz\n    default-server check inter 50ms fall 1 rise 1");
    let example = with_replaced(&HAPROXY.shipped(), last, &checked);
    assert!(HAPROXY.shipped().contains("#     option httpchk GET /healthz\n"));
    let proxy = Proxy::start(&HAPROXY, &at(&example, monitor.viewers), TIMEOUT);
    let checks = || monitor.logged(&["it was a health check"]).len();
    until("it asks", || (checks() > 2).then_some(()));
    let broker = Broker::connect(monitor.brokers);
    broker.send(&[JOB, "STARTED"]);
    let mut viewer = Viewer::through(&proxy, "/ws");
    assert_eq!(viewer.next(), command("STARTED"));
    let before = checks();
    until("it asks with the viewer there, too", || (checks() > before + 2).then_some(()));
    broker.send(&[JOB, "FINISHED"]);
    assert_eq!(viewer.next(), command("FINISHED"));
    assert_eq!(monitor.logged(&["WARNING"]), Vec::<String>::new());
}

/// What the examples say of another proxy in front, on the same machine: it connects from an address of its own, or its header is
/// passed on unchanged.
#[test]
fn the_monitor_sees_who_is_behind_haproxy_and_nginx_on_one_machine() {
    let added = ("X-Forwarded-For $remote_addr", "X-Forwarded-For $proxy_add_x_forwarded_for");
    let passed_on = ("X-Forwarded-For $remote_addr", "X-Forwarded-For $http_x_forwarded_for");
    for (trusted, source, (words, others)) in
        [("\"127.0.0.1\", \"127.0.0.2\"", " source 127.0.0.2", added), ("\"127.0.0.1\"", "", passed_on)]
    {
        let monitor = Monitor::start(&format!("trusted_proxies: [{trusted}]\nlogger: {{level: debug}}\n"));
        let inner = with_replaced(&at(&NGINX.shipped(), monitor.viewers), words, others);
        let inner = Proxy::start(&NGINX, &inner, TIMEOUT);
        let server = format!("127.0.0.1:{} ssl verify none{source}", inner.port);
        let outer = with_replaced(&HAPROXY.shipped(), ADDRESS, &server);
        knows_the_client(&monitor, &Proxy::start(&HAPROXY, &outer, TIMEOUT));
    }
}

#[test]
fn the_monitor_sees_who_is_behind_nginx_and_haproxy_on_one_machine() {
    let monitor = Monitor::start("trusted_proxies: [\"127.0.0.1\", \"127.0.0.2\"]\nlogger: {level: debug}\n");
    let set = "http-request set-header X-Forwarded-For %[src]";
    let inner = with_replaced(&at(&HAPROXY.shipped(), monitor.viewers), set, "option forwardfor");
    let inner = Proxy::start(&HAPROXY, &inner, TIMEOUT);
    let pass = format!("proxy_bind 127.0.0.2;\n    proxy_pass https://127.0.0.1:{}", inner.port);
    let outer = with_replaced(&NGINX.shipped(), &format!("proxy_pass http://{ADDRESS}"), &pass);
    knows_the_client(&monitor, &Proxy::start(&NGINX, &outer, TIMEOUT));
}

/// Else nobody could tell a proxy from a client on its machine that sends a header.
#[test]
fn behind_two_proxies_with_one_address_every_viewer_counts_as_them_and_it_is_said() {
    let monitor = Monitor::start("trusted_proxies: [\"127.0.0.1\"]\nlogger: {level: debug}\n");
    let words = ("X-Forwarded-For $remote_addr", "X-Forwarded-For $proxy_add_x_forwarded_for");
    let inner = with_replaced(&at(&NGINX.shipped(), monitor.viewers), words.0, words.1);
    let inner = Proxy::start(&NGINX, &inner, TIMEOUT);
    let server = format!("127.0.0.1:{} ssl verify none", inner.port);
    let outer = with_replaced(&HAPROXY.shipped(), ADDRESS, &server);
    comes_through(&monitor, &Proxy::start(&HAPROXY, &outer, TIMEOUT));
    monitor.wait_logged(&["INFO", "proxy 127.0.0.1:", "named itself in x-forwarded-for (proxy_header)"]);
    until("every viewer is logged as the proxy", || {
        (monitor.logged(&["viewer 127.0.0.1:", "subscribed"]).len() == PRETENDED.len() + 2).then_some(())
    });
}

fn relays_a_job_as_the_monitor_does(server: &Server) {
    let monitor = Monitor::start("clients: {ping_interval: 3600}\n"); // a ping would be a frame more
    let broker = Broker::connect(monitor.brokers);
    let proxy = Proxy::before(&monitor, server, TIMEOUT);
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
    let proxy = Proxy::before(&monitor, server, SHORT_TIMEOUT);
    broker.send(&[JOB, "STARTED"]);
    let mut viewer = Viewer::through(&proxy, "/ws");
    assert_eq!(viewer.next(), command("STARTED"));
    sleep(Duration::from_secs(3 * SHORT_TIMEOUT));
    broker.send(&[JOB, "FINISHED"]);
    assert_eq!(viewer.all()[..3], [command("STARTED"), command("FINISHED"), "closed 1000".to_owned()]);
}

fn relays_the_answer_to_a_plain_request(server: &Server) {
    let monitor = Monitor::start("");
    let proxy = Proxy::before(&monitor, server, TIMEOUT);
    for path in ["/ws", "/ws/"] {
        let answer = proxy.get(path);
        assert!(answer.starts_with("HTTP/1.1 426 "), "{path}: {answer}");
        assert!(answer.contains("\r\n\r\nThis is the WebSocket port of a ReCodEx monitor"), "{path}: {answer}");
    }
}

fn sees_who_it_is(server: &Server) {
    let monitor = Monitor::start("trusted_proxies: [\"127.0.0.1\"]\nlogger: {level: debug}\n");
    knows_the_client(&monitor, &Proxy::before(&monitor, server, TIMEOUT));
}

fn sees_who_it_is_at_a_unix_socket(server: &Server) {
    let directory = open_directory();
    let socket = directory.path().join("monitor.sock");
    let config = "websocket_mode: \"0666\"\ntrusted_proxies: [\"unix:\"]\nlogger: {level: debug}\n";
    let monitor = Monitor::start_unix(&socket, config);
    let example = with_instead(&server.shipped(), server.at_socket);
    let example = with_replaced(&example, SOCKET, socket.to_str().unwrap());
    knows_the_client(&monitor, &Proxy::start(server, &example, TIMEOUT));
}

/// Without X-Forwarded-For, so that the protocol alone tells.
fn sees_who_it_is_by_the_proxy_protocol(option: &str) {
    let config = "websocket_proxy_protocol: true\ntrusted_proxies: [\"127.0.0.1\"]\nlogger: {level: debug}\n";
    let monitor = Monitor::start(config);
    let example = with_instead(&HAPROXY.shipped(), &format!("server monitor {ADDRESS} send-proxy-v2"));
    let example = with_replaced(&at(&example, monitor.viewers), " send-proxy-v2", &format!(" {option}"));
    let example = with_replaced(&example, "http-request set-header X-Forwarded-For %[src]", "");
    knows_the_client(&monitor, &Proxy::start(&HAPROXY, &example, TIMEOUT));
}

/// What a client sends that would rather be somebody else.
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

/// Where the monitor believes a header that the example clears.
fn passes_no_other_header_on(server: &Server) {
    for header in ["x-real-ip", "forwarded"] {
        let config = format!("trusted_proxies: [\"127.0.0.1\"]\nproxy_header: {header}\nlogger: {{level: debug}}\n");
        let monitor = Monitor::start(&config);
        comes_through(&monitor, &Proxy::before(&monitor, server, TIMEOUT));
        until("every viewer is logged as the proxy", || {
            (monitor.logged(&["viewer 127.0.0.1:", "subscribed"]).len() == PRETENDED.len() + 2).then_some(())
        });
        assert_eq!(monitor.logged(&["viewer 203.0.113."]), Vec::<String>::new(), "{header}");
    }
}

/// nginx puts what a client sends as its host between quotes as it is, with the quotes and backslashes in it.
#[test]
fn a_host_in_nginxs_forwarded_makes_nobody_somebody_else() {
    const CLOSE: &[u8] = b"\x88\x80\0\0\0\0";
    let config = "trusted_proxies: [\"127.0.0.1\"]\nproxy_header: forwarded\nlogger: {level: debug}\n";
    let monitor = Monitor::start(config);
    let left = |name: &str| monitor.logged(&[&format!("viewer {name}"), "left: it closed"]).len();
    let cleared = "proxy_set_header Forwarded \"\";";
    let (mut of_client, mut of_proxy) = (0, 0);
    for set in [r#"'for=$remote_addr;host="$host"'"#, r#"'$http_forwarded,for=$remote_addr;host="$host"'"#] {
        let example = with_replaced(&NGINX.shipped(), cleared, &format!("proxy_set_header Forwarded {set};"));
        let proxy = Proxy::start(&NGINX, &at(&example, monitor.viewers), TIMEOUT);
        let adds = set.contains("http_forwarded");
        let comes = |host: &str, sent: &str| {
            let request = format!(
                "GET /ws HTTP/1.1\r\nHost: {host}\r\n{sent}Connection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            let answer = proxy.answers(CLIENT, &[request.as_bytes(), CLOSE].concat());
            assert!(answer.starts_with(b"HTTP/1.1 101 "), "{host}: {}", String::from_utf8_lossy(&answer));
        };
        // Where nginx adds to what the client sent, the list has two elements, and the host in it makes it worth nothing.
        comes("recodex.example.org", "");
        let known = if adds { &mut of_proxy } else { &mut of_client };
        *known += 1;
        for host in ["a,for=203.0.113.1;x=", "a\",for=203.0.113.1;host=\"b", "a\";for=\"203.0.113.1", "a\\", ";by=\"_x"]
        {
            comes(host, "Forwarded: for=203.0.113.2;host=\"\r\n");
            comes(host, "Forwarded: for=203.0.113.2\r\n");
            of_proxy += 2;
        }
    }
    until("all have left", || ((left(CLIENT), left("127.0.0.1:")) == (of_client, of_proxy)).then_some(()));
    assert_eq!(monitor.logged(&["viewer 203.0.113."]), Vec::<String>::new());
}

/// What differs between the servers.
struct Server {
    /// Runs it in the foreground, with server.conf in the directory $0 and its log on stderr.
    command: &'static str,
    /// What it logs once it listens.
    ready: &'static str,
    /// What is shipped.
    example: &'static str,
    /// The line of it, there as a comment, that reaches the monitor through its Unix socket.
    at_socket: &'static str,
    /// What to put into server.conf: TLS on a port, a timeout, and example.conf, whose text is given.
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

/// An example with a line that it has as a comment, instead of the one that says where the monitor is.
fn with_instead(example: &str, line: &str) -> String {
    let comment = format!("# {line}");
    assert_eq!(example.lines().filter(|line| line.trim() == comment).count(), 1, "one comment is {line}:\n{example}");
    let lines = example.lines().filter(|line| !says(line, ADDRESS));
    lines.map(|kept| if kept.trim() == comment { line } else { kept }).collect::<Vec<_>>().join("\n")
}

/// Whether this is no comment, and has these words.
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

    /// What a GET without an upgrade is answered.
    fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        String::from_utf8(self.answers("127.0.0.1", request.as_bytes())).unwrap()
    }

    /// What a client at this address is answered, until the server closes.
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
