//! The two states of a viewer that gets its channel's messages: *busy*, a task, and *quiet*, an entry of the hub's fan-out. Both changes
//! are in this file, with the tasks that serve all quiet viewers.

use super::delivery::Delivery;
use super::disconnect::Disconnect;
use super::frame_buffer::FrameBuffer;
use super::restore::subscribed_state;
use super::socket::{Parts, Socket};
use super::{Stage, Viewer};
use crate::context::Shared;
use crate::context::quiet::Owner;
use crate::deadline::timeout_at;
use crate::heap;
use crate::hub::cursor::Cursor;
use crate::hub::fan_out::pings::Pings;
use crate::hub::fan_out::{HandBack, Key, Position, Reason};
use crate::net::stream::{Stream, end_socket};
use crate::snapshot::state;
use crate::wire::close::End;
use socket2::SockRef;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

/// The number of viewers that are made busy before other tasks get their turn: one takes some microseconds.
const STEPS: usize = 128;
/// The pause after an error of the epoll set.
const ERROR_PAUSE: Duration = Duration::from_millis(100);
/// The least time between two times that memory is given back to the system.
const HEAP_PAUSE: Duration = Duration::from_secs(1);

impl Viewer {
    /// Makes an entry of a viewer whose delivery allows it. Its task ends.
    pub(super) fn become_quiet(mut self) {
        let Stage::Subscribed(delivery) = std::mem::take(&mut self.stage) else { return };
        let (pings, Delivery { socket, cursor, .. }) = (delivery.pings(), delivery);
        let Parts { stream, .. } = socket.into_parts();
        let (Some(socket), Some(permit)) = (stream.into_socket(), self.permit.take()) else { return };
        let owner = Owner { peer: self.peer, permit, address_permit: self.address_permit.take() };
        join(socket, cursor, pings, owner, &self.shared);
        self.shared.quiet.task_ended();
    }

    /// Closes a viewer that was quiet.
    async fn give_up(mut self, reason: Disconnect) {
        self.close(&reason).await;
        reason.log(self.peer);
    }

    /// Goes on with a viewer that was quiet when it was sent a close frame with this end: waits until `by` for its answer.
    async fn finish_closing(mut self, end: End, by: Instant) {
        if let Stage::Closing(socket) = &mut self.stage
            && timeout_at(by, socket.close_out()).await.is_ok()
        {
            self.stage = Stage::Gone;
        }
        Disconnect::Ended(end).log(self.peer);
    }
}

/// Makes an entry of a viewer that has everything.
pub(super) fn join(socket: OwnedFd, cursor: Cursor, pings: Pings, owner: Owner, shared: &Shared) {
    let quiet = &shared.quiet;
    shared.hub.join(cursor, socket, pings, quiet.keep(owner), |socket, key| quiet.watch(socket, key.into()));
}

/// Starts the task of a viewer that the fan-out handed back, unless its connection is over, or it is the hub's own probe.
fn make_busy(back: HandBack, shared: &Arc<Shared>) {
    let HandBack { socket, position, pings, owner, reason } = back;
    shared.quiet.forget(&socket);
    let Some(Owner { peer, permit, address_permit }) = shared.quiet.take(owner) else {
        // It is the hub's probe. Its socket is closed and its cursor dropped before the probe is told.
        drop((socket, position));
        return shared.hub.end_probe();
    };
    let (is_full, is_silent) = (matches!(reason, Reason::Full(_) | Reason::Ping(_)), matches!(reason, Reason::Silent));
    let bytes = bytes_of(reason).and_then(|bytes| Ok((Stream::adopt(socket)?, bytes)));
    let viewer = |stage| {
        let (shared, permit) = (Arc::clone(shared), Some(permit));
        Viewer { stage, peer, shared, permit, refusal: None, address_permit }
    };
    match (position, bytes) {
        (Position::Reading(cursor), Ok((stream, (received, unsent)))) => {
            let socket = Socket::new(stream, FrameBuffer::new(received, false), unsent);
            let delivery = Delivery::after_quiet(socket, cursor, pings, is_full, &shared.settings().clients);
            let viewer = viewer(Stage::Subscribed(delivery));
            if is_silent {
                tokio::spawn(viewer.give_up(Disconnect::Silent));
            } else {
                tokio::spawn(viewer.serve(None));
            }
        }
        (Position::Closing(end), Ok((stream, (received, unsent)))) => {
            let socket = Socket::closing(stream, FrameBuffer::new(received, false), unsent, true);
            tokio::spawn(viewer(Stage::Closing(socket)).finish_closing(end, pings.next()));
        }
        (Position::Reading(_), Err(reason)) => {
            reason.count(shared, peer);
            reason.log(peer);
        }
        // Its close frame is counted already.
        (Position::Closing(end), Err(_)) => Disconnect::Ended(end).log(peer),
    }
}

