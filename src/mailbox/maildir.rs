//! Maildir: a folder with tmp, new and cur; a file a message.
//!
//! Here is what POP3 reads; `changes.rs` finds what is new since the last time, `append.rs` delivers, `folders.rs`
//! opens, `name.rs` knows what stands in a name. Other programs may rename, flag, add and remove messages at any time:
//! a session keeps the numbers and sizes of its snapshot, and finds a renamed file by the part of its name that lasts.

mod append;
mod changes;
mod folders;
pub mod name;

pub use append::deliver;

use super::index::{self, Delta, Draft, Index, Item, Snapshot, Stamp};
use super::{Entry, Error, Maildrop, beside::Beside, import};
use crate::again::again;
use crate::config::value::{MailboxFormat, MailboxSpec};
use crate::flocked::Flocked;
use crate::sys;
use changes::{Known, changes};
use folders::{Folders, each_message, open_message, sync};
use name::{Count, hashed_unique_id, lasting, order, sizes, unique_id};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, RenameFlags, renameat2};
use nix::sys::stat::fstatat;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

/// How often the folders are read for files that another program renames at the same moment.
const SEARCHES: usize = 10;
/// Nanoseconds in which a file system may give two changes one time; the kernel's clock for it ticks 100 times a second
/// or more often.
const TICK: u64 = 20_000_000;
/// A session that compared so many names gives back what that took.
const MANY: usize = 4096;

/// A Maildir opened by a POP3 session; locked by flock on the folder itself, so nothing can be stale.
#[derive(Debug)]
pub struct Maildir {
    folders: Folders,
    snapshot: Snapshot<Message>,
    /// Where each message was seen last, once one was not where the snapshot has it.
    moved: RefCell<Option<Vec<Place>>>,
    _lock: Flocked,
}

/// Where a message lies.
#[derive(Debug, Clone)]
struct Place {
    in_cur: bool,
    /// Another file has the same lasting name, so that a search could find the wrong one.
    is_twin: bool,
    name: Box<[u8]>,
}

/// A message of the snapshot.
#[derive(Debug, Clone)]
struct Message {
    octets: u64,
    place: Place,
    /// Where it is not what lasts of the name.
    unique_id: Option<Box<str>>,
}

impl Message {
    fn unique_id(&self) -> String {
        match &self.unique_id {
            Some(unique_id) => unique_id.to_string(),
            None => unique_id(&self.place.name).unwrap_or_default().to_owned(),
        }
    }
}

impl Item for Message {
    fn octets(&self) -> u64 {
        self.octets
    }

    fn name(&self) -> Option<(bool, &[u8])> {
        Some((self.place.in_cur, &self.place.name))
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.place.in_cur) | u8::from(self.place.is_twin) << 1);
        index::put_number(self.octets, out);
        index::put_octets(&self.place.name, out);
        index::put_octets(self.unique_id.as_deref().unwrap_or_default().as_bytes(), out);
    }

    fn take(from: &mut &[u8]) -> Option<Message> {
        let (flags, rest) = from.split_first()?;
        *from = rest;
        let octets = index::take_number(from)?;
        let name = index::take_octets(from)?;
        // What else stands there, no name of it leads out of the folder.
        if name.is_empty() || name.len() > 255 || name.starts_with(b".") || name.iter().any(|o| matches!(o, b'/' | 0)) {
            return None;
        }
        let place = Place { in_cur: flags & 1 != 0, is_twin: flags & 2 != 0, name: name.into() };
        let id = std::str::from_utf8(index::take_octets(from)?).ok()?;
        let is_id = id.len() <= 70 && id.bytes().all(|octet| octet.is_ascii_graphic());
        is_id.then(|| Message { octets, place, unique_id: (!id.is_empty()).then(|| id.into()) })
    }
}

impl Maildir {
    /// Opens it, making it where it is missing, and takes the snapshot: out of the index if that is right, else without
    /// opening any message that carries its sizes in its name or had them counted before.
    pub fn open(path: &Path) -> Result<Maildir, Error> {
        Self::open_with(path, false)
    }

