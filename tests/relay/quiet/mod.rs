//! Quiet viewers: they have got all there is, and say nothing. What a student sees of them is the same as of any other viewer.
//!
//! Viewers come over TCP, over a Unix socket or over TLS, and most tests go all three ways.

mod bounds;
mod crowd;
mod ends;
mod full;
mod hang_up;
mod memory;
mod pings;
mod speaking;

use crate::common::exposition::Metrics;
use crate::common::http::{STATUS, metrics, status};
use crate::common::viewer::upgrade_request;
use crate::common::{Broker, DEADLINE, Event, Monitor, Viewer, command, open_directory, task, unique, until};
use crate::tls;
use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::scope;
use std::time::{Duration, Instant};
use tokio_rustls::rustls::ClientConfig;

/// The time in which a viewer that has all there is becomes quiet. No event shows it to a client. A test that waits too short a time
/// passes, but then tests a busy viewer.
const CALM: Duration = Duration::from_millis(1300);

/// A configuration without pings, which would let a monitor notice late what it has to notice at once.
const NO_PINGS: &str = "clients: {ping_interval: 3600}\n";

/// The close of a viewer that is given up.
const GIVEN_UP: u16 = 1013;

/// The way by which viewers come.
enum Way {
    Tcp,
    Unix(PathBuf),
    Tls(Arc<ClientConfig>),
}

/// A monitor with its broker, and one way by which its viewers come.
struct Server {
    monitor: Monitor,
    broker: Broker,
    way: Way,
    /// The files of this way, which are removed with it.
    _files: Box<dyn Any + Send>,
}

impl Server {
    fn tcp(config: &str) -> Self {
        Self::new(Monitor::start(&format!("{STATUS}{config}")), Way::Tcp, Box::new(()))
    }

    fn unix(config: &str) -> Self {
        let directory = open_directory();
        let path = directory.path().join("monitor.sock");
        let monitor = Monitor::start_unix(&path, &format!("{STATUS}{config}"));
        Self::new(monitor, Way::Unix(path), Box::new(directory))
    }

    fn tls(config: &str) -> Self {
        let tls::Server { monitor, trust, files, .. } = tls::Server::start(&format!("{STATUS}{config}"));
        Self::new(monitor, Way::Tls(trust), Box::new(files))
    }

    fn new(monitor: Monitor, way: Way, files: Box<dyn Any + Send>) -> Self {
        let broker = Broker::connect(monitor.brokers);
        Self { monitor, broker, way, _files: files }
    }

    fn name(&self) -> &'static str {
        match self.way {
            Way::Tcp => "TCP",
            Way::Unix(_) => "Unix",
            Way::Tls(_) => "TLS",
        }
    }

    /// Connects, and shakes hands by TLS if that is the way.
    fn connected(&self) -> Viewer {
        self.connected_with(None)
    }

    fn connected_with(&self, buffer: Option<usize>) -> Viewer {
        let viewer = match &self.way {
            Way::Unix(path) => return Viewer::connected_to(path),
            Way::Tcp | Way::Tls(_) => Viewer::connected(self.monitor.viewers),
        };
        let viewer = match buffer {
            Some(bytes) => viewer.with_buffer(bytes),
            None => viewer,
        };
        match &self.way {
            Way::Tls(trust) => viewer.secured(trust),
            _ => viewer,
        }
    }

    /// Subscribes to a channel that may be empty; returns once the monitor has read the channel id.
    fn subscribed(&self, channel: &str) -> Viewer {
        self.connected().upgrade(&[]).subscribe(channel)
    }

    /// The same for a viewer for which the kernel buffers little.
    fn subscribed_with_small_buffer(&self, channel: &str) -> Viewer {
        self.connected_with(Some(65_536)).upgrade(&[]).subscribe(channel)
    }

    /// Subscribes as many viewers to a channel, and waits until they are quiet.
    fn quiet(&self, channel: &str, number: usize) -> Vec<Viewer> {
        let viewers = (0..number).map(|_| self.subscribed(channel)).collect();
        calm();
        viewers
    }

    /// Returns true if a viewer more is served, and false if it is refused for a limit.
    fn serves_one_more(&self) -> Option<Viewer> {
        let mut viewer = self.connected();
        let _ = viewer.try_send_raw(upgrade_request("/").as_bytes());
        let head = String::from_utf8(viewer.raw_head()).expect("heads are text");
        head.starts_with("HTTP/1.1 101 ").then_some(viewer)
    }

    /// Sends the tasks with these numbers.
    fn tasks(&self, channel: &str, from: usize, to: usize) {
        for id in from..to {
            self.broker.task(channel, &id.to_string());
        }
    }

    /// Returns once the monitor has taken everything that its broker has sent.
    fn fence(&self) {
        let channel = unique("fence");
        self.broker.send(&[channel.as_str(), "FINISHED"]);
        let mut viewer = self.connected().upgrade(&[]);
        viewer.send_text(&channel);
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
    }

    fn metrics(&self) -> Metrics {
        metrics(status(&self.monitor))
    }

    /// Returns the value of a metric, whose name is without the common prefix.
    fn count(&self, series: &str) -> u64 {
        self.metrics().count(&format!("recodex_monitor_{series}"))
    }

    /// Waits until a metric has this value.
    fn counts(&self, series: &str, expected: u64) {
        let mut last = 0;
        let name = self.name();
        let what = format!("{series} is {expected} ({name})");
        until(&what, || {
            last = self.count(series);
            (last == expected).then_some(())
        });
    }
}

/// Runs a test on each way at the same time.
fn on_each_way(config: &str, test: impl Fn(Server) + Sync) {
    let test = &test;
    scope(|scope| {
        for start in [Server::tcp, Server::unix, Server::tls] {
            scope.spawn(move || {
                let server = start(config);
                eprintln!("over {}", server.name());
                test(server);
            });
        }
    });
}

/// Waits until viewers that have all there is are quiet.
fn calm() {
    std::thread::sleep(CALM);
}

/// The texts of the tasks with these numbers.
fn texts(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|id| task(&id.to_string(), "COMPLETED")).collect()
}

/// The end of a viewer that the monitor ends itself.
fn end(code: u16) -> Vec<Event> {
    vec![Event::Text(command("FINISHED")), Event::Close(Some(code))]
}

/// Returns the next event that is not a ping, and does not answer pings.
fn next_unanswered(viewer: &mut Viewer, end: Instant) -> Event {
    loop {
        match viewer.next_within(end.saturating_duration_since(Instant::now())) {
            Some(Event::Ping(_)) => {}
            Some(event) => return event,
            None => panic!("nothing comes but pings"),
        }
    }
}

/// Returns the events up to the end of the connection, without pings, and does not answer any frame.
fn unanswered(viewer: &mut Viewer) -> Vec<Event> {
    let (mut events, end) = (Vec::new(), Instant::now() + DEADLINE);
    loop {
        match next_unanswered(viewer, end) {
            Event::Gone => return events,
            event => events.push(event),
        }
    }
}
