//! What only so many may use at once: how many do, which messages wait for it, and the agents that wait there for another
//! message. Who may use what, and with which agent, is for `lending.rs` to say.

use super::homes::{MOST_SILENT, Silence};
use super::processes::Agent;
use crate::queue::Id;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How the keys of mailboxes begin.
pub const MAILBOX: &str = "mailbox\n";

/// What everybody uses who has an agent, besides his next hop.
pub const AGENTS: &str = "agents";

/// And who has one for a report to a domain, besides.
pub const REPORTS: &str = "reports";

/// Most agents that wait for another message to their next hop.
const MOST_IDLE: usize = 50;

/// A next hop, a mailbox, a program. Or the hosts of domains, which have idle agents alone.
#[derive(Debug, Default)]
struct Place {
    users: u32,
    waiting: VecDeque<Id>,
    idle: Vec<Agent>,
    silent: Option<Silence>,
}

impl Place {
    fn is_silent(&self) -> bool {
        self.silent.as_ref().is_some_and(|(until, _)| *until > Instant::now())
    }
}

/// All places, by their keys.
#[derive(Debug, Default)]
pub struct Places(HashMap<String, Place>);

/// Where agents for these hosts wait.
pub fn at(hosts: &str) -> String {
    format!("hosts\n{hosts}")
}

impl Places {
    /// How many use it.
    pub fn users(&self, key: &str) -> u32 {
        self.0.get(key).map_or(0, |place| place.users)
    }

    /// One more uses it.
    pub fn enter(&mut self, key: &str) {
        self.0.entry(key.to_owned()).or_default().users += 1;
    }

    /// One uses it no more.
    pub fn leave(&mut self, key: &str) {
        if let Some(place) = self.0.get_mut(key) {
            place.users = place.users.saturating_sub(1);
        }
    }

    /// A message waits until somebody leaves. False: nobody is there, so that nobody would.
    pub fn wait(&mut self, key: &str, id: Id) -> bool {
        let place = self.0.get_mut(key).filter(|place| place.users > 0);
        place.map(|place| place.waiting.push_back(id)).is_some()
    }

    /// The message that has waited there for the longest.
    pub fn next(&mut self, key: &str) -> Option<Id> {
        self.0.get_mut(key)?.waiting.pop_front()
    }

    /// Whether a message waits there.
    pub fn is_waited_for(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|place| !place.waiting.is_empty())
    }

    /// What messages wait for.
    pub fn waited_for(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, place)| !place.waiting.is_empty()).map(|(key, _)| &**key)
    }

    /// All messages that wait there.
    pub fn free_all(&mut self, key: &str) -> VecDeque<Id> {
        self.0.get_mut(key).map(|place| std::mem::take(&mut place.waiting)).unwrap_or_default()
    }

    /// All messages that wait for what nobody uses.
    pub fn stranded(&mut self) -> Vec<Id> {
        let unused = self.0.values_mut().filter(|place| place.users == 0);
        unused.flat_map(|place| std::mem::take(&mut place.waiting)).collect()
    }

    /// All messages that wait for anything.
    pub fn forget_waiting(&mut self) -> Vec<Id> {
        self.0.values_mut().flat_map(|place| std::mem::take(&mut place.waiting)).collect()
    }

    /// Why nobody is at a next hop, if that is known.
    pub fn silence(&self, key: &str) -> Option<&str> {
        let silent = self.0.get(key).filter(|place| place.is_silent())?.silent.as_ref();
        silent.map(|(_, why)| why.as_str())
    }

    /// Remembers that nobody is at a next hop that somebody uses, if there is room. Gives whether.
    pub fn hush(&mut self, key: &str, silence: Silence) -> bool {
        let has_room = self.0.values().filter(|place| place.silent.is_some()).count() < MOST_SILENT;
        let place = self.0.get_mut(key).filter(|_| has_room);
        place.map(|place| place.silent = Some(silence)).is_some()
    }

    /// Forgets which next hops did not answer.
    pub fn forget_silent(&mut self) {
        self.0.values_mut().for_each(|place| place.silent = None);
    }

    /// An agent that waits there. One that is old is not lent: it may connect once more, to hosts that were looked up
    /// when it was new.
    pub fn lend(&mut self, at: &str, reuse: Duration) -> Option<Agent> {
        let idle = &mut self.0.get_mut(at)?.idle;
        idle.retain(|agent| agent.since.elapsed() < reuse);
        idle.pop()
    }

    /// Keeps an agent that has worked for this key, if there is room.
    pub fn keep(&mut self, key: &str, agent: Agent) {
        if self.idle().count() < MOST_IDLE {
            let place = self.0.entry(agent.waits_at(key)).or_default();
            place.idle.push(agent);
        }
    }

    /// All agents that wait.
    pub fn idle(&self) -> impl Iterator<Item = &Agent> {
        self.0.values().flat_map(|place| &place.idle)
    }

    /// The same, to make them older.
    #[cfg(test)]
    pub fn idle_mut(&mut self) -> impl Iterator<Item = &mut Agent> {
        self.0.values_mut().flat_map(|place| &mut place.idle)
    }

    /// Dismisses the agents among them that are not to stay.
    pub fn dismiss(&mut self, stays: impl Fn(&Agent) -> bool) {
        self.0.values_mut().for_each(|place| place.idle.retain(&stays));
    }

    /// Forgets what nobody uses and nothing is known of.
    pub fn tidy(&mut self) {
        self.0.retain(|_, place| {
            if !place.is_silent() {
                place.silent = None;
            }
            let is_used = place.users > 0 || !place.waiting.is_empty() || !place.idle.is_empty();
            is_used || place.silent.is_some()
        });
    }
}
