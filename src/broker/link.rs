//! One broker's link: a ZMTP ROUTER that only receives, under the routing id that brokers address.

use crate::broker::allowed::Allowed;
use crate::broker::ended::Ended;
use crate::broker::handshake_error;
use crate::context::Shared;
use crate::context::permits::Permit;
use crate::deadline::timeout;
use crate::logging::Throttle;
use crate::metrics::counters::{LinkRefusal, Metrics};
use crate::snapshot::state;
use crate::wire::message::{Kind, Message};
use crate::wire::zmtp::{self, Event, Parser, Parts, Stage, Violation};
use crate::{hub, stream};
use socket2::SockRef;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The routing id under which brokers address the monitor.
pub(crate) const ROUTING_ID: &str = "recodex-monitor";

/// The longest pause, while the monitor stops, between two reads of what a broker has already sent.
const DRAIN_SILENCE: Duration = Duration::from_millis(100);
/// The longest time, while the monitor stops, for a broker that does not pause.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// The throttle for connects. Brokers connect seldom: more lines than these come from a peer that connects again and again.
static CONNECT_LOG: Throttle = Throttle::bursts(64, Duration::from_secs(60));
static CROWDED: Throttle = Throttle::new(Duration::from_secs(60));
static MALFORMED: Throttle = Throttle::new(Duration::from_secs(10));
static EXITS: Throttle = Throttle::new(Duration::from_secs(10));

/// Shakes hands with a peer. Then another task receives from it until the broker disconnects or the monitor stops.
///
/// Aborting this future ends the handshake and never a broker's link.
pub(crate) async fn serve(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let (parser, allowed) = (Parser::default(), Allowed::new(peer, &shared));
    Link { stream, peer, shared, allowed, parser, since: 0, greeted: false, buffer: Vec::new(), messages: 0 }
        .begin()
        .await;
}

