//! The origins of `allowed_origins`, in the form in which browsers send them.

use super::access::Listed;
use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The origins of pages (RFC 6454) that may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Every page.
    Any,
    /// Pages of this scheme, host and port, in lower case.
    Site(String),
    /// Pages of every host below a domain: the scheme, such as `https://`, and the text after the wildcard, such as `.example.org:8443`.
    Below(&'static str, String),
}

const EXPECTED: &str = "an origin without a path, such as \"https://recodex.example.org\", or \"https://*.example.org\" for \
                        every host below a domain, or \"*\"";

impl Origin {
    /// Returns true if `sent`, the header `Origin` of a request, is allowed by this item.
    pub(crate) fn matches(&self, sent: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Site(site) => sent.eq_ignore_ascii_case(site),
            Self::Below(scheme, end) => {
                let sent = sent.to_ascii_lowercase();
                let labels = sent.strip_prefix(scheme).and_then(|sent| sent.strip_suffix(&**end));
                labels.is_some_and(|labels| labels.split('.').all(is_label))
            }
        }
    }

    /// Parses an origin, as an administrator writes it. The error says what was expected.
    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let lower = text.to_lowercase();
        let Some((scheme, rest)) = lower.split_once("://") else {
            let hint = Self::parse(&format!("https://{text}")).map(|origin| origin.to_string());
            return Err(hint.map_or_else(|_| EXPECTED.into(), |origin| format!("the scheme, too: {origin:?}")));
        };
        let (scheme, implied) = match scheme {
            "http" => ("http://", 80),
            "https" => ("https://", 443),
            "ws" | "wss" => {
                let http = scheme.replace("ws", "http");
                return Err(format!("the origin of the page, not of the monitor; it begins with \"{http}://\""));
            }
            _ => return Err(EXPECTED.into()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if let Some(end) = authority.find(['/', '?', '#']) {
            let site = Self::parse(&format!("{scheme}{}", &authority[..end]))?;
            return Err(format!("an origin without a path: \"{site}\""));
        }
        if !authority.is_ascii() {
            return Err(
                "the name as browsers send it, with \"xn--\" for other letters than a to z; open the page and enter \
                        location.origin in the browser's console to see it"
                    .into(),
            );
        }
        let (host, port) = authority
            .rfind(':')
            .filter(|at| !authority.ends_with(']') && authority.find(']').is_none_or(|end| end + 1 == *at))
            .map_or((authority, None), |at| (&authority[..at], Some(&authority[at + 1..])));
        let port = match port.map(|port| (port.parse::<u16>(), port)) {
            None => String::new(),
            // A browser leaves out the default port of the scheme.
            Some((Ok(port), _)) if port == implied => String::new(),
            Some((Ok(port @ 1..), digits)) if !digits.starts_with('+') => format!(":{port}"),
            Some(_) => return Err("a port from 1 to 65535 after the host".into()),
        };
        match host.strip_prefix("*.") {
            Some(domain) if is_name(domain) && domain.trim_end_matches('.').contains('.') => {
                Ok(Self::Below(scheme, format!(".{domain}{port}")))
            }
            None if !host.contains('*') => {
                let host = canonical(host).ok_or(EXPECTED)?;
                Ok(Self::Site(format!("{scheme}{host}{port}")))
            }
            _ => Err("\"*.\" only before a domain of two names or more, such as \"https://*.example.org\"; it stands for every \
                      host below the domain"
                .into()),
        }
    }
}

/// Returns a host as browsers write it.
fn canonical(host: &str) -> Option<String> {
    if let Some(ip) = host.strip_prefix('[') {
        let ip: Ipv6Addr = ip.strip_suffix(']')?.parse().ok()?;
        return Some(match (ip.to_ipv4_mapped(), ip.segments()) {
            // Browsers write the IPv4 part without dots.
            (Some(_), [.., high, low]) => format!("[::ffff:{high:x}:{low:x}]"),
            (None, _) => format!("[{ip}]"),
        });
    }
    (is_name(host) || host.parse::<Ipv4Addr>().is_ok()).then(|| host.to_owned())
}

