//! Certificates and keys: at the start, at a reload, and at their end.

use super::{DAY, Files, LONG, Pair, Server, ids, now, refused, texts, tls_keys};
use crate::common::http::{STATUS, metrics, status};
use crate::common::{Broker, Host, Monitor, PROGRAM, Viewer, command, is_root, open_directory, run_words, until};
use rcgen::{CertificateParams, KeyPair};
use recodex_monitor::internals::config;
use recodex_monitor::internals::net::tls::Certificate;
use std::fs::{Permissions, set_permissions, write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring::ALL_CIPHER_SUITES;
use tokio_rustls::rustls::version::{TLS12, TLS13};

/// Runs the program with a certificate and a key until it ends.
fn run_with(wrapper: &[&str], certificate: &Path, key: &Path) -> Output {
    let directory = open_directory();
    let path = directory.path().join("config.yml");
    let ports = "websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n";
    write(&path, format!("{ports}{}", tls_keys(certificate, key))).expect("it is ours");
    run_words(&[wrapper, &[PROGRAM, "-c", path.to_str().expect("UTF-8")]].concat())
}

#[test]
fn a_certificate_or_key_that_cannot_be_used_is_refused_78_with_its_path() {
    let pair = Pair::ending_in(LONG);
    let files = Files::new(&pair);
    let (certificate, key) = (files.certificate(), files.key());
    let (shown, shown_key) = (certificate.display().to_string(), key.display().to_string());
    let file = |name: &str, text: &str| {
        let path = files.directory.path().join(name);
        write(&path, text).expect("it is ours");
        path
    };
    let absent = files.directory.path().join("absent.pem");
    let (absent, no_file) = (absent.as_path(), absent.display().to_string());
    refused(&run_with(&[], absent, &key), &["tls.certificate: ", &no_file, "No such file"]);
    refused(&run_with(&[], &certificate, absent), &["tls.key: ", &no_file, "No such file"]);
    let directory = files.directory.path();
    refused(
        &run_with(&[], directory, &key),
        &["tls.certificate: ", &directory.display().to_string(), "expected a file"],
    );

    // Certificates that are none.
    let junk = "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n";
    for (name, text, why) in [
        ("empty.pem", String::new(), "found none"),
        ("text.pem", "no PEM\n".to_owned(), "found none"),
        ("key-only.pem", pair.key.clone(), "found a section \"PRIVATE KEY\""),
        ("der.pem", "\u{30}\u{77}\u{2}\u{1}\u{1}".to_owned(), "found DER"),
        ("half.pem", pair.certificate[..pair.certificate.len() / 2].to_owned(), "expected a certificate in PEM"),
        ("junk.pem", junk.to_owned(), "the first certificate cannot be read"),
    ] {
        let path = file(name, &text);
        refused(&run_with(&[], &path, &key), &["tls.certificate: ", &path.display().to_string(), why]);
    }

    // Keys that are none.
    let junk = "-----BEGIN PRIVATE KEY-----\nbm90IG9uZQ==\n-----END PRIVATE KEY-----\n";
    for (name, text, why) in [
        ("empty.key", String::new(), "found none"),
        ("text.key", "no PEM\n".to_owned(), "found none"),
        ("certificate.key", pair.certificate.clone(), "found a section \"CERTIFICATE\""),
        ("encrypted.key", ENCRYPTED_KEY.to_owned(), "expected a private key without a password in PEM, found one with"),
        (
            "older.key",
            OLDER_ENCRYPTED_KEY.to_owned(),
            "expected a private key without a password in PEM, found one with",
        ),
        ("half.key", pair.key[..pair.key.len() / 2].to_owned(), "expected a private key"),
        ("junk.key", junk.to_owned(), "it is damaged"),
    ] {
        let path = file(name, &text);
        refused(&run_with(&[], &certificate, &path), &["tls.key: ", &path.display().to_string(), why]);
    }
    let other = file("other.key", &Pair::ending_in(LONG).key);
    let words = ["tls.key: ", &other.display().to_string(), "not the key of", &shown];
    refused(&run_with(&[], &certificate, &other), &words);

    // What even root may not read, or who is none.
    set_permissions(&key, Permissions::from_mode(0o000)).expect("it is ours");
    let without: &[&str] = if is_root() { &["setpriv", "--bounding-set=-dac_override,-dac_read_search"] } else { &[] };
    refused(&run_with(without, &certificate, &key), &["tls.key: ", &shown_key, "cannot open it: Permission denied"]);
}

#[test]
fn the_certificates_that_lead_to_the_root_follow_the_first() {
    use rcgen::{BasicConstraints, CertifiedIssuer, IsCa};
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().expect("there is randomness");
    let root = CertifiedIssuer::self_signed(params.clone(), root_key).expect("a usable key");
    params.distinguished_name.push(rcgen::DnType::CommonName, "between");
    let between_key = KeyPair::generate().expect("there is randomness");
    let between = CertifiedIssuer::signed_by(params, between_key, &root).expect("a usable key");
    let leaf_key = KeyPair::generate().expect("there is randomness");
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let leaf = leaf.signed_by(&leaf_key, &between).expect("a usable key");
    let chain =
        Pair { certificate: leaf.pem() + &between.pem(), key: leaf_key.serialize_pem(), der: root.der().clone() };
    // What is trusted is the root alone.
    drop(Server::with(chain, "").subscribed("job"));
}

#[test]
#[ignore = "needs root"]
fn a_key_that_only_root_may_read_is_refused_with_what_to_do() {
    let files = Files::new(&Pair::ending_in(LONG));
    set_permissions(files.key(), Permissions::from_mode(0o600)).expect("it is ours");
    let path = files.key().display().to_string();
    let output = run_with(&[], &files.certificate(), &files.key());
    refused(&output, &["tls.key: ", &path, "Permission denied", "user nobody cannot read it", "LoadCredential="]);
    // With a group of that user it works, after a reload too.
    let nogroup = nix::unistd::User::from_name("nobody").expect("a user database").expect("nobody is there").gid;
    std::os::unix::fs::chown(files.key(), None, Some(nogroup.as_raw())).expect("root may");
    set_permissions(files.key(), Permissions::from_mode(0o640)).expect("it is ours");
    let monitor = Monitor::start(&files.keys());
    monitor.signal("HUP");
    monitor.wait_logged(&["SIGHUP", "taken up"]);
}

#[test]
fn relative_paths_are_those_of_the_credentials_directory() {
    let pair = Pair::ending_in(LONG);
    let files = Files::new(&pair);
    let credentials = format!("CREDENTIALS_DIRECTORY={}", files.directory.path().display());
    let keys = tls_keys(Path::new("certificate.pem"), Path::new("key.pem"));
    let monitor = Monitor::start_through(&["env", &credentials], Host::default(), &keys);
    let server = Server { monitor, trust: pair.trust(), pair, files };
    drop(server.subscribed("job"));
    // Renewed, as it is after a reload of the unit; and an absolute path is none of them.
    let renewed = Pair::ending_in(LONG);
    server.files.put(&renewed);
    server.monitor.signal("HUP");
    server.monitor.wait_logged(&["SIGHUP", "taken up"]);
    drop(server.connected().secured(&renewed.trust()));
    let output = run_with(&["env", &credentials], Path::new("certificate.pem"), Path::new("/key.pem"));
    refused(&output, &["tls.key: /key.pem: "]);
    let output = run_with(&["env", "-u", "CREDENTIALS_DIRECTORY"], Path::new("certificate.pem"), Path::new("key.pem"));
    refused(&output, &["tls.certificate: certificate.pem: cannot open it"]);
}

#[test]
fn a_reload_takes_up_a_renewed_certificate_and_those_who_are_there_go_on() {
    let server = Server::start(STATUS);
    let broker = Broker::connect(server.monitor.brokers);
    let renewed = Pair::ending_in(2 * LONG);
    // One that would resume its session, and so skip the certificate.
    let resuming = |pair: &Pair| {
        let mut config = pair.trust_with(ALL_CIPHER_SUITES, &[&TLS12, &TLS13]);
        config.resumption = Resumption::in_memory_sessions(8);
        Arc::new(config)
    };
    let shown = |viewer: &mut Viewer| {
        let shown = viewer.session().conn.peer_certificates().expect("it was shown");
        shown[0].clone()
    };
    let expiry = || metrics(status(&server.monitor)).count("recodex_monitor_certificate_expiry_timestamp_seconds");
    let trust = resuming(&server.pair);
    let mut old = server.connected().secured(&trust).upgrade(&[]).subscribe("job");
    assert_eq!(shown(&mut old), server.pair.der);
    let first = expiry();

    server.files.put(&renewed);
    assert_eq!(shown(&mut server.secured()), server.pair.der, "not before it is asked to");
    server.monitor.signal("HUP");
    server.monitor.wait_logged(&["SIGHUP", "taken up"]);
    assert!(server.connected().try_secured(&trust).is_err(), "the old one is not shown any more");
    let mut new = server.connected().secured(&resuming(&renewed)).upgrade(&[]).subscribe("job");
    assert_eq!(shown(&mut new), renewed.der);
    assert!((first + LONG - 60..first + LONG + 60).contains(&expiry()));

    broker.task("job", "1");
    for viewer in [&mut old, &mut new] {
        viewer.texts(&texts(&ids(1, 2)));
    }
    broker.send(&["job", "FINISHED"]);
    for mut viewer in [old, new] {
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
        assert!(viewer.was_told);
    }
}

#[test]
fn a_reload_refuses_a_broken_certificate_in_one_line_and_the_old_one_stays() {
    let server = Server::start("");
    let mut viewer = server.subscribed("job");
    let other = Pair::ending_in(LONG);
    let Pair { certificate, key, .. } = &server.pair;
    let (at, key_at) = (server.files.certificate().display().to_string(), server.files.key().display().to_string());
    for (number, (certificate, key, path)) in [
        (&certificate[..certificate.len() / 2], &key[..], &at),
        ("", key, &at),
        (certificate, "", &key_at),
        // As between two steps of a renewal.
        (certificate, &other.key, &key_at),
        (&other.certificate, key, &key_at),
    ]
    .into_iter()
    .enumerate()
    {
        server.files.put_texts(certificate, key);
        server.monitor.signal("HUP");
        let lines = until("it is said", || {
            let lines = server.monitor.logged(&["SIGHUP"]);
            (lines.len() > number).then_some(lines)
        });
        assert_eq!(lines.len(), number + 1);
        let line = &lines[number];
        assert!(line.contains("ERROR") && line.contains("tls.") && line.contains(path.as_str()), "{line}");
        let said = server.monitor.log().len();
        drop(server.subscribed("other"));
        assert_eq!(server.monitor.log().len(), said, "one line: {:?}", server.monitor.log());
    }
    Broker::connect(server.monitor.brokers).task("job", "1");
    viewer.texts(&texts(&ids(1, 2)));
    server.files.put(&other);
    server.monitor.signal("HUP");
    server.monitor.wait_logged(&["SIGHUP", "taken up"]);
    drop(server.connected().secured(&other.trust()));
}

#[test]
fn a_reload_with_other_paths_takes_them_up_and_tls_itself_needs_a_restart() {
    let (one, other) = (Pair::ending_in(LONG), Pair::ending_in(LONG));
    let files = [Files::new(&one), Files::new(&other)];
    let directory = open_directory();
    let config = directory.path().join("config.yml");
    let put = |more: &str| {
        let ports = "websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n";
        write(&config, format!("{ports}{more}")).expect("it is ours");
    };
    put(&files[0].keys());
    let monitor = Monitor::start_from(&config);
    let secured = |pair: &Pair| Viewer::connected(monitor.viewers).secured(&pair.trust());
    drop(secured(&one));
    put(&files[1].keys());
    monitor.signal("HUP");
    monitor.wait_logged(&["SIGHUP", "taken up"]);
    drop(secured(&other));

    // The files of one that is not used any more may be gone; they are not read again.
    put("clients: {max: 7}\n");
    for file in [files[1].certificate(), files[1].key()] {
        std::fs::remove_file(file).expect("it is ours");
    }
    monitor.signal("HUP");
    let line = monitor.wait_logged(&["WARNING", "restart"]);
    assert!(line.ends_with("need a restart: tls"), "{line}");
    drop(secured(&other).upgrade(&[]).subscribe("job"));

    let monitor = Monitor::start_from(&config);
    put(&files[0].keys());
    monitor.signal("HUP");
    let line = monitor.wait_logged(&["WARNING", "restart"]);
    assert!(line.ends_with("need a restart: tls"), "{line}");
    drop(Viewer::subscribed(monitor.viewers, "job"));
}

#[test]
fn a_certificate_that_ends_soon_is_warned_of_at_the_start_and_at_a_reload() {
    let hour = 60 * 60;
    for (ends, said) in [
        (10 * DAY + hour, Some("it expires in 10 days")),
        (hour, Some("it expires today")),
        (30 * DAY, None),
        (14 * DAY + hour, None),
    ] {
        let mut server = Server::with(Pair::ending_in(ends), "");
        let path = server.files.certificate().display().to_string();
        if let Some(said) = said {
            let line = server.monitor.wait_logged(&["WARNING", "tls.certificate", &path]);
            assert!(line.contains(said), "{line}");
        }
        drop(server.subscribed("job"));
        server.monitor.signal("HUP");
        server.monitor.wait_logged(&["SIGHUP", "taken up"]);
        server.monitor.stop();
        let warnings = server.monitor.logged(&["WARNING"]);
        assert_eq!(warnings.len(), 2 * usize::from(said.is_some()), "{ends} s: {warnings:?}");
    }
}

#[test]
fn a_certificate_that_has_expired_is_warned_of_and_used() {
    let expired = Pair::of(&KeyPair::generate().expect("there is randomness"), now() - DAY, "127.0.0.1");
    let server = Server::with(expired, "");
    let path = server.files.certificate().display().to_string();
    server.monitor.wait_logged(&["WARNING", "tls.certificate", &path, "has expired"]);
    let error = server.connected().try_secured(&server.trust).err().expect("nobody takes it");
    assert!(error.to_string().contains("certificate expired"), "{error}");
    // A browser that was told to go on does.
    let mut renewed = server.pair.trust_with(ALL_CIPHER_SUITES, &[&TLS12, &TLS13]);
    renewed.time_provider = Arc::new(Yesterday);
    drop(server.connected().secured(&Arc::new(renewed)).upgrade(&[]).subscribe("job"));
}

/// A clock that is two days slow.
#[derive(Debug)]
struct Yesterday;

impl tokio_rustls::rustls::time_provider::TimeProvider for Yesterday {
    fn current_time(&self) -> Option<tokio_rustls::rustls::pki_types::UnixTime> {
        Some(tokio_rustls::rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(now() - 2 * DAY)))
    }
}

