//! deliver - take queued messages on: into mailboxes, to other hosts, and back to their senders
//!
//! Without options every message that is due is tried, until nothing new is due; `--watch` stays and waits for more;
//! ids name messages to be tried now. Started as root it becomes mail_owner, and a small helper keeps root to deliver
//! to the users of the system.
//!
//! EXIT STATUS  0 done, whatever became of the messages; 64 usage; 65 a message that was named is held, or not there; 75 the
//! queue cannot be used now, or another process has a message that was named; 77 the queue is somebody else's; 78
//! configuration

use clap::Parser;
use doorpost::cli::{self, Common};
use doorpost::config::Config;
use doorpost::deliver::{self, Work};
use doorpost::exit::{self, Ended, Error};
use doorpost::logging::{self, Speaks};
use doorpost::queue::Id;
use std::process::ExitCode;

/// Take queued messages on: into mailboxes, to other hosts, and back to their senders.
#[derive(Debug, Default, Parser)]
#[command(name = "deliver", version)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Tell each step while it is done, and how much is left
    #[arg(short = 'w', long)]
    trace: bool,
    /// Stay, and deliver what comes in
    #[arg(long, conflicts_with = "ids")]
    watch: bool,
    /// Try these messages now, due or not
    #[arg(value_name = "ID")]
    ids: Vec<Id>,
}

fn main() -> ExitCode {
    logging::start("deliver", Speaks::ToPeople);
    exit::status(run())
}

fn run() -> Result<Ended, Error> {
    let args: Args = cli::parse()?;
    if args.trace {
        logging::debug();
    }
    let config = Config::load(&args.common)?;
    let work = match (args.watch, args.ids) {
        (true, _) => Work::Watch,
        (false, ids) if ids.is_empty() => Work::Sweep,
        (false, ids) => Work::These(ids),
    };
    deliver::run(&args.common, config, &work)
}
