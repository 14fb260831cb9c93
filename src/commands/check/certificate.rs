//! Checks the certificate and its key as the service finds them.

use super::key_files::KeyFiles;
use super::report::Finding;
use super::sandbox::Sandbox;
use super::unit::Unit;
use crate::config::Tls;
use crate::error::Failure;
use crate::net::tls::Certificate;
use chrono::{DateTime, Local};
use std::time::SystemTime;

/// The files of a certificate and its key.
pub(super) struct CertificateFiles {
    /// Their paths on this machine.
    tls: Tls,
    files: KeyFiles,
    /// The result of reading them as root, if the service manager reads one of them.
    loaded: Option<Result<Certificate, Failure>>,
}

impl CertificateFiles {
    /// Finds the files, and reads them if the service manager hands one of them to the service. Must be called before the check
    /// becomes the service's user.
    pub(super) fn find(tls: &Tls, unit: Option<&Unit>) -> Self {
        let mut tls = tls.clone();
        let paths = vec![("tls.certificate", &mut tls.certificate), ("tls.key", &mut tls.key)];
        let files = KeyFiles::find(paths, unit);
        let loaded = files.by_systemd.then(|| Certificate::load(&tls));
        Self { tls, files, loaded }
    }

    /// Checks that the service can read the files, and that they are valid. Must be called after the check has become the service's
    /// user.
    pub(super) fn finding(self, sandbox: Option<&Sandbox>) -> Finding {
        if let Some(finding) = self.files.finding(sandbox) {
            return finding;
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
