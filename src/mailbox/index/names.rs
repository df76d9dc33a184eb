//! The names in an index: a table by which a message is found whose name was read in a folder, so that after a change
//! only what is new or gone costs more than that.
//!
//! A row of 64 bits has 39 bits of the hash of folder and name, a bit that says which folder, and the message's number
//! from 1 on; 0 is an empty row. The rest of the hash says where a row should stand; if others stand there it is behind
//! them. What all hashes begin with is chance, and in a file that only the user can read: nobody can give a file a name
//! that is taken for another's.

use super::{Index, Item, broken, words};
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::os::unix::fs::FileExt;

/// Messages that a row can tell apart.
const MOST: usize = (1 << 24) - 2;
/// The bits of a row that are no hash.
const NUMBER: u64 = (1 << 24) - 1;
const IN_CUR: u64 = 1 << 24;
/// What is hashed to see whether the build of ours that made an index hashes as this one does.
const KNOWN: &[u8] = b"doorpost";

/// The table, and which of its rows were found.
#[derive(Debug, Default)]
pub struct Names {
    rows: Vec<u64>,
    salt: u64,
    found: Vec<bool>,
}

impl Names {
    /// That of these messages; an empty one where they have no names or are too many.
    pub(super) fn of<T: Item>(items: &[T]) -> Names {
        let mut salt = [0; 8];
        let has_names = items.first().is_some_and(|item| item.name().is_some()) && items.len() <= MOST;
        if !has_names || getrandom::fill(&mut salt).is_err() {
            return Names::default();
        }
        let length = items.len() + items.len() / 2 + 1;
        let mut names = Names { rows: vec![0; length], salt: u64::from_le_bytes(salt), found: Vec::new() };
        for (item, number) in items.iter().zip(1_u64..) {
            let Some((in_cur, name)) = item.name() else { return Names::default() };
            let (mut at, tag) = names.place(in_cur, name);
            while names.rows.get(at).is_some_and(|row| *row != 0) {
                at = (at + 1) % length;
            }
            if let Some(row) = names.rows.get_mut(at) {
                *row = tag | number;
            }
        }
        names
    }

    /// As they lie in an index; nothing where they are not there or not whole.
    pub(super) fn read<T: Item>(index: &Index<T>) -> io::Result<Option<Names>> {
        let [at, length, sum, salt, check] = index.names;
        let octets = length.checked_mul(8).ok_or_else(broken)?;
        if length == 0 || hash(salt, KNOWN) != check || index.file.metadata()?.len() < at.saturating_add(octets) {
            return Ok(None);
        }
        let mut read = vec![0; usize::try_from(octets).map_err(|_| broken())?];
        index.file.read_exact_at(&mut read, at)?;
        if u64::from(crc32fast::hash(&read)) != sum {
            return Err(broken());
        }
        let rows: Vec<u64> = words(&read).collect();
        let found = vec![false; rows.len()];
        Ok(Some(Names { rows, salt, found }))
    }

    pub(super) fn octets(&self) -> Vec<u8> {
        self.rows.iter().flat_map(|row| row.to_le_bytes()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn salt(&self) -> u64 {
        self.salt
    }

    pub(super) fn check(&self) -> u64 {
        hash(self.salt, KNOWN)
    }

    /// Whether there is a message of this name, and notes that it was found.
    pub fn find(&mut self, in_cur: bool, name: &[u8]) -> bool {
        let (start, tag) = self.place(in_cur, name);
        let length = self.rows.len();
        for at in (start..length).chain(0..start) {
            match self.rows.get(at) {
                Some(0) | None => return false,
                Some(row) if row & !NUMBER == tag => {
                    if let Some(found) = self.found.get_mut(at) {
                        *found = true;
                    }
                    return true;
                }
                Some(_) => {}
            }
        }
        false
    }

    /// The numbers, from 0, of the messages in one of the folders that were not found, in no order.
    pub fn missing(&self, in_cur: bool) -> impl Iterator<Item = usize> {
        let is_there = move |row: u64| (row & IN_CUR != 0) == in_cur;
        let rows =
            self.rows.iter().zip(&self.found).filter(move |(row, found)| **row != 0 && !**found && is_there(**row));
        rows.filter_map(|(row, _)| usize::try_from(row & NUMBER).ok()?.checked_sub(1))
    }

    /// Where a row should stand, and what it holds but for the number.
    fn place(&self, in_cur: bool, name: &[u8]) -> (usize, u64) {
        let hash = hash(self.salt, name);
        // The upper bits say where, the lower ones what.
        let at = (u128::from(hash) * self.rows.len() as u128) >> 64;
        let tag = (hash << 25) | if in_cur { IN_CUR } else { 0 };
        (usize::try_from(at).unwrap_or(0), tag)
    }
}

fn hash(salt: u64, name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(salt);
    hasher.write(name);
    hasher.finish()
}
