//! How submit is reached: by the connection that the session before left, by its unix socket, or as a child of our own.

use crate::again::again;
use crate::cli::Common;
use crate::clock;
use crate::config::{self, Config};
use crate::exit::Error;
use crate::sys;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, socket};
use nix::unistd::{Pid, dup2_stdin, dup2_stdout};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The connection that the session before left, and since when it is there.
pub(super) static KEPT: Mutex<Option<(UnixStream, Instant)>> = Mutex::new(None);

/// An older one is not used again: behind the socket may be another submit by now, with another configuration.
const OLDEST: Duration = Duration::from_secs(10);

/// Lets go of the connection that is kept for the next session, if there is one.
pub fn let_go() {
    if let Ok(mut kept) = KEPT.lock() {
        *kept = None;
    }
}

/// Lets go of it where it is too old. Sessions without mail ask for none, and where they follow each other nobody waits.
pub(super) fn let_go_of_old() {
    if let Ok(mut kept) = KEPT.lock() {
        kept.take_if(|(_, since)| since.elapsed() >= OLDEST);
    }
}

/// The connection that is kept, if it is not too old and submit has neither ended nor said anything that nobody asked for.
pub(super) fn kept() -> Option<(UnixStream, Instant)> {
    let (stream, since) = KEPT.lock().ok()?.take().filter(|(_, since)| since.elapsed() < OLDEST)?;
    let is_quiet =
        recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) == Err(Errno::EAGAIN);
    is_quiet.then_some((stream, since))
}

/// Leaves a connection to the next session of this process.
pub(super) fn keep(stream: UnixStream, since: Instant) {
    if let Ok(mut kept) = KEPT.lock() {
        *kept = Some((stream, since));
    }
}

/// How submit is reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    pub config: &'a Config,
    pub common: &'a Common,
}

impl Way<'_> {
    fn socket(&self) -> PathBuf {
        self.config.queue_directory.join("submit")
    }

    /// By the socket, if it is there and somebody answers, else by a child of our own. Gives also whose connection it is: a
    /// child's, or since when there is one of the socket.
    pub fn open(&self) -> Result<(UnixStream, Option<Pid>, Option<Instant>), Error> {
        if let Some((stream, since)) = kept() {
            return Ok((stream, None, Some(since)));
        }
        // Behind the socket is a submit whose clock goes, for others too.
        let there = if clock::stands() { None } else { connect_to(&self.socket()) };
        let arguments = || [self.common.arguments(), clock::arguments()].concat();
        let (stream, child) = match there {
            Some(stream) => (stream, None),
            None => start_child(|| (self.config.program("submit"), arguments()))?,
        };
        // Nor longer than the whole session may last.
        let (ipc, daemon) = (self.config.ipc_timeout.0, self.config.daemon_timeout.0);
        let limit = Some(ipc.min(daemon)).filter(|time| !time.is_zero());
        let limited = stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit));
        limited.map_err(|e| Error::Temporary(format!("way to submit: {e}")))?;
        Ok((stream, child, child.is_none().then(Instant::now)))
    }
}

/// Connects without waiting: where nobody accepts, a child of our own is as good.
fn connect_to(path: &Path) -> Option<UnixStream> {
    let address = UnixAddr::new(path).ok()?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let ours = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&ours), &address).ok()?;
    let stream = UnixStream::from(ours);
    stream.set_nonblocking(false).ok()?;
    Some(stream)
}

/// `what`: program and arguments, asked for when there is mail, which many sessions have none of.
fn start_child(what: impl FnOnce() -> (PathBuf, Vec<OsString>)) -> Result<(UnixStream, Option<Pid>), Error> {
    let trouble = |what: &str, error: io::Error| Error::Temporary(format!("{what} for submit: {error}"));
    let (ours, theirs) = UnixStream::pair().map_err(|e| trouble("socketpair", e))?;
    let theirs = OwnedFd::from(theirs);
    let child = sys::fork(|| wait_and_exec(&theirs, what)).map_err(|e| trouble("fork", e.into()))?;
    Ok((ours, Some(child)))
}

/// What the child does: lets go of everything of the client's, waits for the first octet, becomes submit.
fn wait_and_exec(theirs: &OwnedFd, what: impl FnOnce() -> (PathBuf, Vec<OsString>)) -> u8 {
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return 75 };
    if dup2_stdin(theirs).is_err() || dup2_stdout(&null).is_err() {
        return 75;
    }
    // Descriptor 2 stays: where it may be the client, logging has put /dev/null over it.
    let _ = null.into_raw_fd();
    sys::close_between(3, u32::MAX);
    match again(|| recv(0, &mut [0], MsgFlags::MSG_PEEK)) {
        Ok(0) => return 0,
        Ok(_) => {}
        Err(_) => return 75,
    }
    let (program, arguments) = what();
    let mut command = Command::new(&program);
    for ours in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET"] {
        command.env_remove(ours);
    }
    let error = command.envs(config::that_were_there()).args(arguments).exec();
    log::error!("{}: {error}", program.display());
    75
}
