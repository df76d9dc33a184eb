//! One message on disk.

use super::{Error, Head, Id, Recipient};
use crate::message::path::{Address, ReversePath};
use std::time::SystemTime;

/// Room for the Received field in front of the content, which comes before the field's facts are known.
pub const TRACE_ROOM: usize = 2048;

/// How far a recipient is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientState {
    /// To be tried.
    Waiting,
    /// A try has begun; found in a message nobody has locked, it ended in a crash, and the mailbox must be searched.
    Trying,
    /// Done.
    Delivered,
    /// Given up; a return message is due.
    Failed,
    /// Given up, and the return message is queued (or was not wanted).
    Returned,
}

/// A message being written. Dropped without `commit`, its file is removed.
#[derive(Debug)]
pub struct Draft {
    #[doc(hidden)]
    pub todo: (),
}

impl Draft {
    /// Its id.
    pub fn id(&self) -> &Id {
        todo!()
    }

    /// Adds octets of content; not after `end_content`.
    pub fn content(&mut self, _octets: &[u8]) -> Result<(), Error> {
        todo!()
    }

    /// Adds a recipient; kept in memory until `end_content`, written through after it.
    pub fn recipient(&mut self, _address: &Address) -> Result<(), Error> {
        todo!()
    }

    /// No content comes after this.
    pub fn end_content(&mut self) -> Result<(), Error> {
        todo!()
    }

    /// Octets so far, content and envelope.
    pub fn size(&self) -> u64 {
        todo!()
    }

    /// Puts the message on disk: trace, envelope, complete, fsync of file and folder, link count. Only after this may
    /// a client be told that it is taken.
    pub fn commit(self, _head: &Head) -> Result<Id, Error> {
        todo!()
    }
}

/// A queued message, locked until dropped.
#[derive(Debug)]
pub struct Message {
    /// Its id.
    pub id: Id,
    /// Where failures go.
    pub reverse_path: ReversePath,
    /// The channel it came in on.
    pub channel: String,
    /// When it was queued.
    pub created: SystemTime,
    /// Octets of trace field and content.
    pub size: u64,
    /// All recipients, by number.
    pub recipients: Vec<Recipient>,
}

impl Message {
    /// Reads octets of trace field and content at `offset`; 0: at the end.
    pub fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> Result<usize, Error> {
        todo!()
    }

    /// Records how far a recipient is. `durable`: on disk before this returns.
    pub fn mark(&mut self, _number: usize, _state: RecipientState, _report: &str, _durable: bool) -> Result<(), Error> {
        todo!()
    }

    /// Sets the next try. To be called after the marks of a try, which change the file's time.
    pub fn defer_until(&self, _time: SystemTime) -> Result<(), Error> {
        todo!()
    }

    /// Removes it: every recipient is done.
    pub fn remove(self) -> Result<(), Error> {
        todo!()
    }
}
