//! Tests of files that become settings, or errors.

use super::*;
use std::path::Path;

fn parse(text: &str) -> Result<Settings, String> {
    Settings::parse(Path::new("c.yml"), text.as_bytes()).map_err(|e| e.to_string())
}

#[test]
fn the_python_monitors_file_works_unchanged() {
    let text = "---\nwebsocket_uri:\n    - \"127.0.0.1\"\n    - \"4568\"\nzeromq_uri: [\"*\", 7895]\nlogger:\n    \
                file: \"/var/log/recodex/monitor.log\"\n    level: \"WARNING\"\n    max-size: 2048\n    rotations: 7\n...\n";
    let settings = parse(text).unwrap();
    assert_eq!(settings.websocket_uri, Endpoint::Tcp(Address { host: "127.0.0.1".into(), port: 4568 }));
    assert_eq!(settings.zeromq_uri, Address { host: "*".into(), port: 7895 });
    assert_eq!(settings.logger.file.as_deref(), Some(Path::new("/var/log/recodex/monitor.log")));
    assert_eq!((settings.logger.level, settings.logger.max_size, settings.logger.rotations), (Level::Warning, 2048, 7));
    assert_eq!(settings.history, History::default());
}

#[test]
fn nothing_set_is_all_defaults() {
    for text in ["", "---\n", "# only a comment\n", "{}", "logger: {}\n", "logger:\n  # file: /x\nhistory:\n"] {
        assert_eq!(parse(text), Ok(Settings::default()), "{text:?}");
    }
}

#[test]
fn what_is_printed_reads_back_the_same() {
    let changed = parse("history: {finished: 0.3, unfinished: 7200}\nlogger: {file: /x}\naccept_exit: true\n").unwrap();
    let proxied = parse(
        "websocket_uri: unix:/run/x\nwebsocket_mode: 0600\ntrusted_proxies: [\"unix:\", 10.0.0.0/8]\n\
         proxy_header: x-real-ip\nstatus_uri: [localhost, 1]\nallowed_origins: [\"HTTPS://a.example:443\"]\n",
    );
    let tls = parse("tls: {certificate: a.pem, key: /b}\n").unwrap();
    let small = parse("cluster: {redis: [\"a:1\"]}\nshare_ports: true\n").unwrap();
    let cluster = parse(
        "cluster:\n  redis: [\"a:1\", \"[::1]:26379\"]\n  sentinel: main\n  name: x.y\n  user: monitor\n  password_file: p\n  \
         tls: {ca: /ca}\n  buffer: 1_048_576\n  stream_bytes: 1099511627776\n",
    );
    for settings in [Settings::default(), changed, proxied.unwrap(), tls, small, cluster.unwrap()] {
        assert_eq!(parse(&settings.to_yaml()), Ok(settings));
    }
}

#[test]
fn an_error_quotes_only_the_ends_of_a_long_text() {
    let long = "é".repeat(30_000);
    for (text, begin, end) in [
        (
            format!("accept_exit: {long}\n"),
            "1:14: accept_exit: invalid type: string \"é",
            "é\", expected a boolean; write true or false, without quotes",
        ),
        (format!("? {long}\n: 1\n"), "1:3: unknown key `é", "clients, zeromq)"),
        (format!("? {long}\n: 1\n? {long}\n: 2\n"), "", ""),
        (format!("logger: {{level: {long}}}\n"), "1:17: logger.level: unknown value `é", "warning, error, critical)"),
        (format!("websocket_uri: unix:/{long}\n"), "1:16: ", ""),
        (
            format!("share_ports: true\ncluster: {{redis: ['a:1']}}\nlogger: {{file: /{long}}}\n"),
            " share_ports is on",
            "the instance",
        ),
    ] {
        let error = parse(&text).unwrap_err();
        assert!(error.starts_with(&format!("c.yml:{begin}")) && error.ends_with(end), "{error}");
        assert!(error.chars().count() < 1050, "{} characters: {error}", error.chars().count());
    }
}

