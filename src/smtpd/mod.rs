//! The connection server: which sockets, which program for each, and what that program is started with.
//!
//! `command_line.rs` and `services.rs` say what is to be served, the one from the arguments, the other from a file in
//! inetd.conf's format; `check.rs` finds what each client would find wrong, before the first one comes; `personality.rs`
//! knows the names it stands in for; `address.rs` reads where, `program.rs` starts, `one_client.rs` becomes the program
//! where the client is there already, `life.rs` and `pid_file.rs` are how it stays. The loop itself is `net::acceptor`. It
//! knows no protocol and reads no octet of a client.
//!
//! Two modes: `exec`, a program for each connection, or `pool` (`pool.rs`), a server program of ours that accepts by
//! itself; beside pools the socket of submit is kept (`warm.rs`).

pub mod address;
mod check;
pub mod command_line;
pub mod life;
pub mod one_client;
pub mod personality;
pub mod pid_file;
pub mod pool;
pub mod program;
pub mod refusal;
pub mod services;
pub mod status;
pub mod warm;

use crate::config::Origin;
use crate::exit::{Ended, Error};
use crate::net::acceptor::Left;
use crate::net::acceptor::{self, Acceptor, Given, Kind};
use crate::net::limits::Limits;
use crate::net::listener::{self, Listener};
use crate::net::signals;
use address::Address;
use life::{Life, Niceness, Watcher};
use nix::unistd::{Gid, Uid};
use pid_file::PidFile;
use program::Program;
use status::StatusFile;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use warm::{Door, Warm};

/// One service: where its clients come in, and what is started for them.
#[derive(Debug)]
pub struct Service {
    /// For the log: the port or service name as it was written.
    pub name: String,
    /// Where to listen.
    pub addresses: Vec<Address>,
    /// Most children at once; of a pool that is known to the program, and this is 1.
    pub limit: usize,
    /// Whether the program gets one connection (`nowait`), the listening socket (inetd's `wait`) or is a pool.
    pub kind: Kind,
    /// What is started.
    pub program: Program,
    /// Where it is said to be served.
    pub origin: Origin,
}

/// Everything that is to be served.
#[derive(Debug)]
pub struct Plan {
    /// Each with its sockets.
    pub services: Vec<Service>,
    /// Most programs at once, of all services.
    pub total: usize,
    /// What one client may have.
    pub limits: Limits,
    /// Nothing says where to listen, so that sockets that are there already will do.
    pub any_address: bool,
    /// Submit, where pools have use for it.
    pub warm: Option<Warm>,
    /// Whether pools are started anew at HUP: they may have given up the rights to read what they read at their start.
    pub renews_pools: bool,
}

/// What is listened on for which service, and where it was said to be.
#[derive(Debug)]
struct Socket {
    service: String,
    address: Address,
    listener: Listener,
    /// Bound by us, and not taken over.
    is_own: bool,
}

type Sockets = Vec<Socket>;

/// Listens, and starts programs, until TERM or INT. All sockets are bound before the first client is served; those that
/// whoever started us holds are taken over. `read_again` gives the plan anew, at HUP.
pub fn serve(
    plan: Plan,
    life: &Life,
    taken_over: Vec<Listener>,
    read_again: impl FnMut() -> Result<Plan, Error>,
) -> Result<Ended, Error> {
    let watcher = Watcher::new(life.notification_fd)?;
    let begin = || {
        let sockets = bind(&plan, taken_over)?;
        // Who finds our number in the file may send us anything.
        signals::hold();
        // In this order: one that stops has closed its sockets before it lets go of the file.
        let pid_file = life.pid_file.as_deref().map(PidFile::claim).transpose()?;
        let status_file = life.status_file.as_deref().map(StatusFile::create).transpose()?;
        Ok(Begun { plan, sockets, pid_file, status_file })
    };
    if life.detach {
        life::detach(begin, |begun, ready| settle(begun, life, watcher, Some(ready), read_again))
    } else {
        settle(begin()?, life, watcher, None, read_again)
    }
}

/// What is there before the first client is served.
struct Begun {
    plan: Plan,
    sockets: Sockets,
    pid_file: Option<PidFile>,
    status_file: Option<StatusFile>,
}

/// In the process that stays.
fn settle(
    Begun { plan, sockets, mut pid_file, status_file }: Begun,
    life: &Life,
    mut watcher: Watcher,
    ready: Option<OwnedFd>,
    read_again: impl FnMut() -> Result<Plan, Error>,
) -> Result<Ended, Error> {
    let niceness = Niceness::new(life.renice);
    if let Some(user) = &life.user {
        life::become_user(user)?;
    }
    let state = status_file.as_ref().and_then(StatusFile::descriptor);
    accept(plan, sockets, (niceness, state), read_again, |turn| match turn {
        Turn::Ready => {
            watcher.ready();
            if let Some(ready) = &ready {
                let _ = nix::unistd::write(ready, b"\n");
            }
        }
        Turn::Stopping => {
            watcher.stopping();
            drop(pid_file.take());
        }
    })
}

/// What others are told of.
enum Turn {
    Ready,
    /// Nothing is accepted any more; sessions may go on.
    Stopping,
}

