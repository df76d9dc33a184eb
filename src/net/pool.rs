//! The pool: children that accept by themselves, so many of them waiting, each for so many connections.
//!
//! A connection goes from the kernel straight to the child that serves it; the parent only sees to it that there are
//! children. What they are doing stands in shared memory: a word each, idle or busy, and the table of addresses. So a
//! child that is killed leaves nothing behind that the parent does not take away when it reaps it.
//!
//! The parent looks at the sockets only while nobody is idle: then it starts a child, or, when there are as many as may
//! be, tells clients so if it is to. A child rings when it takes a connection and leaves fewer idle than there should be,
//! so a burst is met at once. All children hold the end of a pipe; when the other end is closed, by a parent that stops,
//! that has read its configuration again or that was killed, the idle ones end, and the busy ones after their session.

use super::acceptor::{HandedOver, Left, MOST_CHILDREN, REST};
use super::ending;
use super::limits::{self, Excess, Limits, Table};
use super::listener::Listener;
use super::refused::Refused;
use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};
use std::collections::HashMap;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a child waits that is one more than should be idle, if `max_idle` is not less.
const LINGER: Duration = Duration::from_secs(10);

const FREE: u64 = 0;
const IDLE: u64 = 1;
const BUSY: u64 = 2;

/// What a child comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// What the child would end with.
    pub status: u8,
    /// Whether it can serve another client.
    pub goes_on: bool,
}

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
    /// A child that is one too many ends after so long without a client, and after 10 s at the latest.
    pub linger: Option<Duration>,
}

impl Size {
    fn linger(&self) -> Duration {
        self.linger.map_or(LINGER, |time| time.min(LINGER))
    }
}

/// The parent's side.
#[derive(Debug)]
pub struct Pool {
    shared: Shared,
    /// For the log.
    name: String,
    size: Size,
    refusal: Option<Vec<u8>>,
    refused: Refused,
    children: HashMap<Pid, usize>,
    signals: Option<SignalFd>,
    /// Held open for as long as children may go on.
    alive: Option<PipeWriter>,
    /// Its end is that of whoever started us: as TERM.
    leash: Option<OwnedFd>,
    is_leashed: bool,
    /// The sockets are ours, or of whoever holds the leash, and of nobody else.
    owns_sockets: bool,
    idle_since: Instant,
    rests_until: Option<Instant>,
    stopping: bool,
    reads_again: bool,
}

/// What parent and children have in common.
#[derive(Debug)]
struct Shared {
    listeners: Vec<Listener>,
    /// How many slots were ever used, then the state of each child.
    states: &'static [AtomicU64],
    table: Table,
    limits: Limits,
    bell: EventFd,
    end: PipeReader,
}

impl Shared {
    /// The states of all slots that were ever used: a look costs what is going on, not what may.
    fn used(&self) -> &[AtomicU64] {
        let used = self.states.first().map_or(0, |word| word.load(Ordering::Relaxed));
        self.states.get(1..).and_then(|words| words.get(..usize::try_from(used).ok()?)).unwrap_or_default()
    }

    fn count(&self, state: u64) -> usize {
        self.used().iter().filter(|word| word.load(Ordering::Relaxed) == state).count()
    }

    fn set(&self, slot: usize, state: u64) {
        if let Some(word) = self.used().get(slot) {
            word.store(state, Ordering::Relaxed);
        }
    }

    /// Makes a slot one of those that were used, and busy. For the parent.
    fn use_slot(&self, slot: usize) {
        if let Some(word) = self.states.first() {
            word.fetch_max(slot as u64 + 1, Ordering::Relaxed);
        }
        self.set(slot, BUSY);
    }

    /// A slot that nobody has; the lowest, so that few are ever used. For the parent.
    fn free_slot(&self) -> usize {
        let used = self.used();
        let free = used.iter().position(|word| word.load(Ordering::Relaxed) == FREE);
        free.unwrap_or_else(|| {
            if let Some(word) = self.states.first() {
                word.fetch_add(1, Ordering::Relaxed);
            }
            used.len()
        })
    }
}

impl Pool {
    /// A pool on these sockets, without children yet. Blocks the signals that it waits for. `name` is that of the service,
    /// for the log.
    pub fn new(
        name: String,
        listeners: Vec<Listener>,
        size: Size,
        limits: Limits,
        refusal: Option<Vec<u8>>,
    ) -> io::Result<Pool> {
        sys::default_signals();
        let mut caught = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
            caught.add(signal);
        }
        caught.thread_block()?;
        let signals = SignalFd::with_flags(&caught, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        // Room for what a changed configuration may ask for; pages that are not used cost nothing.
        let table = Table::shared(MOST_CHILDREN)?;
        Pool::of(name, listeners, (size, limits, refusal), (signals, table, Refused::new()?))
    }

