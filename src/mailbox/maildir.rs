//! Maildir: a folder with tmp, new and cur; a file a message.
//!
//! Here is what POP3 reads; `append.rs` delivers, `folders.rs` opens, `name.rs` knows what stands in a name. Other
//! programs may rename, flag, add and remove messages at any time: a session keeps the numbers and sizes of its
//! snapshot, and finds a renamed file by the part of its name that lasts.

mod append;
mod folders;
pub mod name;

pub use append::deliver;

use super::{Entry, Error, Maildrop};
use folders::{Folders, again, each_message, lock, open_message, sync};
use name::{Count, hashed_unique_id, lasting, order, sizes, unique_id};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, renameat};
use nix::sys::stat::fstatat;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

/// How often a removal looks for files that another program renames at the same moment.
const SEARCHES: usize = 3;

/// A Maildir opened by a POP3 session; locked by flock on the folder itself, so nothing can be stale.
#[derive(Debug)]
pub struct Maildir {
    folders: Folders,
    entries: Vec<Entry>,
    /// Where each message was seen last.
    places: RefCell<Vec<Place>>,
    _lock: Flock<OwnedFd>,
}

/// Where a message lies.
#[derive(Debug, Clone)]
struct Place {
    in_cur: bool,
    /// Another file has the same lasting name, so that a search could find the wrong one.
    is_twin: bool,
    name: Box<[u8]>,
}

impl Maildir {
    /// Opens it, making it where it is missing, and takes the snapshot without opening any message that carries its
    /// sizes in its name.
    pub fn open(path: &Path) -> Result<Maildir, Error> {
        let failed = |what: &str, errno: Errno| Error::Io(format!("{what} {}: {errno}", path.display()));
        let folders = Folders::open(path).map_err(|errno| failed("opening", errno))?;
        let top = folders.top.try_clone().map_err(|error| Error::Io(error.to_string()))?;
        let lock = lock(top).map_err(|errno| match errno {
            Errno::EWOULDBLOCK => Error::InUse,
            errno => failed("locking", errno),
        })?;
        let places = snapshot(&folders).map_err(|errno| failed("reading", errno))?;
        let mut maildir = Maildir { folders, entries: Vec::new(), places: RefCell::new(places), _lock: lock };
        maildir.describe();
        Ok(maildir)
    }

    /// Takes the flag T off all messages, which a mail reader would remove. What cannot be renamed keeps it.
    pub fn undelete(&mut self) {
        for place in self.places.get_mut().iter_mut().filter(|place| place.in_cur) {
            let lasts = lasting(&place.name).len();
            let flags = place.name.get(lasts..).unwrap_or_default();
            if !flags.starts_with(b":2,") || !flags.contains(&b'T') {
                continue;
            }
            let kept = flags.iter().filter(|flag| **flag != b'T');
            let name: Vec<u8> = place.name.iter().take(lasts).chain(kept).copied().collect();
            let cur = &self.folders.cur;
            match again(|| renameat(cur, &*place.name, cur, name.as_slice())) {
                Ok(()) => place.name = name.into(),
                Err(errno) => log::warn!("a message keeps its deletion mark: {errno}"),
            }
        }
    }

    /// Finds size and unique-id of each message of the snapshot; leaves out what is gone by now.
    fn describe(&mut self) {
        let octets: Vec<Option<u64>> = (0..self.places.borrow().len()).map(|number| self.octets(number)).collect();
        let mut known = octets.iter();
        let places = self.places.get_mut();
        places.retain(|_| known.next().is_some_and(Option::is_some));
        let mut ordinals: HashMap<&[u8], usize> = HashMap::new();
        let unique_ids = places.iter().map(|place| match unique_id(&place.name).filter(|_| !place.is_twin) {
            Some(unique_id) => unique_id.to_owned(),
            None => {
                let ordinal = ordinals.entry(lasting(&place.name)).or_default();
                *ordinal = ordinal.saturating_add(1);
                hashed_unique_id(&place.name, *ordinal)
            }
        });
        let entries = octets.into_iter().flatten().zip(unique_ids);
        self.entries = entries.map(|(octets, unique_id)| Entry { octets, unique_id }).collect();
    }

