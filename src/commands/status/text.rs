//! A report of the status listener as text for people.

use crate::logging::escape;
use crate::metrics::process::Process;
use crate::status::cluster::Cluster;
use crate::status::report::Report;
use chrono::{DateTime, Local};
use std::fmt::Write;

/// Formats a report for people.
pub(super) fn of(address: &str, report: &Report) -> String {
    let Report { viewers, brokers, channels, history, totals, .. } = report;
    let state = match &report.reason {
        Some(reason) if !report.ready => format!("NOT READY: {}", escape(reason)),
        _ => "ready".into(),
    };
    // The address is from a file that recodex may write.
    let mut out = format!("recodex-monitor {} at {}: {state}\n", escape(&report.version), escape(address));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12}{value}");
    };
    line("up", format!("{}, since {}", duration(report.uptime), time(report.started)));
    line("brokers", format!("{} of {}", brokers.now, brokers.max));
    for broker in &brokers.connected {
        line("", format!("{} since {}", escape(&broker.address), time(broker.since)));
    }
    line("viewers", format!("{} of {}", viewers.now, viewers.max));
    line(
        "channels",
        format!("{} open, {} finished, {} over and still read", channels.open, channels.finished, channels.draining),
    );
    line("history", format!("{} of {}", bytes(history.bytes as u64), bytes(history.max as u64)));
    let messages = |n| count(n, "message", "messages");
    if let Some(cluster) = &report.cluster {
        line("cluster", cluster_line(cluster));
        line("", cluster_lag(cluster));
        line("", cluster_counts(cluster));
    }
    line("received", format!("{}, {}", messages(totals.messages_received), bytes(totals.bytes_received)));
    line(
        "sent",
        format!(
            "{}, {}; {} replayed",
            messages(totals.messages_sent),
            bytes(totals.bytes_sent),
            totals.messages_replayed
        ),
    );
    let bad = [
        ("viewer refused", "viewers refused", totals.viewers_refused),
        ("viewer lost", "viewers lost", totals.viewers_lost),
        ("link refused", "links refused", totals.links_refused),
        ("malformed message", "malformed messages", totals.malformed),
        ("channel evicted", "channels evicted", totals.channels_evicted),
    ];
    let bad: Vec<_> = bad.iter().filter(|(.., n)| *n > 0).map(|(one, many, n)| count(*n, one, many)).collect();
    line("trouble", if bad.is_empty() { "none".into() } else { bad.join(", ") });
    if let Some(process) = &report.process {
        line("process", process_line(process, report.uptime));
    }
    if let Some(certificate) = &report.certificate {
        let path = escape(&certificate.path.display().to_string());
        line("certificate", format!("{path}, until {}", time(certificate.expires)));
    }
    line(
        "warnings",
        if report.warnings.is_empty() { "none".into() } else { format!("the last {}", report.warnings.len()) },
    );
    for notice in &report.warnings {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time of today")]
        let at = time(notice.time as u64);
        line("", format!("{at} {}: {}", escape(&notice.level), escape(&notice.text)));
    }
    out
}

/// Describes what the process takes from the machine. `uptime` is in seconds.
fn process_line(process: &Process, uptime: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "the seconds of years need fewer than 52 bits")]
    let share = 100.0 * process.cpu_seconds / uptime.max(1) as f64;
    format!(
        "{}, {share:.1} % of a core since the start, {} of {} descriptors",
        bytes(process.resident_memory_bytes),
        process.open_fds,
        process.max_fds
    )
}

/// Describes the way of a node to its stream.
fn cluster_line(cluster: &Cluster) -> String {
    let waiting = format!("{} of {} wait", bytes(cluster.buffer_bytes as u64), bytes(cluster.buffer_max as u64));
    match (&cluster.server, &cluster.reason) {
        (Some(server), None) => format!(
            "Redis {} ({}), read up to {}; {} in {}; {waiting}",
            escape(server),
            escape(cluster.role.as_deref().unwrap_or("?")),
            escape(&cluster.position),
            count(cluster.stream_entries, "entry", "entries"),
            bytes(cluster.stream_bytes)
        ),
        (Some(server), Some(reason)) => format!("Redis {}: {}; {waiting}", escape(server), escape(reason)),
        (None, reason) => {
            format!("no Redis: {}; {waiting}", escape(reason.as_deref().unwrap_or("not connected yet")))
        }
    }
}

