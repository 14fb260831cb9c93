//! The reason for which Redis cannot be used, in plain words.

use crate::config::Server;
use crate::net::client_tls;
use crate::net::first_byte::{FirstByte, NOTHING};
use crate::wire::first_byte::{HTTP, TLS_ALERT, TLS_RECORDS};
use nix::errno::Errno;
use redis::RedisError;
use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio_rustls::rustls::{self, AlertDescription};

/// The most characters that are shown of an answer.
const MAX_SHOWN: usize = 200;

/// The first byte of an error in the protocol of Redis.
const REFUSAL: u8 = b'-';

/// The reason for which Redis cannot be used. The text is one clause, or one for each server, joined by `; `.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Away {
    /// A server cannot be used.
    #[error("{0}: {1}")]
    Server(Server, String),
    /// None of the servers of `cluster.redis` is a primary that can be used.
    #[error("{}", joined(.0))]
    NoPrimary(Vec<Away>),
    /// No Sentinel can be used.
    #[error("no Sentinel answers ({})", joined(.0))]
    NoSentinel(Vec<Away>),
    /// Sentinels answer, and have no primary of that name.
    #[error("the Sentinels know no primary {0} (cluster.sentinel)")]
    UnknownPrimary(String),
}

impl Away {
    /// Explains an error of a command. `user` is the user of the connection.
    pub(crate) fn after(server: &Server, error: &RedisError, user: Option<&str>) -> Self {
        Self::Server(server.clone(), answer(error, user))
    }

    /// Makes the reason of one server.
    pub(super) fn of(server: &Server, what: impl Into<String>) -> Self {
        Self::Server(server.clone(), what.into())
    }

    /// Explains that something took too long. A hint may follow, such as `; does it…?`.
    pub(crate) fn late(server: &Server, what: &str, within: Duration, hint: &str) -> Self {
        let within = match within.as_millis() {
            whole if whole % 1000 == 0 => format!("{} s", whole / 1000),
            milliseconds => format!("{milliseconds} ms"),
        };
        Self::of(server, format!("{what} within {within}{hint}"))
    }
}

fn joined(reasons: &[Away]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Explains why a name does not resolve, or there is no TCP connection.
pub(super) fn not_connected(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => {
            let text = Errno::from_raw(code).desc();
            let mut characters = text.chars();
            characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
        }
        // The error of a name that does not resolve has no error number.
        None => format!("this host is not known ({error})"),
    }
}

/// Explains an error of a TLS session.
fn tls(error: &io::Error) -> String {
    let error_of_tls = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match error_of_tls {
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            "it wants a certificate from its clients, and the monitor has none; set `tls-auth-clients no` there".into()
        }
        _ => client_tls::explain(error),
    }
}

/// Explains why there is no TLS session.
pub(super) fn no_session(error: &io::Error, first: &FirstByte) -> String {
    match first.get() {
        NOTHING => "it closed the connection in the TLS handshake; does it speak TLS there (tls-port)?".into(),
        record if TLS_RECORDS.contains(&record) => tls(error),
        _ => "it does not speak TLS there (cluster.tls)".into(),
    }
}

/// Explains an error before the first answer.
pub(super) fn no_answer(error: &RedisError, user: Option<&str>, is_tls: bool, first: &FirstByte) -> String {
    match first.get() {
        TLS_ALERT if !is_tls => "it speaks TLS there (cluster.tls)".into(),
        HTTP if !is_tls => "it is not Redis".into(),
        // It says so at once, before it is asked.
        REFUSAL if error.is_io_error() => {
            "it refuses the connection; are there too many clients (maxclients), or does its protected mode keep other \
             machines out?"
                .into()
        }
        NOTHING if !is_tls && error.is_io_error() => {
            "it closed the connection without an answer; does it speak TLS there (cluster.tls)?".into()
        }
        _ => answer(error, user),
    }
}

/// Explains an error of a command. `user` is the user of the connection.
pub(super) fn answer(error: &RedisError, user: Option<&str>) -> String {
    let detail = error.detail().unwrap_or_default();
    let has = |part: &str| detail.contains(part);
    match (error.code(), user) {
        (Some("WRONGPASS"), Some(user)) => {
            format!(
                "it has no user {user}, or the password of user {user} is wrong (cluster.user, cluster.password_file)"
            )
        }
        (Some("WRONGPASS"), None) => "the password is wrong (cluster.password_file)".into(),
        (Some("NOAUTH"), _) => "it needs a password (cluster.password_file)".into(),
        (Some("NOPERM"), user) => {
            format!(
                "its access control list does not allow this to user {}: {}",
                user.unwrap_or("default"),
                cut(detail)
            )
        }
        (Some("READONLY"), _) => "it is a replica".into(),
        (Some("MASTERDOWN"), _) => "it is a replica, and has lost its primary".into(),
        (Some("LOADING"), _) => "it is still loading its data".into(),
        (Some("OOM"), _) => "it has no memory left (maxmemory)".into(),
        (Some("MISCONF"), _) => "it cannot save its data, and so takes no more (MISCONF)".into(),
        (Some("NOREPLICAS"), _) => "it has fewer replicas than it must have (min-replicas-to-write)".into(),
        (Some("DENIED"), _) => {
            "its protected mode refuses other machines; it needs a password, or another `bind`".into()
        }
        (Some("ERR"), _) if has("max number of clients") => "it has too many clients (maxclients)".into(),
        (Some("ERR"), _) if has("without any password configured") => {
            "it asks for no password, but there is one in cluster.password_file".into()
        }
        (Some(code), _) => format!("it answers {code} {}", cut(detail)).trim_end().into(),
        (None, _) => broken(error),
    }
}

/// Explains why a connection ended.
fn broken(error: &RedisError) -> String {
    let source = error.source().and_then(|source| source.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>());
    match source.and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(e) if e.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) => tls(e),
        Some(e) if e.raw_os_error().is_some() => not_connected(e),
        Some(_) => "it closed the connection".into(),
        None => format!("its answer is not that of Redis ({})", cut(&error.to_string())),
    }
}

/// Returns the beginning of an answer, without control characters.
fn cut(text: &str) -> String {
    text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
