//! A viewer's handshake: from the accepted connection to the channel id, a step at a time.
//!
//! After each wait the settings in force count, since a reload may have come meanwhile.

use super::answer::{Answer, FOREIGN, FULL, HEALTHY, NO_PROXY_HEADER, TLS_REQUIRED, TOO_MANY};
use super::delivery::Delivery;
use super::disconnect::Disconnect;
use super::frame_buffer::FrameBuffer;
use super::socket::Socket;
use super::upgrade::{self, Refused};
use super::{Stage, Viewer, client_address, proxy_protocol};
use crate::config::{Origin, Proxy, Settings};
use crate::context::over_limit::Turn;
use crate::deadline::timeout;
use crate::hub::fan_out::pings::Pings;
use crate::logging::{Throttle, escape};
use crate::net::head_limits::MAX_HEAD;
use crate::net::stream::Stream;
use crate::peer::Peer;
use crate::wire::close::End;
use crate::wire::first_byte::{ClientProtocol, ENOUGH};
use crate::wire::message::MAX_CHANNEL_ID;
use std::borrow::Cow;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::http::HeaderMap;
use tokio_tungstenite::tungstenite::http::header::ORIGIN;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

static FOREIGN_PAGE: Throttle = Throttle::new(Duration::from_secs(60));
static NOBODY_NAMED: Throttle = Throttle::new(Duration::from_secs(60));

/// The client of a connection before its request, as far as it is known.
#[derive(Clone, Copy)]
struct Client {
    peer: Peer,
    /// True if the PROXY header named nobody: the proxy speaks for itself, and no header of the request is believed.
    unproxied: bool,
}

impl Viewer {
    /// Brings the connection to the point where it gets its channel's messages. Over a limit, its request is read until `turn` is over.
    pub(super) async fn shake_hands(&mut self, turn: Option<Turn>) -> Result<(), Disconnect> {
        self.open_websocket(turn).await?;
        self.subscribe().await
    }

