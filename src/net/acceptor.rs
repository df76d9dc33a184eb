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

use super::ending;
use super::limits::{self, Excess, Limits, Table};
use super::listener::Listener;
use super::refused::Refused;
use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// How long a service is left alone when a child could not be started, or a connection not accepted: the machine is
/// out of something, and turning clients away in a tight loop would not give it back.
pub(super) const REST: Duration = Duration::from_secs(1);
/// More than the system has processes for.
pub(super) const MOST_CHILDREN: usize = 65_536;
/// A child that has the sockets and fails sooner than this was never ready for anybody.
const AT_START: Duration = Duration::from_secs(1);

/// What is handed to a child.
#[derive(Debug)]
pub enum Given {
    /// One connection.
    Connection(OwnedFd),
    /// The listening socket itself (inetd's `wait`); nobody looks at it until the child ends.
    Listener(OwnedFd),
    /// All listening sockets of the service, for a pool; nobody looks at them until it ends.
    Listeners(Vec<OwnedFd>),
}

/// What a child of a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One for each connection.
    Session,
    /// One that accepts from one socket at a time (inetd's `wait`).
    Wait,
    /// One that accepts from all sockets, started when a client comes.
    Pool,
    /// The same, started at once and whenever it has ended.
    StandingPool,
    /// A pool that children of the other services need: it ends after them all.
    Helper {
        /// Whether it is started before anybody comes.
        stands: bool,
    },
}

impl Kind {
    /// Whether the child, and not the loop, accepts connections.
    pub fn accepts_itself(self) -> bool {
        self != Kind::Session
    }

    fn is_pool(self) -> bool {
        !matches!(self, Kind::Session | Kind::Wait)
    }

    fn stands(self) -> bool {
        matches!(self, Kind::StandingPool | Kind::Helper { stands: true })
    }

    fn is_helper(self) -> bool {
        matches!(self, Kind::Helper { .. })
    }
}

/// Sockets that share a name and a limit.
#[derive(Debug)]
pub struct Service {
    /// For the log.
    pub name: String,
    /// Where its connections come in.
    pub listeners: Vec<Listener>,
    /// Most children at once.
    pub limit: usize,
    /// What its children are.
    pub kind: Kind,
    /// What a client hears that cannot be served; none: it is closed without a word.
    pub refusal: Option<Vec<u8>>,
    /// Nobody else listens on these sockets: when we stop, a pool that is not at its end yet must not keep them open.
    pub owns_sockets: bool,
    /// After [`Acceptor::replace`]: whether a child that has the sockets goes on, or is told to end for a new one.
    pub keeps_child: bool,
    running: usize,
    rests_until: Option<Instant>,
    /// The client for whom no child could be started, and who gets a second chance after the rest.
    held: Option<(Given, Option<usize>)>,
}

impl Service {
    /// A service whose children get one connection each.
    pub fn new(name: impl Into<String>, listeners: Vec<Listener>, limit: usize) -> Service {
        let name = name.into();
        let (running, rests_until, held) = (0, None, None);
        let (kind, refusal, owns_sockets, keeps_child) = (Kind::Session, None, false, true);
        Service { name, listeners, limit, kind, refusal, owns_sockets, keeps_child, running, rests_until, held }
    }

    fn has_room(&self) -> bool {
        self.running < self.limit
    }
}

/// A process that serves a client, or the clients of a listener.
#[derive(Debug, Clone, Copy)]
struct Child {
    service: usize,
    /// Its place in the table of addresses.
    slot: Option<usize>,
    since: Instant,
}

/// Services, and the children that run for them.
#[derive(Debug)]
pub struct Acceptor {
    services: Vec<Service>,
    children: HashMap<Pid, Child>,
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
    pub(super) leash: Option<OwnedFd>,
}

/// Why the loop was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// All is over.
    Ended,
    /// HUP: the caller may read its configuration again, and is to run the loop again.
    ToReadAgain,
}

impl Acceptor {
    /// Blocks the signals that the loop waits for, for the rest of this process's life.
    pub fn new(services: Vec<Service>) -> io::Result<Acceptor> {
        // Whoever started us may have ignored CHLD, and the kernel would reap the children before they are counted.
        sys::default_signals();
        let mut caught = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
            caught.add(signal);
        }
        caught.thread_block()?;
        let signals = SignalFd::with_flags(&caught, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let mut acceptor = Acceptor::of(services);
        acceptor.signals = Some(signals);
        acceptor.refused = Some(Refused::new()?);
        Ok(acceptor)
    }

