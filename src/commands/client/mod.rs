//! The clients of a monitor that the commands play: a viewer and a broker.

pub(super) mod broker;
pub(super) mod connect;
mod handshake;
mod monitor_url;
pub(super) mod tally;
pub(super) mod viewer;
