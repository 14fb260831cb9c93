//! What happens to the stream itself: it is emptied, trimmed, written to by others, or its ids are far ahead.

use super::jobs::{Jobs, begin, to_the_end};
use super::node::{
    config, metric, node, nodes, readiness, report, sum, wait_above, wait_not_ready, wait_ready, with_keys,
};
use crate::common::pause::paused_process;
use crate::common::redis::STREAM;
use crate::common::resp::Reply;
use crate::common::{A_WHILE, Broker, Monitor, Redis, Viewer, command, fence, task, until};
use std::time::Duration;

/// Empties Redis while jobs run: viewers go on, and nodes keep what they have.
fn goes_on_after(empty: impl FnOnce(&mut Redis)) {
    let mut redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let (broker, names, mut jobs, mut audience) = begin(&both, 3);
    jobs.tasks(&broker, &names, 90);
    fence(&nodes[0], &broker);
    jobs.are_at(&both);
    empty(&mut redis);
    jobs.tasks(&broker, &names, 90);
    for node in both {
        wait_above(node, "epochs_total", 0);
    }
    both.into_iter().for_each(wait_ready);
    jobs.tasks(&broker, &names, 90);
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&both);
    for node in both {
        assert_eq!(metric(node, "epochs_total"), 1);
        assert_eq!(metric(node, "gaps_total"), 0);
        let errors = node.logged(&["ERROR"]);
        let of_stream: Vec<_> = errors.iter().filter(|line| line.contains("stream")).collect();
        assert_eq!(of_stream.len(), 1, "one line: {errors:#?}");
    }
    // A node that starts now has what came since, in order and with its end.
    let late = node(&config);
    let (texts, code) = to_the_end(&mut Viewer::watch(late.viewers, "job 0"));
    assert_eq!(code, Some(1000));
    assert!(texts.len() >= 31 && jobs.of("job 0").ends_with(&texts), "{texts:?}");
}

#[test]
fn after_flushall_viewers_get_the_rest_and_one_error_is_logged() {
    goes_on_after(|redis| drop(redis.tell(&["FLUSHALL"])));
}

#[test]
fn after_a_redis_without_persistence_came_back_empty_viewers_get_the_rest() {
    goes_on_after(|redis| {
        redis.kill();
        redis.begin();
    });
}

/// Both keys go, while a batch is kept that replicas have not acknowledged.
#[test]
fn a_stream_that_alone_is_deleted_is_noticed() {
    goes_on_after(|redis| drop(redis.tell(&["DEL", STREAM, "recodex:epoch"])));
}

#[test]
fn an_unknown_format_stops_the_reading_and_is_named() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let broker = Broker::connect(nodes[0].brokers);
    let mut jobs = Jobs::default();
    let mut viewer = Viewer::watch(nodes[1].viewers, "job");
    jobs.tasks(&broker, &["job"], 30);
    fence(&nodes[0], &broker);
    viewer.texts(jobs.of("job"));
    redis.tell(&["XADD", STREAM, "*", "99", "x"]);
    let late = Monitor::start(&config);
    for node in [both[0], both[1], &late] {
        wait_not_ready(node, "the stream has a format that this version does not know");
        node.wait_logged(&["ERROR", "99"]);
    }
    jobs.are_at(&[both[0], both[1], &late]);
    viewer.is_silent_for(A_WHILE);
    assert_eq!(report(both[0])["caught_up"], false);
    assert_eq!(metric(both[1], "caught_up"), 0);
    // Nothing is skipped: what comes after it is not shown.
    broker.task("job", "after");
    viewer.is_silent_for(A_WHILE);
    // Redis 6.2 does not say how many entries were added.
    let is_known = format!("{:?}", redis.tell(&["XINFO", "STREAM", STREAM])).contains("entries-added");
    for node in [both[0], both[1], &late] {
        if is_known {
            until("both entries are to be read", || (report(node)["lag_entries"] == 2).then_some(()));
            assert_eq!(metric(node, "lag_entries"), 2);
        }
        assert!(report(node)["lag_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    }
}

/// An answer is not taken into memory whatever its length. Viewers are served, and removing the entry is enough.
#[test]
fn an_entry_that_no_monitor_wrote_takes_no_memory_however_long() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let broker = Broker::connect(nodes[0].brokers);
    let mut jobs = Jobs::default();
    jobs.tasks(&broker, &["job"], 30);
    fence(&nodes[0], &broker);
    jobs.are_at(&both);
    // Redis needs seconds for it, and answers nobody meanwhile.
    let append = "return redis.call('XADD', KEYS[1], ARGV[1] .. '-1', '1', string.rep('x', 100000000))";
    let last = redis.first_entries(1000).pop().expect("there are messages").0;
    let at = last.split('-').next().expect("a time");
    let (entry, before) = (format!("{at}-1"), redis.entries());
    let _ = redis.try_ask(&["EVAL", append, "1", STREAM, at]);
    until("it is appended", || {
        redis.try_ask(&["XLEN", STREAM]).filter(|length| *length == Reply::Integer(before.cast_signed() + 1))
    });
    let late = Monitor::start(&config);
    for node in [both[0], both[1], &late] {
        node.wait_logged(&["ERROR", "an answer of Redis is longer than 48 MiB"]);
        wait_not_ready(node, "Redis cannot be reached");
        assert!(node.peak_kib() < 160 * 1024, "{} KiB", node.peak_kib());
    }
    jobs.are_at(&both);
    redis.tell(&["XDEL", STREAM, &entry]);
    broker.task("job", "after");
    let mut viewers = [both[0], both[1], &late].map(|node| {
        wait_ready(node);
        Viewer::watch(node.viewers, "job")
    });
    for viewer in &mut viewers {
        viewer.texts(jobs.of("job"));
        viewer.texts(&[task("after", "COMPLETED")]);
    }
}

/// A batch that cannot be read is not passed over in silence, and ends no node.
#[test]
fn bytes_that_are_no_batch_end_no_node() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let mut nodes = nodes(2, &config);
    let broker = Broker::connect(nodes[0].brokers);
    let mut jobs = Jobs::default();
    jobs.tasks(&broker, &["job"], 30);
    fence(&nodes[0], &broker);
    jobs.are_at(&[&nodes[0], &nodes[1]]);
    for bytes in [&b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..], b"", b"\x01\x01\x04node"] {
        redis.tell(&[b"XADD", STREAM.as_bytes(), b"*", b"1", bytes]);
    }
    for node in &mut nodes {
        node.wait_logged(&["ERROR"]);
        node.assert_alive();
        jobs.are_at(&[node]);
    }
}

