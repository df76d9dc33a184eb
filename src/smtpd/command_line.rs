//! The command line of smtpd: one program behind one or more ports, `--services FILE`, MMDF's forms, qpsmtpd's names.
//!
//! What is listened on and what is started comes out of here; which letters there are says `personality.rs`.

use super::address::{self, Address};
use super::life::Life;
use super::one_client::{self, Client};
use super::personality::Personality;
use super::pool::{self, Mode};
use super::program::{self, Program};
use super::warm::Warm;
use super::{Plan, Service, check, services};
use crate::cli::{self, Common};
use crate::config::value::{List, Value};
use crate::config::{Config, Origin, shown};
use crate::exit::Error;
use crate::logging;
use crate::net::acceptor::Kind;
use crate::net::limits::Limits;
use crate::privilege::{self, Owner};
use clap::{CommandFactory, Parser};
use ipnet::IpNet;
use nix::unistd::{Uid, User};
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// Listen for connections and start a program for each, with the connection on its standard input and output
#[derive(Debug, Default, Parser)]
#[command(name = "smtpd", version, after_help = FORMS)]
pub struct Args {
    /// What all programs have.
    #[command(flatten)]
    pub common: Common,
    /// Debugging records as well
    #[arg(long, alias = "verbose")]
    pub debug: bool,
    /// Start smtpsrvr as rsmtpsrvr, which refuses clients that no channel lists
    #[arg(long)]
    pub finicky: bool,
    /// Most connections at once (default: 4)
    #[arg(long, value_name = "NUMBER", conflicts_with = "limit_connections",
          value_parser = cli::positive, allow_negative_numbers = true)]
    pub maxconnects: Option<NonZeroU32>,
    /// The same, also for all services together; 0: no limit (default: 15 as qpsmtpd-forkserver, else none)
    #[arg(long, value_name = "NUMBER", value_parser = cli::number, allow_negative_numbers = true)]
    pub limit_connections: Option<u32>,
    /// Most connections at once from one address: smtpd_client_connection_count_limit
    #[arg(long, value_name = "NUMBER", value_parser = cli::number, allow_negative_numbers = true)]
    pub max_from_ip: Option<u32>,
    /// Most connections a minute from one address: smtpd_client_connection_rate_limit
    #[arg(long, value_name = "NUMBER", value_parser = cli::number, allow_negative_numbers = true)]
    pub max_per_minute: Option<u32>,
    /// Addresses and nets without these two limits: smtpd_client_event_limit_exceptions; may be repeated
    #[arg(long, value_name = "NETS", value_parser = nets)]
    pub exempt: Vec<String>,
    /// What becomes of clients while all is full, defer or refuse: when_full
    #[arg(long, value_name = "KIND", value_parser = ["defer", "refuse"])]
    pub when_full: Option<String>,
    /// How a program runs: exec, started for each connection; pool, a server of ours that accepts by itself
    #[arg(long, value_name = "MODE", value_parser = ["exec", "pool"])]
    pub mode: Option<String>,
    /// Most processes for connections (default: as many as connections; qpsmtpd-prefork: 15)
    #[arg(long, value_name = "NUMBER", value_parser = cli::positive, allow_negative_numbers = true)]
    pub children: Option<NonZeroU32>,
    /// Processes of a pool that wait for a connection; 0: none (default: idle_children; qpsmtpd-prefork: 5)
    #[arg(long, value_name = "NUMBER", value_parser = cli::number, allow_negative_numbers = true)]
    pub idle_children: Option<u32>,
    /// Be nicer to other processes by so much, or less nice (default: 0; qpsmtpd-prefork: 5)
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, value_parser = niceness)]
    pub renice_parent: Option<i32>,
    /// Processes of a pool have the address of their client as name: pretty_child
    #[arg(long)]
    pub pretty_child: bool,
    /// Port or service to listen on; 0: any that is free; may be repeated (default: smtp, under qpsmtpd's names 2525)
    #[arg(long)]
    pub port: Vec<String>,
    /// Address to listen on, perhaps with a port of its own; may be repeated (default: all)
    #[arg(long, value_name = "ADDRESS", alias = "interface")]
    pub listen_address: Vec<String>,
    /// Become this user when everything is bound; only root can
    #[arg(long)]
    pub user: Option<String>,
    /// Go into the background when everything is bound
    #[arg(long)]
    pub detach: bool,
    /// Write the process id to this file, and keep it locked
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Write the state to this file, at the start, at SIGUSR1 and when stopping
    #[arg(long, value_name = "FILE")]
    pub status_file: Option<PathBuf>,
    /// Write a line to this descriptor when everything is bound, and close it
    #[arg(long, value_name = "NUMBER", value_parser = descriptor, allow_negative_numbers = true)]
    pub notification_fd: Option<i32>,
    /// Nothing: names are only looked up where a channel asks for them
    #[arg(long)]
    pub no_rdns: bool,
    /// Only warnings and errors are recorded
    #[arg(long, conflicts_with = "debug")]
    pub quiet: bool,
    /// Serve what this file in inetd.conf's format names
    #[arg(long, value_name = "FILE",
          conflicts_with_all = ["finicky", "maxconnects", "port", "listen_address", "program"])]
    pub services: Option<PathBuf>,
    /// The program to start, and its arguments
    #[arg(trailing_var_arg = true)]
    pub program: Vec<OsString>,
    /// The name we were started by.
    #[arg(skip = Personality::of_this_process())]
    pub personality: Personality,
}

