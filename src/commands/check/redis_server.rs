//! Judges a Redis server by its answer to INFO: version, role, memory, persistence, replicas.

use super::cluster::About;
use super::report::Finding;
use crate::config::{Cluster, Server};
use crate::deadline::timeout;
use crate::error::Exit;
use crate::net::resolve::resolve;
use std::collections::HashMap;
use std::net::UdpSocket;
use std::time::Duration;

/// The oldest version of Redis that has all commands in the form that the monitor uses.
const OLDEST: (u64, u64) = (6, 2);
/// The time to resolve the host of a server.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The fields of an answer to INFO.
pub(super) struct Info(HashMap<String, String>);

/// The way from this machine to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    is_remote: bool,
    has_password: bool,
    has_tls: bool,
}

impl Way {
    /// Finds out if the server is on another machine.
    pub(super) async fn to(server: &Server, cluster: &Cluster) -> Self {
        let found = timeout(RESOLVE_TIMEOUT, resolve(&server.host, server.port)).await;
        let mut addresses = found.ok().and_then(Result::ok).into_iter().flatten();
        // An address of this machine can be bound.
        let is_remote = addresses.any(|at| !at.ip().is_loopback() && UdpSocket::bind((at.ip(), 0)).is_err());
        Self { is_remote, has_password: cluster.password_file.is_some(), has_tls: cluster.tls.is_some() }
    }
}

impl Info {
    pub(super) fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self(fields.map(|(field, value)| (field.to_owned(), value.trim_end().to_owned())).collect())
    }

    fn get(&self, field: &str) -> &str {
        self.0.get(field).map_or("", String::as_str)
    }

    pub(super) fn is_primary(&self) -> bool {
        self.get("role") == "master"
    }

    /// Returns the findings about this server. `saves` are its save points, if this user may ask for them.
    pub(super) fn findings(&self, server: &Server, saves: Option<&str>, way: Way) -> Vec<About> {
        let mut findings = vec![("cluster.redis", self.role(server))];
        findings.extend(self.unusable(server).map(|finding| ("cluster.redis", finding)));
        if self.is_primary() {
            findings.extend(self.evicts(server).map(|finding| ("cluster.redis", finding)));
            findings.push(("cluster.redis", self.persistence(server, saves)));
            findings.extend(self.replicas(server).map(|finding| ("cluster.redis", finding)));
        }
        findings.extend(exposed(server, way));
        findings
    }

    fn product(&self) -> String {
        match self.get("valkey_version") {
            "" => format!("Redis {}", self.get("redis_version")),
            version => format!("Valkey {version}"),
        }
    }

    fn count_of_replicas(&self) -> usize {
        self.get("connected_slaves").parse().unwrap_or(0)
    }

    fn role(&self, server: &Server) -> Finding {
        let product = self.product();
        if self.is_primary() {
            let replicas = match self.count_of_replicas() {
                0 => "without replicas".into(),
                1 => "with 1 replica".into(),
                count => format!("with {count} replicas"),
            };
            return Finding::Good(format!("{server} is a primary of {product}, {replicas}"));
        }
        let (host, port) = (self.get("master_host"), self.get("master_port"));
        let what = format!(
            "{server} is a replica of {host}:{port} ({product}), to which nothing can be written; name the primary, or the Sentinels with \
             cluster.sentinel"
        );
        Finding::Failed(Exit::Unavailable, what)
    }

    /// Returns the finding about a server of a kind that the monitor cannot use.
    fn unusable(&self, server: &Server) -> Option<Finding> {
        let version = self.get("redis_version");
        let mut numbers = version.split('.').map_while(|number| number.parse::<u64>().ok());
        let is_old = (numbers.next()?, numbers.next().unwrap_or(0)) < OLDEST;
        let what = if is_old {
            format!("{server} is Redis {version}, which is too old; expected Redis 6.2 or later, or Valkey")
        } else if self.get("redis_mode") == "cluster" {
            format!("{server} is part of a Redis Cluster, which the monitor cannot use; expected `cluster-enabled no`")
        } else {
            return None;
        };
        Some(Finding::Failed(Exit::Unavailable, what))
    }

    fn evicts(&self, server: &Server) -> Option<Finding> {
        let policy = self.get("maxmemory_policy");
        (!["", "noeviction"].contains(&policy)).then(|| {
            Finding::Warning(format!(
                "{server} removes keys when its memory is full (maxmemory-policy {policy}), which can be all messages; set \
                 `maxmemory-policy noeviction`"
            ))
        })
    }

    fn persistence(&self, server: &Server, saves: Option<&str>) -> Finding {
        match (self.get("aof_enabled"), saves) {
            ("1", _) => Finding::Good(format!("{server} keeps the messages on disk (appendonly)")),
            (_, Some("")) => Finding::Warning(format!(
                "{server} keeps nothing on disk: when it ends, all messages are lost; set `appendonly yes`"
            )),
            (_, Some(points)) => Finding::Good(format!(
                "{server} writes a snapshot now and then (save {points}); when it crashes, what came after that is lost, and with \
                 `appendonly yes` at most a second"
            )),
            (_, None) => Finding::Warning(format!(
                "{server} has `appendonly no`; this user may not ask if there are snapshots (CONFIG GET save), and without them all \
                 messages are lost when it ends; set `appendonly yes`"
            )),
        }
    }

    /// Advises a primary to take messages only while a replica takes them, too.
    fn replicas(&self, server: &Server) -> Option<Finding> {
        // The field is there if `min-replicas-to-write` is not 0.
        let is_off = !self.0.contains_key("min_slaves_good_slaves");
        (self.count_of_replicas() > 0 && is_off).then(|| {
            Finding::Good(format!(
                "{server} has min-replicas-to-write 0, so a primary that is cut off from its replicas takes messages which are lost when \
                 another server becomes the primary; 1 prevents that"
            ))
        })
    }
}

