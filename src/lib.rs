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
pub mod ask;
pub mod broker;
pub mod check;
pub mod cli;
pub mod client;
mod client_handshake;
pub mod config;
pub mod connect;
pub mod deadline;
pub mod demo;
pub mod error;
pub mod fs;
mod host_port;
pub mod hub;
pub mod logging;
pub mod metrics;
pub mod monitor_url;
pub mod net;
pub mod peer;
pub mod places;
pub mod privileges;
pub mod publish;
pub mod relay;
pub mod reload;
pub mod rlimit;
pub mod service;
pub mod shared;
pub mod snapshot;
pub mod status;
pub mod succession;
pub mod suggest;
pub mod systemd;
pub mod terminal;
pub mod tls_client;
mod trust;
pub mod watch;
pub mod websocket;
pub mod wire;
pub mod zmtp;
