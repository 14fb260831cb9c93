//! `watch`: one viewer of one channel, on a terminal or for a program.

use crate::client::{Client, Received, Tally};
use crate::failure::{Exit, Failure};
use crate::logging::escape;
use crate::terminal::Screen;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use tokio::signal::ctrl_c;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often the progress line is drawn.
const TICK: Duration = Duration::from_millis(100);
/// The width of the bar, in characters.
const BAR: usize = 20;

/// Watches `channel` until the monitor closes: as a progress line on a terminal, else, or with `json`, as one message a
/// line. `tasks` is the number of tasks, for a bar that fills. Certificates in the PEM file `ca` are trusted in addition.
///
/// # Errors
/// If there is no monitor, it closes with another code than 1000, or Ctrl-C comes first.
pub async fn run(
    screen: &Screen,
    url: &str,
    channel: &str,
    ca: Option<&Path>,
    json: bool,
    tasks: Option<u64>,
) -> Result<(), Failure> {
    let mut client = Client::subscribe(url, channel, ca).await?;
    let mut line = (!json && screen.is_live()).then(|| Line { tasks, since: Instant::now(), tally: None });
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut interrupted = pin!(ctrl_c());
    let closed = loop {
        let received = tokio::select! {
            received = client.next() => received?,
            _ = &mut interrupted => break None,
            _ = ticks.tick(), if line.is_some() => {
                screen.show(line.iter().map(Line::text).collect());
                continue;
            }
        };
        match received {
            Received::Text(text) => match &mut line {
                Some(line) => line.tally.get_or_insert_default().count(&text),
                None if !screen.print(&text)? => return Ok(()),
                None => {}
            },
            Received::Closed(code, reason) => break Some((code, reason)),
        }
    };
    if let Some(line) = line {
        screen.show(Vec::new());
        screen.print(&line.text())?;
    }
    let Some((code, reason)) = closed else {
        return Err(Failure::new(Exit::Interrupted, "interrupted before FINISHED"));
    };
    let reason = if reason.is_empty() { reason } else { format!(" ({})", escape(&reason)) };
    match code {
        1000 => Ok(()),
        _ => Err(Failure::new(Exit::Failed, format!("the monitor closed with {code}{reason} before FINISHED"))),
    }
}

/// The progress line.
struct Line {
    tasks: Option<u64>,
    since: Instant,
    /// What came, if anything did.
    tally: Option<Tally>,
}

impl Line {
    fn text(&self) -> String {
        let Some(tally) = &self.tally else {
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
