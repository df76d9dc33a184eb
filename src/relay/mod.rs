//! Remote delivery: what a process does that holds an open file and addresses, and has no right on the queue.
//!
//! `agent.rs` is that process and how it is spoken to, `smtp.rs` carries by SMTP and LMTP, `qmqp.rs` by QMQP and QMTP,
//! `route.rs` finds the hosts, `link.rs` the connection, `content.rs` the octets, `passwords.rs` who we are there,
//! `policy.rs` and `tls.rs` how much TLS there must be.

pub mod agent;
mod content;
mod link;
mod passwords;
pub mod policy;
mod qmqp;
pub mod route;
mod smtp;
mod tls;

use crate::config::{self, Config};
use crate::message::parameters::{Body, MailParameters};
use crate::message::path::ReversePath;
use crate::net::dns::Resolver;
use crate::queue::Id;
use crate::smtp::client::{self, Protocol, To};
pub use content::Source;
use passwords::Passwords;
use policy::Policies;

/// What a try at a recipient came to. The texts begin with an enhanced status code (RFC 3463) and may be shown to
/// anybody: they name no path and repeat no error of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is where it was to go, on disk; where that is: "delivered to mailbox".
    Delivered(&'static str),
    /// A list has it, which is where mail for it ends: it is queued for the members. That is not found again in any mailbox.
    Listed,
    /// Another host has it, and will not report success; what that host said.
    Relayed(String),
    /// Another host has it, and with it what the sender wants to hear.
    PassedOn(String),
    /// One other stands for this recipient, and has the message, and with it what the sender wants to hear.
    Replaced(String),
    /// Others stand for this recipient, and have the message.
    Expanded(String),
    /// It may be better later.
    Deferred(String),
    /// It will never be better.
    Failed(String),
}

/// One message for one next hop.
#[derive(Debug)]
pub struct Job {
    /// The queue id, for the log.
    pub id: String,
    /// `smtp`, `lmtp`, `qmqp` or `qmtp`.
    pub transport: String,
    /// What stands behind the colon in the channels file.
    pub next_hop: String,
    /// The domain of the recipients, where that says where to.
    pub domain: String,
    /// The sender, expanded.
    pub sender: ReversePath,
    /// Who it is for.
    pub to: Vec<To>,
    /// BODY=BINARYMIME.
    pub binary: bool,
    /// SMTPUTF8.
    pub smtputf8: bool,
    /// REQUIRETLS.
    pub requiretls: bool,
    /// The next hop is a filter, which hands the message on.
    pub is_filtered: bool,
    /// RET and ENVID, as [`To::dsn`].
    pub dsn: String,
    /// Addresses that did not take a connection a moment ago, parted by blanks: they are passed over as long as there are
    /// others.
    pub silent: String,
    /// The content.
    pub source: Source,
}

impl Job {
    /// A message of the queue, on its way to a transport, next hop and domain, with what was said with MAIL. Nobody is known to
    /// be silent, and there is no filter.
    pub fn new(
        id: &Id,
        (transport, next_hop, domain): (&str, &str, &str),
        sender: &ReversePath,
        said: &MailParameters,
        to: Vec<To>,
        source: Source,
    ) -> Job {
        let dsn = MailParameters { ret: said.ret, envid: said.envid.clone(), ..MailParameters::default() };
        Job {
            id: id.to_string(),
            transport: transport.to_owned(),
            next_hop: next_hop.to_owned(),
            domain: domain.to_owned(),
            sender: sender.clone(),
            to,
            binary: said.body == Body::BinaryMime,
            smtputf8: said.smtputf8,
            requiretls: said.requiretls,
            is_filtered: false,
            dsn: client::behind(&dsn),
            silent: String::new(),
            source,
        }
    }
}

/// Whether the next hop is there at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Site {
    /// It is, whatever it answers.
    Answers,
    /// No session came about for a reason that may pass, and why: others need not try for a while.
    Silent(String),
    /// There is no host at all, for good, and why. That is an answer: whoever else asks is to have it at once, and not to
    /// wait for it.
    Never(String),
}

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// For each recipient, in their order.
    pub outcomes: Vec<Outcome>,
    /// The next hop.
    pub site: Site,
    told: Vec<bool>,
}

