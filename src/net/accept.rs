//! What a program finds where its connection should be: a connection, or a listening socket to accept from.
//!
//! inetd's `wait` and systemd's `Accept=no` with `StandardInput=socket` put the listening socket on descriptor 0;
//! systemd without that puts it on 3 and up and says so by LISTEN_PID and LISTEN_FDS (sd_listen_fds(3)).
//! `systemd-socket-activate --accept` even passes a connection that way.

use super::acceptor::{Acceptor, Given, Left, Service};
use super::handing;
use super::limits::{self, Limits};
use super::listener::{Listener, is_listening};
use super::pool::{Pool, Served, Size, Work};
use super::signals;
use crate::config::Config;
use crate::exit::{self, Ended, Error};
use crate::sys;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::{Pid, dup2_stdin, dup2_stdout};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// First descriptor of LISTEN_FDS.
const LISTEN_FDS_START: i32 = 3;
/// More sockets than any unit has.
const MOST_LISTENERS: i32 = 64;

/// A program of ours: ready for a client, and able to become ready anew.
pub trait Server {
    /// What was read last.
    fn config(&self) -> &Config;
    /// Serves the client on descriptors 0 and 1. Descriptor 2 stays the log. An error is logged and becomes the status of
    /// the child, so the client must have been told what it is to be told.
    fn session(&mut self) -> Result<Ended, Error>;
    /// Whether this process can serve another client.
    fn is_able(&self) -> bool {
        true
    }
    /// No client has come for a while, at most some seconds: what is kept for the next one may go.
    fn rest(&mut self) {}
    /// Whether there are certificates and keys to follow.
    fn follows(&self) -> bool {
        false
    }
    /// In the process that listens, before it serves anybody and then now and again: looks whether certificates and keys are
    /// others. Whether they are, so that children that wait are to be replaced.
    fn follow(&mut self) -> bool {
        false
    }
    /// Reads the configuration again (HUP). After an error everything is as it was.
    fn read_again(&mut self) -> Result<(), Error>;
    /// Runs `accept`, in a child of a pool: it serves one client after another by [`Server::session`]. A program that
    /// needs other processes beside that one, for all of these clients, starts them here; see [`Work::stay`].
    fn stay(&mut self, accept: &mut dyn FnMut(&mut Self) -> u8) -> u8 {
        accept(self)
    }
}

/// Runs a session on descriptors 0 and 1: once, if they are a connection, pipe, file or terminal; if descriptor 0 (or 3
/// under LISTEN_FDS) is a listening socket, in a forked child for each connection, at most `children` at once, until
/// TERM, or `max_idle` without a child (whoever holds the socket starts us again). `busy` is what a client hears for whom
/// there is no room.
pub fn serve(server: &mut impl Server, busy: Option<Vec<u8>>) -> Result<Ended, Error> {
    let Found { listeners, leash, are_own, service } =
        listeners().map_err(|error| Error::Connection(format!("the connection: {error}")))?;
    if listeners.is_empty() {
        return server.session();
    }
    let null = null().map_err(broken)?;
    let at_stop = &mut || {};
    Loop { bounds: Bounds::OfConfiguration, service, leash, owns_sockets: are_own, null, at_stop }
        .run(server, listeners, busy)
}

/// Runs sessions like [`serve`] on sockets of our own, at most `limit` at once, until TERM. `at_stop` is called when they
/// are closed and sessions still go on.
pub fn serve_own(
    server: &mut impl Server,
    listeners: Vec<Listener>,
    limit: usize,
    busy: Option<Vec<u8>>,
    at_stop: &mut dyn FnMut(),
) -> Result<Ended, Error> {
    let null = null().map_err(broken)?;
    let service = UNNAMED.to_owned();
    let bounds = Bounds::Own(limit);
    Loop { bounds, service, leash: None, owns_sockets: true, null, at_stop }.run(server, listeners, busy)
}

static ACCEPTS: AtomicBool = AtomicBool::new(false);