    /// Reads and answers the request, within `clients.handshake_timeout`.
    async fn open_websocket(&mut self, mut turn: Option<Turn>) -> Result<(), Disconnect> {
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
                // Boxed: otherwise the memory of this future would be kept as long as the viewer is connected.
                request = timeout(limit, Box::pin(self.request())) => request.map_err(|_| Disconnect::Handshake)?,
                _ = stop.wait_for(|stop| *stop) => return Err(Disconnect::Stopping),
                () = turn_over => Err(Refused::Answered(self.refusal.unwrap_or(&FULL)).into()),
            };
            match request {
                // A PROXY header has named an address over its limit. The received bytes are kept, and the request is read in a
                // turn.
                Err(Disconnect::OverAddressLimit) => turn = Some(self.enter_over_limit(&TOO_MANY)),
                request => request?,
            }
        }
        Ok(())
    }

    /// Takes all steps up to the answer of the request, from the current stage on.
    async fn request(&mut self) -> Result<(), Disconnect> {
        if let Stage::Connected(..) = self.stage {
            let client = self.read_proxy_header().await?;
            self.check_address_limit(client)?;
            let protocol = self.peek_protocol().await?;
            self.begin_request(client, protocol).await?;
        }
        self.answer_request().await
    }

    /// Reads the PROXY header, if one is to come.
    async fn read_proxy_header(&mut self) -> Result<Client, Disconnect> {
        let proxy = self.peer;
        let Stage::Connected(stream, Some(header)) = &mut self.stage else {
            return Ok(Client { peer: proxy, unproxied: false });
        };
        let named = proxy_protocol::read(stream, header).await.map_err(|e| match ClientProtocol::of(header) {
            // A connection that ends before its first byte only looked whether the port is open.
            _ if header.is_empty() => Disconnect::Gone,
            Some(ClientProtocol::ZeroMq) => Disconnect::ZeroMq,
            _ => Disconnect::Proxy(e),
        })?;
        let trusted = &self.shared.settings().trusted_proxies;
        // The previous process, or the settings before a reload, may have trusted other peers.
        if !Proxy::any(trusted, proxy) {
            return Err(Disconnect::Proxy(io::ErrorKind::PermissionDenied.into()));
        }
        let client = client_address::named_by(proxy, named.map(Peer::from), trusted);
        Ok(Client { peer: client.unwrap_or(proxy), unproxied: client.is_none() })
    }

    /// Takes the permit of its address, unless the request is still to name the client, or the viewer is over a limit already.
    fn check_address_limit(&mut self, client: Client) -> Result<(), Disconnect> {
        let settings = self.shared.settings();
        let is_known = client.unproxied || !Proxy::any(&settings.trusted_proxies, client.peer);
        if is_known && self.refusal.is_none() && !self.take_address_permit(client.peer, &settings.clients) {
            return Err(Disconnect::OverAddressLimit);
        }
        Ok(())
    }

    /// Waits for the first byte where TLS is to begin, and leaves it there: until then the connection can be handed over.
    async fn peek_protocol(&mut self) -> io::Result<Option<ClientProtocol>> {
        let mut first = [0; ENOUGH];
        match &self.stage {
            Stage::Connected(Stream::Tcp(tcp), _) if self.shared.certificate().is_some() => {
                let count = tcp.peek(&mut first).await?;
                Ok(ClientProtocol::of(&first[..count]))
            }
            _ => Ok(None),
        }
    }

    /// Shakes hands over TLS, if viewers are served over it. `protocol` is the protocol of the first bytes where TLS is to begin.
    async fn begin_request(&mut self, client: Client, protocol: Option<ClientProtocol>) -> Result<(), Disconnect> {
        // Set only now: if the connection is handed over before this point, the next process reads the PROXY header again.
        self.peer = client.peer;
        let Some((mut stream, _)) = self.take_stream() else { return Ok(()) };
        match protocol {
            Some(ClientProtocol::ZeroMq) => return Err(Disconnect::ZeroMq),
            Some(ClientProtocol::Http) => return Err(self.refuse(&mut stream, &TLS_REQUIRED).await),
            Some(ClientProtocol::Proxy) => return Err(self.refuse(&mut stream, &NO_PROXY_HEADER).await),
            Some(ClientProtocol::Tls) | None => {}
        }
        stream.send_at_once()?;
        let stream = match (stream, self.shared.certificate()) {
            (Stream::Tcp(tcp), Some(certificate)) => {
                let accepted = Box::pin(certificate.accept(tcp)).await;
                Stream::Tls(accepted.map_err(|e| match e.kind() {
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Disconnect::Gone,
                    _ => Disconnect::Tls(e),
                })?)
            }
            (stream, _) => stream,
        };
        self.stage = Stage::Request { stream, head: Vec::new(), unproxied: client.unproxied };
        Ok(())
    }

    /// Reads the request's head and answers it: a health check ends there, a viewer's request opens the WebSocket.
    async fn answer_request(&mut self) -> Result<(), Disconnect> {
        let Stage::Request { stream, head, unproxied } = &mut self.stage else { return Ok(()) };
        let unproxied = *unproxied;
        let end = upgrade::read(stream, head).await?;
        if ClientProtocol::of(head) == Some(ClientProtocol::ZeroMq) {
            return Err(Disconnect::ZeroMq);
        }
        let Some((mut stream, mut head)) = self.take_stream() else { return Ok(()) };
        if let Some(method) = upgrade::health_check(&head[..end]).filter(|_| end <= MAX_HEAD) {
            upgrade::end_with(stream, &HEALTHY, method);
            return Err(Disconnect::HealthCheck);
        }
        match upgrade::reply(&head[..end], |headers| self.admit(headers, unproxied)) {
            Ok(reply) => stream.write_all(&reply).await?,
            Err(answer) => return Err(self.refuse(&mut stream, answer).await),
        }
        let rest = head.split_off(end);
        self.stage = Stage::Naming(Socket::new(stream, FrameBuffer::new(rest, false), Vec::new()));
        Ok(())
    }

    /// Answers with a refusal. The client does not count for its address while it reads that.
    async fn refuse(&mut self, stream: &mut Stream, answer: &'static Answer) -> Disconnect {
        self.address_permit = None;
        upgrade::refuse(stream, answer).await.into()
    }

    /// Decides on a request by its headers. Fails with the answer of a refusal.
    fn admit(&mut self, headers: &HeaderMap, unproxied: bool) -> Result<(), &'static Answer> {
        let settings = self.shared.settings();
        if !unproxied {
            self.read_client_address(headers, &settings);
        }
        if !is_allowed_origin(headers, &settings.allowed_origins) {
            let peer = self.peer;
            let origin =
                headers.get(ORIGIN).map_or(Cow::default(), |origin| String::from_utf8_lossy(origin.as_bytes()));
            if let Some(more) = FOREIGN_PAGE.pass() {
                log::warn!(RECODEX_PEER:% = peer; "refused viewer {peer}: allowed_origins does not name its page's origin, {}{more}", escape(&origin));
            }
            return Err(&FOREIGN);
        }
        if !self.take_address_permit(self.peer, &settings.clients) {
            return Err(&TOO_MANY);
        }
        // A viewer over a limit has no permit yet; another viewer may have left meanwhile.
        self.permit = self.permit.take().or_else(|| self.shared.viewers.take());
        if self.permit.is_some() { Ok(()) } else { Err(&FULL) }
    }

    /// Takes the address that trusted proxies give the viewer in the headers of its request.
    fn read_client_address(&mut self, headers: &HeaderMap, settings: &Settings) {
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

    /// Waits for the channel id, within `clients.subscribe_timeout`, and subscribes to the channel.
    async fn subscribe(&mut self) -> Result<(), Disconnect> {
        let Stage::Naming(socket) = &mut self.stage else { return Ok(()) };
        let limit = self.shared.settings().clients.subscribe_timeout.duration();
        let mut stop = self.shared.stop.subscribe();
        let id = {
            let named = pin!(read_channel_id(socket));
            tokio::select! {
                named = timeout(limit, named) => named.unwrap_or(Err(Disconnect::Unnamed)),
                _ = stop.wait_for(|stop| *stop) => Err(End::Stopping.into()),
            }
        }?;
        let peer = self.peer;
        log::debug!(RECODEX_PEER:% = peer, RECODEX_CHANNEL = id.as_str(); "viewer {peer} subscribed to channel {id}");
        if let Stage::Naming(socket) = std::mem::take(&mut self.stage) {
            let cursor = self.shared.hub.subscribe(Instant::now(), &id);
            self.stage = Stage::Subscribed(Delivery::new(socket, cursor, Pings::new(&self.shared.settings().clients)));
        }
        Ok(())
    }
}

