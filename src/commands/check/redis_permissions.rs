//! Finds the commands that the monitor needs and that its user of Redis may not run.
//!
//! Each command is called in a form that changes nothing. Redis looks at the permissions first, and refuses some of these calls after
//! that.

use super::cluster::answer;
use crate::config::{Cluster, Server};
use crate::stream::connect::{Away, Connection};
use redis::{Cmd, Value, cmd};

/// The commands that the monitor needs, each with the rule that allows it and a call that changes nothing.
fn calls(name: &str) -> Vec<(&'static str, Cmd)> {
    let (stream, epoch) = (format!("{name}:messages"), format!("{name}:epoch"));
    let call = |words: &[&str]| {
        let mut call = cmd(words[0]);
        call.arg(&words[1..]);
        call
    };
    vec![
        ("+role", call(&["ROLE"])),
        ("+info", call(&["INFO", "server"])),
        ("+time", call(&["TIME"])),
        ("+get", call(&["GET", &epoch])),
        // Both conditions at once are an error.
        ("+set", call(&["SET", &epoch, "check", "NX", "XX"])),
        // No entry can have this id.
        ("+xadd", call(&["XADD", &stream, "0-0", "1", "check"])),
        ("+xread", call(&["XREAD", "COUNT", "1", "STREAMS", &stream, "$"])),
        ("+xrange", call(&["XRANGE", &stream, "+", "-", "COUNT", "1"])),
        // No entry has a smaller id.
        ("+xtrim", call(&["XTRIM", &stream, "MINID", "0"])),
        ("+xinfo|stream", call(&["XINFO", "STREAM", &stream])),
        ("+memory|usage", call(&["MEMORY", "USAGE", &stream, "SAMPLES", "1"])),
    ]
}

/// Returns the text about what the user of the monitor may not do, if there is anything.
pub(super) async fn lacking(
    cluster: &Cluster,
    server: &Server,
    connection: &mut Connection,
) -> Result<Option<String>, Away> {
    let user = cluster.user.as_deref().unwrap_or("default");
    let mut rules = Vec::new();
    for (rule, call) in calls(&cluster.name) {
        let Err(error) = answer::<Value>(server, connection, &call).await? else { continue };
        if error.code() != Some("NOPERM") {
            continue;
        }
        let keys = format!("~{}:*", cluster.name);
        if !error.detail().is_some_and(|detail| detail.contains("key")) {
            rules.push(rule.to_owned());
        } else if !rules.contains(&keys) {
            rules.push(keys);
        }
    }
    Ok((!rules.is_empty()).then(|| {
        format!(
            "{server}: user {user} may not do all that the monitor does; give it what is missing: `ACL SETUSER {user} {}`",
            rules.join(" ")
        )
    }))
}
