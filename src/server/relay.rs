//! The relay: its ports, and the tasks that serve them from the start to the stop.

use crate::config::Settings;
use crate::context::Shared;
use crate::error::{Exit, Failure};
use crate::handover::fd_queue::FdQueue;
use crate::handover::{Inherited, history_file};
use crate::net::tls::Certificate;
use crate::server::ports::{Listeners, Ports};
use crate::server::shutdown::{Running, STOP_LIMIT};
use crate::server::{certificate, watchdog};
use crate::systemd::fd_store::{InheritedFds, Listener};
use crate::systemd::{notify, readiness};
use crate::viewer::quiet;
use crate::{rlimit, status, stream};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The kind of a stop that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// No process takes over.
    ForGood,
    /// Another process starts at once, and can take over.
    ForRestart,
}

/// The end of a relay.
#[derive(Debug)]
pub enum Ended {
    /// All connections are closed.
    Stopped,
    /// Everything goes into this queue, once all tasks have ended.
    HandOver(FdQueue),
}

/// A monitor that can begin to relay.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    listeners: Listeners,
    fds: InheritedFds,
}

impl Relay {
    /// Binds the ports, then does what [`Relay::new`] does. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If a port or a Unix socket cannot be bound, the certificate cannot be used, or too few files may be open.
    pub fn bind(settings: Settings, mut fds: InheritedFds) -> Result<Self, Failure> {
        let ports = Ports::bind(&settings, &mut fds)?;
        Self::new(settings, ports, fds)
    }

    /// Reads the certificate and binds the Unix sockets, as the user that relays. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the certificate cannot be used, a socket cannot be bound, or too few files may be open.
    pub fn new(mut settings: Settings, ports: Ports, mut fds: InheritedFds) -> Result<Self, Failure> {
        let certificate = settings.tls.as_ref().map(Certificate::load).transpose()?;
        let count = ports.count();
        let listeners = Listeners::bind(&settings, ports, &mut fds)?;
        // The other inherited sockets are for addresses that are no longer configured.
        fds.listeners.drain(..).for_each(Listener::close);
        fds.unix.drain(..).for_each(|fds| drop(fds.into_listener()));
        let (each, too_many) =
            settings.fit(rlimit::open_files(), count).map_err(|e| Failure::new(Exit::Config, e.to_string()))?;
        if let Some(warning) = too_many {
            log::warn!("{warning}");
        }
        let shared = Shared::new(settings, certificate, count, &each)?;
        Ok(Self { shared, listeners, fds })
    }

    /// Returns what the connections will share.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Returns the addresses at which viewers connect; none if they come through a Unix socket.
    pub fn viewer_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.viewer_addresses()
    }

    /// Returns the addresses at which brokers connect.
    pub fn broker_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.broker_addresses()
    }

    /// Returns the addresses of the status listener; none if it is a Unix socket.
    pub fn status_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.status_addresses()
    }

    /// Relays until `stop` completes or a broker asks for a stop. Begins with what was inherited.
    ///
    /// A stop for good takes what brokers have already sent, delivers it, and closes every viewer, within 5 s. Only the disk of
    /// `history.state` may take longer. For a restart nothing is closed, unless nobody keeps the connections for the next process.
    pub async fn run(self, inherited: Option<Inherited>, stop: impl Future<Output = Stop>) -> Ended {
        let running = self.start();
        restore(inherited, &running.shared);
        readiness::ready();

        let stop = stop_asked_for(stop, &running.shared).await;
        readiness::stopping();
        let deadline = Instant::now() + STOP_LIMIT;
        if stop == Stop::ForRestart {
            match FdQueue::new().await {
                Ok(queue) => {
                    running.freeze().await;
                    return Ended::HandOver(queue);
                }
                Err(e) => log::warn!("nothing can be handed over to the next process: {e}"),
            }
        }
        running.stop(deadline).await;
        Ended::Stopped
    }

    /// Starts all tasks.
    fn start(self) -> Running {
        let Self { shared, listeners, fds } = self;
        listeners.keep(&fds);
        let mut tasks = JoinSet::new();
        if listeners.has_status() {
            tasks.spawn(status::sample(Arc::clone(&shared)));
        }
        let remains = listeners.serve(&mut tasks, &shared);
        tasks.spawn(certificate::watch(Arc::clone(&shared)));
        let hub = Arc::clone(&shared.hub);
        tasks.spawn(async move { hub.keep_time().await });
        // These tasks are not in `tasks`, because they also run while those end.
        tokio::spawn(notify::send_waiting());
        quiet::serve(&shared);
        if let Some(stream) = &shared.stream {
            tokio::spawn(stream::run(Arc::clone(stream)));
        }
        tasks.spawn(watchdog::report(Arc::clone(&shared)));
        Running { shared, tasks, remains }
    }
}

/// Goes on with what the previous process handed over, or else with the history in the file of `history.state`.
fn restore(inherited: Option<Inherited>, shared: &Arc<Shared>) {
    let history = shared.settings().history.clone();
    let adopted = inherited.is_some_and(|inherited| inherited.adopt(shared));
    if let Some(path) = &history.state {
        history_file::take_up(path, &history, (!adopted).then_some((&*shared.hub, shared.stream.as_deref())));
    }
}

/// Waits until `stop` completes, or a broker asks for a stop.
async fn stop_asked_for(stop: impl Future<Output = Stop>, shared: &Shared) -> Stop {
    let mut stopped = shared.stop.subscribe();
    tokio::select! {
        stop = stop => stop,
        _ = stopped.wait_for(|stop| *stop) => Stop::ForGood,
    }
}
