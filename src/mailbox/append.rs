//! Appending a message to a mailbox that is one file, so that neither a crash nor a repeat loses or doubles it.
//!
//! The second line of what is written is `X-Delivery-ID: BASE partial`, and becomes `whole` only when everything is on
//! disk. A repeat that finds it whole has nothing to do. One that finds it partial compares it with what it would write,
//! octet by octet, and goes on where that ended; what else it meets it leaves alone, and writes behind it. `torn.rs`
//! finds both, and says what else may be cut off. An error cuts off what was written, unless an earlier try had begun it,
//! all of it is on disk, and the mark may say so.

use super::lock::{self, Held, Locking};
use super::place::Place;
use super::quote::Quoter;
use super::torn::{self, MARK, PARTIAL, Tail, WHOLE};
use super::{mbox, mmdf, way};
use crate::clock;
use crate::config::value::MailboxFormat;
use memchr::memchr;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

/// Longest first line that is looked at; it is the Return-Path field.
const LONGEST_FIRST_LINE: usize = 4096;
/// Longest mark.
const LONGEST_BASE: usize = 200;

/// Appends a message. `base` tells this delivery from all others, and is the same at every repeat; `search`: the last
/// try may have crashed. The mailbox is made where it is missing, for its owner alone; `strict`: one that is another
/// user's, who could read what arrives there, is left alone.
///
/// `content` gives the message with LF line ends, its Return-Path field first; an error of its own abandons the delivery.
pub fn deliver(
    path: &Path,
    format: MailboxFormat,
    strict: bool,
    locking: &Locking,
    base: &str,
    search: bool,
    content: &mut dyn Read,
) -> io::Result<()> {
    if base.is_empty() || base.len() > LONGEST_BASE || !base.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a name for a message"));
    }
    let place = Place::of(path)?;
    let opened = locking.patiently(|| Ok(open(&place, locking)?));
    let is_locked = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    if opened.as_ref().is_err_and(is_locked) {
        lock::tell_if_for_ever(&place, locking);
    }
    let (file, _held) = opened?;
    if strict && !way::is_trusted(&file)? {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, way::NOT_OURS));
    }
    let tail = loop {
        match torn::look(&file, format, base)? {
            Tail::Torn(at) => {
                if let Some(octets) = cut_off(&file, at)? {
                    log::info!("event=partial-message-removed mailbox={path:?} octets={octets} for={base}");
                }
            }
            Tail::Sound if search => break torn::find(&file, format, base)?,
            tail => break tail,
        }
    };
    if let Tail::Delivered(start) = tail {
        // The try that wrote it may have ended before the mark was on disk, or the disk have failed since: then it is known
        // here alone.
        file.write_all_at(WHOLE, torn::state_at(&file, start, base)?)?;
        file.sync_all()?;
        place.sync()?;
        return still_there(&place, &file);
    }
    let size = file.metadata()?.len();
    let begun = if let Tail::Begun(start) = tail { Some(start) } else { None };
    let mut writing = Writing::new(&file, format, size)?;
    let result = writing.write(base, begun, content);
    let result = result.and_then(|()| Ok(place.sync()?)).and_then(|()| still_there(&place, &file));
    if result.is_err() {
        let cut_off = writing.undo().and_then(|()| file.sync_all());
        let _ = cut_off
            .inspect_err(|error| log::error!("event=partial-message-left base={base} reason={:?}", error.to_string()));
    }
    result
}

/// Cuts off what stands from here on, and gives how much. Another program, which heeds no lock, may have cut off more
/// meanwhile: then nothing is done, for that would put zeros in its place.
fn cut_off(file: &File, at: u64) -> io::Result<Option<u64>> {
    let Some(octets) = file.metadata()?.len().checked_sub(at) else { return Ok(None) };
    file.set_len(at)?;
    Ok(Some(octets))
}

/// Somebody who heeds none of our locks may have put another file in its place, and what is written is nobody's mail.
fn still_there(place: &Place, file: &File) -> io::Result<()> {
    if place.leads_to(file)? {
        Ok(())
    } else {
        Err(io::Error::other("another program put something else in its place"))
    }
}

