//! What is served: what the accept loop works on, and what each service of it was said to be.

use super::address::Address;
use super::program::Program;
use super::sockets::{Socket, Sockets};
use super::warm::Door;
use super::{Plan, Service, refusal};
use crate::net::acceptor::{self, Acceptor, Kind};
use nix::unistd::{Gid, Uid};
use std::io;
use std::path::PathBuf;

/// What the service of submit is called in records.
const SUBMIT: &str = "submit";

/// What the accept loop works on, and by its numbers what each service is.
pub(super) struct Served {
    pub(super) services: Vec<acceptor::Service>,
    pub(super) parts: Vec<Part>,
}

/// A service as it was said to be.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) program: Program,
    /// Where each of its sockets was said to listen, and whether we bound it.
    pub(super) places: Vec<(Address, bool)>,
    /// The same of submit.
    door: Option<PathBuf>,
    /// Whom a program becomes that is started as root; nothing, if that is unknown or nobody.
    owners: Option<Owners>,
}

/// mail_owner, and net_owner where there is one.
type Owners = ((Uid, Gid), Option<(Uid, Gid)>);

impl Part {
    /// Whether a pool that was started as this one serves as that one would. Who has become a user cannot become another.
    fn is_as(&self, new: &Part) -> bool {
        let same = self.name == new.name && self.program == new.program && self.door == new.door;
        same && self.places == new.places && (new.owners.is_none() || self.owners == new.owners)
    }
}

impl Served {
    fn add(&mut self, service: &Service, sockets: Vec<Socket>, owners: Option<Owners>) -> io::Result<()> {
        let (mut listeners, mut places) = (Vec::new(), Vec::new());
        for socket in sockets {
            socket.listener.set_blocking(service.kind == Kind::Wait)?;
            listeners.push(socket.listener);
            places.push((socket.address, socket.is_own));
        }
        let mut open = acceptor::Service::new(&service.name, listeners, service.limit);
        open.kind = service.kind;
        open.refusal = refusal::words(service.program.path.as_os_str());
        open.owns_sockets = places.iter().all(|(_, is_own)| *is_own);
        let mut program = service.program.clone();
        program.owns_sockets = open.owns_sockets;
        program.service = Some(service.name.clone());
        self.services.push(open);
        self.parts.push(Part { name: service.name.clone(), program, places, door: None, owners });
        Ok(())
    }

    /// Whether a program of ours is started for each client.
    pub(super) fn reads_by_itself(&self, acceptor: &Acceptor) -> bool {
        let is_started = |number| acceptor.service(number).is_some_and(|service| service.kind == Kind::Session);
        let mut parts = self.parts.iter().enumerate();
        parts.any(|(number, part)| is_started(number) && refusal::words(part.program.path.as_os_str()).is_some())
    }

    /// At HUP a pool goes on where nothing has changed but what it reads by itself.
    pub(super) fn keep_children_of(&mut self, old: &Served, renews_pools: bool) {
        for (service, part) in self.services.iter_mut().zip(&self.parts) {
            service.keeps_child = match service.kind {
                Kind::Session | Kind::Wait => true,
                Kind::Pool | Kind::StandingPool => !renews_pools && old.parts.iter().any(|known| known.is_as(part)),
                Kind::Helper { .. } => old.parts.iter().any(|known| known.is_as(part)),
            };
        }
    }
}

pub(super) fn open(plan: &Plan, sockets: Sockets, door: Option<&Door>) -> io::Result<Served> {
    let mut served = Served { services: Vec::new(), parts: Vec::new() };
    let mut sockets: Vec<Option<Socket>> = sockets.into_iter().map(Some).collect();
    let owners = plan.warm.as_ref().and_then(|warm| Some((warm.owner?, warm.net_owner)));
    for service in &plan.services {
        let mut take = |address: Option<&Address>| {
            let is_its = |socket: &Socket| {
                socket.service == service.name && address.is_none_or(|address| *address == socket.address)
            };
            sockets.iter_mut().find(|socket| socket.as_ref().is_some_and(is_its)).and_then(Option::take)
        };
        // Its own for each address: services may have one name and address, as `127.0.0.1:0` is any free port.
        let mut own: Vec<Socket> = Vec::new();
        for address in &service.addresses {
            let most = if address.may_have_several() { usize::MAX } else { 1 };
            own.extend(std::iter::from_fn(|| take(Some(address))).take(most));
        }
        if plan.any_address {
            own.extend(std::iter::from_fn(|| take(None)));
        }
        if service.kind == Kind::Wait && own.len() > 1 {
            // A program that has one of them looks at no other.
            own.into_iter().try_for_each(|socket| served.add(service, vec![socket], owners))?;
        } else {
            served.add(service, own, owners)?;
        }
    }
    if let (Some(door), Some(warm)) = (door, &plan.warm) {
        let mut open = acceptor::Service::new(SUBMIT, vec![door.listener()?], 1);
        open.kind = Kind::Helper { stands: warm.stands };
        open.owns_sockets = true;
        served.services.push(open);
        let (name, door) = (SUBMIT.to_owned(), Some(warm.path.clone()));
        let program = Program { owns_sockets: true, service: Some(name.clone()), ..warm.program.clone() };
        served.parts.push(Part { name, program, places: Vec::new(), door, owners });
    }
    Ok(served)
}
