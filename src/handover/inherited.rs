//! The connections and the history that the previous process handed over.

use crate::broker::link;
use crate::context::Shared;
use crate::handover::fd_queue::{self, Received};
use crate::handover::history_file;
use crate::handover::refuse::{refuse, refuse_unknown};
use crate::hub::Hub;
use crate::hub::cursor::Cursor;
use crate::hub::fan_out::pings::Pings;
use crate::net::stream::Stream;
use crate::rlimit;
use crate::snapshot;
use crate::snapshot::reading::Limits;
use crate::snapshot::state;
use crate::snapshot::state::State;
use crate::stream::MessageStream;
use crate::systemd::fd_store::{self, InheritedFds};
use crate::viewer::restore;
use crate::wire::zmtp;
use memmap2::Mmap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The lists of the stream's part take at most this many times the bytes of a state: ingests have random ids, and batches have a head.
const STREAM_TIMES: usize = 8;

/// The connections and the history that the previous process handed over. Viewers in it that are dropped are told that the monitor
/// stops.
#[derive(Debug)]
pub struct Inherited {
    /// The sockets of links and viewers, in any order: each is known by its cookie.
    sockets: Vec<OwnedFd>,
    /// The number of sockets that were sent.
    sent: usize,
    /// True if all of them are in `sockets`.
    complete: bool,
    state: Option<Mmap>,
    /// True once the history was saved to a file.
    is_saved: bool,
}

impl Inherited {
    /// Takes what the previous process handed over, if it did. Connections for which too few files may be open are closed, and all of
    /// them if the queue cannot be read. Viewers among them get FINISHED first if `finish` is true.
    pub(crate) fn take(fds: &mut InheritedFds, finish: bool) -> Option<Self> {
        let queue = fds.take_handover()?;
        let (inherited, listeners, status, redis) = fds.counts();
        let files = rlimit::open_files();
        let received = fd_queue::open(&queue, files.saturating_sub(rlimit::while_taking_over(inherited, listeners)));
        // The queue is forgotten even after an error: the next process must not read it again.
        fd_store::forget(fd_store::HANDOVER_QUEUE);
        let Received { sockets, sent, complete, state } = match received {
            Ok(received) => received,
            Err(e) => {
                log::warn!("nothing is taken over from the previous process: {e}");
                return None;
            }
        };
        let mut inherited = Self { sockets, sent, complete, state: Some(state), is_saved: false };
        let (both, handshakes) = rlimit::room_to_take_over(files, listeners, status, redis);
        if !complete || inherited.sockets.len() > both {
            inherited.close_excess(both, handshakes, files, finish);
        }
        Some(inherited)
    }

    /// Closes connections until at most `both` brokers and viewers remain, and at most `handshakes` links that shake hands. Viewers
    /// are closed before brokers, with FINISHED if `finish` is true. `files` is the limit of open files.
    fn close_excess(&mut self, both: usize, handshakes: usize, files: usize, finish: bool) {
        let Some(bytes) = &self.state else { return };
        let excess = if let Ok(state) = decode(bytes, &mut self.sockets, self.sent, self.complete) {
            take_excess(&state, &mut self.sockets, both, handshakes)
        } else {
            self.sockets.truncate(both);
            Vec::new()
        };
        let kept = self.sockets.len();
        if kept == self.sent {
            return;
        }
        self.complete = false;
        log::warn!(
            "the previous process hands over {} connections, and the limit of open files ({files}) has room for {kept}: {} are closed; \
             raise it (LimitNOFILE=)",
            self.sent,
            self.sent - kept
        );
        refuse(excess.into_iter(), finish);
    }