/// One try to open and lock it.
fn open(place: &Place, locking: &Locking) -> nix::Result<(File, Held)> {
    // Who opens it for writing ends the lease of QUIT (`file/rewrite.rs`), and who waits does that over and over again.
    if lock::are_taken(place, locking) {
        return Err(Errno::EWOULDBLOCK);
    }
    let file = place.open(OFlag::O_RDWR | OFlag::O_CREAT)?;
    match Held::take(place, &file, locking, true, true) {
        // A session of POP3 has put another file in its place.
        Err(Errno::ESTALE) => Err(Errno::EWOULDBLOCK),
        held => Ok((file, held?)),
    }
}

struct Writing<'a> {
    file: &'a File,
    format: MailboxFormat,
    /// Where the next octet goes.
    at: u64,
    /// Where the mailbox ended.
    size: u64,
    /// Where its zeros begin that a power cut left, or [`Writing::size`].
    end: u64,
    /// What an earlier try wrote stands up to [`Writing::end`], as long as it is what would be written now.
    compares: bool,
    /// Where the first field of the message is.
    header: u64,
    separator: Vec<u8>,
    /// Nothing was written behind this.
    reach: u64,
    /// All of it is on disk, and the mark may say so.
    is_whole: bool,
}

impl<'a> Writing<'a> {
    fn new(file: &'a File, format: MailboxFormat, size: u64) -> io::Result<Writing<'a>> {
        let end = torn::without_zeros(file, size)?.unwrap_or(size);
        let (at, header, reach, separator) = (size, size, size, Vec::new());
        Ok(Writing { file, format, at, size, end, compares: false, header, separator, reach, is_whole: false })
    }

    /// `begun`: there an earlier try of this message begins. What it wrote is not written again, where it is the same.
    fn write(&mut self, base: &str, begun: Option<u64>, content: &mut dyn Read) -> io::Result<()> {
        let mut piece = vec![0; 32 * 1024];
        let first = first_line(content)?;
        self.separator = match self.format {
            MailboxFormat::Mmdf => mmdf::DELIMITER.to_vec(),
            _ => mbox::separator(sender(&first), clock::seconds(SystemTime::now())),
        };
        let mut out = match begun {
            Some(start) => self.go_on(start)?,
            None => self.begin()?,
        };
        let before = out.len();
        let mut quoter = Quoter::new(self.format);
        let end = memchr(b'\n', &first).map_or(first.len(), |at| at + 1);
        let (line, rest) = first.split_at(end);
        quoter.push(line, &mut out);
        quoter.push([MARK, base.as_bytes()].concat().as_slice(), &mut out);
        let state = (out.len() - before) as u64;
        quoter.push(PARTIAL, &mut out);
        quoter.push(rest, &mut out);
        loop {
            self.put(&mut out)?;
            match content.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => quoter.push(piece.get(..count).unwrap_or_default(), &mut out),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        quoter.finish(&mut out);
        self.put(&mut out)?;
        if begun.is_some() && self.end <= self.at && self.at < self.size && self.is_last()? {
            // Only zeros are left, behind a message of ours.
            self.file.set_len(self.at)?;
        }
        self.file.sync_all()?;
        // Not before all the rest is on disk.
        self.is_whole = true;
        self.file.write_all_at(WHOLE, self.header + state)?;
        self.file.sync_data()
    }

    /// Makes a place for the message at the end. Gives what must be written there first.
    fn begin(&mut self) -> io::Result<Vec<u8>> {
        // Somebody who heeds no lock may have written since.
        self.size = self.file.metadata()?.len();
        (self.at, self.reach, self.compares) = (self.size, self.size, false);
        let mut out = self.close_last()?;
        out.extend_from_slice(&self.separator);
        self.header = self.at + out.len() as u64;
        Ok(out)
    }

    /// Takes the place where an earlier try began; its separator has another date.
    fn go_on(&mut self, start: u64) -> io::Result<Vec<u8>> {
        let line = torn::read(self.file, start, self.size.min(start.saturating_add(torn::LINE)))?;
        let Some(end) = memchr(b'\n', &line) else { return self.begin() };
        self.header = start + end as u64 + 1;
        (self.at, self.compares) = (self.header, true);
        Ok(Vec::new())
    }

    /// Puts `out` behind what was put before. What is there already is compared. Where it is something else, perhaps
    /// another program's, it is left alone: the message goes to the end of the mailbox, with what of it was the same.
    fn put(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let mut rest = out.as_slice();
        if self.compares {
            let there = self.end.saturating_sub(self.at).min(rest.len() as u64);
            let old = torn::read(self.file, self.at, self.at + there)?;
            // Zeros are what a power cut left in place of a sector: nobody's message begins with them.
            let same = old.iter().zip(rest).take_while(|(old, new)| old == new || **old == 0).count();
            let (known, new) = rest.split_at(same);
            // Also what is the same: a disk that failed may not have it, and nobody hears of that twice.
            self.file.write_all_at(known, self.at)?;
            rest = new;
            self.at += same as u64;
            if same < old.len() {
                self.move_to_the_end()?;
            }
        }
        if !rest.is_empty() {
            self.compares = false;
            self.append(rest)?;
        }
        out.clear();
        Ok(())
    }

    /// Something else stands here: what of the message is before it is written anew.
    fn move_to_the_end(&mut self) -> io::Result<()> {
        let (mut from, to) = (self.header, self.at);
        log::info!("event=partial-message-left octets={} reason=\"something else stands behind it\"", to - from);
        let begin = self.begin()?;
        self.append(&begin)?;
        while from < to {
            let piece = torn::read(self.file, from, to.min(from + 64 * 1024))?;
            self.append(&piece)?;
            from += piece.len() as u64;
        }
        Ok(())
    }

    fn append(&mut self, octets: &[u8]) -> io::Result<()> {
        // Also what is written in part is ours.
        self.reach = self.reach.max(self.at + octets.len() as u64);
        self.file.write_all_at(octets, self.at)?;
        self.at += octets.len() as u64;
        Ok(())
    }

    /// Whether nobody has written behind it, who heeds no lock.
    fn is_last(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() <= self.size.max(self.reach))
    }

    /// Takes off what was written behind the mailbox, unless somebody has written behind that. A message that went on where
    /// an earlier try ended stays where its mark may say that it is whole, for so it is.
    fn undo(&self) -> io::Result<()> {
        if self.is_whole && self.header < self.size {
            return Ok(());
        }
        if !self.is_last()? {
            return Err(io::Error::other("another program has written behind it"));
        }
        if self.file.metadata()?.len() > self.size { self.file.set_len(self.size) } else { Ok(()) }
    }

    /// What must be written to end the message before, which may be another program's or have been cut off.
    fn close_last(&self) -> io::Result<Vec<u8>> {
        let length = self.at.min(mmdf::WITH_CR.len() as u64 + 1);
        let mut end = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.read_exact_at(&mut end, self.at - length)?;
        let mut missing = Vec::new();
        if !end.is_empty() && !end.ends_with(b"\n") {
            missing.push(b'\n');
            end.push(b'\n');
        }
        match self.format {
            MailboxFormat::Mmdf => {
                let before = end.strip_suffix(mmdf::DELIMITER).or_else(|| end.strip_suffix(mmdf::WITH_CR));
                if !end.is_empty() && !before.is_some_and(|before| before.is_empty() || before.ends_with(b"\n")) {
                    missing.extend_from_slice(mmdf::DELIMITER);
                }
            }
            _ if !end.is_empty() && !torn::ends_message(&end) => missing.push(b'\n'),
            _ => {}
        }
        Ok(missing)
    }
}

/// The first line, and what was read with it.
fn first_line(content: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut first = Vec::new();
    let mut piece = vec![0; LONGEST_FIRST_LINE];
    while first.len() < LONGEST_FIRST_LINE && memchr(b'\n', &first).is_none() {
        match content.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => first.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(first)
}

/// Who stands in `Return-Path: <...>`.
fn sender(first: &[u8]) -> &[u8] {
    let line = first.split(|octet| *octet == b'\n').next().unwrap_or_default();
    let path = line.strip_prefix(b"Return-Path: <").and_then(|rest| rest.strip_suffix(b">"));
    path.unwrap_or_default()
}

#[cfg(test)]
mod tests;
