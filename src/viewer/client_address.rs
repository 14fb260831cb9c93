//! The address of a viewer: the peer of its connection, or the address that trusted proxies name in `X-Forwarded-For`, `X-Real-IP`
//! or `Forwarded`.

use super::forwarded;
use crate::config::{Proxy, ProxyHeader};
use crate::peer::Peer;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue};

/// Returns the client that the trusted proxy `proxy` names, unless it names nobody or itself.
pub(super) fn named_by(proxy: Peer, named: Option<Peer>, trusted: &[Proxy]) -> Option<Peer> {
    named.filter(|client| !(Proxy::any(trusted, *client) && client.is_same_machine(proxy)))
}

/// Returns the viewer for whom `peer` made the request with these headers.
///
/// Only `header` is believed, and only if `peer` is one of `trusted`. Each proxy adds its client to the end, so the viewer is the last
/// address that is no trusted proxy. A proxy that names nobody, or itself, counts as the viewer: the addresses before it are not looked
/// at.
pub(super) fn viewer(peer: Peer, headers: &HeaderMap, header: ProxyHeader, trusted: &[Proxy]) -> Peer {
    let mut viewer = peer;
    if !Proxy::any(trusted, peer) {
        return viewer;
    }
    for named in named(headers, header).into_iter().rev() {
        let Some(client) = named_by(viewer, named, trusted) else { break };
        viewer = client;
        if !Proxy::any(trusted, viewer) {
            break;
        }
    }
    viewer
}

/// Returns true if the last proxy names an address. If the proxy counts as the viewer nevertheless, that address is its own.
pub(super) fn names_anybody(headers: &HeaderMap, header: ProxyHeader) -> bool {
    named(headers, header).last().is_some_and(Option::is_some)
}

/// Returns the address that each proxy names in this header, from the first to the last; `None` where it names nobody.
fn named(headers: &HeaderMap, header: ProxyHeader) -> Vec<Option<Peer>> {
    let lines: Vec<&[u8]> = headers.get_all(header.name()).iter().map(HeaderValue::as_bytes).collect();
    match header {
        ProxyHeader::XForwardedFor => lines.join(&b',').split(|byte| *byte == b',').map(address).collect(),
        ProxyHeader::XRealIp => match lines[..] {
            [line] => vec![address(line)],
            _ => Vec::new(),
        },
        ProxyHeader::Forwarded => forwarded::parse(&lines.join(&b',')).unwrap_or_default(),
    }
}

