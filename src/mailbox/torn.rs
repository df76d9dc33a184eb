//! What a crash left at the end of a mailbox that is one file: the beginning of a message that nobody was told is delivered.
//!
//! Whoever appends next looks here first, whichever message he brings: behind another message a torn one could not be
//! taken off any more. Under the locks nobody is writing, so a message that is marked partial was given up, and its
//! queue still has it. Only what is certain to hold nothing else is named: where a separator stands behind that mark, even in the
//! middle of a line, or any line begins with `From ` unquoted, another program may have appended, and then the beginning stays.
//!
//! A power cut may also have kept a size without what was written there, which reads as zeros, or have cut the message off before
//! its mark.

use super::mbox::{self, FROM};
use super::mmdf::DELIMITER;
use super::scan::{MARK, PARTIAL, WHOLE};
use crate::config::value::MailboxFormat;
use memchr::{memchr, memmem, memrchr};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What a power cut leaves ends with one of these, unless zeros follow.
const SECTOR: u64 = 512;
/// How much is read at once.
const PIECE: u64 = 64 * 1024;
/// Longer than any separator that is known.
const LINE: u64 = 1100;
/// What stands before the mark, and it, are never longer.
const HEAD: u64 = 8192;
/// No further back is it looked for the beginning of the last message.
const FARTHEST: u64 = 64 << 20;
/// So many words are looked at that may be a separator: somebody may have sent a message of nothing else.
const MOST_WORDS: u32 = 10_000;

/// The end of a mailbox. Behind what is torn there may have been more of it: who cuts it off looks again.
#[derive(Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing is known to be wrong.
    Sound,
    /// From here on it holds the rest of a delivery that broke off, and nothing else.
    Torn(u64),
    /// The last message is the one that was asked for, and is whole.
    Delivered,
}

/// Looks at the end of a mailbox that is locked. `base` is the mark of a message that may be there.
pub fn look(file: &File, format: MailboxFormat, base: &str) -> io::Result<Tail> {
    let size = file.metadata()?.len();
    let Some(end) = without_zeros(file, size)? else { return Ok(Tail::Sound) };
    let begin = match format {
        MailboxFormat::Mmdf => last_of_mmdf(file, end)?,
        _ => last_of_mbox(file, end, end < size || size.is_multiple_of(SECTOR))?,
    };
    let head = match begin {
        Some(begin) => read(file, begin, end.min(begin.saturating_add(HEAD)))?,
        None => Vec::new(),
    };
    Ok(match (begin, state(format, &head, base)) {
        (Some(begin), State::Partial) => Tail::Torn(begin),
        (_, State::Whole) if end == size => Tail::Delivered,
        // A message ends with a line end, whoever wrote it.
        _ if end < size => Tail::Torn(end),
        _ => Tail::Sound,
    })
}

/// Whether all behind the separator at `start`, where a message of ours begins, is ours by the looks of it. Unlike [`look`] this
/// takes a quoted separator for our own: nobody's but where the message broke off between `>` and what it quotes.
pub fn is_ours_alone(file: &File, format: MailboxFormat, start: u64) -> io::Result<bool> {
    let end = file.metadata()?.len();
    let found = match format {
        MailboxFormat::Mmdf => {
            let length = DELIMITER.len() as u64;
            // The last one ends it.
            let is_closed = read(file, end.saturating_sub(length).max(start + 1), end)? == DELIMITER;
            let end = if is_closed { end - length } else { end };
            backwards(file, end, start + 1, DELIMITER, |_, _| Word::Unsure)?
        }
        _ => backwards(file, end, start + 1, FROM, |before, line| {
            let is_foreign = at_line_start(before) || mbox::is_separator(line) && !is_quote(before);
            if is_foreign { Word::Unsure } else { Word::Nothing }
        })?,
    };
    Ok(matches!(found, Last::Nowhere))
}