/// One id from the future pins all that follow. It must not make anything expire, on any node. A clock that was years ahead for
/// a moment makes such an id.
fn an_id_from_the_future_expires_nothing(append: impl FnOnce(&Redis, &mut dyn FnMut())) {
    let redis = Redis::with_clock(0, &[]);
    let config = config(redis.address(), "history: {finished: 3600, unfinished: 3600}");
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let (broker, names, mut jobs, mut audience) = begin(&both, 4);
    jobs.tasks(&broker, &names, 40);
    jobs.finish(&broker, &names[..1]);
    fence(&nodes[0], &broker);
    append(&redis, &mut || {
        jobs.tasks(&broker, &names[1..], 3);
        fence(&nodes[0], &broker);
    });
    let year_2286 = 9_999_999_999_999;
    assert!(last_id(&redis) >= year_2286, "{}", last_id(&redis));
    jobs.tasks(&broker, &names[1..], 60);
    jobs.finish(&broker, &names[1..2]);
    fence(&nodes[0], &broker);
    assert!(last_id(&redis) >= year_2286, "{}", last_id(&redis));
    let late = node(&config);
    let all = [both[0], both[1], &late];
    jobs.are_at(&all);
    audience.join(&[&late], &names);
    jobs.tasks(&broker, &names[2..], 60);
    jobs.finish(&broker, &names[2..]);
    audience.get_all(&jobs);
    jobs.are_whole_at(&[both[0], both[1], &late, &node(&config)]);
    // Lag is not counted in centuries.
    assert!(all.iter().all(|node| metric_is_below(node, "lag_seconds", 10.0)));
    assert_eq!(sum(&all, "gaps_total"), 0);
}

#[test]
fn a_clock_that_is_years_ahead_for_one_append_expires_nothing() {
    an_id_from_the_future_expires_nothing(|redis, send| {
        redis.set_clock(300 * 365 * 86_400);
        send();
        redis.set_clock(0);
    });
}

#[test]
fn a_batch_that_stands_there_again_with_an_id_from_the_future_expires_nothing() {
    an_id_from_the_future_expires_nothing(|redis, _| {
        let (_, fields) = redis.first_entries(1).remove(0);
        redis.tell(&[b"XADD", STREAM.as_bytes(), b"9999999999999-0", &fields[0][..], &fields[1]]);
    });
}

/// Returns the time in the stream's last id, in milliseconds.
fn last_id(redis: &Redis) -> u64 {
    let id = redis.tell(&["XREVRANGE", STREAM, "+", "-", "COUNT", "1"]).array().remove(0).array().remove(0).text();
    id.split_once('-').and_then(|(time, _)| time.parse().ok()).expect("an id")
}

fn metric_is_below(node: &Monitor, name: &str, bound: f64) -> bool {
    let metrics = crate::common::http::metrics(crate::common::http::status(node));
    metrics.value(&format!("recodex_monitor_cluster_{name}")) < bound
}

