//! How smtpd starts and stays: its process id in a file, in the background, as another user, and ready for all to see.

use crate::exit::Error;
use crate::flocked::Flocked;
use crate::privilege;
use crate::sys;
use nix::errno::Errno;
use nix::unistd::{Pid, User, getpid, setsid};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
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

/// A file with our process id, locked as long as we live: what an smtpd left that was killed locks nobody out, whoever
/// may have its number now.
#[derive(Debug)]
pub struct PidFile {
    file: Flocked,
    path: PathBuf,
}

impl PidFile {
    /// Makes the file ours, or says who has it.
    pub fn claim(path: &Path) -> Result<PidFile, Error> {
        let wrong = |error: &dyn std::fmt::Display| Error::Temporary(format!("pid file {}: {error}", path.display()));
        // In another folder after --detach it would be another file.
        let path = std::path::absolute(path).map_err(|error| wrong(&error))?;
        loop {
            // Never through a symbolic link that somebody put there: we may be root.
            let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
            let mut options = File::options();
            let file = options.read(true).write(true).create(true).mode(0o644).custom_flags(flags).open(&path);
            let file = file.map_err(|error| wrong(&error))?;
            if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                return Err(wrong(&"expected a file"));
            }
            let copy = file.try_clone().map_err(|error| wrong(&error))?;
            let file = match Flocked::take(file) {
                Ok(file) => file,
                Err(Errno::EWOULDBLOCK) => {
                    let mut text = String::new();
                    let _ = copy.take(20).read_to_string(&mut text);
                    return Err(wrong(&format!("an smtpd is running already, pid {}", text.trim())));
                }
                Err(errno) => return Err(wrong(&errno)),
            };
            // Whoever had it may have removed it between our open and our lock.
            if is_at(&path, &file) {
                return Ok(PidFile { file, path });
            }
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut file: &File = &self.file;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(text.as_bytes())
    }

    /// Writes our process id.
    pub fn fill(&mut self) -> Result<(), Error> {
        let written = self.write(&format!("{}\n", getpid()));
        written.map_err(|error| Error::Temporary(format!("pid file {}: {error}", self.path.display())))
    }

    /// Removes it; where we may not any more, empties it. What another smtpd has put in its place stays.
    pub fn remove(self) {
        if is_at(&self.path, &self.file) && std::fs::remove_file(&self.path).is_err() {
            let _ = self.write("");
        }
    }
}

/// Whether this is the file of this name still.
pub fn is_at(path: &Path, file: &File) -> bool {
    let both = std::fs::symlink_metadata(path).and_then(|there| Ok((there, file.metadata()?)));
    both.is_ok_and(|(there, ours)| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
}

/// Runs `serve` in the background, and comes back in the foreground when it is ready, or with its exit status when it
/// ended before.
pub fn detach(serve: impl FnOnce(OwnedFd) -> u8) -> Result<u8, Error> {
    let trouble = |error: io::Error| Error::Temporary(format!("--detach: {error}"));
    let (mut ready, not_yet) = io::pipe().map_err(trouble)?;
    let child = sys::fork(|| {
        let _ = setsid();
        crate::logging::detach();
        serve(not_yet.into())
    });
    let child = child.map_err(|errno| trouble(errno.into()))?;
    if ready.read_exact(&mut [0]).is_ok() {
        return Ok(0);
    }
    Ok(status_of(child))
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
        Niceness { delta, now: 0 }
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
        if self.now != self.delta {
            sys::renice(self.delta);
            self.now = self.delta;
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
