//! The connection server: which sockets, which program for each, and what that program is started with.
//!
//! `command_line.rs` and `services.rs` say what is to be served, the one from the arguments, the other from a file in
//! inetd.conf's format; `check.rs` finds what each client would find wrong, before the first one comes; `personality.rs`
//! knows the names it stands in for; `address.rs` reads where, `sockets.rs` binds, `program.rs` starts, `served.rs` holds what
//! is bound and started, `one_client.rs` becomes the program where the client is there already, `life.rs` and `pid_file.rs`
//! are how it stays. The loop itself is `net::acceptor`. It knows no protocol and reads no octet of a client.
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
mod served;
pub mod services;
mod sockets;
pub mod status;
pub mod warm;

use crate::config::Origin;
use crate::exit::{Ended, Error};
use crate::net::acceptor::{Acceptor, Given, Kind, Left};
use crate::net::limits::Limits;
use crate::net::listener::Listener;
use crate::net::signals;
use address::Address;
use life::{Life, Niceness, Watcher};
use pid_file::PidFile;
use program::Program;
use served::open;
use sockets::{Sockets, bind, bind_beside, there};
use status::StatusFile;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
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
