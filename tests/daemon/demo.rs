//! `demo` on terminals, in a pipe, beside another monitor, and with `--stay`.

use crate::common;

use common::{Broker, DEADLINE, PROGRAM, Terminal, run};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The beginning of each job's line while the job runs.
const BAR: &str = "job ";

fn is_bar(line: &str) -> bool {
    line.starts_with(BAR)
}

/// The numbers of the jobs that have a summary among these lines, with its whole text.
fn summaries(lines: &[String]) -> BTreeSet<u64> {
    let number = |line: &String| {
        let (number, rest) = line.strip_prefix("demo_job_")?.split_once(": ")?;
        rest.ends_with(" messages, all 3 viewers got all of them").then(|| number.parse().expect("a number"))
    };
    lines.iter().filter_map(number).collect()
}

/// Asserts that these lines are all that a demo of `jobs` jobs leaves: its addresses, each job's summary, the end.
fn assert_is_all(lines: &[String], jobs: u64) {
    let shown = lines.join("\n");
    assert_eq!(summaries(lines), (1..=jobs).collect(), "{shown}");
    let rest: Vec<_> =
        lines.iter().filter(|line| !line.starts_with("demo_job_") && !line.starts_with("Port ")).collect();
    assert_eq!(lines.iter().filter(|line| line.starts_with("demo_job_")).count() as u64, jobs, "{shown}");
    for line in lines {
        assert!(line.len() < 80, "a terminal of 80 columns has no room: {line}");
    }
    let viewers = jobs * 3;
    let [begin, viewer, broker, page, end] = &rest[..] else { panic!("other lines are there:\n{shown}") };
    assert!(begin.starts_with(&format!("The demo runs a monitor, a broker with {jobs} jobs at once")), "{shown}");
    assert!(viewer.starts_with("  viewers:     ws://127.0.0.1:"), "{shown}");
    assert!(broker.starts_with("  brokers:     tcp://127.0.0.1:"), "{shown}");
    assert!(page.starts_with("  status page: http://127.0.0.1:"), "{shown}");
    assert!(end.starts_with(&format!("{jobs} jobs, ")), "{shown}");
    assert!(end.ends_with(&format!(" messages, {viewers} viewers: each got all of its job, in order.")), "{shown}");
}

#[test]
fn every_summary_stays_and_no_bar_does() {
    for (columns, variables) in [(80, &[][..]), (40, &[]), (80, &[("NO_COLOR", "1")])] {
        let mut terminal = Terminal::start(&[PROGRAM, "demo"], 30, columns, variables);
        terminal.wait_for("a bar of each job", |lines| lines.iter().filter(|line| is_bar(line)).count() == 4);
        assert_eq!(terminal.end(), Some(0), "{:?}", terminal.lines());
        assert_is_all(&terminal.lines(), 4);
    }
}

#[test]
fn jobs_for_which_the_terminal_has_no_room_leave_nothing_but_their_summaries() {
    let mut terminal = Terminal::start(&[PROGRAM, "demo", "--jobs", "30"], 12, 120, &[]);
    terminal.wait_for("how many bars have no room", |lines| lines.iter().any(|line| line.starts_with("and ")));
    assert_eq!(terminal.end(), Some(0), "{:?}", terminal.lines());
    let rows: Vec<_> = terminal.all_rows().into_iter().filter(|row| !row.is_empty()).collect();
    assert_is_all(&rows, 30);
}

#[test]
fn a_terminal_that_changes_its_size_is_left_clean() {
    for (before, after) in [(80, 40), (40, 80)] {
        let mut terminal = Terminal::start(&[PROGRAM, "demo"], 30, before, &[]);
        terminal.wait_for("a bar", |lines| lines.iter().any(|line| is_bar(line)));
        terminal.resize(30, after);
        assert_eq!(terminal.end(), Some(0), "{:?}", terminal.lines());
        // What was there before may have been cut by the terminal.
        let lines = terminal.lines();
        assert!(!lines.iter().any(|line| is_bar(line)), "{lines:?}");
        for n in 1..=4 {
            assert!(lines.iter().any(|line| line.starts_with(&format!("demo_job_{n}: "))), "{n}: {lines:?}");
        }
    }
}

