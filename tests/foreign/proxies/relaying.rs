//! A job, pings and a plain request through each server.

use super::{APACHE, CADDY, HAPROXY, JOB, NGINX, Proxy, Server, TIMEOUT, Viewer};
use crate::common::{Broker, Monitor, command, task};
use std::thread::sleep;
use std::time::Duration;

const SHORT_TIMEOUT: u64 = 2;

with_each! {
    fn nginx_relays_a_job_as_the_monitor_does() = relays_a_job_as_the_monitor_does(&NGINX);
    fn apache_relays_a_job_as_the_monitor_does() = relays_a_job_as_the_monitor_does(&APACHE);
    fn caddy_relays_a_job_as_the_monitor_does() = relays_a_job_as_the_monitor_does(&CADDY);
    fn haproxy_relays_a_job_as_the_monitor_does() = relays_a_job_as_the_monitor_does(&HAPROXY);
    fn pings_keep_a_silent_viewer_behind_nginx() = pings_keep_a_silent_viewer(&NGINX);
    fn pings_keep_a_silent_viewer_behind_apache() = pings_keep_a_silent_viewer(&APACHE);
    fn pings_keep_a_silent_viewer_behind_caddy() = pings_keep_a_silent_viewer(&CADDY);
    fn pings_keep_a_silent_viewer_behind_haproxy() = pings_keep_a_silent_viewer(&HAPROXY);
    fn nginx_relays_the_answer_to_a_plain_request() = relays_the_answer_to_a_plain_request(&NGINX);
    fn apache_relays_the_answer_to_a_plain_request() = relays_the_answer_to_a_plain_request(&APACHE);
    fn caddy_relays_the_answer_to_a_plain_request() = relays_the_answer_to_a_plain_request(&CADDY);
    fn haproxy_relays_the_answer_to_a_plain_request() = relays_the_answer_to_a_plain_request(&HAPROXY);
}

fn relays_a_job_as_the_monitor_does(server: &Server) {
    let monitor = Monitor::start("clients: {ping_interval: 3600}\n"); // a ping would be a frame more
    let broker = Broker::connect(monitor.brokers);
    let proxy = Proxy::before(&monitor, server, TIMEOUT);
    let viewers = || [Viewer::direct(&monitor), Viewer::through(&proxy, "/ws"), Viewer::through(&proxy, "/ws/")];

    broker.send(&[JOB, "STARTED"]);
    let mut live = viewers();
    let mut expected = vec![command("STARTED")];
    // Frames whose lengths take one, three and nine bytes.
    for id in ["compile".to_owned(), "run ".repeat(50), "ú".repeat(30_000), "judge".to_owned()] {
        for viewer in &mut live {
            assert_eq!(Some(&viewer.next()), expected.last());
        }
        broker.task(JOB, &id);
        expected.push(task(&id.replace('ú', "\\u00fa"), "COMPLETED"));
    }
    broker.send(&[JOB, "FINISHED"]);
    expected.extend([command("FINISHED"), "closed 1000".to_owned()]);

    let lines: Vec<_> = live.into_iter().chain(viewers()).map(Viewer::all).collect();
    assert_eq!(lines[0][..expected.len()], expected);
    for (index, lines_of_one) in lines.iter().enumerate() {
        assert_eq!(lines_of_one, &lines[0], "viewer {index}");
    }
}

fn pings_keep_a_silent_viewer(server: &Server) {
    let monitor = Monitor::start("clients: {ping_interval: 0.3}\n");
    let broker = Broker::connect(monitor.brokers);
    let proxy = Proxy::before(&monitor, server, SHORT_TIMEOUT);
    broker.send(&[JOB, "STARTED"]);
    let mut viewer = Viewer::through(&proxy, "/ws");
    assert_eq!(viewer.next(), command("STARTED"));
    sleep(Duration::from_secs(3 * SHORT_TIMEOUT));
    broker.send(&[JOB, "FINISHED"]);
    assert_eq!(viewer.all()[..3], [command("STARTED"), command("FINISHED"), "closed 1000".to_owned()]);
}

fn relays_the_answer_to_a_plain_request(server: &Server) {
    let monitor = Monitor::start("");
    let proxy = Proxy::before(&monitor, server, TIMEOUT);
    for path in ["/ws", "/ws/"] {
        let answer = proxy.get(path);
        assert!(answer.starts_with("HTTP/1.1 426 "), "{path}: {answer}");
        assert!(answer.contains("\r\n\r\nThis is the WebSocket port of a ReCodEx monitor"), "{path}: {answer}");
    }
}
