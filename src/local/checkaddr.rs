//! What would become of an address, step by step: the questions that smtpsrvr asks of a client and of RCPT, by the same
//! code, with each step told. Behind an alias `members.rs` tells of everybody it leads to.

mod members;

use crate::channel::{AUTHENTICATED, Channels};
use crate::config::Config;
use crate::exit::Error;
use crate::lookup::Lookup;
use crate::message::path::ReversePath;
use crate::net::peer::Peer;
use crate::smtp::command;
use crate::smtp::reply::Reply;
use crate::submit::verify::Judge;
use crate::submit::{Policy, Verdict};
use std::fmt::Arguments;

/// What is asked.
#[derive(Debug)]
pub struct Question<'a> {
    /// As behind VRFY.
    pub address: &'a str,
    /// Who would send.
    pub peer: Peer,
    /// The channels the client is looked up in; empty: all.
    pub only: &'a [String],
    /// Whether a client on none of them is refused.
    pub finicky: bool,
    /// Whether the client has logged in.
    pub login: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The recipient is taken.
    Taken,
    /// It is not.
    Refused,
    /// Nobody can tell now.
    CannotTell,
}

/// Answers, telling each step and at last what the client would hear.
pub fn ask(
    config: &Config,
    channels: &Channels,
    question: &Question<'_>,
    tell: &mut dyn FnMut(Arguments<'_>),
) -> Result<Answer, Error> {
    let (reply, answer) = match incoming(channels, question, tell)? {
        Lookup::No => (Reply::not_listed(), Answer::Refused),
        Lookup::CannotTell(_) if question.finicky => (Reply::cannot_tell_yet(), Answer::CannotTell),
        Lookup::CannotTell(_) => (Reply::cannot_tell_channel(), Answer::CannotTell),
        Lookup::Yes((from, policy)) => {
            let address = command::lone_address(question.address.as_bytes());
            let verdict = match address {
                Ok(address) => {
                    let sender = ReversePath::NULL;
                    let judge = Judge { config, channels, from: &from, policy, sender: &sender };
                    let verdict = judge.traced(&address, tell);
                    if verdict == Verdict::Accepted {
                        members::follow(config, channels, &address, tell);
                    }
                    verdict
                }
                Err(_) => {
                    tell(format_args!("{}: no address", question.address.escape_debug()));
                    Verdict::BadAddress
                }
            };
            (Reply::verdict(&verdict), answer(&verdict))
        }
    };
    let mut octets = Vec::new();
    reply.put(&mut octets, config.soft_bounce);
    let what = match answer {
        Answer::Taken => "taken",
        Answer::Refused => "refused",
        Answer::CannotTell => "cannot tell",
    };
    tell(format_args!("verdict: {what}: {}", String::from_utf8_lossy(&octets).trim_end()));
    Ok(answer)
}

/// The channel that mail would come in on. Who logs in is asked for no other one, but by a finicky server, before the greeting.
fn incoming(
    channels: &Channels,
    question: &Question<'_>,
    tell: &mut dyn FnMut(Arguments<'_>),
) -> Result<Lookup<(String, Policy)>, Error> {
    let logged_in = (AUTHENTICATED.to_owned(), Policy::Channels);
    let found = match question.login && !question.finicky {
        true => Lookup::Yes(logged_in),
        false => channels
            .incoming_traced(&question.peer, question.only, question.finicky, tell)?
            .map(|found| if question.login { logged_in } else { (found.channel.name.clone(), Policy::of(found)) }),
    };
    if question.login && matches!(found, Lookup::Yes(_)) {
        match channels.by_name(AUTHENTICATED) {
            Some(channel) => tell(format_args!("{channel}: who has logged in is on it")),
            None => tell(format_args!("channel {AUTHENTICATED} (built in): who has logged in is on it")),
        }
    }
    Ok(found)
}

fn answer(verdict: &Verdict) -> Answer {
    match verdict {
        Verdict::Accepted => Answer::Taken,
        Verdict::Closed(closed) if closed.is_for_now() => Answer::CannotTell,
        Verdict::UnknownUser
        | Verdict::UnknownHost
        | Verdict::NotAllowed
        | Verdict::BadAddress
        | Verdict::Closed(_) => Answer::Refused,
        Verdict::CannotTell | Verdict::TooMany => Answer::CannotTell,
    }
}