#[test]
fn errors_name_the_place_and_what_was_expected() {
    let known = "websocket_uri, websocket_mode, websocket_proxy_protocol, zeromq_uri, status_uri, tls, cluster, share_ports, allowed_origins, trusted_proxies, \
                 proxy_header, accept_exit, user, group, logger, history, clients, zeromq";
    for (text, error) in [
        ("websocket_url: [a, 1]\n", format!("1:1: unknown key `websocket_url`; did you mean `websocket_uri`? (known: {known})")),
        ("logger:\n  levle: debug\n", "2:3: logger: unknown key `levle`; did you mean `level`? (known: output, file, level, max-size, rotations)".into()),
        ("logger:\n  level: inof\n", "2:10: logger.level: unknown value `inof`; did you mean `info`? (known: debug, info, warning, error, critical)".into()),
        ("zeromq:\n  allow: [10.0.0.0/8, 10.0.0.0/33]\n", "2:23: zeromq.allow[1]: invalid value: string \"10.0.0.0/33\", expected an address or a network, such as \"192.0.2.7\", \"10.1.0.0/16\" or \"2001:db8::/32\"".into()),
        ("zeromq:\n  allow: 10.0.0.1\n", "2:10: zeromq.allow: invalid type: string \"10.0.0.1\", expected a list of addresses and networks".into()),
        ("xyzzy: 1\n", format!("1:1: unknown key `xyzzy` (known: {known})")),
        ("websocket_uri: [\"127.0.0.1\", 65536]\n", "1:30: websocket_uri[1]: invalid value: integer `65536`, expected a port from 0 to 65535, as a number or in quotes".into()),
        ("websocket_uri: [\"127.0.0.1\", \"http\"]\n", "1:30: websocket_uri[1]: invalid value: string \"http\", expected a port from 0 to 65535, as a number or in quotes".into()),
        ("zeromq_uri: 7894\n", "1:13: zeromq_uri: invalid type: integer `7894`, expected a host and a port, such as [\"127.0.0.1\", 4567]".into()),
        ("zeromq_uri: [a]\n", "1:13: zeromq_uri: invalid length 1, expected a host and a port, such as [\"127.0.0.1\", 4567]".into()),
        ("zeromq_uri: [a, 1, 2]\n", "1:13: zeromq_uri: invalid length 3, expected a host and a port, such as [\"127.0.0.1\", 4567]".into()),
        ("history:\n  finished: -1\n", "2:13: history.finished: invalid value: integer `-1`, expected a number of seconds from 0 to 604800".into()),
        ("history:\n  unfinished: .nan\n", "2:15: history.unfinished: invalid value: floating point `NaN`, expected a number of seconds from 0.1 to 31536000".into()),
        ("clients: {max: 0}\n", "1:16: clients.max: invalid value: integer `0`, expected a whole number from 1 to 10000000".into()),
        ("clients: {max: many}\n", "1:16: clients.max: invalid value: string \"many\", expected a whole number from 1 to 10000000".into()),
        ("websocket_uri: \"unix:run/x\"\n", "1:16: websocket_uri: invalid value: string \"unix:run/x\", expected a host and a port, such as [\"127.0.0.1\", 4567], or \"unix:\" and an absolute path".into()),
        ("websocket_mode: 660\n", "1:17: websocket_mode: invalid type: integer `660`, expected a mode in octal digits and quotes, such as \"0660\"".into()),
        ("websocket_mode: \"0668\"\n", "1:17: websocket_mode: invalid value: string \"0668\", expected a mode in octal digits and quotes, such as \"0660\"".into()),
        ("allowed_origins: [\"https://a/b\"]\n", "1:19: allowed_origins[0]: invalid value: string \"https://a/b\", expected an origin without a path: \"https://a\"".into()),
        ("allowed_origins: \"*\"\n", "1:18: allowed_origins: invalid type: string \"*\", expected a list of origins".into()),
        ("trusted_proxies: [nginx]\n", "1:19: trusted_proxies[0]: invalid value: string \"nginx\", expected an address or a network, such as \"192.0.2.7\" or \"10.1.0.0/16\", or \"unix:\"".into()),
        ("proxy_header: X-Forwarded-For\n", "1:15: proxy_header: unknown value `X-Forwarded-For`; did you mean `x-forwarded-for`? (known: x-forwarded-for, x-real-ip, forwarded)".into()),
        ("tls: {certificate: /a}\n", "1:6: tls: missing field `key`".into()),
        ("tls: {certificate: /a, key: \"\"}\n", "1:29: tls.key: there is no value; expected a path".into()),
        ("websocket_proxy_protocol: true\n", " websocket_proxy_protocol is on: expected trusted_proxies to name the proxies that send its header".into()),
        ("tls: {certificate: /a, key: /b}\nwebsocket_uri: \"unix:/x\"\n", " tls is set: expected websocket_uri to be a host and a port, not a Unix socket".into()),
        ("accept_exit: sometimes\n", "1:14: accept_exit: invalid type: string \"sometimes\", expected a boolean; write true or false, without quotes".into()),
        ("logger: {file: \"\"}\n", "1:16: logger.file: there is no value; expected a path".into()),
        ("- 1\n", "1:1: invalid type: sequence, expected settings as `key: value` lines".into()),
    ] {
        assert_eq!(parse(text).unwrap_err(), format!("c.yml:{error}"), "{text:?}");
    }
}

