//! The loop of every server that accepts connections itself: wait, accept, start a child, count it, reap it, stop.
//!
//! It never starts more children than a service may have, and all together: while a service is full its sockets are
//! simply not looked at, and clients wait in the kernel's backlog, or they are told and let go (refused.rs). Nor does one
//! client get more than its share (limits.rs). All that is decided before anything is started. What a child is (a forked
//! session, a program) the caller says.
//!
//! Signals arrive as octets of a signalfd and are blocked everywhere else in this process. So no handler runs, no system
//! call is interrupted, and a signal that hits a child before it is itself is not taken for one of ours.
//! CHLD reaps; the first TERM or INT closes the sockets and lets the children finish, the second ends them all
//! (ending.rs); USR1 logs the state; HUP hands over to the caller, who may read its configuration again.
//!
//! A child may also get the sockets themselves: one at a time, as inetd's `wait` has it, or all of a service, as a pool
//! that accepts from them and keeps the limits by itself (pool.rs).
//!
//! What a service is stands in acceptor/service.rs, how a client becomes a child in admit.rs, and what changes while the
//! loop runs in life.rs.

mod admit;
mod life;
mod service;

pub use service::{Given, Kind, Service};

use super::ending;
use super::limits::{Limits, Table};
use super::refused::Refused;
use super::signals;
use super::starts::REST;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// More than the system has processes for.
pub(super) const MOST_CHILDREN: usize = 65_536;

/// A process that serves a client, or the clients of a listener.
#[derive(Debug, Clone, Copy)]
struct Child {
    service: usize,
    /// Of the service that it was started for, which may be gone.
    kind: Kind,
    /// Its place in the table of addresses.
    slot: Option<usize>,
    since: Instant,
}

/// Services, and the children that run for them.
#[derive(Debug)]
pub struct Acceptor {
    services: Vec<Service>,
    children: BTreeMap<Pid, Child>,
    /// Most children at once, of all services.
    total: usize,
    limits: Limits,
    table: Option<Table>,
    /// Slots of the table that were given back, and the first that never was used.
    free: Vec<usize>,
    fresh: usize,
    refused: Option<Refused>,
    signals: Option<SignalFd>,
    /// Its end is that of whoever started us: as TERM.
    leash: Option<OwnedFd>,
    idle_since: Instant,
    stopping: bool,
    /// The caller knows.
    has_said_so: bool,
    reads_again: bool,
    /// Who was turned away so far.
    turned_away: u64,
    /// Where the state is written, beside the log.
    state_file: Option<File>,
}

/// A loop that is not run any more, for a pool to go on with.
#[derive(Debug)]
pub struct HandedOver {
    pub(super) service: Service,
    /// Who still serves, and the places in the table that they have.
    pub(super) children: Vec<(Pid, Option<usize>)>,
    pub(super) signals: SignalFd,
    pub(super) table: Table,
    pub(super) refused: Refused,
    /// Who was turned away so far.
    pub(super) turned_away: u64,
    pub(super) leash: Option<OwnedFd>,
}

/// Why the loop was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// All is over.
    Ended,
    /// TERM: nothing is accepted any more. The caller may give up what another server is to have now, and is to run the loop
    /// again, until the last child has ended. Not said where there is none.
    Stopping,
    /// HUP: the caller may read its configuration again, and is to run the loop again.
    ToReadAgain,
}

impl Acceptor {
    /// Blocks the signals that the loop waits for, for the rest of this process's life.
    pub fn new(services: Vec<Service>) -> io::Result<Acceptor> {
        let mut acceptor = Acceptor::of(services);
        acceptor.signals = Some(signals::open()?);
        acceptor.refused = Some(Refused::new()?);
        Ok(acceptor)
    }

    fn of(services: Vec<Service>) -> Acceptor {
        Acceptor {
            services,
            children: BTreeMap::new(),
            total: usize::MAX,
            limits: Limits::default(),
            table: None,
            free: Vec::new(),
            fresh: 0,
            refused: None,
            signals: None,
            leash: None,
            idle_since: Instant::now(),
            stopping: false,
            has_said_so: false,
            reads_again: false,
            turned_away: 0,
            state_file: None,
        }
    }

    /// Bounds what all services, and each client, may have at once, and each client in a minute.
    pub fn limit(&mut self, total: usize, limits: Limits) -> io::Result<()> {
        // Kept when limits change: who is being served still counts.
        if self.table.is_none() {
            self.table = Some(Table::shared(MOST_CHILDREN)?);
        }
        self.total = total;
        self.limits = limits;
        Ok(())
    }

    /// Another limit for the service of this number.
    pub fn limit_service(&mut self, number: usize, limit: usize) {
        if let Some(service) = self.services.get_mut(number) {
            service.limit = limit;
        }
    }

