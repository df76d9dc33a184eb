//! One message on disk: a [`Draft`] while it is written, a [`Message`] when it is tried. The octets are in `layout.rs`.
//!
//! A file is created under its final name and written in place. Nought octets stand where its header will be until all
//! else is written, so a crash leaves either an incomplete file, which nobody takes, or a whole one.

use crate::clock::since_1970;
use std::time::SystemTime;

mod draft;
mod message;

pub use draft::{Draft, TRACE_ROOM, Written};
pub(super) use message::Found;
pub use message::{Content, Message, Seen};

/// The bit of a file's mode that says that the message is held.
pub const HELD: u32 = 0o100;

/// Longest channel name.
const LONGEST_CHANNEL: usize = 255;

/// Octets that are collected before a write, so that a small message goes to the file in one, and read at once.
const BUFFER: usize = 64 * 1024;

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

impl RecipientState {
    /// Whether nothing is left to do for the recipient.
    pub fn is_done(self) -> bool {
        matches!(self, RecipientState::Delivered | RecipientState::Returned)
    }
}

/// Since 1970; 0 by a clock of before.
pub(super) fn microseconds(time: SystemTime) -> u64 {
    u64::try_from(since_1970(time).as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
