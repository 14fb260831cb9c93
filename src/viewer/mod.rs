//! One viewer: from the accepted connection to its close. Every wait has a deadline.

pub mod client_address;
pub mod delivery;
pub mod disconnect;
pub mod forwarded;
pub mod frame_buffer;
pub mod proxy_protocol;
pub mod socket;
pub mod upgrade;

use crate::config::{Clients, Origin, Proxy, Settings};
use crate::context::Shared;
use crate::context::over_limit::Turn;
use crate::context::permits::{AddressPermit, Permit};
use crate::deadline::timeout;
use crate::hub::cursor::Cursor;
use crate::logging::{Throttle, escape};
use crate::metrics::counters::ViewerRefusal;
use crate::net::head_limits::MAX_HEAD;
use crate::net::stream::Stream;
use crate::peer::Peer;
use crate::snapshot::state;
use crate::viewer::delivery::Relaying;
use crate::viewer::disconnect::{Left, refused};
use crate::viewer::frame_buffer::FrameBuffer;
use crate::viewer::socket::{Protocol, Socket};
use crate::viewer::upgrade::{Answer, FOREIGN, FULL, Refused, TOO_MANY};
use crate::wire::close::End;
use crate::wire::first_byte::{ClientProtocol, ENOUGH};
use crate::wire::message::MAX_CHANNEL_ID;
use socket2::SockRef;
use std::borrow::Cow;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::http::HeaderMap;
use tokio_tungstenite::tungstenite::http::header::ORIGIN;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self};

/// How long a viewer may take to answer a close frame.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

static FOREIGN_PAGE: Throttle = Throttle::new(Duration::from_secs(60));
static NOBODY_NAMED: Throttle = Throttle::new(Duration::from_secs(60));

/// Serves a connection. Over a limit of viewers it has a turn only, in which its request is read: it may be a health check.
pub fn admit(stream: Stream, peer: Peer, shared: &Arc<Shared>) {
    let settings = shared.settings();
    let proxy = Proxy::any(&settings.trusted_proxies, peer);
    if settings.websocket_proxy_protocol && !proxy {
        return refused(shared, peer, ViewerRefusal::Proxy);
    }
    let mut viewer = Viewer::new(stream, peer, Arc::clone(shared));
    // The address of a viewer behind a proxy is not known yet.
    let has_share = proxy || viewer.take_share(peer, &settings.clients);
    let turn = match (viewer.permit.is_some(), has_share) {
        (true, true) => None,
        (false, _) => Some(viewer.enter_over_limit(&FULL)),
        (true, false) => Some(viewer.enter_over_limit(&TOO_MANY)),
    };
    tokio::spawn(viewer.serve(turn));
}

/// One viewer's connection.
#[derive(Debug)]
pub struct Viewer {
    stage: Stage,
    peer: Peer,
    shared: Arc<Shared>,
    /// Its permit among the viewers; none over a limit.
    permit: Option<Permit>,
    /// How it is refused if its turn ends, over a limit.
    refusal: Option<&'static Answer>,
    /// Its permit among those of its address, if that is bounded.
    address_permit: Option<Box<AddressPermit>>,
}

/// How far a viewer is.
#[derive(Debug, Default)]
enum Stage {
    /// It has sent this much of its PROXY header, if one is to come. A TLS handshake may follow.
    Connected(Stream, Option<Vec<u8>>),
    /// It has sent this much of its request, no header of which is believed if the PROXY header named nobody.
    Request { stream: Stream, head: Vec<u8>, unproxied: bool },
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
    /// One that has just connected; it has a permit if one is free.
    #[must_use]
    pub fn new(stream: Stream, peer: Peer, shared: Arc<Shared>) -> Self {
        let header = shared.settings().websocket_proxy_protocol.then(Vec::new);
        let permit = shared.viewers.take();
        Self { stage: Stage::Connected(stream, header), peer, shared, permit, refusal: None, address_permit: None }
    }

    /// Gives up what it has of the viewers' room for a turn of those over a limit.
    fn enter_over_limit(&mut self, refusal: &'static Answer) -> Turn {
        (self.permit, self.address_permit, self.refusal) = (None, None, Some(refusal));
        self.shared.over_limit.enter()
    }

    /// Whether `address`, which is the viewer's, has not too many already, itself included.
    pub fn take_share(&mut self, address: Peer, clients: &Clients) -> bool {
        self.take_share_below(address, clients.max_per_address)
    }

