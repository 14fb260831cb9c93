//! History in a file (`history.state`): from a process that stops, and from one whose next process cannot start; and files that are
//! not a saved history.

use crate::{alone, common, ids};

use common::{Broker, Host, Manager, Monitor, Viewer, command, fence, open_up, task, with_descriptors};
use recodex_monitor::internals::snapshot::state::Lifecycle;
use recodex_monitor::internals::snapshot::state::{Run, State, now};
use std::borrow::Cow;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PORTS: &str = "websocket_uri: [127.0.0.1, 0]\nzeromq_uri: [127.0.0.1, 0]\nuser: nobody\n";

/// Starts a process that is expected to end by itself, as the user that the service runs as; `prefix` are words before it.
fn fails(manager: &Manager, prefix: &[&str], config: &str) -> Output {
    let user = ["setpriv", "--reuid=nobody", "--clear-groups", "--inh-caps=-all"];
    let user = if common::is_root() { &user[..] } else { &[] };
    fails_as_it_is(manager, &[user, prefix].concat(), config)
}

/// The same, as the user that runs the tests.
fn fails_as_it_is(manager: &Manager, prefix: &[&str], config: &str) -> Output {
    let directory = common::open_directory();
    let path = directory.path().join("c.yml");
    fs::write(&path, config).expect("it is ours");
    let mut words = manager.wrapper(&[]);
    words.extend(prefix.iter().map(|word| (*word).to_owned()));
    with_descriptors(&mut Command::new(&words[0]), &manager.descriptors())
        .args(&words[1..])
        .args([common::PROGRAM.as_ref(), "-c".as_ref(), path.as_os_str()])
        .output()
        .expect("it runs")
}

#[test]
fn a_successor_that_cannot_start_saves_the_history_for_the_next() {
    let _alone = alone();
    let (_port, taken) = common::taken_port();
    let directory = common::open_directory();
    let path = directory.path().join("history");
    let other = directory.path().join("other");
    let state = |path: &Path| format!("history: {{state: '{}', release_failed: 1}}\n", path.display());
    let config = state(&path);
    let nobody_knows = format!("{PORTS}clients: {{mux: 1}}\n");
    for (prefix, wrong, status, saved) in [
        (&[][..], nobody_knows.clone(), 78, &path),
        (&[], format!("{PORTS}{}", "x".repeat(2 << 20)), 78, &path),
        (&[], format!("{PORTS}{config}").replacen(", 0]", &format!(", {}]", taken.port()), 1), 69, &path),
        (&[], format!("{PORTS}{}tls: {{certificate: /nowhere, key: /nowhere}}\n", state(&other)), 78, &other),
        (&[], format!("{PORTS}{}logger: {{output: file, file: /proc/log}}\n", state(&other)), 78, &other),
        (&["prlimit", "--nofile=32:32"], format!("{PORTS}{config}"), 78, &path),
        // There can be no thread for the log.
        (&["prlimit", "--nproc=0:0"], format!("{PORTS}{config}"), 70, &path),
    ] {
        let manager = Manager::new();
        let mut monitor = manager.starts(&[], &config);
        let broker = Broker::connect(monitor.brokers);
        (0..10).for_each(|i| broker.task("open", &i.to_string()));
        broker.send(&["failed", "FAILED"]);
        fence(&monitor, &broker);
        let mut viewer = Viewer::watch(monitor.viewers, "open");
        viewer.texts(&ids(0, 10));
        monitor.signal("USR2");
        assert_eq!(monitor.wait_exit().code(), Some(0));
        assert!(!path.exists() && !other.exists());
        let output = fails(&manager, prefix, &wrong);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(saved.exists(), "{said}");
        let has_log = !wrong.contains("/proc/log") && status != 70;
        assert!(said.contains("the history is saved to") || !has_log, "{said}");
        viewer.is_ended_with(1001);
        // The service manager tries again, and has nothing to hand over any more.
        let before = fs::read(saved).expect("it is there");
        assert_eq!(fails(&manager, prefix, &wrong).status.code(), Some(status));
        assert_eq!(fs::read(saved).expect("it is there"), before);
        manager.forgets();
        drop(broker);
        let monitor = Monitor::start(&state(saved));
        monitor.wait_logged(&["took up 3 channels", &saved.display().to_string()]);
        assert!(!saved.exists());
        Broker::connect(monitor.brokers).task("open", "10");
        Viewer::watch(monitor.viewers, "open").texts(&ids(0, 11));
        Viewer::watch(monitor.viewers, "failed").texts(&[command("FAILED"), command("FINISHED")]);
    }
}

