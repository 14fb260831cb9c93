//! A stream for tests: a node without a server, and a server in this process that knows the commands of a node and loses what a test
//! tells it to lose.

use crate::config::{Cluster, History, Server};
use crate::hub::Hub;
use crate::metrics::counters::Metrics;
use crate::snapshot::stream::EntryId;
use crate::stream::MessageStream;
use crate::stream::connect::Connection;
use crate::stream::record::{self, Head, Record};
use crate::wire::message::{Kind, Message};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// The ingest of [`batch`].
pub(super) const INGEST: u64 = 77;

/// Returns the stream of a node whose Redis has this port.
pub(super) fn node(port: u16) -> Arc<MessageStream> {
    let (history, metrics) = (History::default(), Arc::new(Metrics::default()));
    let cluster = Cluster {
        redis: vec![Server { host: "127.0.0.1".into(), port }],
        sentinel: None,
        name: "test".into(),
        user: None,
        password_file: None,
        tls: None,
        buffer: 1 << 20,
        stream_bytes: 1 << 20,
    };
    let hub = Hub::new(history.clone(), Arc::clone(&metrics));
    MessageStream::new(&cluster, &history, "node".into(), hub, metrics).unwrap()
}

pub(super) fn entry(milliseconds: u64) -> EntryId {
    EntryId { milliseconds, number: 0 }
}

pub(super) fn frame(command: &str) -> Vec<u8> {
    let mut buffer = Vec::new();
    Message { channel: "job", command, task: None, state: None }.encode(&mut buffer).to_vec()
}

/// Returns a batch of [`INGEST`] with these records.
pub(super) fn batch_of(stream: &MessageStream, number: u64, records: &[Record<'_>]) -> Vec<u8> {
    batch_by(stream, INGEST, number, records)
}

/// Returns a batch of an ingest with these records.
fn batch_by(stream: &MessageStream, ingest: u64, number: u64, records: &[Record<'_>]) -> Vec<u8> {
    let limits = stream.ingest().limits();
    let mut bytes = record::begin(&Head { ingest, number, node: "other".into(), limits });
    for record in records {
        assert!(record::append(&mut bytes, record));
    }
    bytes
}

/// Returns a batch of [`INGEST`] with one message of channel `job`.
pub(super) fn batch(stream: &MessageStream, number: u64, command: &str) -> Vec<u8> {
    batch_of(stream, number, &[record_of("job", command)])
}

/// Returns the first batch of another ingest, with one message of channel `job`.
pub(super) fn batch_of_another(stream: &MessageStream, command: &str) -> Vec<u8> {
    batch_by(stream, INGEST + 1, 1, &[record_of("job", command)])
}

pub(super) fn record_of<'a>(channel: &'a str, command: &'a str) -> Record<'a> {
    let kind = Message { channel, command, task: None, state: None }.kind();
    Record::Message { channel: channel.into(), kind, frame: frame(command).into() }
}

impl MessageStream {
    /// Publishes a message of channel `job` as a broker's link does.
    pub(super) fn publish_one(&self, command: &str) {
        self.appender().publish("job", Kind::Progress, &frame(command));
    }

    /// Returns the commands of the run of channel `job`.
    pub(super) fn history(&self) -> Vec<String> {
        self.hub.save(tokio::time::Instant::now(), |runs| {
            let run = runs.iter().find(|(_, run)| run.id == "job");
            let text = run.map(|(_, run)| String::from_utf8_lossy(&run.frames).into_owned()).unwrap_or_default();
            text.split("\"command\": \"").skip(1).map(|rest| rest.split('"').next().unwrap().into()).collect()
        })
    }

    /// Waits until `is_done` after a change.
    pub(super) async fn until(&self, mut is_done: impl FnMut() -> bool) {
        loop {
            let more = self.progress.notified();
            if is_done() {
                return;
            }
            more.await;
        }
    }

    pub(super) async fn connected(&self) -> Connection {
        self.redis.connect(&self.redis.servers()[0], Duration::from_secs(10)).await.unwrap()
    }
}

/// The server.
pub(super) struct Redis {
    pub(super) port: u16,
    data: Arc<Data>,
}

#[derive(Default)]
struct Data {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) entries: Vec<(EntryId, Vec<u8>)>,
    pub(super) epoch: Option<String>,
    /// The next XADD is taken, and the connection closed without an answer.
    pub(super) drops_answer: bool,
    /// The reader and the writer are told the numbers of the stream only once the watch has noted what is safe.
    pub(super) watch_is_first: bool,
    /// True once the watch has noted it: it asks for the memory after that.
    has_noted: bool,
}

impl Redis {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, data) = (listener.local_addr().unwrap().port(), Arc::new(Data::default()));
        let shared = Arc::clone(&data);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let data = Arc::clone(&shared);
                tokio::spawn(async move { data.serve(socket).await });
            }
        });
        Self { port, data }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.data.state.lock().unwrap()
    }

    pub(super) fn add(&self, id: EntryId, batch: Vec<u8>) {
        self.state().entries.push((id, batch));
        self.data.changed.notify_waiters();
    }

    /// Returns the numbers of the batches in the stream.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.state().entries.iter().map(|(_, batch)| record::split(batch).unwrap().0.number).collect()
    }
}