    /// The same; `undelete` takes the flag T off all messages, which a mail reader would remove.
    pub fn open_with(path: &Path, undelete: bool) -> Result<Maildir, Error> {
        let failed = |what: &str, error: io::Error| Error::of(&format!("{what} {}", path.display()), &error);
        let folders = Folders::open(path).map_err(|error| failed("opening", error))?;
        let top = folders.top.try_clone().map_err(|error| Error::Io(error.to_string()))?;
        let lock = Flocked::take(top).map_err(|errno| match errno {
            Errno::EWOULDBLOCK => Error::InUse,
            errno => failed("locking", errno.into()),
        })?;
        if undelete {
            take_marks_off(&folders).map_err(|errno| failed("reading", errno.into()))?;
        }
        let spec = MailboxSpec { format: MailboxFormat::Maildir, path: path.to_string_lossy().into_owned() };
        let known = || import::known(&Beside::of(&spec, "ids"));
        let snapshot = snapshot(&folders, index::now(), known);
        let snapshot = snapshot.map_err(|error| failed("reading", error))?;
        Ok(Maildir { folders, snapshot, moved: RefCell::new(None), _lock: lock })
    }

    /// What lasts of the name of each message of this session, in their order, and the unique-id that it has by itself.
    pub fn native(&self) -> io::Result<Vec<(Box<[u8]>, String)>> {
        let mut ordinals = Ordinals::default();
        let native = |message: Message| {
            let hashed = ordinals.unique_id(&message.place);
            let own = hashed.unwrap_or_else(|| unique_id(&message.place.name).unwrap_or_default().to_owned());
            (lasting(&message.place.name).into(), own)
        };
        Ok(self.snapshot.all()?.into_iter().map(native).collect())
    }

    /// Makes the next session find everything anew.
    pub fn forget_index(&self) -> io::Result<()> {
        Ok(index::forget(index_place(&self.folders))?)
    }

    /// Where the index turns out to be broken, sees to it that the next session does without.
    fn known<T>(&self, answer: io::Result<T>) -> io::Result<T> {
        answer.inspect_err(|_| self.forget_index().unwrap_or_default())
    }

    fn folder(&self, place: &Place) -> &OwnedFd {
        folder(&self.folders, place.in_cur)
    }

    /// Finds the places of all messages anew, once for all that were renamed. Says whether nobody else was at work
    /// meanwhile: reading a folder can miss a file that is renamed in it, so only then is what was not found not there.
    fn search(&self) -> io::Result<bool> {
        let before = stamps(&self.folders)?;
        // By the clock that stamps the folders, which over a network is another machine's; before they are read, which takes
        // its time.
        let now = index::clock(index_place(&self.folders));
        let mut moved = self.moved.borrow_mut();
        let mut places = match moved.take() {
            Some(places) => places,
            None => self.known(self.snapshot.all())?.into_iter().map(|message| message.place).collect(),
        };
        let found = scan(&self.folders, &[false, true]).map(|found| {
            let found: HashMap<&[u8], &Place> = found.iter().map(|place| (lasting(&place.name), place)).collect();
            for place in places.iter_mut().filter(|place| !place.is_twin) {
                if let Some(now) = found.get(lasting(&place.name)) {
                    *place = (*now).clone();
                }
            }
        });
        *moved = Some(places);
        found?;
        let is_over = |stamp: &Stamp| now.saturating_sub(index::modified_at(stamp)) > TICK;
        Ok(before == stamps(&self.folders)? && before.iter().all(is_over))
    }

    /// What lasts of the names of files that are not where this session knows any message to be. Of several with one such
    /// name nobody can tell which of them it is.
    fn strays(&self) -> io::Result<HashSet<Box<[u8]>>> {
        let known: Vec<Place> = (0..self.count()).map(|number| self.place(number)).collect::<io::Result<_>>()?;
        let known: HashSet<(bool, &[u8])> = known.iter().map(|place| (place.in_cur, &*place.name)).collect();
        let found = scan(&self.folders, &[false, true])?;
        let strays = found.iter().filter(|place| !known.contains(&(place.in_cur, &*place.name)));
        Ok(strays.map(|place| lasting(&place.name).into()).collect())
    }

    fn place(&self, number: usize) -> io::Result<Place> {
        match &*self.moved.borrow() {
            Some(places) => places.get(number).cloned().ok_or_else(|| io::ErrorKind::InvalidInput.into()),
            None => Ok(self.known(self.snapshot.get(number))?.place),
        }
    }

