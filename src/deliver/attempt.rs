//! One message: each recipient that is due, and what becomes of it.
//!
//! Recipients here are served one by one; those that one next hop takes go to it together. Whatever is used by many at
//! once, a mailbox or a next hop, is asked for before (`permits.rs`), and where it is busy the recipient keeps waiting.
//!
//! What a crash may leave behind at each step, and why nothing is lost by it, is in doc/internals.md.

use super::expand::Route;
use super::helper::Helper;
use super::local::Copy;
use super::permits::{Desk, Lent, Permit, Word};
use super::relay::agent::{self, Answer};
use super::relay::{Carried, Job, Site, Source};
use super::settings::Settings;
use super::{Outcome, local, origin, piped, report, schedule};
use crate::channel::Transport;
use crate::config::Config;
use crate::config::value::{MailboxFormat, MailboxSpec, TlsLevel, Value};
use crate::lookup::Lookup;
use crate::message::idna;
use crate::message::parameters::{Body, MailParameters};
use crate::message::path::{Address, ReversePath};
use crate::message::verp;
use crate::queue::{Error, Id, Message, Queue, Recipient, RecipientState};
use crate::smtp::client::To;
use crate::submit::verify;
use std::borrow::Cow;
use std::io;
use std::time::SystemTime;

/// The transport whose program gets a message once for all its recipients.
const QUEUE: &str = "qmail-queue";

/// What an attempt at a message came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// It is gone, another process has it, or it is not complete.
    NotOurs,
    /// Every recipient is done, and it is removed.
    Finished,
    /// Some recipient waits for the next try.
    Deferred(SystemTime),
    /// Some recipient was not tried, for what this names is busy.
    Waits(String),
    /// The queue would not do it; the log has why.
    Broken,
}

/// Who tries.
pub struct Tools<'a> {
    /// The queue.
    pub queue: &'a Queue,
    /// Configuration and routes.
    pub settings: &'a Settings,
    /// The root one, where there is one.
    pub helper: Option<&'a mut Helper>,
    /// Where permits are asked for.
    pub desk: &'a Desk,
}

/// Takes a message and tries every recipient that is not done.
pub fn attempt(tools: &mut Tools<'_>, id: &Id) -> Result<Attempt, Error> {
    let (queue, config) = (tools.queue, &tools.settings.config);
    let Some(message) = queue.take(id)? else { return Ok(Attempt::NotOurs) };
    let now = SystemTime::now();
    if message.is_held {
        return Ok(Attempt::NotOurs);
    }
    if !origin::is_noted(queue, &message)? {
        log::debug!("id={id} event=passed-by reason=\"the message it comes from is at work\"");
        return Ok(Attempt::NotOurs);
    }
    let (from, size, nrcpt) = (&message.reverse_path, message.size, message.recipients.len());
    log::debug!("id={id} event=taken from={from} size={size} nrcpt={nrcpt} channel={}", message.channel);
    let mut trial = Trial { message, now, busy: None, uses: None };
    let next = schedule::next_try(config, &trial.message.id, trial.message.created, now);
    // Left by a crash: whoever fails now must not change the id of a return that is there already.
    if let Err(error) = report::finish(queue, &mut trial.message) {
        trial.message.defer_until(next)?;
        return Err(error);
    }
    let (mut groups, mut handed) = (Groups::default(), Groups::default());
    for number in 0..trial.message.recipients.len() {
        let Some(recipient) = trial.message.recipients.get(number) else { continue };
        if !matches!(recipient.state, RecipientState::Waiting | RecipientState::Trying) {
            continue;
        }
        let address = recipient.address.or_at(&config.myhostname);
        let way = route(tools.settings, &trial.message, &address);
        log::debug!("id={id} to=<{address}> event=trying way=\"{}\"", told(&way));
        match way {
            Ok(transport) if hop_of(&transport).is_some() => groups.add(&transport, &trial.message, number, address),
            Ok(Transport::Other(name, place)) if name == QUEUE => {
                handed.put((name, place, String::new()), &trial.message, number, address);
            }
            Ok(transport) => trial.here(tools, number, &address, &transport)?,
            Err(outcome) => trial.one(config, number, &address, |_, _| Ok(outcome))?,
        }
    }
    for group in groups.0 {
        let mut never = None;
        for part in group.to.chunks(config.smtp_destination_recipient_limit.max(1) as usize) {
            match &never {
                None => never = trial.there(tools, &group, part)?,
                // Asking again for each part would only give the sender several returns, in a busy moment.
                Some(why) => trial.nowhere(config, part, why)?,
            }
            if trial.busy.as_ref() == Some(&group.key()) {
                // For the same reason no part goes before the one that waits.
                break;
            }
        }
    }
    for group in handed.0 {
        for part in group.to.chunks(config.smtp_destination_recipient_limit.max(1) as usize) {
            trial.hand_over(tools, &group, part)?;
        }
    }
    let mut message = trial.message;
    // Whoever waits for a place is tried soon, and the sender then hears of all who failed by one report.
    let told = match trial.busy {
        Some(_) if report::may_wait(config, &message) => Ok(()),
        _ => report::tell(queue, config, &mut message).and_then(|()| report::warn(queue, config, &mut message, now)),
    };
    // While a sender waits to hear of it, nothing is forgotten.
    if told.is_ok()
        && message.recipients.iter().all(|r| matches!(r.state, RecipientState::Delivered | RecipientState::Returned))
    {
        message.remove()?;
        return Ok(Attempt::Finished);
    }
    if let (Some(key), true) = (trial.busy, told.is_ok()) {
        return Ok(Attempt::Waits(key));
    }
    message.defer_until(next)?;
    told.map(|()| Attempt::Deferred(next))
}