    /// Goes on with all channels and connections. Returns false if the state cannot be used; viewers are told so. Must be called in a
    /// tokio runtime.
    pub(crate) fn adopt(mut self, shared: &Arc<Shared>) -> bool {
        let Some(bytes) = self.state.take() else { return false };
        let mut sockets = std::mem::take(&mut self.sockets);
        match decode(&bytes, &mut sockets, self.sent, self.complete) {
            Ok(state) => {
                resume(state, sockets, shared);
                true
            }
            Err(why) => {
                log::warn!(
                    "nothing is taken over from the previous process: {why}; {} connections are closed",
                    sockets.len()
                );
                refuse_unknown(&sockets, &shared.settings());
                false
            }
        }
    }

    /// Saves the history to `history_file`, or else to the file that the previous process names, and tells viewers that the monitor
    /// stops. For a process that cannot start: the next start takes the file up as after a stop. Root must have been given up.
    pub(crate) fn abandon(mut self, history_file: Option<&Path>) {
        if let Some(bytes) = &self.state
            && let Ok(state) = decode(bytes, &mut self.sockets, self.sent, self.complete)
            && (!state.runs.is_empty() || state.stream.as_ref().is_some_and(|stream| !stream.waiting.is_empty()))
            && let Some(path) = history_file.or(state.history_file.as_deref().map(Path::new))
        {
            let path = path.to_path_buf();
            self.is_saved = history_file::save(&path, state.without_connections().encode());
        }
    }
}

impl Drop for Inherited {
    fn drop(&mut self) {
        if let Some(bytes) = &self.state
            && let Ok(state) = decode(bytes, &mut self.sockets, self.sent, self.complete)
        {
            let links = state.links.len();
            if !self.is_saved {
                restore_stream(state.stream, None, Duration::ZERO);
            }
            let viewers = self.sockets.drain(..).skip(links);
            // The settings may be wrong, if they are known at all: the default of `clients.finish_on_close` holds.
            refuse(viewers.zip(state.viewers.into_owned()), true);
        }
    }
}

/// Reads the state of these sockets, of which `sent` were sent. Unless `complete` is true some are missing; the state then has no links
/// and viewers for those. Brings the sockets into the order of the state: first the links, then the viewers.
fn decode<'a>(bytes: &'a [u8], sockets: &mut Vec<OwnedFd>, sent: usize, complete: bool) -> Result<State<'a>, String> {
    // The history is not limited here: `resume` drops what exceeds `history.total_bytes`.
    let limits = Limits {
        cost: usize::MAX,
        connections: sent,
        unread: false,
        stream: bytes.len().saturating_mul(STREAM_TIMES),
        has_stream: true,
    };
    let mut state = State::decode(bytes, limits).map_err(|e| e.to_string())?;
    state.close_complete();
    match state.pair(sockets) {
        Some(missing) if missing == 0 || !complete => Ok(state),
        _ => Err("it does not match the sockets".into()),
    }
}

/// Takes the sockets that exceed the shares out of `sockets`, which are in the order of the state. Returns the viewers among them; links
/// are closed.
fn take_excess<'a>(
    state: &State<'a>,
    sockets: &mut Vec<OwnedFd>,
    mut both: usize,
    mut handshakes: usize,
) -> Vec<(OwnedFd, state::Viewer<'a>)> {
    let links = state.links.iter().map(|link| (link.stage == zmtp::Stage::Traffic, None));
    let viewers = state.viewers.iter().map(|viewer| (true, Some(viewer.clone())));
    let mut excess = Vec::new();
    for (socket, (is_open, viewer)) in std::mem::take(sockets).into_iter().zip(links.chain(viewers)) {
        let share = if is_open { &mut both } else { &mut handshakes };
        if *share > 0 {
            *share -= 1;
            sockets.push(socket);
        } else {
            excess.extend(viewer.map(|viewer| (socket, viewer)));
        }
    }
    excess
}

