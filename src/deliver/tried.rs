//! Messages that are not to be tried again in this run, or before the next look at everything, and what waits for these.

use crate::queue::Id;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// All of them.
#[derive(Debug, Default)]
pub struct Tried {
    ids: HashMap<Id, Try>,
    /// What the tries of messages that were broken off gave rise to, by these: it goes when one of them is over.
    orphans: HashMap<Id, Vec<Id>>,
}

/// How a try ended.
#[derive(Debug, Clone, Copy)]
struct Try {
    /// When this process heard that it was over.
    over: SystemTime,
    /// When it is to be tried again, as the one who tried has written it; nothing where that was broken off.
    next: Option<SystemTime>,
}

impl Tried {
    /// A try is over.
    pub fn note(&mut self, id: Id, next: Option<SystemTime>) {
        self.ids.insert(id, Try { over: SystemTime::now(), next });
    }

    /// The same of what `parent` gave rise to, whose own try was broken off.
    pub fn note_orphan(&mut self, id: Id, parent: Id) {
        self.note(id, None);
        self.orphans.entry(parent).or_default().push(id);
    }

    /// It may be tried.
    pub fn forget(&mut self, id: &Id) {
        self.ids.remove(id);
    }

    /// A message was tried to its end, and what an earlier try left without a note is noted now: gives what may be tried.
    pub fn adopt(&mut self, parent: &Id) -> Vec<Id> {
        let orphans = self.orphans.remove(parent).unwrap_or_default();
        orphans.iter().for_each(|orphan| self.forget(orphan));
        orphans
    }

    /// All may be tried.
    pub fn clear(&mut self) {
        *self = Tried::default();
    }

    /// Whether it was tried.
    pub fn has(&self, id: &Id) -> bool {
        self.ids.contains_key(id)
    }

    /// Whether any was.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether its try was broken off.
    pub fn is_broken(&self, id: &Id) -> bool {
        self.ids.get(id).is_some_and(|tried| tried.next.is_none())
    }

    /// Whether somebody made it due at `time`, after the try and before the next: it was flushed, or released. A time before
    /// the one that was written came behind that, and may have come before the news of it.
    pub fn is_flushed(&self, id: &Id, time: SystemTime) -> bool {
        let Some(Try { over, next }) = self.ids.get(id) else { return false };
        let a_second = Duration::from_secs(1);
        next.map_or(time > *over, |next| time.checked_add(a_second).is_some_and(|time| time < next))
    }
}
