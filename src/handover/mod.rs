//! The passing on of every connection and all history to the process that comes after a restart.
//!
//! The runtime ends every task where it waits; what a connection is then goes into the [`outbox`], and from there, with the
//! history, into a queue that the service manager keeps. The next process goes on at the same byte.

pub mod fd_queue;
pub mod history_file;

use crate::broker::link;
use crate::config::{Endpoint, Settings};
use crate::context::{Shared, outbox};
use crate::hub::Hub;
use crate::hub::cursor::Cursor;
use crate::net::stream::{Stream, end_socket};
use crate::rlimit;
use crate::snapshot::encoding::Refused;
use crate::snapshot::reading::Limits;
use crate::snapshot::state;
use crate::snapshot::state::State;
use crate::systemd::fd_store::{self, InheritedFds};
use crate::viewer::Viewer;
use crate::wire;
use crate::wire::close::End;
use fd_queue::{FdQueue, Received};
use memmap2::Mmap;
use socket2::SockRef;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Puts what was left into `queue`: brokers first, then viewers, and last the links that shake hands, since the last ones are left
/// out where there is no room. Viewers that cannot be handed over are told that the monitor stops.
///
/// # Errors
/// If nothing could be handed over.
pub fn hand_over(queue: FdQueue, shared: &Shared) -> io::Result<()> {
    let outbox::Left { links, mut viewers } = shared.outbox.take();
    let (mut links, mut handshakes): (Vec<_>, Vec<_>) =
        links.into_iter().partition(|(_, link)| link.stage == wire::zmtp::Stage::Traffic);
    let of_links = |links: &[(OwnedFd, _)]| links.iter().map(|(stream, _)| stream.as_raw_fd()).collect::<Vec<_>>();
    let of_viewers = viewers.iter().map(|(stream, _)| stream.as_raw_fd()).collect();
    let put = queue.put(&[of_links(&links), of_viewers, of_links(&handshakes)].concat());
    let finish = shared.settings().clients.finish_on_close;
    handshakes.truncate(put.saturating_sub(links.len() + viewers.len()));
    refuse(viewers.drain(put.saturating_sub(links.len()).min(viewers.len())..), finish);
    links.truncate(put);
    links.append(&mut handshakes);
    // Open until they are in good hands.
    let (_links, link_states): (Vec<_>, Vec<_>) = links.into_iter().unzip();
    let (streams, mut states): (Vec<_>, Vec<_>) = viewers.into_iter().unzip();
    let what = format!(
        "{} viewers, {} brokers and {} channels",
        streams.len(),
        link_states.len(),
        shared.hub.usage().channels
    );
    let path = shared.settings().history.state.clone();
    let save = |file: &mut File| {
        let written =
            with_state(&shared.hub, &link_states, &mut states, finish, path.as_deref(), |state| state.write(file));
        written.map_err(io::Error::other)
    };
    match queue.close(save) {
        Ok(()) => log::info!("handed over {what}: {}", shared.metrics),
        Err(e) => {
            log::error!("cannot hand over {what}: {e}; they are closed");
            fd_store::forget(fd_store::HANDOVER_QUEUE);
            refuse(streams.into_iter().zip(states), finish);
            return Err(e);
        }
    }
    Ok(())
}

/// The history, and the file that it is to be saved to, if there is one.
pub fn history_to_save(shared: &Shared) -> Option<(PathBuf, Result<Vec<u8>, Refused>)> {
    let path = shared.settings().history.state.clone()?;
    Some((path, history(&shared.hub)))
}

/// The history of all channels, as bytes.
///
/// # Errors
/// As [`State::encode`].
pub fn history(hub: &Hub) -> Result<Vec<u8>, Refused> {
    with_state(hub, &[], &mut [], false, None, |state| state.without_connections().encode())
}

