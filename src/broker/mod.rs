//! Brokers: their ZeroMQ links.

pub mod allowed;
pub mod link;
mod stranger;
