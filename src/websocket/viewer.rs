//! One viewer: from the accepted connection to its close. Every wait has a deadline.

use super::incoming::Incoming;
use super::socket::{self, Protocol, Received, Socket};
use super::upgrade::{self, Refused};
use crate::channel::End;
use crate::config::Clients;
use crate::cursor::{Cursor, Turn};
use crate::logging::Throttle;
use crate::message::MAX_CHANNEL_ID;
use crate::places::Place;
use crate::relay::Shared;
use crate::succession::state;
use socket2::SockRef;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, error::CapacityError};

/// How long a viewer may take to answer a close frame.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The most reads, or writes, made before other tasks get their turn.
const STEPS: usize = 8;

static LOST: Throttle = Throttle::new(Duration::from_secs(10));

/// Why a viewer left, or was left.
#[derive(Debug, Error)]
enum Left {
    #[error("closed with {code}: {reason}")]
    Closed { code: CloseCode, reason: &'static str },
    #[error("it closed")]
    ByPeer,
    #[error("it went without closing")]
    Gone,
    #[error("nothing could be written to it for clients.stall_timeout")]
    Stalled,
    #[error("it did not answer a ping within clients.ping_timeout")]
    Silent,
    #[error("no whole request within clients.handshake_timeout")]
    Handshake,
    #[error("the monitor stops")]
    Stopping,
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Left {
    fn closed(code: CloseCode, reason: &'static str) -> Self {
        Self::Closed { code, reason }
    }
}

impl From<End> for Left {
    fn from(end: End) -> Self {
        match end {
            End::Finished => Self::closed(CloseCode::Normal, ""),
            End::Stopping => Self::closed(CloseCode::Away, "the monitor stops"),
            End::Expired => Self::closed(CloseCode::Away, "the job never finished"),
            End::Evicted => Self::closed(CloseCode::Again, "the job's history had to go"),
            End::Behind => Self::closed(CloseCode::Again, "too slow for the job's history"),
        }
    }
}

impl From<tungstenite::Error> for Left {
    fn from(error: tungstenite::Error) -> Self {
        use tungstenite::Error as E;
        use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
        match error {
            E::ConnectionClosed | E::AlreadyClosed => Self::ByPeer,
            E::Protocol(ResetWithoutClosingHandshake) => Self::Gone,
            E::Io(e) => Self::Io(e),
            E::Utf8(_) => Self::closed(CloseCode::Invalid, "not UTF-8"),
            E::Capacity(CapacityError::MessageTooLong { .. }) => Self::closed(CloseCode::Size, "message too long"),
            _ => Self::closed(CloseCode::Protocol, "against the WebSocket protocol"),
        }
    }
}

/// One viewer's connection.
#[derive(Debug)]
pub struct Viewer {
    stage: Stage,
    peer: SocketAddr,
    shared: Arc<Shared>,
    _place: Place,
}

/// How far a viewer is.
#[derive(Debug, Default)]
enum Stage {
    /// It has sent this much of its request.
    Request(TcpStream, Vec<u8>),
    /// It has not named its channel.
    Naming(Socket),
    /// It gets its channel's messages.
    Relaying(Relaying),
    /// It gets what is left, and is expected to go.
    Closing(Socket),
    #[default]
    Gone,
}

impl Viewer {
    /// One that has just connected.
    #[must_use]
    pub fn new(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>, place: Place) -> Self {
        Self { stage: Stage::Request(stream, Vec::new()), peer, shared, _place: place }
    }

    /// One that the process before left here; `cursor` is its place in its channel, if it had one.
    #[must_use]
    pub fn resume(
        stream: TcpStream,
        left: state::Viewer<'_>,
        cursor: Option<Cursor>,
        peer: SocketAddr,
        shared: Arc<Shared>,
        place: Place,
    ) -> Self {
        let (received, unsent) = (left.received.into_owned(), left.unsent.into_owned());
        let stage = match (left.stage, cursor) {
            (state::Stage::Request, _) => Stage::Request(stream, received),
            (state::Stage::Relaying { in_message, .. }, Some(cursor)) => {
                let socket = Socket::new(stream, Incoming::new(received, in_message), unsent);
                Stage::Relaying(Relaying { socket, cursor, clock: Clock::new(&shared.settings().clients) })
            }
            (state::Stage::Naming, _) => Stage::Naming(Socket::new(stream, Incoming::new(received, false), unsent)),
            (state::Stage::Closing { answer, in_message }, _) => {
                Stage::Closing(Socket::closing(stream, Incoming::new(received, in_message), unsent, answer))
            }
            (state::Stage::Relaying { .. }, None) => Stage::Gone,
        };
        Self { stage, peer, shared, _place: place }
    }

    /// Serves the viewer until one side closes.
    pub fn serve(mut self) -> impl Future<Output = ()> + Send {
        // Boxed as a whole, since tokio rounds up the size of a task; the beginning and the end by themselves: what is left is
        // kept as long as the viewer stays, and there are many.
        Box::pin(async move {
            let begun = Box::pin(self.begin()).await;
            let left = match (begun, &mut self.stage) {
                (Ok(()), Stage::Relaying(relaying)) => relaying.relay(&self.shared).await,
                (begun, _) => begun.err().unwrap_or(Left::ByPeer),
            };
            let left = Box::pin(self.end(left)).await;
            self.stage = Stage::Gone;
            let peer = self.peer;
            match &left {
                Left::Closed { code, .. } => {
                    log::debug!(RECODEX_PEER:% = peer, RECODEX_CLOSE_CODE = u16::from(*code); "viewer {peer} left: {left}");
                }
                _ => log::debug!(RECODEX_PEER:% = peer; "viewer {peer} left: {left}"),
            }
        })
    }

    /// Brings a connection to the point where it has named its channel.
    async fn begin(&mut self) -> Result<(), Left> {
        let clients = self.shared.settings().clients.clone();
        let mut stop = self.shared.stop.subscribe();
        if let Stage::Request(stream, head) = &mut self.stage {
            stream.set_nodelay(true)?;
            let deadline = Instant::now() + clients.handshake_timeout.duration();
            let end = tokio::select! {
                end = timeout_at(deadline, upgrade::read(stream, head)) => end.map_err(|_| Left::Handshake)??,
                _ = stop.wait_for(|stop| *stop) => return Err(Left::Stopping),
            };
            if let Stage::Request(mut stream, head) = std::mem::take(&mut self.stage) {
                let rest = tokio::select! {
                    rest = timeout_at(deadline, upgrade::answer(&mut stream, head, end)) => rest.map_err(|_| Left::Handshake)??,
                    _ = stop.wait_for(|stop| *stop) => return Err(Left::Stopping),
                };
                self.stage = Stage::Naming(Socket::new(stream, Incoming::new(rest, false), Vec::new()));
            }
        }
        if let Stage::Naming(socket) = &mut self.stage {
            let id = tokio::select! {
                named = timeout(clients.subscribe_timeout.duration(), channel_id(socket)) => {
                    named.unwrap_or(Err(Left::closed(CloseCode::Policy, "no channel id in time")))
                }
                _ = stop.wait_for(|stop| *stop) => Err(End::Stopping.into()),
            }?;
            let peer = self.peer;
            log::debug!(RECODEX_PEER:% = peer, RECODEX_CHANNEL = id.as_str(); "viewer {peer} subscribed to channel {id}");
            if let Stage::Naming(socket) = std::mem::take(&mut self.stage) {
                let cursor = self.shared.hub.subscribe(Instant::now(), &id);
                self.stage = Stage::Relaying(Relaying { socket, cursor, clock: Clock::new(&clients) });
            }
        }
        Ok(())
    }

    /// Closes as `left` demands, and hands it back.
    async fn end(&mut self, left: Left) -> Left {
        if let Left::Stalled | Left::Silent = left {
            self.shared.metrics.viewers_lost.add(1);
            if let Some(more) = LOST.pass() {
                let peer = self.peer;
                log::info!(RECODEX_PEER:% = peer; "gave up viewer {peer}: {left}{more}");
            }
        }
        if let Left::ByPeer | Left::Closed { .. } = left
            && let Some(socket) = self.closing()
        {
            let _ = match left {
                Left::Closed { code, reason } => timeout(CLOSE_TIMEOUT, socket.close(code, reason)).await.is_ok(),
                _ => timeout(CLOSE_TIMEOUT, socket.close_out()).await.is_ok(),
            };
        }
        left
    }

    /// Unsubscribes it; what it has a part of is still sent as a whole.
    fn closing(&mut self) -> Option<&mut Socket> {
        let socket = match std::mem::take(&mut self.stage) {
            Stage::Relaying(Relaying { mut socket, cursor, .. }) => {
                socket.put_first(cursor.rest());
                socket
            }
            Stage::Naming(socket) | Stage::Closing(socket) => socket,
            Stage::Request(..) | Stage::Gone => return None,
        };
        self.stage = Stage::Closing(socket);
        match &mut self.stage {
            Stage::Closing(socket) => Some(socket),
            _ => None,
        }
    }

    /// What the next process needs to go on with it; of its channel, the place in the hub.
    fn leave(&mut self) -> Option<(TcpStream, state::Viewer<'static>)> {
        let (socket, cursor) = match std::mem::take(&mut self.stage) {
            Stage::Gone => return None,
            Stage::Request(stream, head) => {
                let (cookie, stage) = (SockRef::from(&stream).cookie().ok()?, state::Stage::Request);
                return Some((stream, state::Viewer { cookie, stage, received: head.into(), unsent: b"".into() }));
            }
            Stage::Naming(socket) | Stage::Closing(socket) => (socket, None),
            Stage::Relaying(Relaying { socket, cursor, .. }) => (socket, Some(cursor)),
        };
        let socket::Left { stream, protocol, incoming, mut unsent } = socket.leave();
        let in_message = incoming.is_in_message();
        let stage = match (protocol, cursor) {
            (Protocol::Open, Some(cursor)) => {
                let (slot, offset, rest) = cursor.place();
                let (run, rest) = (u32::try_from(slot).ok()?, rest.to_vec().into());
                state::Stage::Relaying { run, offset, rest, in_message }
            }
            (Protocol::Open, None) if !in_message => state::Stage::Naming,
            // What it has sent of its channel's id is with the protocol.
            (Protocol::Open, None) => {
                unsent.extend_from_slice(state::AWAY);
                state::Stage::Closing { answer: true, in_message }
            }
            (_, cursor) => {
                unsent.splice(0..0, cursor.iter().flat_map(Cursor::rest).copied());
                state::Stage::Closing { answer: protocol == Protocol::Closing, in_message }
            }
        };
        let cookie = SockRef::from(&stream).cookie().ok()?;
        Some((
            stream,
            state::Viewer { cookie, stage, received: incoming.bytes().to_vec().into(), unsent: unsent.into() },
        ))
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        if self.shared.succession.has_begun()
            && let Some((stream, left)) = self.leave()
        {
            Arc::clone(&self.shared).succession.leave_viewer(stream, left);
        }
    }
}

/// The channel id, which is the viewer's first message.
async fn channel_id(socket: &mut Socket) -> Result<String, Left> {
    loop {
        match socket.message().await {
            Ok(Message::Text(id)) if (1..=MAX_CHANNEL_ID).contains(&id.len()) => return Ok(id.as_str().to_owned()),
            Ok(Message::Text(_)) | Err(tungstenite::Error::Capacity(_)) => {
                return Err(Left::closed(CloseCode::Policy, "a channel id has 1 to 256 bytes"));
            }
            Ok(Message::Binary(_)) => {
                return Err(Left::closed(CloseCode::Unsupported, "the channel id must be a text message"));
            }
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[derive(Debug)]
struct Relaying {
    socket: Socket,
    cursor: Cursor,
    clock: Clock,
}

/// What a viewer waits for besides its own messages and its clock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// More in the log.
    Log,
    /// Room in the socket.
    Room,
    /// Only its turn.
    Turn,
}

impl Relaying {
    /// Writes the channel to the viewer until one of them ends.
    async fn relay(&mut self, shared: &Shared) -> Left {
        let log = Arc::clone(self.cursor.changed());
        let mut timer = pin!(sleep_until(self.clock.next()));
        loop {
            let mut changed = pin!(log.notified());
            let wait = match self.step(shared) {
                Ok(wait) => wait,
                Err(left) => return left,
            };
            let rang = if wait == Wait::Turn {
                yield_now().await;
                self.clock.next() <= Instant::now()
            } else {
                self.clock.arm(timer.as_mut());
                let stream = self.socket.stream();
                poll_fn(|cx| {
                    let room = wait == Wait::Room && stream.poll_write_ready(cx).is_ready();
                    let log = wait == Wait::Log && changed.as_mut().poll(cx).is_ready();
                    if room || log || stream.poll_read_ready(cx).is_ready() {
                        return Poll::Ready(false);
                    }
                    timer.as_mut().poll(cx).map(|()| true)
                })
                .await
            };
            if rang {
                match self.clock.ring(&shared.settings().clients) {
                    Ok(true) => self.socket.ping(),
                    Ok(false) => {}
                    Err(left) => return left,
                }
            }
        }
    }

    /// Reads what the viewer sent, which only shows that it lives, and writes what it has not got yet.
    fn step(&mut self, shared: &Shared) -> Result<Wait, Left> {
        let mut more = true;
        for _ in 0..STEPS {
            match self.socket.receive()? {
                Received::Message(_) => self.clock.answered(),
                Received::Part => {}
                Received::Nothing => {
                    more = false;
                    break;
                }
            }
        }
        let wait = self.write(shared)?;
        Ok(if more { Wait::Turn } else { wait })
    }

    /// Writes what the viewer has not got yet.
    fn write(&mut self, shared: &Shared) -> Result<Wait, Left> {
        for _ in 0..STEPS {
            if self.socket.has_control() && self.cursor.rest().is_empty() {
                if !self.socket.write_control()? {
                    self.clock.blocked(&shared.settings().clients);
                    return Ok(Wait::Room);
                }
                continue;
            }
            let stream = self.socket.stream();
            match self.cursor.turn(|bytes| stream.try_write(bytes)) {
                Ok(Turn::Wrote) => self.clock.wrote(),
                Ok(Turn::CaughtUp) => return Ok(Wait::Log),
                Ok(Turn::Ended(end)) => return Err(end.into()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.clock.blocked(&shared.settings().clients);
                    return Ok(Wait::Room);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Wait::Turn)
    }
}

/// A viewer's deadlines.
#[derive(Debug)]
struct Clock {
    ping_at: Instant,
    answer_by: Option<Instant>,
    room_by: Option<Instant>,
}

impl Clock {
    fn new(clients: &Clients) -> Self {
        Self { ping_at: Instant::now() + clients.ping_interval.duration(), answer_by: None, room_by: None }
    }

    fn next(&self) -> Instant {
        [self.answer_by, self.room_by].into_iter().flatten().fold(self.ping_at, Instant::min)
    }

    /// Sets the timer to the next deadline. One that moved further away is found when the timer rings.
    fn arm(&self, timer: Pin<&mut Sleep>) {
        let next = self.next();
        if next < timer.deadline() || timer.is_elapsed() {
            timer.reset(next);
        }
    }

    /// Nothing could be written.
    fn blocked(&mut self, clients: &Clients) {
        self.room_by.get_or_insert_with(|| Instant::now() + clients.stall_timeout.duration());
    }

    /// Something was written; after a stall, that shows that the viewer reads.
    fn wrote(&mut self) {
        if self.room_by.take().is_some() {
            self.answer_by = None;
        }
    }

    /// The viewer sent something.
    fn answered(&mut self) {
        self.answer_by = None;
    }

    /// What is due now: true for a ping.
    fn ring(&mut self, clients: &Clients) -> Result<bool, Left> {
        let now = Instant::now();
        if self.room_by.is_some_and(|by| by <= now) {
            return Err(Left::Stalled);
        }
        if self.answer_by.is_some_and(|by| by <= now) {
            return Err(Left::Silent);
        }
        if self.ping_at > now {
            return Ok(false);
        }
        self.ping_at = now + clients.ping_interval.duration();
        self.answer_by.get_or_insert_with(|| now + clients.ping_timeout.duration());
        Ok(true)
    }
}
