//! The student's dialog, which ends on FINISHED only: whenever the monitor itself ends a subscription, FINISHED comes before the
//! close, and the code of the close shows that it was not the job's end.
//!
//! Other suites show the same where they look at an end: `stopping`, `channels`, `viewers`, `handover`, `tls`, and in a browser
//! `foreign`.

use crate::common;

use common::exposition::Metrics;
use common::http::{metrics, status};
use common::{Broker, DEADLINE, Event, Manager, Monitor, Viewer, command, fence, task, until};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

/// A job that never finishes expires, and a viewer that answers no ping is given up.
const IMPATIENT: &str = "history: {unfinished: 1, total_bytes: 65536}\nclients: {ping_interval: 0.3, ping_timeout: 0.5";

/// Returns what viewers get at each end by the monitor: expiry, silence, eviction, no channel in time, and a stop, the last time
/// for a viewer that has named no channel.
fn ends(finish_on_close: bool) -> Vec<Vec<Event>> {
    let mut monitor = Monitor::start(&format!("{IMPATIENT}, finish_on_close: {finish_on_close}}}"));
    let broker = Broker::connect(monitor.brokers);
    let is_ping = |event: &Event| matches!(event, Event::Ping(_));
    let mut expired = Viewer::subscribed(monitor.viewers, "expires").rest();
    let mut silent = Vec::new();
    let mut mute = Viewer::subscribed(monitor.viewers, "mute");
    while silent.last() != Some(&Event::Gone) {
        broker.send(&["mute", "STARTED"]);
        silent.push(mute.next_within(DEADLINE).expect("pings and an end are to come"));
    }
    silent.retain(|event| !is_ping(event) && *event != Event::Text(command("STARTED")));
    silent.pop();
    let mut evicted = Viewer::subscribed(monitor.viewers, "evicted");
    broker.task("evicted", &"x".repeat(40_000));
    evicted.text();
    broker.task("other", &"x".repeat(40_000));
    let evicted = evicted.rest();
    let hurried = Monitor::start(&format!("clients: {{subscribe_timeout: 0.3, finish_on_close: {finish_on_close}}}"));
    let unnamed = Viewer::upgraded(hurried.viewers).rest();
    let mut stopped = Viewer::subscribed(monitor.viewers, "stopped");
    broker.send(&["stopped", "STARTED"]);
    assert_eq!(stopped.text(), command("STARTED"));
    let mut naming = Viewer::upgraded(monitor.viewers);
    naming.send_frame(0x89, b"read?");
    assert_eq!(naming.next(), Event::Pong(b"read?".to_vec()));
    monitor.signal("TERM");
    let (stopped, naming) = (stopped.rest(), naming.rest());
    assert_eq!(monitor.wait_exit().code(), Some(0));
    expired.retain(|event| !is_ping(event));
    vec![expired, silent, evicted, unnamed, stopped, naming]
}

#[test]
fn at_every_end_of_the_monitors_finished_comes_before_the_close_unless_that_is_off() {
    let codes = [1001, 1013, 1013, 1008, 1001, 1001];
    let close = |code| Event::Close(Some(code));
    let finished = || Event::Text(command("FINISHED"));
    assert_eq!(ends(true), codes.map(|code| vec![finished(), close(code)]));
    assert_eq!(ends(false), codes.map(|code| vec![close(code)]));
}

