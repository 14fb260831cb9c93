//! Accepting brokers: the peers that `zeromq.allow` names begin a handshake.

use crate::broker::link;
use crate::context::Shared;
use crate::logging::Throttle;
use crate::metrics::counters::LinkRefusal;
use crate::net::accept::accept_tcp;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// The time until a silent broker's machine is probed and the time between two probes, in seconds, and the number of probes.
const KEEPALIVE: (u32, u32, u32) = (60, 10, 6);

static NOT_ALLOWED: Throttle = Throttle::new(Duration::from_secs(60));

/// Accepts brokers at a listening socket. Never returns.
pub(crate) async fn accept_brokers(listener: TcpListener, shared: Arc<Shared>) {
    let serve = |stream: TcpStream, peer: SocketAddr| {
        if !shared.allows_broker(peer) {
            shared.metrics.links_refused.add(LinkRefusal::NotAllowed);
            if let Some(more) = NOT_ALLOWED.pass() {
                log::warn!(RECODEX_PEER:% = peer; "refused a ZeroMQ link from {peer}: zeromq.allow does not name it{more}");
            }
            return;
        }
        if let Err(e) = keep_alive(&stream) {
            log::debug!(RECODEX_PEER:% = peer; "broker {peer}: no TCP keepalive: {e}");
        }
        link::shake_hands(peer, link::serve(stream, peer, Arc::clone(&shared)), &shared);
    };
    accept_tcp(listener, serve).await;
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, count) = KEEPALIVE;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &interval)?;
    setsockopt(stream, sockopt::TcpKeepCount, &count)?;
    Ok(())
}