/// Whether this process, or the one that it was forked by, accepts its clients itself.
pub fn accepts() -> bool {
    ACCEPTS.load(Ordering::Relaxed)
}

/// How many children there may be, and whether the loop ends when there are none.
#[derive(Clone, Copy)]
enum Bounds {
    OfConfiguration,
    Own(usize),
}

impl Bounds {
    fn size(self, config: &Config) -> Size {
        let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let max_idle = Some(config.max_idle.0).filter(|time| !time.is_zero());
        let (children, ends) = match self {
            Bounds::OfConfiguration => (number(config.children).max(1), max_idle),
            Bounds::Own(limit) => (limit, None),
        };
        let idle = number(config.idle_children).min(children);
        Size { children, idle, max_use: config.max_use, max_idle: ends, linger: max_idle }
    }
}

struct Loop<'a> {
    bounds: Bounds,
    /// For the log.
    service: String,
    leash: Option<OwnedFd>,
    owns_sockets: bool,
    /// /dev/null, which is on 0 and 1 of a process between two clients.
    null: OwnedFd,
    at_stop: &'a mut dyn FnMut(),
}

impl Loop<'_> {
    // A program that serves the one client it was started with has no use for its frame.
    #[inline(never)]
    fn run(
        mut self,
        server: &mut impl Server,
        listeners: Vec<Listener>,
        busy: Option<Vec<u8>>,
    ) -> Result<Ended, Error> {
        let size = self.bounds.size(server.config());
        server.follow();
        ACCEPTS.store(true, Ordering::Relaxed);
        // Before children are forked: what the first record costs, and the first look for a line end, which writes down how it
        // is best done, is then not paid in each of them.
        let _ = memchr::memchr2(b'\r', b'\n', b"\n");
        log::info!(
            "ready service={} children={} idle={} max_use={}",
            self.service,
            size.children,
            size.idle,
            size.max_use
        );
        // A child for each connection, started when that is there, needs no pool.
        if size.idle > 0 || size.max_use != 1 {
            let (name, limits) = (self.service.clone(), Limits::of(server.config()));
            let mut pool = Pool::new(name, listeners, size, limits, busy).map_err(broken)?;
            pool.leash(self.leash.take());
            self.run_pool(server, pool)
        } else {
            self.run_forks(server, listeners, busy)
        }
    }

    fn run_pool(&mut self, server: &mut impl Server, mut pool: Pool) -> Result<Ended, Error> {
        if self.owns_sockets {
            pool.own_sockets();
        }
        let mut child = Child { server, null: &self.null };
        loop {
            match pool.run(&mut child).map_err(broken)? {
                Left::Ended => return Ok(Ended::Done),
                Left::Stopping => (self.at_stop)(),
                Left::ToReadAgain if read_again(child.server) => {
                    let config = child.server.config();
                    pool.change(self.bounds.size(config), Limits::of(config));
                    log::info!("{READ_AGAIN}");
                }
                Left::ToReadAgain => {}
            }
        }
    }

    fn run_forks(
        &mut self,
        server: &mut impl Server,
        listeners: Vec<Listener>,
        busy: Option<Vec<u8>>,
    ) -> Result<Ended, Error> {
        let size = self.bounds.size(server.config());
        let mut service = Service::new(&self.service, listeners, size.children);
        service.refusal = busy;
        let mut acceptor = Acceptor::new(vec![service]).map_err(broken)?;
        acceptor.limit(size.children, Limits::of(server.config())).map_err(broken)?;
        acceptor.leash(self.leash.take());
        let mut max_idle = size.max_idle;
        loop {
            let start = |acceptor: &mut Acceptor, _: usize, given: &Given| fork(acceptor, given, server);
            match acceptor.run(max_idle, start).map_err(broken)? {
                Left::Ended => return Ok(Ended::Done),
                Left::Stopping => {
                    (self.at_stop)();
                    continue;
                }
                Left::ToReadAgain => {}
            }
            if read_again(server) {
                let size = self.bounds.size(server.config());
                if size.idle > 0 || size.max_use != 1 {
                    let limits = Limits::of(server.config());
                    let handed_over = acceptor.hand_over().ok_or_else(|| broken(io::ErrorKind::NotFound.into()))?;
                    let pool = Pool::after(handed_over, size, limits).map_err(broken)?;
                    log::info!("{READ_AGAIN}");
                    return self.run_pool(server, pool);
                }
                acceptor.limit_service(0, size.children);
                acceptor.limit(size.children, Limits::of(server.config())).map_err(broken)?;
                max_idle = size.max_idle;
                log::info!("{READ_AGAIN}");
            }
        }
    }
}