#[test]
fn a_warning_begins_14_days_before_the_end() {
    let pair = Pair::ending_in(LONG);
    let files = Files::new(&pair);
    let settings = config::Tls { certificate: files.certificate(), key: files.key() };
    let certificate = Certificate::load(&settings).expect("it is good");
    assert_eq!(certificate.path, files.certificate());
    let end = certificate.expires;
    let from_now = end.duration_since(SystemTime::now()).expect("it is later").as_secs();
    assert!((LONG - 60..=LONG).contains(&from_now), "{from_now}");

    let (days, moment) = (|days| Duration::from_secs(days * DAY), Duration::from_nanos(1));
    let said = |at| certificate.warning(at).map(|text| text.split_once("pem: ").expect("the path").1.to_owned());
    let text = |when| Some(format!("it expires {when}; renew it, then reload the monitor"));
    let in_days = |days| text(format!("in {days} days"));
    let today = || text("today".to_owned());
    let expired = Some("it has expired; browsers refuse it".to_owned());
    assert_eq!(said(certificate.begins), None);
    let early = said(certificate.begins - moment).expect("it is not valid yet");
    assert!(early.starts_with("it is valid only from "), "{early}");
    assert_eq!(said(end - days(30)), None);
    assert_eq!(said(end - days(14)), None);
    assert_eq!(said(end - days(14) + moment), in_days(13));
    assert_eq!(said(end - days(10)), in_days(10));
    assert_eq!(said(end - days(2)), in_days(2));
    assert_eq!(said(end - days(1) + moment), today());
    assert_eq!(said(end), today());
    assert_eq!(said(end + moment), expired);
    assert_eq!(said(end + days(400)), expired);
}

