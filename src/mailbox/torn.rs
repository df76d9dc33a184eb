//! What a crash left at the end of a mailbox that is one file: the beginning of a message that nobody was told is
//! delivered.
//!
//! Whoever appends next looks here first, whichever message he brings. Under the locks nobody is writing, so a message
//! that is marked partial was given up, and its queue still has it. The repeat of that very message goes on where it
//! ended (`append.rs`), and needs no cut. Another one may cut it off, for behind that it could not be taken off any more;
//! but only where nothing behind the mark can be another program's: a message of an mbox begins with `From `, so no such
//! word may stand there, at no place of a line, and quoted as little, for ours may have broken off right behind the `>`.
//!
//! A power cut may also have kept a size without what was written there, which reads as zeros, or have cut the message
//! off before its mark. Zeros are cut off behind one of ours, where a message would begin, and where a sector does; of
//! a message without its mark what has a whole separator, no octet of content, and ends where a sector does. Less than
//! a separator might be anybody's last words, and stays.

use super::mbox::{self, FROM};
use super::mmdf::DELIMITER;
use crate::config::value::MailboxFormat;
use memchr::{memchr, memmem};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Begins the second line of what we deliver.
pub const MARK: &[u8] = b"X-Delivery-ID: ";
/// In place of [`WHOLE`] until all of the message is on disk.
pub const PARTIAL: &[u8] = b" partial\n";
/// The end of the mark; as long as the other, so that it can be written over it.
pub const WHOLE: &[u8] = b" whole  \n";
/// What a power cut leaves ends with one of these, unless zeros follow; and what a signal leaves with a page.
const SECTOR: u64 = 512;
/// How much is read at once.
const PIECE: u64 = 64 * 1024;
/// How much is read at once where all of a mailbox may have to be.
const LARGE_PIECE: u64 = 1 << 20;
/// Longer than any separator that is known.
pub const LINE: u64 = 1100;
/// What stands before the mark, and it, are never longer.
const HEAD: u64 = 8192;
/// No further back is it looked for the beginning of the last message.
const FARTHEST: u64 = 64 << 20;
/// So many words are looked at that may be a separator: somebody may have sent a message of nothing else.
const MOST_WORDS: u32 = 10_000;
/// So many octets are searched for a mark: anybody can make a mailbox of his own larger than all disks.
const MOST_SEARCHED: u64 = 4 << 30;
/// A hole costs so much less than what must be read.
const HOLE_COSTS_LESS: u64 = 64;

/// The end of a mailbox. Behind what is torn there may have been more of it: who cuts it off looks again.
#[derive(Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing is known to be wrong.
    Sound,
    /// From here on it holds the rest of a delivery that broke off, and nothing else.
    Torn(u64),
    /// Here begins the message that was asked for, and did not come to its end. What stands behind it is not known.
    Begun(u64),
    /// Here begins the message that was asked for, and it is whole.
    Delivered(u64),
}

/// Looks at the end of a mailbox that is locked. `base` is the mark of a message that may be there.
pub fn look(file: &File, format: MailboxFormat, base: &str) -> io::Result<Tail> {
    let size = file.metadata()?.len();
    let Some(end) = without_zeros(file, size)? else { return Ok(Tail::Sound) };
    let last = match format {
        MailboxFormat::Mmdf => last_of_mmdf(file, end)?,
        _ => last_of_mbox(file, end)?,
    };
    let head = match &last {
        Some(last) => read(file, last.begin, end.min(last.begin.saturating_add(HEAD)))?,
        None => Vec::new(),
    };
    let is_cut = end < size || size.is_multiple_of(SECTOR);
    Ok(match (last, state(format, &head, base)) {
        (Some(last), State::Begun) => Tail::Begun(last.begin),
        (Some(last), State::Partial) if last.is_alone => Tail::Torn(last.begin),
        (Some(last), State::Stub) if is_cut => Tail::Torn(last.begin),
        (Some(last), State::Whole) if end == size => Tail::Delivered(last.begin),
        _ if end < size && (end.is_multiple_of(SECTOR) || is_closed(file, format, end)?) => Tail::Torn(end),
        _ => Tail::Sound,
    })
}

