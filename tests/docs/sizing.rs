//! The figures in docs/sizing.md and in the README are those of docs/sizing.py, and its model fits the measurements.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Output};

/// Runs docs/sizing.py. `None` if there is no Python on this machine.
fn sizing(test: &str, arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new("python3");
    match command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("docs/sizing.py").args(arguments).output() {
        Ok(output) => Some(output),
        Err(e) => {
            writeln!(io::stderr(), "skipped: {test}: python3: {e}").expect("it can be written");
            None
        }
    }
}

fn text(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("the text can be read")
}

#[test]
fn the_figures_in_the_texts_are_those_of_the_model() {
    let Some(Output { status, stdout, .. }) = sizing("sizing::the_figures", &[]) else { return };
    assert!(status.success());
    let printed = String::from_utf8(stdout).expect("UTF-8");
    let answer = printed.lines().next().expect("the answer for 1,000 students");
    for name in ["README.md", "docs/sizing.md"] {
        let words: Vec<_> = text(name).split_whitespace().map(str::to_owned).collect();
        assert!(words.join(" ").contains(answer), "{name} does not have: {answer}");
    }
    let page = text("docs/sizing.md");
    let rows: Vec<_> = printed.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 15, "{printed}");
    for row in rows {
        assert!(page.lines().any(|line| line == row), "docs/sizing.md does not have:\n{row}");
    }
}

#[test]
fn the_model_is_near_to_what_was_measured() {
    let Some(output) = sizing("sizing::the_model", &["--check", "benches/measured.json"]) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
