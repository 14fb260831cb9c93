//! Networks that delay, split, stall and cut, brokers that restart, and machines that vanish: a viewer gets an exact run of its
//! job, from some point of the history on, or its connection ends.

use crate::common;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::zmtp::{greeted, message};
use common::{
    Broker, DEADLINE, Event, Faults, FaultyNetwork, Host, Kind, Monitor, Namespace, Random, RawPeer, Viewer, command,
    fence, task, task_id, unique, until,
};

/// The messages that a viewer got in one connection.
struct Session {
    texts: Vec<String>,
    /// The code of the monitor's close; `None` if the network cut the connection.
    closed: Option<u16>,
}

/// Watches a job; nothing if the connection ends before it is upgraded.
fn watch_once(address: SocketAddr, job: &str) -> Option<Session> {
    let mut viewer = Viewer::connected(address);
    let request =
        [common::viewer::upgrade_request("/").as_bytes(), &common::viewer::frame(0x81, job.as_bytes())].concat();
    let _ = viewer.try_send_raw(&request);
    viewer.upgrade_or_end()?;
    let mut texts = Vec::new();
    let closed = loop {
        match viewer.next() {
            Event::Text(text) => texts.push(text),
            Event::Close(code) => break code,
            Event::Gone | Event::Cut => break None,
            other => panic!("a text or the end was to come, not {other:?}"),
        }
    };
    // The FINISHED before a close with another code is the monitor's own. If the network cut the connection, a FINISHED at the end may be
    // either, because the close is missing.
    let finished = command("FINISHED");
    match closed {
        Some(1000) => {}
        Some(_) => assert_eq!(texts.pop().as_ref(), Some(&finished)),
        None if texts.last() == Some(&finished) => drop(texts.pop()),
        None => {}
    }
    Some(Session { texts, closed })
}

/// Watches a job again and again, as a page does, until it has seen its end.
fn watch_to_the_end(address: SocketAddr, job: &str) -> Vec<Session> {
    let mut sessions = Vec::new();
    let start = Instant::now();
    while sessions.last().is_none_or(|session: &Session| session.closed != Some(1000)) {
        assert!(start.elapsed() < 3 * DEADLINE, "the job does not end");
        sessions.extend(watch_once(address, job));
    }
    sessions
}

/// Asserts that every session is a piece of `whole`, without a gap and each message once, and goes on to its end if it
/// was closed for that; returns how many were cut.
fn each_is_a_run_of(whole: &[String], sessions: &[Session], from_the_beginning: bool) -> usize {
    for Session { texts, closed } in sessions {
        let Some(first) = texts.first() else { continue };
        let start = whole.iter().position(|text| text == first).unwrap_or_else(|| panic!("nobody sent {first}"));
        assert!(start == 0 || !from_the_beginning, "the first {start} messages are missing");
        for (index, text) in texts.iter().enumerate() {
            assert_eq!(Some(text), whole.get(start + index), "message {index} from {start} on");
        }
        match closed {
            Some(1000) => assert_eq!(start + texts.len(), whole.len(), "closed before the end"),
            Some(1013) => assert!(!from_the_beginning, "nothing was dropped, but it is behind"),
            None => {}
            Some(other) => panic!("closed with {other}"),
        }
    }
    sessions.iter().filter(|session| session.closed.is_none()).count()
}

/// A task id that says where it is from, and is anything from short to a few frames of a network long.
fn numbered(from: &str, number: usize, random: &mut Random) -> String {
    format!("{from}.{number}.{}", "x".repeat(random.below(2500)))
}

/// Where a numbered task is from, and its number.
fn origin(text: &str) -> (&str, usize) {
    let (from, rest) = task_id(text).split_once('.').expect("a numbered task");
    (from, rest.split_once('.').expect("a numbered task").0.parse().expect("a number"))
}

/// Asserts that the tasks from each origin come in their order, and none twice.
fn each_origin_is_in_order(texts: &[String]) {
    let mut last = std::collections::HashMap::new();
    for (from, number) in texts.iter().filter(|text| text.contains("TASK")).map(|text| origin(text)) {
        if let Some(last) = last.insert(from, number) {
            assert!(last < number, "{number} from {from} after {last}");
        }
    }
}

/// As [`fence`], for a broker whose link was cut: what it sends may be lost yet, and is sent until it comes.
fn fence_after_a_cut(monitor: &Monitor, broker: &Broker) {
    let channel = unique("after-a-cut");
    let mut viewer = Viewer::watch(monitor.viewers, &channel);
    until("what was sent is taken", || {
        broker.send(&[channel.as_str(), "STARTED"]);
        viewer.next_within(Duration::from_millis(50))
    });
}