/// Returns true for a host name that is no IPv4 address. It may end with a dot.
fn is_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.split('.').all(is_label) && !name.rsplit('.').next().is_some_and(is_number)
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Site(site) => f.write_str(site),
            Self::Below(scheme, end) => write!(f, "{scheme}*{end}"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Origin;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Origin, E> {
                Origin::parse(text).map_err(|expected| E::invalid_value(Unexpected::Str(text), &&*expected))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl Listed for Origin {
    const WHAT: &str = "origins";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(written: &str, sent: &str) -> bool {
        Origin::parse(written).unwrap_or_else(|e| panic!("{written}: {e}")).matches(sent)
    }

    #[test]
    fn an_origin_is_compared_as_browsers_send_it() {
        for (written, sent) in [
            ("HTTPS://A.example:443", "https://a.example"),
            ("https://a.example", "https://A.EXAMPLE"),
            ("https://a.example/", "https://a.example"),
            ("https://a.example:443/", "https://a.example"),
            ("http://a.example:80", "http://a.example"),
            ("http://a.example:0443", "http://a.example:443"),
            ("http://b:8080", "http://b:8080"),
            ("http://192.0.2.7:8080", "http://192.0.2.7:8080"),
            ("http://[::1]", "http://[::1]"),
            ("http://[0:0::1]:81", "http://[::1]:81"),
            ("http://[2001:DB8:0:0::1]", "http://[2001:db8::1]"),
            ("http://[::ffff:192.0.2.10]", "http://[::ffff:c000:20a]"),
            ("https://xn--spti-moa.example", "https://xn--spti-moa.example"),
            ("*", "null"),
        ] {
            assert!(matches(written, sent), "{written}: {sent}");
        }
        for sent in
            ["http://a.example", "https://a.example:8443", "https://a.example.evil", "https://xa.example", "null", ""]
        {
            assert!(!matches("https://a.example", sent), "{sent}");
        }
    }

    #[test]
    fn a_wildcard_is_one_label_or_more_of_the_same_scheme_and_port() {
        for sent in ["https://a.example.org", "https://a.b.EXAMPLE.org", "https://xn--a.example.org"] {
            assert!(matches("https://*.Example.org:443/", sent), "{sent}");
        }
        for sent in [
            "https://example.org",
            "https://.example.org",
            "https://a..example.org",
            "http://a.example.org",
            "https://a.example.org:8443",
            "https://aexample.org",
            "https://a.example.org.evil.example",
            "https://evil.example/.example.org",
            "https://evil.example#.example.org",
            "https://evil.example:1.example.org",
            "https://a@b.example.org",
            "https://*.example.org",
            "null",
        ] {
            assert!(!matches("https://*.example.org", sent), "{sent}");
        }
        assert!(matches("http://*.example.org:8080", "http://a.example.org:8080"));
        assert!(!matches("http://*.example.org:8080", "http://a.example.org"));
    }

    #[test]
    fn an_error_says_what_to_write() {
        for (written, expected) in [
            ("https://a.example/recodex/", "an origin without a path: \"https://a.example\""),
            ("https://a.example:8443/?x", "an origin without a path: \"https://a.example:8443\""),
            ("https://a.example//", "an origin without a path: \"https://a.example\""),
            ("a.example", "the scheme, too: \"https://a.example\""),
            ("*.example.org/", "the scheme, too: \"https://*.example.org\""),
            ("wss://a.example/ws", "the origin of the page, not of the monitor; it begins with \"https://\""),
            ("ftp://a.example", "an origin without a path, such as"),
            ("null", "the scheme, too: \"https://null\""),
            ("", "an origin without a path, such as"),
            ("https://", "an origin without a path, such as"),
            ("https:///", "an origin without a path, such as"),
            ("https://a b", "an origin without a path, such as"),
            ("https://a..b", "an origin without a path, such as"),
            ("https://me@a.example", "an origin without a path, such as"),
            ("https://127.1", "an origin without a path, such as"),
            ("https://[::1", "an origin without a path, such as"),
            ("https://[::1]x", "an origin without a path, such as"),
            ("https://::1", "an origin without a path, such as"),
            ("https://a:", "a port from 1 to 65535"),
            ("https://a:0", "a port from 1 to 65535"),
            ("https://a:+8", "a port from 1 to 65535"),
            ("https://a:65536", "a port from 1 to 65535"),
            ("https://späti.example", "the name as browsers send it, with \"xn--\" for other letters"),
            ("https://*", "\"*.\" only before a domain of two names or more"),
            ("https://*.org", "\"*.\" only before a domain of two names or more"),
            ("https://*.org.", "\"*.\" only before a domain of two names or more"),
            ("https://a.*.org", "\"*.\" only before a domain of two names or more"),
            ("https://*a.example.org", "\"*.\" only before a domain of two names or more"),
            ("https://*.*.example.org", "\"*.\" only before a domain of two names or more"),
            ("https://*.0.2.7", "\"*.\" only before a domain of two names or more"),
            ("https://*.[::1]", "\"*.\" only before a domain of two names or more"),
        ] {
            let error = Origin::parse(written).expect_err(written);
            assert!(error.starts_with(expected), "{written}: {error}");
        }
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        for written in ["*", "https://a.example", "http://[::ffff:192.0.2.10]:8080", "https://*.example.org:8443"] {
            let origin = Origin::parse(written).unwrap();
            assert_eq!(Origin::parse(&origin.to_string()), Ok(origin));
        }
    }
}