#[test]
#[ignore = "needs root"]
fn a_successor_of_root_that_has_no_settings_saves_the_history_as_the_user_before() {
    let _alone = alone();
    let (_port, taken) = common::taken_port();
    let directory = common::open_directory();
    let path = directory.path().join("history");
    let config = format!("history: {{state: '{}'}}\n", path.display());
    let named = |user: &str| format!("{PORTS}{config}").replace("user: nobody", user);
    for (wrong, status) in [
        (format!("{PORTS}clients: {{mux: 1}}\n"), 78),
        (named("user: nobody-else"), 77),
        (named("user: nobody\ngroup: nobodies"), 77),
        (named("user: root").replacen(", 0]", &format!(", {}]", taken.port()), 1), 77),
    ] {
        let manager = Manager::new();
        let mut monitor = manager.starts(&[], &config);
        let broker = Broker::connect(monitor.brokers);
        broker.task("open", "1");
        fence(&monitor, &broker);
        let mut viewer = Viewer::watch(monitor.viewers, "open");
        viewer.texts(&ids(1, 2));
        monitor.signal("USR2");
        assert_eq!(monitor.wait_exit().code(), Some(0));
        let output = fails_as_it_is(&manager, &[], &wrong);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        viewer.is_ended_with(1001);
        let nobody = nix::unistd::User::from_name("nobody").expect("it can be looked up").expect("it is there");
        assert_eq!(fs::metadata(&path).expect("it is saved").uid(), nobody.uid.as_raw());
        manager.forgets();
        Monitor::start(&config).wait_log("took up 2 channels");
    }
}

#[test]
fn without_a_file_for_it_the_viewers_are_told_and_nothing_is_saved() {
    let _alone = alone();
    let manager = Manager::new();
    let mut monitor = manager.starts(&[], "");
    let mut viewer = Viewer::subscribed(monitor.viewers, "job");
    monitor.signal("USR2");
    monitor.wait_exit();
    assert_eq!(fails(&manager, &[], "clients: {mux: 1}\n").status.code(), Some(78));
    viewer.is_ended_with(1001);
}

/// Runs a check and a start with this file. Returns their errors if the start is refused.
fn refusal(path: &Path, more: &str) -> Option<String> {
    let (_directory, config) =
        common::temporary("c.yml", format!("{PORTS}{more}history: {{state: '{}'}}\n", path.display()));
    let config = config.to_str().expect("UTF-8");
    let checked = common::run(&["check", "-c", config]);
    if checked.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(78), "{said}");
    let output = common::run(&["-c", config]);
    let said = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(78), "{said}");
    Some(said)
}

#[test]
fn what_is_no_saved_history_is_never_touched_and_the_start_refused() {
    let _alone = alone();
    let directory = common::open_directory();
    let at = |name: &str| directory.path().join(name);
    let state = at("history");
    let text = b"somebody's own file, longer than a head";
    for name in ["history", "history.new", "history.bad"] {
        fs::write(at(name), text).expect("it is ours");
        open_up(&at(name));
        let said = refusal(&state, "").expect("it is refused");
        assert!(said.contains(&format!("{}: it is not a saved history", at(name).display())), "{said}");
        assert_eq!(fs::read(at(name)).expect("it is there"), text);
        fs::remove_file(at(name)).expect("it is ours");
        symlink("/dev/null", at(name)).expect("it is ours");
        assert!(refusal(&state, "").expect("it is refused").contains("it is a link"));
        fs::remove_file(at(name)).expect("it is ours");
        fs::create_dir(at(name)).expect("it is ours");
        assert!(refusal(&state, "").expect("it is refused").contains("it is not a regular file"));
        fs::remove_dir(at(name)).expect("it is ours");
        // What nobody else may read.
        fs::write(at(name), text).expect("it is ours");
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o0)).expect("it is ours");
        assert!(refusal(&state, "").expect("it is refused").contains("it cannot be read (Permission denied"));
        if common::is_root() {
            chown(at(name), Some(1), None).expect("root may");
            assert!(refusal(&state, "").expect("it is refused").contains("it belongs to another user (uid 1)"));
        }
        fs::remove_file(at(name)).expect("it is ours");
    }
    // What comes to be there while the monitor runs.
    for name in ["history", "history.new"] {
        let mut monitor = Monitor::start(&format!("history: {{state: '{}'}}", state.display()));
        // Whoever is served is served after the file was looked at.
        drop(Viewer::subscribed(monitor.viewers, "fence"));
        fs::write(at(name), text).expect("it is ours");
        open_up(&at(name));
        monitor.stop();
        monitor.wait_logged(&["ERROR", "cannot save the history", "it is not a saved history"]);
        assert_eq!(fs::read(at(name)).expect("it is there"), text);
        fs::remove_file(at(name)).expect("it is ours");
    }
    let log = format!("logger: {{output: file, file: '{}'}}\n", at("m.log").display());
    for path in
        [at("m.log"), at("m.log.2"), at("../").join(directory.path().file_name().expect("it has one")).join("m.log")]
    {
        let said = refusal(&path, &log).expect("it is refused");
        assert!(said.contains("logger.file and history.state both use"), "{said}");
    }
}

