//! What a program finds where its connection should be: a connection, or a listening socket to accept from.
//!
//! inetd's `wait` and systemd's `Accept=no` with `StandardInput=socket` put the listening socket on descriptor 0;
//! systemd without that puts it on 3 and up and says so by LISTEN_PID and LISTEN_FDS (sd_listen_fds(3)).
//! `systemd-socket-activate --accept` even passes a connection that way.

use super::acceptor::{Acceptor, Given, Left, Service};
use super::limits::Limits;
use super::listener::{Listener, is_listening};
use super::pool::{Pool, Size};
use crate::config::Config;
use crate::exit::{self, Ended, Error};
use crate::sys;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::{Pid, dup2_stdin, dup2_stdout};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// First descriptor of LISTEN_FDS.
const LISTEN_FDS_START: i32 = 3;
/// More sockets than any unit has.
const MOST_LISTENERS: i32 = 64;

/// Runs `session` on descriptors 0 and 1: once, if they are a connection, pipe, file or terminal; if descriptor 0 (or 3
/// under LISTEN_FDS) is a listening socket, in a forked child for each connection, at most `children` at once, until
/// TERM, or `max_idle` without a child (whoever holds the socket starts us again).
///
/// Descriptor 2 stays the log. An error of `session` in a child is logged there and becomes the child's exit status,
/// so `session` itself must tell the client what it is to be told. `busy` is what one hears for whom there is no room.
pub fn serve(
    config: &Config,
    busy: Option<Vec<u8>>,
    mut session: impl FnMut() -> Result<Ended, Error>,
) -> Result<Ended, Error> {
    let listeners = listeners().map_err(|error| Error::Connection(format!("the connection: {error}")))?;
    if listeners.is_empty() {
        return session();
    }
    let limit = usize::try_from(config.children).unwrap_or(usize::MAX).max(1);
    let max_idle = Some(config.max_idle.0).filter(|time| !time.is_zero());
    run(config, listeners, (limit, max_idle), busy, session)
}

/// Runs `session` like [`serve`] on sockets of our own, at most `limit` at once, until TERM.
pub fn serve_own(
    config: &Config,
    listeners: Vec<Listener>,
    limit: usize,
    busy: Option<Vec<u8>>,
    session: impl FnMut() -> Result<Ended, Error>,
) -> Result<Ended, Error> {
    run(config, listeners, (limit, None), busy, session)
}

fn run(
    config: &Config,
    listeners: Vec<Listener>,
    (limit, max_idle): (usize, Option<Duration>),
    busy: Option<Vec<u8>>,
    mut session: impl FnMut() -> Result<Ended, Error>,
) -> Result<Ended, Error> {
    // A child for each connection, started when that is there, needs no pool.
    if config.idle_children > 0 || config.max_use != 1 {
        let idle = usize::try_from(config.idle_children).unwrap_or(usize::MAX).min(limit);
        // The key is read from a file that was opened before rights were given up, and can be read once.
        let max_use = if config.tls_cert_file.0.is_empty() { config.max_use } else { 1 };
        let size = Size { children: limit, idle, max_use, max_idle };
        let mut pool = Pool::new(listeners, size, Limits::of(config), busy).map_err(broken)?;
        pool.run(|connection| serve_one(connection, &mut session)).map_err(broken)?;
        return Ok(Ended::Done);
    }
    let mut service = Service::new("session", listeners, limit);
    service.refusal = busy;
    let mut acceptor = Acceptor::new(vec![service]).map_err(broken)?;
    acceptor.limit(limit, Limits::of(config)).map_err(broken)?;
    let fork = |acceptor: &mut Acceptor, _: usize, given: &Given| fork(acceptor, given, &mut session);
    let mut fork = fork;
    while acceptor.run(max_idle, &mut fork).map_err(broken)? == Left::ToReadAgain {
        log::info!("signal HUP has no meaning yet");
    }
    Ok(Ended::Done)
}

