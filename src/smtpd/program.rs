//! The program behind a service, and how it is started: connection on 0 and 1, our standard error on 2.

use crate::config::{self, Config};
use crate::net::accept;
use crate::net::acceptor::Given;
use crate::net::peer;
use crate::net::signals;
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::SigSet;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use nix::unistd::{Gid, Pid, Uid};
use std::ffi::{OsStr, OsString};
use std::io::{self, PipeReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What ucspi-tcp's programs find in their environment, and we have to say or to take away.
const UCSPI: [&str; 8] = [
    "PROTO",
    "TCPLOCALIP",
    "TCPLOCALPORT",
    "TCPLOCALHOST",
    "TCPREMOTEIP",
    "TCPREMOTEPORT",
    "TCPREMOTEHOST",
    "TCPREMOTEINFO",
];

/// First descriptor that a service manager hands over.
const FIRST: i32 = 3;
/// The most sockets that a program of ours takes, and the leash.
pub const MOST_SOCKETS: usize = 63;

/// A program with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The file to execute.
    pub path: PathBuf,
    /// `argv[0]`: some programs are several, by name.
    pub name: OsString,
    /// The other arguments.
    pub arguments: Vec<OsString>,
    /// Our name, if the client's address and it come before `arguments`: MMDF's `remotehost localhost channels`.
    pub localhost: Option<String>,
    /// Who it runs as, if not as we do.
    pub identity: Option<(Uid, Gid)>,
    /// MAIL_CONFIG for it, where ours is not to be inherited.
    pub config_directory: Option<PathBuf>,
    /// Whether nobody else has the sockets that it is given.
    pub owns_sockets: bool,
    /// What a pool is to call its service in records.
    pub service: Option<String>,
}

impl Program {
    /// A program that is started as it is, by us as we are.
    pub fn new(path: PathBuf, name: OsString, arguments: Vec<OsString>) -> Program {
        let (localhost, identity, config_directory) = (None, None, None);
        Program { path, name, arguments, localhost, identity, config_directory, owns_sockets: false, service: None }
    }

    /// Starts it, less nice than we are by so much. Nothing, if the client has already left. A pool ends when the other end
    /// of `leash` is closed.
    pub fn start(&self, given: &Given, leash: &PipeReader, niceness: i32) -> io::Result<Option<Pid>> {
        let mut command = self.command();
        // What it does to its group, and what a terminal does to ours, is nobody else's (net::signals).
        command.process_group(0);
        forget_client(&mut command);
        // On a unix socket those of other superservers would be believed.
        for name in peer::variables() {
            command.env_remove(name);
        }
        if let Given::Listeners(sockets) = given {
            sys::start_as_we_were(&mut command, signals::until_it_loops(), niceness);
            return self.start_pool(command, sockets, leash).map(Some);
        }
        // The loop keeps TERM and others blocked in this process.
        sys::start_as_we_were(&mut command, SigSet::empty(), niceness);
        let fd = match given {
            Given::Listeners(_) => return Ok(None),
            Given::Connection(fd) => {
                let connection = TcpStream::from(fd.try_clone()?);
                match (connection.peer_addr(), connection.local_addr()) {
                    (Ok(peer), Ok(local)) => self.introduce(&mut command, peer, Some(local)),
                    _ if is_unix(&connection) => self.introduce_nobody(&mut command),
                    _ => return Ok(None),
                }
                OwnedFd::from(connection)
            }
            Given::Listener(fd) => OwnedFd::from(TcpListener::from(fd.try_clone()?)),
        };
        command.args(&self.arguments).stdin(Stdio::from(fd.try_clone()?)).stdout(Stdio::from(fd));
        let child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))?;
        // The handle is dropped without waiting: the loop reaps every child by itself.
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        log::debug!("started program={} pid={pid}", self.path.display());
        Ok(Some(pid))
    }

    /// Starts it with all sockets as a service manager would (sd_listen_fds(3)), and the leash behind them.
    fn start_pool(&self, mut command: Command, sockets: &[OwnedFd], leash: &PipeReader) -> io::Result<Pid> {
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null());
        let child = || {
            let error = match hand_over(sockets, leash) {
                Ok(count) => {
                    let pid = std::process::id().to_string();
                    if self.owns_sockets {
                        command.env("LISTEN_FDNAMES", accept::OWN);
                    }
                    if let Some(service) = &self.service {
                        command.env(accept::SERVICE, service);
                    }
                    command.env("LISTEN_FDS", count.to_string()).env("LISTEN_PID", pid).exec()
                }
                Err(errno) => errno.into(),
            };
            log::error!("{}: {error}", self.path.display());
            75
        };
        // Ours sends it HUP and USR1 as it likes, from now on.
        let pid = sys::fork_with(&signals::until_it_loops(), child)?;
        log::debug!("started pool={} pid={pid}", self.path.display());
        Ok(pid)
    }

    /// Says who the client is, in ucspi's variables and to smtpsrvr in its operands.
    pub fn introduce(&self, command: &mut Command, peer: SocketAddr, local: Option<SocketAddr>) {
        // IPv4 clients of a socket for both families are IPv4 clients all the same.
        let peer_ip = peer.ip().to_canonical().to_string();
        command.env("PROTO", "TCP").env("TCPREMOTEIP", &peer_ip).env("TCPREMOTEPORT", peer.port().to_string());
        if let Some(local) = local {
            let local_ip = local.ip().to_canonical().to_string();
            command.env("TCPLOCALIP", local_ip).env("TCPLOCALPORT", local.port().to_string());
        }
        if let Some(localhost) = &self.localhost {
            command.args([&peer_ip, localhost]);
        }
    }

    /// Says to smtpsrvr that we do not know who the client is: a word that is neither an address nor a name.
    pub fn introduce_nobody(&self, command: &mut Command) {
        if let Some(localhost) = &self.localhost {
            command.args(["-", localhost]);
        }
    }

    /// As it is started, but for the arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.arg0(&self.name).envs(config::that_were_there());
        if let Some(folder) = &self.config_directory {
            command.env("MAIL_CONFIG", folder);
        }
        if let Some((uid, gid)) = self.identity {
            // With the uid, std drops all other groups as well.
            command.gid(gid.as_raw()).uid(uid.as_raw());
        }
        command
    }
}

