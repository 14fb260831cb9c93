//! The status listener: what the monitor does, over HTTP, for those who run it.

pub mod events;
pub mod format;
pub mod openmetrics;
pub mod report;

pub use events::sample;

use crate::context::Shared;
use crate::deadline::HttpTimer;
use crate::logging::Throttle;
use crate::net::first_byte::{FirstByte, Watched};
use crate::net::listen;
use crate::net::stream::NOTSENT_LOWAT;
use crate::rlimit;
use crate::wire::first_byte::ClientProtocol;
use crate::wire::message::MAX_CHANNEL_ID;
use data_encoding::BASE64;
use events::WriteDeadline;
use http_body_util::channel::Channel;
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use report::{Report, readiness};
use ring::digest::{SHA256, digest};
use socket2::SockRef;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// The most connections at once; fewer where few files may be open.
pub const CONNECTIONS: usize = rlimit::STATUS;
/// The longest request head, in bytes.
pub const MAX_HEAD: usize = 8 * 1024;
/// How long a request may take to come.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long nothing may be taken of an answer.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The page, which asks for nothing else but the events.
const PAGE: &str = include_str!("page.html");

static CROWDED: Throttle = Throttle::new(Duration::from_secs(60));
static ZEROMQ: Throttle = Throttle::new(Duration::from_secs(60));
static TLS: Throttle = Throttle::new(Duration::from_secs(60));

type Body = Either<Full<Bytes>, Channel<Bytes>>;

/// What a page may do: run the one script and use the one style sheet that are in it, and listen to the monitor.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |tag: &str| {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let inside =
            PAGE.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map_or("", |(inside, _)| inside);
        BASE64.encode(digest(&SHA256, inside.as_bytes()).as_ref())
    };
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        hash("script"),
        hash("style")
    )
});

/// Accepts for ever.
pub async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let serve = |stream: TcpStream, peer: SocketAddr| {
        let Some(place) = shared.status_connections.take() else {
            if let Some(more) = CROWDED.pass() {
                log::warn!(RECODEX_PEER:% = peer; "refused a status request from {peer}: {} are open{more}", shared.status_connections.limit());
            }
            return;
        };
        if let Err(e) = SockRef::from(&stream).set_tcp_notsent_lowat(NOTSENT_LOWAT) {
            log::debug!(RECODEX_PEER:% = peer; "status request from {peer}: its send buffer is not bounded: {e}");
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            serve(stream, peer, shared).await;
            drop(place);
        });
    };
    listen::accept(listener, serve).await;
}

/// Serves one connection, which ends with its first answer.
async fn serve(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let (stream, first) = Watched::new(stream);
    let pace = WriteDeadline::new(STALL_TIMEOUT);
    let service = service_fn(|request| {
        let (shared, pace) = (Arc::clone(&shared), pace.clone());
        async move { Ok::<_, Infallible>(answer(&request, &shared, pace).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(HttpTimer).header_read_timeout(REQUEST_TIMEOUT).max_buf_size(MAX_HEAD).keep_alive(false);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = connection => if let Err(e) = served {
            log::debug!("a status request came to nothing: {e}");
            warn_of_other_protocol(peer, &first);
        },
        () = pace.stalled() => log::debug!("a status request was given up: nothing was taken of the answer"),
    }
    pace.end();
}

/// Says it of a peer that speaks ZeroMQ or TLS.
fn warn_of_other_protocol(peer: SocketAddr, first: &FirstByte) {
    let (throttle, what) = match ClientProtocol::of(&[first.get()]) {
        Some(ClientProtocol::ZeroMq) => {
            (&ZEROMQ, "it speaks ZeroMQ, and this is the status port (status_uri); brokers connect to zeromq_uri")
        }
        Some(ClientProtocol::Tls) => (&TLS, "it speaks TLS, and the status port (status_uri) does not; use http://"),
        _ => return,
    };
    if let Some(more) = throttle.pass() {
        log::warn!(RECODEX_PEER:% = peer; "refused a status request from {peer}: {what}{more}");
    }
}

async fn answer(request: &Request<Incoming>, shared: &Arc<Shared>, pace: WriteDeadline) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = whole(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD are answered here\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let head = request.method() == Method::HEAD;
    if matches!(request.uri().path(), "/" | "/status" | "/events" | "/watch") && !is_meant(request, shared) {
        let hint = "this name is not known here: use the address, or name the host in status_uri\n";
        return whole(StatusCode::MISDIRECTED_REQUEST, PLAIN, hint);
    }
    match request.uri().path() {
        "/" => {
            let mut html = whole(StatusCode::OK, "text/html; charset=utf-8", PAGE);
            if let Ok(policy) = HeaderValue::from_str(&POLICY) {
                html.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
            }
            html
        }
        "/healthz" => whole(StatusCode::OK, PLAIN, "ok\n"),
        "/readyz" => match readiness(shared).await {
            Ok(()) => whole(StatusCode::OK, PLAIN, "ok\n"),
            Err(reason) => whole(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{reason}\n")),
        },
        "/metrics" => {
            let ready = readiness(shared).await.is_ok();
            let Ok(metrics) = openmetrics::open_metrics(Arc::clone(shared), ready) else {
                return whole(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "the metrics cannot be written\n");
            };
            if format::prefers_open_metrics(request.headers()) {
                whole(StatusCode::OK, openmetrics::OPEN_METRICS, metrics)
            } else {
                whole(StatusCode::OK, openmetrics::TEXT, openmetrics::text(&metrics))
            }
        }
        "/status" => match serde_json::to_string(&Report::of(shared).await) {
            Ok(report) => whole(StatusCode::OK, "application/json", report + "\n"),
            Err(e) => whole(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{e}\n")),
        },
        "/events" if head => stream(Channel::new(1).1),
        "/events" => stream(events::events(shared, pace)),
        "/watch" => {
            let query = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
            let channel = query.into_iter().find(|(name, _)| name == "channel").map(|(_, id)| id).unwrap_or_default();
            if !(1..=MAX_CHANNEL_ID).contains(&channel.len()) {
                return whole(StatusCode::BAD_REQUEST, PLAIN, "expected ?channel= and an id of 1 to 256 bytes\n");
            }
            stream(if head { Channel::new(1).1 } else { events::watch(shared, &channel, pace) })
        }
        _ => whole(
            StatusCode::NOT_FOUND,
            PLAIN,
            "there are /, /healthz, /readyz, /metrics, /status, /events and /watch?channel=ID\n",
        ),
    }
}

/// Whether the request is for this monitor by a name that is its own. Else a page of another site could have its own name lead here,
/// and read what is not for it.
fn is_meant(request: &Request<Incoming>, shared: &Shared) -> bool {
    request.headers().get_all(HOST).iter().all(|host| {
        let Ok(host) = host.to_str().unwrap_or_default().parse::<Authority>() else { return false };
        let host = host.host().trim_start_matches('[').trim_end_matches(']');
        let own = shared.settings().status_uri.as_ref().is_some_and(|own| own.host.eq_ignore_ascii_case(host));
        own || host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
    })
}

const PLAIN: &str = "text/plain; charset=utf-8";

fn whole(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    response(status, kind, Either::Left(Full::new(text.into())))
}

fn stream(events: Channel<Bytes>) -> Response<Body> {
    let mut stream = response(StatusCode::OK, "text/event-stream", Either::Right(events));
    // Else nginx would keep events back until its buffer is full.
    stream.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    stream
}

fn response(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    response
}
