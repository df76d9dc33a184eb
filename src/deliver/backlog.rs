//! What is due and not yet given out, and in which order it goes.
//!
//! Fresh mail goes ahead of what was tried before, which still gets every fifth place, so that neither waits for the end
//! of the other. Fresh mail is taken by turns from its old end and from its new one: a single message that comes behind
//! ten thousand of a flood is the next but one.
//!
//! A message and those it gave rise to, returns and what an alias made of it, are never worked on at the same time, the
//! message first: one whose worker was killed between queueing another and noting it must find that still in the queue.
//! Ids tell: that of the other is a microsecond later (`Id::derived`).

use crate::queue::Id;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, SystemTime};

/// Most messages known at once; the others wait in the queue for a later look.
const MOST: usize = 100_000;

/// A message whose next try is so soon after its id was made has not been tried yet.
const FRESH: Duration = Duration::from_secs(60);

/// Messages, in several lines.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Those that something became free for.
    first: VecDeque<Id>,
    fresh: VecDeque<Id>,
    stale: VecDeque<Id>,
    /// Families of which a message is in one of the lines or given out.
    families: HashMap<u64, Family>,
    /// Of which family ids of such a time are.
    roots: HashMap<u64, u64>,
    /// Everything that was added and is not finished.
    known: HashSet<Id>,
    turn: u32,
}

/// Messages of which only one is worked on at a time.
#[derive(Debug, Default)]
struct Family {
    waiting: VecDeque<Id>,
    times: Vec<u64>,
    /// The attempt at one of them broke off: the others may be its work, not noted yet.
    is_broken: bool,
}

impl Backlog {
    /// Adds messages with the times of their next tries, unless they are known. False: not all had room.
    pub fn add(&mut self, mut due: Vec<(SystemTime, Id)>) -> bool {
        due.retain(|(_, id)| !self.known.contains(id));
        due.retain(|(_, id)| !self.is_held_back(id));
        let room = MOST.saturating_sub(self.known.len());
        let all_fit = due.len() <= room;
        due.truncate(room);
        due.sort_unstable_by_key(|(_, id)| *id);
        // Each line in the order of times, but within a family in that of the ids.
        let mut leaders = Vec::new();
        for (time, id) in due {
            self.known.insert(id);
            if self.join(id) {
                leaders.push((time, id));
            }
        }
        leaders.sort_unstable();
        for (time, id) in leaders {
            let is_fresh = time.duration_since(id.time()).map_or(true, |since| since < FRESH);
            if is_fresh { self.fresh.push_back(id) } else { self.stale.push_back(id) }
        }
        all_fit
    }

    /// Whether there is room for many more.
    pub fn has_room(&self) -> bool {
        self.known.len() <= MOST / 2
    }

    /// The next to be given out. It stays known until [`Backlog::finish`] or [`Backlog::again`].
    pub fn next(&mut self) -> Option<Id> {
        if let Some(id) = self.first.pop_front() {
            return Some(id);
        }
        self.turn = self.turn.wrapping_add(1);
        let fresh = if self.turn.is_multiple_of(2) { VecDeque::pop_back } else { VecDeque::pop_front };
        if self.turn.is_multiple_of(5) {
            return self.stale.pop_front().or_else(|| fresh(&mut self.fresh));
        }
        fresh(&mut self.fresh).or_else(|| self.stale.pop_front())
    }

    /// Something became free for a message that was given out before.
    pub fn again(&mut self, id: Id) {
        self.first.push_back(id);
    }

    /// It could not be given out after all: the next again.
    pub fn put_back(&mut self, id: Id) {
        self.first.push_front(id);
    }

    /// Its attempt is over; the next of its family may come.
    pub fn finish(&mut self, id: &Id) {
        self.known.remove(id);
        let Some(root) = self.roots.get(&id.microseconds()).copied() else { return };
        let Some(family) = self.families.get_mut(&root) else { return };
        match family.waiting.pop_front() {
            Some(next) => self.first.push_back(next),
            None => self.dissolve(root),
        }
    }

    /// Its attempt broke off, so nobody knows what it had queued by then. Its family is held back until
    /// [`Backlog::take_up`], when they are looked at again, it first.
    pub fn break_off(&mut self, id: &Id) {
        self.known.remove(id);
        let Some(root) = self.roots.get(&id.microseconds()) else { return };
        let Some(family) = self.families.get_mut(root) else { return };
        family.is_broken = true;
        for other in std::mem::take(&mut family.waiting) {
            self.known.remove(&other);
        }
    }

    /// Forgets which attempts broke off.
    pub fn take_up(&mut self) {
        let broken: Vec<u64> =
            self.families.iter().filter(|(_, family)| family.is_broken).map(|(root, _)| *root).collect();
        broken.into_iter().for_each(|root| self.dissolve(root));
    }

    fn is_held_back(&self, id: &Id) -> bool {
        self.root_of(id).and_then(|root| self.families.get(&root)).is_some_and(|family| family.is_broken)
    }

    /// The family that it belongs to, if that is known.
    fn root_of(&self, id: &Id) -> Option<u64> {
        let time = id.microseconds();
        [Some(time), time.checked_sub(1)].into_iter().flatten().find_map(|time| self.roots.get(&time)).copied()
    }

