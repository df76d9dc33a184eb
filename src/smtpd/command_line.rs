//! The command line of smtpd: one program behind one or more ports, `--services FILE`, MMDF's forms, qpsmtpd's names.
//!
//! Here are the options; which letters there are says `personality.rs`, what the operands are `operands.rs`, and what is
//! listened on and started comes out of `task.rs`.

mod operands;
mod task;

pub use task::Task;

use super::life::Life;
use super::personality::Personality;
use crate::cli::{self, Common};
use crate::config::shown;
use crate::config::value::{List, Value};
use crate::exit::Error;
use clap::{CommandFactory, Parser};
use ipnet::IpNet;
use nix::unistd::{Uid, User};
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// Listen for connections and start a program for each, with the connection on its standard input and output
//
// What an option is without being given depends on the name we were started by: `personality.rs` adds it to the help.
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
    /// Most connections at once
    #[arg(long, value_name = "NUMBER", conflicts_with = "limit_connections",
          value_parser = cli::positive, allow_negative_numbers = true)]
    pub maxconnects: Option<NonZeroU32>,
    /// The same, also for all services together; 0: no limit
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
    /// Most processes for connections
    #[arg(long, value_name = "NUMBER", value_parser = cli::positive, allow_negative_numbers = true)]
    pub children: Option<NonZeroU32>,
    /// Processes of a pool that wait for a connection; 0: none
    #[arg(long, value_name = "NUMBER", value_parser = cli::number, allow_negative_numbers = true)]
    pub idle_children: Option<u32>,
    /// Be nicer to other processes by so much, or less nice
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, value_parser = niceness)]
    pub renice_parent: Option<i32>,
    /// Processes of a pool have the address of their client as name: pretty_child
    #[arg(long)]
    pub pretty_child: bool,
    /// Port or service to listen on; 0: any that is free; may be repeated
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
        operands::five_operands(&self.program).is_some()
    }

    /// How this process is to live.
    pub fn life(&self) -> Result<Life, Error> {
        let user = self.user.as_deref().map(user).transpose()?;
        let (pid_file, detach, notification_fd) = (self.pid_file.clone(), self.detach, self.notification_fd);
        let (status_file, renice) = (self.status_file.clone(), self.niceness());
        Ok(Life { pid_file, status_file, detach, user, renice, notification_fd })
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtpd::address::Address;

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
