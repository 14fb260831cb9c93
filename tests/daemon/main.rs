//! The program on its machine: command line, configuration, log, service manager, signals, users, and its commands.

#[path = "../common/mod.rs"]
mod common;

mod check;
mod cli;
mod demo;
mod instances;
mod logging;
mod notify;
mod ownership;
mod pause;
mod pause_commands;
mod pause_stop;
mod publish;
mod reload;
mod root;
mod service;
mod stopping;
mod systemd_unit;
mod watch;
