//! What a program of ours would tell each client to come later for, and only its record would say why: that ends smtpd at the
//! start. Of somebody else's programs nothing is known, and nothing asked, whatever they are called.

use super::Service;
use super::program::{self, Program};
use crate::channel::Channels;
use crate::cli::{self, Common};
use crate::config::{self, Config, Origin, shown};
use crate::exit::Error;
use crate::net::peer::{self, Peer};
use crate::net::tls::Offer;
use crate::pop3::command_line as pop3d;
use crate::privilege::{self, Owner};
use crate::qmqp::command_line as qmqpd;
use crate::smtp::command_line as smtpsrvr;
use clap::CommandFactory;
use nix::unistd::{Uid, User};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;

/// Programs of ours that are servers, with all their names.
const SERVERS: [(Server, &[&str]); 3] = [
    (Server::Smtpsrvr, &["smtpsrvr", "rsmtpsrvr", "lmtpsrvr"]),
    (Server::Pop3d, &["pop3d"]),
    (Server::Qmqpd, &["qmqpd", "qmtpd"]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Smtpsrvr,
    Pop3d,
    Qmqpd,
}

/// What one is told by its arguments.
struct Told {
    server: Server,
    common: Common,
    tls: bool,
    /// In which channels clients are looked for; none: all.
    channels: Vec<String>,
}

/// The words that a program is started with, where it is one of ours.
pub fn words(program: &Program, config: &Config) -> Result<(), Error> {
    told(program, config).map(drop)
}

/// The words, and all that the program reads before it serves anybody. Gives the configuration that it sees, where it is one
/// of ours.
pub fn service(service: &Service, uid: Uid, config: &Config, common: &Common) -> Result<Option<Box<Config>>, Error> {
    let program = &service.program;
    let told = told(program, config).and_then(|told| told.map(|told| look(&told, uid, common)).transpose());
    let origin = || service.origin.clone();
    told.map_err(|error| match error {
        Error::Config(config::Error { origin: Origin::Arguments | Origin::Option, problem }) => {
            Error::Config(config::Error { origin: origin(), problem })
        }
        Error::Usage(problem) if matches!(service.origin, Origin::File(..)) => {
            Error::Config(config::Error { origin: origin(), problem })
        }
        error => error,
    })
}

/// Whoever is not root must have the queue, or each client would be greeted and each message put off. `named`: where the user
/// stands, if not in our own --user.
pub fn queue(uid: Uid, named: Option<&Origin>, seen: &Config) -> Result<(), Error> {
    let queue = &seen.queue_directory;
    match std::fs::metadata(queue) {
        Ok(folder) if !uid.is_root() && folder.uid() != uid.as_raw() => {
            let name = |uid: Uid| User::from_uid(uid).ok().flatten().map_or(uid.to_string(), |user| user.name);
            let (user, owner) = (name(uid), name(Uid::from_raw(folder.uid())));
            let (at, instead) = match named {
                None => (String::new(), format!("--user {owner}, no --user")),
                Some(origin) => (format!("{origin}: "), format!("{owner} or root")),
            };
            Err(Error::Permission(format!(
                "{at}user {user} may not use queue_directory {}, which belongs to {owner}: expected {instead}, or \
                 mail_owner = {user} and a queue of that user",
                queue.display()
            )))
        }
        _ => Ok(()),
    }
}

fn told(program: &Program, config: &Config) -> Result<Option<Told>, Error> {
    let is_it = |(_, names): &&(Server, &[&str])| {
        names.first().is_some_and(|name| program::is_ours(&program.path, name, config))
    };
    let Some((server, names)) = SERVERS.iter().find(is_it) else { return Ok(None) };
    let told = read(program, *server, names);
    told.map(Some).map_err(|error| match error {
        Error::Usage(problem) => Error::Usage(format!("{}: {problem}", program.name.display())),
        error => error,
    })
}

fn read(program: &Program, server: Server, names: &[&str]) -> Result<Told, Error> {
    // The classic mistake in an inetd.conf: its first argument is then taken for this one, and a list of channels is none.
    let name = program::last_component(&program.name);
    if name != program::last_component(program.path.as_os_str()) && !names.iter().any(|known| name == *known) {
        let problem = format!("expected argument 0, which is {}, in front of the others", names.join(" or "));
        return Err(Error::Usage(problem));
    }
    let before = program.localhost.iter().flat_map(|name| ["-".into(), name.into()]);
    let words: Vec<OsString> =
        std::iter::once(program.name.clone()).chain(before).chain(program.arguments.iter().cloned()).collect();
    match server {
        Server::Smtpsrvr => {
            let args: smtpsrvr::Args = cli::of_another(smtpsrvr::Args::command(), words)?;
            if let (Some(word), None) =
                (args.remotehost.as_ref().filter(|word| !matches!(&***word, "" | "-")), &args.channels)
            {
                // Who the client is we say, so that a list of channels was meant: without one all would be open.
                let problem = "expected channels alone, or -, localhost and channels behind options, instead of";
                return Err(Error::Usage(format!("{problem} {}", shown(word))));
            }
            let channels = args.only();
            Ok(Told { server, common: args.common, tls: args.tls, channels })
        }
        Server::Pop3d => {
            let args = pop3d::Args::of_another(&words)?;
            if args.children().is_some() {
                return Err(Error::Usage("expected a server for the client it is given, without -d and -p".to_owned()));
            }
            Ok(Told { server, common: args.common, tls: args.tls, channels: Vec::new() })
        }
        Server::Qmqpd => {
            let mut args: qmqpd::Args = cli::of_another(qmqpd::Args::command(), words)?;
            args.daemon.set(&mut args.common);
            Ok(Told { server, common: args.common, tls: false, channels: Vec::new() })
        }
    }
}

/// Reads what the server will read. Not with what we were given by -o, but with what it is given.
fn look(told: &Told, uid: Uid, common: &Common) -> Result<Box<Config>, Error> {
    let folder = told.common.config.clone().or(common.config.clone());
    let (seen, _) = Config::read(&Common { config: folder, ..told.common.clone() })?;
    Offer::check(&seen, told.tls)?;
    if told.server != Server::Pop3d {
        // Of a client without an address nothing is asked: the names alone are looked at. It is the server that warns of open
        // relays.
        Channels::read(&seen)?.incoming(&Peer::new(peer::Origin::Stdin), &told.channels, true)?;
    }
    if uid.is_root() {
        let has_net_owner = !seen.net_owner.is_empty();
        if has_net_owner {
            privilege::owner_of(&seen, Owner::Net)?;
        }
        if !has_net_owner || told.server != Server::Pop3d {
            privilege::owner_of(&seen, Owner::Mail)?;
        }
    }
    Ok(seen)
}
