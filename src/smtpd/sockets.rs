//! The sockets of a plan: handed over, there already at HUP, or bound.

use super::address::Address;
use super::served::Part;
use super::{Plan, Service};
use crate::exit::Error;
use crate::net::acceptor::Acceptor;
use crate::net::listener::{self, Listener};
use std::io;
use std::os::fd::AsFd;

/// What is listened on for which service, and where it was said to be.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) service: String,
    pub(super) address: Address,
    pub(super) listener: Listener,
    /// Bound by us, and not taken over.
    pub(super) is_own: bool,
}

pub(super) type Sockets = Vec<Socket>;

/// Copies of the sockets that are open.
pub(super) fn there(acceptor: &Acceptor, parts: &[Part]) -> io::Result<Sockets> {
    let mut sockets = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let Some(service) = acceptor.service(number) else { continue };
        for (listener, (address, is_own)) in service.listeners.iter().zip(&part.places) {
            let copy = Listener::from_descriptor(listener.as_fd().try_clone_to_owned()?);
            let listener = copy.map_err(|_| io::Error::other("a socket does not listen any more"))?;
            sockets.push(Socket { service: service.name.clone(), address: *address, listener, is_own: *is_own });
        }
    }
    Ok(sockets)
}

/// The sockets of a plan: those that were handed to us where their addresses are wanted, else new ones.
pub(super) fn bind(plan: &Plan, mut spare: Vec<Listener>) -> Result<Sockets, Error> {
    let mut sockets = Vec::new();
    if let (true, [service], false) = (plan.any_address, plan.services.as_slice(), spare.is_empty()) {
        for listener in spare {
            log::info!("listening on={listener} service={} taken-over=yes", service.name);
            let address = listener.address().map_or(Address::Everywhere(0), Address::Only);
            sockets.push(Socket { service: service.name.clone(), address, listener, is_own: false });
        }
        return Ok(sockets);
    }
    for (service, address) in plan.addresses() {
        let mut taken = Vec::new();
        while let Some(at) = spare.iter().position(|listener| address.is_that_of(listener)) {
            let listener = spare.swap_remove(at);
            log::info!("listening on={listener} service={} taken-over=yes", service.name);
            taken.push(listener);
            if !address.may_have_several() {
                break;
            }
        }
        let own = if taken.is_empty() { Some(listen(service, address)?) } else { beside(service, address, &taken) };
        let both = taken.into_iter().map(|listener| (listener, false)).chain(own.map(|listener| (listener, true)));
        sockets.extend(both.map(|(listener, is_own)| {
            let service = service.name.clone();
            Socket { service, address: *address, listener, is_own }
        }));
    }
    for listener in spare {
        log::warn!("nothing is to be served on={listener}, which was handed over");
    }
    Ok(sockets)
}

/// The sockets of a plan at HUP: those that are there, else new ones.
pub(super) fn bind_beside(plan: &Plan, there: Sockets) -> Result<Sockets, Error> {
    if plan.any_address {
        return Ok(there);
    }
    let mut sockets = Vec::new();
    let mut there: Vec<Option<Socket>> = there.into_iter().map(Some).collect();
    for (service, address) in plan.addresses() {
        // Of two services on ports that the system chose each keeps its own.
        let is_it = |socket: &Option<Socket>, by_name: bool| {
            socket.as_ref().is_some_and(|s| s.address == *address && (!by_name || s.service == service.name))
        };
        let mut take = || {
            let at = there.iter().position(|socket| is_it(socket, true));
            let at = at.or_else(|| there.iter().position(|socket| is_it(socket, false)));
            let socket = at.and_then(|at| there.get_mut(at)).and_then(Option::take)?;
            Some(Socket { service: service.name.clone(), ..socket })
        };
        match take() {
            Some(socket) => sockets.push(socket),
            None => {
                let listener = listen(service, address)?;
                sockets.push(Socket { service: service.name.clone(), address: *address, listener, is_own: true });
            }
        }
        if address.may_have_several() {
            sockets.extend(std::iter::from_fn(take));
        }
    }
    Ok(sockets)
}

impl Plan {
    fn addresses(&self) -> impl Iterator<Item = (&Service, &Address)> {
        self.services.iter().flat_map(|service| service.addresses.iter().map(move |address| (service, address)))
    }
}

fn listen(service: &Service, address: &Address) -> Result<Listener, Error> {
    let listener = address.listen().map_err(|error| {
        let text = format!("service {}: cannot listen on {address}: {error}", service.name);
        match error.kind() {
            io::ErrorKind::PermissionDenied => Error::Permission(text),
            _ => Error::Temporary(text),
        }
    })?;
    log::info!("listening on={listener} service={}", service.name);
    Ok(listener)
}

/// The family of the wildcard that was not handed over. Whoever did that may have meant it so, and we may not be who can bind
/// it: without it everything else is served.
fn beside(service: &Service, address: &Address, taken: &[Listener]) -> Option<Listener> {
    let missing = address.missing(taken)?;
    match Listener::bind(missing, true) {
        Ok(listener) => {
            log::info!("listening on={listener} service={}", service.name);
            Some(listener)
        }
        Err(error) if listener::is_missing(&error) => None,
        Err(error) => {
            log::warn!("service {}: cannot listen on {missing} beside what was handed over: {error}", service.name);
            None
        }
    }
}
