//! The URL of a monitor's WebSocket that a user typed.

use tokio_tungstenite::tungstenite::http::Uri;

/// The schemes and their default ports.
const SCHEMES: [(&str, u16); 2] = [("ws", 80), ("wss", 443)];

/// A `ws://` or `wss://` URL.
#[derive(Debug)]
pub(crate) struct MonitorUrl {
    /// The URL itself.
    pub(crate) uri: Uri,
    /// True for TLS (`wss://`).
    pub(crate) tls: bool,
    /// The port, 1 to 65535.
    pub(crate) port: u16,
}

impl MonitorUrl {
    /// Parses a URL. The error names the mistake and the URL that was probably meant.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{text} is no URL of a monitor: {what}");
        let example = "expected one such as ws://127.0.0.1:4567/ or wss://recodex.example.org/ws";
        if text.starts_with("unix:") || text.starts_with('/') {
            let what = "a Unix socket cannot be watched; use the URL of the web server that passes viewers on to it, such as \
                        wss://recodex.example.org/ws";
            return Err(wrong(what));
        }
        let (scheme, rest) = text.split_once("://").unwrap_or_else(|| match text.split_once(":/") {
            // With one slash missing.
            Some((scheme, rest)) if SCHEMES.iter().any(|(name, _)| name.eq_ignore_ascii_case(scheme)) => (scheme, rest),
            _ => ("", text),
        });
        let meant = match scheme.to_ascii_lowercase().as_str() {
            "ws" | "wss" if text.contains("://") => None,
            "wss" | "https" => Some("wss"),
            _ => Some("ws"),
        };
        if let Some(meant) = meant {
            let guess = format!("{meant}://{rest}");
            return Err(match Self::parse(&guess) {
                Ok(_) => wrong(&format!("expected ws:// or, for TLS, wss:// at its beginning; did you mean {guess} ?")),
                Err(_) => wrong(example),
            });
        }
        let uri: Uri = text.parse().map_err(|e| wrong(&format!("{e}; {example}")))?;
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| wrong(&format!("it has no host; {example}")))?;
        let default =
            SCHEMES.into_iter().find(|(name, _)| uri.scheme_str().is_some_and(|is| is.eq_ignore_ascii_case(name)));
        let (name, default) = default.ok_or_else(|| wrong("expected ws:// or wss://"))?;
        // In the authority only a colon and the port may follow the host.
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let after = authority.rsplit_once(host).map_or("", |(_, after)| after);
        let port = match after.strip_prefix(':') {
            None | Some("") => default,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| wrong(&format!("its port is {port}; expected a number from 1 to 65535")))?,
        };
        Ok(Self { tls: name == "wss", port, uri })
    }

    /// Returns the host, without the brackets of an IPv6 address.
    pub(crate) fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the same URL with another scheme.
    pub(crate) fn with_scheme(&self, scheme: &str) -> String {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        format!("{scheme}://{}{path}", self.uri.authority().map_or("", |authority| authority.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        for (text, host, port, tls) in [
            ("ws://127.0.0.1:4567/", "127.0.0.1", 4567, false),
            ("ws://127.0.0.1:4567", "127.0.0.1", 4567, false),
            ("WSS://recodex.example.org/ws?a=b", "recodex.example.org", 443, true),
            ("ws://[::1]/", "::1", 80, false),
            ("wss://[::1]:4567/", "::1", 4567, true),
        ] {
            let url = MonitorUrl::parse(text).unwrap();
            assert_eq!((url.host(), url.port, url.tls), (host, port, tls), "{text}");
        }
        assert_eq!(MonitorUrl::parse("ws://[::1]:1/a?b").unwrap().with_scheme("wss"), "wss://[::1]:1/a?b");
    }

    #[test]
    fn a_wrong_url_says_what_was_meant() {
        for (text, said) in [
            ("127.0.0.1:4567", "did you mean ws://127.0.0.1:4567 ?"),
            ("localhost", "did you mean ws://localhost ?"),
            ("https://recodex.example.org/ws", "did you mean wss://recodex.example.org/ws ?"),
            ("http://[::1]:1/", "did you mean ws://[::1]:1/ ?"),
            ("ws:/localhost", "did you mean ws://localhost ?"),
            ("wss:/localhost/ws", "did you mean wss://localhost/ws ?"),
            ("unix:/run/recodex/monitor.sock", "a Unix socket cannot be watched"),
            ("/run/recodex/monitor.sock", "a Unix socket cannot be watched"),
            ("not a url", "expected one such as ws://127.0.0.1:4567/"),
            ("", "expected one such as ws://127.0.0.1:4567/"),
            ("ws://", "expected one such as ws://127.0.0.1:4567/"),
            ("ws://a b/", "expected one such as ws://127.0.0.1:4567/"),
            ("ws://:4567/", "it has no host; expected one such as ws://127.0.0.1:4567/"),
            ("ws://localhost:0/", "its port is 0; expected a number from 1 to 65535"),
            ("ws://localhost:65536/", "its port is 65536; expected a number from 1 to 65535"),
        ] {
            let error = MonitorUrl::parse(text).unwrap_err();
            assert!(error.starts_with(&format!("{text} is no URL of a monitor: ")), "{error}");
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
