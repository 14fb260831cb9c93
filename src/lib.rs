//! recodex-monitor relays the progress of [ReCodEx](https://github.com/ReCodEx) jobs from the broker, over ZeroMQ, to
//! students' browsers, over WebSockets.
//!
//! ```text
//! wire (bytes of brokers) -> broker (a link each) -> hub (channels, runs, cursors) -> viewer (a connection each) -> sockets
//! ```
//!
//! A run's messages stand back to back, as ready WebSocket frames, in one log that all viewers of its channel share; a viewer
//! is a socket and an offset into it. Replay and live delivery are the same: one write of what follows the offset.
//!
//! The program is [`main`]. Nothing else is for other crates.

mod advice;
mod broker;
mod commands;
mod config;
mod context;
mod deadline;
mod error;
mod fs;
mod handover;
mod heap;
mod host_port;
mod hub;
mod logging;
mod metrics;
mod net;
mod peer;
mod rlimit;
mod server;
mod snapshot;
mod status;
mod stream;
mod suggest;
mod systemd;
mod viewer;
mod wire;

pub use commands::cli::main;

/// Parts of the program for its own tests, benches and fuzz targets.
#[doc(hidden)]
#[allow(missing_docs)]
pub mod internals {
    pub use crate::commands::cli::Cli;
    pub mod config {
        pub use crate::config::{History, MAX_BRACKETS, MAX_DEPTH, MAX_FILE, Seconds, Settings, Source, Tls};
    }
    pub mod context {
        pub use crate::context::Shared;
    }
    pub mod error {
        pub use crate::error::Exit;
    }
    pub mod handover {
        pub use crate::handover::cursor_of;
    }
    pub mod hub {
        pub use crate::hub::{Hub, Usage};
        pub mod cursor {
            pub use crate::hub::cursor::{Cursor, Turn};
        }
        #[cfg(any(test, fuzzing))]
        pub mod fan_out {
            pub use crate::hub::fan_out::testing::{Returned, connection, cut_slices};
        }
    }
    pub mod logging {
        pub use crate::logging::{CHANNEL, CLOSE_CODE, CLOSE_TIMEOUT, MAX_LINE, NOTICES, PEER, QUEUE};
    }
    pub mod metrics {
        pub mod counters {
            pub use crate::metrics::counters::Metrics;
        }
    }
    pub mod net {
        pub mod head_limits {
            pub use crate::net::head_limits::{LONG_HEADS, MAX_HEAD, SHORT_HEAD};
        }
        pub mod stream {
            pub use crate::net::stream::{NOTSENT_LOWAT, Stream};
        }
        pub mod tls {
            pub use crate::net::tls::Certificate;
        }
    }
    pub mod peer {
        pub use crate::peer::Peer;
    }
    pub mod rlimit {
        pub use crate::rlimit::{MAX_HANDSHAKES, OVER_LIMIT, default_max_clients};
    }
    pub mod server {
        pub mod relay {
            pub use crate::server::relay::{Ended, Relay, Stop};
        }
        pub mod reload {
            pub use crate::server::reload::{Prepared, READ_LIMIT};
        }
        pub mod shutdown {
            pub use crate::server::shutdown::STOP_LIMIT;
        }
    }
    pub mod snapshot {
        pub mod reading {
            pub use crate::snapshot::reading::Limits;
        }
        pub mod state {
            pub use crate::snapshot::state::{Lifecycle, Run, Stage, State, Viewer, now};
        }
    }
    pub mod status {
        pub use crate::status::{CONNECTIONS, MAX_HEAD, REQUEST_TIMEOUT, STALL_TIMEOUT};
    }
    pub mod stream {
        pub mod record {
            pub use crate::stream::record::{Head, MAX_BATCH, Record, Unreadable, append, begin, records, split};
        }
    }
    pub mod systemd {
        pub mod fd_store {
            pub use crate::systemd::fd_store::InheritedFds;
        }
    }
    pub mod viewer {
        pub use crate::viewer::Viewer;
        pub mod quiet {
            pub use crate::viewer::quiet::serve;
        }
        pub mod proxy_protocol {
            pub use crate::viewer::proxy_protocol::MAX_HEADER;
        }
        pub mod socket {
            pub use crate::viewer::socket::MAX_INCOMING;
        }
    }
    pub mod wire {
        pub mod close {
            pub use crate::wire::close::{CLOSE_TIMEOUT, End};
        }
        pub mod message {
            pub use crate::wire::message::{Kind, MAX_CHANNEL_ID, Malformed, Message, RELEASE_FRAME};
        }
        pub mod ws_frame {
            pub use crate::wire::ws_frame::frame_length;
        }
        pub mod zmtp {
            pub use crate::wire::zmtp::{
                Event, MAX_COMMAND, MAX_IDENTITY, MAX_MESSAGE, MAX_PARTS, MAX_PING_CONTEXT, Parser, Violation,
            };
        }
    }
}
