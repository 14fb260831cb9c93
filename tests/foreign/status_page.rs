//! The status page in Chromium. `tests/run` installs what it needs; Pictures of it are in `target/screenshots/`.

mod accessibility;
mod jobs;

use crate::common;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::browser::Chromium;
use common::http::{STATUS, status};
use common::{Broker, DEADLINE, Monitor, Redis, Viewer};
use serde_json::{Value, json};

/// A script that notes errors and forbidden actions of the page, from before its first script.
const WATCH_FOR_TROUBLE: &str = "
    window.trouble = [];
    addEventListener('error', event => trouble.push(`error: ${event.message}`), true);
    addEventListener('unhandledrejection', event => trouble.push(`rejected: ${event.reason}`));
    addEventListener('securitypolicyviolation', event => trouble.push(`policy: ${event.violatedDirective} ${event.blockedURI}`));
";

/// Text that would run if the page used it as HTML.
const HTML: &str = "<img src=x onerror=\"trouble.push('run')\"><b id=bold>b</b>";

struct Page {
    chromium: Chromium,
    monitor: String,
}

impl Page {
    async fn open(monitor: &Monitor) -> Self {
        Self::open_at(status(monitor)).await
    }

    async fn open_at(address: SocketAddr) -> Self {
        let chromium = Chromium::start().await;
        chromium.devtools("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": WATCH_FOR_TROUBLE })).await;
        let page = Self { chromium, monitor: format!("http://{address}/") };
        page.chromium.client.set_window_size(1280, 1700).await.unwrap();
        page.chromium.client.goto(&page.monitor).await.unwrap();
        page
    }

    /// Returns the result of a script.
    async fn get(&self, script: &str) -> Value {
        self.chromium.client.execute(script, Vec::new()).await.unwrap()
    }

    /// The text of the element with this id.
    async fn text(&self, id: &str) -> String {
        let text = self.get(&format!("return document.getElementById('{id}').textContent.trim()")).await;
        text.as_str().expect("a text").to_owned()
    }

    /// Waits until the text of an element is as wanted.
    async fn until(&self, id: &str, wanted: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let text = self.text(id).await;
            if wanted(&text) {
                return text;
            }
            assert!(began.elapsed() < DEADLINE, "#{id} stays at {text:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn shows(&self, id: &str, text: &str) {
        self.until(id, |shown| shown == text).await;
    }

    /// The texts of a list's items.
    async fn list(&self, id: &str) -> Vec<String> {
        let script = format!("return [...document.querySelectorAll('#{id} > li')].map(li => li.textContent)");
        serde_json::from_value(self.get(&script).await).expect("a list of texts")
    }

    /// Waits until so many messages of the job are listed: they are drawn after they have come.
    async fn lists(&self, count: usize) {
        let began = Instant::now();
        while self.list("watch-log").await.len() != count {
            assert!(began.elapsed() < DEADLINE, "not {count} messages: {:?}", self.list("watch-log").await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn state(&self) -> Value {
        self.get("return document.body.dataset.state").await
    }

    async fn watch(&self, channel: &str) {
        let script = "
            document.getElementById('watch-channel').value = arguments[0];
            document.getElementById('watch-channel').dispatchEvent(new Event('input'));
            document.getElementById('watch-button').click();";
        self.chromium.client.execute(script, vec![channel.into()]).await.unwrap();
    }

    async fn screenshot(&self, name: &str) {
        let directory: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(name).with_extension("png"), self.chromium.client.screenshot().await.unwrap())
            .unwrap();
    }

    async fn prefers(&self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.chromium.devtools("Emulation.setEmulatedMedia", &features).await;
    }

    /// Asserts that the page sent requests only to its monitor, and had no error.
    async fn is_clean(&self) {
        assert_eq!(self.get("return window.trouble").await, json!([]));
        let console = self.chromium.log("browser").await;
        assert_eq!(console, Vec::<Value>::new());
        let mut requests = 0;
        for entry in self.chromium.log("performance").await {
            let message: Value = serde_json::from_str(entry["message"].as_str().expect("a text")).expect("JSON");
            let message = &message["message"];
            if message["method"] == "Network.requestWillBeSent" {
                let url = message["params"]["request"]["url"].as_str().expect("a URL");
                // What the browser shows before the first page is its own.
                if url.starts_with("data:") || url.starts_with("chrome") || url.starts_with("about:") {
                    continue;
                }
                assert!(url.starts_with(&self.monitor), "{url}");
                requests += 1;
            }
        }
        assert!(requests >= 2, "the page and its events are seen at least, not {requests}");
    }
}

#[tokio::test]
async fn the_page_goes_from_not_ready_to_ready_and_its_figures_follow() {
    let monitor = Monitor::start(&format!("{STATUS}clients: {{max: 1234}}\n"));
    let page = Page::open(&monitor).await;
    page.shows("state", "Not ready").await;
    assert_eq!(page.state().await, "not-ready");
    page.until("reason", |reason| reason.contains("no broker is connected")).await;
    page.shows("connection", "live").await;
    page.shows("viewers", "0 of 1,234").await;
    assert_eq!(page.list("brokers").await, ["none"]);
    // No warning takes no room.
    let hidden = |id| format!("return document.getElementById('{id}').hidden");
    assert_eq!(page.get(&hidden("warnings-card")).await, true);
    assert_eq!(page.get(&hidden("no-warnings")).await, false);
    page.shows("lag-count", "nothing sent live in the last minute").await;
    assert!(page.get("return document.title").await.as_str().is_some_and(|title| title.starts_with("Not ready")));
    page.screenshot("not-ready").await;

    let broker = Broker::connect(monitor.brokers);
    page.shows("state", "Ready").await;
    assert_eq!((page.state().await, page.text("reason").await), (json!("ready"), String::new()));
    page.until("brokers", |brokers| brokers.starts_with("127.0.0.1:")).await;

    let mut viewers: Vec<_> = (0..3).map(|_| Viewer::subscribed(monitor.viewers, "job")).collect();
    for id in 0..7 {
        broker.task("job", &id.to_string());
        for viewer in &mut viewers {
            viewer.text();
        }
    }
    page.shows("viewers", "3 of 1,234").await;
    page.shows("channels-open", "1").await;
    let total = |name| format!("return document.querySelector('[data-total={name}]').textContent");
    for (name, count) in [("messages_received", "7"), ("messages_sent", "21"), ("viewers_subscribed", "3")] {
        assert_eq!(page.get(&total(name)).await, count, "{name}");
    }
    page.until("lag-p99", |lag| lag.starts_with("≤ ") && lag.ends_with('s')).await;
    page.shows("viewers-share", "0.2 % used").await;
    page.until("cpu", |cpu| cpu.ends_with(" %")).await;
    page.until("memory", |memory| memory.ends_with(" MiB")).await;
    page.until("version", |version| version == env!("CARGO_PKG_VERSION")).await;
    // The plots have drawn something.
    for plot in ["received", "sent", "viewers", "cpu"] {
        let line = page.get(&format!("return document.querySelector('#plot-{plot} .line').getAttribute('d')")).await;
        assert!(line.as_str().is_some_and(|path| path.starts_with('M')), "{plot}: {line}");
    }
    let settings = page.text("settings").await;
    let settings: serde_yaml::Value = serde_yaml::from_str(&settings).expect("the settings are YAML");
    assert_eq!(settings["clients"]["max"], 1234);

    page.get("document.querySelector('section details:has(#settings)').open = true").await;
    let mut backgrounds = Vec::new();
    for scheme in ["light", "dark"] {
        page.prefers(scheme).await;
        backgrounds.push(page.get("return getComputedStyle(document.documentElement).backgroundColor").await);
        page.screenshot(&format!("ready-{scheme}")).await;
    }
    assert_ne!(backgrounds[0], backgrounds[1]);
    drop(viewers);
    page.shows("viewers", "0 of 1,234").await;
    page.is_clean().await;
    page.chromium.leave().await;
}

/// Without `cluster` there is no tile of it.
#[tokio::test]
async fn a_node_of_a_cluster_shows_its_way_to_redis() {
    let mut redis = Redis::start(&[]);
    let address = redis.address();
    let alone = Monitor::start(STATUS);
    let monitor = Monitor::start(&format!("{STATUS}cluster: {{redis: [\"{address}\"]}}\n"));
    let broker = Broker::connect(monitor.brokers);
    broker.task("job", "1");
    Viewer::watch(monitor.viewers, "job").text();
    let page = Page::open(&monitor).await;
    let hidden = "return document.getElementById('cluster-tile').hidden";
    page.until("cluster", |text| text.contains("1 entries, ")).await;
    assert_eq!(page.get(hidden).await, false);
    let lines = "return [...document.querySelectorAll('#cluster p')].map(line => line.textContent)";
    let lines: Vec<String> = serde_json::from_value(page.get(lines).await).expect("a list of texts");
    let position = common::http::report(&monitor)["cluster"]["position"].as_str().expect("an id").to_owned();
    assert_eq!(lines[..4], ["up to date", &format!("{address} (primary)"), "", "0 entries and 0.0 s behind"]);
    assert!(
        lines[4].starts_with("1 entries, ") && lines[4].ends_with(&format!(", read up to {position}")),
        "{lines:?}"
    );
    assert!(lines[5].starts_with("0 B of 64 MiB wait for Redis, "), "{lines:?}");
    let counts = "0 reconnects, 0 failovers, 0 gaps, 0 new streams, 0 batches put back, 0 sent again, 0 entries trimmed by the bound";
    assert_eq!(lines[6..], [counts]);
    page.screenshot("cluster").await;

    redis.kill();
    page.until("cluster", |text| text.starts_with("no Redis")).await;
    let class = page.get("return document.getElementById('cluster-tile').className").await;
    assert!(class.as_str().is_some_and(|class| class.contains("tint bad")), "{class}");
    // How many entries there are meanwhile cannot be known.
    page.until("cluster", |text| text.contains(" s behind") && !text.contains(" entries and ")).await;
    page.is_clean().await;
    page.chromium.leave().await;

    let page = Page::open(&alone).await;
    page.shows("connection", "live").await;
    page.until("viewers", |viewers| viewers.starts_with("0 of ")).await;
    assert_eq!(page.get(hidden).await, true);
    page.chromium.leave().await;
}

#[tokio::test]
async fn text_from_elsewhere_stays_text() {
    let monitor = Monitor::start(&format!("{STATUS}allowed_origins: [\"https://recodex.example.org\"]\n"));
    let broker = Broker::connect(monitor.brokers);
    let page = Page::open(&monitor).await;
    page.shows("state", "Ready").await;
    let answer = Viewer::connected(monitor.viewers).refused(&[("Origin", HTML)]);
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    page.until("warnings", |warnings| warnings.contains(HTML)).await;
    assert_eq!(page.get("return document.getElementById('warnings-card').hidden").await, false);
    assert_eq!(page.get("return document.getElementById('no-warnings').hidden").await, true);

    let channel = format!("job {HTML} & more");
    page.watch(&channel).await;
    page.shows("watch-end", "watching; no message yet").await;
    broker.task(&channel, HTML);
    broker.send(&[channel.as_str(), HTML]);
    page.shows("watch-phase", HTML).await;
    page.lists(2).await;
    let log = page.list("watch-log").await;
    assert!(log.iter().all(|line| line.contains(HTML)), "{log:?}");
    page.screenshot("hostile").await;
    assert_eq!(page.get("return document.querySelectorAll('#bold, img').length").await, 0);
    page.is_clean().await;
    page.chromium.leave().await;
}

#[tokio::test]
async fn one_job_is_watched_to_its_end() {
    let monitor = Monitor::start(STATUS);
    let broker = Broker::connect(monitor.brokers);
    let page = Page::open(&monitor).await;
    page.shows("state", "Ready").await;
    // An id that is none is not asked for.
    page.watch("").await;
    page.until("watch-error", |text| text.contains("channel id")).await;
    page.watch(&"ú".repeat(129)).await;
    page.until("watch-error", |text| text.contains("258")).await;

    broker.send(&["job", "STARTED"]);
    page.watch("job").await;
    page.shows("watch-button", "Stop").await;
    page.shows("watch-phase", "STARTED").await;
    for (id, state) in [("a", "COMPLETED"), ("b", "COMPLETED"), ("c", "FAILED"), ("d", "SKIPPED"), ("e", "COMPLETED")] {
        broker.send(&["job", "TASK", id, state]);
    }
    for (id, count) in [("completed", "3"), ("failed", "1"), ("skipped", "1")] {
        page.shows(&format!("watch-{id}"), count).await;
    }
    assert_eq!(page.text("watch-end").await, "watching");
    for command in ["ENDED", "UPLOADED", "FINISHED"] {
        broker.send(&["job", command]);
    }
    page.shows("watch-end", "FINISHED; closed with 1000").await;
    page.shows("watch-phase", "FINISHED").await;
    page.shows("watch-button", "Watch").await;
    page.lists(9).await;
    page.screenshot("watched").await;
    // The stream has ended for good: no new connection is made, which would begin the job anew.
    tokio::time::sleep(common::A_WHILE).await;
    assert_eq!((page.list("watch-log").await.len(), page.text("watch-failed").await.as_str()), (9, "1"));

    // One that failed, and the first again.
    broker.send(&["failed", "STARTED"]);
    broker.send(&["failed", "FAILED"]);
    broker.send(&["failed", "FINISHED"]);
    page.watch("failed").await;
    page.shows("watch-end", "FAILED, then FINISHED; closed with 1000").await;
    page.lists(3).await;
    page.shows("watch-completed", "0").await;
    page.watch("job").await;
    page.shows("watch-end", "FINISHED; closed with 1000").await;
    page.lists(9).await;
    page.shows("watch-completed", "3").await;
    page.is_clean().await;
    page.chromium.leave().await;
}

#[tokio::test]
async fn the_end_of_the_monitor_shows_and_the_page_comes_back_with_the_next_one() {
    let mut monitor = Monitor::start(STATUS);
    let broker = Broker::connect(monitor.brokers);
    let at = status(&monitor);
    let page = Page::open(&monitor).await;
    page.shows("state", "Ready").await;
    broker.send(&["job", "STARTED"]);
    page.watch("job").await;
    page.shows("watch-phase", "STARTED").await;
    page.is_clean().await;

    monitor.stop();
    page.shows("state", "Connection lost").await;
    assert_eq!(page.state().await, "lost");
    page.until("connection", |text| text.starts_with("reconnecting; figures as of ")).await;
    page.shows("watch-end", "no FINISHED; closed with 1001 (the monitor stops)").await;
    page.screenshot("lost").await;

    let next = Monitor::start(&format!("status_uri: [\"127.0.0.1\", {}]\nclients: {{max: 55}}\n", at.port()));
    page.shows("state", "Not ready").await;
    page.shows("connection", "live").await;
    page.shows("viewers", "0 of 55").await;
    page.until("settings", |settings| settings.contains("max: 55")).await;
    let _broker = Broker::connect(next.brokers);
    page.shows("state", "Ready").await;
    // That the monitor could not be reached is all that the console has.
    for entry in page.chromium.log("browser").await {
        assert_eq!(entry["source"], "network", "{entry}");
    }
    assert_eq!(page.get("return window.trouble").await, json!([]));
    page.chromium.leave().await;
}
