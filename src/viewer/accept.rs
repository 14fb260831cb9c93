//! Accepting viewers over TCP and over the Unix socket.

use super::Viewer;
use super::answer::{FULL, TOO_MANY};
use super::disconnect::refused;
use crate::config::Proxy;
use crate::context::Shared;
use crate::metrics::counters::ViewerRefusal;
use crate::net::accept;
use crate::net::stream::{NOTSENT_LOWAT, Stream};
use crate::net::unix::drain_unix;
use crate::peer::Peer;
use socket2::SockRef;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Accepts viewers at a TCP socket for ever.
pub(crate) async fn accept_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let serve = |stream: TcpStream, peer: SocketAddr| {
        // Without it the kernel would buffer megabytes for a viewer that does not read.
        if let Err(e) = SockRef::from(&stream).set_tcp_notsent_lowat(NOTSENT_LOWAT) {
            log::debug!(RECODEX_PEER:% = peer; "viewer {peer}: its send buffer is not bounded: {e}");
        }
        admit(Stream::Tcp(stream), Peer::Socket(peer), &shared);
    };
    accept::accept_tcp(listener, serve).await;
}

/// Accepts viewers at a Unix socket for ever.
pub(crate) async fn accept_unix(listener: UnixListener, shared: Arc<Shared>) {
    accept::accept_unix(listener, |stream| admit_unix(stream, &shared)).await;
}

/// Accepts the viewers that wait at a Unix socket of the previous process, to which nobody can connect any more.
pub(crate) async fn accept_waiting(listener: UnixListener, shared: Arc<Shared>) {
    drain_unix(listener, |stream| admit_unix(stream, &shared)).await;
}

fn admit_unix(stream: UnixStream, shared: &Arc<Shared>) {
    admit(Stream::Unix(stream), Peer::Unix, shared);
}

/// Serves a connection. Over a limit of viewers, the connection gets only a turn, in which its request is read, because it may be a
/// health check.
fn admit(stream: Stream, peer: Peer, shared: &Arc<Shared>) {
    let settings = shared.settings();
    let is_proxy = Proxy::any(&settings.trusted_proxies, peer);
    if settings.websocket_proxy_protocol && !is_proxy {
        return refused(shared, peer, ViewerRefusal::Proxy);
    }
    let mut viewer = Viewer::new(stream, peer, Arc::clone(shared));
    // The address of a viewer behind a proxy is not known yet.
    let is_below_limit = is_proxy || viewer.take_address_permit(peer, &settings.clients);
    let turn = match (viewer.permit.is_some(), is_below_limit) {
        (true, true) => None,
        (false, _) => Some(viewer.enter_over_limit(&FULL)),
        (true, false) => Some(viewer.enter_over_limit(&TOO_MANY)),
    };
    tokio::spawn(viewer.serve(turn));
}
