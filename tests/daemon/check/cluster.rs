//! Findings about the Redis of a cluster: real servers and Sentinels.

use super::{Machine, PORTS, has_line};
use crate::common::{PRIMARY, Redis, Sentinels};
use std::collections::BTreeSet;
use std::fs::{Permissions, read_to_string, set_permissions, write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The password in the examples of the documentation.
const PASSWORD: &str = "PASSWORD";

/// A configuration with these keys of `cluster`.
fn with(keys: &str) -> String {
    format!("{PORTS}cluster: {{{keys}}}\n")
}

fn of(redis: &Redis, more: &str) -> String {
    with(&format!("redis: [\"{}\"]{more}", redis.address()))
}

/// Checks a configuration, and asserts that the status is this one and that a line begins with `how` and has all `words`.
fn says(machine: &Machine, config: &str, status: i32, how: &str, words: &[&str]) {
    let (found, out, err) = machine.check(config);
    assert!(has_line(&out, how, words), "{how} {words:?} is not there:\n{out}{err}");
    assert_eq!(found, status, "{out}{err}");
}

/// Makes a file that the monitor's user can read.
fn file(machine: &Machine, name: &str, content: &str) -> PathBuf {
    let path = machine.path(name);
    write(&path, content).expect("it is ours");
    set_permissions(&path, Permissions::from_mode(0o644)).expect("it is ours");
    path
}

#[test]
fn a_server_is_described_and_what_may_lose_messages_is_a_warning() {
    let machine = Machine::new();
    let redis = Redis::durable(&[]);
    let at = redis.address().to_string();
    let (status, out, err) = machine.check(&of(&redis, ""));
    assert!(has_line(&out, "ok      cluster.redis: ", &[&at, " is a primary of ", "without replicas"]), "{out}{err}");
    assert!(has_line(&out, "ok      cluster.redis: ", &["keeps the messages on disk (appendonly)"]), "{out}{err}");
    assert!(status == 0 && !out.contains("warning cluster"), "{out}{err}");

    redis.set("maxmemory-policy", "allkeys-lru");
    says(&machine, &of(&redis, ""), 0, "warning cluster.redis: ", &["maxmemory-policy allkeys-lru", "noeviction"]);
    redis.set("appendonly", "no");
    says(&machine, &of(&redis, ""), 0, "warning cluster.redis: ", &["keeps nothing on disk", "`appendonly yes`"]);
    redis.set("save", "3600 1");
    says(&machine, &of(&redis, ""), 0, "ok      cluster.redis: ", &["snapshot", "save 3600 1", "at most a second"]);
}

#[test]
fn a_server_that_cannot_be_used_fails_with_the_reason() {
    let machine = Machine::new();
    let mut redis = Redis::start(&[]);
    redis.set_password("secret");
    says(&machine, &of(&redis, ""), 69, "FAILED  cluster.redis: ", &["it needs a password (cluster.password_file)"]);
    let wrong = format!(", password_file: {}", file(&machine, "wrong", "other\n").display());
    says(&machine, &of(&redis, &wrong), 69, "FAILED  cluster.redis: ", &["the password is wrong"]);
    let right = format!(", password_file: {}", file(&machine, "right", "secret\n").display());
    says(&machine, &of(&redis, &right), 0, "ok      cluster.redis: ", &["is a primary"]);
    let tls = format!("{right}, tls: {{}}");
    says(&machine, &of(&redis, &tls), 69, "FAILED  cluster.redis: ", &["TLS"]);

    let empty = format!(", password_file: {}", file(&machine, "empty", "\n").display());
    says(&machine, &of(&redis, &empty), 78, "FAILED  cluster: ", &["cluster.password_file: ", "/empty: it is empty"]);
    let none = ", password_file: /nowhere/password";
    says(&machine, &of(&redis, none), 78, "FAILED  cluster: ", &["/nowhere/password: cannot open it"]);
    says(
        &machine,
        &of(&redis, ", tls: {ca: /nowhere/ca.pem}"),
        78,
        "FAILED  cluster: ",
        &["cluster.tls.ca: /nowhere/ca.pem"],
    );

    redis.kill();
    says(&machine, &of(&redis, &right), 69, "FAILED  cluster.redis: ", &["connection refused"]);
    // It takes the connection, and nobody reads it.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let keys = format!("redis: [\"{}\"]", silent.local_addr().expect("it is bound"));
    let begin = Instant::now();
    says(&machine, &with(&keys), 69, "FAILED  cluster.redis: ", &["does not answer"]);
    assert!(begin.elapsed() < crate::common::DEADLINE, "{:?}", begin.elapsed());
    let (status, out, _) =
        machine.check_with(&[crate::common::PROGRAM, "-c", machine.config().to_str().expect("UTF-8"), "--check"]);
    assert!(status == 0 && out.contains("stream_bytes: 1073741824"), "--check connects to nothing: {out}");
}

#[test]
fn a_password_file_that_the_monitors_user_cannot_read_fails() {
    let machine = Machine::new();
    let redis = Redis::start(&["--requirepass", "secret"]);
    let path = file(&machine, "password", "secret");
    set_permissions(&path, Permissions::from_mode(0o000)).expect("it is ours");
    let keys = format!(", password_file: {}", path.display());
    says(
        &machine,
        &of(&redis, &keys),
        78,
        "FAILED  cluster: ",
        &["cluster.password_file: ", "cannot open it", "chgrp"],
    );
}

#[test]
#[ignore = "needs root"]
fn a_password_that_the_service_manager_hands_over_is_used() {
    let machine = Machine::with_unit(&[]);
    let redis = Redis::start(&["--requirepass", "secret"]);
    let path = file(&machine, "password", "secret");
    set_permissions(&path, Permissions::from_mode(0o600)).expect("it is ours");
    let answer = format!("a(ss) 1 \"redis.password\" \"{}\"\na(say) 0\na(ss) 0\na(say) 0\n", path.display());
    machine.answers("busctl", &answer);
    says(&machine, &of(&redis, ", password_file: redis.password"), 0, "ok      cluster.redis: ", &["is a primary"]);
    let missing = ["cluster.password_file: other", "no credential of this name", "LoadCredential=other:"];
    says(&machine, &of(&redis, ", password_file: other"), 78, "FAILED  cluster: ", &missing);
}

#[test]
fn a_replica_fails_and_replicas_of_the_primary_are_counted() {
    let machine = Machine::new();
    let primary = Redis::durable(&[]);
    let replica = Redis::replica_of(&primary, &[]);
    let is_replica = format!("is a replica of {}", primary.address());
    says(&machine, &of(&replica, ""), 69, "FAILED  cluster.redis: ", &[&is_replica, "cluster.sentinel"]);
    let both = with(&format!("redis: [\"{}\", \"{}\"]", replica.address(), primary.address()));
    says(&machine, &both, 0, "ok      cluster.redis: ", &[&replica.address().to_string(), "is a replica"]);
    says(&machine, &both, 0, "ok      cluster.redis: ", &[&primary.address().to_string(), "with 1 replica"]);
    says(&machine, &both, 0, "ok      cluster.redis: ", &["min-replicas-to-write 0"]);
    primary.set("min-replicas-to-write", "1");
    let (status, out, _) = machine.check(&both);
    assert!(status == 0 && !out.contains("min-replicas"), "{out}");
}

#[test]
fn each_sentinel_is_asked_for_the_primary() {
    let machine = Machine::new();
    let primary = Redis::durable(&[]);
    let mut sentinels = Sentinels::start(2, primary.address(), &[]);
    let addresses = sentinels.addresses();
    let named = |name: &str| {
        let list: Vec<String> = addresses.iter().map(|at| format!("\"{at}\"")).collect();
        with(&format!("redis: [{}], sentinel: {name}", list.join(", ")))
    };
    let answer = |at| format!("{at} names {}", primary.address());
    for at in &addresses {
        says(&machine, &named(PRIMARY), 0, "ok      cluster.sentinel: ", &[&answer(at)]);
    }
    says(&machine, &named("other"), 69, "FAILED  cluster.redis: ", &["the Sentinels know no primary other"]);
    sentinels.kill(0);
    says(
        &machine,
        &named(PRIMARY),
        0,
        "warning cluster.sentinel: ",
        &[&addresses[0].to_string(), "connection refused"],
    );
    says(&machine, &named(PRIMARY), 0, "ok      cluster.redis: ", &["is a primary"]);
    sentinels.kill(0);
    says(&machine, &named(PRIMARY), 69, "FAILED  cluster.redis: ", &["no Sentinel answers"]);
    let not = with(&format!("redis: [\"{}\"], sentinel: {PRIMARY}", primary.address()));
    says(&machine, &not, 69, "FAILED  cluster.redis: ", &["it is not a Sentinel (cluster.sentinel)"]);
}

#[test]
fn a_server_on_tls_is_reached_if_its_certificate_is_trusted() {
    let machine = Machine::new();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("it can be made");
    let certificate = file(&machine, "redis.crt", &made.cert.pem());
    let key = file(&machine, "redis.key", &made.signing_key.serialize_pem());
    let redis = Redis::durable(&[]);
    let port = crate::common::redis::free_port().to_string();
    redis.set("tls-cert-file", certificate.to_str().expect("UTF-8"));
    redis.set("tls-key-file", key.to_str().expect("UTF-8"));
    redis.set("tls-ca-cert-file", certificate.to_str().expect("UTF-8"));
    redis.set("tls-port", &port);
    let config = |tls: &str| with(&format!("redis: [\"127.0.0.1:{port}\"]{tls}"));
    let trusted = config(&format!(", tls: {{ca: {}}}", certificate.display()));
    says(&machine, &trusted, 69, "FAILED  cluster.redis: ", &["a certificate from its clients", "tls-auth-clients no"]);
    redis.set("tls-auth-clients", "no");
    says(&machine, &trusted, 0, "ok      cluster.redis: ", &["is a primary"]);
    let untrusted = ["the server's certificate is refused", "self-signed", "cluster.tls.ca"];
    says(&machine, &config(", tls: {}"), 69, "FAILED  cluster.redis: ", &untrusted);
    says(&machine, &config(""), 69, "FAILED  cluster.redis: ", &["does it speak TLS there (cluster.tls)?"]);
}

/// The commands in the manual that make the monitor's user.
fn documented_user() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/recodex-monitor.yml.5");
    let page = read_to_string(page).expect("it is there");
    page.lines().filter(|line| line.starts_with("ACL SETUSER monitor ")).map(str::to_owned).collect()
}

