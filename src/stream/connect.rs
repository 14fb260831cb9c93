//! The connections to Redis: the primary is found, and each connection is made, with TLS and a password if they are configured.
//!
//! Nothing here connects again, and a command has no deadline but that of its caller.

pub(crate) use super::away::Away;
use super::away::{answer, no_answer, no_session, not_connected};
use super::bounded::Bounded;
use super::password::password;
use super::sentinel;
use crate::config::{Cluster, Server};
use crate::deadline::timeout_at;
use crate::error::{Exit, Failure};
use crate::net::client_tls::{self, CaSetting};
use crate::net::first_byte::{FirstByte, Watched};
use crate::net::keep_alive::keep_alive;
use crate::net::resolve::resolve;
use futures_util::stream::{FuturesOrdered, StreamExt};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisError, RedisFuture, Value};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, rustls};

/// The time that each server of `cluster.redis` has to say its role, with the connection to it.
const ROLE_TIMEOUT: Duration = Duration::from_secs(1);
/// The time after which a connection ends whose peer acknowledges nothing.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// The way to the Redis of a cluster.
pub(crate) struct Redis {
    servers: Vec<Server>,
    sentinel: Option<String>,
    user: Option<String>,
    password: Option<Vec<u8>>,
    tls: Option<TlsConnector>,
}

/// A connection to Redis. It is closed when the last clone is dropped, even if an answer is missing.
#[derive(Clone)]
pub(crate) struct Connection {
    commands: MultiplexedConnection,
    /// Only held for its end.
    _driver: Arc<Driver>,
}

/// The task that writes the commands and reads the answers, which ends when this is dropped. The library's own connection would first
/// write what is left, and a batch could reach a server long after it was given up.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Deref for Connection {
    type Target = MultiplexedConnection;

    fn deref(&self) -> &MultiplexedConnection {
        &self.commands
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut MultiplexedConnection {
        &mut self.commands
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.commands.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.commands.req_packed_commands(commands, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.commands.get_db()
    }
}

/// A connection and what is known of the peer.
struct Opened {
    connection: Connection,
    first: FirstByte,
}

/// The bytes to Redis.
trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// The end of the time for something.
#[derive(Clone, Copy)]
struct Limit {
    within: Duration,
    at: Instant,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The password stays out of every log.
        f.debug_struct("Redis")
            .field("servers", &self.servers)
            .field("sentinel", &self.sentinel)
            .finish_non_exhaustive()
    }
}

impl Limit {
    fn new(within: Duration) -> Self {
        Self { within, at: Instant::now() + within }
    }

    /// Waits for `future`. If it takes too long, the reason is `what`, a time and `hint`.
    async fn wait<F: Future>(self, server: &Server, what: &str, hint: &str, future: F) -> Result<F::Output, Away> {
        timeout_at(self.at, future).await.map_err(|_| Away::late(server, what, self.within, hint))
    }
}

impl Redis {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// [`Exit::Config`] if a file cannot be read or used; [`Exit::Unavailable`] if there is TLS, and no trusted certificate at all.
    pub(crate) fn load(cluster: &Cluster) -> Result<Self, Failure> {
        let connector =
            cluster.tls.as_ref().map(|_| client_tls::connector(cluster.ca().as_deref(), CaSetting::Key, &[]));
        let password = cluster.password_file().map(|path| {
            let wrong = |what| Failure::new(Exit::Config, format!("cluster.password_file: {}: {what}", path.display()));
            password(&path).map_err(wrong)
        });
        Ok(Self {
            servers: cluster.redis.clone(),
            sentinel: cluster.sentinel.clone(),
            user: cluster.user.clone(),
            password: password.transpose()?,
            tls: connector.transpose()?,
        })
    }

