//! Brokers: their ZeroMQ links.

pub mod allowed;
mod ended;
mod handshake_error;
pub mod link;
