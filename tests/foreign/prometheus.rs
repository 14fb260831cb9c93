//! The metrics in a real Prometheus, set up by the examples in the packages. `tests/run` installs what this needs.

use crate::common;

use std::collections::BTreeSet;
use std::fs::{OpenOptions, read_to_string, write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::panicking;
use std::time::Duration;

use common::exposition::Metrics;
use common::http::{STATUS, ask, get, metrics, report, status};
use common::{Broker, Monitor, Redis, Viewer, kill, open_directory, open_up, run_within, run_words, until};
use serde_json::Value;
use std::net::SocketAddr;
use tempfile::TempDir;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/usr/share/doc/recodex-monitor/examples").join(name)
}

/// The time for promtool: the tests of the alerts take 5 s of a processor, and more than 20 s where other tests run beside them.
const PROMTOOL: Duration = Duration::from_secs(180);

/// Runs promtool, and asserts that it finds no mistake.
fn promtool(arguments: &[&str], input: Option<&str>) {
    let input = input.map(|text| common::temporary("input", text));
    let mut words = vec!["sh", "-c", "exec promtool \"$@\" < \"$0\""];
    words.push(input.as_ref().map_or("/dev/null", |(_, path)| path.to_str().expect("UTF-8")));
    let output = run_within(PROMTOOL, &[&words[..], arguments].concat());
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}:\n{}", String::from_utf8_lossy(&said));
    eprintln!("{}", String::from_utf8_lossy(&said));
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    let monitor = Monitor::start(STATUS);
    let at = status(&monitor);
    promtool(&["check", "metrics"], Some(&get(at, "/metrics").body));
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    broker.task("job", "compile");
    viewer.text();
    promtool(&["check", "metrics"], Some(&get(at, "/metrics").body));
}

#[test]
fn promtool_finds_nothing_wrong_with_the_examples_and_the_tests_of_the_alerts_pass() {
    promtool(&["check", "rules", example("prometheus-alerts.yml").to_str().expect("UTF-8")], None);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/alerts.yml");
    promtool(&["test", "rules", tests.to_str().expect("UTF-8")], None);
    let directory = config("127.0.0.1:4568");
    let path = directory.path().join("prometheus.yml");
    promtool(&["check", "config", path.to_str().expect("UTF-8")], None);
}

