//! The command line: what is asked for, and the exit status it comes to.

use crate::commands::terminal::{Screen, print};
use crate::commands::{check, demo, publish, status, watch};
use crate::config::{Level, Settings};
use crate::error::{Exit, Failure};
use crate::server::reload;
use crate::server::startup::runtime;
use crate::wire::message::Message;
use crate::{logging, rlimit, server};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

/// Relays the progress of ReCodEx jobs from the broker (ZeroMQ) to browsers (WebSocket).
///
/// Without a command it runs in the foreground until SIGTERM or SIGINT.
#[derive(Debug, Parser)]
#[command(name = "recodex-monitor", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Run {
    /// Configuration file; without it every setting has its default
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration, print the settings in force, and exit
    #[arg(long)]
    check: bool,
    /// Check what a reload would read, print nothing if it is right, and exit
    ///
    /// Reads the configuration, the certificate and the file of `history.state`, and exits with 78 if a reload would be refused. The
    /// unit does this before each reload.
    #[arg(long, requires = "config", conflicts_with = "check")]
    check_reload: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole way at work: a monitor with its status page, a simulated broker with jobs, and viewers
    ///
    /// The monitor takes its default ports (4567 for viewers, 7894 for brokers, 4568 for the status page) or, where one is taken,
    /// a free one. Each job has three viewers. Exits with 0 if every viewer got every message of its job, else with 1.
    Demo {
        /// How many jobs the broker runs at once, from 1 to 200
        #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=200))]
        jobs: u64,
        /// Keep jobs coming until Ctrl-C; some of them fail, some are aborted and run again
        #[arg(long)]
        stay: bool,
    },
    /// Watch one job as a browser does, until it has finished
    ///
    /// Exits with 0 if it has finished, with 1 if the monitor closed before, with 69 if there is no monitor.
    Watch {
        /// The monitor's WebSocket address, such as `ws://127.0.0.1:4567/` or `wss://recodex.example.org/ws`
        url: String,
        /// The channel (job) id
        channel: String,
        /// For wss://: trust the certificates in this PEM file or pipe, too; a server's own certificate may be among them
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// Print each message as a line of JSON (the default if the output is no terminal)
        #[arg(long)]
        json: bool,
        /// The job's number of tasks, 1 or more, for a bar that fills
        #[arg(long, value_name = "N", conflicts_with = "json", value_parser = clap::value_parser!(u64).range(1..))]
        tasks: Option<u64>,
    },
    /// Check the configuration and what it asks of this machine: ports, user, log, certificate, limits
    ///
    /// Judges as the installed service runs, or else as the user of the configuration; only root can. Exits with 0 if the monitor
    /// would start.
    Check {
        /// Configuration file [default: /etc/recodex/monitor/config.yml where it exists, else every setting has its default]
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Ask a running monitor, through its status listener, and print one screen
    ///
    /// Exits with 0 if it is ready, with 1 if it is not, with 69 if it does not answer.
    #[command(override_usage = "recodex-monitor status [-c FILE | ADDRESS]")]
    Status {
        /// Configuration file that says where the status listener is (`status_uri`)
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The status listener, as HOST:PORT or http://HOST:PORT/ [default: 127.0.0.1:4568]
        #[arg(conflicts_with = "config")]
        address: Option<String>,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Send one message to a running monitor, as the broker does
    ///
    /// What no broker sends is refused, such as a command that is misspelt.
    Publish {
        /// The monitor's ZeroMQ address
        #[arg(short, long, default_value = "tcp://127.0.0.1:7894")]
        address: String,
        /// Send any command, task and state as they are, if the monitor does not drop them
        #[arg(long)]
        any: bool,
        /// The channel (job) id, 1 to 256 bytes
        channel: String,
        /// DOWNLOADED, STARTED, TASK, ENDED, UPLOADED, FAILED, ABORTED or FINISHED
        command: String,
        /// For TASK: the task's id
        task: Option<String>,
        /// For TASK: COMPLETED, FAILED or SKIPPED
        state: Option<String>,
    },
}

/// Runs what the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            if !matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
                let _ = e.print();
                return ExitCode::from(Exit::Usage as u8);
            }
            return ended(print(&e.render().to_string()));
        }
    };
    rlimit::raise_open_files();
    rlimit::survive_full_files();
    let enough = rlimit::count_inherited().map_err(|e| Failure::new(Exit::Config, e.to_string()));
    let outcome = enough.and_then(|()| run(cli));
    logging::close();
    ended(outcome)
}

/// Says what went wrong, if anything did, and returns the status to exit with.
fn ended(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let line = format!("recodex-monitor: {}\n", logging::escape(&failure.to_string()));
            // In a thread: a pipe that nobody reads does not hold up the end. A closed stderr does not change the status.
            let (done, written) = mpsc::channel();
            let print = move || {
                let _ = std::io::stderr().write_all(line.as_bytes());
                let _ = done.send(());
            };
            if thread::Builder::new().spawn(print).is_ok() {
                let _ = written.recv_timeout(logging::CLOSE_TIMEOUT);
            }
            ExitCode::from(failure.status())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        None => monitor(&cli.run),
        Some(command) => {
            if let Command::Check { config } = &command {
                let runtime = runtime()?;
                let _inside = runtime.enter();
                return check::run(config.as_deref());
            }
            let screen = Screen::new();
            let log = screen.clone();
            logging::begin(Level::Warning)?.open_with(move |line| log.log(line)).start()?;
            let runtime = runtime()?;
            let outcome = runtime.block_on(execute(command, &screen));
            // A name that is still being resolved does not hold up the end.
            runtime.shutdown_background();
            outcome
        }
    }
}

async fn execute(command: Command, screen: &Screen) -> Result<(), Failure> {
    match command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "recodex-monitor", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Check { .. } => Ok(()),
        Command::Status { config, address } => status::run(config.as_deref(), address.as_deref()).await,
        Command::Demo { jobs, stay } => demo::run(screen, jobs, stay).await,
        Command::Watch { url, channel, ca, json, tasks } => {
            watch::run(screen, &url, &channel, ca.as_deref(), json, tasks).await
        }
        Command::Publish { address, any, channel, command, task, state } => {
            let (task, state) = (task.as_deref(), state.as_deref());
            publish::run(&address, &Message { channel: &channel, command: &command, task, state }, any).await
        }
    }
}

fn monitor(run: &Run) -> Result<(), Failure> {
    let config = run.config.as_deref();
    if run.check_reload {
        return config.map_or(Ok(()), reload::check);
    }
    if run.check {
        let mut settings = config.map(Settings::load).transpose()?.unwrap_or_default();
        // What does not fit is told to whoever starts it, and by `check`.
        let _ = settings.fit(rlimit::open_files(), 0);
        return print(&settings.to_yaml());
    }
    server::run(config)
}
