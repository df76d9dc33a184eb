//! Changes while the loop runs: other services, the stop, and the state for whoever asks.

use super::super::listener::Listener;
use super::{Acceptor, Service};
use nix::sys::signal::{Signal, kill};
use std::fs::File;
use std::os::unix::fs::FileExt;

impl Acceptor {
    /// Puts other services in the place of these. One of the same name goes on, of several the first as the first: its
    /// children are counted for the new one, and a client that was held is.
    pub fn replace(&mut self, services: Vec<Service>) {
        let old = std::mem::replace(&mut self.services, services);
        let (mut numbers, mut taken, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        for mut gone in old {
            let same = |new: &Service| {
                new.name == gone.name
                    && new.kind.is_pool() == gone.kind.is_pool()
                    && new.kind.accepts_itself() == gone.kind.accepts_itself()
            };
            let mut numbered = self.services.iter().enumerate();
            let number = numbered.find(|(number, new)| same(new) && !taken.contains(number)).map(|(number, _)| number);
            taken.extend(number);
            let number = number.filter(|number| self.services.get(*number).is_some_and(|new| new.keeps_child));
            if let Some(new) = number.and_then(|number| self.services.get_mut(number)) {
                (new.running, new.rests_until, new.starts) = (gone.running, gone.rests_until, gone.starts);
                new.held = gone.held.take();
            }
            self.let_go_of_held(&mut gone);
            if gone.kind.accepts_itself() && gone.owns_sockets {
                dead.append(&mut gone.listeners);
            }
            // A number that no service has: its children count among all, and for no service.
            numbers.push(number.unwrap_or(usize::MAX));
        }
        for (pid, child) in &mut self.children {
            let number = numbers.get(child.service).copied().unwrap_or(usize::MAX);
            // A second TERM would end the sessions of one that was told before.
            if child.kind.accepts_itself() && child.service != usize::MAX {
                // One that goes on reads its configuration as we do; one that does not must let go of the sockets.
                let hup = child.kind.is_pool().then_some(Signal::SIGHUP);
                let signal = if number == usize::MAX { Some(Signal::SIGTERM) } else { hup };
                signal.map(|signal| kill(*pid, signal));
            }
            child.service = number;
        }
        // Children have the sockets of a service that is gone for as long as their last session lasts.
        let goes_on =
            |socket: &Listener| self.services.iter().flat_map(|new| &new.listeners).any(|new| new.is_same(socket));
        dead.iter().filter(|socket| !goes_on(socket)).for_each(Listener::stop_listening);
    }

    pub(super) fn stop(&mut self) {
        self.stopping = true;
        // A child that accepts by itself would go on for ever. Before the sockets are dead, or it would take that for trouble.
        self.signal_children(|service| service.kind.accepts_itself() && !service.kind.is_helper(), Signal::SIGTERM);
        self.let_go_of_all_held();
        for service in self.services.iter_mut().filter(|service| !service.kind.is_helper()) {
            if service.owns_sockets && service.kind.accepts_itself() {
                service.listeners.iter().for_each(Listener::stop_listening);
            }
            service.listeners.clear();
            service.rests_until = None;
        }
        // When a new client is refused already.
        log::info!("stopping children={}", self.children.len());
        self.write_state();
    }

    pub(super) fn signal_children(&self, concerned: impl Fn(&Service) -> bool, signal: Signal) {
        for (pid, child) in &self.children {
            if self.services.get(child.service).is_some_and(&concerned) {
                let _ = kill(*pid, signal);
            }
        }
    }

    /// The others may need helpers to their end.
    pub(super) fn let_helpers_go(&mut self) {
        if !self.stopping || self.children.values().any(|child| !child.kind.is_helper()) {
            return;
        }
        let mut told = false;
        for service in self.services.iter_mut().filter(|service| service.kind.is_helper()) {
            told |= !service.listeners.is_empty();
            // Or those who have another server than us would be kept waiting by a busy one that has it open.
            if service.owns_sockets {
                service.listeners.iter().for_each(Listener::stop_listening);
            }
            service.listeners.clear();
            service.rests_until = None;
        }
        if told {
            self.signal_children(|service| service.kind.is_helper(), Signal::SIGTERM);
        }
    }

    /// What is going on, a line for all and one for each service.
    pub(super) fn state(&self) -> Vec<String> {
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

    pub(super) fn report(&self) {
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

    pub(super) fn write_state(&self) {
        let Some(file) = &self.state_file else { return };
        let text: String = self.state().iter().map(|line| format!("{line}\n")).collect();
        // In this order, so that nobody finds it empty.
        let written = file.write_all_at(text.as_bytes(), 0).and_then(|()| file.set_len(text.len() as u64));
        if let Err(error) = written {
            log::warn!("cannot write the state reason={:?}", error.to_string());
        }
    }
}
