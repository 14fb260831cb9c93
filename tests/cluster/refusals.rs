//! A Redis that refuses: passwords, certificates, access control, memory, replicas. Nodes say why, keep the messages, and go on
//! once it is mended.

use super::jobs::{Audience, Jobs};
use super::node::{config, metric, node, readiness, wait_above, wait_not_ready, wait_ready, with_keys};
use crate::common::{Broker, Monitor, Redis, Viewer, command, fence, is_root, task, unique, until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fs::{Permissions, set_permissions, write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Makes a file that the user of the monitor may read, and no others.
pub(crate) fn secret(name: &str, content: &str) -> (TempDir, PathBuf) {
    let directory = readable_directory();
    let path = directory.path().join(name);
    write(&path, content).expect("it is writable");
    set_permissions(&path, Permissions::from_mode(0o600)).expect("it is ours");
    if is_root() {
        let nobody = nix::unistd::User::from_name("nobody").expect("users can be read").expect("it is there");
        chown(&path, Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).expect("root may");
    }
    (directory, path)
}

fn readable_directory() -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("it is ours");
    directory
}

/// Starts a node that cannot use Redis for a reason with these words, sends messages, calls `mend`, and asserts that they come.
fn is_refused_until(config: &str, words: &[&str], mend: impl FnOnce()) -> Monitor {
    let monitor = Monitor::start(config);
    monitor.wait_logged(words);
    assert_eq!(readiness(&monitor).0, 503);
    messages_wait(&monitor, || (), mend);
    monitor
}

/// Asserts that messages which come after `harm` wait for `mend`.
fn messages_wait(monitor: &Monitor, harm: impl FnOnce(), mend: impl FnOnce()) {
    let broker = Broker::connect(monitor.brokers);
    let names = [(); 3].map(|()| unique("job"));
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&[monitor], &names);
    harm();
    jobs.tasks(&broker, &names, 30);
    wait_above(monitor, "buffer_bytes", 0);
    mend();
    wait_ready(monitor);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[monitor]);
}

#[test]
fn a_wrong_password_is_named_and_a_right_one_works() {
    let mut redis = Redis::start(&["--requirepass", "right"]);
    let (_directory, path) = secret("password", "swordfish\n");
    let config = with_keys(&format!("redis: [\"{}\"], password_file: '{}'", redis.address(), path.display()), "");
    let monitor = is_refused_until(&config, &["the password is wrong"], || redis.set_password("swordfish"));
    let shown = monitor.log().join("\n");
    assert!(!shown.contains("swordfish"), "no password is logged: {shown}");
    let second = node(&config);
    drop(second);
}

#[test]
fn a_password_that_is_missing_is_named() {
    let redis = Redis::start(&["--requirepass", "right"]);
    is_refused_until(&config(redis.address(), ""), &["it needs a password"], || {
        redis.tell(&["CONFIG", "SET", "requirepass", ""]);
    });
}

/// Each command that the user lacks is named, and given to it, until the node is ready.
#[test]
fn a_command_that_the_acl_refuses_is_named() {
    let redis = Redis::start(&[]);
    let (_directory, path) = secret("password", "secret");
    let keys = format!("redis: [\"{}\"], user: monitor, password_file: '{}'", redis.address(), path.display());
    redis.tell(&["ACL", "SETUSER", "monitor", "on", ">secret", "~recodex:*", "+@all", "-xadd"]);
    let monitor = Monitor::start(&with_keys(&keys, ""));
    let broker = Broker::connect(monitor.brokers);
    broker.task("job", "1");
    let line = monitor.wait_logged(&["access control list", "xadd"]);
    assert!(line.contains("ERROR") || line.contains("WARNING"), "{line}");
    redis.tell(&["ACL", "SETUSER", "monitor", "+xadd"]);
    messages_wait(
        &monitor,
        || drop(redis.tell(&["ACL", "SETUSER", "monitor", "-xadd"])),
        || drop(redis.tell(&["ACL", "SETUSER", "monitor", "+xadd"])),
    );
    Viewer::watch(monitor.viewers, "job").texts(&[task("1", "COMPLETED")]);
    // A key that the user may not use.
    redis.tell(&["ACL", "SETUSER", "monitor", "resetkeys", "~other:*"]);
    redis.tell(&["CLIENT", "KILL", "TYPE", "normal"]);
    wait_not_ready(&monitor, "");
    redis.tell(&["ACL", "SETUSER", "monitor", "~recodex:*"]);
    wait_ready(&monitor);
}

/// Certificates for 127.0.0.1, with the authority that issued them.
fn certificates(directory: &Path, name: &str) -> [PathBuf; 3] {
    let mut authority = CertificateParams::new([]).expect("no name");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, name);
    let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("there is randomness"));
    let issuer = issuer.expect("a usable key");
    let key = KeyPair::generate().expect("there is randomness");
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name").signed_by(&key, &issuer);
    let files = [("ca", issuer.pem()), ("crt", certificate.expect("a usable key").pem()), ("key", key.serialize_pem())];
    files.map(|(kind, pem)| {
        let path = directory.join(format!("{name}.{kind}"));
        write(&path, pem).expect("it is writable");
        path
    })
}

