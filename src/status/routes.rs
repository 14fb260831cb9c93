//! The routes of the status listener, and their answers.

use super::events;
use super::format;
use super::openmetrics;
use super::page::{PAGE, POLICY};
use super::report::{Report, readiness};
use super::write_deadline::WriteDeadline;
use crate::config::Endpoint;
use crate::context::Shared;
use crate::metrics::process::Process;
use crate::peer::Peer;
use crate::wire::message::MAX_CHANNEL_ID;
use http_body_util::channel::Channel;
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const PLAIN: &str = "text/plain; charset=utf-8";

type Body = Either<Full<Bytes>, Channel<Bytes>>;

/// Answers a request of `peer`. A streaming answer keeps `deadline`.
pub(super) async fn answer(
    request: &Request<Incoming>,
    shared: &Arc<Shared>,
    peer: Peer,
    deadline: WriteDeadline,
) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = whole(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD are answered here\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    if matches!(request.uri().path(), "/" | "/status" | "/events" | "/watch") && !is_own_host(request, shared) {
        let hint = "this name is not known here: use an address or localhost, or name the host in status_uri\n";
        return whole(StatusCode::MISDIRECTED_REQUEST, PLAIN, hint);
    }
    match request.uri().path() {
        "/" => page(),
        "/healthz" => whole(StatusCode::OK, PLAIN, "ok\n"),
        "/readyz" => match readiness(shared).await {
            Ok(()) => whole(StatusCode::OK, PLAIN, "ok\n"),
            Err(reason) => whole(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{reason}\n")),
        },
        "/metrics" => metrics(request, shared).await,
        "/status" => match serde_json::to_string(&Report::of(shared, may_see_ids(shared, peer)).await) {
            Ok(report) => whole(StatusCode::OK, "application/json", report + "\n"),
            Err(e) => whole(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{e}\n")),
        },
        "/events" if request.method() == Method::HEAD => stream(Channel::new(1).1),
        "/events" => stream(events::events(shared, may_see_ids(shared, peer), deadline)),
        "/watch" => watch(request, shared, deadline),
        _ => whole(
            StatusCode::NOT_FOUND,
            PLAIN,
            "there are /, /healthz, /readyz, /metrics, /status, /events and /watch?channel=ID\n",
        ),
    }
}

fn page() -> Response<Body> {
    let mut html = whole(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        html.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    html
}

async fn metrics(request: &Request<Incoming>, shared: &Arc<Shared>) -> Response<Body> {
    let ready = readiness(shared).await.is_ok();
    let Ok(metrics) = openmetrics::open_metrics(Arc::clone(shared), ready, Process::now().await) else {
        return whole(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "the metrics cannot be written\n");
    };
    if format::prefers_open_metrics(request.headers()) {
        whole(StatusCode::OK, openmetrics::OPEN_METRICS, metrics)
    } else {
        whole(StatusCode::OK, openmetrics::TEXT, openmetrics::text(&metrics))
    }
}

fn watch(request: &Request<Incoming>, shared: &Arc<Shared>, deadline: WriteDeadline) -> Response<Body> {
    let query = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
    let channel = query.into_iter().find(|(name, _)| name == "channel").map(|(_, id)| id).unwrap_or_default();
    if !(1..=MAX_CHANNEL_ID).contains(&channel.len()) {
        return whole(StatusCode::BAD_REQUEST, PLAIN, "expected ?channel= and an id of 1 to 256 bytes\n");
    }
    let is_head = request.method() == Method::HEAD;
    stream(if is_head { Channel::new(1).1 } else { events::watch(shared, &channel, deadline) })
}

/// Returns true if the request's `Host` is one of this monitor. Otherwise a page of another site could make its own name resolve to this
/// address, and read the answers (DNS rebinding). Through a port that SSH forwards, a browser reaches a Unix socket as well.
fn is_own_host(request: &Request<Incoming>, shared: &Shared) -> bool {
    let settings = shared.settings();
    let own = match settings.status_uri.endpoint() {
        Some(Endpoint::Tcp(own)) => Some(&own.host),
        Some(Endpoint::Unix(_)) | None => None,
    };
    request.headers().get_all(HOST).iter().all(|host| {
        let Ok(host) = host.to_str().unwrap_or_default().parse::<Authority>() else { return false };
        let host = host.host().trim_start_matches('[').trim_end_matches(']');
        own.is_some_and(|own| own.eq_ignore_ascii_case(host))
            || host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok()
    })
}

/// Returns true if the ids of jobs may be told: who knows an id can watch its job. The mode of a Unix socket says who can open it, and
/// every user of this machine can connect to a port.
fn may_see_ids(shared: &Shared, peer: Peer) -> bool {
    peer == Peer::Unix || shared.ids_are_public.load(Ordering::Relaxed)
}

fn whole(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    response(status, kind, Either::Left(Full::new(text.into())))
}

fn stream(events: Channel<Bytes>) -> Response<Body> {
    let mut stream = response(StatusCode::OK, "text/event-stream", Either::Right(events));
    // Without this, nginx would hold events back until its buffer is full.
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
