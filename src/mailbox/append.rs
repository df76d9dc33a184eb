//! Appending a message to a mailbox that is one file, so that neither a crash nor a repeat loses or doubles it.
//!
//! The second line of what is written is `X-Delivery-ID: BASE partial`, and becomes `whole` only when everything is on
//! disk. A repeat that finds it whole has nothing to do. Whoever finds a partial message at the end of the file, his own or
//! another, cuts it off (`torn.rs`). An error cuts off what was written, too.

use super::lock::{Held, Locking, Place};
use super::quote::Quoter;
use super::scan::{MARK, PARTIAL, WHOLE, scan};
use super::torn::{self, Tail};
use super::{mbox, mmdf, way};
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
    let (file, _held) = locking.patiently(|| Ok(open(&place, locking)?))?;
    if strict && !way::is_trusted(&file)? {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, way::NOT_OURS));
    }
    let is_there = loop {
        let tail = match torn::look(&file, format, base)? {
            Tail::Sound if search => last_try(&file, format, base)?,
            tail => tail,
        };
        match tail {
            Tail::Delivered => break true,
            Tail::Sound => break false,
            Tail::Torn(at) => {
                let octets = file.metadata()?.len() - at;
                log::info!("event=partial-message-removed mailbox={path:?} octets={octets} for={base}");
                file.set_len(at)?;
            }
        }
    };
    if is_there {
        // The try that wrote it may have ended before this.
        file.sync_all()?;
        return Ok(place.sync()?);
    }
    let size = file.metadata()?.len();
    let result = Writing { file: &file, format, at: size }.write(base, content).and_then(|()| Ok(place.sync()?));
    if result.is_err() {
        let cut_off = file.set_len(size).and_then(|()| file.sync_all());
        let _ = cut_off.inspect_err(|error| log::error!("event=partial-message-left base={base} why=\"{error}\""));
    }
    result
}

/// What became of the last try of this message: it may be anywhere in the mailbox, or last and partial, where [`torn::look`] was
/// not certain of its beginning.
fn last_try(file: &File, format: MailboxFormat, base: &str) -> io::Result<Tail> {
    let found = scan(file, format, Some(base.as_bytes()))?;
    Ok(match found.marked.and_then(|(at, is_whole)| Some((found.messages.get(at)?, is_whole))) {
        Some((_, true)) => Tail::Delivered,
        Some((last, false)) if last.next >= found.size && torn::is_ours_alone(file, format, last.start)? => {
            Tail::Torn(last.start)
        }
        Some(_) | None => Tail::Sound,
    })
}

/// One try to open and lock it.
fn open(place: &Place, locking: &Locking) -> nix::Result<(File, Held)> {
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
    at: u64,
}

impl Writing<'_> {
    fn write(mut self, base: &str, content: &mut dyn Read) -> io::Result<()> {
        let mut piece = vec![0; 32 * 1024];
        let mut out = self.close_last()?;
        let first = first_line(content)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        match self.format {
            MailboxFormat::Mmdf => out.extend_from_slice(mmdf::DELIMITER),
            _ => out.extend(mbox::separator(sender(&first), i64::try_from(now).unwrap_or(0))),
        }
        let mut quoter = Quoter::new(self.format);
        let end = memchr(b'\n', &first).map_or(first.len(), |at| at + 1);
        let (line, rest) = first.split_at(end);
        quoter.push(line, &mut out);
        quoter.push([MARK, base.as_bytes()].concat().as_slice(), &mut out);
        let state_at = self.at + out.len() as u64;
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
        self.file.sync_all()?;
        // Not before all the rest is on disk.
        self.file.write_all_at(WHOLE, state_at)?;
        self.file.sync_data()
    }

    /// What must be written to end the message before, which may be another program's or have been cut off.
    fn close_last(&self) -> io::Result<Vec<u8>> {
        let length = self.at.min(mmdf::DELIMITER.len() as u64 + 1);
        let mut end = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.read_exact_at(&mut end, self.at - length)?;
        let mut missing = Vec::new();
        if !end.is_empty() && !end.ends_with(b"\n") {
            missing.push(b'\n');
        }
        match self.format {
            MailboxFormat::Mmdf => {
                let before = end.strip_suffix(mmdf::DELIMITER);
                if !end.is_empty() && !before.is_some_and(|before| before.is_empty() || before == b"\n") {
                    missing.extend_from_slice(mmdf::DELIMITER);
                }
            }
            _ if !end.is_empty() && !end.ends_with(b"\n\n") => missing.push(b'\n'),
            _ => {}
        }
        Ok(missing)
    }

    fn put(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.file.write_all_at(out, self.at)?;
        self.at += out.len() as u64;
        out.clear();
        Ok(())
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
