//! One broker's link: a ZMTP ROUTER that only receives, under the routing id that brokers address.

use crate::broker::allowed::Allowed;
use crate::broker::stranger;
use crate::context::Shared;
use crate::context::permits::Permit;
use crate::deadline::timeout;
use crate::logging::Throttle;
use crate::metrics::counters::{LinkRefusal, Metrics};
use crate::snapshot::state;
use crate::wire::message::Message;
use crate::wire::zmtp::{Event, GREETING, Parser, Parts, Stage, Violation};
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The routing id under which brokers address the monitor.
pub const ROUTING_ID: &str = "recodex-monitor";

/// How long the monitor waits, when it stops, for more of what a broker has already sent.
const DRAIN_SILENCE: Duration = Duration::from_millis(100);
/// How long it takes from a broker that does not pause.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// Brokers come seldom; more than this many at once are somebody's play.
static CONNECT_LOG: Throttle = Throttle::bursts(64, Duration::from_secs(60));
static CROWDED: Throttle = Throttle::new(Duration::from_secs(60));
static FULL: Throttle = Throttle::new(Duration::from_secs(60));
static VIOLATIONS: Throttle = Throttle::new(Duration::from_secs(10));
static MALFORMED: Throttle = Throttle::new(Duration::from_secs(10));
static EXITS: Throttle = Throttle::new(Duration::from_secs(10));

/// Why a link ended.
#[derive(Debug, Error)]
enum Ended {
    #[error("closed by the broker")]
    ByPeer,
    #[error("closed by the broker in the middle of a message, which is dropped")]
    MidMessage,
    #[error("the monitor stops")]
    Stopping,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Violation(#[from] Violation),
    #[error("the handshake took longer than zeromq.handshake_timeout")]
    Handshake,
    #[error("it does not read the answers to its PINGs")]
    NotReading,
    #[error("zeromq.max_connections is reached")]
    Full,
    #[error("zeromq.allow no longer names it")]
    NotAllowed,
    #[error("not ZeroMQ: {0}")]
    OtherProtocol(String),
    #[error("the peer hung up in its handshake {0}")]
    HungUp(String),
}

/// Shakes hands with a peer; once it is a broker, another task receives from it until it goes or the monitor stops.
///
/// Aborting this one ends the handshake and never a broker's link.
pub async fn serve(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let (parser, allowed) = (Parser::default(), Allowed::new(peer, &shared));
    Link { stream, peer, shared, allowed, parser, since: 0, greeted: false, buffer: Vec::new(), messages: 0 }
        .begin()
        .await;
}

/// Goes on with a link that the process before left.
pub fn resume(stream: TcpStream, left: &state::Link<'_>, shared: Arc<Shared>) {
    let parser = Parser::resume(left.stage, &left.received);
    let state::Link { peer, since, greeted, messages, .. } = *left;
    let allowed = Allowed::new(peer, &shared);
    let link = Link { stream, peer, shared, allowed, parser, since, greeted, buffer: Vec::new(), messages };
    if !link.shared.allows_broker(peer) {
        link.shared.metrics.links_refused.add(LinkRefusal::NotAllowed);
        log::info!(RECODEX_PEER:% = peer; "broker {peer} is closed: zeromq.allow no longer names it");
    } else if left.stage == Stage::Traffic {
        let permit = link.shared.brokers.take_over();
        tokio::spawn(link.receive(permit, true));
    } else {
        let shared = Arc::clone(&link.shared);
        shake_hands(peer, link.begin(), &shared);
    }
}

/// Begins a handshake; the oldest one is dropped where there are too many.
pub fn shake_hands(peer: SocketAddr, handshake: impl Future<Output = ()> + Send + 'static, shared: &Shared) {
    if let Some(oldest) = shared.handshakes.begin(peer, handshake) {
        shared.metrics.links_refused.add(LinkRefusal::Crowded);
        if let Some(more) = CROWDED.pass() {
            let limit = shared.handshakes.limit();
            log::warn!(
                RECODEX_PEER:% = oldest;
                "closed the ZeroMQ link from {oldest}: {limit} others began a handshake after it{more}"
            );
        }
    }
}

struct Link {
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    allowed: Allowed,
    parser: Parser,
    /// When it shook hands, in seconds since the Unix epoch.
    since: u64,
    /// Whether it was sent the greeting and READY.
    greeted: bool,
    /// For encoding; kept so that no message allocates.
    buffer: Vec<u8>,
    messages: u64,
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.shared.outbox.is_open()
            && let Ok(cookie) = SockRef::from(&self.stream).cookie()
        {
            let received = self.parser.unparsed().to_vec().into();
            let Self { peer, since, greeted, messages, .. } = *self;
            let left = state::Link { cookie, peer, since, greeted, stage: self.parser.stage(), received, messages };
            self.shared.outbox.leave_link(&self.stream, left);
        }
    }
}

