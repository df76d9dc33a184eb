//! One message: each recipient that is due, and what becomes of it.
//!
//! Recipients here are served one by one; those that one next hop takes go to it together. Whatever is used by many at
//! once, a mailbox or a next hop, is asked for before (`permits.rs`), and where it is busy the recipient keeps waiting.
//!
//! What a crash may leave behind at each step, and why nothing is lost by it, is in doc/internals.md.

use super::copy::Copy;
use super::helper::Helper;
use super::permits::{Desk, Errand, Lent, Permit, Word};
use super::settings::Settings;
use super::{Outcome, crew, expand, origin, piped, report, schedule};
use crate::channel::Transport;
use crate::config::Config;
use crate::logging::{field, quoted};
use crate::message::parameters::RecipientParameters;
use crate::message::path::Address;
use crate::queue::{Error, Id, Message, NotTaken, Queue, Recipient, RecipientState};
use crate::relay::agent::{self, Answer};
use crate::relay::{Carried, Job, Site, Source};
use crate::smtp::client::To;
use groups::{Group, Groups, hop_of};
use std::io;
use std::time::SystemTime;
use verdict::judge;
use way::{QUEUE, Shared};

mod groups;
mod verdict;
mod way;

/// What an attempt at a message came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// It is gone, another process has it, or it is not complete.
    NotOurs,
    /// It is no message, or not the one that was written; the log has why.
    Damaged,
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
    let message = match queue.try_take(id)? {
        Ok(message) => message,
        Err(NotTaken::Damaged) => return Ok(Attempt::Damaged),
        Err(NotTaken::Locked | NotTaken::Gone) => return Ok(Attempt::NotOurs),
    };
    let now = SystemTime::now();
    if message.is_held {
        return Ok(Attempt::NotOurs);
    }
    if !origin::is_noted(queue, &message)? {
        log::debug!("id={id} event=passed-by reason=\"the message it comes from is at work\"");
        return Ok(Attempt::NotOurs);
    }
    let (from, size, nrcpt) = (field(&message.reverse_path), message.size, message.recipients.len());
    log::debug!("id={id} event=taken from={from} size={size} nrcpt={nrcpt} channel={}", message.channel);
    let mut trial = Trial { message, now, busy: None, uses: None };
    // Left by a crash: whoever fails now must not change the id of a return that is there already.
    if let Err(error) = report::finish(queue, &mut trial.message) {
        trial.put_off(config)?;
        return Err(error);
    }
    let (mut groups, handed) = trial.serve_here(tools)?;
    // Whoever took very long the last time, or so long that there was no end of it, keeps nobody else waiting now.
    groups.list.sort_by_cached_key(|group| trial.attempts(group));
    for group in groups.list {
        trial.send(tools, &group)?;
    }
    for group in handed.list {
        for part in group.to.chunks(config.smtp_destination_recipient_limit.max(1) as usize) {
            trial.hand_over(tools, &group, part)?;
        }
    }
    trial.conclude(tools)
}

