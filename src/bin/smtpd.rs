//! smtpd - listen for connections and start a program for each, with the connection on standard input and output
//!
//! `smtpd smtpsrvr` serves SMTP on port 25, four connections at once; `smtpd --services FILE` serves everything that a
//! file in inetd.conf's format names. TERM and INT stop accepting and let the children finish; a second one ends at once.
//!
//! EXIT STATUS  0 stopped; 64 usage; 75 an address is taken, or the system is out of something; 77 not allowed to
//! listen there; 78 configuration

use doorpost::config::Config;
use doorpost::exit::{self, Ended, Error};
use doorpost::logging::{self, Speaks};
use doorpost::smtpd::command_line::Args;
use doorpost::{cli, smtpd, sys};
use std::process::ExitCode;

fn main() -> ExitCode {
    // What whoever started us left open would be kept open for as long as we live. Before logging opens its own.
    sys::close_from(3);
    logging::start("smtpd", Speaks::ToPeople);
    exit::status(run())
}

fn run() -> Result<Ended, Error> {
    let args: Args = cli::parse()?;
    let config = Config::load(&args.common)?;
    smtpd::serve(args.services(&config)?)
}
