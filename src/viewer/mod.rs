//! One viewer: from the accepted connection to its close. Every wait has a deadline.

pub(crate) mod accept;
mod answer;
mod client_address;
mod closing;
mod deadlines;
mod delivery;
mod disconnect;
mod forwarded;
mod frame_buffer;
mod handshake;
pub(crate) mod proxy_protocol;
pub(crate) mod quiet;
pub(crate) mod restore;
pub(crate) mod socket;
mod upgrade;

use crate::config::Clients;
use crate::context::Shared;
use crate::context::over_limit::Turn;
use crate::context::permits::{AddressPermit, Permit};
use crate::net::stream::Stream;
use crate::peer::Peer;
use crate::viewer::answer::Answer;
use crate::viewer::delivery::Delivery;
use crate::viewer::disconnect::Disconnect;
use crate::viewer::socket::Socket;
use std::sync::Arc;

/// One viewer's connection.
#[derive(Debug)]
pub struct Viewer {
    stage: Stage,
    /// The client, once it is known; its proxy before.
    peer: Peer,
    shared: Arc<Shared>,
    /// Its permit among the viewers; `None` over a limit.
    permit: Option<Permit>,
    /// The answer to a viewer over a limit when its turn ends.
    refusal: Option<&'static Answer>,
    /// Its permit among those of its address, if they are bounded.
    address_permit: Option<Box<AddressPermit>>,
}

/// The stages of a viewer's connection.
#[derive(Debug, Default)]
enum Stage {
    /// Connected, with the first part of a PROXY header if one is to come. A TLS handshake may follow.
    Connected(Stream, Option<Vec<u8>>),
    /// The request is to come; `head` is its first part. No header of it is believed if it is `unproxied`: the PROXY header named
    /// nobody.
    Request { stream: Stream, head: Vec<u8>, unproxied: bool },
    /// The WebSocket is open, and the channel id is to come.
    Naming(Socket),
    /// The viewer gets its channel's messages.
    Subscribed(Delivery),
    /// The viewer gets the bytes that are left, and is expected to close.
    Closing(Socket),
    #[default]
    Gone,
}

impl Viewer {
    /// Creates a viewer that has just connected; it has a permit if one is free.
    #[must_use]
    pub fn new(stream: Stream, peer: Peer, shared: Arc<Shared>) -> Self {
        let header = shared.settings().websocket_proxy_protocol.then(Vec::new);
        let permit = shared.viewers.take();
        Self { stage: Stage::Connected(stream, header), peer, shared, permit, refusal: None, address_permit: None }
    }

    /// Serves the viewer until one side closes, or it becomes quiet; over a limit, until its turn is over.
    pub fn serve(mut self, turn: Option<Turn>) -> impl Future<Output = ()> + Send {
        // The whole future is boxed, because tokio rounds up the size of a task. The handshake and the close have boxes of their
        // own, because the memory of this future is kept as long as the viewer is connected.
        Box::pin(async move {
            let result = Box::pin(self.shake_hands(turn)).await;
            let ended = match (result, &mut self.stage) {
                (Err(reason), _) => Err(reason),
                (Ok(()), Stage::Subscribed(delivery)) => delivery.run(&self.shared).await,
                (Ok(()), _) => Err(Disconnect::ByPeer),
            };
            if let Err(reason) = ended {
                Box::pin(self.close(&reason)).await;
                reason.log(self.peer);
            } else {
                self.become_quiet();
            }
        })
    }

    /// Gives up its permits for a turn of those over a limit.
    fn enter_over_limit(&mut self, refusal: &'static Answer) -> Turn {
        (self.permit, self.address_permit, self.refusal) = (None, None, Some(refusal));
        self.shared.over_limit.enter()
    }

    /// Takes a permit for `address`, which is the viewer's; returns false if the address has as many viewers as it may have.
    fn take_address_permit(&mut self, address: Peer, clients: &Clients) -> bool {
        let limit = clients.max_per_address;
        if limit == 0 || self.address_permit.is_some() {
            return true;
        }
        self.address_permit = self.shared.addresses.take(address.network(), limit);
        self.address_permit.is_some()
    }

    /// Takes the connection of a viewer whose request is not answered, and the bytes that came.
    fn take_stream(&mut self) -> Option<(Stream, Vec<u8>)> {
        match std::mem::take(&mut self.stage) {
            Stage::Connected(stream, header) => Some((stream, header.unwrap_or_default())),
            Stage::Request { stream, head, .. } => Some((stream, head)),
            _ => None,
        }
    }
}
