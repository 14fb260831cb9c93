//! The program's commands, and the clients that they use.

mod args;
mod check;
pub(crate) mod cli;
mod client;
mod demo;
mod publish;
mod status;
mod terminal;
mod watch;
