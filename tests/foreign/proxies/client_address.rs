//! The address of the client behind each server.

use super::{
    ADDRESS, APACHE, CADDY, CLIENT, HAPROXY, NGINX, PRETENDED, Proxy, Server, TIMEOUT, at, comes_through,
    knows_the_client, says, with_replaced,
};
use crate::common::{Monitor, open_directory, until};
use std::fs::read_to_string;

const SOCKET: &str = "/run/recodex/monitor.sock";

with_each! {
    fn the_monitor_sees_who_is_behind_nginx() = sees_who_it_is(&NGINX);
    fn the_monitor_sees_who_is_behind_apache() = sees_who_it_is(&APACHE);
    fn the_monitor_sees_who_is_behind_caddy() = sees_who_it_is(&CADDY);
    fn the_monitor_sees_who_is_behind_haproxy() = sees_who_it_is(&HAPROXY);
    fn the_monitor_sees_who_is_behind_nginx_at_a_unix_socket() = sees_who_it_is_at_a_unix_socket(&NGINX);
    fn the_monitor_sees_who_is_behind_apache_at_a_unix_socket() = sees_who_it_is_at_a_unix_socket(&APACHE);
    fn the_monitor_sees_who_is_behind_caddy_at_a_unix_socket() = sees_who_it_is_at_a_unix_socket(&CADDY);
    fn the_monitor_sees_who_is_behind_haproxy_at_a_unix_socket() = sees_who_it_is_at_a_unix_socket(&HAPROXY);
    fn nginx_passes_on_no_other_header_that_could_name_somebody() = passes_no_other_header_on(&NGINX);
    fn apache_passes_on_no_other_header_that_could_name_somebody() = passes_no_other_header_on(&APACHE);
    fn caddy_passes_on_no_other_header_that_could_name_somebody() = passes_no_other_header_on(&CADDY);
    fn haproxy_passes_on_no_other_header_that_could_name_somebody() = passes_no_other_header_on(&HAPROXY);
}

#[test]
fn the_monitor_sees_who_is_behind_haproxy_by_the_proxy_protocol_2() {
    sees_who_it_is_by_the_proxy_protocol("send-proxy-v2");
}

#[test]
fn the_monitor_sees_who_is_behind_haproxy_by_the_proxy_protocol_1() {
    sees_who_it_is_by_the_proxy_protocol("send-proxy");
}

fn sees_who_it_is(server: &Server) {
    let monitor = Monitor::start("trusted_proxies: [\"127.0.0.1\"]\nlogger: {level: debug}\n");
    knows_the_client(&monitor, &Proxy::before(&monitor, server, TIMEOUT));
}

fn sees_who_it_is_at_a_unix_socket(server: &Server) {
    let directory = open_directory();
    let socket = directory.path().join("monitor.sock");
    let config = "websocket_mode: \"0666\"\ntrusted_proxies: [\"unix:\"]\nlogger: {level: debug}\n";
    let monitor = Monitor::start_unix(&socket, config);
    let example = with_instead(&server.shipped(), server.at_socket);
    let example = with_replaced(&example, SOCKET, socket.to_str().unwrap());
    knows_the_client(&monitor, &Proxy::start(server, &example, TIMEOUT));
}

/// X-Forwarded-For is not set, so that only the PROXY protocol names the client.
fn sees_who_it_is_by_the_proxy_protocol(option: &str) {
    let config = "websocket_proxy_protocol: true\ntrusted_proxies: [\"127.0.0.1\"]\nlogger: {level: debug}\n";
    let monitor = Monitor::start(config);
    let example = with_instead(&HAPROXY.shipped(), &format!("server monitor {ADDRESS} send-proxy-v2"));
    let example = with_replaced(&at(&example, monitor.viewers), " send-proxy-v2", &format!(" {option}"));
    let example = with_replaced(&example, "http-request set-header X-Forwarded-For %[src]", "");
    knows_the_client(&monitor, &Proxy::start(&HAPROXY, &example, TIMEOUT));
}

