//! Sockets: listening, accepting, streams over TCP, TLS and Unix sockets, certificates.

pub(crate) mod accept;
pub(crate) mod first_byte;
pub mod head_limits;
pub(crate) mod interface;
pub(crate) mod listen;
pub(crate) mod pem;
pub mod stream;
pub mod tls;
pub(crate) mod unix;
