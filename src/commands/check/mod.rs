//! `check`: finds out if the monitor would start and serve on this machine, as its service runs.

mod account;
mod certificate;
mod cluster;
mod command;
mod credentials;
mod exposure;
mod files;
mod holder;
mod key_files;
mod obstacle;
mod ports;
mod redis_permissions;
mod redis_server;
mod report;
mod sandbox;
mod service;
mod unit;

use crate::config::{Address, ConfigError, Endpoint, Instance, Settings, Source};
use crate::error::{Exit, Failure};
use account::{Account, CheckedAs};
use certificate::CertificateFiles;
use cluster::ClusterFiles;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{AccessFlags, access};
use report::{Finding, Report};
use sandbox::Sandbox;
use std::collections::BTreeSet;
use std::path::Path;
use unit::Unit;

/// The packages' configuration, which is checked if no other is named.
const CONFIG: &str = "/etc/recodex/monitor/config.yml";

/// The smallest limit of open files under which the check itself can work.
const FEWEST_FILES: u64 = 64;

/// Checks a configuration and the machine that it is for: the file `config`, else the packages' file, else the defaults. With the name
/// of an instance, for that instance and its unit.
///
/// As root, it checks as the user of the installed unit or, without a unit, as the user in the configuration. Other users check as
/// themselves. Must be called in a tokio runtime, and before any thread starts.
///
/// # Errors
/// If the monitor would not start, with the exit status that it would have.
pub(crate) fn run(config: Option<&Path>, instance: Option<&Instance>) -> Result<(), Failure> {
    let is_named = config.is_some();
    let config = config.or_else(packaged_config);
    let mut installed = unit::installed(instance);
    let unusable = installed.as_mut().err().and_then(|no_unit| no_unit.finding.take());
    let unit = installed.as_ref().ok();
    if let Some(unit) = unit {
        take_limit(unit);
    }
    let runtime = unit.and_then(Unit::runtime_directory);
    let source = config.map(|path| Source::new(path, instance.cloned()).with_runtime_directory(runtime));
    let settings = match source.as_ref().map(Source::load).transpose() {
        Ok(settings) => settings.unwrap_or_default(),
        Err(e) => return no_settings(&e, config, is_named),
    };
    let installed = installed.as_ref().map_err(|no_unit| &*no_unit.why);
    let CheckedAs { line, finding, account, by_unit } = account::checked_as(installed, &settings, source.as_ref());
    let (account, sandbox) = (account.as_ref(), unit.map(Sandbox::of));
    let sandbox = sandbox.as_ref();
    let mut check = Check { report: Report::default(), settings: &settings, config, unit, sandbox, account };

    Report::say(&line)?;
    check.report.add("configuration", named(config, is_named))?;
    check.service(unusable)?;
    check.report.add("user", finding)?;
    check.listeners()?;
    check.limits()?;
    // Only root can see these, so they are looked up before the check becomes the monitor's user.
    let monitors = check.monitors();
    let certificate = settings.tls.as_ref().map(|tls| CertificateFiles::find(tls, unit));
    let cluster = settings.cluster.as_ref().map(|cluster| ClusterFiles::find(cluster, unit));
    let Some(account) = account else { return check.report.end() };
    account.enter()?;
    check.files(&monitors, certificate, by_unit)?;
    if let Some(cluster) = cluster {
        check.cluster(cluster)?;
    }
    check.report.end()
}

/// Returns the packages' configuration, if it exists.
pub(crate) fn packaged_config<'a>() -> Option<&'a Path> {
    Some(Path::new(CONFIG)).filter(|path| path.exists())
}

/// A check in progress.
struct Check<'a> {
    report: Report,
    settings: &'a Settings,
    /// The file of the settings; `None` for the defaults.
    config: Option<&'a Path>,
    unit: Option<&'a Unit>,
    sandbox: Option<&'a Sandbox>,
    account: Option<&'a Account>,
}