/// Both networks deliver every byte alone.
#[test]
fn a_wire_that_splits_at_every_byte_changes_nothing() {
    let monitor = Monitor::start("");
    let mut random = Random::seeded();
    let brokers = FaultyNetwork::to(monitor.brokers, Faults::Bytes, random.fork());
    let viewers = FaultyNetwork::to(monitor.viewers, Faults::Bytes, random.fork());
    let broker = Broker::connect(brokers.address);
    let mut early = Viewer::subscribed(viewers.address, "job");
    let ids: Vec<_> = (0..100).map(|number| numbered("broker", number, &mut random)).collect();
    for id in &ids {
        broker.task("job", id);
    }
    broker.send(&["job", "FINISHED"]);
    let mut late = Viewer::watch(viewers.address, "job");
    for viewer in [&mut early, &mut late] {
        viewer.texts(&ids.iter().map(|id| task(id, "COMPLETED")).collect::<Vec<_>>());
        viewer.texts(&[command("FINISHED")]);
        viewer.closes(1000);
    }
}

/// Histories are short, so that viewers come in the middle of a job and fall behind; brokers lose nothing.
#[test]
fn viewers_behind_a_storm_get_exact_pieces_of_their_jobs() {
    const JOBS: usize = 3;
    const MESSAGES: usize = 1200;
    let monitor = Monitor::start("clients: {ping_interval: 0.1}\nhistory: {channel_bytes: 200000}");
    let mut random = Random::seeded();
    let brokers = FaultyNetwork::to(monitor.brokers, Faults::Delays, random.fork());
    let viewers = FaultyNetwork::to(monitor.viewers, Faults::Resets, random.fork());
    let jobs: Vec<_> = (0..JOBS).map(|_| unique("job")).collect();
    let sent: Vec<Vec<_>> =
        jobs.iter().map(|job| (0..MESSAGES).map(|number| numbered(job, number, &mut random)).collect()).collect();
    let broken: usize = thread::scope(|scope| {
        let watching: Vec<_> = (0..3 * JOBS)
            .map(|number| (number % JOBS, &jobs[number % JOBS], viewers.address))
            .map(|(job, name, address)| (job, scope.spawn(move || watch_to_the_end(address, name))))
            .collect();
        let sending = jobs.iter().zip(&sent).map(|(job, ids)| {
            let (monitor, address) = (&monitor, brokers.address);
            scope.spawn(move || {
                let broker = Broker::connect(address);
                for id in ids {
                    broker.task(job, id);
                }
                broker.send(&[job.as_str(), "FINISHED"]);
                fence(monitor, &broker);
            })
        });
        for sender in sending.collect::<Vec<_>>() {
            sender.join().expect("everything is sent");
        }
        viewers.mend();
        let judged = watching.into_iter().map(|(job, viewer)| {
            let whole: Vec<_> = sent[job].iter().map(|id| task(id, "COMPLETED")).chain([command("FINISHED")]).collect();
            each_is_a_run_of(&whole, &viewer.join().expect("it has seen the end"), false)
        });
        judged.sum()
    });
    eprintln!("{} cuts, {broken} broken connections", viewers.cuts());
    assert!(broken > 0 && broken <= viewers.cuts(), "{broken} connections ended of {} that were cut", viewers.cuts());
}

