//! The connections of this process, for the next one after a restart.
//!
//! The runtime ends every task where it waits. The state of its connection then goes into the outbox, and from there into the handover.

use crate::snapshot::state;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::net::TcpStream;

/// Collects the connections, once it is open.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    open: AtomicBool,
    connections: Mutex<Connections>,
}

/// The connections and their states.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    pub(crate) links: Vec<(OwnedFd, state::Link<'static>)>,
    /// The states name a run by its slot in the hub.
    pub(crate) viewers: Vec<(OwnedFd, state::Viewer<'static>)>,
}

impl Outbox {
    /// Opens it: from now on, a connection that is dropped records its state here. No task may run any more.
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    /// Returns true once it is open.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all connections out.
    pub(crate) fn take(&self) -> Connections {
        std::mem::take(&mut *self.connections())
    }

    /// Records a viewer's connection.
    pub(crate) fn leave_viewer(&self, socket: OwnedFd, viewer: state::Viewer<'static>) {
        self.connections().viewers.push((socket, viewer));
    }

    /// Records a broker's link.
    pub(crate) fn leave_link(&self, stream: &TcpStream, link: state::Link<'static>) {
        match stream.as_fd().try_clone_to_owned() {
            Ok(stream) => self.connections().links.push((stream, link)),
            Err(e) => log::debug!("a broker's link cannot be handed over: {e}"),
        }
    }
}