    fn unlink(&self, number: usize) -> io::Result<()> {
        let place = self.place(number)?;
        Ok(again(|| unlinkat(self.folder(&place), &*place.name, UnlinkatFlags::NoRemoveDir))?)
    }
}

impl Maildrop for Maildir {
    fn count(&self) -> usize {
        self.snapshot.count()
    }

    fn total(&self) -> u64 {
        self.snapshot.total()
    }

    fn entry(&self, number: usize) -> io::Result<Entry> {
        let message = self.known(self.snapshot.get(number))?;
        Ok(Entry { octets: message.octets, unique_id: message.unique_id() })
    }

    fn open(&self, number: usize) -> io::Result<Box<dyn Read>> {
        for _ in 0..SEARCHES {
            let place = self.place(number)?;
            match open_message(self.folder(&place), &place.name) {
                Err(Errno::ENOENT) => {
                    let is_certain = self.search()?;
                    let now = self.place(number)?;
                    if is_certain && (place.in_cur, &place.name) == (now.in_cur, &now.name) {
                        // It was seen there a moment ago, or nowhere.
                        break;
                    }
                }
                answer => return Ok(Box::new(answer?)),
            }
        }
        let place = self.place(number)?;
        Ok(Box::new(open_message(self.folder(&place), &place.name)?))
    }

    fn came(&self, number: usize) -> io::Result<Option<u64>> {
        let name = self.known(self.snapshot.get(number))?.place.name;
        Ok(Some(order(lasting(&name)).0).filter(|time| *time > 0))
    }

    fn remove(&mut self, numbers: &[usize]) -> io::Result<usize> {
        let mut left = numbers.to_vec();
        let (mut failed, mut why) = (0, None);
        for _ in 0..SEARCHES {
            left.retain(|&number| match self.unlink(number) {
                Ok(()) => false,
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                Err(error) => {
                    log::warn!("message {}: cannot remove it: {error}", number.saturating_add(1));
                    failed += 1;
                    why = Some(error);
                    false
                }
            });
            if left.is_empty() {
                break;
            }
            if let Err(error) = self.search() {
                log::warn!("looking for {} messages to remove: {error}", left.len());
                failed += left.len();
                (left, why) = (Vec::new(), Some(error));
                break;
            }
        }
        // What a program renamed all the time is not gone, and perhaps not one of several of a name.
        let is_twin = |number: &usize| self.place(*number).is_ok_and(|place| place.is_twin);
        let strays = if left.iter().any(is_twin) { self.strays().ok() } else { Some(HashSet::new()) };
        let is_there = |number: &&usize| {
            self.place(**number).is_ok_and(|place| {
                let may_be_stray = || strays.as_ref().is_none_or(|strays| strays.contains(lasting(&place.name)));
                fstatat(self.folder(&place), &*place.name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
                    || (place.is_twin && may_be_stray())
            })
        };
        failed += left.iter().filter(is_there).count();
        if !numbers.is_empty() {
            sync(&self.folders.new)?;
            sync(&self.folders.cur)?;
        }
        // Whoever may remove nothing hears why.
        why.filter(|_| failed == numbers.len()).map_or(Ok(failed), Err)
    }
}

fn index_place(folders: &Folders) -> index::Place<'_> {
    index::Place { folder: &folders.top, name: OsStr::new("doorpost-index"), kind: 1 }
}

/// What a session works on that began at a time, out of the index or found anew. `known` gives the unique-ids that were
/// taken over.
fn snapshot(
    folders: &Folders,
    began: u64,
    known: impl FnOnce() -> io::Result<HashMap<String, String>>,
) -> io::Result<Snapshot<Message>> {
    let place = index_place(folders);
    let stamps = stamps(folders)?;
    let Some(index) = Index::open(place) else {
        return anew(folders, began, &stamps, (Vec::new(), [false, false]), &known()?);
    };
    let mut unchanged = [0, 1].map(|which: usize| index.fits(which, &stamps[which]));
    if unchanged == [true, true] {
        return Ok(Snapshot::Indexed(index));
    }
    let delta = Delta::open(place, &index);
    if let Some(delta) = &delta {
        unchanged = [0, 1].map(|which: usize| delta.fits(which, &stamps[which]));
    }
    let delta = match delta {
        Some(delta) if unchanged == [true, true] => return Ok(Snapshot::Changed(index, delta)),
        delta => delta,
    };
    let imported = known()?;
    let before = Known { index: &index, delta: delta.as_ref(), stamps: &stamps, unchanged, imported: &imported };
    // An index that breaks here is made anew.
    if let Ok(Some((mut changes, counted))) = changes(folders, &before) {
        if counted || index::are_settled(&stamps, began) {
            changes.write(place, &index, &stamps, began, counted);
        }
        if index.count() > MANY {
            sys::give_memory_back();
        }
        return Ok(Snapshot::Changed(index, changes));
    }
    let old = match delta {
        Some(delta) => Snapshot::Changed(index, delta),
        None => Snapshot::Indexed(index),
    };
    let old = old.all().map_or((Vec::new(), [false, false]), |old| (old, unchanged));
    anew(folders, began, &stamps, old, &imported)
}

