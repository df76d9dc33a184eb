//! Writing an index: under a name of its own, and then in the place of the one before. What it must be like is in
//! `index.rs`, which reads it.

use super::{BLOCK, Item, MAGIC, NUMBERS, Names, Place, Stamp, are_settled, modified, none, now};
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

/// An index being made. Dropped before [`Draft::write`] is done it leaves nothing.
#[derive(Debug)]
pub struct Draft<'a> {
    pub(super) place: Place<'a>,
    name: Vec<u8>,
    pub(super) file: Option<File>,
    pub(super) made: u64,
}

impl<'a> Draft<'a> {
    /// Begins one for a mailbox that was read from the time `began` on ([`now`]), which is put by the clock that stamps
    /// files there. None where it cannot be written, which does not matter. Only under the lock of the session, for its
    /// name is always the same.
    pub fn begin(place: Place<'a>, began: u64) -> Option<Draft<'a>> {
        let mut name = place.name.as_encoded_bytes().to_vec();
        name.extend_from_slice(b".new");
        let _ = unlinkat(place.folder, name.as_slice(), UnlinkatFlags::NoRemoveDir);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(place.folder, name.as_slice(), flags, Mode::S_IRUSR | Mode::S_IWUSR).ok()?;
        let created = fstat(&file).map(|status| modified(&status));
        let mut draft = Draft { place, name, file: Some(File::from(file)), made: 0 };
        draft.made = created.ok()?.saturating_add(began).saturating_sub(now());
        Some(draft)
    }

    /// Whether nothing had changed for so long that what is found now will count.
    pub fn will_count(&self, stamps: &[Stamp]) -> bool {
        are_settled(stamps, self.made)
    }

    /// Writes it and puts it in place. What fails is no loss: it is said in the log, for those who look for it.
    pub fn write<T: Item>(mut self, stamps: &[Stamp; 2], items: &[T]) {
        if let Err(error) = self.try_write(stamps, items) {
            log::debug!("event=no-index reason={:?}", error.to_string());
        }
    }

    fn try_write<T: Item>(&mut self, stamps: &[Stamp; 2], items: &[T]) -> io::Result<()> {
        let file = self.file.take().ok_or_else(none)?;
        put(&file, self.place.kind, self.made, stamps, items, true)?;
        self.put_in_place()
    }

    pub(super) fn put_in_place(&mut self) -> io::Result<()> {
        let folder = self.place.folder;
        renameat(folder, self.name.as_slice(), folder, self.place.name)?;
        // There is nothing left to remove.
        self.name.clear();
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            let _ = unlinkat(self.place.folder, self.name.as_slice(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Writes all of an index into an empty file.
pub(super) fn put<T: Item>(
    file: &File,
    kind: u64,
    made: u64,
    stamps: &[Stamp; 2],
    items: &[T],
    with_names: bool,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(64 * 1024, file);
    let mut at = (MAGIC.len() + NUMBERS * 8) as u64;
    out.write_all(&vec![0; usize::try_from(at).unwrap_or(0)])?;
    let (mut octets, mut table) = (Vec::new(), Vec::new());
    for block in items.chunks(BLOCK) {
        octets.clear();
        block.iter().for_each(|item| item.put(&mut octets));
        for number in [at, octets.len() as u64, u64::from(crc32fast::hash(&octets))] {
            table.extend_from_slice(&number.to_le_bytes());
        }
        out.write_all(&octets)?;
        at += octets.len() as u64;
    }
    out.write_all(&table)?;
    // One that nobody will look anything up in needs none.
    let names = if with_names { Names::of(items) } else { Names::default() };
    let listed = names.octets();
    out.write_all(&listed)?;
    out.flush()?;
    let names_at = at.saturating_add(table.len() as u64);
    let names = [names_at, names.len() as u64, u64::from(crc32fast::hash(&listed)), names.salt(), names.check()];
    let total = items.iter().fold(0, |sum: u64, item| sum.saturating_add(item.octets()));
    let mut head = MAGIC.to_vec();
    let stamps = stamps.iter().flatten().copied();
    let counts = [items.len() as u64, total, at, items.len().div_ceil(BLOCK) as u64];
    let table_sum = [u64::from(crc32fast::hash(&table))];
    for number in [kind, made].into_iter().chain(stamps).chain(counts).chain(table_sum).chain(names) {
        head.extend_from_slice(&number.to_le_bytes());
    }
    let sum = crc32fast::hash(&head);
    head.extend_from_slice(&u64::from(sum).to_le_bytes());
    drop(out);
    file.write_all_at(&head, 0)
}
