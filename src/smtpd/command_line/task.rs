//! What a command line comes to: the program for the one client that is there, or a plan of what is served where, checked.

use super::{Args, user};
use crate::cli::Common;
use crate::config::{Config, Origin, shown};
use crate::exit::Error;
use crate::logging;
use crate::net::acceptor::Kind;
use crate::net::limits::Limits;
use crate::privilege::{self, Owner};
use crate::smtpd::one_client::Client;
use crate::smtpd::personality::Personality;
use crate::smtpd::pool::{self, Mode};
use crate::smtpd::program::{self, Program};
use crate::smtpd::warm::Warm;
use crate::smtpd::{Plan, Service, check, services};
use nix::unistd::Uid;

/// What a command line comes to.
#[derive(Debug)]
pub enum Task {
    /// Listen and serve.
    Listen(Plan),
    /// Become the program for the one client that is there already.
    Become(Program, Client),
}

impl Args {
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
        // In a services file there may be lines for pools tomorrow.
        if !has_pool && (is_one || self.mode() == Mode::Exec) {
            self.without_pools()?;
        }
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
        if self.mode() == Mode::Exec || service.kind != Kind::Session {
            return Ok(false);
        }
        let (program, can_be) = (&service.program.path, pool::can_be(&service.program.path));
        if is_one && !can_be && self.mode.is_some() {
            let program = shown(&program.to_string_lossy());
            return Err(Error::Usage(format!("--mode pool: expected smtpsrvr, qmqpd or pop3d instead of {program}")));
        }
        Ok(can_be && service.addresses.len() <= program::MOST_SOCKETS)
    }

    fn mode(&self) -> Mode {
        match self.mode.as_deref() {
            Some("pool") => Mode::Pool,
            Some(_) => Mode::Exec,
            None => self.personality.mode(),
        }
    }

    /// Whoever asks for something that only a pool has is to hear that there is none.
    fn without_pools(&self) -> Result<(), Error> {
        let option = match (self.idle_children, self.pretty_child) {
            (Some(_), _) => "--idle-children",
            (None, true) => "--pretty-child",
            (None, false) => return Ok(()),
        };
        let problem =
            format!("{option}: expected --mode pool and smtpsrvr, qmqpd or pop3d; without a pool it is nothing");
        Err(Error::Usage(problem))
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

    /// Programs that we start are to read what we read.
    fn configured(&self, mut program: Program, config: &Config) -> Result<Program, Error> {
        if self.common.config.is_some() {
            let folder = std::path::absolute(&config.config_directory);
            program.config_directory = Some(folder.map_err(|error| Error::Usage(format!("--config: {error}")))?);
        }
        Ok(program)
    }
}

fn number(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
