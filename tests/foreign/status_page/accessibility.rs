//! The page for everybody: axe-core has no finding, the keyboard reaches everything, and a zoom of 400 % loses nothing.

use super::Page;
use super::jobs::{ID, open_forwarded};
use crate::common::{Broker, DEADLINE, Monitor, Viewer};
use fantoccini::wd::TimeoutConfiguration;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The controls that are shown. The keyboard must reach all of them.
const CONTROLS: &str =
    "const controls = [...document.querySelectorAll('a[href], button, input, summary, [tabindex=\"0\"]')]
    .filter(element => element.checkVisibility());";

/// A broker that does not stop sending, and two viewers of its job, until it is dropped.
struct Traffic {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
    _viewers: [Viewer; 2],
}

impl Traffic {
    fn start(monitor: &Monitor) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (brokers, flag) = (monitor.brokers, Arc::clone(&stop));
        let viewers = [ID, ID].map(|job| Viewer::subscribed(monitor.viewers, job));
        let sender = thread::spawn(move || {
            let broker = Broker::connect(brokers);
            for (job, command) in [("ended", "FINISHED"), ("failed", "FAILED"), ("aborted", "ABORTED"), (ID, "STARTED")]
            {
                broker.send(&[job, command]);
            }
            for (number, state) in ["COMPLETED", "FAILED", "SKIPPED", "COMPLETED"].into_iter().cycle().enumerate() {
                if flag.load(Ordering::Relaxed) {
                    return;
                }
                broker.send(&[ID, "TASK", &format!("task {number}"), state]);
                thread::sleep(Duration::from_millis(200));
            }
        });
        Self { stop, sender: Some(sender), _viewers: viewers }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.sender.take().map(JoinHandle::join);
    }
}

/// The script of axe-core, which a package of Python brings along.
fn axe_core() -> PathBuf {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("venv/lib");
    let pythons = std::fs::read_dir(&library).expect("tests/run makes target/venv").map(|entry| entry.unwrap().path());
    let mut scripts = pythons.map(|python| python.join("site-packages/axe_playwright_python/axe.min.js"));
    scripts.find(|script| script.exists()).expect("tests/run installs axe-playwright-python")
}

impl Page {
    /// Asserts that axe-core has no finding, in light and dark colours.
    async fn is_accessible(&self, state: &str) {
        if self.get("return typeof axe").await == "undefined" {
            self.get(&std::fs::read_to_string(axe_core()).unwrap()).await;
        }
        // Of all rules, only that of contrasts depends on the colours.
        for (scheme, rules, least) in [("light", json!({}), 20), ("dark", json!({ "runOnly": ["color-contrast"] }), 1)]
        {
            self.prefers(scheme).await;
            self.screenshot(&format!("axe-{state}-{scheme}").replace(' ', "-")).await;
            let run = "const [rules, done] = arguments;
                const told = ({id, nodes}) => nodes.map(({target, any, all, none}) =>
                    `${id} ${target}: ${[...any, ...all, ...none].map(({message}) => message).join('; ')}`);
                axe.run(rules).then(result => done({
                    found: [...result.violations, ...result.incomplete.filter(({id}) => id !== 'color-contrast')].flatMap(told), passed: result.passes.length,
                }), error => done({found: [String(error)], passed: 0}));";
            let result = self.chromium.client.execute_async(run, vec![rules]).await.unwrap();
            assert_eq!(result["found"], json!([]), "{state}, {scheme}");
            assert!(result["passed"].as_u64() >= Some(least), "{state}, {scheme}: {result}");
        }
    }

