//! smtpsrvr - serve one SMTP session on standard input and output
//!
//! `smtpsrvr [remotehost [localhost [channels]]]`, as a networking daemon starts it with the connection on descriptors 0
//! and 1; with a listening socket there it accepts connections by itself. Mail goes to submit. Under the name
//! `rsmtpsrvr` it is finicky: a client that no channel lists is turned away; under the name `lmtpsrvr` it speaks LMTP;
//! with `--submission` it takes mail from users who log in. Before a byte is read it has read its configuration, made
//! its way to submit, and is mail_owner (or net_owner); a process that checks passwords keeps the rights it had.
//!
//! EXIT STATUS  0 however the client left; 64 usage; 74 no usable connection; 75 temporary trouble; 78 configuration

use doorpost::auth::gate;
use doorpost::channel::Channels;
use doorpost::cli;
use doorpost::clock;
use doorpost::config::Config;
use doorpost::exit::{self, Ended, Error};
use doorpost::logging::{self, Speaks};
use doorpost::net::accept;
use doorpost::net::connection::{Connection, LastWords};
use doorpost::net::peer::Peer;
use doorpost::net::proxy;
use doorpost::net::tls::{Followed, Offer};
use doorpost::privilege;
use doorpost::record::{self, Recorder};
use doorpost::smtp::command_line::Args;
use doorpost::smtp::server::{self, Kind, Settings};
use doorpost::smtp::session::Dialect;
use doorpost::smtp::site::{Checker, Here, listed};
use doorpost::smtpd::refusal;
use doorpost::submit::client::{self, Submitter};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    logging::start("smtpsrvr", Speaks::ToClient);
    exit::status(run())
}

fn run() -> Result<Ended, Error> {
    let mut server = prepare().inspect_err(|_| refuse())?;
    accept::serve(&mut server, refusal::words("smtpsrvr".as_ref()))
}

/// Everything that does not depend on the connection.
struct Smtpsrvr {
    args: Args,
    config: Box<Config>,
    channels: Channels,
    tls: Followed,
    /// Started by the name of a program that is finicky, or speaks LMTP.
    as_finicky: bool,
    as_lmtp: bool,
}

// What it needs of the stack for a moment is not to lie under the session.
#[inline(never)]
fn prepare() -> Result<Smtpsrvr, Error> {
    let args: Args = cli::parse()?;
    clock::stand(args.fixed)?;
    let (as_finicky, as_lmtp) = (cli::started_as("rsmtpsrvr"), cli::started_as("lmtpsrvr"));
    if args.submission && as_lmtp {
        return Err(Error::Usage("--submission: LMTP is for programs, and has no submission".to_owned()));
    }
    let mut config = Config::load(&args.common)?;
    let channels = Channels::load(&config)?;
    // The key may be a file that only root can open.
    let tls = Followed::open(&config, args.tls)?;
    if logins(&args, &config) {
        keep_rights(&mut config);
    } else {
        privilege::begin(&config)?;
    }
    Ok(Smtpsrvr { args, config, channels, tls, as_finicky, as_lmtp })
}

/// Each session needs root's rights at its start, for the process that checks passwords.
fn keep_rights(config: &mut Config) {
    if privilege::is_root() {
        config.max_use = 1;
    }
}

impl accept::Server for Smtpsrvr {
    fn config(&self) -> &Config {
        &self.config
    }

    fn session(&mut self) -> Result<Ended, Error> {
        let tls = self.tls.offer(self.config.max_use == 1);
        session(self, tls).inspect_err(|_| refuse()).flatten()
    }

    fn rest(&mut self) {
        client::let_go();
    }

    fn follows(&self) -> bool {
        self.tls.is_any()
    }

    fn follow(&mut self) -> bool {
        self.tls.follow(&self.config, self.args.tls)
    }

    fn read_again(&mut self) -> Result<(), Error> {
        let mut config = Config::load(&self.args.common)?;
        let channels = Channels::load(&config)?;
        self.tls.open_again(&config, self.args.tls)?;
        if logins(&self.args, &config) {
            keep_rights(&mut config);
        }
        (self.config, self.channels) = (config, channels);
        Ok(())
    }
}

