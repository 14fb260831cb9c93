//! Health checks of `HAProxy`, and two proxies in a row.

use super::{
    ADDRESS, HAPROXY, JOB, NGINX, PRETENDED, Proxy, TIMEOUT, Viewer, at, comes_through, knows_the_client, with_replaced,
};
use crate::common::{Broker, Monitor, command, until};

/// The health check of the example, with `HAProxy`'s own version of HTTP, also if `clients.max` is reached.
#[test]
fn haproxy_asks_whether_the_monitor_serves_viewers() {
    let monitor = Monitor::start("clients: {max: 1}\nlogger: {level: debug}\n");
    let last = "http-request del-header Forwarded";
    let checked = format!("{last}\n    option httpchk GET /healthz\n    default-server check inter 50ms fall 1 rise 1");
    let example = with_replaced(&HAPROXY.shipped(), last, &checked);
    assert!(HAPROXY.shipped().contains("#     option httpchk GET /healthz\n"));
    let proxy = Proxy::start(&HAPROXY, &at(&example, monitor.viewers), TIMEOUT);
    let checks = || monitor.logged(&["it was a health check"]).len();
    until("it asks", || (checks() > 2).then_some(()));
    let broker = Broker::connect(monitor.brokers);
    broker.send(&[JOB, "STARTED"]);
    let mut viewer = Viewer::through(&proxy, "/ws");
    assert_eq!(viewer.next(), command("STARTED"));
    let before = checks();
    until("it asks with the viewer there, too", || (checks() > before + 2).then_some(()));
    broker.send(&[JOB, "FINISHED"]);
    assert_eq!(viewer.next(), command("FINISHED"));
    assert_eq!(monitor.logged(&["WARNING"]), Vec::<String>::new());
}

/// What the examples say of another proxy in front, on the same machine: it connects from an address of its own, or its header is
/// passed on unchanged.
#[test]
fn the_monitor_sees_who_is_behind_haproxy_and_nginx_on_one_machine() {
    let added = ("X-Forwarded-For $remote_addr", "X-Forwarded-For $proxy_add_x_forwarded_for");
    let passed_on = ("X-Forwarded-For $remote_addr", "X-Forwarded-For $http_x_forwarded_for");
    for (trusted, source, (words, others)) in
        [("\"127.0.0.1\", \"127.0.0.2\"", " source 127.0.0.2", added), ("\"127.0.0.1\"", "", passed_on)]
    {
        let monitor = Monitor::start(&format!("trusted_proxies: [{trusted}]\nlogger: {{level: debug}}\n"));
        let inner = with_replaced(&at(&NGINX.shipped(), monitor.viewers), words, others);
        let inner = Proxy::start(&NGINX, &inner, TIMEOUT);
        let server = format!("127.0.0.1:{} ssl verify none{source}", inner.port);
        let outer = with_replaced(&HAPROXY.shipped(), ADDRESS, &server);
        knows_the_client(&monitor, &Proxy::start(&HAPROXY, &outer, TIMEOUT));
    }
}

#[test]
fn the_monitor_sees_who_is_behind_nginx_and_haproxy_on_one_machine() {
    let monitor = Monitor::start("trusted_proxies: [\"127.0.0.1\", \"127.0.0.2\"]\nlogger: {level: debug}\n");
    let set = "http-request set-header X-Forwarded-For %[src]";
    let inner = with_replaced(&at(&HAPROXY.shipped(), monitor.viewers), set, "option forwardfor");
    let inner = Proxy::start(&HAPROXY, &inner, TIMEOUT);
    let pass = format!("proxy_bind 127.0.0.2;\n    proxy_pass https://127.0.0.1:{}", inner.port);
    let outer = with_replaced(&NGINX.shipped(), &format!("proxy_pass http://{ADDRESS}"), &pass);
    knows_the_client(&monitor, &Proxy::start(&NGINX, &outer, TIMEOUT));
}

/// Otherwise the monitor could not tell a proxy from a client on the same machine that sends a header.
#[test]
fn behind_two_proxies_with_one_address_every_viewer_counts_as_them_and_it_is_said() {
    let monitor = Monitor::start("trusted_proxies: [\"127.0.0.1\"]\nlogger: {level: debug}\n");
    let words = ("X-Forwarded-For $remote_addr", "X-Forwarded-For $proxy_add_x_forwarded_for");
    let inner = with_replaced(&at(&NGINX.shipped(), monitor.viewers), words.0, words.1);
    let inner = Proxy::start(&NGINX, &inner, TIMEOUT);
    let server = format!("127.0.0.1:{} ssl verify none", inner.port);
    let outer = with_replaced(&HAPROXY.shipped(), ADDRESS, &server);
    comes_through(&monitor, &Proxy::start(&HAPROXY, &outer, TIMEOUT));
    monitor.wait_logged(&["INFO", "proxy 127.0.0.1:", "named itself in x-forwarded-for (proxy_header)"]);
    until("every viewer is logged as the proxy", || {
        (monitor.logged(&["viewer 127.0.0.1:", "subscribed"]).len() == PRETENDED.len() + 2).then_some(())
    });
}
