//! `status`: prints the status of a running monitor, from its status listener.

use crate::commands::check::packaged_config;
use crate::commands::client::connect::unknown_host;
use crate::commands::terminal::print;
use crate::config::{Endpoint, Instance, RUNTIME_DIRECTORY, Source, default_socket};
use crate::deadline::timeout;
use crate::error::{Exit, Failure};
use crate::host_port::split_host_and_port;
use crate::logging::escape;
use crate::metrics::process::Process;
use crate::net::first_byte::{FirstByte, NOTHING, Watched};
use crate::status::cluster::Cluster;
use crate::status::report::Report;
use crate::wire::first_byte::{TLS_ALERT, ZMTP};
use chrono::{DateTime, Local};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::unistd::{AccessFlags, access};
use std::fmt::{self, Write};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// The time limit for a monitor to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes. A report with fifty long warnings is shorter.
const LONGEST: usize = 1024 * 1024;

/// The beginning of the address of a Unix socket.
const UNIX: &str = "unix:";

/// The address of the status listener of the demo.
const DEFAULT: &str = "127.0.0.1:4568";

/// The address of a status listener.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Listener {
    /// `HOST:PORT`.
    Tcp(String),
    Unix(PathBuf),
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// Asks the monitor at `address`, or at the `status_uri` of the configuration `config` for `instance`, and prints its status. Without a
/// named configuration it takes the packages' one.
///
/// # Errors
/// [`Exit::Config`] if the configuration is wrong or has no status listener, [`Exit::Usage`] if `address` is wrong,
/// [`Exit::Unavailable`] if no monitor answers, [`Exit::Failed`] if the monitor is not ready, even if nobody reads the output to its end.
pub(crate) async fn run(
    config: Option<&Path>,
    instance: Option<&Instance>,
    address: Option<&str>,
) -> Result<(), Failure> {
    let at = match address {
        Some(typed) => listener(typed).map_err(|what| Failure::new(Exit::Usage, what))?,
        None => configured(config, instance)?,
    };
    let answer = timeout(PATIENCE, ask(&at)).await.unwrap_or_else(|_| Err("no answer within 5 s".into()));
    let report =
        answer.map_err(|what| Failure::new(Exit::Unavailable, format!("no status of a monitor at {at}: {what}")))?;
    print(&text(&at.to_string(), &report))?;
    match report.reason {
        Some(reason) if !report.ready => Err(Failure::new(Exit::Failed, format!("not ready: {reason}"))),
        _ => Ok(()),
    }
}

/// Returns the address of the status listener in a configuration. Without any, returns the socket of the packages' service or, if it is
/// not there, the address of the demo.
fn configured(config: Option<&Path>, instance: Option<&Instance>) -> Result<Listener, Failure> {
    let runtime = Path::new(RUNTIME_DIRECTORY);
    let Some(path) = config.or_else(packaged_config) else {
        let socket = default_socket(runtime, instance);
        let is_there = instance.is_some() || socket.exists();
        return Ok(if is_there { Listener::Unix(socket) } else { Listener::Tcp(DEFAULT.into()) });
    };
    let source = Source::new(path, instance.cloned()).with_runtime_directory(Some(runtime.into()));
    let settings = source.load().map_err(|e| {
        let hint = if config.is_some() || access(path, AccessFlags::R_OK).is_ok() {
            ""
        } else {
            "; run this as root or as a member of the group recodex, or name an address"
        };
        Failure::new(Exit::Config, format!("{e}{hint}"))
    })?;
    match settings.status_uri.endpoint() {
        None => {
            let what = "status_uri is false, so that the monitor cannot be asked; remove the line, or set an address, and restart the \
                        monitor";
            Err(Failure::new(Exit::Config, format!("{}: {what}", path.display())))
        }
        Some(Endpoint::Tcp(address)) => {
            let mut address = address.clone();
            if matches!(address.host.as_str(), "" | "*") {
                address.host = "localhost".into();
            }
            Ok(Listener::Tcp(address.to_string()))
        }
        Some(Endpoint::Unix(path)) => Ok(Listener::Unix(path.clone())),
    }
}

