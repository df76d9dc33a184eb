//! Mailboxes: what POP3 reads (a [`Maildrop`]) and where deliver appends. Maildir; mbox and MMDF later.

pub mod maildir;

use std::io;

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
    /// Anything else; for the log.
    Io(String),
}

/// A mailbox opened for one POP3 session: locked, and a snapshot. What is closed without `remove` is unchanged.
pub trait Maildrop {
    /// All messages, by number from 0.
    fn entries(&self) -> &[Entry];
    /// Opens the content of a message as it lies on disk.
    fn open(&self, number: usize) -> io::Result<Box<dyn io::Read>>;
    /// Removes messages for good (UPDATE). Gives how many could not be removed; gone already counts as removed.
    fn remove(&mut self, numbers: &[usize]) -> io::Result<usize>;
}