/// The way a recipient's mail takes, for who watches.
fn told(way: &Result<Transport, Outcome>) -> String {
    match way {
        Ok(Transport::Mailbox) => "mailbox:".to_owned(),
        Ok(Transport::Smtp(None)) => "smtp:".to_owned(),
        Ok(Transport::Smtp(Some(host))) => format!("smtp:{host}"),
        Ok(Transport::Other(name, rest)) => format!("{name}:{rest}"),
        Ok(Transport::None) | Err(_) => "none".to_owned(),
    }
}

impl Attempt {
    /// What it came to, for who watches.
    pub fn word(&self) -> &'static str {
        match self {
            Attempt::NotOurs => "not-ours",
            Attempt::Finished => "finished",
            Attempt::Deferred(_) => "deferred",
            Attempt::Waits(_) => "waits",
            Attempt::Broken => "broken",
        }
    }
}

/// A message being tried.
struct Trial {
    message: Message,
    now: SystemTime,
    /// What some recipient must wait for.
    busy: Option<String>,
    /// What the last recipient used. The end of the attempt gives it back as well, without a word of its own.
    uses: Option<String>,
}

impl Trial {
    /// One recipient whose mail does not go through the network.
    fn here(
        &mut self,
        tools: &mut Tools<'_>,
        number: usize,
        address: &Address,
        transport: &Transport,
    ) -> Result<(), Error> {
        let (config, desk) = (&tools.settings.config, tools.desk);
        let Some((key, limit)) = shared(config, address, transport) else {
            return self.one(config, number, address, |_, _| Ok(carry_nowhere(transport)));
        };
        if self.uses.as_ref() != Some(&key) {
            match self.want(desk, &key, limit, false)? {
                Permit::Go(_) => self.uses = Some(key),
                Permit::Busy | Permit::Dead(_) => {
                    self.busy = Some(key);
                    return Ok(());
                }
            }
        }
        let (settings, helper) = (tools.settings, tools.helper.as_deref_mut());
        let act = |message: &Message, search| {
            Ok(carry_here(settings, helper, &Copy { message, number, address, search }, transport))
        };
        let has_it = self.tried(config, number, address, act)?;
        if has_it && self.is_over() && is_found_again(config, &self.message, transport) {
            return Ok(());
        }
        self.settle(&[number])
    }