/// What ucspi's variables say is not handed on: it would be about somebody else.
pub fn forget_client(command: &mut Command) {
    for name in UCSPI {
        command.env_remove(name);
    }
}

/// Nothing has an address there, and nobody has left for that.
fn is_unix(socket: &impl AsRawFd) -> bool {
    getsockname::<SockaddrStorage>(socket.as_raw_fd()).is_ok_and(|name| name.family() == Some(AddressFamily::Unix))
}

/// Puts sockets and leash on the descriptors from 3 on, to stay open over exec; all others of ours are closed by that. For a
/// child. Gives how many they are.
fn hand_over(sockets: &[OwnedFd], leash: &PipeReader) -> nix::Result<usize> {
    let all = sockets.iter().map(AsFd::as_fd).chain([leash.as_fd()]);
    // No higher than need be: there may be few descriptors.
    let above = FIRST + i32::try_from(sockets.len() + 1).map_err(|_| Errno::EMFILE)?;
    let high = all.map(|fd| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(above)).map(sys::inherited));
    let high = high.collect::<nix::Result<Vec<_>>>()?;
    sys::close_between(FIRST.unsigned_abs(), above.unsigned_abs() - 1);
    // The lowest that is free, which so is the next one.
    high.iter().flatten().try_for_each(|fd| fcntl(fd, FcntlArg::F_DUPFD(FIRST)).map(drop))?;
    Ok(high.len())
}

/// Where a program is: as given if there is a slash in it, else beside our other programs. It must be one.
pub fn find(word: &OsStr, config: &Config) -> Result<PathBuf, String> {
    let path = match word.to_str() {
        Some(name) if !name.contains('/') => config.program(name),
        _ => PathBuf::from(word),
    };
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => Ok(path),
        Ok(_) => Err(format!("{}: expected a file that can be executed", path.display())),
        Err(error) => Err(format!("{}: expected a program ({error})", path.display())),
    }
}

/// Whether a file is this program of ours, whatever it is called there.
pub fn is_ours(path: &Path, name: &str, config: &Config) -> bool {
    let file = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    file(path).is_some_and(|found| Some(found) == file(&config.program(name)))
}

/// The last component of a program's name.
pub fn last_component(word: &OsStr) -> &OsStr {
    Path::new(word).file_name().unwrap_or(word)
}
