//! The stream of events, and the stream of one job.

use super::{PLAIN, counts, json_of, start};
use crate::common::http::{Events, STATUS, get, metrics, status};
use crate::common::{self, Broker, Monitor, Viewer, command, task, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

#[test]
fn the_stream_begins_with_samples_settings_warnings_and_status_and_goes_on_with_status() {
    let monitor = start("clients: {max: 77}\n");
    let at = status(&monitor);
    let mut events = Events::open(at, "/events");
    let mut next = |name: &str| -> Value {
        let (found, data) = events.next();
        assert_eq!(found, name);
        serde_json::from_str(&data).expect("the data is JSON")
    };
    let samples = next("samples");
    assert_eq!(samples["period"], 1);
    assert!(samples["samples"].is_array());
    let settings = next("settings");
    let settings: serde_yaml::Value = serde_yaml::from_str(settings.as_str().expect("a string")).expect("YAML");
    assert_eq!(settings["clients"]["max"], 77);
    assert_eq!(next("warnings"), json!([]));
    let mut report = json_of(&get(at, "/status"));
    report.as_object_mut().expect("an object").remove("warnings");
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<BTreeSet<_>>();
    let first = next("status");
    for (number, told) in [first].into_iter().chain((0..2).map(|_| next("status"))).enumerate() {
        let mut told_keys = keys(&told);
        if let Some(sample) = told.get("sample") {
            assert_eq!(sample.as_array().map(Vec::len), Some(5), "{sample}");
            told_keys.remove("sample");
        } else {
            assert_eq!(number, 0, "there is a sample after a second");
        }
        assert_eq!(told_keys, keys(&report), "status {number}");
    }
}

#[test]
fn samples_have_what_was_received_and_sent_in_their_second() {
    let monitor = start("");
    let at = status(&monitor);
    let broker = Broker::connect(monitor.brokers);
    let mut viewers: Vec<_> = (0..2).map(|_| Viewer::subscribed(monitor.viewers, "job")).collect();
    let mut events = Events::open(at, "/events");
    events.next_json("status");
    for id in 0..10 {
        broker.task("job", &id.to_string());
    }
    for viewer in &mut viewers {
        (0..10).for_each(|_| drop(viewer.text()));
    }
    let mut sums = [0; 2];
    let last = until("all are in samples", || {
        let sample = events.next_json("status")["sample"].clone();
        for (sum, at) in sums.iter_mut().zip([1, 2]) {
            *sum += sample[at].as_u64().expect("a rate");
        }
        (sums[0] >= 10 && sums[1] >= 20).then_some(sample)
    });
    assert_eq!(last[3], 2, "viewers");
    assert!(last[4].as_f64().is_some_and(|percent| (0.0..100.0).contains(&percent)), "{last}");
    // A sample's rate is of a second that may have been a little longer.
    assert!(sums[0] <= 12 && sums[1] <= 23, "{sums:?}");
    // Who comes later gets them, oldest first, and the last of them again with the first status.
    let mut late = Events::open(at, "/events");
    let samples = late.next_json("samples");
    let samples = samples["samples"].as_array().expect("a list");
    let times: Vec<_> = samples.iter().map(|sample| sample[0].as_u64().expect("a time")).collect();
    assert!(times.is_sorted() && times.contains(&last[0].as_u64().expect("a time")), "{times:?}");
    let newest = late.next_json("status")["sample"].clone();
    assert!(newest == samples[samples.len() - 1] || newest[0].as_u64() > times.last().copied(), "{newest}");
}

#[test]
fn a_warning_reaches_those_who_listen() {
    let monitor = start("");
    let mut events = Events::open(status(&monitor), "/events");
    assert_eq!(events.next_json("warnings"), json!([]));
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["only"]);
    let warnings = events.next_json("warnings");
    let warning = &warnings[0];
    assert_eq!((warnings.as_array().map(Vec::len), &warning["level"]), (Some(1), &json!("warning")));
    assert!(warning["text"].as_str().is_some_and(|text| text.contains("fewer than two frames")), "{warning}");
    let since = Duration::from_secs_f64(warning["time"].as_f64().expect("a time"));
    let now = std::time::UNIX_EPOCH.elapsed().expect("it is after 1970");
    assert!(now.checked_sub(since).is_some_and(|ago| ago < common::DEADLINE), "{warning}");
    let mut late = Events::open(status(&monitor), "/events");
    assert_eq!(late.next_json("warnings"), warnings);
}