    /// From the name, else counted; nothing for a message that is gone. One that cannot be read is shown all the
    /// same, with an empty size, so that a bad message is no secret and hides no other; asking for it is an error.
    fn octets(&self, number: usize) -> Option<u64> {
        if let Some((_, octets)) = self.places.borrow().get(number).and_then(|place| sizes(&place.name)) {
            return Some(octets);
        }
        match Maildrop::open(self, number).and_then(count) {
            Ok(octets) => Some(octets),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                log::warn!("message {}: cannot read it: {error}", number.saturating_add(1));
                Some(0)
            }
        }
    }

    fn folder(&self, place: &Place) -> &OwnedFd {
        folder(&self.folders, place.in_cur)
    }

    /// Finds the places of all messages anew, once for all that were renamed.
    fn search(&self) -> nix::Result<()> {
        let found = scan(&self.folders)?;
        let found: HashMap<&[u8], &Place> = found.iter().map(|place| (lasting(&place.name), place)).collect();
        for place in self.places.borrow_mut().iter_mut().filter(|place| !place.is_twin) {
            if let Some(now) = found.get(lasting(&place.name)) {
                *place = (*now).clone();
            }
        }
        Ok(())
    }

    fn place(&self, number: usize) -> io::Result<Place> {
        let place = self.places.borrow().get(number).cloned();
        place.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no such message"))
    }

    fn unlink(&self, number: usize) -> io::Result<()> {
        let place = self.place(number)?;
        Ok(again(|| unlinkat(self.folder(&place), &*place.name, UnlinkatFlags::NoRemoveDir))?)
    }
}

impl Maildrop for Maildir {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn open(&self, number: usize) -> io::Result<Box<dyn Read>> {
        let place = self.place(number)?;
        let file = match open_message(self.folder(&place), &place.name) {
            Err(Errno::ENOENT) => {
                self.search()?;
                let place = self.place(number)?;
                open_message(self.folder(&place), &place.name)?
            }
            answer => answer?,
        };
        Ok(Box::new(file))
    }

    fn remove(&mut self, numbers: &[usize]) -> io::Result<usize> {
        let mut left = numbers.to_vec();
        let mut failed = 0;
        for _ in 0..SEARCHES {
            left.retain(|&number| match self.unlink(number) {
                Ok(()) => false,
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                Err(error) => {
                    log::warn!("message {}: cannot remove it: {error}", number.saturating_add(1));
                    failed += 1;
                    false
                }
            });
            if left.is_empty() {
                break;
            }
            self.search()?;
        }
        if !numbers.is_empty() {
            sync(&self.folders.new)?;
            sync(&self.folders.cur)?;
        }
        Ok(failed)
    }
}

fn folder(folders: &Folders, in_cur: bool) -> &OwnedFd {
    if in_cur { &folders.cur } else { &folders.new }
}

/// All messages there are now, in no order.
///
/// new/ is read first: what another program moves on meanwhile is seen twice, not never.
fn scan(folders: &Folders) -> nix::Result<Vec<Place>> {
    let mut places = Vec::new();
    for in_cur in [false, true] {
        each_message(folder(folders, in_cur), |name| {
            places.push(Place { in_cur, is_twin: false, name: name.into() });
        })?;
    }
    Ok(places)
}

/// All messages in the order of their numbers, none twice because it was renamed while we read.
fn snapshot(folders: &Folders) -> nix::Result<Vec<Place>> {
    let mut places = scan(folders)?;
    places.sort_by(|one, two| {
        order(lasting(&one.name)).cmp(&order(lasting(&two.name))).then(one.in_cur.cmp(&two.in_cur))
    });
    let is_there =
        |place: &Place| fstatat(folder(folders, place.in_cur), &*place.name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok();
    mark_twins(&mut places);
    places.retain(|place| !place.is_twin || is_there(place));
    mark_twins(&mut places);
    Ok(places)
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
