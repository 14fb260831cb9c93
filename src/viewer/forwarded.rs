//! The parser of the `Forwarded` header (RFC 7239): returns the address that each of its elements names.
//!
//! It is stricter than the RFC where a client can choose the text. nginx and others put `$host` between quotes as it is, with the
//! quotes that are in it, so a client can end the string and go on with parameters and elements of its own. Therefore each parameter
//! takes only the values that it needs, parameters that the RFC does not define are refused, and a header with `host` has one element.

use crate::peer::Peer;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

/// Returns the address that each element names in `for`, from the first element to the last; `None` where it names nobody: no `for`,
/// `unknown`, or an identifier that hides the address.
///
/// Returns `None` for the whole value if a part of it is against the grammar. Several lines of the header are one value, joined by
/// commas.
pub(super) fn parse(value: &[u8]) -> Option<Vec<Option<Peer>>> {
    let mut rest = value;
    let mut named = Vec::new();
    let mut has_host = false;
    loop {
        skip_blanks(&mut rest);
        let element = element(&mut rest)?;
        named.push(element.named);
        has_host |= element.has_host;
        skip_blanks(&mut rest);
        if rest.is_empty() {
            break;
        }
        take(&mut rest, b',')?;
    }
    (!has_host || named.len() == 1).then_some(named)
}

/// The facts of an element that are used.
#[derive(Default)]
struct Element {
    named: Option<Peer>,
    has_host: bool,
}

/// Takes an element: pairs `name=value` between semicolons, each name at most once. It may be empty.
fn element(rest: &mut &[u8]) -> Option<Element> {
    let mut element = Element::default();
    let mut seen: Vec<&[u8]> = Vec::new();
    loop {
        let name = token(rest);
        if !name.is_empty() {
            if seen.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                return None;
            }
            seen.push(name);
            take(rest, b'=')?;
            let value = value(rest)?;
            let value = str::from_utf8(&value).ok()?;
            match &*name.to_ascii_lowercase() {
                b"for" => element.named = node(value)?.address(),
                b"by" if node(value).is_some() => {}
                b"host" if is_host(value) => element.has_host = true,
                b"proto" if is_scheme(value) => {}
                _ => return None,
            }
        }
        if take(rest, b';').is_none() {
            return Some(element);
        }
    }
}

/// Takes a value: a token, or a string in quotes, in which a backslash makes the next character stand for itself.
fn value<'a>(rest: &mut &'a [u8]) -> Option<Cow<'a, [u8]>> {
    if take(rest, b'"').is_none() {
        let token = token(rest);
        return (!token.is_empty()).then_some(token.into());
    }
    let mut text = Vec::new();
    loop {
        let (mut byte, mut after) = rest.split_first()?;
        if *byte == b'"' {
            *rest = after;
            return Some(text.into());
        }
        if *byte == b'\\' {
            (byte, after) = after.split_first()?;
        }
        if byte.is_ascii_control() && *byte != b'\t' {
            return None;
        }
        text.push(*byte);
        *rest = after;
    }
}

/// Takes a token (RFC 9110, section 5.6.2), which may be empty.
fn token<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let length = rest.iter().take_while(|byte| is_token(byte)).count();
    let (token, after) = rest.split_at(length);
    *rest = after;
    token
}

/// Takes this byte, if it is the next.
fn take(rest: &mut &[u8], byte: u8) -> Option<()> {
    *rest = rest.strip_prefix(&[byte])?;
    Some(())
}

fn skip_blanks(rest: &mut &[u8]) {
    while let [b' ' | b'\t', after @ ..] = rest {
        *rest = after;
    }
}

/// A node, which a parameter names (RFC 7239, section 6).
enum Node {
    Address(IpAddr, Option<u16>),
    /// `unknown`, or an identifier that hides the address.
    Hidden,
}

impl Node {
    fn address(self) -> Option<Peer> {
        match self {
            Self::Address(ip, Some(port)) => Some(SocketAddr::new(ip, port).into()),
            Self::Address(ip, None) => Some(Peer::Address(ip.to_canonical())),
            Self::Hidden => None,
        }
    }
}

/// Parses a node, such as `192.0.2.43`, `[2001:db8::1]`, `unknown` or `_hidden`, each with or without `:80` or `:_hidden`.
fn node(text: &str) -> Option<Node> {
    // A colon is part of an address in brackets only.
    let end = text.find(']').map_or(0, |at| at + 1);
    let (name, port) = match text[end..].split_once(':') {
        Some((more, port)) => (&text[..end + more.len()], Some(port)),
        None => (text, None),
    };
    let port = match port {
        Some(port) if !is_hidden(port) => Some(number(port)?),
        _ => None,
    };
    if name.eq_ignore_ascii_case("unknown") || is_hidden(name) {
        return Some(Node::Hidden);
    }
    let ip = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(ip) => IpAddr::V6(ip.parse().ok()?),
        None => IpAddr::V4(name.parse().ok()?),
    };
    Some(Node::Address(ip, port))
}

/// Parses a port of one to five digits.
fn number(text: &str) -> Option<u16> {
    let is_number = (1..=5).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// Returns true for an identifier that a proxy has made up to hide an address or a port (RFC 7239, section 6.3).
fn is_hidden(text: &str) -> bool {
    let made_up = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.strip_prefix('_').is_some_and(|rest| !rest.is_empty() && rest.bytes().all(made_up))
}

/// Returns true if the text can be a host's name or address, and its port. The RFC also allows `,`, `;` and `=` in a name, which no
/// host has.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
}

