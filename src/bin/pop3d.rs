//! pop3d - let one client read its mail by POP3 on standard input and output
//!
//! Started by inetd or one of its relatives with the client on descriptors 0 and 1; a listening socket there is served
//! by forking for each connection. Started as root it parses in a process without rights and becomes the user whose
//! mail it is; started as anybody else it stays that user.
//!
//! EXIT STATUS  0 the session ended, however; 64 usage; 74 no usable connection; 75 temporary trouble;
//! 78 configuration

use clap::{ArgAction, Parser};
use doorpost::cli::{self, Common};
use doorpost::config::Config;
use doorpost::exit::{self, Ended, Error};
use doorpost::logging::{self, Speaks};
use doorpost::net::accept;
use doorpost::pop3;
use doorpost::smtpd::refusal;
use std::path::PathBuf;
use std::process::ExitCode;

/// Let one client read its mail by POP3 on standard input and output
#[derive(Debug, Default, Parser)]
#[command(name = "pop3d", version, disable_version_flag = true, disable_help_flag = true)]
struct Args {
    /// Serve the client on standard input and output (the default)
    #[arg(short, long)]
    inetd: bool,
    /// End the session of a client that was silent for so long: pop3d_timeout
    #[arg(short, long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// Begin with TLS, before the greeting, as on port 995
    #[arg(long)]
    tls: bool,
    /// Write the session to a new file, as a transcript that can be played again
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
    /// Print this help and exit
    #[arg(short, long, short_alias = '?', action = ArgAction::Help)]
    help: Option<bool>,
    /// Print the version and exit
    #[arg(short = 'v', long, short_alias = 'V', action = ArgAction::Version)]
    version: Option<bool>,
}

fn prepare() -> Result<(Args, Config), Error> {
    let mut args: Args = cli::parse()?;
    args.common.overrides.extend(args.timeout.map(|seconds| format!("pop3d_timeout={seconds}")));
    let config = Config::load(&args.common)?;
    Ok((args, config))
}

fn run() -> Result<Ended, Error> {
    let (args, config) = prepare().inspect_err(pop3::refuse)?;
    accept::serve(&config, refusal::words("pop3d".as_ref()), || pop3::serve(&config, args.record.as_deref(), args.tls))
}

fn main() -> ExitCode {
    logging::start("pop3d", Speaks::ToClient);
    exit::status(run())
}
