//! `demo`: the whole way in one process, over real sockets. The monitor on its default ports, a broker that runs a few
//! jobs, and viewers that come before, during and after each of them.

use crate::broker::Broker;
use crate::client::{Client, Received, Tally};
use crate::config::{Address, Settings};
use crate::failure::{Exit, Failure};
use crate::relay::{Relay, Stop};
use crate::store::Kept;
use crate::watch::style;
use indicatif::{MultiProgress, ProgressBar};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Where the monitor tells what it does.
const STATUS_PORT: u16 = 4568;
/// The time between two messages of a job.
const PACE: Duration = Duration::from_millis(60);
/// How long a viewer may wait for a message before the demo counts it as missed.
const PATIENCE: Duration = Duration::from_secs(10);

/// One simulated job: what the broker sends, and what every viewer must get.
struct Job {
    channel: String,
    messages: Vec<Vec<String>>,
}

impl Job {
    /// Job number `n`; each has another length and another mix of task states.
    fn new(n: u64) -> Self {
        let tasks = 5 + n * 7 % 26;
        let mut messages: Vec<Vec<String>> = [&["DOWNLOADED"][..], &["STARTED"]].map(owned).to_vec();
        for task in 0..tasks {
            let state = match (task + n) % 9 {
                7 => "FAILED",
                8 => "SKIPPED",
                _ => "COMPLETED",
            };
            messages.push(owned(&["TASK", &format!("task_{task:02}"), state]));
        }
        messages.extend([&["ENDED"][..], &["UPLOADED"], &["FINISHED"]].map(owned));
        Self { channel: format!("demo_job_{n}"), messages }
    }

    fn tasks(&self) -> u64 {
        self.messages.iter().filter(|message| message[0] == "TASK").count() as u64
    }

