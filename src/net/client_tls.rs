//! TLS as a client: the trusted certificates, and plain words for a refused certificate.

use crate::advice;
use crate::error::{Exit, Failure};
use crate::fs::{Accept, read_bounded, without_mark};
use crate::net::pem;
use crate::net::tls::MAX_FILE;
use chrono::{DateTime, Local};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::Error::NoItemsFound;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::{TlsConnector, rustls};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, SubjectAltName};

/// The most names of a certificate that an error lists.
const MAX_NAMES: usize = 10;

/// The setting that names the file of trusted certificates, as errors call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CaSetting {
    /// The option `--ca`.
    Option,
    /// The key `cluster.tls.ca`.
    Key,
}

impl CaSetting {
    fn name(self) -> &'static str {
        match self {
            Self::Option => "--ca",
            Self::Key => "cluster.tls.ca",
        }
    }

    /// Returns the failure for a file that is wrong.
    fn wrong(self, path: &Path, what: &str) -> Failure {
        match self {
            Self::Option => Failure::new(Exit::Usage, format!("--ca {}: {what}", path.display())),
            Self::Key => Failure::new(Exit::Config, format!("cluster.tls.ca: {}: {what}", path.display())),
        }
    }
}

/// Prepares connections that trust the system's certificates and, in addition, those in the PEM file `ca`. They offer `protocols`
/// (ALPN), if there are any.
///
/// # Errors
/// [`Exit::Usage`] if `ca` cannot be read or used, or [`Exit::Config`] if the configuration names it; [`Exit::Unavailable`] if there
/// is no trusted certificate at all.
pub(crate) fn connector(ca: Option<&Path>, setting: CaSetting, protocols: &[&[u8]]) -> Result<TlsConnector, Failure> {
    let given = ca.map(|ca| certificates(ca, setting)).transpose()?.unwrap_or_default();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    // The key of a server's own certificate must not certify other servers.
    roots.add_parsable_certificates(
        given.iter().filter(|given| Facts::of(given).is_some_and(|facts| facts.ca)).cloned(),
    );
    if roots.is_empty() && given.is_empty() {
        let what = format!(
            "this system trusts no certificate; install the package ca-certificates, see that SSL_CERT_FILE and \
             SSL_CERT_DIR are right if they are set, or name a file by {}",
            setting.name()
        );
        return Err(Failure::new(Exit::Unavailable, what));
    }
    let software = |e: String| Failure::new(Exit::Software, format!("cannot set up TLS: {e}"));
    let provider = Arc::new(ring::default_provider());
    let chains = if roots.is_empty() {
        None
    } else {
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        Some(chains.map_err(|e| software(e.to_string()))?)
    };
    let builder = ClientConfig::builder_with_provider(Arc::<CryptoProvider>::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| software(e.to_string()))?;
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(Verifier { chains, given, setting, algorithms });
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Reads the certificates in a PEM file, or from a pipe.
fn certificates(path: &Path, setting: CaSetting) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let wrong = |what: String| setting.wrong(path, &what);
    let file = read_bounded(path, MAX_FILE, Accept::FileOrPipe);
    let file = file.map_err(|what| match setting {
        CaSetting::Option => wrong(what),
        CaSetting::Key => wrong(advice::to_read(path, what)),
    });
    let file = file?.bytes;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(without_mark(&file)).collect();
    let found = found.map_err(|e| wrong(pem::explain(&e, &file, "certificates")))?;
    if found.is_empty() {
        return Err(wrong(pem::explain(&NoItemsFound, &file, "certificates")));
    }
    for (i, certificate) in found.iter().enumerate() {
        let usable = RootCertStore::empty().add(certificate.clone());
        usable.map_err(|e| wrong(format!("certificate {} of {} cannot be used: {e}", i + 1, found.len())))?;
    }
    Ok(found)
}

/// Explains in plain words why a TLS handshake failed, and names the correction.
pub(crate) fn explain(error: &io::Error) -> String {
    let Some(error) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "the server closed the connection in the TLS handshake".into(),
            _ => format!("the TLS handshake failed: {error}"),
        };
    };
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(refused))) => refused.to_string(),
        Error::AlertReceived(alert) => format!("the server refused the TLS handshake (alert {alert:?})"),
        Error::PeerIncompatible(why) => {
            format!(
                "the server and this program have no version or cipher of TLS in common; expected TLS 1.2 or 1.3 ({why:?})"
            )
        }
        e => format!("the TLS handshake failed: {e}"),
    }
}

