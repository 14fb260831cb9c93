//! The end of the viewers that are not handed over: they are told that the monitor stops.

use crate::config::{Endpoint, Settings};
use crate::net::stream::end_socket;
use crate::snapshot::state::Viewer;
use crate::wire::close::End;
use socket2::SockRef;
use std::io;
use std::os::fd::OwnedFd;

/// Closes viewers without waiting for any; with FINISHED if `finish` is true.
pub(super) fn refuse<'a>(viewers: impl Iterator<Item = (OwnedFd, Viewer<'a>)>, finish: bool) {
    for (socket, viewer) in viewers {
        let told = end(&SockRef::from(&socket), &viewer.closing_bytes(finish));
        log::debug!("viewer {} is closed: {told:?}", viewer.peer);
    }
}

/// Closes the viewers among `sockets`, which are known by their local address.
///
/// Without a state it is not known where their frames end. Nearly all viewers are between two frames; for the others this end is no
/// worse than a closed connection.
pub(super) fn refuse_unknown(sockets: &[OwnedFd], settings: &Settings) {
    let bytes = End::Stopping.closing_bytes(settings.clients.finish_on_close);
    for socket in sockets.iter().map(SockRef::from) {
        let local = socket.local_addr();
        let is_viewer = local.is_ok_and(|local| match &settings.websocket_uri {
            Endpoint::Tcp(address) => local.as_socket().is_some_and(|local| local.port() == address.port),
            Endpoint::Unix(_) => local.is_unix(),
        });
        if is_viewer {
            let told = end(&socket, &bytes);
            log::debug!("a viewer's connection is closed: {told:?}");
        }
    }
}

/// Sends the last bytes and ends the connection. Never waits: a peer that does not take them at once is just closed.
fn end(socket: &SockRef<'_>, bytes: &[u8]) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    end_socket(socket, bytes)
}
