//! A maildrop that is one file, mbox or MMDF: what POP3 reads, and what QUIT takes out.
//!
//! The session has a lock of its own (`lock/of_session.rs`), so that a second one hears `[IN-USE]`; those that other programs
//! know are taken only while the file is scanned or rewritten, so that mail goes on arriving. What they do to it meanwhile
//! is noticed: the file is scanned again when it has changed, and the body of each message sent is summed up and must
//! be what it was. Only `rewrite.rs` ever changes anything.

mod grown;
mod imap_base;
mod rewrite;

use super::index::{self, Draft, Index, Item, Snapshot};
use super::lock::{self, Held, Locking, Session};
use super::maildir::name::Count;
use super::place::Place;
use super::quote::Unquoter;
use super::scan::{BodySum, Found, Scan, scan};
use super::{Entry, Error, Maildrop, beside::Beside, import};
use crate::config::value::{MailboxFormat, MailboxSpec};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

/// How much is read at once of a message.
const PIECE: usize = 32 * 1024;
/// A shorter mailbox is read as fast as an index.
const WORTH_AN_INDEX: u64 = 64 * 1024;

/// What tells two messages apart for ever: the fields that last, the body, and which of equal ones it is, from 1.
type Identity = (u128, u32, usize);

/// A mailbox of one file opened by a POP3 session.
#[derive(Debug)]
pub struct OneFile {
    place: Rc<Place>,
    format: MailboxFormat,
    locking: Locking,
    snapshot: Snapshot<Message>,
    /// None: there is no mailbox, which is the same as an empty one.
    file: Option<File>,
    /// Its lock, if there is a mailbox.
    session: Session,
    /// Where each message was seen last, if it was, once the file has changed.
    moved: RefCell<Option<Vec<Option<Found>>>>,
    stamp: Cell<index::Stamp>,
}

/// A message of the snapshot.
#[derive(Debug, Clone)]
struct Message {
    found: Found,
    ordinal: usize,
    /// A unique-id that was taken over.
    imported: Option<Box<str>>,
}

impl Message {
    fn identity(&self) -> Identity {
        (self.found.fields, self.found.body_sum, self.ordinal)
    }
}

impl Item for Message {
    fn octets(&self) -> u64 {
        self.found.octets
    }

    fn put(&self, out: &mut Vec<u8>) {
        let Found { start, header, body, end, next, octets, is_quoted, fields, body_sum } = self.found;
        let numbers = [start, header, body, end, next, octets, u64::from(is_quoted), u64::from(body_sum)];
        numbers.into_iter().chain([self.ordinal as u64]).for_each(|number| index::put_number(number, out));
        out.extend_from_slice(&fields.to_le_bytes());
        index::put_octets(self.imported.as_deref().unwrap_or_default().as_bytes(), out);
    }

    fn take(from: &mut &[u8]) -> Option<Message> {
        let mut numbers = [0; 9];
        for number in &mut numbers {
            *number = index::take_number(from)?;
        }
        let [start, header, body, end, next, octets, is_quoted, body_sum, ordinal] = numbers;
        let (fields, rest) = from.split_first_chunk()?;
        *from = rest;
        let fields = u128::from_le_bytes(*fields);
        let body_sum = u32::try_from(body_sum).ok()?;
        let is_in_order = start <= header && header <= body && body <= end && end <= next;
        let found = Found { start, header, body, end, next, octets, is_quoted: is_quoted != 0, fields, body_sum };
        let id = std::str::from_utf8(index::take_octets(from)?).ok()?;
        let is_id = id.len() <= 70 && id.bytes().all(|octet| octet.is_ascii_graphic());
        let imported = (!id.is_empty()).then(|| id.into());
        (is_in_order && is_id).then_some(Message { found, ordinal: usize::try_from(ordinal).ok()?, imported })
    }
}

