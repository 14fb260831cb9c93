//! A host and a port that a user typed, such as `127.0.0.1:4568` or `[::1]:4568`.

/// Splits HOST:PORT with a port from 1 to 65535, and an IPv6 address in brackets, into the host without brackets and the port. The error
/// is a clause.
pub(crate) fn split_host_and_port(text: &str) -> Result<(&str, u16), String> {
    if text.contains('@') {
        return Err("there are no users here; leave out what stands before the @".into());
    }
    if text.contains('/') {
        return Err("nothing may follow the port".into());
    }
    match text.rsplit_once(':') {
        _ if text.is_empty() || text.ends_with([']', ':']) => Err("it has no port".into()),
        Some((host, _)) if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) => {
            Err("an IPv6 address needs brackets, such as [::1]".into())
        }
        Some(("", _)) => Err("it has no host".into()),
        Some((host, port)) => match port.parse() {
            Ok(port) if port > 0 => Ok((host.trim_start_matches('[').trim_end_matches(']'), port)),
            _ => Err(format!("its port is {port}, and not a number from 1 to 65535")),
        },
        None => Err("it has no port".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_host_and_a_port_is_said() {
        for (text, parts) in
            [("a:1", ("a", 1)), ("127.0.0.1:65535", ("127.0.0.1", 65535)), ("[::1]:4568", ("::1", 4568))]
        {
            assert_eq!(split_host_and_port(text), Ok(parts), "{text}");
        }
        for (text, said) in [
            ("", "no port"),
            ("a", "no port"),
            ("[::1]", "no port"),
            (":1", "no host"),
            ("::1:4568", "needs brackets"),
            ("user:pw@127.0.0.1:4568", "leave out what stands before the @"),
            ("a:1/", "nothing may follow the port"),
            ("a:0", "its port is 0"),
            ("a:", "no port"),
            ("a:http", "its port is http"),
            ("a:65536", "its port is 65536"),
        ] {
            let wrong = split_host_and_port(text).unwrap_err();
            assert!(wrong.contains(said), "{text}: {wrong}");
        }
    }
}
