//! `demo`: a monitor, a broker that runs a few jobs, and viewers that come before, during and after each job. All run in one process
//! and use real sockets.

mod job;
mod monitor;

use crate::commands::client::broker::Broker;
use crate::commands::client::tally::Tally;
use crate::commands::client::viewer::{Client, Received};
use crate::commands::terminal::{Screen, has_reader};
use crate::commands::watch::bar;
use crate::deadline::timeout;
use crate::error::{Exit, Failure};
use crate::server::relay::Stop;
use job::Job;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::signal::ctrl_c;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// The number of viewers of each job.
const VIEWERS: u64 = 3;
/// The time between two messages of one of the first jobs.
const PACE: Duration = Duration::from_millis(60);
/// The same for the jobs that follow with `--stay`.
const CALM_PACE: Duration = Duration::from_millis(300);
/// The longest pause between two jobs with `--stay`, in seconds; the shortest is 1 s.
const MAX_PAUSE: u64 = 5;
/// The time after which a viewer counts a message as missed.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time between two drawings of the bars.
const TICK: Duration = Duration::from_millis(100);
/// The width of a bar, in characters. A job's line then has at most 40 columns and fits a narrow terminal.
const BAR: usize = 10;
/// The most viewers whose missed messages are printed.
const MAX_REPORTED: u64 = 20;

/// Runs `jobs` jobs and prints a summary of each. With `stay`, more jobs follow until Ctrl-C. Ends early, without an error, once nobody
/// reads the output any more.
///
/// # Errors
/// If no port is free, a viewer missed a message, or Ctrl-C comes before the end of a demo without `stay`.
pub(crate) async fn run(screen: &Screen, jobs: u64, stay: bool) -> Result<(), Failure> {
    let relay = monitor::bind(screen)?;
    let [viewers, brokers, status] = monitor::addresses(&relay)?;
    for line in [
        format!("The demo runs a monitor, a broker with {jobs} jobs at once, {VIEWERS} viewers of each."),
        format!("  viewers:     ws://{viewers}/"),
        format!("  brokers:     tcp://{brokers}"),
        format!("  status page: http://{status}/"),
    ] {
        screen.print(&line)?;
    }
    if stay {
        screen.print("Jobs keep coming until Ctrl-C. A browser shows the monitor at the status page.")?;
    }
    let (stop, stopped) = oneshot::channel::<()>();
    let monitor = tokio::spawn(relay.run(None, async {
        let _ = stopped.await;
        Stop::ForGood
    }));
    let broker = Broker::connect(&format!("tcp://{brokers}")).await?;
    let demo = Arc::new(Demo {
        screen: screen.clone(),
        url: format!("ws://{viewers}/"),
        broker: tokio::sync::Mutex::new(broker),
        jobs,
        stay,
        board: Mutex::new(Board { next: jobs + 1, ..Board::default() }),
    });
    let ended = demo.run_all().await;
    screen.show(Vec::new());
    let ended = ended?;
    drop(stop);
    monitor.await.map_err(|e| crashed(&e))?;
    let Board { done, messages, missed, .. } = *demo.board();
    let viewers = VIEWERS * done;
    if missed > 0 {
        return Err(Failure::new(Exit::Failed, format!("{missed} of {viewers} viewers missed a message")));
    }
    if matches!(ended, Ended::Interrupted) && !stay {
        let what = format!("interrupted; {done} of {jobs} jobs had ended, and their viewers got every message");
        return Err(Failure::new(Exit::Interrupted, what));
    }
    screen
        .print(&format!("{done} jobs, {messages} messages, {viewers} viewers: each got all of its job, in order."))?;
    Ok(())
}

/// A running demo.
struct Demo {
    screen: Screen,
    url: String,
    broker: tokio::sync::Mutex<Broker>,
    jobs: u64,
    stay: bool,
    board: Mutex<Board>,
}

/// The running jobs, and counts of the ended ones.
#[derive(Default)]
struct Board {
    /// By number: ended tasks, all tasks, the last command.
    running: BTreeMap<u64, (u64, u64, String)>,
    /// The number of the next job.
    next: u64,
    done: u64,
    messages: u64,
    missed: u64,
}

/// The reason why no more jobs run.
enum Ended {
    Done,
    Interrupted,
    /// Nobody reads the output any more.
    Unread,
}

impl Demo {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs all jobs until they end, until Ctrl-C, or until nobody reads the output.
    async fn run_all(self: &Arc<Self>) -> Result<Ended, Failure> {
        let mut running = JoinSet::new();
        for n in 1..=self.jobs {
            running.spawn(Arc::clone(self).run_one_after_another(n));
        }
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut interrupted = std::pin::pin!(ctrl_c());
        loop {
            tokio::select! {
                ended = running.join_next() => match ended {
                    Some(ended) => ended.map_err(|e| crashed(&e))??,
                    None => return Ok(Ended::Done),
                },
                _ = &mut interrupted => return Ok(Ended::Interrupted),
                _ = ticks.tick() => {
                    if !has_reader() {
                        return Ok(Ended::Unread);
                    }
                    if self.screen.is_live() {
                        self.screen.show(self.lines());
                    }
                }
            }
        }
    }