/// Reads one command; `None` at the end.
async fn command(socket: &mut BufReader<TcpStream>) -> Option<Vec<Vec<u8>>> {
    async fn number(socket: &mut BufReader<TcpStream>) -> Option<usize> {
        let mut line = String::new();
        socket.read_line(&mut line).await.ok().filter(|length| *length > 0)?;
        line[1..].trim().parse().ok()
    }
    let mut parts = Vec::new();
    for _ in 0..number(socket).await? {
        let mut part = vec![0; number(socket).await? + 2];
        socket.read_exact(&mut part).await.ok()?;
        part.truncate(part.len() - 2);
        parts.push(part);
    }
    Some(parts)
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn list(parts: &[Vec<u8>]) -> Vec<u8> {
    [format!("*{}\r\n", parts.len()).as_bytes(), &parts.concat()].concat()
}

fn entries<'a>(entries: impl Iterator<Item = &'a (EntryId, Vec<u8>)>) -> Vec<Vec<u8>> {
    let entry = |(id, batch): &(EntryId, Vec<u8>)| {
        list(&[bulk(id.to_string().as_bytes()), list(&[bulk(record::FORMAT.as_bytes()), bulk(batch)])])
    };
    entries.map(entry).collect()
}

impl Data {
    async fn serve(&self, socket: TcpStream) {
        let (mut socket, mut is_watch) = (BufReader::new(socket), false);
        while let Some(parts) = command(&mut socket).await {
            let text = |i: usize| String::from_utf8_lossy(&parts[i]).into_owned();
            let answer = match text(0).as_str() {
                "PING" => b"+PONG\r\n".to_vec(),
                // Long after the entries of the tests.
                "TIME" => list(&[bulk(b"3600"), bulk(b"0")]),
                "GET" => match &self.state.lock().unwrap().epoch {
                    Some(epoch) => bulk(epoch.as_bytes()),
                    None => b"$-1\r\n".to_vec(),
                },
                "SET" => {
                    self.state.lock().unwrap().epoch.get_or_insert(text(2));
                    b"+OK\r\n".to_vec()
                }
                "XADD" => match self.append(parts[4].clone()) {
                    Some(id) => bulk(id.to_string().as_bytes()),
                    None => return,
                },
                "ROLE" => list(&[bulk(b"master")]),
                "INFO" => {
                    is_watch = true;
                    bulk(b"role:master\nmaster_repl_offset:1\nslave0:offset=1\n")
                }
                "MEMORY" => {
                    self.state.lock().unwrap().has_noted = true;
                    self.changed.notify_waiters();
                    b":1\r\n".to_vec()
                }
                "XTRIM" => b":0\r\n".to_vec(),
                "XINFO" => {
                    if !is_watch {
                        self.noted().await;
                    }
                    self.extent()
                }
                "XRANGE" => {
                    let (from, count) = (text(2), text(5).parse().unwrap());
                    let (after, from) = (from.starts_with('('), from.trim_start_matches('(').parse().unwrap());
                    let state = self.state.lock().unwrap();
                    let range = state.entries.iter().filter(|(id, _)| *id > from || *id == from && !after);
                    list(&entries(range.take(count)))
                }
                "XREAD" => {
                    self.read(text(2).parse().unwrap(), parts.len() > 6, text(parts.len() - 1).parse().unwrap()).await
                }
                other => panic!("{other}"),
            };
            if socket.write_all(&answer).await.is_err() {
                return;
            }
        }
    }

    /// Appends an entry; returns its id, unless the answer is to be dropped.
    fn append(&self, batch: Vec<u8>) -> Option<EntryId> {
        let mut state = self.state.lock().unwrap();
        let id = entry(state.entries.last().map_or(1, |(last, _)| last.milliseconds + 1));
        state.entries.push((id, batch));
        self.changed.notify_waiters();
        (!std::mem::take(&mut state.drops_answer)).then_some(id)
    }

    /// Waits until the watch has noted what is safe, if the others have to wait for that.
    async fn noted(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state.lock().unwrap();
                if !state.watch_is_first || state.has_noted {
                    return;
                }
            }
            changed.await;
        }
    }

    fn extent(&self) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        let (Some(first), Some((last, _))) = (entries(state.entries.iter().take(1)).pop(), state.entries.last()) else {
            return b"-ERR no such key\r\n".to_vec();
        };
        let length = format!(":{}\r\n", state.entries.len()).into_bytes();
        let last = bulk(last.to_string().as_bytes());
        list(&[bulk(b"length"), length, bulk(b"last-generated-id"), last, bulk(b"first-entry"), first])
    }

    async fn read(&self, count: usize, waits: bool, after: EntryId) -> Vec<u8> {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state.lock().unwrap();
                let found = entries(state.entries.iter().filter(|(id, _)| *id > after).take(count));
                if !found.is_empty() {
                    return list(&[list(&[bulk(b"test:messages"), list(&found)])]);
                }
            }
            if !waits || crate::deadline::timeout(Duration::from_millis(100), changed).await.is_err() {
                return b"*-1\r\n".to_vec();
            }
        }
    }
}
