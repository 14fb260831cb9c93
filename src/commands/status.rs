//! `status`: prints the status of a running monitor, from its status listener.

mod text;

use crate::commands::check::packaged_config;
use crate::commands::client::connect::unknown_host;
use crate::commands::terminal::print;
use crate::config::{Endpoint, Instance, RUNTIME_DIRECTORY, Source, default_socket};
use crate::deadline::timeout;
use crate::error::{Exit, Failure};
use crate::host_port::split_host_and_port;
use crate::net::first_byte::{FirstByte, NOTHING, Watched};
use crate::status::report::Report;
use crate::wire::first_byte::{TLS_ALERT, ZMTP};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::unistd::{AccessFlags, access};
use std::fmt;
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
    print(&text::of(&at.to_string(), &report))?;
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
}
