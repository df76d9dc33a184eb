//! submit - put a message into the queue
//!
//! With operands, for people: `submit [-f FROM] RECIPIENT ... < message` prints the queue id once the message is on disk.
//! Without, for the servers: requests on the unix socket that is standard input (doorpost::submit::frames). By the name it
//! is started as it is also `sendmail`, `mailq`, `newaliases` and `qmail-queue`. Who may not write the queue leaves the
//! message in the drop folder.
//!
//! EXIT STATUS  0 done; 64 usage; 65 no address or no message; 69 never taken; 74 no usable connection; 75 queue trouble;
//! 77 not allowed; 78 configuration; as qmail-queue those of qmail

use clap::Parser;
use doorpost::cli::{self, Common};
use doorpost::clock;
use doorpost::config::Config;
use doorpost::exit::{self, Ended, Error};
use doorpost::local::command_line;
use doorpost::logging::{self, Speaks};
use doorpost::net::accept;
use doorpost::privilege::{self, Owner};
use doorpost::submit::server::{self, Premises};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

#[derive(Debug, Default, Parser)]
#[command(name = "submit", version, about = "Put a message into the queue")]
struct Args {
    /// Where failures go; <> for nowhere (default: the user who calls)
    #[arg(short = 'f', value_name = "FROM")]
    from: Option<String>,
    /// Who gets the message that is read from standard input
    #[arg(value_name = "RECIPIENT")]
    recipients: Vec<String>,
    /// Serve a server that was started with this
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["from", "recipients"], value_parser = cli::number)]
    fixed: Option<u32>,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    let is_other = ["sendmail", "mailq", "newaliases", "qmail-queue"].into_iter().any(cli::started_as);
    let speaks = match stdin_family() {
        _ if is_other => Speaks::ToCaller,
        Some(_) => Speaks::ToClient,
        None => Speaks::ToPeople,
    };
    logging::start("submit", speaks);
    if cli::started_as("qmail-queue") {
        return ExitCode::from(command_line::qmail_queue());
    }
    exit::status(run())
}

fn run() -> Result<Ended, Error> {
    if cli::started_as("sendmail") {
        return command_line::sendmail();
    }
    if cli::started_as("mailq") {
        return command_line::mailq();
    }
    if cli::started_as("newaliases") {
        return command_line::newaliases();
    }
    let args: Args = cli::parse()?;
    clock::stand_for_server(args.fixed)?;
    let config = Config::load(&args.common)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    if !args.recipients.is_empty() {
        return command_line::submit(&config, &args.common, args.from, &args.recipients);
    }
    if args.from.is_some() {
        return Err(Error::Usage("expected recipients behind -f FROM".to_owned()));
    }
    privilege::become_owner(&config, Owner::Mail)?;
    let mut submit = Submit { config, common: args.common, premises: Premises::default() };
    submit.premises.prepare(&submit.config);
    accept::serve(&mut submit, None)
}

/// For the servers.
struct Submit {
    config: Box<Config>,
    common: Common,
    premises: Premises,
}

impl accept::Server for Submit {
    fn config(&self) -> &Config {
        &self.config
    }

    fn session(&mut self) -> Result<Ended, Error> {
        serve(&self.config, &self.common, &mut self.premises)
    }

    fn rest(&mut self) {
        self.premises.rest();
    }

    fn stay(&mut self, accept: &mut dyn FnMut(&mut Submit) -> u8) -> u8 {
        self.premises.keep();
        let status = accept(self);
        // Files that were prepared go; nothing is dropped behind this.
        self.premises = Premises::default();
        status
    }

    fn read_again(&mut self) -> Result<(), Error> {
        self.config = Config::load(&self.common)?;
        self.premises = Premises::default();
        Ok(())
    }
}

fn serve(config: &Config, common: &Common, premises: &mut Premises) -> Result<Ended, Error> {
    match stdin_family() {
        Some(AddressFamily::Unix) => {}
        Some(_) => return Err(Error::Permission("requests come on unix sockets only: they tell who sends".to_owned())),
        None => return Err(Error::Usage("expected recipients: submit [-f FROM] RECIPIENT ... < message".to_owned())),
    }
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let stdin = stdin.map_err(|error| Error::Connection(format!("standard input: {error}")))?;
    server::serve(config, common, premises, UnixStream::from(stdin))
}

fn stdin_family() -> Option<AddressFamily> {
    getsockname::<SockaddrStorage>(io::stdin().as_raw_fd()).ok().and_then(|name| name.family())
}
