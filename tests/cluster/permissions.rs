//! The user of Redis that the manual makes for the monitor: a node needs all of its rights, and no others.

use crate::common::resp::Reply;
use crate::common::{Broker, Redis, Viewer, command, task, until};
use crate::node::{node, wait_ready, with_keys};
use crate::refusals::secret;
use std::fs::read_to_string;
use std::path::Path;

/// The commands in the manual that make the user.
fn documented_user() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/recodex-monitor.yml.5");
    let page = read_to_string(page).expect("it is there");
    page.lines().filter(|line| line.starts_with("ACL SETUSER monitor ")).map(str::to_owned).collect()
}

/// Returns true if a command was called, such as `xinfo|stream`.
fn was_called(redis: &Redis, command: &str) -> bool {
    let stats = redis.tell(&["INFO", "commandstats"]).text();
    // Redis before 7.0 does not count subcommands.
    let names = [command, command.split('|').next().unwrap_or(command)];
    names.iter().any(|name| stats.contains(&format!("cmdstat_{name}:")))
}

#[test]
fn a_node_needs_each_right_of_the_documented_user_and_no_other() {
    let redis = Redis::start(&[]);
    let user = documented_user();
    for line in &user {
        redis.tell(&line.split_whitespace().collect::<Vec<_>>());
    }
    let (_directory, password) = secret("password", "PASSWORD\n");
    let keys = format!(
        "redis: [\"{}\"], user: monitor, password_file: '{}', stream_bytes: 1048576",
        redis.address(),
        password.display()
    );
    let monitor = node(&with_keys(&keys, ""));
    let broker = Broker::connect(monitor.brokers);

    broker.task("job", "1");
    Viewer::watch(monitor.viewers, "job").texts(&[task("1", "COMPLETED")]);
    // More than the stream may have, so that it is trimmed.
    let long = "x".repeat(50_000);
    (0..40).for_each(|_| broker.task("job", &long));
    broker.send(&["job", "FINISHED"]);
    // What is kept is looked up after a reconnect.
    redis.tell(&["CLIENT", "KILL", "USER", "monitor"]);
    broker.task("other", "2");
    Viewer::watch(monitor.viewers, "other").texts(&[task("2", "COMPLETED")]);
    wait_ready(&monitor);

    let commands: Vec<&str> =
        user.iter().flat_map(|line| line.split_whitespace()).filter_map(|word| word.strip_prefix('+')).collect();
    assert!(commands.len() > 8, "{commands:?}");
    for name in commands {
        until(&format!("a node calls {name}"), || was_called(&redis, name).then_some(()));
    }
    broker.send(&["other", "FINISHED"]);
    Viewer::watch(monitor.viewers, "other").texts(&[task("2", "COMPLETED"), command("FINISHED")]);
    assert_eq!(redis.tell(&["ACL", "LOG"]), Reply::Array(Vec::new()), "nothing was refused");
}