    /// Whether nothing is left to do but to remove the message.
    fn is_over(&self) -> bool {
        let is_done =
            |recipient: &Recipient| recipient.parameters.is_empty() && recipient.state == RecipientState::Delivered;
        self.message.recipients.iter().all(is_done)
    }

    /// Asks for a permit, having given back the one before.
    fn want(&mut self, desk: &Desk, key: &str, limit: u32, agent: bool) -> Result<Permit, Error> {
        if let Some(key) = self.uses.take() {
            desk.say(&Word::Done { key, reusable: false, silent: None }).map_err(broken)?;
        }
        desk.want(key, limit, agent).map_err(broken)
    }

    /// Asks for an agent to a next hop. A new one for a domain is asked first where that is: another one may be connected to
    /// the same hosts already, or nobody answer there.
    fn want_agent(&mut self, tools: &Tools<'_>, group: &Group) -> Result<Permit, Error> {
        let (config, desk, key) = (&tools.settings.config, tools.desk, group.key());
        let permit = self.want(desk, &key, config.default_destination_concurrency_limit.max(1), true)?;
        let mut socket = match permit {
            Permit::Go(Lent { agent: Some(socket), is_new: true, .. })
                if group.transport == "smtp" && group.hop.is_empty() =>
            {
                socket
            }
            permit => return Ok(permit),
        };
        // One that is broken will be found so.
        let hosts = agent::home(&mut socket, &group.domain).unwrap_or_default();
        if hosts.is_empty() {
            return Ok(Permit::Go(Lent { agent: Some(socket), is_new: true, silent: String::new() }));
        }
        match desk.home(&hosts, is_shared(config)).map_err(broken)? {
            Permit::Go(lent) if lent.agent.is_none() => Ok(Permit::Go(Lent { agent: Some(socket), ..lent })),
            Permit::Dead(why) => {
                desk.say(&Word::Done { key, reusable: false, silent: None }).map_err(broken)?;
                Ok(Permit::Dead(why))
            }
            permit => Ok(permit),
        }
    }

    /// Marks a recipient, tries it, and notes what came of it.
    fn one(
        &mut self,
        config: &Config,
        number: usize,
        address: &Address,
        act: impl FnOnce(&Message, bool) -> Result<Outcome, Error>,
    ) -> Result<(), Error> {
        self.tried(config, number, address, act)?;
        self.settle(&[number])
    }

    /// The same, but what came of it is not on disk yet. Gives whether the recipient has it in a mailbox now.
    fn tried(
        &mut self,
        config: &Config,
        number: usize,
        address: &Address,
        act: impl FnOnce(&Message, bool) -> Result<Outcome, Error>,
    ) -> Result<bool, Error> {
        let search = self.begin(number)?;
        let outcome = act(&self.message, search)?;
        let has_it = outcome == Outcome::Delivered;
        self.note(config, number, address, outcome)?;
        Ok(has_it)
    }

    /// Recipients of one next hop. Gives why there is none, if that is for good.
    fn there(&mut self, tools: &Tools<'_>, group: &Group, to: &[(usize, Address)]) -> Result<Option<String>, Error> {
        let (config, desk) = (&tools.settings.config, tools.desk);
        let key = group.key();
        let permit = self.want_agent(tools, group)?;
        let mut never = None;
        let outcomes = match permit {
            Permit::Busy => {
                self.busy = Some(key);
                return Ok(None);
            }
            Permit::Dead(why) => {
                for (number, _) in to {
                    self.begin(*number)?;
                }
                vec![Outcome::Deferred(why); to.len()]
            }
            Permit::Go(lent) => {
                for (number, _) in to {
                    self.begin(*number)?;
                }
                let job = Job { silent: lent.silent, ..self.job(group, to)? };
                let asked = match lent.agent {
                    Some(mut socket) => agent::ask(&mut socket, &job),
                    None => Err(io::ErrorKind::NotConnected.into()),
                };
                let Answer { carried, is_reusable, silent } = asked.unwrap_or_else(|error| {
                    log::error!(
                        "id={} next-hop={}: the agent for remote delivery: {error}",
                        self.message.id,
                        group.hop
                    );
                    Answer { carried: Carried::broken(to.len()), is_reusable: false, silent: Vec::new() }
                });
                for (address, why) in silent {
                    desk.say(&Word::Silent { address, why }).map_err(broken)?;
                }
                let silent = match carried.site {
                    Site::Answers => None,
                    Site::Silent(why) => Some(why),
                    Site::Never(why) => {
                        never = Some(why);
                        None
                    }
                };
                desk.say(&Word::Done { key, reusable: is_reusable, silent }).map_err(broken)?;
                carried.outcomes
            }
        };
        self.note_all(config, to, outcomes)?;
        Ok(never)
    }

