//! The index of a mailbox: what a session found, kept for the next one, so that login and STAT cost the same however many
//! messages there are.
//!
//! It is a cache and need never be right: it counts only for folders or files that are what they were (device, inode,
//! size, mtime and ctime) and had been left alone for more than two seconds when it was made, because a change within
//! one tick of a clock leaves no trace. Every part has a checksum. What does not fit is thrown away and made anew;
//! a write that fails is nothing. It is read a block at a time, so a session never holds all of it.
//!
//! ```text
//! "doorpost index 2", then numbers of 64 bits, least octet first:
//!   kind, when it was made (ns), two stamps of six numbers, count, octets of all, place and number of blocks,
//!   CRC-32 of the table; place, number and CRC-32 of the names, what their hashes begin with, and one to compare;
//!   CRC-32 of all before
//! blocks of 128 messages, as their kind writes them
//! table: place, length and CRC-32 of each block
//! names: a table by which a message is found whose name was read in a folder (`names.rs`)
//! ```
//!
//! What changed since it was made stands in a second file beside it, as long as that is little (`delta.rs`). Here it is
//! read; `draft.rs` writes it, and `snapshot.rs` is what a session sees of all that.

mod delta;
mod draft;
mod names;
mod numbers;
mod snapshot;

use crate::clock::since_1970;
pub use delta::Delta;
pub use draft::Draft;
use draft::put;
pub use names::Names;
pub use numbers::{put_number, put_octets, take_number, take_octets};
pub use snapshot::Snapshot;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use std::cell::{OnceCell, RefCell};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

const MAGIC: &[u8; 16] = b"doorpost index 2";
/// Messages in a block.
const BLOCK: usize = 128;
/// Numbers of the head, its checksum included.
const NUMBERS: usize = 25;
/// Longest block: 128 messages with names and ids of 255 octets.
const LONGEST_BLOCK: u64 = 128 * 1024;
/// A folder that was changed so short a time before may have been changed again without a trace.
const SETTLED: u64 = 2_000_000_000;

/// A message as one kind of mailbox keeps it.
pub trait Item: Sized + Clone {
    /// Its size in POP3.
    fn octets(&self) -> u64;
    /// In which of two folders it is, and its name there; nothing where there are no folders.
    fn name(&self) -> Option<(bool, &[u8])> {
        None
    }
    /// Appends what `take` reads; at most 1 KiB.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads one and moves on; nothing where there is none.
    fn take(from: &mut &[u8]) -> Option<Self>;
}

/// What tells one state of a folder or file from the next: device, inode, size, mtime and ctime in nanoseconds, and 0.
pub type Stamp = [u64; 6];

/// The stamp of a folder or file.
pub fn stamp(of: &impl AsFd) -> nix::Result<Stamp> {
    let status = fstat(of)?;
    let time = |seconds: i64, nanoseconds: i64| {
        let [seconds, nanoseconds] = [seconds, nanoseconds].map(|part| u64::try_from(part).unwrap_or(0));
        seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
    };
    let size = u64::try_from(status.st_size).unwrap_or(0);
    Ok([status.st_dev, status.st_ino, size, modified(&status), time(status.st_ctime, status.st_ctime_nsec), 0])
}

/// Whether what these stand for had been left alone for so long at that time that what was found there counts.
pub fn are_settled(stamps: &[Stamp], at: u64) -> bool {
    let settled = |time: u64| time.checked_add(SETTLED).is_some_and(|time| time < at);
    stamps.iter().all(|stamp| settled(stamp[3]) && settled(stamp[4]))
}

/// Its mtime in nanoseconds since 1970.
pub fn modified_at(stamp: &Stamp) -> u64 {
    stamp[3]
}

/// Nanoseconds since 1970.
pub fn now() -> u64 {
    let now = since_1970(SystemTime::now());
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// The same by the clock that stamps files there, which over a network is another machine's; ours where no file can be
/// made. Only under the lock of the session.
pub fn clock(place: Place<'_>) -> u64 {
    Draft::<'_>::begin(place, now()).map_or_else(now, |draft| draft.made)
}

fn modified(status: &FileStat) -> u64 {
    let [seconds, nanoseconds] = [status.st_mtime, status.st_mtime_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

fn none() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "no such message")
}

fn broken() -> io::Error {
    // The next session makes a new one.
    io::Error::other("the index of the mailbox is broken")
}

/// Where an index is: a folder and a name in it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The folder.
    pub folder: &'a OwnedFd,
    /// The file.
    pub name: &'a OsStr,
    /// The kind of mailbox, which must be that of the index.
    pub kind: u64,
}

/// An index that is there and whole as far as was looked; whether it still counts is for [`Index::fits`] to say.
#[derive(Debug)]
pub struct Index<T> {
    file: File,
    made: u64,
    stamps: [Stamp; 2],
    count: usize,
    total: u64,
    table_at: u64,
    blocks: usize,
    table_sum: u64,
    /// Place, number and CRC-32 of the names, what their hashes begin with, and such a hash.
    names: [u64; 5],
    table: OnceCell<Vec<[u64; 3]>>,
    /// The block that was read last, and its number.
    block: RefCell<(usize, Vec<T>)>,
    items: PhantomData<T>,
}

impl<T: Item> Index<T> {
    /// Opens one; none where there is none that could be used.
    pub fn open(place: Place<'_>) -> Option<Index<T>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(place.folder, place.name, flags, Mode::empty()).ok()?);
        // In a folder where others may make files, theirs are not believed.
        fstat(&file).ok().filter(|status| status.st_uid == geteuid().as_raw())?;
        Index::of(file, place.kind)
    }

