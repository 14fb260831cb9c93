//! The metrics as text: `OpenMetrics` 1.0, and the older text format of Prometheus.

use super::cluster;
use super::report::seconds;
use crate::context::Shared;
use crate::logging;
use crate::metrics::labels::{Counts, Label};
use crate::metrics::process::Process;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// The begin of every metric's name, except those of the process, whose names all programs share.
const PREFIX: &str = "recodex_monitor";

/// The content type of [`open_metrics`].
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of [`text`].
pub(crate) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the metrics in the format `OpenMetrics`. `ready` is true if students get what brokers send, and `process` is what the process
/// takes from the machine.
///
/// # Errors
/// No error is known.
pub(crate) fn open_metrics(shared: Arc<Shared>, ready: bool, process: Option<Process>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Taken { process, started: shared.born }));
    registry.sub_registry_with_prefix(PREFIX).register_collector(Box::new(Now { shared, ready }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Returns the metrics in the older text format: the name of a counter ends in `_total`, and there are no units.
#[must_use]
pub(crate) fn text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described;
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap_or((typed, "untyped"));
            let about = help.split_once(' ').map_or("", |(_, about)| about);
            let suffix = if kind == "counter" { "_total" } else { "" };
            let _ = write!(text, "# HELP {name}{suffix} {about}\n# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            text += line;
            text.push('\n');
        }
    }
    text
}

#[derive(Debug)]
struct Now {
    shared: Arc<Shared>,
    ready: bool,
}

impl Collector for Now {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        self.service(&mut out)?;
        self.viewers(&mut out)?;
        self.brokers(&mut out)?;
        self.channels(&mut out)?;
        self.messages(&mut out)?;
        cluster::metrics(&self.shared, &mut out)?;
        self.log_and_certificate(&mut out)
    }
}

impl Now {
    fn service(&self, out: &mut Out<'_>) -> fmt::Result {
        out.gauges("build_info", "The version that runs", "version", [(env!("CARGO_PKG_VERSION"), 1)])?;
        let about = "When the monitor started, in seconds since the Unix epoch";
        out.gauge("start_time_seconds", about, seconds(self.shared.born))?;
        out.gauge("ready", "Whether a broker is connected and the relay moves", self.ready.into())?;
        let reloaded = self.shared.reloaded.load(Ordering::Relaxed);
        let about = "Whether the last reload of the configuration succeeded";
        out.gauge("config_last_reload_successful", about, reloaded.into())?;
        // Alerts that were written for 2.0.0 would be silent without it.
        out.gauge("config_reload_success", "The name of config_last_reload_successful in 2.0.0", reloaded.into())?;
        let about = "When the settings were taken up, at the start or by a reload, in seconds since the Unix epoch";
        out.seconds("config_last_reload_success_timestamp_seconds", about, unix_seconds(self.shared.in_force_since()))
    }

    fn viewers(&self, out: &mut Out<'_>) -> fmt::Result {
        let settings = self.shared.settings();
        let metrics = &self.shared.metrics;
        out.gauge("viewers", "Viewers that are connected", self.shared.viewers.taken() as u64)?;
        out.gauge("viewers_limit", "The most viewers at once (clients.max)", settings.clients.max as u64)?;
        out.counter(
            "subscribed_viewers",
            "Viewers that named their channel, those at the status listener included",
            metrics.viewers.get(),
        )?;
        out.counters(
            "refused_viewers",
            "Connections that did not become a viewer's",
            "reason",
            &metrics.viewers_refused,
        )?;
        out.counters(
            "lost_viewers",
            "Viewers given up: they did not read, or did not answer a ping",
            "reason",
            &metrics.viewers_lost,
        )?;
        out.counters(
            "closed_viewers",
            "Viewers that the monitor closed, or began to close, by the code",
            "code",
            &metrics.closed,
        )
    }

    fn brokers(&self, out: &mut Out<'_>) -> fmt::Result {
        let settings = self.shared.settings();
        let metrics = &self.shared.metrics;
        out.gauge("brokers", "Brokers that are connected", self.shared.brokers.taken() as u64)?;
        out.gauge(
            "brokers_limit",
            "The most brokers at once (zeromq.max_connections)",
            settings.zeromq.max_connections as u64,
        )?;
        out.counters("refused_links", "ZeroMQ links that were refused or ended", "reason", &metrics.links_refused)
    }

    fn channels(&self, out: &mut Out<'_>) -> fmt::Result {
        let settings = self.shared.settings();
        let usage = self.shared.hub.usage();
        let metrics = &self.shared.metrics;
        let channels =
            [("open", usage.channels - usage.finished), ("finished", usage.finished), ("draining", usage.draining)];
        let channels = channels.map(|(state, count)| (state, count as u64));
        out.gauges("channels", "Channels by state: open, finished, or over and still being read", "state", channels)?;
        out.gauge("history_bytes", "Memory for the history of all channels", usage.bytes as u64)?;
        out.gauge("history_limit_bytes", "The most of it (history.total_bytes)", settings.history.total_bytes as u64)?;
        out.counter(
            "evicted_channels",
            "Channels dropped because the history of all was over its bound",
            metrics.evicted.get(),
        )?;
        out.counter("expired_channels", "Channels dropped because their job never finished", metrics.expired.get())?;
        out.counter(
            "released_channels",
            "Channels finished by the monitor: their job failed or was aborted, and nothing followed",
            metrics.released.get(),
        )
    }

