//! Channels: their end, the time for which history is kept, and its size.

mod bounds;
mod release;
mod runs;

use crate::common::{Broker, Monitor, Viewer, command, unique};

/// A monitor and a broker, which is enough for most tests here.
fn start(config: &str) -> (Monitor, Broker) {
    let monitor = Monitor::start(config);
    let broker = Broker::connect(monitor.brokers);
    (monitor, broker)
}

/// Returns once a failed job that is sent now has been released. A job that failed earlier would then be released, too.
fn release_passes(monitor: &Monitor, broker: &Broker) {
    release_passes_after("FAILED", monitor, broker);
}

/// The same for a job whose last message is `last`.
fn release_passes_after(last: &str, monitor: &Monitor, broker: &Broker) {
    let channel = unique("control");
    let mut viewer = Viewer::watch(monitor.viewers, &channel);
    broker.send(&[channel.as_str(), last]);
    viewer.texts(&[command(last), command("FINISHED")]);
    viewer.closes(1000);
}
