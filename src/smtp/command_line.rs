//! The command line of smtpsrvr: MMDF's operands, and options of ours. smtpd reads it too, to find a channel that is not there
//! before a client does.

use crate::cli::Common;
use std::path::PathBuf;

/// Serve one SMTP session on standard input and output
#[derive(Debug, Default, clap::Parser)]
#[command(name = "smtpsrvr", version)]
pub struct Args {
    /// What all programs have.
    #[command(flatten)]
    pub common: Common,
    /// Turn away clients that no channel lists, before the greeting (as under the name rsmtpsrvr)
    #[arg(long)]
    pub finicky: bool,
    /// Take mail from users who log in and from nobody else, and complete its header, as on port 587
    #[arg(long)]
    pub submission: bool,
    /// Begin with TLS, before the greeting, as on port 465
    #[arg(long)]
    pub tls: bool,
    /// Write the session to a new file, as a transcript that can be played again
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// For tests: let the clock stand, and number ids and challenges, so that a file or pipe gets the same replies each time
    #[arg(long, value_name = "SECONDS")]
    pub fixed: Option<u32>,
    /// Name or address of the client, believed on a pipe or unix socket
    pub remotehost: Option<String>,
    /// Our own name in greeting and replies, instead of myhostname
    pub localhost: Option<String>,
    /// Channels to look the client up in, joined by commas; without them all
    pub channels: Option<String>,
}

impl Args {
    /// The names of the channels to look the client up in; none: all.
    pub fn only(&self) -> Vec<String> {
        self.channels.iter().flat_map(|list| list.split(',')).map(|name| name.trim().to_owned()).collect()
    }
}