#[test]
fn a_terminal_without_a_cursor_gets_plain_lines() {
    let mut terminal = Terminal::start(&[PROGRAM, "demo"], 30, 120, &[("TERM", "dumb")]);
    assert_eq!(terminal.end(), Some(0), "{:?}", terminal.lines());
    assert!(!terminal.bytes.contains(&0x1b), "{:?}", terminal.lines());
    assert_is_all(&terminal.lines(), 4);
}

#[test]
fn a_pipe_gets_plain_lines() {
    let output = run(&["demo"]);
    let text = String::from_utf8(output.stdout).expect("it is UTF-8");
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(!text.contains('\x1b'), "{text:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_is_all(&text.lines().map(str::to_owned).collect::<Vec<_>>(), 4);
}

/// The address behind this word among the first lines.
fn address(lines: &[String], scheme: &str) -> SocketAddr {
    let line = lines.iter().find_map(|line| Some(line.split_once(scheme)?.1)).expect("it is there");
    line.trim_end_matches('/').parse().expect("an address")
}

/// Jobs keep coming; a line of the log between them is whole; Ctrl-C ends it all.
#[test]
fn one_that_stays_runs_new_jobs_until_it_is_interrupted() {
    let mut terminal = Terminal::start(&[PROGRAM, "demo", "--stay", "--jobs", "2"], 30, 100, &[]);
    let count = "viewers; Ctrl-C ends";
    terminal.wait_for("the counts", |lines| lines.iter().any(|line| line.ends_with(count)));
    let brokers = address(&terminal.lines(), "tcp://");
    Broker::connect(brokers).send(&["lonely"]);
    let warning = "[recodex-monitor] [WARNING] ";
    terminal.wait_for("the warning", |lines| lines.iter().any(|line| line.starts_with(warning)));
    terminal.wait_for("a further job", |lines| {
        let further = |line: &&String| line.starts_with("job 3 ") || line.starts_with("job 4 ");
        summaries(lines) == BTreeSet::from([1, 2]) && lines.iter().any(|line| further(&line))
    });
    terminal.write("\x03");
    assert_eq!(terminal.end(), Some(0), "{:?}", terminal.lines());
    let lines = terminal.lines();
    assert!(!lines.iter().any(|line| is_bar(line) || line.ends_with(count)), "{lines:?}");
    assert_eq!(summaries(&lines), BTreeSet::from([1, 2]), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.contains("WARNING")).count(), 1, "{lines:?}");
    let end = lines.last().expect("there is one");
    assert!(end.contains(" jobs, ") && end.contains(" viewers: each got all of its job"), "{lines:?}");
}

/// With a reader such as `| head`. `demo --stay` would never end by itself.
#[test]
fn one_that_stays_ends_once_nobody_reads_it() {
    let mut child = Command::new(PROGRAM)
        .args(["demo", "--stay", "--jobs", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    // It prints no line after this one.
    assert!(lines.any(|line| line.starts_with("demo_job_1: ")));
    drop(lines);
    let output = child.wait_with_output().expect("it can be waited for");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn one_that_is_interrupted_leaves_no_bars_and_says_how_far_it_was() {
    let mut terminal = Terminal::start(&[PROGRAM, "demo", "--jobs", "200"], 30, 100, &[]);
    terminal.wait_for("a bar", |lines| lines.iter().any(|line| is_bar(line)));
    terminal.write("\x03");
    assert_eq!(terminal.end(), Some(130), "{:?}", terminal.lines());
    let lines = terminal.lines();
    assert!(!lines.iter().any(|line| is_bar(line) || line.starts_with("and ")), "{lines:?}");
    let end = lines.last().expect("there is one");
    assert!(end.starts_with("recodex-monitor: interrupted; ") && end.contains(" of 200 jobs"), "{lines:?}");
}

#[test]
fn free_ports_are_taken_where_the_default_ones_are_not_free() {
    // Another demo may have them now.
    let start = Instant::now();
    let mut taken = Vec::new();
    for port in [4567, 7894, 4568] {
        while start.elapsed() < DEADLINE {
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                taken.push(listener);
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let output = run(&["demo", "--jobs", "1"]);
    let text = String::from_utf8(output.stdout).expect("it is UTF-8");
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    assert_is_all(&lines, 1);
    for (port, scheme) in [(4567, "ws://"), (7894, "tcp://"), (4568, "http://")] {
        let other = address(&lines, scheme).port();
        assert_ne!(other, port, "{text}");
        let said = format!("Port {port} is taken, maybe by a running monitor; the demo takes {other}.");
        assert!(lines.contains(&said), "{text}");
    }
    drop(taken);
}