#[test]
fn a_reload_does_not_take_up_a_file_that_is_not_ours() {
    let _alone = alone();
    let directory = common::open_directory();
    let at = |name: &str| directory.path().join(name);
    let text =
        |state: &str| format!("{PORTS}logger: {{output: stderr}}\nhistory: {{state: '{}'}}\n", at(state).display());
    fs::write(at("foreign"), "somebody's own").expect("it is ours");
    open_up(&at("foreign"));
    fs::write(at("c.yml"), text("history")).expect("it is ours");
    let mut monitor = Monitor::start_from(&at("c.yml"));
    fs::write(at("c.yml"), text("foreign")).expect("it is ours");
    monitor.signal("HUP");
    monitor.wait_logged(&["ERROR", "stays as it was", "foreign: it is not a saved history"]);
    monitor.stop();
    assert!(at("history").exists());
    assert_eq!(fs::read(at("foreign")).expect("it is there"), b"somebody's own");
}

fn run(id: &str, frames: usize, lifecycle: Lifecycle) -> Run<'static> {
    let frames = [0x81, 1, b'x'].repeat(frames).into();
    let id = Cow::Owned(id.to_owned());
    Run {
        id,
        frames,
        start: 0,
        trimmed: false,
        lifecycle,
        since: 0,
        touched: 0,
        failed: None,
        aborted: None,
        origin: None,
    }
}

fn saved(runs: Vec<Run<'_>>) -> Vec<u8> {
    let (links, viewers) = (Cow::default(), Cow::default());
    let state = State {
        version: "0".into(),
        written: now(),
        uptime: 0,
        history_file: None,
        runs,
        links,
        viewers,
        stream: None,
    };
    state.encode().expect("it is small")
}

/// Returns a saved history without runs, whose part of a cluster's stream has these bytes in the place of its lists: of the batches that
/// wait, those that are kept, the numbers that were read, and the dropped messages.
pub(crate) fn saved_stream([waiting, kept, seen, dropped]: [&[u8]; 4]) -> Vec<u8> {
    const HEAD: usize = 24;
    let mut bytes = saved(Vec::new());
    assert_eq!(bytes.pop(), Some(0), "it has no stream");
    let (name, ingest, next) = (b"\x07recodex", b"\x07", b"\x01");
    let (entries, epoch) = ([0; 4], [0]);
    for part in [&[1][..], name, ingest, next, waiting, kept, seen, &entries, &epoch, dropped] {
        bytes.extend(part);
    }
    let (length, checksum) = ((bytes.len() - HEAD) as u64, crc32fast::hash(&bytes[HEAD..]));
    bytes[12..20].copy_from_slice(&length.to_le_bytes());
    bytes[20..24].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Returns a list of `count` equal values, as it is encoded.
pub(crate) fn list_of(count: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = count;
    while rest > 0x7f {
        bytes.push(u8::try_from(rest & 0x7f).expect("it has 7 bits") | 0x80);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).expect("it has 7 bits"));
    bytes.extend(value.repeat(count));
    bytes
}

fn put(path: &PathBuf, bytes: &[u8]) {
    fs::write(path, bytes).expect("it is ours");
    open_up(path);
}

