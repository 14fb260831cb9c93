//! The report on the monitor's state, for the page and for `recodex-monitor status`.

use super::cluster::Cluster;
use crate::context::Shared;
use crate::deadline::timeout;
use crate::hub::latest::{Job, JobState};
use crate::logging::{Abridged, Notice, escape};
use crate::metrics::process::Process;
use crate::metrics::quantiles::Quantiles;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// The longest time of a message through the hub of a monitor that is ready.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The most characters of an id in the list of jobs.
const SHOWN: usize = 16;

/// The state at one moment. Times are seconds since the Unix epoch.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The version of the program.
    pub version: String,
    /// The time of the start.
    pub started: u64,
    /// The seconds since the start.
    pub uptime: u64,
    /// The time of the report.
    pub now: u64,
    /// True if students get what brokers send.
    pub ready: bool,
    /// The reason if they do not.
    pub reason: Option<String>,
    /// The viewers.
    pub viewers: Bounded,
    /// The brokers.
    pub brokers: Brokers,
    /// The channels.
    pub channels: Channels,
    /// The history of all channels.
    pub history: Bytes,
    /// The delivery lag of the last minute; `None` if nothing was delivered.
    #[serde(default)]
    pub lag: Option<Quantiles>,
    /// The last jobs, the newest first.
    #[serde(default)]
    pub jobs: Vec<ListedJob>,
    /// Counts since the start.
    pub totals: Totals,
    /// The process's share of the machine, where `/proc` says it.
    #[serde(default)]
    pub process: Option<Process>,
    /// The way to the other nodes, if the monitor is one of several.
    #[serde(default)]
    pub cluster: Option<Cluster>,
    /// The certificate, if viewers are served over TLS.
    pub certificate: Option<Expiry>,
    /// The last warnings and errors, the newest last.
    pub warnings: Vec<Notice>,
}

/// A number with a bound.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Bounded {
    /// Now.
    pub now: usize,
    /// At the most.
    pub max: usize,
}

/// The brokers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Brokers {
    /// The number connected.
    pub now: usize,
    /// The most at once.
    pub max: usize,
    /// Their addresses, the longest connected first.
    pub connected: Vec<Connected>,
}

/// A broker that is connected.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Connected {
    /// Its address.
    pub address: String,
    /// The time of its handshake.
    pub since: u64,
}

/// The number of channels by state.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Channels {
    /// Channels whose jobs run, or have not begun.
    pub open: usize,
    /// Channels whose jobs have finished.
    pub finished: usize,
    /// Runs that are over and still read by viewers.
    pub draining: usize,
}

/// Memory with a bound, in bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Bytes {
    /// Now.
    pub bytes: usize,
    /// At the most.
    pub max: usize,
}

/// One of the last jobs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListedJob {
    /// The number of the job's run since the start.
    pub number: u64,
    /// The channel's id, for those who may see ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The beginning of the id, with unusual characters escaped.
    pub name: String,
    /// `open`, `finished`, `failed` or `aborted`.
    pub state: String,
    /// The number of viewers now.
    pub viewers: usize,
    /// The messages that are kept.
    pub messages: usize,
    /// The seconds since its last message.
    pub silent: u64,
}

impl ListedJob {
    /// Reports a job, with its id if `with_id`. Otherwise of the id no more is told than the log has.
    fn new(job: &Job, with_id: bool) -> Self {
        let state = match job.state {
            JobState::Open => "open",
            JobState::Finished => "finished",
            JobState::Failed => "failed",
            JobState::Aborted => "aborted",
        };
        Self {
            number: job.number,
            id: with_id.then(|| job.id.to_string()),
            name: escape(&if with_id { shortened(&job.id) } else { Abridged(&job.id).to_string() }),
            state: state.into(),
            viewers: job.viewers,
            messages: job.messages,
            silent: job.silent.as_secs(),
        }
    }
}

/// Returns an id, cut after [`SHOWN`] characters.
fn shortened(id: &str) -> String {
    match id.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &id[..end]),
        None => id.into(),
    }
}

/// Counts since the start, under the names of the metrics.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub messages_received: u64,
    pub bytes_received: u64,
    pub messages_sent: u64,
    pub bytes_sent: u64,
    pub messages_replayed: u64,
    pub malformed: u64,
    pub viewers_subscribed: u64,
    pub viewers_refused: u64,
    pub viewers_lost: u64,
    pub links_refused: u64,
    pub channels_evicted: u64,
}

/// A certificate's expiry.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Expiry {
    /// Its file.
    pub path: PathBuf,
    /// The time when it expires.
    pub expires: u64,
}

/// Converts a time to seconds since the Unix epoch.
#[must_use]
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Checks that students get what brokers send.
///
/// # Errors
/// The reason for which they do not.
pub(crate) async fn readiness(shared: &Shared) -> Result<(), &'static str> {
    if *shared.stop.borrow() {
        return Err("the monitor stops");
    }
    if timeout(PROBE_TIMEOUT, shared.probe()).await.is_err() {
        return Err("the relay does not move");
    }
    match &shared.stream {
        // The brokers may be connected to other nodes.
        Some(stream) => stream.condition().readiness(Instant::now()),
        None if shared.brokers.taken() == 0 => Err("no broker is connected"),
        None => Ok(()),
    }
}

impl Report {
    /// Reports the state now, with the ids of jobs if `with_ids`.
    pub(crate) async fn of(shared: &Shared, with_ids: bool) -> Self {
        let connected = |(since, address): (u64, SocketAddr)| Connected { address: address.to_string(), since };
        let reason = readiness(shared).await.err();
        let (settings, usage, metrics) = (shared.settings(), shared.hub.usage(), &shared.metrics);
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            started: seconds(shared.born),
            uptime: shared.uptime().as_secs(),
            now: seconds(SystemTime::now()),
            ready: reason.is_none(),
            reason: reason.map(Into::into),
            viewers: Bounded { now: shared.viewers.taken(), max: settings.clients.max },
            brokers: Brokers {
                now: shared.brokers.taken(),
                max: settings.zeromq.max_connections,
                connected: shared.connected.list().into_iter().map(connected).collect(),
            },
            channels: Channels {
                open: usage.channels - usage.finished,
                finished: usage.finished,
                draining: usage.draining,
            },
            history: Bytes { bytes: usage.bytes, max: settings.history.total_bytes },
            lag: shared.samples.lag(),
            jobs: shared.hub.last_jobs(Instant::now()).iter().map(|job| ListedJob::new(job, with_ids)).collect(),
            totals: Totals {
                messages_received: metrics.received.get(),
                bytes_received: metrics.received_bytes.get(),
                messages_sent: metrics.sent.get(),
                bytes_sent: metrics.sent_bytes.get(),
                messages_replayed: metrics.replayed.get(),
                malformed: metrics.malformed.total(),
                viewers_subscribed: metrics.viewers.get(),
                viewers_refused: metrics.viewers_refused.total(),
                viewers_lost: metrics.viewers_lost.total(),
                links_refused: metrics.links_refused.total(),
                channels_evicted: metrics.evicted.get(),
            },
            process: Process::now().await,
            cluster: Cluster::of(shared),
            certificate: shared
                .certificate()
                .map(|certificate| Expiry { path: certificate.path.clone(), expires: seconds(certificate.expires) }),
            warnings: crate::logging::notices(),
        }
    }
}
