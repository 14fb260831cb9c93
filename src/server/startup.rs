//! The start of the monitor: ports, root, what was inherited, log, certificate, in this order.

use crate::config::{Logger, Settings, Source};
use crate::error::{Exit, Failure};
use crate::handover::{Inherited, history_file};
use crate::logging::{Opened, Waiting};
use crate::server::ports::Ports;
use crate::server::privileges;
use crate::server::relay::Relay;
use crate::systemd::fd_store::{InheritedFds, Listener};
use tokio::runtime::{Builder, Runtime};

/// The log until its thread runs. Each part is there until the next step begins.
struct Log {
    waiting: Option<Waiting>,
    opened: Option<Opened>,
}

/// Returns a runtime of one thread: relaying is system calls, and a second thread would mostly be woken for nothing.
///
/// # Errors
/// [`Exit::Software`] if the system refuses.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Software, format!("cannot set up event handling: {e}")))
}

/// Makes a relay that is ready to run, and takes what the previous process handed over. Must be called in the runtime, and before
/// there are other threads.
///
/// # Errors
/// If the settings are wrong, or a step fails. What was inherited is saved then, and shared ports are left to the other instances.
pub(super) fn start(
    settings: Result<Settings, Failure>,
    config: Option<&Source>,
    mut fds: InheritedFds,
    log: Waiting,
) -> Result<(Relay, Option<Inherited>), Failure> {
    let known = settings.as_ref().ok().cloned();
    let is_shared = known.as_ref().is_some_and(|settings| settings.share_ports);
    let listeners = if is_shared { fds.copy_listeners() } else { Vec::new() };
    let (bound, given_up) = bind_and_give_up_root(settings, config, &mut fds);
    // Without usable settings, the default holds.
    let finish = known.as_ref().is_none_or(|settings| settings.clients.finish_on_close);
    // Root does not read what the previous process handed over: if it cannot be given up, all of that is closed unread.
    let inherited = given_up.is_ok().then(|| Inherited::take(&mut fds, finish)).flatten();
    let mut log = Log { waiting: Some(log), opened: None };
    let started = bound.and_then(|bound| given_up.map(|()| bound)).and_then(|(settings, ports)| {
        log.open(&settings.logger)?;
        settings.history.state.as_deref().map_or(Ok(()), history_file::check)?;
        let relay = Relay::new(settings, ports, fds)?;
        log.start().map(|()| relay)
    });
    match (started, inherited) {
        (Ok(relay), inherited) => Ok((relay, inherited)),
        (Err(failure), inherited) => {
            // While nobody accepts there, the system would go on giving them their share of the connects.
            listeners.into_iter().for_each(Listener::close);
            if let Some(inherited) = inherited {
                abandon(inherited, known.as_ref(), log);
            }
            Err(failure)
        }
    }
}

/// Binds the TCP ports and then gives up root, also if a port could not be bound: nothing after this is done as root.
///
/// Without usable settings nothing is bound. The monitor then becomes the user of the previous process or, if there was none,
/// `recodex`. Returns the results of both steps.
fn bind_and_give_up_root(
    settings: Result<Settings, Failure>,
    config: Option<&Source>,
    fds: &mut InheritedFds,
) -> (Result<(Settings, Ports), Failure>, Result<(), Failure>) {
    let usable = settings.and_then(|settings| Ok((privileges::identity(&settings, config)?, settings)));
    let (bound, identity) = match usable {
        Ok((identity, settings)) => (Ports::bind(&settings, fds).map(|ports| (settings, ports)), Ok(identity)),
        Err(failure) => (Err(failure), privileges::identity_without_settings(fds.predecessor())),
    };
    (bound, identity.and_then(|identity| privileges::drop_all(identity.as_ref())))
}

/// Ends a start that failed after root was given up: the inherited history is saved, and viewers are told that the monitor stops.
fn abandon(inherited: Inherited, settings: Option<&Settings>, mut log: Log) {
    let logger = settings.map_or_else(Logger::default, |settings| settings.logger.clone());
    // If this fails, only log lines are lost.
    let _ = log.open(&logger).and_then(|()| log.start());
    match settings.map(|settings| settings.history.state.as_deref()) {
        // Dropping it tells the viewers.
        Some(None) => drop(inherited),
        file => inherited.abandon(file.flatten()),
    }
}

impl Log {
    /// Opens the log if it waits.
    fn open(&mut self, logger: &Logger) -> Result<(), Failure> {
        if let Some(waiting) = self.waiting.take() {
            self.opened = Some(waiting.open(logger)?);
        }
        Ok(())
    }

    /// Starts the thread of the log if it is open.
    fn start(&mut self) -> Result<(), Failure> {
        self.opened.take().map_or(Ok(()), Opened::start)
    }
}