#[test]
fn a_cluster_has_defaults_and_an_error_of_one_names_the_place() {
    let cluster =
        parse("cluster: {redis: [\"127.0.0.1:6379\", \"redis.example:6380\", \"[::1]:6381\"]}\n").unwrap().cluster;
    let cluster = cluster.unwrap();
    let servers: Vec<String> = cluster.redis.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["127.0.0.1:6379", "redis.example:6380", "[::1]:6381"]);
    assert_eq!((&*cluster.name, cluster.buffer, cluster.stream_bytes), ("recodex", 64 << 20, 1 << 30));
    assert_eq!((cluster.sentinel, cluster.user, cluster.password_file, cluster.tls), (None, None, None, None));
    let many = |count| vec!["\"a:1\""; count].join(", ");
    assert_eq!(parse(&format!("cluster: {{redis: [{}]}}\n", many(16))).unwrap().cluster.unwrap().redis.len(), 16);
    let seventeen = many(17);

    let known = "redis, sentinel, name, user, password_file, tls, buffer, stream_bytes";
    let address = "expected a host and a port, such as \"127.0.0.1:6379\"";
    let list = "expected a list of 1 to 16 addresses, such as \"127.0.0.1:6379\"";
    let name = "expected a name of 1 to 64 letters, digits, dots, hyphens and underscores";
    let long = "x".repeat(65);
    for (keys, error) in [
        ("redis: []", format!("18: cluster.redis: there is no value; {list}")),
        (&*format!("redis: [{seventeen}]"), format!("18: cluster.redis: invalid length 17, {list}")),
        ("redis: \"a:1\"", format!("18: cluster.redis: invalid type: string \"a:1\", {list}")),
        ("redis: [localhost]", format!("19: cluster.redis[0]: \"localhost\": it has no port; {address}")),
        ("redis: [\"a:1\", \"a:0\"]", format!("26: cluster.redis[1]: \"a:0\": its port is 0, and not a number from 1 to 65535; {address}")),
        ("redis: [\"::1:6379\"]", format!("19: cluster.redis[0]: \"::1:6379\": an IPv6 address needs brackets, such as [::1]; {address}")),
        ("redis: [\"redis://a:1\"]", format!("19: cluster.redis[0]: \"redis://a:1\": there is no scheme here; leave out what stands before a:1; {address}")),
        ("redis: [6379]", format!("19: cluster.redis[0]: \"6379\": it has no port; {address}")),
        ("name: x", "10: cluster: missing field `redis`".into()),
        ("redis: [\"a:1\"], name: \"a:b\"", format!("33: cluster.name: invalid value: string \"a:b\", {name}")),
        (&*format!("redis: [\"a:1\"], name: {long}"), format!("33: cluster.name: invalid value: string \"{long}\", {name}")),
        ("redis: [\"a:1\"], name: \"\"", format!("33: cluster.name: there is no value; {name}")),
        ("redis: [\"a:1\"], sentinel: a b", format!("37: cluster.sentinel: invalid value: string \"a b\", {name}")),
        ("redis: [\"a:1\"], user: a b", "33: cluster.user: invalid value: string \"a b\", expected the name of a user, without spaces".into()),
        ("redis: [\"a:1\"], password_file: \"\"", "42: cluster.password_file: there is no value; expected a path".into()),
        ("redis: [\"a:1\"], tls: true", "32: cluster.tls: invalid type: boolean `true`, expected the key `ca`, or {}".into()),
        ("redis: [\"a:1\"], tls: {cert: /a}", "33: cluster.tls: unknown key `cert` (known: ca)".into()),
        ("redis: [\"a:1\"], bufer: 1", format!("27: cluster: unknown key `bufer`; did you mean `buffer`? (known: {known})")),
        ("redis: [\"a:1\"], buffer: 1048575", "35: cluster.buffer: invalid value: integer `1048575`, expected a whole number from 1048576 to 17179869184".into()),
        ("redis: [\"a:1\"], stream_bytes: 1099511627777", "41: cluster.stream_bytes: invalid value: integer `1099511627777`, expected a whole number from 1048576 to 1099511627776".into()),
    ] {
        assert_eq!(parse(&format!("cluster: {{{keys}}}\n")).unwrap_err(), format!("c.yml:1:{error}"), "{keys}");
    }
    for (text, error) in [
        ("redis: [\"a:1\"]\n", "c.yml:1:1: `redis` belongs under `cluster`, indented"),
        ("name: x\n", "c.yml:1:1: `name` belongs under `cluster`, indented"),
        (
            "share_ports: true\n",
            "c.yml: share_ports is on: expected a section cluster, since a viewer and the broker of its job may come to different instances",
        ),
        (
            "cluster: {redis: [\"a:1\"], user: x}\n",
            "c.yml: cluster.user is set: expected cluster.password_file to name the file with the user's password",
        ),
    ] {
        assert_eq!(parse(text).unwrap_err(), error, "{text}");
    }
}

