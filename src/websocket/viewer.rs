//! One viewer: from the accepted connection to its close. Every wait has a deadline.

use super::socket::{Received, Socket};
use super::upgrade::{self, Refused};
use crate::channel::End;
use crate::config::Clients;
use crate::cursor::{Cursor, Turn};
use crate::logging::Throttle;
use crate::message::MAX_CHANNEL_ID;
use crate::places::Place;
use crate::relay::Shared;
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
use tokio::time::{Instant, Sleep, sleep_until, timeout};
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

/// Serves a viewer until one side closes.
pub fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    place: Place,
) -> impl Future<Output = ()> + Send {
    // The beginning and the end are boxed, and nothing is captured twice: what is left is kept as long as the viewer
    // stays, and there are many.
    let beginning = Box::pin(subscribe(stream, peer, shared));
    // And boxed as a whole, since tokio rounds up the size of a task.
    Box::pin(async move {
        let left = async {
            let mut viewer = match beginning.await {
                Ok(viewer) => viewer,
                Err(left) => return left,
            };
            let left = viewer.relay().await;
            Box::pin(viewer.end(peer, left)).await
        };
        let left = left.await;
        match &left {
            Left::Closed { code, .. } => {
                log::debug!(RECODEX_PEER:% = peer, RECODEX_CLOSE_CODE = u16::from(*code); "viewer {peer} left: {left}");
            }
            _ => log::debug!(RECODEX_PEER:% = peer; "viewer {peer} left: {left}"),
        }
        drop(place);
    })
}

/// Brings a connection to the point where it has named its channel.
async fn subscribe(mut stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) -> Result<Viewer, Left> {
    let clients = shared.settings().clients.clone();
    let mut stop = shared.stop.subscribe();
    stream.set_nodelay(true)?;
    let rest = tokio::select! {
        accepted = timeout(clients.handshake_timeout.duration(), upgrade::accept(&mut stream)) => {
            accepted.map_err(|_| Left::Handshake)??
        }
        _ = stop.wait_for(|stop| *stop) => return Err(Left::Stopping),
    };
    let mut socket = Socket::new(stream, rest);
    let named = tokio::select! {
        named = timeout(clients.subscribe_timeout.duration(), channel_id(&mut socket)) => {
            named.unwrap_or(Err(Left::closed(CloseCode::Policy, "no channel id in time")))
        }
        _ = stop.wait_for(|stop| *stop) => Err(End::Stopping.into()),
    };
    match named {
        Ok(id) => {
            log::debug!(RECODEX_PEER:% = peer, RECODEX_CHANNEL = id.as_str(); "viewer {peer} subscribed to channel {id}");
            let cursor = shared.hub.subscribe(Instant::now(), &id);
            let clock = Clock::new(&clients);
            Ok(Viewer { socket, cursor, clock, shared })
        }
        Err(left) => {
            match left {
                Left::ByPeer => drop(timeout(CLOSE_TIMEOUT, socket.finish(&[])).await),
                Left::Closed { code, reason } => drop(timeout(CLOSE_TIMEOUT, socket.close(&[], code, reason)).await),
                _ => {}
            }
            Err(left)
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

struct Viewer {
    socket: Socket,
    cursor: Cursor,
    clock: Clock,
    shared: Arc<Shared>,
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

impl Viewer {
    /// Writes the channel to the viewer until one of them ends.
    async fn relay(&mut self) -> Left {
        let log = Arc::clone(self.cursor.changed());
        let mut timer = pin!(sleep_until(self.clock.next()));
        loop {
            let mut changed = pin!(log.notified());
            let wait = match self.step() {
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
                match self.clock.ring(&self.shared.settings().clients) {
                    Ok(true) => self.socket.ping(),
                    Ok(false) => {}
                    Err(left) => return left,
                }
            }
        }
    }

    /// Reads what the viewer sent, which only shows that it lives, and writes what it has not got yet.
    fn step(&mut self) -> Result<Wait, Left> {
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
        let wait = self.write()?;
        Ok(if more { Wait::Turn } else { wait })
    }

    /// Writes what the viewer has not got yet.
    fn write(&mut self) -> Result<Wait, Left> {
        for _ in 0..STEPS {
            if self.socket.has_control() && self.cursor.rest().is_empty() {
                if !self.socket.write_control()? {
                    self.clock.blocked(&self.shared.settings().clients);
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
                    self.clock.blocked(&self.shared.settings().clients);
                    return Ok(Wait::Room);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Wait::Turn)
    }

    /// Closes as `left` demands, and hands it back.
    async fn end(mut self, peer: SocketAddr, left: Left) -> Left {
        if let Left::Stalled | Left::Silent = left {
            self.shared.metrics.viewers_lost.add(1);
            if let Some(more) = LOST.pass() {
                log::info!(RECODEX_PEER:% = peer; "gave up viewer {peer}: {left}{more}");
            }
        }
        match &left {
            Left::ByPeer => {
                let rest = self.cursor.rest().to_vec();
                drop(self.cursor);
                let _ = timeout(CLOSE_TIMEOUT, self.socket.finish(&rest)).await;
            }
            Left::Closed { code, reason } => {
                let rest = self.cursor.rest().to_vec();
                drop(self.cursor);
                let _ = timeout(CLOSE_TIMEOUT, self.socket.close(&rest, *code, reason)).await;
            }
            _ => {}
        }
        left
    }
}

/// A viewer's deadlines.
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
