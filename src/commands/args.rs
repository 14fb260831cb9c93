//! The arguments of the command line, with their help.

use crate::config::Instance;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;

/// Relays the progress of ReCodEx jobs from the broker (ZeroMQ) to browsers (WebSocket).
///
/// Without a command it runs in the foreground until SIGTERM or SIGINT.
#[derive(Debug, Parser)]
#[command(name = "recodex-monitor", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    pub(super) run: Run,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// The configuration file; without it every setting has its default
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The name of this instance, which `%i` in the configuration stands for
    ///
    /// It has 1 to 64 letters, digits, `.`, `_` and `-`, and no `.` at the beginning. The unit recodex-monitor@NAME.service passes it.
    #[arg(long, value_name = "NAME", requires = "config")]
    pub(super) instance: Option<Instance>,
    /// The same as the command `check --config-only`, by its old name
    #[arg(long, hide = true)]
    pub(super) check: bool,
    /// Check the files that a reload reads, print only errors, and exit
    ///
    /// Reads the configuration, the certificate and the file of `history.state`. Exits with 78 if a reload would refuse them. The unit
    /// runs this before each reload.
    #[arg(long, requires = "config", conflicts_with = "check")]
    pub(super) check_reload: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a demonstration: a monitor with its status page, a simulated broker with jobs, and viewers
    ///
    /// The monitor takes its default ports (4567 for viewers, 7894 for brokers, 4568 for the status page), or a free port for each one
    /// that is in use. Each job has three viewers. Exits with 0 if every viewer got every message of its job, else with 1.
    Demo {
        /// The number of jobs that the broker runs at once, from 1 to 200
        #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=200))]
        jobs: u64,
        /// Start new jobs until Ctrl-C; some of them fail, some are aborted and run again
        #[arg(long)]
        stay: bool,
    },
    /// Watch one job as a browser does, until it has finished
    ///
    /// Exits with 0 if the job has finished, with 1 if the monitor ended the connection before, with 69 if no monitor answers.
    Watch {
        /// The monitor's WebSocket address, such as `ws://127.0.0.1:4567/` or `wss://recodex.example.org/ws`
        url: String,
        /// The id of the channel (job)
        channel: String,
        /// For wss://: also trust the certificates in this PEM file or pipe, which may be the server's own
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// Print each message as a line of JSON; this is the default if the output is not a terminal
        #[arg(long)]
        json: bool,
        /// The job's number of tasks, 1 or more, to show a progress bar
        #[arg(long, value_name = "N", conflicts_with = "json", value_parser = clap::value_parser!(u64).range(1..))]
        tasks: Option<u64>,
    },
    /// Check the configuration, and the ports, user, log, certificate and limits of this machine
    ///
    /// Run it as root. It then checks as the user of the installed service or, without a service, as the user in the configuration.
    /// Exits with 0 if the monitor would start.
    Check {
        /// The configuration file [default: /etc/recodex/monitor/config.yml if it exists, else every setting has its default]
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Check for the instance with this name, and its unit recodex-monitor@NAME.service
        #[arg(long, value_name = "NAME")]
        instance: Option<Instance>,
        /// Check only the file, and print the settings in force as YAML
        ///
        /// It also prints the settings that the file leaves out; `null` stands for a default that depends on the service or the machine. It
        /// looks at nothing else on this machine, and needs no root.
        #[arg(long)]
        config_only: bool,
    },
    /// Print the status of a running monitor, from its status listener
    ///
    /// Without an address it asks the monitor of this machine, as root or as a member of the group recodex. Exits with 0 if the monitor is
    /// ready, with 1 if it is not, with 69 if it does not answer.
    #[command(
        override_usage = "recodex-monitor status [-c FILE] [--instance NAME]\n       recodex-monitor status ADDRESS"
    )]
    Status {
        /// The configuration file with the address of the status listener (`status_uri`) [default: /etc/recodex/monitor/config.yml if it
        /// exists]
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Ask the instance with this name, as of the unit recodex-monitor@NAME.service
        #[arg(long, value_name = "NAME")]
        instance: Option<Instance>,
        /// The address of the status listener, as HOST:PORT, http://HOST:PORT/ or `unix:/PATH` [default: the one in the configuration,
        /// or `unix:/run/recodex/status.sock`]
        #[arg(conflicts_with_all = ["config", "instance"])]
        address: Option<String>,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Send one message to a running monitor, as the broker does
    ///
    /// Refuses messages that no broker sends, such as a misspelt command.
    Publish {
        /// The monitor's ZeroMQ address
        #[arg(short, long, default_value = "tcp://127.0.0.1:7894")]
        address: String,
        /// Send any command, task and state, unless the monitor would drop the message
        #[arg(long)]
        any: bool,
        /// The id of the channel (job), 1 to 256 bytes
        channel: String,
        /// DOWNLOADED, STARTED, TASK, ENDED, UPLOADED, FAILED, ABORTED or FINISHED
        command: String,
        /// For TASK: the id of the task
        task: Option<String>,
        /// For TASK: the state, COMPLETED, FAILED or SKIPPED
        state: Option<String>,
    },
}
