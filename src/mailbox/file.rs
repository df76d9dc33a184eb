//! A maildrop that is one file, mbox or MMDF: what POP3 reads, and what QUIT takes out.
//!
//! The session holds a flock on the file, so that a second one hears `[IN-USE]`; the locks that other programs know are
//! taken only while the file is scanned or rewritten, so that mail goes on arriving. What they do to it meanwhile
//! is noticed: the file is scanned again when it has changed, and the body of each message sent is summed up and must
//! be what it was. Only `rewrite.rs` ever changes anything.

mod rewrite;

use super::lock::{Held, Locking, Place};
use super::quote::Unquoter;
use super::scan::{BodySum, Found, scan};
use super::{Entry, Error, Maildrop};
use crate::config::value::MailboxFormat;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// How much is read at once of a message.
const PIECE: usize = 32 * 1024;

/// What tells two messages apart for ever: the fields that last, the body, and which of equal ones it is, from 1.
type Identity = (u128, u32, usize);

/// A mailbox of one file opened by a POP3 session.
#[derive(Debug)]
pub struct OneFile {
    place: Place,
    format: MailboxFormat,
    locking: Locking,
    entries: Vec<Entry>,
    identities: Vec<Identity>,
    /// None: there is no mailbox, which is the same as an empty one.
    file: Option<Flock<File>>,
    /// Where each message was seen last, if it was.
    places: RefCell<Vec<Option<Found>>>,
    stamp: Cell<Stamp>,
}

/// What tells one state of the file from the next.
type Stamp = [i64; 5];

impl OneFile {
    /// Opens and scans it. A file that is not there is an empty maildrop, and is not made.
    pub fn open(path: &Path, format: MailboxFormat, locking: Locking) -> Result<OneFile, Error> {
        let failed = |what: &str, error: io::Error| Error::Io(format!("{what} {}: {error}", path.display()));
        let place = match Place::of(path) {
            Ok(place) => place,
            Err(errno) => return Err(failed("opening the folder of", errno.into())),
        };
        let opened = locking.patiently(|| Ok(open_locked(&place, &locking)?));
        let (file, held) = match opened {
            Ok(Some((file, held))) => (Some(file), Some(held)),
            Ok(None) => (None, None),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy) => {
                return Err(Error::InUse);
            }
            Err(error) => return Err(failed("opening", error)),
        };
        let mut maildrop = OneFile {
            place,
            format,
            locking,
            entries: Vec::new(),
            identities: Vec::new(),
            file: None,
            places: RefCell::default(),
            stamp: Cell::default(),
        };
        if let Some(file) = file {
            let stamped = stamp(&file).map_err(|error| failed("reading", error))?;
            let found = scan(&file, format, None).map_err(|error| failed("reading", error))?.messages;
            maildrop.stamp.set(stamped);
            maildrop.identities = identities(&found);
            let ids = maildrop.identities.iter().map(unique_id);
            let entries = found.iter().zip(ids);
            maildrop.entries = entries.map(|(found, unique_id)| Entry { octets: found.octets, unique_id }).collect();
            maildrop.places = RefCell::new(found.into_iter().map(Some).collect());
            maildrop.file = Some(file);
        }
        drop(held);
        Ok(maildrop)
    }

    /// Where a message is now.
    fn find(&self, file: &File, number: usize) -> io::Result<Found> {
        if stamp(file)? != self.stamp.get() {
            self.search(file)?;
        }
        let place = self.places.borrow().get(number).copied().flatten();
        place.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the message is not in the mailbox any more"))
    }

    /// Finds all places anew.
    fn search(&self, file: &File) -> io::Result<()> {
        let take = || match Held::take(&self.place, file, &self.locking, false, false) {
            // Another file has the name; nobody changes this one any more.
            Err(Errno::ESTALE) => Ok(None),
            answer => Ok(Some(answer?)),
        };
        let _held = self.locking.patiently(take)?;
        let stamped = stamp(file)?;
        let found = scan(file, self.format, None)?.messages;
        let found: HashMap<Identity, Found> = identities(&found).into_iter().zip(found).collect();
        let places = self.identities.iter().map(|identity| found.get(identity).copied()).collect();
        self.places.replace(places);
        self.stamp.set(stamped);
        Ok(())
    }
}