/// Returns true for the name of a protocol (RFC 3986, section 3.1).
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the address of each element, with blanks between them; `?` is nobody.
    fn read(value: &str) -> Option<String> {
        let words = |peer: Option<Peer>| peer.map_or("?".into(), |peer| peer.to_string());
        parse(value.as_bytes()).map(|named| named.into_iter().map(words).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_follows_the_rfc_is_read() {
        for (value, named) in [
            ("for=192.0.2.43", "192.0.2.43"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "[2001:db8:cafe::17]:4711"),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("for=192.0.2.43, for=198.51.100.17;by=_x", "192.0.2.43 198.51.100.17"),
            ("for=192.0.2.43,for=\"[2001:db8:cafe::17]\",for=unknown", "192.0.2.43 2001:db8:cafe::17 ?"),
            ("for=_hidden, for=_SEVKISEK", "? ?"),
            ("for=\"_gazonk\"", "?"),
            ("for=\"_a.b-c_d:_port\"", "?"),
            ("for=\"192.0.2.43:47011\"", "192.0.2.43:47011"),
            ("for=\"192.0.2.43:_p\"", "192.0.2.43"),
            ("for=\"UNKNOWN:80\"", "?"),
            ("for=\"[::ffff:192.0.2.1]:080\"", "192.0.2.1:80"),
            ("for=\"[::ffff:192.0.2.1]\"", "192.0.2.1"),
            ("for=\"1\\92.0.2.4\\3\"", "192.0.2.43"),
            ("\t for=192.0.2.43 \t,\tfor=192.0.2.44 ", "192.0.2.43 192.0.2.44"),
            (";;for=192.0.2.43;;proto=https;", "192.0.2.43"),
            ("for=192.0.2.43;host=\"example.org:8080\";proto=wss", "192.0.2.43"),
            ("host=\"[::1]:80\";for=192.0.2.43", "192.0.2.43"),
            ("proto=https", "?"),
            ("by=\"[2001:db8::1]:80\"", "?"),
            // An empty element names nobody and is not passed over: it may be all that a proxy said.
            ("", "?"),
            (" ", "?"),
            ("for=192.0.2.43,", "192.0.2.43 ?"),
            ("for=192.0.2.43, ,for=192.0.2.44", "192.0.2.43 ? 192.0.2.44"),
        ] {
            assert_eq!(read(value).as_deref(), Some(named), "{value}");
        }
    }

    #[test]
    fn what_does_not_follow_the_rfc_is_not_read_at_all() {
        for value in [
            "for",
            "for=",
            "=192.0.2.43",
            "for =192.0.2.43",
            "for= 192.0.2.43",
            "for=192.0.2.43; proto=http",
            "for=192.0.2.43 for=192.0.2.44",
            "for=192.0.2.43;for=192.0.2.43",
            "for=192.0.2.43;proto=http;Proto=http",
            "for=192.0.2.43;by=_a;by=_b",
            // Brackets and colons are no part of a token.
            "for=192.0.2.43:80",
            "for=[2001:db8::1]",
            "for=2001:db8::1",
            "for=\"2001:db8::1\"",
            "for=\"[192.0.2.43]\"",
            "for=\"[2001:db8::1%eth0]\"",
            "for=\"[2001:db8::1%1]:80\"",
            "for=\"[2001:db8::1]80\"",
            "for=\"[2001:db8::1\"",
            "for=192.0.2.043",
            "for=192.0.2",
            "for=3221225985",
            "for=\"192.0.2.43:\"",
            "for=\"192.0.2.43:65536\"",
            "for=\"192.0.2.43:000080\"",
            "for=\"192.0.2.43:+80\"",
            "for=\" 192.0.2.43\"",
            "for=\"\"",
            "for=_",
            "for=hidden",
            "for=nobody@example",
            "by=me",
            "proto=\"\"",
            "proto=\"ht tp\"",
            "host=\"\"",
            "for=\"192.0.2.43",
            "for=\"192.0.2.43\\",
            "for=\"192.0.2.43\\\"",
            "for=\"192.0.2.43\"x",
            "for=\"192.0.2.43\"\"\"",
            "for=\"192.0.2.43\\\u{7f}\"",
            "for='192.0.2.43'",
            "for=192.0.2.43\u{a0}",
            "\u{a0}for=192.0.2.43",
            "192.0.2.43",
            // The first element counts as well.
            "for=junk, for=192.0.2.43",
            "\", for=192.0.2.43",
        ] {
            assert_eq!(read(value), None, "{value}");
        }
        assert_eq!(parse(b"for=192.0.2.43;host=\"\xff\""), None);
    }

    #[test]
    fn where_a_client_can_choose_the_text_less_is_read_than_the_rfc_allows() {
        for value in [
            // RFC 7239 allows these.
            "for=192.0.2.43;secret=x",
            "for=192.0.2.43;host=\"a,for=203.0.113.1;x=\"",
            "for=192.0.2.43;host=a, for=198.51.100.17",
            "for=192.0.2.43, for=198.51.100.17;host=a",
            // A client can make these of for=192.0.2.43;host="$host".
            "for=192.0.2.43;host=\"a\",for=203.0.113.1;host=\"b\"",
            "for=192.0.2.43;host=\"a\";for=\"203.0.113.1\"",
            "for=192.0.2.43;host=\"a\\\"",
            // The same, where it is added to what the client sent.
            "for=203.0.113.1;host=\",for=192.0.2.43;host=\";by=\"_x\"",
        ] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
