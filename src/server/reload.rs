//! The reload (SIGHUP): the configuration and the certificate are read on a thread of their own, and taken up on the relay's thread, all
//! of it or nothing.
//!
//! The disk may block the thread that reads. Only the reload waits for it, and gives up after [`READ_LIMIT`].

use crate::config::{Settings, Source};
use crate::context::Shared;
use crate::deadline::timeout;
use crate::error::{Exit, Failure};
use crate::handover::history_file;
use crate::net::tls::Certificate;
use crate::rlimit;
use crate::systemd::readiness;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::signal::unix::Signal;
use tokio::sync::oneshot;

/// The most time that reading may take.
pub const READ_LIMIT: Duration = Duration::from_secs(30);

/// A configuration that was read and can be taken up.
#[derive(Debug)]
pub struct Prepared {
    /// The settings; those that need a restart are the old ones.
    pub settings: Settings,
    /// The certificate; `None` if the one in force stays, or there is none.
    pub certificate: Option<Certificate>,
    /// The keys that changed and need a restart.
    pub fixed: Vec<&'static str>,
    /// The warnings to be logged: more connections are requested than the limit of open files allows, or `history.state` cannot be
    /// written.
    pub warnings: Vec<String>,
}

/// Reloads at each SIGHUP, until the monitor stops. Signals that come during a reload cause one more after it.
pub(super) async fn on_hangup(mut hangup: Signal, config: Option<Source>, shared: Arc<Shared>) {
    let mut reader = Reader::default();
    while hangup.recv().await.is_some() && !readiness::is_stopping() {
        readiness::reloading();
        let (config, old, listeners) = (config.clone(), shared.settings(), shared.listeners);
        let prepared = reader.run(move || read(config.as_ref(), &old, listeners)).await;
        // From here on nothing waits, so that no stop can begin in between.
        if readiness::is_stopping() {
            log::info!("SIGHUP: the monitor stops, so the configuration is not taken up");
            return;
        }
        shared.reloaded.store(prepared.is_ok(), Ordering::Relaxed);
        match prepared {
            Ok(Prepared { settings, certificate, fixed, warnings }) => {
                shared.take_up(settings, certificate);
                log::info!("SIGHUP: the configuration is taken up, the log opened anew");
                for warning in warnings {
                    log::warn!("{warning}");
                }
                if !fixed.is_empty() {
                    log::warn!("these settings changed, but need a restart: {}", fixed.join(", "));
                }
            }
            Err(e) => log::error!("SIGHUP: the configuration is wrong and stays as it was: {e}"),
        }
        readiness::ready();
    }
}

/// The thread of a reload that was given up, if there was one.
#[derive(Default)]
struct Reader(Option<JoinHandle<()>>);

impl Reader {
    /// Runs `read` on a thread of its own.
    async fn run<T: Send + 'static>(
        &mut self,
        read: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let failed = |what: String| Failure::new(Exit::Software, what);
        // Only one such thread runs at a time: otherwise each signal could add one that never ends.
        if self.0.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Err(failed("the last reload still waits for a disk or a network file system".into()));
        }
        let (sender, receiver) = oneshot::channel();
        let thread = thread::Builder::new().name("reload".into()).spawn(move || drop(sender.send(read())));
        let thread = thread.map_err(|e| failed(format!("cannot start a thread: {e}")))?;
        let Ok(read) = timeout(READ_LIMIT, receiver).await else {
            self.0 = Some(thread);
            let limit = READ_LIMIT.as_secs();
            return Err(failed(format!(
                "it could not be read within {limit} s; the disk or its network does not answer"
            )));
        };
        read.unwrap_or_else(|_| Err(failed("the thread that read it ended early".into())))
    }
}