    /// A pool in the place of a loop that forked for each connection: on its sockets, with its children, who count as
    /// before.
    pub fn after(from: HandedOver, size: Size, limits: Limits) -> io::Result<Pool> {
        let HandedOver { service, children, signals, table, refused, leash } = from;
        let (name, refusal) = (service.name, service.refusal);
        let mut pool = Pool::of(name, service.listeners, (size, limits, refusal), (signals, table, refused))?;
        // Those who have places keep them; the others, whom no limit concerns, get those that are left.
        let first_free = children.iter().filter_map(|(_, slot)| *slot).max().map_or(0, |slot| slot + 1);
        let mut others = first_free..MOST_CHILDREN;
        for (pid, slot) in children {
            let Some(slot) = slot.or_else(|| others.next()) else { continue };
            pool.shared.use_slot(slot);
            pool.children.insert(pid, slot);
        }
        pool.leash(leash);
        Ok(pool)
    }

    fn of(
        name: String,
        listeners: Vec<Listener>,
        (size, limits, refusal): (Size, Limits, Option<Vec<u8>>),
        (signals, table, refused): (SignalFd, Table, Refused),
    ) -> io::Result<Pool> {
        let (end, alive) = io::pipe()?;
        let bell = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let states = sys::shared_words(1 + MOST_CHILDREN)?;
        Ok(Pool {
            shared: Shared { listeners, states, table, limits, bell, end },
            name,
            size: bounded(size),
            refusal,
            refused,
            children: HashMap::new(),
            signals: Some(signals),
            alive: Some(alive),
            leash: None,
            is_leashed: false,
            owns_sockets: false,
            idle_since: Instant::now(),
            rests_until: None,
            stopping: false,
            reads_again: false,
        })
    }

    /// Stops, as at TERM, when the other end of this pipe is closed.
    pub fn leash(&mut self, leash: Option<OwnedFd>) {
        self.is_leashed = leash.is_some();
        self.leash = leash;
    }

    /// Nobody else listens on the sockets, so that they are to be dead when we stop, and not when the last child has ended.
    /// Under a leash TERM may mean that another pool goes on with them.
    pub fn own_sockets(&mut self) {
        self.owns_sockets = true;
    }

    /// Other numbers from now on, and other children: those that wait end, those that are busy after their session. What
    /// they serve counts as before.
    pub fn change(&mut self, size: Size, limits: Limits) -> io::Result<()> {
        let (end, alive) = io::pipe()?;
        (self.shared.end, self.alive) = (end, Some(alive));
        (self.size, self.shared.limits) = (bounded(size), limits);
        Ok(())
    }

