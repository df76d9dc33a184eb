//! The processes that deliver: workers, each with one message at a time, and agents, each with one next hop.
//!
//! Everybody is a child of this process, which gives out messages and permits, counts who uses what, keeps agents whose
//! connection may be of use again, and remembers for a while which next hops did not answer. It touches no mail itself.
//!
//! An agent for a domain belongs to the hosts that it has found for it before it spoke with anybody, and connects to no others
//! as long as it lives. So it may be lent to every domain that has just these hosts, as another new agent found. What an
//! agent says after it has spoken with a host, of hosts or of silence, counts for its own next hop alone.

use super::attempt::Attempt;
use super::helper::Helper;
use super::permits::{Desk, Lent, Permit, Socket, Word};
use super::relay::{agent, route};
use super::settings::Settings;
use super::worker;
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
    /// Addresses that take no connection: until when, and why.
    silent: HashMap<String, (Instant, String)>,
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
    agent: Option<UnixStream>,
    /// The agent has had no job yet.
    is_new: bool,
    /// The hosts that the agent belongs to, as it said when it was new; empty: not known, or not asked for.
    hosts: String,
    /// Other domains with these hosts may have it next.
    is_shared: bool,
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
    idle_since: Instant,
}

/// A next hop, a mailbox, a program: what only so many may use at once. Or the hosts of domains, which have idle agents alone.
#[derive(Debug, Default)]
struct Place {
    users: u32,
    waiting: VecDeque<Id>,
    idle: Vec<Agent>,
    silent: Option<(Instant, String)>,
    /// The hosts of a domain that shares its connections, and since when they are known.
    home: Option<(Instant, String)>,
}

impl Place {
    fn home(&self) -> Option<&str> {
        self.home.as_ref().filter(|(since, _)| since.elapsed() < HOME_KEPT).map(|(_, hosts)| hosts.as_str())
    }
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
        match word {
            Some(Word::Want { key, limit, agent }) => {
                let (permit, home) = self.permit(&key, limit, agent, base, close);
                let Some(worker) = self.workers.get_mut(number) else { return Vec::new() };
                if let Permit::Go(lent) = &permit {
                    let agent = lent.agent.as_ref().and_then(|socket| socket.try_clone().ok());
                    // A new one says itself where it belongs.
                    let hosts = if lent.is_new { String::new() } else { home };
                    let is_shared = !hosts.is_empty();
                    worker.uses = Some(Use { key, agent, is_new: lent.is_new, hosts, is_shared });
                }
                // One that does not take it is heard to be gone.
                let _ = permit.send(&worker.socket);
                Vec::new()
            }
            Some(Word::Home { hosts, is_shared }) => {
                let permit = self.settle(number, hosts, is_shared);
                let Some(worker) = self.workers.get(number) else { return Vec::new() };
                let _ = permit.send(&worker.socket);
                Vec::new()
            }
            Some(Word::Silent { address, why }) => {
                let until = Instant::now() + base.settings.config.minimal_backoff_time.0.min(SILENCE);
                self.is_silent(number, address, until, why);
                Vec::new()
            }
            Some(Word::Done { reusable, silent, .. }) => {
                let minimal = base.settings.config.minimal_backoff_time.0;
                self.done(number, reusable, silent.map(|why| (Instant::now() + minimal.min(SILENCE), why)))
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
            is_used || place.silent.is_some() || place.home().is_some()
        });
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

