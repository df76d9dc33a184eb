//! What the parent and the children of a pool have in common, in memory that they share.

use super::super::limits::{self, Excess, Limits, Table};
use super::super::listener::Listener;
use nix::sys::eventfd::EventFd;
use std::io::PipeReader;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const FREE: u64 = 0;
pub(super) const IDLE: u64 = 1;
pub(super) const BUSY: u64 = 2;

/// What parent and children have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) listeners: Vec<Listener>,
    /// How many slots were ever used, how many clients were refused, then the state of each child.
    pub(super) states: &'static [AtomicU64],
    pub(super) table: Table,
    pub(super) limits: Limits,
    pub(super) bell: EventFd,
    pub(super) end: PipeReader,
}

/// Words in front of the states.
pub(super) const FIRST_STATE: usize = 2;

impl Shared {
    /// The states of all slots that were ever used: a look costs what is going on, not what may.
    pub(super) fn used(&self) -> &[AtomicU64] {
        let used = self.states.first().map_or(0, |word| word.load(Ordering::Relaxed));
        self.states.get(FIRST_STATE..).and_then(|words| words.get(..usize::try_from(used).ok()?)).unwrap_or_default()
    }

    pub(super) fn count(&self, state: u64) -> usize {
        self.used().iter().filter(|word| word.load(Ordering::Relaxed) == state).count()
    }

    /// Whether the state was `from`; if so, it is `to` now.
    pub(super) fn change(&self, slot: usize, from: u64, to: u64) -> bool {
        let word = self.used().get(slot);
        word.is_some_and(|word| word.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok())
    }

    pub(super) fn set(&self, slot: usize, state: u64) {
        if let Some(word) = self.used().get(slot) {
            word.store(state, Ordering::Relaxed);
        }
    }

    /// Makes a slot one of those that were used, and busy. For the parent.
    pub(super) fn use_slot(&self, slot: usize) {
        if let Some(word) = self.states.first() {
            word.fetch_max(slot as u64 + 1, Ordering::Relaxed);
        }
        self.set(slot, BUSY);
    }

    /// A slot that nobody has; the lowest, so that few are ever used. For the parent.
    pub(super) fn free_slot(&self) -> usize {
        let used = self.used();
        let free = used.iter().position(|word| word.load(Ordering::Relaxed) == FREE);
        free.unwrap_or_else(|| {
            if let Some(word) = self.states.first() {
                word.fetch_add(1, Ordering::Relaxed);
            }
            used.len()
        })
    }

    /// Counts and records somebody who is not served.
    pub(super) fn refuses(&self, service: &str, connection: &OwnedFd, excess: Excess) {
        self.add_refused(1);
        let client = limits::address_of(connection).map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        log::info!("refused client={client} service={service} reason={:?}", excess.to_string());
    }

    /// More that were refused.
    pub(super) fn add_refused(&self, count: u64) {
        if let Some(word) = self.states.get(1) {
            word.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// How many were refused so far.
    pub(super) fn refused(&self) -> u64 {
        self.states.get(1).map_or(0, |word| word.load(Ordering::Relaxed))
    }
}