/// Returns true if a page of the request's origin may connect, or the request names none. A page has one origin: where a request
/// names two, a proxy has added one, and it is not known which is true.
fn is_allowed_origin(headers: &HeaderMap, allowed: &[Origin]) -> bool {
    if allowed.contains(&Origin::Any) {
        return true;
    }
    let mut origins = headers.get_all(ORIGIN).iter().map(|origin| origin.to_str().unwrap_or_default());
    let Some(first) = origins.next() else { return true };
    origins.all(|other| other.eq_ignore_ascii_case(first)) && allowed.iter().any(|site| site.matches(first))
}

/// Waits for the channel id, which is the viewer's first message.
async fn read_channel_id(socket: &mut Socket) -> Result<String, Disconnect> {
    loop {
        match socket.message().await {
            Ok(Message::Text(id)) if (1..=MAX_CHANNEL_ID).contains(&id.len()) => return Ok(id.as_str().to_owned()),
            Ok(Message::Text(_)) | Err(tungstenite::Error::Capacity(_)) => {
                return Err(Disconnect::closed(CloseCode::Policy, "a channel id has 1 to 256 bytes"));
            }
            Ok(Message::Binary(_)) => {
                return Err(Disconnect::closed(CloseCode::Unsupported, "the channel id must be a text message"));
            }
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
