//! The output of a command: lines that stay, and on a terminal lines below them that change in place.
//!
//! While changing lines are shown, all output and the log must go through [`Screen`]. Each change is one write that first erases
//! the old lines, so that no part of them remains between the lines that stay.

use crate::error::{Exit, Failure};
use crate::logging::escape;
use console::{Term, is_dumb};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The assumed size if the terminal does not report one, in rows and columns.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// Standard output and standard error of a command. Clones share the same screen.
#[derive(Clone)]
pub(crate) struct Screen {
    live: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The lines that change.
    lines: Vec<String>,
    /// The number of changing lines that are on the screen now.
    drawn: usize,
}

impl Screen {
    /// Returns a screen. It shows changing lines if standard output is a terminal that can move its cursor.
    pub(crate) fn new() -> Self {
        Self { live: io::stdout().is_terminal() && !is_dumb(), state: Arc::default() }
    }

    /// Returns true if changing lines are shown.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// Prints one line that stays, with control characters escaped. Returns false if nobody reads the output any more.
    pub(crate) fn print(&self, line: &str) -> Result<bool, Failure> {
        let mut state = self.state();
        let text = format!("{}{}\n{}", erase(state.drawn), escape(line), self.frame(&mut state));
        write_out(&text)
    }

    /// Prints one line of the log on standard error.
    pub(crate) fn log(&self, line: &str) -> io::Result<()> {
        let mut state = self.state();
        let _ = write_out(&erase(state.drawn));
        state.drawn = 0;
        let written = io::stderr().write_all(line.as_bytes());
        let _ = write_out(&self.frame(&mut state));
        written
    }

    /// Replaces the changing lines. Lines that are wider than the terminal are cut.
    pub(crate) fn show(&self, lines: Vec<String>) {
        if self.live {
            let mut state = self.state();
            if state.lines == lines {
                return;
            }
            state.lines = lines;
            let text = format!("{}{}", erase(state.drawn), self.frame(&mut state));
            let _ = write_out(&text);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the bytes that draw the changing lines, as many as there is room for.
    fn frame(&self, state: &mut State) -> String {
        if !self.live || state.lines.is_empty() {
            state.drawn = 0;
            return String::new();
        }
        let (rows, columns) = Term::stdout().size_checked().unwrap_or(DEFAULT_SIZE);
        let (frame, drawn) = draw(&state.lines, rows.into(), columns.into());
        state.drawn = drawn;
        frame
    }
}

/// Returns the bytes that erase the last `drawn` lines above the cursor.
fn erase(drawn: usize) -> String {
    if drawn == 0 { String::new() } else { format!("\r\x1b[{drawn}A\x1b[J") }
}

/// Returns the bytes that draw `lines` on a terminal of this size, and the number of lines that they draw.
///
/// One row is left for the cursor, and one column, since a terminal may wrap a line that fills its width. Characters outside of
/// ASCII become question marks, since they may be two columns wide.
fn draw(lines: &[String], rows: usize, columns: usize) -> (String, usize) {
    let (rows, columns) = (rows.saturating_sub(1), columns.saturating_sub(1));
    let fits = lines.len() <= rows;
    let shown = if fits { lines.len() } else { rows.saturating_sub(1) };
    let mut frame = String::new();
    for line in &lines[..shown] {
        frame.extend(line.chars().take(columns).map(|c| if matches!(c, ' '..='~') { c } else { '?' }));
        frame.push('\n');
    }
    if fits || rows == 0 {
        return (frame, shown);
    }
    let more: String = format!("and {} more", lines.len() - shown).chars().take(columns).collect();
    let _ = writeln!(frame, "{more}");
    (frame, shown + 1)
}

/// Returns false if standard output is a pipe whose reader has gone.
pub(crate) fn has_reader() -> bool {
    let stdout = io::stdout();
    let mut looked = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut looked, PollTimeout::ZERO).is_err() || !looked[0].revents().is_some_and(|is| is.intersects(gone))
}

/// Writes to standard output; returns false if nobody reads it any more.
fn write_out(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::new(Exit::Output, format!("cannot write to standard output: {e}"))),
    }
}

/// Prints text as it is.
///
/// A pipe whose reader has gone is no error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    write_out(text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn lines_are_cut_to_the_width_of_the_terminal() {
        assert_eq!(draw(&lines(&["12345678", "\u{1b}é漢"]), 24, 6), ("12345\n???\n".to_owned(), 2));
        assert_eq!(draw(&lines(&["x"]), 24, 0), ("\n".to_owned(), 1));
    }

    #[test]
    fn lines_over_the_height_of_the_terminal_are_counted() {
        let ten = vec!["x".to_owned(); 10];
        assert_eq!(draw(&ten, 11, 80), ("x\n".repeat(10), 10));
        assert_eq!(draw(&ten, 4, 80), ("x\nx\nand 8 more\n".to_owned(), 3));
        assert_eq!(draw(&ten, 2, 80), ("and 10 more\n".to_owned(), 1));
        assert_eq!(draw(&ten, 1, 80), (String::new(), 0));
        assert_eq!(draw(&ten, 0, 80), (String::new(), 0));
    }
}