/// The same where everything is to be found anew; of `old` is taken what still holds.
fn anew(
    folders: &Folders,
    began: u64,
    stamps: &[Stamp; 2],
    (old, unchanged): (Vec<Message>, [bool; 2]),
    imported: &HashMap<String, String>,
) -> io::Result<Snapshot<Message>> {
    let place = index_place(folders);
    let Found { messages, unread, counted } = find(folders, old, unchanged, imported)?;
    // Where the folders were changed a moment ago the index does not count by their times, but by it the next session finds
    // what is new. Where they were changed just now, or a message could not be read, it has no times at all: then it is made
    // for the sizes that need not be counted again. What could not be read may be read next time: it is left out.
    let is_certain = unread.is_empty() && self::stamps(folders).is_ok_and(|now| now == *stamps);
    if !is_certain && !counted {
        return Ok(Snapshot::unkept(place, messages));
    }
    let Some(draft) = Draft::begin(place, began) else { return Ok(Snapshot::unkept(place, messages)) };
    if is_certain {
        draft.write(stamps, &messages);
        index::settle(place);
        return Ok(Snapshot::written(place, stamps, messages));
    }
    if unread.is_empty() {
        draft.write(&[Stamp::default(); 2], &messages);
    } else {
        let read = messages.iter().zip(0..).filter(|(_, number)| unread.binary_search(number).is_err());
        draft.write(&[Stamp::default(); 2], &read.map(|(message, _)| message.clone()).collect::<Vec<_>>());
    }
    index::settle(place);
    Ok(Snapshot::unkept(place, messages))
}

fn stamps(folders: &Folders) -> nix::Result<[Stamp; 2]> {
    Ok([index::stamp(&folders.new)?, index::stamp(&folders.cur)?])
}

/// Finds all messages in their order, with sizes and unique-ids. `old` is what an index has: all that a folder that is
/// unchanged holds, and of others the sizes.
fn find(
    folders: &Folders,
    old: Vec<Message>,
    unchanged: [bool; 2],
    imported: &HashMap<String, String>,
) -> nix::Result<Found> {
    let changed: Vec<bool> = [false, true].into_iter().filter(|in_cur| !unchanged[usize::from(*in_cur)]).collect();
    let before = stamps(folders)?;
    let mut places = scan(folders, &changed)?;
    if before != stamps(folders)? {
        // What was renamed under the first look is there in the second; names that were left are sorted out below.
        places.extend(scan(folders, &changed)?);
        places.sort_by(|one, two| (one.in_cur, &one.name).cmp(&(two.in_cur, &two.name)));
        places.dedup_by(|one, two| (one.in_cur, &one.name) == (two.in_cur, &two.name));
    }
    let kept = old.iter().map(|message| &message.place).filter(|place| unchanged[usize::from(place.in_cur)]);
    places.extend(kept.map(|place| Place { is_twin: false, ..place.clone() }));
    sort(folders, &mut places);
    // Versions before this one wrote down nought where a message could not be read. Of twins nobody can tell which one stays.
    let known = old.iter().filter(|message| message.octets > 0 && !message.place.is_twin);
    let known: HashMap<&[u8], u64> = known.map(|message| (lasting(&message.place.name), message.octets)).collect();
    let known = |place: &Place| {
        let before = known.get(lasting(&place.name)).filter(|_| !place.is_twin).copied();
        sizes(&place.name).map(|(_, octets)| octets).or(before).map(Ok)
    };
    let mut octets: Vec<Option<io::Result<u64>>> = places.iter().map(known).collect();
    let counted = count_unknown(folders, &mut places, &mut octets)?;
    let mut unread = Vec::new();
    let mut messages = Vec::with_capacity(places.len());
    let mut ordinals = Ordinals::default();
    for (place, octets) in places.into_iter().zip(octets) {
        let octets = match octets {
            Some(Ok(octets)) => octets,
            Some(Err(error)) => {
                log::warn!("a message cannot be read: {error}");
                unread.push(messages.len());
                0
            }
            None => continue,
        };
        let unique_id = ordinals.unique_id(&place).map(Into::into);
        let mut message = Message { octets, place, unique_id };
        if !imported.is_empty()
            && let Some(other) = imported.get(&message.unique_id())
        {
            message.unique_id = Some(other.as_str().into());
        }
        messages.push(message);
    }
    Ok(Found { messages, unread, counted })
}