    /// The texts every viewer must get, written down here independently of the monitor's own encoder.
    fn texts(&self) -> Vec<String> {
        let text = |message: &Vec<String>| match &message[..] {
            [command, task, state] => {
                format!(r#"{{"command": "{command}", "task_id": "{task}", "task_state": "{state}"}}"#)
            }
            message => format!(r#"{{"command": "{}"}}"#, message[0]),
        };
        self.messages.iter().map(text).collect()
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Runs `jobs` jobs and prints a summary; if it is to `stay`, the monitor runs until it is interrupted.
///
/// # Errors
/// If the ports are taken, or a viewer missed a message.
pub async fn run(jobs: u64, stay: bool) -> Result<(), Failure> {
    let status_uri = Some(Address { host: "127.0.0.1".into(), port: STATUS_PORT });
    let relay = Relay::bind(Settings { status_uri, ..Settings::default() }, Kept::default())?;
    let (url, address, status) =
        match (&relay.viewer_addresses()[..], &relay.broker_addresses()[..], &relay.status_addresses()[..]) {
            ([viewers, ..], [brokers, ..], [status, ..]) => {
                (format!("ws://{viewers}/"), format!("tcp://{brokers}"), format!("http://{status}/"))
            }
            _ => return Err(Failure::new(Exit::Software, "the monitor listens nowhere")),
        };
    println!("monitor: {url} for viewers, {address} for brokers; {jobs} jobs, 3 viewers each");
    println!("status page: {status}");
    let (stop, stopped) = oneshot::channel::<()>();
    let monitor = tokio::spawn(relay.run(None, async {
        let _ = stopped.await;
        Stop::ForGood
    }));

    let bars = MultiProgress::new();
    let mut running = Vec::new();
    for n in 1..=jobs {
        let job = Job::new(n);
        let bar = bars.add(ProgressBar::new(job.tasks()));
        bar.set_style(style(&format!("{:<12} [{{bar:30}}] {{pos:>2}}/{{len}} {{msg}}", job.channel)));
        running.push(tokio::spawn(run_job(job, url.clone(), address.clone(), bar)));
    }
    let (mut sent, mut missed) = (0, Vec::new());
    for job in running {
        let report = joined(job).await??;
        sent += report.messages;
        println!("{}: {} messages, {}", report.channel, report.messages, report.outcome());
        missed.extend(report.missed);
    }
    if stay {
        println!("the monitor stays until it is interrupted (Ctrl-C); {status} shows what it does");
        let _ = tokio::signal::ctrl_c().await;
    }
    drop(stop);
    joined(monitor).await?;
    if missed.is_empty() {
        println!(
            "{jobs} jobs, {sent} messages, {} viewers: every viewer got every message, in order, and the close.",
            3 * jobs
        );
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failed,
        format!("{} of {} viewers missed something:\n{}", missed.len(), 3 * jobs, missed.join("\n")),
    ))
}

/// What became of one job.
struct Report {
    channel: String,
    messages: usize,
    /// One line for every viewer that did not get exactly what it should.
    missed: Vec<String>,
}

impl Report {
    fn outcome(&self) -> String {
        match self.missed.len() {
            0 => "3 viewers got all of them".into(),
            bad => format!("{bad} of 3 viewers missed something"),
        }
    }
}

async fn run_job(job: Job, url: String, address: String, bar: ProgressBar) -> Result<Report, Failure> {
    let mut broker = Broker::connect(&address).await?;
    let first = watch(&job, &url, Some(bar)).await?;
    let (mut viewers, half) = (vec![("early", first)], job.messages.len() / 2);
    for (i, message) in job.messages.iter().enumerate() {
        if i == half {
            viewers.push(("late", watch(&job, &url, None).await?));
        }
        let frames: Vec<&str> = std::iter::once(&job.channel).chain(message).map(String::as_str).collect();
        broker.send(&frames).await?;
        sleep(PACE).await;
    }
    let mut missed = Vec::new();
    let mut check = |which: &str, outcome: Result<(), String>| {
        if let Err(what) = outcome {
            missed.push(format!("{}: the {which} viewer {what}", job.channel));
        }
    };
    for (which, viewer) in viewers {
        check(which, joined(viewer).await?);
    }
    let last = watch(&job, &url, None).await?;
    check("last", joined(last).await?);
    Ok(Report { channel: job.channel, messages: job.messages.len(), missed })
}

/// Starts a viewer that checks what it gets; it returns what was wrong.
async fn watch(job: &Job, url: &str, bar: Option<ProgressBar>) -> Result<JoinHandle<Result<(), String>>, Failure> {
    let mut client = Client::subscribe(url, &job.channel, None).await?;
    let expected = job.texts();
    Ok(tokio::spawn(async move {
        let mut tally = Tally::default();
        let mut next = 0;
        let outcome = loop {
            let received = timeout(PATIENCE, client.next()).await;
            match received {
                Ok(Ok(Received::Text(text))) if expected.get(next) == Some(&text) => {
                    next += 1;
                    tally.count(&text);
                    if let Some(bar) = &bar {
                        bar.set_position(tally.total());
                        bar.set_message(tally.phase.clone());
                    }
                }
                Ok(Ok(Received::Text(text))) => break Err(format!("got {text} as message {}", next + 1)),
                Ok(Ok(Received::Closed(1000, _))) if next == expected.len() => break Ok(()),
                Ok(Ok(Received::Closed(code, _))) => {
                    break Err(format!("was closed with {code} after {next} messages"));
                }
                Ok(Err(failure)) => break Err(format!("after {next} messages: {failure}")),
                Err(_) => break Err(format!("waited 10 s in vain after {next} messages")),
            }
        };
        if let Some(bar) = bar {
            bar.abandon();
        }
        outcome
    }))
}

async fn joined<T>(task: JoinHandle<T>) -> Result<T, Failure> {
    task.await.map_err(|e| Failure::new(Exit::Software, format!("a part of the demo ended early: {e}")))
}