    /// Presses a key, as somebody at a keyboard does.
    async fn press(&self, key: &str) {
        let (code, number, text) = match key {
            "Tab" | "Shift+Tab" => ("Tab", 9, ""),
            "Enter" => ("Enter", 13, "\r"),
            "Space" => ("Space", 32, " "),
            key => panic!("which key is {key}?"),
        };
        let modifiers = if key.starts_with("Shift+") { 8 } else { 0 };
        let name = if text == " " { " " } else { code };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({ "type": kind, "key": name, "code": code, "windowsVirtualKeyCode": number,
                "modifiers": modifiers, "text": text });
            self.chromium.devtools("Input.dispatchKeyEvent", &event).await;
        }
    }

    /// Presses Tab until the script says that the focus is where it should be.
    async fn tab_to(&self, wanted: &str) {
        for _ in 0..100 {
            self.press("Tab").await;
            if self.get(&format!("return Boolean({wanted})")).await == true {
                return;
            }
        }
        panic!("Tab does not lead to {wanted}");
    }

    /// Shows the page in a window of this width in CSS pixels; a zoom makes the window so much narrower.
    async fn zoom_to(&self, width: u32, factor: u32) {
        let metrics = json!({ "width": width, "height": 800, "deviceScaleFactor": factor, "mobile": false });
        self.chromium.devtools("Emulation.setDeviceMetricsOverride", &metrics).await;
    }

    /// A job that is watched, a warning, and everything that can be opened.
    async fn show_all(&self, broker: &Broker) {
        broker.send(&["only"]);
        self.until("warnings", |warnings| warnings.contains("fewer than two frames")).await;
        self.watch(ID).await;
        self.until("watch-completed", |count| count != "0").await;
        self.get("document.querySelectorAll('details').forEach(details => { details.open = true; })").await;
        self.until("settings", |settings| settings.contains("websocket_uri")).await;
        self.get("document.getElementById('watch-raw').click()").await;
    }
}

#[tokio::test]
async fn axe_core_has_no_finding_on_live_data() {
    let (mut monitor, page, _directory) = open_forwarded("").await;
    page.chromium.client.update_timeouts(TimeoutConfiguration::new(Some(DEADLINE), None, None)).await.unwrap();
    page.shows("state", "Not ready").await;
    page.is_accessible("not ready").await;
    let traffic = Traffic::start(&monitor);
    page.shows("state", "Ready").await;
    page.until("jobs", |jobs| jobs.contains("student")).await;
    page.until("lag-p50", |lag| lag.starts_with('≤')).await;
    page.is_accessible("ready").await;
    page.show_all(&Broker::connect(monitor.brokers)).await;
    page.is_accessible("watched").await;
    page.zoom_to(320, 2).await;
    page.is_accessible("narrow").await;
    page.chromium.devtools("Emulation.clearDeviceMetricsOverride", &json!({})).await;
    drop(traffic);
    monitor.stop();
    page.shows("state", "Connection lost").await;
    page.is_accessible("lost").await;
    page.chromium.leave().await;
}

#[tokio::test]
async fn the_keyboard_reaches_every_control_and_its_focus_is_seen() {
    let (monitor, page, _directory) = open_forwarded("").await;
    let traffic = Traffic::start(&monitor);
    page.until("jobs", |jobs| jobs.contains("student")).await;
    page.show_all(&Broker::connect(monitor.brokers)).await;
    // The messages that come do not change what can be reached.
    drop(traffic);
    let count = page.get(&format!("{CONTROLS} return controls.length")).await.as_u64().expect("a number");
    assert!(count > 15, "{count}");
    let script = format!(
        "{CONTROLS}
        const focused = document.activeElement, style = getComputedStyle(focused), box = focused.getBoundingClientRect();
        const seen = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2
            && box.width > 0 && box.bottom > 0 && box.top < innerHeight;
        return [controls.indexOf(focused), seen, focused.outerHTML.slice(0, 100)]"
    );
    for key in ["Tab", "Shift+Tab"] {
        let mut reached = Vec::new();
        // Twice, the focus may be out of the page.
        for _ in 0..count + 2 {
            page.press(key).await;
            let focus = page.get(&script).await;
            let Some(number) = focus[0].as_u64() else { continue };
            assert_eq!(focus[1], true, "the focus is not seen: {focus}");
            reached.push(number);
        }
        reached.sort_unstable();
        reached.dedup();
        assert_eq!(reached, (0..count).collect::<Vec<_>>(), "{key}");
    }
    page.chromium.leave().await;
}