    /// Stops, as at TERM, when the other end of this pipe is closed.
    pub fn leash(&mut self, leash: Option<OwnedFd>) {
        self.leash = leash;
    }

    /// What a pool goes on with that takes the place of this loop, of the first service only. A client for whom no child
    /// could be started yet is told to come later.
    pub fn hand_over(mut self) -> Option<HandedOver> {
        self.let_go_of_all_held();
        let service = self.services.into_iter().next()?;
        let children = self.children.into_iter().map(|(pid, child)| (pid, child.slot)).collect();
        let (signals, table, refused) = (self.signals?, self.table?, self.refused?);
        let (turned_away, leash) = (self.turned_away, self.leash);
        Some(HandedOver { service, children, signals, table, refused, turned_away, leash })
    }

    /// Closes everything the loop holds: for a forked child, which has no business with it.
    pub fn close(&mut self) {
        for mut service in self.services.drain(..) {
            service.listeners.clear();
            service.held = None;
            // The rest is memory shared with the parent; each page of it would be copied only to be given back.
            std::mem::forget(service);
        }
        self.signals = None;
        self.leash = None;
        self.refused = None;
        self.state_file = None;
    }

    fn has_room(&self, service: &Service) -> bool {
        service.has_room() && self.children.len() < self.total.min(MOST_CHILDREN)
    }

    /// Whether its sockets are to be looked at.
    fn is_open(&self, service: &Service) -> bool {
        let refuses = self.limits.refuses_when_full && service.kind == Kind::Session;
        // A pool that does not start leaves nobody waiting who could be told.
        (service.rests_until.is_none() && (refuses || self.has_room(service))) || self.is_down(service)
    }

    /// Whether it is a pool that ended when it should have begun. Who needs a helper does without when it is hung up on. While
    /// nobody can be accepted to be told, that rests as well: the client would wake us again and again.
    fn is_down(&self, service: &Service) -> bool {
        let can_tell = service.refusal.is_some() || service.kind.is_helper();
        let rests = service.rests_until.is_some() && service.rests_until != service.deaf_until;
        service.kind.is_pool() && rests && service.running == 0 && can_tell
    }

    /// The service with this number, as given to [`Acceptor::new`].
    pub fn service(&self, number: usize) -> Option<&Service> {
        self.services.get(number)
    }

    /// Serves until TERM or INT, or until there was no child for `max_idle`.
    ///
    /// `start` makes a child for the service of the given number; nothing means that none was needed after all.
    pub fn run<Start>(&mut self, max_idle: Option<Duration>, mut start: Start) -> io::Result<Left>
    where
        Start: FnMut(&mut Acceptor, usize, &Given) -> io::Result<Option<Pid>>,
    {
        loop {
            let is_over = self.stopping || max_idle.is_some_and(|time| self.is_idle_for(time));
            if self.has_nobody() && is_over {
                return Ok(Left::Ended);
            }
            if std::mem::take(&mut self.reads_again) && !self.stopping {
                return Ok(Left::ToReadAgain);
            }
            if self.stopping && !std::mem::replace(&mut self.has_said_so, true) {
                return Ok(Left::Stopping);
            }
            self.retry(&mut start);
            self.start_standing(&mut start);
            self.let_helpers_go();
            let (signalled, ready) = self.wait(max_idle)?;
            if signalled && self.take_signals() == Stop::Now {
                self.end();
                return Ok(Left::Ended);
            }
            for (service, listener) in ready {
                self.admit(service, listener, &mut start);
            }
            if let Some(refused) = &mut self.refused {
                refused.tend();
            }
        }
    }

    fn end(&self) {
        // A pool that has not read the TERM of before yet would take two of them for one.
        let signal = |child: &Child| if child.kind.is_pool() { Signal::SIGINT } else { Signal::SIGTERM };
        let has_servers = self.children.values().any(|child| child.kind.accepts_itself());
        let patience = if has_servers { ending::OF_SERVERS } else { ending::OF_SESSIONS };
        let children = self.children.iter().map(|(pid, child)| (*pid, signal(child)));
        ending::end(children, self.signals.as_ref(), patience);
    }

    /// Nobody is served, waits for a child that could not be started, or is being turned away: who is hears why only if we do
    /// not close too soon.
    fn has_nobody(&self) -> bool {
        let is_waited_for = self.services.iter().any(|service| service.held.is_some());
        self.children.is_empty() && !is_waited_for && self.refused.as_ref().is_none_or(Refused::is_empty)
    }

    fn is_idle_for(&self, time: Duration) -> bool {
        self.idle_since.elapsed() >= time
    }