const FORMS: &str = "\
Forms:
  smtpd --port 25 --listen-address 192.0.2.1 -n 20 smtpsrvr                every day
  smtpd -f -n 20 smtpsrvr local,campus                                     for clients of these channels alone
  smtpd --services /etc/doorpost/services                                  everything in one
  smtpd --mode pool --idle-children 5 -n 100 -o max_use=100 smtpsrvr       a server that keeps processes
  smtpd -f -n 20 /usr/mmdf/chans/smtpsrvr local,smtp                       MMDF on 4.2BSD
  smtpd /usr/mmdf/chans/smtpsrvr local,smtp 25 20 mx.example               MMDF on 4.1BSD
  smtpd -f /usr/mmdf/chans/smtpsrvr local,smtp     with a connection on 0: MMDF on 4.3BSD, from inetd
  smtpd a000001.1025                               with a connection on 0: MMDF on SunOS, from inetd
  smtpd - /usr/mmdf/chans/smtpsrvr local,smtp      the same with server and channels
  qpsmtpd-forkserver -p 25 -l 192.0.2.1 -c 40 -m 5
  qpsmtpd-prefork --port 25 --interface 192.0.2.1";

/// An option with which we listen, whatever descriptor 0 is and the operands are: for one client it would mean nothing.
pub(super) struct Listening {
    /// Its field of [`Args`], which is also what clap calls it.
    pub(super) field: &'static str,
    is_given: fn(&Args) -> bool,
    /// It also says where, so that a socket that is handed over must be the one that is meant.
    says_where: bool,
}

/// All of them. MMDF's five operands do the same.
pub(super) const LISTENING: [Listening; 18] = [
    listening("services", |args| args.services.is_some(), true),
    listening("port", |args| !args.port.is_empty(), true),
    listening("listen_address", |args| !args.listen_address.is_empty(), true),
    listening("maxconnects", |args| args.maxconnects.is_some(), false),
    listening("limit_connections", |args| args.limit_connections.is_some(), false),
    listening("max_from_ip", |args| args.max_from_ip.is_some(), false),
    listening("max_per_minute", |args| args.max_per_minute.is_some(), false),
    listening("exempt", |args| !args.exempt.is_empty(), false),
    listening("when_full", |args| args.when_full.is_some(), false),
    listening("mode", |args| args.mode.is_some(), false),
    listening("children", |args| args.children.is_some(), false),
    listening("idle_children", |args| args.idle_children.is_some(), false),
    listening("renice_parent", |args| args.renice_parent.is_some(), false),
    listening("pretty_child", |args| args.pretty_child, false),
    listening("detach", |args| args.detach, false),
    listening("pid_file", |args| args.pid_file.is_some(), false),
    listening("status_file", |args| args.status_file.is_some(), false),
    listening("notification_fd", |args| args.notification_fd.is_some(), false),
];

const fn listening(field: &'static str, is_given: fn(&Args) -> bool, says_where: bool) -> Listening {
    Listening { field, is_given, says_where }
}

/// What a command line comes to.
#[derive(Debug)]
pub enum Task {
    /// Listen and serve.
    Listen(Plan),
    /// Become the program for the one client that is there already.
    Become(Program, Client),
}