/// The example of the manual for versions of httpd that do not know `upgrade=websocket`.
#[test]
fn the_monitor_sees_who_is_behind_apache_by_the_example_of_the_manual() {
    const HEAD: &str = "For earlier versions of Apache httpd, with the modules ";
    let manual = read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/recodex-monitor.8")).unwrap();
    let (modules, rest) = manual.split_once(HEAD).and_then(|(_, rest)| rest.split_once(":\n")).expect("the example");
    let lines: Vec<&str> = rest.lines().skip(1).take_while(|line| *line != ".Ed").collect();
    let modules = modules.replace(" and ", ", ").replace(", ", " ");
    // As earlier versions do it.
    let example = format!("# a2enmod {modules}\nProxyWebsocketFallbackToProxyHttp Off\n{}\n", lines.join("\n"));
    for (header, client) in [("x-forwarded-for", CLIENT), ("x-real-ip", "127.0.0.1:"), ("forwarded", "127.0.0.1:")] {
        let config = format!("trusted_proxies: [\"127.0.0.1\"]\nproxy_header: {header}\nlogger: {{level: debug}}\n");
        let monitor = Monitor::start(&config);
        comes_through(&monitor, &Proxy::start(&APACHE, &at(&example, monitor.viewers), TIMEOUT));
        let known = [&format!("viewer {client}"), "subscribed"];
        until("every viewer is logged as the client or the proxy", || {
            (monitor.logged(&known).len() == PRETENDED.len() + 2).then_some(())
        });
        assert_eq!(monitor.logged(&["viewer 203.0.113."]), Vec::<String>::new(), "{header}");
    }
}

/// The monitor believes a header that the example clears.
fn passes_no_other_header_on(server: &Server) {
    for header in ["x-real-ip", "forwarded"] {
        let config = format!("trusted_proxies: [\"127.0.0.1\"]\nproxy_header: {header}\nlogger: {{level: debug}}\n");
        let monitor = Monitor::start(&config);
        comes_through(&monitor, &Proxy::before(&monitor, server, TIMEOUT));
        until("every viewer is logged as the proxy", || {
            (monitor.logged(&["viewer 127.0.0.1:", "subscribed"]).len() == PRETENDED.len() + 2).then_some(())
        });
        assert_eq!(monitor.logged(&["viewer 203.0.113."]), Vec::<String>::new(), "{header}");
    }
}

/// nginx puts what a client sends as its host between quotes as it is, with the quotes and backslashes in it.
#[test]
fn a_host_in_nginxs_forwarded_makes_nobody_somebody_else() {
    const CLOSE: &[u8] = b"\x88\x80\0\0\0\0";
    let config = "trusted_proxies: [\"127.0.0.1\"]\nproxy_header: forwarded\nlogger: {level: debug}\n";
    let monitor = Monitor::start(config);
    let left = |name: &str| monitor.logged(&[&format!("viewer {name}"), "left: it closed"]).len();
    let cleared = "proxy_set_header Forwarded \"\";";
    let (mut of_client, mut of_proxy) = (0, 0);
    for set in [r#"'for=$remote_addr;host="$host"'"#, r#"'$http_forwarded,for=$remote_addr;host="$host"'"#] {
        let example = with_replaced(&NGINX.shipped(), cleared, &format!("proxy_set_header Forwarded {set};"));
        let proxy = Proxy::start(&NGINX, &at(&example, monitor.viewers), TIMEOUT);
        let adds = set.contains("http_forwarded");
        let comes = |host: &str, sent: &str| {
            let request = format!(
                "GET /ws HTTP/1.1\r\nHost: {host}\r\n{sent}Connection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            let answer = proxy.answers(CLIENT, &[request.as_bytes(), CLOSE].concat());
            assert!(answer.starts_with(b"HTTP/1.1 101 "), "{host}: {}", String::from_utf8_lossy(&answer));
        };
        // Where nginx adds to what the client sent, the list has two elements, and the host in it makes it worth nothing.
        comes("recodex.example.org", "");
        let known = if adds { &mut of_proxy } else { &mut of_client };
        *known += 1;
        for host in ["a,for=203.0.113.1;x=", "a\",for=203.0.113.1;host=\"b", "a\";for=\"203.0.113.1", "a\\", ";by=\"_x"]
        {
            comes(host, "Forwarded: for=203.0.113.2;host=\"\r\n");
            comes(host, "Forwarded: for=203.0.113.2\r\n");
            of_proxy += 2;
        }
    }
    until("all have left", || ((left(CLIENT), left("127.0.0.1:")) == (of_client, of_proxy)).then_some(()));
    assert_eq!(monitor.logged(&["viewer 203.0.113."]), Vec::<String>::new());
}

/// An example with a line that it has as a comment, instead of the one that says where the monitor is.
fn with_instead(example: &str, line: &str) -> String {
    let comment = format!("# {line}");
    assert_eq!(example.lines().filter(|line| line.trim() == comment).count(), 1, "one comment is {line}:\n{example}");
    let lines = example.lines().filter(|line| !says(line, ADDRESS));
    lines.map(|kept| if kept.trim() == comment { line } else { kept }).collect::<Vec<_>>().join("\n")
}
