//! What has changed in a mailbox since its index was made, in a file beside the index, so that a change costs what has
//! changed and not what there is. When it has grown to a part of the mailbox a new index is made, and it is of no use.
//!
//! It is written whole, for it is small, and believed as little as the index: it has stamps and checksums of its own, and
//! names the index that it belongs to by the time and the salt of that.
//!
//! ```text
//! "doorpost delta 1", then numbers of 64 bits, least octet first:
//!   kind, when it was made (ns), two stamps of six numbers, time and salt of the index, numbers of messages that are gone
//!   and that are new, length and CRC-32 of what follows, CRC-32 of all before
//! for each message that is gone its number, less that of the one before
//! for each that is new the number of the message it stands before, and the message
//! ```

use super::{Draft, Index, Item, Place, Stamp, are_settled, broken, none, put_number, take_number, words};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

const MAGIC: &[u8; 16] = b"doorpost delta 1";
/// Numbers of the head, its checksum included.
const NUMBERS: usize = 21;
/// No more changes than that are kept, for a session has them in memory.
const MOST: usize = 4096;
/// Longest file: so many messages with names and ids of 255 octets.
const LONGEST: u64 = 2 << 20;

/// Messages that an index does not have, each with the number there of the one that it stands before.
type New<T> = Vec<(usize, T)>;

/// Messages that are gone, and others that are new.
#[derive(Debug)]
pub struct Delta<T> {
    stamps: [Stamp; 2],
    made: u64,
    /// Numbers in the index, ascending.
    gone: Vec<usize>,
    /// Ascending by their numbers.
    new: New<T>,
    /// What the new ones are numbered now.
    numbers: Vec<usize>,
    total: u64,
}

impl<T: Item> Delta<T> {
    /// As many changes as are worth keeping of an index of so many messages.
    pub fn most(count: usize) -> usize {
        (16 + count / 16).min(MOST)
    }

    /// Of these changes, both in their order; nothing where they do not fit the index.
    pub fn of(index: &Index<T>, gone: Vec<usize>, new: New<T>) -> io::Result<Option<Delta<T>>> {
        let ascend = gone.is_sorted_by(|one, two| one < two) && new.is_sorted_by_key(|(before, _)| *before);
        let fit = gone.last().is_none_or(|last| *last < index.count)
            && new.last().is_none_or(|(before, _)| *before <= index.count);
        if !ascend || !fit || gone.len() + new.len() > MOST {
            return Ok(None);
        }
        let mut total = index.total;
        for number in &gone {
            total = total.saturating_sub(index.get(*number)?.octets());
        }
        total = new.iter().fold(total, |sum, (_, item)| sum.saturating_add(item.octets()));
        let gone_before = |before: usize| gone.partition_point(|number| *number < before);
        let numbers = new.iter().zip(0..).map(|((before, _), place)| before - gone_before(*before) + place).collect();
        Ok(Some(Delta { stamps: [Stamp::default(); 2], made: 0, gone, new, numbers, total }))
    }

    /// That of an index, if there is one.
    pub fn open(place: Place<'_>, index: &Index<T>) -> Option<Delta<T>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(place.folder, name_of(place).as_os_str(), flags, Mode::empty()).ok()?);
        fstat(&file).ok().filter(|status| status.st_uid == geteuid().as_raw())?;
        let mut head = [0; MAGIC.len() + NUMBERS * 8];
        file.read_exact_at(&mut head, 0).ok()?;
        let numbers: Vec<u64> = words(head.strip_prefix(MAGIC)?).collect();
        let (sum, covered) = (*numbers.last()?, head.get(..head.len() - 8)?);
        let is_whole = u64::from(crc32fast::hash(covered)) == sum;
        let [time, salt] = numbers.get(14..16)?.try_into().ok()?;
        if !is_whole || numbers.first() != Some(&place.kind) || [time, salt] != index.identity() {
            return None;
        }
        let [gone, new, length, sum] = numbers.get(16..20)?.try_into().ok()?;
        if length > LONGEST || gone.saturating_add(new) > MOST as u64 {
            return None;
        }
        let mut octets = vec![0; usize::try_from(length).ok()?];
        file.read_exact_at(&mut octets, head.len() as u64).ok()?;
        if u64::from(crc32fast::hash(&octets)) != sum {
            return None;
        }
        let (gone, new) = changes(&octets, gone, new)?;
        let stamp = |at: usize| numbers.get(at..at + 6)?.try_into().ok();
        let delta = Delta::of(index, gone, new).ok()??;
        Some(Delta { stamps: [stamp(2)?, stamp(8)?], made: *numbers.get(1)?, ..delta })
    }