/// Returns the findings about a server on another machine.
fn exposed(server: &Server, way: Way) -> Vec<About> {
    let mut findings = Vec::new();
    if way.is_remote && !way.has_password {
        let what = format!(
            "{server} is on another machine and asks for no password: every machine that reaches it can read and write the messages of \
             all jobs; give it a user and a password (cluster.user, cluster.password_file)"
        );
        findings.push(("cluster.password_file", Finding::Warning(what)));
    }
    if way.is_remote && !way.has_tls {
        let what = format!(
            "{server} is on another machine, and the messages and the password go there without encryption; that is right in a network \
             that nobody else can read"
        );
        findings.push(("cluster.tls", Finding::Good(what)));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The findings about a primary with these fields of INFO instead of the usual ones, as text.
    fn said(changes: &str, saves: Option<&str>, way: Way) -> String {
        let usual = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrole:master\r\nconnected_slaves:0\r\n\
                     maxmemory_policy:noeviction\r\naof_enabled:1\r\n";
        let server = Server { host: "h".into(), port: 1 };
        let findings = Info::parse(&format!("{usual}{changes}")).findings(&server, saves, way);
        let lines: Vec<String> = findings.iter().map(|(about, finding)| format!("{about}: {finding:?}")).collect();
        lines.join("\n")
    }

    const LOCAL: Way = Way { is_remote: false, has_password: false, has_tls: false };

    #[test]
    fn a_good_server_is_said_to_be() {
        let good = "cluster.redis: Good(\"h:1 is a primary of Redis 7.0.15, without replicas\")\n\
                    cluster.redis: Good(\"h:1 keeps the messages on disk (appendonly)\")";
        assert_eq!(said("", None, LOCAL), good);
        let safe = Way { is_remote: true, has_password: true, has_tls: true };
        assert_eq!(said("", Some(""), safe), good);
        assert!(said("valkey_version:8.0.1\r\n", None, LOCAL).contains("a primary of Valkey 8.0.1,"));
        let replicas = said("connected_slaves:2\r\nmin_slaves_good_slaves:2\r\n", None, LOCAL);
        assert!(replicas.contains("with 2 replicas") && !replicas.contains("min-replicas"), "{replicas}");
    }

    #[test]
    fn each_fault_of_a_server_is_found() {
        let remote = Way { is_remote: true, ..LOCAL };
        for (changes, saves, way, expected) in [
            ("redis_version:6.0.16\r\n", None, LOCAL, "Failed(Unavailable, \"h:1 is Redis 6.0.16, which is too old"),
            ("redis_version:2.8.0\r\n", None, LOCAL, "too old"),
            ("redis_mode:cluster\r\n", None, LOCAL, "Failed(Unavailable, \"h:1 is part of a Redis Cluster"),
            (
                "role:slave\r\nmaster_host:p\r\nmaster_port:2\r\n",
                None,
                LOCAL,
                "Failed(Unavailable, \"h:1 is a replica of p:2",
            ),
            (
                "maxmemory_policy:allkeys-lru\r\n",
                None,
                LOCAL,
                "Warning(\"h:1 removes keys when its memory is full (maxmemory-policy allkeys-lru)",
            ),
            ("aof_enabled:0\r\n", Some(""), LOCAL, "Warning(\"h:1 keeps nothing on disk"),
            ("aof_enabled:0\r\n", Some("3600 1"), LOCAL, "Good(\"h:1 writes a snapshot now and then (save 3600 1)"),
            ("aof_enabled:0\r\n", None, LOCAL, "Warning(\"h:1 has `appendonly no`; this user may not ask"),
            ("connected_slaves:1\r\n", None, LOCAL, "Good(\"h:1 has min-replicas-to-write 0"),
            ("", None, remote, "cluster.password_file: Warning(\"h:1 is on another machine and asks for no password"),
            (
                "",
                None,
                Way { has_password: true, ..remote },
                "cluster.tls: Good(\"h:1 is on another machine, and the messages",
            ),
        ] {
            let said = said(changes, saves, way);
            assert!(said.contains(expected), "{changes}: {said}");
        }
        assert!(!said("redis_version:6.2.0\r\n", None, LOCAL).contains("too old"));
        assert!(!said("redis_version:255.255.255\r\n", None, LOCAL).contains("too old"));
    }
}
