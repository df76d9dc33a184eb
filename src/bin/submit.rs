//! submit - put a message into the queue
//!
//! With operands, for people: `submit [-f FROM] RECIPIENT ... < message` prints the queue id once the message is on disk.
//! Without, for the servers: requests on the unix socket that is standard input (doorpost::submit::frames).
//!
//! EXIT STATUS  0 done; 64 usage; 74 no usable connection; 75 queue trouble; 77 not allowed; 78 configuration

use clap::Parser;
use doorpost::cli::{self, Common};
use doorpost::config::Config;
use doorpost::exit::{self, Ended, Error};
use doorpost::logging::{self, Speaks};
use doorpost::net::accept;
use doorpost::privilege::{self, Owner};
use doorpost::submit::local;
use doorpost::submit::server::{self, Receiver};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use nix::unistd::{User, getuid};
use std::io::{self, Write};
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
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    let speaks = if stdin_family().is_some() { Speaks::ToClient } else { Speaks::ToPeople };
    logging::start("submit", speaks);
    exit::status(run())
}

fn run() -> Result<Ended, Error> {
    let args: Args = cli::parse()?;
    let config = Config::load(&args.common)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let caller = getuid();
    privilege::become_owner(&config, Owner::Mail)?;
    if !args.recipients.is_empty() {
        let from = args.from.unwrap_or_else(|| match User::from_uid(caller) {
            Ok(Some(user)) => user.name,
            _ => caller.to_string(),
        });
        return queue(&config, &args.common, &from, &args.recipients);
    }
    if args.from.is_some() {
        return Err(Error::Usage("expected recipients behind -f FROM".to_owned()));
    }
    accept::serve(&config, None, || serve(&config, &args.common))
}

fn queue(config: &Config, common: &Common, from: &str, recipients: &[String]) -> Result<Ended, Error> {
    let mut receiver = Receiver::new(config, common)?;
    let id = local::submit(config, &mut receiver, from, recipients, &mut io::stdin().lock())?;
    // The message is taken whether or not somebody reads this.
    let _ = writeln!(io::stdout(), "queued as {id}");
    receiver.wake();
    Ok(Ended::Done)
}

fn serve(config: &Config, common: &Common) -> Result<Ended, Error> {
    match stdin_family() {
        Some(AddressFamily::Unix) => {}
        Some(_) => return Err(Error::Permission("requests come on unix sockets only: they tell who sends".to_owned())),
        None => return Err(Error::Usage("expected recipients: submit [-f FROM] RECIPIENT ... < message".to_owned())),
    }
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let stdin = stdin.map_err(|error| Error::Connection(format!("standard input: {error}")))?;
    server::serve(config, common, UnixStream::from(stdin))
}

fn stdin_family() -> Option<AddressFamily> {
    getsockname::<SockaddrStorage>(io::stdin().as_raw_fd()).ok().and_then(|name| name.family())
}