/// A viewer that is given up gets one FINISHED and the code for it, whatever part of its job's own FINISHED it has got.
#[test]
fn a_viewer_that_is_given_up_in_the_middle_of_its_jobs_finished_gets_no_second_one() {
    const VIEWERS: usize = 24;
    let last = "x".repeat(60_000);
    let own = Event::Text(format!("{{\"command\": \"FINISHED\", \"task_id\": \"{last}\"}}"));
    for clients in ["stall_timeout: 0.5", "ping_interval: 0.2, ping_timeout: 0.5"] {
        let config = format!("status_uri: [\"127.0.0.1\", 0]\nclients: {{{clients}}}\n");
        let monitor = Monitor::start(&config);
        let broker = Broker::connect(monitor.brokers);
        for number in 0..VIEWERS {
            let channel = format!("job-{number}");
            for id in 0..number {
                broker.task(&channel, &format!("{id} {}", "x".repeat(12_000)));
            }
            broker.send(&[&channel, "FINISHED", &last]);
        }
        fence(&monitor, &broker);
        let at = status(&monitor);
        let closed = |metrics: &Metrics| metrics.count("recodex_monitor_closed_viewers_total{code=\"1000\"}");
        let before = closed(&metrics(at));
        let late = |number| {
            let mut viewer = Viewer::connected(monitor.viewers).with_buffer(20_000).upgrade(&[]);
            viewer.send_text(&format!("job-{number}"));
            viewer
        };
        let mut viewers: Vec<_> = (0..VIEWERS).map(late).collect();
        let given_up = until("all are closed or given up", || {
            let metrics = metrics(at);
            let counts = ["stalled", "silent"]
                .map(|why| metrics.count(&format!("recodex_monitor_lost_viewers_total{{reason=\"{why}\"}}")));
            let given_up = counts.iter().sum::<u64>();
            (given_up + closed(&metrics) - before >= VIEWERS as u64).then_some(given_up)
        });
        let mut cut_short = 0;
        for (number, viewer) in viewers.iter_mut().enumerate() {
            let mut events = viewer.rest();
            events.retain(|event| !matches!(event, Event::Ping(_)));
            let (close, finished) = (events.pop(), events.pop());
            if finished == Some(own.clone()) {
                assert_eq!((close, events.len()), (Some(Event::Close(Some(1000))), number), "it has the whole job");
            } else {
                assert_eq!(finished, Some(Event::Text(command("FINISHED"))), "viewer {number}, {clients}");
                assert_eq!((close, events.contains(&own)), (Some(Event::Close(Some(1013))), false));
                cut_short += 1;
            }
        }
        assert!(0 < cut_short && cut_short < given_up, "{cut_short} of {given_up}: the test proves nothing");
    }
}

/// Viewers that read a finished job slowly get FINISHED once, and the code for it, at whatever position they are.
#[test]
fn if_the_next_process_cannot_start_everybody_gets_one_finished_and_its_code() {
    let manager = Manager::new();
    let mut monitor = manager.starts(&[], "logger: {level: debug}");
    let broker = Broker::connect(monitor.brokers);
    // So long that the kernel stops in the middle of it for some.
    let last = "x".repeat(60_000);
    let channels: Vec<_> = (0..40).map(|number| format!("job-{number}.")).collect();
    for (number, channel) in channels.iter().enumerate() {
        for id in 0..number {
            broker.task(channel, &format!("{id} {}", "x".repeat(12_000)));
        }
        broker.send(&[channel, "FINISHED", &last]);
    }
    fence(&monitor, &broker);
    // They come late, so that the kernel is given much at once, and takes what it likes of it.
    let late = |channel: &String| {
        let mut viewer = Viewer::connected(monitor.viewers).with_buffer(131_072).upgrade(&[]);
        viewer.send_text(channel);
        viewer
    };
    let mut viewers: Vec<_> = channels.iter().map(late).collect();
    for channel in &channels {
        monitor.wait_log(&format!("subscribed to channel {channel}"));
    }
    let mut naming = Viewer::upgraded(monitor.viewers);
    fence(&monitor, &broker);
    monitor.signal("USR2");
    assert_eq!(monitor.wait_exit().code(), Some(0));
    let wrong = common::temporary("config.yml", "clients: {mux: 1}\n");
    let words = manager.wrapper(&[]);
    let mut next = Command::new(&words[0]);
    let status = common::with_descriptors(&mut next, &manager.descriptors())
        .args(&words[1..])
        .args([common::PROGRAM.as_ref(), "-c".as_ref(), wrong.1.as_os_str()])
        .status()
        .expect("it runs");
    assert_eq!(status.code(), Some(78));
    manager.forgets();
    naming.is_ended_with(1001);
    let own = Event::Text(format!("{{\"command\": \"FINISHED\", \"task_id\": \"{last}\"}}"));
    let mut ends = [0; 2];
    for (number, viewer) in viewers.iter_mut().enumerate() {
        let mut events = viewer.rest();
        let (close, finished) = (events.pop(), events.pop());
        if finished == Some(own.clone()) {
            assert_eq!((close, events.len()), (Some(Event::Close(Some(1000))), number), "it has the whole job");
            ends[0] += 1;
        } else {
            assert_eq!(finished, Some(Event::Text(command("FINISHED"))), "viewer {number}");
            assert_eq!(close, Some(Event::Close(Some(1001))));
            assert!(events.len() <= number);
            ends[1] += 1;
        }
        for (id, event) in events.into_iter().enumerate() {
            assert_eq!(event, Event::Text(task(&format!("{id} {}", "x".repeat(12_000)), "COMPLETED")));
        }
    }
    assert!(ends.iter().all(|count| *count > 0), "{ends:?}: the test proves nothing");
}

