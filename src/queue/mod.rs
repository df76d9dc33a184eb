//! The queue: one file a message, written in place. The layout is in `file.rs` and, octet by octet, in
//! doc/internals.md.
//!
//! `queue_directory/` holds `message/H/ID` (H: the last character of ID), the FIFO `trigger`, and where smtpd or
//! systemd made it, the socket `submit`.

pub mod file;
pub mod id;

use crate::message::path::{Address, ReversePath};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use file::{Draft, Message, RecipientState};
pub use id::Id;

/// Why the queue could not do it.
#[derive(Debug)]
pub enum Error {
    /// No space, no inodes, over quota.
    Full,
    /// Anything else; for the log.
    Io(String),
}

/// The queue of this machine.
#[derive(Debug)]
pub struct Queue {
    /// Its top folder.
    pub path: PathBuf,
}

impl Queue {
    /// Opens the queue; makes its folders (0700) and the FIFO where they are missing. It must belong to this process's
    /// user (exit 77 otherwise: `crate::exit::Error::Permission`).
    pub fn open(_path: &Path) -> Result<Queue, crate::exit::Error> {
        todo!()
    }

    /// Begins a message: content, reverse-path and recipients are added, then it is committed; dropped, it is gone.
    pub fn begin(&self) -> Result<Draft, Error> {
        todo!()
    }

    /// The same under a given id, for return messages, whose id comes from the message they return, so that a repeat
    /// after a crash finds its own file. `None` if it is there already.
    pub fn begin_as(&self, _id: &Id) -> Result<Option<Draft>, Error> {
        todo!()
    }

    /// Wakes a waiting `deliver --watch`. False: nobody reads the FIFO.
    pub fn wake(&self) -> bool {
        todo!()
    }

    /// Every message whose next try is not after `now`, oldest due first, without opening any.
    pub fn due(&self, _now: SystemTime) -> io::Result<Vec<Id>> {
        todo!()
    }

    /// Locks and opens a message. `None`: gone, locked by another, or incomplete (removed if an hour old).
    /// A file that is no message of ours is left alone and logged.
    pub fn take(&self, _id: &Id) -> Result<Option<Message>, Error> {
        todo!()
    }
}

/// A recipient in the queue.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// Who.
    pub address: Address,
    /// How far it is.
    pub state: RecipientState,
    /// How often it has been tried.
    pub attempts: u32,
    /// What the last try came to, for people and return messages: `5.1.1 no such user`. At most 120 octets.
    pub report: String,
}

/// What a draft needs besides content and recipients.
#[derive(Debug, Clone)]
pub struct Head {
    /// Where failures go.
    pub reverse_path: ReversePath,
    /// The Received field, with its line end; at most `file::TRACE_ROOM` octets.
    pub trace: Vec<u8>,
    /// The channel it came in on.
    pub channel: String,
}
