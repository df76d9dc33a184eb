//! smtpd with a client that is there already: inetd's connection on descriptor 0, for which it becomes the program.

use super::program::Program;
use crate::sys;
use nix::sys::signal::SigSet;
use nix::sys::socket::{SockaddrStorage, getpeername, getsockname, setsockopt, sockopt};
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;

/// Who is on descriptor 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// A connected socket of the internet: the kernel knows both ends.
    Socket {
        /// The other end.
        peer: SocketAddr,
        /// Ours.
        local: SocketAddr,
    },
    /// Something else; whoever made it gave this address, which counts as long as it is no such socket.
    Said(SocketAddr),
    /// Something else, of which nothing is known.
    Nobody,
}

impl Client {
    /// By what descriptor 0 is.
    pub fn of_stdin() -> Client {
        let fd = io::stdin().as_raw_fd();
        let peer = getpeername::<SockaddrStorage>(fd).ok().and_then(|name| inet(&name));
        let local = getsockname::<SockaddrStorage>(fd).ok().and_then(|name| inet(&name));
        match (peer, local) {
            (Some(peer), Some(local)) => Client::Socket { peer, local },
            _ => Client::Nobody,
        }
    }
}

/// Whether this process was started for a client, as far as that can be told before its command line is read: by what
/// descriptor 0 is, or by a word that says so whatever that is.
pub fn is_called() -> bool {
    matches!(Client::of_stdin(), Client::Socket { .. }) || says_so(std::env::args_os().skip(1))
}

fn says_so(mut words: impl Iterator<Item = OsString>) -> bool {
    words.any(|word| word == "-" || word.to_str().is_some_and(|word| hexadecimal(word).is_some()))
}

fn inet(name: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = name.as_sockaddr_in().map(|name| SocketAddr::from((name.ip(), name.port())));
    v4.or_else(|| name.as_sockaddr_in6().map(|name| SocketAddr::from((name.ip(), name.port()))))
}

/// `a000001.1025`: address in hexadecimal, as SunOS's inetd wrote it, and port. The kernel's word goes before it.
pub fn hexadecimal(word: &str) -> Option<Client> {
    let (host, port) = word.rsplit_once('.')?;
    let is_hexadecimal = (1..=8).contains(&host.len()) && host.bytes().all(|octet| octet.is_ascii_hexdigit());
    let is_decimal = (1..=5).contains(&port.len()) && port.bytes().all(|octet| octet.is_ascii_digit());
    if !is_hexadecimal || !is_decimal {
        return None;
    }
    let address = Ipv4Addr::from_bits(u32::from_str_radix(host, 16).ok()?);
    let said = Client::Said((IpAddr::V4(address), port.parse().ok()?).into());
    Some(Some(Client::of_stdin()).filter(|client| *client != Client::Nobody).unwrap_or(said))
}

/// Becomes the program; comes back only if that cannot be.
pub fn become_program(program: &Program, client: Client) -> io::Error {
    let mut command = program.command();
    sys::start_as_we_were(&mut command, SigSet::empty(), 0);
    match client {
        Client::Socket { peer, local } => {
            // A client that is switched off without a word shall not hold the session until its deadline.
            let _ = setsockopt(&io::stdin(), sockopt::KeepAlive, &true);
            program.introduce(&mut command, peer, Some(local));
        }
        Client::Said(peer) => program.introduce(&mut command, peer, None),
        Client::Nobody => program.introduce_nobody(&mut command),
    }
    let error = command.args(&program.arguments).exec();
    io::Error::new(error.kind(), format!("{}: {error}", program.path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_hexadecimal_is_read_as_sunos_wrote_it() {
        let said = |text: &str| Some(Client::Said(text.parse().unwrap()));
        assert_eq!(hexadecimal("a000001.1025"), said("10.0.0.1:1025"));
        assert_eq!(hexadecimal("C0000201.25"), said("192.0.2.1:25"));
        assert_eq!(hexadecimal("1.2"), said("0.0.0.1:2"));
        for text in
            ["", ".", ".25", "a000001.", "a000001", "0xa000001.1", "1a0000001.25", "g.25", "a.65536", "a.+1", "-"]
        {
            assert_eq!(hexadecimal(text), None, "{text}");
        }
    }
}
