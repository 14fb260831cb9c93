//! Another program's answer, with a deadline and a bound.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes; a unit's filter of system calls takes some kilobytes.
const MAX_ANSWER: usize = 256 * 1024;

/// Runs a command and returns what it prints. A command that is still silent at [`DEADLINE`] is ended.
///
/// # Errors
/// With the reason, as a clause, if there is no such command, or no answer.
pub(super) fn answer_of(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = spawned.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => format!("there is no {name} here"),
        _ => format!("{name} cannot be run: {e}"),
    })?;
    let answer = read(&mut child);
    // It has said all that it has to say.
    let _ = child.kill();
    let _ = child.wait();
    match answer {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == io::ErrorKind::TimedOut => {
            Err(format!("{name} did not answer within {} s", DEADLINE.as_secs()))
        }
        Err(e) => Err(format!("the answer of {name} cannot be read: {e}")),
    }
}

fn read(child: &mut Child) -> io::Result<Vec<u8>> {
    let mut stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let end = Instant::now() + DEADLINE;
    let mut answer = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).map_err(io::Error::other)?;
        let ready = poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], timeout);
        match ready {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(nix::errno::Errno::EINTR) => continue,
            ready => ready?,
        };
        let mut chunk = [0; 8192];
        match stdout.read(&mut chunk)? {
            0 => return Ok(answer),
            count => answer.extend_from_slice(&chunk[..count]),
        }
        if answer.len() > MAX_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_does_not_answer_is_ended_and_one_that_says_too_much_too() {
        let of = |script: &str| answer_of(Command::new("sh").args(["-c", script]));
        assert_eq!(of("printf 'LoadState=loaded\\n'; exec >&-; exec sleep 1000").as_deref(), Ok("LoadState=loaded\n"));
        assert!(of("exec yes").is_err_and(|what| what.contains("too long")));
        assert!(answer_of(&mut Command::new("/no/such/program")).is_err_and(|what| what.contains("there is no ")));
    }
}