    fn take_share_below(&mut self, address: Peer, limit: usize) -> bool {
        if limit == 0 || self.address_permit.is_some() {
            return true;
        }
        self.address_permit = self.shared.addresses.take(address.network(), limit);
        self.address_permit.is_some()
    }

    /// The connection of one whose request is not answered, and what it has sent.
    pub fn take_stream(&mut self) -> Option<(Stream, Vec<u8>)> {
        match std::mem::take(&mut self.stage) {
            Stage::Connected(stream, header) => Some((stream, header.unwrap_or_default())),
            Stage::Request { stream, head, .. } => Some((stream, head)),
            _ => None,
        }
    }

    /// One that the process before left here; `cursor` is its position in its channel, if it had one.
    #[must_use]
    pub fn resume(
        stream: Stream,
        left: state::Viewer<'_>,
        cursor: Option<Cursor>,
        shared: Arc<Shared>,
        permit: Permit,
    ) -> Self {
        let (received, unsent) = (left.received.into_owned(), left.unsent.into_owned());
        let stage = match (left.stage, cursor) {
            (state::Stage::Connected { proxied }, _) => Stage::Connected(stream, proxied.then_some(received)),
            (state::Stage::Request { unproxied }, _) => Stage::Request { stream, head: received, unproxied },
            (state::Stage::Relaying { in_message, .. }, Some(cursor)) => {
                let socket = Socket::new(stream, FrameBuffer::new(received, in_message), unsent);
                Stage::Relaying(Relaying::new(socket, cursor, &shared.settings().clients))
            }
            (state::Stage::Naming, _) => Stage::Naming(Socket::new(stream, FrameBuffer::new(received, false), unsent)),
            (state::Stage::Closing { answer, in_message }, _) => {
                Stage::Closing(Socket::closing(stream, FrameBuffer::new(received, in_message), unsent, answer))
            }
            (state::Stage::Relaying { .. }, None) => Stage::Gone,
        };
        let settings = shared.settings();
        // Whose it is may still be to come.
        let unknown = match &stage {
            Stage::Connected(_, Some(_)) => true,
            Stage::Connected(_, None) | Stage::Request { unproxied: false, .. } => {
                Proxy::any(&settings.trusted_proxies, left.peer)
            }
            _ => false,
        };
        let mut viewer =
            Self { stage, peer: left.peer, shared, permit: Some(permit), refusal: None, address_permit: None };
        if settings.clients.max_per_address > 0 && !unknown {
            viewer.take_share_below(left.peer, usize::MAX);
        }
        viewer
    }

    /// Serves the viewer until one side closes, or over a limit, until its turn is over.
    pub fn serve(mut self, turn: Option<Turn>) -> impl Future<Output = ()> + Send {
        // Boxed as a whole, since tokio rounds up the size of a task; the beginning and the end by themselves: what is left is
        // kept as long as the viewer stays, and there are many.
        Box::pin(async move {
            let begun = Box::pin(self.begin(turn)).await;
            let left = match (begun, &mut self.stage) {
                (Ok(()), Stage::Relaying(relaying)) => relaying.relay(&self.shared).await,
                (begun, _) => begun.err().unwrap_or(Left::ByPeer),
            };
            let left = Box::pin(self.end(left)).await;
            let peer = self.peer;
            match &left {
                Left::Closed { .. } | Left::Ended(_) | Left::Unnamed => {
                    let code = left.close().map_or(0, |(code, _)| code.into());
                    log::debug!(RECODEX_PEER:% = peer, RECODEX_CLOSE_CODE = code; "viewer {peer} left: {left}");
                }
                _ => log::debug!(RECODEX_PEER:% = peer; "viewer {peer} left: {left}"),
            }
        })
    }

