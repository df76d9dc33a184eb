//! smtpd with a client that is there already: inetd's connection on descriptor 0, for which it becomes the program.

use super::command_line::{Args, LISTENING};
use super::personality::Personality;
use super::program::{self, Program};
use crate::sys;
use clap::{Arg, Command, CommandFactory};
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
        let fd = sys::stdio()[0].as_raw_fd();
        let peer = getpeername::<SockaddrStorage>(fd).ok().and_then(|name| inet(&name));
        let local = getsockname::<SockaddrStorage>(fd).ok().and_then(|name| inet(&name));
        match (peer, local) {
            (Some(peer), Some(local)) => Client::Socket { peer, local },
            _ => Client::Nobody,
        }
    }
}

/// Whether this process was started for a client, as far as that can be told before its command line is read: by what
/// descriptor 0 is, or by a first operand that says so whatever that is.
pub fn is_called() -> bool {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    matches!(Client::of_stdin(), Client::Socket { .. }) || says_so(Personality::of_this_process(), &words)
}

fn says_so(personality: Personality, words: &[OsString]) -> bool {
    let is_client = |word: &OsString| word == "-" || word.to_str().is_some_and(|word| hexadecimal(word).is_some());
    // Nothing is built where no word can be it, as nearly always.
    if personality != Personality::Smtpd || !words.iter().any(is_client) {
        return false;
    }
    first_operand(&personality.dress(Args::command()), words).is_some_and(is_client)
}

/// The first word that is neither an option nor its value; none behind an option with which we listen. Options that
/// nobody knows have no value: whoever is called by a wrong command line is called.
fn first_operand<'a>(command: &Command, words: &'a [OsString]) -> Option<&'a OsString> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if text == "--" {
            return words.next();
        }
        let (options, value_is_next) = if let Some(long) = text.strip_prefix("--") {
            let (name, has_none) = long.split_once('=').map_or((long, true), |(name, _)| (name, false));
            let is_it = |arg: &&Arg| {
                arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
            };
            let option = command.get_arguments().find(is_it);
            (option.into_iter().collect(), has_none && option.is_some_and(has_value))
        } else if let Some(letters) = text.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            by_letters(command, letters)
        } else {
            return Some(word);
        };
        if options.iter().any(|option| LISTENING.iter().any(|listening| option.get_id() == listening.field)) {
            return None;
        }
        if value_is_next {
            words.next();
        }
    }
    None
}

/// The options of a word of letters, and whether the last one's value is the next word.
pub(super) fn by_letters<'a>(command: &'a Command, letters: &str) -> (Vec<&'a Arg>, bool) {
    let mut options = Vec::new();
    let mut left = letters.chars();
    while let Some(letter) = left.next() {
        let Some(option) = command.get_arguments().find(|arg| arg.get_short() == Some(letter)) else { continue };
        options.push(option);
        if has_value(option) {
            return (options, left.as_str().is_empty());
        }
    }
    (options, false)
}

/// In the next word, if not in its own.
pub(super) fn has_value(option: &Arg) -> bool {
    option.get_action().takes_values() && !option.is_require_equals_set()
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
    // Whoever made a pipe says in the environment who is at its other end.
    if client != Client::Nobody {
        program::forget_client(&mut command);
    }
    match client {
        Client::Socket { peer, local } => {
            // A client that is switched off without a word shall not hold the session until its deadline.
            let _ = setsockopt(&sys::stdio()[0], sockopt::KeepAlive, &true);
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
    use crate::smtpd::command_line::Listening;

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

    #[test]
    fn only_a_first_operand_calls_and_only_where_nothing_says_that_we_listen() {
        let called = |personality, line: &str| {
            says_so(personality, &line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
        };
        for line in ["-", "- prog x", "a000001.1025", "-d -f - prog", "-df a.1", "-o a=b -", "-oa=b -", "-- - prog"]
            .into_iter()
            .chain(["--config x -", "--config=x a.1", "--nosuch -", "--user me -", "--debug a.1 -x", "--show-config -"])
        {
            assert!(called(Personality::Smtpd, line), "{line}");
            assert!(!called(Personality::Prefork, line) && !called(Personality::Forkserver, line), "{line}");
        }
        for line in
            ["", "prog -", "prog 1.0", "prog x 10.25", "--port 25 prog -", "--port 25 -", "--port=25 -", "-n 20 -"]
                .into_iter()
                .chain([
                    "-dn20 -",
                    "--mode pool a.1",
                    "--listen-address 10.25",
                    "--interface=10.25 a.1",
                    "-o a.1",
                    "--config -",
                ])
                .chain(["--services a.1", "--detach -", "-- prog -", "--config", "--max-from-ip 3 -"])
        {
            assert!(!called(Personality::Smtpd, line), "{line}");
        }
    }

    #[test]
    fn each_option_that_means_listening_is_one() {
        let command = Args::command();
        for Listening { field, .. } in LISTENING {
            assert!(command.get_arguments().any(|arg| arg.get_id() == field), "{field}");
        }
    }
}
