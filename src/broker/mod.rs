//! Brokers: their ZeroMQ links.

mod allowed;
mod ended;
mod handshake_error;
pub(crate) mod link;
