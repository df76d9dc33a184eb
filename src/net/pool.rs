//! The pool: children that accept by themselves, so many of them waiting, each for so many connections.
//!
//! A connection goes from the kernel straight to the child that serves it; the parent only sees to it that there are
//! children. What they are doing stands in shared memory: a word each, idle or busy, and the table of addresses. So a
//! child that is killed leaves nothing behind that the parent does not take away when it reaps it.
//!
//! The parent looks at the sockets only while nobody is idle: then it starts a child, or, when there are as many as may
//! be, tells clients so if it is to. A child rings when it takes a connection and leaves fewer idle than there should be,
//! so a burst is met at once. All children hold the end of a pipe; when the other end is closed, by a parent that stops
//! or that was killed, the idle ones end, and the busy ones after their session.

use super::acceptor::REST;
use super::limits::{self, Excess, Limits, Table};
use super::listener::Listener;
use super::refused::Refused;
use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};
use std::collections::HashMap;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a child waits that is one more than should be idle.
const LINGER: Duration = Duration::from_secs(10);

const FREE: u64 = 0;
const IDLE: u64 = 1;
const BUSY: u64 = 2;

/// How many, and for how long.
#[derive(Debug, Clone)]
pub struct Size {
    /// Most children.
    pub children: usize,
    /// So many wait for a connection.
    pub idle: usize,
    /// Connections that one serves; 0: no limit.
    pub max_use: u32,
    /// The pool ends after so long without a child.
    pub max_idle: Option<Duration>,
}

/// The parent's side.
#[derive(Debug)]
pub struct Pool {
    shared: Shared,
    size: Size,
    refusal: Option<Vec<u8>>,
    refused: Refused,
    children: HashMap<Pid, usize>,
    signals: Option<SignalFd>,
    /// Held open for as long as children may go on.
    alive: Option<PipeWriter>,
    idle_since: Instant,
    rests_until: Option<Instant>,
    stopping: bool,
}

/// What parent and children have in common.
#[derive(Debug)]
struct Shared {
    listeners: Vec<Listener>,
    states: &'static [AtomicU64],
    table: Table,
    limits: Limits,
    bell: EventFd,
    end: PipeReader,
}

impl Shared {
    fn count(&self, state: u64) -> usize {
        self.states.iter().filter(|word| word.load(Ordering::Relaxed) == state).count()
    }

    fn set(&self, slot: usize, state: u64) {
        if let Some(word) = self.states.get(slot) {
            word.store(state, Ordering::Relaxed);
        }
    }
}

impl Pool {
    /// A pool on these sockets, without children yet. Blocks the signals that it waits for.
    pub fn new(listeners: Vec<Listener>, size: Size, limits: Limits, refusal: Option<Vec<u8>>) -> io::Result<Pool> {
        sys::default_signals();
        let mut caught = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
            caught.add(signal);
        }
        caught.thread_block()?;
        let signals = Some(SignalFd::with_flags(&caught, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?);
        let (end, alive) = io::pipe()?;
        let bell = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (states, table) = (sys::shared_words(size.children)?, Table::shared(size.children)?);
        let shared = Shared { listeners, states, table, limits, bell, end };
        let (refused, children, idle_since) = (Refused::new()?, HashMap::new(), Instant::now());
        let (alive, rests_until, stopping) = (Some(alive), None, false);
        Ok(Pool { shared, size, refusal, refused, children, signals, alive, idle_since, rests_until, stopping })
    }