#[test]
fn a_reload_takes_up_the_sizes_of_a_cluster_only() {
    let with = |more: &str| parse(&format!("cluster: {{redis: [\"a:1\"], {more}}}\n")).unwrap();
    let old = with("password_file: /a");
    let sizes = with("password_file: /a, buffer: 1048576, stream_bytes: 1048576");
    assert_eq!(sizes.clone().without_restart(&old), (sizes, vec![]));
    for more in ["password_file: /b", "password_file: /a, name: b, buffer: 1048576", "sentinel: x", "tls: {}"] {
        assert_eq!(with(more).without_restart(&old), (old.clone(), vec!["cluster"]), "{more}");
    }
    for (new, old) in [(Settings::default(), old.clone()), (old, Settings::default())] {
        assert_eq!(new.without_restart(&old), (old, vec!["cluster"]));
    }
}

#[test]
fn a_whole_number_may_be_written_as_pythons_int_took_it() {
    for (text, size) in [
        ("1048576", 1_048_576),
        ("\"1048576\"", 1_048_576),
        ("' 2048 '", 2048),
        ("1_048_576", 1_048_576),
        ("\"1_048_576\"", 1_048_576),
        ("1048576.0", 1_048_576),
        ("'1048576.0'", 1_048_576),
        ("1_048_576.0", 1_048_576),
        ("512", 512),
        ("0", 0),
        ("0.0", 0),
    ] {
        let settings = parse(&format!("logger: {{max-size: {text}}}\n")).unwrap();
        assert_eq!(settings.logger.max_size, size, "{text}");
    }
    let settings =
        parse("logger: {rotations: '3'}\nclients: {max: '1_000'}\nzeromq_uri: [a, 7_894.0]\nstatus_uri: [a, 0]\n");
    let settings = settings.unwrap();
    assert_eq!((settings.logger.rotations, settings.clients.max, settings.zeromq_uri.port), (3, 1000, 7894));
}

#[test]
fn what_is_no_whole_number_is_refused_where_it_stands() {
    for (value, found) in [
        ("-1", "invalid value: integer `-1`"),
        ("'-1'", "invalid value: string \"-1\""),
        ("-1.0", "invalid value: floating point `-1.0`"),
        ("1.5", "invalid value: floating point `1.5`"),
        ("'1.5'", "invalid value: string \"1.5\""),
        ("true", "invalid type: boolean `true`"),
        ("'true'", "invalid value: string \"true\""),
        (".nan", "invalid value: floating point `NaN`"),
        (".inf", "invalid value: floating point `inf`"),
        ("1001", "invalid value: integer `1001`"),
        ("'1001'", "invalid value: string \"1001\""),
        ("2e3", "invalid value: floating point `2000.0`"),
        ("'99999999999999999999'", "invalid value: string \"99999999999999999999\""),
        ("_1", "invalid value: string \"_1\""),
        ("1_", "invalid value: string \"1_\""),
        ("1__0", "invalid value: string \"1__0\""),
        ("'1 0'", "invalid value: string \"1 0\""),
        ("'.0'", "invalid value: string \".0\""),
        ("[]", "invalid type: sequence"),
    ] {
        assert_eq!(
            parse(&format!("logger:\n  rotations: {value}\n")).unwrap_err(),
            format!("c.yml:2:14: logger.rotations: {found}, expected a whole number from 0 to 1000"),
            "{value}"
        );
    }
    for value in ["", "''", "' '"] {
        let error = parse(&format!("logger:\n  rotations: {value}\n")).unwrap_err();
        assert!(error.starts_with("c.yml:2:1"), "{error}");
        assert!(error.contains("logger.rotations: "), "{error}");
    }
}

