//! Who may use what, with which agent, and whom to believe what he says of hosts.
//!
//! An agent for a domain belongs to the hosts that it has found for it before it spoke with anybody, and connects to no
//! others as long as it lives. So it may be lent to every domain that has just these hosts, as another new agent found.
//! What an agent says after it has spoken with a host, of hosts or of silence, counts for its own next hop alone. An
//! address that is silent for new connections keeps nobody from those that are there.
//!
//! What is remembered, and for how long, is in `homes.rs` and `places.rs`.

use super::homes::Silence;
use super::places::{AGENTS, MAILBOX, REPORTS, at};
use super::processes::{Agent, Use};
use super::{Crew, News, half};
use crate::deliver::attempt::Attempt;
use crate::deliver::permits::{Lent, Permit};
use crate::queue::Id;
use crate::relay::route;
use nix::sys::signal::{Signal, kill};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

impl Crew {
    /// Whether it may be used, and by which agent where one is wanted: none that is older than `agent` says.
    pub(super) fn permit(
        &mut self,
        number: usize,
        key: &str,
        limit: u32,
        agent: Option<Duration>,
        hire: &mut dyn FnMut(&mut Crew) -> Option<Agent>,
    ) -> Permit {
        if let Some(why) = self.places.silence(key) {
            return Permit::Dead(why.to_owned());
        }
        let is_shared = key.starts_with(MAILBOX) && limit >= self.pass;
        // While a limit was made smaller passes may be more than it: nobody is called where nobody is.
        let passes = if is_shared { self.passes(Some(number)).min(limit.saturating_sub(1)) } else { 0 };
        let has_place = self.places.users(key).saturating_add(passes) < limit;
        if !has_place {
            return self.refuse(number, None);
        }
        let hosts = self.homes.of(key).to_owned();
        let waits_at = if hosts.is_empty() { key } else { &at(&hosts) };
        let idle = agent.and_then(|reuse| self.places.lend(waits_at, reuse));
        let at_hosts = idle.as_ref().map_or(&hosts, |idle| &idle.hosts);
        let shares = if agent.is_some() { self.shares(number, at_hosts) } else { Vec::new() };
        if let Some(full) = self.full(&shares) {
            idle.into_iter().for_each(|idle| self.places.keep(key, idle));
            return self.refuse(number, Some(full));
        }
        let silent = match &idle {
            Some(idle) => self.homes.silence(&idle.hosts).0,
            None => match self.silence(&hosts) {
                Ok(silent) => silent,
                Err((_, why)) => return Permit::Dead(why),
            },
        };
        let is_new = agent.is_some() && idle.is_none();
        let agent = if is_new { hire(self) } else { idle };
        let shares = if agent.is_some() { shares } else { Vec::new() };
        shares.iter().map(String::as_str).chain([key]).for_each(|place| self.places.enter(place));
        let its = agent.as_ref().and_then(|agent| agent.socket.try_clone().ok());
        if let Some(worker) = self.workers.get_mut(number) {
            worker.uses = Some(Use { key: key.to_owned(), shares, agent, is_new });
        }
        Permit::Go(Lent { agent: its, is_new, silent })
    }

