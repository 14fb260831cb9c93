//! The list of the last jobs: whose ids it shows, and watching one of them by one click.

use super::{HTML, Page, status};
use crate::common::http::STATUS;
use crate::common::{self, Broker, DEADLINE, Monitor, Viewer};
use serde_json::{Value, json};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

pub(super) const ID: &str = "student_5d1f02aa-7c39-4a2e-9d51-0b6b7c1c2f10";
const NAME: &str = "student_5d1f02aa…";

/// Forwards a free port to a Unix socket, as `ssh -L PORT:SOCKET` does.
fn forward(socket: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for browser in listener.incoming().map_while(Result::ok) {
            let Ok(monitor) = UnixStream::connect(&socket) else { continue };
            let (mut up, mut down) = (browser.try_clone().unwrap(), monitor.try_clone().unwrap());
            let (mut to_monitor, mut to_browser) = (monitor, browser);
            thread::spawn(move || {
                let _ = std::io::copy(&mut up, &mut to_monitor);
                let _ = to_monitor.shutdown(Shutdown::Both);
            });
            thread::spawn(move || {
                let _ = std::io::copy(&mut down, &mut to_browser);
                let _ = to_browser.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

/// A monitor whose status listener is a Unix socket, and the page through a forwarded port.
pub(super) async fn open_forwarded(config: &str) -> (Monitor, Page, tempfile::TempDir) {
    let directory = common::open_directory();
    let socket = directory.path().join("status.sock");
    let monitor = Monitor::start(&format!("status_uri: \"unix:{}\"\n{config}", socket.display()));
    monitor.wait_log("listening for status requests on ");
    let page = Page::open_at(forward(socket)).await;
    (monitor, page, directory)
}

impl Page {
    /// The texts of the cells of each listed job, without the last one, which says the time.
    pub(super) async fn jobs(&self) -> Vec<Vec<String>> {
        let script = "return [...document.querySelectorAll('#jobs tbody tr')].map(row =>
            [...row.cells].slice(0, 3).map(cell => cell.innerText.trim()))";
        serde_json::from_value(self.get(script).await).expect("a list of texts")
    }

    /// Waits until the first jobs of the list are these.
    pub(super) async fn lists_jobs(&self, wanted: &[[&str; 3]]) {
        let began = Instant::now();
        loop {
            let jobs = self.jobs().await;
            if jobs == wanted {
                return;
            }
            assert!(began.elapsed() < DEADLINE, "{jobs:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn click_on_job(&self, row: usize) {
        self.get(&format!("document.querySelectorAll('#jobs tbody button')[{row}].click()")).await;
    }

    /// The words on the buttons of the listed jobs, and their names for a screen reader.
    async fn buttons(&self) -> Value {
        let script = "return [...document.querySelectorAll('#jobs button')].map(button =>
            [button.textContent, button.getAttribute('aria-label')])";
        self.get(script).await
    }
}

#[tokio::test]
async fn one_click_watches_one_of_the_last_jobs_and_another_ends_that() {
    let (monitor, page, _directory) = open_forwarded("").await;
    page.shows("no-jobs", "none yet").await;
    let broker = Broker::connect(monitor.brokers);
    broker.send(&[ID, "STARTED"]);
    broker.send(&["ended", "FINISHED"]);
    broker.send(&["failed", "FAILED"]);
    broker.send(&["aborted", "ABORTED"]);
    let _viewer = Viewer::watch(monitor.viewers, ID);
    page.lists_jobs(&[
        ["aborted", "aborted", "0"],
        ["failed", "failed", "0"],
        ["ended", "finished", "0"],
        [NAME, "open", "1"],
    ])
    .await;
    assert_eq!(page.get("return document.querySelector('#jobs tbody tr:last-child th').title").await, ID);
    page.click_on_job(3).await;
    page.shows("watch-phase", "STARTED").await;
    assert_eq!(page.get("return document.getElementById('watch-channel').value").await, ID);
    assert_eq!(page.buttons().await[3], json!(["Stop", format!("Stop watching {NAME}")]));
    assert_eq!(page.buttons().await[2], json!(["Watch", "Watch ended"]));
    broker.task(ID, "compile");
    page.shows("watch-completed", "1").await;
    page.screenshot("jobs").await;
    page.click_on_job(3).await;
    page.shows("watch-end", "stopped here").await;
    assert_eq!(page.buttons().await[3], json!(["Watch", format!("Watch {NAME}")]));
    page.click_on_job(2).await;
    page.shows("watch-end", "FINISHED; closed with 1000").await;
    page.is_clean().await;
    page.chromium.leave().await;
}

#[tokio::test]
async fn the_focus_stays_on_its_job_while_others_come_and_go() {
    let (monitor, page, _directory) = open_forwarded("").await;
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["first", "STARTED"]);
    page.lists_jobs(&[["first", "open", "0"]]).await;
    page.get("document.querySelector('#jobs button').focus()").await;
    for job in 0..15 {
        broker.send(&[&format!("other {job}"), "STARTED"]);
    }
    // Ten others, and the one that would be gone without the focus.
    page.until("jobs", |jobs| jobs.contains("other 14")).await;
    let focused = "return document.activeElement.getAttribute('aria-label')";
    assert_eq!(page.get(focused).await, "Watch first");
    assert_eq!(page.jobs().await.len(), 11);
    page.get("document.activeElement.blur()").await;
    broker.send(&["last", "STARTED"]);
    page.until("jobs", |jobs| jobs.contains("last") && !jobs.contains("first")).await;
    assert_eq!(page.jobs().await.len(), 10);
    page.chromium.leave().await;
}

#[tokio::test]
async fn over_tcp_jobs_have_neither_ids_nor_buttons() {
    let monitor = Monitor::start(STATUS);
    let broker = Broker::connect(monitor.brokers);
    let page = Page::open_at(status(&monitor)).await;
    broker.send(&[ID, "STARTED"]);
    page.lists_jobs(&[["student_…", "open", "0"]]).await;
    assert_eq!(page.buttons().await, json!([]));
    page.until("no-ids", |text| text.contains("Unix socket")).await;
    assert_eq!(page.get("return document.getElementById('no-ids').hidden").await, false);
    assert_eq!(page.get("return document.documentElement.outerHTML.includes('5d1f')").await, false);
    // A user who knows the id can still watch the job.
    page.watch(ID).await;
    page.shows("watch-phase", "STARTED").await;
    page.is_clean().await;
    page.chromium.leave().await;
}

#[tokio::test]
async fn a_hostile_id_in_the_list_stays_text() {
    let (monitor, page, _directory) = open_forwarded("").await;
    let broker = Broker::connect(monitor.brokers);
    let short = "<i id=bold>\u{202e}";
    broker.send(&[HTML, "STARTED"]);
    broker.send(&[short, "STARTED"]);
    let beginning = format!("{}…", HTML.chars().take(16).collect::<String>());
    page.lists_jobs(&[[r"<i id=bold>\u{202e}", "open", "0"], [&beginning, "open", "0"]]).await;
    page.click_on_job(0).await;
    page.shows("watch-phase", "STARTED").await;
    assert_eq!(page.get("return document.querySelectorAll('#bold, img').length").await, 0);
    page.is_clean().await;
    page.chromium.leave().await;
}