/// Resumes a link of the previous process.
pub(crate) fn resume(stream: TcpStream, left: &state::Link<'_>, shared: Arc<Shared>) {
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

/// Starts a handshake. The oldest one is dropped if there are too many.
pub(crate) fn shake_hands(peer: SocketAddr, handshake: impl Future<Output = ()> + Send + 'static, shared: &Shared) {
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
    /// The time of the handshake, in seconds since the Unix epoch.
    since: u64,
    /// True once the greeting and READY were sent.
    greeted: bool,
    /// The buffer for encoding; kept so that messages do not allocate.
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
    /// Shakes hands within the deadline, and starts the task that receives.
    async fn begin(mut self) {
        let time = self.shared.settings().zeromq.handshake_timeout.duration();
        let done = timeout(time, pin!(self.handshake())).await;
        match done.unwrap_or(Err(Ended::Handshake)) {
            Ok(()) => self.accept(),
            Err(ended) => self.handshake_failed(ended),
        }
    }

    /// Starts the task that receives from a broker, if there is a permit.
    fn accept(mut self) {
        let Some(permit) = self.shared.brokers.take() else { return Ended::Full.report(self.peer, &self.shared) };
        self.since = state::now() / 1000;
        let (peer, connected) = (self.peer, CONNECT_LOG.pass());
        if let Some(more) = &connected {
            log::info!(RECODEX_PEER:% = peer; "broker {peer} connected{more}");
        }
        tokio::spawn(self.receive(permit, connected.is_some()));
    }

    /// Reports a failed handshake, with an explanation from the bytes that the peer sent.
    fn handshake_failed(&self, ended: Ended) {
        let peer = self.peer;
        let ended = match ended {
            Ended::ByPeer | Ended::MidMessage | Ended::Io(_) => {
                let Some(how_far) = handshake_error::hung_up(&self.parser) else {
                    log::debug!(RECODEX_PEER:% = peer; "ZeroMQ peer {peer} left before it sent anything: a port probe, or a socket with CURVE or PLAIN");
                    return;
                };
                Ended::HungUp(how_far)
            }
            Ended::Violation(Violation::NotZmtp) => Ended::OtherProtocol(handshake_error::other_protocol(&self.parser)),
            other => other,
        };
        ended.report(peer, &self.shared);
    }

    /// Receives until one side ends. The end is logged if the connect was logged (`logged`).
    async fn receive(mut self, permit: Permit, logged: bool) {
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
        if logged {
            log::info!(RECODEX_PEER:% = peer; "broker {peer} disconnected after {} messages: {ended}", self.messages);
        }
        ended.report(peer, &self.shared);
        drop(permit);
    }

    async fn handshake(&mut self) -> Result<(), Ended> {
        if !self.greeted {
            self.answer(&zmtp::opening(ROUTING_ID))?;
            self.greeted = true;
        }
        let mut stop = self.shared.stop.subscribe();
        // Messages may follow in the same bytes; the first call of `take` relays them.
        while self.parser.event()? != Some(Event::Ready) {
            tokio::select! {
                got = read(&mut self.stream, &mut self.parser, &self.shared.metrics) => got?,
                () = self.allowed.revoked() => return Err(Ended::NotAllowed),
                _ = stop.wait_for(|stop| *stop) => return Err(Ended::Stopping),
            }
        }
        Ok(())
    }

    /// Relays messages until the link ends.
    async fn relay(&mut self) -> Result<Infallible, Ended> {
        // These futures stay for as long as the link does: making them anew for each read would cost more than the rest of the loop.
        let (mut allowed, mut stop) = (Allowed::new(self.peer, &self.shared), self.shared.stop.subscribe());
        let (mut revoked, mut stopped) = (pin!(allowed.revoked()), pin!(stop.wait_for(|stop| *stop)));
        loop {
            let full = self.take()?;
            if full {
                // More is waiting; the viewers write first, so that less is pending for them.
                tokio::task::yield_now().await;
            }
            tokio::select! {
                biased;
                () = &mut revoked => return Err(Ended::NotAllowed),
                _ = &mut stopped => return Err(Ended::Stopping),
                got = read_on(&mut self.stream, &mut self.parser, &self.shared) => got?,
            }
        }
    }

    /// Relays what the broker has already sent.
    async fn drain(&mut self) -> Result<Infallible, Ended> {
        loop {
            self.take()?;
            // Without this, the deadline would not be checked while the broker sends.
            tokio::task::yield_now().await;
            let read = read(&mut self.stream, &mut self.parser, &self.shared.metrics);
            timeout(DRAIN_SILENCE, read).await.map_err(|_| Ended::Stopping)??;
        }
    }

    /// Relays every whole message. Returns true if the last read filled its space, so that more is probably waiting.
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
        // The settings are read before the hub is locked, so that no two locks are held at once.
        let accept_exit = self.shared.settings().accept_exit;
        let shared = Arc::clone(&self.shared);
        match &shared.stream {
            None => self.take_to(&mut shared.hub.publisher(now), accept_exit),
            Some(stream) => self.take_to(&mut stream.appender(), accept_exit),
        }
    }

    // One copy of this loop for both ways: with two, the compiler no longer puts the parser into it.
    fn take_to(&mut self, publisher: &mut dyn Publish, accept_exit: bool) -> Result<(), Ended> {
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
                    let pong = zmtp::pong(context);
                    self.answer(&pong)?;
                }
                Event::Ready => {}
            }
        }
        Ok(())
    }

    /// Writes a few bytes. They fit the send buffer unless the peer does not read.
    fn answer(&self, bytes: &[u8]) -> Result<(), Ended> {
        // A plain send: the runtime does not know at once that a new socket is writable.
        match SockRef::from(&self.stream).send(bytes) {
            Ok(count) if count == bytes.len() => Ok(()),
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e.into()),
            _ => Err(Ended::NotReading),
        }
    }
}

/// The way of messages from a link: into the hub, or into the stream of a cluster.
trait Publish {
    fn publish(&mut self, channel: &str, kind: Kind, frame: &[u8]);
}

impl Publish for hub::Publisher<'_> {
    fn publish(&mut self, channel: &str, kind: Kind, frame: &[u8]) {
        self.publish(channel, kind, frame);
    }
}

impl Publish for stream::Appender<'_> {
    fn publish(&mut self, channel: &str, kind: Kind, frame: &[u8]) {
        self.publish(channel, kind, frame);
    }
}

/// Reads as [`read`] does. In a cluster it first waits until what was read before has room in the buffer for Redis.
async fn read_on(stream: &mut TcpStream, parser: &mut Parser, shared: &Shared) -> Result<(), Ended> {
    if let Some(stream) = &shared.stream {
        stream.room().await;
    }
    read(stream, parser, &shared.metrics).await
}

/// Reads once into the parser's space.
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

/// Decodes the message in `parts`. A malformed one is counted and logged.
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

/// Obeys a broker's request to exit, or ignores and logs it.
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
