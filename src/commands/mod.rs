//! The program's commands, and the clients that they play.

pub mod check;
pub mod cli;
pub mod client;
pub mod client_handshake;
pub mod connect;
pub mod demo;
pub mod host_port;
pub mod monitor_url;
pub mod played_broker;
pub mod publish;
pub mod status;
pub mod terminal;
pub mod tls_client;
pub mod watch;
