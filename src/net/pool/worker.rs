//! A child of a pool: it waits for a client, claims a place for it, serves it, and waits again.

use super::super::limits;
use super::super::refused::Refused;
use super::shared::{BUSY, IDLE, Shared};
use super::{Size, Work, rest_after};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::geteuid;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// The child's side.
pub(super) struct Worker<'a> {
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
    pub(super) fn new(
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

    pub(super) fn run(&mut self, work: &mut dyn Work) -> u8 {
        let (user, mut uses, mut idle_since) = (geteuid(), 0_u32, Instant::now());
        loop {
            let listener = match self.wait(idle_since) {
                Woken::Client(listener) => listener,
                Woken::Nothing => {
                    work.rest();
                    continue;
                }
                Woken::End => return 0,
            };
            let Some(connection) = self.accept(listener) else { continue };
            self.refused.close();
            // More may be logged of one client (debug_peer_list), and not of the next one.
            let level = log::max_level();
            let served = work.serve(connection);
            log::set_max_level(level);
            self.shared.table.release(self.slot);
            uses = uses.saturating_add(1);
            // Who has become another user cannot serve the next client as the first one.
            if uses == self.size.max_use || !served.goes_on || geteuid() != user {
                return served.status;
            }
            // Where the process that the pool waits for is gone, this one's place is not its own any more.
            if !self.shared.change(self.slot, BUSY, IDLE) {
                return served.status;
            }
            idle_since = Instant::now();
        }
    }

    fn wait(&mut self, idle_since: Instant) -> Woken {
        let linger = self.size.linger();
        // Who is not one too many looks again after that time: others may have become idle.
        let leaves = idle_since.checked_add(linger).filter(|_| self.shared.count(IDLE) > self.size.idle);
        let until = leaves.into_iter().chain(self.refused.next_end()).min();
        let left = until.map_or(linger, |until| until.saturating_duration_since(Instant::now()));
        let timeout = EpollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(EpollTimeout::NONE);
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
                rest_after(&error, Some(self.shared.end.as_fd()));
                return None;
            }
        };
        if self.shared.limits.are_any()
            && let Some(address) = limits::address_of(&connection)
            && let Err(excess) = self.shared.table.claim(self.slot, address, &self.shared.limits)
        {
            self.shared.refuses(self.name, &connection, excess);
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
