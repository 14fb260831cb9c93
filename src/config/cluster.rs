//! The keys under `cluster`: the Redis through which several monitors are one service.

use super::settings::credential;
use super::value;
use crate::host_port::split_host_and_port;
use serde::de::{Deserializer, Error, SeqAccess, Unexpected, Visitor};
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
    #[serde(default, deserialize_with = "user")]
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
#[serde(default, deny_unknown_fields, expecting = "the key `ca`, or {}")]
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
                if let Some((_, rest)) = text.split_once("://") {
                    return Err(wrong(format!("there is no scheme here; leave out what stands before {rest}")));
                }
                let (host, port) = split_host_and_port(text).map_err(wrong)?;
                Ok(Server { host: host.into(), port })
            }
        }
        deserializer.deserialize_str(HostAndPort)
    }
}

/// Reads the list of `cluster.redis`.
fn servers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Server>, D::Error> {
    struct Servers;
    impl<'de> Visitor<'de> for Servers {
        type Value = Vec<Server>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of 1 to {MAX_ADDRESSES} addresses, such as \"127.0.0.1:6379\"")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Server>, A::Error> {
            let mut servers = Vec::new();
            while let Some(server) = list.next_element()? {
                servers.push(server);
            }
            if (1..=MAX_ADDRESSES).contains(&servers.len()) {
                return Ok(servers);
            }
            Err(A::Error::invalid_length(servers.len(), &self))
        }
    }
    deserializer.deserialize_seq(Servers)
}

struct Name;

impl Visitor<'_> for Name {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a name of 1 to {MAX_NAME} letters, digits, dots, hyphens and underscores")
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
    deserializer.deserialize_str(Name)
}

/// Reads `cluster.sentinel`.
fn sentinel<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Named(String);
    impl<'de> Deserialize<'de> for Named {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_str(Name).map(Named)
        }
    }
    Ok(Option::deserialize(deserializer)?.map(|Named(name)| name))
}

/// Reads `cluster.user`.
fn user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Named(String);
    impl<'de> Deserialize<'de> for Named {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_str(User).map(Named)
        }
    }
    Ok(Option::deserialize(deserializer)?.map(|Named(name)| name))
}

struct User;

impl Visitor<'_> for User {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a user, without spaces")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(E::invalid_value(Unexpected::Str(text), &self));
        }
        Ok(text.into())
    }
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
