//! What ends the program, and with which exit status (sysexits.h).

use std::fmt;

/// The exit statuses used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something did not go as it should, in a program whose answer is yes or no.
    Failed = 1,
    /// `EX_USAGE`: the command line is wrong.
    Usage = 64,
    /// `EX_UNAVAILABLE`: a port, a host or a peer cannot be had.
    Unavailable = 69,
    /// `EX_SOFTWARE`: the system refused what a program can expect.
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

/// Why the program ends early.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// A failure with its exit status and a message for people.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// What it ends with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The status to exit with.
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
