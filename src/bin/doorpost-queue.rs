//! doorpost-queue - look at the queue, and hold, release, delete, requeue or flush messages
//!
//! `doorpost-queue [list|hold|release|delete|requeue|flush] [PATTERN ...]`; a pattern is a queue id, an address of sender or
//! recipient with `*` for any part, or ALL. Under the name `mailq` it lists.
//!
//! EXIT STATUS  0 done; 64 usage; 65 no message matches; 75 some are being delivered, or queue trouble; 77 not allowed;
//! 78 configuration

use clap::Parser;
use doorpost::cli::{self, Common};
use doorpost::exit::{self, Ended, Error};
use doorpost::logging::{self, Speaks};
use doorpost::mailq::Format;
use doorpost::mailq::tool::{self, Action, First};
use std::process::ExitCode;

/// Look at the queue, and hold, release, delete, requeue or flush messages.
#[derive(Debug, Default, Parser)]
#[command(name = "doorpost-queue", version)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Write an object of JSON a line
    #[arg(long)]
    json: bool,
    /// What to do; without it the queue is listed
    #[arg(value_name = "ACTION", value_parser = tool::FirstWord)]
    first: Option<tool::First>,
    /// A queue id, an address with * for any part, or ALL
    #[arg(value_name = "PATTERN")]
    patterns: Vec<String>,
}

fn main() -> ExitCode {
    logging::start("doorpost-queue", Speaks::ToCaller);
    exit::status(run())
}

fn run() -> Result<Ended, Error> {
    if cli::started_as("mailq") {
        return doorpost::local::command_line::mailq();
    }
    let mut args: Args = cli::parse()?;
    let format = if args.json { Format::Json } else { Format::Text };
    let action = match args.first {
        Some(First::Action(action)) => action,
        Some(First::Pattern(pattern)) => {
            args.patterns.insert(0, pattern);
            Action::List
        }
        None => Action::List,
    };
    tool::run(&args.common, action, &args.patterns, format)
}