#[test]
fn a_history_that_cannot_be_used_is_set_aside_one_at_a_time() {
    let _alone = alone();
    let directory = common::open_directory();
    common::open_up(directory.path());
    let (path, bad) = (directory.path().join("history"), directory.path().join("history.bad"));
    let config = format!("history: {{state: '{}', total_bytes: 65536}}", path.display());
    let good = saved(vec![run("job", 3, Lifecycle::Open)]);
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    for (bytes, why) in [
        (changed(8, 200), "its format is 200"),
        (changed(good.len() - 1, 77), "its checksum is wrong"),
        (good[..good.len() - 1].to_vec(), "bytes, expected"),
        (good[..9].to_vec(), "it is no state of a monitor"),
    ] {
        put(&path, &bytes);
        let monitor = Monitor::start(&config);
        monitor.wait_logged(&["WARNING", &path.display().to_string(), why, "it is kept as"]);
        assert!(!path.exists());
        assert!(fs::read(&bad).expect("it is kept") == bytes);
    }
    // Whatever is in it.
    put(&path, &good);
    let file = fs::OpenOptions::new().write(true).open(&path).expect("it is ours");
    file.set_len(258 << 20).expect("it has holes");
    let monitor = Monitor::start(&config);
    monitor.wait_log(TOO_LARGE);
    assert!(monitor.peak_kib() < 64 * 1024);
    assert!(!path.exists() && fs::metadata(&bad).expect("it is kept").len() == 258 << 20);
    // What is good is taken up and gone, and leaves the other alone.
    put(&path, &good);
    let mut monitor = Monitor::start(&config);
    monitor.wait_log("took up 1 channels");
    assert!(!path.exists() && bad.exists());
    monitor.stop();
    assert!(path.exists());
    // What a process left that was killed while it saved.
    put(&directory.path().join("history.new"), &good[..12]);
    let mut monitor = Monitor::start(&config);
    monitor.wait_log("took up 1 channels");
    monitor.stop();
    assert!(path.exists() && !directory.path().join("history.new").exists());
}

#[test]
fn under_a_lower_total_the_oldest_jobs_of_a_saved_history_are_dropped() {
    let _alone = alone();
    let directory = common::open_directory();
    open_up(directory.path());
    let path = directory.path().join("history");
    let runs = (0..10).map(|age| Run { touched: age * 1000, ..run(&format!("job {age}"), 10_000, Lifecycle::Open) });
    put(&path, &saved(runs.collect()));
    let monitor = Monitor::start(&format!("history: {{state: '{}', total_bytes: 65536}}", path.display()));
    monitor
        .wait_logged(&["WARNING", "history.total_bytes (65536 bytes) is less than was saved: 8 channels are dropped"]);
    monitor.wait_log("took up 2 channels");
    assert!(!path.exists() && !directory.path().join("history.bad").exists());
    for age in 0..2 {
        assert_eq!(Viewer::watch(monitor.viewers, &format!("job {age}")).text(), "x");
    }
}

#[test]
fn offsets_in_a_saved_history_do_not_matter_to_the_next_restart() {
    let _alone = alone();
    let directory = common::open_directory();
    open_up(directory.path());
    let path = directory.path().join("history");
    put(&path, &saved(vec![Run { start: u64::MAX / 2 - 3, ..run("job", 1, Lifecycle::Open) }]));
    let manager = Manager::new();
    let config = format!("history: {{state: '{}'}}", path.display());
    let mut monitor = manager.starts(&[], &config);
    monitor.wait_log("took up 1 channels");
    let broker = Broker::connect(monitor.brokers);
    let mut viewer = Viewer::watch(monitor.viewers, "job");
    broker.task("job", "0");
    viewer.texts(&["x".to_owned(), task("0", "COMPLETED")]);
    monitor.signal("USR2");
    monitor.wait_exit();
    let monitor = manager.restarts(&monitor, &config);
    monitor.wait_log("took over 1 viewers, 1 brokers and 1 channels");
    broker.task("job", "1");
    viewer.texts(&ids(1, 2));
}

const TOO_LARGE: &str = "it is larger than twice history.total_bytes";

#[test]
fn a_hostile_history_takes_no_more_memory_than_history_may() {
    let _alone = alone();
    let directory = common::open_directory();
    let path = directory.path().join("history");
    let config = format!("history: {{state: '{}', total_bytes: 16777216}}", path.display());
    let many = |count: usize, place| saved((0..count).map(|i| run(&format!("{i:x}"), 0, place)).collect());
    let large = |count| saved((0..count).map(|i| run(&format!("{i:x}"), 21_000, Lifecycle::Finished)).collect());
    let one_id = saved((0..1_600_000).map(|_| run("x", 0, Lifecycle::Draining)).collect());
    for (bytes, said) in [
        (one_id, "took up 0 channels"),
        (many(1_000_000, Lifecycle::Open), TOO_LARGE),
        (many(500_000, Lifecycle::Finished), TOO_LARGE),
        (many(100_000, Lifecycle::Open), TOO_LARGE),
        // These cost nearly twice the total, and are the most that is read.
        (many(66_000, Lifecycle::Open), "channels are dropped"),
        (many(66_000, Lifecycle::Finished), "channels are dropped"),
        (large(533), "channels are dropped"),
        (large(4000), TOO_LARGE),
        (many(32_000, Lifecycle::Finished), "took up"),
    ] {
        put(&path, &bytes);
        let monitor = Monitor::start(&config);
        monitor.wait_log(said);
        let peak = monitor.peak_kib();
        assert!(peak < 64 * 1024, "{said}: {peak} KiB");
    }
}