    /// More recipients of a next hop that is known to be none.
    fn nowhere(&mut self, config: &Config, to: &[(usize, Address)], why: &str) -> Result<(), Error> {
        for (number, _) in to {
            self.begin(*number)?;
        }
        self.note_all(config, to, vec![Outcome::Failed(why.to_owned()); to.len()])
    }

    fn note_all(&mut self, config: &Config, to: &[(usize, Address)], outcomes: Vec<Outcome>) -> Result<(), Error> {
        for ((number, address), outcome) in to.iter().zip(outcomes) {
            self.note(config, *number, address, outcome)?;
        }
        let numbers: Vec<usize> = to.iter().map(|(number, _)| *number).collect();
        self.settle(&numbers)
    }

    /// Recipients whose mail goes to one program of qmail-queue's interface, which gets the message once for all.
    fn hand_over(&mut self, tools: &Tools<'_>, group: &Group, to: &[(usize, Address)]) -> Result<(), Error> {
        let (config, desk) = (&tools.settings.config, tools.desk);
        let key = format!("{QUEUE}\n{}", group.hop);
        match self.want(desk, &key, config.default_destination_concurrency_limit.max(1), false)? {
            Permit::Go(_) => {}
            Permit::Busy | Permit::Dead(_) => {
                self.busy = Some(key);
                return Ok(());
            }
        }
        let mut numbers = Vec::new();
        for (number, _) in to {
            self.begin(*number)?;
            numbers.push(*number);
        }
        let addresses: Vec<&Address> = to.iter().map(|(_, address)| address).collect();
        let outcomes = piped::qmail_queue(config, &group.hop, &self.message, &group.sender, &addresses);
        for ((number, address), outcome) in to.iter().zip(outcomes) {
            self.note(config, *number, address, outcome)?;
        }
        self.settle(&numbers)?;
        desk.say(&Word::Done { key, reusable: false, silent: None }).map_err(broken)
    }

    fn job(&self, group: &Group, to: &[(usize, Address)]) -> Result<Job, Error> {
        let message = &self.message;
        let (file, start) = message.for_reading()?;
        let said = &message.parameters;
        let dsn = MailParameters { ret: said.ret, envid: said.envid.clone(), ..MailParameters::default() };
        let to = to.iter().map(|(number, address)| {
            let dsn = message.recipients.get(*number).map(|recipient| recipient.parameters.to_string());
            To { address: address.clone(), dsn: with_blank(dsn.unwrap_or_default()) }
        });
        Ok(Job {
            id: message.id.to_string(),
            transport: group.transport.clone(),
            next_hop: group.hop.clone(),
            domain: group.domain.clone(),
            sender: group.sender.clone(),
            to: to.collect(),
            binary: said.body == Body::BinaryMime,
            smtputf8: said.smtputf8,
            requiretls: said.requiretls,
            dsn: with_blank(dsn.to_string()),
            silent: String::new(),
            source: Source { file, start, size: message.size, lines: message.lines },
        })
    }

    /// Marks a recipient as being tried. Gives whether an earlier try may have come to its end: one whose answer never
    /// came may have, as well as one that crashed.
    fn begin(&mut self, number: usize) -> Result<bool, Error> {
        let Some(recipient) = self.message.recipients.get(number) else { return Ok(false) };
        let search = recipient.state == RecipientState::Trying
            || recipient.attempts > 0
            || schedule::may_be_older_than_boot(self.message.created, self.now);
        let report = recipient.report.clone();
        self.message.mark(number, RecipientState::Trying, &report, false)?;
        Ok(search)
    }