    /// Serves until TERM or INT, or until there was no child for `max_idle`. `serve` is run in a child, for each
    /// connection; it gives what the child would end with.
    pub fn run(&mut self, mut serve: impl FnMut(OwnedFd) -> u8) -> io::Result<()> {
        loop {
            let over = self.size.max_idle.is_some_and(|time| self.idle_since.elapsed() >= time);
            if self.children.is_empty() && (self.stopping || over) {
                return Ok(());
            }
            if self.rests_until.is_some_and(|until| until <= Instant::now()) {
                self.rests_until = None;
            }
            while self.may_grow() && self.shared.count(IDLE) < self.size.idle {
                self.grow(&mut serve);
            }
            let (signalled, client) = self.wait()?;
            let _ = self.shared.bell.read();
            self.refused.tend();
            if signalled && self.take_signals() {
                for pid in self.children.keys() {
                    let _ = kill(*pid, Signal::SIGTERM);
                }
                return Ok(());
            }
            // Looked at again: somebody may have become idle, and will take it.
            if client && self.shared.count(IDLE) == 0 {
                if self.may_grow() {
                    self.grow(&mut serve);
                } else if self.is_full() {
                    self.refuse();
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.children.len() >= self.size.children
    }

    fn may_grow(&self) -> bool {
        !self.stopping && self.rests_until.is_none() && !self.is_full()
    }

    /// Whether there are signals, and whether there is a client that no child is there for.
    fn wait(&mut self) -> io::Result<(bool, bool)> {
        let ends = self.size.max_idle.filter(|_| self.children.is_empty());
        let ends = ends.and_then(|time| self.idle_since.checked_add(time));
        let next = [ends, self.rests_until, self.refused.next_end()].into_iter().flatten().min();
        let timeout = next.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let refuses = self.is_full() && self.shared.limits.refuses_when_full;
        let looks = !self.stopping && self.shared.count(IDLE) == 0 && (self.may_grow() || refuses);
        let signals = self.signals.as_ref().map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN));
        let bell = PollFd::new(self.shared.bell.as_fd(), PollFlags::POLLIN);
        let refused = PollFd::new(self.refused.as_fd(), PollFlags::POLLIN);
        let mut descriptors: Vec<PollFd<'_>> = [bell, refused].into_iter().chain(signals).collect();
        let sockets = self.shared.listeners.iter().filter(|_| looks);
        descriptors.extend(sockets.map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = descriptors.iter().skip(2).map(|descriptor| descriptor.any().unwrap_or(false));
        Ok((ready.next().unwrap_or(false), ready.any(|ready| ready)))
    }

    /// Gives whether all is to end at once.
    fn take_signals(&mut self) -> bool {
        while let Some(Ok(Some(signal))) = self.signals.as_ref().map(SignalFd::read_signal) {
            match i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()) {
                Some(Signal::SIGTERM | Signal::SIGINT) if self.stopping => return true,
                Some(Signal::SIGTERM | Signal::SIGINT) => {
                    log::info!("stopping children={} busy={}", self.children.len(), self.shared.count(BUSY));
                    self.stopping = true;
                    self.alive = None;
                    self.shared.listeners.clear();
                }
                Some(Signal::SIGHUP) => log::info!("signal HUP has no meaning yet"),
                Some(Signal::SIGUSR1) => {
                    let (idle, busy) = (self.shared.count(IDLE), self.shared.count(BUSY));
                    log::info!("state children={} idle={idle} busy={busy}", self.children.len());
                }
                _ => {}
            }
        }
        self.reap();
        false
    }

    fn reap(&mut self) {
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..))) => (pid, status),
                Ok(WaitStatus::StillAlive) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            let Some(slot) = self.children.remove(&pid) else { continue };
            self.shared.table.forget(slot, pid.as_raw());
            self.shared.set(slot, FREE);
            if self.children.is_empty() {
                self.idle_since = Instant::now();
            }
            match status {
                WaitStatus::Exited(_, 0) => {}
                WaitStatus::Exited(_, code) => log::info!("child ended pid={pid} status={code}"),
                other => log::warn!("child killed pid={pid} how={other:?}"),
            }
        }
    }

    fn grow(&mut self, serve: &mut impl FnMut(OwnedFd) -> u8) {
        let free = |word: &AtomicU64| word.load(Ordering::Relaxed) == FREE;
        let Some(slot) = self.shared.states.iter().position(free) else { return };
        // From before it runs, or the next look would start another one.
        self.shared.set(slot, IDLE);
        let child = || {
            self.signals = None;
            self.alive = None;
            self.refused.close();
            match Worker::new(&self.shared, slot, &self.size, self.refusal.as_deref()) {
                Ok(mut worker) => worker.run(serve),
                Err(error) => {
                    log::error!("child of the pool: {error}");
                    75
                }
            }
        };
        match sys::fork(child) {
            Ok(pid) => drop(self.children.insert(pid, slot)),
            Err(errno) => {
                self.shared.set(slot, FREE);
                log::error!("cannot start a child cause=\"{errno}\"");
                self.rests_until = Instant::now().checked_add(REST);
            }
        }
    }

    /// As nobody else can, the parent tells a client that all is full.
    fn refuse(&mut self) {
        for listener in &self.shared.listeners {
            if let Ok(Some(connection)) = listener.accept() {
                log_refused(&connection, Excess::Full);
                self.refused.refuse(connection, self.refusal.as_deref());
            }
        }
    }
}