#[test]
fn settings_that_a_reload_takes_up_are_told_and_one_that_fails_shows_in_the_metrics() {
    let directory = common::open_directory();
    let path = directory.path().join("config.yml");
    let write = |more: &str| {
        let user = if common::is_root() { "user: nobody\n" } else { "" };
        let ports = "websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\n";
        std::fs::write(&path, format!("{ports}{STATUS}{user}{more}")).expect("it is ours");
    };
    write("clients: {max: 5}\n");
    let monitor = Monitor::start_from(&path);
    let at = status(&monitor);
    let mut events = Events::open(at, "/events");
    assert!(events.next_of("settings").contains("max: 5\\n"));
    let taken_up = || metrics(at).value("recodex_monitor_config_last_reload_success_timestamp_seconds");
    let started = taken_up();
    assert!(
        (started - metrics(at).value("process_start_time_seconds")).abs() < common::DEADLINE.as_secs_f64(),
        "{started}"
    );
    write("clients: {max: 6}\n");
    monitor.signal("HUP");
    assert!(events.next_of("settings").contains("max: 6\\n"));
    counts(&metrics(at), &[("viewers_limit", 6), ("config_last_reload_successful", 1)]);
    let reloaded = taken_up();
    assert!(reloaded > started, "{started} {reloaded}");

    write("clients: {max: none}\n");
    monitor.signal("HUP");
    let warnings = events.next_json("warnings");
    assert_eq!(warnings.as_array().and_then(|all| all.last()).expect("a notice")["level"], "error");
    counts(&metrics(at), &[("viewers_limit", 6), ("config_last_reload_successful", 0), ("config_reload_success", 0)]);
    assert_eq!(taken_up().to_string(), reloaded.to_string(), "a reload that failed changes nothing");
    write("clients: {max: 8}\n");
    monitor.signal("HUP");
    assert!(events.next_of("settings").contains("max: 8\\n"));
    counts(&metrics(at), &[("viewers_limit", 8), ("config_last_reload_successful", 1), ("config_reload_success", 1)]);
    assert!(taken_up() > reloaded);
}

#[test]
fn a_job_is_watched_from_its_beginning_to_its_close() {
    let monitor = start("");
    let at = status(&monitor);
    let broker = Broker::connect(monitor.brokers);
    let mut early = Events::open(at, "/watch?channel=job");
    broker.send(&["job", "STARTED"]);
    early.is_next("message", &command("STARTED"));
    broker.task("job", "\u{159}eka \"a\"\n<b>");
    let task = task("\\u0159eka \\\"a\\\"\\n<b>", "COMPLETED");
    early.is_next("message", &task);
    // As a student who comes late.
    let mut late = Events::open(at, "/watch?channel=job");
    late.is_next("message", &command("STARTED"));
    late.is_next("message", &task);
    broker.send(&["job", "FINISHED"]);
    let after = Events::open(at, "/watch?channel=job");
    for (mut events, seen) in [(early, 2), (late, 2), (after, 0)] {
        if seen == 0 {
            events.is_next("message", &command("STARTED"));
            events.is_next("message", &task);
        }
        events.is_next("message", &command("FINISHED"));
        let close: Value = serde_json::from_str(&events.next_of("close")).expect("JSON");
        assert_eq!(close, json!({"code": 1000, "reason": ""}));
        assert_eq!(events.next_or_end(), None);
    }
}