/// Looks for a message in all of a mailbox, from its end on and no further than [`MOST_SEARCHED`]. Of two places, one of
/// which has it whole, that one counts; else the last.
pub fn find(file: &File, format: MailboxFormat, base: &str) -> io::Result<Tail> {
    let needle = [b"\n", MARK, base.as_bytes()].concat();
    let finder = memmem::FinderRev::new(&needle);
    let (mut behind, mut left, mut found) = (file.metadata()?.len(), MOST_SEARCHED, Tail::Sound);
    let mut words = 0;
    while behind > 0 && left > 0 && words < MOST_WORDS {
        let from = behind.saturating_sub(LARGE_PIECE);
        if is_hole(file, from, behind) {
            left = left.saturating_sub(LARGE_PIECE / HOLE_COSTS_LESS);
            behind = from;
            continue;
        }
        left = left.saturating_sub(LARGE_PIECE);
        // A mark that begins in this piece may end in the next.
        let end = behind.saturating_add(needle.len() as u64 + WHOLE.len() as u64);
        let piece = read(file, from, end.min(file.metadata()?.len()))?;
        let here = usize::try_from(behind - from).unwrap_or(usize::MAX);
        for at in finder.rfind_iter(&piece).filter(|at| *at < here) {
            let state = piece.get(at + needle.len()..).unwrap_or_default();
            let is_whole = is_whole(state);
            if !is_whole && (!state.starts_with(PARTIAL) || found != Tail::Sound) {
                continue;
            }
            words += 1;
            if words > MOST_WORDS {
                break;
            }
            if let Some(start) = begin_of(file, format, from + at as u64 + 1)? {
                if is_whole {
                    return Ok(Tail::Delivered(start));
                }
                found = Tail::Begun(start);
            }
        }
        behind = from;
    }
    if behind > 0 || words > MOST_WORDS {
        log::warn!("event=mailbox-too-large searched=end for={base}");
    }
    Ok(found)
}

/// Where the message begins whose mark is here; nothing if this is only text that looks like a mark.
fn begin_of(file: &File, format: MailboxFormat, mark: u64) -> io::Result<Option<u64>> {
    let from = mark.saturating_sub(HEAD);
    let before = read(file, from, mark)?;
    let line_before = |end: usize| {
        let lines = before.get(..end).unwrap_or_default();
        lines.strip_suffix(b"\n").map(|lines| memchr::memrchr(b'\n', lines).map_or(0, |at| at + 1))
    };
    let Some(path) = line_before(before.len()) else { return Ok(None) };
    let Some(start) = line_before(path) else { return Ok(None) };
    let (above, separator) = before.get(..path).unwrap_or_default().split_at(start);
    if above.is_empty() && from > 0 {
        // It may begin in the middle of a line, where nothing is quoted.
        return Ok(None);
    }
    let is_path = before.get(path..).is_some_and(|line| line.starts_with(b"Return-Path: <"));
    let begins = match format {
        MailboxFormat::Mmdf => separator == DELIMITER,
        _ => mbox::is_separator(separator) && (above.is_empty() || ends_message(above)),
    };
    Ok((is_path && begins).then_some(from + start as u64))
}

/// Where a message of ours that begins here has the state in its mark.
pub fn state_at(file: &File, start: u64, base: &str) -> io::Result<u64> {
    let head = read(file, start, file.metadata()?.len().min(start.saturating_add(HEAD)))?;
    let mark = [b"\n", MARK, base.as_bytes()].concat();
    let at = memmem::find(&head, &mark).ok_or(io::ErrorKind::InvalidData)?;
    Ok(start + (at + mark.len()) as u64)
}