    /// One for this session alone, in a file beside the mailbox, or where that cannot be in /var/tmp, that never had a name
    /// and goes with the session.
    fn unnamed(place: Place<'_>, items: &[T]) -> io::Result<Option<Index<T>>> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = openat(place.folder, ".", flags, mode).or_else(|_| open("/var/tmp", flags, mode))?;
        let file = File::from(file);
        put(&file, place.kind, 0, &[Stamp::default(); 2], items, false)?;
        Ok(Index::of(file, place.kind))
    }

    fn of(file: File, kind: u64) -> Option<Index<T>> {
        let mut head = [0; MAGIC.len() + NUMBERS * 8];
        file.read_exact_at(&mut head, 0).ok()?;
        let numbers: Vec<u64> = words(head.strip_prefix(MAGIC)?).collect();
        let (sum, covered) = (*numbers.last()?, head.get(..head.len() - 8)?);
        if u64::from(crc32fast::hash(covered)) != sum || numbers.first() != Some(&kind) {
            return None;
        }
        let stamp = |at: usize| numbers.get(at..at + 6)?.try_into().ok();
        let number = |at: usize| numbers.get(at).copied();
        let count = usize::try_from(number(14)?).ok()?;
        let blocks = usize::try_from(number(17)?).ok()?;
        if count.div_ceil(BLOCK) != blocks {
            return None;
        }
        Some(Index {
            file,
            made: number(1)?,
            stamps: [stamp(2)?, stamp(8)?],
            count,
            total: number(15)?,
            table_at: number(16)?,
            blocks,
            table_sum: number(18)?,
            names: numbers.get(19..24)?.try_into().ok()?,
            table: OnceCell::new(),
            block: RefCell::new((usize::MAX, Vec::new())),
            items: PhantomData,
        })
    }

    /// Whether what it says of one of the two is true still.
    pub fn fits(&self, which: usize, now: &Stamp) -> bool {
        self.stamps.get(which) == Some(now) && are_settled(std::slice::from_ref(now), self.made)
    }

    /// Whether what it says of one of the two was true once, and that has grown since.
    pub fn is_outgrown(&self, which: usize, now: &Stamp) -> bool {
        let same = |then: &Stamp| then[..2] == now[..2] && then[2] < now[2] && self.fits(which, then);
        self.stamps.get(which).is_some_and(same)
    }

    /// Whether one of the two stamps is this one.
    pub fn is_stamped(&self, which: usize, stamp: &Stamp) -> bool {
        self.stamps.get(which) == Some(stamp)
    }

    /// What no other index has.
    fn identity(&self) -> [u64; 2] {
        [self.made, self.names[3]]
    }

    /// The table of names, where it has one that can be used.
    pub fn names(&self) -> io::Result<Option<Names>> {
        Names::read(self)
    }

    /// How many messages it has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// One, from 0.
    pub fn get(&self, number: usize) -> io::Result<T> {
        if number >= self.count {
            return Err(none());
        }
        let wanted = number / BLOCK;
        let mut block = self.block.borrow_mut();
        if block.0 != wanted {
            *block = (wanted, self.read(wanted)?);
        }
        block.1.get(number % BLOCK).cloned().ok_or_else(broken)
    }

    /// All messages; also of an index that does not count any more, for what lasts of it.
    pub fn all(&self) -> io::Result<Vec<T>> {
        let mut items = Vec::new();
        for block in 0..self.blocks {
            items.append(&mut self.read(block)?);
        }
        if items.len() == self.count { Ok(items) } else { Err(broken()) }
    }

    fn read(&self, block: usize) -> io::Result<Vec<T>> {
        let &[at, length, sum] = self.table()?.get(block).ok_or_else(broken)?;
        if length > LONGEST_BLOCK {
            return Err(broken());
        }
        let mut octets = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.read_exact_at(&mut octets, at)?;
        if u64::from(crc32fast::hash(&octets)) != sum {
            return Err(broken());
        }
        let mut rest = octets.as_slice();
        let mut items = Vec::with_capacity(BLOCK);
        while !rest.is_empty() {
            items.push(T::take(&mut rest).ok_or_else(broken)?);
        }
        let is_last = block + 1 == self.blocks;
        let expected = if is_last { self.count - block * BLOCK } else { BLOCK };
        if items.len() == expected { Ok(items) } else { Err(broken()) }
    }

    fn table(&self) -> io::Result<&Vec<[u64; 3]>> {
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        // The file must be so long, so a wrong number cannot ask for much memory.
        let length = self.blocks.checked_mul(24).ok_or_else(broken)?;
        if self.file.metadata()?.len() < self.table_at.saturating_add(length as u64) {
            return Err(broken());
        }
        let mut octets = vec![0; length];
        self.file.read_exact_at(&mut octets, self.table_at)?;
        if u64::from(crc32fast::hash(&octets)) != self.table_sum {
            return Err(broken());
        }
        let numbers: Vec<u64> = words(&octets).collect();
        let rows = numbers.chunks_exact(3).map(|row| [row[0], row[1], row[2]]).collect();
        Ok(self.table.get_or_init(|| rows))
    }
}

fn words(octets: &[u8]) -> impl Iterator<Item = u64> {
    octets.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes))
}

/// Removes an index, so that the next session finds everything anew. What changed since is then of no use.
pub fn forget(place: Place<'_>) -> nix::Result<()> {
    delta::forget(place);
    match unlinkat(place.folder, place.name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        answer => answer,
    }
}

/// Removes what stands beside an index that has just been made.
pub fn settle(place: Place<'_>) {
    delta::forget(place);
}

#[cfg(test)]
mod tests;
