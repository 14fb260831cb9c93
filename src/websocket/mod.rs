//! The viewers' side: HTTP upgrade, WebSocket protocol, and the relaying of one channel to one viewer.

pub mod client_address;
pub mod forwarded;
pub mod incoming;
mod left;
pub mod proxied;
mod relaying;
pub mod socket;
pub mod upgrade;
pub mod viewer;
