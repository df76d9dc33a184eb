//! The program under the name `qmail-queue`: the message on descriptor 0, the envelope on descriptor 1, and nothing said
//! but by the exit status (qmail-queue(8)).
//!
//! The message is kept octet by octet.

use super::hand_in::Way;
use crate::config::Config;
use crate::exit::Error;
use crate::message::path::ReversePath;
use crate::message::trace::{Client, Protocol};
use crate::program::envelope::{self, Fault};
use crate::queue::Id;
use crate::submit::{Introduction, Outcome, Policy, Refusal, Verdict, before_queue};
use std::io::{self, BufRead, Read};

/// Why a message was not queued, as qmail's exit statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// 11: an address too long.
    AddressTooLong = 11,
    /// 31: it will never be taken.
    Permanently = 31,
    /// 53: the queue cannot be written, or is full.
    Write = 53,
    /// 54: message or envelope cannot be read.
    Read = 54,
    /// 55: the channels file is wrong.
    Configuration = 55,
    /// 61: there is no queue for us.
    NoQueue = 61,
    /// 71: not now.
    Temporarily = 71,
    /// 91: the envelope is wrong.
    Envelope = 91,
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Refused {
        match fault {
            Fault::Unreadable => Refused::Read,
            Fault::TooLong => Refused::AddressTooLong,
            Fault::Wrong => Refused::Envelope,
        }
    }
}

/// Queues the message; gives its queue id.
pub fn submit(
    config: &Config,
    way: Result<Way<'_>, Error>,
    message: &mut dyn Read,
    envelope: &mut dyn BufRead,
) -> Result<String, Refused> {
    let mut way = way.map_err(|error| {
        log::error!("{error}");
        match error {
            Error::Temporary(_) => Refused::Write,
            Error::Config(_) => Refused::Configuration,
            _ => Refused::NoQueue,
        }
    })?;
    // It is by this name that filters hand a message back.
    way.come_from_filter();
    let id = feed(config, &mut way, message, envelope)?;
    // Of the message that a filter was given, if it kept that in its environment: the records lead from it to this one.
    if let Some(before) = variable(before_queue::ID).and_then(|text| text.parse::<Id>().ok()) {
        log::info!("id={before} event=filtered into={id}");
    }
    way.wake();
    Ok(id)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn feed(
    config: &Config,
    way: &mut Way<'_>,
    message: &mut dyn Read,
    input: &mut dyn BufRead,
) -> Result<String, Refused> {
    let submit = way.submit();
    let client = Client { helo: None, name: None, address: "local".to_owned(), tls: None };
    let (channel, policy, protocol) = ("local".to_owned(), Policy::Anywhere, Protocol::Local);
    submit.introduce(&Introduction { channel, policy, protocol, client }).map_err(trouble)?;
    let mut piece = vec![0; 64 * 1024];
    loop {
        match message.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => submit.content(piece.get(..count).unwrap_or_default()).map_err(trouble)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Refused::Read),
        }
    }
    let sender = Some(envelope::sender(input)?).filter(ReversePath::is_usable).ok_or(Refused::Envelope)?;
    let sender = sender.completed(&config.myhostname).map_err(|_| Refused::AddressTooLong)?;
    submit.reverse_path_with(&sender, &before_queue::said()).map_err(trouble)?;
    while let Some(recipient) = envelope::recipient(input)? {
        recipient.completed(&config.myhostname).map_err(|_| Refused::AddressTooLong)?;
        match submit.recipient(&recipient).map_err(trouble)? {
            Verdict::Accepted => {}
            Verdict::TooMany | Verdict::CannotTell => return Err(Refused::Temporarily),
            Verdict::Closed(closed) if closed.is_for_now() => return Err(Refused::Temporarily),
            _ => return Err(Refused::Permanently),
        }
    }
    match submit.commit().map_err(trouble)? {
        Outcome::Queued(id) => Ok(id),
        Outcome::Refused(refusal) => {
            log::error!("{refusal}");
            Err(match refusal {
                Refusal::TooLarge | Refusal::TooManyHops | Refusal::Filtered => Refused::Permanently,
                Refusal::NoRecipients | Refusal::Recipient(_) => Refused::Envelope,
                Refusal::NoRoom | Refusal::Trouble => Refused::Write,
            })
        }
    }
}

fn trouble(error: Error) -> Refused {
    log::error!("{error}");
    match error {
        Error::Temporary(_) => Refused::Write,
        _ => Refused::Temporarily,
    }
}