impl Args {
    /// Reads the command line by the letters of the name we were started by.
    pub fn parse() -> Result<Args, Error> {
        let personality = Personality::of_this_process();
        let command = personality.dress(Args::command());
        let words = personality.words(&command, std::env::args_os());
        let mut args: Args = cli::parse_words(command, words)?;
        let parameters = args.parameters();
        args.common.overrides.extend(parameters);
        Ok(args)
    }

    /// The options that are parameters by another name.
    fn parameters(&self) -> Vec<String> {
        let at_once = self.max_from_ip.map(|number| format!("smtpd_client_connection_count_limit={number}"));
        let per_minute = self.max_per_minute.map(|number| format!("smtpd_client_connection_rate_limit={number}"));
        let exempt = format!("smtpd_client_event_limit_exceptions={}", self.exempt.join(","));
        let exempt = Some(exempt).filter(|_| !self.exempt.is_empty());
        let when_full = self.when_full.as_ref().map(|kind| format!("when_full={kind}"));
        [at_once, per_minute, exempt, when_full].into_iter().flatten().collect()
    }

    /// What is to be done.
    pub fn task(&self, config: &Config) -> Result<Task, Error> {
        if self.debug {
            logging::debug();
        }
        if self.quiet {
            logging::quiet();
        }
        if let Some((program, client)) = self.one_client(config)? {
            check::words(&program, config)?;
            if self.user.is_some() && pool::submits(&program.path) {
                check::queue(self.uid()?, None, &*self.seen_by_programs()?)?;
            }
            return Ok(Task::Become(self.configured(program, config)?, client));
        }
        let mut services = match &self.services {
            Some(file) => services::read(file, config)?,
            None => vec![self.service(config)?],
        };
        if let Some(user) = self.user.as_deref().map(user).transpose()? {
            let is_another =
                |service: &Service| service.program.identity.is_some_and(|who| who != (user.uid, user.gid));
            if services.iter().any(is_another) {
                let problem = "--user: the services file names other users, whom only root can become";
                return Err(Error::Usage(problem.to_owned()));
            }
        }
        let is_one = self.services.is_none();
        let (mut sessions, mut stands) = (0_usize, false);
        for service in &mut services {
            self.check(service, config)?;
            service.program = self.configured(service.program.clone(), config)?;
            if let Some(children) = self.most_children().filter(|_| service.kind == Kind::Session) {
                service.limit = service.limit.min(children);
            }
            if !self.is_pool(service, is_one)? {
                continue;
            }
            let (size, submits) = (self.size(service.limit, config), pool::submits(&service.program.path));
            service.program = pool::of(service.program.clone(), size, config);
            service.kind = if size.idle > 0 { Kind::StandingPool } else { Kind::Pool };
            service.limit = 1;
            stands |= submits && size.idle > 0;
            sessions = sessions.saturating_add(if submits { size.children } else { 0 });
        }
        let warm = if sessions > 0 { self.warm(config, sessions, stands)? } else { None };
        let has_pool = services.iter().any(|service| !matches!(service.kind, Kind::Session | Kind::Wait));
        if !is_one && has_pool && self.limit_connections.is_some_and(|limit| limit > 0) {
            let problem = "--limit-connections: expected without pools, each of which counts by itself";
            return Err(Error::Usage(problem.to_owned()));
        }
        // For one service this is the limit of that.
        let total = self.limit_connections.filter(|limit| *limit > 0 && self.services.is_some());
        let total = total.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let (limits, any_address) = (Limits::of(config), !self.says_where());
        let renews_pools = privilege::is_root() && !config.tls_cert_file.0.is_empty();
        Ok(Task::Listen(Plan { services, total, limits, any_address, warm, renews_pools }))
    }

    /// Whether the program of a service is a pool: if that was asked for, or the name is one of qpsmtpd's, and it can be.
    fn is_pool(&self, service: &Service, is_one: bool) -> Result<bool, Error> {
        let wanted = match self.mode.as_deref() {
            Some("pool") => Mode::Pool,
            Some(_) => Mode::Exec,
            None => self.personality.mode(),
        };
        if wanted == Mode::Exec || service.kind != Kind::Session {
            return Ok(false);
        }
        let (program, can_be) = (&service.program.path, pool::can_be(&service.program.path));
        if is_one && !can_be && self.mode.is_some() {
            let program = shown(&program.to_string_lossy());
            return Err(Error::Usage(format!("--mode pool: expected smtpsrvr, qmqpd or pop3d instead of {program}")));
        }
        Ok(can_be && service.addresses.len() <= program::MOST_SOCKETS)
    }

