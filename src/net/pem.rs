//! PEM files of certificates and private keys: errors in plain words for files that cannot be used.

use crate::fs::is_utf_16;
use rustls::pki_types::{PrivateKeyDer, pem};
use tokio_rustls::rustls;
use x509_cert::der::asn1::{AnyRef, ContextSpecific, ObjectIdentifier, OctetStringRef, UintRef};
use x509_cert::der::{self, Decode, Reader, SliceReader};
use x509_cert::spki::AlgorithmIdentifierRef;

/// The keys that the monitor takes: those of `ring`, which signs for it.
const TAKEN: &str =
    "expected an RSA key of 2048 to 8192 bits, an EC key on the curve P-256 or P-384, or an Ed25519 key";
/// A word in the label of a key with a password, and in the header of an old one.
const ENCRYPTED: &str = "ENCRYPTED";
/// The longest label of a section that is repeated in an error, in bytes; those of RFC 7468 have up to 23.
const LABEL: usize = 40;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// Names of algorithms and curves, for errors (RFC 3279, RFC 5480, RFC 8410, SEC 2).
const NAMES: [(ObjectIdentifier, &str); 11] = [
    (RSA, "RSA"),
    (EC, "EC"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10"), "RSA-PSS"),
    (ObjectIdentifier::new_unwrap("1.2.840.10040.4.1"), "DSA"),
    (ObjectIdentifier::new_unwrap("1.3.101.112"), "Ed25519"),
    (ObjectIdentifier::new_unwrap("1.3.101.113"), "Ed448"),
    (ObjectIdentifier::new_unwrap("1.3.101.110"), "X25519"),
    (ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"), "P-256"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.34"), "P-384"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.35"), "P-521"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.10"), "secp256k1"),
];

/// Says why a file that should have `expected` in PEM cannot be read, and what to do.
pub(crate) fn explain(error: &pem::Error, file: &[u8], expected: &str) -> String {
    match error {
        pem::Error::NoItemsFound => format!("expected {expected} in PEM, found {}", found(file)),
        // Its headers are not in base64.
        _ if label(file) == Some(ENCRYPTED) => format!("expected {expected} in PEM, found {}", found(file)),
        e => format!("expected {expected} in PEM: {e}"),
    }
}

/// Names the content of a file that is not what was expected.
fn found(file: &[u8]) -> String {
    if is_utf_16(file) {
        return "UTF-16; save it as UTF-8".into();
    }
    // A DER file is one sequence, which begins with a version in a short key; no text begins like this.
    if let [0x30, 0x80..=0x84, ..] | [0x30, _, 0x02, 0x01, ..] = file {
        return "DER, which is binary; convert it: `openssl x509` or `openssl pkey` with -inform DER -in FILE -out FILE.pem".into();
    }
    match label(file) {
        Some(label) if label.contains(ENCRYPTED) => {
            "one with a password; take the password away: `openssl pkey -in FILE -out FILE.new`".into()
        }
        Some(label) => format!("a section {label:?}"),
        None => "none".into(),
    }
}