/// All messages of a Maildir.
struct Found {
    messages: Vec<Message>,
    /// The numbers of those that could not be read, and are said to be empty.
    unread: Vec<usize>,
    /// One had to be read for its size.
    counted: bool,
}

/// How many files of each name have been met.
#[derive(Debug, Default)]
struct Ordinals(HashMap<Box<[u8]>, usize>);

impl Ordinals {
    /// The unique-id of the next message, where its name is none or another's, too.
    fn unique_id(&mut self, place: &Place) -> Option<String> {
        if !place.is_twin && unique_id(&place.name).is_some() {
            return None;
        }
        let ordinal = self.0.entry(lasting(&place.name).into()).or_default();
        *ordinal = ordinal.saturating_add(1);
        Some(hashed_unique_id(&place.name, *ordinal))
    }
}

/// Reads the messages whose sizes are not known. What another program has renamed meanwhile is looked for all at once, so
/// that the folders are read a few times, however many are renamed or gone. Gives whether one was read; what is gone has
/// no size.
fn count_unknown(folders: &Folders, places: &mut [Place], sizes: &mut [Option<io::Result<u64>>]) -> nix::Result<bool> {
    let mut counted = false;
    for search in 0..=SEARCHES {
        let before = stamps(folders)?;
        let found = if search > 0 { scan(folders, &[false, true])? } else { Vec::new() };
        let found: HashMap<&[u8], &Place> = found.iter().map(|place| (lasting(&place.name), place)).collect();
        let mut is_missing = false;
        for (place, size) in places.iter_mut().zip(&mut *sizes).filter(|(_, size)| size.is_none()) {
            // Of several with one name nobody can tell which it is.
            if let Some(now) = found.get(lasting(&place.name)).filter(|_| !place.is_twin) {
                *place = (*now).clone();
            }
            *size = octets(folders, place);
            counted |= matches!(size, Some(Ok(_)));
            is_missing |= size.is_none() && !place.is_twin;
        }
        if !is_missing || (search > 0 && stamps(folders)? == before) {
            break;
        }
    }
    Ok(counted)
}

/// Counted; nothing for a message that is not there. One that cannot be read is shown all the same, with an empty size, so
/// that a bad message is no secret and hides no other; asking for it is an error.
fn octets(folders: &Folders, place: &Place) -> Option<io::Result<u64>> {
    let opened = open_message(folder(folders, place.in_cur), &place.name);
    let answer = opened.map_err(io::Error::from).and_then(|message| count(Box::new(message)));
    Some(answer).filter(|answer| !matches!(answer, Err(error) if error.kind() == io::ErrorKind::NotFound))
}

/// Takes the flag T off all messages. What cannot be renamed keeps it.
fn take_marks_off(folders: &Folders) -> nix::Result<()> {
    for place in scan(folders, &[true])? {
        let lasts = lasting(&place.name).len();
        let flags = place.name.get(lasts..).unwrap_or_default();
        if !flags.starts_with(b":2,") || !flags.contains(&b'T') {
            continue;
        }
        let kept = flags.iter().filter(|flag| **flag != b'T');
        let name: Vec<u8> = place.name.iter().take(lasts).chain(kept).copied().collect();
        if let Err(errno) = rename_to_new_name(&folders.cur, &place.name, &name) {
            log::warn!("a message keeps its deletion mark: {errno}");
        }
    }
    Ok(())
}