/// Both wires cut. What is lost on the way to the monitor, only the monitor's own viewers can tell.
#[test]
fn with_storms_on_both_sides_viewers_see_what_the_monitor_took() {
    const JOBS: [&str; 3] = ["first broker's", "second broker's", "both brokers'"];
    const MESSAGES: usize = 600;
    let monitor = Monitor::start("clients: {ping_interval: 0.1}");
    let mut random = Random::seeded();
    let brokers = FaultyNetwork::to(monitor.brokers, Faults::Cuts, random.fork());
    let viewers = FaultyNetwork::to(monitor.viewers, Faults::Resets, random.fork());
    let ended: Vec<_> = JOBS.iter().map(|_| AtomicBool::new(false)).collect();
    thread::scope(|scope| {
        let direct: Vec<_> = JOBS.iter().map(|job| Viewer::subscribed(monitor.viewers, job)).collect();
        let direct: Vec<_> = direct
            .into_iter()
            .zip(&ended)
            .map(|(mut viewer, ended)| {
                scope.spawn(move || {
                    let events = viewer.rest();
                    ended.store(true, Ordering::Relaxed);
                    events
                })
            })
            .collect();
        let address = viewers.address;
        let watching: Vec<_> =
            (0..9).map(|number| scope.spawn(move || watch_to_the_end(address, JOBS[number % 3]))).collect();
        let sending = [("a", [JOBS[0], JOBS[2]]), ("b", [JOBS[1], JOBS[2]])].map(|(name, jobs)| {
            let (address, mut random) = (brokers.address, random.fork());
            scope.spawn(move || {
                let broker = Broker::with(address, Kind::Router, |socket| {
                    // Little waits, so that sending lasts as long as the storm.
                    socket.set_sndhwm(10)?;
                    socket.set_sndbuf(8192)?;
                    socket.set_reconnect_ivl(5)
                });
                for number in 0..MESSAGES {
                    for job in jobs {
                        broker.task(job, &numbered(name, number, &mut random));
                    }
                }
                broker
            })
        });
        let connected = sending.map(|sender| sender.join().expect("everything is sent"));
        brokers.mend();
        for broker in &connected {
            fence_after_a_cut(&monitor, broker);
        }
        viewers.mend();
        for (job, ended) in JOBS.iter().zip(&ended) {
            until("the job ends", || {
                connected[0].send(&[job, "FINISHED"]);
                ended.load(Ordering::Relaxed).then_some(())
            });
        }
        let texts = |event| match event {
            Event::Text(text) => Some(text),
            Event::Close(code) => {
                assert_eq!(code, Some(1000));
                None
            }
            other => panic!("a text was to come, not {other:?}"),
        };
        let taken = direct.into_iter().map(|viewer| viewer.join().expect("it has seen the end"));
        let taken: Vec<Vec<_>> = taken.map(|events| events.into_iter().filter_map(texts).collect()).collect();
        for texts in &taken {
            each_origin_is_in_order(texts);
        }
        let sessions = watching.into_iter().map(|viewer| viewer.join().expect("it has seen the end"));
        let broken: usize =
            sessions.enumerate().map(|(job, sessions)| each_is_a_run_of(&taken[job % 3], &sessions, true)).sum();
        let counts: Vec<_> = taken.iter().map(Vec::len).collect();
        eprintln!("{} and {} cuts, {broken} broken, {counts:?} taken", brokers.cuts(), viewers.cuts());
        assert!(brokers.cuts() > 0, "no broker's link was cut");
        assert!(
            broken > 0 && broken <= viewers.cuts(),
            "{broken} connections ended of {} that were cut",
            viewers.cuts()
        );
    });
}

/// Some stop when everything is taken, some between the parts of a message, some are cut off inside one.
#[test]
fn a_broker_restarts_50_times_under_load() {
    const JOBS: [&str; 2] = ["one", "other"];
    const EACH: usize = 50;
    let monitor = Monitor::start("zeromq: {max_connections: 8}");
    let mut random = Random::seeded();
    let network = FaultyNetwork::to(monitor.brokers, Faults::None, random.fork());
    let mut steady = Broker::connect(monitor.brokers);
    let mut viewers: Vec<_> = (0..6).map(|number| Viewer::subscribed(monitor.viewers, JOBS[number % 2])).collect();
    let mut watched = Viewer::subscribed(monitor.viewers, "steady");
    fence(&monitor, &steady);
    let before = monitor.descriptors();
    thread::scope(|scope| {
        let (restarting, ended) = channel::<()>();
        let (steady, watched) = (&mut steady, &mut watched);
        let load = scope.spawn(move || {
            let mut sent = 0;
            while ended.try_recv() == Err(TryRecvError::Empty) {
                steady.task("steady", &sent.to_string());
                assert_eq!(task_id(&watched.text()), sent.to_string());
                sent += 1;
            }
            sent
        });
        for round in 0..50 {
            if round % 3 == 2 {
                network.cut_next_after(random.below(12_000) as u64 + 500);
            }
            let broker = Broker::with(network.address, Kind::Router, |socket| socket.set_reconnect_ivl(5));
            for number in 0..EACH {
                for job in JOBS {
                    broker.task(job, &numbered(&format!("{round:02}"), number, &mut random));
                }
            }
            match round % 3 {
                0 => fence(&monitor, &broker),
                1 => {
                    broker.socket.send("recodex-monitor", zmq::SNDMORE).expect("the link stands");
                    broker.socket.send(JOBS[0], zmq::SNDMORE).expect("the link stands");
                }
                _ => {
                    until("the link is cut", || (network.cuts() > round / 3).then_some(()));
                    // libzmq 4.3.4 aborts if a socket is closed just as its link breaks inside a message.
                    fence_after_a_cut(&monitor, &broker);
                }
            }
        }
        drop(restarting);
        assert!(load.join().expect("nothing is lost") > 0);
    });
    until("all links are freed", || (monitor.descriptors() <= before).then_some(()));
    monitor.wait_log("in the middle of a message");
    for job in JOBS {
        steady.send(&[job, "FINISHED"]);
    }
    viewers.extend(JOBS.map(|job| Viewer::watch(monitor.viewers, job)));
    let all: Vec<Vec<_>> = viewers
        .iter_mut()
        .map(|viewer| {
            let mut events = viewer.rest();
            assert_eq!(events.pop(), Some(Event::Close(Some(1000))));
            let text = |event| match event {
                Event::Text(text) => text,
                other => panic!("a text was to come, not {other:?}"),
            };
            events.into_iter().map(text).collect()
        })
        .collect();
    for (index, texts) in all.iter().enumerate() {
        let job = index % 2;
        let (last, tasks) = texts.split_last().expect("FINISHED at least");
        assert_eq!(*last, command("FINISHED"));
        each_origin_is_in_order(tasks);
        let origins: Vec<_> = tasks.iter().map(|text| origin(text)).collect();
        for round in (0..50).step_by(3) {
            let round = format!("{round:02}");
            assert_eq!(origins.iter().filter(|(from, _)| *from == round).count(), EACH, "of round {round}");
        }
        assert!(*texts == all[job], "all viewers of {} see the same", JOBS[job]);
    }
}

