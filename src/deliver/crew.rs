//! The processes that deliver: workers, each with one message at a time, and agents, each with one next hop.
//!
//! Everybody is a child of this process, which gives out messages and permits, counts who uses what, keeps agents whose
//! connection may be of use again, and remembers for a while which next hops did not answer. It touches no mail itself.
//!
//! An agent for a domain belongs to the hosts that it has found for it before it spoke with anybody, and connects to no others
//! as long as it lives. So it may be lent to every domain that has just these hosts, as another new agent found. What an
//! agent says after it has spoken with a host, of hosts or of silence, counts for its own next hop alone. An address that is
//! silent for new connections keeps nobody from those that are there.

use super::attempt::Attempt;
use super::helper::Helper;
use super::permits::{Desk, Lent, Permit, Socket, Word};
use super::relay::{agent, route};
use super::settings::Settings;
use super::worker;
use crate::config::Config;
use crate::config::value::TlsLevel;
use crate::queue::{Id, Queue};
use crate::sys;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Most next hops that are remembered as not answering.
const MOST_SILENT: usize = 10_000;

/// Most agents that wait for another message to their next hop.
const MOST_IDLE: usize = 50;

/// So many workers are there at once for messages that take no time worth naming: more would only take turns.
const AT_ONCE: usize = 4;

/// Whoever works on a message for longer waits for something else than a processor or a disk.
pub const QUICK: Duration = Duration::from_millis(30);

/// A worker ends after so many messages: whatever one of them did to it does not last.
const MOST_USES: u32 = 100;

/// How long a worker is kept that has nothing to do.
pub const KEPT: Duration = Duration::from_secs(10);

/// Why nobody is there, and how long that is believed.
type Silence = (Instant, String);

/// Longest time that a next hop or an address is remembered as not answering.
const SILENCE: Duration = Duration::from_secs(600);

/// So long the hosts of a domain are those that were found.
const HOME_KEPT: Duration = Duration::from_secs(60);

/// Of so many domains they are remembered.
const MOST_HOMES: usize = 10_000;

/// All of them.
#[derive(Debug, Default)]
pub struct Crew {
    workers: Vec<Worker>,
    places: HashMap<String, Place>,
    /// The hosts of domains that share their connections, and since when they are known.
    homes: HashMap<String, (Instant, String)>,
    /// Addresses that take no connection.
    silent: HashMap<String, Silence>,
    /// When the configuration was read again: agents that are older have another one.
    configured: Option<Instant>,
    /// All agents that have not ended.
    agents: Vec<Pid>,
}

/// A process with a message, or waiting for one.
#[derive(Debug)]
struct Worker {
    process: Pid,
    socket: Socket,
    message: Option<Id>,
    /// When it got its message, or was done with the last.
    since: Instant,
    /// How many it has worked on.
    worked_on: u32,
    /// What it uses now.
    uses: Option<Use>,
}

/// What a worker uses.
#[derive(Debug)]
struct Use {
    key: String,
    /// The agent it was lent.
    agent: Option<Agent>,
    /// The agent has had no job yet.
    is_new: bool,
}

impl Worker {
    /// Whether it is likely to be done in a moment.
    fn is_quick(&self) -> bool {
        let is_remote = self.uses.as_ref().is_some_and(|used| used.agent.is_some());
        self.message.is_some() && !is_remote && self.since.elapsed() < QUICK
    }
}

/// A process for one next hop.
#[derive(Debug)]
struct Agent {
    socket: UnixStream,
    /// When it was started.
    since: Instant,
    idle_since: Instant,
    /// The hosts that it belongs to, as it said when it was new; empty: not known, or not asked for.
    hosts: String,
    /// Other domains with these hosts may have it next.
    is_shared: bool,
}

impl Agent {
    fn new(socket: UnixStream, config: &Config) -> Agent {
        let now = Instant::now();
        Agent { socket, since: now, idle_since: now, hosts: String::new(), is_shared: is_shared(config) }
    }

    /// Where it waits after work for this next hop.
    fn waits_at(&self, key: &str) -> String {
        if self.is_shared && !self.hosts.is_empty() { at(&self.hosts) } else { key.to_owned() }
    }
}

/// Whether domains with the same hosts share connections: not where a login may be one domain's own, or the name in the
/// certificate.
fn is_shared(config: &Config) -> bool {
    !config.smtp_sasl_auth_enable && config.smtp_tls_security_level < TlsLevel::Secure
}