    /// Whether it is the first of its family; else it waits for the others.
    fn join(&mut self, id: Id) -> bool {
        let time = id.microseconds();
        let known = self.root_of(&id);
        let root = known.unwrap_or(time);
        let is_first = known.is_none();
        let family = self.families.entry(root).or_default();
        if self.roots.insert(time, root).is_none() {
            family.times.push(time);
        }
        if !is_first {
            family.waiting.push_back(id);
        }
        is_first
    }

    fn dissolve(&mut self, root: u64) {
        for time in self.families.remove(&root).map(|family| family.times).unwrap_or_default() {
            self.roots.remove(&time);
        }
    }

    /// Forgets all that is in the lines, and gives it: nothing more is to be given out.
    pub fn clear(&mut self) -> Vec<Id> {
        let mut ids: Vec<Id> =
            [&mut self.first, &mut self.fresh, &mut self.stale].into_iter().flat_map(std::mem::take).collect();
        ids.extend(self.families.values_mut().flat_map(|family| std::mem::take(&mut family.waiting)));
        let gone: HashSet<&Id> = ids.iter().collect();
        self.known.retain(|id| !gone.contains(id));
        let kept: HashSet<u64> =
            self.known.iter().filter_map(|id| self.roots.get(&id.microseconds()).copied()).collect();
        let is_over = |(root, family): &(&u64, &Family)| !kept.contains(root) && !family.is_broken;
        let over: Vec<u64> = self.families.iter().filter(is_over).map(|(root, _)| *root).collect();
        over.into_iter().for_each(|root| self.dissolve(root));
        ids
    }

    /// How many messages are not finished.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there is nothing to be given out.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.fresh.is_empty() && self.stale.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
    }

    fn drain(backlog: &mut Backlog) -> Vec<Id> {
        std::iter::from_fn(|| backlog.next().inspect(|id| backlog.finish(id))).collect()
    }

    #[test]
    fn a_single_message_behind_a_flood_is_among_the_next() {
        let mut backlog = Backlog::default();
        let flood: Vec<_> = (0..10_000).map(|n| (at(n), Id::new(at(n)))).collect();
        assert!(backlog.add(flood));
        let single = Id::new(at(20_000));
        backlog.add(vec![(at(20_000), single)]);
        let place = drain(&mut backlog).iter().position(|id| *id == single);
        assert!(place.is_some_and(|place| place < 2), "{place:?}");
    }

    #[test]
    fn fresh_mail_comes_before_stale_and_stale_mail_gets_every_fifth_place() {
        let mut backlog = Backlog::default();
        let fresh: Vec<_> = (0..100).map(|n| (at(n), Id::new(at(n)))).collect();
        let stale: Vec<_> = (0..100).map(|n| (at(n), Id::new(at(n) - Duration::from_secs(4000)))).collect();
        backlog.add([fresh, stale.clone()].concat());
        let order = drain(&mut backlog);
        let stale: HashSet<Id> = stale.into_iter().map(|(_, id)| id).collect();
        let early = order[..100].iter().filter(|id| stale.contains(id)).count();
        assert_eq!((order.len(), early), (200, 20));
    }

    #[test]
    fn returns_wait_until_their_message_is_through() {
        let mut backlog = Backlog::default();
        let parent = Id::new(at(0));
        let (child, late) = (parent.derived("return/0", 0), parent.derived("return/5", 0));
        backlog.add(vec![(at(0), child), (at(1), parent)]);
        assert_eq!(backlog.next(), Some(parent));
        backlog.add(vec![(at(2), late)]);
        assert_eq!(backlog.next(), None);
        backlog.again(parent);
        assert_eq!(backlog.next(), Some(parent));
        backlog.finish(&parent);
        assert_eq!(backlog.next(), Some(child));
        assert_eq!(backlog.next(), None);
        backlog.finish(&child);
        assert_eq!(drain(&mut backlog), [late]);
        assert!(backlog.known.is_empty() && backlog.families.is_empty());
    }

    #[test]
    fn the_returns_of_a_message_whose_attempt_broke_off_wait_for_it_to_be_taken_up() {
        let mut backlog = Backlog::default();
        let parent = Id::new(at(0));
        let (child, late) = (parent.derived("return/0", 0), parent.derived("return/5", 0));
        backlog.add(vec![(at(0), child), (at(0), parent)]);
        assert_eq!(backlog.next(), Some(parent));
        backlog.break_off(&parent);
        backlog.add(vec![(at(1), late), (at(0), child), (at(0), parent)]);
        assert!(backlog.next().is_none() && backlog.known.is_empty());
        backlog.take_up();
        backlog.add(vec![(at(1), late), (at(0), child), (at(0), parent)]);
        assert_eq!(drain(&mut backlog)[0], parent);
        assert!(backlog.known.is_empty() && backlog.families.is_empty());
    }

    #[test]
    fn what_is_known_is_not_added_again_and_more_than_fits_waits() {
        let mut backlog = Backlog::default();
        let many: Vec<_> = (0..MOST as u64 + 5).map(|n| (at(n), Id::new(at(n)))).collect();
        assert!(!backlog.add(many.clone()));
        assert_eq!((backlog.known.len(), backlog.has_room()), (MOST, false));
        assert_eq!((drain(&mut backlog).len(), backlog.has_room()), (MOST, true));
        backlog.add(many[..2].to_vec());
        let out = backlog.next().unwrap();
        backlog.add(many[..2].to_vec());
        assert_eq!(backlog.clear().len(), 1);
        backlog.finish(&out);
        assert!(backlog.is_empty() && backlog.known.is_empty() && backlog.families.is_empty());
    }
}