/// A monitor that has every metric there is, and what it needs.
fn complete() -> (Monitor, TempDir, Redis) {
    let directory = open_directory();
    let path = |name| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let (key, certificate) = (path("key.pem"), path("certificate.pem"));
    let made = run_words(&[
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=test",
        "-days",
        "90",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    open_up(Path::new(&key));
    let redis = Redis::start(&[]);
    let cluster = format!("cluster: {{redis: [\"{}\"]}}\n", redis.address());
    let monitor = Monitor::start(&format!("{STATUS}tls: {{certificate: {certificate}, key: {key}}}\n{cluster}"));
    // The position is known once something was read.
    Broker::connect(monitor.brokers).task("job", "1");
    until("an entry was read", || (report(&monitor)["cluster"]["position"] != "0-0").then_some(()));
    (monitor, directory, redis)
}

/// A metric, and labels with the values of which each must be there.
type Selector = (String, Vec<(String, Vec<String>)>);

/// Returns each selector of the monitor's metrics in an expression.
fn selectors(expression: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = ["recodex_monitor_", "process_"].iter().filter_map(|prefix| rest.find(prefix)).min() {
        rest = &rest[at..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let (name, tail) = rest.split_at(end);
        let braces = tail.strip_prefix('{').and_then(|tail| tail.split_once('}')).map_or("", |(inside, _)| inside);
        let wanted = braces.split(',').filter_map(|part| {
            let (label, values) = part.trim().split_once('=')?;
            let values = values.trim_start_matches('~').trim_matches('"').split('|').map(str::to_owned).collect();
            // Those that a Prometheus adds, and a dashboard's variables.
            (!["instance", "job"].contains(&label)).then(|| (label.to_owned(), values))
        });
        found.push((name.to_owned(), wanted.collect()));
        rest = tail;
    }
    found
}

/// Asserts that all metrics in these expressions exist.
fn are_there(metrics: &Metrics, source: &str, expressions: &[String]) {
    let samples: Vec<_> = metrics.families().values().flat_map(|family| &family.samples).collect();
    let mut count = 0;
    for expression in expressions {
        for (name, labels) in selectors(expression) {
            assert!(samples.iter().any(|(found, ..)| *found == name), "{source}: there is no {name}: {expression}");
            for (label, values) in labels {
                for value in values {
                    let has = |(found, labels, _): &&(String, _, f64)| {
                        let labels: &common::exposition::Labels = labels;
                        *found == name && labels.get(&label) == Some(&value)
                    };
                    assert!(
                        samples.iter().copied().any(|sample| has(&sample)),
                        "{source}: no {name}{{{label}={value:?}}}"
                    );
                }
            }
            count += 1;
        }
    }
    assert!(count > 10, "{source}: only {count} selectors are found");
}

/// The text of everything under these keys.
fn texts(value: &Value, keys: &[&str], into: &mut Vec<String>) {
    match value {
        Value::Array(all) => all.iter().for_each(|value| texts(value, keys, into)),
        Value::Object(all) => {
            for (key, value) in all {
                match value {
                    Value::String(text) if keys.contains(&key.as_str()) => into.push(text.clone()),
                    value => texts(value, keys, into),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn every_metric_and_label_that_alerts_and_dashboard_name_is_there() {
    let (monitor, _directory, _redis) = complete();
    let metrics = metrics(status(&monitor));
    let load = |path: &Path, keys: &[&str]| {
        let text = read_to_string(path).expect("it is there");
        let value: Value = if path.extension().is_some_and(|kind| kind == "json") {
            serde_json::from_str(&text).expect("JSON")
        } else {
            serde_yaml::from_str(&text).expect("YAML")
        };
        let mut found = Vec::new();
        texts(&value, keys, &mut found);
        found
    };
    let alerts = load(&example("prometheus-alerts.yml"), &["expr"]);
    are_there(&metrics, "prometheus-alerts.yml", &alerts);
    let dashboard = load(&example("grafana-dashboard.json"), &["expr", "query", "definition"]);
    are_there(&metrics, "grafana-dashboard.json", &dashboard);
    // What the alerts are tested with must be as it is, too.
    let tests = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/alerts.yml"), &["series"]);
    are_there(&metrics, "alerts.yml", &tests);

    // And the other way: nothing is counted that no panel shows.
    let shown: BTreeSet<_> = dashboard.iter().flat_map(|text| selectors(text)).map(|(name, _)| name).collect();
    for name in metrics.families().keys().filter(|name| *name != OLD_NAME) {
        assert!(shown.iter().any(|shown| shown.starts_with(name.as_str())), "no panel shows {name}");
    }
}

/// A metric that is there under a newer name, which the panel has.
const OLD_NAME: &str = "recodex_monitor_config_reload_success";

/// The example configuration with the alerts beside it, for a monitor whose status listener is at `target`.
fn config(target: &str) -> TempDir {
    let directory = open_directory();
    let path = |name| directory.path().join(name);
    let text = read_to_string(example("prometheus.yml")).expect("it is there");
    for (what, count) in [("targets: [\"127.0.0.1:4568\"]", 1), ("scrape_interval: 15s", 1)] {
        assert_eq!(text.matches(what).count(), count, "{what}");
    }
    let text = text
        .replace("targets: [\"127.0.0.1:4568\"]", &format!("targets: [\"{target}\"]"))
        .replace("scrape_interval: 15s", "scrape_interval: 1s");
    write(path("prometheus.yml"), format!("global: {{evaluation_interval: 1s}}\n{text}")).unwrap();
    std::fs::copy(example("prometheus-alerts.yml"), path("recodex-monitor-alerts.yml")).unwrap();
    directory
}

/// A Prometheus that scrapes one monitor every second.
struct Prometheus {
    process: Child,
    directory: TempDir,
    address: SocketAddr,
}

impl Prometheus {
    fn start(monitor: &Monitor) -> Self {
        let directory = config(&status(monitor).to_string());
        let log = directory.path().join("log");
        open_up(directory.path());
        let script = "cd \"$0\" && exec setpriv --pdeathsig TERM prometheus --config.file=prometheus.yml \
                      --storage.tsdb.path=data --web.listen-address=127.0.0.1:0";
        let process = Command::new("sh")
            .args(["-c", script])
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(OpenOptions::new().create(true).append(true).open(log).unwrap())
            .spawn()
            .unwrap();
        let mut prometheus = Self { process, directory, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        prometheus.address = until("Prometheus is ready", || {
            assert_eq!(prometheus.process.try_wait().unwrap(), None, "Prometheus has ended");
            let log = prometheus.log();
            let line = log.lines().find(|line| line.contains("Listening on"))?;
            let address = line.split_once("address=")?.1.split_whitespace().next()?.parse().ok()?;
            log.contains("Server is ready to receive web requests").then_some(address)
        });
        prometheus
    }

    fn log(&self) -> String {
        read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Returns the answer of its HTTP interface.
    fn api(&self, path: &str) -> Value {
        let answer = ask(self.address, "GET", path, "Connection: close\r\n");
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
        answer["data"].clone()
    }

    /// Returns the value of a metric, if there is exactly one.
    fn value(&self, series: &str) -> Option<f64> {
        let data = self.api(&format!("/api/v1/query?query={series}"));
        let result = data["result"].as_array().expect("a list");
        assert!(result.len() < 2, "{series}: {result:?}");
        result.first()?["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            kill(self.process.id(), "TERM");
            let _ = self.process.wait();
        }
        if panicking() {
            eprintln!("the log of Prometheus:\n{}", self.log());
        }
    }
}

#[test]
fn prometheus_scrapes_the_monitor_and_takes_the_alerts() {
    const MESSAGES: u32 = 12;
    let mut monitor = Monitor::start(STATUS);
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    for id in 0..MESSAGES {
        broker.task("job", &id.to_string());
        viewer.text();
    }
    let prometheus = Prometheus::start(&monitor);
    let becomes = |series: &str, value: f64| {
        until(series, || prometheus.value(series).filter(|found| (found - value).abs() < 1e-9));
    };
    becomes("up", 1.0);
    becomes("recodex_monitor_received_messages_total", MESSAGES.into());
    becomes("recodex_monitor_ready", 1.0);
    becomes("recodex_monitor_delivery_lag_seconds_bucket{le=%22%2BInf%22}", MESSAGES.into());
    let targets = prometheus.api("/api/v1/targets");
    let target = &targets["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&"up".into(), &"".into()), "{target}");
    let metadata = prometheus.api("/api/v1/metadata?metric=recodex_monitor_received_messages_total");
    let metadata = [metadata, prometheus.api("/api/v1/metadata?metric=recodex_monitor_received_messages")];
    assert!(metadata.iter().any(|metadata| metadata.to_string().contains("\"type\":\"counter\"")), "{metadata:?}");

    // Every rule is evaluated without an error, and none of them fires of a monitor that is well.
    until("every rule is evaluated", || {
        let rules = prometheus.api("/api/v1/rules");
        let rules = rules["groups"][0]["rules"].as_array().expect("rules").clone();
        assert!(rules.len() > 10, "{rules:?}");
        assert!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:?}");
        assert!(rules.iter().all(|rule| rule["state"] != "firing"), "{rules:?}");
        rules.iter().all(|rule| rule["health"] == "ok").then_some(())
    });

    monitor.stop();
    becomes("up", 0.0);
    until("an alert is due", || {
        prometheus.api("/api/v1/alerts").to_string().contains("RecodexMonitorDown").then_some(())
    });
}
