//! The program behind a service, and how it is started: connection on 0 and 1, our standard error on 2.

use crate::config::Config;
use crate::net::acceptor::Given;
use crate::sys;
use nix::unistd::{Gid, Pid, Uid};
use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
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

/// A program with its arguments.
#[derive(Debug, Clone)]
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
}

impl Program {
    /// A program that is started as it is, by us as we are.
    pub fn new(path: PathBuf, name: OsString, arguments: Vec<OsString>) -> Program {
        Program { path, name, arguments, localhost: None, identity: None, config_directory: None }
    }

    /// Starts it. Nothing, if the client has already left.
    pub fn start(&self, given: &Given) -> io::Result<Option<Pid>> {
        let mut command = self.command();
        let fd = match given {
            Given::Connection(fd) => {
                let connection = TcpStream::from(fd.try_clone()?);
                let (Ok(peer), Ok(local)) = (connection.peer_addr(), connection.local_addr()) else { return Ok(None) };
                self.introduce(&mut command, peer, Some(local));
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

    /// Says to smtpsrvr that nobody knows who the client is: a word that is neither an address nor a name.
    pub fn introduce_nobody(&self, command: &mut Command) {
        if let Some(localhost) = &self.localhost {
            command.args(["-", localhost]);
        }
    }

    /// As it is started, but for the arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.arg0(&self.name);
        for name in UCSPI {
            command.env_remove(name);
        }
        if let Some(folder) = &self.config_directory {
            command.env("MAIL_CONFIG", folder);
        }
        // The loop keeps TERM and others blocked in this process.
        sys::start_with_nothing_blocked(&mut command);
        if let Some((uid, gid)) = self.identity {
            // With the uid, std drops all other groups as well.
            command.gid(gid.as_raw()).uid(uid.as_raw());
        }
        command
    }
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

/// The last component of a program's name.
pub fn last_component(word: &OsStr) -> &OsStr {
    Path::new(word).file_name().unwrap_or(word)
}
