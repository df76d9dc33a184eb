//! The program under the name `qmail-queue`: the message on descriptor 0, the envelope on descriptor 1, and nothing said
//! but by the exit status (qmail-queue(8)).
//!
//! The envelope is `F` sender NUL, `T` recipient NUL for each, and a last NUL. The message is kept octet by octet.

use super::hand_in::Way;
use crate::config::Config;
use crate::exit::Error;
use crate::message::path::{Address, LONGEST_ADDRESS, ReversePath};
use crate::message::trace::{Client, Protocol};
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
    envelope: &mut dyn BufRead,
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
    let sender = record(envelope, b'F')?.ok_or(Refused::Envelope)?;
    let sender = ReversePath::from_internal(&sender).ok().filter(ReversePath::is_usable).ok_or(Refused::Envelope)?;
    let sender = sender.completed(&config.myhostname).map_err(|_| Refused::AddressTooLong)?;
    submit.reverse_path_with(&sender, &before_queue::said()).map_err(trouble)?;
    while let Some(recipient) = record(envelope, b'T')? {
        let recipient = Address::from_internal(&recipient).map_err(|_| Refused::Envelope)?;
        match submit.recipient(&recipient).map_err(trouble)? {
            Verdict::Accepted => {}
            Verdict::TooMany | Verdict::CannotTell => return Err(Refused::Temporarily),
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

/// One address with the letter before it; nothing at the last NUL.
fn record(envelope: &mut dyn BufRead, letter: u8) -> Result<Option<Vec<u8>>, Refused> {
    let mut octets = Vec::new();
    let longest = LONGEST_ADDRESS as u64 + 2;
    envelope.take(longest + 1).read_until(0, &mut octets).map_err(|_| Refused::Read)?;
    match octets.split_last() {
        // Cut off: an end of input is no end of an envelope.
        None => Err(Refused::Read),
        Some((0, [])) if letter == b'T' => Ok(None),
        Some((0, record)) => match record.split_first() {
            Some((first, address)) if *first == letter => Ok(Some(address.to_vec())),
            _ => Err(Refused::Envelope),
        },
        Some(_) if octets.len() as u64 > longest => Err(Refused::AddressTooLong),
        Some(_) => Err(Refused::Read),
    }
}

fn trouble(error: Error) -> Refused {
    log::error!("{error}");
    match error {
        Error::Temporary(_) => Refused::Write,
        _ => Refused::Temporarily,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(mut envelope: &[u8]) -> Result<Vec<Vec<u8>>, Refused> {
        let mut found = vec![record(&mut envelope, b'F')?.ok_or(Refused::Envelope)?];
        while let Some(recipient) = record(&mut envelope, b'T')? {
            found.push(recipient);
        }
        Ok(found)
    }

    #[test]
    fn an_envelope_is_read_and_wrong_ones_have_qmails_statuses() {
        assert_eq!(records(b"Fa@x\0Tb@x\0Tc@x\0\0").unwrap(), [&b"a@x"[..], b"b@x", b"c@x"]);
        assert_eq!(records(b"F\0Tb\0\0").unwrap(), [&b""[..], b"b"]);
        for (envelope, refused) in [
            (&b""[..], Refused::Read),
            (b"Fa@x\0Tb@x\0", Refused::Read),
            (b"Fa@x", Refused::Read),
            (b"\0", Refused::Envelope),
            (b"Ta@x\0\0", Refused::Envelope),
            (b"Fa@x\0Fb@x\0\0", Refused::Envelope),
        ] {
            assert_eq!(records(envelope), Err(refused), "{envelope:?}");
        }
        assert_eq!(records(&[&b"F"[..], &[b'a'; 2000], b"\0\0"].concat()), Err(Refused::AddressTooLong));
    }
}
