//! A viewer across a restart: its state for the next process, and a viewer made of such a state.

use super::delivery::Delivery;
use super::frame_buffer::FrameBuffer;
use super::socket::{Parts, Protocol, Socket};
use super::{Stage, Viewer, quiet};
use crate::config::Proxy;
use crate::context::Shared;
use crate::context::permits::{AddressPermit, Permit};
use crate::context::quiet::Owner;
use crate::hub::cursor::Cursor;
use crate::hub::fan_out::pings::Pings;
use crate::net::stream::Stream;
use crate::peer::Peer;
use crate::snapshot::state;
use crate::wire::close::End;
use socket2::SockRef;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Goes on with a viewer of the previous process; `cursor` is its position in its channel, if it had one. A viewer that has everything
/// is quiet at once.
pub(crate) fn resume(
    socket: OwnedFd,
    left: state::Viewer<'_>,
    cursor: Option<Cursor>,
    pings: Pings,
    shared: &Arc<Shared>,
) {
    let permit = shared.viewers.take_over();
    match cursor {
        Some(cursor) if is_quiet(&left, &cursor) => {
            let address_permit = take_over_address(left.peer, shared);
            quiet::join(socket, cursor, pings, Owner { peer: left.peer, permit, address_permit }, shared);
        }
        cursor => match Stream::adopt(socket) {
            Ok(stream) => {
                let viewer = Viewer::resume(stream, left, cursor, pings, Arc::clone(shared), permit);
                tokio::spawn(viewer.serve(None));
            }
            Err(e) => log::debug!("viewer {} is not taken over: {e}", left.peer),
        },
    }
}

/// Takes the permit of a viewer's address, if addresses are bounded, even if none is free: for a viewer that was handed over.
fn take_over_address(peer: Peer, shared: &Shared) -> Option<Box<AddressPermit>> {
    let is_limited = shared.settings().clients.max_per_address > 0;
    is_limited.then(|| shared.addresses.take(peer.network(), usize::MAX)).flatten()
}

/// Returns true if nothing is under way with a viewer, in either direction.
fn is_quiet(left: &state::Viewer<'_>, cursor: &Cursor) -> bool {
    let in_message = !matches!(left.stage, state::Stage::Relaying { in_message: false, .. });
    !in_message && left.received.is_empty() && left.unsent.is_empty() && cursor.is_caught_up()
}

/// Returns the stage of a viewer that gets its channel's messages, and the bytes to be sent to it before all others, for the next process.
/// The stage names a run by its slot in the hub. `None` if there are too many runs.
pub(super) fn subscribed_state(
    cursor: &Cursor,
    unsent: Vec<u8>,
    in_message: bool,
    finish: bool,
) -> Option<(state::Stage<'static>, Vec<u8>)> {
    let (slot, offset, rest) = cursor.position();
    Some(if let Some(end) = cursor.end() {
        // It needs its channel no more, and only this process knows how it ends.
        let unsent = [rest, &unsent, &end.closing_bytes(finish)].concat();
        (state::Stage::Closing { answer: true, in_message }, unsent)
    } else {
        let (run, rest) = (u32::try_from(slot).ok()?, rest.to_vec().into());
        (state::Stage::Relaying { run, offset, rest, in_message }, unsent)
    })
}

impl Viewer {
    /// Goes on with a viewer that is busy.
    fn resume(
        stream: Stream,
        left: state::Viewer<'_>,
        cursor: Option<Cursor>,
        pings: Pings,
        shared: Arc<Shared>,
        permit: Permit,
    ) -> Self {
        let (received, unsent) = (left.received.into_owned(), left.unsent.into_owned());
        let stage = match (left.stage, cursor) {
            (state::Stage::Connected { proxied }, _) => Stage::Connected(stream, proxied.then_some(received)),
            (state::Stage::Request { unproxied }, _) => Stage::Request { stream, head: received, unproxied },
            (state::Stage::Relaying { in_message, .. }, Some(cursor)) => {
                let socket = Socket::new(stream, FrameBuffer::new(received, in_message), unsent);
                Stage::Subscribed(Delivery::new(socket, cursor, pings))
            }
            (state::Stage::Naming, _) => Stage::Naming(Socket::new(stream, FrameBuffer::new(received, false), unsent)),
            (state::Stage::Closing { answer, in_message }, _) => {
                Stage::Closing(Socket::closing(stream, FrameBuffer::new(received, in_message), unsent, answer))
            }
            (state::Stage::Relaying { .. }, None) => Stage::Gone,
        };
        let settings = shared.settings();
        // Its address may still be to come.
        let is_unknown = match &stage {
            Stage::Connected(_, Some(_)) => true,
            Stage::Connected(_, None) | Stage::Request { unproxied: false, .. } => {
                Proxy::any(&settings.trusted_proxies, left.peer)
            }
            _ => false,
        };
        let address_permit = if is_unknown { None } else { take_over_address(left.peer, &shared) };
        Self { stage, peer: left.peer, shared, permit: Some(permit), refusal: None, address_permit }
    }

    /// Takes the connection and the state with which the next process can go on. The state names a run by its slot in the hub.
    pub(super) fn take_state(&mut self) -> Option<(Stream, state::Viewer<'static>)> {
        let (socket, cursor) = match std::mem::take(&mut self.stage) {
            Stage::Gone => return None,
            Stage::Connected(stream, header) => {
                let proxied = header.is_some();
                return self.state(stream, state::Stage::Connected { proxied }, header.unwrap_or_default(), Vec::new());
            }
            Stage::Request { stream, head, unproxied } => {
                return self.state(stream, state::Stage::Request { unproxied }, head, Vec::new());
            }
            Stage::Naming(socket) | Stage::Closing(socket) => (socket, None),
            Stage::Subscribed(Delivery { socket, cursor, .. }) => (socket, Some(cursor)),
        };
        let Parts { stream, protocol, frames, mut unsent } = socket.into_parts();
        let in_message = frames.is_in_message();
        let finish = self.shared.settings().clients.finish_on_close;
        let stage = match (protocol, cursor) {
            (Protocol::Open, Some(cursor)) => {
                let (stage, first) = subscribed_state(&cursor, unsent, in_message, finish)?;
                unsent = first;
                stage
            }
            (Protocol::Open, None) if !in_message => state::Stage::Naming,
            // The first part of its channel id is in the protocol, and cannot be handed over.
            (Protocol::Open, None) => {
                unsent.extend(End::Stopping.closing_bytes(finish));
                state::Stage::Closing { answer: true, in_message }
            }
            (_, cursor) => {
                unsent.splice(0..0, cursor.iter().flat_map(Cursor::rest).copied());
                state::Stage::Closing { answer: protocol == Protocol::Closing, in_message }
            }
        };
        self.state(stream, stage, frames.bytes().to_vec(), unsent)
    }

    fn state(
        &self,
        stream: Stream,
        stage: state::Stage<'static>,
        received: Vec<u8>,
        unsent: Vec<u8>,
    ) -> Option<(Stream, state::Viewer<'static>)> {
        let cookie = SockRef::from(&stream).cookie().ok()?;
        let (received, unsent) = (received.into(), unsent.into());
        Some((stream, state::Viewer { cookie, peer: self.peer, stage, received, unsent }))
    }
}
