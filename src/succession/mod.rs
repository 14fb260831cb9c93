//! The passing on of every connection and all history to the process that comes after a restart.
//!
//! The runtime ends every task where it waits; what a connection is then goes into a [`Succession`], and from there, with the
//! history, into a parcel that the service manager keeps. The next process goes on at the same byte.

pub mod file;
mod format2;
pub mod parcel;
pub mod state;

use crate::channel::End;
use crate::config::{Endpoint, Settings};
use crate::hub::Hub;
use crate::shared::Shared;
use crate::websocket::stream::{Stream, end_socket};
use crate::websocket::viewer::Viewer;
use crate::{store, zmtp};
use memmap2::Mmap;
use parcel::Parcel;
use socket2::SockRef;
use state::State;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What the connections of this process leave.
#[derive(Debug, Default)]
pub struct Succession {
    begun: AtomicBool,
    left: Mutex<Left>,
}

#[derive(Debug, Default)]
struct Left {
    links: Vec<(OwnedFd, state::Link<'static>)>,
    /// As their run they name its slot in the hub.
    viewers: Vec<(OwnedFd, state::Viewer<'static>)>,
}

impl Succession {
    /// From now on, connections that are dropped leave what they are. No task may run any more.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a viewer's connection.
    pub fn leave_viewer(&self, stream: Stream, viewer: state::Viewer<'static>) {
        match stream.into_socket() {
            Some(socket) => self.left().viewers.push((socket, viewer)),
            None => log::debug!("viewer {} cannot be handed over", viewer.peer),
        }
    }

    /// Takes a broker's link.
    pub fn leave_link(&self, stream: &tokio::net::TcpStream, link: state::Link<'static>) {
        match stream.as_fd().try_clone_to_owned() {
            Ok(stream) => self.left().links.push((stream, link)),
            Err(e) => log::debug!("a broker's link cannot be handed over: {e}"),
        }
    }
}

/// Puts what was left into `parcel`. Viewers that cannot be handed over are told that the monitor stops.
///
/// # Errors
/// If nothing could be handed over.
pub fn hand_over(parcel: Parcel, shared: &Shared) -> io::Result<()> {
    let Left { mut links, mut viewers } = std::mem::take(&mut *shared.succession.left());
    let streams = links.iter().map(|(stream, _)| stream).chain(viewers.iter().map(|(stream, _)| stream));
    let put = parcel.put(&streams.map(AsRawFd::as_raw_fd).collect::<Vec<_>>());
    let finish = shared.settings().clients.finish_on_close;
    turn_away(viewers.drain(put.saturating_sub(links.len()).min(viewers.len())..), finish);
    links.truncate(put);
    // Open until they are in good hands.
    let (_links, link_states): (Vec<_>, Vec<_>) = links.into_iter().unzip();
    let (streams, mut states): (Vec<_>, Vec<_>) = viewers.into_iter().unzip();
    let what = format!(
        "{} viewers, {} brokers and {} channels",
        streams.len(),
        link_states.len(),
        shared.hub.usage().channels
    );
    let save = |file: &mut File| {
        let written = with_state(&shared.hub, &link_states, &mut states, finish, |state| state.write(file));
        written.map_err(io::Error::other)
    };
    match parcel.close(save) {
        Ok(()) => log::info!("handed over {what}: {}", shared.metrics),
        Err(e) => {
            log::error!("cannot hand over {what}: {e}; they are closed");
            store::forget(parcel::NAME);
            turn_away(streams.into_iter().zip(states), finish);
            return Err(e);
        }
    }
    Ok(())
}

/// The history of all channels, as bytes.
///
/// # Errors
/// As [`State::encode`].
pub fn history(hub: &Hub) -> Result<Vec<u8>, state::Refused> {
    with_state(hub, &[], &mut [], false, |state| state.encode())
}

/// Shows the history and these connections; `finish` is for [`state::Viewer::look_up`].
fn with_state<T>(
    hub: &Hub,
    links: &[state::Link<'_>],
    viewers: &mut [state::Viewer<'_>],
    finish: bool,
    show: impl FnOnce(State<'_>) -> T,
) -> T {
    hub.save(Instant::now(), |runs| {
        let (slots, runs): (Vec<_>, Vec<_>) = runs.into_iter().unzip();
        let places: HashMap<usize, usize> = slots.into_iter().zip(0..).collect();
        for viewer in viewers.iter_mut() {
            viewer.look_up(&places, finish);
        }
        let version = env!("CARGO_PKG_VERSION").into();
        let (written, uptime) = (state::now(), state::uptime());
        show(State {
            version,
            written,
            uptime,
            history_file: None,
            runs,
            links: links.into(),
            viewers: (&*viewers).into(),
        })
    })
}

/// Tells viewers that the monitor stops, without waiting for any; with FINISHED if `finish` asks for it.
fn turn_away<'a>(viewers: impl Iterator<Item = (OwnedFd, state::Viewer<'a>)>, finish: bool) {
    for (socket, viewer) in viewers {
        let (socket, bytes) = (SockRef::from(&socket), viewer.closing_bytes(finish));
        // Whoever cannot be told at once is just closed.
        let told = socket.set_nonblocking(true).and_then(|()| end_socket(&socket, &bytes));
        log::debug!("viewer {} is closed: {told:?}", viewer.peer);
    }
}

/// Tells those of `sockets` that are viewers' by their local address that the monitor stops. Without a state nobody knows where
/// their frames end; nearly all are between two, and whoever is not gets no worse an end than without it.
fn refuse_unknown(sockets: &[OwnedFd], settings: &Settings) {
    let bytes = End::Stopping.closing_bytes(settings.clients.finish_on_close);
    for socket in sockets.iter().map(SockRef::from) {
        let local = socket.local_addr();
        let is_viewer = local.is_ok_and(|local| match &settings.websocket_uri {
            Endpoint::Tcp(address) => local.as_socket().is_some_and(|local| local.port() == address.port),
            Endpoint::Unix(_) => local.is_unix(),
        });
        if is_viewer {
            let told = socket.set_nonblocking(true).and_then(|()| end_socket(&socket, &bytes));
            log::debug!("a viewer's connection is closed: {told:?}");
        }
    }
}

/// What the process before left. Dropping it closes the connections in it.
#[derive(Debug)]
pub struct Estate {
    /// The brokers' links, then the viewers.
    sockets: Vec<OwnedFd>,
    state: Option<Mmap>,
}

impl Estate {
    /// Takes it from the queue that the service manager kept. What cannot be read is closed.
    #[must_use]
    pub fn receive(queue: &OwnedFd) -> Option<Self> {
        let received = parcel::open(queue);
        // Whatever happens next does not happen again to the process after this one.
        store::forget(parcel::NAME);
        match received {
            Ok((sockets, state)) => Some(Self { sockets, state: Some(state) }),
            Err(e) => {
                log::warn!("nothing is taken over from the process before: {e}");
                None
            }
        }
    }

    /// Goes on with everything. Must be called in a tokio runtime.
    pub fn adopt(mut self, shared: &Arc<Shared>) {
        let Some(bytes) = self.state.take() else { return };
        let sockets = std::mem::take(&mut self.sockets);
        let state = match State::decode(&bytes) {
            Ok(state) if state.matches(&sockets) => state,
            refused => {
                let why = refused.map_or_else(|e| e.to_string(), |_| "its sockets are others".into());
                log::warn!(
                    "nothing is taken over from the process before: {why}; {} connections are closed",
                    sockets.len()
                );
                refuse_unknown(&sockets, &shared.settings());
                return;
            }
        };
        let State { version, uptime, runs, links, viewers, .. } = state;
        let (now, elapsed) = (Instant::now(), state::uptime().saturating_sub(uptime));
        let slots = shared.hub.restore(now, Duration::from_millis(elapsed), &runs);
        let what = format!("{} viewers, {} brokers and {} channels", viewers.len(), links.len(), runs.len());
        let mut sockets = sockets.into_iter();
        for (link, socket) in links.into_owned().into_iter().zip(&mut sockets) {
            match Stream::adopt(socket) {
                Ok(Stream::Tcp(stream)) => zmtp::resume(stream, &link, Arc::clone(shared)),
                other => log::debug!("the link of broker {} is not taken over: {other:?}", link.peer),
            }
        }
        for (viewer, socket) in viewers.into_owned().into_iter().zip(sockets) {
            match Stream::adopt(socket) {
                Ok(stream) => {
                    let cursor = viewer.cursor(&shared.hub, &slots);
                    let place = shared.viewers.take_over();
                    tokio::spawn(Viewer::resume(stream, viewer, cursor, Arc::clone(shared), place).serve());
                }
                Err(e) => log::debug!("viewer {} is not taken over: {e}", viewer.peer),
            }
        }
        shared.hub.settle(now, &slots);
        log::info!("took over {what} from the process before (version {version}), after {elapsed} ms");
    }
}

impl Drop for Estate {
    fn drop(&mut self) {
        if let Some(bytes) = &self.state
            && let Ok(state) = State::decode(bytes)
            && state.matches(&self.sockets)
        {
            let streams = self.sockets.drain(..).skip(state.links.len());
            // The settings may be what is wrong with this process: the default of `clients.finish_on_close` holds.
            turn_away(streams.zip(state.viewers.into_owned()), true);
        }
    }
}
