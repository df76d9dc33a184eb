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
use doorpost::cli::{self, Common};
use doorpost::config::Config;
use doorpost::exit::{self, Ended, Error};
use doorpost::logging::{self, Speaks};
use doorpost::lookup::Lookup;
use doorpost::net::accept;
use doorpost::net::connection::{Connection, LastWords};
use doorpost::net::peer::Peer;
use doorpost::net::tls::Offer;
use doorpost::privilege::{self, Owner};
use doorpost::record::{self, Recorder};
use doorpost::smtp::server::{self, Kind, Settings};
use doorpost::smtp::session::{Dialect, Login};
use doorpost::smtp::site::{Checker, Here};
use doorpost::smtpd::refusal;
use doorpost::submit::client::Submitter;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Serve one SMTP session on standard input and output
#[derive(Debug, Default, clap::Parser)]
#[command(name = "smtpsrvr", version)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Turn away clients that no channel lists, before the greeting (as under the name rsmtpsrvr)
    #[arg(long)]
    finicky: bool,
    /// Take mail from users who log in and from nobody else, and complete its header, as on port 587
    #[arg(long)]
    submission: bool,
    /// Begin with TLS, before the greeting, as on port 465
    #[arg(long)]
    tls: bool,
    /// Write the session to a new file, as a transcript that can be played again
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Name or address of the client, believed on a pipe or unix socket
    remotehost: Option<String>,
    /// Our own name in greeting and replies, instead of myhostname
    localhost: Option<String>,
    /// Channels to look the client up in, joined by commas; without them all
    channels: Option<String>,
}

fn main() -> ExitCode {
    logging::start("smtpsrvr", Speaks::ToClient);
    exit::status(run())
}

fn run() -> Result<Ended, Error> {
    let (args, config, channels, mut tls) = prepare().inspect_err(|_| refuse())?;
    let mut tls = || std::mem::take(&mut tls);
    accept::serve(&config, refusal::words("smtpsrvr".as_ref()), || {
        session(&args, &config, &channels, tls()).inspect_err(|_| refuse())
    })
}

/// Everything that does not depend on the connection.
fn prepare() -> Result<(Args, Config, Channels, Offer), Error> {
    let args: Args = cli::parse()?;
    let mut config = Config::load(&args.common)?;
    let channels = Channels::load(&config)?;
    // The key may be a file that only root can open.
    let tls = Offer::open(&config, args.tls)?;
    if !logins(&args, &config) {
        if config.net_owner.is_empty() {
            privilege::become_owner(&config, Owner::Mail)?;
        }
    } else if privilege::is_root() {
        // Each session needs root's rights at its start, for the process that checks passwords.
        config.max_use = 1;
    }
    Ok((args, config, channels, tls))
}

/// Whether clients can log in.
fn logins(args: &Args, config: &Config) -> bool {
    config.smtpd_sasl_auth_enable || args.submission
}

fn session(args: &Args, config: &Config, channels: &Channels, tls: Offer) -> Result<Ended, Error> {
    let peer = Peer::of_stdio(args.remotehost.as_deref(), args.localhost.as_deref());
    let checker = match logins(args, config) {
        false => Checker::None,
        // Whoever has no rights to keep need not start it before somebody asks.
        true if !privilege::is_root() => Checker::Later,
        true => Checker::Started(gate::start(config, &peer)?),
    };
    if config.net_owner.is_empty() {
        privilege::become_owner(config, Owner::Mail)?;
    }
    let submit = Submitter::start(config, &args.common);
    if !config.net_owner.is_empty() {
        // Only root can become net_owner, so submit was started as root and becomes mail_owner itself.
        privilege::become_owner(config, Owner::Net)?;
    }
    let mut submit = submit?;
    let only: Vec<String> =
        args.channels.iter().flat_map(|list| list.split(',')).map(|n| n.trim().to_owned()).collect();
    peer.debug_if_listed(config);
    let kind = kind(args, config, &peer);
    let site = Here::new(config, channels, &peer, &only, kind.finicky)?.with_checker(checker);
    let settings = Settings::new(config, &peer, args.localhost.as_deref(), kind);
    let mut stream = Recorder::new(connection(config.daemon_timeout.0)?, record_file(args), &recorded(args));
    let ended = server::serve(&mut stream, &mut submit, &site, &settings, tls);
    stream.end(exit::code(&ended));
    ended
}

fn kind(args: &Args, config: &Config, peer: &Peer) -> Kind {
    let dialect = match (cli::started_as("lmtpsrvr"), args.submission) {
        (true, _) => Dialect::Lmtp,
        (false, true) => Dialect::Submission,
        (false, false) => Dialect::Smtp,
    };
    let login = if logins(args, config) { Here::login_of(config, peer) } else { Login::Never };
    let xclient = matches!(config.smtpd_authorized_xclient_hosts.matches_peer(peer), Lookup::Yes(()));
    Kind { dialect, finicky: args.finicky || cli::started_as("rsmtpsrvr"), login, xclient }
}

fn connection(time: Duration) -> Result<Connection, Error> {
    Connection::from_stdio(time).map_err(|error| Error::Connection(format!("standard input and output: {error}")))
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

/// Under TLS there is no telling without the certificate.
fn refuse() {
    if std::env::args_os().any(|argument| argument == "--tls") {
        return;
    }
    accept::meet_client();
    match connection(Duration::from_secs(60)) {
        Ok(mut stream) => server::refuse(&mut stream),
        Err(_) => server::refuse(&mut LastWords),
    }
}