    /// Returns the addresses of Redis, or those of the Sentinels.
    pub(super) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Finds the primary: the server that most of the answering Sentinels name, within half a second. Without Sentinels, the first server
    /// of the configuration that is one, within a second for each before it that does not answer.
    pub(crate) async fn find_primary(&self) -> Result<Server, Away> {
        if let Some(name) = &self.sentinel {
            return sentinel::primary(self, name).await;
        }
        let mut roles: FuturesOrdered<_> = self.servers.iter().map(|server| self.is_primary(server)).collect();
        let mut reasons = Vec::new();
        while let Some(role) = roles.next().await {
            match role {
                Ok(server) => return Ok(server),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(Away::NoPrimary(reasons))
    }

    /// Returns the server that more than half of all Sentinels name; `None` if there are no Sentinels, or there is no such server.
    pub(crate) async fn majority(&self) -> Option<Server> {
        sentinel::majority(self, self.sentinel.as_deref()?).await
    }

    /// Connects and authenticates within this time. The server is known to answer then; it may be a replica.
    pub(crate) async fn connect(&self, to: &Server, within: Duration) -> Result<Connection, Away> {
        let limit = Limit::new(within);
        let mut opened = self.open(to, limit).await?;
        self.authenticate(to, &mut opened, limit).await?;
        self.ask::<Value>(to, &mut opened, &redis::cmd("TIME"), limit)
            .await?
            .map_err(|e| self.reason(to, &e, &opened))?;
        Ok(opened.connection)
    }

    /// Returns the server if it is a primary.
    async fn is_primary(&self, server: &Server) -> Result<Server, Away> {
        let limit = Limit::new(ROLE_TIMEOUT);
        let mut opened = self.open(server, limit).await?;
        self.authenticate(server, &mut opened, limit).await?;
        let role = self.ask::<Value>(server, &mut opened, &redis::cmd("ROLE"), limit).await?;
        let Value::Array(role) = role.map_err(|e| self.reason(server, &e, &opened))? else {
            return Err(Away::of(server, "its answer to ROLE is not that of Redis"));
        };
        match role.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok(server.clone()),
            Some(Value::BulkString(role)) if role == b"slave" => Err(Away::of(server, "it is a replica")),
            Some(Value::BulkString(role)) if role == b"sentinel" => {
                Err(Away::of(server, "it is a Sentinel, and there is no cluster.sentinel"))
            }
            _ => Err(Away::of(server, "its answer to ROLE is not that of Redis")),
        }
    }

    /// Asks a Sentinel for the primary of this name. `None` if it knows none.
    pub(crate) async fn ask_sentinel(
        &self,
        sentinel: &Server,
        name: &str,
        within: Duration,
    ) -> Result<Option<Server>, Away> {
        let limit = Limit::new(within);
        let mut opened = self.open(sentinel, limit).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let mut answer = self.ask::<Option<(String, u16)>>(sentinel, &mut opened, &question, limit).await?;
        if self.password.is_some() && answer.as_ref().is_err_and(|e| e.code() == Some("NOAUTH")) {
            self.authenticate(sentinel, &mut opened, limit).await?;
            answer = self.ask(sentinel, &mut opened, &question, limit).await?;
        }
        match answer {
            Ok(named) => Ok(named.map(|(host, port)| Server { host, port })),
            Err(e)
                if e.code() == Some("ERR") && e.detail().is_some_and(|detail| detail.contains("unknown command")) =>
            {
                Err(Away::of(sentinel, "it is not a Sentinel (cluster.sentinel)"))
            }
            Err(e) => Err(self.reason(sentinel, &e, &opened)),
        }
    }

    /// Connects by TCP, and TLS if it is configured.
    async fn open(&self, to: &Server, limit: Limit) -> Result<Opened, Away> {
        let tcp = limit.wait(to, "it does not answer", "", connect_tcp(to)).await?;
        let (tcp, first) = Watched::new(tcp.map_err(|e| Away::of(to, not_connected(&e)))?);
        let stream: Box<dyn Transport> = match &self.tls {
            None => Box::new(tcp),
            Some(connector) => {
                let name = ServerName::try_from(to.host.clone());
                let name = name.map_err(|_| Away::of(to, "that is no host name that TLS knows"))?;
                let (late, hint) = ("it does not answer the TLS handshake", "; does it speak TLS there?");
                let stream = limit.wait(to, late, hint, connector.connect(name, tcp)).await?;
                Box::new(stream.map_err(|e| Away::of(to, no_session(&e, &first)))?)
            }
        };
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let made = MultiplexedConnection::new_with_config(&info, Bounded::new(stream), config).await;
        let (commands, driver) = made.map_err(|e| self.reason_of(to, &e, &first))?;
        let driver = Arc::new(Driver(tokio::spawn(driver).abort_handle()));
        Ok(Opened { connection: Connection { commands, _driver: driver }, first })
    }

    /// Gives the password, if there is one.
    async fn authenticate(&self, to: &Server, opened: &mut Opened, limit: Limit) -> Result<(), Away> {
        let Some(password) = &self.password else { return Ok(()) };
        let mut command = redis::cmd("AUTH");
        if let Some(user) = &self.user {
            command.arg(user);
        }
        command.arg(&password[..]);
        self.ask::<()>(to, opened, &command, limit).await?.map_err(|e| self.reason(to, &e, opened))
    }

    /// Sends a command. The outer error is that there is no answer in time.
    async fn ask<T: redis::FromRedisValue>(
        &self,
        to: &Server,
        opened: &mut Opened,
        command: &Cmd,
        limit: Limit,
    ) -> Result<Result<T, RedisError>, Away> {
        let what = "it took the connection, and does not answer";
        limit.wait(to, what, "", command.query_async(&mut opened.connection)).await
    }

    /// Explains an error of a command.
    pub(super) fn explain(&self, error: &RedisError) -> String {
        answer(error, self.user.as_deref())
    }

    fn reason(&self, server: &Server, error: &RedisError, opened: &Opened) -> Away {
        self.reason_of(server, error, &opened.first)
    }

    fn reason_of(&self, server: &Server, error: &RedisError, first: &FirstByte) -> Away {
        Away::of(server, no_answer(error, self.user.as_deref(), self.tls.is_some(), first))
    }
}

/// Connects by TCP to the first address of the host that answers.
async fn connect_tcp(to: &Server) -> io::Result<TcpStream> {
    let mut failed = None;
    for address in resolve(&to.host, to.port).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                keep_alive(&stream)?;
                SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
                return Ok(stream);
            }
            Err(e) => failed = Some(e),
        }
    }
    Err(failed.unwrap_or_else(|| io::Error::other("the host has no address")))
}

#[cfg(test)]
mod tests;
