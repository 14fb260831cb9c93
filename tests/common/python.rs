//! A viewer in a Python program, which is another process.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

pub(crate) struct PythonViewer {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl PythonViewer {
    /// Runs a script of tests/foreign.
    pub(crate) fn start<A: AsRef<OsStr>>(script: &str, arguments: impl IntoIterator<Item = A>) -> Self {
        let mut process = Command::new(Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("venv/bin/python3"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(script))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/run has put Python's websockets into the target directory");
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    pub(crate) fn next(&mut self) -> String {
        self.lines.next().expect("the viewer prints a line").unwrap()
    }

    /// Returns the lines up to the end of the viewer.
    pub(crate) fn rest(mut self) -> Vec<String> {
        self.lines.by_ref().map(Result::unwrap).collect()
    }
}

impl Drop for PythonViewer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