impl OneFile {
    /// Opens it, and scans it if its index is not right. A file that is not there is an empty maildrop, and is not made.
    pub fn open(path: &Path, format: MailboxFormat, locking: Locking) -> Result<OneFile, Error> {
        let failed = |what: &str, error: io::Error| Error::of(&format!("{what} {}", path.display()), &error);
        let place = match Place::of(path) {
            Ok(place) => place,
            Err(error) => return Err(failed("opening the folder of", error)),
        };
        let opened = locking.patiently(|| Ok(open_locked(&place, &locking)?));
        let (file, session, held) = match opened {
            Ok(Some((file, session, held))) => {
                rewrite::tidy(&place, &held);
                session.tell(&place);
                (Some(file), session, Some(held))
            }
            Ok(None) => (None, Session::default(), None),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy) => {
                lock::tell_if_for_ever(&place, &locking);
                return Err(Error::InUse);
            }
            Err(error) => return Err(failed("opening", error)),
        };
        let (snapshot, stamp) = match &file {
            Some(file) => {
                let spec = MailboxSpec { format, path: path.to_string_lossy().into_owned() };
                let known = || import::known(&Beside::of(&spec, "ids"));
                snapshot(&place, file, format, index::now(), known).map_err(|error| failed("reading", error))?
            }
            None => (Snapshot::held(Vec::new()), index::Stamp::default()),
        };
        drop(held);
        let (moved, stamp) = (RefCell::new(None), Cell::new(stamp));
        Ok(OneFile { place: Rc::new(place), format, locking, snapshot, file, session, moved, stamp })
    }

    /// The unique-id that each message has by itself.
    pub fn native(&self) -> io::Result<Vec<String>> {
        Ok(self.identities()?.iter().map(unique_id).collect())
    }

    /// Makes the next session find everything anew.
    pub fn forget_index(&self) -> io::Result<()> {
        Ok(index::forget(index_place(&self.place, &index_name(&self.place), self.format))?)
    }

    /// Where the index turns out to be broken, sees to it that the next session does without.
    fn known<T>(&self, answer: io::Result<T>) -> io::Result<T> {
        answer.inspect_err(|_| self.forget_index().unwrap_or_default())
    }

    /// Where a message is now.
    fn find(&self, file: &File, number: usize) -> io::Result<Found> {
        if index::stamp(file)? != self.stamp.get() {
            self.search(file)?;
        }
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the message is not in the mailbox any more");
        match &*self.moved.borrow() {
            Some(places) => places.get(number).copied().flatten().ok_or_else(gone),
            None => Ok(self.known(self.snapshot.get(number))?.found),
        }
    }

    /// Finds all places anew.
    fn search(&self, file: &File) -> io::Result<()> {
        let take = || match self.lock(file) {
            // Another file has the name; nobody changes this one any more.
            Err(Errno::ESTALE) => Ok(None),
            answer => Ok(Some(answer?)),
        };
        let _held = self.locking.patiently(take)?;
        let stamp = index::stamp(file)?;
        let found = scan(file, self.format)?.messages;
        let found: HashMap<Identity, Found> = identities(&found).into_iter().zip(found).collect();
        let places = self.identities()?.iter().map(|identity| found.get(identity).copied()).collect();
        self.moved.replace(Some(places));
        self.stamp.set(stamp);
        Ok(())
    }

    /// The locks that keep writers out of the mailbox.
    fn lock(&self, file: &File) -> nix::Result<Held> {
        Held::take(&self.place, file, &self.locking, false, !self.session.has_flock())
    }

    /// What tells the messages of the snapshot apart, by number.
    fn identities(&self) -> io::Result<Vec<Identity>> {
        Ok(self.known(self.snapshot.all())?.iter().map(Message::identity).collect())
    }
}

fn index_name(place: &Place) -> OsString {
    place.beside(".", ".doorpost-index")
}

fn index_place<'a>(place: &'a Place, name: &'a OsStr, format: MailboxFormat) -> index::Place<'a> {
    // 2, 4, 5 and 6 were mbox where a Content-Length could end a message within a line, where internal data were one, where
    // a Content-Length made our own quotes the sender's, and where internal data went on to an empty line.
    index::Place { folder: &place.folder, name, kind: if format == MailboxFormat::Mmdf { 3 } else { 7 } }
}

/// What a session works on that began at a time, out of the index or found anew; and the stamp of the file. Under the
/// locks. `known` gives the unique-ids that were taken over.
fn snapshot(
    place: &Place,
    file: &File,
    format: MailboxFormat,
    began: u64,
    known: impl FnOnce() -> io::Result<HashMap<String, String>>,
) -> io::Result<(Snapshot<Message>, index::Stamp)> {
    let name = index_name(place);
    let index_place = index_place(place, &name, format);
    let stamp = index::stamp(file)?;
    let is_long = stamp[2] >= WORTH_AN_INDEX;
    let index = Index::open(index_place).filter(|_| is_long);
    let (old, Scan { messages: found, is_open, .. }) = match index {
        Some(index) if index.fits(0, &stamp) => return Ok((Snapshot::Indexed(index), stamp)),
        index => match index.and_then(|index| grown::messages(file, format, &index, &stamp)) {
            Some(grown) => grown,
            None => (Vec::new(), scan(file, format)?),
        },
    };
    let messages = joined(old, &found, &known()?);
    if is_long
        && let Some(draft) = Draft::begin(index_place, began)
        && draft.will_count(&[stamp])
        && index::stamp(file)? == stamp
    {
        let stamps = grown::stamps(stamp, is_open);
        draft.write(&stamps, &messages);
        return Ok((Snapshot::written(index_place, &stamps, messages), stamp));
    }
    Ok((Snapshot::unkept(index_place, messages), stamp))
}

