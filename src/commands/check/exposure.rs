//! Warns of settings that work, but may let in more peers than intended.

use super::ports::is_local;
use super::report::Finding;
use crate::config::{Address, Endpoint, Origin, Proxy, Settings};
use crate::error::Exit;
use crate::peer::Peer;
use crate::rlimit;
use std::net::IpAddr;

/// Addresses that no machine has. A list of networks that contains one of them names everybody.
const ANYBODY: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

fn anybody() -> impl Iterator<Item = IpAddr> {
    ANYBODY.iter().flat_map(|ip| ip.parse())
}

/// Warns if others than brokers can publish.
pub(super) fn brokers(settings: &Settings) -> Finding {
    // Every IPv4 address, or every IPv6 address, is everybody.
    let any = anybody().any(|ip| settings.zeromq.allow.iter().any(|network| network.contains(ip)));
    if is_local(&settings.zeromq_uri) || !any {
        return Finding::Good(if any {
            "only this machine can connect".into()
        } else {
            "only the networks that it names can connect".into()
        });
    }
    Finding::Warning(
        "every machine that reaches the port can publish to any job; name the brokers' addresses in zeromq.allow"
            .into(),
    )
}

/// Warns of viewers who connect from other machines without encryption, with no web server of another machine between, or from any
/// web site.
pub(super) fn viewers(settings: &Settings) -> Vec<(&'static str, Finding)> {
    let Endpoint::Tcp(address) = &settings.websocket_uri else { return Vec::new() };
    if is_local(address) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    // A web server of this machine does not need the port to be open to others.
    if settings.tls.is_none() && !settings.trusted_proxies.iter().any(Proxy::is_elsewhere) {
        let what = "browsers of other machines connect without encryption: anybody in between can read a job's id, and watch the \
                    job; set tls, or bind it to 127.0.0.1 behind a web server with https; if there is one on another machine, name \
                    it in trusted_proxies";
        findings.push(("websocket_uri", Finding::Warning(what.into())));
    }
    if settings.allowed_origins.contains(&Origin::Any) {
        let what = "it has \"*\": a page of any web site may connect from a student's browser; name the web application's origin, \
                    such as https://recodex.example.org";
        findings.push(("allowed_origins", Finding::Warning(what.into())));
    }
    findings
}

/// Warns if other machines reach the status listener.
pub(super) fn status(address: &Address) -> Option<Finding> {
    (!is_local(address)).then(|| {
        let what = "it can be reached from other machines: anybody there sees the settings and the log's warnings; bind it to \
                    127.0.0.1, or let only your monitoring through the firewall";
        Finding::Warning(what.into())
    })
}

/// Warns if too few files may be open for so many viewers and brokers. `files` is the service's limit, if it has one.
pub(super) fn descriptors(settings: &Settings, files: Option<u64>) -> Finding {
    let files = files.and_then(|files| files.try_into().ok()).unwrap_or_else(rlimit::open_files);
    let mut fitting = settings.clone();
    match fitting.fit(files, 0) {
        Err(e) => Finding::Failed(Exit::Config, e.to_string()),
        Ok((_, Some(warning))) => Finding::Warning(warning),
        Ok((_, None)) => Finding::Good(format!("max is {}, and {files} files may be open", fitting.clients.max)),
    }
}

/// Warns if any client can claim a viewer's address, or if all viewers have the address of one proxy.
pub(super) fn proxies(settings: &Settings) -> Finding {
    let trusted = &settings.trusted_proxies;
    if anybody().any(|ip| Proxy::any(trusted, Peer::Address(ip))) {
        return Finding::Warning(
            "trusted_proxies names everybody: any client can claim any address; name only the proxies".into(),
        );
    }
    let local = match &settings.websocket_uri {
        Endpoint::Tcp(address) => is_local(address),
        Endpoint::Unix(_) => true,
    };
    if settings.clients.max_per_address > 0 && trusted.is_empty() && local {
        return Finding::Warning(
            "max_per_address limits the web server in front of the monitor, since trusted_proxies does not name it and all viewers \
             have its address"
                .into(),
        );
    }
    Finding::Good(match trusted.len() {
        0 => "no proxy is trusted".into(),
        1 => "1 trusted proxy configured".into(),
        n => format!("{n} trusted proxies configured"),
    })
}