    /// Records and logs what a try came to; on disk only after [`Trial::settle`].
    fn note(&mut self, config: &Config, number: usize, address: &Address, outcome: Outcome) -> Result<(), Error> {
        let attempts = self.message.recipients.get(number).map_or(0, |recipient| recipient.attempts);
        let outcome = judge(config, outcome, self.message.created, self.now, attempts);
        let (state, why, status) = match outcome {
            Outcome::Delivered => (RecipientState::Delivered, "2.0.0 delivered".to_owned(), "delivered"),
            Outcome::Relayed(why) => (RecipientState::Delivered, format!("{}: {why}", report::RELAYED), "relayed"),
            Outcome::PassedOn(why) => (RecipientState::Delivered, format!("{}: {why}", report::PASSED_ON), "relayed"),
            Outcome::Expanded(why) => (RecipientState::Delivered, format!("{}: {why}", report::EXPANDED), "expanded"),
            Outcome::Deferred(why) => (RecipientState::Waiting, why, "deferred"),
            Outcome::Failed(why) => (RecipientState::Failed, why, "failed"),
        };
        self.message.mark(number, state, &why, false)?;
        let delay = schedule::age(self.message.created, SystemTime::now()).as_secs_f64();
        let (id, from) = (&self.message.id, &self.message.reverse_path);
        log::info!("id={id} from={from} to=<{address}> status={status} delay={delay:.1} reason=\"{why}\"");
        Ok(())
    }

    /// Only when that is on disk is it certain that nobody tries again or returns another thing.
    fn settle(&self, numbers: &[usize]) -> Result<(), Error> {
        let state = |number: &usize| self.message.recipients.get(*number).map(|recipient| recipient.state);
        if numbers.iter().any(|number| state(number) != Some(RecipientState::Waiting)) {
            self.message.sync()?;
        }
        Ok(())
    }
}

/// Whether domains with the same hosts share connections: not where a login may be one domain's own, or the name in the
/// certificate.
fn is_shared(config: &Config) -> bool {
    !config.smtp_sasl_auth_enable && config.smtp_tls_security_level < TlsLevel::Secure
}

fn with_blank(text: String) -> String {
    if text.is_empty() { text } else { format!(" {text}") }
}

fn broken(error: io::Error) -> Error {
    Error::Io(format!("the process that gives out work: {error}"))
}

/// Recipients that one next hop takes in one transaction.
struct Group {
    transport: String,
    hop: String,
    domain: String,
    sender: ReversePath,
    to: Vec<(usize, Address)>,
}

impl Group {
    /// What names the next hop among all.
    fn key(&self) -> String {
        format!("{}\n{}\n{}", self.transport, self.hop, self.domain)
    }
}

#[derive(Default)]
struct Groups(Vec<Group>);

impl Groups {
    fn add(&mut self, transport: &Transport, message: &Message, number: usize, address: Address) {
        let Some((transport, hop)) = hop_of(transport) else { return };
        let domain = address.domain().unwrap_or_default();
        // As DNS has it; what has no such form will not be found there.
        let domain = idna::to_ascii(domain).unwrap_or(Cow::Borrowed(domain));
        let domain = String::from_utf8_lossy(&domain).to_ascii_lowercase();
        let domain = if hop.is_empty() { domain } else { String::new() };
        self.put((transport, hop, domain), message, number, address);
    }

    fn put(&mut self, way: (String, String, String), message: &Message, number: usize, address: Address) {
        let (transport, hop, domain) = way;
        let sender = verp::expand(&message.reverse_path, &address);
        let same = |group: &&mut Group| {
            (&*group.transport, &*group.hop, &*group.domain, &group.sender) == (&*transport, &*hop, &*domain, &sender)
        };
        match self.0.iter_mut().find(same) {
            Some(group) => group.to.push((number, address)),
            None => self.0.push(Group { transport, hop, domain, sender, to: vec![(number, address)] }),
        }
    }
}

