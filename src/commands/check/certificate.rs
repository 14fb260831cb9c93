//! The certificate and its key, as the service finds them.

use super::credentials::{Credential, Credentials};
use super::obstacle::{Kind, Obstacle, unreadable};
use super::report::Finding;
use super::sandbox::Sandbox;
use super::service::{UNIT, Unit};
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
    /// A finding about the paths, which makes it useless to read them.
    finding: Option<Finding>,
}

impl CertificateFiles {
    /// Looks up the paths, and reads the files if the service manager hands one of them to the service. Comes before the check
    /// becomes the service's user.
    pub(super) fn find(tls: &Tls, unit: Option<&Unit>) -> Self {
        let mut files = Self { tls: tls.clone(), opened: Vec::new(), loaded: None, finding: None };
        // The variable says where the credentials are, and nobody needs to be asked.
        let is_told = std::env::var_os("CREDENTIALS_DIRECTORY").is_some();
        let asks = !is_told && (tls.certificate.is_relative() || tls.key.is_relative());
        let credentials = unit.filter(|_| asks).map(Credentials::of);
        for (key, path) in [("tls.certificate", &mut files.tls.certificate), ("tls.key", &mut files.tls.key)] {
            let shown = path.display().to_string();
            let finding = match &credentials {
                Some(credentials) if path.is_relative() => match credentials.find(path) {
                    Credential::File(source) => {
                        *path = source;
                        (!geteuid().is_root()).then(|| {
                            let what =
                                format!("{key}: {shown}: systemd hands it to the service; only root can look at it");
                            Finding::Warning(what)
                        })
                    }
                    Credential::Elsewhere => Some(Finding::Warning(format!(
                        "{key}: {shown}: systemd takes it from a place where this check cannot look"
                    ))),
                    Credential::Missing => Some(Finding::Failed(
                        Exit::Config,
                        format!(
                            "{key}: {shown}: {UNIT} has no credential of this name; `systemctl edit recodex-monitor` and add the \
                             lines [Service] and LoadCredential={shown}:/the/path/of/the/file; or name a path that begins with /"
                        ),
                    )),
                },
                _ if path.is_relative() && !is_told => Some(Finding::Warning(format!(
                    "{key}: {shown}: a path that is relative is looked for in $CREDENTIALS_DIRECTORY, which only a service \
                         has (LoadCredential=)"
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

    /// Checks that the service can read them, and that they are right. Comes after the check has become the service's user.
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