/// Shows the history and these connections; `finish` is for [`state::Viewer::resolve_run`], `history_file` is that of `history.state`.
fn with_state<T>(
    hub: &Hub,
    links: &[state::Link<'_>],
    viewers: &mut [state::Viewer<'_>],
    finish: bool,
    history_file: Option<&Path>,
    show: impl FnOnce(State<'_>) -> T,
) -> T {
    hub.save(Instant::now(), |runs| {
        let (slots, runs): (Vec<_>, Vec<_>) = runs.into_iter().unzip();
        let places: HashMap<usize, usize> = slots.into_iter().zip(0..).collect();
        for viewer in viewers.iter_mut() {
            viewer.resolve_run(&places, finish);
        }
        let version = env!("CARGO_PKG_VERSION").into();
        let (written, uptime) = (state::now(), state::uptime());
        show(State {
            version,
            written,
            uptime,
            history_file: history_file.map(|path| path.to_string_lossy()),
            runs,
            links: links.into(),
            viewers: (&*viewers).into(),
        })
    })
}

/// Tells viewers that the monitor stops, without waiting for any; with FINISHED if `finish` asks for it.
fn refuse<'a>(viewers: impl Iterator<Item = (OwnedFd, state::Viewer<'a>)>, finish: bool) {
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
pub struct Inherited {
    /// The sockets of links and viewers, in any order: each is known by its cookie.
    sockets: Vec<OwnedFd>,
    /// How many there were.
    sent: usize,
    /// Whether all of them are here.
    complete: bool,
    state: Option<Mmap>,
}

impl Inherited {
    /// Takes what the process before handed over, if it did. What cannot be read is closed, and so are connections for which too few
    /// files may be open.
    #[must_use]
    pub fn take(kept: &mut InheritedFds) -> Option<Self> {
        let queue = kept.take_handover()?;
        let (inherited, listeners, status) = kept.listener_counts();
        Self::receive(&queue, inherited, listeners, status)
    }

    /// `kept` are the listening sockets that came with it, `listeners` those of the process before or of this one, whichever are
    /// more; `status` is whether this one has a status listener.
    fn receive(queue: &OwnedFd, kept: usize, listeners: usize, status: bool) -> Option<Self> {
        let files = rlimit::open_files();
        let received = fd_queue::open(queue, files.saturating_sub(rlimit::while_taking_over(kept, listeners)));
        // Whatever happens next does not happen again to the process after this one.
        fd_store::forget(fd_store::HANDOVER_QUEUE);
        match received {
            Ok(Received { sockets, sent, complete, state }) => {
                let mut inherited = Self { sockets, sent, complete, state: Some(state) };
                let (both, handshakes) = rlimit::room_to_take_over(files, listeners, status);
                if !complete || inherited.sockets.len() > both {
                    inherited.leave_out(both, handshakes, files);
                }
                Some(inherited)
            }
            Err(e) => {
                log::warn!("nothing is taken over from the process before: {e}");
                None
            }
        }
    }

    /// Closes the connections that are over these shares: of `both` brokers and viewers, where brokers come first, and of
    /// `handshakes`.
    fn leave_out(&mut self, mut both: usize, mut handshakes: usize, files: usize) {
        let Some(bytes) = &self.state else { return };
        let mut gone = Vec::new();
        if let Ok(state) = decode(bytes, &mut self.sockets, self.sent, self.complete) {
            let links = state.links.iter().map(|link| (link.stage == wire::zmtp::Stage::Traffic, None));
            let viewers = state.viewers.iter().map(|viewer| (true, Some(viewer.clone())));
            let sockets = std::mem::take(&mut self.sockets);
            for (socket, (is_open, viewer)) in sockets.into_iter().zip(links.chain(viewers)) {
                let left = if is_open { &mut both } else { &mut handshakes };
                if *left > 0 {
                    *left -= 1;
                    self.sockets.push(socket);
                } else {
                    gone.extend(viewer.map(|viewer| (socket, viewer)));
                }
            }
        } else {
            self.sockets.truncate(both);
        }
        let kept = self.sockets.len();
        if kept == self.sent {
            return;
        }
        self.complete = false;
        log::warn!(
            "the process before hands over {} connections, and the limit of open files ({files}) has room for {kept}: {} are closed; \
             raise it (LimitNOFILE=)",
            self.sent,
            self.sent - kept
        );
        // The settings are not known here: the default of `clients.finish_on_close` holds.
        refuse(gone.into_iter(), true);
    }

    /// Goes on with everything; returns whether it could. Must be called in a tokio runtime.
    pub fn adopt(mut self, shared: &Arc<Shared>) -> bool {
        let Some(bytes) = self.state.take() else { return false };
        let mut sockets = std::mem::take(&mut self.sockets);
        let mut state = match decode(&bytes, &mut sockets, self.sent, self.complete) {
            Ok(state) => state,
            Err(why) => {
                log::warn!(
                    "nothing is taken over from the process before: {why}; {} connections are closed",
                    sockets.len()
                );
                refuse_unknown(&sockets, &shared.settings());
                return false;
            }
        };
        let settings = shared.settings();
        let total_bytes = settings.history.total_bytes;
        let evicted = state.fit(total_bytes, settings.clients.finish_on_close);
        if evicted > 0 {
            shared.metrics.evicted.add(evicted);
            log::warn!(
                "history.total_bytes ({total_bytes} bytes) is less than the process before had: {evicted} channels are dropped"
            );
        }
        let State { version, uptime, runs, links, viewers, .. } = state;
        let (now, elapsed) = (Instant::now(), state::uptime().saturating_sub(uptime));
        let slots = shared.hub.restore(now, Duration::from_millis(elapsed), &runs);
        let what = format!("{} viewers, {} brokers and {} channels", viewers.len(), links.len(), runs.len());
        let mut sockets = sockets.into_iter();
        for (link, socket) in links.into_owned().into_iter().zip(&mut sockets) {
            match Stream::adopt(socket) {
                Ok(Stream::Tcp(stream)) => link::resume(stream, &link, Arc::clone(shared)),
                other => log::debug!("the link of broker {} is not taken over: {other:?}", link.peer),
            }
        }
        for (viewer, socket) in viewers.into_owned().into_iter().zip(sockets) {
            match Stream::adopt(socket) {
                Ok(stream) => {
                    let cursor = cursor_of(&viewer, &shared.hub, &slots);
                    let place = shared.viewers.take_over();
                    tokio::spawn(Viewer::resume(stream, viewer, cursor, Arc::clone(shared), place).serve(None));
                }
                Err(e) => log::debug!("viewer {} is not taken over: {e}", viewer.peer),
            }
        }
        shared.hub.drop_unused(now, &slots);
        log::info!("took over {what} from the process before (version {version}), after {elapsed} ms");
        true
    }

    /// For a process that cannot start: saves the history to `history_file`, or to the file that the process before names, so that
    /// the next start takes it up as after a stop. Then viewers are told that the monitor stops. Root must have been given up.
    pub fn abandon(mut self, history_file: Option<&Path>) {
        if let Some(bytes) = &self.state
            && let Ok(state) = decode(bytes, &mut self.sockets, self.sent, self.complete)
            && !state.runs.is_empty()
        {
            let path = history_file.map(Path::to_path_buf).or_else(|| Some(state.history_file.as_deref()?.into()));
            if let Some(path) = path {
                history_file::save(&path, state.without_connections().encode());
            }
        }
    }
}

/// The cursor of a viewer that reads a run; `slots` are those of the state's runs in the hub.
#[must_use]
pub fn cursor_of(viewer: &state::Viewer<'_>, hub: &Arc<Hub>, slots: &[usize]) -> Option<Cursor> {
    match &viewer.stage {
        state::Stage::Relaying { run, offset, rest, .. } => {
            Some(hub.resume(*slots.get(*run as usize)?, *offset, rest.to_vec()))
        }
        _ => None,
    }
}

/// The state of these sockets, of which there were `sent`; if not all are here, without the links and viewers that are missing.
/// Brings the sockets into the state's order: first the links, then the viewers.
fn decode<'a>(bytes: &'a [u8], sockets: &mut Vec<OwnedFd>, sent: usize, complete: bool) -> Result<State<'a>, String> {
    // What the runs may cost is up to the process that takes them: it lets go what does not fit.
    let limits = Limits { cost: usize::MAX, connections: sent, unread: false };
    let mut state = State::decode(bytes, limits).map_err(|e| e.to_string())?;
    state.close_complete();
    match state.pair(sockets) {
        Some(missing) if missing == 0 || !complete => Ok(state),
        _ => Err("its sockets are others".into()),
    }
}

