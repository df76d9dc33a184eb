//! The connection server: which sockets, which program for each, and what that program is started with.
//!
//! `command_line.rs` and `services.rs` say what is to be served, the one from the arguments, the other from a file in
//! inetd.conf's format; `personality.rs` knows the names it stands in for; `address.rs` reads where, `program.rs` starts,
//! `one_client.rs` becomes the program where the client is there already. The loop itself is `net::acceptor`.
//! It knows no protocol and reads no octet of a client.

pub mod address;
pub mod command_line;
pub mod one_client;
pub mod personality;
pub mod program;
pub mod refusal;
pub mod services;

use crate::exit::{Ended, Error};
use crate::net::acceptor::{self, Acceptor, Given};
use crate::net::limits::Limits;
use address::Address;
use program::Program;
use std::io;

/// One service: where its clients come in, and what is started for them.
#[derive(Debug)]
pub struct Service {
    /// For the log: the port or service name as it was written.
    pub name: String,
    /// Where to listen.
    pub addresses: Vec<Address>,
    /// Most children at once.
    pub limit: usize,
    /// Whether the program gets the listening socket (inetd's `wait`) instead of one connection (`nowait`).
    pub hands_over_listener: bool,
    /// What is started.
    pub program: Program,
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
}

/// Listens, and starts programs, until TERM or INT. All sockets are bound before the first client is served.
pub fn serve(plan: Plan) -> Result<Ended, Error> {
    let mut programs = Vec::new();
    let mut open = Vec::new();
    for service in plan.services {
        open.push(listen(&service)?);
        programs.push(service.program);
    }
    let stuck = |error: io::Error| Error::Temporary(format!("accept loop: {error}"));
    let mut acceptor = Acceptor::new(open).map_err(stuck)?;
    acceptor.limit(plan.total, plan.limits).map_err(stuck)?;
    let start = |_: &mut Acceptor, number: usize, given: &Given| match programs.get(number) {
        Some(program) => program.start(given),
        None => Ok(None),
    };
    acceptor.run(None, start).map_err(stuck)?;
    Ok(Ended::Done)
}

fn listen(service: &Service) -> Result<acceptor::Service, Error> {
    let mut listeners = Vec::new();
    for address in &service.addresses {
        let listener = address.listen().map_err(|error| {
            let text = format!("service {}: cannot listen on {address}: {error}", service.name);
            match error.kind() {
                io::ErrorKind::PermissionDenied => Error::Permission(text),
                _ => Error::Temporary(text),
            }
        })?;
        if service.hands_over_listener {
            listener.set_blocking(true).map_err(|error| Error::Temporary(format!("{address}: {error}")))?;
        }
        log::info!("listening on={listener} service={}", service.name);
        listeners.push(listener);
    }
    let mut open = acceptor::Service::new(&service.name, listeners, service.limit);
    open.hands_over_listener = service.hands_over_listener;
    open.refusal = refusal::words(service.program.path.as_os_str());
    Ok(open)
}
