//! Sockets: listening, accepting, streams over TCP, TLS and Unix sockets, certificates.

pub(crate) mod accept;
pub(crate) mod backlog;
pub(crate) mod client_tls;
pub(crate) mod first_byte;
pub(crate) mod head_limits;
pub(crate) mod interface;
pub(crate) mod keep_alive;
pub(crate) mod listen;
pub(crate) mod pem;
pub(crate) mod resolve;
pub(crate) mod stream;
pub(crate) mod tls;
pub(crate) mod unix;