/// The lists of the stream take up to 20 times as much memory as in the file.
#[test]
fn a_hostile_state_of_the_stream_takes_no_more_memory_than_cluster_buffer_may() {
    const COUNT: usize = 2_500_000;
    let _alone = alone();
    let directory = common::open_directory();
    let path = directory.path().join("history");
    let alone = format!("history: {{state: '{}', total_bytes: 16777216}}\n", path.display());
    let cluster = format!("{alone}cluster: {{redis: [\"127.0.0.1:1\"], buffer: 1048576}}\n");
    let (batches, none) = (list_of(COUNT, &[1, 0, 0]), &[0][..]);
    let one_ingest = [&[1, 1, 1, 0, 0][..], &list_of(COUNT, &[0, 0])].concat();
    let (ingests, dropped) = (list_of(COUNT, &[0; 5]), list_of(COUNT, &[0; 4]));
    let (large, missing) = ("its part for the cluster is too large", "more missing batches than are remembered");
    for (what, lists, said) in [
        ("waiting", [&batches[..], none, none, none], [large, large]),
        ("kept", [none, &batches, none, none], [large, "took up 0 channels"]),
        ("seen", [none, none, &ingests, none], [large, "took up 0 channels"]),
        ("missing", [none, none, &one_ingest, none], [missing, "took up 0 channels"]),
        ("dropped", [none, none, none, &dropped], [large, "took up 0 channels"]),
    ] {
        let bytes = saved_stream(lists);
        for (config, said) in [&cluster, &alone].into_iter().zip(said) {
            put(&path, &bytes);
            let monitor = Monitor::start(config);
            monitor.wait_log(said);
            let peak = monitor.peak_kib();
            assert!(peak < 64 * 1024, "{what}, {said}: {peak} KiB");
        }
    }
}

#[test]
fn a_state_of_the_stream_with_impossible_numbers_is_refused() {
    let _alone = alone();
    let directory = common::open_directory();
    let path = directory.path().join("history");
    let config = format!("history: {{state: '{}'}}\ncluster: {{redis: [\"127.0.0.1:1\"]}}\n", path.display());
    let numbers = [&[1, 5, 9, 0, 0][..], &list_of(1, &[0, 3])].concat();
    put(&path, &saved_stream([&[0], &[0], &numbers, &[0]]));
    let monitor = Monitor::start(&config);
    monitor.wait_logged(&["WARNING", "is not taken up", "missing batches that cannot be"]);
}

#[test]
fn a_successor_with_less_room_for_history_lets_the_oldest_go() {
    let _alone = alone();
    let manager = Manager::new();
    let mut monitor = manager.starts(&[], "");
    let broker = Broker::connect(monitor.brokers);
    let padding = "x".repeat(20_000);
    let mut loses = None;
    for i in 0..20 {
        broker.task(&format!("job {i}"), &padding);
        if i % 2 == 0 {
            broker.send(&[&format!("job {i}"), "FINISHED"]);
        }
        if i == 3 {
            let mut viewer = Viewer::watch(monitor.viewers, "job 3");
            viewer.text();
            loses = Some(viewer);
        }
    }
    fence(&monitor, &broker);
    let mut watches = Viewer::watch(monitor.viewers, "job 1");
    watches.texts(&[task(&padding, "COMPLETED")]);
    monitor.signal("USR2");
    monitor.wait_exit();
    let host = Host { viewers: monitor.viewers.port(), brokers: monitor.brokers.port(), ..Host::default() };
    let monitor = manager.starts_at(host, &[], "history: {total_bytes: 65536}");
    monitor.wait_logged(&["WARNING", "history.total_bytes (65536 bytes)", "channels are dropped"]);
    loses.expect("there is a job 3").is_ended_with(1001);
    // The other viewer came last, so that its job is the youngest.
    broker.task("job 1", "1");
    watches.texts(&ids(1, 2));
    // What was dropped is like a job that has not begun.
    let mut gone = Viewer::watch(monitor.viewers, "job 0");
    broker.send(&["job 0", "STARTED"]);
    gone.texts(&[command("STARTED")]);
}