    /// Waits for signals and clients; gives whether there are signals, and where clients are, as service and listener.
    fn wait(&mut self, max_idle: Option<Duration>) -> io::Result<(bool, Vec<(usize, usize)>)> {
        let now = Instant::now();
        let rests = self.services.iter().filter_map(|service| service.rests_until);
        let rests = rests.chain(self.refused.as_ref().and_then(Refused::next_end));
        // While somebody is still let go there is no end that could be waited for: it may have passed already.
        let idle_end = max_idle.filter(|_| self.has_nobody()).and_then(|time| self.idle_since.checked_add(time));
        let timeout = match rests.chain(idle_end).min() {
            // Rounded up, or the last millisecond would be spent spinning.
            Some(until) => PollTimeout::try_from(until.saturating_duration_since(now) + Duration::from_millis(1))
                .unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let mut places = Vec::new();
        let mut descriptors = Vec::new();
        if let Some(signals) = &self.signals {
            descriptors.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
        }
        if let Some(refused) = &self.refused {
            descriptors.push(PollFd::new(refused.as_fd(), PollFlags::POLLIN));
        }
        if let Some(leash) = &self.leash {
            descriptors.push(PollFd::new(leash.as_fd(), PollFlags::empty()));
        }
        for (number, service) in self.services.iter().enumerate().filter(|(_, service)| self.is_open(service)) {
            for (which, listener) in service.listeners.iter().enumerate() {
                places.push((number, which));
                descriptors.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
            }
        }
        match poll(&mut descriptors, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok((false, Vec::new())),
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = descriptors.iter().map(|descriptor| descriptor.any().unwrap_or(false)).collect();
        drop(descriptors);
        let mut ready = ready.into_iter();
        let signalled = self.signals.is_some() && ready.next().unwrap_or(false);
        let _ = self.refused.is_some() && ready.next().unwrap_or(false);
        if self.leash.is_some() && ready.next().unwrap_or(false) {
            self.leash = None;
            self.stop();
            return Ok((signalled, Vec::new()));
        }
        Ok((signalled, places.into_iter().zip(ready).filter_map(|(place, ready)| ready.then_some(place)).collect()))
    }

    fn take_signals(&mut self) -> Stop {
        while let Some(Ok(Some(signal))) = self.signals.as_ref().map(SignalFd::read_signal) {
            match i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()) {
                Some(Signal::SIGTERM | Signal::SIGINT) if self.stopping => {
                    log::info!("ended at once children={}", self.children.len());
                    return Stop::Now;
                }
                Some(Signal::SIGTERM | Signal::SIGINT) => self.stop(),
                Some(Signal::SIGHUP) => self.reads_again = true,
                Some(Signal::SIGUSR1) => self.report(),
                _ => {}
            }
        }
        // CHLD is one signal for any number of children, so the signal itself counts for nothing.
        self.reap();
        Stop::NotNow
    }

    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..))) => self.forget(pid, status),
                Ok(WaitStatus::StillAlive) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Takes a child that ended off the count, once; one that was never ours (we may be process 1 of a container, or
    /// have been exec'ed by somebody with children) is not counted.
    fn forget(&mut self, pid: Pid, status: WaitStatus) {
        let Some(child) = self.children.remove(&pid) else {
            log::debug!("reaped a stranger pid={pid}");
            return;
        };
        if let (Some(table), Some(slot)) = (&self.table, child.slot) {
            table.forget(slot);
        }
        self.free.extend(child.slot);
        if self.children.is_empty() {
            self.idle_since = Instant::now();
        }
        let Some(service) = self.services.get_mut(child.service) else { return };
        service.running = service.running.saturating_sub(1);
        let serves = service.kind.accepts_itself() && !self.stopping;
        if serves && service.starts.ended(status, child.since.elapsed()) {
            log::error!("cannot serve service={} reason=\"its program ended as soon as it began\"", service.name);
            service.rests_until = Instant::now().checked_add(REST);
        }
        match status {
            WaitStatus::Exited(_, 0) => log::debug!("child ended service={} pid={pid}", service.name),
            WaitStatus::Exited(_, code) => log::info!("child ended service={} pid={pid} status={code}", service.name),
            // One of those that we told to end.
            WaitStatus::Signaled(_, signal @ Signal::SIGTERM, _) if self.stopping => {
                log::info!("child ended service={} pid={pid} signal={signal}", service.name);
            }
            WaitStatus::Signaled(_, signal, _) => {
                log::warn!("child killed service={} pid={pid} signal={signal}", service.name);
            }
            _ => {}
        }
    }
}

#[derive(PartialEq, Eq)]
enum Stop {
    NotNow,
    Now,
}

#[cfg(test)]
mod tests;