/// One try to open the mailbox for a session, with the locks for scanning it. `EBUSY` if another session has it.
fn open_locked(place: &Place, locking: &Locking) -> nix::Result<Option<(Flock<File>, Held)>> {
    let file = match place.open(OFlag::O_RDONLY) {
        Err(Errno::ENOENT) => return Ok(None),
        file => file?,
    };
    let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        // Where deliveries take a flock too, it may be one of these.
        Errno::EWOULDBLOCK if !locking.flock => Errno::EBUSY,
        errno => errno,
    })?;
    match Held::take(place, &file, locking, false, false) {
        Err(Errno::ESTALE) => Err(Errno::EWOULDBLOCK),
        held => Ok(Some((file, held?))),
    }
}

fn stamp(file: &File) -> io::Result<Stamp> {
    let status = file.metadata()?;
    let size = i64::try_from(status.size()).unwrap_or(i64::MAX);
    Ok([size, status.mtime(), status.mtime_nsec(), status.ctime(), status.ctime_nsec()])
}

/// What tells the messages of a scan apart.
fn identities(found: &[Found]) -> Vec<Identity> {
    let mut ordinals: HashMap<(u128, u32), usize> = HashMap::with_capacity(found.len());
    let identity = |found: &Found| {
        let ordinal = ordinals.entry((found.fields, found.body_sum)).or_default();
        *ordinal = ordinal.saturating_add(1);
        (found.fields, found.body_sum, *ordinal)
    };
    found.iter().map(identity).collect()
}

/// It may never change: clients would fetch everything again.
fn unique_id((fields, body, ordinal): &Identity) -> String {
    if *ordinal == 1 { format!("{fields:032x}{body:08x}") } else { format!("{fields:032x}{body:08x}-{ordinal}") }
}

impl Maildrop for OneFile {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn open(&self, number: usize) -> io::Result<Box<dyn Read>> {
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let found = self.find(file, number)?;
        let unquoter = found.is_quoted.then(Unquoter::default);
        let file = file.try_clone()?;
        Ok(Box::new(Content { file, found, at: found.header, sum: BodySum::default(), unquoter, waiting: Vec::new() }))
    }

    fn remove(&mut self, numbers: &[usize]) -> io::Result<usize> {
        rewrite::remove(self, numbers)
    }
}

/// A message being read. That its body is no more what it was is an error at its end.
struct Content {
    file: File,
    found: Found,
    at: u64,
    sum: BodySum,
    unquoter: Option<Unquoter>,
    /// Not quoted any more, and not read yet.
    waiting: Vec<u8>,
}

impl Content {
    fn piece(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.found.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        if length == 0 {
            return Ok(0);
        }
        let buffer = buffer.get_mut(..length).unwrap_or_default();
        let count = self.file.read_at(buffer, self.at)?;
        if count == 0 {
            return Err(changed());
        }
        let piece = buffer.get(..count).unwrap_or_default();
        let in_header = usize::try_from(self.found.body.saturating_sub(self.at)).unwrap_or(usize::MAX).min(count);
        self.sum.add(piece.get(in_header..).unwrap_or_default());
        self.at += count as u64;
        if self.at >= self.found.end && self.sum.value() != self.found.body_sum {
            return Err(changed());
        }
        Ok(count)
    }
}

fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "another program changed the mailbox while the message was read")
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unquoter.is_none() {
            return self.piece(buffer);
        }
        let mut stored = vec![0; PIECE];
        while self.waiting.is_empty() {
            let count = self.piece(&mut stored)?;
            let Some(unquoter) = &mut self.unquoter else { return Ok(0) };
            unquoter.push(stored.get(..count).unwrap_or_default(), &mut self.waiting);
            if count == 0 {
                unquoter.finish(&mut self.waiting);
                break;
            }
        }
        let count = self.waiting.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(self.waiting.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
