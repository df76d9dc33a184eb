//! What came of a task at a mailbox, a program or a `~/.forward`, and how that is told: as an exit status by the child that
//! became the user, as an [`Outcome`] to everybody else.

use super::Outcome;
use crate::config::value::MailboxFormat;
use crate::program::{NEVER, with_words};
use std::io;

/// Where a message was delivered to, for the log: Postfix's words.
pub const TO_MAILDIR: &str = "delivered to maildir";
const TO_MAILBOX: &str = "delivered to mailbox";
pub const TO_FILE: &str = "delivered to file";
pub const TO_COMMAND: &str = "delivered to command";

/// The words for a mailbox of this format.
pub fn to(format: MailboxFormat) -> &'static str {
    match format {
        MailboxFormat::Maildir => TO_MAILDIR,
        MailboxFormat::Mbox | MailboxFormat::Mmdf => TO_MAILBOX,
    }
}

/// What came of a task. It must fit an exit status: the child that becomes the user has no
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
    /// There is a `~/.forward` to be read first.
    HasForward,
    /// The `~/.forward` cannot be read now.
    ForwardUnreadable,
    /// The alias file or `~/.forward` names this target no more.
    NotListed,
    /// The program cannot be run.
    ProgramTrouble,
    /// The program said that it may be better later, or was killed.
    ProgramTemporary,
    /// The program refused the message.
    ProgramFailed,
    /// The same, with the status of this place in [`NEVER`].
    ProgramNever(u8),
}

impl Appended {
    const ALL: [Appended; 17] = [
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
        Appended::HasForward,
        Appended::ForwardUnreadable,
        Appended::NotListed,
        Appended::ProgramTrouble,
        Appended::ProgramTemporary,
        Appended::ProgramFailed,
    ];

    /// As an exit status. That of a program is behind all others.
    pub fn code(self) -> u8 {
        if let Appended::ProgramNever(place) = self {
            return place.saturating_add(Self::ALL.len() as u8);
        }
        Self::ALL.iter().position(|known| *known == self).and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
    }

    /// From an exit status; whatever we never give is a breakdown.
    pub fn from_code(code: u8) -> Appended {
        match code.checked_sub(Self::ALL.len() as u8) {
            Some(place) if usize::from(place) < NEVER.len() => Appended::ProgramNever(place),
            _ => Self::ALL.get(usize::from(code)).copied().unwrap_or(Appended::Broken),
        }
    }

    /// The same, with where it is, or what a program said that failed.
    pub fn outcome_with(self, place: &'static str, said: &str) -> Outcome {
        match self.outcome() {
            Outcome::Delivered(_) => Outcome::Delivered(place),
            Outcome::Deferred(why) if self == Appended::ProgramTemporary => Outcome::Deferred(with_words(&why, said)),
            Outcome::Failed(why) if matches!(self, Appended::ProgramFailed | Appended::ProgramNever(_)) => {
                Outcome::Failed(with_words(&why, said))
            }
            outcome => outcome,
        }
    }

    /// What the recipient's slot and the sender are told.
    pub fn outcome(self) -> Outcome {
        match self {
            Appended::Done => Outcome::Delivered("delivered"),
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
            Appended::HasForward | Appended::ForwardUnreadable => {
                Outcome::Deferred("4.2.0 the user's forward file cannot be read now".to_owned())
            }
            // Somebody may be at work on the file.
            Appended::NotListed => Outcome::Deferred("4.1.1 the address stands for something else now".to_owned()),
            Appended::ProgramTrouble => {
                Outcome::Deferred("4.3.5 the program for this address cannot be run".to_owned())
            }
            Appended::ProgramTemporary => {
                Outcome::Deferred("4.3.0 the program for this address did not end well".to_owned())
            }
            Appended::ProgramFailed => {
                Outcome::Failed("5.3.0 the program for this address refused the message".to_owned())
            }
            Appended::ProgramNever(place) => {
                let meaning = NEVER.get(usize::from(place)).map_or("5.3.0 failure", |(_, meaning)| meaning);
                Outcome::Failed(format!("{meaning}, says the program for this address"))
            }
        }
    }

    /// What an error of a mailbox is.
    pub fn of(user: &str, path: &str, error: &io::Error) -> Appended {
        log::warn!("user={user} mailbox={path}: {error}");
        match error.kind() {
            io::ErrorKind::StorageFull => Appended::NoRoom,
            io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Appended::OverQuota,
            io::ErrorKind::UnexpectedEof => Appended::Incomplete,
            io::ErrorKind::WouldBlock => Appended::Locked,
            _ => Appended::Unusable,
        }
    }
}

/// Nobody is called so, and never will be by waiting.
pub fn no_such_user() -> Outcome {
    Outcome::Failed("5.1.1 no such user here".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Appended> {
        Appended::ALL.into_iter().chain((0..10).map(Appended::ProgramNever))
    }

    #[test]
    fn every_result_survives_the_exit_status() {
        for result in all() {
            assert_eq!(Appended::from_code(result.code()), result);
        }
        let behind = Appended::ALL.len() + NEVER.len();
        assert_eq!(Appended::from_code(u8::try_from(behind).unwrap()), Appended::Broken);
        assert_eq!(Appended::Done.code(), 0);
        assert_eq!(Appended::from_code(200), Appended::Broken);
    }

    #[test]
    fn every_reason_fits_the_queue_file_and_begins_with_its_status() {
        for result in all() {
            match result.outcome() {
                Outcome::Delivered(_) => assert_eq!(result, Appended::Done),
                Outcome::Deferred(why) => assert!(why.starts_with("4.") && why.len() <= 120, "{why}"),
                Outcome::Failed(why) => assert!(why.starts_with("5.") && why.len() <= 120, "{why}"),
                other => panic!("{result:?}: {other:?}"),
            }
        }
    }
}
