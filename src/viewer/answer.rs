//! The HTTP answers that end a connection, each with one line of text.

use std::fmt;

/// An HTTP answer that ends a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) phrase: &'static str,
    headers: &'static str,
    pub(super) text: &'static str,
}

/// The request is well-formed, but no WebSocket client of today sends it.
pub(super) const UPGRADE_REQUIRED: Answer = Answer {
    status: 426,
    phrase: "Upgrade Required",
    headers: "Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    text: "This is the WebSocket port of a ReCodEx monitor; it answers WebSocket clients only.\n",
};
/// The request is not well-formed.
pub(super) const BAD_REQUEST: Answer = Answer {
    status: 400,
    phrase: "Bad Request",
    headers: "Connection: close\r\n",
    text: "This is not a well-formed WebSocket upgrade request.\n",
};
/// A client speaks TLS where there is none.
pub(super) const NO_TLS: Answer = Answer {
    status: 400,
    phrase: "Bad Request",
    headers: "Connection: close\r\n",
    text: "This port does not speak TLS. Use ws:// instead of wss://.\n",
};
/// A client does not speak TLS where it must.
pub(super) const TLS_REQUIRED: Answer = Answer {
    status: 400,
    phrase: "Bad Request",
    headers: "Connection: close\r\n",
    text: "This port speaks TLS. Use wss:// instead of ws://.\n",
};
/// A proxy sends a PROXY header that nobody expects.
pub(super) const NO_PROXY_HEADER: Answer = Answer {
    status: 400,
    phrase: "Bad Request",
    headers: "Connection: close\r\n",
    text: "This port takes no PROXY header (websocket_proxy_protocol).\n",
};
/// The request's head is too long.
pub(super) const HEAD_TOO_LARGE: Answer = Answer {
    status: 431,
    phrase: "Request Header Fields Too Large",
    headers: "Connection: close\r\n",
    text: "The request head is longer than 16 KiB.\n",
};
/// The request comes from a page of another site.
pub(super) const FOREIGN: Answer = Answer {
    status: 403,
    phrase: "Forbidden",
    headers: "Connection: close\r\n",
    text: "Pages of this origin may not connect to the monitor (allowed_origins).\n",
};
/// The address of the viewer has all its permits.
pub(super) const TOO_MANY: Answer = Answer {
    status: 429,
    phrase: "Too Many Requests",
    headers: "Connection: close\r\nRetry-After: 10\r\n",
    text: "The monitor has as many viewers from this address as it may have (clients.max_per_address).\n",
};
/// No permit is free for any viewer.
pub(super) const FULL: Answer = Answer {
    status: 503,
    phrase: "Service Unavailable",
    headers: "Connection: close\r\nRetry-After: 10\r\n",
    text: "The monitor has as many viewers as it may have (clients.max).\n",
};

/// An answer to a health check.
pub(super) const HEALTHY: Answer =
    Answer { status: 200, phrase: "OK", headers: "Connection: close\r\nCache-Control: no-store\r\n", text: "ok\n" };
/// The monitor stops.
pub(super) const STOPPING: Answer = Answer {
    status: 503,
    phrase: "Service Unavailable",
    headers: "Connection: close\r\nCache-Control: no-store\r\n",
    text: "The monitor stops.\n",
};

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, phrase, headers, text } = self;
        let length = text.len();
        write!(
            f,
            "HTTP/1.1 {status} {phrase}\r\n{headers}Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{text}"
        )
    }
}