    fn messages(&self, out: &mut Out<'_>) -> fmt::Result {
        let metrics = &self.shared.metrics;
        out.counter("received_messages", "Messages received from brokers", metrics.received.get())?;
        out.counter("received_bytes", "Bytes received from brokers", metrics.received_bytes.get())?;
        out.counters(
            "malformed_messages",
            "Messages from brokers that could not be decoded",
            "kind",
            &metrics.malformed,
        )?;
        out.counter("repeated_finished", "FINISHED for a channel that had finished; dropped", metrics.repeated.get())?;
        out.counter(
            "late_messages",
            "Messages other than FINISHED for a channel that had finished, which begin no new run; dropped",
            metrics.late.get(),
        )?;
        out.counter("exits_ignored", "Requests to exit that were ignored", metrics.exits_ignored.get())?;
        out.counter(
            "trimmed_messages",
            "Messages dropped because their channel was over its bounds",
            metrics.trimmed.get(),
        )?;
        out.counter("sent_messages", "Messages sent to viewers", metrics.sent.get())?;
        out.counter("sent_bytes", "Bytes of messages sent to viewers", metrics.sent_bytes.get())?;
        out.counter(
            "replayed_messages",
            "Of the messages sent, those that were there before their viewer",
            metrics.replayed.get(),
        )?;
        let lag = out.begin(
            "delivery_lag_seconds",
            "From the arrival of a message until a viewer that waited for it was sent it",
            MetricType::Histogram,
        );
        let ranges: Vec<_> = metrics.lag.ranges().collect();
        let count = ranges.iter().map(|(_, count)| count).sum();
        lag?.encode_histogram::<NoLabelSet>(metrics.lag.sum(), count, &ranges, None)
    }

    fn log_and_certificate(&self, out: &mut Out<'_>) -> fmt::Result {
        out.counter("dropped_log_lines", "Lines that found no room in the log's queue", logging::dropped())?;
        if let Some(certificate) = self.shared.certificate() {
            let about = "When the certificate expires, in seconds since the Unix epoch";
            out.gauge("certificate_expiry_timestamp_seconds", about, seconds(certificate.expires))?;
        }
        Ok(())
    }
}

/// Returns the time since the Unix epoch in seconds, to a hundredth.
fn unix_seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    (since * 100.0).round() / 100.0
}

/// Writes the process's share of the machine.
#[derive(Debug)]
struct Taken {
    process: Option<Process>,
    started: SystemTime,
}

impl Collector for Taken {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        let about = "When the process started, in seconds since the Unix epoch";
        out.seconds("process_start_time_seconds", about, unix_seconds(self.started))?;
        let Some(process) = &self.process else { return Ok(()) };
        let about = "Processor time of all threads, in seconds";
        let seconds = out.begin("process_cpu_seconds", about, MetricType::Counter)?;
        ConstCounter::new(process.cpu_seconds).encode(seconds)?;
        let about = "Memory that is in the machine's RAM";
        out.gauge("process_resident_memory_bytes", about, process.resident_memory_bytes)?;
        let about = "Address space, most of which is no memory";
        out.gauge("process_virtual_memory_bytes", about, process.virtual_memory_bytes)?;
        out.gauge("process_open_fds", "Descriptors that are open", process.open_fds)?;
        out.gauge("process_max_fds", "The most descriptors (LimitNOFILE=)", process.max_fds)
    }
}

/// The output of metrics.
pub(super) struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn begin(&mut self, name: &'static str, about: &str, kind: MetricType) -> Result<MetricEncoder<'_>, fmt::Error> {
        self.0.encode_descriptor(name, about, None, kind)
    }

    /// Writes a gauge of seconds.
    pub(super) fn seconds(&mut self, name: &'static str, about: &str, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.begin(name, about, MetricType::Gauge)?)
    }

    /// Writes a gauge.
    pub(super) fn gauge(&mut self, name: &'static str, about: &str, value: u64) -> fmt::Result {
        ConstGauge::new(value).encode(self.begin(name, about, MetricType::Gauge)?)
    }

    /// Writes a counter.
    pub(super) fn counter(&mut self, name: &'static str, about: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.begin(name, about, MetricType::Counter)?)
    }

    /// Writes a gauge for each value of a label.
    pub(super) fn gauges<const N: usize>(
        &mut self,
        name: &'static str,
        about: &str,
        label: &str,
        each: [(&str, u64); N],
    ) -> fmt::Result {
        let mut family = self.begin(name, about, MetricType::Gauge)?;
        each.into_iter()
            .try_for_each(|(text, value)| ConstGauge::new(value).encode(family.encode_family(&[(label, text)])?))
    }

    fn counters<L: Label>(&mut self, name: &'static str, about: &str, label: &str, counts: &Counts<L>) -> fmt::Result {
        let mut family = self.begin(name, about, MetricType::Counter)?;
        let mut each = counts.each();
        each.try_for_each(|(text, value)| ConstCounter::new(value).encode(family.encode_family(&[(label, text)])?))
    }
}
