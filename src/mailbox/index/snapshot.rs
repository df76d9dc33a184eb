//! The messages of a session, wherever they are: in memory, in an index, or in one and what has changed since.

use super::{Delta, Index, Item, Place, Stamp, none};
use crate::sys;
use std::io;

/// So many messages are held in memory as they are.
const MOST_HELD: usize = 4096;

/// The messages of a session: in memory, or in an index on disk.
#[derive(Debug)]
pub enum Snapshot<T> {
    /// As they were just found.
    Held(Vec<T>, u64),
    /// As an earlier session found them.
    Indexed(Index<T>),
    /// The same, but for what has changed since.
    Changed(Index<T>, Delta<T>),
}

impl<T: Item> Snapshot<T> {
    /// Messages in memory.
    pub fn held(items: Vec<T>) -> Snapshot<T> {
        let total = items.iter().fold(0, |sum: u64, item| sum.saturating_add(item.octets()));
        Snapshot::Held(items, total)
    }

    /// Messages that were just written into an index with these stamps; if they are many, they are read out of it from now
    /// on, so that this session too holds little memory.
    pub fn written(place: Place<'_>, stamps: &[Stamp; 2], items: Vec<T>) -> Snapshot<T> {
        let is_it = |index: &Index<T>| index.stamps == *stamps && index.count == items.len();
        match Some(place).filter(|_| items.len() > MOST_HELD).and_then(Index::open).filter(is_it) {
            Some(index) => Snapshot::instead_of(items, index),
            None => Snapshot::unkept(place, items),
        }
    }

    /// Messages of which no index is kept, because one would not count: if they are many, they are put into a file without
    /// a name, so that this session too holds little memory.
    pub fn unkept(place: Place<'_>, items: Vec<T>) -> Snapshot<T> {
        if items.len() <= MOST_HELD {
            return Snapshot::held(items);
        }
        match Index::unnamed(place, &items) {
            Ok(Some(index)) => Snapshot::instead_of(items, index),
            Ok(None) => Snapshot::held(items),
            Err(error) => {
                log::debug!("event=no-index reason={:?}", error.to_string());
                Snapshot::held(items)
            }
        }
    }

    fn instead_of(items: Vec<T>, index: Index<T>) -> Snapshot<T> {
        drop(items);
        sys::give_memory_back();
        Snapshot::Indexed(index)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Snapshot::Held(items, _) => items.len(),
            Snapshot::Indexed(index) => index.count,
            Snapshot::Changed(index, delta) => delta.count(index),
        }
    }

    /// Octets of all.
    pub fn total(&self) -> u64 {
        match self {
            Snapshot::Held(_, total) => *total,
            Snapshot::Indexed(index) => index.total,
            Snapshot::Changed(_, delta) => delta.total(),
        }
    }

    /// One, from 0. An index that is broken here is an error; the next session will do without it.
    pub fn get(&self, number: usize) -> io::Result<T> {
        match self {
            Snapshot::Held(items, _) => items.get(number).cloned().ok_or_else(none),
            Snapshot::Indexed(index) => index.get(number),
            Snapshot::Changed(index, delta) => delta.get(index, number),
        }
    }

    /// All of them.
    pub fn all(&self) -> io::Result<Vec<T>> {
        match self {
            Snapshot::Held(items, _) => Ok(items.clone()),
            Snapshot::Indexed(index) => index.all(),
            Snapshot::Changed(index, delta) => (0..delta.count(index)).map(|number| delta.get(index, number)).collect(),
        }
    }
}
