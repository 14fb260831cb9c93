//! The life of the process: start, relay, reload, and stop or hand over.

mod certificate;
mod ports;
pub(crate) mod privileges;
pub(crate) mod relay;
pub(crate) mod reload;
pub(crate) mod shutdown;
mod signals;
pub(crate) mod startup;
mod trust;
mod watchdog;

use crate::config::{Level, Source};
use crate::error::Failure;
use crate::handover::hand_over;
use crate::logging;
use crate::server::relay::Ended;
use crate::systemd::{fd_store, notify};
use crate::viewer::quiet;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::SignalKind;

/// The most time that the end of the process waits for a service manager that does not take messages.
const NOTIFY_LIMIT: Duration = Duration::from_millis(300);

/// Runs a monitor in the foreground, until a signal or a broker ends it. `config` is its configuration file, if it has one.
///
/// # Errors
/// If it cannot start.
pub(crate) fn run(config: Option<&Source>) -> Result<(), Failure> {
    let outcome = start_and_relay(config);
    notify::finish(NOTIFY_LIMIT);
    outcome
}

fn start_and_relay(config: Option<&Source>) -> Result<(), Failure> {
    let settings = config.map(Source::load).transpose().map(Option::unwrap_or_default);
    let log = logging::begin(settings.as_ref().map_or(Level::Info, |settings| settings.logger.level))?;
    notify::open();
    let fds = fd_store::take();
    let runtime = startup::runtime()?;
    let inside = runtime.enter();
    // Signals are handled before the ports are bound. Once they are bound, somebody may think that the monitor has started, and
    // stop it. The signal must not end the process while it holds inherited connections.
    let (hangup, user_defined) =
        (signals::handle(SignalKind::hangup())?, signals::handle(SignalKind::user_defined1())?);
    let stop = signals::stop()?;
    let (relay, inherited) = startup::start(settings.map_err(Failure::from), config, fds, log)?;
    drop(inside);
    let shared = relay.shared();
    let ended = runtime.block_on(async {
        tokio::spawn(reload::on_hangup(hangup, config.cloned(), Arc::clone(&shared)));
        tokio::spawn(signals::ignore(user_defined));
        relay.run(inherited, stop).await
    });
    shutdown::end_all_tasks(runtime);
    quiet::end_all(&shared);
    if let Ended::HandOver(queue) = ended {
        hand_over(queue, &shared);
    }
    Ok(())
}