#[tokio::test]
async fn a_job_is_watched_and_left_by_the_keyboard_alone() {
    let (monitor, page, _directory) = open_forwarded("").await;
    let broker = Broker::connect(monitor.brokers);
    broker.send(&[ID, "STARTED"]);
    broker.send(&["other", "STARTED"]);
    page.until("jobs", |jobs| jobs.contains("student") && jobs.contains("other")).await;
    // From the list.
    page.tab_to(&format!("document.activeElement.dataset.channel === '{ID}'")).await;
    page.press("Enter").await;
    page.shows("watch-phase", "STARTED").await;
    page.shows("watch-end", "watching").await;
    page.press("Space").await;
    page.shows("watch-end", "stopped here").await;
    // By its id, which stands in the field now.
    page.tab_to("document.activeElement.id === 'watch-channel'").await;
    page.press("Enter").await;
    page.shows("watch-end", "watching").await;
    page.press("Tab").await;
    page.press("Enter").await;
    page.shows("watch-end", "stopped here").await;
    page.tab_to("document.activeElement.id === 'watch-raw'").await;
    page.press("Space").await;
    assert_eq!(page.get("return document.getElementById('watch-raw').checked").await, true);
    page.press("Tab").await;
    assert_eq!(page.get("return document.activeElement.id").await, "watch-box");
    page.tab_to("document.activeElement.matches('summary:has(#h-settings)')").await;
    page.press("Enter").await;
    assert_eq!(page.get("return document.getElementById('settings').checkVisibility()").await, true);
    page.is_clean().await;
    page.chromium.leave().await;
}

/// WCAG 2.2, criteria 1.4.4 and 1.4.10: a window of 1280 pixels at 200 %, and at 400 %.
#[tokio::test]
async fn at_200_and_400_percent_nothing_is_cut_and_the_page_scrolls_in_one_direction() {
    let (monitor, page, _directory) = open_forwarded("").await;
    let _traffic = Traffic::start(&monitor);
    page.until("jobs", |jobs| jobs.contains("student")).await;
    let broker = Broker::connect(monitor.brokers);
    broker.send(&[ID, "TASK", &"long-".repeat(50), "COMPLETED"]);
    broker.send(&[&"W".repeat(256), "STARTED"]);
    page.show_all(&broker).await;
    let count = format!("{CONTROLS} return controls.length");
    let wide = page.get(&count).await;
    // The table of minutes is one of those that need two dimensions; it scrolls by itself. In a narrow window the head of the list of
    // jobs is only for screen readers.
    let cut = "const found = [];
        if (document.documentElement.scrollWidth > innerWidth) found.push(`the page: ${document.documentElement.scrollWidth}`);
        for (const element of document.body.querySelectorAll('*')) {
            if (!element.checkVisibility() || element.closest('.unseen, #minutes div, #jobs thead, svg, template')) continue;
            const box = element.getBoundingClientRect(), style = getComputedStyle(element);
            const name = `${element.tagName} ${element.id || element.className} ${element.textContent.slice(0, 30)}`;
            if (box.left < -.5 || box.right > innerWidth + .5) found.push(`outside: ${name}`);
            if (style.overflowX !== 'visible' && element.scrollWidth > element.clientWidth && element.tagName !== 'INPUT')
                found.push(`cut: ${name}`);
            if (style.overflowY === 'hidden' && element.scrollHeight > element.clientHeight && element.className !== 'bar')
                found.push(`cut: ${name}`);
        }
        return found";
    for (width, factor) in [(640, 2), (320, 4)] {
        page.zoom_to(width, factor).await;
        page.screenshot(&format!("zoom-{width}")).await;
        assert_eq!(page.get("return innerWidth").await, width);
        assert_eq!(page.get(cut).await, json!([]), "{width}");
        // Every control is there, also the regions that scroll only in a narrow window.
        let narrow = page.get(&count).await;
        assert!(narrow.as_u64() >= wide.as_u64() && narrow != Value::Null, "{narrow} of {wide}");
    }
    page.chromium.leave().await;
}
