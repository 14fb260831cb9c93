//! `publish`: one message to a running monitor, as the broker sends it.

use crate::commands::client::broker::Broker;
use crate::error::{Exit, Failure};
use crate::suggest::nearest;
use crate::wire::message::{Message, check_channel};
use crate::wire::zmtp::MAX_MESSAGE;

/// The commands that brokers send.
const COMMANDS: [&str; 8] = ["DOWNLOADED", "STARTED", TASK, "ENDED", "UPLOADED", "FAILED", "ABORTED", "FINISHED"];
/// The command that has a task and its state.
const TASK: &str = "TASK";
/// The states of a task.
const STATES: [&str; 3] = ["COMPLETED", "FAILED", "SKIPPED"];

/// Sends `message` to the monitor at `address`. With `any`, also sends words that no broker sends.
///
/// # Errors
/// [`Exit::Usage`] if the monitor would drop the message or, without `any`, no broker would send it;
/// [`Exit::Unavailable`] if there is no monitor.
pub(crate) async fn run(address: &str, message: &Message<'_>, any: bool) -> Result<(), Failure> {
    check(message, any).map_err(|what| Failure::new(Exit::Usage, what))?;
    let frames = [Some(message.channel), Some(message.command), message.task, message.state];
    let frames: Vec<&str> = frames.into_iter().flatten().collect();
    let mut broker = Broker::connect(address).await?;
    broker.send(&frames).await?;
    broker.close().await
}

/// Checks a message. The error names the mistake, the expected form, and the correction.
fn check(message: &Message<'_>, any: bool) -> Result<(), String> {
    let Message { channel, command, task, state } = *message;
    check_channel(channel)?;
    let bytes = channel.len() + command.len() + task.map_or(0, str::len) + state.map_or(0, str::len);
    if bytes > MAX_MESSAGE {
        return Err(format!("the message has {bytes} bytes; expected at most {MAX_MESSAGE}"));
    }
    if any {
        return Ok(());
    }
    if message.is_exit() {
        return Err("`0 exit` stops a Python monitor, and this one if accept_exit is on; to send it, add --any".into());
    }
    if COMMANDS.contains(&channel) && !COMMANDS.contains(&command) {
        return Err(format!(
            "the channel id comes before the command; did you mean {command} {channel}? --any sends it as it is"
        ));
    }
    for (what, word) in [("channel id", Some(channel)), ("task's id", task)] {
        if let Some(word) = word.filter(|word| word.trim() != *word) {
            return Err(format!("the {what} `{word}` begins or ends with white space; --any sends it as it is"));
        }
    }
    known("command", command, &COMMANDS)?;
    match (command, task, state) {
        (TASK, None | Some(""), _) | (TASK, Some(_), None) => {
            let missing = if task.is_none_or(str::is_empty) { "the task's id" } else { "the task's state" };
            Err(format!(
                "TASK lacks {missing}; expected TASK ID STATE, such as TASK compile_01 COMPLETED; --any sends it as it is"
            ))
        }
        (TASK, Some(task), Some(state)) if STATES.contains(&task) && !STATES.contains(&state) => Err(format!(
            "the task's id comes before its state; did you mean TASK {state} {task}? --any sends it as it is"
        )),
        (TASK, Some(_), Some(state)) => known("task state", state, &STATES),
        (_, Some(_), _) => Err(format!(
            "{command} has no task; expected nothing after it, or TASK in its place; --any sends it as it is"
        )),
        (_, None, _) => Ok(()),
    }
}

fn known(what: &str, word: &str, known: &[&str]) -> Result<(), String> {
    if known.contains(&word) {
        return Ok(());
    }
    let guess = nearest(word, known).map_or(String::new(), |name| format!("; did you mean {name}?"));
    Err(format!("unknown {what} `{word}`{guess} (known: {}; --any sends any word)", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(words: &[&str], any: bool) -> Result<(), String> {
        let word = |i: usize| words.get(i).copied();
        check(&Message { channel: words[0], command: words[1], task: word(2), state: word(3) }, any)
    }

    #[test]
    fn what_a_broker_sends_is_right() {
        for command in COMMANDS.into_iter().filter(|command| *command != TASK) {
            assert_eq!(checked(&["job", command], false), Ok(()));
        }
        for state in STATES {
            assert_eq!(checked(&["job", TASK, "compile", state], false), Ok(()));
        }
        assert_eq!(checked(&[&"a".repeat(256), "STARTED"], false), Ok(()));
    }

    #[test]
    fn other_words_are_sent_only_if_any_may_be() {
        for (words, said) in [
            (&["job", "STRATED"][..], "unknown command `STRATED`; did you mean STARTED? (known: DOWNLOADED, "),
            (&["job", "finished"], "did you mean FINISHED?"),
            (&["job", "xyzzy"], "unknown command `xyzzy` (known: "),
            (&["job", ""], "unknown command ``"),
            (&["job", TASK], "TASK lacks the task's id"),
            (&["job", TASK, ""], "TASK lacks the task's id"),
            (&["job", TASK, "", "COMPLETED"], "TASK lacks the task's id"),
            (&["job", TASK, "t1"], "TASK lacks the task's state"),
            (&["job", TASK, "t1", "COMPLETE"], "unknown task state `COMPLETE`; did you mean COMPLETED? (known: "),
            (&["job", "FINISHED", "t1"], "FINISHED has no task"),
            (&["job", "FINISHED", "t1", "COMPLETED"], "FINISHED has no task"),
            (&["STARTED", "job"], "the channel id comes before the command; did you mean job STARTED?"),
            (
                &["job", TASK, "COMPLETED", "t1"],
                "the task's id comes before its state; did you mean TASK t1 COMPLETED?",
            ),
            (&["job ", "STARTED"], "the channel id `job ` begins or ends with white space"),
            (&["\tjob", "STARTED"], "begins or ends with white space"),
            (&["job", TASK, "t1\n", "COMPLETED"], "the task's id `t1\n` begins or ends with white space"),
            (&["0", "exit"], "`0 exit` stops a Python monitor"),
        ] {
            let answer = checked(words, false).unwrap_err();
            assert!(answer.contains(said), "{words:?}: {answer}");
            assert!(answer.contains("--any"), "{words:?}: {answer}");
            assert_eq!(checked(words, true), Ok(()), "{words:?}");
        }
    }

    #[test]
    fn what_the_monitor_drops_is_never_sent() {
        let (long, huge) = ("a".repeat(257), "x".repeat(MAX_MESSAGE - 2));
        for any in [false, true] {
            assert!(checked(&["", "STARTED"], any).unwrap_err().contains("1 to 256 bytes"));
            assert!(checked(&[&long, "STARTED"], any).unwrap_err().contains("1 to 256 bytes"));
            assert!(checked(&["job", &huge], any).unwrap_err().contains("at most 65536"));
        }
        assert_eq!(checked(&["job", &huge[1..]], true), Ok(()));
    }
}