    /// Of each service, in either mode; nothing: no limit but that of connections.
    fn most_children(&self) -> Option<usize> {
        self.children.map(|given| number(given.get())).or(self.personality.pool().0)
    }

    /// That of a pool which serves so many connections at once.
    fn size(&self, children: usize, config: &Config) -> pool::Size {
        let (_, idle, max_use) = self.personality.pool();
        let idle = self.idle_children.map(number).or(idle).unwrap_or_else(|| number(config.idle_children));
        // Without spares nothing is reused, as prefork's page has it.
        let max_use = if self.personality == Personality::Prefork && idle == 0 { Some(1) } else { max_use };
        let is_set = config.origin("max_use") != Origin::Default;
        let max_use = max_use.filter(|_| !is_set).unwrap_or(config.max_use);
        let is_pretty = self.pretty_child || config.pretty_child;
        pool::Size { children: children.min(pool::MOST), idle: idle.min(children), max_use, is_pretty }
    }

    fn warm(&self, config: &Config, sessions: usize, stands: bool) -> Result<Option<Warm>, Error> {
        // The socket by which programs find submit must not lie elsewhere.
        let seen = self.seen_by_programs()?;
        // Who becomes another user at once has the queue of that one.
        let is_root = privilege::is_root() && self.user.is_none();
        let known = |owner| privilege::owner_of(&seen, owner).ok().map(|user| (user.uid, user.gid));
        let owner = known(Owner::Mail).filter(|_| is_root);
        if is_root && owner.is_none() {
            // The programs say what is wrong.
            return Ok(None);
        }
        let net_owner = known(Owner::Net).filter(|_| is_root && !seen.net_owner.is_empty());
        let program = self.configured(pool::submit(config, sessions, stands), config)?;
        Ok(Some(Warm { path: seen.queue_directory.join("submit"), owner, net_owner, program, stands }))
    }

    /// That its program will serve who comes.
    fn check(&self, service: &Service, config: &Config) -> Result<(), Error> {
        let program = &service.program;
        let uid = program.identity.map_or_else(|| self.uid(), |(uid, _)| Ok(uid))?;
        let seen = check::service(service, uid, config, &self.common)?;
        if !pool::submits(&program.path) {
            return Ok(());
        }
        match (seen, program.identity) {
            (Some(seen), None) => check::queue(uid, None, &seen),
            (Some(seen), Some(_)) => check::queue(uid, Some(&service.origin), &seen),
            (None, None) => check::queue(uid, None, &*self.seen_by_programs()?),
            // Somebody else's program, for whoever is named: it may know nothing of us.
            (None, Some(_)) => Ok(()),
        }
    }

    /// Who programs run as for which nobody else is named.
    fn uid(&self) -> Result<Uid, Error> {
        match &self.user {
            Some(name) if privilege::is_root() => Ok(user(name)?.uid),
            _ => Ok(nix::unistd::geteuid()),
        }
    }

    /// What is started does not see our own -o.
    fn seen_by_programs(&self) -> Result<Box<Config>, Error> {
        Ok(Config::read(&Common { overrides: Vec::new(), ..self.common.clone() })?.0)
    }

    fn niceness(&self) -> i32 {
        self.renice_parent.unwrap_or(self.personality.renice())
    }

    /// Whether we are to listen, whatever descriptor 0 is.
    fn listens(&self) -> bool {
        self.has_five_operands() || LISTENING.iter().any(|option| (option.is_given)(self))
    }

    /// Whether it is said where; if not, sockets that were handed to us are served whatever their addresses are.
    fn says_where(&self) -> bool {
        self.has_five_operands() || LISTENING.iter().any(|option| option.says_where && (option.is_given)(self))
    }

    fn has_five_operands(&self) -> bool {
        five_operands(&self.program).is_some()
    }

    /// How this process is to live.
    pub fn life(&self) -> Result<Life, Error> {
        let user = self.user.as_deref().map(user).transpose()?;
        let (pid_file, detach, notification_fd) = (self.pid_file.clone(), self.detach, self.notification_fd);
        let (status_file, renice) = (self.status_file.clone(), self.niceness());
        Ok(Life { pid_file, status_file, detach, user, renice, notification_fd })
    }

