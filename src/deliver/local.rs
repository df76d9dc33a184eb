//! Delivery into a mailbox on this machine: whose it is, what is written, and who may write it.

use super::Outcome;
use super::helper::Helper;
use crate::config::Config;
use crate::lookup::Lookup;
use crate::mailbox;
use crate::message::path::{Address, ReversePath};
use crate::message::verp;
use crate::queue::Message;
use crate::submit::verify;
use crate::users::User;
use std::io::{self, Read};
use std::time::SystemTime;

/// What came of a try to append to a mailbox. It must fit an exit status: the child that becomes the user has no
/// other way to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is there, on disk.
    Done,
    /// The device is full.
    NoRoom,
    /// The user has no room left.
    OverQuota,
    /// The mailbox cannot be opened or written.
    Unusable,
    /// The content did not come whole.
    Incomplete,
    /// Another program has it locked.
    Locked,
    /// Nobody may become this user.
    SystemAccount,
    /// Only root could write it, and we are not started as root.
    NotOurs,
    /// The user could not be looked up.
    CannotTell,
    /// The user is gone since.
    NoUser,
    /// The helper or its child broke down.
    Broken,
}

impl Appended {
    const ALL: [Appended; 11] = [
        Appended::Done,
        Appended::NoRoom,
        Appended::OverQuota,
        Appended::Unusable,
        Appended::Incomplete,
        Appended::Locked,
        Appended::SystemAccount,
        Appended::NotOurs,
        Appended::CannotTell,
        Appended::NoUser,
        Appended::Broken,
    ];

    /// As an exit status.
    pub fn code(self) -> u8 {
        Self::ALL.iter().position(|known| *known == self).and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
    }

    /// From an exit status; whatever we never give is a breakdown.
    pub fn from_code(code: u8) -> Appended {
        Self::ALL.get(usize::from(code)).copied().unwrap_or(Appended::Broken)
    }

    fn outcome(self) -> Outcome {
        match self {
            Appended::Done => Outcome::Delivered,
            Appended::NoRoom => Outcome::Deferred("4.3.1 no room on the disk of the mailbox".to_owned()),
            Appended::OverQuota => Outcome::Deferred("4.2.2 the mailbox is full".to_owned()),
            Appended::Unusable => Outcome::Deferred("4.2.0 the mailbox cannot be written now".to_owned()),
            Appended::Incomplete => Outcome::Deferred("4.3.0 the message could not be read".to_owned()),
            Appended::Locked => Outcome::Deferred("4.2.0 another program has the mailbox locked".to_owned()),
            Appended::SystemAccount => Outcome::Deferred("4.2.1 a system account has no mailbox".to_owned()),
            Appended::NotOurs => {
                Outcome::Deferred("4.3.5 the mailbox is another user's, and deliver was not started as root".to_owned())
            }
            Appended::CannotTell => Outcome::Deferred("4.3.0 users cannot be looked up now".to_owned()),
            Appended::NoUser => no_such_user(),
            Appended::Broken => Outcome::Deferred("4.3.0 local delivery broke down".to_owned()),
        }
    }
}

fn no_such_user() -> Outcome {
    Outcome::Failed("5.1.1 no such user here".to_owned())
}

/// Delivers one message to one recipient, whose domain is ours. `search`: an earlier try may have come to its end.
pub fn deliver(
    config: &Config,
    helper: Option<&mut Helper>,
    message: &Message,
    number: usize,
    address: &Address,
    search: bool,
) -> Outcome {
    let user = match verify::local_user(config, address) {
        Lookup::Yes(user) => user,
        Lookup::No => return no_such_user(),
        Lookup::CannotTell(why) => {
            log::warn!("id={} to=<{address}>: {why}", message.id);
            return Appended::CannotTell.outcome();
        }
    };
    let base = base(message, number, &config.myhostname);
    let mut content = Content::new(message, &verp::expand(&message.reverse_path, address));
    let own = nix::unistd::geteuid().as_raw();
    match (user.owner, helper) {
        (None, _) => append(config, &user, &base, search, &mut content),
        (Some((uid, _)), _) if uid == own => append(config, &user, &base, search, &mut content),
        (Some(_), Some(helper)) => helper.deliver(&user.name, &base, search, content.size(), &mut content),
        (Some(_), None) => Appended::NotOurs,
    }
    .outcome()
}

/// Appends to a user's mailbox with the rights this process has.
pub fn append(config: &Config, user: &User, base: &str, search: bool, content: &mut dyn Read) -> Appended {
    let mailbox = user.mailbox_path(config);
    let result = mailbox::deliver(config, &mailbox, base, search, content);
    let Err(error) = result else { return Appended::Done };
    log::warn!("user={} mailbox={}: {error}", user.name, mailbox.path);
    match error.kind() {
        io::ErrorKind::StorageFull => Appended::NoRoom,
        io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Appended::OverQuota,
        io::ErrorKind::UnexpectedEof => Appended::Incomplete,
        io::ErrorKind::WouldBlock => Appended::Locked,
        _ => Appended::Unusable,
    }
}

/// The unique part of the message's file name: from the queue id and the recipient's number alone, so that a repeat
/// has the same. Short, because it is a unique-id of POP3 with the sizes behind it: 70 octets in all.
fn base(message: &Message, number: usize, host: &str) -> String {
    let seconds = message.created.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let host = host.split('.').next().unwrap_or_default();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(12).collect();
    let host = if host.is_empty() { "localhost" } else { &host };
    format!("{seconds}.Q{}R{number}.{host}", message.id)
}

/// What is written: the Return-Path field, then trace field and content as they are queued.
///
/// Return-Path fields that came with the message are left alone: ours is the first line, and what was sent arrives
/// octet by octet (RFC 5321 section 4.4 lets us remove them, and asks for it of nobody but gateways).
struct Content<'a> {
    message: &'a Message,
    field: Vec<u8>,
    offset: u64,
}

impl<'a> Content<'a> {
    fn new(message: &'a Message, reverse_path: &ReversePath) -> Self {
        Content { message, field: format!("Return-Path: {reverse_path}\n").into_bytes(), offset: 0 }
    }

    fn size(&self) -> u64 {
        (self.field.len() as u64).saturating_add(self.message.size)
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let in_field = self.field.len() as u64;
        let count = match self.offset.checked_sub(in_field) {
            None => {
                let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
                self.field.get(start..).unwrap_or_default().read(buffer)?
            }
            Some(offset) => self.message.read_at(buffer, offset).map_err(|_| io::ErrorKind::UnexpectedEof)?,
        };
        if count == 0 && !buffer.is_empty() && self.offset < self.size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset = self.offset.saturating_add(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_survives_the_exit_status() {
        for result in Appended::ALL {
            assert_eq!(Appended::from_code(result.code()), result);
        }
        assert_eq!(Appended::Done.code(), 0);
        assert_eq!(Appended::from_code(200), Appended::Broken);
    }

    #[test]
    fn every_reason_fits_the_queue_file_and_begins_with_its_status() {
        for result in Appended::ALL {
            match result.outcome() {
                Outcome::Delivered => assert_eq!(result, Appended::Done),
                Outcome::Deferred(why) => assert!(why.starts_with("4.") && why.len() <= 120, "{why}"),
                Outcome::Failed(why) => assert!(why.starts_with("5.") && why.len() <= 120, "{why}"),
            }
        }
    }
}
