//! The pool: children that accept by themselves, so many of them waiting, each for so many connections.
//!
//! A connection goes from the kernel straight to the child that serves it; the parent only sees to it that there are
//! children. What they are doing stands in shared memory: a word each, idle or busy, and the table of addresses. So a
//! child that is killed leaves nothing behind that the parent does not take away when it reaps it.
//!
//! The parent looks at the sockets only while nobody is idle: then it starts a child, or, when there are as many as may
//! be, tells clients so if it is to. A child rings when it takes a connection and leaves fewer idle than there should be,
//! so a burst is met at once. All children hold the end of a pipe; when the other end is closed, by a parent that stops or
//! that has something new for them, the idle ones end, and the busy ones after their session. A parent that is killed takes
//! them all along, for the memory in which they count goes with it (`signals::end_with`).

mod shared;
mod worker;

use super::acceptor::{HandedOver, Left, MOST_CHILDREN};
use super::ending;
use super::limits::{Excess, Limits, Table};
use super::listener::Listener;
use super::refused::Refused;
use super::signals;
use super::starts::{REST, Starts};
use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use shared::{BUSY, FIRST_STATE, FREE, IDLE, Shared};
use std::collections::BTreeMap;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use worker::Worker;

/// How long a child waits that is one more than should be idle, if `max_idle` is not less.
const LINGER: Duration = Duration::from_secs(10);
/// The parent looks for what is new when it is awake, but not sooner after the last time than this;
const SOONEST_LOOK: Duration = Duration::from_secs(1);
/// and after so long it wakes up to look.
const LATEST_LOOK: Duration = Duration::from_secs(10);

/// What a child comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// What the child would end with.
    pub status: u8,
    /// Whether it can serve another client.
    pub goes_on: bool,
}