    /// Programs that we start are to read what we read.
    fn configured(&self, mut program: Program, config: &Config) -> Result<Program, Error> {
        if self.common.config.is_some() {
            let folder = std::path::absolute(&config.config_directory);
            program.config_directory = Some(folder.map_err(|error| Error::Usage(format!("--config: {error}")))?);
        }
        Ok(program)
    }

    /// The forms for inetd: `smtpd HEX.PORT`, `smtpd - PROGRAM CHANNELS`, and `smtpd PROGRAM CHANNELS` where descriptor 0
    /// is a client.
    fn one_client(&self, config: &Config) -> Result<Option<(Program, Client)>, Error> {
        if self.listens() || self.personality != Personality::Smtpd {
            return Ok(None);
        }
        let (words, client): (&[OsString], Client) = match self.program.as_slice() {
            [word] if let Some(client) = word.to_str().and_then(one_client::hexadecimal) => {
                (&["smtpsrvr".into(), "smtp".into()], client)
            }
            [dash, rest @ ..] if dash == "-" => (rest, Client::of_stdin()),
            rest => match Client::of_stdin() {
                client @ Client::Socket { .. } if !rest.is_empty() => (rest, client),
                _ => return Ok(None),
            },
        };
        let (word, arguments) = words.split_first().ok_or_else(no_program)?;
        Ok(Some((self.program(word, arguments, &config.myhostname, config)?, client)))
    }