/// Parses an address with or without a port, and blanks around it; an IPv6 address may stand in brackets, but has no zone.
fn address(item: &[u8]) -> Option<Peer> {
    let text = str::from_utf8(item.trim_ascii()).ok().filter(|text| !text.contains('%'))?;
    if let Ok(at) = text.parse::<SocketAddr>() {
        return Some(at.into());
    }
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let ip = match bracketed {
        Some(ip) => ip.parse::<Ipv6Addr>().map(IpAddr::V6),
        None => text.parse(),
    };
    ip.ok().map(|ip| Peer::Address(ip.to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProxyHeader::{Forwarded, XForwardedFor, XRealIp};
    use proptest::prelude::*;

    const PROXY: &str = "10.1.1.1:9";
    const REAL: &str = "192.0.2.1";

    fn trusted() -> Vec<Proxy> {
        serde_yaml::from_str("[10.0.0.0/8, \"2001:db8:1::/48\", 127.0.0.1, \"::1\", \"unix:\"]").unwrap()
    }

    fn peer(text: &str) -> Peer {
        if text == "unix:" { Peer::Unix } else { text.parse::<SocketAddr>().unwrap().into() }
    }

    fn seen(from: &str, header: ProxyHeader, lines: &[(&'static str, &[u8])]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        viewer(peer(from), &headers, header, &trusted()).to_string()
    }

    fn said(header: ProxyHeader, value: &[u8]) -> String {
        seen(PROXY, header, &[(header.name(), value)])
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let line = ("x-forwarded-for", &b"192.0.2.1"[..]);
        assert_eq!(seen(PROXY, XForwardedFor, &[line]), REAL);
        assert_eq!(seen("unix:", XForwardedFor, &[line]), REAL);
        assert_eq!(seen("198.51.100.1:9", XForwardedFor, &[line]), "198.51.100.1:9");
        assert_eq!(seen(PROXY, XForwardedFor, &[]), PROXY);
    }

    #[test]
    fn only_the_header_that_is_set_is_believed() {
        let lines =
            [("x-forwarded-for", &b"192.0.2.1"[..]), ("x-real-ip", b"192.0.2.2"), ("forwarded", b"for=192.0.2.3")];
        for (header, viewer) in [(XForwardedFor, "192.0.2.1"), (XRealIp, "192.0.2.2"), (Forwarded, "192.0.2.3")] {
            assert_eq!(seen(PROXY, header, &lines), viewer);
            let others: Vec<_> = lines.into_iter().filter(|(name, _)| *name != header.name()).collect();
            assert_eq!(seen(PROXY, header, &others), PROXY, "{header:?}");
        }
    }

    #[test]
    fn the_viewer_is_the_last_that_is_no_proxy() {
        for (value, viewer) in [
            ("203.0.113.7, 192.0.2.1", "192.0.2.1"),
            ("203.0.113.7, 192.0.2.1, 10.2.2.2", "192.0.2.1"),
            ("10.3.3.3, 10.2.2.2", "10.3.3.3"),
            (" \t192.0.2.1\t ", "192.0.2.1"),
            ("192.0.2.1:4711", "192.0.2.1:4711"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1:80"),
            ("203.0.113.7, ::ffff:10.2.2.2", "203.0.113.7"),
        ] {
            assert_eq!(said(XForwardedFor, value.as_bytes()), viewer, "{value}");
        }
        assert_eq!(said(XForwardedFor, b"\xff, 192.0.2.1"), REAL);
        let twice = [("x-forwarded-for", &b"203.0.113.7"[..]), ("x-forwarded-for", b"192.0.2.1")];
        assert_eq!(seen(PROXY, XForwardedFor, &twice), REAL);
        assert_eq!(said(Forwarded, b"for=192.0.2.1, for=\"10.9.9.9:80\";proto=http"), REAL);
        let twice = [("forwarded", &b"for=203.0.113.7"[..]), ("forwarded", b"for=192.0.2.1")];
        assert_eq!(seen(PROXY, Forwarded, &twice), REAL);
    }

    #[test]
    fn a_proxy_that_names_nobody_or_itself_counts_as_itself() {
        for value in [
            "",
            ",",
            "unknown",
            "203.0.113.7,",
            "203.0.113.7, unknown",
            "203.0.113.7, -",
            "203.0.113.7, _hidden",
            "203.0.113.7, 192.0.2.01",
            "203.0.113.7, 192.0.2",
            "203.0.113.7, [192.0.2.1]",
            "203.0.113.7, 2001:db8::1%1",
            "203.0.113.7, [2001:db8::1%1]:80",
            "203.0.113.7, [2001:db8::1",
            "203.0.113.7, 192.0.2.1:",
            "203.0.113.7, 192.0.2.1:65536",
            "203.0.113.7, \"192.0.2.1\"",
            "203.0.113.7, 192.0.2.1 192.0.2.2",
            "203.0.113.7, \u{a0}192.0.2.1",
            "203.0.113.7, 10.1.1.1",
            "203.0.113.7, 10.1.1.1:80",
            "203.0.113.7, ::ffff:10.1.1.1",
        ] {
            assert_eq!(said(XForwardedFor, value.as_bytes()), PROXY, "{value}");
        }
        for (value, viewer) in [
            ("203.0.113.7, unknown, 10.2.2.2", "10.2.2.2"),
            ("203.0.113.7, 10.2.2.2, 10.2.2.2", "10.2.2.2"),
            ("203.0.113.7, 10.1.1.1, 10.2.2.2", "203.0.113.7"),
        ] {
            assert_eq!(said(XForwardedFor, value.as_bytes()), viewer, "{value}");
        }
        for value in [
            "",
            "for=203.0.113.7,",
            "for=203.0.113.7, for=_hidden",
            "for=203.0.113.7, for=10.1.1.1",
            "for=203.0.113.7; x",
        ] {
            assert_eq!(said(Forwarded, value.as_bytes()), PROXY, "{value}");
        }
        for (from, name) in [("127.0.0.1:9", "::1"), ("[::1]:9", "127.0.0.1"), ("unix:", "127.0.0.1"), ("unix:", "::1")]
        {
            let value = format!("203.0.113.7, {name}");
            assert_eq!(seen(from, XForwardedFor, &[("x-forwarded-for", value.as_bytes())]), from, "{name}");
        }
    }

    #[test]
    fn x_real_ip_is_one_line_with_one_address() {
        assert_eq!(said(XRealIp, b" 192.0.2.1 "), REAL);
        assert_eq!(said(XRealIp, b"2001:db8::1"), "2001:db8::1");
        for value in ["", "203.0.113.7, 192.0.2.1", "203.0.113.7,", "203.0.113.7 192.0.2.1", "unknown", "10.1.1.1"] {
            assert_eq!(said(XRealIp, value.as_bytes()), PROXY, "{value}");
        }
        let twice = [("x-real-ip", &b"192.0.2.1"[..]), ("x-real-ip", b"192.0.2.1")];
        assert_eq!(seen(PROXY, XRealIp, &twice), PROXY);
    }

    #[test]
    fn the_proxy_protocol_names_another_or_nobody() {
        let trusted = trusted();
        let other = |named: Option<&str>| named_by(peer(PROXY), named.map(peer), &trusted).map(|peer| peer.to_string());
        assert_eq!(other(Some("192.0.2.1:1")).as_deref(), Some("192.0.2.1:1"));
        assert_eq!(other(Some("10.2.2.2:1")).as_deref(), Some("10.2.2.2:1"));
        assert_eq!(other(Some("10.1.1.1:1")), None);
        assert_eq!(other(Some("[::ffff:10.1.1.1]:1")), None);
        assert_eq!(other(None), None);
    }

    /// Separators of two pairs, inside quotes or not.
    fn between() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![",", ";", "\",", "\";"])
    }

    /// Bytes that can stand in a header: any bytes, or pairs that could be of use to a client.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let pair = prop::sample::select(vec![
            "203.0.113.1",
            "for=203.0.113.1",
            "for=\"",
            "host=a",
            "host=\"a",
            "host=\"",
            "by=\"_a",
            "x=\"\\",
        ]);
        let pairs = (pair.clone(), prop::collection::vec((between(), pair), 0..3)).prop_map(|(first, more)| {
            let more = more.into_iter().flat_map(|(between, pair)| [between, pair]);
            std::iter::once(first).chain(more).collect::<String>().into_bytes()
        });
        let any = prop_oneof![Just(b'\t'), 32..127_u8, 128..=255_u8];
        prop_oneof![1 => prop::collection::vec(any, 0..30), 7 => pairs]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]

        #[test]
        fn no_bytes_break_it(lines in prop::collection::vec(text(), 0..3)) {
            for header in [XForwardedFor, XRealIp, Forwarded] {
                let lines: Vec<_> = lines.iter().map(|line| (header.name(), &line[..])).collect();
                seen(PROXY, header, &lines);
            }
        }

        /// In one line, or the proxy's line after the client's.
        #[test]
        fn what_a_client_sent_before_the_proxys_word_never_counts(sent in text(), more in text(), joined in any::<bool>()) {
            for (header, word) in [
                (XForwardedFor, REAL), (Forwarded, "for=192.0.2.1"), (Forwarded, "for=\"192.0.2.1\";proto=https"),
            ] {
                let name = header.name();
                let last = if joined { [&more[..], b", ", word.as_bytes()].concat() } else { word.into() };
                let lines = [(name, &sent[..]), (name, &more[..]), (name, &last[..])];
                let viewer = seen(PROXY, header, if joined { &lines[2..] } else { &lines });
                prop_assert!(viewer == REAL || header == Forwarded && viewer == PROXY, "{viewer}");
            }
        }

        /// The host stands anywhere, and the client's own header comes first or is missing.
        #[test]
        fn a_host_that_a_client_chooses_never_names_the_viewer(
            start in "a?", between in between(), host in text(), sent in text(),
        ) {
            let host = [start.as_bytes(), between.as_bytes(), &host].concat();
            for (before, after) in [
                ("for=192.0.2.1;host=\"", "\""),
                ("for=\"192.0.2.1\";host=\"", "\";proto=https"),
                ("host=\"", "\";for=192.0.2.1"),
            ] {
                let said = [before.as_bytes(), &host, after.as_bytes()].concat();
                for said in [[&sent[..], b",", &said].concat(), said] {
                    let viewer = seen(PROXY, Forwarded, &[("forwarded", &said)]);
                    prop_assert!(viewer == REAL || viewer == PROXY, "{viewer}: {}", String::from_utf8_lossy(&said));
                }
            }
        }
    }
}