    /// Brings a connection to the point where it has named its channel.
    async fn begin(&mut self, mut turn: Option<Turn>) -> Result<(), Left> {
        let mut stop = self.shared.stop.subscribe();
        let limit = self.shared.settings().clients.handshake_timeout.duration();
        while let Stage::Connected(..) | Stage::Request { .. } = self.stage {
            let turn_over = async {
                match &mut turn {
                    Some(turn) => turn.over().await,
                    None => std::future::pending().await,
                }
            };
            let request = tokio::select! {
                // Boxed: what follows is kept longer, and there are many.
                request = timeout(limit, Box::pin(self.request())) => request.map_err(|_| Left::Handshake)?,
                _ = stop.wait_for(|stop| *stop) => return Err(Left::Stopping),
                () = turn_over => Err(Refused::Answered(self.refusal.unwrap_or(&FULL)).into()),
            };
            match request {
                // Its proxy has named it. What has come of its connection is kept.
                Err(Left::Share) => turn = Some(self.enter_over_limit(&TOO_MANY)),
                request => request?,
            }
        }
        drop(turn);
        if let Stage::Naming(socket) = &mut self.stage {
            let limit = self.shared.settings().clients.subscribe_timeout.duration();
            let id = {
                let named = pin!(channel_id(socket));
                tokio::select! {
                    named = timeout(limit, named) => named.unwrap_or(Err(Left::Unnamed)),
                    _ = stop.wait_for(|stop| *stop) => Err(End::Stopping.into()),
                }
            }?;
            let peer = self.peer;
            log::debug!(RECODEX_PEER:% = peer, RECODEX_CHANNEL = id.as_str(); "viewer {peer} subscribed to channel {id}");
            if let Stage::Naming(socket) = std::mem::take(&mut self.stage) {
                let cursor = self.shared.hub.subscribe(Instant::now(), &id);
                self.stage = Stage::Relaying(Relaying::new(socket, cursor, &self.shared.settings().clients));
            }
        }
        Ok(())
    }

    /// Brings a connection to the point where its request is answered. After each wait the settings in force count: a reload may
    /// have come meanwhile.
    async fn request(&mut self) -> Result<(), Left> {
        if let Stage::Connected(stream, header) = &mut self.stage {
            let (mut client, mut unproxied) = (self.peer, false);
            let read = match header {
                Some(header) => {
                    let read = proxy_protocol::read(stream, header).await;
                    // A connection that ends before its first byte only looked whether the port is open.
                    Some(read.map_err(|e| match ClientProtocol::of(header) {
                        _ if header.is_empty() => Left::Gone,
                        Some(ClientProtocol::ZeroMq) => Left::ZeroMq,
                        _ => Left::Proxy(e),
                    })?)
                }
                None => None,
            };
            let settings = self.shared.settings();
            let trusted = &settings.trusted_proxies;
            if let Some(named) = read {
                // The process before, or a reload, may have trusted others.
                if !Proxy::any(trusted, self.peer) {
                    return Err(Left::Proxy(io::ErrorKind::PermissionDenied.into()));
                }
                match client_address::named_by(self.peer, named.map(Peer::from), trusted) {
                    Some(named) => client = named,
                    None => unproxied = true,
                }
            }
            let known = unproxied || !Proxy::any(trusted, client);
            if known && self.refusal.is_none() && !self.take_share(client, &settings.clients) {
                return Err(Left::Share);
            }
            let (mut first, mut count) = ([0; ENOUGH], 0);
            if self.shared.certificate().is_some()
                && let Stage::Connected(Stream::Tcp(tcp), _) = &self.stage
            {
                // Until its first byte of TLS has come it can be handed over.
                count = tcp.peek(&mut first).await?;
            }
            // Not before: a process that takes it over until here reads the PROXY header again.
            self.peer = client;
            let Some((mut stream, _)) = self.take_stream() else { return Ok(()) };
            if ClientProtocol::of(&first[..count]) == Some(ClientProtocol::ZeroMq) {
                return Err(Left::ZeroMq);
            }
            if let Some(answer) = upgrade::answer_without_tls(&first[..count]) {
                return Ok(upgrade::refuse(&mut stream, answer).await?);
            }
            stream.send_at_once()?;
            let stream = match (stream, self.shared.certificate()) {
                (Stream::Tcp(tcp), Some(certificate)) => {
                    let accepted = Box::pin(certificate.accept(tcp)).await;
                    Stream::Tls(accepted.map_err(|e| match e.kind() {
                        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Left::Gone,
                        _ => Left::Tls(e),
                    })?)
                }
                (stream, _) => stream,
            };
            self.stage = Stage::Request { stream, head: Vec::new(), unproxied };
        }
        let Stage::Request { stream, head, unproxied } = &mut self.stage else { return Ok(()) };
        let unproxied = *unproxied;
        let end = upgrade::read(stream, head).await?;
        if ClientProtocol::of(head) == Some(ClientProtocol::ZeroMq) {
            return Err(Left::ZeroMq);
        }
        let Some((mut stream, head)) = self.take_stream() else { return Ok(()) };
        if let Some(method) = upgrade::health_check(&head[..end]).filter(|_| end <= MAX_HEAD) {
            upgrade::end_with(stream, &upgrade::HEALTHY, method);
            return Err(Left::HealthCheck);
        }
        let settings = self.shared.settings();
        let admit = |headers: &HeaderMap| {
            if !unproxied {
                self.name(headers, &settings);
            }
            if !may_come(headers, &settings.allowed_origins) {
                let peer = self.peer;
                let origin =
                    headers.get(ORIGIN).map_or(Cow::default(), |origin| String::from_utf8_lossy(origin.as_bytes()));
                if let Some(more) = FOREIGN_PAGE.pass() {
                    log::warn!(RECODEX_PEER:% = peer; "refused viewer {peer}: allowed_origins does not name its page's origin, {}{more}", escape(&origin));
                }
                return Err(&FOREIGN);
            }
            if !self.take_share(self.peer, &settings.clients) {
                return Err(&TOO_MANY);
            }
            // Over a limit; one may have left meanwhile.
            self.permit = self.permit.take().or_else(|| self.shared.viewers.take());
            if self.permit.is_none() {
                // It does not count for its address while it reads the refusal.
                self.address_permit = None;
                return Err(&FULL);
            }
            Ok(())
        };
        let rest = upgrade::answer(&mut stream, head, end, admit).await?;
        self.stage = Stage::Naming(Socket::new(stream, FrameBuffer::new(rest, false), Vec::new()));
        Ok(())
    }

