//! TLS for viewers: the certificate and its key, the handshake, and the dates of the certificate.

use crate::error::{Exit, Failure};
use crate::fs::{Accept, Content};
use crate::net::head_limits::{LONG, MAX_HEAD, SHORT_HEAD};
use crate::net::pem;
use crate::net::stream::{Raw, Session};
use crate::{advice, config, fs};
use chrono::{DateTime, Local};
use rustls::crypto::ring;
use rustls::pki_types::pem::Error::NoItemsFound;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Accepted, Acceptor};
use rustls::{Error, InconsistentKeys, ServerConfig};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio_rustls::{StartHandshake, rustls};
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The time before the end of a certificate in which there are warnings.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The most bytes of a certificate or key file that are read.
pub(crate) const MAX_FILE: u64 = 1024 * 1024;
/// The time in which both files must not change at a reload before they count as written.
const QUIET: Duration = Duration::from_millis(200);

/// One signature at a time, and a turn of all other tasks between two: with an RSA key one takes a millisecond, and a rush of viewers
/// must not hold up the others.
static SIGNING: Semaphore = Semaphore::const_new(1);

/// A certificate with its key.
#[derive(Debug)]
pub struct Certificate {
    config: Arc<ServerConfig>,
    /// The file it comes from.
    pub path: PathBuf,
    /// The time at which it begins.
    pub begins: SystemTime,
    /// The time at which it ends.
    pub expires: SystemTime,
    /// Its host names.
    pub(crate) names: Vec<String>,
}

impl Certificate {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    /// [`Exit::Config`] with the path, if a file cannot be read or used, or they do not belong together.
    pub fn load(settings: &config::Tls) -> Result<Self, Failure> {
        Self::of(settings, read(settings))
    }

    /// Reads them again for a monitor that runs. Waits, for seconds at most, until neither file is being written any more. Fails as
    /// [`Certificate::load`] does, and if the files keep changing.
    pub(crate) fn load_again(settings: &config::Tls) -> Result<Self, Failure> {
        let files = fs::settled(|_| QUIET, || read(settings));
        let failed = |what| Failure::new(Exit::Config, format!("tls: {}: {what}", settings.certificate().display()));
        Self::of(settings, files.map_err(failed)?)
    }

    /// Makes a certificate of the files' bytes.
    fn of(settings: &config::Tls, (chain, private): Files) -> Result<Self, Failure> {
        let (certificate, key) = (settings.certificate(), settings.key());
        let failed = |key: &str, path: &Path, what: &str| {
            Failure::new(Exit::Config, format!("tls.{key}: {}: {what}", path.display()))
        };
        let chain = chain.map_err(|what| advice::to_read(&certificate, what)).and_then(|file| parse_chain(&file.bytes));
        let (chain, (begins, expires, names)) = chain.map_err(|what| failed("certificate", &certificate, &what))?;
        let private = private.map_err(|what| advice::to_read(&key, what)).and_then(|file| parse_key(&file.bytes));
        let private = private.map_err(|what| failed("key", &key, &what))?;
        let refused = pem::refused_key(&private);
        let config = server_config(chain, private).map_err(|e| match e {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                let what = format!("it is not the key of the first certificate in {}", certificate.display());
                failed("key", &key, &what)
            }
            // The library does not say why it refuses a key.
            Error::General(_) => failed("key", &key, &refused),
            e => failed("key", &key, &format!("it cannot be used with {}: {e}", certificate.display())),
        })?;
        Ok(Self { config: Arc::new(config), path: certificate, begins, expires, names })
    }

    /// Shakes hands with a viewer. Fails if it has gone, or speaks no TLS 1.2 or 1.3 with a cipher suite of the monitor.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> io::Result<Box<Session>> {
        let accepted = hello(&tcp).await?;
        let handshake = {
            let _turn = SIGNING.acquire().await;
            let handshake = StartHandshake::from_parts(accepted, tcp).into_stream(Arc::clone(&self.config));
            yield_now().await;
            handshake
        };
        let (tcp, session) = handshake.await?.into_inner();
        Ok(Session::new(tcp, session))
    }

    /// Returns a warning if it is not valid at this time, or will soon end.
    #[must_use]
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        let path = self.path.display();
        if now < self.begins {
            let from = DateTime::<Local>::from(self.begins).format("%Y-%m-%d %H:%M");
            let what = "is this machine's clock right? Browsers refuse it until then";
            return Some(format!("tls.certificate: {path}: it is valid only from {from} on; {what}"));
        }
        match self.expires.duration_since(now) {
            Err(_) => Some(format!("tls.certificate: {path}: it has expired; browsers refuse it")),
            Ok(left) if left < EXPIRES_SOON => {
                let when = match left.as_secs() / DAY.as_secs() {
                    0 => "today".to_owned(),
                    days => format!("in {days} days"),
                };
                Some(format!("tls.certificate: {path}: it expires {when}; renew it, then reload the monitor"))
            }
            Ok(_) => None,
        }
    }
}

/// Reads a viewer's first message. A long one waits for a permit, or many could fill the memory.
async fn hello(tcp: &TcpStream) -> io::Result<Accepted> {
    let (mut acceptor, mut total, mut long) = (Acceptor::default(), 0, None);
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            Err((e, mut alert)) => {
                let _ = alert.write(&mut Raw(tcp));
                return Err(io::Error::new(io::ErrorKind::InvalidData, e));
            }
        }
        if total >= SHORT_HEAD && long.is_none() {
            long = LONG.acquire().await.ok();
        }
        let room = if long.is_some() { MAX_HEAD } else { SHORT_HEAD }.saturating_sub(total);
        if room == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its first message is too long"));
        }
        tcp.readable().await?;
        match acceptor.read_tls(&mut Raw(tcp).take(room as u64)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => total += count,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

/// The contents of the certificate's file and of its key's.
type Files = (Result<Content, String>, Result<Content, String>);

fn read(settings: &config::Tls) -> Files {
    let read = |path: PathBuf| fs::read_bounded(&path, MAX_FILE, Accept::File);
    (read(settings.certificate()), read(settings.key()))
}

/// The times at which a certificate begins and ends, and its host names.
type Facts = (SystemTime, SystemTime, Vec<String>);

/// Parses a file of certificates; returns them, and the facts of the first.
fn parse_chain(file: &[u8]) -> Result<(Vec<CertificateDer<'static>>, Facts), String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(fs::without_mark(file)).collect();
    let chain = chain.map_err(|e| pem::explain(&e, file, "a certificate"))?;
    let first = chain.first().ok_or_else(|| pem::explain(&NoItemsFound, file, "a certificate"))?;
    let facts = facts(first).map_err(|e| format!("the first certificate cannot be read: {e}"))?;
    Ok((chain, facts))
}

fn parse_key(file: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(fs::without_mark(file))
        .map_err(|e| pem::explain(&e, file, "a private key without a password"))
}

fn server_config(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn facts(certificate: &CertificateDer<'_>) -> Result<Facts, x509_cert::der::Error> {
    let certificate = x509_cert::Certificate::from_der(certificate)?;
    let certificate = certificate.tbs_certificate();
    let begins = SystemTime::UNIX_EPOCH + certificate.validity().not_before.to_unix_duration();
    let expires = SystemTime::UNIX_EPOCH + certificate.validity().not_after.to_unix_duration();
    let names = certificate.get_extension::<SubjectAltName>()?.map_or_else(Vec::new, |(_, names)| {
        let name = |name| if let GeneralName::DnsName(name) = name { Some(name.to_string()) } else { None };
        names.0.into_iter().filter_map(name).collect()
    });
    Ok((begins, expires, names))
}
