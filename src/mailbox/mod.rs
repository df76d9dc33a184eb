//! Mailboxes: what POP3 reads (a [`Maildrop`]) and where deliver appends. Maildir, and mbox and MMDF, which are one file.

mod append;
pub mod beside;
pub mod file;
pub mod import;
mod index;
pub mod lock;
pub mod maildir;
pub mod mbox;
mod mmdf;
mod place;
mod quote;
pub mod scan;
mod torn;
pub mod way;

use crate::config::Config;
use crate::config::value::{MailboxFormat, MailboxSpec};
use lock::Locking;
use nix::errno::Errno;
use std::io::{self, Read};
use std::path::Path;

/// A message of a maildrop, as it stood when the maildrop was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Octets as POP3 counts them: every line end two, before dot-stuffing (RFC 1939 section 11).
    pub octets: u64,
    /// Unique-id: 1 to 70 octets of 0x21 to 0x7E, the same for ever (RFC 1939 section 7).
    pub unique_id: String,
}

/// Why a maildrop cannot be used.
#[derive(Debug)]
pub enum Error {
    /// Another session has it.
    InUse,
    /// What may be over when it is tried again; for the log.
    Io(String),
    /// What stays until somebody mends it; for the log.
    Unusable(String),
}

impl Error {
    /// What failed, and why.
    fn of(what: &str, error: &io::Error) -> Error {
        let why = format!("{what}: {error}");
        if stays(error) { Error::Unusable(why) } else { Error::Io(why) }
    }
}

/// Whether an error would be there again until somebody mends something: a file that is no mailbox, rights, a folder in
/// the place of a file (RFC 3206 section 4). A full disk is not one of these.
pub fn stays(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    let is_known =
        matches!(error.kind(), InvalidData | IsADirectory | NotADirectory | PermissionDenied | ReadOnlyFilesystem);
    let errno = error.raw_os_error().map(Errno::from_raw);
    is_known || matches!(errno, Some(Errno::ELOOP | Errno::ENAMETOOLONG | Errno::EINVAL))
}

/// A mailbox opened for one POP3 session: locked, and a snapshot. What is closed without `remove` is unchanged.
pub trait Maildrop {
    /// How many messages there are.
    fn count(&self) -> usize;
    /// Octets of all messages, as [`Entry`] counts them.
    fn total(&self) -> u64;
    /// A message, by its number from 0.
    fn entry(&self, number: usize) -> io::Result<Entry>;
    /// All messages.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        (0..self.count()).map(|number| self.entry(number)).collect()
    }
    /// Opens the content of a message as it lies on disk.
    fn open(&self, number: usize) -> io::Result<Box<dyn io::Read>>;
    /// When a message came, in seconds since 1970, where the mailbox says so.
    fn came(&self, _number: usize) -> io::Result<Option<u64>> {
        Ok(None)
    }
    /// Removes messages for good (UPDATE). Gives how many could not be removed; gone already counts as removed.
    fn remove(&mut self, numbers: &[usize]) -> io::Result<usize>;
}

impl Maildrop for Box<dyn Maildrop> {
    fn count(&self) -> usize {
        (**self).count()
    }

    fn total(&self) -> u64 {
        (**self).total()
    }

    fn entry(&self, number: usize) -> io::Result<Entry> {
        (**self).entry(number)
    }

    fn open(&self, number: usize) -> io::Result<Box<dyn Read>> {
        (**self).open(number)
    }

    fn came(&self, number: usize) -> io::Result<Option<u64>> {
        (**self).came(number)
    }

    fn remove(&mut self, numbers: &[usize]) -> io::Result<usize> {
        (**self).remove(numbers)
    }
}

/// Opens a mailbox of any format.
pub fn open(config: &Config, spec: &MailboxSpec) -> Result<Box<dyn Maildrop>, Error> {
    let path = Path::new(&spec.path);
    Ok(match spec.format {
        MailboxFormat::Maildir => Box::new(maildir::Maildir::open_with(path, config.pop3d_undelete)?),
        format @ (MailboxFormat::Mbox | MailboxFormat::Mmdf) => {
            Box::new(file::OneFile::open(path, format, Locking::of(config))?)
        }
    })
}

/// Appends a message to a mailbox of any format: see [`maildir::deliver`], whose arguments these are. With
/// `strict_mailbox_ownership` nothing is appended to what is neither root's nor the user's whose rights we have.
pub fn deliver(
    config: &Config,
    spec: &MailboxSpec,
    base: &str,
    search: bool,
    content: &mut dyn Read,
) -> io::Result<()> {
    let path = Path::new(&spec.path);
    match spec.format {
        MailboxFormat::Maildir => maildir::deliver(path, config.strict_mailbox_ownership, base, search, content),
        format @ (MailboxFormat::Mbox | MailboxFormat::Mmdf) => {
            let locking = Locking::of(config);
            append::deliver(path, format, config.strict_mailbox_ownership, &locking, base, search, content)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_stay_wrong_and_a_full_disk_does_not_stay_full() {
        for errno in [Errno::EACCES, Errno::EPERM, Errno::ELOOP, Errno::ENOTDIR, Errno::EISDIR, Errno::EROFS] {
            assert!(stays(&errno.into()), "{errno}");
        }
        for errno in [Errno::ENOSPC, Errno::EDQUOT, Errno::EIO, Errno::EAGAIN, Errno::EMFILE, Errno::ENOLCK] {
            assert!(!stays(&errno.into()), "{errno}");
        }
        let path = Path::new("/dev/null/Maildir");
        assert!(matches!(maildir::Maildir::open(path), Err(Error::Unusable(_))));
    }
}
