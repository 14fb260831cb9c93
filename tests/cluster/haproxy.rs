//! Nodes behind `HAProxy`: a broker's link leads to one node and moves to another, and viewers are led to nodes that are ready.

use super::jobs::{Jobs, LongJob, first, to_the_end};
use super::node::{again, config, node, nodes, wait_not_ready, wait_ready};
use crate::common::http::status;
use crate::common::redis::free_port;
use crate::common::{Broker, Monitor, Redis, RedisProxy, Viewer, command, fence, task_id, temporary, until};
use std::fs::read_to_string;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// `HAProxy` with a port for brokers and one for viewers. Dropping it ends the process.
struct HaProxy {
    child: Child,
    brokers: SocketAddr,
    viewers: SocketAddr,
    _directory: tempfile::TempDir,
}

impl HaProxy {
    /// `HAProxy` by what is shipped, before these two nodes. Brokers are led to the first one, and to the other one only while that
    /// does not answer. Viewers are led to those whose `/readyz` answers 200.
    fn before(nodes: [&Monitor; 2]) -> Self {
        let [brokers, viewers] = [free_port(), free_port()];
        let shipped = "packaging/usr/share/doc/recodex-monitor/examples/haproxy-cluster.cfg";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(shipped);
        let mut example = read_to_string(path).expect("it is shipped");
        for (address, node) in ["192.0.2.21", "192.0.2.22"].into_iter().zip(nodes) {
            let checked = format!("{} check port {}", node.viewers, status(node).port());
            example = replaced(&example, &format!("{address}:4567 check port 4568"), &checked);
            example = replaced(&example, &format!("{address}:4567"), &node.viewers.to_string());
            example = replaced(&example, &format!("{address}:7894"), &node.brokers.to_string());
        }
        example = replaced(&example, "192.0.2.20:7894", &format!("127.0.0.1:{brokers}"));
        // The test does not wait that long.
        example = replaced(&example, "inter 2s", "inter 100ms");
        let text = format!(
            "defaults
                timeout connect 1s
                timeout client 60s
                timeout server 60s
            frontend web
                mode http
                bind 127.0.0.1:{viewers}
                use_backend recodex-monitor
            {example}\n"
        );
        let (directory, path) = temporary("haproxy.cfg", text);
        let child = Command::new("sh")
            .args(["-c", "PATH=$PATH:/usr/sbin exec haproxy -db -f \"$0\""])
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh is there");
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let proxy = Self { child, brokers: at(brokers), viewers: at(viewers), _directory: directory };
        until("HAProxy listens", || TcpStream::connect(proxy.brokers).ok());
        proxy
    }
}

fn replaced(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "the example has {old}");
    text.replace(old, new)
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the numbers of the tasks before FINISHED.
fn numbers(texts: &[String]) -> Vec<usize> {
    let (last, tasks) = texts.split_last().expect("there are texts");
    assert_eq!(*last, command("FINISHED"), "FINISHED comes last");
    tasks.iter().map(|text| task_id(text).parse().expect("a number")).collect()
}

/// A job whose broker moves from the first node to the second when that is killed. ZeroMQ has no acknowledgements: what was on the
/// way to the killed node is lost. Nothing else is, and nothing comes twice or out of order.
#[test]
fn a_broker_moves_to_another_node_in_mid_job() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let mut nodes = nodes(2, &config);
    let proxy = HaProxy::before([&nodes[0], &nodes[1]]);
    let mut early = Viewer::watch(nodes[1].viewers, "job");
    let job = LongJob::begin(Broker::connect(proxy.brokers), "job", Duration::from_millis(2));
    let before = first(&mut early, 100);
    nodes[0].signal("KILL");
    nodes[0].wait_exit();
    let after = first(&mut early, 100);
    let back = again(&nodes[0], &config);
    wait_ready(&back);
    let sent = job.finish();
    let (rest, code) = to_the_end(&mut early);
    assert_eq!(code, Some(1000));
    let all = [before, after, rest].concat();
    let seen = numbers(&all);
    let gaps: Vec<_> = seen.windows(2).filter(|two| two[1] != two[0] + 1).collect();
    assert!(seen.is_sorted_by(|one, next| one < next), "in order, each once: {seen:?}");
    assert!(gaps.len() <= 1, "only what was on the way to the killed node is lost: {gaps:?}");
    assert_eq!((seen[0], seen.last().copied()), (0, Some(sent.len() - 2)));
    for monitor in [&nodes[1], &back, &node(&config)] {
        let (texts, code) = to_the_end(&mut Viewer::watch(monitor.viewers, "job"));
        assert_eq!((texts, code), (all.clone(), Some(1000)));
    }
}

/// The first node is stopped in an orderly way: `HAProxy` leads the broker to the second, and back to the first when it has started.
#[test]
fn a_broker_moves_when_its_node_is_stopped_and_comes_back() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let mut nodes = nodes(2, &config);
    let proxy = HaProxy::before([&nodes[0], &nodes[1]]);
    let mut early = Viewer::watch(nodes[1].viewers, "job");
    let job = LongJob::begin(Broker::connect(proxy.brokers), "job", Duration::from_millis(2));
    let mut all = first(&mut early, 100);
    nodes[0].stop();
    all.extend(first(&mut early, 100));
    nodes[0] = again(&nodes[0], &config);
    wait_ready(&nodes[0]);
    all.extend(first(&mut early, 100));
    let sent = job.finish();
    let (rest, code) = to_the_end(&mut early);
    assert_eq!(code, Some(1000));
    all.extend(rest);
    let seen = numbers(&all);
    assert!(seen.is_sorted_by(|one, next| one < next), "in order, each once: {seen:?}");
    assert_eq!((seen[0], seen.last().copied()), (0, Some(sent.len() - 2)));
    for monitor in [&nodes[0], &nodes[1], &node(&config)] {
        assert_eq!(to_the_end(&mut Viewer::watch(monitor.viewers, "job")), (all.clone(), Some(1000)));
    }
}

/// A node that does not reach Redis serves the viewers that it has, and gets no new ones.
#[test]
fn new_viewers_are_led_to_a_node_that_is_ready() {
    let redis = Redis::start(&[]);
    let network = RedisProxy::to(redis.address());
    let cut_off = node(&config(network.address, ""));
    let ready = node(&config(redis.address(), ""));
    let proxy = HaProxy::before([&cut_off, &ready]);
    let broker = Broker::connect(ready.brokers);
    let mut jobs = Jobs::default();
    jobs.tasks(&broker, &["job"], 10);
    fence(&ready, &broker);
    jobs.are_at(&[&cut_off, &ready]);
    let mut stays = Viewer::watch(cut_off.viewers, "job");
    stays.texts(jobs.of("job"));
    let had = jobs.of("job").len();
    network.refuse();
    wait_not_ready(&cut_off, "Redis cannot be reached");
    jobs.tasks(&broker, &["job"], 10);
    fence(&ready, &broker);
    until("HAProxy has noticed", || {
        let mut viewer = Viewer::watch(proxy.viewers, "job");
        viewer.texts(&jobs.of("job")[..had]);
        viewer.next_within(Duration::from_millis(200))
    });
    for _ in 0..10 {
        Viewer::watch(proxy.viewers, "job").texts(jobs.of("job"));
    }
    network.mend();
    wait_ready(&cut_off);
    jobs.finish(&broker, &["job"]);
    stays.texts(&jobs.of("job")[had..]);
    stays.closes(1000);
    jobs.are_whole_at(&[&cut_off, &ready]);
}
