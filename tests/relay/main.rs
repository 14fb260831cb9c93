//! The path of a message from a broker to viewers: both protocols, channels, TLS, access, and the status listener.

#[path = "../common/mod.rs"]
mod common;

mod access;
mod allocations;
mod brokers;
mod channels;
mod dialog;
mod protocol;
mod quiet;
mod status;
mod tls;
mod viewers;
mod wire;
