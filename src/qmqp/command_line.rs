//! The command line of qmqpd: the options of Postfix's page, and ours. smtpd reads it too, to find what is wrong before
//! a client does.

use crate::cli::{self, Common, Daemon};
use std::path::PathBuf;

/// Take one message by QMQP on standard input, answer on standard output
#[derive(Debug, Default, clap::Parser)]
#[command(name = "qmqpd", version, disable_version_flag = true)]
pub struct Args {
    /// What all programs have.
    #[command(flatten)]
    pub common: Common,
    /// What Postfix's daemons have.
    #[command(flatten)]
    pub daemon: Daemon,
    /// Print the version
    #[arg(long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Write the session to a new file, as a transcript that can be played again
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// For tests: let the clock stand, and number ids and challenges, so that a file or pipe gets the same replies each time
    #[arg(long, value_name = "SECONDS", value_parser = cli::number, allow_negative_numbers = true)]
    pub fixed: Option<u32>,
}