impl Check<'_> {
    /// Checks the installed unit. `unusable` is the finding about a unit that exists but cannot be started.
    fn service(&mut self, unusable: Option<Finding>) -> Result<(), Failure> {
        let findings = match (self.unit, self.sandbox) {
            (Some(unit), Some(sandbox)) => service::findings(unit, sandbox, self.config),
            _ => Vec::new(),
        };
        unusable.into_iter().chain(findings).try_for_each(|finding| self.report.add("service", finding))
    }

    /// Checks the ports, and warns if too many peers can reach them.
    fn listeners(&mut self) -> Result<(), Failure> {
        let Self { report, settings, unit, account, .. } = self;
        let mut held = Vec::new();
        let mut port = |key: &str, address: &Address| {
            let shared = settings.share_ports && key != "status_uri";
            ports::port(key, address, shared, &mut held, *unit, *account)
        };
        report.add("zeromq_uri", port("zeromq_uri", &settings.zeromq_uri))?;
        report.add("zeromq.allow", exposure::brokers(settings))?;
        if let Endpoint::Tcp(address) = &settings.websocket_uri {
            report.add("websocket_uri", port("websocket_uri", address))?;
        }
        for (about, finding) in exposure::viewers(settings) {
            report.add(about, finding)?;
        }
        if let Some(Endpoint::Tcp(address)) = settings.status_uri.endpoint() {
            report.add("status_uri", port("status_uri", address))?;
            if let Some(finding) = exposure::status(address) {
                report.add("status_uri", finding)?;
            }
        }
        Ok(())
    }

    /// Checks the limits on viewers.
    fn limits(&mut self) -> Result<(), Failure> {
        self.report.add("clients", exposure::descriptors(self.settings, self.unit.and_then(Unit::open_files)))?;
        self.report.add("clients", exposure::proxies(self.settings))
    }

    /// Returns the paths of the Unix sockets, each with its key.
    fn sockets(&self) -> impl Iterator<Item = (&'static str, &Path)> + use<'_> {
        let Settings { websocket_uri, status_uri, .. } = self.settings;
        let endpoints = [("websocket_uri", Some(websocket_uri)), ("status_uri", status_uri.endpoint())];
        endpoints.into_iter().filter_map(|(key, endpoint)| match endpoint? {
            Endpoint::Unix(path) => Some((key, &**path)),
            Endpoint::Tcp(_) => None,
        })
    }

    /// Returns the running monitors, if they matter for a Unix socket.
    fn monitors(&self) -> BTreeSet<u32> {
        if self.sockets().next().is_none() {
            return BTreeSet::new();
        }
        holder::monitors(self.unit, self.account)
    }

    /// Checks the files, as the monitor's user. The order is that of the start, since the first failure gives the exit status.
    fn files(
        &mut self,
        monitors: &BTreeSet<u32>,
        certificate: Option<CertificateFiles>,
        by_unit: bool,
    ) -> Result<(), Failure> {
        let sockets: Vec<_> = self.sockets().map(|(key, path)| (key, path.to_path_buf())).collect();
        let Self { report, settings, config, unit, sandbox, .. } = self;
        if let Some(finding) = config.and_then(|path| files::configuration(path, *sandbox, by_unit)) {
            report.add("configuration", finding)?;
        }
        report.add("logger", files::log(settings, *sandbox))?;
        if let Some(path) = &settings.history.state {
            report.add("history.state", files::history(path, *sandbox))?;
        }
        if let Some(certificate) = certificate {
            report.add("tls", certificate.finding(*sandbox))?;
        }
        sockets.iter().try_for_each(|(key, path)| {
            let finding = match files::socket(path, monitors, *unit, *sandbox) {
                Finding::Failed(_, what) if *key == "status_uri" && settings.status_uri.is_default() => {
                    Finding::Warning(format!("{what}; until then the monitor runs without a status listener"))
                }
                finding => finding,
            };
            report.add(key, finding)
        })
    }

    /// Checks the Redis of the cluster. A start waits for nothing of it, so this comes last.
    fn cluster(&mut self, cluster: ClusterFiles) -> Result<(), Failure> {
        for (about, finding) in cluster.findings(self.sandbox) {
            self.report.add(about, finding)?;
        }
        Ok(())
    }
}

/// Ends a check whose configuration cannot be used.
fn no_settings(error: &ConfigError, config: Option<&Path>, is_named: bool) -> Result<(), Failure> {
    let me = Account::current().name;
    Report::say(&format!("checked as user {me}, who runs this command, since the configuration cannot be read"))?;
    let can_open = is_named || config.is_some_and(|path| access(path, AccessFlags::R_OK).is_ok());
    let hint = if can_open { "" } else { "; run this as root, or name a file with -c" };
    let mut report = Report::default();
    report.add("configuration", Finding::Failed(Exit::Config, format!("{error}{hint}")))?;
    report.end()
}

/// Sets the limit of open files to the service's, so that the default of `clients.max` is the service's, too.
fn take_limit(unit: &Unit) {
    if let Some(files) = unit.open_files().filter(|files| *files >= FEWEST_FILES) {
        // If this user may not raise the limit, it stays as it is.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, files, files);
    }
}

fn named(config: Option<&Path>, is_named: bool) -> Finding {
    Finding::Good(match config {
        Some(path) if is_named => path.display().to_string(),
        Some(path) => format!("{}, the default, since no file is named", path.display()),
        None => format!("no file is named, and there is no {CONFIG}: every key has its default"),
    })
}
