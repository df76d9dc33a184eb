//! qmqpd - take one message by QMQP on standard input, answer on standard output
//!
//! Started for each connection by an inetd, a service manager or smtpd; or, with a listening socket on descriptor 0,
//! serving each connection in a child. Only clients in qmqpd_authorized_clients are served.
//!
//! EXIT STATUS  0 answered, or the client went away; 64 usage; 74 no usable connection; 75 queue trouble;
//! 78 configuration

use doorpost::channel::Channels;
use doorpost::cli;
use doorpost::clock;
use doorpost::config::Config;
use doorpost::exit::{self, Ended, Error};
use doorpost::logging::{self, Speaks};
use doorpost::net::accept;
use doorpost::net::connection::{Connection, LastWords};
use doorpost::net::peer::Peer;
use doorpost::privilege;
use doorpost::qmqp::command_line::Args;
use doorpost::qmqp::qmtp;
use doorpost::qmqp::server;
use doorpost::record::{self, Recorder};
use doorpost::smtpd::refusal;
use doorpost::submit::client::{self, Submitter};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    logging::start(name(), Speaks::ToClient);
    exit::status(run())
}

fn name() -> &'static str {
    if cli::started_as("qmtpd") { "qmtpd" } else { "qmqpd" }
}

fn run() -> Result<Ended, Error> {
    let mut server = prepare().inspect_err(refuse)?;
    accept::serve(&mut server, refusal::words(name().as_ref()))
}

/// Everything that does not depend on the connection.
struct Qmqpd {
    args: Args,
    config: Box<Config>,
    channels: Channels,
}

fn prepare() -> Result<Qmqpd, Error> {
    let mut args: Args = cli::parse()?;
    clock::stand(args.fixed)?;
    args.daemon.apply(&mut args.common)?;
    let config = Config::load(&args.common)?;
    let channels = Channels::load(&config)?;
    privilege::begin(&config)?;
    Ok(Qmqpd { args, config, channels })
}

impl accept::Server for Qmqpd {
    fn config(&self) -> &Config {
        &self.config
    }

    fn session(&mut self) -> Result<Ended, Error> {
        session(&self.args, &self.config, &self.channels)
    }

    fn rest(&mut self) {
        client::let_go();
    }

    fn read_again(&mut self) -> Result<(), Error> {
        let config = Config::load(&self.args.common)?;
        self.channels = Channels::load(&config)?;
        self.config = config;
        Ok(())
    }
}

fn session(args: &Args, config: &Config, channels: &Channels) -> Result<Ended, Error> {
    let Some(peer) = Peer::of_stdio(None, None) else { return Ok(Ended::HungUp) };
    let peer = peer.asking(config);
    let complain = |error: std::io::Error| log::warn!("event=nothing-recorded reason={:?}", error.to_string());
    let record = args.record.as_ref().and_then(|path| record::create(path).map_err(complain).ok());
    let submit = Submitter::start(config, &args.common);
    let submit = submit.and_then(|submit| privilege::begin_to_parse(config).map(|()| submit));
    let connection = connection(server::longest(config)).inspect_err(refuse)?;
    let head = record::Head { program: name(), arguments: Vec::new(), varying: &["30:KOk: queued as "] };
    let mut stream = Recorder::new(connection, record, &head);
    let peer = if args.daemon.alone { peer.or_localhost() } else { peer };
    peer.debug_if_listed(config);
    let ended = if name() == "qmtpd" {
        qmtp::serve(&mut stream, config, &peer, channels, submit)
    } else {
        server::serve(&mut stream, config, &peer, channels, submit)
    };
    stream.end(exit::code(&ended));
    ended
}

fn connection(time: Duration) -> Result<Connection, Error> {
    Connection::from_stdio(time).map_err(|error| Error::Connection(format!("standard input and output: {error}")))
}

/// The client hears that it is not its fault.
fn refuse(error: &Error) {
    accept::meet_client();
    // There may be no configuration that says how long.
    match connection(Duration::from_secs(60)) {
        Ok(mut connection) => server::refuse(&mut connection, error),
        Err(_) => server::refuse(&mut LastWords, error),
    }
}