/// For a program that can serve nobody, before it says so: if 0 (or 3 under LISTEN_FDS) is a listening socket, puts the
/// client that waits there on 0 and 1. Else does nothing.
pub fn meet_client() {
    let waiting = |listener: &Listener| listener.accept().ok().flatten();
    if let Some(connection) = listeners().ok().and_then(|listeners| listeners.iter().find_map(waiting)) {
        let _ = put_on_stdio(&connection);
    }
}

fn broken(error: io::Error) -> Error {
    Error::Temporary(format!("accept loop: {error}"))
}

/// The listening sockets that whoever started us holds for us: those of LISTEN_FDS, and descriptor 0; for smtpd. Everything
/// else above 2 but `spared` is closed, for whoever left it open would be kept waiting for its end.
pub fn taken_over(spared: Option<i32>) -> Vec<Listener> {
    let passed = passed_descriptors();
    let mut first = 3;
    let mut kept: Vec<u32> =
        passed.iter().map(AsRawFd::as_raw_fd).chain(spared).filter_map(|n| n.try_into().ok()).collect();
    kept.sort_unstable();
    for number in kept {
        if number > first {
            sys::close_between(first, number - 1);
        }
        first = first.max(number.saturating_add(1));
    }
    sys::close_from(first);
    let stdin = io::stdin().as_fd().try_clone_to_owned().ok();
    let mut listeners = Vec::new();
    for fd in passed.into_iter().chain(stdin) {
        let _ = fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        listeners.extend(Listener::from_descriptor(fd));
    }
    listeners
}

/// The listening sockets among what we were given; none if there is a connection, which then is on 0 and 1.
fn listeners() -> io::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for fd in passed_descriptors() {
        // Programs that a session starts have no use for it.
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        match Listener::from_descriptor(fd) {
            Ok(listener) => listeners.push(listener),
            Err(connection) => put_on_stdio(&connection)?,
        }
    }
    if listeners.is_empty() && is_listening(&io::stdin()) {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        listeners.extend(Listener::from_descriptor(stdin));
    }
    Ok(listeners)
}

/// The descriptors of LISTEN_FDS if they are meant for this process. The variables go, so that no program we start
/// takes them for its own.
fn passed_descriptors() -> Vec<OwnedFd> {
    let value = |name| std::env::var(name).ok();
    let is_for_us = value("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    let count = value("LISTEN_FDS").and_then(|count| count.parse::<i32>().ok()).filter(|_| is_for_us).unwrap_or(0);
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        sys::forget_variable(name);
    }
    (0..count.clamp(0, MOST_LISTENERS)).filter_map(|number| sys::inherited(LISTEN_FDS_START + number)).collect()
}

fn put_on_stdio(connection: &OwnedFd) -> io::Result<()> {
    dup2_stdin(connection)?;
    dup2_stdout(connection)?;
    Ok(())
}

/// In a child of the pool: the connection is on 0 and 1 for as long as the session lasts, and nowhere after it.
fn serve_one(connection: OwnedFd, session: &mut impl FnMut() -> Result<Ended, Error>) -> u8 {
    let result = put_on_stdio(&connection).map_err(broken);
    drop(connection);
    let result = result.and_then(|()| session());
    if let Err(error) = &result {
        log::error!("{error}");
    }
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    if null.map_err(broken).and_then(|null| put_on_stdio(&OwnedFd::from(null)).map_err(broken)).is_err() {
        // Whatever happens, the client must see the end.
        let _ = (nix::unistd::close(0), nix::unistd::close(1));
    }
    exit::code(&result)
}

fn fork(
    acceptor: &mut Acceptor,
    given: &Given,
    session: &mut impl FnMut() -> Result<Ended, Error>,
) -> io::Result<Option<Pid>> {
    let (Given::Connection(connection) | Given::Listener(connection)) = given;
    let child = || {
        acceptor.close();
        let result = put_on_stdio(connection).map_err(broken);
        // By its number, for the parent's loop owns it, which in this process never runs again: a session that closes
        // 0 and 1 must have closed the connection.
        let _ = nix::unistd::close(connection.as_raw_fd());
        let result = result.and_then(|()| session());
        if let Err(error) = &result {
            log::error!("{error}");
        }
        exit::code(&result)
    };
    Ok(Some(sys::fork(child)?))
}
