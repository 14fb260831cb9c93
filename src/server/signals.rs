//! The signals that the monitor handles.

use crate::context::Shared;
use crate::error::{Exit, Failure};
use crate::logging;
use crate::server::relay::Stop;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// All signals that the monitor handles.
pub(super) struct Signals {
    /// SIGHUP.
    pub(super) reload: Signal,
    /// SIGUSR1.
    pub(super) summary: Signal,
    pub(super) stop: StopSignals,
}

/// The signals that end the monitor.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// SIGUSR2.
    restart: Signal,
}

impl Signals {
    /// Begins to handle them. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`Exit::Software`] if the system refuses.
    pub(super) fn handle() -> Result<Self, Failure> {
        let handle =
            |kind| signal(kind).map_err(|e| Failure::new(Exit::Software, format!("cannot handle signals: {e}")));
        Ok(Self {
            reload: handle(SignalKind::hangup())?,
            summary: handle(SignalKind::user_defined1())?,
            stop: StopSignals {
                terminate: handle(SignalKind::terminate())?,
                interrupt: handle(SignalKind::interrupt())?,
                restart: handle(SignalKind::user_defined2())?,
            },
        })
    }
}

impl StopSignals {
    /// Completes at the first signal. A second SIGTERM or SIGINT ends the process at once.
    pub(super) async fn first(mut self) -> Stop {
        let (first, stop) = tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM: stopping", Stop::ForGood),
            _ = self.interrupt.recv() => ("SIGINT: stopping", Stop::ForGood),
            _ = self.restart.recv() => ("SIGUSR2: making way for the next process", Stop::ForRestart),
        };
        log::info!("{first}; a second signal ends at once");
        tokio::spawn(async move {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            std::process::exit(0);
        });
        stop
    }
}

/// Logs a summary at each SIGUSR1.
pub(super) async fn log_summaries(mut asked: Signal, shared: Arc<Shared>) {
    while asked.recv().await.is_some() {
        for line in shared.summary() {
            logging::say(&line);
        }
    }
}
