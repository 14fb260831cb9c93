//! A monitor whose configuration can be rewritten and reloaded.

use std::fs::write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use super::{Host, Monitor, open_directory};

pub(crate) struct Reloadable {
    pub(crate) monitor: Monitor,
    pub(crate) config: PathBuf,
    /// The beginning of every configuration.
    pub(crate) ports: String,
    _directory: tempfile::TempDir,
}

impl Reloadable {
    /// Starts a monitor by another program, which must run its arguments.
    pub(crate) fn start(wrapper: &[&str], config: &str) -> Self {
        let directory = open_directory();
        let path = directory.path().join("config.yml");
        let ports = "websocket_uri: [\"127.0.0.1\", 0]\nzeromq_uri: [\"127.0.0.1\", 0]\nuser: nobody\n".to_owned();
        write(&path, format!("{ports}{config}")).expect("it is ours");
        // The harness names a configuration of its own; the shell puts ours in its place.
        let script = format!("{} exec \"$1\" -c '{}'", wrapper.join(" "), path.display());
        let monitor = Monitor::start_through(&["sh", "-c", &script, "sh"], Host::default(), "");
        Self { monitor, config: path, ports, _directory: directory }
    }

    pub(crate) fn reload(&self, config: &str) {
        self.write(config);
        self.monitor.signal("HUP");
    }

    /// Writes the configuration, without a reload.
    pub(crate) fn write(&self, config: &str) {
        write(&self.config, format!("{}{config}", self.ports)).expect("it is ours");
    }

    /// Changes the configuration again and again, so that a reload does not end. It is always valid, except for its last line.
    pub(crate) fn keep_changing(&self) -> Changing {
        let (path, ports, stop) = (self.config.clone(), self.ports.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let change = move || {
            for number in 0_u64.. {
                write(&path, format!("{ports}# {number}")).expect("it is ours");
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                sleep(Duration::from_millis(5));
            }
        };
        let thread = spawn(change);
        Changing { stop, thread: Some(thread) }
    }
}

/// A thread that goes on until this is dropped.
pub(crate) struct Changing {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Changing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