#[test]
fn a_channel_id_of_1_to_256_bytes_may_be_watched_and_no_other() {
    let monitor = start("");
    let at = status(&monitor);
    let broker = Broker::connect(monitor.brokers);
    for query in ["", "?", "?channel", "?channel=", "?other=job", "?CHANNEL=job"] {
        let answer = get(at, &format!("/watch{query}"));
        assert_eq!((answer.status, answer.header("content-type")), (400, Some(PLAIN)), "{query:?}");
        assert_eq!(answer.body.lines().count(), 1, "{query:?}: {}", answer.body);
    }
    for (id, escaped) in [
        ("x".repeat(256), "x".repeat(256)),
        ("\u{fa}".repeat(128), "%C3%BA".repeat(128)),
        ("a b&c=d+#%".to_owned(), "a+b%26c%3Dd%2B%23%25".to_owned()),
    ] {
        broker.send(&[id.as_str(), "FINISHED"]);
        let path = format!("/watch?x=1&channel={escaped}&channel=other");
        Events::open(at, &path).is_next("message", &command("FINISHED"));
    }
    for escaped in ["x".repeat(257), "%C3%BA".repeat(128) + "x"] {
        assert_eq!(get(at, &format!("/watch?channel={escaped}")).status, 400);
    }
}

#[test]
fn the_longest_messages_are_watched_whole() {
    let monitor = start("");
    let at = status(&monitor);
    let broker = Broker::connect(monitor.brokers);
    let texts: Vec<_> = [("\u{1}", "\\u0001", 65_000), ("\u{fa}", "\\u00fa", 32_500), ("x", "x", 65_000)]
        .into_iter()
        .map(|(character, escaped, count)| {
            broker.task("job", &character.repeat(count));
            task(&escaped.repeat(count), "COMPLETED")
        })
        .collect();
    assert!(texts[0].len() > 256 * 1024);
    let mut events = Events::open(at, "/watch?channel=job");
    let mut expect = || {
        for text in &texts {
            let (name, data) = events.next();
            assert!(name == "message" && data == *text, "{name}: {} bytes, not {}", data.len(), text.len());
        }
    };
    expect();
    for character in ["\u{1}".repeat(65_000), "\u{fa}".repeat(32_500), "x".repeat(65_000)] {
        broker.task("job", &character);
    }
    expect();
    broker.send(&["job", "FINISHED"]);
    events.is_next("message", &command("FINISHED"));
    assert_eq!(events.next().0, "close");
}

#[test]
fn who_stops_watching_leaves_the_channel() {
    let monitor = start("");
    let at = status(&monitor);
    let open = || metrics(at).count("recodex_monitor_channels{state=\"open\"}");
    let watching: Vec<_> = (0..3).map(|job| Events::open(at, &format!("/watch?channel=job-{job}"))).collect();
    assert_eq!(open(), 3);
    drop(watching);
    until("their channels are gone", || (open() == 0).then_some(()));
}

#[test]
fn watchers_are_told_that_the_monitor_stops() {
    for with_viewer in [false, true] {
        let mut monitor = start("");
        let at = status(&monitor);
        let viewer = with_viewer.then(|| Viewer::subscribed(monitor.viewers, "job"));
        let broker = Broker::connect(monitor.brokers);
        broker.send(&["job", "STARTED"]);
        let mut watching: Vec<_> = (0..3).map(|_| Events::open(at, "/watch?channel=job")).collect();
        for events in &mut watching {
            events.is_next("message", &command("STARTED"));
        }
        monitor.signal("TERM");
        for events in &mut watching {
            let close: Value = serde_json::from_str(&events.next_of("close")).expect("JSON");
            assert_eq!(close, json!({"code": 1001, "reason": "the monitor stops"}));
            assert_eq!(events.next_or_end(), None);
        }
        drop(viewer);
        assert_eq!(monitor.wait_exit().code(), Some(0));
    }
}