    /// Of which agents this worker's is one. Where a report goes somebody outside may have chosen, and each host may take its
    /// time: so reports never have all agents.
    fn kind(&self, number: usize) -> &'static str {
        if self.workers.get(number).is_some_and(|worker| worker.has_report) { REPORTS } else { AGENTS }
    }

    /// Nor has one host all of its kind, however many domains lead to it. Which one that is the first address says: who names
    /// others behind it may not use up their shares.
    fn share_of_host(&self, number: usize, hosts: &str) -> Option<String> {
        route::addresses(hosts).next().map(|address| format!("{}\n{}", self.kind(number), host_of(address)))
    }

    /// What an agent takes a part of.
    fn shares(&self, number: usize, hosts: &str) -> Vec<String> {
        let kind = self.kind(number);
        let all = (kind != AGENTS).then(|| AGENTS.to_owned());
        self.share_of_host(number, hosts).into_iter().chain([kind.to_owned()]).chain(all).collect()
    }

    /// How many may have a share, if this is the name of one.
    pub(super) fn most_of(&self, share: &str) -> Option<u32> {
        let (kind, of_host) = share.split_once('\n').map_or((share, false), |(kind, _)| (kind, true));
        let most = match kind {
            AGENTS => self.most_remote,
            REPORTS => half(self.most_remote),
            _ => return None,
        };
        Some(if of_host { half(most) } else { most })
    }

    fn has_room(&self, share: &str) -> bool {
        self.most_of(share).is_none_or(|most| self.places.users(share) < most)
    }

    /// The shares in which an attempt that has to wait may have left room: it was called for one, and lacks another, or a place
    /// at its next hop.
    pub(super) fn left_by(&self, number: usize, ended: &Attempt) -> Vec<String> {
        let Attempt::Waits(key) = ended else { return Vec::new() };
        let of_host = self.share_of_host(number, self.homes.of(key));
        of_host.into_iter().chain([AGENTS, REPORTS].map(str::to_owned)).collect()
    }

    /// Who has waited longest for each of these shares that has room.
    pub(super) fn next_where_room(&mut self, shares: &[String]) -> Vec<Id> {
        // Whoever is called for a host's while all agents of the kind are busy would only go on to wait for those, and so would
        // all behind him.
        let is_open = |share: &&String| match share.split_once('\n') {
            Some((kind, _)) => [share.as_str(), kind, AGENTS].iter().all(|share| self.has_room(share)),
            None => self.has_room(share),
        };
        let open: Vec<&String> = shares.iter().filter(is_open).collect();
        open.into_iter().filter_map(|share| self.places.next(share)).collect()
    }

    /// The first of these shares that has no room.
    fn full(&self, shares: &[String]) -> Option<String> {
        shares.iter().find(|share| !self.has_room(share)).cloned()
    }

    /// A refusal: its message waits for the place it asked for, or for this.
    fn refuse(&mut self, number: usize, lacks: Option<String>) -> Permit {
        if let Some(worker) = self.workers.get_mut(number) {
            worker.lacks = lacks;
        }
        Permit::Busy
    }

    /// Whether the next message may use mailboxes without asking: never more than half as many may as may use one mailbox, nor
    /// so many that with those who have permits for it these would be too many; and none while a message waits for a mailbox,
    /// for it would be overtaken.
    pub(super) fn may_pass(&self) -> bool {
        let passes = self.passes(None);
        let has_room =
            |key: &str| !self.places.is_waited_for(key) && self.places.users(key).saturating_add(passes) < self.pass;
        passes < self.pass / 2 && self.mailboxes().all(has_room)
    }

    /// The mailboxes that are used with permits.
    fn mailboxes(&self) -> impl Iterator<Item = &str> {
        let used = self.workers.iter().filter_map(|worker| worker.uses.as_ref());
        used.map(|used| used.key.as_str()).filter(|key| key.starts_with(MAILBOX))
    }

    /// A pass came back, if there was one: whoever has waited longest for a mailbox may find room there now.
    pub(super) fn pass_is_back(&mut self, number: usize) -> Vec<News> {
        let worker = self.workers.get_mut(number);
        let had = worker.is_some_and(|worker| std::mem::take(&mut worker.has_pass));
        let mailboxes: BTreeSet<String> =
            if had { self.mailboxes().map(str::to_owned).collect() } else { BTreeSet::new() };
        mailboxes.iter().filter_map(|key| self.places.next(key)).map(News::Free).collect()
    }

    /// How many may use mailboxes without asking, but for this one.
    pub(super) fn passes(&self, but: Option<usize>) -> u32 {
        let others = self.workers.iter().enumerate().filter(|(number, _)| Some(*number) != but);
        others.fold(0, |count, (_, worker)| count + u32::from(worker.has_pass && worker.message.is_some()))
    }

    /// A new agent has found where its domain's hosts are: perhaps another one is connected there. Gives the next hop as
    /// well.
    pub(super) fn settle(&mut self, number: usize, hosts: String, reuse: Duration) -> (String, Permit) {
        let used = self.workers.get_mut(number).and_then(|worker| worker.uses.as_mut()).filter(|used| used.is_new);
        let Some((key, agent)) = used.and_then(|used| Some((used.key.clone(), used.agent.as_mut()?))) else {
            return (String::new(), Permit::Go(Lent::default()));
        };
        agent.hosts.clone_from(&hosts);
        let is_shared = agent.is_shared;
        let is_kept = is_shared && self.homes.settle(&key, &hosts);
        let uses = self.workers.get(number).and_then(|worker| worker.uses.as_ref());
        // Where these hosts were known it came with the permit.
        let is_more = |share: &String| uses.is_some_and(|used| !used.shares.contains(share));
        let shares: Vec<String> = self.share_of_host(number, &hosts).into_iter().filter(is_more).collect();
        if let Some(full) = self.full(&shares) {
            return (key, self.refuse(number, Some(full)));
        }
        if let Some(used) = self.workers.get_mut(number).and_then(|worker| worker.uses.as_mut()) {
            shares.iter().for_each(|share| self.places.enter(share));
            used.shares.extend(shares);
        }
        let idle = if is_shared { self.places.lend(&at(&hosts), reuse) } else { None };
        if let Some((its, idle)) = idle.and_then(|idle| Some((idle.socket.try_clone().ok()?, idle))) {
            let silent = self.silence(&hosts).unwrap_or_default();
            if let Some(used) = self.workers.get_mut(number).and_then(|worker| worker.uses.as_mut()) {
                // The new one hears that nobody needs it.
                (used.agent, used.is_new) = (Some(idle), false);
            }
            return (key, Permit::Go(Lent { agent: Some(its), is_new: false, silent }));
        }
        let permit = match self.silence(&hosts) {
            Ok(silent) => Permit::Go(Lent { agent: None, is_new: true, silent }),
            Err((until, why)) => {
                // Whoever comes next for the domain would have it looked up once more.
                if !is_kept {
                    self.places.hush(&key, (until, why.clone()));
                }
                Permit::Dead(why)
            }
        };
        (key, permit)
    }

    /// Gives a worker its answer. Who waits for a next hop at which nobody is learns it at once: whoever was refused uses
    /// nothing, so that nobody would be called when he is done.
    pub(super) fn answer(&mut self, number: usize, key: &str, permit: &Permit) -> Vec<News> {
        if let Some(worker) = self.workers.get(number)
            && permit.send(&worker.socket).is_err()
        {
            // It is gone, or the kernel has no memory for the packet: it would wait for ever. It is heard to be gone.
            let _ = kill(worker.process, Signal::SIGKILL);
        }
        if matches!(permit, Permit::Dead(_)) { self.free_all(key) } else { Vec::new() }
    }

    fn free_all(&mut self, key: &str) -> Vec<News> {
        self.places.free_all(key).into_iter().map(News::Free).collect()
    }

    /// Which of these hosts' addresses take no connection; why, if none does, and nobody is known to have one.
    fn silence(&self, hosts: &str) -> Result<String, Silence> {
        match self.homes.silence(hosts) {
            (_, Some(silence)) if !self.is_connected(hosts) => Err(silence),
            (silent, _) => Ok(silent),
        }
    }

    /// Whether an agent that has done its first job, and so may have a connection, belongs to hosts with one of these
    /// addresses.
    fn is_connected(&self, hosts: &str) -> bool {
        let addresses: Vec<&str> = route::addresses(hosts).collect();
        let used = self.workers.iter().filter_map(|worker| worker.uses.as_ref()).filter(|used| !used.is_new);
        let mut agents = used.filter_map(|used| used.agent.as_ref()).chain(self.places.idle());
        agents.any(|agent| route::addresses(&agent.hosts).any(|address| addresses.contains(&address)))
    }

    /// Believed of an agent that had spoken with nobody, and of its own hosts.
    pub(super) fn is_silent(&mut self, number: usize, address: String, silence: Silence) {
        let used = self.workers.get(number).and_then(|worker| worker.uses.as_ref()).filter(|used| used.is_new);
        let agent = used.and_then(|used| used.agent.as_ref());
        if agent.is_some_and(|agent| route::addresses(&agent.hosts).any(|known| known == address)) {
            self.homes.hush(address, silence);
        }
    }

    /// It is used no more. The agent is kept if it is younger than `keep`.
    pub(super) fn done(&mut self, number: usize, keep: Duration, silent: Option<Silence>) -> Vec<News> {
        let Some(used) = self.workers.get_mut(number).and_then(|worker| worker.uses.take()) else {
            return Vec::new();
        };
        let is_current = |agent: &Agent| self.configured.is_none_or(|configured| agent.since > configured);
        let mut called = Vec::new();
        for share in &used.shares {
            self.places.leave(share);
            called.extend(self.places.next(share).map(News::Free));
        }
        if let Some(agent) = used.agent.filter(|agent| agent.since.elapsed() < keep && is_current(agent)) {
            self.places.keep(&used.key, Agent { idle_since: Instant::now(), ..agent });
        }
        self.places.leave(&used.key);
        if silent.is_some_and(|silence| self.places.hush(&used.key, silence)) {
            // Who waits learns it at once.
            called.extend(self.free_all(&used.key));
        } else {
            called.extend(self.places.next(&used.key).map(News::Free));
        }
        called
    }
}

/// What an address counts as: one of IPv6 as its network, of which a single host may have all (RFC 4291 section 2.5.4).
fn host_of(address: &str) -> String {
    match address.parse::<SocketAddr>().map(|address| address.ip().to_canonical()) {
        Ok(IpAddr::V4(ip)) => ip.to_string(),
        // Behind NAT64 (RFC 6052) are all hosts of IPv4.
        Ok(IpAddr::V6(ip)) if ip.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => ip.to_string(),
        Ok(IpAddr::V6(ip)) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).to_string(),
        Err(_) => address.to_owned(),
    }
}
