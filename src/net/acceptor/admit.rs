//! From a client to a child: who is let in, who is told to come later, and what happens when no child can be started.

use super::super::limits::{self, Excess};
use super::super::refused::Refused;
use super::{Acceptor, Child, Given, Kind, REST, Service};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

impl Acceptor {
    /// Starts a child for a client. Nothing that goes wrong here may end the loop.
    pub(super) fn admit<Start>(&mut self, number: usize, which: usize, start: &mut Start)
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
            Err(error) => self.cannot_accept(number, &error),
        }
    }

    /// A place in the table for a client, if it may have one.
    pub(super) fn claim(&mut self, connection: &OwnedFd) -> Result<Option<usize>, Excess> {
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

    pub(super) fn give_back(&mut self, slot: Option<usize>) {
        if let (Some(table), Some(slot)) = (&self.table, slot) {
            table.release(slot);
            self.free.push(slot);
        }
    }

    pub(super) fn refuse(&mut self, number: usize, connection: OwnedFd, excess: Excess) {
        let Some(service) = self.services.get(number) else { return };
        tell(&mut self.turned_away, self.refused.as_mut(), service, connection, excess);
    }

    /// Tells the client for whom nothing could be started yet, and nothing will be.
    pub(super) fn let_go_of_held(&mut self, service: &mut Service) {
        if let Some((given, slot)) = service.held.take() {
            self.give_back(slot);
            if let Given::Connection(connection) = given {
                tell(&mut self.turned_away, self.refused.as_mut(), service, connection, Excess::NotServing);
            }
        }
    }

    /// The same of every service.
    pub(super) fn let_go_of_all_held(&mut self) {
        let mut services = std::mem::take(&mut self.services);
        services.iter_mut().for_each(|service| self.let_go_of_held(service));
        self.services = services;
    }

    /// Ends rests that are over, and tries once more to start the children that could not be started before them.
    /// Who fails again is told to come later, as far as anybody knows the protocol.
    pub(super) fn retry<Start>(&mut self, start: &mut Start)
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
                        self.refuse(number, connection, Excess::NotServing);
                    }
                }
            }
        }
    }

    pub(super) fn start_or_hold<Start>(&mut self, number: usize, given: Given, slot: Option<usize>, start: &mut Start)
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
    pub(super) fn start<Start>(&mut self, number: usize, given: &Given, slot: Option<usize>, start: &mut Start) -> bool
    where
        Start: FnMut(&mut Acceptor, usize, &Given) -> io::Result<Option<Pid>>,
    {
        match start(self, number, given) {
            Ok(Some(pid)) => {
                if let Some(service) = self.services.get_mut(number) {
                    service.running += 1;
                    let kind = service.kind;
                    self.children.insert(pid, Child { service: number, kind, slot, since: Instant::now() });
                }
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

    pub(super) fn rest(&mut self, number: usize, error: &io::Error) {
        if let Some(service) = self.services.get_mut(number) {
            log::error!("cannot serve service={} reason={:?}", service.name, error.to_string());
            service.rests_until = Instant::now().checked_add(REST);
        }
    }

    pub(super) fn cannot_accept(&mut self, number: usize, error: &io::Error) {
        self.rest(number, error);
        if let Some(service) = self.services.get_mut(number) {
            service.deaf_until = service.rests_until;
        }
    }

    /// Pools that are to be there before anybody comes.
    pub(super) fn start_standing<Start>(&mut self, start: &mut Start)
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
    pub(super) fn start_pool<Start>(&mut self, number: usize, start: &mut Start)
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
}

/// Counts and records somebody who is not served, and says so where the protocol is known.
fn tell(count: &mut u64, refused: Option<&mut Refused>, service: &Service, connection: OwnedFd, excess: Excess) {
    *count = count.saturating_add(1);
    let client = limits::address_of(&connection).map_or_else(|| "unknown".to_owned(), |address| address.to_string());
    log::info!("refused client={client} service={} reason={:?}", service.name, excess.to_string());
    if let Some(refused) = refused {
        refused.refuse(connection, service.refusal.as_deref());
    }
}
