//! The two states of a viewer that gets its channel's messages: *busy*, a task, and *quiet*, an entry of the hub's fan-out. Both changes
//! stand here, with the tasks that serve all quiet viewers.

use super::delivery::Delivery;
use super::disconnect::Disconnect;
use super::frame_buffer::FrameBuffer;
use super::restore::subscribed_state;
use super::socket::{Parts, Socket};
use super::{Stage, Viewer};
use crate::context::Shared;
use crate::context::quiet::Owner;
use crate::heap;
use crate::hub::cursor::Cursor;
use crate::hub::fan_out::pings::Pings;
use crate::hub::fan_out::{HandBack, Key, Why};
use crate::net::stream::{Stream, end_socket};
use crate::snapshot::state;
use socket2::SockRef;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

/// The most viewers of ended runs that are closed at once, each of which has 5 s for its answer. All have got FINISHED before.
pub const CLOSING: usize = 1024;
/// The number of viewers that are made busy before other tasks get their turn: one takes some microseconds.
const STEPS: usize = 128;
/// The least time between two times that memory is given back to the system: that looks at all free memory.
const HEAP_PAUSE: Duration = Duration::from_secs(3);

impl Viewer {
    /// Makes an entry of a viewer whose delivery allows it. Its task ends.
    pub(super) fn become_quiet(mut self) {
        let Stage::Subscribed(delivery) = std::mem::take(&mut self.stage) else { return };
        let (pings, Delivery { socket, cursor, .. }) = (delivery.pings(), delivery);
        let Parts { stream, .. } = socket.into_parts();
        let (Some(socket), Some(permit)) = (stream.into_socket(), self.permit.take()) else { return };
        let owner = Owner { peer: self.peer, permit, address_permit: self.address_permit.take() };
        join(socket, cursor, pings, owner, &self.shared);
    }
}

/// Makes an entry of a viewer that has everything.
pub(super) fn join(socket: OwnedFd, cursor: Cursor, pings: Pings, owner: Owner, shared: &Shared) {
    let quiet = &shared.quiet;
    shared.hub.join(cursor, socket, pings, quiet.keep(owner), |socket, key| quiet.watch(socket, key.into()));
}

/// Makes a viewer of what the fan-out handed back. `None` if its connection is over, or it is the hub's own probe.
fn busy(back: HandBack, shared: &Arc<Shared>) -> Option<Viewer> {
    let HandBack { socket, cursor, pings, owner, why } = back;
    shared.quiet.forget(&socket);
    let Owner { peer, permit, address_permit } = shared.quiet.take(owner)?;
    let is_full = matches!(why, Why::Full(_) | Why::Ping(_));
    let stream = match bytes_of(why) {
        Ok((received, unsent)) => {
            Stream::adopt(socket).map(|stream| (stream, received, unsent)).map_err(Disconnect::Io)
        }
        Err(reason) => Err(reason),
    };
    match stream {
        Ok((stream, received, unsent)) => {
            let socket = Socket::new(stream, FrameBuffer::new(received, false), unsent);
            let delivery = Delivery::after_quiet(socket, cursor, pings, is_full, &shared.settings().clients);
            let (stage, shared, permit) = (Stage::Subscribed(delivery), Arc::clone(shared), Some(permit));
            Some(Viewer { stage, peer, shared, permit, refusal: None, address_permit })
        }
        Err(reason) => {
            reason.count(shared, peer);
            reason.log(peer);
            None
        }
    }
}

/// Returns the bytes that a viewer has sent and that were not dealt with, and the control bytes that it is to get first. Fails if its
/// connection is over.
fn bytes_of(why: Why) -> Result<(Vec<u8>, Vec<u8>), Disconnect> {
    match why {
        Why::Gone(None) => Err(Disconnect::Gone),
        Why::Gone(Some(e)) => Err(Disconnect::Io(e)),
        Why::Spoke(bytes) => Ok((bytes, Vec::new())),
        Why::Ping(rest) => Ok((Vec::new(), rest.to_vec())),
        Why::Full(_) | Why::Silent | Why::Ended | Why::Stop => Ok((Vec::new(), Vec::new())),
    }
}

/// Ends the quiet viewers after all tasks have ended, as busy ones end when their tasks are dropped: puts them into the outbox if that is
/// open, or tells them without waiting that the monitor stops.
pub(crate) fn end_all(shared: &Shared) {
    let finish = shared.settings().clients.finish_on_close;
    while let Some(HandBack { socket, cursor, owner, why, .. }) = shared.hub.next_left() {
        let (Some(Owner { peer, .. }), Ok((received, unsent))) = (shared.quiet.take(owner), bytes_of(why)) else {
            continue;
        };
        let (Ok(cookie), Some((stage, unsent))) =
            (SockRef::from(&socket).cookie(), subscribed_state(&cursor, unsent, false, finish))
        else {
            continue;
        };
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
pub(crate) fn serve(shared: &Arc<Shared>) {
    tokio::spawn(hear(Arc::clone(shared)));
    tokio::spawn(write_rounds(Arc::clone(shared)));
    tokio::spawn(ping(Arc::clone(shared)));
    tokio::spawn(make_busy(Arc::clone(shared)));
    tokio::spawn(close_ended(Arc::clone(shared)));
    tokio::spawn(give_memory_back(Arc::clone(shared)));
}

/// Reads what quiet viewers have sent.
async fn hear(shared: Arc<Shared>) {
    let mut keys = Vec::new();
    loop {
        if let Err(e) = shared.quiet.next_events(&mut keys).await {
            log::error!("cannot wait for what quiet viewers send: {e}");
            return;
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
async fn make_busy(shared: Arc<Shared>) {
    loop {
        shared.hub.some_back().await;
        loop {
            let mut left = STEPS;
            while left > 0
                && let Some(back) = shared.hub.next_back()
            {
                left -= 1;
                if let Some(viewer) = busy(back, &shared) {
                    tokio::spawn(viewer.serve(None));
                }
            }
            if left > 0 {
                break;
            }
            yield_now().await;
        }
    }
}

/// Gives memory back to the system after many tasks have ended, at most once in [`HEAP_PAUSE`]. An entry takes a tenth of a task.
async fn give_memory_back(shared: Arc<Shared>) {
    loop {
        shared.quiet.many_tasks_ended().await;
        let start = Instant::now();
        heap::give_back();
        log::debug!("free memory given back to the system in {:?}", start.elapsed());
        sleep(HEAP_PAUSE).await;
    }
}

/// Closes the viewers of runs that have ended, a bounded number at once.
async fn close_ended(shared: Arc<Shared>) {
    let turns = Arc::new(Semaphore::new(CLOSING));
    loop {
        shared.hub.some_ended().await;
        loop {
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
            let Some(back) = shared.hub.next_ended() else { break };
            if let Some(viewer) = busy(back, &shared) {
                tokio::spawn(async move {
                    viewer.serve(None).await;
                    drop(turn);
                });
            }
        }
    }
}