/// Recorded when it holds for the next client.
const READ_AGAIN: &str = "signal HUP, the configuration was read again";

fn read_again(server: &mut impl Server) -> bool {
    let read = server.read_again();
    if let Err(error) = &read {
        log::error!("{error}; everything stays as it was");
    }
    read.is_ok()
}

fn null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

/// For a program that can serve nobody, before it says so: if 0 (or 3 under LISTEN_FDS) is a listening socket, puts the
/// client that waits there on 0 and 1. Else does nothing.
pub fn meet_client() {
    let waiting = |listener: &Listener| listener.accept().ok().flatten();
    if let Some(connection) = listeners().ok().and_then(|found| found.listeners.iter().find_map(waiting)) {
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
    handing::keep_only(passed.iter().map(AsRawFd::as_raw_fd).chain(spared).collect());
    let stdin = sys::stdio()[0].try_clone_to_owned().ok();
    let mut listeners = Vec::new();
    for fd in passed.into_iter().chain(stdin) {
        let _ = fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        listeners.extend(Listener::from_descriptor(fd));
    }
    listeners
}

/// What we were given instead of a connection.
struct Found {
    /// None if there is a connection, which then is on 0 and 1.
    listeners: Vec<Listener>,
    /// A pipe among the descriptors of LISTEN_FDS, by which smtpd tells its pools that it is gone, however it went.
    leash: Option<OwnedFd>,
    /// Nobody but who started us has the sockets: what smtpd says by the first name of LISTEN_FDNAMES.
    are_own: bool,
    /// What smtpd calls the service, for records.
    service: String,
}

/// What smtpd calls sockets that nobody else has.
pub const OWN: &str = "doorpost-own";
/// Where smtpd says to a pool what the service is called, so that records are the same in both modes.
pub const SERVICE: &str = "DOORPOST_SERVICE";
/// What a service is called that nobody named.
const UNNAMED: &str = "session";

fn listeners() -> io::Result<Found> {
    let (mut listeners, mut leash) = (Vec::new(), None);
    let are_own = std::env::var("LISTEN_FDNAMES").is_ok_and(|names| names == OWN);
    let is_word = |name: &String| !name.is_empty() && name.len() < 256 && name.bytes().all(|o| o.is_ascii_graphic());
    let service = std::env::var(SERVICE).ok().filter(is_word).unwrap_or_else(|| UNNAMED.to_owned());
    for fd in passed_descriptors() {
        // Programs that a session starts have no use for it.
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        match Listener::from_descriptor(fd) {
            Ok(listener) => listeners.push(listener),
            Err(pipe) if is_pipe(&pipe) => leash = Some(pipe),
            Err(connection) => put_on_stdio(&connection)?,
        }
    }
    let [stdin, _] = sys::stdio();
    if listeners.is_empty() && is_listening(&stdin) {
        let stdin = stdin.try_clone_to_owned()?;
        listeners.extend(Listener::from_descriptor(stdin));
    }
    Ok(Found { listeners, leash, are_own, service })
}

fn is_pipe(fd: &OwnedFd) -> bool {
    let mode = nix::sys::stat::fstat(fd).map_or(0, |status| status.st_mode);
    nix::sys::stat::SFlag::from_bits_truncate(mode) & nix::sys::stat::SFlag::S_IFMT == nix::sys::stat::SFlag::S_IFIFO
}

/// The descriptors of LISTEN_FDS if they are meant for this process. The variables go, so that no program we start
/// takes them for its own.
fn passed_descriptors() -> Vec<OwnedFd> {
    let value = |name| std::env::var(name).ok();
    let is_for_us = value("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    let count = value("LISTEN_FDS").and_then(|count| count.parse::<i32>().ok()).filter(|_| is_for_us).unwrap_or(0);
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", SERVICE] {
        sys::forget_variable(name);
    }
    (0..count.clamp(0, MOST_LISTENERS)).filter_map(|number| sys::inherited(LISTEN_FDS_START + number)).collect()
}

fn put_on_stdio(connection: &OwnedFd) -> io::Result<()> {
    dup2_stdin(connection)?;
    dup2_stdout(connection)?;
    Ok(())
}

/// What a child of the pool does.
struct Child<'a, S> {
    server: &'a mut S,
    null: &'a OwnedFd,
}

