//! Connects to a monitor's WebSocket by TCP, TLS and the handshake, and explains each failure in plain words.

use crate::commands::client::handshake::shake_hands;
use crate::commands::client::monitor_url::MonitorUrl;
use crate::deadline::timeout;
use crate::error::{Exit, Failure};
use crate::net::client_tls::{self, CaSetting};
use crate::net::first_byte::{FirstByte, NOTHING, Watched};
use crate::wire::first_byte::{HTTP, TLS_ALERT, TLS_RECORDS, ZMTP};
use nix::libc::{EMFILE, ENFILE};
use rustls::pki_types::ServerName;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::rustls;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::header::LOCATION;

/// The time limit for each step.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most characters that are shown of a server's answer.
const MAX_SHOWN: usize = 200;

/// A byte stream to a monitor.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// A WebSocket to a monitor.
pub(crate) type Socket = WebSocketStream<Box<dyn Transport>>;

/// Connects to the WebSocket at `url`. Certificates in the PEM file `ca` are trusted in addition to the system's.
///
/// # Errors
/// [`Exit::Usage`] if `url` is no `ws://` or `wss://` URL, or `ca` is wrong; [`Exit::Unavailable`] if no monitor answers, or a step
/// takes longer than 5 s.
pub(crate) async fn connect(url: &str, ca: Option<&Path>) -> Result<Socket, Failure> {
    let to = MonitorUrl::parse(url).map_err(|what| Failure::new(Exit::Usage, what))?;
    if ca.is_some() && !to.tls {
        let what = format!("--ca is for TLS, and {url} has none; expected a URL that begins with wss://");
        return Err(Failure::new(Exit::Usage, what));
    }
    let connector = if to.tls { Some(client_tls::connector(ca, CaSetting::Option, &[b"http/1.1"])?) } else { None };
    let unavailable = |what: String| Failure::new(Exit::Unavailable, format!("cannot watch at {url}: {what}"));
    let late = |what: &str, hint: &str| unavailable(format!("{what} within {} s{hint}", CONNECT_TIMEOUT.as_secs()));

    let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect((to.host(), to.port))).await;
    let tcp =
        tcp.map_err(|_| late("the machine does not answer", ""))?.map_err(|e| unavailable(not_connected(&e, &to)))?;
    let (tcp, first) = Watched::new(tcp);
    let stream: Box<dyn Transport> = match connector {
        None => Box::new(tcp),
        Some(connector) => {
            let name = ServerName::try_from(to.host().to_owned());
            let name = name.map_err(|_| unavailable(format!("{} is no host name that TLS knows", to.host())))?;
            let stream = timeout(CONNECT_TIMEOUT, connector.connect(name, tcp)).await;
            let stream = stream.map_err(|_| late("no answer to the TLS handshake", &no_tls(&to, &first)))?;
            Box::new(stream.map_err(|e| unavailable(no_session(&e, &to, &first)))?)
        }
    };
    let connected = timeout(CONNECT_TIMEOUT, shake_hands(to.uri.clone(), stream)).await;
    let connected = connected.map_err(|_| late("no answer to the WebSocket handshake", "; is it a monitor?"))?;
    connected.map_err(|e| unavailable(no_websocket(&e, &to, &first)))
}

/// The description of a port that speaks ZeroMQ.
const BROKERS: &str = "that is the port where brokers connect; use that of viewers (websocket_uri)";

/// Explains why there is no TCP connection.
fn not_connected(error: &io::Error, to: &MonitorUrl) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            format!(
                "nothing listens at port {} of {}; is the monitor running, and is this its address?",
                to.port,
                to.host()
            )
        }
        // The error of a name that does not resolve has no error number.
        _ if error.raw_os_error().is_none() => unknown_host(to.host(), error),
        _ if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
            format!("{error}; raise the limit of open files (ulimit -n)")
        }
        _ => format!("{error}; is the monitor running, and is this its address?"),
    }
}

/// Explains that a name does not resolve.
pub(crate) fn unknown_host(host: &str, error: &io::Error) -> String {
    format!("the host {host} is not known ({error}); is it spelt right?")
}

/// Explains why there is no TLS session.
fn no_session(error: &io::Error, to: &MonitorUrl, first: &FirstByte) -> String {
    if TLS_RECORDS.contains(&first.get()) {
        return client_tls::explain(error);
    }
    format!("there was no TLS handshake{}", no_tls(to, first))
}

/// Explains that a port does not speak TLS, or may not, and names the URL to use.
fn no_tls(to: &MonitorUrl, first: &FirstByte) -> String {
    let plain = to.with_scheme("ws");
    match first.get() {
        NOTHING => format!(" (if the port does not speak TLS, use {plain})"),
        ZMTP => format!(": {BROKERS}"),
        _ => format!(": the port does not speak TLS; use {plain}"),
    }
}

/// Explains why there is no WebSocket.
fn no_websocket(error: &Error, to: &MonitorUrl, first: &FirstByte) -> String {
    match (first.get(), to.tls) {
        (TLS_ALERT, false) => return format!("the port speaks TLS; use {}", to.with_scheme("wss")),
        (ZMTP, false) => return BROKERS.into(),
        (HTTP | NOTHING, false) | (_, true) => {}
        _ => return "the port speaks another protocol than HTTP; use that of viewers (websocket_uri)".into(),
    }
    let closed = "the server closed the connection in the WebSocket handshake; is it a monitor?";
    match error {
        Error::Http(response) => refused(response, to),
        Error::Io(e) if e.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) => {
            client_tls::explain(e)
        }
        Error::Io(e) if !is_end(e) => format!("the connection broke in the WebSocket handshake: {e}"),
        Error::Io(_) | Error::ConnectionClosed | Error::Protocol(ProtocolError::HandshakeIncomplete) => closed.into(),
        _ => "its answer is not that of a WebSocket server; is it a monitor?".into(),
    }
}

/// Returns true if the other end has closed the connection, orderly or not.
pub(crate) fn is_end(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Explains an HTTP status other than 101.
fn refused(response: &Response, to: &MonitorUrl) -> String {
    let status = response.status();
    let what = match status.as_u16() {
        301 | 302 | 303 | 307 | 308 => {
            let location =
                response.headers().get(LOCATION).and_then(|location| location.to_str().ok()).unwrap_or("nowhere");
            return format!(
                "the server answers {status} and leads to {}; use the URL of the monitor itself",
                shown(location)
            );
        }
        200..=299 => "there is a web page, and no monitor; is the path right?".to_owned(),
        400 if !to.tls => format!("if the port speaks TLS, use {}", to.with_scheme("wss")),
        401 | 403 | 407 => "the server does not let this client in".to_owned(),
        404 | 405 | 410 => format!("the server has no monitor at the path {}; is it right?", to.uri.path()),
        426 => "a web server in between does not pass the WebSocket upgrade on, or it is no monitor".to_owned(),
        429 => "there are too many viewers from this address; try again later".to_owned(),
        502 | 504 => "the web server does not reach the monitor; is the monitor running?".to_owned(),
        503 => "the monitor is full or stops, or a web server does not reach it; try again later".to_owned(),
        _ => "is it a monitor?".to_owned(),
    };
    let text = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    let line = text.lines().next().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('<'));
    let said = line.map_or_else(String::new, |line| format!(" (it says: {})", shown(line)));
    format!("the server answers {status}: {what}{said}")
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}