/// Where the octets end that are no zeros, if it is not too far to the front.
fn without_zeros(file: &File, size: u64) -> io::Result<Option<u64>> {
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

/// Where the last message of an mbox begins, if that is certain. `is_cut`: by the looks of it the power was cut.
fn last_of_mbox(file: &File, end: u64, is_cut: bool) -> io::Result<Option<u64>> {
    let is_begin = |before: &[u8]| before.is_empty() || before.ends_with(b"\n\n") || before.ends_with(b"\n\r\n");
    // Cut off in its first word.
    let last = read(file, end.saturating_sub(FROM.len() as u64 + 3), end)?;
    let line = memrchr(b'\n', &last).map_or(0, |at| at + 1);
    let (before, word) = last.split_at(line);
    let is_all = last.len() as u64 == end;
    if !word.is_empty() && FROM.starts_with(word) && (!before.is_empty() || is_all) && is_begin(before) {
        return Ok(Some(end - word.len() as u64));
    }
    let found = backwards(file, end, end.saturating_sub(FARTHEST), FROM, |before, line| {
        let is_whole_line = line.ends_with(b"\n");
        let may_separate = if is_whole_line { mbox::is_separator(line) } else { is_begun(line, is_cut) };
        match (may_separate, is_begin(before)) {
            (true, true) => Word::Begins,
            (true, false) => Word::Unsure,
            // Ours is quoted.
            (false, _) if at_line_start(before) => Word::Unsure,
            (false, _) => Word::Nothing,
        }
    })?;
    Ok(found.place())
}

fn at_line_start(before: &[u8]) -> bool {
    before.is_empty() || before.ends_with(b"\n")
}

/// Whether what stands before a word are the `>` that quote it.
fn is_quote(before: &[u8]) -> bool {
    let marks = before.iter().rev().take_while(|octet| **octet == b'>').count();
    marks > 0 && before.get(..before.len() - marks).is_some_and(|before| before.ends_with(b"\n"))
}

/// Whether a line that is cut off may be one of our separators, and not a sentence of somebody who ends his last line with no
/// line end.
fn is_begun(line: &[u8], is_cut: bool) -> bool {
    let sender = line.strip_prefix(FROM).unwrap_or_default();
    let sender = sender.split(|octet| *octet == b' ').next().unwrap_or_default();
    let date = line.get(FROM.len() + sender.len() + 1..).unwrap_or_default();
    let shape = b"Day Mon 00 00:00:00 0000";
    let fits = |(octet, shape): (&u8, &u8)| match shape {
        b'0' => octet.is_ascii_digit() || *octet == b' ',
        b' ' | b':' => octet == shape,
        _ => octet.is_ascii_alphabetic(),
    };
    let is_sender = is_cut || memchr(b'@', sender).is_some() || b"MAILER-DAEMON".starts_with(sender);
    is_sender && !sender.is_empty() && date.len() <= shape.len() && date.iter().zip(shape).all(fits)
}

/// The same for MMDF, where a line ends the message before and another one begins this one.
fn last_of_mmdf(file: &File, end: u64) -> io::Result<Option<u64>> {
    let is_begin = |before: &[u8]| before.is_empty() || before.ends_with(DELIMITER);
    let length = DELIMITER.len() as u64;
    let last = read(file, end.saturating_sub(2 * length), end)?;
    for count in (1..DELIMITER.len()).rev() {
        let before = last.strip_suffix(DELIMITER.get(..count).unwrap_or_default());
        if before.is_some_and(is_begin) {
            return Ok(Some(end - count as u64));
        }
    }
    let delimiter = |end: u64| {
        let judge = |before: &[u8], _: &[u8]| if at_line_start(before) { Word::Begins } else { Word::Unsure };
        backwards(file, end, end.saturating_sub(FARTHEST), DELIMITER, judge).map(Last::place)
    };
    match delimiter(end)? {
        // The message ends here, unless this line stands alone.
        Some(last) if last + length == end && last > 0 => match delimiter(last)? {
            Some(first) if first + length == last => Ok(Some(last)),
            first => Ok(first),
        },
        other => Ok(other),
    }
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

/// What a search came to.
enum Last {
    /// The place that was looked for.
    At(u64),
    /// There is none.
    Nowhere,
    /// That cannot be told.
    Unsure,
}

impl Last {
    fn place(self) -> Option<u64> {
        match self {
            Last::At(place) => Some(place),
            Last::Nowhere | Last::Unsure => None,
        }
    }
}

/// The last place of a word behind `stop` that `judge` takes; it is given what stands before, as far as it matters, and the rest of
/// the line.
fn backwards(file: &File, end: u64, stop: u64, word: &[u8], judge: impl Fn(&[u8], &[u8]) -> Word) -> io::Result<Last> {
    const BEFORE: u64 = 64;
    let finder = memmem::FinderRev::new(word);
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
                return Ok(Last::Unsure);
            }
            let (before, line) = piece.split_at(at);
            let line = line.get(..memchr(b'\n', line).map_or(line.len(), |at| at + 1)).unwrap_or_default();
            match judge(before, line) {
                Word::Begins => return Ok(Last::At(start + at as u64)),
                Word::Unsure => return Ok(Last::Unsure),
                Word::Nothing => {}
            }
        }
        behind = from;
    }
    Ok(Last::Nowhere)
}

/// What a message is, by its first lines.
#[derive(PartialEq, Eq)]
enum State {
    /// Ours, and broken off.
    Partial,
    /// The one that was asked for.
    Whole,
    /// Another's, or an older one.
    Other,
}

/// `head`: from its separator to the end of the mailbox, or as much of that as matters.
fn state(format: MailboxFormat, head: &[u8], base: &str) -> State {
    let mut lines = head.split_inclusive(|octet| *octet == b'\n');
    let is_separator = |line: &[u8]| match format {
        MailboxFormat::Mmdf => DELIMITER.starts_with(line),
        _ => begins(line, FROM),
    };
    let is_path = |line: &[u8]| begins(line, b"Return-Path: <");
    if head.is_empty() || head.len() as u64 == HEAD && memchr(b'\n', head).is_none() {
        return State::Other;
    }
    for is_ours in [&is_separator as &dyn Fn(&[u8]) -> bool, &is_path] {
        match lines.next() {
            Some(line) if !is_ours(line) => return State::Other,
            Some(line) if line.ends_with(b"\n") => {}
            // Nothing came behind: there is no message.
            _ => return State::Partial,
        }
    }
    let Some(line) = lines.next() else { return State::Partial };
    let mark = line.strip_prefix(MARK).unwrap_or_default();
    let is_partial = mark.strip_suffix(PARTIAL).is_some_and(|base| base.iter().all(u8::is_ascii_graphic));
    match line.ends_with(b"\n") {
        true if is_partial => State::Partial,
        true if mark.strip_prefix(base.as_bytes()) == Some(WHOLE) => State::Whole,
        false if begins(line, MARK) => State::Partial,
        _ => State::Other,
    }
}

/// Whether a line, which may be cut off, begins with a text.
fn begins(line: &[u8], text: &[u8]) -> bool {
    line.starts_with(text) || text.starts_with(line)
}

fn read(file: &File, from: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut octets = vec![0; usize::try_from(end.saturating_sub(from)).unwrap_or(0)];
    file.read_exact_at(&mut octets, from)?;
    Ok(octets)
}

#[cfg(test)]
mod tests;
