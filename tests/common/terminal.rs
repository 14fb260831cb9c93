//! A program on a pseudo-terminal, whose output an emulator turns into a screen.

use super::{DEADLINE, kill};
use nix::pty::{Winsize, openpty};
use nix::unistd::ttyname;
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Instant;

/// The number of lines that are kept after they have left the screen.
const SCROLLBACK: usize = 1000;

pub(crate) struct Terminal {
    child: Child,
    keyboard: File,
    device: PathBuf,
    output: Receiver<Vec<u8>>,
    emulator: vt100::Parser,
    /// All bytes that came.
    pub(crate) bytes: Vec<u8>,
}

impl Terminal {
    /// Starts a program on a terminal of its own with this size. Ctrl-C reaches it.
    pub(crate) fn start(words: &[&str], rows: u16, columns: u16, variables: &[(&str, &str)]) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).expect("there are pseudo-terminals");
        let device = ttyname(&pair.slave).expect("it has a name");
        let end = || Stdio::from(pair.slave.try_clone().expect("descriptors are left"));
        // It makes the terminal the controlling one, and then becomes the program.
        let mut command = Command::new("setsid");
        command.arg("--ctty").args(words).stdin(end()).stdout(end()).stderr(end());
        command.env("TERM", "xterm").envs(variables.iter().copied());
        let child = command.spawn().expect("the program starts");
        drop((command, pair.slave));
        let keyboard = File::from(pair.master);
        let mut screen = keyboard.try_clone().expect("descriptors are left");
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It fails once the last program has gone.
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let emulator = vt100::Parser::new(some(rows), some(columns), SCROLLBACK);
        Self { child, keyboard, device, output, emulator, bytes: Vec::new() }
    }

    /// Returns the lines on the screen.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.emulator.screen().contents().lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Returns the rows that have left the screen, the oldest first, and those on the screen.
    pub(crate) fn all_rows(&mut self) -> Vec<String> {
        let (rows, columns) = self.emulator.screen().size();
        let (rows, columns) = (usize::from(rows.get()), columns.get());
        let screen = self.emulator.screen_mut();
        screen.set_scrollback(SCROLLBACK);
        let mut all = Vec::new();
        for offset in (1..=screen.scrollback()).rev() {
            screen.set_scrollback(offset);
            all.extend(screen.rows(0, columns).next());
        }
        screen.set_scrollback(0);
        all.extend(screen.rows(0, columns).take(rows));
        all
    }

    /// Waits until `wanted` holds for the lines on the screen.
    pub(crate) fn wait_for(&mut self, what: &str, wanted: impl Fn(&[String]) -> bool) {
        let start = Instant::now();
        while !wanted(&self.lines()) {
            let left = DEADLINE.saturating_sub(start.elapsed());
            let Ok(bytes) = self.output.recv_timeout(left) else {
                panic!("{what} is not on the screen:\n{}", self.lines().join("\n"));
            };
            self.take(&bytes);
        }
    }

    /// Waits until the program has ended; returns its exit status.
    pub(crate) fn end(&mut self) -> Option<i32> {
        loop {
            match self.output.recv_timeout(DEADLINE) {
                Ok(bytes) => self.take(&bytes),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end:\n{}", self.lines().join("\n")),
            }
        }
        self.child.wait().expect("it is ours").code()
    }

    /// Types on its keyboard.
    pub(crate) fn write(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("the terminal is there");
    }

    /// Changes the size of the terminal, as an emulator does that cuts off the lines for which there is no room.
    pub(crate) fn resize(&mut self, rows: u16, columns: u16) {
        let size = ["rows".into(), rows.to_string(), "columns".into(), columns.to_string()];
        let status = Command::new("stty").arg("-F").arg(&self.device).args(size).status().expect("stty runs");
        assert!(status.success());
        self.emulator.screen_mut().set_size(some(rows), some(columns));
    }

    fn take(&mut self, bytes: &[u8]) {
        self.emulator.process(bytes);
        self.bytes.extend_from_slice(bytes);
    }
}

fn some(size: u16) -> NonZeroU16 {
    NonZeroU16::new(size).expect("a terminal has rows and columns")
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            kill(self.child.id(), "KILL");
            let _ = self.child.wait();
        }
    }
}
