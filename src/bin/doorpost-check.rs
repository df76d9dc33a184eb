//! doorpost-check - look for mistakes in the configuration
//!
//! Prints each with file and line and how to mend it: wrong values, unknown names, an open relay, missing users, programs,
//! certificates and folders, aliases that lead nowhere. Changes nothing.
//!
//! EXIT STATUS  0 nothing wrong, but perhaps warnings; 64 usage; 78 something is wrong

use clap::Parser;
use doorpost::check::{self, Level};
use doorpost::cli::{self, Common};
use doorpost::config::Config;
use doorpost::exit::{self, Ended, Error};
use doorpost::logging::{self, Speaks};
use std::io::{self, Write};
use std::process::ExitCode;

/// Look for mistakes in the configuration.
#[derive(Debug, Default, Parser)]
#[command(name = "doorpost-check", version)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Say nothing, and tell by the exit status
    #[arg(short, long)]
    quiet: bool,
}

fn main() -> ExitCode {
    logging::start("doorpost-check", Speaks::ToPeople);
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(78),
        Err(error) => exit::status(Err::<Ended, Error>(error)),
    }
}

/// Gives how many errors there are.
fn run() -> Result<usize, Error> {
    let args: Args = cli::parse()?;
    if args.common.show_config.is_some() {
        Config::load(&args.common)?;
    }
    logging::quiet();
    let findings = check::check(&args.common)?;
    let errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
    if !args.quiet {
        let mut out = io::stdout().lock();
        for finding in &findings {
            let _ = writeln!(out, "{finding}");
        }
        let _ = writeln!(out, "{errors} errors, {} warnings", findings.len() - errors);
    }
    Ok(errors)
}
