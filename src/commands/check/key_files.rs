//! Finds the files that keys of the configuration name. Some of them may be credentials that systemd hands to the service.

use super::credentials::{Credential, Credentials};
use super::obstacle::{Kind, Obstacle, unreadable};
use super::report::Finding;
use super::sandbox::Sandbox;
use super::unit::Unit;
use crate::error::Exit;
use nix::unistd::geteuid;
use std::path::PathBuf;

/// The files that some keys name.
pub(super) struct KeyFiles {
    /// The files that the monitor opens itself, with their keys.
    opened: Vec<(&'static str, PathBuf)>,
    /// True if the service manager reads one of the files. They must then be read before the check becomes the service's user.
    pub(super) by_systemd: bool,
    /// A finding about the paths. The files are then not read.
    finding: Option<Finding>,
}

impl KeyFiles {
    /// Finds the files, and replaces each path by the one on this machine. Must be called before the check becomes the service's user.
    pub(super) fn find(paths: Vec<(&'static str, &mut PathBuf)>, unit: Option<&Unit>) -> Self {
        // The variable names the directory of the credentials, so that systemd need not be asked.
        let is_told = std::env::var_os("CREDENTIALS_DIRECTORY").is_some();
        let asks = !is_told && paths.iter().any(|(_, path)| path.is_relative());
        let credentials = unit.filter(|_| asks).map(Credentials::of);
        let mut files = Self { opened: Vec::new(), by_systemd: false, finding: None };
        for (key, path) in paths {
            let finding = match &credentials {
                Some(credentials) if path.is_relative() => credential(key, path, credentials),
                _ if path.is_relative() && !is_told => Some(Finding::Warning(format!(
                    "{key}: {}: a relative path is relative to $CREDENTIALS_DIRECTORY, which only a service has (LoadCredential=)",
                    path.display()
                ))),
                _ => {
                    if path.is_absolute() {
                        files.opened.push((key, path.clone()));
                    }
                    None
                }
            };
            files.finding = files.finding.take().or(finding);
        }
        files.by_systemd = credentials.is_some() && files.finding.is_none();
        files
    }

    /// Returns the finding about a file that the service cannot read, if there is one. Must be called after the check has become the
    /// service's user.
    pub(super) fn finding(self, sandbox: Option<&Sandbox>) -> Option<Finding> {
        if self.finding.is_some() {
            return self.finding;
        }
        self.opened.iter().find_map(|(key, path)| {
            let Obstacle { kind, what } = unreadable(path, sandbox)?;
            let more = match kind {
                Kind::Permission if sandbox.is_some() => "; or have systemd hand it to the service (LoadCredential=)",
                _ => "",
            };
            Some(Obstacle { kind, what: format!("{key}: {what}{more}") }.finding(Exit::Config))
        })
    }
}

/// Replaces the relative `path` of `key` by the file that systemd hands to the service. Returns a finding if that cannot be read.
fn credential(key: &str, path: &mut PathBuf, credentials: &Credentials) -> Option<Finding> {
    let shown = path.display().to_string();
    match credentials.find(path) {
        Credential::File(source) => {
            *path = source;
            if geteuid().is_root() {
                return None;
            }
            Some(Finding::Warning(format!("{key}: {shown}: systemd hands it to the service; only root can check it")))
        }
        Credential::Elsewhere => {
            let what = format!("{key}: {shown}: systemd takes it from a source that this check cannot read");
            Some(Finding::Warning(what))
        }
        Credential::Missing => Some(Finding::Failed(
            Exit::Config,
            format!(
                "{key}: {shown}: the service has no credential of this name; `systemctl edit recodex-monitor` and add the lines [Service] and \
                 LoadCredential={shown}:/the/path/of/the/file; or name a path that begins with /"
            ),
        )),
    }
}
