//! Checks the Redis of a cluster: the files, the Sentinels, and the servers that are named.

use super::key_files::KeyFiles;
use super::redis_permissions::lacking;
use super::redis_server::{Info, Way};
use super::report::Finding;
use super::sandbox::Sandbox;
use super::unit::Unit;
use crate::config::{Cluster, Server};
use crate::deadline::timeout;
use crate::error::{Exit, Failure};
use crate::server::startup::runtime;
use crate::stream::connect::{Away, Connection, Redis};
use redis::{Cmd, FromRedisValue, RedisError};
use std::path::PathBuf;
use std::time::Duration;

/// The time for a connection to a server, and for each answer of it.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A finding with the key that it is about.
pub(super) type About = (&'static str, Finding);

/// The files that the section names, and the connections that they are for.
pub(super) struct ClusterFiles {
    /// The section, with the paths on this machine.
    cluster: Cluster,
    files: KeyFiles,
    /// The result of reading the files as root, if the service manager reads one of them.
    loaded: Option<Result<Redis, Failure>>,
}

impl ClusterFiles {
    /// Finds the files, and reads them if the service manager hands one of them to the service. Must be called before the check
    /// becomes the service's user.
    pub(super) fn find(cluster: &Cluster, unit: Option<&Unit>) -> Self {
        let mut cluster = cluster.clone();
        let mut paths: Vec<(&'static str, &mut PathBuf)> = Vec::new();
        paths.extend(cluster.password_file.as_mut().map(|path| ("cluster.password_file", path)));
        paths.extend(cluster.tls.as_mut().and_then(|tls| Some(("cluster.tls.ca", tls.ca.as_mut()?))));
        let files = KeyFiles::find(paths, unit);
        let loaded = files.by_systemd.then(|| Redis::load(&cluster));
        Self { cluster, files, loaded }
    }

    /// Checks that the service can read the files, and that Redis can be used. Must be called after the check has become the service's
    /// user.
    pub(super) fn findings(self, sandbox: Option<&Sandbox>) -> Vec<About> {
        let Self { cluster, files, loaded } = self;
        if let Some(finding) = files.finding(sandbox) {
            return vec![("cluster", finding)];
        }
        let redis = match loaded.unwrap_or_else(|| Redis::load(&cluster)) {
            Ok(redis) => redis,
            Err(failure) => return vec![("cluster", Finding::from(&failure))],
        };
        match runtime() {
            Ok(runtime) => runtime.block_on(Look { cluster: &cluster, redis: &redis, findings: Vec::new() }.look()),
            Err(failure) => vec![("cluster", Finding::from(&failure))],
        }
    }
}

/// A look at the servers.
struct Look<'a> {
    cluster: &'a Cluster,
    redis: &'a Redis,
    findings: Vec<About>,
}

impl Look<'_> {
    async fn look(mut self) -> Vec<About> {
        if let Some(name) = &self.cluster.sentinel {
            self.sentinels(name).await;
        }
        match self.redis.find_primary().await {
            Ok(primary) => {
                if self.cluster.sentinel.is_none() {
                    self.others(&primary).await;
                }
                if let Err(away) = self.server(&primary).await {
                    self.fail(&away);
                }
            }
            Err(away) => self.no_primary(&away).await,
        }
        self.findings
    }

    /// Finds the reason why there is no primary, server by server, without Sentinels.
    async fn no_primary(&mut self, away: &Away) {
        if self.cluster.sentinel.is_none() {
            for server in &self.cluster.redis {
                if let Err(away) = self.server(server).await {
                    self.fail(&away);
                }
            }
        }
        if !self.findings.iter().any(|(_, finding)| matches!(finding, Finding::Failed(..))) {
            self.fail(away);
        }
    }

    fn add(&mut self, about: &'static str, finding: Finding) {
        self.findings.push((about, finding));
    }

    fn fail(&mut self, away: &Away) {
        self.add("cluster.redis", Finding::Failed(Exit::Unavailable, away.to_string()));
    }

    /// Asks each Sentinel for the primary.
    async fn sentinels(&mut self, name: &str) {
        let mut named: Vec<Server> = Vec::new();
        for sentinel in &self.cluster.redis {
            let finding = match self.redis.ask_sentinel(sentinel, name, TIMEOUT).await {
                Ok(Some(server)) => {
                    let text = format!("{sentinel} names {server}");
                    named.push(server);
                    Finding::Good(text)
                }
                Ok(None) => Finding::Warning(format!("{sentinel} knows no primary {name}")),
                Err(away) => Finding::Warning(away.to_string()),
            };
            self.add("cluster.sentinel", finding);
        }
        named.dedup();
        if named.len() > 1 {
            let what = "the Sentinels name different servers, as they do while they change the primary; check again";
            self.add("cluster.sentinel", Finding::Warning(what.into()));
        }
    }

    /// Checks the servers of `cluster.redis` that are not the chosen primary.
    async fn others(&mut self, primary: &Server) {
        for server in self.cluster.redis.iter().filter(|server| *server != primary) {
            let finding = match self.info(server).await {
                Ok(info) if info.is_primary() => Finding::Warning(format!(
                    "{server} is a primary, too; the monitors use {primary}, and each must have the same order of servers"
                )),
                Ok(_) => Finding::Good(format!("{server} is a replica")),
                Err(away) => Finding::Warning(away.to_string()),
            };
            self.add("cluster.redis", finding);
        }
    }

    async fn info(&self, server: &Server) -> Result<Info, Away> {
        let mut connection = self.redis.connect(server, TIMEOUT).await?;
        self.info_by(server, &mut connection).await
    }

    async fn info_by(&self, server: &Server, connection: &mut Connection) -> Result<Info, Away> {
        let text: String = self.ask(server, connection, &redis::cmd("INFO")).await?;
        Ok(Info::parse(&text))
    }

    /// Checks the server that the monitors would use.
    async fn server(&mut self, server: &Server) -> Result<(), Away> {
        let mut connection = self.redis.connect(server, TIMEOUT).await?;
        if let Some(what) = lacking(self.cluster, server, &mut connection).await? {
            self.add("cluster.user", Finding::Failed(Exit::NoPermission, what));
            return Ok(());
        }
        let info = self.info_by(server, &mut connection).await?;
        let saves = answer(server, &mut connection, redis::cmd("CONFIG").arg("GET").arg("save")).await?;
        let saves: Option<(String, String)> = saves.ok();
        let way = Way::to(server, self.cluster).await;
        self.findings.extend(info.findings(server, saves.map(|(_, points)| points).as_deref(), way));
        Ok(())
    }

    async fn ask<T: FromRedisValue>(
        &self,
        server: &Server,
        connection: &mut Connection,
        command: &Cmd,
    ) -> Result<T, Away> {
        let answer = answer(server, connection, command).await?;
        answer.map_err(|e| Away::after(server, &e, self.cluster.user.as_deref()))
    }
}

/// Sends a command. The outer error is that there is no answer in time.
pub(super) async fn answer<T: FromRedisValue>(
    server: &Server,
    connection: &mut Connection,
    command: &Cmd,
) -> Result<Result<T, RedisError>, Away> {
    let answer = timeout(TIMEOUT, command.query_async(connection)).await;
    answer.map_err(|_| Away::late(server, "it does not answer", TIMEOUT, ""))
}