fn accept(
    plan: Plan,
    sockets: Sockets,
    (mut niceness, state): (Niceness, Option<File>),
    mut read_again: impl FnMut() -> Result<Plan, Error>,
    mut tell: impl FnMut(Turn),
) -> Result<Ended, Error> {
    let stuck = |error: io::Error| Error::Temporary(format!("accept loop: {error}"));
    let mut door = plan.warm.as_ref().and_then(|warm| Door::open(warm, None));
    let mut served = open(&plan, sockets, door.as_ref()).map_err(stuck)?;
    let (leash, _held) = io::pipe().map_err(stuck)?;
    let mut acceptor = Acceptor::new(std::mem::take(&mut served.services)).map_err(stuck)?;
    acceptor.limit(plan.total, plan.limits).map_err(stuck)?;
    acceptor.report_to(state);
    niceness.begin();
    tell(Turn::Ready);
    let mut is_stopping = false;
    loop {
        let start = |_: &mut Acceptor, number: usize, given: &Given| match served.parts.get(number) {
            Some(part) => {
                let started = part.program.start(given, &leash, niceness.now);
                if started.is_ok() {
                    niceness.started();
                }
                started
            }
            None => Ok(None),
        };
        let left = acceptor.run(None, start).map_err(stuck)?;
        if left != Left::ToReadAgain && !std::mem::replace(&mut is_stopping, true) {
            // Sessions that go on keep the way to submit that they have, and new ones are another smtpd's, as is the place
            // of the socket.
            door.take().into_iter().for_each(Door::close);
            tell(Turn::Stopping);
        }
        match left {
            Left::Ended => return Ok(Ended::Done),
            Left::Stopping => continue,
            Left::ToReadAgain => {}
        }
        log::info!("signal HUP, reading the configuration again");
        let anew = read_again().and_then(|plan| {
            let sockets = bind_beside(&plan, there(&acceptor, &served.parts).map_err(stuck)?)?;
            let keeps = door.as_ref().is_some_and(|door| plan.warm.as_ref().is_some_and(|warm| door.is_that_of(warm)));
            let other = plan.warm.as_ref().filter(|_| !keeps).and_then(|warm| Door::open(warm, door.as_ref()));
            match open(&plan, sockets, if keeps { door.as_ref() } else { other.as_ref() }) {
                Ok(served) => Ok((served, plan, (keeps, other))),
                Err(error) => {
                    other.into_iter().for_each(Door::close);
                    Err(stuck(error))
                }
            }
        });
        match anew {
            Ok((mut anew, plan, (keeps_door, other))) => {
                anew.keep_children_of(&served, plan.renews_pools);
                served = anew;
                if !keeps_door {
                    change(&mut door, other);
                }
                acceptor.replace(std::mem::take(&mut served.services));
                acceptor.limit(plan.total, plan.limits).map_err(stuck)?;
            }
            Err(error) => {
                let but = if served.reads_by_itself(&acceptor) { BUT } else { "" };
                log::error!("{error}; everything stays as it was{but}");
            }
        }
    }
}

/// What was not read again here is read by others.
const BUT: &str = ", but programs that are started for each client read main.cf and channels themselves: they turn clients \
                   away while one is wrong, and go by the defaults while one is missing";

/// A socket with nobody behind it would keep sessions waiting, and so goes.
fn change(door: &mut Option<Door>, other: Option<Door>) {
    let gone = std::mem::replace(door, other);
    if let Some(door) = door {
        door.take_its_place();
    }
    if let Some(gone) = gone
        && door.as_ref().is_none_or(|door| !door.is_in_place_of(&gone))
    {
        gone.close();
    }
}

/// What the accept loop works on, and by its numbers what each service is.
struct Served {
    services: Vec<acceptor::Service>,
    parts: Vec<Part>,
}

/// A service as it was said to be.
struct Part {
    name: String,
    program: Program,
    /// Where each of its sockets was said to listen, and whether we bound it.
    places: Vec<(Address, bool)>,
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
    fn reads_by_itself(&self, acceptor: &Acceptor) -> bool {
        let is_started = |number| acceptor.service(number).is_some_and(|service| service.kind == Kind::Session);
        let mut parts = self.parts.iter().enumerate();
        parts.any(|(number, part)| is_started(number) && refusal::words(part.program.path.as_os_str()).is_some())
    }

    /// At HUP a pool goes on where nothing has changed but what it reads by itself.
    fn keep_children_of(&mut self, old: &Served, renews_pools: bool) {
        for (service, part) in self.services.iter_mut().zip(&self.parts) {
            service.keeps_child = match service.kind {
                Kind::Session | Kind::Wait => true,
                Kind::Pool | Kind::StandingPool => !renews_pools && old.parts.iter().any(|known| known.is_as(part)),
                Kind::Helper { .. } => old.parts.iter().any(|known| known.is_as(part)),
            };
        }
    }
}

fn open(plan: &Plan, sockets: Sockets, door: Option<&Door>) -> io::Result<Served> {
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
        let mut open = acceptor::Service::new("submit", vec![door.listener()?], 1);
        open.kind = Kind::Helper { stands: warm.stands };
        open.owns_sockets = true;
        served.services.push(open);
        let program = Program { owns_sockets: true, ..warm.program.clone() };
        let (name, door) = ("submit".to_owned(), Some(warm.path.clone()));
        served.parts.push(Part { name, program, places: Vec::new(), door, owners });
    }
    Ok(served)
}

/// Copies of the sockets that are open.
fn there(acceptor: &Acceptor, parts: &[Part]) -> io::Result<Sockets> {
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
fn bind(plan: &Plan, mut spare: Vec<Listener>) -> Result<Sockets, Error> {
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
fn bind_beside(plan: &Plan, there: Sockets) -> Result<Sockets, Error> {
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