    /// Takes the name that trusted proxies give it in the headers of its request.
    fn name(&mut self, headers: &HeaderMap, settings: &Settings) {
        let (proxy, header, trusted) = (self.peer, settings.proxy_header, &settings.trusted_proxies);
        self.peer = client_address::viewer(proxy, headers, header, trusted);
        if self.peer != proxy {
            // If a reload made it a proxy, it had a permit of its own until now.
            self.address_permit = None;
        } else if Proxy::any(trusted, proxy)
            && let Some(more) = NOBODY_NAMED.pass()
        {
            let whom = if client_address::names_anybody(headers, header) { "itself" } else { "no viewer" };
            log::info!(RECODEX_PEER:% = proxy; "proxy {proxy} named {whom} in {} (proxy_header): the viewer counts as the proxy{more}", header.name());
        }
    }

    /// Closes as `left` demands, and hands it back.
    async fn end(&mut self, left: Left) -> Left {
        left.count(&self.shared, self.peer);
        match left {
            Left::Refused(Refused::Answered(answer)) => self.end_request(answer, true),
            Left::Stopping => self.end_request(&upgrade::STOPPING, false),
            _ => {}
        }
        let mut finish = left.is_the_monitors() && self.shared.settings().clients.finish_on_close;
        let mut close = left.close();
        // Then it has the job's own FINISHED, or a part of it, of which the rest goes out first.
        let has_all = matches!(&self.stage, Stage::Relaying(relaying) if relaying.cursor.end() == Some(End::Finished));
        if has_all && left.is_the_monitors() {
            (finish, close) = (false, Some(End::Finished.close()));
        }
        let mut over = true;
        if (close.is_some() || matches!(left, Left::ByPeer))
            && let Some(socket) = self.closing()
        {
            let begun = close.is_none_or(|(code, reason)| socket.begin_close(code, reason, finish).is_ok());
            over = !begun || !left.is_lost() && timeout(CLOSE_TIMEOUT, socket.close_out()).await.is_ok();
        }
        if over {
            self.stage = Stage::Gone;
        }
        // Else it is told what can be told without waiting, when it is dropped.
        left
    }

    /// Answers a connection whose request has not been answered, if it can be told in HTTP; unless it is to be told `always`, only if it
    /// has begun a request.
    fn end_request(&mut self, answer: &Answer, always: bool) {
        let (mut stream, mut begun) = match std::mem::take(&mut self.stage) {
            Stage::Request { stream, head, .. } => (stream, !head.is_empty()),
            Stage::Connected(stream, None) if self.shared.certificate().is_none() => (stream, false),
            stage => return self.stage = stage,
        };
        begun |= stream.try_read(&mut [0; 4096]).is_ok_and(|count| count > 0);
        if begun || always {
            upgrade::end_with(stream, answer, b"GET");
        }
    }

