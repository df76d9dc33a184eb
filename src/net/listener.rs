//! A listening socket: bound by us, or handed to us by whoever started us.
//!
//! What is done with a connection is decided elsewhere (acceptor.rs).

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, bind, getsockname, getsockopt, listen,
    setsockopt, socket, sockopt,
};
use nix::sys::stat::fstat;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// Connections that the kernel keeps for us while all children are busy. With the 5 of old, 16 clients at once stall.
const BACKLOG: i32 = 1024;

/// A socket that connections come in on. Non-blocking: who looks may find that the client has left again.
#[derive(Debug)]
pub enum Listener {
    /// TCP over either family.
    Inet(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// Listens on one address. The wildcard `::` takes both families unless `only_v6`.
    pub fn bind(address: SocketAddr, only_v6: bool) -> io::Result<Listener> {
        let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // Connections of the last smtpd that linger in TIME_WAIT must not keep the next one from starting.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        if address.is_ipv6() {
            setsockopt(&fd, sockopt::Ipv6V6Only, &(only_v6 || address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED)))?;
        }
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        let listener = TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        Ok(Listener::Inet(listener))
    }

    /// Listens on every address of this machine, by one socket for both families where the kernel knows IPv6.
    pub fn bind_everywhere(port: u16) -> io::Result<Listener> {
        match Listener::bind((Ipv6Addr::UNSPECIFIED, port).into(), false) {
            Err(error) if is_missing(&error) => Listener::bind((Ipv4Addr::UNSPECIFIED, port).into(), false),
            bound_or_refused => bound_or_refused,
        }
    }

    /// Takes over a descriptor if it is a listening stream socket, else gives it back.
    pub fn from_descriptor(fd: OwnedFd) -> Result<Listener, OwnedFd> {
        if !is_listening(&fd) {
            return Err(fd);
        }
        let family = getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok().and_then(|name| name.family());
        let listener = match family {
            Some(AddressFamily::Unix) => Listener::Unix(UnixListener::from(fd)),
            _ => Listener::Inet(TcpListener::from(fd)),
        };
        let _ = listener.set_blocking(false);
        Ok(listener)
    }

    /// The next connection, closed at exec; nothing if the client has left again.
    ///
    /// An error is this process or machine being out of something: trying again at once would only spin.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let accepted = match self {
            Listener::Inet(listener) => listener.accept().map(|(connection, _)| OwnedFd::from(connection)),
            Listener::Unix(listener) => listener.accept().map(|(connection, _)| OwnedFd::from(connection)),
        };
        match accepted {
            Ok(connection) => Ok(Some(connection)),
            Err(error) if concerns_the_client(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends listening for everybody who has this socket open: connections are refused, those that nobody has accepted
    /// are closed, and an internet address is free. For sockets that nobody else has a right to.
    pub fn stop_listening(&self) {
        let _ = nix::sys::socket::shutdown(self.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Read);
        // Those of an internet socket the kernel has reset; of a unix socket they would wait for the last who has it open.
        if let Listener::Unix(listener) = self {
            while listener.accept().is_ok() {}
        }
    }

    /// Whether it is the same socket, by another descriptor.
    pub fn is_same(&self, other: &Listener) -> bool {
        let inode = |listener: &Listener| fstat(listener.as_fd()).ok().map(|found| found.st_ino);
        inode(self).is_some_and(|own| inode(other) == Some(own))
    }

    /// Blocking for a program that is handed the socket itself and may know nothing of EAGAIN.
    pub fn set_blocking(&self, blocking: bool) -> io::Result<()> {
        match self {
            Listener::Inet(listener) => listener.set_nonblocking(!blocking),
            Listener::Unix(listener) => listener.set_nonblocking(!blocking),
        }
    }

    /// Where it listens, if that is an address.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Listener::Inet(listener) => listener.local_addr().ok(),
            Listener::Unix(_) => None,
        }
    }

    /// Whether IPv4 clients come in here, and whether IPv6 clients do.
    pub fn families(&self) -> (bool, bool) {
        match self.address() {
            Some(SocketAddr::V4(_)) => (true, false),
            Some(SocketAddr::V6(_)) => (!getsockopt(self, sockopt::Ipv6V6Only).unwrap_or(true), true),
            None => (false, false),
        }
    }

    /// The port that was asked for or, for port 0, chosen by the kernel; 0 for a unix socket.
    pub fn port(&self) -> u16 {
        match self {
            Listener::Inet(listener) => listener.local_addr().map_or(0, |address| address.port()),
            Listener::Unix(_) => 0,
        }
    }
}

