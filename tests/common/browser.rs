//! A headless Chromium with a profile of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::DEADLINE;

pub(crate) struct Chromium {
    pub(crate) client: Client,
    driver: Driver,
    _profile: TempDir,
}

impl Chromium {
    pub(crate) async fn start() -> Self {
        let driver = Driver::start();
        let profile = TempDir::new().unwrap();
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(serde_json::from_value(capabilities).unwrap())
            .connect(&format!("http://127.0.0.1:{}", driver.port))
            .await
            .expect("chromedriver starts a browser");
        Self { client, driver, _profile: profile }
    }

    /// Returns the entries of a log since the last call: of the console (`browser`) or of the inspector (`performance`).
    pub(crate) async fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.command("se/log", &json!({ "type": kind })).await;
        log.as_array().expect("a list of entries").clone()
    }

    /// Runs a command of the browser's inspector, by the Chrome `DevTools` Protocol.
    pub(crate) async fn devtools(&self, name: &str, parameters: &Value) -> Value {
        self.command("goog/cdp/execute", &json!({ "cmd": name, "params": parameters })).await
    }

    /// Runs a command of chromedriver that is not in the standard.
    async fn command(&self, path: &str, body: &Value) -> Value {
        let session = self.client.session_id().await.unwrap().expect("there is a session");
        let answer = self.driver.post(&format!("/session/{session}/{path}"), body);
        assert_eq!(answer["value"].get("error"), None, "{path}: {answer}");
        answer["value"].clone()
    }

    pub(crate) async fn leave(self) {
        self.client.close().await.unwrap();
    }
}

/// A chromedriver on a free port.
struct Driver {
    process: Child,
    port: u16,
}

impl Driver {
    fn start() -> Self {
        // It chooses a port that is free for IPv4, and ends if that port is taken for IPv6.
        (0..10).find_map(|_| Self::try_start()).expect("chromedriver finds a port")
    }

    fn try_start() -> Option<Self> {
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let port = lines
            .find_map(|line| line.split_once("started successfully on port ")?.1.trim_end_matches('.').parse().ok());
        if port.is_none() {
            process.wait().expect("it has ended");
        }
        Some(Self { process, port: port? })
    }
}

impl Driver {
    fn post(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).expect("chromedriver listens");
        connection.set_read_timeout(Some(DEADLINE)).expect("a timeout above zero");
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all((head + &body).as_bytes()).unwrap();
        // It does not close after its answer.
        let mut answer = BufReader::new(connection);
        let mut length = None;
        for line in answer.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok();
            }
        }
        let mut body = vec![0; length.expect("a length")];
        answer.read_exact(&mut body).unwrap();
        serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{path}: {}", String::from_utf8_lossy(&body)))
    }
}

impl Drop for Driver {
    /// Asks chromedriver to end: if it were killed, its browser would go on running.
    fn drop(&mut self) {
        if let Ok(mut connection) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _ = connection.set_read_timeout(Some(DEADLINE));
            let _ = connection.write_all(b"GET /shutdown HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
            let _ = connection.read_to_end(&mut Vec::new());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
