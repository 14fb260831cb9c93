//! `watch`: one viewer of one channel, on a terminal or for a program.

use crate::commands::client::tally::Tally;
use crate::commands::client::viewer::{Client, NO_CODE, Received};
use crate::commands::terminal::Screen;
use crate::deadline::passed;
use crate::error::{Exit, Failure};
use crate::logging::escape;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use tokio::signal::ctrl_c;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// The time between two drawings of the progress line.
const TICK: Duration = Duration::from_millis(100);
/// The time limit for the close after FINISHED. Its code tells if the job itself has finished.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// The width of the bar, in characters.
const BAR: usize = 20;

/// Watches `channel` until the monitor closes. Shows a progress line on a terminal; elsewhere, or with `json`, prints each message as a
/// line. `tasks` is the number of tasks for a progress bar. Certificates in the PEM file `ca` are trusted in addition.
///
/// FINISHED alone is not the job's end: the monitor also sends it when it ends the subscription itself. The code of the close tells
/// which of the two it was.
///
/// # Errors
/// [`Exit::Failed`] if the monitor closes with another code than 1000, [`Exit::Unavailable`] if there is none, or it does not close
/// within 10 s after FINISHED, [`Exit::Interrupted`] if Ctrl-C comes first.
pub(crate) async fn run(
    screen: &Screen,
    url: &str,
    channel: &str,
    ca: Option<&Path>,
    json: bool,
    tasks: Option<u64>,
) -> Result<(), Failure> {
    let mut client = Client::subscribe(url, channel, ca).await?;
    let line = (!json && screen.is_live()).then(|| Line { tasks, since: Instant::now() });
    // `None` until the first message.
    let mut tally = None;
    let end = follow(screen, &mut client, line.as_ref(), &mut tally).await?;
    if matches!(end, End::Closed(code, _) if code != 1000) {
        // The FINISHED, if any, came from the monitor and not from the job.
        tally.iter_mut().for_each(Tally::forget_finished);
        tally = tally.filter(|tally| *tally != Tally::default());
    }
    if let Some(line) = line {
        screen.show(Vec::new());
        screen.print(&line.text(tally.as_ref()))?;
    }
    match end {
        End::Closed(1000, _) | End::Unread => Ok(()),
        End::Closed(code, reason) => Err(not_finished(code, &reason)),
        End::Interrupted => Err(Failure::new(Exit::Interrupted, "interrupted before FINISHED")),
    }
}

/// The reason why a viewer stops watching.
enum End {
    /// The monitor closed, with this code and reason.
    Closed(u16, String),
    /// Ctrl-C came.
    Interrupted,
    /// Nobody reads the output any more.
    Unread,
}

/// Shows and counts messages until the end.
async fn follow(
    screen: &Screen,
    client: &mut Client,
    line: Option<&Line>,
    tally: &mut Option<Tally>,
) -> Result<End, Failure> {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut interrupted = pin!(ctrl_c());
    // The deadline for the close, while FINISHED is the last message.
    let mut close_by = None;
    loop {
        let received = tokio::select! {
            received = client.next() => received?,
            _ = &mut interrupted => return Ok(End::Interrupted),
            () = passed(close_by.unwrap_or_else(Instant::now)), if close_by.is_some() => {
                if !client.has_closed() {
                    return Err(no_close());
                }
                // The close frame has come; only the connection must still end.
                close_by = None;
                continue;
            }
            _ = ticks.tick(), if line.is_some() => {
                screen.show(line.iter().map(|line| line.text(tally.as_ref())).collect());
                continue;
            }
        };
        match received {
            Received::Text(text) => {
                let tally = tally.get_or_insert_default();
                tally.count(&text);
                close_by = tally.is_finished().then(|| Instant::now() + CLOSE_TIMEOUT);
                if line.is_none() && !screen.print(&text)? {
                    return Ok(End::Unread);
                }
            }
            Received::Closed(code, reason) => return Ok(End::Closed(code, reason)),
        }
    }
}

fn not_finished(code: u16, reason: &str) -> Failure {
    let how = match code {
        NO_CODE => "without a code".to_owned(),
        code if reason.is_empty() => format!("with {code}"),
        code => format!("with {code} ({})", escape(reason)),
    };
    Failure::new(Exit::Failed, format!("the job did not finish: the monitor ended the subscription {how}"))
}

fn no_close() -> Failure {
    let seconds = CLOSE_TIMEOUT.as_secs();
    let what = format!("FINISHED came, but no close within {seconds} s: it is unknown whether the job has finished");
    Failure::new(Exit::Unavailable, what)
}

/// The progress line.
struct Line {
    tasks: Option<u64>,
    since: Instant,
}

impl Line {
    fn text(&self, tally: Option<&Tally>) -> String {
        let Some(tally) = tally else {
            let hint = "the job has not begun, or the id is wrong";
            return format!("no message yet, for {} s ({hint})", self.since.elapsed().as_secs());
        };
        let (done, summary) = (tally.total(), tally.summary());
        match self.tasks {
            Some(tasks) => format!("[{}] {done}/{tasks} tasks: {summary}", bar(done, tasks, BAR)),
            None => format!("{done} tasks: {summary}"),
        }
    }
}

/// Draws a bar of this width that is full when `done` is `total`.
pub(crate) fn bar(done: u64, total: u64, width: usize) -> String {
    let filled = (u128::from(done.min(total)) * width as u128).checked_div(total.into());
    let filled = filled.and_then(|filled| usize::try_from(filled).ok()).unwrap_or(width);
    format!("{}{}", "#".repeat(filled), " ".repeat(width - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_and_never_overflows() {
        for (done, total, shown) in [
            (0, 4, "    "),
            (1, 4, "#   "),
            (4, 4, "####"),
            (9, 4, "####"),
            (0, 0, "####"),
            (u64::MAX, u64::MAX, "####"),
        ] {
            assert_eq!(bar(done, total, 4), shown, "{done}/{total}");
        }
    }
}