    fn service(&self, config: &Config) -> Result<Service, Error> {
        if let Some(operands) = five_operands(&self.program) {
            return self.service_of_five(operands, config);
        }
        let program = match self.program.split_first() {
            Some((word, arguments)) => self.program(word, arguments, &config.myhostname, config)?,
            None if self.personality == Personality::Smtpd => return Err(no_program()),
            None => self.program("smtpsrvr".as_ref(), &[], &config.myhostname, config)?,
        };
        let port = self.personality.port().to_owned();
        let ports = if self.port.is_empty() { std::slice::from_ref(&port) } else { &self.port };
        let addresses = self.addresses(ports)?;
        let limit = self.maxconnects.map(NonZeroU32::get).or(self.limit_connections);
        let limit = match limit.unwrap_or(self.personality.limit()) {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let (name, origin) = (ports.join(","), Origin::Arguments);
        Ok(Service { name, addresses, limit, kind: Kind::Session, program, origin })
    }

    /// The network was the name by which this host is known on it, and what smtpsrvr got as `localhost`.
    fn service_of_five(&self, operands: &[OsString; 5], config: &Config) -> Result<Service, Error> {
        let [word, channels, rest @ ..] = operands;
        let [port, maxconnects, network] = rest.each_ref().map(|word| word.to_string_lossy());
        if self.maxconnects.is_some() || self.limit_connections.is_some() || !self.port.is_empty() {
            return Err(Error::Usage("expected port and maxconnects as options or as operands, not both".to_owned()));
        }
        let limit = maxconnects.parse::<NonZeroU32>().ok().filter(|_| !maxconnects.starts_with('+'));
        let limit = limit
            .ok_or_else(|| Error::Usage(format!("{}: expected maxconnects, a number above 0", shown(&maxconnects))))?;
        let addresses = self.addresses(std::slice::from_ref(&port.clone().into_owned()))?;
        let program = self.program(word, std::slice::from_ref(channels), &network, config)?;
        let limit = usize::try_from(limit.get()).unwrap_or(usize::MAX);
        let (name, origin) = (port.into_owned(), Origin::Arguments);
        Ok(Service { name, addresses, limit, kind: Kind::Session, program, origin })
    }

    /// The program behind a word of the command line. `smtpsrvr channels` gets two operands before that one, as it wants.
    fn program(
        &self,
        word: &std::ffi::OsStr,
        arguments: &[OsString],
        localhost: &str,
        config: &Config,
    ) -> Result<Program, Error> {
        if word.to_string_lossy().starts_with('-') {
            return Err(Error::Usage(format!("unexpected option {}", word.display())));
        }
        let path = program::find(word, config).map_err(Error::Usage)?;
        let mut program = Program::new(path, program::last_component(word).to_owned(), arguments.to_vec());
        if let [channels] = arguments
            && is_smtpsrvr(word)
            && !channels.as_encoded_bytes().starts_with(b"-")
        {
            program.localhost = Some(localhost.to_owned());
        }
        if self.finicky {
            if !is_smtpsrvr(word) {
                return Err(Error::Usage(format!("-f: expected smtpsrvr, not {}", word.display())));
            }
            program.name = "rsmtpsrvr".into();
        }
        Ok(program)
    }

    /// Every address on every port; an address with a port of its own on that alone.
    fn addresses(&self, ports: &[String]) -> Result<Vec<Address>, Error> {
        let mut addresses = Vec::new();
        for port in ports {
            let port = crate::port::of(port).map_err(|problem| Error::Usage(format!("--port: {problem}")))?;
            if self.listen_address.is_empty() {
                addresses.push(Address::Everywhere(port));
            }
            for text in &self.listen_address {
                let wrong = |problem| Error::Usage(format!("--listen-address: {problem}"));
                addresses.extend(address::parse(text, port).map_err(wrong)?);
            }
        }
        Ok(address::together(addresses))
    }
}

fn number(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn user(text: &str) -> Result<User, Error> {
    let number = text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
    let found = match User::from_name(text) {
        Ok(None) => number.map_or(Ok(None), |number| User::from_uid(Uid::from_raw(number))),
        found => found,
    };
    match found {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(Error::Usage(format!("--user {}: expected a user of this system", shown(text)))),
        Err(errno) => Err(Error::Temporary(format!("--user {}: {errno}", shown(text)))),
    }
}

fn niceness(text: &str) -> Result<i32, String> {
    let number = text.parse().ok().filter(|number| (-39..=39).contains(number));
    number.ok_or_else(|| "expected a number from -39 to 39".to_owned())
}

fn descriptor(text: &str) -> Result<i32, String> {
    let number = cli::number(text)?;
    i32::try_from(number).map_err(|_| "expected an open descriptor above 2".to_owned())
}

fn nets(text: &str) -> Result<String, String> {
    let nets = <List<IpNet> as Value>::parse(text).map_err(|expected| format!("expected {expected}"))?;
    if nets.0.is_empty() { Err("expected addresses and nets".to_owned()) } else { Ok(text.to_owned()) }
}

/// MMDF on 4.1BSD: `smtpd smtpsrvr channels port maxconnects network`.
fn five_operands(program: &[OsString]) -> Option<&[OsString; 5]> {
    let operands: &[OsString; 5] = program.try_into().ok()?;
    let is_option = |word: &OsString| word.as_encoded_bytes().starts_with(b"-");
    (is_smtpsrvr(&operands[0]) && !operands.iter().any(is_option)).then_some(operands)
}

fn is_smtpsrvr(word: &std::ffi::OsStr) -> bool {
    let name = program::last_component(word);
    name == "smtpsrvr" || name == "rsmtpsrvr"
}

fn no_program() -> Error {
    Error::Usage("expected a program to start, or --services FILE".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that none is taken and does nothing.
    #[test]
    fn each_option_means_something_for_one_client_or_says_that_we_listen() {
        for line in ["-d", "-f", "--user nobody", "--no-rdns", "--quiet", "--config /x", "-o max_use=1"] {
            assert!(!parsed(line).listens(), "{line}");
        }
        let of_one = ["debug", "finicky", "user", "no_rdns", "quiet", "config", "overrides", "show_config", "program"];
        let command = Args::command();
        let options = command.get_arguments().map(|option| option.get_id().as_str());
        for option in options.filter(|option| !of_one.contains(option)) {
            let long = option.replace('_', "-");
            let spellings = ["", " 1", " ::1", " pool", " defer"].map(|value| format!("--{long}{value}"));
            let listens = |line: &String| try_parsed(line).is_ok_and(|args| args.program.is_empty() && args.listens());
            assert!(spellings.iter().any(listens), "{option}");
        }
    }

    #[test]
    fn a_port_that_is_said_twice_is_one() {
        let args = parsed("--port 2525 --port 2525 --port 0 /bin/cat");
        assert_eq!(args.addresses(&args.port).unwrap(), [Address::Everywhere(2525), Address::Everywhere(0)]);
    }

    fn try_parsed(line: &str) -> Result<Args, clap::Error> {
        let command = Personality::Smtpd.dress(Args::command());
        let matches = command.try_get_matches_from(["smtpd"].into_iter().chain(line.split(' ')))?;
        clap::FromArgMatches::from_arg_matches(&matches)
    }

    fn parsed(line: &str) -> Args {
        try_parsed(line).unwrap()
    }
}