    /// Forgets which next hops and addresses did not answer.
    pub fn forget_silent(&mut self) {
        self.silent.clear();
        self.places.values_mut().for_each(|place| place.silent = None);
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

    fn hire_agent(&mut self, base: &Base<'_>, close: &mut dyn FnMut()) -> io::Result<UnixStream> {
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
        ours.take().ok_or_else(|| io::ErrorKind::NotConnected.into())
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

    /// Gives the answer, and the hosts that an agent belongs to that comes with it and is not new.
    fn permit(
        &mut self,
        key: &str,
        limit: u32,
        agent: bool,
        base: &Base<'_>,
        close: &mut dyn FnMut(),
    ) -> (Permit, String) {
        let place = self.places.entry(key.to_owned()).or_default();
        let home = place.home().unwrap_or_default().to_owned();
        if let Some((until, why)) = &place.silent {
            if *until > Instant::now() {
                return (Permit::Dead(why.clone()), home);
            }
            place.silent = None;
        }
        if place.users >= limit {
            return (Permit::Busy, home);
        }
        let silent = match self.silence(&home) {
            Ok(silent) => silent,
            Err(why) => return (Permit::Dead(why), home),
        };
        let waits_at = if home.is_empty() { key } else { &at(&home) };
        let idle = self.places.get_mut(waits_at).filter(|_| agent).and_then(|place| place.idle.pop());
        let (is_new, agent) = match (agent, idle) {
            (false, _) => (false, None),
            (true, Some(idle)) => (false, Some(idle.socket)),
            (true, None) => {
                let hired = self.hire_agent(base, close);
                (true, hired.inspect_err(|error| log::error!("an agent for remote delivery: {error}")).ok())
            }
        };
        self.places.entry(key.to_owned()).or_default().users += 1;
        (Permit::Go(Lent { agent, is_new, silent }), home)
    }

    /// A new agent has found where its domain's hosts are: perhaps another one is connected there.
    fn settle(&mut self, number: usize, hosts: String, is_shared: bool) -> Permit {
        let silent = self.silence(&hosts);
        let Some(used) =
            self.workers.get_mut(number).and_then(|worker| worker.uses.as_mut()).filter(|used| used.is_new)
        else {
            return Permit::Go(Lent::default());
        };
        (used.hosts, used.is_shared) = (hosts, is_shared);
        let homes = self.places.len() < MOST_HOMES;
        if let Some(place) = self.places.get_mut(&used.key) {
            place.home = (is_shared && homes).then(|| (Instant::now(), used.hosts.clone()));
        }
        let silent = match silent {
            Ok(silent) => silent,
            Err(why) => return Permit::Dead(why),
        };
        let idle = self.places.get_mut(&at(&used.hosts)).filter(|_| is_shared).and_then(|place| place.idle.pop());
        let Some((ours, its)) = idle.and_then(|agent| Some((agent.socket.try_clone().ok()?, agent.socket))) else {
            return Permit::Go(Lent { agent: None, is_new: true, silent });
        };
        // The new one hears that nobody needs it.
        (used.agent, used.is_new) = (Some(ours), false);
        Permit::Go(Lent { agent: Some(its), is_new: false, silent })
    }

    /// Which of these hosts take no connection; why, if none does.
    fn silence(&self, hosts: &str) -> Result<String, String> {
        let now = Instant::now();
        let known = |address: &&str| self.silent.get(*address).filter(|(until, _)| *until > now);
        let silent: Vec<&str> = route::addresses(hosts).filter(|address| known(address).is_some()).collect();
        match silent.first().and_then(known) {
            Some((_, why)) if silent.len() == route::addresses(hosts).count() => Err(why.clone()),
            _ => Ok(silent.join(" ")),
        }
    }

    /// Believed of an agent that had spoken with nobody, and of its own hosts.
    fn is_silent(&mut self, number: usize, address: String, until: Instant, why: String) {
        let used = self.workers.get(number).and_then(|worker| worker.uses.as_ref()).filter(|used| used.is_new);
        let is_its_own = used.is_some_and(|used| route::addresses(&used.hosts).any(|known| known == address));
        if is_its_own && self.silent.len() < MOST_SILENT {
            self.silent.insert(address, (until, why));
        }
    }

    fn done(&mut self, number: usize, reusable: bool, silent: Option<(Instant, String)>) -> Vec<News> {
        let Some(used) = self.workers.get_mut(number).and_then(|worker| worker.uses.take()) else {
            return Vec::new();
        };
        let idle: usize = self.places.values().map(|place| place.idle.len()).sum();
        let silent_places = self.places.values().filter(|place| place.silent.is_some()).count();
        if let Some(socket) = used.agent.filter(|_| reusable && idle < MOST_IDLE) {
            let key = if used.is_shared { &at(&used.hosts) } else { &used.key };
            let place = self.places.entry(key.clone()).or_default();
            place.idle.push(Agent { socket, idle_since: Instant::now() });
        }
        let Some(place) = self.places.get_mut(&used.key) else { return Vec::new() };
        place.users = place.users.saturating_sub(1);
        if silent.is_some() && silent_places < MOST_SILENT {
            place.silent = silent;
            // Who waits learns it at once.
            return std::mem::take(&mut place.waiting).into_iter().map(News::Free).collect();
        }
        place.waiting.pop_front().map(News::Free).into_iter().collect()
    }

    fn end(&mut self, number: usize, ended: Attempt) -> Vec<News> {
        let mut news = self.done(number, false, None);
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
        let mut news = self.done(number, false, None);
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
