//! Runs another program and reads its output, with a deadline and a bound.

use crate::fs::read_to_end;
use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The time limit for a program to answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes. A unit's filter of system calls takes some kilobytes.
const MAX_ANSWER: u64 = 256 * 1024;

/// Runs a command and returns its output. A command that has not closed its output at [`DEADLINE`] is killed.
pub(super) fn answer_of(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = spawned.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => format!("there is no {name} here"),
        _ => format!("{name} cannot be run: {e}"),
    })?;
    let stdout = child.stdout.take().ok_or_else(|| format!("the answer of {name} cannot be read"))?;
    let answer = read_to_end(stdout, MAX_ANSWER, DEADLINE);
    // Its output is complete, or of no use.
    let _ = child.kill();
    let _ = child.wait();
    match answer {
        Ok(bytes) if bytes.len() as u64 > MAX_ANSWER => {
            Err(format!("the answer of {name} cannot be read: it is too long"))
        }
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == io::ErrorKind::TimedOut => {
            Err(format!("{name} did not answer within {} s", DEADLINE.as_secs()))
        }
        Err(e) => Err(format!("the answer of {name} cannot be read: {e}")),
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
