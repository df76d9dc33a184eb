//! The children: what is known of each, and how they are started and reaped. What they do is in `worker.rs` and
//! `relay/agent.rs`.

use super::places::at;
use super::{Base, Crew};
use crate::again::again;
use crate::config::Config;
use crate::config::value::TlsLevel;
use crate::deliver::permits::{Desk, Socket};
use crate::deliver::worker;
use crate::queue::Id;
use crate::relay::agent;
use crate::sys;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Whoever works on a message for longer waits for something else than a processor or a disk.
pub const QUICK: Duration = Duration::from_millis(30);

/// A worker ends after so many messages: whatever one of them did to it does not last.
const MOST_USES: u32 = 1000;

/// A process with a message, or waiting for one.
#[derive(Debug)]
pub struct Worker {
    /// Itself.
    pub process: Pid,
    /// The way to it.
    pub socket: Socket,
    /// What it works on.
    pub message: Option<Id>,
    /// When it got its message, or was done with the last.
    pub since: Instant,
    /// How many it has worked on.
    worked_on: u32,
    /// What it uses now.
    pub uses: Option<Use>,
    /// It asked last for an agent that is to carry a report to a domain.
    pub has_report: bool,
    /// What it was refused last, where that was not the place it asked for but a share of the agents.
    pub lacks: Option<String>,
    /// It may use without asking what as many as [`Crew::pass`] may use at once.
    pub has_pass: bool,
}

/// What a worker uses.
#[derive(Debug)]
pub struct Use {
    /// The next hop, mailbox or program.
    pub key: String,
    /// The shares of the agents that it has a part of.
    pub shares: Vec<String>,
    /// The agent it was lent.
    pub agent: Option<Agent>,
    /// The agent has had no job yet.
    pub is_new: bool,
}

impl Worker {
    /// One that has just been started.
    pub fn new(process: Pid, socket: Socket) -> Worker {
        Worker {
            process,
            socket,
            message: None,
            since: Instant::now(),
            worked_on: 0,
            uses: None,
            has_report: false,
            lacks: None,
            has_pass: false,
        }
    }

    /// Whether it is likely to be done in a moment.
    pub fn is_quick(&self) -> bool {
        let is_remote = self.uses.as_ref().is_some_and(|used| used.agent.is_some());
        self.message.is_some() && !is_remote && self.since.elapsed() < QUICK
    }

    /// It is done with its message. Gives whether it can take another one.
    pub fn rest(&mut self) -> bool {
        (self.since, self.worked_on) = (Instant::now(), self.worked_on.saturating_add(1));
        self.worked_on < MOST_USES
    }
}

/// A process for one next hop.
#[derive(Debug)]
pub struct Agent {
    /// The way to it; it ends when this is closed.
    pub socket: UnixStream,
    /// When it was started.
    pub since: Instant,
    /// Since when it waits.
    pub idle_since: Instant,
    /// The hosts that it belongs to, as it said when it was new; empty: not known, or not asked for.
    pub hosts: String,
    /// Other domains with these hosts may have it next.
    pub is_shared: bool,
}

impl Agent {
    /// One that has just been started.
    pub fn new(socket: UnixStream, is_shared: bool) -> Agent {
        let now = Instant::now();
        Agent { socket, since: now, idle_since: now, hosts: String::new(), is_shared }
    }

    /// Where it waits after work for this next hop.
    pub fn waits_at(&self, key: &str) -> String {
        if self.is_shared && !self.hosts.is_empty() { at(&self.hosts) } else { key.to_owned() }
    }
}

/// Whether domains with the same hosts share connections: not where a login may be one domain's own, or the name in the
/// certificate, or how much TLS there must be.
fn is_shared(config: &Config) -> bool {
    !config.smtp_sasl_auth_enable
        && config.smtp_tls_security_level < TlsLevel::Secure
        && config.smtp_tls_policy_maps.0.is_none()
}

impl Crew {
    /// Starts a worker. Gives its number.
    pub(super) fn hire(&mut self, base: &mut Base<'_>, close: &mut dyn FnMut()) -> io::Result<usize> {
        let (ours, its) = Socket::pair()?;
        let held = base.helper.as_ref().map(|helper| helper.as_raw_fd());
        let own = base.helper.as_ref().map(|helper| helper.another()).transpose()?;
        let (mut start, mut ours) = (Some((Desk::at(its), own)), Some(ours));
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
        self.workers.push(Worker::new(process, ours.take().ok_or(io::ErrorKind::NotConnected)?));
        Ok(self.workers.len() - 1)
    }

    /// Starts an agent.
    pub(super) fn hire_agent(&mut self, base: &Base<'_>, close: &mut dyn FnMut()) -> io::Result<Agent> {
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
        Ok(Agent::new(socket, is_shared(&base.settings.config)))
    }

    /// Forks a child that keeps nothing of ours open and ends with us.
    fn fork(&mut self, work: &mut dyn FnMut() -> u8, held: Option<RawFd>, close: &mut dyn FnMut()) -> io::Result<Pid> {
        let master = getpid();
        let child = sys::fork(|| {
            // Signals to the whole group are for us; who waits for a child of ours is told by us.
            let _ = SigSet::all().thread_block();
            self.workers.clear();
            self.places = Default::default();
            close();
            // The helper does what it is asked by whoever has this.
            held.map(nix::unistd::close);
            let heard = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            if heard.is_err() || getppid() != master { 75 } else { work() }
        })?;
        Ok(child)
    }

    /// Takes the statuses of children that have ended.
    pub(super) fn reap(&mut self) {
        loop {
            match again(|| waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG))) {
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(status) => {
                    let agents = self.agents.len();
                    self.agents.retain(|agent| Some(*agent) != status.pid());
                    agent::log_end(if self.agents.len() < agents { "agent" } else { "worker" }, status);
                }
            }
        }
    }
}
