//! Checks the installed unit itself: its files, the configuration that it names, its protection.

use super::report::Finding;
use super::sandbox::Sandbox;
use super::unit::{Configuration, Unit};
use crate::error::Exit;
use crate::fs::{Accept, read_bounded};
use std::path::Path;

/// Returns the findings about a unit. `config` is the checked configuration.
pub(super) fn findings(unit: &Unit, sandbox: &Sandbox, config: Option<&Path>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(outdated(unit));
    findings.extend(shadowing(unit));
    findings.extend(configuration(unit, config));
    if sandbox.missing().is_empty() {
        findings.extend(unprotected(unit));
    }
    findings.extend(missing(sandbox));
    findings
}

/// Warns if systemd has not read the latest files of the unit.
fn outdated(unit: &Unit) -> Option<Finding> {
    unit.is_on("NeedDaemonReload").then(|| {
        let what = "the unit's files have changed since systemd read them, and this check has used the older ones; run `systemctl \
                    daemon-reload`";
        Finding::Warning(what.into())
    })
}

/// Warns if systemd uses one file of the unit and ignores another file of the same name.
fn shadowing(unit: &Unit) -> Option<Finding> {
    let ((used, other), name) = (unit.shadowed()?, unit.name.trim_end_matches(".service"));
    let remove = if used.starts_with("/usr/local") { "packaging/install --uninstall" } else { "rm" };
    Some(Finding::Warning(format!(
        "systemd uses {}, and not {}; if it is left from another installation, remove it ({remove}), then `systemctl daemon-reload` \
         and `systemctl restart {name}`; put changes for this machine into a drop-in (`systemctl edit {name}`)",
        used.display(),
        other.display()
    )))
}

/// Compares the configuration that the unit names with the checked one.
fn configuration(unit: &Unit, config: Option<&Path>) -> Option<Finding> {
    let name = &unit.name;
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.into());
    match (unit.configuration(), config) {
        (Configuration::File(file), Some(checked)) if real(&file) != real(checked) => {
            let what = format!("{name} reads {}, not {}", file.display(), checked.display());
            Some(Finding::Warning(format!("{what}; check that one with -c, or change ExecStart=")))
        }
        (Configuration::File(file), None) if file.exists() => {
            Some(Finding::Warning(format!("{name} reads {}; check that one with -c", file.display())))
        }
        (Configuration::File(file), None) => {
            let what = format!("{name} reads {}, which does not exist; make it, or change ExecStart=", file.display());
            Some(Finding::Failed(Exit::Config, what))
        }
        (Configuration::Defaults, Some(_)) => {
            let what =
                format!("{name} reads no configuration, since ExecStart= has no -c; every key has its default there");
            Some(Finding::Warning(what))
        }
        _ => None,
    }
}

/// Warns if the last start failed because systemd could not set up the unit's protection.
fn unprotected(unit: &Unit) -> Option<Finding> {
    let what = unit.unprotected()?;
    // systemd writes this file in a container.
    let container = read_bounded(Path::new("/run/systemd/container"), 64, Accept::File);
    let container = container.map(|content| content.bytes).unwrap_or_default();
    let hint = match String::from_utf8_lossy(&container).trim() {
        "" => "if this is a container".into(),
        name => format!("this is a container ({name})"),
    };
    Some(Finding::Warning(format!(
        "{what}; `journalctl -u {}` has the reason; {hint}: docs/installation.md, \"Containers\", has the drop-in that helps",
        unit.name
    )))
}

/// Fails for paths without which the service does not start.
fn missing(sandbox: &Sandbox) -> impl Iterator<Item = Finding> {
    sandbox.missing().iter().map(|(path, key)| {
        let shown = path.display();
        let what =
            format!("{key}= names {shown}, which does not exist; the service ends with 226/NAMESPACE; make it, or write -{shown}");
        Finding::Failed(Exit::Config, what)
    })
}
