//! `check`: whether the monitor would start and serve on this machine, as its service runs.

mod account;
mod certificate;
mod command;
mod credentials;
mod exposure;
mod files;
mod holder;
mod obstacle;
mod ports;
mod report;
mod sandbox;
mod service;

use crate::config::{Address, Endpoint, Settings};
use crate::error::{Exit, Failure};
use crate::fs;
use account::{Account, Judge};
use certificate::CertificateFiles;
use nix::sys::resource::{Resource, setrlimit};
use report::{Finding, Report};
use sandbox::Sandbox;
use service::{Configuration, UNIT, Unit};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

/// The packages' configuration, which is checked if no other is named.
pub const CONFIG: &str = "/etc/recodex/monitor/config.yml";

/// The smallest limit of open files under which the check itself can work.
const FEWEST_FILES: u64 = 64;

/// Checks a configuration, and what it asks of the machine: that at `config`, else the packages', else the defaults. It judges as
/// the installed unit runs the monitor or, without a unit, as the configuration's user. Only root can do so; for others it judges
/// as themselves. Must be called in a tokio runtime, before there are threads.
///
/// # Errors
/// With the exit status that the monitor would have, if it would not start; [`Exit::Config`] if something else is wrong.
pub fn run(config: Option<&Path>) -> Result<(), Failure> {
    let is_named = config.is_some();
    let config = config.or_else(|| Some(Path::new(CONFIG)).filter(|path| path.exists()));
    let mut installed = service::installed();
    let no_unit = installed.as_mut().err().and_then(|no_unit| no_unit.finding.take());
    let unit = installed.as_ref().ok();
    if let Some(unit) = unit {
        take_limit(unit);
    }
    let mut report = Report::default();
    let settings = match config.map(Settings::load).transpose() {
        Ok(settings) => settings.unwrap_or_default(),
        Err(e) => {
            let me = Account::current().name;
            Report::say(&format!("judged as user {me}, who started this, since the configuration cannot be read"))?;
            let can_open = is_named || config.is_some_and(|path| File::open(path).is_ok());
            let hint = if can_open { "" } else { "; run this as root, or name a file with -c" };
            report.add("configuration", Finding::Failed(Exit::Config, format!("{e}{hint}")))?;
            return report.end();
        }
    };
    let judge = account::judge(installed.as_ref().map_err(|no_unit| &*no_unit.why), &settings, config);
    let Judge { line, finding, account, by_unit } = judge;
    Report::say(&line)?;
    report.add("configuration", named(config, is_named))?;
    if let Some(finding) = no_unit {
        report.add("service", finding)?;
    }
    let sandbox = unit.map(Sandbox::of);
    if let (Some(unit), Some(sandbox)) = (unit, &sandbox) {
        for finding in service(unit, sandbox, config) {
            report.add("service", finding)?;
        }
    }
    report.add("user", finding)?;

    // What only root can see.
    let (account, sandbox) = (account.as_ref(), sandbox.as_ref());
    listeners(&mut report, &settings, unit, account)?;
    report.add("clients", exposure::descriptors(&settings, unit.and_then(Unit::open_files)))?;
    report.add("clients", exposure::proxies(&settings))?;
    let monitors = match &settings.websocket_uri {
        Endpoint::Unix(_) => holder::monitors(unit, account),
        Endpoint::Tcp(_) => BTreeSet::new(),
    };
    let certificate = settings.tls.as_ref().map(|tls| CertificateFiles::find(tls, unit));

    // What the monitor's user can do.
    let Some(account) = account else { return report.end() };
    account.enter()?;
    if let Some(finding) = config.and_then(|path| files::configuration(path, sandbox, by_unit)) {
        report.add("configuration", finding)?;
    }
    // In the order in which the start does it, since the first failure gives the status.
    report.add("logger", files::log(&settings, sandbox))?;
    if let Some(path) = &settings.history.state {
        report.add("history.state", files::history(path, sandbox))?;
    }
    if let Some(certificate) = certificate {
        report.add("tls", certificate.finding(sandbox))?;
    }
    if let Endpoint::Unix(path) = &settings.websocket_uri {
        report.add("websocket_uri", files::socket(path, &monitors, sandbox))?;
    }
    report.end()
}