    /// Runs job number `n` and, with `stay`, more jobs after it.
    async fn run_one_after_another(self: Arc<Self>, mut n: u64) -> Result<(), Failure> {
        self.run_job(Job::plain(n), PACE).await?;
        if !self.stay {
            return Ok(());
        }
        loop {
            sleep(Duration::from_secs(1 + n % MAX_PAUSE)).await;
            n = {
                let mut board = self.board();
                board.next += 1;
                board.next - 1
            };
            self.run_job(Job::any(n), CALM_PACE).await?;
        }
    }

    async fn run_job(self: &Arc<Self>, job: Job, pace: Duration) -> Result<(), Failure> {
        self.board().running.insert(job.number, (0, job.tasks(), String::new()));
        let mut viewers = JoinSet::new();
        self.add_viewer(&job, "early", &mut viewers).await?;
        for (i, message) in job.messages.iter().enumerate() {
            if i == job.messages.len() / 2 {
                self.add_viewer(&job, "late", &mut viewers).await?;
            }
            let frames: Vec<&str> = std::iter::once(&job.channel).chain(message).map(String::as_str).collect();
            self.broker.lock().await.send(&frames).await?;
            sleep(pace).await;
        }
        let mut missed = self.wait_for(&job, &mut viewers).await?;
        self.add_viewer(&job, "last", &mut viewers).await?;
        missed += self.wait_for(&job, &mut viewers).await?;
        let messages = job.messages.len();
        {
            let mut board = self.board();
            board.running.remove(&job.number);
            board.done += 1;
            board.messages += messages as u64;
        }
        self.screen.show(self.lines());
        if job.number <= self.jobs {
            let outcome = match missed {
                0 => format!("all {VIEWERS} viewers got all of them"),
                missed => format!("{missed} of {VIEWERS} viewers missed a message"),
            };
            self.screen.print(&format!("{}: {messages} messages, {outcome}", job.channel))?;
        }
        Ok(())
    }

    /// Waits until all `viewers` of a job have ended, and returns the number of those that missed a message.
    async fn wait_for(&self, job: &Job, viewers: &mut JoinSet<Result<(), String>>) -> Result<u64, Failure> {
        let mut missed = 0;
        while let Some(ended) = viewers.join_next().await {
            if let Err(what) = ended.map_err(|e| crashed(&e))? {
                missed += 1;
                self.report(&format!("{}: {what}", job.channel))?;
            }
        }
        Ok(missed)
    }

    /// Counts a viewer that missed a message, and prints the details.
    fn report(&self, what: &str) -> Result<(), Failure> {
        let missed = {
            let mut board = self.board();
            board.missed += 1;
            board.missed
        };
        if missed <= MAX_REPORTED {
            self.screen.print(what)?;
        }
        Ok(())
    }

    /// Adds a viewer that checks its messages and returns the first mistake.
    async fn add_viewer(
        self: &Arc<Self>,
        job: &Job,
        which: &'static str,
        viewers: &mut JoinSet<Result<(), String>>,
    ) -> Result<(), Failure> {
        let mut client = Client::subscribe(&self.url, &job.channel, None).await?;
        let (demo, number, expected) = (Arc::clone(self), job.number, job.texts());
        viewers.spawn(async move {
            let mut tally = Tally::default();
            for (i, expected) in expected.iter().enumerate() {
                let got = match timeout(PATIENCE, client.next()).await {
                    Ok(Ok(Received::Text(text))) if text == *expected => {
                        tally.count(&text);
                        if let Some((done, _, phase)) =
                            demo.board().running.get_mut(&number).filter(|_| which == "early")
                        {
                            (*done, *phase) = (tally.total(), tally.phase().to_owned());
                        }
                        continue;
                    }
                    Ok(Ok(Received::Text(text))) => format!("got {text} as message {}", i + 1),
                    Ok(Ok(Received::Closed(code, _))) => format!("was closed with {code} after {i} messages"),
                    Ok(Err(failure)) => format!("got {i} messages, then {failure}"),
                    Err(_) => format!("got {i} messages, then nothing for {} s", PATIENCE.as_secs()),
                };
                return Err(format!("the {which} viewer {got}"));
            }
            match timeout(PATIENCE, client.next()).await {
                Ok(Ok(Received::Closed(1000, _))) => Ok(()),
                _ => Err(format!("the {which} viewer got every message, but no close with 1000")),
            }
        });
        Ok(())
    }

    /// Returns the changing lines: one for each running job and, with `stay`, one with the counts.
    fn lines(&self) -> Vec<String> {
        let board = self.board();
        let width = board.running.keys().map(|n| n.to_string().len()).max().unwrap_or_default();
        let line = |(n, (done, total, phase)): (&u64, &(u64, u64, String))| {
            format!("job {n:<width$} [{}] {done:>2}/{total:<2} {phase}", bar(*done, *total, BAR))
        };
        let mut lines: Vec<_> = board.running.iter().map(line).collect();
        if self.stay {
            lines.push(format!("{} jobs, {} viewers; Ctrl-C ends", board.done, VIEWERS * board.done));
        }
        lines
    }
}

fn crashed(error: &JoinError) -> Failure {
    Failure::new(Exit::Software, format!("a part of the demo ended early: {error}"))
}
