//! The status listener: health, metrics, a page and its events over HTTP, for administrators.

pub(crate) mod cluster;
mod events;
mod format;
mod openmetrics;
mod page;
pub(crate) mod report;
mod routes;
mod sampling;
mod write_deadline;

pub(crate) use sampling::sample;

use crate::context::Shared;
use crate::deadline::HttpTimer;
use crate::logging::Throttle;
use crate::net::accept;
use crate::net::first_byte::{FirstByte, Watched};
use crate::net::stream::NOTSENT_LOWAT;
use crate::net::unix::drain_unix;
use crate::peer::Peer;
use crate::rlimit;
use crate::wire::first_byte::ClientProtocol;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use routes::answer;
use socket2::SockRef;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use write_deadline::WriteDeadline;

/// The most connections at once; fewer if the limit of open files is low.
pub const CONNECTIONS: usize = rlimit::STATUS;
/// The longest request head, in bytes.
pub const MAX_HEAD: usize = 8 * 1024;
/// The time within which a whole request must come.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time without write progress on an answer.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

static CROWDED: Throttle = Throttle::new(Duration::from_secs(60));
static ZEROMQ: Throttle = Throttle::new(Duration::from_secs(60));
static TLS: Throttle = Throttle::new(Duration::from_secs(60));

/// Accepts connections at a TCP socket. Never returns.
pub(crate) async fn accept_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let serve = |stream: TcpStream, peer: SocketAddr| {
        if let Err(e) = SockRef::from(&stream).set_tcp_notsent_lowat(NOTSENT_LOWAT) {
            log::debug!(RECODEX_PEER:% = peer; "status request from {peer}: its send buffer is not bounded: {e}");
        }
        admit(stream, Peer::Socket(peer), &shared);
    };
    accept::accept_tcp(listener, serve).await;
}

/// Accepts connections at a Unix socket. Never returns.
pub(crate) async fn accept_unix(listener: UnixListener, shared: Arc<Shared>) {
    accept::accept_unix(listener, |stream| admit(stream, Peer::Unix, &shared)).await;
}

/// Accepts the connections that wait at a Unix socket of the previous process, to which nobody can connect any more.
pub(crate) async fn accept_waiting(listener: UnixListener, shared: Arc<Shared>) {
    drain_unix(listener, |stream: UnixStream| admit(stream, Peer::Unix, &shared)).await;
}

/// Serves a connection, if there is a permit.
fn admit(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer, shared: &Arc<Shared>) {
    let Some(permit) = shared.status_connections.take() else {
        if let Some(more) = CROWDED.pass() {
            log::warn!(RECODEX_PEER:% = peer; "refused a status request from {peer}: {} are open{more}", shared.status_connections.limit());
        }
        return;
    };
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        serve(stream, peer, shared).await;
        drop(permit);
    });
}

/// Serves one connection, which ends after its first answer.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer, shared: Arc<Shared>) {
    let (stream, first) = Watched::new(stream);
    let deadline = WriteDeadline::new(STALL_TIMEOUT);
    let service = service_fn(|request| {
        let (shared, deadline) = (Arc::clone(&shared), deadline.clone());
        async move { Ok::<_, Infallible>(answer(&request, &shared, peer, deadline).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(HttpTimer).header_read_timeout(REQUEST_TIMEOUT).max_buf_size(MAX_HEAD).keep_alive(false);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = connection => if let Err(e) = served {
            log::debug!("a status request failed: {e}");
            warn_of_other_protocol(peer, &first);
        },
        () = deadline.stalled() => log::debug!("a status request was given up: the client took nothing of the answer"),
    }
    deadline.end();
}

/// Logs a warning if the peer speaks ZeroMQ or TLS.
fn warn_of_other_protocol(peer: Peer, first: &FirstByte) {
    let (throttle, what) = match ClientProtocol::of(&[first.get()]) {
        Some(ClientProtocol::ZeroMq) => {
            (&ZEROMQ, "it speaks ZeroMQ, and this is the status port (status_uri); brokers connect to zeromq_uri")
        }
        Some(ClientProtocol::Tls) => (&TLS, "it speaks TLS, and the status port (status_uri) does not; use http://"),
        _ => return,
    };
    if let Some(more) = throttle.pass() {
        log::warn!(RECODEX_PEER:% = peer; "refused a status request from {peer}: {what}{more}");
    }
}