impl Attempt {
    /// What it came to, for who watches.
    pub fn word(&self) -> &'static str {
        match self {
            Attempt::NotOurs => "not-ours",
            Attempt::Damaged => "damaged",
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
    /// Serves whose mail stays here or goes to nobody. Gives the others, by next hop and by program.
    fn serve_here(&mut self, tools: &mut Tools<'_>) -> Result<(Groups, Groups), Error> {
        let config = &tools.settings.config;
        let (mut groups, mut handed) = (Groups::default(), Groups::default());
        for number in 0..self.message.recipients.len() {
            let Some(recipient) = self.message.recipients.get(number) else { continue };
            if !matches!(recipient.state, RecipientState::Waiting | RecipientState::Trying) {
                continue;
            }
            let address = recipient.address.or_at(&config.myhostname);
            let way = way::route(tools.settings, &self.message, &address);
            log::debug!("id={} to=<{}> event=trying way={:?}", self.message.id, field(&address), way::told(&way));
            match way {
                Ok(transport) if hop_of(&transport).is_some() => groups.add(&transport, &self.message, number, address),
                Ok(Transport::Other(name, place)) if name == QUEUE => {
                    handed.put((name, place, String::new()), &self.message, number, address);
                }
                Ok(transport) => self.here(tools, number, &address, &transport)?,
                Err(outcome) => self.one(config, number, &address, |_, _| Ok(outcome))?,
            }
        }
        Ok((groups, handed))
    }

    /// How often the one of them was tried that was tried most often.
    fn attempts(&self, group: &Group) -> u32 {
        let recipients = group.to.iter().filter_map(|(number, _)| self.message.recipients.get(*number));
        recipients.map(|recipient| recipient.attempts).max().unwrap_or_default()
    }

    /// All recipients of one next hop.
    fn send(&mut self, tools: &Tools<'_>, group: &Group) -> Result<(), Error> {
        let mut never = None;
        for part in group.to.chunks(tools.settings.config.smtp_destination_recipient_limit.max(1) as usize) {
            match &never {
                None => never = self.there(tools, group, part)?,
                // Asking again for each part would only give the sender several returns, in a busy moment.
                Some(why) => self.nowhere(&tools.settings.config, part, why)?,
            }
            if self.busy.as_ref() == Some(&group.key()) {
                // For the same reason no part goes before the one that waits.
                break;
            }
        }
        Ok(())
    }

    /// Tells the sender what there is to tell, and ends the attempt.
    fn conclude(mut self, tools: &Tools<'_>) -> Result<Attempt, Error> {
        let (queue, config) = (tools.queue, &tools.settings.config);
        let message = &mut self.message;
        // Whoever waits for a place is tried soon, and the sender then hears of all who failed by one report.
        let told = match self.busy {
            Some(_) if report::may_wait(config, message) => Ok(()),
            _ => report::tell(queue, config, message).and_then(|()| report::warn(queue, config, message, self.now)),
        };
        // While a sender waits to hear of it, nothing is forgotten.
        if told.is_ok() && message.recipients.iter().all(|recipient| recipient.state.is_done()) {
            self.message.remove()?;
            return Ok(Attempt::Finished);
        }
        if let (Some(key), true) = (self.busy.take(), told.is_ok()) {
            return Ok(Attempt::Waits(key));
        }
        let next = self.put_off(config)?;
        told.map(|()| Attempt::Deferred(next))
    }

    /// Sets the next try, and gives it. The wait begins when the try is over: that may have taken longer.
    fn put_off(&mut self, config: &Config) -> Result<SystemTime, Error> {
        let next = schedule::next_try(config, &self.message.id, self.message.created, SystemTime::now());
        self.message.defer_until(next)?;
        Ok(next)
    }

    /// One recipient whose mail does not go through the network.
    fn here(
        &mut self,
        tools: &mut Tools<'_>,
        number: usize,
        address: &Address,
        transport: &Transport,
    ) -> Result<(), Error> {
        let (config, desk) = (&tools.settings.config, tools.desk);
        let Some(shared) = Shared::of(config, &self.message, address, transport) else {
            return self.one(config, number, address, |_, _| Ok(way::carry_nowhere(transport)));
        };
        let has_pass = *transport == Transport::Mailbox && desk.has_pass(shared.limit);
        let key = if has_pass { None } else { Some(shared.key(config, &self.message, address)) };
        if let Some(key) = key.filter(|key| self.uses.as_ref() != Some(key)) {
            match self.want(desk, &key, shared.limit, Errand::Here)? {
                Permit::Go(_) => self.uses = Some(key),
                Permit::Busy | Permit::Dead(_) => {
                    self.busy = Some(key);
                    return Ok(());
                }
            }
        }
        let (settings, helper) = (tools.settings, tools.helper.as_deref_mut());
        let act = |message: &Message, search| {
            Ok(way::carry_here(settings, helper, &Copy { message, number, address, search }, transport))
        };
        let has_it = self.tried(config, number, address, act)?;
        if has_it && self.is_over() && shared.is_found_again(&self.message) {
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
    fn want(&mut self, desk: &Desk, key: &str, limit: u32, errand: Errand) -> Result<Permit, Error> {
        if let Some(key) = self.uses.take() {
            desk.say(&Word::Done { key, reusable: false, silent: None }).map_err(broken)?;
        }
        desk.want(key, limit, errand).map_err(broken)
    }

    /// Asks for an agent to a next hop. A new one for a domain is asked first where that is: another one may be connected to
    /// the same hosts already, or nobody answer there.
    fn want_agent(&mut self, tools: &Tools<'_>, group: &Group) -> Result<Permit, Error> {
        let (config, desk, key) = (&tools.settings.config, tools.desk, group.key());
        // Whoever wrote to us has chosen where a report goes, but where the administrator has named the next hop.
        let is_report = group.is_by_domain() && group.sender.0.is_none();
        let errand = if is_report { Errand::Report } else { Errand::Mail };
        let mut socket = match self.want(desk, &key, crew::limit(config), errand)? {
            Permit::Go(Lent { agent: Some(socket), is_new: true, .. }) if group.is_by_domain() => socket,
            permit => return Ok(permit),
        };
        // One that is broken will be found so.
        let hosts = agent::home(&mut socket, &group.domain).unwrap_or_default();
        if hosts.is_empty() {
            return Ok(Permit::Go(Lent { agent: Some(socket), is_new: true, silent: String::new() }));
        }
        match desk.home(&hosts).map_err(broken)? {
            Permit::Go(lent) if lent.agent.is_none() => Ok(Permit::Go(Lent { agent: Some(socket), ..lent })),
            refusal @ (Permit::Dead(_) | Permit::Busy) => {
                desk.say(&Word::Done { key, reusable: false, silent: None }).map_err(broken)?;
                Ok(refusal)
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
        let has_it = matches!(outcome, Outcome::Delivered(_));
        self.note(config, number, address, outcome)?;
        Ok(has_it)
    }

    /// Recipients of one next hop. Gives why there is none, if that is for good.
    fn there(&mut self, tools: &Tools<'_>, group: &Group, to: &[(usize, Address)]) -> Result<Option<String>, Error> {
        let (config, desk) = (&tools.settings.config, tools.desk);
        let key = group.key();
        let permit = self.want_agent(tools, group)?;
        let (mut never, mut told) = (None, Ok(()));
        let outcomes = match permit {
            Permit::Busy => {
                self.busy = Some(key);
                return Ok(None);
            }
            Permit::Dead(why) => {
                self.begin_all(to)?;
                vec![Outcome::Deferred(why); to.len()]
            }
            Permit::Go(lent) => {
                self.begin_all(to)?;
                let job = self.job(group, to, lent.silent)?;
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
                let silent = silent.into_iter().map(|(address, why)| Word::Silent { address, why });
                let its_silence = match carried.site {
                    Site::Answers => None,
                    Site::Silent(why) => Some(why),
                    Site::Never(why) => {
                        never = Some(why);
                        None
                    }
                };
                let done = Word::Done { key, reusable: is_reusable, silent: its_silence };
                told = silent.chain([done]).try_for_each(|word| desk.say(&word));
                carried.outcomes
            }
        };
        self.note_all(config, to, outcomes)?;
        // Not before the note: a host that has the message must not get it again.
        told.map_err(broken)?;
        Ok(never)
    }

    /// More recipients of a next hop that is known to be none.
    fn nowhere(&mut self, config: &Config, to: &[(usize, Address)], why: &str) -> Result<(), Error> {
        self.begin_all(to)?;
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
        match self.want(desk, &key, crew::limit(config), Errand::Here)? {
            Permit::Go(_) => {}
            Permit::Busy | Permit::Dead(_) => {
                self.busy = Some(key);
                return Ok(());
            }
        }
        self.begin_all(to)?;
        let addresses: Vec<&Address> = to.iter().map(|(_, address)| address).collect();
        let outcomes = piped::qmail_queue(config, &group.hop, &self.message, &group.sender, &addresses);
        self.note_all(config, to, outcomes)?;
        desk.say(&Word::Done { key, reusable: false, silent: None }).map_err(broken)
    }

    fn job(&self, group: &Group, to: &[(usize, Address)], silent: String) -> Result<Job, Error> {
        let message = &self.message;
        let (file, start) = message.for_reading()?;
        let source = Source { file, start, size: message.size, lines: message.lines };
        let nothing = RecipientParameters::default();
        let to = to.iter().map(|(number, address)| {
            To::new(address, message.recipients.get(*number).map_or(&nothing, |recipient| &recipient.parameters))
        });
        let way = (&*group.transport, &*group.hop, &*group.domain);
        let job = Job::new(&message.id, way, &group.sender, &message.parameters, to.collect(), source);
        Ok(Job { silent, is_filtered: message.attribute("content_filter").is_some(), ..job })
    }

    /// Marks all of these as being tried.
    fn begin_all(&mut self, to: &[(usize, Address)]) -> Result<(), Error> {
        to.iter().try_for_each(|(number, _)| self.begin(*number).map(|_| ()))
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
            Outcome::Delivered(how) => (RecipientState::Delivered, format!("2.0.0 {how}"), "delivered"),
            Outcome::Listed => (RecipientState::Delivered, "2.0.0 delivered to list".to_owned(), "delivered"),
            Outcome::Relayed(why) => (RecipientState::Delivered, format!("{}: {why}", report::RELAYED), "relayed"),
            Outcome::PassedOn(why) => (RecipientState::Delivered, format!("{}: {why}", report::PASSED_ON), "relayed"),
            Outcome::Replaced(why) => (RecipientState::Delivered, format!("{}: {why}", report::PASSED_ON), "expanded"),
            Outcome::Expanded(why) => (RecipientState::Delivered, format!("{}: {why}", report::EXPANDED), "expanded"),
            Outcome::Deferred(why) => (RecipientState::Waiting, why, "deferred"),
            Outcome::Failed(why) => (RecipientState::Failed, why, "failed"),
        };
        self.message.mark(number, state, &why, false)?;
        let delay = schedule::age(expand::arrived(&self.message), SystemTime::now()).as_secs_f64();
        let (id, from, to) = (&self.message.id, field(&self.message.reverse_path), field(address));
        log::info!("id={id} from={from} to=<{to}> status={status} delay={delay:.1} reason={}", quoted(&why));
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

fn broken(error: io::Error) -> Error {
    Error::Io(format!("the process that gives out work: {error}"))
}

#[cfg(test)]
mod tests;
