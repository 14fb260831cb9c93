//! Brokers: their ZeroMQ links.

pub(crate) mod accept;
mod allowed;
mod ended;
mod handshake_error;
pub(crate) mod link;
