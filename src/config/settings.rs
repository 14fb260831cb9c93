//! The settings: a field for each key of the configuration file, with its bounds and its default.

use super::access;
use super::value;
use super::{Address, Cluster, Endpoint, Level, Mode, Network, Origin, Output, Proxy, ProxyHeader, Seconds, StatusUri};
use crate::rlimit;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The user that ReCodEx's services run as.
pub(crate) const DEFAULT_USER: &str = "recodex";

/// The settings. Each key has a default.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "settings as `key: value` lines")]
pub struct Settings {
    /// The address where viewers connect.
    pub websocket_uri: Endpoint,
    /// The mode of the Unix socket of `websocket_uri`, which decides who may open it.
    pub websocket_mode: Mode,
    /// Expects a header of the PROXY protocol at the beginning of each viewer's connection.
    pub websocket_proxy_protocol: bool,
    /// The address where brokers connect.
    pub zeromq_uri: Address,
    /// The address of the status listener; by default a socket in the service's runtime directory, if it has one.
    pub status_uri: StatusUri,
    /// The certificate for TLS on the viewers' port; by default there is no TLS.
    pub tls: Option<Tls>,
    /// The Redis through which several monitors are one service; by default a monitor works alone.
    pub cluster: Option<Cluster>,
    /// Shares the TCP ports with other instances of the monitor on this machine. It needs `cluster`.
    pub share_ports: bool,
    /// The origins of the web pages that may connect; `https://*.example.org` stands for every host below the domain.
    #[serde(deserialize_with = "access::list")]
    pub allowed_origins: Vec<Origin>,
    /// The proxies that are trusted to name a viewer's address.
    #[serde(deserialize_with = "access::list")]
    pub trusted_proxies: Vec<Proxy>,
    /// The request header in which `trusted_proxies` name the viewer; all others are ignored.
    #[serde(deserialize_with = "access::proxy_header")]
    pub proxy_header: ProxyHeader,
    /// Lets the message `0`, `exit` stop the monitor, as in the Python monitor.
    pub accept_exit: bool,
    /// The user that the monitor becomes if root starts it.
    pub user: String,
    /// The group that the monitor changes to together with `user`; by default the user's own group.
    pub group: Option<String>,
    /// The log.
    #[serde(deserialize_with = "value::or_default")]
    pub logger: Logger,
    /// The history of jobs: how much is kept, and for how long.
    #[serde(deserialize_with = "value::or_default")]
    pub history: History,
    /// Limits for viewers.
    #[serde(deserialize_with = "value::or_default")]
    pub clients: Clients,
    /// Limits for brokers.
    #[serde(deserialize_with = "value::or_default")]
    pub zeromq: Zeromq,
}

/// The keys under `tls`. Both are PEM files. A relative path is relative to `$CREDENTIALS_DIRECTORY`, if that is set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "the keys `certificate` and `key`")]
pub struct Tls {
    /// The certificate, followed by its intermediate certificates.
    #[serde(deserialize_with = "value::some_path")]
    pub certificate: PathBuf,
    /// The private key of the certificate.
    #[serde(deserialize_with = "value::some_path")]
    pub key: PathBuf,
}

/// The keys under `logger`. The names are those of the Python monitor.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "the keys of `logger`")]
pub struct Logger {
    /// The destination of the log lines.
    #[serde(deserialize_with = "value::output")]
    pub output: Output,
    /// The log file.
    #[serde(deserialize_with = "value::path")]
    pub file: Option<PathBuf>,
    /// The least severe level that is logged.
    pub level: Level,
    /// The size in bytes at which the file is rotated; 0 turns rotation off.
    #[serde(deserialize_with = "value::whole::<_, 0, { 1 << 40 }>")]
    pub max_size: usize,
    /// The number of rotated files to keep; 0 turns rotation off.
    #[serde(deserialize_with = "value::whole::<_, 0, 1000>")]
    pub rotations: usize,
}

