//! What the connections of this process leave to the next one.
//!
//! The runtime ends every task where it waits; what a connection is then goes in here, and from here into the handover.

use crate::net::stream::Stream;
use crate::snapshot::state;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::net::TcpStream;

/// Collects the connections, once it is open.
#[derive(Debug, Default)]
pub struct Outbox {
    open: AtomicBool,
    left: Mutex<Left>,
}

/// The connections and their states.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) links: Vec<(OwnedFd, state::Link<'static>)>,
    /// As their run they name its slot in the hub.
    pub(crate) viewers: Vec<(OwnedFd, state::Viewer<'static>)>,
}

impl Outbox {
    /// Opens it: from now on, a connection that is dropped records its state here. No task may run any more.
    pub fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    /// Returns true once it is open.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out all that is in it.
    pub(crate) fn take(&self) -> Left {
        std::mem::take(&mut *self.left())
    }

    /// Records a viewer's connection.
    pub fn leave_viewer(&self, stream: Stream, viewer: state::Viewer<'static>) {
        match stream.into_socket() {
            Some(socket) => self.left().viewers.push((socket, viewer)),
            None => log::debug!("viewer {} cannot be handed over", viewer.peer),
        }
    }

    /// Records a broker's link.
    pub fn leave_link(&self, stream: &TcpStream, link: state::Link<'static>) {
        match stream.as_fd().try_clone_to_owned() {
            Ok(stream) => self.left().links.push((stream, link)),
            Err(e) => log::debug!("a broker's link cannot be handed over: {e}"),
        }
    }
}