    /// Serves until TERM or INT, or until there was no child for `max_idle`; comes back at HUP to be run again. `serve` is
    /// run in a child, for each connection.
    pub fn run(&mut self, mut serve: impl FnMut(OwnedFd) -> Served) -> io::Result<Left> {
        loop {
            let over = self.size.max_idle.is_some_and(|time| self.idle_since.elapsed() >= time);
            if self.children.is_empty() && (self.stopping || over) {
                return Ok(Left::Ended);
            }
            if std::mem::take(&mut self.reads_again) && !self.stopping {
                return Ok(Left::ToReadAgain);
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
                let children = self.children.keys().map(|pid| (*pid, Signal::SIGTERM));
                ending::end(children, self.signals.as_ref(), ending::OF_SESSIONS);
                return Ok(Left::Ended);
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
        let leash = self.leash.as_ref().map(|leash| PollFd::new(leash.as_fd(), PollFlags::empty()));
        let mut descriptors: Vec<PollFd<'_>> = [bell, refused].into_iter().chain(signals).collect();
        let fixed = descriptors.len();
        descriptors.extend(leash);
        let sockets = self.shared.listeners.iter().filter(|_| looks);
        descriptors.extend(sockets.map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = descriptors.iter().map(|descriptor| descriptor.any().unwrap_or(false)).collect();
        drop(descriptors);
        let mut ready = ready.into_iter().skip(2);
        let signalled = fixed > 2 && ready.next().unwrap_or(false);
        if self.leash.is_some() && ready.next().unwrap_or(false) {
            self.leash = None;
            self.is_leashed = false;
            self.stop();
        }
        Ok((signalled, ready.any(|ready| ready)))
    }

    fn stop(&mut self) {
        log::info!("stopping children={} busy={}", self.children.len(), self.shared.count(BUSY));
        self.stopping = true;
        self.alive = None;
        if self.owns_sockets && !self.is_leashed {
            self.shared.listeners.iter().for_each(Listener::stop_listening);
        }
        self.shared.listeners.clear();
    }

    /// Gives whether all is to end at once.
    fn take_signals(&mut self) -> bool {
        while let Some(Ok(Some(signal))) = self.signals.as_ref().map(SignalFd::read_signal) {
            match i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()) {
                Some(Signal::SIGTERM | Signal::SIGINT) if self.stopping => {
                    log::info!("ended at once children={}", self.children.len());
                    return true;
                }
                Some(Signal::SIGTERM | Signal::SIGINT) => self.stop(),
                Some(Signal::SIGHUP) => self.reads_again = true,
                Some(Signal::SIGUSR1) => {
                    let (idle, busy) = (self.shared.count(IDLE), self.shared.count(BUSY));
                    let (service, children) = (&self.name, self.children.len());
                    log::info!("state service={service} children={children} idle={idle} busy={busy}");
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

    fn grow(&mut self, serve: &mut impl FnMut(OwnedFd) -> Served) {
        let slot = self.shared.free_slot();
        // From before it runs, or the next look would start another one.
        self.shared.set(slot, IDLE);
        let child = || {
            self.signals = None;
            self.alive = None;
            self.leash = None;
            self.refused.close();
            match Worker::new(&self.shared, slot, &self.size, (&self.name, self.refusal.as_deref())) {
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
                log_refused(&self.name, &connection, Excess::Full);
                self.refused.refuse(connection, self.refusal.as_deref());
            }
        }
    }
}

fn bounded(size: Size) -> Size {
    Size { children: size.children.min(MOST_CHILDREN), ..size }
}

fn log_refused(service: &str, connection: &OwnedFd, excess: Excess) {
    let client = limits::address_of(connection).map_or_else(|| "unknown".to_owned(), |address| address.to_string());
    log::info!("refused client={client} service={service} cause=\"{excess}\"");
}

/// A child's side.
struct Worker<'a> {
    shared: &'a Shared,
    slot: usize,
    size: &'a Size,
    name: &'a str,
    refusal: Option<&'a [u8]>,
    refused: Refused,
    events: Epoll,
}

/// Events that are no listener's.
const END: u64 = u64::MAX;
const REFUSED: u64 = u64::MAX - 1;

impl<'a> Worker<'a> {
    fn new(
        shared: &'a Shared,
        slot: usize,
        size: &'a Size,
        (name, refusal): (&'a str, Option<&'a [u8]>),
    ) -> io::Result<Worker<'a>> {
        let events = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let refused = Refused::new()?;
        for (number, listener) in shared.listeners.iter().enumerate() {
            // One client wakes one child.
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
            events.add(listener, EpollEvent::new(flags, number as u64))?;
        }
        events.add(&shared.end, EpollEvent::new(EpollFlags::EPOLLIN, END))?;
        events.add(&refused, EpollEvent::new(EpollFlags::EPOLLIN, REFUSED))?;
        Ok(Worker { shared, slot, size, name, refusal, refused, events })
    }

    fn run(&mut self, serve: &mut impl FnMut(OwnedFd) -> Served) -> u8 {
        let (user, mut uses, mut idle_since) = (geteuid(), 0_u32, Instant::now());
        loop {
            let listener = match self.wait(idle_since) {
                Woken::Client(listener) => listener,
                Woken::Nothing => continue,
                Woken::End => return 0,
            };
            let Some(connection) = self.accept(listener) else { continue };
            self.refused.close();
            let served = serve(connection);
            self.shared.table.release(self.slot);
            uses = uses.saturating_add(1);
            // Who has become another user cannot serve the next client as the first one.
            if uses == self.size.max_use || !served.goes_on || geteuid() != user {
                return served.status;
            }
            self.shared.set(self.slot, IDLE);
            idle_since = Instant::now();
        }
    }

    fn wait(&mut self, idle_since: Instant) -> Woken {
        let linger = self.size.linger();
        let until = idle_since.checked_add(linger).unwrap_or(idle_since);
        let until = self.refused.next_end().map_or(until, |end| end.min(until));
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let stays = self.shared.count(IDLE) <= self.size.idle && self.refused.next_end().is_none();
        let timeout = EpollTimeout::try_from(if stays { linger } else { left }).unwrap_or(EpollTimeout::NONE);
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
        if idle_since.elapsed() >= linger && self.shared.count(IDLE) > self.size.idle {
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
                // Whose the socket is has stopped it, and ends us next.
                if error.raw_os_error() != Some(Errno::EINVAL as i32) {
                    log::error!("cannot accept cause=\"{error}\"");
                }
                let end = PollFd::new(self.shared.end.as_fd(), PollFlags::POLLIN);
                let _ = poll(&mut [end], PollTimeout::try_from(REST).unwrap_or(PollTimeout::ZERO));
                return None;
            }
        };
        if self.shared.limits.are_any()
            && let Some(address) = limits::address_of(&connection)
            && let Err(excess) = self.shared.table.claim(self.slot, address, &self.shared.limits)
        {
            log_refused(self.name, &connection, excess);
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