/// The port for TLS is another than that for the test's own commands.
fn tls_redis(certificate: &Path, key: &Path) -> (Redis, u16) {
    let port = crate::common::redis::free_port();
    let (certificate, key) = (certificate.to_str().expect("UTF-8"), key.to_str().expect("UTF-8"));
    let options = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"];
    (Redis::start(&[&["--tls-port", &port.to_string()], &options[..]].concat()), port)
}

#[test]
fn messages_go_through_redis_over_tls() {
    let directory = readable_directory();
    let [ca, certificate, key] = certificates(directory.path(), "known");
    let (_redis, port) = tls_redis(&certificate, &key);
    let config = with_keys(&format!("redis: [\"127.0.0.1:{port}\"], tls: {{ca: '{}'}}", ca.display()), "");
    let nodes = super::node::nodes(2, &config);
    let broker = Broker::connect(nodes[0].brokers);
    let (mut jobs, mut audience) = (Jobs::default(), Audience::default());
    audience.join(&[&nodes[0], &nodes[1]], &["job"]);
    jobs.tasks(&broker, &["job"], 2000);
    jobs.finish(&broker, &["job"]);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[&nodes[0], &nodes[1], &node(&config)]);
}

#[test]
fn an_authority_that_is_not_known_is_named() {
    let directory = readable_directory();
    let [_, certificate, key] = certificates(directory.path(), "known");
    let [ca, ..] = certificates(directory.path(), "other");
    let (redis, port) = tls_redis(&certificate, &key);
    for tls in [format!("{{ca: '{}'}}", ca.display()), "{}".to_owned()] {
        let monitor = Monitor::start(&with_keys(&format!("redis: [\"127.0.0.1:{port}\"], tls: {tls}"), ""));
        monitor.wait_logged(&["certificate"]);
        wait_not_ready(&monitor, "Redis cannot be reached");
    }
    // TLS to a port that does not speak it, and the other way round.
    let keys = [
        format!("redis: [\"{}\"], tls: {{ca: '{}'}}", redis.address(), ca.display()),
        format!("redis: [\"127.0.0.1:{port}\"]"),
    ];
    for keys in keys {
        wait_not_ready(&Monitor::start(&with_keys(&keys, "")), "Redis cannot be reached");
    }
}

#[test]
fn a_redis_without_memory_is_named_and_messages_wait() {
    let redis = Redis::start(&["--maxmemory-policy", "noeviction"]);
    let config = config(redis.address(), "");
    let monitor = node(&config);
    for _ in 0..2 {
        messages_wait(&monitor, || redis.set("maxmemory", "1"), || redis.set("maxmemory", "0"));
        monitor.wait_logged(&["maxmemory"]);
    }
    assert_eq!(metric(&monitor, "gaps_total"), 0);
}

#[test]
fn a_replica_as_the_only_address_is_named() {
    let primary = Redis::start(&[]);
    let replica = Redis::replica_of(&primary, &[]);
    is_refused_until(&config(replica.address(), ""), &["replica"], || {
        replica.tell(&["REPLICAOF", "NO", "ONE"]);
    });
}

/// No command of an administrator makes a primary that is written to a replica by itself; a wrong one does.
#[test]
fn a_primary_that_becomes_a_replica_is_noticed() {
    let other = Redis::start(&[]);
    let redis = Redis::start(&[]);
    let monitor = node(&config(redis.address(), ""));
    messages_wait(
        &monitor,
        || {
            redis.tell(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
            wait_not_ready(&monitor, "");
        },
        || drop(redis.tell(&["REPLICAOF", "NO", "ONE"])),
    );
}

/// Of several addresses, the one of the primary is used, wherever it stands.
#[test]
fn the_primary_is_found_among_several_addresses() {
    let mut primary = Redis::start(&[]);
    let replica = Redis::replica_of(&primary, &[]);
    let nobody = crate::common::redis::free_port();
    let keys = format!("redis: [\"127.0.0.1:{nobody}\", \"{}\", \"{}\"]", replica.address(), primary.address());
    let monitor = node(&with_keys(&keys, ""));
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    broker.task("job", "1");
    fence(&monitor, &broker);
    replica.wait_equal(&primary);
    primary.kill();
    replica.tell(&["REPLICAOF", "NO", "ONE"]);
    broker.send(&["job", "FINISHED"]);
    viewer.texts(&[task("1", "COMPLETED"), command("FINISHED")]);
    viewer.closes(1000);
    until("it was a failover", || (metric(&monitor, "failovers_total") == 1).then_some(()));
}

/// A server that takes connections and does not answer stands before the primary.
#[test]
fn an_address_that_hangs_delays_only_for_a_moment() {
    let primary = Redis::start(&[]);
    let hangs = Redis::start(&[]);
    hangs.freeze();
    let keys = format!("redis: [\"{}\", \"{}\"]", hangs.address(), primary.address());
    let monitor = node(&with_keys(&keys, ""));
    let broker = Broker::connect(monitor.brokers);
    broker.task("job", "1");
    Viewer::watch(monitor.viewers, "job").texts(&[task("1", "COMPLETED")]);
    primary.tell(&["CLIENT", "KILL", "TYPE", "normal"]);
    wait_above(&monitor, "reconnects_total", 0);
    wait_ready(&monitor);
}
