//! Sockets: listeners, streams over TCP, TLS and Unix sockets, certificates.

pub(crate) mod first_byte;
pub mod head_limits;
pub mod interface;
pub mod listen;
pub mod pem;
pub mod stream;
pub mod tls;
pub mod unix;