/// Messages, and those that were found behind them, under the unique-ids that were taken over.
fn joined(mut messages: Vec<Message>, found: &[Found], imported: &HashMap<String, String>) -> Vec<Message> {
    let mut ordinals: HashMap<_, usize> = found.iter().map(|found| ((found.fields, found.body_sum), 0)).collect();
    for message in &messages {
        if let Some(count) = ordinals.get_mut(&(message.found.fields, message.found.body_sum)) {
            *count += 1;
        }
    }
    messages.reserve_exact(found.len());
    for found in found {
        let ordinal = ordinals.entry((found.fields, found.body_sum)).or_default();
        *ordinal = ordinal.saturating_add(1);
        let identity = (found.fields, found.body_sum, *ordinal);
        let id = if imported.is_empty() { None } else { imported.get(&unique_id(&identity)) };
        messages.push(Message { found: *found, ordinal: *ordinal, imported: id.map(|id| id.as_str().into()) });
    }
    messages
}

/// One try to open the mailbox for a session, with the locks for scanning it. `EBUSY` if another session has it.
fn open_locked(place: &Place, locking: &Locking) -> nix::Result<Option<(File, Session, Held)>> {
    let file = match place.open(OFlag::O_RDONLY) {
        Err(Errno::ENOENT) => return Ok(None),
        file => file?,
    };
    let session = Session::begin(place, &file, locking)?;
    match Held::take(place, &file, locking, false, !session.has_flock()) {
        Err(Errno::ESTALE) => Err(Errno::EWOULDBLOCK),
        held => Ok(Some((file, session, held?))),
    }
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
    fn count(&self) -> usize {
        self.snapshot.count()
    }

    fn total(&self) -> u64 {
        self.snapshot.total()
    }

    fn entry(&self, number: usize) -> io::Result<Entry> {
        let message = self.known(self.snapshot.get(number))?;
        let unique_id = message.imported.as_deref().map_or_else(|| unique_id(&message.identity()), str::to_owned);
        Ok(Entry { octets: message.found.octets, unique_id })
    }

    fn open(&self, number: usize) -> io::Result<Box<dyn Read>> {
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let found = self.find(file, number)?;
        let octets = self.known(self.snapshot.get(number))?.found.octets;
        let unquoter = found.is_quoted.then(Unquoter::default);
        let file = file.try_clone()?;
        let mailbox = (Rc::clone(&self.place), self.format);
        let (at, sum, waiting) = (found.header, BodySum::default(), Vec::new());
        let count = Count::default();
        Ok(Box::new(Content { mailbox, file, found, octets, at, sum, count, unquoter, waiting }))
    }

    fn remove(&mut self, numbers: &[usize]) -> io::Result<usize> {
        rewrite::remove(self, numbers)
    }
}

/// A message being read. That its body is no more what it was is an error at its end. That it has another size than was said
/// is none, for it is whole; but the next session shall say what is true.
struct Content {
    mailbox: (Rc<Place>, MailboxFormat),
    file: File,
    found: Found,
    /// The size that was said.
    octets: u64,
    at: u64,
    sum: BodySum,
    count: Count,
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
            self.forget_index();
            return Err(changed());
        }
        Ok(count)
    }

    /// What was wrong may have been the index, which would say it again.
    fn forget_index(&self) {
        let (place, format) = &self.mailbox;
        let _ = index::forget(index_place(place, &index_name(place), *format));
    }

    /// At its end.
    fn finish(&self) {
        if self.count.virtual_octets() != self.octets {
            self.forget_index();
        }
    }
}

fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "another program changed the mailbox while the message was read")
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unquoter.is_none() {
            let count = self.piece(buffer)?;
            self.count.add(buffer.get(..count).unwrap_or_default());
            if count == 0 && !buffer.is_empty() {
                self.finish();
            }
            return Ok(count);
        }
        let mut stored = vec![0; PIECE];
        while self.waiting.is_empty() {
            let count = self.piece(&mut stored)?;
            let Some(unquoter) = &mut self.unquoter else { return Ok(0) };
            unquoter.push(stored.get(..count).unwrap_or_default(), &mut self.waiting);
            if count == 0 {
                unquoter.finish(&mut self.waiting);
            }
            self.count.add(&self.waiting);
            if count == 0 {
                self.finish();
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
