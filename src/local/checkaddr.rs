//! What would become of an address, step by step: the questions that smtpsrvr asks of a client and of RCPT, by the same
//! code, with each step told.

use crate::channel::Channels;
use crate::config::Config;
use crate::exit::Error;
use crate::lookup::Lookup;
use crate::message::path::ReversePath;
use crate::net::peer::Peer;
use crate::smtp::command;
use crate::smtp::reply::Reply;
use crate::submit::{Policy, Verdict, verify};
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
    let (reply, answer) = match channels.incoming_traced(&question.peer, question.only, question.finicky, tell)? {
        Lookup::No => (Reply::not_listed(), Answer::Refused),
        Lookup::CannotTell(_) => (Reply::cannot_tell_channel(), Answer::CannotTell),
        Lookup::Yes(found) => {
            let (from, policy) = (&found.channel.name, Policy::of(found));
            let address = command::lone_address(question.address.as_bytes());
            let verdict = match address {
                Ok(address) => verify::judge_traced(config, channels, from, policy, &ReversePath::NULL, &address, tell),
                Err(_) => {
                    tell(format_args!("{}: no address", question.address.escape_debug()));
                    Verdict::BadAddress
                }
            };
            (Reply::verdict(verdict), answer(verdict))
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

fn answer(verdict: Verdict) -> Answer {
    match verdict {
        Verdict::Accepted => Answer::Taken,
        Verdict::UnknownUser | Verdict::UnknownHost | Verdict::NotAllowed | Verdict::BadAddress | Verdict::Closed => {
            Answer::Refused
        }
        Verdict::CannotTell | Verdict::ClosedNow | Verdict::TooMany => Answer::CannotTell,
    }
}
