//! `watch`: one viewer of one channel, on a terminal or for a program.

use crate::client::{Client, Received, Tally};
use crate::failure::{Exit, Failure};
use crate::logging::escape;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

/// Watches `channel` until the monitor closes: as a progress line on a terminal, else, or with `json`, as one message a
/// line. `tasks` is the number of tasks, for a bar that fills. Certificates in the PEM file `ca` are trusted in addition.
///
/// # Errors
/// If there is no monitor, or it closes with another code than 1000.
pub async fn run(url: &str, channel: &str, ca: Option<&Path>, json: bool, tasks: Option<u64>) -> Result<(), Failure> {
    let mut client = Client::subscribe(url, channel, ca).await?;
    let bar = (!json && io::stdout().is_terminal()).then(|| bar(tasks));
    let mut tally = Tally::default();
    loop {
        match client.next().await? {
            Received::Text(text) => match &bar {
                Some(bar) => {
                    tally.count(&text);
                    bar.set_position(tally.total());
                    bar.set_message(tally.summary());
                }
                None => {
                    if !print(&text)? {
                        return Ok(());
                    }
                }
            },
            Received::Closed(code, reason) => {
                if let Some(bar) = bar {
                    bar.abandon();
                }
                let reason = if reason.is_empty() { reason } else { format!(" ({})", escape(&reason)) };
                return match code {
                    1000 => Ok(()),
                    _ => Err(Failure::new(
                        Exit::Failed,
                        format!("the monitor closed with {code}{reason} before FINISHED"),
                    )),
                };
            }
        }
    }
}

fn bar(tasks: Option<u64>) -> ProgressBar {
    let (bar, template) = match tasks {
        Some(tasks) => (ProgressBar::new(tasks), "[{bar:40}] {pos}/{len} tasks: {msg}"),
        None => (ProgressBar::new_spinner(), "{spinner} {pos} tasks: {msg}"),
    };
    bar.set_style(style(template));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A style from a template of ours.
pub(crate) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("#> ")
}

/// Prints a message; false if nobody reads any more.
fn print(text: &str) -> Result<bool, Failure> {
    // A message of the monitor is JSON in ASCII; from anything else, what could garble a line is escaped.
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", escape(text)).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::new(Exit::Failed, format!("cannot write: {e}"))),
    }
}