/// The keys under `history`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "the keys of `history`")]
pub struct History {
    /// The time for which a finished job's history is kept.
    #[serde(deserialize_with = "value::seconds::<_, 0, 604_800>")]
    pub finished: Seconds,
    /// The time for which an unfinished job's history is kept after its last message or new viewer.
    #[serde(deserialize_with = "value::seconds::<_, 100, 31_536_000>")]
    pub unfinished: Seconds,
    /// The time of silence after FAILED until the monitor itself sends FINISHED, at most `history.unfinished`; 0 turns this off.
    #[serde(deserialize_with = "value::seconds::<_, 0, 604_800>")]
    pub release_failed: Seconds,
    /// The time of silence after ABORTED until the monitor itself sends FINISHED, at most `history.unfinished`; 0 turns this off.
    #[serde(deserialize_with = "value::seconds::<_, 0, 604_800>")]
    pub release_aborted: Seconds,
    /// The file that keeps the history from a stop to the next start.
    #[serde(deserialize_with = "value::path")]
    pub state: Option<PathBuf>,
    /// The maximum number of messages kept of one job.
    #[serde(deserialize_with = "value::whole::<_, 1, 1_000_000_000>")]
    pub channel_messages: usize,
    /// The maximum number of bytes kept of one job.
    #[serde(deserialize_with = "value::whole::<_, 1024, { 1 << 40 }>")]
    pub channel_bytes: usize,
    /// The maximum number of bytes kept of all jobs together, bookkeeping included.
    #[serde(deserialize_with = "value::whole::<_, 65_536, { 1 << 40 }>")]
    pub total_bytes: usize,
}

/// The keys under `clients`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "the keys of `clients`")]
pub struct Clients {
    /// The maximum number of viewers at once; by default what the limit of open files allows.
    #[serde(deserialize_with = "value::whole::<_, 1, 10_000_000>")]
    pub max: usize,
    /// The maximum number of viewers from one address, or from one /64 network of IPv6; 0 turns the limit off.
    #[serde(deserialize_with = "value::whole::<_, 0, 10_000_000>")]
    pub max_per_address: usize,
    /// The time limit for a client to send its request.
    #[serde(deserialize_with = "value::seconds::<_, 100, 3600>")]
    pub handshake_timeout: Seconds,
    /// The time limit for a viewer to name its channel after its request; then FINISHED is sent, and the viewer is closed with
    /// 1008.
    #[serde(deserialize_with = "value::seconds::<_, 100, 3600>")]
    pub subscribe_timeout: Seconds,
    /// The time between two pings of a viewer.
    #[serde(deserialize_with = "value::seconds::<_, 100, 3600>")]
    pub ping_interval: Seconds,
    /// The time limit for a viewer to answer a ping.
    #[serde(deserialize_with = "value::seconds::<_, 100, 3600>")]
    pub ping_timeout: Seconds,
    /// The time without write progress after which a viewer is disconnected.
    #[serde(deserialize_with = "value::seconds::<_, 100, 3600>")]
    pub stall_timeout: Seconds,
    /// Sends FINISHED before the monitor closes a viewer whose job has not finished.
    pub finish_on_close: bool,
}

/// The keys under `zeromq`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "the keys of `zeromq`")]
pub struct Zeromq {
    /// The addresses and networks of the brokers that may connect.
    #[serde(deserialize_with = "access::list")]
    pub allow: Vec<Network>,
    /// The maximum number of broker links at once.
    #[serde(deserialize_with = "value::whole::<_, 1, 10_000>")]
    pub max_connections: usize,
    /// The time limit for a broker's handshake.
    #[serde(deserialize_with = "value::seconds::<_, 100, 3600>")]
    pub handshake_timeout: Seconds,
}

impl Tls {
    /// Returns the path of the certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        credential(&self.certificate)
    }

    /// Returns the path of the private key.
    pub(crate) fn key(&self) -> PathBuf {
        credential(&self.key)
    }
}