/// Checks a server's certificate as web browsers do. A certificate from the file `ca` is trusted without a chain.
#[derive(Debug)]
struct Verifier {
    /// `None` if no CA is trusted.
    chains: Option<Arc<WebPkiServerVerifier>>,
    given: Vec<CertificateDer<'static>>,
    setting: CaSetting,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Returns the error with a text for people, if it is about the certificate.
    fn refused(&self, error: &Error, certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Error {
        let (Error::InvalidCertificate(why), Some(facts)) = (error, Facts::of(certificate)) else {
            return error.clone();
        };
        let what = facts.explain(why, &name.to_str(), !self.given.is_empty(), self.setting.name());
        let what = format!("the server's certificate is refused: {what}");
        CertificateError::Other(OtherError(Arc::new(Refused(what)))).into()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // A given certificate needs no chain, since the user trusts it, even if it is marked as a CA's. The signature still proves
        // that the server has the key.
        let checked = if self.given.iter().any(|given| given == end_entity) {
            check_dates(end_entity, now)
                .and_then(|()| verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name))
                .map(|()| ServerCertVerified::assertion())
        } else if let Some(chains) = &self.chains {
            chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        } else {
            Err(CertificateError::UnknownIssuer.into())
        };
        checked.map_err(|error| self.refused(&error, end_entity, server_name))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let facts = Facts::of(certificate).ok_or(CertificateError::BadEncoding)?;
    let now = Duration::from_secs(now.as_secs());
    if now < facts.begins {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > facts.ends { Err(CertificateError::Expired.into()) } else { Ok(()) }
}

/// The reason, in plain words, for a refused certificate.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// The fields of a certificate that errors mention.
struct Facts {
    begins: Duration,
    ends: Duration,
    names: Vec<String>,
    issuer: String,
    self_signed: bool,
    ca: bool,
}

impl Facts {
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let certificate = certificate.tbs_certificate();
        let names = certificate.get_extension::<SubjectAltName>().ok()?.map_or_else(Vec::new, |(_, names)| names.0);
        let constraints = certificate.get_extension::<BasicConstraints>().ok()?;
        Some(Self {
            begins: certificate.validity().not_before.to_unix_duration(),
            ends: certificate.validity().not_after.to_unix_duration(),
            names: names.iter().filter_map(host).collect(),
            issuer: certificate.issuer().to_string(),
            self_signed: certificate.issuer() == certificate.subject(),
            ca: constraints.is_some_and(|(_, constraints)| constraints.ca),
        })
    }

    /// Explains why the certificate was refused for `name`; `given` is true if `setting` named certificates.
    fn explain(&self, why: &CertificateError, name: &str, given: bool, setting: &str) -> String {
        use CertificateError as E;
        match why {
            E::Expired | E::ExpiredContext { .. } => {
                format!("it expired on {}; the server needs a new one", day(self.ends))
            }
            E::NotValidYet | E::NotValidYetContext { .. } => {
                format!("it is valid only from {} on; is the clock of this machine right?", day(self.begins))
            }
            E::NotValidForName | E::NotValidForNameContext { .. } => {
                let known = match &self.names[..] {
                    [] => "it names no host at all (no subjectAltName)".into(),
                    names if names.len() <= MAX_NAMES => format!("it is for {}", names.join(", ")),
                    names => {
                        format!("it is for {} and {} more", names[..MAX_NAMES].join(", "), names.len() - MAX_NAMES)
                    }
                };
                format!("it is not for {name}; {known}")
            }
            // `BadSignature`: another certificate with the same name is trusted. `Other`: it is marked as a CA's, as those of
            // `openssl req -x509` are.
            E::UnknownIssuer | E::BadSignature | E::Other(_) if self.self_signed && given => {
                format!(
                    "it is self-signed, and is not among the certificates that {setting} names; is that the file of this server?"
                )
            }
            E::UnknownIssuer | E::BadSignature | E::Other(_) if self.self_signed => {
                format!(
                    "it is self-signed, and this system does not trust it; if it is the right one, name its file by {setting}"
                )
            }
            E::UnknownIssuer if given => format!(
                "its issuer ({}) is not trusted; the file that {setting} names has neither this certificate nor that of its issuer; \
                 or the server may lack the intermediate certificates",
                self.issuer
            ),
            E::UnknownIssuer => format!(
                "its issuer ({}) is not trusted by this system; if that is your own CA, name the file of the CA's certificate \
                 by {setting}; else the server may lack the intermediate certificates",
                self.issuer
            ),
            E::Revoked => "it was revoked".into(),
            E::BadSignature => format!(
                "it is not signed by the trusted issuer of that name ({}); does that have a new key?",
                self.issuer
            ),
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => "it is not for a server".into(),
            other => other.to_string(),
        }
    }
}

/// Returns the host in a name of a certificate, if it is a host or an IP address.
fn host(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_bytes()).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_bytes()).map(IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

/// Returns the day of a time since the Unix epoch, in the local time zone.
fn day(time: Duration) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    time.map_or_else(|| "an unknown day".into(), |time| time.with_timezone(&Local).format("%Y-%m-%d").to_string())
}