/// Returns the bytes that a viewer has sent and that were not handled, and those that must be sent to it first. Fails if its connection
/// is over.
fn bytes_of(reason: Reason) -> Result<(Vec<u8>, Vec<u8>), Disconnect> {
    match reason {
        Reason::Gone(None) => Err(Disconnect::Gone),
        Reason::Gone(Some(e)) => Err(Disconnect::Io(e)),
        Reason::Spoke(bytes) => Ok((bytes, Vec::new())),
        Reason::Full(rest) => Ok((Vec::new(), rest)),
        Reason::Ping(rest) => Ok((Vec::new(), rest.to_vec())),
        Reason::Silent | Reason::Stop => Ok((Vec::new(), Vec::new())),
    }
}

/// Ends the quiet viewers after all tasks have ended, as busy ones end when their tasks are dropped: puts them into the outbox if that is
/// open, or tells them without waiting that the monitor stops.
pub(crate) fn end_all(shared: &Shared) {
    let finish = shared.settings().clients.finish_on_close;
    let mut from = 0;
    while let Some(HandBack { socket, position, owner, reason, .. }) = shared.hub.next_remaining(&mut from) {
        let (Some(Owner { peer, .. }), Ok((received, unsent))) = (shared.quiet.take(owner), bytes_of(reason)) else {
            continue;
        };
        // It has all that it needs.
        if !shared.outbox.is_open() && matches!(position, Position::Closing(_)) && unsent.is_empty() {
            continue;
        }
        let stage = match position {
            Position::Reading(cursor) => subscribed_state(&cursor, unsent, false, finish),
            Position::Closing(_) => Some((state::Stage::Closing { answer: true, in_message: false }, unsent)),
        };
        let (Ok(cookie), Some((stage, unsent))) = (SockRef::from(&socket).cookie(), stage) else { continue };
        let left = state::Viewer { cookie, peer, stage, received: received.into(), unsent: unsent.into() };
        if shared.outbox.is_open() {
            shared.outbox.leave_viewer(socket, left);
        } else {
            let told = end_socket(&SockRef::from(&socket), &left.closing_bytes(finish));
            log::debug!(RECODEX_PEER:% = peer; "viewer {peer} is closed: {told:?}");
        }
    }
}

/// Starts the tasks that serve quiet viewers. They run until the runtime ends, also during a stop.
pub fn serve(shared: &Arc<Shared>) {
    tokio::spawn(hear(Arc::clone(shared)));
    tokio::spawn(write_rounds(Arc::clone(shared)));
    tokio::spawn(ping(Arc::clone(shared)));
    tokio::spawn(take_back(Arc::clone(shared)));
    tokio::spawn(close_ended(Arc::clone(shared)));
    tokio::spawn(give_memory_back(Arc::clone(shared)));
}

/// Reads what quiet viewers have sent.
async fn hear(shared: Arc<Shared>) {
    let mut keys = Vec::new();
    loop {
        if let Err(e) = shared.quiet.next_events(&mut keys).await {
            log::error!("cannot wait for what quiet viewers send: {e}");
            sleep(ERROR_PAUSE).await;
        }
        for key in keys.drain(..) {
            shared.hub.hear(Key::from(key));
        }
        yield_now().await;
    }
}

/// Goes on with rounds that took longer than a slice.
async fn write_rounds(shared: Arc<Shared>) {
    loop {
        shared.hub.some_rounds().await;
        while shared.hub.deliver() {
            yield_now().await;
        }
    }
}

/// Pings quiet viewers.
async fn ping(shared: Arc<Shared>) {
    loop {
        shared.hub.sweep_due().await;
        while shared.hub.sweep(Instant::now(), &shared.settings().clients) {
            yield_now().await;
        }
    }
}

/// Makes viewers busy that are handed back.
async fn take_back(shared: Arc<Shared>) {
    loop {
        shared.hub.some_back().await;
        let mut steps = 0;
        while let Some(back) = shared.hub.next_back() {
            make_busy(back, &shared);
            steps += 1;
            if steps % STEPS == 0 {
                yield_now().await;
            }
        }
    }
}

/// Sends quiet viewers of runs that have ended their close frames.
async fn close_ended(shared: Arc<Shared>) {
    loop {
        shared.hub.some_ended().await;
        while shared.hub.close_ended(Instant::now(), shared.settings().clients.finish_on_close) {
            yield_now().await;
        }
    }
}

/// Gives memory back to the system after many viewers have become quiet: an entry takes a tenth of a task.
async fn give_memory_back(shared: Arc<Shared>) {
    loop {
        shared.quiet.many_tasks_ended().await;
        let start = Instant::now();
        heap::give_back();
        let took = start.elapsed();
        log::debug!("free memory given back to the system in {took:?}");
        // The call looks at all free memory while the relay waits, so it gets at most a thousandth of the time.
        sleep(HEAP_PAUSE.max(took * 1000)).await;
    }
}
