//! Jobs of which the test knows every message, and the viewers that must get all of them.

use crate::common::{Broker, Event, Monitor, Viewer, command, task};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

/// The messages that were sent, by their channels.
#[derive(Default)]
pub(crate) struct Jobs {
    sent: BTreeMap<String, Vec<String>>,
    next: usize,
}

impl Jobs {
    /// Sends a task with the next number.
    pub(crate) fn task(&mut self, broker: &Broker, channel: &str) {
        self.task_of(broker, channel, &self.next.to_string());
        self.next += 1;
    }

    /// Sends so many tasks, in turn to each of these channels.
    pub(crate) fn tasks(&mut self, broker: &Broker, channels: &[impl AsRef<str>], count: usize) {
        for index in 0..count {
            self.task(broker, channels[index % channels.len()].as_ref());
        }
    }

    /// Sends a task with this id.
    pub(crate) fn task_of(&mut self, broker: &Broker, channel: &str, id: &str) {
        broker.task(channel, id);
        self.expect(channel, task(id, "COMPLETED"));
    }

    /// Sends a command without a task.
    pub(crate) fn command(&mut self, broker: &Broker, channel: &str, word: &str) {
        broker.send(&[channel, word]);
        self.expect(channel, command(word));
    }

    /// Sends FINISHED to each of these channels.
    pub(crate) fn finish(&mut self, broker: &Broker, channels: &[impl AsRef<str>]) {
        for channel in channels {
            self.command(broker, channel.as_ref(), "FINISHED");
        }
    }

    /// Notes a text that viewers get and that the broker does not send by this.
    pub(crate) fn expect(&mut self, channel: &str, text: String) {
        self.sent.entry(channel.to_owned()).or_default().push(text);
    }

    /// Returns the texts that were sent to a channel.
    pub(crate) fn of(&self, channel: &str) -> &[String] {
        self.sent.get(channel).map_or(&[], Vec::as_slice)
    }

    /// Asserts that a new viewer at each of these nodes gets what was sent so far.
    pub(crate) fn are_at(&self, nodes: &[&Monitor]) {
        for node in nodes {
            for (channel, texts) in &self.sent {
                Viewer::watch(node.viewers, channel).texts(texts);
            }
        }
    }

    /// Asserts that a viewer gets all messages of a job that has finished, and close 1000, and nothing else.
    pub(crate) fn is_whole(&self, channel: &str, viewer: &mut Viewer) {
        assert_eq!(self.of(channel).last(), Some(&command("FINISHED")), "the job {channel} has finished");
        viewer.texts(self.of(channel));
        viewer.closes(1000);
    }

    /// Asserts that new viewers at each of these nodes get whole jobs.
    pub(crate) fn are_whole_at(&self, nodes: &[&Monitor]) {
        for node in nodes {
            for channel in self.sent.keys() {
                self.is_whole(channel, &mut Viewer::watch(node.viewers, channel));
            }
        }
    }
}

/// Viewers of jobs.
#[derive(Default)]
pub(crate) struct Audience(Vec<(String, Viewer)>);

impl Audience {
    /// Adds a viewer of each channel at each node.
    pub(crate) fn join(&mut self, nodes: &[&Monitor], channels: &[impl AsRef<str>]) {
        for node in nodes {
            for channel in channels {
                let channel = channel.as_ref();
                self.0.push((channel.to_owned(), Viewer::watch(node.viewers, channel)));
            }
        }
    }

    /// Asserts that each of them gets a whole job.
    pub(crate) fn get_all(&mut self, jobs: &Jobs) {
        for (channel, viewer) in &mut self.0 {
            jobs.is_whole(channel, viewer);
        }
        self.0.clear();
    }
}

/// Returns the names of so many channels.
pub(crate) fn channels(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("job {index}")).collect()
}

/// Connects a broker to the first of the nodes, and viewers of `count` channels to all of them. Nothing has been sent.
pub(crate) fn begin(nodes: &[&Monitor], count: usize) -> (Broker, Vec<String>, Jobs, Audience) {
    let (broker, names) = (Broker::connect(nodes[0].brokers), channels(count));
    let mut audience = Audience::default();
    audience.join(nodes, &names);
    (broker, names, Jobs::default(), audience)
}

/// Returns the next texts that a viewer gets.
pub(crate) fn first(viewer: &mut Viewer, count: usize) -> Vec<String> {
    (0..count).map(|_| viewer.text()).collect()
}

/// Returns the texts that a viewer gets up to its end, and the code of the close.
pub(crate) fn to_the_end(viewer: &mut Viewer) -> (Vec<String>, Option<u16>) {
    let (mut texts, mut code) = (Vec::new(), None);
    for event in viewer.rest() {
        match event {
            Event::Text(text) => texts.push(text),
            Event::Close(with) => code = with,
            Event::Ping(_) | Event::Pong(_) => {}
            other => panic!("a text or a close was to come, not {other:?}"),
        }
    }
    (texts, code)
}

/// A job whose tasks a thread sends, with the numbers 0, 1, 2 and so on, while the test does something else.
pub(crate) struct LongJob {
    thread: JoinHandle<usize>,
    stop: Arc<AtomicBool>,
}

impl LongJob {
    /// Begins to send a task to `channel` every `pause`.
    pub(crate) fn begin(broker: Broker, channel: &str, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, channel) = (Arc::clone(&stop), channel.to_owned());
        let thread = spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::SeqCst) {
                broker.task(&channel, &sent.to_string());
                sent += 1;
                sleep(pause);
            }
            broker.send(&[channel.as_str(), "FINISHED"]);
            // The socket is closed once libzmq has sent everything.
            broker.socket.set_linger(20_000).expect("libzmq takes it");
            sent
        });
        Self { thread, stop }
    }

    /// Sends FINISHED, and returns all texts of the job.
    pub(crate) fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        let sent = self.thread.join().expect("the broker can send");
        (0..sent).map(|id| task(&id.to_string(), "COMPLETED")).chain([command("FINISHED")]).collect()
    }
}