impl Link {
    async fn begin(mut self) {
        let time = self.shared.settings().zeromq.handshake_timeout.duration();
        let done = timeout(time, pin!(self.handshake())).await;
        match done.unwrap_or(Err(Ended::Handshake)) {
            Err(Ended::ByPeer | Ended::MidMessage | Ended::Io(_)) => {
                let peer = self.peer;
                if let Some(how_far) = stranger::hung_up(&self.parser) {
                    self.close(&Ended::HungUp(how_far));
                } else {
                    log::debug!(RECODEX_PEER:% = peer; "ZeroMQ peer {peer} left before it sent anything: a port probe, or a socket with CURVE or PLAIN");
                }
            }
            Err(Ended::Violation(Violation::NotZmtp)) => {
                self.close(&Ended::OtherProtocol(stranger::other_protocol(&self.parser)));
            }
            Err(ended) => self.close(&ended),
            Ok(()) => match self.shared.brokers.take() {
                Some(permit) => {
                    self.since = state::now() / 1000;
                    let (peer, connected) = (self.peer, CONNECT_LOG.pass());
                    if let Some(more) = &connected {
                        log::info!(RECODEX_PEER:% = peer; "broker {peer} connected{more}");
                    }
                    tokio::spawn(self.receive(permit, connected.is_some()));
                }
                None => self.close(&Ended::Full),
            },
        }
    }

    /// Receives until one side ends; `said` is whether its beginning was logged.
    async fn receive(mut self, permit: Permit, said: bool) {
        let peer = self.peer;
        let _entry = self.shared.connected.enter(peer, self.since);
        let ended = match self.relay().await {
            Ok(never) => match never {},
            Err(Ended::Stopping) => match timeout(DRAIN_LIMIT, self.drain()).await {
                Ok(Err(ended)) => ended,
                Err(_) => Ended::Stopping,
            },
            Err(ended) => ended,
        };
        if said {
            log::info!(RECODEX_PEER:% = peer; "broker {peer} disconnected after {} messages: {ended}", self.messages);
        }
        self.close(&ended);
        drop(permit);
    }

    /// What is to be said and counted of a link that ended.
    fn close(&self, ended: &Ended) {
        let refusal = match ended {
            Ended::Violation(_) | Ended::OtherProtocol(_) => Some(LinkRefusal::Violation),
            Ended::Handshake => Some(LinkRefusal::Timeout),
            Ended::NotReading => Some(LinkRefusal::NotReading),
            Ended::Full => Some(LinkRefusal::Full),
            Ended::NotAllowed => Some(LinkRefusal::NotAllowed),
            Ended::HungUp(_) => Some(LinkRefusal::HungUp),
            _ => None,
        };
        if let Some(refusal) = refusal {
            self.shared.metrics.links_refused.add(refusal);
            let throttle = if refusal == LinkRefusal::Full { &FULL } else { &VIOLATIONS };
            if let Some(more) = throttle.pass() {
                let peer = self.peer;
                log::warn!(RECODEX_PEER:% = peer; "closed the ZeroMQ link from {peer}: {ended}{more}");
            }
        }
    }

    async fn handshake(&mut self) -> Result<(), Ended> {
        if !self.greeted {
            self.answer(&opening())?;
            self.greeted = true;
        }
        let mut stop = self.shared.stop.subscribe();
        // Messages may follow in the same bytes; they are taken by the first call of `take`.
        while self.parser.event()? != Some(Event::Ready) {
            tokio::select! {
                got = read(&mut self.stream, &mut self.parser, &self.shared.metrics) => got?,
                () = self.allowed.ended() => return Err(Ended::NotAllowed),
                _ = stop.wait_for(|stop| *stop) => return Err(Ended::Stopping),
            }
        }
        Ok(())
    }

    async fn relay(&mut self) -> Result<std::convert::Infallible, Ended> {
        let mut stop = self.shared.stop.subscribe();
        loop {
            let full = self.take()?;
            if full {
                // More is waiting: let the viewers write what there is before it grows.
                tokio::task::yield_now().await;
            }
            tokio::select! {
                got = read(&mut self.stream, &mut self.parser, &self.shared.metrics) => got?,
                () = self.allowed.ended() => return Err(Ended::NotAllowed),
                _ = stop.wait_for(|stop| *stop) => return Err(Ended::Stopping),
            }
        }
    }

