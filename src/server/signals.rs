//! The signals: SIGTERM and SIGINT stop, SIGUSR2 restarts, SIGUSR1 is ignored; SIGHUP is in `reload`.

use crate::error::{Exit, Failure};
use crate::server::relay::Stop;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Begins to handle a signal. Must be called in a tokio runtime.
///
/// # Errors
/// [`Exit::Software`] if the system refuses.
pub(super) fn handle(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|e| Failure::new(Exit::Software, format!("cannot handle signals: {e}")))
}

/// Begins to handle SIGTERM, SIGINT and SIGUSR2. The future completes at the first of them; a second SIGTERM or SIGINT ends the process
/// at once.
pub(super) fn stop() -> Result<impl Future<Output = Stop>, Failure> {
    let (mut terminate, mut interrupt) = (handle(SignalKind::terminate())?, handle(SignalKind::interrupt())?);
    let mut restart = handle(SignalKind::user_defined2())?;
    Ok(async move {
        let (first, stop) = tokio::select! {
            _ = terminate.recv() => ("SIGTERM: stopping", Stop::ForGood),
            _ = interrupt.recv() => ("SIGINT: stopping", Stop::ForGood),
            _ = restart.recv() => ("SIGUSR2: making way for the next process", Stop::ForRestart),
        };
        log::info!("{first}; a second signal ends at once");
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(0);
        });
        stop
    })
}

/// Ignores SIGUSR1, and says so at the first one. Version 2.0.0 logged its counts at this signal, which by default ends a process: an
/// old script would end the monitor.
pub(super) async fn ignore(mut user_defined: Signal) {
    if user_defined.recv().await.is_some() {
        log::warn!("SIGUSR1 is ignored; `recodex-monitor status` prints what it used to log");
    }
}