/// The stream is trimmed under a reader that is stopped: it reads anew, and says that something is missing.
#[test]
fn a_stream_that_was_trimmed_under_a_reader_is_read_anew() {
    let redis = Redis::start(&[]);
    let config = config(redis.address(), "");
    let nodes = nodes(2, &config);
    let both = [&nodes[0], &nodes[1]];
    let broker = Broker::connect(nodes[0].brokers);
    let mut jobs = Jobs::default();
    jobs.tasks(&broker, &["job"], 30);
    fence(&nodes[0], &broker);
    jobs.are_at(&both);
    let mut there = Viewer::watch(nodes[1].viewers, "job");
    there.texts(jobs.of("job"));
    let first = jobs.of("job").len();
    paused_process(nodes[1].pid(), Duration::ZERO, || {
        for _ in 0..3 {
            jobs.tasks(&broker, &["job"], 10);
            fence(&nodes[0], &broker);
        }
        redis.tell(&["XTRIM", STREAM, "MAXLEN", "0"]);
        // The reader must find something after its position.
        jobs.tasks(&broker, &["job"], 10);
        jobs.finish(&broker, &["job"]);
        fence(&nodes[0], &broker);
    });
    wait_above(&nodes[1], "gaps_total", 0);
    nodes[1].wait_logged(&["ERROR"]);
    let (texts, code) = to_the_end(&mut there);
    assert_eq!(code, Some(1000));
    let rest = &jobs.of("job")[first..];
    let mut expected = rest.iter();
    assert!(texts.iter().all(|text| expected.any(|other| other == text)), "in order, each once: {texts:?}");
    assert!(texts.ends_with(&rest[rest.len() - 11..]), "the end of the job: {texts:?}");
    assert!(texts.len() < rest.len(), "some were trimmed");
    wait_ready(&nodes[1]);
    // The other node has everything.
    jobs.are_whole_at(&[&nodes[0]]);
}

/// The bound on the stream's size bites: nodes have the history in memory, and the operator is told.
#[test]
fn a_bound_on_the_stream_trims_it_with_a_warning() {
    let redis = Redis::start(&[]);
    let keys = format!("redis: [\"{}\"], stream_bytes: 1048576", redis.address());
    let nodes = nodes(2, &with_keys(&keys, ""));
    let both = [&nodes[0], &nodes[1]];
    let (broker, names, mut jobs, mut audience) = begin(&both, 2);
    for index in 0..200 {
        jobs.task_of(&broker, &names[index % 2], &format!("{index} {}", "x".repeat(40_000)));
    }
    until("the stream is trimmed", || (sum(&both, "trimmed_by_bound_total") > 0).then_some(()));
    until("it is said", || {
        nodes.iter().any(|node| !node.logged(&["WARNING", "stream_bytes"]).is_empty()).then_some(())
    });
    jobs.finish(&broker, &names);
    audience.get_all(&jobs);
    jobs.are_whole_at(&both);
    until("the stream is below its bound", || {
        fence(&nodes[0], &broker);
        (size(&redis) < 3 << 19).then_some(())
    });
    assert_eq!(sum(&both, "gaps_total"), 0);
}

/// Returns the memory that the stream takes in Redis, in bytes.
fn size(redis: &Redis) -> i64 {
    match redis.tell(&["MEMORY", "USAGE", STREAM, "SAMPLES", "0"]) {
        Reply::Integer(bytes) => bytes,
        other => panic!("a number was to come, not {other:?}"),
    }
}

/// Finished jobs whose history has gone are trimmed without a bound.
#[test]
fn messages_of_jobs_that_are_gone_are_trimmed() {
    // Redis trims whole nodes of its tree.
    let redis = Redis::with_clock(0, &["--stream-node-max-entries", "5"]);
    let nodes = nodes(2, &config(redis.address(), "history: {finished: 1}"));
    let broker = Broker::connect(nodes[0].brokers);
    let mut jobs = Jobs::default();
    for index in 0..50 {
        let name = format!("job {index}");
        jobs.tasks(&broker, &[&name], 10);
        jobs.finish(&broker, &[&name]);
        fence(&nodes[0], &broker);
    }
    let had = redis.entries();
    // The last minutes are kept for nodes that are behind.
    redis.set_clock(3600);
    let mut open = Viewer::watch(nodes[1].viewers, "open");
    broker.task("open", "1");
    until("the stream is trimmed", || (redis.entries() < had / 2).then_some(()));
    assert_eq!(sum(&[&nodes[0], &nodes[1]], "trimmed_by_bound_total"), 0);
    // The job that is open keeps its messages.
    let late = node(&config(redis.address(), "history: {finished: 1}"));
    broker.send(&["open", "FINISHED"]);
    let texts = [task("1", "COMPLETED"), command("FINISHED")];
    open.texts(&texts);
    Viewer::watch(late.viewers, "open").texts(&texts);
    assert_eq!(readiness(&late).0, 200);
}