/// What a child does.
pub trait Work {
    /// Serves a client.
    fn serve(&mut self, connection: OwnedFd) -> Served;
    /// No client has come for a while.
    fn rest(&mut self) {}
    /// Whether the parent is to look now and again for what children have of it.
    fn follows(&self) -> bool {
        false
    }
    /// Does so. Whether something is new, so that children that have the old are to be replaced.
    fn follow(&mut self) -> bool {
        false
    }
    /// Runs `accept`, which serves one client after another, in this process or in a child of it whose end this one waits
    /// for. Gives the status to end with.
    fn stay(&mut self, accept: &mut dyn FnMut(&mut dyn Work) -> u8) -> u8;
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
    /// Their slots, and since when they are there.
    children: BTreeMap<Pid, (usize, Instant)>,
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
    /// When it last looked for what is new.
    looked: Instant,
    /// There was something new, and those who have the old could not be told.
    is_to_replace: bool,
    /// How those began that were there when somebody was to come.
    starts: Starts,
    stopping: bool,
    /// The caller knows.
    has_said_so: bool,
    reads_again: bool,
    /// Children that were killed, or failed, while they waited: a client may have woken one that then did not take it, and
    /// sleeping ones do not hear of that client again. A new one sees who waits.
    killed_idle: usize,
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
        let signals = signals::open()?;
        // Room for what a changed configuration may ask for; pages that are not used cost nothing.
        let table = Table::shared(MOST_CHILDREN)?;
        Pool::of(name, listeners, (size, limits, refusal), (signals, table, Refused::new()?))
    }

    /// A pool in the place of a loop that forked for each connection: on its sockets, with its children, who count as
    /// before.
    pub fn after(from: HandedOver, size: Size, limits: Limits) -> io::Result<Pool> {
        let HandedOver { service, children, signals, table, refused, turned_away, leash } = from;
        let (name, refusal) = (service.name, service.refusal);
        let mut pool = Pool::of(name, service.listeners, (size, limits, refusal), (signals, table, refused))?;
        // Those who have places keep them; the others, whom no limit concerns, get those that are left.
        let first_free = children.iter().filter_map(|(_, slot)| *slot).max().map_or(0, |slot| slot + 1);
        let mut others = first_free..MOST_CHILDREN;
        for (pid, slot) in children {
            let Some(slot) = slot.or_else(|| others.next()) else { continue };
            pool.shared.use_slot(slot);
            pool.children.insert(pid, (slot, Instant::now()));
        }
        pool.shared.add_refused(turned_away);
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
        let states = sys::shared_words(FIRST_STATE + MOST_CHILDREN)?;
        Ok(Pool {
            shared: Shared { listeners, states, table, limits, bell, end },
            name,
            size: bounded(size),
            refusal,
            refused,
            children: BTreeMap::new(),
            signals: Some(signals),
            alive: Some(alive),
            leash: None,
            is_leashed: false,
            owns_sockets: false,
            idle_since: Instant::now(),
            rests_until: None,
            looked: Instant::now(),
            is_to_replace: false,
            starts: Starts::default(),
            stopping: false,
            has_said_so: false,
            reads_again: false,
            killed_idle: 0,
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
    pub fn change(&mut self, size: Size, limits: Limits) {
        (self.size, self.shared.limits) = (bounded(size), limits);
        self.replace_children();
    }

    /// Where that cannot be, for want of descriptors, those that are there go on with what they have until it can.
    fn replace_children(&mut self) {
        match io::pipe() {
            Ok((end, alive)) => (self.shared.end, self.alive, self.is_to_replace) = (end, Some(alive), false),
            Err(error) => {
                if !std::mem::replace(&mut self.is_to_replace, true) {
                    log::error!("event=children-not-replaced reason={:?}", error.to_string());
                }
            }
        }
    }

    /// Serves until TERM or INT, or until there was no child for `max_idle`; comes back at HUP to be run again. `work` is
    /// done in children.
    pub fn run(&mut self, work: &mut impl Work) -> io::Result<Left> {
        loop {
            let over = self.size.max_idle.is_some_and(|time| self.idle_since.elapsed() >= time);
            let nobody = self.children.is_empty() && self.refused.is_empty();
            if nobody && (self.stopping || over) {
                return Ok(Left::Ended);
            }
            if std::mem::take(&mut self.reads_again) && !self.stopping {
                return Ok(Left::ToReadAgain);
            }
            if self.stopping && !std::mem::replace(&mut self.has_said_so, true) {
                return Ok(Left::Stopping);
            }
            if self.rests_until.is_some_and(|until| until <= Instant::now()) {
                self.rests_until = None;
            }
            while self.may_grow() && (self.killed_idle > 0 || self.shared.count(IDLE) < self.size.idle) {
                self.killed_idle = self.killed_idle.saturating_sub(1);
                self.grow(work);
            }
            let follows = work.follows() && !self.stopping;
            let (signalled, client) = self.wait(follows)?;
            let _ = self.shared.bell.read();
            self.refused.tend();
            if self.is_to_replace {
                self.replace_children();
            }
            if signalled && self.take_signals() {
                let children = self.children.keys().map(|pid| (*pid, Signal::SIGTERM));
                ending::end(children, self.signals.as_ref(), ending::OF_SESSIONS);
                return Ok(Left::Ended);
            }
            // Before a child is started for somebody.
            if follows && self.looked.elapsed() >= SOONEST_LOOK {
                self.looked = Instant::now();
                if work.follow() {
                    self.replace_children();
                }
            }
            // Looked at again: somebody may have become idle, and will take it.
            if client && self.shared.count(IDLE) == 0 {
                if self.may_grow() {
                    self.grow(work);
                } else if !self.stopping && self.shared.limits.refuses_when_full {
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
    fn wait(&mut self, follows: bool) -> io::Result<(bool, bool)> {
        // While somebody is still let go there is no end that could be waited for: it may have passed already.
        let ends = self.size.max_idle.filter(|_| self.children.is_empty() && self.refused.is_empty());
        let ends = ends.and_then(|time| self.idle_since.checked_add(time));
        let looks_at = self.looked.checked_add(LATEST_LOOK).filter(|_| follows);
        let next = [ends, self.rests_until, self.refused.next_end(), looks_at].into_iter().flatten().min();
        let timeout = next.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let looks =
            !self.stopping && self.shared.count(IDLE) == 0 && (self.may_grow() || self.shared.limits.refuses_when_full);
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
                    let (service, children, limit) = (&self.name, self.children.len(), self.size.children);
                    log::info!(
                        "state service={service} children={children} idle={idle} busy={busy} limit={limit} refused={}",
                        self.shared.refused()
                    );
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
            let Some((slot, since)) = self.children.remove(&pid) else { continue };
            self.shared.table.forget(slot);
            let was_idle = self.shared.change(slot, IDLE, FREE);
            self.shared.set(slot, FREE);
            self.killed_idle += usize::from(was_idle && !matches!(status, WaitStatus::Exited(_, 0)));
            if self.children.is_empty() {
                self.idle_since = Instant::now();
            }
            // One that was busy had begun.
            let age = if was_idle { since.elapsed() } else { Duration::MAX };
            if self.starts.ended(status, age) {
                self.rests_until = Instant::now().checked_add(REST);
            }
            match status {
                WaitStatus::Exited(_, 0) => {}
                WaitStatus::Exited(_, code) => log::info!("child ended pid={pid} status={code}"),
                other => log::warn!("child killed pid={pid} how={other:?}"),
            }
        }
    }

    fn grow(&mut self, work: &mut impl Work) {
        let (parent, slot) = (Pid::this(), self.shared.free_slot());
        // From before it runs, or the next look would start another one.
        self.shared.set(slot, IDLE);
        let child = || {
            signals::begin_child(parent);
            self.signals = None;
            self.alive = None;
            self.leash = None;
            self.refused.close();
            work.stay(&mut |work| match Worker::new(
                &self.shared,
                slot,
                &self.size,
                (&self.name, self.refusal.as_deref()),
            ) {
                Ok(mut worker) => worker.run(work),
                Err(error) => {
                    log::error!("child of the pool: {error}");
                    75
                }
            })
        };
        match sys::fork(child) {
            Ok(pid) => drop(self.children.insert(pid, (slot, Instant::now()))),
            Err(errno) => {
                self.shared.set(slot, FREE);
                log::error!("cannot start a child reason={:?}", io::Error::from(errno).to_string());
                self.rests_until = Instant::now().checked_add(REST);
            }
        }
    }

    /// As nobody else can, the parent tells a client that all is full, or that no child can be started now.
    fn refuse(&mut self) {
        let excess = if self.is_full() { Excess::Full } else { Excess::NotServing };
        for listener in &self.shared.listeners {
            match listener.accept() {
                Ok(Some(connection)) => {
                    self.shared.refuses(&self.name, &connection, excess);
                    self.refused.refuse(connection, self.refusal.as_deref());
                }
                Ok(None) => {}
                Err(error) => rest_after(&error, self.signals.as_ref().map(SignalFd::as_fd)),
            }
        }
    }
}

/// Tells why no client can be accepted, and rests, until something happens at a descriptor.
fn rest_after(error: &io::Error, until: Option<BorrowedFd<'_>>) {
    // Whose the socket is has stopped it, and ends us next.
    if error.raw_os_error() != Some(Errno::EINVAL as i32) {
        log::error!("cannot accept reason={:?}", error.to_string());
    }
    let mut until: Vec<PollFd<'_>> = until.into_iter().map(|until| PollFd::new(until, PollFlags::POLLIN)).collect();
    let _ = poll(&mut until, PollTimeout::try_from(REST).unwrap_or(PollTimeout::ZERO));
}

fn bounded(size: Size) -> Size {
    Size { children: size.children.min(MOST_CHILDREN), ..size }
}

#[cfg(test)]
mod tests;