    /// Writes it beside its index; [`Draft::write`] says what of a failure.
    pub fn write(&mut self, place: Place<'_>, index: &Index<T>, stamps: &[Stamp; 2], began: u64, at_once: bool) {
        let name = name_of(place);
        let place = Place { name: &name, ..place };
        let Some(draft) = Draft::begin(place, began).filter(|draft| at_once || draft.will_count(stamps)) else {
            return;
        };
        if let Err(error) = self.try_write(draft, index, stamps) {
            log::debug!("event=no-index reason={:?}", error.to_string());
        }
    }

    fn try_write(&mut self, mut draft: Draft<'_>, index: &Index<T>, stamps: &[Stamp; 2]) -> io::Result<()> {
        let mut octets = Vec::new();
        let mut last = 0;
        for number in &self.gone {
            put_number((number - last) as u64, &mut octets);
            last = *number;
        }
        for (before, item) in &self.new {
            put_number(*before as u64, &mut octets);
            item.put(&mut octets);
        }
        (self.stamps, self.made) = (*stamps, draft.made);
        let counts = [self.gone.len() as u64, self.new.len() as u64, octets.len() as u64];
        let sum = u64::from(crc32fast::hash(&octets));
        let mut head = MAGIC.to_vec();
        let numbers = [draft.place.kind, draft.made].into_iter().chain(stamps.iter().flatten().copied());
        for number in numbers.chain(index.identity()).chain(counts).chain([sum]) {
            head.extend_from_slice(&number.to_le_bytes());
        }
        let sum = u64::from(crc32fast::hash(&head));
        head.extend_from_slice(&sum.to_le_bytes());
        head.append(&mut octets);
        draft.file.take().ok_or_else(none)?.write_all(&head)?;
        draft.put_in_place()
    }

    /// Whether what it and its index say of one of the two is true still.
    pub fn fits(&self, which: usize, now: &Stamp) -> bool {
        self.stamps.get(which) == Some(now) && are_settled(std::slice::from_ref(now), self.made)
    }

    /// Numbers, in the index, of messages that are gone.
    pub fn gone(&self) -> &[usize] {
        &self.gone
    }

    /// Messages that the index does not have, each with the number there of the one that it stands before.
    pub fn added(&self) -> &[(usize, T)] {
        &self.new
    }

    /// How many messages there are.
    pub(super) fn count(&self, index: &Index<T>) -> usize {
        index.count.saturating_sub(self.gone.len()).saturating_add(self.new.len())
    }

    /// Octets of all.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// One, from 0.
    pub(super) fn get(&self, index: &Index<T>, number: usize) -> io::Result<T> {
        let new_before = self.numbers.partition_point(|new| *new < number);
        if self.numbers.get(new_before) == Some(&number) {
            return self.new.get(new_before).map(|(_, item)| item.clone()).ok_or_else(broken);
        }
        let kept = number - new_before;
        // So many of those that are gone stood before it.
        let (mut low, mut high) = (0, self.gone.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.gone.get(middle).is_some_and(|gone| gone - middle <= kept) {
                low = middle + 1
            } else {
                high = middle
            }
        }
        index.get(kept.checked_add(low).ok_or_else(none)?)
    }
}

/// What is gone and what is new, as it was written.
fn changes<T: Item>(mut octets: &[u8], gone: u64, new: u64) -> Option<(Vec<usize>, New<T>)> {
    let mut last = 0_usize;
    let next = |octets: &mut &[u8]| -> Option<usize> { usize::try_from(take_number(octets)?).ok() };
    let mut ago = Vec::new();
    for _ in 0..gone {
        last = last.checked_add(next(&mut octets)?)?;
        ago.push(last);
    }
    let mut fresh = Vec::new();
    for _ in 0..new {
        let before = next(&mut octets)?;
        fresh.push((before, T::take(&mut octets)?));
    }
    octets.is_empty().then_some((ago, fresh))
}

/// Removes what there may be: an index that is made anew has everything.
pub(super) fn forget(place: Place<'_>) {
    let name = name_of(place);
    let mut draft = name.clone();
    draft.push(".new");
    for name in [name, draft] {
        let _ = unlinkat(place.folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir);
    }
}

fn name_of(place: Place<'_>) -> OsString {
    let mut name = place.name.to_owned();
    name.push(".delta");
    name
}