/// A viewer's machine vanishes: the monitor notices only that a ping is not answered.
#[test]
#[ignore = "needs root"]
fn a_viewer_whose_machine_vanishes_is_given_up_after_a_ping_and_others_do_not_notice() {
    let Some((near, far)) = Namespace::pair() else { return };
    near.inside(|| {
        let everywhere = Host { name: "0.0.0.0", ..Host::default() };
        let monitor = Monitor::start_at(everywhere, "clients: {ping_interval: 0.5, ping_timeout: 2}");
        let broker = Broker::connect(monitor.brokers);
        let mut stays = Viewer::subscribed(monitor.viewers, "job");
        fence(&monitor, &broker);
        let before = monitor.descriptors();
        let address = (Namespace::NEAR, monitor.viewers.port()).into();
        let mut goes = far.inside(|| Viewer::subscribed(address, "job"));
        broker.task("job", "0");
        stays.texts(&[task("0", "COMPLETED")]);
        goes.texts(&[task("0", "COMPLETED")]);

        far.vanish();
        let start = Instant::now();
        drop((goes, far));
        let mut sent = 1;
        while monitor.logged(&["gave up viewer 10.0.0.2", "clients.ping_timeout"]).is_empty() {
            broker.task("job", &sent.to_string());
            stays.texts(&[task(&sent.to_string(), "COMPLETED")]);
            stays.is_silent_for(Duration::from_millis(20)); // in which it answers pings
            sent += 1;
            assert!(start.elapsed() < Duration::from_secs(5), "2.5 s and what the machine needs have passed");
        }
        eprintln!("found after {:?}", start.elapsed());
        until("its place is free", || (monitor.descriptors() <= before).then_some(()));
        assert_eq!(monitor.logged(&["gave up viewer"]).len(), 1);
    });
}

/// A broker's machine vanishes: its link stays until TCP gives it up, and nobody else waits for that.
#[test]
#[ignore = "needs root"]
fn brokers_whose_machine_vanishes_hold_up_nobody() {
    let Some((near, far)) = Namespace::pair() else { return };
    near.inside(|| {
        let everywhere = Host { name: "0.0.0.0", ..Host::default() };
        let monitor = Monitor::start_at(everywhere, "zeromq: {max_connections: 4, handshake_timeout: 1}");
        let mut viewer = Viewer::subscribed(monitor.viewers, "job");
        let before = monitor.descriptors();
        let address = (Namespace::NEAR, monitor.brokers.port()).into();
        let gone = far.inside(|| {
            let broker = Broker::connect(address);
            broker.task("job", "far");
            viewer.texts(&[task("far", "COMPLETED")]);
            let mut half = RawPeer::ready(address);
            half.send(&message(&["job", "STARTED"])[..7]);
            let peers = [0, 10, 64, 70].map(|length| {
                let mut stranger = RawPeer::connect(address);
                stranger.send(&greeted(b"\x04\x05READY")[..length]);
                stranger
            });
            (broker, half, peers)
        });
        until("all are connected", || (monitor.descriptors() >= before + 6).then_some(()));

        far.vanish();
        drop((gone, far));
        for number in 0..20 {
            let broker = Broker::connect(monitor.brokers);
            broker.task("job", &number.to_string());
            viewer.texts(&[task(&number.to_string(), "COMPLETED")]);
            fence(&monitor, &broker);
        }
        monitor.wait_logged(&["closed the ZeroMQ link from 10.0.0.2", "zeromq.handshake_timeout"]);
        until("only two links are left", || (monitor.descriptors() <= before + 2).then_some(()));
        let port = monitor.brokers.port();
        until("TCP asks after them", || {
            let filter = format!("sport = :{port}");
            let output =
                Command::new("ss").args(["-tnoH", "state", "established", &filter]).output().expect("ss is there");
            let links = String::from_utf8(output.stdout).expect("ss writes text");
            (links.lines().count() == 2 && links.lines().all(|link| link.contains("timer:(keepalive"))).then_some(())
        });
    });
}