const ENCRYPTED_KEY: &str = "\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAh3M6UBTh/mVwICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEIZ1CVTyUwLkDa16cO6EAwAEgZC1
mWTJGrGbOE+c7rNN+RevZB+EXMKu6RpqUqtZNuJYRLrM313JR4KajMzoK4xAK7Pc
o3qhbZtoPkFV5FAd5wWTzBjUuXHFX3NR1nn+pOc5N8OdlgLK9p35fyd55KLYX9FL
1CZ1DhNeGGUsy+Y471/T2pzZQbyDkThCk1a9fmfduTYnKFsRyjjHZXK5EwOzwUc=
-----END ENCRYPTED PRIVATE KEY-----
";

/// As openssl wrote them before version 1.0.
const OLDER_ENCRYPTED_KEY: &str = "\
-----BEGIN EC PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-128-CBC,ADC05F45F49CC819ACE61FB148D7C585

bLVGOtAS1dX3oyI/O0z0PqU3qljr28wARe1dW1GAASDkFhHJdf48q5U+T3BwwDyF
YQ5XSOmo76RMtCsF5f57hPmZcwwRu+rppF2hTZeTwRoV8+yGbWIn2IbdanomqCpv
aim597pUG/b1nM9G+i48owBofvg+xPVyy+b/0UA+EwA=
-----END EC PRIVATE KEY-----
";
