//! The README's commands and its example of `status` agree with the program.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;
use recodex_monitor::internals::Cli;

const PROGRAM: &str = env!("CARGO_BIN_EXE_recodex-monitor");

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("the README can be read")
}

/// The commands in blocks of code, and those between backticks.
fn commands(text: &str) -> Vec<&str> {
    let blocks = text.lines().filter_map(|line| line.strip_prefix("    "));
    blocks.chain(text.split('`').skip(1).step_by(2)).collect()
}

/// Returns true for the first line that `status` prints, as against the command.
fn is_a_status(line: &str) -> bool {
    line.starts_with("recodex-monitor ") && line.contains(" at ")
}

#[test]
fn the_commands_in_the_readme_are_those_of_the_project() {
    let text = readme();
    let mut parsed = 0;
    for command in commands(&text) {
        let ours = ["cargo run --release -- ", "recodex-monitor ", "man "].map(|start| command.strip_prefix(start));
        match ours {
            [None, Some(_), None] if is_a_status(command) => {}
            [Some(words), None, None] | [None, Some(words), None] => {
                if let Err(e) = Cli::try_parse_from(["recodex-monitor"].into_iter().chain(words.split_whitespace())) {
                    panic!("{command}: {e}");
                }
                parsed += 1;
            }
            [None, None, Some(page)] => {
                assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("man/{page}.8")).exists(), "{command}");
            }
            _ => {}
        }
    }
    assert!(parsed > 1, "the demo and status");
}

/// The demo, which is killed at the end of its test.
struct Demo {
    process: Child,
    /// Without a reader it would end.
    _output: BufReader<ChildStdout>,
}

impl Demo {
    /// Starts it, and returns it with the address of its status page.
    fn start() -> (Self, String) {
        let demo = Command::new(PROGRAM).args(["demo", "--stay"]).stdout(Stdio::piped()).spawn();
        let mut process = demo.expect("the program starts");
        let mut output = BufReader::new(process.stdout.take().expect("a pipe"));
        let page = output.by_ref().lines().map(Result::unwrap).find(|line| line.contains("http://"));
        let page = page.expect("the line of the status page");
        let address = page.split_once("http://").expect("a URL").1.trim_end_matches('/').to_owned();
        (Self { process, _output: output }, address)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The names of the lines of a screen, with empty ones for the lines that go on.
fn names(screen: &str) -> Vec<&str> {
    screen.lines().skip(1).map(|line| line.split("  ").next().unwrap_or_default()).collect()
}

#[test]
fn the_status_in_the_readme_has_the_lines_of_a_real_one() {
    let text = readme();
    let sample: Vec<_> = commands(&text).into_iter().skip_while(|line| !is_a_status(line)).collect();
    let sample = sample.join("\n");
    let (_demo, address) = Demo::start();
    let began = Instant::now();
    let screen = loop {
        let Output { status, stdout, .. } =
            Command::new(PROGRAM).args(["status", &address]).output().expect("the program starts");
        if status.success() {
            break String::from_utf8(stdout).expect("UTF-8");
        }
        assert!(began.elapsed() < Duration::from_secs(20), "the demo's broker connects");
        sleep(Duration::from_millis(20));
    };
    let expected = names(&screen);
    assert!(expected.contains(&"sent") && expected.contains(&""), "{screen}");
    assert_eq!(names(&sample)[..expected.len()], expected, "the README shows\n{sample}\nthe program prints\n{screen}");
}
