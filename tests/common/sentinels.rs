//! Real Sentinels, which watch a primary and put a replica in its place.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::redis::{Redis, free_port, server};
use super::resp::{Connection, Reply};
use super::{kill, temporary, until};

/// The name of the primary at the Sentinels.
pub(crate) const PRIMARY: &str = "recodex";

/// Sentinels that agree by a majority. Dropping them kills the processes.
pub(crate) struct Sentinels {
    all: Vec<Sentinel>,
}

struct Sentinel {
    child: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Sentinels {
    /// Starts `count` Sentinels that know one another and the replicas from the beginning. They notice a primary that is silent for
    /// a second; with less, a busy machine would make failovers of its own. Returns once each of them would agree to a failover.
    pub(crate) fn start(count: usize, primary: SocketAddr, replicas: &[&Redis]) -> Self {
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let quorum = count / 2 + 1;
        let start = |&port: &u16| {
            let mut text = format!(
                "port {port}\nbind 127.0.0.1\nlogfile log\nsentinel myid {port:040x}\n\
                 sentinel monitor {PRIMARY} {} {} {quorum}\nsentinel down-after-milliseconds {PRIMARY} 1000\n\
                 sentinel failover-timeout {PRIMARY} 2000\n",
                primary.ip(),
                primary.port()
            );
            for replica in replicas {
                writeln!(text, "sentinel known-replica {PRIMARY} 127.0.0.1 {}", replica.port).expect("strings grow");
            }
            for other in ports.iter().filter(|other| **other != port) {
                writeln!(text, "sentinel known-sentinel {PRIMARY} 127.0.0.1 {other} {other:040x}")
                    .expect("strings grow");
            }
            let (directory, path) = temporary("sentinel.conf", text);
            let child = Command::new(server())
                .arg(path)
                .arg("--sentinel")
                .current_dir(directory.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .expect("Redis is installed");
            Sentinel { child, port, directory }
        };
        let sentinels = Self { all: ports.iter().map(start).collect() };
        for sentinel in &sentinels.all {
            until("the Sentinel is ready", || {
                let master = sentinel.ask(&["SENTINEL", "MASTER", PRIMARY])?.array();
                let is = |name: &str, value: &str| {
                    let mut pairs = master.chunks(2).map(|two| (two[0].clone().text(), two[1].clone().text()));
                    pairs.any(|(found, what)| found == name && what == value)
                };
                let others = (count - 1).to_string();
                (is("flags", "master")
                    && is("num-other-sentinels", &others)
                    && is("num-slaves", &replicas.len().to_string()))
                .then_some(())
            });
        }
        sentinels
    }

    /// Returns their addresses as the configuration of a node has them.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.all.iter().map(|sentinel| SocketAddr::from(([127, 0, 0, 1], sentinel.port))).collect()
    }

    /// Waits until most of them name another primary than the one at this port, and returns the new port.
    pub(crate) fn wait_switch(&self, from: u16) -> u16 {
        until("most Sentinels name another primary", || {
            let ports: Vec<u16> = self.all.iter().filter_map(Sentinel::primary).filter(|port| *port != from).collect();
            (ports.len() > self.all.len() / 2).then(|| ports[0])
        })
    }

    /// Returns the port of the primary, if most of them name the same.
    pub(crate) fn primary(&self) -> Option<u16> {
        let ports: Vec<u16> = self.all.iter().filter_map(Sentinel::primary).collect();
        let count = |port| ports.iter().filter(|other| **other == port).count();
        ports.iter().copied().find(|port| count(*port) > self.all.len() / 2)
    }

    /// Has them put a replica into the primary's place, although that lives.
    pub(crate) fn fail_over(&self) {
        self.all[0].ask(&["SENTINEL", "FAILOVER", PRIMARY]).expect("there is a good replica");
    }

    /// Stops the Sentinel with this number (`SIGSTOP`).
    pub(crate) fn freeze(&self, index: usize) {
        assert!(kill(self.all[index].child.id(), "STOP").success(), "the Sentinel is there to be stopped");
    }

    /// Kills the Sentinel with this number.
    pub(crate) fn kill(&mut self, index: usize) {
        self.all.remove(index);
    }
}

impl Sentinel {
    fn ask(&self, words: &[&str]) -> Option<Reply> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let reply = Connection::open(address, Duration::from_secs(1)).ok()?.ask(words).ok()?;
        (!matches!(reply, Reply::Error(_))).then_some(reply)
    }

    /// Returns the port of the primary that it names.
    fn primary(&self) -> Option<u16> {
        let parts = self.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", PRIMARY])?.array();
        parts.into_iter().nth(1)?.text().parse().ok()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("the Sentinel's log ended:\n{}", lines[lines.len().saturating_sub(80)..].join("\n"));
        }
    }
}