/// The kernel takes its end, and sends it once the viewer reads again, if that is soon enough.
#[test]
fn a_viewer_that_reads_again_after_a_stop_gets_the_end_too() {
    let mut monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    let mut asleep = Viewer::subscribed_with_small_buffer(monitor.viewers, "job");
    let padding = "x".repeat(8192);
    for id in 0..500 {
        broker.task("job", &format!("{id} {padding}"));
    }
    fence(&monitor, &broker);
    monitor.stop();
    let mut events = asleep.rest();
    assert_eq!(events.pop(), Some(Event::Close(Some(1001))));
    assert_eq!(events.pop(), Some(Event::Text(command("FINISHED"))));
    assert!(events.len() < 500, "the kernel took it all; the test proves nothing");
    for (id, event) in events.into_iter().enumerate() {
        assert_eq!(event, Event::Text(task(&format!("{id} {padding}"), "COMPLETED")));
    }
}

/// Runs `watch` until it ends; `meanwhile` gets a line as soon as it prints one.
fn watch(url: &str, meanwhile: impl FnOnce()) -> (Option<i32>, String, String) {
    let mut child = Command::new(common::PROGRAM)
        .args(["watch", url, "job"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdout = child.stdout.take().expect("it is piped");
    let mut printed = vec![0];
    stdout.read_exact(&mut printed).expect("it prints a line");
    meanwhile();
    stdout.read_to_end(&mut printed).expect("it can be read");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(printed), text(output.stderr))
}

#[test]
fn watch_tells_the_monitors_end_from_the_jobs_by_the_code() {
    let mut monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["job", "STARTED"]);
    fence(&monitor, &broker);
    let url = format!("ws://{}", monitor.viewers);
    let (status, printed, said) = watch(&url, || {
        monitor.stop();
    });
    assert_eq!(printed, format!("{}\n{}\n", command("STARTED"), command("FINISHED")));
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("1001 (the monitor stops)"), "{said}");

    let monitor = Monitor::start("");
    let broker = Broker::connect(monitor.brokers);
    broker.send(&["job", "FINISHED"]);
    fence(&monitor, &broker);
    let (status, printed, said) = watch(&format!("ws://{}", monitor.viewers), || ());
    assert_eq!((status, printed), (Some(0), format!("{}\n", command("FINISHED"))), "{said}");
}

/// A server that sends FINISHED and then nothing more.
#[test]
fn watch_does_not_wait_for_ever_for_the_close_after_finished() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}", listener.local_addr().expect("it is bound"));
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody connects");
        let mut head = Vec::new();
        let key = until("the request", || {
            let mut chunk = [0; 1024];
            let count = stream.read(&mut chunk).expect("it can be read");
            head.extend_from_slice(&chunk[..count]);
            let text = String::from_utf8_lossy(&head).into_owned();
            let key = text.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).map(str::to_owned);
            key.filter(|_| text.contains("\r\n\r\n"))
        });
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        let upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
        write!(stream, "{upgrade}Sec-WebSocket-Accept: {accept}\r\n\r\n").expect("it reads");
        let text = command("FINISHED");
        stream.write_all(&[0x81, u8::try_from(text.len()).expect("it is short")]).expect("it reads");
        stream.write_all(text.as_bytes()).expect("it reads");
        // Until it goes.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let (status, printed, said) = watch(&url, || ());
    assert_eq!((status, printed), (Some(69), format!("{}\n", command("FINISHED"))), "{said}");
    assert!(said.contains("no close within 10 s"), "{said}");
    server.join().expect("it has gone");
}