/// Whether a state says so. A power cut may leave the new one in one sector and the old one in the next; it was begun
/// when all the rest was on disk.
fn is_whole(state: &[u8]) -> bool {
    let may_be = |(octet, (new, old))| octet == new || octet == old;
    state.len() >= WHOLE.len() && !state.starts_with(PARTIAL) && state.iter().zip(WHOLE.iter().zip(PARTIAL)).all(may_be)
}

/// Whether nothing is stored between these places.
fn is_hole(file: &File, from: u64, end: u64) -> bool {
    let Ok(place) = i64::try_from(from) else { return false };
    match lseek(file, place, Whence::SeekData) {
        Ok(data) => u64::try_from(data).is_ok_and(|data| data >= end),
        Err(nix::errno::Errno::ENXIO) => true,
        Err(_) => false,
    }
}

/// Where the octets end that are no zeros, if it is not too far to the front.
pub fn without_zeros(file: &File, size: u64) -> io::Result<Option<u64>> {
    let mut end = size;
    while end > 0 && size - end < FARTHEST {
        let from = end.saturating_sub(PIECE);
        let piece = read(file, from, end)?;
        if let Some(at) = piece.iter().rposition(|octet| *octet != 0) {
            return Ok(Some(from + at as u64 + 1));
        }
        end = from;
    }
    Ok((end == 0).then_some(0))
}

/// Whether a message may begin here.
fn is_closed(file: &File, format: MailboxFormat, end: u64) -> io::Result<bool> {
    let before = read(file, end.saturating_sub(DELIMITER.len() as u64), end)?;
    Ok(before.is_empty()
        || match format {
            MailboxFormat::Mmdf => before.ends_with(DELIMITER),
            _ => ends_message(&before),
        })
}

/// Whether a message of an mbox may begin behind this, which is not the begin of the file: behind an empty line.
pub fn ends_message(before: &[u8]) -> bool {
    before.ends_with(b"\n\n") || before.ends_with(b"\n\r\n")
}

/// The last message.
struct Last {
    /// Where its separator begins.
    begin: u64,
    /// Nothing behind that looks in any way like another message.
    is_alone: bool,
}

/// The last message of an mbox, if it is certain that it is the last.
fn last_of_mbox(file: &File, end: u64) -> io::Result<Option<Last>> {
    let mut is_alone = true;
    let found = backwards(file, end, FROM, |before, line| {
        let is_first = before.is_empty();
        if mbox::is_separator(line) && line.ends_with(b"\n") && (is_first || ends_message(before)) {
            return Word::Begins;
        }
        is_alone = false;
        // Ours is quoted.
        if is_first || before.ends_with(b"\n") { Word::Unsure } else { Word::Nothing }
    })?;
    Ok(found.map(|begin| Last { begin, is_alone }))
}

/// The same for MMDF, where a line ends the message before and another one begins this one.
fn last_of_mmdf(file: &File, end: u64) -> io::Result<Option<Last>> {
    let length = DELIMITER.len() as u64;
    let last = read(file, end.saturating_sub(2 * length), end)?;
    for count in (1..DELIMITER.len()).rev() {
        let before = last.strip_suffix(DELIMITER.get(..count).unwrap_or_default());
        if before.is_some_and(|before| before.is_empty() || before.ends_with(DELIMITER)) {
            return Ok(Some(Last { begin: end - count as u64, is_alone: true }));
        }
    }
    let delimiter = |end: u64| {
        backwards(file, end, DELIMITER, |before, _| {
            if before.is_empty() || before.ends_with(b"\n") { Word::Begins } else { Word::Unsure }
        })
    };
    let begin = match delimiter(end)? {
        // The message ends here, unless this line stands alone.
        Some(last) if last + length == end && last > 0 => match delimiter(last)? {
            Some(first) if first + length == last => Some(last),
            first => first,
        },
        other => other,
    };
    Ok(begin.map(|begin| Last { begin, is_alone: true }))
}

/// What a word is that was looked for.
enum Word {
    /// The beginning of the last message.
    Begins,
    /// Nothing of that kind.
    Nothing,
    /// Perhaps of another program: nothing is certain any more.
    Unsure,
}

