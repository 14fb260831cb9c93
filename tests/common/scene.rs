//! A monitor with a broker and a viewer, which must not notice an attack.

use std::time::{Duration, Instant};

use super::{Broker, Monitor, Viewer, fence, task};

/// The memory that a monitor may use, whatever it receives.
pub(crate) const MEMORY_KIB: u64 = 32 * 1024;

/// The longest time for a message during an attack. It usually takes milliseconds; this is for the slowest machine. It is half of
/// the timeout that would end an attack that blocks others.
const PROMPT: Duration = Duration::from_secs(5);

pub(crate) struct Scene {
    pub(crate) monitor: Monitor,
    pub(crate) broker: Broker,
    pub(crate) viewer: Viewer,
    next: usize,
    slowest: Duration,
}

impl Scene {
    pub(crate) fn new(config: &str) -> Self {
        Self::of(Monitor::start(config))
    }

    pub(crate) fn of(monitor: Monitor) -> Self {
        let broker = Broker::connect(monitor.brokers);
        let mut viewer = Viewer::watch(monitor.viewers, "healthy");
        broker.task("healthy", "connected");
        viewer.text();
        Scene { monitor, broker, viewer, next: 0, slowest: Duration::ZERO }
    }

    /// Asserts that a message still reaches the viewer at once. Returns the time that it took.
    pub(crate) fn relays(&mut self) -> Duration {
        let took = relays_at_once(&self.broker, &mut self.viewer, self.next);
        self.slowest = self.slowest.max(took);
        self.next += 1;
        took
    }

    /// Asserts that the same process still serves connected and new clients, and uses little memory.
    pub(crate) fn is_unharmed(&mut self) {
        self.serves_newcomers();
        self.is_unharmed_for_those_who_are_there();
    }

    /// The same while no new client can connect.
    pub(crate) fn is_unharmed_for_those_who_are_there(&mut self) {
        self.serves_those_who_are_there();
        let rss = self.monitor.rss_kib();
        assert!(rss < MEMORY_KIB, "{rss} KiB");
        eprintln!("the slowest of {} messages took {:?}; {rss} KiB", self.next, self.slowest);
    }

    /// Asserts that it still serves connected and new clients, whatever memory it uses.
    pub(crate) fn serves_all(&mut self) {
        self.serves_newcomers();
        self.serves_those_who_are_there();
    }

    fn serves_newcomers(&self) {
        fence(&self.monitor, &Broker::connect(self.monitor.brokers));
    }

    fn serves_those_who_are_there(&mut self) {
        self.relays();
        self.monitor.assert_alive();
        assert_eq!(self.monitor.logged(&["panicked"]), [""; 0]);
    }
}

/// Asserts that message `number` of the channel "healthy" reaches the viewer at once. Returns the time that it took.
pub(crate) fn relays_at_once(broker: &Broker, viewer: &mut Viewer, number: usize) -> Duration {
    let id = number.to_string();
    let start = Instant::now();
    broker.task("healthy", &id);
    assert_eq!(viewer.text(), task(&id, "COMPLETED"));
    let took = start.elapsed();
    assert!(took < PROMPT, "a message took {took:?}");
    took
}