/// A next hop, a mailbox, a program: what only so many may use at once. Or the hosts of domains, which have idle agents alone.
#[derive(Debug, Default)]
struct Place {
    users: u32,
    waiting: VecDeque<Id>,
    idle: Vec<Agent>,
    silent: Option<Silence>,
}

/// Where agents for these hosts wait.
fn at(hosts: &str) -> String {
    format!("hosts\n{hosts}")
}

/// What a word of a worker means for who gives out the work.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Something became free for this message.
    Free(Id),
    /// An attempt is over.
    Over(Id, Attempt),
}

/// What starts a process needs.
pub struct Base<'a> {
    /// The queue.
    pub queue: &'a Queue,
    /// The configuration.
    pub settings: &'a Settings,
    /// The root one, where there is one.
    pub helper: Option<&'a mut Helper>,
}

impl Crew {
    /// Gives a message to a worker, a new one if need be. False: all are busy, as many as there may be, or some of them
    /// will be free before another could have started.
    pub fn give(&mut self, id: Id, base: &mut Base<'_>, close: &mut dyn FnMut()) -> io::Result<bool> {
        loop {
            let idle = self.workers.iter().position(|worker| worker.message.is_none());
            let at = match idle {
                Some(at) => at,
                None if self.are_enough(base.settings.config.default_process_limit) => return Ok(false),
                None => self.hire(base, close)?,
            };
            let Some(worker) = self.workers.get_mut(at) else { return Ok(false) };
            if worker.socket.send(id.as_str(), None).is_ok() {
                (worker.message, worker.since) = (Some(id), Instant::now());
                return Ok(true);
            }
            // It ended meanwhile.
            self.workers.swap_remove(at);
        }
    }

    fn are_enough(&self, limit: u32) -> bool {
        let quick = self.workers.iter().filter(|worker| worker.is_quick()).count();
        self.workers.len() >= limit.max(1) as usize || quick >= AT_ONCE
    }

    /// How many messages are being worked on.
    pub fn busy(&self) -> usize {
        self.workers.iter().filter(|worker| worker.message.is_some()).count()
    }