/// Returns the address that a user typed, which may be the URL of the status page.
fn listener(typed: &str) -> Result<Listener, String> {
    let expected = "expected HOST:PORT, such as 127.0.0.1:4568, or http://127.0.0.1:4568/, or unix:/PATH";
    let said = |what: &str| format!("{typed} is no address of a status listener: {what}; {expected}");
    let wrong = |what: &str| Err(said(what));
    if let Some(path) = typed.strip_prefix(UNIX) {
        return if path.starts_with('/') {
            Ok(Listener::Unix(path.into()))
        } else {
            wrong("its path does not begin with /")
        };
    }
    let (scheme, rest) = typed.split_once("://").unwrap_or(("http", typed));
    match scheme.to_ascii_lowercase().as_str() {
        "http" => {}
        "https" => return wrong("a status listener has no TLS"),
        "ws" | "wss" => return wrong("that is where viewers connect"),
        _ => return wrong("it begins with another scheme than http"),
    }
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !matches!(path, "" | "status") {
        return wrong(&format!("nothing is asked for at the path /{path}"));
    }
    split_host_and_port(address).map_err(|what| said(&what))?;
    Ok(Listener::Tcp(address.into()))
}

async fn ask(at: &Listener) -> Result<Report, String> {
    match at {
        Listener::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(|e| not_connected(&e, address))?;
            ask_through(stream, address).await
        }
        Listener::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(|e| no_unix(&e))?;
            ask_through(stream, "localhost").await
        }
    }
}

/// Asks through a connection to `host`.
async fn ask_through(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
) -> Result<Report, String> {
    let (stream, first) = Watched::new(stream);
    let no_http = |_| no_http(&first);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(no_http)?;
    let request = Request::get("/status").header(HOST, host).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(no_http)?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::UPGRADE_REQUIRED => {
            return Err("that is the port where viewers connect; ask at the status_uri".into());
        }
        StatusCode::BAD_REQUEST => {
            return Err(
                "it refuses plain HTTP, as the port where viewers connect does with TLS; ask at the status_uri".into(),
            );
        }
        StatusCode::MISDIRECTED_REQUEST => {
            return Err(
                "it does not know itself by this name: ask by address, or name the host in its status_uri".into()
            );
        }
        status => return Err(format!("it answers {status}")),
    }
    let body = Limited::new(response.into_body(), LONGEST).collect().await.map_err(|e| {
        let long = e.downcast_ref::<LengthLimitError>().map(|_| format!("its answer is longer than {LONGEST} bytes"));
        long.unwrap_or_else(|| "the server closed the connection within its answer".into())
    })?;
    serde_json::from_slice(&body.to_bytes()).map_err(|_| "its answer is not that of a monitor".into())
}

/// Explains why there is no TCP connection.
fn not_connected(error: &std::io::Error, address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            "nothing listens there; is the monitor running, and is its status_uri set to this address?".into()
        }
        // The error of a name that does not resolve has no error number.
        _ if error.raw_os_error().is_none() => unknown_host(host, error),
        _ => format!("{error}; is the monitor running, and is its status_uri set to this address?"),
    }
}

/// Explains why there is no connection to a Unix socket.
fn no_unix(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => {
            "nobody listens there; is the monitor running? If it is, its log says where it listens for status requests"
                .into()
        }
        ErrorKind::PermissionDenied => {
            format!("{error}; ask as the user or a member of the group that the monitor runs as, or as root")
        }
        _ => error.to_string(),
    }
}

/// Describes a port that does not answer by HTTP.
fn no_http(first: &FirstByte) -> String {
    match first.get() {
        ZMTP => "that is the port where brokers connect; ask at the status_uri".into(),
        TLS_ALERT => "the port speaks TLS, which a status listener does not; ask at the status_uri".into(),
        NOTHING => "the server closed the connection without an answer; is it the status_uri of a monitor?".into(),
        _ => "its answer is no HTTP; is it the status_uri of a monitor?".into(),
    }
}