/// Transport and next hop of what goes through the network.
fn hop_of(transport: &Transport) -> Option<(String, String)> {
    match transport {
        Transport::Smtp(hop) => Some(("smtp".to_owned(), hop.clone().unwrap_or_default())),
        Transport::Other(name, hop) if matches!(name.as_str(), "lmtp" | "qmqp" | "qmtp") => {
            Some((name.clone(), hop.clone()))
        }
        Transport::Other(..) | Transport::Mailbox | Transport::None => None,
    }
}

/// By its content_filter, else by its domain: what carries it.
fn route(settings: &Settings, message: &Message, address: &Address) -> Result<Transport, Outcome> {
    if let Some(filter) = message.attribute("content_filter") {
        let missing = || Outcome::Deferred(format!("4.3.5 content_filter {filter:.60}: no such transport or channel"));
        return filtered(settings, filter).ok_or_else(missing);
    }
    match verify::outgoing(&settings.channels, address) {
        Lookup::Yes(channel) => Ok(channel.transport.clone()),
        Lookup::No => Err(Outcome::Failed("5.1.2 no channel leads to this domain".to_owned())),
        Lookup::CannotTell(why) => {
            log::warn!("id={} to=<{address}>: {why}", message.id);
            Err(Outcome::Deferred("4.4.3 the domain cannot be looked up now".to_owned()))
        }
    }
}

/// What `content_filter` names: a transport as in the channels file, or a channel of that name and what carries its mail.
///
/// The queue file says it, and that may come from a program that speaks with the network; so transports that run other
/// programs must stand in the channels file, which only the administrator writes.
fn filtered(settings: &Settings, filter: &str) -> Option<Transport> {
    let with_colon = if filter.contains(':') { filter.to_owned() } else { format!("{filter}:") };
    let named = Transport::parse(&with_colon).ok().filter(|transport| hop_of(transport).is_some());
    let channel = with_colon.split(':').next().and_then(|name| settings.channels.by_name(name));
    named.or_else(|| channel.map(|channel| channel.transport.clone()))
}

/// What is used by many, and how many may at once: a mailbox that is one file has one lock.
fn shared(config: &Config, address: &Address, transport: &Transport) -> Option<(String, u32)> {
    let many = config.default_destination_concurrency_limit.max(1);
    let limit = |spec: &MailboxSpec| if spec.format == MailboxFormat::Maildir { many } else { 1 };
    match transport {
        Transport::Mailbox => {
            let name = String::from_utf8_lossy(address.as_bytes()).to_ascii_lowercase();
            Some((format!("mailbox\n{name}"), limit(&config.mailbox)))
        }
        Transport::Other(name, place) => match stored(name, place) {
            Some(spec) => Some((format!("{name}\n{place}"), limit(&spec))),
            None if name == "pipe" => Some((format!("{name}\n{place}"), many)),
            None => None,
        },
        Transport::Smtp(_) | Transport::None => None,
    }
}

/// Whether a repeat that knows of no earlier try finds what that has delivered: a Maildir has it under the same name, and
/// after a power cut all of it is searched ([`Trial::begin`]). What an alias or a `~/.forward` made of a message may be
/// meant for a program.
fn is_found_again(config: &Config, message: &Message, transport: &Transport) -> bool {
    let is_maildir = |spec: &MailboxSpec| spec.format == MailboxFormat::Maildir;
    let ends_there = match transport {
        Transport::Mailbox => is_maildir(&config.mailbox),
        Transport::Other(name, place) => stored(name, place).as_ref().is_some_and(is_maildir),
        Transport::Smtp(_) | Transport::None => false,
    };
    ends_there && Route::of(message).is_none()
}

/// The mailbox that a channel names for all its mail.
fn stored(name: &str, place: &str) -> Option<MailboxSpec> {
    MailboxSpec::parse(&format!("{name}:{place}")).ok()
}