/// Describes the entries that a node has not read, and the batches that it keeps.
fn cluster_lag(cluster: &Cluster) -> String {
    let entries = match cluster.lag_entries {
        Some(entries) => format!("{} and ", count(entries, "entry", "entries")),
        None => String::new(),
    };
    let kept = count(cluster.kept_batches as u64, "batch", "batches");
    format!("{entries}{:.1} s behind; {kept} kept", cluster.lag_seconds)
}

/// Describes what has happened to the stream since the start.
fn cluster_counts(cluster: &Cluster) -> String {
    let counts = [
        (cluster.reconnects, "reconnect", "reconnects"),
        (cluster.failovers, "failover", "failovers"),
        (cluster.gaps, "gap", "gaps"),
        (cluster.epochs, "new stream", "new streams"),
        (cluster.reappended, "batch put back", "batches put back"),
        (cluster.repeated, "batch sent again", "batches sent again"),
        (cluster.trimmed_by_bound, "entry trimmed by the bound", "entries trimmed by the bound"),
    ];
    counts.map(|(n, one, many)| count(n, one, many)).join(", ")
}

fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    time.map_or_else(|| "?".into(), |time| time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string())
}

/// Formats a duration by its two largest units.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return count(bytes, "byte", "bytes");
    }
    let unit = (bytes.ilog2() as usize / 10).min(units.len());
    let tenths = (u128::from(bytes) * 10) >> (10 * unit);
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_a_core_is_that_of_all_the_time_since_the_start() {
        let process = Process {
            resident_memory_bytes: 25_500_000,
            virtual_memory_bytes: 1 << 30,
            cpu_seconds: 0.9,
            open_fds: 61,
            max_fds: 131_072,
        };
        let line = "24.3 MiB, 0.4 % of a core since the start, 61 of 131072 descriptors";
        assert_eq!(process_line(&process, 225), line);
        assert!(process_line(&process, 0).contains(" 90.0 % of a core"), "within the first second");
    }

    #[test]
    fn a_node_shows_its_lag_and_all_its_counts() {
        let mut cluster = Cluster {
            server: Some("192.0.2.1:6379".into()),
            role: Some("primary".into()),
            connected: true,
            caught_up: true,
            reason: None,
            position: "1700000000123-4".into(),
            last: "1700000000123-7".into(),
            lag_seconds: 0.44,
            lag_entries: Some(3),
            buffer_bytes: 0,
            buffer_max: 64 << 20,
            kept_batches: 1,
            stream_entries: 1,
            stream_bytes: 1536,
            reconnects: 1,
            failovers: 2,
            gaps: 3,
            epochs: 4,
            reappended: 5,
            repeated: 6,
            trimmed_by_bound: 7,
        };
        let line =
            "Redis 192.0.2.1:6379 (primary), read up to 1700000000123-4; 1 entry in 1.5 KiB; 0 bytes of 64.0 MiB wait";
        assert_eq!(cluster_line(&cluster), line);
        assert_eq!(cluster_lag(&cluster), "3 entries and 0.4 s behind; 1 batch kept");
        let counts = "1 reconnect, 2 failovers, 3 gaps, 4 new streams, 5 batches put back, 6 batches sent again, \
                      7 entries trimmed by the bound";
        assert_eq!(cluster_counts(&cluster), counts);
        (cluster.reason, cluster.lag_entries) = (Some("why".into()), None);
        assert_eq!(cluster_line(&cluster), "Redis 192.0.2.1:6379: why; 0 bytes of 64.0 MiB wait");
        assert_eq!(cluster_lag(&cluster), "0.4 s behind; 1 batch kept");
        (cluster.server, cluster.role) = (None, None);
        assert_eq!(cluster_line(&cluster), "no Redis: why; 0 bytes of 64.0 MiB wait");
    }

    #[test]
    fn times_and_sizes_are_written_for_people() {
        let lengths = [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3_600, "1 h 0 min"), (90_000, "1 d 1 h")];
        assert!(lengths.iter().all(|(seconds, text)| duration(*seconds) == *text));
        let sizes = [
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ];
        for (count, text) in sizes {
            assert_eq!(bytes(count), text);
        }
    }
}
