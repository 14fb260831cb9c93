//! The failure that ends the program, and its exit status (sysexits.h).

use std::fmt;

/// The exit statuses of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The answer of a command is no.
    Failed = 1,
    /// `EX_USAGE`: the command line is wrong.
    Usage = 64,
    /// `EX_UNAVAILABLE`: a port, a host or a peer is not available.
    Unavailable = 69,
    /// `EX_SOFTWARE`: the system refused something that it should grant.
    Software = 70,
    /// `EX_IOERR`: standard output cannot be written.
    Output = 74,
    /// `EX_NOPERM`: the system does not allow it.
    NoPermission = 77,
    /// `EX_CONFIG`: the configuration is wrong.
    Config = 78,
    /// Ctrl-C came before the end, as shells number it.
    Interrupted = 130,
}

/// The reason for which the program ends early.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// Makes a failure from its exit status and a message for people.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Returns the kind of the exit status.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Returns the exit status.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.exit as u8
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