    /// Takes what the broker has already sent.
    async fn drain(&mut self) -> Result<std::convert::Infallible, Ended> {
        loop {
            self.take()?;
            // Without a pause the deadline would not be looked at for as long as the broker sends.
            tokio::task::yield_now().await;
            let read = read(&mut self.stream, &mut self.parser, &self.shared.metrics);
            timeout(DRAIN_SILENCE, read).await.map_err(|_| Ended::Stopping)??;
        }
    }

    /// Relays every message that is whole; returns whether the last read filled the space it had.
    fn take(&mut self) -> Result<bool, Ended> {
        let now = Instant::now();
        let full = self.parser.is_full();
        let before = self.messages;
        let taken = self.take_all(now);
        if self.messages > before {
            self.shared.metrics.received.add(usize::try_from(self.messages - before).unwrap_or(0));
            self.shared.changed.notify_one();
        }
        taken.map(|()| full)
    }

    fn take_all(&mut self, now: Instant) -> Result<(), Ended> {
        // Before the hub is taken: of two locks, none is waited for while the other is held.
        let accept_exit = self.shared.settings().accept_exit;
        let mut publisher = self.shared.hub.publisher(now);
        while let Some(event) = self.parser.event()? {
            match event {
                Event::Message(parts) => {
                    self.messages += 1;
                    if let Some(message) = decode(&self.shared, self.peer, &parts) {
                        if message.is_exit() {
                            exit(&self.shared, self.peer, accept_exit);
                        } else {
                            publisher.publish(message.channel, message.kind(), message.encode(&mut self.buffer));
                        }
                    }
                }
                Event::Ping(context) => {
                    let length = u8::try_from(5 + context.len()).unwrap_or(u8::MAX);
                    let pong = [&[4, length][..], b"\x04PONG", context].concat();
                    self.answer(&pong)?;
                }
                Event::Ready => {}
            }
        }
        Ok(())
    }

    /// Writes a few bytes, which always fit unless the peer does not read.
    fn answer(&self, bytes: &[u8]) -> Result<(), Ended> {
        // The kernel is asked, and not the runtime, which does not know at once that a socket can be written to.
        match SockRef::from(&self.stream).send(bytes) {
            Ok(count) if count == bytes.len() => Ok(()),
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e.into()),
            _ => Err(Ended::NotReading),
        }
    }
}

async fn read(stream: &mut TcpStream, parser: &mut Parser, metrics: &Metrics) -> Result<(), Ended> {
    match stream.read(parser.space()).await? {
        0 if parser.is_mid_message() => Err(Ended::MidMessage),
        0 => Err(Ended::ByPeer),
        count => {
            parser.received(count);
            metrics.received_bytes.add(count);
            Ok(())
        }
    }
}

/// The message in `parts`; one that is none is counted and logged.
fn decode<'p>(shared: &Shared, peer: SocketAddr, parts: &'p Parts<'p>) -> Option<Message<'p>> {
    match Message::decode(parts.frames()) {
        Ok(message) => Some(message),
        Err(malformed) => {
            shared.metrics.malformed.add(malformed);
            if let Some(more) = MALFORMED.pass() {
                log::warn!(RECODEX_PEER:% = peer; "dropped a message from broker {peer}: {malformed}{more}");
            }
            None
        }
    }
}

/// A broker's request to exit.
fn exit(shared: &Shared, peer: SocketAddr, accept_exit: bool) {
    if accept_exit {
        log::info!(RECODEX_PEER:% = peer; "broker {peer} asks the monitor to exit (accept_exit is on)");
        shared.stop.send_replace(true);
    } else {
        shared.metrics.exits_ignored.add(1);
        if let Some(more) = EXITS.pass() {
            log::warn!(RECODEX_PEER:% = peer; "ignored a request to exit from broker {peer} (accept_exit is off){more}");
        }
    }
}

/// What the monitor sends first: its greeting and READY.
fn opening() -> Vec<u8> {
    let mut bytes = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1];
    bytes.extend_from_slice(b"NULL");
    bytes.resize(GREETING, 0);
    let mut ready = b"\x05READY".to_vec();
    for (name, value) in [("Socket-Type", "ROUTER"), ("Identity", ROUTING_ID)] {
        ready.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        ready.extend_from_slice(name.as_bytes());
        ready.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        ready.extend_from_slice(value.as_bytes());
    }
    bytes.extend([4, u8::try_from(ready.len()).unwrap_or(u8::MAX)]);
    bytes.extend(ready);
    bytes
}