/// The last place of a word that `judge` takes; it is given what stands before, as far as it matters, and the rest of the
/// line.
fn backwards(
    file: &File,
    end: u64,
    word: &[u8],
    mut judge: impl FnMut(&[u8], &[u8]) -> Word,
) -> io::Result<Option<u64>> {
    const BEFORE: u64 = 64;
    let finder = memmem::FinderRev::new(word);
    let stop = end.saturating_sub(FARTHEST);
    let (mut behind, mut words) = (end, 0);
    while behind > stop {
        let from = behind.saturating_sub(PIECE).max(stop);
        let start = from.saturating_sub(BEFORE);
        let piece = read(file, start, end.min(behind.saturating_add(LINE)))?;
        let first = usize::try_from(from - start).unwrap_or(0);
        let last = usize::try_from(behind - start).unwrap_or(0);
        // A word that begins in this piece may end in the next.
        let searched = piece.get(..(last + word.len() - 1).min(piece.len())).unwrap_or_default();
        for at in finder.rfind_iter(searched).take_while(|at| *at >= first) {
            words += 1;
            if words > MOST_WORDS {
                return Ok(None);
            }
            let (before, line) = piece.split_at(at);
            let line = line.get(..memchr(b'\n', line).map_or(line.len(), |at| at + 1)).unwrap_or_default();
            match judge(before, line) {
                Word::Begins => return Ok(Some(start + at as u64)),
                Word::Unsure => return Ok(None),
                Word::Nothing => {}
            }
        }
        behind = from;
    }
    Ok(None)
}

/// What a message is, by its first lines.
#[derive(PartialEq, Eq)]
enum State {
    /// The one that was asked for, broken off.
    Begun,
    /// Another one of ours, broken off.
    Partial,
    /// It ends before its mark, or its first field.
    Stub,
    /// The one that was asked for.
    Whole,
    /// Another's, or an older one.
    Other,
}

/// `head`: from its separator to the end of the mailbox, or as much of that as matters.
fn state(format: MailboxFormat, head: &[u8], base: &str) -> State {
    let mut lines = head.split_inclusive(|octet| *octet == b'\n');
    match lines.next() {
        Some(line) if line == DELIMITER && format == MailboxFormat::Mmdf => {}
        Some(line) if format == MailboxFormat::Mmdf && DELIMITER.starts_with(line) => return State::Stub,
        Some(line) if mbox::is_separator(line) && line.ends_with(b"\n") && format != MailboxFormat::Mmdf => {}
        _ => return State::Other,
    }
    match lines.next() {
        None => return State::Stub,
        Some(line) if !begins(line, b"Return-Path: <") => return State::Other,
        Some(line) if !line.ends_with(b"\n") => {
            return if (head.len() as u64) < HEAD { State::Stub } else { State::Other };
        }
        Some(_) => {}
    }
    let Some(line) = lines.next() else { return State::Stub };
    let mark = line.strip_prefix(MARK).unwrap_or_default();
    let partial = mark.strip_suffix(PARTIAL).filter(|base| base.iter().all(u8::is_ascii_graphic));
    match line.ends_with(b"\n") {
        true if partial == Some(base.as_bytes()) => State::Begun,
        true if partial.is_some() => State::Partial,
        true if mark.strip_prefix(base.as_bytes()).is_some_and(is_whole) => State::Whole,
        false if begins(line, MARK) => State::Stub,
        _ => State::Other,
    }
}

/// Whether a line, which may be cut off, begins with a text.
fn begins(line: &[u8], text: &[u8]) -> bool {
    line.starts_with(text) || text.starts_with(line)
}

/// Reads what is between two places.
pub fn read(file: &File, from: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut octets = vec![0; usize::try_from(end.saturating_sub(from)).unwrap_or(0)];
    file.read_exact_at(&mut octets, from)?;
    Ok(octets)
}

#[cfg(test)]
mod tests;
