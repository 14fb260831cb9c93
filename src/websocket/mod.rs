//! The viewers' side: HTTP upgrade, WebSocket protocol, and the relaying of one channel to one viewer.

pub mod incoming;
pub mod socket;
pub mod upgrade;
pub mod viewer;
