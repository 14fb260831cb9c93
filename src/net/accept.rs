//! Accepting connections, without spinning when descriptors run out.

use crate::logging::Throttle;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::yield_now;

/// The pause after accepting has failed, usually because there is no free descriptor.
const PAUSE: Duration = Duration::from_millis(100);

static CANNOT_ACCEPT: Throttle = Throttle::new(Duration::from_secs(60));

/// Accepts TCP connections for ever; `serve` gets each.
pub(crate) async fn accept_tcp(listener: TcpListener, mut serve: impl FnMut(TcpStream, SocketAddr)) {
    accept_from(
        |cx| listener.poll_accept(cx),
        |(stream, peer)| {
            serve(stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        },
    )
    .await;
}

/// Accepts connections of a Unix socket for ever; `serve` gets each.
pub(crate) async fn accept_unix(listener: UnixListener, mut serve: impl FnMut(UnixStream)) {
    accept_from(|cx| listener.poll_accept(cx), |(stream, _)| serve(stream)).await;
}

async fn accept_from<C>(mut next: impl FnMut(&mut Context<'_>) -> Poll<io::Result<C>>, mut serve: impl FnMut(C)) {
    // Set while accepting fails; true if that was logged.
    let mut failing = None;
    loop {
        match poll_fn(&mut next).await {
            Ok(connection) => {
                if failing.take() == Some(true) {
                    log::info!("accepting connections again");
                }
                serve(connection);
                // Connections are accepted one at a time: one that was refused or dropped is closed before the next one takes a
                // descriptor.
                yield_now().await;
            }
            // The client disconnected before it was accepted.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                failing.get_or_insert_with(|| {
                    let more = CANNOT_ACCEPT.pass();
                    if let Some(more) = &more {
                        log::error!(
                            "cannot accept connections: {e}; those connected are served, new ones wait \
                             (see the limit of open files and clients.max){more}"
                        );
                    }
                    more.is_some()
                });
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
