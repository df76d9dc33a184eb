//! Outcome to exit status, for every program (sysexits.h).
//!
//! How a client leaves is its own affair and always 0: a superserver must not take a hung-up client for a failure.

use crate::config;
use std::process::ExitCode;

/// How a program came to a good end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// What was asked for is done; for a session, the client said goodbye.
    Done,
    /// The client went away without a goodbye.
    HungUp,
    /// The client was silent, or took longer than a session may.
    TimedOut,
    /// The client was turned away, or made too many mistakes.
    Refused,
}

/// Our own trouble. Errors become replies in each protocol's `reply.rs` and statuses here, nowhere else.
#[derive(Debug)]
pub enum Error {
    /// The command line is wrong (64).
    Usage(String),
    /// What was handed in is no message or names no address (65).
    Data(String),
    /// What was handed in will not be taken (69).
    Unavailable(String),
    /// There is no usable connection on standard input and output (74).
    Connection(String),
    /// The queue, a mailbox or another program of ours cannot be used now (75).
    Temporary(String),
    /// This user may not do that (77).
    Permission(String),
    /// A configuration file or parameter is wrong (78).
    Config(config::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Usage(text) | Error::Data(text) | Error::Unavailable(text) => f.write_str(text),
            Error::Connection(text) | Error::Temporary(text) | Error::Permission(text) => f.write_str(text),
            Error::Config(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Error::Config(error)
    }
}

/// The number a program ends with.
pub fn code(result: &Result<Ended, Error>) -> u8 {
    match result {
        Ok(Ended::Done | Ended::HungUp | Ended::TimedOut | Ended::Refused) => 0,
        Err(Error::Usage(_)) => 64,
        Err(Error::Data(_)) => 65,
        Err(Error::Unavailable(_)) => 69,
        Err(Error::Connection(_)) => 74,
        Err(Error::Temporary(_)) => 75,
        Err(Error::Permission(_)) => 77,
        Err(Error::Config(_)) => 78,
    }
}

/// Logs why a program cannot go on, if it cannot, and gives what `main` returns.
pub fn status(result: Result<Ended, Error>) -> ExitCode {
    if let Err(error) = &result {
        log::error!("{error}");
    }
    ExitCode::from(code(&result))
}
