//! Runs the command that the command line names, and turns its outcome into the exit status.

pub use crate::commands::args::Cli;
use crate::commands::args::{Command, Run};
use crate::commands::terminal::{Screen, print};
use crate::commands::{check, demo, publish, status, watch};
use crate::config::{Instance, Level, Source};
use crate::error::{Exit, Failure};
use crate::server::reload;
use crate::server::startup::runtime;
use crate::wire::message::Message;
use crate::{logging, rlimit, server};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

/// Runs the command that the command line names.
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

/// Prints the error, if there is one, and returns the exit status.
fn ended(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let line = format!("recodex-monitor: {}\n", logging::one_line(&failure.to_string()));
            // In a thread, so that a full pipe does not block the end. A closed stderr does not change the status.
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
        None => monitor(cli.run),
        Some(Command::Check { config, instance, config_only: true }) => {
            let config = config.or_else(|| check::packaged_config().map(Path::to_path_buf));
            settings_in_force(source(config, instance).as_ref())
        }
        Some(Command::Check { config, instance, config_only: false }) => {
            let runtime = runtime()?;
            let _inside = runtime.enter();
            check::run(config.as_deref(), instance.as_ref())
        }
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "recodex-monitor", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Some(Command::Status { config, instance, address }) => {
            on_screen(async |_| status::run(config.as_deref(), instance.as_ref(), address.as_deref()).await)
        }
        Some(Command::Demo { jobs, stay }) => on_screen(async |screen| demo::run(screen, jobs, stay).await),
        Some(Command::Watch { url, channel, ca, json, tasks }) => {
            on_screen(async |screen| watch::run(screen, &url, &channel, ca.as_deref(), json, tasks).await)
        }
        Some(Command::Publish { address, any, channel, command, task, state }) => {
            let (task, state) = (task.as_deref(), state.as_deref());
            let message = Message { channel: &channel, command: &command, task, state };
            on_screen(async |_| publish::run(&address, &message, any).await)
        }
    }
}

/// Runs a command to its end, with a screen that also shows its log.
fn on_screen(command: impl AsyncFnOnce(&Screen) -> Result<(), Failure>) -> Result<(), Failure> {
    let screen = Screen::new();
    let log = screen.clone();
    logging::begin(Level::Warning)?.open_with(move |line| log.log(line)).start()?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(command(&screen));
    // Does not wait for a host name that is still being resolved.
    runtime.shutdown_background();
    outcome
}

/// Returns the file that `-c` and `--instance` name, as the service reads it if the service manager has started this process.
fn source(config: Option<PathBuf>, instance: Option<Instance>) -> Option<Source> {
    config.map(|path| Source::new(path, instance).with_runtime_directory(runtime_directory()))
}

/// Returns the first directory of `RuntimeDirectory=`, which the service manager names in the environment.
fn runtime_directory() -> Option<PathBuf> {
    let directories = env::var_os("RUNTIME_DIRECTORY")?;
    env::split_paths(&directories).next().filter(|first| first.is_absolute())
}

/// Checks only the configuration, and prints the settings.
fn settings_in_force(config: Option<&Source>) -> Result<(), Failure> {
    let mut settings = config.map(Source::load).transpose()?.unwrap_or_default();
    // Numbers that exceed the limit of open files are lowered without a warning here; a start and the whole `check` warn of them.
    let _ = settings.fit(rlimit::open_files(), 0);
    print(&settings.to_yaml())
}

fn monitor(run: Run) -> Result<(), Failure> {
    let config = source(run.config, run.instance);
    let config = config.as_ref();
    if run.check_reload {
        return config.map_or(Ok(()), reload::check);
    }
    if run.check {
        return settings_in_force(config);
    }
    server::run(config)
}