#[test]
fn a_number_that_begins_with_a_zero_is_ambiguous() {
    let zero = "begins with a zero, which makes it octal for some programs and decimal for others; write";
    for (text, error) in [
        (
            "zeromq_uri: [a, 04567]\n",
            format!("1:17: zeromq_uri[1]: `04567` {zero} `4567`, or another number without the zero"),
        ),
        (
            "zeromq_uri: [a, \"04567\"]\n",
            format!("1:17: zeromq_uri[1]: `04567` {zero} `4567`, or another number without the zero"),
        ),
        (
            "logger: {rotations: 010}\n",
            format!("1:21: logger.rotations: `010` {zero} `10`, or another number without the zero"),
        ),
        (
            "logger: {rotations: 00}\n",
            format!("1:21: logger.rotations: `00` {zero} `0`, or another number without the zero"),
        ),
    ] {
        assert_eq!(parse(text).unwrap_err(), format!("c.yml:{error}"), "{text:?}");
    }
}

#[test]
fn what_needs_a_restart_stays_as_it_is_and_is_named() {
    let old = parse("tls: {certificate: /a, key: /b}\n").unwrap();
    let new = parse(
        "websocket_uri: [\"127.0.0.1\", 1]\nuser: x\nlogger: {file: /y, level: debug}\nclients: {max: 7}\n\
         status_uri: [a, 1]\nallowed_origins: []\n",
    )
    .unwrap();
    let (taken, fixed) = new.without_restart(&old);
    assert_eq!(fixed, ["websocket_uri", "status_uri", "user", "logger.file", "tls"]);
    assert_eq!((taken.logger.level, taken.clients.max, &taken.allowed_origins), (Level::Debug, 7, &vec![]));
    let same = Settings {
        clients: old.clients.clone(),
        logger: old.logger.clone(),
        allowed_origins: old.allowed_origins.clone(),
        ..taken
    };
    assert_eq!(same, old);
    let other = parse("tls: {certificate: /c, key: /d}\n").unwrap();
    assert_eq!(other.clone().without_restart(&old), (other, vec![]));
}

#[test]
fn a_file_is_read_up_to_its_limit_and_refused_past_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.yml");
    let load = |size: u64| {
        std::fs::write(&path, "#".repeat(usize::try_from(size).unwrap())).unwrap();
        Source::new(&path, None).load()
    };
    assert_eq!(load(MAX_FILE), Ok(Settings::default()));
    assert!(load(MAX_FILE + 1).unwrap_err().to_string().contains("at most 65536 bytes"));
}

#[test]
fn a_byte_order_mark_before_the_first_line_changes_nothing() {
    let uri = "websocket_uri: [\"127.0.0.1\", 1]\n";
    for text in [
        "",
        "---\n",
        uri,
        &format!("---\n{uri}"),
        &format!("%YAML 1.1\n---\n{uri}"),
        &format!("# comment\n{uri}zeromq_uri: [\"*\", 2]\n"),
        "---\r\nwebsocket_uri:\r\n    - \"127.0.0.1\"\r\n    - 4567\r\nlogger:\r\n    level: \"debug\"\r\n...\r\n",
        "websocket_uri:\n- a\n- 1\nzeromq_uri:\n- b\n- 2\n",
        // Errors, which are placed as without the mark.
        "xyzzy: 1\n",
        "user: !x a\n",
        "user: a\nuser: b\n",
        "user: @a\n",
        "%TAG ! a\n---\n",
        "user: a\n--- b\n",
        "logger:\n  level: x\n",
    ] {
        assert_eq!(parse(&format!("\u{feff}{text}")), parse(text), "{text:?}");
    }
    let error = Settings::parse(Path::new("c.yml"), b"\xef\xbb\xbfuser: \xff").unwrap_err();
    assert_eq!(error.to_string(), "c.yml:1:7: expected UTF-8, found another byte");
}

#[test]
fn a_file_in_utf_16_is_recognised() {
    for (marked, swapped) in [(false, false), (true, false), (false, true), (true, true)] {
        let text = if marked { "\u{feff}---\r\nuser: a\r\n" } else { "---\r\nuser: a\r\n" };
        let bytes = |unit: u16| if swapped { unit.to_be_bytes() } else { unit.to_le_bytes() };
        let file: Vec<u8> = text.encode_utf16().flat_map(bytes).collect();
        let error = Settings::parse(Path::new("c.yml"), &file).unwrap_err();
        assert_eq!(
            error.to_string(),
            "c.yml:1:1: the file is in UTF-16; save it as UTF-8 (in Notepad: `Save as`, encoding `UTF-8`)"
        );
    }
}

#[test]
fn a_byte_that_is_not_utf_8_is_placed() {
    let error = Settings::parse(Path::new("c.yml"), b"logger:\n  fil\xc3\xa9\xff: x").unwrap_err();
    assert_eq!(error.to_string(), "c.yml:2:7: expected UTF-8, found another byte");
}
