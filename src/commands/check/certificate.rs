//! Checks the certificate and its key as the service finds them.

use super::credentials::{Credential, Credentials};
use super::obstacle::{Kind, Obstacle, unreadable};
use super::report::Finding;
use super::sandbox::Sandbox;
use super::unit::{UNIT, Unit};
use crate::config::Tls;
use crate::error::{Exit, Failure};
use crate::net::tls::Certificate;
use chrono::{DateTime, Local};
use nix::unistd::geteuid;
use std::path::PathBuf;
use std::time::SystemTime;

/// The files of a certificate and its key.
pub(super) struct CertificateFiles {
    /// Their paths on this machine.
    tls: Tls,
    /// The files that the monitor opens itself, with their configuration keys.
    opened: Vec<(&'static str, PathBuf)>,
    /// The result of reading them as root, if the service manager reads one of them.
    loaded: Option<Result<Certificate, Failure>>,
    /// A finding about the paths. The files are then not read.
    finding: Option<Finding>,
}

impl CertificateFiles {
    /// Finds the files, and reads them if the service manager hands one of them to the service. Must be called before the check
    /// becomes the service's user.
    pub(super) fn find(tls: &Tls, unit: Option<&Unit>) -> Self {
        let mut files = Self { tls: tls.clone(), opened: Vec::new(), loaded: None, finding: None };
        // The variable names the directory of the credentials, so that systemd need not be asked.
        let is_told = std::env::var_os("CREDENTIALS_DIRECTORY").is_some();
        let asks = !is_told && (tls.certificate.is_relative() || tls.key.is_relative());
        let credentials = unit.filter(|_| asks).map(Credentials::of);
        for (key, path) in [("tls.certificate", &mut files.tls.certificate), ("tls.key", &mut files.tls.key)] {
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
        if credentials.is_some() && files.finding.is_none() {
            files.loaded = Some(Certificate::load(&files.tls));
        }
        files
    }

    /// Checks that the service can read the files, and that they are valid. Must be called after the check has become the service's
    /// user.
    pub(super) fn finding(self, sandbox: Option<&Sandbox>) -> Finding {
        if let Some(finding) = self.finding {
            return finding;
        }
        for (key, path) in &self.opened {
            if let Some(Obstacle { kind, what }) = unreadable(path, sandbox) {
                let more = match kind {
                    Kind::Permission if sandbox.is_some() => {
                        "; or have systemd hand it to the service (LoadCredential=)"
                    }
                    _ => "",
                };
                return Obstacle { kind, what: format!("{key}: {what}{more}") }.finding(Exit::Config);
            }
        }
        let is_credential = self.loaded.is_some();
        match self.loaded.unwrap_or_else(|| Certificate::load(&self.tls)) {
            Err(failure) if is_credential => {
                Finding::Failed(failure.exit(), format!("{failure} (systemd reads it, LoadCredential=)"))
            }
            Err(failure) => Finding::from(&failure),
            Ok(certificate) => end_of(&certificate),
        }
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
                "{key}: {shown}: {UNIT} has no credential of this name; `systemctl edit recodex-monitor` and add the lines [Service] and \
                 LoadCredential={shown}:/the/path/of/the/file; or name a path that begins with /"
            ),
        )),
    }
}

/// Returns the finding about a valid certificate: its names and its end, or a warning of the end.
fn end_of(certificate: &Certificate) -> Finding {
    certificate.warning(SystemTime::now()).map_or_else(
        || {
            let until = DateTime::<Local>::from(certificate.expires).format("%Y-%m-%d");
            let names = match certificate.names.join(", ") {
                none if none.is_empty() => "no host name".into(),
                names => names,
            };
            Finding::Good(format!(
                "{} is for {names}, good until {until}, and its key fits",
                certificate.path.display()
            ))
        },
        Finding::Warning,
    )
}
