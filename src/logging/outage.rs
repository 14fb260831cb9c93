//! Messages on standard error that the log cannot be written: the log itself cannot say so until it works again.

use super::Throttle;
use super::escape::one_line;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

/// The longest line, in bytes: a pipe with any room takes as much at once (`PIPE_BUF`).
const MAX: usize = 4096;

/// A log that fails again and again is reported once a minute.
static FAILED: Throttle = Throttle::new(Duration::from_secs(60));

/// Says that the log cannot be written; returns false if the throttle held that back.
pub(super) fn begins(what: &str, error: &str) -> bool {
    let passes = FAILED.pass().is_some();
    if passes {
        let what = format!("cannot write the log to {what}: {error}; lines are lost until it can be written again");
        say(&format!("[recodex-monitor] [ERROR] {what}"));
    }
    passes
}

/// Says that the log is written again.
pub(super) fn ends(what: &str, lost: u64) {
    say(&format!("[recodex-monitor] [INFO] the log is written to {what} again; {lost} lines were lost"));
}

fn say(text: &str) {
    // If the reader is gone or does not read, there is nowhere else to say it.
    let _ = say_to(&mut io::stderr(), text);
}

/// Writes a line, or fails if that would wait for the reader.
fn say_to(to: &mut (impl Write + AsFd), text: &str) -> io::Result<()> {
    let mut line = one_line(text);
    while line.len() >= MAX {
        line.pop();
    }
    line.push('\n');
    let mut ready = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
    poll(&mut ready, PollTimeout::ZERO)?;
    if !ready[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT)) {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    to.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_line_that_has_no_room_is_not_waited_for() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let mut written = 0;
        let error = loop {
            match say_to(&mut writer, &"x".repeat(5000)) {
                Ok(()) => written += MAX,
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(written > 0);
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text.len(), written);
        assert!(text.ends_with("x\n"));
    }
}