/// Returns the label of the first section. An old key with a password says so in its first header.
fn label(file: &[u8]) -> Option<&str> {
    let mut lines = file.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let label = lines.find_map(|line| line.strip_prefix(b"-----BEGIN ")?.strip_suffix(b"-----"))?;
    if lines.next().is_some_and(|line| line.starts_with(b"Proc-Type: 4,ENCRYPTED")) {
        return Some(ENCRYPTED);
    }
    let label = str::from_utf8(label).ok()?;
    (label.len() <= LABEL && label.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')).then_some(label)
}

/// Says why a private key is not taken: its kind, and the kinds that are taken.
pub(crate) fn refused_key(key: &PrivateKeyDer<'_>) -> String {
    match kind(key) {
        Ok(kind) => format!("it is {kind}; {TAKEN}"),
        Err(_) => format!("it is damaged, or of a kind that is not known here; {TAKEN}"),
    }
}

/// Returns the kind of a private key in words.
fn kind(key: &PrivateKeyDer<'_>) -> der::Result<String> {
    let ec = |curve: Option<ObjectIdentifier>| {
        curve.map_or("an EC key".into(), |it| format!("an EC key on the curve {}", name(it)))
    };
    match key {
        PrivateKeyDer::Pkcs1(rsa) => rsa_bits(rsa.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => {
            let key = AnyRef::from_der(key.secret_sec1_der())?;
            let mut fields = SliceReader::new(key.value())?;
            let (_version, _secret): (u8, &OctetStringRef) = (fields.decode()?, fields.decode()?);
            let curve = ContextSpecific::<ObjectIdentifier>::decode_explicit(&mut fields, der::TagNumber(0))?;
            Ok(ec(curve.map(|curve| curve.value)))
        }
        PrivateKeyDer::Pkcs8(key) => {
            let key = AnyRef::from_der(key.secret_pkcs8_der())?;
            let mut fields = SliceReader::new(key.value())?;
            let _version: u8 = fields.decode()?;
            let algorithm: AlgorithmIdentifierRef<'_> = fields.decode()?;
            let secret: &OctetStringRef = fields.decode()?;
            match algorithm.oid {
                RSA => rsa_bits(secret.as_bytes()),
                EC => Ok(ec(algorithm.parameters_oid().ok())),
                other => Ok(format!("a key for {}", name(other))),
            }
        }
        _ => Err(der::ErrorKind::Failed.into()),
    }
}

fn rsa_bits(key: &[u8]) -> der::Result<String> {
    let key = AnyRef::from_der(key)?;
    let mut fields = SliceReader::new(key.value())?;
    let (_version, modulus): (u8, UintRef<'_>) = (fields.decode()?, fields.decode()?);
    let bytes = modulus.as_bytes();
    let unused = bytes.first().map_or(0, |first| first.leading_zeros() as usize);
    Ok(format!("an RSA key of {} bits", bytes.len() * 8 - unused))
}

fn name(identifier: ObjectIdentifier) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == identifier);
    known.map_or_else(|| identifier.to_string(), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{BYTE_ORDER_MARK, without_mark};
    use rustls::crypto::ring::sign::any_supported_type;
    use rustls::pki_types::pem::PemObject;
    use std::process::Command;

    fn openssl(words: &str) -> Vec<u8> {
        let output = Command::new("openssl").args(words.split(' ')).output().expect("openssl is installed");
        assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    #[test]
    fn a_key_that_is_not_taken_is_named_in_each_of_its_forms() {
        for (words, expected) in [
            ("ecparam -name secp521r1 -genkey -noout", "an EC key on the curve P-521"),
            ("ecparam -name secp256k1 -genkey -noout", "an EC key on the curve secp256k1"),
            ("ecparam -name brainpoolP256r1 -genkey", "an EC key on the curve 1.3.36.3.3.2.8.1.1.7"),
            ("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521", "an EC key on the curve P-521"),
            ("genrsa 1024", "an RSA key of 1024 bits"),
            ("genrsa -traditional 1024", "an RSA key of 1024 bits"),
            ("genpkey -algorithm ED448", "a key for Ed448"),
            ("genpkey -algorithm X25519", "a key for X25519"),
        ] {
            let key = PrivateKeyDer::from_pem_slice(&openssl(words)).unwrap();
            assert!(any_supported_type(&key).is_err(), "{words}");
            assert_eq!(refused_key(&key), format!("it is {expected}; {TAKEN}"), "{words}");
        }
    }

    #[test]
    fn the_keys_that_are_said_to_be_taken_are_taken() {
        for words in [
            "genrsa 2048",
            "ecparam -name prime256v1 -genkey -noout",
            "ecparam -name secp384r1 -genkey",
            "genpkey -algorithm ED25519",
        ] {
            let marked = [BYTE_ORDER_MARK, &openssl(words)].concat();
            let key = PrivateKeyDer::from_pem_slice(without_mark(&marked)).unwrap();
            assert!(any_supported_type(&key).is_ok(), "{words}");
        }
    }

    #[test]
    fn what_is_no_key_in_pem_is_named() {
        let p256 = "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256";
        let der = openssl(&format!("{p256} -outform DER"));
        let encrypted = openssl(&format!("{p256} -aes256 -pass pass:x"));
        let long = format!("-----BEGIN {}-----\n", "A".repeat(LABEL + 1));
        for (file, expected) in [
            (&b"\xff\xfe-\0"[..], "UTF-16"),
            (b"\xfe\xff\0-", "UTF-16"),
            (&der, "DER"),
            (&encrypted, "one with a password"),
            (b"-----BEGIN RSA PRIVATE KEY-----\r\nProc-Type: 4,ENCRYPTED\r\n", "one with a password"),
            (b"text\n-----BEGIN CERTIFICATE REQUEST-----\n", "a section \"CERTIFICATE REQUEST\""),
            (b"-----BEGIN PUBLIC KEY-----", "a section \"PUBLIC KEY\""),
            (b"-----BEGIN \x1b[2J-----\n", "none"),
            (long.as_bytes(), "none"),
            (b"", "none"),
        ] {
            let said = explain(&pem::Error::NoItemsFound, file, "a private key");
            let shown = String::from_utf8_lossy(file);
            assert!(said.starts_with(&format!("expected a private key in PEM, found {expected}")), "{said} of {shown}");
        }
    }
}
