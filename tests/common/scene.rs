//! Somebody to be harmed: a monitor with a broker and a viewer that were there before the attack.

use std::time::{Duration, Instant};

use super::{Broker, Monitor, Viewer, fence, task};

/// What a monitor may take, whatever it is sent.
pub(crate) const MEMORY_KIB: u64 = 32 * 1024;

pub(crate) struct Scene {
    pub(crate) monitor: Monitor,
    pub(crate) broker: Broker,
    pub(crate) viewer: Viewer,
    next: usize,
}

impl Scene {
    pub(crate) fn new(config: &str) -> Self {
        Self::of(Monitor::start(config))
    }

    pub(crate) fn of(monitor: Monitor) -> Self {
        let broker = Broker::connect(monitor.brokers);
        let viewer = Viewer::watch(monitor.viewers, "healthy");
        let mut scene = Scene { monitor, broker, viewer, next: 0 };
        scene.relays();
        scene
    }

    /// Asserts that a message still reaches the viewer; returns how long that took.
    pub(crate) fn relays(&mut self) -> Duration {
        let start = Instant::now();
        let id = self.next.to_string();
        self.broker.task("healthy", &id);
        assert_eq!(self.viewer.text(), task(&id, "COMPLETED"));
        self.next += 1;
        start.elapsed()
    }

    /// Asserts that the same process serves as before, those who were there and newcomers, and is small.
    pub(crate) fn is_unharmed(&mut self) {
        self.serves_all();
        let rss = self.monitor.rss_kib();
        assert!(rss < MEMORY_KIB, "{rss} KiB");
    }

    /// The same without regard to its size.
    pub(crate) fn serves_all(&mut self) {
        self.relays();
        fence(&self.monitor, &Broker::connect(self.monitor.brokers));
        self.monitor.assert_alive();
        assert_eq!(self.monitor.logged(&["panicked"]), [""; 0]);
    }
}
