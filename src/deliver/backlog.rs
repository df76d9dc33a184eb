//! What is due and not yet given out, and in which order it goes.
//!
//! Fresh mail goes ahead of what was tried before, which still gets every fifth place, so that neither waits for the end
//! of the other. Fresh mail is taken by turns from its old end and from its new one: a single message that comes behind
//! ten thousand of a flood is the next but one.
//!
//! What a message gave rise to, returns and what an alias made of it, waits until the attempt at that message is over or has
//! noted it: whose worker is killed between queueing another and noting it must find that still in the queue. `origin.rs`
//! holds to that whoever works on what; here it saves giving out what could not be delivered yet. Which message another
//! comes from is what its origin says. Its id only tells where that is worth reading: ids of others may be as near.

use crate::queue::Id;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
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
    /// What waits for the message that it comes from.
    waiting: HashMap<Id, Vec<Id>>,
    /// Messages that are with a host or wait for one, and have noted all they gave rise to.
    noted: HashSet<Id>,
    /// Everything that was added and is not finished.
    known: BTreeSet<Id>,
    turn: u32,
}

impl Backlog {
    /// Adds messages with the times of their next tries, unless they are known. `origin` reads which message one comes from.
    /// False: not all had room.
    pub fn add(&mut self, mut due: Vec<(SystemTime, Id)>, origin: impl Fn(&Id) -> Option<Id>) -> bool {
        due.retain(|(_, id)| !self.known.contains(id));
        let room = MOST.saturating_sub(self.known.len());
        let all_fit = due.len() <= room;
        due.truncate(room);
        // Whoever comes from another is behind it; an alarm and somebody who wakes us may name the same one.
        due.sort_unstable_by_key(|(time, id)| (*id, *time));
        due.dedup_by_key(|(_, id)| *id);
        let mut free = Vec::new();
        for (time, id) in due {
            let parent = if self.may_come_from_another(&id) { origin(&id) } else { None };
            self.known.insert(id);
            match parent.filter(|parent| self.known.contains(parent) && !self.noted.contains(parent)) {
                Some(parent) => self.waiting.entry(parent).or_default().push(id),
                None => free.push((time, id)),
            }
        }
        free.sort_unstable();
        for (time, id) in free {
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
        self.noted.remove(&id);
        self.first.push_back(id);
    }

    /// It could not be given out after all: the next again.
    pub fn put_back(&mut self, id: Id) {
        self.first.push_front(id);
    }

    /// Its attempt is over; what it gave rise to may come.
    pub fn finish(&mut self, id: &Id) {
        self.known.remove(id);
        self.noted.remove(id);
        self.first.extend(self.waiting.remove(id).unwrap_or_default());
    }

    /// It has noted all it gave rise to so far. It is with a host or waits for one, which is no reason for mail that stays
    /// here to wait.
    pub fn has_noted(&mut self, id: &Id) {
        self.noted.insert(*id);
        self.first.extend(self.waiting.remove(id).unwrap_or_default());
    }

    /// Whether a message is known whose id is as near as that of the one it comes from (`Id::derived`).
    fn may_come_from_another(&self, id: &Id) -> bool {
        let of = |microseconds| Id::of_time(SystemTime::UNIX_EPOCH + Duration::from_micros(microseconds));
        let time = id.microseconds();
        self.known.range(of(time.saturating_sub(1))..of(time)).next().is_some()
    }

    /// Forgets all that is in the lines, and gives it: nothing more is to be given out.
    pub fn clear(&mut self) -> Vec<Id> {
        let mut ids: Vec<Id> =
            [&mut self.first, &mut self.fresh, &mut self.stale].into_iter().flat_map(std::mem::take).collect();
        ids.extend(self.waiting.drain().flat_map(|(_, waiting)| waiting));
        let gone: HashSet<&Id> = ids.iter().collect();
        self.known.retain(|id| !gone.contains(id));
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

    fn alone(_: &Id) -> Option<Id> {
        None
    }

    fn drain(backlog: &mut Backlog) -> Vec<Id> {
        std::iter::from_fn(|| backlog.next().inspect(|id| backlog.finish(id))).collect()
    }

    #[test]
    fn a_single_message_behind_a_flood_is_among_the_next() {
        let mut backlog = Backlog::default();
        let flood: Vec<_> = (0..10_000).map(|n| (at(n), Id::new(at(n)))).collect();
        assert!(backlog.add(flood, alone));
        let single = Id::new(at(20_000));
        backlog.add(vec![(at(20_000), single)], alone);
        let place = drain(&mut backlog).iter().position(|id| *id == single);
        assert!(place.is_some_and(|place| place < 2), "{place:?}");
    }

    #[test]
    fn fresh_mail_comes_before_stale_and_stale_mail_gets_every_fifth_place() {
        let mut backlog = Backlog::default();
        let fresh: Vec<_> = (0..100).map(|n| (at(n), Id::new(at(n)))).collect();
        let stale: Vec<_> = (0..100).map(|n| (at(n), Id::new(at(n) - Duration::from_secs(4000)))).collect();
        backlog.add([fresh, stale.clone()].concat(), alone);
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
        let origin = |id: &Id| (*id != parent).then_some(parent);
        backlog.add(vec![(at(0), child), (at(1), parent)], origin);
        assert_eq!(backlog.next(), Some(parent));
        backlog.add(vec![(at(2), late)], origin);
        assert_eq!(backlog.next(), None);
        backlog.again(parent);
        assert_eq!(backlog.next(), Some(parent));
        backlog.finish(&parent);
        assert_eq!(drain(&mut backlog), [child, late]);
        assert!(backlog.known.is_empty() && backlog.waiting.is_empty());
    }

    #[test]
    fn what_a_message_that_waits_for_a_host_has_given_rise_to_does_not_wait_with_it() {
        let mut backlog = Backlog::default();
        let parent = Id::new(at(0));
        let (child, late) = (parent.derived("expansion/0", 0), parent.derived("expansion/1", 0));
        let origin = |id: &Id| (*id != parent).then_some(parent);
        backlog.add(vec![(at(0), child), (at(0), parent)], origin);
        assert_eq!(backlog.next(), Some(parent));
        backlog.has_noted(&parent);
        assert_eq!(drain(&mut backlog), [child]);
        backlog.add(vec![(at(1), late)], origin);
        assert_eq!(drain(&mut backlog), [late], "announced before, read behind");
        backlog.again(parent);
        backlog.add(vec![(at(1), late)], origin);
        assert_eq!((backlog.next(), backlog.next()), (Some(parent), None));
        backlog.finish(&parent);
        assert_eq!(drain(&mut backlog), [late]);
        assert!(backlog.known.is_empty() && backlog.noted.is_empty());
    }

    /// Whoever has a message of a moment of his choice must not hold up others of that moment.
    #[test]
    fn a_message_does_not_wait_for_another_that_it_does_not_come_from() {
        let mut backlog = Backlog::default();
        let other = Id::new(at(0));
        let near = [other.derived("a", 0), other.derived("b", 0)];
        backlog.add(vec![(at(0), other)], |_| None);
        assert_eq!(backlog.next(), Some(other));
        backlog.add(near.map(|id| (at(0), id)).to_vec(), |id| (*id == near[0]).then(|| Id::new(at(5))));
        assert_eq!(drain(&mut backlog).len(), 2);
    }

    #[test]
    fn what_is_known_is_not_added_again_and_more_than_fits_waits() {
        let mut backlog = Backlog::default();
        let many: Vec<_> = (0..MOST as u64 + 5).map(|n| (at(n), Id::new(at(n)))).collect();
        assert!(!backlog.add(many.clone(), alone));
        assert_eq!((backlog.known.len(), backlog.has_room()), (MOST, false));
        assert_eq!((drain(&mut backlog).len(), backlog.has_room()), (MOST, true));
        // Also where an alarm and a wake name one at once.
        backlog.add([&many[..2], &many[..1]].concat(), alone);
        let out = backlog.next().unwrap();
        backlog.add(many[..2].to_vec(), alone);
        assert_eq!(backlog.clear().len(), 1);
        backlog.finish(&out);
        assert!(backlog.is_empty() && backlog.known.is_empty() && backlog.waiting.is_empty());
    }
}
