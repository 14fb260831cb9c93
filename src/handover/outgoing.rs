//! The handover to the next process, and the history for a file.

use crate::context::{Shared, outbox};
use crate::handover::fd_queue::FdQueue;
use crate::handover::history_file;
use crate::handover::refuse::refuse;
use crate::snapshot::encoding::Refused;
use crate::snapshot::state;
use crate::snapshot::state::State;
use crate::snapshot::stream::StreamState;
use crate::systemd::fd_store;
use crate::wire::zmtp;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use tokio::time::Instant;

/// Hands the connections in the outbox and all history over, through `queue`. Viewers that cannot be handed over are told that the
/// monitor stops. If nothing can be handed over, the history is saved as at a stop.
pub(crate) fn hand_over(queue: FdQueue, shared: &Shared) {
    let settings = shared.settings();
    let finish = settings.clients.finish_on_close;
    let outbox::Connections { links, viewers } = put_sockets(&queue, shared.outbox.take(), finish);
    // The sockets stay open until the state is in the queue, too.
    let (links, link_states): (Vec<_>, Vec<_>) = links.into_iter().unzip();
    let (viewers, mut viewer_states): (Vec<_>, Vec<_>) = viewers.into_iter().unzip();
    let channels = shared.hub.usage().channels;
    let what = format!("{} viewers, {} brokers and {channels} channels", viewers.len(), link_states.len());
    let write = |file: &mut File| {
        let path = settings.history.state.as_deref();
        with_state(shared, &link_states, &mut viewer_states, finish, path, |state| state.write(file))
            .map_err(io::Error::other)
    };
    match queue.close(write) {
        Ok(()) => log::info!("handed over {what}: {}", shared.metrics),
        Err(e) => {
            log::error!("cannot hand over {what}: {e}; they are closed");
            fd_store::forget(fd_store::HANDOVER_QUEUE);
            // Closed before the history is saved, so that brokers can connect to the next process while the disk is slow.
            drop(links);
            refuse(viewers.into_iter().zip(viewer_states), finish);
            if !history_to_save(shared).is_some_and(|(path, history)| history_file::save(&path, history)) {
                shared.warn_of_unsent();
            }
        }
    }
}

/// Puts sockets into the queue: brokers first, then viewers, and last the links that shake hands. Where there is no room for all, the
/// last ones are left out. Returns the connections in the queue; the other viewers are told that the monitor stops.
fn put_sockets(queue: &FdQueue, connections: outbox::Connections, finish: bool) -> outbox::Connections {
    let outbox::Connections { links, mut viewers } = connections;
    let (mut links, mut handshakes): (Vec<_>, Vec<_>) =
        links.into_iter().partition(|(_, link)| link.stage == zmtp::Stage::Traffic);
    let put = queue.put(&[numbers(&links), numbers(&viewers), numbers(&handshakes)].concat());
    handshakes.truncate(put.saturating_sub(links.len() + viewers.len()));
    refuse(viewers.drain(put.saturating_sub(links.len()).min(viewers.len())..), finish);
    links.truncate(put);
    links.append(&mut handshakes);
    outbox::Connections { links, viewers }
}

fn numbers<T>(connections: &[(OwnedFd, T)]) -> Vec<RawFd> {
    connections.iter().map(|(socket, _)| socket.as_raw_fd()).collect()
}

/// Returns the history of all channels as bytes, and the path of the file for it, if `history.state` is set.
pub(crate) fn history_to_save(shared: &Shared) -> Option<(PathBuf, Result<Vec<u8>, Refused>)> {
    let path = shared.settings().history.state.clone()?;
    Some((path, with_state(shared, &[], &mut [], false, None, |state| state.without_connections().encode())))
}

/// Calls `show` with the state of all channels and of these connections. The viewers name the slots of their runs in the hub; viewers
/// of runs that are gone will be closed, with FINISHED if `finish` is true. `history_file` is the file of `history.state`.
fn with_state<T>(
    shared: &Shared,
    links: &[state::Link<'_>],
    viewers: &mut [state::Viewer<'_>],
    finish: bool,
    history_file: Option<&Path>,
    show: impl FnOnce(State<'_>) -> T,
) -> T {
    let with_stream = |stream: Option<StreamState<'_>>| {
        shared.hub.save(Instant::now(), |runs| {
            let (slots, runs): (Vec<_>, Vec<_>) = runs.into_iter().unzip();
            let indexes: HashMap<usize, usize> = slots.into_iter().zip(0..).collect();
            for viewer in viewers.iter_mut() {
                viewer.resolve_run(&indexes, finish);
            }
            show(State {
                version: env!("CARGO_PKG_VERSION").into(),
                written: state::now(),
                uptime: state::uptime(),
                history_file: history_file.map(|path| path.to_string_lossy()),
                runs,
                links: links.into(),
                viewers: (&*viewers).into(),
                stream,
            })
        })
    };
    match &shared.stream {
        Some(stream) => stream.save(|stream| with_stream(Some(stream))),
        None => with_stream(None),
    }
}