/// Formats a report for people.
fn text(address: &str, report: &Report) -> String {
    let Report { viewers, brokers, channels, history, totals, .. } = report;
    let state = match &report.reason {
        Some(reason) if !report.ready => format!("NOT READY: {}", escape(reason)),
        _ => "ready".into(),
    };
    // The address is from a file that recodex may write.
    let mut out = format!("recodex-monitor {} at {}: {state}\n", escape(&report.version), escape(address));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12}{value}");
    };
    line("up", format!("{}, since {}", duration(report.uptime), time(report.started)));
    line("brokers", format!("{} of {}", brokers.now, brokers.max));
    for broker in &brokers.connected {
        line("", format!("{} since {}", escape(&broker.address), time(broker.since)));
    }
    line("viewers", format!("{} of {}", viewers.now, viewers.max));
    line(
        "channels",
        format!("{} open, {} finished, {} over and still read", channels.open, channels.finished, channels.draining),
    );
    line("history", format!("{} of {}", bytes(history.bytes as u64), bytes(history.max as u64)));
    let messages = |n| count(n, "message", "messages");
    if let Some(cluster) = &report.cluster {
        line("cluster", cluster_line(cluster));
        line("", cluster_lag(cluster));
        line("", cluster_counts(cluster));
    }
    line("received", format!("{}, {}", messages(totals.messages_received), bytes(totals.bytes_received)));
    line(
        "sent",
        format!(
            "{}, {}; {} replayed",
            messages(totals.messages_sent),
            bytes(totals.bytes_sent),
            totals.messages_replayed
        ),
    );
    let bad = [
        ("viewer refused", "viewers refused", totals.viewers_refused),
        ("viewer lost", "viewers lost", totals.viewers_lost),
        ("link refused", "links refused", totals.links_refused),
        ("malformed message", "malformed messages", totals.malformed),
        ("channel evicted", "channels evicted", totals.channels_evicted),
    ];
    let bad: Vec<_> = bad.iter().filter(|(.., n)| *n > 0).map(|(one, many, n)| count(*n, one, many)).collect();
    line("trouble", if bad.is_empty() { "none".into() } else { bad.join(", ") });
    if let Some(process) = &report.process {
        line("process", process_line(process, report.uptime));
    }
    if let Some(certificate) = &report.certificate {
        let path = escape(&certificate.path.display().to_string());
        line("certificate", format!("{path}, until {}", time(certificate.expires)));
    }
    line(
        "warnings",
        if report.warnings.is_empty() { "none".into() } else { format!("the last {}", report.warnings.len()) },
    );
    for notice in &report.warnings {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time of today")]
        let at = time(notice.time as u64);
        line("", format!("{at} {}: {}", escape(&notice.level), escape(&notice.text)));
    }
    out
}

/// Describes what the process takes from the machine. `uptime` is in seconds.
fn process_line(process: &Process, uptime: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "the seconds of years need fewer than 52 bits")]
    let share = 100.0 * process.cpu_seconds / uptime.max(1) as f64;
    format!(
        "{}, {share:.1} % of a core since the start, {} of {} descriptors",
        bytes(process.resident_memory_bytes),
        process.open_fds,
        process.max_fds
    )
}

/// Describes the way of a node to its stream.
fn cluster_line(cluster: &Cluster) -> String {
    let waiting = format!("{} of {} wait", bytes(cluster.buffer_bytes as u64), bytes(cluster.buffer_max as u64));
    match (&cluster.server, &cluster.reason) {
        (Some(server), None) => format!(
            "Redis {} ({}), read up to {}; {} in {}; {waiting}",
            escape(server),
            escape(cluster.role.as_deref().unwrap_or("?")),
            escape(&cluster.position),
            count(cluster.stream_entries, "entry", "entries"),
            bytes(cluster.stream_bytes)
        ),
        (Some(server), Some(reason)) => format!("Redis {}: {}; {waiting}", escape(server), escape(reason)),
        (None, reason) => {
            format!("no Redis: {}; {waiting}", escape(reason.as_deref().unwrap_or("not connected yet")))
        }
    }
}

/// Describes the entries that a node has not read, and the batches that it keeps.
fn cluster_lag(cluster: &Cluster) -> String {
    let entries = match cluster.lag_entries {
        Some(entries) => format!("{} and ", count(entries, "entry", "entries")),
        None => String::new(),
    };
    let kept = count(cluster.kept_batches as u64, "batch", "batches");
    format!("{entries}{:.1} s behind; {kept} kept", cluster.lag_seconds)
}

/// Describes what has happened to the stream since the start.
fn cluster_counts(cluster: &Cluster) -> String {
    let counts = [
        (cluster.reconnects, "reconnect", "reconnects"),
        (cluster.failovers, "failover", "failovers"),
        (cluster.gaps, "gap", "gaps"),
        (cluster.epochs, "new stream", "new streams"),
        (cluster.reappended, "batch put back", "batches put back"),
        (cluster.repeated, "batch sent again", "batches sent again"),
        (cluster.trimmed_by_bound, "entry trimmed by the bound", "entries trimmed by the bound"),
    ];
    counts.map(|(n, one, many)| count(n, one, many)).join(", ")
}

fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    time.map_or_else(|| "?".into(), |time| time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string())
}

/// Formats a duration by its two largest units.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return count(bytes, "byte", "bytes");
    }
    let unit = (bytes.ilog2() as usize / 10).min(units.len());
    let tenths = (u128::from(bytes) * 10) >> (10 * unit);
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_the_url_of_the_page() {
        for typed in ["a:1", "http://a:1", "http://a:1/", "HTTP://a:1/status"] {
            assert_eq!(listener(typed), Ok(Listener::Tcp("a:1".into())), "{typed}");
        }
        assert_eq!(listener("http://[::1]:4568/"), Ok(Listener::Tcp("[::1]:4568".into())));
        assert_eq!(listener("unix:/run/a.sock"), Ok(Listener::Unix("/run/a.sock".into())));
        for (typed, said) in [
            ("https://a:1/", "has no TLS"),
            ("ws://a:1/", "where viewers connect"),
            ("ftp://a:1/", "another scheme"),
            ("http://a:1/metrics", "the path /metrics"),
            ("a", "no port"),
            ("", "no port"),
            ("unix:a.sock", "does not begin with /"),
            (":4568", "no host"),
            ("::1:4568", "brackets"),
            ("http://user:pw@127.0.0.1:4568/", "leave out what stands before the @"),
            ("a:0", "port is 0"),
            ("a:http", "port is http"),
            ("a:65536", "port is 65536"),
        ] {
            let error = listener(typed).unwrap_err();
            assert!(error.contains(said) && error.contains("expected HOST:PORT"), "{typed}: {error}");
        }
    }

    #[test]
    fn the_share_of_a_core_is_that_of_all_the_time_since_the_start() {
        let process = Process {
            resident_memory_bytes: 25_500_000,
            virtual_memory_bytes: 1 << 30,
            cpu_seconds: 0.9,
            open_fds: 61,
            max_fds: 131_072,
        };
        let line = "24.3 MiB, 0.4 % of a core since the start, 61 of 131072 descriptors";
        assert_eq!(process_line(&process, 225), line);
        assert!(process_line(&process, 0).contains(" 90.0 % of a core"), "within the first second");
    }

    #[test]
    fn a_node_shows_its_lag_and_all_its_counts() {
        let mut cluster = Cluster {
            server: Some("192.0.2.1:6379".into()),
            role: Some("primary".into()),
            connected: true,
            caught_up: true,
            reason: None,
            position: "1700000000123-4".into(),
            last: "1700000000123-7".into(),
            lag_seconds: 0.44,
            lag_entries: Some(3),
            buffer_bytes: 0,
            buffer_max: 64 << 20,
            kept_batches: 1,
            stream_entries: 1,
            stream_bytes: 1536,
            reconnects: 1,
            failovers: 2,
            gaps: 3,
            epochs: 4,
            reappended: 5,
            repeated: 6,
            trimmed_by_bound: 7,
        };
        let line =
            "Redis 192.0.2.1:6379 (primary), read up to 1700000000123-4; 1 entry in 1.5 KiB; 0 bytes of 64.0 MiB wait";
        assert_eq!(cluster_line(&cluster), line);
        assert_eq!(cluster_lag(&cluster), "3 entries and 0.4 s behind; 1 batch kept");
        let counts = "1 reconnect, 2 failovers, 3 gaps, 4 new streams, 5 batches put back, 6 batches sent again, \
                      7 entries trimmed by the bound";
        assert_eq!(cluster_counts(&cluster), counts);
        (cluster.reason, cluster.lag_entries) = (Some("why".into()), None);
        assert_eq!(cluster_line(&cluster), "Redis 192.0.2.1:6379: why; 0 bytes of 64.0 MiB wait");
        assert_eq!(cluster_lag(&cluster), "0.4 s behind; 1 batch kept");
        (cluster.server, cluster.role) = (None, None);
        assert_eq!(cluster_line(&cluster), "no Redis: why; 0 bytes of 64.0 MiB wait");
    }

    #[test]
    fn times_and_sizes_are_written_for_people() {
        let lengths = [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3_600, "1 h 0 min"), (90_000, "1 d 1 h")];
        assert!(lengths.iter().all(|(seconds, text)| duration(*seconds) == *text));
        let sizes = [
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ];
        for (count, text) in sizes {
            assert_eq!(bytes(count), text);
        }
    }
}