/// The local address, for the log.
impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listener::Inet(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(_) => f.write_str("unknown"),
            },
            Listener::Unix(listener) => {
                let address = listener.local_addr().ok();
                match address.as_ref().and_then(|address| address.as_pathname()) {
                    Some(path) => path.display().fmt(f),
                    None => f.write_str("unnamed"),
                }
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Inet(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }
}

/// Whether connections can be accepted on a descriptor.
pub fn is_listening(fd: &impl AsFd) -> bool {
    getsockopt(fd, sockopt::AcceptConn).unwrap_or(false)
        && getsockopt(fd, sockopt::SockType).is_ok_and(|kind| kind == SockType::Stream)
}

/// A family or address that this machine does not have.
pub fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT)
    )
}

/// Linux hands on what already happened to the new connection as an error of accept (accept(2)).
fn concerns_the_client(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(
            Errno::EAGAIN
                | Errno::ECONNABORTED
                | Errno::ECONNRESET
                | Errno::EPERM
                | Errno::ENETDOWN
                | Errno::EPROTO
                | Errno::ENOPROTOOPT
                | Errno::EHOSTDOWN
                | Errno::ENONET
                | Errno::EHOSTUNREACH
                | Errno::EOPNOTSUPP
                | Errno::ENETUNREACH
                | Errno::ETIMEDOUT
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpStream;

    fn loopback() -> Listener {
        Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap()
    }

    #[test]
    fn the_chosen_port_takes_connections() {
        let listener = loopback();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, listener.port())).unwrap();
        let accepted = TcpStream::from(listener.accept().unwrap().expect("a connection"));
        assert_eq!(accepted.peer_addr().unwrap(), client.local_addr().unwrap());
        assert_eq!(listener.to_string(), client.peer_addr().unwrap().to_string());
    }

    #[test]
    fn accept_without_a_client_does_not_wait() {
        assert!(loopback().accept().unwrap().is_none());
    }

    #[test]
    fn everywhere_means_ipv4_too() {
        let listener = Listener::bind_everywhere(0).unwrap();
        assert!(listener.families().0);
        let _client = TcpStream::connect((Ipv4Addr::LOCALHOST, listener.port())).unwrap();
        assert!(listener.accept().unwrap().is_some());
    }

    #[test]
    fn a_unix_socket_takes_connections() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let bound = UnixListener::bind(&path).unwrap();
        let listener = Listener::from_descriptor(bound.into()).unwrap();
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(listener.accept().unwrap().is_some());
        assert_eq!(listener.to_string(), path.to_str().unwrap());
    }

    #[test]
    fn a_socket_that_stopped_listening_refuses_and_keeps_nobody_waiting_wherever_it_is_still_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let unix = Listener::from_descriptor(UnixListener::bind(&path).unwrap().into()).unwrap();
        let inet = loopback();
        for listener in [&unix, &inet] {
            let connect = || match listener.address() {
                Some(address) => TcpStream::connect(address).map(OwnedFd::from),
                None => std::os::unix::net::UnixStream::connect(&path).map(OwnedFd::from),
            };
            let copy = Listener::from_descriptor(listener.as_fd().try_clone_to_owned().unwrap()).unwrap();
            assert!(listener.is_same(&copy));
            let waiting = connect().unwrap();
            listener.stop_listening();
            assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            // The end, or a reset.
            assert!(
                std::fs::File::from(waiting).read(&mut [0; 1]).is_ok_and(|count| count == 0)
                    || listener.address().is_some()
            );
        }
        assert!(!unix.is_same(&inet));
    }

    #[test]
    fn a_connection_a_pipe_and_a_file_are_given_back() {
        let listener = loopback();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, listener.port())).unwrap();
        assert!(Listener::from_descriptor(client.into()).is_err());
        assert!(Listener::from_descriptor(io::pipe().unwrap().0.into()).is_err());
        assert!(Listener::from_descriptor(std::fs::File::open("/dev/null").unwrap().into()).is_err());
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let listener = loopback();
        let error = Listener::bind((Ipv4Addr::LOCALHOST, listener.port()).into(), false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