impl Drop for Inherited {
    fn drop(&mut self) {
        if let Some(bytes) = &self.state
            && let Ok(state) = decode(bytes, &mut self.sockets, self.sent, self.complete)
        {
            let streams = self.sockets.drain(..).skip(state.links.len());
            // The settings may be what is wrong with this process: the default of `clients.finish_on_close` holds.
            refuse(streams.zip(state.viewers.into_owned()), true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Peer;
    use crate::snapshot::state::Lifecycle;
    use crate::wire::message::RELEASE_FRAME;
    use std::borrow::Cow;
    use std::os::unix::net::UnixStream;

    /// 2.0.0 leaves a viewer that has got everything of a finished job as if more could come for it.
    #[test]
    fn who_has_the_whole_of_a_finished_job_gets_no_second_finished_whatever_happens_to_the_state() {
        let (rest, control) = (&RELEASE_FRAME[9..], b"\x8a\0");
        let end = RELEASE_FRAME.len() as u64;
        let job = |id: &'static str, lifecycle| state::Run {
            id: id.into(),
            frames: RELEASE_FRAME.into(),
            start: 7,
            trimmed: false,
            lifecycle,
            since: 0,
            touched: 0,
            failed: None,
            aborted: None,
        };
        let mut sockets: Vec<OwnedFd> = (0..4).map(|_| UnixStream::pair().unwrap().0.into()).collect();
        let viewer = |(run, offset, rest): (u32, u64, &'static [u8]), socket: &OwnedFd| state::Viewer {
            cookie: SockRef::from(socket).cookie().unwrap(),
            peer: Peer::Unix,
            stage: state::Stage::Relaying { run, offset, rest: rest.into(), in_message: true },
            received: b"".into(),
            unsent: control.into(),
        };
        let at = [(0, 7 + end, rest), (1, 7 + end, rest), (0, 7, b""), (2, 7 + end, b"")];
        let viewers: Vec<_> = at.into_iter().zip(&sockets).map(|(at, socket)| viewer(at, socket)).collect();
        let left = State {
            version: "".into(),
            written: 0,
            uptime: 0,
            history_file: None,
            runs: vec![job("a", Lifecycle::Finished), job("b", Lifecycle::Draining), job("open", Lifecycle::Open)],
            links: Cow::default(),
            viewers: viewers.into(),
        };
        let bytes = left.encode().unwrap();
        let own = [rest, control, &*End::Finished.closing_bytes(true)].concat();
        let stop = [control, &*End::Stopping.closing_bytes(true)].concat();
        let expected = [own.clone(), own, stop.clone(), stop];
        for total_bytes in [usize::MAX, 0] {
            let mut state = decode(&bytes, &mut sockets, 4, true).unwrap();
            state.fit(total_bytes, true);
            let ends: Vec<_> = state.viewers.iter().map(|viewer| viewer.closing_bytes(true)).collect();
            assert_eq!(ends, expected, "with {total_bytes} bytes");
        }
    }
}