fn rules_of<'a>(lines: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let words = lines.into_iter().flat_map(str::split_whitespace);
    words.filter(|word| word.starts_with(['+', '~'])).collect()
}

#[test]
fn the_documented_user_may_do_what_is_needed_and_nothing_else() {
    let machine = Machine::new();
    let redis = Redis::durable(&[]);
    let user = documented_user();
    for command in &user {
        redis.tell(&command.split_whitespace().collect::<Vec<_>>());
    }
    let password = file(&machine, "password", PASSWORD);
    let config = of(&redis, &format!(", user: monitor, password_file: {}", password.display()));
    says(&machine, &config, 0, "ok      cluster.redis: ", &["is a primary"]);

    let rules = rules_of(user.iter().map(String::as_str));
    assert!(rules.len() > 10, "{rules:?}");
    for rule in rules {
        let (without, advice) = match rule.strip_prefix('+') {
            Some(command) => (format!("-{command}"), rule),
            None => ("resetkeys".to_owned(), "~recodex:*"),
        };
        redis.tell(&["ACL", "SETUSER", "monitor", &without]);
        // It is needed before anything else can be checked.
        let (about, status, advice) =
            if rule == "+time" { ("cluster.redis", 69, "'time'") } else { ("cluster.user", 77, advice) };
        says(&machine, &config, status, &format!("FAILED  {about}: "), &["user monitor", advice]);
        redis.tell(&["ACL", "SETUSER", "monitor", rule]);
    }
    says(&machine, &config, 0, "ok      cluster.redis: ", &["is a primary"]);
    assert_eq!(redis.entries(), 0, "a check writes nothing");
}

/// docs/cluster.md makes the same user by an ACL file.
#[test]
fn all_documentation_gives_the_monitors_user_the_same_rights() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cluster.md");
    let Ok(page) = read_to_string(page) else { return };
    let user = documented_user();
    let rules = rules_of(user.iter().map(String::as_str));
    for line in page.lines().filter(|line| line.trim_start().starts_with("user monitor ")) {
        assert_eq!(rules_of([line]), rules, "{line}");
    }
}