impl Carried {
    fn new(count: usize) -> Carried {
        let outcomes = vec![Outcome::Deferred("4.4.1 no host of the next hop could be tried".to_owned()); count];
        Carried { outcomes, site: Site::Silent("4.4.1 no host could be tried".to_owned()), told: vec![false; count] }
    }

    /// What is left where the agent itself came to its end: whether it had sent something nobody knows.
    pub fn broken(count: usize) -> Carried {
        Carried::new(count).all(&Outcome::Deferred("4.3.0 remote delivery broke down".to_owned()))
    }

    fn tell(&mut self, number: usize, outcome: Outcome) {
        // Whoever told something was there.
        self.site = Site::Answers;
        if let (Some(place), Some(told)) = (self.outcomes.get_mut(number), self.told.get_mut(number)) {
            (*place, *told) = (outcome, true);
        }
    }

    fn is_told(&self, number: usize) -> bool {
        self.told.get(number).copied().unwrap_or(true)
    }

    fn these(mut self, numbers: &[usize], outcome: &Outcome) -> Carried {
        for number in numbers {
            if let Some(place) = self.outcomes.get_mut(*number) {
                *place = outcome.clone();
            }
        }
        match (&mut self.site, outcome) {
            (Site::Silent(why), Outcome::Deferred(reason)) => reason.clone_into(why),
            // What is for good is each message's own, and never a reason for others to wait.
            (site, Outcome::Failed(_)) => *site = Site::Answers,
            _ => {}
        }
        self
    }

    /// No hosts were found for these.
    fn nowhere(self, numbers: &[usize], outcome: &Outcome) -> Carried {
        let mut carried = self.these(numbers, outcome);
        if let Outcome::Failed(why) = outcome {
            carried.site = Site::Never(why.clone());
        }
        carried
    }

    fn all(self, outcome: &Outcome) -> Carried {
        let numbers: Vec<usize> = (0..self.outcomes.len()).collect();
        let mut carried = self.these(&numbers, outcome);
        carried.site = Site::Answers;
        carried
    }
}

/// What is wrong with the files that a remote delivery needs.
pub fn check(config: &Config) -> Vec<config::Error> {
    let files =
        [Policies::read(config).and_then(|policies| tls::check(config, &policies)), Passwords::read(config).map(drop)];
    files.into_iter().filter_map(Result::err).collect()
}

/// Everything a remote delivery needs, with every file it needs opened or read.
#[derive(Debug)]
pub struct Relay {
    smtp: smtp::Client,
    resolver: Resolver,
}

impl Relay {
    /// To be called while files can be opened.
    pub fn new(config: &Config) -> Relay {
        let resolver = Resolver::of_config(config);
        Relay { smtp: smtp::Client::new(config, resolver.clone()), resolver }
    }

    /// Carries one message.
    pub fn carry(&mut self, job: &Job) -> Carried {
        match job.transport.as_str() {
            "smtp" => self.smtp.carry(job, Protocol::Smtp),
            "lmtp" => self.smtp.carry(job, Protocol::Lmtp),
            "qmqp" => qmqp::carry(&self.resolver, job, qmqp::Protocol::Qmqp),
            "qmtp" => qmqp::carry(&self.resolver, job, qmqp::Protocol::Qmtp),
            other => Carried::new(job.to.len())
                .all(&Outcome::Deferred(format!("4.3.5 there is no transport {other:.20} to other hosts"))),
        }
    }

    /// From here on it is told there which addresses are silent, and when somebody is spoken with.
    pub fn report_to(&mut self, herald: agent::Herald) {
        self.smtp.report_to(herald);
    }

    /// The hosts of a domain: see [`agent::home`].
    pub fn home(&mut self, domain: &str) -> String {
        self.smtp.home(domain)
    }

    /// Whether a connection is held that the next message may use.
    pub fn is_connected(&self) -> bool {
        self.smtp.is_connected()
    }

    /// Takes leave of whoever is connected.
    pub fn quit(&mut self) {
        self.smtp.quit();
    }
}