pub(super) fn credential(path: &Path) -> PathBuf {
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(directory) if path.is_relative() => Path::new(&directory).join(path),
        _ => path.into(),
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            websocket_uri: Endpoint::Tcp(Address { host: "127.0.0.1".into(), port: 4567 }),
            websocket_mode: Mode::GROUP,
            websocket_proxy_protocol: false,
            zeromq_uri: Address { host: "127.0.0.1".into(), port: 7894 },
            status_uri: StatusUri::Unset,
            tls: None,
            cluster: None,
            share_ports: false,
            allowed_origins: vec![Origin::Any],
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::XForwardedFor,
            accept_exit: false,
            user: DEFAULT_USER.into(),
            group: None,
            logger: Logger::default(),
            history: History::default(),
            clients: Clients::default(),
            zeromq: Zeromq::default(),
        }
    }
}

impl Default for Logger {
    fn default() -> Self {
        Self { output: Output::Auto, file: None, level: Level::Info, max_size: 1024 * 1024, rotations: 3 }
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            finished: Seconds::from_secs(5 * 60),
            unfinished: Seconds::from_secs(24 * 60 * 60),
            release_failed: Seconds::from_secs(10),
            release_aborted: Seconds::from_secs(5 * 60),
            state: None,
            channel_messages: 200_000,
            channel_bytes: 16 * 1024 * 1024,
            total_bytes: 256 * 1024 * 1024,
        }
    }
}

impl History {
    /// Returns the time after FAILED until the monitor finishes a job, or `None` for never.
    pub(crate) fn release_failed(&self) -> Option<Duration> {
        Some(self.release_failed.duration()).filter(|time| !time.is_zero())
    }

    /// Returns the time after ABORTED until the monitor finishes a job, or `None` for never.
    pub(crate) fn release_aborted(&self) -> Option<Duration> {
        Some(self.release_aborted.duration()).filter(|time| !time.is_zero())
    }
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            max: rlimit::default_max_clients(),
            max_per_address: 0,
            handshake_timeout: Seconds::from_secs(10),
            subscribe_timeout: Seconds::from_secs(10),
            ping_interval: Seconds::from_secs(20),
            ping_timeout: Seconds::from_secs(20),
            stall_timeout: Seconds::from_secs(30),
            finish_on_close: true,
        }
    }
}

impl Zeromq {
    /// Returns true if `allow` names this address.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        self.allow.iter().any(|network| network.contains(address))
    }
}

impl Default for Zeromq {
    fn default() -> Self {
        Self {
            allow: Network::all(),
            max_connections: rlimit::DEFAULT_BROKERS,
            handshake_timeout: Seconds::from_secs(5),
        }
    }
}

impl Settings {
    /// Returns these settings for a monitor that runs with `old`: a key that needs a restart keeps its old value. Also returns the
    /// names of those keys, if they would change.
    pub(crate) fn without_restart(self, old: &Self) -> (Self, Vec<&'static str>) {
        let mut new = self;
        let mut fixed = Vec::new();
        macro_rules! fix {
            ($($field:ident).+, $key:literal) => {
                if new.$($field).+ != old.$($field).+ {
                    fixed.push($key);
                    new.$($field).+.clone_from(&old.$($field).+);
                }
            };
        }
        fix!(websocket_uri, "websocket_uri");
        fix!(websocket_mode, "websocket_mode");
        fix!(zeromq_uri, "zeromq_uri");
        fix!(status_uri, "status_uri");
        fix!(user, "user");
        fix!(group, "group");
        fix!(logger.output, "logger.output");
        fix!(logger.file, "logger.file");
        fix!(share_ports, "share_ports");
        if !Cluster::differ_in_sizes_only(new.cluster.as_ref(), old.cluster.as_ref()) {
            fixed.push("cluster");
            new.cluster.clone_from(&old.cluster);
        }
        if new.tls.is_some() != old.tls.is_some() {
            fixed.push("tls");
            new.tls.clone_from(&old.tls);
        }
        (new, fixed)
    }

    /// Returns a configuration file that sets every key to these settings.
    ///
    /// # Panics
    /// Never: every field can be written as YAML.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self).expect("settings are plain data")
    }
}
