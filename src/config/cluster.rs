//! The keys under `cluster`: the Redis through which several monitors are one service.

use super::access::{Listed, list};
use super::settings::credential;
use super::value;
use crate::host_port::split_host_and_port;
use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::path::PathBuf;

/// The most addresses of `cluster.redis`.
const MAX_ADDRESSES: usize = 16;
/// The longest `cluster.name`, in bytes.
const MAX_NAME: usize = 64;

/// The keys under `cluster`. The files are PEM files or text. A relative path is relative to `$CREDENTIALS_DIRECTORY`, if that is set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "the keys of `cluster`")]
pub struct Cluster {
    /// The addresses of Redis; with `cluster.sentinel`, those of the Sentinels.
    #[serde(deserialize_with = "servers")]
    pub redis: Vec<Server>,
    /// The name of the primary at the Sentinels; by default `cluster.redis` are the addresses of Redis itself.
    #[serde(default, deserialize_with = "sentinel")]
    pub sentinel: Option<String>,
    /// The first part of the keys in Redis, which is the same for all monitors of one service and for no others.
    #[serde(default = "default_name", deserialize_with = "name")]
    pub name: String,
    /// The user of Redis's access control list; by default the user `default`.
    #[serde(default)]
    pub user: Option<String>,
    /// The file with the password for Redis.
    #[serde(default, deserialize_with = "value::path")]
    pub password_file: Option<PathBuf>,
    /// The certificates for TLS to Redis; by default there is no TLS.
    #[serde(default)]
    pub tls: Option<ClusterTls>,
    /// The maximum number of bytes of messages that wait for Redis. When it is reached, brokers are no longer read.
    #[serde(default = "default_buffer", deserialize_with = "value::whole::<_, { 1 << 20 }, { 16 << 30 }>")]
    pub buffer: usize,
    /// The maximum number of bytes of messages that the stream in Redis keeps.
    #[serde(default = "default_stream_bytes", deserialize_with = "value::whole::<_, { 1 << 20 }, { 1 << 40 }>")]
    pub stream_bytes: usize,
}

/// The keys under `cluster.tls`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "the keys of `cluster.tls`")]
pub struct ClusterTls {
    /// The certificates that are trusted in addition to the system's.
    #[serde(deserialize_with = "value::path")]
    pub ca: Option<PathBuf>,
}

/// The address of a Redis or a Sentinel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Server {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port, not 0.
    pub port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Serialize for Server {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Server {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HostAndPort;
        impl Visitor<'_> for HostAndPort {
            type Value = Server;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a host and a port, such as \"127.0.0.1:6379\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Server, E> {
                let wrong = |what: String| {
                    E::custom(format_args!("{text:?}: {what}; expected a host and a port, such as \"127.0.0.1:6379\""))
                };
                let (host, port) = split_host_and_port(text).map_err(wrong)?;
                Ok(Server { host: host.into(), port })
            }
        }
        deserializer.deserialize_str(HostAndPort)
    }
}

impl Listed for Server {
    const WHAT: &str = "addresses, such as \"127.0.0.1:6379\"";
}

/// Reads the list of `cluster.redis`.
fn servers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Server>, D::Error> {
    let servers = list::<_, Server>(deserializer)?;
    if (1..=MAX_ADDRESSES).contains(&servers.len()) {
        return Ok(servers);
    }
    Err(D::Error::custom(format_args!("expected 1 to {MAX_ADDRESSES} addresses, found {}", servers.len())))
}

struct Name(&'static str);

impl Visitor<'_> for Name {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of 1 to {MAX_NAME} letters, digits, `.`, `_` and `-`", self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_fine) {
            return Ok(text.into());
        }
        Err(E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// Reads `cluster.name`.
fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserializer.deserialize_str(Name("a name"))
}

/// Reads `cluster.sentinel`.
fn sentinel<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    deserializer.deserialize_str(Name("the name of the primary")).map(Some)
}

fn default_name() -> String {
    "recodex".into()
}

fn default_buffer() -> usize {
    64 * 1024 * 1024
}

fn default_stream_bytes() -> usize {
    1024 * 1024 * 1024
}

impl Cluster {
    /// Returns true if both are the same but for the keys that a reload takes up: `buffer` and `stream_bytes`.
    pub(super) fn differ_in_sizes_only(one: Option<&Self>, other: Option<&Self>) -> bool {
        match (one, other) {
            (Some(one), Some(other)) => {
                let Self { buffer, stream_bytes, .. } = *one;
                *one == Self { buffer, stream_bytes, ..other.clone() }
            }
            (one, other) => one == other,
        }
    }

    /// Returns the path of the file with the password, if there is one.
    pub(crate) fn password_file(&self) -> Option<PathBuf> {
        self.password_file.as_deref().map(credential)
    }

    /// Returns the path of the trusted certificates, if there is one.
    pub(crate) fn ca(&self) -> Option<PathBuf> {
        self.tls.as_ref()?.ca.as_deref().map(credential)
    }
}
