//! The process's share of the machine, by its own metrics and as the system sees it from outside.

use super::{json_of, metrics_when, start};
use crate::common::exposition::Metrics;
use crate::common::http::{get, metrics, status};
use crate::common::{Broker, Monitor, Viewer};
use nix::unistd::{SysconfVar, sysconf};
use std::fs::{read_dir, read_to_string};
use std::time::{SystemTime, UNIX_EPOCH};

/// The text of a file about the monitor's process.
fn proc(monitor: &Monitor, file: &str) -> String {
    read_to_string(format!("/proc/{}/{file}", monitor.pid())).expect("the process is there")
}

/// A field of `/proc/PID/stat`, by its number in `proc_pid_stat(5)`.
fn stat(monitor: &Monitor, field: usize) -> f64 {
    let stat = proc(monitor, "stat");
    let fields = stat.rsplit_once(')').expect("a name").1;
    fields.split_whitespace().nth(field - 3).expect("a field").parse().expect("a number")
}

fn system(name: SysconfVar) -> f64 {
    let value = sysconf(name).expect("Linux knows it").expect("a number");
    i32::try_from(value).expect("a small number").into()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

#[test]
fn the_process_is_measured_as_the_system_sees_it() {
    let tick = 1.0 / system(SysconfVar::CLK_TCK);
    let before = now();
    let monitor = start("");
    let ready = now();
    let at = status(&monitor);
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    // Until the process has computed for some ticks.
    while stat(&monitor, 14) + stat(&monitor, 15) < 5.0 {
        broker.task("job", "compile");
        viewer.text();
    }
    let cpu = || (stat(&monitor, 14) + stat(&monitor, 15)) * tick;
    let (cpu_before, measured, cpu_after) = (cpu(), metrics(at), cpu());

    let started = measured.value("process_start_time_seconds");
    assert!(started > before - 2.0 * tick && started < ready, "{before} {started} {ready}");
    // Both of the system's numbers are cut to whole ticks.
    let cpu = measured.value("process_cpu_seconds_total");
    assert!(cpu > cpu_before - tick && cpu < cpu_after + 3.0 * tick, "{cpu_before} {cpu} {cpu_after}");
    let pages = proc(&monitor, "statm");
    let pages: Vec<f64> = pages.split_whitespace().map(|pages| pages.parse().expect("a number")).collect();
    for (name, pages) in [("virtual", pages[0]), ("resident", pages[1])] {
        let bytes = measured.value(&format!("process_{name}_memory_bytes"));
        assert!((bytes / system(SysconfVar::PAGE_SIZE) / pages - 1.0).abs() < 0.2, "{name}: {bytes} of {pages} pages");
    }
    let limits = proc(&monitor, "limits");
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
    let limit = limit.split_whitespace().next().expect("the soft limit");
    assert_eq!(measured.count("process_max_fds").to_string(), limit);
}

#[test]
fn each_connection_is_an_open_descriptor() {
    const VIEWERS: u64 = 50;
    let monitor = start("");
    // One is the connection that asks.
    let outside = || {
        let entries = read_dir(format!("/proc/{}/fd", monitor.pid())).map(Iterator::count);
        entries.map(|count| count as u64 + 1)
    };
    let open = |metrics: &Metrics| metrics.count("process_open_fds");
    // Where the system does not tell the number, a count holds for ten seconds.
    let before = metrics_when(&monitor, "those of the start are closed", |metrics| {
        outside().map_or(true, |outside| open(metrics) == outside)
    });
    let viewers: Vec<_> = (0..VIEWERS).map(|_| Viewer::subscribed(monitor.viewers, "job")).collect();
    metrics_when(&monitor, "each is counted", |metrics| open(metrics) == open(&before) + VIEWERS);
    drop(viewers);
    metrics_when(&monitor, "all have left", |metrics| open(metrics) == open(&before));
}

#[test]
fn the_report_has_the_same_numbers_as_the_metrics() {
    let monitor = start("");
    let at = status(&monitor);
    let (measured, report) = (metrics(at), json_of(&get(at, "/status")));
    let process = report["process"].as_object().expect("an object");
    for (name, value) in process {
        let value = value.as_f64().expect("a number");
        let metric = measured.value(&match name.as_str() {
            "cpu_seconds" => "process_cpu_seconds_total".into(),
            name => format!("process_{name}"),
        });
        // The report came a moment after the metrics.
        assert!((value - metric).abs() <= metric / 2.0 + 0.1, "{name}: {value}, {metric}");
    }
    assert_eq!(process.len(), 5, "all are compared: {process:?}");
}
