//! Accepting brokers: the peers that `zeromq.allow` names begin a handshake.

use crate::broker::link;
use crate::context::Shared;
use crate::logging::Throttle;
use crate::metrics::counters::LinkRefusal;
use crate::net::accept::accept_tcp;
use crate::net::keep_alive::keep_alive;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

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
