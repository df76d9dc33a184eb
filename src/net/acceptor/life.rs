//! Changes while the loop runs: other services, the stop, and the state for whoever asks.

use super::super::listener::Listener;
use super::{Acceptor, Kind, Service};
use nix::sys::signal::{Signal, kill};
use std::fs::File;
use std::os::unix::fs::FileExt;

impl Acceptor {
    /// Puts other services in the place of these. One of the same name goes on, of several the first as the first: its
    /// children are counted for the new one, and a client that was held is.
    pub fn replace(&mut self, services: Vec<Service>) {
        let old = std::mem::replace(&mut self.services, services);
        let kinds: Vec<Kind> = old.iter().map(|service| service.kind).collect();
        let (mut numbers, mut taken) = (Vec::new(), Vec::new());
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

    pub(super) fn stop(&mut self) {
        self.stopping = true;
        // A child that accepts by itself would go on for ever. Before the sockets are dead, or it would take that for trouble.
        self.signal_children(|service| service.kind.accepts_itself() && !service.kind.is_helper(), Signal::SIGTERM);
        self.let_go_of_all_held();
        for service in self.services.iter_mut().filter(|service| !service.kind.is_helper()) {
            if service.owns_sockets && service.kind.is_pool() {
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
        let is_helper = |service: usize| self.services.get(service).is_some_and(|service| service.kind.is_helper());
        if !self.stopping || self.children.values().any(|child| !is_helper(child.service)) {
            return;
        }
        let mut told = false;
        for service in self.services.iter_mut().filter(|service| service.kind.is_helper()) {
            told |= !service.listeners.is_empty();
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
            log::warn!("cannot write the state cause=\"{error}\"");
        }
    }
}