/// Goes on with all channels and connections of a state, whose sockets are in its order.
fn resume(mut state: State<'_>, sockets: Vec<OwnedFd>, shared: &Arc<Shared>) {
    fit_history(&mut state, shared);
    let State { version, uptime, runs, links, viewers, stream, .. } = state;
    let (now, elapsed) = (Instant::now(), state::uptime().saturating_sub(uptime));
    let slots = shared.hub.restore(now, Duration::from_millis(elapsed), &runs);
    restore_stream(stream, shared.stream.as_deref(), Duration::from_millis(elapsed));
    let what = format!("{} viewers, {} brokers and {} channels", viewers.len(), links.len(), runs.len());
    let mut sockets = sockets.into_iter();
    for (link, socket) in links.into_owned().into_iter().zip(&mut sockets) {
        match Stream::adopt(socket) {
            Ok(Stream::Tcp(stream)) => link::resume(stream, &link, Arc::clone(shared)),
            other => log::debug!("the link of broker {} is not taken over: {other:?}", link.peer),
        }
    }
    let (interval, count) = (shared.settings().clients.ping_interval.duration(), viewers.len());
    for (number, (viewer, socket)) in (1_u32..).zip(viewers.into_owned().into_iter().zip(sockets)) {
        let cursor = cursor_of(&viewer, &shared.hub, &slots);
        // The pings are spread over an interval. The next one then comes to each an interval later.
        let share = f64::from(number) / f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let pings = Pings::at(now + interval.mul_f64(share));
        restore::resume(socket, viewer, cursor, pings, shared);
    }
    shared.hub.drop_unused(now, &slots);
    log::info!("took over {what} from the previous process (version {version}), after {elapsed} ms");
}

/// Goes on with the stream of a cluster; the previous process ended `away` ago. If there is none any more, the messages that wait for Redis are lost.
pub(super) fn restore_stream(
    saved: Option<snapshot::stream::StreamState<'_>>,
    stream: Option<&MessageStream>,
    away: Duration,
) {
    match (saved, stream) {
        (Some(saved), Some(stream)) => stream.restore(saved, away),
        (Some(saved), None) if saved.unsent() > 0 => {
            log::error!("{} messages that Redis has not taken are dropped", saved.unsent());
        }
        _ => {}
    }
}

/// Drops history that exceeds `history.total_bytes`.
fn fit_history(state: &mut State<'_>, shared: &Shared) {
    let settings = shared.settings();
    let total_bytes = settings.history.total_bytes;
    let dropped = state.fit(total_bytes, settings.clients.finish_on_close);
    if dropped > 0 {
        shared.metrics.evicted.add(dropped);
        log::warn!(
            "history.total_bytes ({total_bytes} bytes) is less than the previous process had: {dropped} channels are dropped"
        );
    }
}

/// Returns the cursor of a viewer that reads a run; `slots` are the slots of the state's runs in the hub.
pub fn cursor_of(viewer: &state::Viewer<'_>, hub: &Arc<Hub>, slots: &[usize]) -> Option<Cursor> {
    match &viewer.stage {
        state::Stage::Relaying { run, offset, rest, .. } => {
            Some(hub.resume(*slots.get(*run as usize)?, *offset, rest.to_vec()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Peer;
    use crate::snapshot::state::Lifecycle;
    use crate::wire::close::End;
    use crate::wire::message::RELEASE_FRAME;
    use socket2::SockRef;
    use std::borrow::Cow;
    use std::os::unix::net::UnixStream;

    /// 2.0.0 hands over a viewer that has got everything of a finished job as if more could come for it.
    #[test]
    fn a_viewer_that_has_the_whole_of_a_finished_job_gets_no_second_finished_whatever_happens_to_the_state() {
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
            origin: None,
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
        let handed_over = State {
            version: "".into(),
            written: 0,
            uptime: 0,
            history_file: None,
            runs: vec![job("a", Lifecycle::Finished), job("b", Lifecycle::Draining), job("open", Lifecycle::Open)],
            links: Cow::default(),
            viewers: viewers.into(),
            stream: None,
        };
        let bytes = handed_over.encode().unwrap();
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
