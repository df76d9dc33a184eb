//! The processes that deliver: workers, each with one message at a time, and agents, each with one next hop.
//!
//! Everybody is a child of this process, which gives out messages and permits, counts who uses what, keeps agents whose
//! connection may be of use again, and remembers for a while which next hops did not answer. It touches no mail itself.

use super::attempt::Attempt;
use super::helper::Helper;
use super::permits::{Desk, Permit, Socket, Word};
use super::relay::agent;
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

/// Longest time that a next hop is remembered as not answering.
const SILENCE: Duration = Duration::from_secs(600);

/// All of them.
#[derive(Debug, Default)]
pub struct Crew {
    workers: Vec<Worker>,
    places: HashMap<String, Place>,
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
    /// What it uses now, with the agent it was lent.
    uses: Option<(String, Option<Agent>)>,
}

impl Worker {
    /// Whether it is likely to be done in a moment.
    fn is_quick(&self) -> bool {
        let is_remote = self.uses.as_ref().is_some_and(|(_, agent)| agent.is_some());
        self.message.is_some() && !is_remote && self.since.elapsed() < QUICK
    }
}

/// A process for one next hop.
#[derive(Debug)]
struct Agent {
    socket: UnixStream,
    idle_since: Instant,
}

/// A next hop, a mailbox, a program: what only so many may use at once.
#[derive(Debug, Default)]
struct Place {
    users: u32,
    waiting: VecDeque<Id>,
    idle: Vec<Agent>,
    silent: Option<(Instant, String)>,
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
                let permit = self.permit(&key, limit, agent, base, close);
                let Some(worker) = self.workers.get_mut(number) else { return Vec::new() };
                if let Permit::Go(agent) = &permit {
                    let lent = agent.as_ref().and_then(|socket| socket.try_clone().ok());
                    worker.uses = Some((key, lent.map(|socket| Agent { socket, idle_since: Instant::now() })));
                }
                // One that does not take it is heard to be gone.
                let _ = permit.send(&worker.socket);
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
            place.users > 0 || !place.waiting.is_empty() || !place.idle.is_empty() || place.silent.is_some()
        });
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

    /// Forgets which next hops did not answer.
    pub fn forget_silent(&mut self) {
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

    fn permit(&mut self, key: &str, limit: u32, agent: bool, base: &Base<'_>, close: &mut dyn FnMut()) -> Permit {
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
        place.users += 1;
        if !agent {
            return Permit::Go(None);
        }
        let socket = match place.idle.pop() {
            Some(agent) => Ok(agent.socket),
            None => self.hire_agent(base, close),
        };
        Permit::Go(socket.inspect_err(|error| log::error!("an agent for remote delivery: {error}")).ok())
    }

    fn done(&mut self, number: usize, reusable: bool, silent: Option<(Instant, String)>) -> Vec<News> {
        let Some((key, agent)) = self.workers.get_mut(number).and_then(|worker| worker.uses.take()) else {
            return Vec::new();
        };
        let idle: usize = self.places.values().map(|place| place.idle.len()).sum();
        let silent_places = self.places.values().filter(|place| place.silent.is_some()).count();
        let Some(place) = self.places.get_mut(&key) else { return Vec::new() };
        place.users = place.users.saturating_sub(1);
        if let Some(agent) = agent.filter(|_| reusable && idle < MOST_IDLE) {
            place.idle.push(Agent { idle_since: Instant::now(), ..agent });
        }
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