    /// What to wait for: a word of worker number so and so.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.workers.iter().map(|worker| worker.socket.as_fd())
    }

    /// Hears a worker that has something to say. `number` is its place among [`Crew::sockets`].
    pub fn hear(&mut self, number: usize, base: &mut Base<'_>, close: &mut dyn FnMut()) -> Vec<News> {
        let Some(worker) = self.workers.get(number) else { return Vec::new() };
        let word = match worker.socket.receive() {
            Ok(Some((text, _))) => Word::from_text(&text),
            _ => None,
        };
        let config = &base.settings.config;
        match word {
            Some(Word::Want { key, limit, agent }) => {
                let reuse = config.smtp_connection_reuse_time_limit.0;
                let mut hire = |crew: &mut Crew| {
                    let hired = crew.hire_agent(base, close);
                    hired.inspect_err(|error| log::error!("an agent for remote delivery: {error}")).ok()
                };
                let permit = self.permit(number, &key, limit, agent.then_some(reuse), &mut hire);
                self.answer(number, &key, &permit)
            }
            Some(Word::Home { hosts }) => {
                let (key, permit) = self.settle(number, hosts, config.smtp_connection_reuse_time_limit.0);
                self.answer(number, &key, &permit)
            }
            Some(Word::Silent { address, why }) => {
                self.is_silent(number, address, (Instant::now() + config.minimal_backoff_time.0.min(SILENCE), why));
                Vec::new()
            }
            Some(Word::Done { reusable, silent, .. }) => {
                let keep = if reusable { config.smtp_connection_reuse_time_limit.0 } else { Duration::ZERO };
                let until = Instant::now() + config.minimal_backoff_time.0.min(SILENCE);
                self.done(number, keep, silent.map(|why| (until, why)))
            }
            Some(Word::End(ended)) => self.end(number, ended),
            None => self.gone(number),
        }
    }

    /// Dismisses agents that were not needed for so long, and of workers that had nothing to do for [`KEPT`] all but one.
    pub fn tidy(&mut self, keep: Duration) {
        let mut idle = 0;
        self.workers.retain(|worker| {
            idle += u32::from(worker.message.is_none());
            worker.message.is_some() || idle <= 1 || worker.since.elapsed() < KEPT
        });
        for place in self.places.values_mut() {
            place.idle.retain(|agent| agent.idle_since.elapsed() < keep);
            if place.silent.as_ref().is_some_and(|(until, _)| *until <= Instant::now()) {
                place.silent = None;
            }
        }
        self.places.retain(|_, place| {
            let is_used = place.users > 0 || !place.waiting.is_empty() || !place.idle.is_empty();
            is_used || place.silent.is_some()
        });
        self.homes.retain(|_, (since, _)| since.elapsed() < HOME_KEPT);
        self.silent.retain(|_, (until, _)| *until > Instant::now());
        self.reap();
    }

    /// Whether an agent waits for another message.
    pub fn has_idle_agents(&self) -> bool {
        self.places.values().any(|place| !place.idle.is_empty())
    }

    /// Whether there are more workers without a message than one.
    pub fn has_spare_workers(&self) -> bool {
        self.workers.iter().filter(|worker| worker.message.is_none()).count() > 1
    }

    /// Forgets which next hops and addresses did not answer, and where domains lead to.
    pub fn forget_silent(&mut self) {
        self.silent.clear();
        self.homes.clear();
        self.places.values_mut().for_each(|place| place.silent = None);
    }

    /// Dismisses all agents as soon as they are idle: the configuration was read again, and they have the one before.
    pub fn renew_agents(&mut self) {
        self.configured = Some(Instant::now());
        self.homes.clear();
        self.places.values_mut().for_each(|place| place.idle.clear());
    }

    /// Everybody who waits for something that nobody uses: who was called before them did not come for it.
    pub fn stranded(&mut self) -> Vec<Id> {
        let unused = self.places.values_mut().filter(|place| place.users == 0);
        unused.flat_map(|place| std::mem::take(&mut place.waiting)).collect()
    }

    /// Everybody who waits for something that is in use.
    pub fn forget_waiting(&mut self) -> Vec<Id> {
        self.places.values_mut().flat_map(|place| std::mem::take(&mut place.waiting)).collect()
    }

    /// Sends everybody home who has nothing to do, and waits for agents, who take leave of their hosts.
    pub fn farewell(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        self.workers.retain(|worker| worker.message.is_some());
        self.tidy(Duration::ZERO);
        while !self.agents.is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
            self.reap();
        }
    }

    /// Starts a worker. Gives its number.
    fn hire(&mut self, base: &mut Base<'_>, close: &mut dyn FnMut()) -> io::Result<usize> {
        let (ours, its) = Socket::pair()?;
        let held = base.helper.as_ref().map(|helper| helper.as_raw_fd());
        let own = base.helper.as_ref().map(|helper| helper.another()).transpose()?;
        let (mut start, mut ours) = (Some((Desk(its), own)), Some(ours));
        let process = self.fork(
            &mut || {
                drop(ours.take());
                match start.take() {
                    Some((desk, helper)) => worker::serve(&desk, base.queue, base.settings.clone(), helper),
                    None => 75,
                }
            },
            held,
            close,
        )?;
        self.workers.push(Worker {
            process,
            socket: ours.take().ok_or(io::ErrorKind::NotConnected)?,
            message: None,
            since: Instant::now(),
            worked_on: 0,
            uses: None,
        });
        Ok(self.workers.len() - 1)
    }

    fn hire_agent(&mut self, base: &Base<'_>, close: &mut dyn FnMut()) -> io::Result<Agent> {
        let (ours, its) = UnixStream::pair()?;
        let held = base.helper.as_ref().map(|helper| helper.as_raw_fd());
        let (mut start, mut ours) = (Some(its), Some(ours));
        let agent = self.fork(
            &mut || {
                drop(ours.take());
                match start.take() {
                    Some(socket) => agent::serve(socket, &base.settings.config),
                    None => 75,
                }
            },
            held,
            close,
        )?;
        self.agents.push(agent);
        let socket = ours.take().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Agent::new(socket, &base.settings.config))
    }

    /// Forks a child that keeps nothing of ours open and ends with us.
    fn fork(&mut self, work: &mut dyn FnMut() -> u8, held: Option<RawFd>, close: &mut dyn FnMut()) -> io::Result<Pid> {
        let master = getpid();
        let child = sys::fork(|| {
            // Signals to the whole group are for us; who waits for a child of ours is told by us.
            let _ = SigSet::all().thread_block();
            self.workers.clear();
            self.places.clear();
            close();
            // The helper does what it is asked by whoever has this.
            held.map(nix::unistd::close);
            let heard = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            if heard.is_err() || getppid() != master { 75 } else { work() }
        })?;
        Ok(child)
    }

    /// Whether it may be used, and by which agent where one is wanted: none that is older than `agent` says.
    fn permit(
        &mut self,
        number: usize,
        key: &str,
        limit: u32,
        agent: Option<Duration>,
        hire: &mut dyn FnMut(&mut Crew) -> Option<Agent>,
    ) -> Permit {
        let place = self.places.entry(key.to_owned()).or_default();
        if let Some((until, why)) = &place.silent {
            if *until > Instant::now() {
                return Permit::Dead(why.clone());
            }
            place.silent = None;
        }
        if place.users >= limit {
            return Permit::Busy;
        }
        let home = self.homes.get(key).filter(|(since, _)| since.elapsed() < HOME_KEPT);
        let hosts = home.map(|(_, hosts)| hosts.clone()).unwrap_or_default();
        let waits_at = if hosts.is_empty() { key } else { &at(&hosts) };
        let idle = agent.and_then(|reuse| self.lend(waits_at, reuse));
        let silent = match &idle {
            Some(idle) => self.silence(&idle.hosts).unwrap_or_default(),
            None => match self.silence(&hosts) {
                Ok(silent) => silent,
                Err((_, why)) => return Permit::Dead(why),
            },
        };
        let is_new = agent.is_some() && idle.is_none();
        let agent = if is_new { hire(self) } else { idle };
        self.places.entry(key.to_owned()).or_default().users += 1;
        let its = agent.as_ref().and_then(|agent| agent.socket.try_clone().ok());
        if let Some(worker) = self.workers.get_mut(number) {
            worker.uses = Some(Use { key: key.to_owned(), agent, is_new });
        }
        Permit::Go(Lent { agent: its, is_new, silent })
    }

    /// A new agent has found where its domain's hosts are: perhaps another one is connected there. Gives the next hop as well.
    fn settle(&mut self, number: usize, hosts: String, reuse: Duration) -> (String, Permit) {
        let used = self.workers.get_mut(number).and_then(|worker| worker.uses.as_mut()).filter(|used| used.is_new);
        let Some((key, agent)) = used.and_then(|used| Some((used.key.clone(), used.agent.as_mut()?))) else {
            return (String::new(), Permit::Go(Lent::default()));
        };
        agent.hosts.clone_from(&hosts);
        let is_shared = agent.is_shared;
        let is_kept = is_shared && self.homes.len() < MOST_HOMES;
        if is_kept {
            self.homes.insert(key.clone(), (Instant::now(), hosts.clone()));
        }
        let idle = if is_shared { self.lend(&at(&hosts), reuse) } else { None };
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
                    self.hush(&key, (until, why.clone()));
                }
                Permit::Dead(why)
            }
        };
        (key, permit)
    }

    /// Gives a worker its answer. Who waits for a next hop at which nobody is learns it at once: whoever was refused uses
    /// nothing, so that nobody would be called when he is done.
    fn answer(&mut self, number: usize, key: &str, permit: &Permit) -> Vec<News> {
        if let Some(worker) = self.workers.get(number) {
            // One that does not take it is heard to be gone.
            let _ = permit.send(&worker.socket);
        }
        if matches!(permit, Permit::Dead(_)) { self.free_all(key) } else { Vec::new() }
    }

    fn free_all(&mut self, key: &str) -> Vec<News> {
        let waiting = self.places.get_mut(key).map(|place| std::mem::take(&mut place.waiting)).unwrap_or_default();
        waiting.into_iter().map(News::Free).collect()
    }

    /// An agent that waits there. One that is old is not lent: it may connect once more, to hosts that were looked up when it
    /// was new.
    fn lend(&mut self, at: &str, reuse: Duration) -> Option<Agent> {
        let idle = &mut self.places.get_mut(at)?.idle;
        idle.retain(|agent| agent.since.elapsed() < reuse);
        idle.pop()
    }

    /// Which of these hosts take no connection; why, if none does, and nobody is known to have one.
    fn silence(&self, hosts: &str) -> Result<String, Silence> {
        let now = Instant::now();
        let known = |address: &str| self.silent.get(address).filter(|(until, _)| *until > now);
        let all: Vec<&str> = route::addresses(hosts).collect();
        let silent: Vec<&str> = all.iter().copied().filter(|address| known(address).is_some()).collect();
        let first = silent.iter().filter_map(|address| Some((known(address)?, address))).min();
        match first {
            Some(((until, why), address)) if silent.len() == all.len() && !self.is_connected(&all) => {
                Err((*until, format!("{why} ({address})")))
            }
            _ => Ok(silent.join(" ")),
        }
    }

    /// Whether an agent that has done its first job, and so may have a connection, belongs to hosts with one of these addresses.
    fn is_connected(&self, addresses: &[&str]) -> bool {
        let used = self.workers.iter().filter_map(|worker| worker.uses.as_ref()).filter(|used| !used.is_new);
        let at_work = used.filter_map(|used| used.agent.as_ref());
        let idle = self.places.values().flat_map(|place| &place.idle);
        at_work.chain(idle).any(|agent| route::addresses(&agent.hosts).any(|address| addresses.contains(&address)))
    }

    /// Believed of an agent that had spoken with nobody, and of its own hosts.
    fn is_silent(&mut self, number: usize, address: String, silence: Silence) {
        let used = self.workers.get(number).and_then(|worker| worker.uses.as_ref()).filter(|used| used.is_new);
        let agent = used.and_then(|used| used.agent.as_ref());
        let is_its_own = agent.is_some_and(|agent| route::addresses(&agent.hosts).any(|known| known == address));
        if is_its_own && self.silent.len() < MOST_SILENT {
            self.silent.insert(address, silence);
        }
    }

    /// Remembers that nobody is at a next hop, if there is room. Gives whether.
    fn hush(&mut self, key: &str, silence: Silence) -> bool {
        let has_room = self.places.values().filter(|place| place.silent.is_some()).count() < MOST_SILENT;
        let place = self.places.get_mut(key).filter(|_| has_room);
        place.map(|place| place.silent = Some(silence)).is_some()
    }

    /// It is used no more. The agent is kept if it is younger than `keep`.
    fn done(&mut self, number: usize, keep: Duration, silent: Option<Silence>) -> Vec<News> {
        let Some(used) = self.workers.get_mut(number).and_then(|worker| worker.uses.take()) else {
            return Vec::new();
        };
        let is_current = |agent: &Agent| self.configured.is_none_or(|configured| agent.since > configured);
        if let Some(agent) = used.agent.filter(|agent| agent.since.elapsed() < keep && is_current(agent))
            && self.places.values().map(|place| place.idle.len()).sum::<usize>() < MOST_IDLE
        {
            let place = self.places.entry(agent.waits_at(&used.key)).or_default();
            place.idle.push(Agent { idle_since: Instant::now(), ..agent });
        }
        let Some(place) = self.places.get_mut(&used.key) else { return Vec::new() };
        place.users = place.users.saturating_sub(1);
        if silent.is_some_and(|silence| self.hush(&used.key, silence)) {
            // Who waits learns it at once.
            return self.free_all(&used.key);
        }
        let place = self.places.get_mut(&used.key);
        place.and_then(|place| place.waiting.pop_front()).map(News::Free).into_iter().collect()
    }

    fn end(&mut self, number: usize, ended: Attempt) -> Vec<News> {
        let mut news = self.done(number, Duration::ZERO, None);
        let Some(worker) = self.workers.get_mut(number) else { return news };
        let Some(id) = worker.message.take() else { return news };
        (worker.since, worker.worked_on) = (Instant::now(), worker.worked_on.saturating_add(1));
        if worker.worked_on >= MOST_USES {
            self.workers.swap_remove(number);
        }
        match ended {
            // Those who use it now may have been done in between: then nobody would call.
            Attempt::Waits(key) => match self.places.get_mut(&key).filter(|place| place.users > 0) {
                Some(place) => place.waiting.push_back(id),
                None => news.push(News::Free(id)),
            },
            ended => news.push(News::Over(id, ended)),
        }
        news
    }

    /// A worker that came to its end. Its message is as a crash leaves it, and not tried again at once.
    fn gone(&mut self, number: usize) -> Vec<News> {
        let mut news = self.done(number, Duration::ZERO, None);
        if number < self.workers.len() {
            let worker = self.workers.swap_remove(number);
            // Who says nonsense has lost his mind.
            let _ = kill(worker.process, Signal::SIGKILL);
            if let Some(id) = worker.message {
                log::error!("id={id}: the process that worked on it is gone");
                news.push(News::Over(id, Attempt::Broken));
            }
        }
        self.reap();
        news
    }

    /// Takes the statuses of children that have ended.
    fn reap(&mut self) {
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return,
                Ok(status) => self.agents.retain(|agent| Some(*agent) != status.pid()),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
