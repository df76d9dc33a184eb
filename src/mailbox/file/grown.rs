//! A mailbox that has only grown since its index was made: what is old comes out of the index, what is new is scanned.
//!
//! Other programs append, or they write anew what stands behind the first message they change or take out, so that all
//! behind it moves. So the last message of the index is read again as a whole, where it was; also the first, and some
//! between. If each is what it was, so is the rest. What even so was changed in its place is found when it is read, and
//! the index is forgotten then; QUIT never asks an index.

use super::{Found, Message};
use crate::config::value::MailboxFormat;
use crate::mailbox::index::{Index, Stamp};
use crate::mailbox::scan::{Scan, scan_from, scan_one};
use std::fs::File;

/// The second stamp of an index that may be used when the file has grown. No file has it.
const MAY_GROW: Stamp = [1, 0, 0, 0, 0, 0];
/// The second stamp of others.
const MAY_NOT: Stamp = [2, 0, 0, 0, 0, 0];
/// So many messages are read again.
const SAMPLES: usize = 16;
/// Longer ones are not among them.
const LONGEST_SAMPLE: u64 = 64 * 1024;

/// What goes beside the stamp of the file into an index of a scan.
pub fn stamps(of_file: Stamp, is_open: bool) -> [Stamp; 2] {
    [of_file, if is_open { MAY_NOT } else { MAY_GROW }]
}

/// The messages that are as an index says, and a scan of all behind them; nothing if it may not count.
pub fn messages(
    file: &File,
    format: MailboxFormat,
    index: &Index<Message>,
    now: &Stamp,
) -> Option<(Vec<Message>, Scan)> {
    if !index.is_outgrown(0, now) || !index.is_stamped(1, &MAY_GROW) {
        return None;
    }
    let mut old = index.all().ok()?;
    let found: Vec<Found> = old.iter().map(|message| message.found).collect();
    let scan = rest(file, format, &found)?;
    old.pop();
    Some((old, scan))
}

/// Scans from the last of these messages on; nothing if they are not what they were.
pub fn rest(file: &File, format: MailboxFormat, old: &[Found]) -> Option<Scan> {
    let (last, before) = old.split_last()?;
    let is_same = |found: &Found| found.next - found.start > LONGEST_SAMPLE || scan_one(file, format, found);
    let step = before.len().div_ceil(SAMPLES).max(1);
    if !before.iter().step_by(step).chain(before.last()).all(is_same) {
        return None;
    }
    let scan = scan_from(file, format, last.start, before.is_empty()).ok()?;
    let again = scan.messages.first()?;
    let lasting = |found: &Found| (found.start, found.header, found.body, found.fields, found.body_sum);
    (lasting(again) == lasting(last)).then_some(scan)
}

#[cfg(test)]
mod tests;
