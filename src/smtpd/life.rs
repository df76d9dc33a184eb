//! How smtpd starts and stays: in the background, as another user, and ready for all to see. Its process id in a file is
//! pid_file.rs.

use crate::exit::{self, Ended, Error};
use crate::privilege;
use crate::sys;
use nix::unistd::{Pid, User, getpid, setsid};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

/// What the command line says of it.
#[derive(Debug, Clone, Default)]
pub struct Life {
    /// Where the process id goes.
    pub pid_file: Option<PathBuf>,
    /// Where the state is written.
    pub status_file: Option<PathBuf>,
    /// Into the background, when everything is bound.
    pub detach: bool,
    /// Who we become, when everything is bound.
    pub user: Option<User>,
    /// Added to our niceness, and not to that of what we start.
    pub renice: i32,
    /// Where a line says that we are ready (s6).
    pub notification_fd: Option<i32>,
}

/// Goes on in the background: what can go wrong there and is to be said here `begin` does, what follows is recorded in
/// syslog. Comes back in the foreground when `go_on` has written an octet, because it is ready; ends it with the status of
/// the background where that ended before.
pub fn detach<T>(
    begin: impl FnOnce() -> Result<T, Error>,
    go_on: impl FnOnce(T, OwnedFd) -> Result<Ended, Error>,
) -> Result<Ended, Error> {
    let trouble = |error: io::Error| Error::Temporary(format!("--detach: {error}"));
    let (mut ready, not_yet) = io::pipe().map_err(trouble)?;
    let child = sys::fork(|| {
        let _ = setsid();
        let result = begin().and_then(|begun| {
            crate::logging::detach();
            go_on(begun, not_yet.into())
        });
        if let Err(error) = &result {
            log::error!("{error}");
        }
        exit::code(&result)
    });
    let child = child.map_err(|errno| trouble(errno.into()))?;
    if ready.read_exact(&mut [0]).is_ok() {
        return Ok(Ended::Done);
    }
    match status_of(child) {
        0 => Ok(Ended::Done),
        status => std::process::exit(i32::from(status)),
    }
}

fn status_of(child: Pid) -> u8 {
    use nix::sys::wait::{WaitStatus, waitpid};
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, status)) => u8::try_from(status).unwrap_or(75),
        _ => 75,
    }
}

/// Leaving more of the processor to others, which what is started is not to do: it goes back to what we were. Who cannot
/// give it back yields only when something has been started, so that a pool and all its children stay as they are.
#[derive(Debug)]
pub struct Niceness {
    /// What is to be added still.
    delta: i32,
    /// How much nicer we are than at our start.
    pub now: i32,
}

impl Niceness {
    /// To be called as root still, if we are; who was may go back as well (getrlimit(2)), where root may say so.
    pub fn new(delta: i32) -> Niceness {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        if delta != 0
            && privilege::is_root()
            && let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NICE)
        {
            let _ = setrlimit(Resource::RLIMIT_NICE, soft.max(LIMIT_OF_0), hard.max(LIMIT_OF_0));
        }
        let mut niceness = Niceness { delta, now: 0 };
        // What was taken anybody may give back.
        if delta < 0 {
            niceness.started();
        }
        niceness
    }

    /// To be called as who we stay.
    pub fn begin(&mut self) {
        use nix::sys::resource::{Resource, getrlimit};
        let may_go_back = getrlimit(Resource::RLIMIT_NICE).is_ok_and(|(soft, _)| soft >= LIMIT_OF_0);
        if privilege::is_root() || may_go_back {
            self.started();
        }
    }

    /// Something was started.
    pub fn started(&mut self) {
        if self.delta != 0 {
            // There may be less to be had, and that alone is given back.
            self.now += sys::renice(std::mem::take(&mut self.delta));
        }
    }
}

/// RLIMIT_NICE that allows niceness 0.
const LIMIT_OF_0: u64 = 20;

/// Becomes a user with all its groups, for good.
pub fn become_user(user: &User) -> Result<(), Error> {
    if !privilege::is_root() {
        if user.uid != nix::unistd::geteuid() {
            log::warn!("--user {} has no effect: only root can become somebody else", user.name);
        }
        return Ok(());
    }
    let name = std::ffi::CString::new(user.name.as_str()).unwrap_or_default();
    let groups = nix::unistd::getgrouplist(&name, user.gid);
    let groups = groups.map_err(|errno| Error::Temporary(format!("groups of {}: {errno}", user.name)))?;
    privilege::become_user_with(user.uid, user.gid, &groups)
}

/// Whoever waits for us to be ready: a service manager with sd_notify(3), or s6 with a descriptor.
#[derive(Debug)]
pub struct Watcher {
    socket: Option<UnixDatagram>,
    fd: Option<File>,
}

impl Watcher {
    /// By `NOTIFY_SOCKET`, which goes from our environment, and a descriptor that was left open for it.
    pub fn new(notification_fd: Option<i32>) -> Result<Watcher, Error> {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| connect(name.as_encoded_bytes()).ok());
        sys::forget_variable("NOTIFY_SOCKET");
        let fd = notification_fd.map(|number| {
            let closed = || Error::Usage(format!("--notification-fd {number}: expected an open descriptor above 2"));
            sys::inherited(number).map(File::from).ok_or_else(closed)
        });
        let fd = fd.transpose()?;
        if let Some(fd) = &fd {
            let _ = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC));
        }
        Ok(Watcher { socket, fd })
    }

    /// Everything is bound and this process serves.
    pub fn ready(&mut self) {
        if let Some(mut fd) = self.fd.take() {
            let _ = fd.write_all(b"\n");
        }
        self.tell(&format!("READY=1\nMAINPID={}", getpid()));
    }

    /// Nothing is accepted any more.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, text: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(text.as_bytes());
        }
    }
}

/// A path, or a name in Linux's name space of its own.
fn connect(name: &[u8]) -> io::Result<UnixDatagram> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(Path::new(std::str::from_utf8(name).map_err(io::Error::other)?))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// What `--notification-fd` says, for whoever closes descriptors before the command line is read.
pub fn spared_descriptor() -> Option<i32> {
    spared_in(std::env::args_os().skip(1))
}

/// Words need not be text, and under qpsmtpd's names a long option may be cut short.
fn spared_in(mut words: impl Iterator<Item = OsString>) -> Option<i32> {
    while let Some(word) = words.next() {
        let Some(word) = word.to_str() else { continue };
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value.to_owned())));
        if name.len() >= "--not".len() && "--notification-fd".starts_with(name) {
            return value.or_else(|| words.next()?.into_string().ok())?.parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_to_spare_is_found_in_every_spelling_and_among_words_that_are_no_text() {
        use std::os::unix::ffi::OsStringExt;
        let found = |text: &str| spared_in(text.split(' ').map(OsString::from));
        assert_eq!(found("-d --notification-fd 7 prog"), Some(7));
        assert_eq!(found("--notification-fd=8"), Some(8));
        assert_eq!(found("--notif 9"), Some(9));
        assert_eq!(found("--no 9"), None);
        assert_eq!(found("--notification-fd"), None);
        assert_eq!(found("--notification-fd x"), None);
        let words = [vec![0xff], b"--notification-fd".to_vec(), b"6".to_vec()];
        assert_eq!(spared_in(words.into_iter().map(OsString::from_vec)), Some(6));
    }
}