fn log_refused(connection: &OwnedFd, excess: Excess) {
    let client = limits::address_of(connection).map_or_else(|| "unknown".to_owned(), |address| address.to_string());
    log::info!("refused client={client} cause=\"{excess}\"");
}

/// A child's side.
struct Worker<'a> {
    shared: &'a Shared,
    slot: usize,
    size: &'a Size,
    refusal: Option<&'a [u8]>,
    refused: Refused,
    events: Epoll,
}

/// Events that are no listener's.
const END: u64 = u64::MAX;
const REFUSED: u64 = u64::MAX - 1;

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, slot: usize, size: &'a Size, refusal: Option<&'a [u8]>) -> io::Result<Worker<'a>> {
        let events = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let refused = Refused::new()?;
        for (number, listener) in shared.listeners.iter().enumerate() {
            // One client wakes one child.
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
            events.add(listener, EpollEvent::new(flags, number as u64))?;
        }
        events.add(&shared.end, EpollEvent::new(EpollFlags::EPOLLIN, END))?;
        events.add(&refused, EpollEvent::new(EpollFlags::EPOLLIN, REFUSED))?;
        Ok(Worker { shared, slot, size, refusal, refused, events })
    }

    fn run(&mut self, serve: &mut impl FnMut(OwnedFd) -> u8) -> u8 {
        let (user, mut uses, mut idle_since) = (geteuid(), 0_u32, Instant::now());
        loop {
            let listener = match self.wait(idle_since) {
                Woken::Client(listener) => listener,
                Woken::Nothing => continue,
                Woken::End => return 0,
            };
            let Some(connection) = self.accept(listener) else { continue };
            self.refused.close();
            let status = serve(connection);
            self.shared.table.release(self.slot);
            uses = uses.saturating_add(1);
            // Who has become another user cannot serve the next client as the first one.
            if uses == self.size.max_use || geteuid() != user {
                return status;
            }
            self.shared.set(self.slot, IDLE);
            idle_since = Instant::now();
        }
    }

    fn wait(&mut self, idle_since: Instant) -> Woken {
        let until = idle_since.checked_add(LINGER).unwrap_or(idle_since);
        let until = self.refused.next_end().map_or(until, |end| end.min(until));
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let stays = self.shared.count(IDLE) <= self.size.idle && self.refused.next_end().is_none();
        let timeout = if stays { Some(LINGER) } else { Some(left) };
        let timeout = timeout.and_then(|time| EpollTimeout::try_from(time).ok()).unwrap_or(EpollTimeout::NONE);
        let mut ready = [EpollEvent::empty(); 8];
        let count = match self.events.wait(&mut ready, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => return Woken::Nothing,
            Err(_) => return Woken::End,
        };
        self.refused.tend();
        let ready = ready.get(..count).unwrap_or_default();
        if ready.iter().any(|event| event.data() == END) {
            return Woken::End;
        }
        if let Some(event) = ready.iter().find(|event| event.data() < REFUSED) {
            return usize::try_from(event.data()).map_or(Woken::Nothing, Woken::Client);
        }
        if idle_since.elapsed() >= LINGER && self.shared.count(IDLE) > self.size.idle {
            // At once, so that two do not leave where one is too many.
            self.shared.set(self.slot, BUSY);
            return Woken::End;
        }
        Woken::Nothing
    }

    /// A client that may be served; the state is busy then.
    fn accept(&mut self, listener: usize) -> Option<OwnedFd> {
        let listener = self.shared.listeners.get(listener)?;
        let connection = match listener.accept() {
            Ok(connection) => connection?,
            Err(error) => {
                log::error!("cannot accept cause=\"{error}\"");
                std::thread::sleep(REST);
                return None;
            }
        };
        if let Some(address) = limits::address_of(&connection)
            && let Err(excess) = self.shared.table.claim(self.slot, address, &self.shared.limits)
        {
            log_refused(&connection, excess);
            self.refused.refuse(connection, self.refusal);
            return None;
        }
        self.shared.set(self.slot, BUSY);
        // The parent looks at the sockets while nobody is idle, and so must be told of that too.
        if self.shared.count(IDLE) < self.size.idle.max(1) {
            let _ = self.shared.bell.write(1);
        }
        Some(connection)
    }
}

enum Woken {
    Client(usize),
    Nothing,
    End,
}