/// Reads the files as a reload does, in another process, which does not know the settings in force.
///
/// # Errors
/// If a reload would be refused. Also for a certificate that only a restart would take up, since `tls` may have changed.
pub(crate) fn check(config: &Source) -> Result<(), Failure> {
    let mut settings = config.load_again()?;
    settings.fit(rlimit::open_files(), 0).map_err(|e| Failure::new(Exit::Config, e.to_string()))?;
    settings.history.state.as_deref().map_or(Ok(()), history_file::check)?;
    // Only the main process may read credentials (systemd 252). They do not change until a restart.
    let tls = settings.tls.as_ref().filter(|tls| tls.certificate.is_absolute() && tls.key.is_absolute());
    tls.map_or(Ok(()), |tls| Certificate::load_again(tls).map(drop))
}

/// Reads all files of a reload. Without a configuration file the settings stay.
fn read(config: Option<&Source>, old: &Settings, listeners: usize) -> Result<Prepared, Failure> {
    let settings = config.map(Source::load_again).transpose()?;
    let prepared = Prepared::new(settings.unwrap_or_else(|| old.clone()), old, listeners)?;
    // Checked again: settings that need a restart have their old values here, not those in the file.
    match config.and_then(|config| prepared.settings.collision(config.path())) {
        Some(what) => Err(Failure::new(Exit::Config, what)),
        None => Ok(prepared),
    }
}

impl Prepared {
    /// Compares new settings with those in force, lowers them to the limit of open files, and reads the certificate. `listeners` is the
    /// number of listening sockets.
    ///
    /// # Errors
    /// If the certificate or the file of `history.state` cannot be used, or too few files may be open.
    pub fn new(new: Settings, old: &Settings, listeners: usize) -> Result<Self, Failure> {
        let (mut settings, fixed) = new.without_restart(old);
        let fit = settings.fit(rlimit::open_files(), listeners);
        let (_, too_many) = fit.map_err(|e| Failure::new(Exit::Config, e.to_string()))?;
        let mut warnings: Vec<String> = too_many.into_iter().collect();
        if let Some(path) = settings.history.state.as_deref().filter(|path| Some(*path) != old.history.state.as_deref())
        {
            history_file::check(path)?;
            // If a save is running, it writes to the file in force, which is a different one.
            warnings.extend(history_file::try_to_write(path).err());
        }
        // If `tls` changed, the old certificate stays until a restart, and its files may be gone.
        let changes = !fixed.contains(&"tls");
        let certificate = settings.tls.as_ref().filter(|_| changes).map(Certificate::load_again).transpose()?;
        Ok(Self { settings, certificate, fixed, warnings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_does_not_answer_is_given_up_and_keeps_one_thread() {
        let mut reader = Reader::default();
        let (answer, answered) = std::sync::mpsc::channel::<()>();
        let failed = reader.run(move || Ok(answered.recv().is_ok())).await.unwrap_err();
        assert!(failed.to_string().contains("could not be read within 30 s"), "{failed}");
        let failed = reader.run(|| Ok(())).await.unwrap_err();
        assert!(failed.to_string().contains("the last reload still waits"), "{failed}");
        answer.send(()).unwrap();
        while !reader.0.as_ref().unwrap().is_finished() {
            thread::yield_now();
        }
        tokio::time::resume();
        assert_eq!(reader.run(|| Ok(7)).await.unwrap(), 7);
    }

    #[test]
    fn a_history_in_a_file_of_the_log_that_stays_until_a_restart_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.yml");
        let log = |name: &str| format!("logger: {{file: '{}/{name}'}}\n", directory.path().display());
        let history = format!("history: {{state: '{}/a.1'}}\n", directory.path().display());
        let old = Settings::parse(&config, log("a").as_bytes()).unwrap();
        std::fs::write(&config, log("b") + &history).unwrap();
        let source = Source::new(&config, None);
        let refused = read(Some(&source), &old, 2).unwrap_err().to_string();
        assert!(refused.contains("a.1") && refused.contains("history.state"), "{refused}");
        let now = Settings::parse(&config, log("b").as_bytes()).unwrap();
        assert!(read(Some(&source), &now, 2).is_ok());
    }
}