    fn of(services: Vec<Service>) -> Acceptor {
        Acceptor {
            services,
            children: HashMap::new(),
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
        if let Some((given, slot)) = self.services.first_mut().and_then(|service| service.held.take()) {
            self.give_back(slot);
            if let Given::Connection(connection) = given {
                self.refuse(0, connection, Excess::Full);
            }
        }
        let service = self.services.into_iter().next()?;
        let children = self.children.into_iter().map(|(pid, child)| (pid, child.slot)).collect();
        let (signals, table, refused) = (self.signals?, self.table?, self.refused?);
        Some(HandedOver { service, children, signals, table, refused, leash: self.leash })
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

    /// Whether it is a pool that ended when it should have begun.
    fn is_down(&self, service: &Service) -> bool {
        service.kind.is_pool() && service.rests_until.is_some() && service.running == 0 && service.refusal.is_some()
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
            if self.children.is_empty() && (self.stopping || max_idle.is_some_and(|time| self.is_idle_for(time))) {
                return Ok(Left::Ended);
            }
            if std::mem::take(&mut self.reads_again) && !self.stopping {
                return Ok(Left::ToReadAgain);
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
        let kind = |child: &Child| self.services.get(child.service).map(|service| service.kind);
        // A pool that has not read the TERM of before yet would take two of them for one.
        let signal = |child| if kind(child).is_some_and(Kind::is_pool) { Signal::SIGINT } else { Signal::SIGTERM };
        let has_servers = self.children.values().filter_map(kind).any(Kind::accepts_itself);
        let patience = if has_servers { ending::OF_SERVERS } else { ending::OF_SESSIONS };
        let children = self.children.iter().map(|(pid, child)| (*pid, signal(child)));
        ending::end(children, self.signals.as_ref(), patience);
    }

    fn is_idle_for(&self, time: Duration) -> bool {
        self.idle_since.elapsed() >= time
    }

    /// Waits for signals and clients; gives whether there are signals, and where clients are, as service and listener.
    fn wait(&mut self, max_idle: Option<Duration>) -> io::Result<(bool, Vec<(usize, usize)>)> {
        let now = Instant::now();
        let rests = self.services.iter().filter_map(|service| service.rests_until);
        let rests = rests.chain(self.refused.as_ref().and_then(Refused::next_end));
        let idle_end = max_idle.filter(|_| self.children.is_empty()).and_then(|time| self.idle_since.checked_add(time));
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

    /// What is going on, a line for all and one for each service.
    fn state(&self) -> Vec<String> {
        let seconds = self.idle_since.elapsed().as_secs();
        let idle = if self.children.is_empty() { seconds } else { 0 };
        let (children, turned_away) = (self.children.len(), self.turned_away);
        let all = format!("state children={children} refused={turned_away} idle={idle}s stopping={}", self.stopping);
        let each = self.services.iter().map(|service| {
            let limit = if service.limit == usize::MAX { "none".to_owned() } else { service.limit.to_string() };
            let (name, running, resting) = (&service.name, service.running, service.rests_until.is_some());
            format!("state service={name} children={running} limit={limit} resting={resting}")
        });
        std::iter::once(all).chain(each).collect()
    }

    fn report(&self) {
        self.state().iter().for_each(|line| log::info!("{line}"));
        self.write_state();
        // Pools know more.
        self.signal_children(|service| service.kind.is_pool(), Signal::SIGUSR1);
    }

    /// Writes the state into this file from now on as well: at once, when it is asked for, and when we stop.
    pub fn report_to(&mut self, file: Option<File>) {
        self.state_file = file;
        self.write_state();
    }

    fn write_state(&self) {
        let Some(file) = &self.state_file else { return };
        let text: String = self.state().iter().map(|line| format!("{line}\n")).collect();
        // In this order, so that nobody finds it empty.
        let written = file.write_all_at(text.as_bytes(), 0).and_then(|()| file.set_len(text.len() as u64));
        if let Err(error) = written {
            log::warn!("cannot write the state cause=\"{error}\"");
        }
    }

    /// Puts other services in the place of these. One of the same name goes on: its children are counted for the new
    /// one, and a client that was held is.
    pub fn replace(&mut self, services: Vec<Service>) {
        let old = std::mem::replace(&mut self.services, services);
        let kinds: Vec<Kind> = old.iter().map(|service| service.kind).collect();
        let mut numbers = Vec::new();
        for mut gone in old {
            let same = |new: &Service| {
                new.name == gone.name
                    && new.kind.is_pool() == gone.kind.is_pool()
                    && new.kind.accepts_itself() == gone.kind.accepts_itself()
            };
            let number = self.services.iter().position(same);
            let number = number.filter(|number| self.services.get(*number).is_some_and(|new| new.keeps_child));
            if let Some(new) = number.and_then(|number| self.services.get_mut(number)) {
                (new.running, new.rests_until, new.held) = (gone.running, gone.rests_until, gone.held.take());
            }
            if let Some((_, slot)) = gone.held.take() {
                self.give_back(slot);
            }
            // A number that no service has: its children count among all, and for no service.
            numbers.push(number.unwrap_or(usize::MAX));
        }
        for (pid, child) in &mut self.children {
            let number = numbers.get(child.service).copied().unwrap_or(usize::MAX);
            let accepts_itself = child.slot.is_none() && kinds.get(child.service).is_some_and(|k| k.accepts_itself());
            if accepts_itself {
                // One that goes on reads its configuration as we do; one that does not must let go of the sockets.
                let is_pool = kinds.get(child.service).is_some_and(|kind| kind.is_pool());
                let signal =
                    if number == usize::MAX { Some(Signal::SIGTERM) } else { is_pool.then_some(Signal::SIGHUP) };
                signal.map(|signal| kill(*pid, signal));
            }
            child.service = number;
        }
    }

    /// Whether TERM or INT has come.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    fn stop(&mut self) {
        self.stopping = true;
        for service in self.services.iter_mut().filter(|service| !service.kind.is_helper()) {
            if service.owns_sockets && service.kind.is_pool() {
                service.listeners.iter().for_each(Listener::stop_listening);
            }
            service.listeners.clear();
            service.held = None;
            service.rests_until = None;
        }
        log::info!("stopping children={}", self.children.len());
        self.write_state();
        // A child that accepts by itself would go on for ever.
        self.signal_children(|service| service.kind.accepts_itself() && !service.kind.is_helper(), Signal::SIGTERM);
    }

    fn signal_children(&self, concerned: impl Fn(&Service) -> bool, signal: Signal) {
        for (pid, child) in &self.children {
            if self.services.get(child.service).is_some_and(&concerned) {
                let _ = kill(*pid, signal);
            }
        }
    }

    /// The others may need helpers to their end.
    fn let_helpers_go(&mut self) {
        let is_helper = |service: usize| self.services.get(service).is_some_and(|service| service.kind.is_helper());
        if !self.stopping || self.children.values().any(|child| !is_helper(child.service)) {
            return;
        }
        let mut told = false;
        for service in self.services.iter_mut().filter(|service| service.kind.is_helper()) {
            told |= !service.listeners.is_empty();
            service.listeners.clear();
            (service.held, service.rests_until) = (None, None);
        }
        if told {
            self.signal_children(|service| service.kind.is_helper(), Signal::SIGTERM);
        }
    }

    /// Pools that are to be there before anybody comes.
    fn start_standing<Start>(&mut self, start: &mut Start)
    where
        Start: FnMut(&mut Acceptor, usize, &Given) -> io::Result<Option<Pid>>,
    {
        for number in 0..self.services.len() {
            let Some(service) = self.services.get(number) else { return };
            let is_wanted = service.kind.stands() && service.running == 0 && service.rests_until.is_none();
            if is_wanted && !service.listeners.is_empty() {
                self.start_pool(number, start);
            }
        }
    }

    /// A pool that cannot be started holds no client: who waits is told, as long as it rests.
    fn start_pool<Start>(&mut self, number: usize, start: &mut Start)
    where
        Start: FnMut(&mut Acceptor, usize, &Given) -> io::Result<Option<Pid>>,
    {
        let Some(service) = self.services.get(number) else { return };
        let copies = service.listeners.iter().map(|listener| listener.as_fd().try_clone_to_owned());
        match copies.collect::<io::Result<Vec<_>>>() {
            Ok(copies) => drop(self.start(number, &Given::Listeners(copies), None, start)),
            Err(error) => self.rest(number, &error),
        }
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
            table.forget(slot, pid.as_raw());
        }
        self.free.extend(child.slot);
        if self.children.is_empty() {
            self.idle_since = Instant::now();
        }
        let Some(service) = self.services.get_mut(child.service) else { return };
        service.running = service.running.saturating_sub(1);
        let failed = !matches!(status, WaitStatus::Exited(_, 0));
        if failed && service.kind.accepts_itself() && child.since.elapsed() < AT_START && !self.stopping {
            log::error!("cannot serve service={} cause=\"its program ended as soon as it began\"", service.name);
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

    /// Starts a child for a client. Nothing that goes wrong here may end the loop.
    fn admit<Start>(&mut self, number: usize, which: usize, start: &mut Start)
    where
        Start: FnMut(&mut Acceptor, usize, &Given) -> io::Result<Option<Pid>>,
    {
        // Asked again for each client: the one before may have taken the last place.
        let Some(service) = self.services.get(number).filter(|service| self.is_open(service)) else { return };
        let Some(listener) = service.listeners.get(which) else { return };
        let (has_room, is_down) = (self.has_room(service), self.is_down(service));
        if service.kind.is_pool() && !is_down {
            return self.start_pool(number, start);
        }
        let given = if service.kind == Kind::Wait {
            listener.as_fd().try_clone_to_owned().map(|fd| Some(Given::Listener(fd)))
        } else {
            listener.accept().map(|connection| connection.map(Given::Connection))
        };
        match given {
            Ok(Some(Given::Connection(connection))) if is_down => {
                self.refuse(number, connection, Excess::NotServing);
            }
            Ok(Some(Given::Connection(connection))) if !has_room => self.refuse(number, connection, Excess::Full),
            Ok(Some(Given::Connection(connection))) => match self.claim(&connection) {
                Ok(slot) => self.start_or_hold(number, Given::Connection(connection), slot, start),
                Err(excess) => self.refuse(number, connection, excess),
            },
            Ok(Some(listener)) => self.start_or_hold(number, listener, None, start),
            Ok(None) => {}
            Err(error) => self.rest(number, &error),
        }
    }

    /// A place in the table for a client, if it may have one.
    fn claim(&mut self, connection: &OwnedFd) -> Result<Option<usize>, Excess> {
        let Some(table) = &self.table else { return Ok(None) };
        let Some(address) = limits::address_of(connection) else { return Ok(None) };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.fresh += 1;
            self.fresh - 1
        });
        let claimed = table.claim(slot, address, &self.limits);
        if claimed.is_err() {
            self.free.push(slot);
        }
        claimed.map(|()| Some(slot))
    }

    fn give_back(&mut self, slot: Option<usize>) {
        if let (Some(table), Some(slot)) = (&self.table, slot) {
            table.release(slot);
            self.free.push(slot);
        }
    }

    fn refuse(&mut self, number: usize, connection: OwnedFd, excess: Excess) {
        let Some(service) = self.services.get(number) else { return };
        let client =
            limits::address_of(&connection).map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        log::info!("refused client={client} service={} cause=\"{excess}\"", service.name);
        self.turned_away = self.turned_away.saturating_add(1);
        if let Some(refused) = &mut self.refused {
            refused.refuse(connection, service.refusal.as_deref());
        }
    }

    /// Ends rests that are over, and tries once more to start the children that could not be started before them.
    /// Who fails again is told to come later, as far as anybody knows the protocol.
    fn retry<Start>(&mut self, start: &mut Start)
    where
        Start: FnMut(&mut Acceptor, usize, &Given) -> io::Result<Option<Pid>>,
    {
        let now = Instant::now();
        for number in 0..self.services.len() {
            let Some(service) = self.services.get_mut(number) else { return };
            if service.rests_until.is_some_and(|until| until <= now) {
                service.rests_until = None;
                if let Some((given, slot)) = service.held.take()
                    && !self.start(number, &given, slot, start)
                {
                    self.give_back(slot);
                    if let Given::Connection(connection) = given {
                        self.refuse(number, connection, Excess::Full);
                    }
                }
            }
        }
    }

    fn start_or_hold<Start>(&mut self, number: usize, given: Given, slot: Option<usize>, start: &mut Start)
    where
        Start: FnMut(&mut Acceptor, usize, &Given) -> io::Result<Option<Pid>>,
    {
        if !self.start(number, &given, slot, start)
            && let Some(service) = self.services.get_mut(number)
        {
            service.held = Some((given, slot));
        }
    }

    /// Starts a child; gives whether that could be done, or need not be done any more.
    fn start<Start>(&mut self, number: usize, given: &Given, slot: Option<usize>, start: &mut Start) -> bool
    where
        Start: FnMut(&mut Acceptor, usize, &Given) -> io::Result<Option<Pid>>,
    {
        match start(self, number, given) {
            Ok(Some(pid)) => {
                if let Some(service) = self.services.get_mut(number) {
                    service.running += 1;
                }
                self.children.insert(pid, Child { service: number, slot, since: Instant::now() });
                true
            }
            Ok(None) => {
                self.give_back(slot);
                true
            }
            Err(error) => {
                self.rest(number, &error);
                false
            }
        }
    }

    fn rest(&mut self, number: usize, error: &io::Error) {
        if let Some(service) = self.services.get_mut(number) {
            log::error!("cannot serve service={} cause=\"{error}\"", service.name);
            service.rests_until = Instant::now().checked_add(REST);
        }
    }
}

#[derive(PartialEq, Eq)]
enum Stop {
    NotNow,
    Now,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpStream};

    /// Without signals, for those belong to the whole process and so to all tests.
    fn acceptor(listener: Listener) -> Acceptor {
        Acceptor::of(vec![Service::new("test", vec![listener], 1)])
    }

    fn loopback() -> Listener {
        Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap()
    }

    fn end_rest(acceptor: &mut Acceptor) {
        assert!(!acceptor.is_open(&acceptor.services[0]), "no rest");
        acceptor.services[0].rests_until = Some(Instant::now());
    }

    #[test]
    fn a_child_that_cannot_be_started_is_tried_again_for_the_same_client_after_a_rest() {
        let listener = loopback();
        let port = listener.port();
        let mut acceptor = acceptor(listener);
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let mut peers = Vec::new();
        let mut start = |_: &mut Acceptor, _: usize, given: &Given| {
            let Given::Connection(connection) = given else { panic!("a listener") };
            peers.push(TcpStream::from(connection.try_clone()?).peer_addr()?);
            if peers.len() == 1 { Err(io::Error::other("out of processes")) } else { Ok(Some(Pid::from_raw(1))) }
        };
        acceptor.admit(0, 0, &mut start);
        acceptor.retry(&mut start);
        end_rest(&mut acceptor);
        acceptor.retry(&mut start);
        assert_eq!(peers, [client.local_addr().unwrap(); 2]);
        assert_eq!(acceptor.services[0].running, 1);
    }

    #[test]
    fn a_second_failure_closes_the_connection() {
        use std::io::Read;
        let listener = loopback();
        let port = listener.port();
        let mut acceptor = acceptor(listener);
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let mut start = |_: &mut Acceptor, _: usize, _: &Given| Err(io::Error::other("out of processes"));
        acceptor.admit(0, 0, &mut start);
        end_rest(&mut acceptor);
        acceptor.retry(&mut start);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert_eq!(acceptor.services[0].running, 0);
        end_rest(&mut acceptor);
    }

    #[test]
    fn the_last_place_is_given_once_although_two_sockets_have_clients() {
        let mut acceptor = acceptor(loopback());
        acceptor.services[0].listeners.push(loopback());
        let ports: Vec<u16> = acceptor.services[0].listeners.iter().map(Listener::port).collect();
        let _clients: Vec<_> = ports.iter().map(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, *port))).collect();
        let mut count = 0;
        let mut start = |_: &mut Acceptor, _: usize, _: &Given| {
            count += 1;
            Ok(Some(Pid::from_raw(count)))
        };
        acceptor.admit(0, 0, &mut start);
        acceptor.admit(0, 1, &mut start);
        assert_eq!(count, 1);
        acceptor.forget(Pid::from_raw(1), WaitStatus::Exited(Pid::from_raw(1), 0));
        acceptor.forget(Pid::from_raw(1), WaitStatus::Exited(Pid::from_raw(1), 0));
        assert_eq!((acceptor.services[0].running, acceptor.children.len()), (0, 0));
    }
}
