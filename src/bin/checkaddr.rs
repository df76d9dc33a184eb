//! checkaddr - what would become of mail for an address
//!
//! `checkaddr ADDRESS [--from HOST]` tells on standard output which channel the client would be on, by which channel mail
//! would leave, whether it may, and who has the address, by the same code and with the same rights as RCPT and VRFY; and
//! what becomes of each copy that an alias makes.
//!
//! EXIT STATUS  0 taken; 1 refused; 64 usage; 75 cannot tell; 78 configuration

use clap::{CommandFactory, Parser};
use doorpost::channel::Channels;
use doorpost::cli::{self, Common};
use doorpost::config::{Config, Origin};
use doorpost::exit::{self, Error};
use doorpost::local::checkaddr::{self, Answer, Question};
use doorpost::logging::{self, Speaks};
use doorpost::net::peer::Peer;
use doorpost::privilege::{self, Owner};
use std::io::Write;
use std::process::ExitCode;

#[derive(Debug, Default, Parser)]
#[command(name = "checkaddr", version, about = "What would become of mail for an address")]
struct Args {
    /// The recipient; without a domain at this host
    #[arg(required_unless_present = "show_config")]
    address: Option<String>,
    /// The client: an address or a name, which is believed; stdin or unknown
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    from: String,
    /// Channels to look the client up in, joined by commas, as smtpsrvr's operand
    #[arg(long, value_name = "LIST")]
    channels: Option<String>,
    /// Refuse a client that no channel lists, as rsmtpsrvr does
    #[arg(long)]
    finicky: bool,
    /// The client has logged in, and so is on the channel authenticated
    #[arg(long)]
    login: bool,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    logging::start("checkaddr", Speaks::ToPeople);
    match run() {
        Ok(status) => ExitCode::from(status),
        Err(error) => exit::status(Err(error)),
    }
}

fn run() -> Result<u8, Error> {
    let args: Args = cli::parse_as(Args::command())?;
    let config = Config::load(&args.common)?;
    let channels = Channels::load(&config)?;
    privilege::become_owner(&config, Owner::Mail)?;
    // Whoever reads no further does not change the answer.
    let mut out = std::io::stdout().lock();
    let mut tell = |text: std::fmt::Arguments<'_>| {
        let _ = writeln!(out, "{}", logging::clean(text.to_string().as_bytes(), 1000));
    };
    let address = args.address.as_deref().unwrap_or_default();
    let peer = Peer::of_word(&args.from);
    let peer = peer.ok_or_else(|| Error::Usage("--from: expected an address, a name, stdin or unknown".to_owned()))?;
    let peer = peer.asking(&config);
    let only: Vec<String> =
        args.channels.iter().flat_map(|list| list.split(',')).map(|n| n.trim().to_owned()).collect();
    let question = Question { address, peer, only: &only, finicky: args.finicky, login: args.login };
    // A server's operands belong to the configuration; who asks here has made a slip.
    let of_question = |error| match error {
        Error::Config(error) if error.origin == Origin::Arguments => Error::Usage(error.to_string()),
        error => error,
    };
    Ok(match checkaddr::ask(&config, &channels, &question, &mut tell).map_err(of_question)? {
        Answer::Taken => 0,
        Answer::Refused => 1,
        Answer::CannotTell => 75,
    })
}
