//! The processes that deliver: workers, each with one message at a time, and agents, each with one next hop.
//!
//! Everybody is a child of this process, which gives out messages and permits, counts who uses what, keeps agents whose
//! connection may be of use again, and remembers for a while which next hops did not answer. It touches no mail itself.
//!
//! Here is how messages are given out, and what the words of workers give rise to. `crew/processes.rs` starts the children,
//! `crew/lending.rs` says who may use what and with which agent, `crew/places.rs` counts who does and who waits, and
//! `crew/homes.rs` remembers what agents have found of hosts. What is said, word for word, is in `permits.rs`.

mod homes;
mod lending;
mod places;
mod processes;

use super::attempt::Attempt;
use super::helper::Helper;
use super::permits::{self, Errand, Word};
use super::settings::Settings;
use crate::config::Config;
use crate::queue::{Id, Queue};
use homes::{Homes, SILENCE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use places::Places;
pub use processes::QUICK;
use processes::Worker;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// So many workers are there at once for messages that take no time worth naming: more would only take turns.
const AT_ONCE: usize = 4;

/// How long a worker is kept that has nothing to do.
pub const KEPT: Duration = Duration::from_secs(10);

/// All of them.
#[derive(Debug, Default)]
pub struct Crew {
    workers: Vec<Worker>,
    places: Places,
    homes: Homes,
    /// When the configuration was read again: agents that are older have another one.
    configured: Option<Instant>,
    /// All agents that have not ended.
    agents: Vec<Pid>,
    /// A mailbox that so many may use at once is used by some without asking, to save the question for each message:
    /// those who have a pass. Each of them counts as a user of every such mailbox, so there are passes for half of that
    /// only.
    pass: u32,
    /// So many messages may be with agents at once: the others of default_process_limit are for what stays here.
    most_remote: u32,
}

/// What a word of a worker means for who gives out the work.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Something became free for this message.
    Free(Id),
    /// All that this message gave rise to so far is noted in it, and what comes next may take its time: another host.
    Noted(Id),
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
            self.pass = mailbox_limit(&base.settings.config);
            self.most_remote = most_remote(base.settings.config.default_process_limit);
            let has_pass = self.may_pass();
            let Some(worker) = self.workers.get_mut(at) else { return Ok(false) };
            if worker.socket.send(&permits::job(&id, if has_pass { self.pass } else { 0 }), None).is_ok() {
                (worker.message, worker.since, worker.has_pass) = (Some(id), Instant::now(), has_pass);
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
            Some(Word::Want { key, limit, errand }) => {
                let mut freed = self.pass_is_back(number);
                let (reuse, agent) = (config.smtp_connection_reuse_time_limit.0, errand != Errand::Here);
                if let Some(worker) = self.workers.get_mut(number) {
                    worker.has_report = errand == Errand::Report;
                }
                let mut hire = |crew: &mut Crew| {
                    let hired = crew.hire_agent(base, close);
                    hired.inspect_err(|error| log::error!("an agent for remote delivery: {error}")).ok()
                };
                let permit = self.permit(number, &key, limit, agent.then_some(reuse), &mut hire);
                freed.extend(self.answer(number, &key, &permit));
                let message = self.workers.get(number).filter(|_| agent).and_then(|worker| worker.message);
                freed.extend(message.map(News::Noted));
                freed
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

    fn end(&mut self, number: usize, ended: Attempt) -> Vec<News> {
        let mut news = self.done(number, Duration::ZERO, None);
        news.extend(self.pass_is_back(number));
        let left = self.left_by(number, &ended);
        let Some(worker) = self.workers.get_mut(number) else { return news };
        let Some(id) = worker.message.take() else { return news };
        let lacks = worker.lacks.take();
        if !worker.rest() {
            self.workers.swap_remove(number);
        }
        match ended {
            // Those who use it now may have been done in between: then nobody would call.
            Attempt::Waits(key) if self.places.wait(lacks.as_ref().unwrap_or(&key), id) => {
                news.push(News::Noted(id));
                // Nobody else would call who waits there.
                news.extend(self.next_where_room(&left).into_iter().map(News::Free));
            }
            Attempt::Waits(_) => news.push(News::Free(id)),
            ended => news.push(News::Over(id, ended)),
        }
        news
    }

    /// A worker that came to its end. Its message is as a crash leaves it, and not tried again at once.
    fn gone(&mut self, number: usize) -> Vec<News> {
        let mut news = self.done(number, Duration::ZERO, None);
        news.extend(self.pass_is_back(number));
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

    /// Dismisses agents that were not needed for so long, and of workers that had nothing to do for [`KEPT`] all but one.
    pub fn tidy(&mut self, keep: Duration) {
        let mut idle = 0;
        self.workers.retain(|worker| {
            idle += u32::from(worker.message.is_none());
            worker.message.is_some() || idle <= 1 || worker.since.elapsed() < KEPT
        });
        self.places.dismiss(|agent| agent.idle_since.elapsed() < keep);
        self.places.tidy();
        self.homes.tidy();
        self.reap();
    }

    /// Whether an agent waits for another message.
    pub fn has_idle_agents(&self) -> bool {
        self.places.idle().next().is_some()
    }

    /// Whether there are more workers without a message than one.
    pub fn has_spare_workers(&self) -> bool {
        self.workers.iter().filter(|worker| worker.message.is_none()).count() > 1
    }

    /// Forgets which next hops and addresses did not answer, and where domains lead to.
    pub fn forget_silent(&mut self) {
        self.homes = Homes::default();
        self.places.forget_silent();
    }

    /// Dismisses all agents as soon as they are idle: the configuration was read again, and they have the one before.
    pub fn renew_agents(&mut self) {
        self.configured = Some(Instant::now());
        self.homes.forget_hosts();
        self.places.dismiss(|_| false);
    }

    /// Everybody who waits for something that nobody uses: who was called before them did not come for it.
    pub fn stranded(&mut self) -> Vec<Id> {
        let mut stranded = self.places.stranded();
        // In a share there may be room though somebody is there.
        let shares = self.places.waited_for().filter_map(|key| Some((key.to_owned(), self.most_of(key)?)));
        for (share, most) in shares.collect::<Vec<_>>() {
            let room = most.saturating_sub(self.places.users(&share));
            stranded.extend((0..room).map_while(|_| self.places.next(&share)));
        }
        stranded
    }

    /// Everybody who waits for something that is in use.
    pub fn forget_waiting(&mut self) -> Vec<Id> {
        self.places.forget_waiting()
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
}

/// How many may use a next hop, a mailbox or a program at once; 0 is no limit, as with Postfix.
pub fn limit(config: &Config) -> u32 {
    match config.default_destination_concurrency_limit {
        0 => u32::MAX,
        limit => limit,
    }
}

/// How many may use one user's mailbox and programs at once. Whoever keeps his own deliveries from coming to an end, as he may
/// with processes that are his, leaves places for others.
pub fn mailbox_limit(config: &Config) -> u32 {
    limit(config).min(most_remote(config.default_process_limit))
}

/// Of as many messages at once those that may be with agents. A next hop may take its time, and as many as there are of its
/// kind: a fifth of the places, and one at least, is kept for mailboxes and programs.
fn most_remote(limit: u32) -> u32 {
    limit.saturating_sub((limit / 5).max(1)).max(1)
}

/// Of so many, half of which at the most may be of one kind or for one host, so that neither keeps all others waiting.
fn half(of: u32) -> u32 {
    of.div_ceil(2)
}

#[cfg(test)]
mod tests;
