//! One message: each recipient that is due, and what becomes of it.
//!
//! What a crash may leave behind at each step, and why nothing is lost by it, is in doc/internals.md.

use super::helper::Helper;
use super::local::Copy;
use super::settings::Settings;
use super::{Outcome, local, qmqp, report, schedule};
use crate::channel::Transport;
use crate::config::Config;
use crate::lookup::Lookup;
use crate::message::path::Address;
use crate::queue::{Error, Id, Message, Queue, RecipientState};
use crate::submit::verify;
use std::time::SystemTime;

/// What an attempt at a message came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It is gone, another process has it, or it is not complete.
    NotOurs,
    /// Every recipient is done, and it is removed.
    Finished,
    /// Some recipient waits for the next try.
    Deferred(SystemTime),
}

/// Takes a message and tries every recipient that is not done.
pub fn attempt(queue: &Queue, settings: &Settings, mut helper: Option<&mut Helper>, id: &Id) -> Result<Attempt, Error> {
    let Some(mut message) = queue.take(id)? else { return Ok(Attempt::NotOurs) };
    let config = &settings.config;
    let now = SystemTime::now();
    let next = schedule::next_try(config, message.created, now);
    // Left by a crash: these are returned by themselves, so that the return has the same id as the lost one.
    if message.is_held {
        return Ok(Attempt::NotOurs);
    }
    if let Err(error) = report::tell(queue, config, &mut message) {
        message.defer_until(next)?;
        return Err(error);
    }
    for number in 0..message.recipients.len() {
        let Some(recipient) = message.recipients.get(number).cloned() else { continue };
        if !matches!(recipient.state, RecipientState::Waiting | RecipientState::Trying) {
            continue;
        }
        // A try whose answer never came may have come to its end as well as one that crashed.
        let search = recipient.state == RecipientState::Trying || recipient.attempts > 0;
        message.mark(number, RecipientState::Trying, &recipient.report, false)?;
        let address = recipient.address.or_at(&config.myhostname);
        let copy = OneCopy { message: &message, number, address: &address, search };
        let outcome = route(settings, helper.as_deref_mut(), &copy);
        let outcome = judge(config, outcome, message.created, now);
        note(&mut message, number, &address, &outcome)?;
    }
    let told = report::tell(queue, config, &mut message).and_then(|()| report::warn(queue, config, &mut message, now));
    // While a sender waits to hear of it, nothing is forgotten.
    if told.is_ok()
        && message.recipients.iter().all(|r| matches!(r.state, RecipientState::Delivered | RecipientState::Returned))
    {
        message.remove()?;
        return Ok(Attempt::Finished);
    }
    message.defer_until(next)?;
    told.map(|()| Attempt::Deferred(next))
}

/// A message for one of its recipients.
struct OneCopy<'a> {
    message: &'a Message,
    number: usize,
    address: &'a Address,
    /// An earlier try may have come to its end.
    search: bool,
}

/// By its content_filter, else by its domain: what carries it.
fn route(settings: &Settings, helper: Option<&mut Helper>, copy: &OneCopy<'_>) -> Outcome {
    let (message, address) = (copy.message, copy.address);
    if let Some(filter) = message.attribute("content_filter") {
        return match filtered(settings, filter) {
            Some(transport) => carry(settings, &transport, helper, copy),
            None => Outcome::Deferred(format!("4.3.5 content_filter {filter:.60}: no such transport or channel")),
        };
    }
    let channel = match verify::outgoing(&settings.channels, address) {
        Lookup::Yes(channel) => channel,
        Lookup::No => return Outcome::Failed("5.1.2 no channel leads to this domain".to_owned()),
        Lookup::CannotTell(why) => {
            log::warn!("id={} to=<{address}>: {why}", message.id);
            return Outcome::Deferred("4.4.3 the domain cannot be looked up now".to_owned());
        }
    };
    carry(settings, &channel.transport, helper, copy)
}

/// What `content_filter` names: a transport as in the channels file, or a channel of that name and what carries its mail.
///
/// The queue file says it, and that may come from a program that speaks with the network; so transports that run other
/// programs must stand in the channels file, which only the administrator writes.
fn filtered(settings: &Settings, filter: &str) -> Option<Transport> {
    let runs_nothing = |transport: &Transport| match transport {
        Transport::Smtp(_) => true,
        Transport::Other(name, _) => matches!(name.as_str(), "lmtp" | "qmqp" | "qmtp"),
        Transport::Mailbox | Transport::None => false,
    };
    let with_colon = if filter.contains(':') { filter.to_owned() } else { format!("{filter}:") };
    let named = Transport::parse(&with_colon).ok().filter(runs_nothing);
    let channel = with_colon.split(':').next().and_then(|name| settings.channels.by_name(name));
    named.or_else(|| channel.map(|channel| channel.transport.clone()))
}

/// Hands a copy to a transport.
fn carry(settings: &Settings, transport: &Transport, helper: Option<&mut Helper>, copy: &OneCopy<'_>) -> Outcome {
    let OneCopy { message, number, address, search } = *copy;
    let missing = |transport: &str| Outcome::Deferred(format!("4.4.0 there is no transport {transport} yet"));
    match transport {
        Transport::Mailbox => local::deliver(settings, helper, &Copy { message, number, address, search }),
        Transport::Smtp(_) => missing("smtp"),
        Transport::Other(name, hosts) if name == "qmqp" => qmqp::deliver(hosts, message, address),
        Transport::Other(name, _) => missing(name),
        Transport::None => Outcome::Failed("5.1.2 no mail leaves by the channel of this domain".to_owned()),
    }
}

/// `soft_bounce` lets nothing fail at once; nothing waits longer than `maximal_queue_lifetime`.
fn judge(config: &Config, outcome: Outcome, created: SystemTime, now: SystemTime) -> Outcome {
    let outcome = match outcome {
        Outcome::Failed(why) if config.soft_bounce => {
            Outcome::Deferred(why.strip_prefix('5').map_or(why.clone(), |rest| format!("4{rest}")))
        }
        outcome => outcome,
    };
    match outcome {
        Outcome::Deferred(why) if schedule::is_expired(config, created, now) => {
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

/// Records and logs what a try came to.
fn note(message: &mut Message, number: usize, address: &Address, outcome: &Outcome) -> Result<(), Error> {
    let (state, why, status) = match outcome {
        Outcome::Delivered => (RecipientState::Delivered, "2.0.0 delivered".to_owned(), "delivered"),
        Outcome::Relayed(why) => (RecipientState::Delivered, format!("{}: {why}", report::RELAYED), "relayed"),
        Outcome::PassedOn(why) => (RecipientState::Delivered, format!("{}: {why}", report::PASSED_ON), "relayed"),
        Outcome::Expanded(why) => (RecipientState::Delivered, format!("{}: {why}", report::EXPANDED), "expanded"),
        Outcome::Deferred(why) => (RecipientState::Waiting, why.clone(), "deferred"),
        Outcome::Failed(why) => (RecipientState::Failed, why.clone(), "failed"),
    };
    // Only when that is on disk is it certain that nobody tries again or returns another thing.
    message.mark(number, state, &why, state != RecipientState::Waiting)?;
    let delay = schedule::age(message.created, SystemTime::now()).as_secs_f64();
    let from = &message.reverse_path;
    log::info!("id={} from={from} to=<{address}> status={status} delay={delay:.1} reason=\"{why}\"", message.id);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn judged(settings: &[(&str, &str)], outcome: Outcome, age: u64) -> Outcome {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        judge(&Config::with(settings), outcome, now - Duration::from_secs(age), now)
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
}