    /// Unsubscribes it; what it has a part of is still sent as a whole.
    fn closing(&mut self) -> Option<&mut Socket> {
        let socket = match std::mem::take(&mut self.stage) {
            Stage::Relaying(Relaying { mut socket, cursor, .. }) => {
                socket.put_first(cursor.rest());
                socket
            }
            Stage::Naming(socket) | Stage::Closing(socket) => socket,
            Stage::Connected(..) | Stage::Request { .. } | Stage::Gone => return None,
        };
        self.stage = Stage::Closing(socket);
        match &mut self.stage {
            Stage::Closing(socket) => Some(socket),
            _ => None,
        }
    }

    /// What the next process needs to go on with it; of its channel, the position in the hub.
    fn leave(&mut self) -> Option<(Stream, state::Viewer<'static>)> {
        let peer = self.peer;
        let begun = |stream: Stream, stage, received: Vec<u8>| {
            let cookie = SockRef::from(&stream).cookie().ok()?;
            Some((stream, state::Viewer { cookie, peer, stage, received: received.into(), unsent: b"".into() }))
        };
        let (socket, cursor) = match std::mem::take(&mut self.stage) {
            Stage::Gone => return None,
            Stage::Connected(stream, header) => {
                let proxied = header.is_some();
                return begun(stream, state::Stage::Connected { proxied }, header.unwrap_or_default());
            }
            Stage::Request { stream, head, unproxied } => {
                return begun(stream, state::Stage::Request { unproxied }, head);
            }
            Stage::Naming(socket) | Stage::Closing(socket) => (socket, None),
            Stage::Relaying(Relaying { socket, cursor, .. }) => (socket, Some(cursor)),
        };
        let socket::Parts { stream, protocol, frames, mut unsent } = socket.into_parts();
        let in_message = frames.is_in_message();
        let finish = self.shared.settings().clients.finish_on_close;
        let stage = match (protocol, cursor) {
            (Protocol::Open, Some(cursor)) => {
                let (slot, offset, rest) = cursor.position();
                if let Some(end) = cursor.end() {
                    // It needs its channel no more, and only this process knows how it ends.
                    unsent = [rest, &unsent, &end.closing_bytes(finish)].concat();
                    state::Stage::Closing { answer: true, in_message }
                } else {
                    let (run, rest) = (u32::try_from(slot).ok()?, rest.to_vec().into());
                    state::Stage::Relaying { run, offset, rest, in_message }
                }
            }
            (Protocol::Open, None) if !in_message => state::Stage::Naming,
            // What it has sent of its channel's id is with the protocol.
            (Protocol::Open, None) => {
                unsent.extend(End::Stopping.closing_bytes(finish));
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
            state::Viewer { cookie, peer, stage, received: frames.bytes().to_vec().into(), unsent: unsent.into() },
        ))
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        if self.permit.is_none() {
            // The next process may have no room for it.
            return self.end_request(self.refusal.unwrap_or(&FULL), true);
        }
        let Some((mut stream, left)) = self.leave() else { return };
        // A TLS session cannot be handed over: its keys stay here.
        if self.shared.outbox.is_open() && !stream.is_tls() {
            self.shared.outbox.leave_viewer(stream, left);
        } else {
            let told = stream.end_with(&left.closing_bytes(self.shared.settings().clients.finish_on_close));
            log::debug!(RECODEX_PEER:% = left.peer; "viewer {} is closed: {told:?}", left.peer);
        }
    }
}

/// True if a request's page, if it comes from one, is of an origin that may connect. A page has one origin: where a request names
/// two, somebody on the way has added one, and it is not known which is true.
fn may_come(headers: &HeaderMap, allowed: &[Origin]) -> bool {
    if allowed.contains(&Origin::Any) {
        return true;
    }
    let mut origins = headers.get_all(ORIGIN).iter().map(|origin| origin.to_str().unwrap_or_default());
    let Some(first) = origins.next() else { return true };
    origins.all(|other| other.eq_ignore_ascii_case(first)) && allowed.iter().any(|site| site.matches(first))
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