/// Checks the ports, and who can reach them.
fn listeners(
    report: &mut Report,
    settings: &Settings,
    unit: Option<&Unit>,
    account: Option<&Account>,
) -> Result<(), Failure> {
    let mut held = Vec::new();
    let mut port = |key: &str, address: &Address| ports::port(key, address, &mut held, unit, account);
    report.add("zeromq_uri", port("zeromq_uri", &settings.zeromq_uri))?;
    report.add("zeromq.allow", exposure::brokers(settings))?;
    if let Endpoint::Tcp(address) = &settings.websocket_uri {
        report.add("websocket_uri", port("websocket_uri", address))?;
    }
    for (about, finding) in exposure::viewers(settings) {
        report.add(about, finding)?;
    }
    if let Some(address) = &settings.status_uri {
        report.add("status_uri", port("status_uri", address))?;
        if let Some(finding) = exposure::status(address) {
            report.add("status_uri", finding)?;
        }
    }
    Ok(())
}

/// Sets the limit of open files to the service's, so that the default of `clients.max` is the service's, too.
fn take_limit(unit: &Unit) {
    if let Some(files) = unit.open_files().filter(|files| *files >= FEWEST_FILES) {
        // Without permission to raise it, it stays as it is.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, files, files);
    }
}

fn named(config: Option<&Path>, is_named: bool) -> Finding {
    Finding::Good(match config {
        Some(path) if is_named => path.display().to_string(),
        Some(path) => format!("{}, since none is named", path.display()),
        None => format!("none is named, and there is no {CONFIG}: every key has its default"),
    })
}

/// Checks the unit itself.
fn service(unit: &Unit, sandbox: &Sandbox, config: Option<&Path>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if unit.is_on("NeedDaemonReload") {
        let what = "the unit's files have changed since systemd read them, and what is checked is the older state; run `systemctl \
                    daemon-reload`";
        findings.push(Finding::Warning(what.into()));
    }
    if let Some((used, other)) = unit.shadowed() {
        let remove = if used.starts_with("/usr/local") { "packaging/install --uninstall" } else { "rm" };
        let what = format!(
            "systemd uses {}, and not {}; if it is left from another installation, remove it ({remove}), then `systemctl daemon-reload` \
             and `systemctl restart recodex-monitor`; what is to differ on this machine goes into a drop-in (`systemctl edit recodex-monitor`)",
            used.display(),
            other.display()
        );
        findings.push(Finding::Warning(what));
    }
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.into());
    match (unit.configuration(), config) {
        (Configuration::File(file), Some(checked)) if real(&file) != real(checked) => {
            let what = format!("{UNIT} reads {}, not {}", file.display(), checked.display());
            findings.push(Finding::Warning(format!("{what}; check that one with -c, or change ExecStart=")));
        }
        (Configuration::File(file), None) if file.exists() => {
            findings.push(Finding::Warning(format!("{UNIT} reads {}; check that one with -c", file.display())));
        }
        (Configuration::File(file), None) => {
            let what = format!("{UNIT} reads {}, which is not there; make it, or change ExecStart=", file.display());
            findings.push(Finding::Failed(Exit::Config, what));
        }
        (Configuration::Defaults, Some(_)) => {
            let what =
                format!("{UNIT} reads no configuration, since ExecStart= has no -c; every key has its default there");
            findings.push(Finding::Warning(what));
        }
        _ => {}
    }
    if let Some(what) = unit.unprotected().filter(|_| sandbox.missing().is_empty()) {
        // systemd writes this file in a container.
        let container = fs::read_bounded(Path::new("/run/systemd/container"), 64).unwrap_or_default();
        let place = match String::from_utf8_lossy(&container).trim() {
            "" => "if this is a container".into(),
            name => format!("this is a container ({name})"),
        };
        findings.push(Finding::Warning(format!(
            "{what}; `journalctl -u recodex-monitor` has the reason; {place}: docs/installation.md, \"Containers\", has the drop-in that helps"
        )));
    }
    for (path, key) in sandbox.missing() {
        let shown = path.display();
        let what = format!(
            "{key}= names {shown}, which is not there; the service ends with 226/NAMESPACE; make it, or write -{shown}"
        );
        findings.push(Finding::Failed(Exit::Config, what));
    }
    findings
}
