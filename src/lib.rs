//! recodex-monitor relays the progress of [ReCodEx](https://github.com/ReCodEx) jobs from the broker, over ZeroMQ, to
//! students' browsers, over WebSockets.
//!
//! ```text
//! zmtp (one task per broker) ─► message::decode ─► hub.publish ─► channel.append ─► cursor ─► websocket (one task per viewer)
//! ```
//!
//! A channel's messages stand back to back, as ready WebSocket frames, in one log that all of its viewers share; a viewer
//! is a socket and an offset into it. Replay and live delivery are the same: write what follows the offset, in one write.

mod advice;
pub mod broker;
pub mod commands;
pub mod config;
pub mod context;
pub mod deadline;
pub mod error;
pub mod fs;
pub mod handover;
pub mod hub;
pub mod logging;
pub mod metrics;
pub mod net;
pub mod peer;
pub mod rlimit;
pub mod server;
pub mod snapshot;
pub mod status;
pub mod suggest;
pub mod systemd;
pub mod viewer;
pub mod wire;