/// Renames a file, never over another one.
fn rename_to_new_name(folder: &OwnedFd, old: &[u8], new: &[u8]) -> nix::Result<()> {
    match again(|| renameat2(folder, old, folder, new, RenameFlags::RENAME_NOREPLACE)) {
        // A file system that knows of no such thing, as NFS: a crash in between leaves both names.
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            again(|| linkat(folder, old, folder, new, AtFlags::empty()))?;
            again(|| unlinkat(folder, old, UnlinkatFlags::NoRemoveDir))
        }
        answer => answer,
    }
}

fn folder(folders: &Folders, in_cur: bool) -> &OwnedFd {
    if in_cur { &folders.cur } else { &folders.new }
}

/// The messages of new/ (false) and cur/ (true), in no order.
///
/// new/ is read first: what another program moves on meanwhile is seen twice, not never.
fn scan(folders: &Folders, which: &[bool]) -> nix::Result<Vec<Place>> {
    let mut places = Vec::new();
    for &in_cur in which {
        each_message(folder(folders, in_cur), |name| {
            places.push(Place { in_cur, is_twin: false, name: name.into() });
        })?;
    }
    Ok(places)
}

/// Puts messages into the order of their numbers, and leaves out what is there twice because it was renamed meanwhile.
fn sort(folders: &Folders, places: &mut Vec<Place>) {
    places.sort_by(|one, two| {
        let by_name = order(lasting(&one.name)).cmp(&order(lasting(&two.name)));
        // Of several with one name each is to have the same unique-id in the next session.
        by_name.then_with(|| one.in_cur.cmp(&two.in_cur)).then_with(|| one.name.cmp(&two.name))
    });
    mark_twins(places);
    leave_renamed_out(places, |place| {
        let status = fstatat(folder(folders, place.in_cur), &*place.name, AtFlags::AT_SYMLINK_NOFOLLOW);
        status.ok().map(|status| (status.st_ino, status.st_nlink > 1))
    });
    mark_twins(places);
}

/// Of twins keeps each file once, however often it is renamed while one after another is looked at. `status` gives the
/// inode of the file at a place, if there is one, and whether it has further links.
fn leave_renamed_out(places: &mut Vec<Place>, mut status: impl FnMut(&Place) -> Option<(u64, bool)>) {
    let mut stays = vec![true; places.len()];
    let (mut files, mut found, mut missed) = (HashMap::new(), HashSet::new(), HashMap::new());
    for (at, place) in places.iter().enumerate().filter(|(_, place)| place.is_twin) {
        let name = lasting(&place.name);
        let renamed = match status(place) {
            Some((inode, has_links)) => {
                found.insert(name);
                // One file seen twice was renamed in between, or has two links that are both there.
                let before = files.insert((name, inode), at);
                before.filter(|at| !has_links || places.get(*at).and_then(&mut status).is_none())
            }
            None => missed.insert(name, at),
        };
        renamed.and_then(|at| stays.get_mut(at)).into_iter().for_each(|stays| *stays = false);
    }
    // Where nothing was found at any place the file came and went the other way: whoever opens it looks for it.
    let missed = missed.into_iter().filter(|(name, _)| found.contains(name)).map(|(_, at)| at);
    missed.for_each(|at| stays.get_mut(at).into_iter().for_each(|stays| *stays = false));
    let mut stays = stays.into_iter();
    places.retain(|_| stays.next().unwrap_or(true));
}

/// Notes which places share what lasts of their names; those stand together where they are sorted.
fn mark_twins(places: &mut [Place]) {
    let mut seen: HashMap<&[u8], u32> = HashMap::with_capacity(places.len());
    for place in places.iter() {
        *seen.entry(lasting(&place.name)).or_default() += 1;
    }
    let twins: Vec<bool> = places.iter().map(|place| seen.get(lasting(&place.name)).is_some_and(|n| *n > 1)).collect();
    for (place, is_twin) in places.iter_mut().zip(twins) {
        place.is_twin = is_twin;
    }
}

fn count(mut message: Box<dyn Read>) -> io::Result<u64> {
    let mut buffer = [0; 32 * 1024];
    let mut count = Count::default();
    loop {
        match message.read(&mut buffer) {
            Ok(0) => return Ok(count.virtual_octets()),
            Ok(length) => count.add(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