impl<S: Server> Work for Child<'_, S> {
    fn serve(&mut self, connection: OwnedFd) -> Served {
        serve_one(connection, self.server, self.null)
    }

    fn rest(&mut self) {
        self.server.rest();
    }

    fn follows(&self) -> bool {
        self.server.follows()
    }

    fn follow(&mut self) -> bool {
        self.server.follow()
    }

    fn stay(&mut self, accept: &mut dyn FnMut(&mut dyn Work) -> u8) -> u8 {
        let null = self.null;
        if self.server.config().pretty_child {
            show(WAITS);
        }
        self.server.stay(&mut |server| accept(&mut Child { server, null }))
    }
}

/// In a child of the pool: the connection is on 0 and 1 for as long as the session lasts, and nowhere after it.
fn serve_one(connection: OwnedFd, server: &mut impl Server, null: &OwnedFd) -> Served {
    let shows = server.config().pretty_child;
    if shows {
        show(&limits::address_of(&connection).map_or_else(|| "client".to_owned(), |address| address.to_string()));
    }
    let result = put_on_stdio(&connection).map_err(broken);
    drop(connection);
    let result = result.and_then(|()| server.session());
    if let Err(error) = &result {
        log::error!("{error}");
    }
    // Whatever happens, the client must see the end.
    let is_let_go = put_on_stdio(null).is_ok();
    if !is_let_go {
        let _ = (nix::unistd::close(0), nix::unistd::close(1));
    }
    if shows {
        show(WAITS);
    }
    Served { status: exit::code(&result), goes_on: is_let_go && server.is_able() }
}

/// The name of a process that waits for a client (`pretty_child`).
const WAITS: &str = "child, idle";

/// Makes a text the name of this process, as far as it fits: 15 octets.
fn show(text: &str) {
    if let Ok(name) = std::ffi::CString::new(text) {
        let _ = nix::sys::prctl::set_name(&name);
    }
}

fn fork(acceptor: &mut Acceptor, given: &Given, server: &mut impl Server) -> io::Result<Option<Pid>> {
    let Given::Connection(connection) = given else { return Ok(None) };
    server.follow();
    let parent = Pid::this();
    let child = || {
        signals::begin_child(parent);
        acceptor.close();
        let shows = server.config().pretty_child;
        if let Some(address) = shows.then(|| limits::address_of(connection)).flatten() {
            show(&address.to_string());
        }
        let result = put_on_stdio(connection).map_err(broken);
        // By its number, for the parent's loop owns it, which in this process never runs again: a session that closes
        // 0 and 1 must have closed the connection.
        let _ = nix::unistd::close(connection.as_raw_fd());
        let result = result.and_then(|()| server.session());
        if let Err(error) = &result {
            log::error!("{error}");
        }
        exit::code(&result)
    };
    Ok(Some(sys::fork(child)?))
}