/// Whether clients can log in.
fn logins(args: &Args, config: &Config) -> bool {
    config.smtpd_sasl_auth_enable || args.submission
}

/// How it ended; an error outside of that is one of which the client has not heard.
fn session(server: &Smtpsrvr, tls: Offer) -> Result<Result<Ended, Error>, Error> {
    let Smtpsrvr { args, config, channels, .. } = server;
    let peer = Peer::of_stdio(args.remotehost.as_deref(), args.localhost());
    let Some(peer) = peer.map(|peer| peer.asking(config)) else { return Ok(Ok(Ended::HungUp)) };
    let checker = match logins(args, config) {
        false => Checker::None,
        // Whoever has no rights to keep need not start it before somebody asks.
        true if !privilege::is_root() => Checker::Later,
        true => Checker::Started(gate::start(config, &peer)?),
    };
    privilege::begin(config)?;
    let submit = Submitter::start(config, &args.common);
    privilege::begin_to_parse(config)?;
    let mut submit = submit?;
    let mut connection = connection(config.daemon_timeout.0)?;
    let Some(peer) = proxy::meet(config, peer, &mut connection)? else {
        if !args.tls {
            server::refuse(&mut connection);
        }
        return Ok(Ok(Ended::Refused));
    };
    let only = args.only();
    let kind = kind(server, &peer);
    let site = Here::new(config, channels, &peer, &only, kind.finicky)?.with_checker(checker);
    // The site knows what is logged of others.
    peer.debug_if_listed(config);
    let settings = Settings::new(config, &peer, args.localhost(), kind);
    let mut stream = Recorder::new(connection, record_file(args), &recorded(args));
    let ended = server::serve(&mut stream, &mut submit, &site, &settings, tls);
    if ended.is_err() && !args.tls && stream.stream().is_clear() {
        server::refuse(&mut stream);
    }
    stream.end(exit::code(&ended));
    Ok(ended)
}

fn kind(server: &Smtpsrvr, peer: &Peer) -> Kind {
    let Smtpsrvr { args, config, .. } = server;
    let dialect = match (server.as_lmtp, args.submission) {
        (true, _) => Dialect::Lmtp,
        (false, true) => Dialect::Submission,
        (false, false) => Dialect::Smtp,
    };
    let xclient = listed("smtpd_authorized_xclient_hosts", &config.smtpd_authorized_xclient_hosts, peer);
    let finicky = args.finicky || server.as_finicky;
    Kind { dialect, finicky, xclient, terms: Here::terms_of(config, peer, logins(args, config)) }
}

fn connection(time: Duration) -> Result<Connection, Error> {
    let stdio = Connection::from_stdio(time).map(Connection::with_typed_lines);
    stdio.map_err(|error| Error::Connection(format!("standard input and output: {error}")))
}

fn record_file(args: &Args) -> Option<std::fs::File> {
    let path = args.record.as_ref()?;
    let complain = |error: &std::io::Error| log::warn!("nothing is recorded, {}: {error}", path.display());
    record::create(path).inspect_err(complain).ok()
}

fn recorded(args: &Args) -> record::Head {
    let operands = [&args.remotehost, &args.localhost, &args.channels];
    let arguments = operands.into_iter().flatten().cloned().collect();
    record::Head { program: "smtpsrvr", arguments, varying: &["250 2.0.0 Ok: queued as "] }
}

/// Under TLS there is no telling without the certificate. Whoever waits has to see an end all the same: else whoever holds
/// the socket would start us again for the same client, at once and for ever.
fn refuse() {
    accept::meet_client();
    if std::env::args_os().any(|argument| argument == "--tls") {
        return;
    }
    match connection(Duration::from_secs(60)) {
        Ok(mut stream) => server::refuse(&mut stream),
        Err(_) => server::refuse(&mut LastWords),
    }
}