fn carry_here(settings: &Settings, helper: Option<&mut Helper>, copy: &Copy<'_>, transport: &Transport) -> Outcome {
    let config = &settings.config;
    match transport {
        Transport::Mailbox => local::deliver(settings, helper, copy),
        Transport::Other(name, place) => match stored(name, place) {
            Some(spec) => local::store(config, &spec, copy),
            None => piped::pipe(config, place, copy),
        },
        Transport::Smtp(_) | Transport::None => carry_nowhere(transport),
    }
}

/// The transports that do nothing.
fn carry_nowhere(transport: &Transport) -> Outcome {
    match transport {
        Transport::Other(name, _) if name == "discard" => Outcome::Delivered,
        Transport::Other(name, text) if name == "error" => refusal(text),
        _ => Outcome::Failed("5.1.2 no mail leaves by the channel of this domain".to_owned()),
    }
}

/// `error:` with a text of the administrator's, that may begin with a status code.
fn refusal(text: &str) -> Outcome {
    let status = text.split(' ').next().unwrap_or_default();
    let is_status = |class: char| {
        status.starts_with(class)
            && status.split('.').count() == 3
            && status.split('.').all(|n| n.parse::<u16>().is_ok())
    };
    match text {
        "" => Outcome::Failed("5.0.0 mail for this domain is not taken".to_owned()),
        _ if is_status('4') => Outcome::Deferred(text.to_owned()),
        _ if is_status('5') => Outcome::Failed(text.to_owned()),
        _ => Outcome::Failed(format!("5.0.0 {text}")),
    }
}

/// `soft_bounce` lets nothing fail at once; nothing waits longer than `maximal_queue_lifetime`.
fn judge(config: &Config, outcome: Outcome, created: SystemTime, now: SystemTime, attempts: u32) -> Outcome {
    let outcome = match outcome {
        Outcome::Failed(why) if config.soft_bounce => {
            Outcome::Deferred(why.strip_prefix('5').map_or(why.clone(), |rest| format!("4{rest}")))
        }
        outcome => outcome,
    };
    match outcome {
        Outcome::Deferred(why) if schedule::is_expired(config, created, now, attempts) => {
            Outcome::Failed(format!("5.4.7 given up after {}: {why}", waited(schedule::age(created, now).as_secs())))
        }
        outcome => outcome,
    }
}

/// A length of time for people.
fn waited(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn judged(settings: &[(&str, &str)], outcome: Outcome, age: u64) -> Outcome {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        judge(&Config::with(settings), outcome, now - Duration::from_secs(age), now, 100)
    }

    #[test]
    fn what_waits_too_long_fails_with_its_last_reason() {
        let deferred = || Outcome::Deferred("4.2.2 the mailbox is full".to_owned());
        assert_eq!(judged(&[], deferred(), 4 * 86_400), deferred());
        let given_up = "5.4.7 given up after 5 days: 4.2.2 the mailbox is full";
        assert_eq!(judged(&[], deferred(), 5 * 86_400), Outcome::Failed(given_up.to_owned()));
        assert_eq!(judged(&[], Outcome::Delivered, 9 * 86_400), Outcome::Delivered);
    }

    #[test]
    fn soft_bounce_defers_what_would_fail_until_it_expires() {
        let failed = || Outcome::Failed("5.1.1 no such user here".to_owned());
        assert_eq!(judged(&[], failed(), 0), failed());
        let soft = [("soft_bounce", "yes")];
        assert_eq!(judged(&soft, failed(), 0), Outcome::Deferred("4.1.1 no such user here".to_owned()));
        assert!(matches!(judged(&soft, failed(), 6 * 86_400), Outcome::Failed(_)));
    }

    #[test]
    fn an_error_channel_says_what_the_administrator_wrote() {
        assert_eq!(refusal("4.3.2 moving"), Outcome::Deferred("4.3.2 moving".to_owned()));
        assert_eq!(refusal("5.7.1 not here"), Outcome::Failed("5.7.1 not here".to_owned()));
        assert_eq!(refusal("moved away"), Outcome::Failed("5.0.0 moved away".to_owned()));
        assert_eq!(refusal(""), Outcome::Failed("5.0.0 mail for this domain is not taken".to_owned()));
    }
}
